//! `mounts`: what the kernel's mount table says inside, and where the targets lie.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::MsFlags;
use serde_json::{Value, json};

mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;
use common::Bundle;
use mountinfo::{HostMount, at};

const MOUNTINFO: &[&str] = &["cat", "/proc/self/mountinfo"];

fn with_mounts(bundle: Bundle, more: impl IntoIterator<Item = Value>) -> Bundle {
    bundle.edit(|config| config["mounts"].as_array_mut().expect("mounts").extend(more))
}

fn bind(source: impl AsRef<Path>, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source.as_ref(), "options": options })
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options })
}

#[test]
fn the_default_mounts_have_their_options() {
    let table = Bundle::new().args(MOUNTINFO).run().well();
    for (point, kind, has, has_not) in [
        ("/proc", "proc", "rw relatime", "nosuid ro"),
        ("/dev", "tmpfs", "nosuid rw size=65536k mode=755", "relatime noatime noexec"),
        ("/dev/pts", "devpts", "nosuid noexec mode=620 ptmxmode=666 gid=5", "nodev"),
        ("/dev/shm", "tmpfs", "nosuid nodev noexec size=65536k", "ro"),
        ("/dev/mqueue", "mqueue", "nosuid nodev noexec", "ro"),
        ("/sys", "sysfs", "nosuid nodev noexec ro", ""),
        ("/sys/fs/cgroup", "cgroup2", "nosuid nodev noexec relatime ro", ""),
    ] {
        let mount = at(&table, point);
        assert_eq!(mount.kind, kind, "{point}");
        for option in has.split_whitespace() {
            assert!(mount.has(option), "{point} without {option}: {mount:?}");
        }
        for option in has_not.split_whitespace() {
            assert!(!mount.options.iter().any(|other| other == option), "{point} with {option}: {mount:?}");
        }
    }
}

/// Options, what the mount then has, and what it has not.
const ROWS: &[(&str, &str, &str)] = &[
    ("ro", "ro", "rw"),
    ("ro rw", "rw", "ro"),
    ("nosuid", "nosuid", ""),
    ("nosuid suid", "", "nosuid"),
    ("nodev", "nodev", ""),
    ("nodev dev", "", "nodev"),
    ("noexec", "noexec", ""),
    ("noexec exec", "", "noexec"),
    ("noatime", "noatime", "relatime"),
    ("noatime atime", "relatime", "noatime"),
    ("relatime", "relatime", ""),
    ("strictatime", "", "relatime noatime"),
    ("strictatime nostrictatime", "relatime", "noatime"),
    ("nodiratime", "nodiratime", ""),
    ("nodiratime diratime", "", "nodiratime"),
    ("nosymfollow", "nosymfollow", ""),
    ("nosymfollow symfollow", "", "nosymfollow"),
    ("defaults", "rw relatime", "ro"),
];

#[track_caller]
fn check(mount: &mountinfo::Mount, case: &str, has: &str, has_not: &str) {
    for option in has.split_whitespace() {
        assert!(mount.has(option), "{case}: no {option}: {mount:?}");
    }
    for option in has_not.split_whitespace() {
        assert!(!mount.options.iter().any(|other| other == option), "{case}: {option}: {mount:?}");
    }
}

/// Each row on a new file system and on a bind mount, plain and, where there is one, in the recursive form.
#[test]
fn each_option_does_what_it_says() {
    let bundle = Bundle::new().args(MOUNTINFO);
    let source = bundle.dir.join("source");
    fs::create_dir(&source).expect("a source");
    let mut mounts = Vec::new();
    for (index, (options, ..)) in ROWS.iter().enumerate() {
        let plain: Vec<&str> = options.split(' ').collect();
        mounts.push(tmpfs(&format!("/new/{index}"), &plain));
        mounts.push(bind(&source, &format!("/bind/{index}"), &[&["bind"], &plain[..]].concat()));
        if *options != "defaults" {
            let recursive: Vec<String> = plain.iter().map(|option| format!("r{option}")).collect();
            let mut recursive: Vec<&str> = recursive.iter().map(String::as_str).collect();
            mounts.push(tmpfs(&format!("/rnew/{index}"), &recursive));
            recursive.push("rbind");
            mounts.push(bind(&source, &format!("/rbind/{index}"), &recursive));
        }
    }
    let bundle = with_mounts(bundle, mounts);
    let table = bundle.run().well();
    for (index, (options, has, has_not)) in ROWS.iter().enumerate() {
        for form in ["new", "bind", "rnew", "rbind"] {
            if *options != "defaults" || !form.starts_with('r') {
                check(&at(&table, &format!("/{form}/{index}")), &format!("{options} {form}"), has, has_not);
            }
        }
    }
}

/// What the source has is taken away by the opposite, and stays without a word about it.
#[test]
fn a_bind_clears_what_its_source_has() {
    let bundle = Bundle::new().args(MOUNTINFO);
    let source = bundle.dir.join("source");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let _mount = HostMount::tmpfs(&source, flags);
    let bundle = with_mounts(
        bundle,
        [
            bind(&source, "/kept", &["bind"]),
            bind(&source, "/cleared", &["bind", "rw", "suid", "dev", "exec", "relatime"]),
            bind(&source, "/rcleared", &["rbind", "rrw", "rsuid", "rdev", "rexec", "rrelatime"]),
        ],
    );
    let _gone_first = _mount;
    let table = bundle.run().well();
    check(&at(&table, "/kept"), "kept", "nosuid nodev noexec noatime", "rw relatime");
    check(&at(&table, "/cleared"), "cleared", "relatime", "nosuid nodev noexec noatime ro");
    check(&at(&table, "/rcleared"), "rcleared", "relatime", "nosuid nodev noexec noatime ro");
}

#[test]
fn superblock_flags_and_parameters_reach_the_file_system() {
    let bundle = with_mounts(
        Bundle::new().args(MOUNTINFO),
        [
            tmpfs("/sync", &["sync", "dirsync", "lazytime"]),
            tmpfs("/async", &["sync", "async", "lazytime", "nolazytime", "silent", "iversion"]),
            tmpfs("/data", &["size=1m,mode=751", "nr_inodes=33", "uid=7"]),
        ],
    );
    let table = bundle.run().well();
    let (sync, plain, data) = (at(&table, "/sync"), at(&table, "/async"), at(&table, "/data"));
    check(&sync, "sync", "sync dirsync lazytime", "");
    assert!(!plain.has("sync") && !plain.has("lazytime"), "{plain:?}");
    check(&data, "data", "size=1024k mode=751 nr_inodes=33 uid=7", "");
}

#[test]
fn an_unknown_option_has_the_kernels_words() {
    let bundle = with_mounts(Bundle::new(), [tmpfs("/data", &["frobnicate"])]);
    let index = bundle.config["mounts"].as_array().expect("mounts").len() - 1;
    let said = bundle.run().fails("frobnicate");
    assert!(said.contains("Unknown parameter") && said.contains(&format!("/mounts/{index}")), "{said}");
    let bundle = with_mounts(Bundle::new(), [tmpfs("/data", &["size=1x"])]);
    bundle.run().fails("Bad value for 'size'");
    let bundle = with_mounts(Bundle::new(), [json!({ "destination": "/data", "type": "nosuchfs" })]);
    bundle.run().fails("the kernel has no such file system");
}

#[test]
fn files_and_directories_are_bound_on_targets_that_are_made() {
    let bundle = Bundle::script("cat /a/b/file /c/d/dir/inner; echo more >> /a/b/file");
    let source = bundle.dir.join("source");
    fs::create_dir(&source).expect("a source");
    fs::write(source.join("inner"), "inner\n").expect("a file");
    fs::write(bundle.dir.join("file"), "file\n").expect("a file");
    let file = bundle.dir.join("file");
    let bundle = with_mounts(bundle, [bind(&file, "/a/b/file", &["bind"]), bind(&source, "/c/d/dir", &["bind"])]);
    assert_eq!(bundle.run().well(), "file\ninner");
    assert_eq!(fs::read_to_string(&file).expect("the source"), "file\nmore\n", "it is the same file");
    assert!(bundle.rootfs("/a/b/file").is_file() && bundle.rootfs("/c/d/dir").is_dir());
    assert_eq!(fs::read(bundle.rootfs("/a/b/file")).expect("the target"), b"", "the target itself is empty");
}

#[test]
fn a_missing_source_is_named() {
    let bundle = with_mounts(Bundle::new(), [bind("/nowhere/at/all", "/data", &["bind"])]);
    let said = bundle.run().fails("/nowhere/at/all");
    assert!(said.contains("no such file or directory"), "{said}");
}

/// A tree of two mounts on the host: `source` with `sub` in it, and a file in each.
fn tree(bundle: &Bundle) -> (std::path::PathBuf, [HostMount; 2]) {
    let source = bundle.dir.join("source");
    let outer = HostMount::tmpfs(&source, MsFlags::empty());
    fs::write(source.join("outer"), "").expect("a file");
    let inner = HostMount::tmpfs(&source.join("sub"), MsFlags::empty());
    fs::write(source.join("sub/inner"), "").expect("a file");
    (source, [outer, inner])
}

#[test]
fn rbind_brings_the_submounts_and_bind_does_not() {
    let bundle = Bundle::script("ls /bind/sub; echo -; ls /rbind/sub");
    let (source, _mounts) = tree(&bundle);
    let bundle = with_mounts(bundle, [bind(&source, "/bind", &["bind"]), bind(&source, "/rbind", &["rbind"])]);
    let _gone_first = _mounts;
    assert_eq!(bundle.run().well(), "-\ninner");
}

/// What lies below it would be uncovered: the kernel does not do that for a user namespace.
#[test]
fn a_bind_in_a_user_namespace_takes_what_is_mounted_below() {
    let bundle = Bundle::script("ls /rbind/sub").with_user();
    let (source, _mounts) = tree(&bundle);
    let both = |options: &[&str]| [bind(&source, "/rbind", &["rbind"]), bind(&source, "/bind", options)];
    let alone = with_mounts(bundle, both(&["bind"]));
    let said = alone.run().fails("/mounts/8");
    assert!(said.contains("mounted below the source") && said.contains("rbind"), "{said}");
    let all = alone.edit(|config| config["mounts"][8]["options"] = json!(["rbind"]));
    let _gone_first = _mounts;
    assert_eq!(all.run().well(), "inner");
}

#[test]
fn ro_is_for_the_mount_and_rro_for_all_below_it() {
    let script = "for d in plain all; do for f in $d/new $d/sub/new; do touch /$f 2>/dev/null; echo $f $?; done; done";
    let bundle = Bundle::script(script);
    let (source, _mounts) = tree(&bundle);
    let bundle =
        with_mounts(bundle, [bind(&source, "/plain", &["rbind", "ro"]), bind(&source, "/all", &["rbind", "rro"])]);
    let _gone_first = _mounts;
    assert_eq!(bundle.run().well(), "plain/new 1\nplain/sub/new 0\nall/new 1\nall/sub/new 1");
}

#[test]
fn propagation_is_as_asked() {
    let kinds = ["private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"];
    let bundle = Bundle::new().args(MOUNTINFO);
    let (source, mounts) = tree(&bundle);
    mounts[0].change(MsFlags::MS_SHARED);
    mounts[1].change(MsFlags::MS_SHARED);
    let entry = |kind: &&str| bind(&source, &format!("/{kind}"), &["rbind", kind]);
    let bundle = with_mounts(bundle, kinds.iter().map(entry).chain([tmpfs("/new", &["shared"]), tmpfs("/none", &[])]));
    let _gone_first = mounts;
    let table = bundle.run().well();
    for kind in kinds {
        let (outer, inner) = (at(&table, &format!("/{kind}")), at(&table, &format!("/{kind}/sub")));
        // All that comes from the host is a slave of it before anything else is asked.
        let (own, untouched) = match kind.trim_start_matches('r') {
            "private" => (vec![], vec!["master"]),
            "unbindable" => (vec!["unbindable"], vec!["master"]),
            "shared" => (vec!["shared", "master"], vec!["master"]),
            _ => (vec!["master"], vec!["master"]),
        };
        assert_eq!(outer.peers(), own, "{kind}");
        assert_eq!(inner.peers(), if kind.starts_with('r') { own } else { untouched }, "below {kind}");
    }
    assert_eq!(at(&table, "/new").peers(), ["shared"]);
    assert_eq!(at(&table, "/none").peers(), [""; 0]);
}

#[test]
fn nothing_that_a_container_mounts_comes_back_to_the_host() {
    let bundle = Bundle::sleeper();
    let (source, mounts) = tree(&bundle);
    mounts[0].change(MsFlags::MS_SHARED);
    let bundle = with_mounts(bundle, [bind(&source, "/data", &["rbind"]), tmpfs("/data/below", &[])]);
    let _gone_first = mounts;
    bundle.up();
    let host = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!host.contains("/rootfs") && !host.contains("/source/below"), "{host}");
}

#[test]
fn tmpcopyup_brings_what_the_image_has() {
    let script = "cd /data; stat -c '%n %a %u:%g %F' . file dir dir/run link fifo; readlink link; cat file; \
                   cat /ro/file; touch /ro/new 2>/dev/null; echo $?; touch /rro/new 2>/dev/null; echo $?";
    let bundle = Bundle::script(script);
    fs::create_dir_all(bundle.rootfs("/data/dir")).expect("a directory");
    for below in ["/ro", "/rro"] {
        fs::create_dir(bundle.rootfs(below)).expect("a directory");
        fs::write(bundle.rootfs(below).join("file"), "kept\n").expect("a file");
    }
    fs::write(bundle.rootfs("/data/file"), "text\n").expect("a file");
    fs::write(bundle.rootfs("/data/dir/run"), "").expect("a file");
    symlink("/etc/passwd", bundle.rootfs("/data/link")).expect("a link");
    nix::unistd::mkfifo(&bundle.rootfs("/data/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
    for (path, mode) in [("/data", 0o751), ("/data/file", 0o604), ("/data/dir", 0o2705), ("/data/dir/run", 0o4755)] {
        std::os::unix::fs::chown(bundle.rootfs(path), Some(3), Some(4)).expect("chown");
        fs::set_permissions(bundle.rootfs(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let bundle = with_mounts(
        bundle,
        [tmpfs("/data", &["tmpcopyup"]), tmpfs("/ro", &["tmpcopyup", "ro"]), tmpfs("/rro", &["tmpcopyup", "rro"])],
    );
    let shown = bundle.run().well();
    let expected = [
        ". 751 0:0 directory",
        "file 604 3:4 regular file",
        "dir 2705 3:4 directory",
        "dir/run 4755 3:4 regular empty file",
        "link 777 0:0 symbolic link",
        "fifo 600 0:0 fifo",
        "/etc/passwd",
        "text",
        "kept",
        "1",
        "1",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::read_to_string(bundle.rootfs("/data/file")).expect("the image's"), "text\n");
}

/// Id-mapped tmpfs is there since Linux 6.3; below it the error says so.
fn tmpfs_can_be_mapped() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

#[test]
fn an_idmapped_bind_shifts_the_owners() {
    let bundle =
        Bundle::script("stat -c '%u:%g' /data/zero /data/seven /all/sub/inner /one/sub/inner; touch /data/new");
    let (source, _mounts) = tree(&bundle);
    fs::write(source.join("zero"), "").expect("a file");
    fs::write(source.join("seven"), "").expect("a file");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).expect("chmod");
    std::os::unix::fs::chown(source.join("seven"), Some(7), Some(8)).expect("chown");
    let mapped = |destination: &str, options: &[&str]| {
        let mut entry = bind(&source, destination, options);
        entry["uidMappings"] = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
        entry["gidMappings"] = json!([{ "containerID": 0, "hostID": 6000, "size": 100 }]);
        entry
    };
    let bundle = with_mounts(
        bundle,
        [mapped("/data", &["bind"]), mapped("/all", &["rbind", "ridmap"]), mapped("/one", &["rbind", "idmap"])],
    )
    .edit(|config| config["process"]["user"] = json!({ "uid": 5003, "gid": 6004 }));
    let _gone_first = _mounts;
    if !tmpfs_can_be_mapped() {
        bundle.run().fails("or this kernel for it, has no id-mapped mounts");
        return;
    }
    assert_eq!(bundle.run().well(), "5000:6000\n5007:6008\n5000:6000\n0:0");
    let made = fs::metadata(source.join("new")).expect("what was made inside");
    assert_eq!((std::os::unix::fs::MetadataExt::uid(&made), std::os::unix::fs::MetadataExt::gid(&made)), (3, 4));
}

/// With the option alone the mappings are those of the container's user namespace: what is 7 outside is 7 inside.
#[test]
fn an_idmapped_bind_without_mappings_has_the_containers() {
    let bundle = Bundle::script("stat -c '%u:%g' /plain/seven /data/seven").with_user();
    let (source, _mounts) = tree(&bundle);
    fs::write(source.join("seven"), "").expect("a file");
    std::os::unix::fs::chown(source.join("seven"), Some(7), Some(8)).expect("chown");
    let mounts = [bind(&source, "/plain", &["rbind"]), bind(&source, "/data", &["bind", "idmap"])];
    let bundle = with_mounts(bundle, mounts);
    let _gone_first = _mounts;
    if !tmpfs_can_be_mapped() {
        bundle.run().fails("or this kernel for it, has no id-mapped mounts");
        return;
    }
    assert_eq!(bundle.run().well(), "65534:65534\n7:8");
}

/// Links of the image are followed inside of it, whatever they say.
#[test]
fn targets_behind_links_stay_inside() {
    let bundle = Bundle::new().args(MOUNTINFO);
    let decoy = bundle.dir.join("decoy");
    fs::create_dir(&decoy).expect("a decoy");
    fs::create_dir(bundle.rootfs("/real")).expect("a directory");
    symlink("/real", bundle.rootfs("/absolute")).expect("a link");
    symlink("../../../../../../real", bundle.rootfs("/etc/upwards")).expect("a link");
    let bundle =
        with_mounts(bundle, [tmpfs("/absolute/a", &[]), tmpfs("/etc/upwards/b", &[]), tmpfs("/etc/../../../c", &[])]);
    let table = bundle.run().well();
    for point in ["/real/a", "/real/b", "/c"] {
        assert_eq!(at(&table, point).kind, "tmpfs");
    }

    for target in ["/escape", "/escape/below", "/escape-up/below"] {
        let bundle =
            with_mounts(Bundle::new(), [tmpfs(target, &[]), bind("/etc/passwd", &format!("{target}/file"), &["bind"])]);
        symlink(&decoy, bundle.rootfs("/escape")).expect("a link");
        symlink("../../decoy", bundle.rootfs("/escape-up")).expect("a link");
        bundle.run();
        assert_eq!(fs::read_dir(&decoy).expect("the decoy").count(), 0, "{target}");
        assert!(!bundle.dir.join("decoy").exists(), "{target}");
    }
}

#[test]
fn procfs_and_sysfs_go_on_ordinary_directories_alone() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        fs::create_dir(bundle.rootfs("/elsewhere")).expect("a directory");
        symlink("/elsewhere", bundle.rootfs(name)).expect("a link");
        bundle.run().fails("must be mounted on ordinary directory");
        let bundle = Bundle::new();
        fs::write(bundle.rootfs(name), "").expect("a file");
        bundle.run().fails("must be mounted on ordinary directory");
    }
}

#[test]
fn nothing_is_mounted_into_procfs() {
    for target in ["/proc/sys", "/proc/self/attr", "/link/sys", "/etc/../proc/bus", "/proc/self/fd"] {
        let bundle = with_mounts(Bundle::new(), [tmpfs(target, &[])]);
        symlink("/proc", bundle.rootfs("/link")).expect("a link");
        bundle.run().fails("inside /proc");
    }
    let bundle = Bundle::script("cat /proc/uptime");
    fs::write(bundle.dir.join("uptime"), "mine\n").expect("a file");
    let file = bundle.dir.join("uptime");
    let bundle = with_mounts(bundle, [bind(file, "/proc/uptime", &["bind"])]);
    assert_eq!(bundle.run().well(), "mine", "as lxcfs does");
}

/// Whatever it is called, and also where its path does not show it.
#[test]
fn over_proc_goes_nothing_but_a_whole_procfs() {
    let over = |source: &str, target: &str| {
        let bundle = Bundle::script("cat /proc/version").edit(|config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["destination"] != "/proc");
        });
        fs::create_dir(bundle.dir.join("files")).expect("a directory");
        fs::write(bundle.dir.join("files/version"), "mine").expect("a file");
        symlink("/proc/sys", bundle.dir.join("link")).expect("a link");
        let source = bundle.dir.join(source);
        with_mounts(bundle, [bind(source, target, &["rbind"])]).run()
    };
    for target in ["/proc", "proc/", "/x/../proc"] {
        over("files", target).fails("not of type proc");
        over("link", target).fails("not of type proc");
    }
    assert!(over("/proc", "/proc").well().starts_with("Linux version"));
}

/// CVE-2021-30465 needed one that was looked for behind what the container's own mounts had put there.
#[test]
fn a_source_is_what_the_host_has_there_whatever_was_mounted_before() {
    let bundle = Bundle::script("cat /seen/file");
    let (below, volume) = (bundle.rootfs("/below"), bundle.dir.join("volume"));
    for (dir, text) in [(&below, "the host's"), (&volume, "the volume's")] {
        fs::create_dir(dir).expect("a directory");
        fs::write(dir.join("file"), text).expect("a file");
    }
    let mounts = [bind(volume, "/below", &["bind"]), bind(below, "/seen", &["bind"])];
    assert_eq!(with_mounts(bundle, mounts).run().well(), "the host's");
}

/// Each covers what came before, and lies in what is there by then.
#[test]
fn they_are_made_in_their_order() {
    let mounts = [tmpfs("/b/a", &["size=16k"]), tmpfs("/b", &["size=32k"]), tmpfs("/b/a", &["size=48k"])];
    let bundle = with_mounts(Bundle::new().args(MOUNTINFO), mounts);
    let table = bundle.run().well();
    let sizes: Vec<_> = ["size=16k", "size=32k", "size=48k"].iter().filter_map(|size| table.find(size)).collect();
    assert!(sizes.len() == 3 && sizes.is_sorted(), "{table}");
    check(&at(&table, "/b/a"), "the last", "size=48k", "size=16k");
}

#[test]
fn a_remount_changes_what_is_there() {
    let remount = tmpfs("/data", &["remount", "ro", "noexec"]);
    let bundle = with_mounts(Bundle::new().args(MOUNTINFO), [tmpfs("/data", &["nosuid"]), remount]);
    check(&at(&bundle.run().well(), "/data"), "remount", "ro noexec nosuid", "rw");
    let back = tmpfs("/data", &["remount", "rw", "suid"]);
    let bundle = with_mounts(Bundle::new().args(MOUNTINFO), [tmpfs("/data", &["ro", "nosuid", "nodev"]), back]);
    check(&at(&bundle.run().well(), "/data"), "remount", "rw nodev", "ro nosuid");
}

#[test]
fn a_remount_reaches_what_is_below_and_has_its_propagation() {
    let mounts = [
        tmpfs("/data", &[]),
        tmpfs("/data/below", &["nodev"]),
        tmpfs("/data", &["remount", "noexec", "rro", "rnosuid", "shared"]),
        tmpfs("/data/below", &["remount", "rrw"]),
    ];
    let table = with_mounts(Bundle::new().args(MOUNTINFO), mounts).run().well();
    check(&at(&table, "/data"), "remount", "ro noexec nosuid", "rw");
    check(&at(&table, "/data/below"), "below", "rw nosuid nodev", "ro noexec");
    let shared =
        |place: &str| table.lines().any(|line| line.contains(&format!(" {place} ")) && line.contains(" shared:"));
    assert!(shared("/data") && !shared("/data/below"), "{table}");
}

#[test]
fn what_is_asked_for_in_vain_is_said() {
    let bundle = with_mounts(Bundle::new(), [tmpfs("/data", &["silent", "iversion", "size=1m"])]);
    let said = bundle.run().stderr();
    assert!(
        said.contains("/options: silent,iversion has no effect: the kernel's mount API has no word for it"),
        "{said}"
    );
    let bundle = with_mounts(Bundle::new(), [tmpfs("/data", &["silent", "loud", "noiversion", "size=1m"])]);
    assert_eq!(bundle.run().stderr(), "");
    let bundle = Bundle::new();
    let source = bundle.dir.clone();
    let bundle = with_mounts(bundle, [bind(&source, "/data", &["rbind", "ro", "sync", "size=1m", "frobnicate"])]);
    let said = bundle.run().stderr();
    assert!(said.contains("/options: sync,size,frobnicate has no effect: a bind mount has"), "{said}");
}

#[test]
fn no_kernel_file_system_goes_below_proc() {
    let sysfs = json!({ "destination": "/link/bus", "type": "sysfs", "source": "sysfs", "options": ["nosuid"] });
    let bundle = with_mounts(Bundle::script("true"), [sysfs]);
    std::os::unix::fs::symlink("/proc", bundle.dir.join("rootfs/link")).expect("a link");
    bundle.run().fails("inside /proc");
}

#[test]
fn a_relative_source_is_below_the_bundle() {
    let bundle = with_mounts(Bundle::new().args(&["cat", "/data"]), [bind("some/file", "/data", &["bind"])]);
    fs::create_dir(bundle.dir.join("some")).expect("a directory");
    fs::write(bundle.dir.join("some/file"), "of the bundle").expect("a file");
    assert_eq!(bundle.run().well(), "of the bundle");
}

/// A container whose ids are nobody's on the host, and a directory below one that only the host's root may enter.
fn out_of_reach(bundle: Bundle) -> (Bundle, std::path::PathBuf) {
    let secret = bundle.dir.join("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).expect("chmod");
    (common::mapped(bundle), secret)
}

#[test]
fn a_source_that_the_user_namespace_cant_reach_is_bound() {
    let show = "cat /data/file /data/sub/file /link/file /file; cat /proc/self/mountinfo";
    let (bundle, secret) = out_of_reach(Bundle::script(show));
    let dir = secret.join("dir");
    let mounts = [HostMount::tmpfs(&dir, MsFlags::empty()), HostMount::tmpfs(&dir.join("sub"), MsFlags::MS_NODEV)];
    fs::write(dir.join("file"), "outer\n").expect("a file");
    fs::write(dir.join("sub/file"), "below\n").expect("a file");
    // an absolute link, which leads to where it leads on the host
    let link = bundle.dir.join("link");
    symlink(&dir, &link).expect("a link");
    let binds = [
        bind(&dir, "/data", &["rbind"]),
        bind(&link, "/link", &["rbind"]),
        bind(dir.join("file"), "/file", &["bind", "ro"]),
    ];
    let bundle = with_mounts(bundle, binds);
    let _gone_first = mounts;
    let shown = bundle.run().well();
    assert_eq!(shown.lines().take(4).collect::<Vec<_>>(), ["outer", "below", "outer", "outer"]);
    assert!(at(&shown, "/data/sub").has("nodev") && at(&shown, "/file").has("ro"), "{shown}");
    let bundle = bundle.args(&["sleep", "1000"]);
    bundle.up();
    assert_eq!(bundle.inside("cat /data/file; ls /proc/1/fd | xargs"), "outer\n0 1 2");
}

/// The mount is a copy of one of the container's own namespace, where the host's flags are locked.
#[test]
fn flags_of_a_source_out_of_reach_stay_locked() {
    let script = "for o in rw suid dev exec; do mount -o remount,bind,$o /data 2>/dev/null && echo $o; done; \
                  mount -o remount,bind,rw /own && cat /proc/self/mountinfo";
    let (bundle, secret) = out_of_reach(Bundle::script(script));
    let dir = secret.join("dir");
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mount = HostMount::tmpfs(&dir, MsFlags::empty());
    mount.change(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags);
    let mounts = [bind(&dir, "/data", &["rbind", "rw", "suid", "dev", "exec"]), tmpfs("/own", &["ro"])];
    let bundle = with_mounts(bundle, mounts).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_SYS_ADMIN"));
        }
    });
    let _gone_first = mount;
    let shown = bundle.run().well();
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(at(&shown, "/data").has(flag), "{flag}: {shown}");
    }
    assert!(!shown.lines().any(|line| ["rw", "suid", "dev", "exec"].contains(&line)), "{shown}");
    assert!(
        at(&shown, "/own").options.iter().any(|option| option == "rw"),
        "a mount of the container's own is not: {shown}"
    );
}

/// Nobody opens more than what the configuration names: not what a magic link of procfs would lead to, nor what is not there.
#[test]
fn what_is_missing_out_of_reach_is_an_error() {
    for (name, errno) in [("none", "no such file or directory"), ("magic", "too many symbolic links")] {
        let (bundle, secret) = out_of_reach(Bundle::new());
        symlink("/proc/self/root", secret.join("magic")).expect("a link");
        let source = secret.join(name);
        let said = with_mounts(bundle, [bind(&source, "/data", &["bind"])]).run().fails(errno);
        assert!(said.contains("/mounts/") && said.contains(source.to_str().expect("UTF-8")), "{said}");
    }
}

/// mount(2) said ENOTDIR, and docker tells its users more where it finds these words; move_mount(2) says EINVAL.
#[test]
fn a_file_on_a_directory_and_the_other_way_round() {
    for user in [false, true] {
        for (source, target, words) in [
            ("/etc/passwd", "/dev", "no directory, and its target is one"),
            ("/etc", "/file", "a directory, and its target is none"),
        ] {
            let bundle = Bundle::new();
            fs::write(bundle.rootfs("file"), "").expect("a file");
            let bundle = if user { bundle.with_user() } else { bundle };
            let bundle = with_mounts(bundle, [bind(source, target, &["bind"])]);
            let said = bundle.run().fails("not a directory");
            assert!(said.contains(words) && said.contains("something else at this path"), "{said}");
        }
    }
}
