//! Cgroups on the kernel: made, used, frozen, killed and removed. Root only.

mod cgroup_common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use cgroup_common::{ground, runs, shell, sleeper, soon, value, wait};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::LinuxResources;
use orlop::cgroup::device::{Kind, MKNOD, READ, Rule, WRITE, program, rules};
use orlop::cgroup::{
    Cgroup, Hierarchy, Refused, Wanted, Write, cannot_be_made, load_devices, wanted_controllers, writes,
};

fn wanted(controller: &str) -> [Wanted<'_>; 1] {
    [Wanted { controller, from: "/linux/resources/x" }]
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

#[test]
fn create_makes_the_way_and_undo_takes_back_only_that() {
    let ground = ground();
    ground.create("kept");
    let cgroup = ground.create("kept/a/b");
    assert_eq!(cgroup.path(), ground.dir(&ground.below("kept/a/b")));
    assert!(cgroup.path().join("cgroup.procs").exists());
    cgroup.undo(Instant::now());
    assert!(!ground.dir(&ground.below("kept/a")).exists());
    assert!(ground.dir(&ground.below("kept")).exists());
}

#[test]
fn undo_leaves_what_others_use() {
    let ground = ground();
    let mine = ground.create("a/mine");
    ground.create("a/theirs");
    mine.undo(Instant::now());
    assert!(ground.dir(&ground.below("a/theirs")).exists());
    assert!(!ground.dir(&ground.below("a/mine")).exists());
}

#[test]
fn an_empty_cgroup_that_exists_is_taken_and_not_undone() {
    let ground = ground();
    ground.create("a");
    ground.create("a").undo(Instant::now());
    assert!(ground.dir(&ground.below("a")).exists());
}

/// What a create has made of a cgroup that was there before it goes again, and nothing else.
#[test]
fn undo_takes_back_what_it_made_of_a_cgroup_that_was_there() {
    let ground = ground();
    ground.create("a");
    let mut cgroup = ground.create("a");
    install(&mut cgroup, &[]);
    std::fs::create_dir_all(cgroup.path().join("of/init")).unwrap();
    assert!(!runs(cgroup.path(), "exec 3< /dev/zero"));
    let path = cgroup.path().to_owned();
    cgroup.undo(soon());
    assert!(path.exists() && !path.join("of").exists());
    assert!(runs(&path, "exec 3< /dev/zero"));
}

#[test]
fn a_populated_cgroup_is_refused() {
    let ground = ground();
    let inner = ground.create("a/inner");
    let mut child = sleeper(inner.path());
    let error = Cgroup::create(&ground.hierarchy, &ground.below("a"), &[]).unwrap_err();
    assert_eq!(error.message, "container's cgroup is not empty: 1 process(es) found");
    assert!(inner.path().exists());
    inner.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_frozen_cgroup_is_refused() {
    let ground = ground();
    let cgroup = ground.create("a");
    cgroup.freeze(soon()).unwrap();
    let error = Cgroup::create(&ground.hierarchy, &ground.below("a"), &[]).unwrap_err();
    assert_eq!(error.message, "container's cgroup unexpectedly frozen");
    cgroup.thaw(soon()).unwrap();
    Cgroup::create(&ground.hierarchy, &ground.below("a"), &[]).unwrap();
}

#[test]
fn open_tells_missing_from_there() {
    let ground = ground();
    assert!(Cgroup::open(&ground.hierarchy, &ground.path).unwrap().is_none());
    ground.create("a");
    assert!(Cgroup::open(&ground.hierarchy, &ground.below("a")).unwrap().is_some());
}

#[test]
fn hugetlb_limits_land_through_every_level() {
    let ground = ground();
    let resources = resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#);
    let writes = writes(&resources).unwrap();
    let cgroup = Cgroup::create(&ground.hierarchy, &ground.below("a/b"), &wanted_controllers(&writes)).unwrap();
    for write in &writes {
        cgroup.write(write).unwrap();
    }
    assert_eq!(value(cgroup.path(), "hugetlb.2MB.max"), "4194304");
    assert_eq!(value(cgroup.path(), "hugetlb.2MB.rsvd.max"), "4194304");
}

#[test]
fn a_parent_with_processes_is_named_with_them() {
    let ground = ground();
    let parent = ground.create("parent");
    let mut child = sleeper(parent.path());
    let path = ground.below("parent/leaf");
    let error = Cgroup::create(&ground.hierarchy, &path, &wanted("hugetlb")).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EBUSY));
    assert_eq!(error.pointer.as_deref(), Some("/linux/resources/x"));
    assert!(error.message.contains(parent.path().to_str().unwrap()), "{error}");
    assert!(error.hint.unwrap().contains(&format!("pid {}", child.id())));
    assert!(!ground.dir(&path).exists(), "a failed create leaves nothing");
    let leaf = Cgroup::create(&ground.hierarchy, &path, &[]).expect("without limits it is no obstacle");
    assert_eq!(value(leaf.path(), "cgroup.type"), "domain", "processes can be born there");
    leaf.undo(Instant::now());
    parent.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn controllers_of_v1_are_named() {
    let ground = ground();
    let create = |v1: &[&str]| {
        let hierarchy =
            Hierarchy { v1: v1.iter().map(|name| (*name).to_owned()).collect(), ..ground.hierarchy.clone() };
        let error = Cgroup::create(&hierarchy, &ground.below("a"), &wanted("nosuch")).unwrap_err();
        assert!(!ground.dir(&ground.path).exists(), "a failed create leaves nothing");
        error
    };
    let error = create(&["nosuch"]);
    assert!(error.message.contains("cgroup v1 holds") && error.message.contains("nosuch"), "{error}");
    assert!(error.hint.unwrap().contains("systemd.unified_cgroup_hierarchy=1"));
    assert!(create(&[]).message.contains("does not offer: nosuch"));
}

#[test]
fn a_read_only_cgroupfs_is_told_from_other_failures() {
    let ground = ground();
    ground.create("a").undo(Instant::now());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    let remount = |flags| mount(None::<&str>, &ground.hierarchy.root, None::<&str>, flags, None::<&str>).unwrap();
    remount(flags | MsFlags::MS_RDONLY);
    let error = Cgroup::create(&ground.hierarchy, &ground.path, &[]).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EROFS));
    assert!(cannot_be_made(&error));
    remount(flags);
    let busy = Cgroup::create(&ground.hierarchy, &ground.path, &wanted("nosuch")).unwrap_err();
    assert!(!cannot_be_made(&busy));
}

#[test]
fn writes_stay_in_the_directory() {
    let ground = ground();
    let cgroup = ground.create("a");
    let write =
        |file: &str, refused| cgroup.write(&Write { file: file.into(), value: "1".into(), from: "/x".into(), refused });
    let outside = write("../cgroup.freeze", Refused::Fail).unwrap_err();
    assert_eq!(outside.errno, Some(Errno::EXDEV));
    assert_eq!(value(&ground.dir(&ground.path), "cgroup.freeze"), "0");

    let missing = write("nosuch.max", Refused::Fail).unwrap_err();
    assert_eq!((missing.errno, missing.pointer.as_deref()), (Some(Errno::ENOENT), Some("/x")));
    assert!(missing.hint.unwrap().contains("controller nosuch is not enabled"));
    write("nosuch.max", Refused::SkipIfMissing).unwrap();
    write("cgroup.type", Refused::AgainLater).unwrap();
    write("cgroup.type", Refused::SkipIfMissing).expect_err("another errno than ENOENT counts");
    write("nosuch.max", Refused::InsteadIfMissing { file: "cgroup.max.depth", value: "7".into() }).unwrap();
    assert_eq!(value(cgroup.path(), "cgroup.max.depth"), "7");
}

/// A process that writes the time to a file again and again: what is frozen stops writing.
fn ticking(cgroup: &Cgroup, file: &Path) -> std::process::Child {
    let child = shell(cgroup.path(), &format!("while :; do date +%N > {}; sleep 0.005; done", file.display()));
    wait(|| fs::metadata(file).is_ok_and(|stat| stat.len() > 0));
    child
}

fn tick(file: &Path) -> SystemTime {
    fs::metadata(file).unwrap().modified().unwrap()
}

#[test]
fn freeze_stops_thaw_goes_on_and_kill_ends_all() {
    let ground = ground();
    let cgroup = ground.create("a");
    let file = std::env::temp_dir().join(ground.path.trim_start_matches('/'));
    let mut child = ticking(&cgroup, &file);
    cgroup.freeze(soon()).unwrap();
    let stopped = tick(&file);
    std::thread::sleep(Duration::from_millis(150));
    assert!(cgroup.frozen().unwrap() && tick(&file) == stopped);
    cgroup.thaw(soon()).unwrap();
    wait(|| tick(&file) != stopped);
    assert!(!cgroup.frozen().unwrap());

    let inner = ground.create("a/inner");
    let mut nested = sleeper(inner.path());
    let mut pids = cgroup.processes().unwrap();
    pids.retain(|pid| [child.id(), nested.id()].contains(&(*pid as u32)));
    assert_eq!(pids.len(), 2, "processes() looks below too");
    cgroup.freeze(soon()).unwrap();
    cgroup.kill().unwrap();
    for child in [&mut child, &mut nested] {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    cgroup.remove(soon()).unwrap();
    assert!(!cgroup.path().exists());
    fs::remove_file(file).unwrap();
}

#[test]
fn thaw_below_a_frozen_cgroup_gives_up_at_the_deadline() {
    let ground = ground();
    let cgroup = ground.create("a/b");
    let above = Cgroup::open(&ground.hierarchy, &ground.below("a")).unwrap().unwrap();
    above.freeze(soon()).unwrap();
    let error = cgroup.thaw(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.errno, Some(Errno::ETIMEDOUT));
    above.thaw(soon()).unwrap();
}

#[test]
fn remove_takes_deep_children_and_waits_for_the_end() {
    let ground = ground();
    let cgroup = ground.create("a");
    let deep = format!("a{}", "/d".repeat(200));
    ground.create(&deep);
    ground.create("a/x/y");
    let mut child = shell(&ground.dir(&ground.below("a/x/y")), "exec sleep 0.3");
    wait(|| cgroup.populated().unwrap());
    let error = cgroup.remove(Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(error.hint.unwrap().contains(&child.id().to_string()));
    cgroup.remove(soon()).unwrap();
    assert!(!cgroup.path().exists());
    cgroup.remove(soon()).expect("what is gone is removed");
    assert!(!cgroup.populated().unwrap() && cgroup.processes().unwrap().is_empty());
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

fn install(cgroup: &mut Cgroup, rules: &[Rule]) {
    let program = load_devices(&program(rules).unwrap().unwrap()).unwrap();
    cgroup.attach_devices(program).unwrap();
}

const NULL: Rule = Rule { allow: true, kind: Kind::Char, major: Some(1), minor: Some(3), access: READ };

#[test]
fn the_device_filter_decides_on_open_and_mknod() {
    let ground = ground();
    let mut cgroup = ground.create("a");
    let node = std::env::temp_dir().join(ground.path.trim_start_matches('/'));
    let mknod = format!("mknod {0} c 1 5 && rm {0}", node.display());
    // The shell itself needs /dev/null open: Command has opened it before.
    let (read_null, write_null, read_zero) = ("exec 3< /dev/null", "exec 3> /dev/null", "exec 3< /dev/zero");
    assert!([read_null, write_null, read_zero, &mknod].iter().all(|script| runs(cgroup.path(), script)));

    install(&mut cgroup, &[NULL]);
    assert!(runs(cgroup.path(), read_null));
    assert!([write_null, read_zero, &mknod].iter().all(|script| !runs(cgroup.path(), script)));

    let wider = Rule { access: READ | WRITE | MKNOD, ..NULL };
    let loaded = load_devices(&program(&[wider]).unwrap().unwrap()).unwrap();
    cgroup.replace_devices(Some(loaded.as_fd())).unwrap();
    assert!(runs(cgroup.path(), write_null), "the old filter is gone");
    assert!(!runs(cgroup.path(), read_zero));

    install(&mut cgroup, &[NULL]);
    assert!(!runs(cgroup.path(), write_null), "two filters: both must allow");
    cgroup.replace_devices(None).unwrap();
    assert!(runs(cgroup.path(), read_zero) && runs(cgroup.path(), &mknod));
}

#[test]
fn the_default_filter_passes_the_verifier_and_holds() {
    let ground = ground();
    let mut cgroup = ground.create("a");
    install(&mut cgroup, &rules(None).unwrap());
    for device in ["null", "zero", "full", "random", "urandom"] {
        assert!(runs(cgroup.path(), &format!("exec 3< /dev/{device}")), "{device}");
    }
    let node = std::env::temp_dir().join(ground.path.trim_start_matches('/'));
    let kmsg = format!("mknod {0} c 1 11 || exit 98; exec 3< {0}", node.display());
    assert!(!runs(cgroup.path(), &kmsg));
    assert!(node.exists(), "mknod is allowed, use is not");
    fs::remove_file(node).unwrap();
}

/// Programs of all shapes that the compiler makes are taken by the kernel's verifier.
#[test]
fn the_verifier_takes_every_shape() {
    let rule = |n: u32| Rule {
        allow: !n.is_multiple_of(5),
        kind: [Kind::All, Kind::Block, Kind::Char][(n % 3) as usize],
        major: (!n.is_multiple_of(7)).then_some(n % 11),
        minor: (!n.is_multiple_of(4)).then_some(n % 40),
        access: (n % 8) as u8,
    };
    for length in [0, 1, 2, 3, 5, 8, 13, 40, 200] {
        for start in 0..5 {
            let rules: Vec<Rule> = (start..start + length).map(rule).collect();
            if let Some(program) = program(&rules).unwrap() {
                load_devices(&program).unwrap();
            }
        }
    }
}
