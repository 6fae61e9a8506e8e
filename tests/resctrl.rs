//! `linux.intelRdt` from create to delete, on a tree of plain files in place of resctrl, which no machine of ours has.
//!
//! What the kernel does to such a tree its tests do: a group's `tasks` are empty once its processes have ended, and rmdir(2) takes a
//! group's files with it. Only `create` must be told where the tree is: this binary is also the program that creates by the
//! library's own function. All other verbs are the runtime's own, and find the group in state.json.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bundle, Outcome, alive, begin, outcome, value, wait};
use libtest_mimic::{Arguments, Trial};
use nix::fcntl::{Flock, FlockArg};
use orlop::exec::create::{create, destroy_unknown};
use orlop::host::Rootless;
use orlop::plan::{self, HostFacts, Options};
use orlop::state::Store;
use serde_json::{Value, json};

/// A bundle with the tree beside it, which its container sees as /resctrl.
struct Tree {
    bundle: Bundle,
    root: PathBuf,
}

impl Tree {
    fn new(rdt: Value, program: &str) -> Self {
        let bundle = Bundle::script(program);
        let root = bundle.dir.join("resctrl");
        fs::create_dir_all(root.join("mon_groups")).expect("the tree");
        fs::write(root.join("tasks"), "").expect("its tasks");
        let seen = json!({"destination": "/resctrl", "type": "bind", "source": root, "options": ["rbind"]});
        let path = format!("/{}", bundle.id);
        let bundle = bundle.edit(|config| {
            config["linux"]["intelRdt"] = rdt;
            config["linux"]["cgroupsPath"] = json!(path);
            config["mounts"].as_array_mut().expect("a list").push(seen);
        });
        Self { bundle, root }
    }

    fn edit(self, change: impl FnOnce(&mut Value)) -> Self {
        Self { bundle: self.bundle.edit(change), ..self }
    }

    /// The same with a hook of the runtime, a script.
    fn hook(self, script: &str) -> Self {
        let hook = self.bundle.dir.join("hook");
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).expect("a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("chmod");
        self.edit(|config| config["hooks"] = json!({"createRuntime": [{"path": hook}]}))
    }

    /// A class that somebody has made before.
    fn class(&self, name: &str) -> PathBuf {
        let class = self.root.join(name);
        fs::create_dir_all(class.join("mon_groups")).expect("a class");
        fs::write(class.join("schemata"), "    L3:0=f\n").expect("its schemata");
        fs::write(class.join("tasks"), "").expect("its tasks");
        class
    }

    /// The directory that is the container's own.
    fn own(&self) -> PathBuf {
        self.root.join(&self.bundle.id)
    }

    fn making(&self, verb: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args([Path::new(verb), &self.root, &self.bundle.store, &self.bundle.dir, Path::new(&self.bundle.id)]);
        command.stdin(Stdio::null());
        command
    }

    /// What the kernel does when a group's last process has ended and the group is removed.
    fn empty(&self, group: &Path) {
        for file in ["tasks", "schemata"] {
            let _ = fs::remove_file(group.join(file));
        }
    }

    /// Its container is ended, and deleted.
    fn end(&self, groups: &[&Path]) {
        self.bundle.on("kill", &["KILL"]).well();
        self.bundle.await_status("stopped");
        groups.iter().for_each(|group| self.empty(group));
        self.bundle.on("delete", &[]).well();
    }
}

fn tasks(group: &Path) -> String {
    value(group.join("tasks")).unwrap_or_default()
}

/// `resctrl create ROOT STORE BUNDLE ID`: as the verb, but for where resctrl is. `resctrl forget` is `delete --force` of a
/// container whose state.json can't be read.
fn program(verb: &str, words: &[String]) -> orlop::error::Result<()> {
    let [root, store, dir, id] = words else { panic!("ROOT STORE BUNDLE ID") };
    let facts = HostFacts { resctrl: Some(root.into()), ..HostFacts::find(Rootless::Auto, false)? };
    let store = Store::new(store.into());
    if verb == "forget" {
        return destroy_unknown(&store.open(id)?.lock()?, id, &facts);
    }
    let bundle = orlop::bundle::Bundle::load(Path::new(dir))?;
    let options = Options { id: id.clone(), ..Options::default() };
    let plan = plan::create(&bundle.spec, &bundle.dir, &facts, &options)?;
    create(&bundle, &plan, &facts, &options, &store, None).map(|_| ())
}

fn created(tree: &Tree) -> Outcome {
    let created = outcome(tree.making("create"));
    created.well();
    created
}

fn events_show_what_the_group_has_and_has_used() {
    let tree = Tree::new(json!({"closID": "shared", "enableMonitoring": true}), "sleep 1000");
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, text).expect("a file of the tree");
    };
    for (file, text) in [
        ("info/L3/cbm_mask", "fff"),
        ("info/L3/min_cbm_bits", "2"),
        ("info/L3/num_closids", "16"),
        ("schemata", "    L3:0=fff;1=fff\n"),
    ] {
        write(tree.root.join(file), text);
    }
    let class = tree.class("shared");
    write(class.join("schemata"), "    L3:0=f;1=f\n");
    let monitor = class.join("mon_groups").join(&tree.bundle.id);
    created(&tree);
    for (domain, total, local, occupied) in [("00", "5", "4", "3"), ("01", "Unavailable", "1", "2")] {
        let directory = monitor.join(format!("mon_data/mon_L3_{domain}"));
        write(directory.join("mbm_total_bytes"), total);
        write(directory.join("mbm_local_bytes"), local);
        write(directory.join("llc_occupancy"), occupied);
    }
    tree.bundle.start();
    let line: Value = serde_json::from_str(&tree.bundle.on("events", &["--stats"]).well()).expect("JSON");
    let expected = json!({
        "l3_cache_info": { "cbm_mask": "fff", "min_cbm_bits": 2, "num_closids": 16 },
        "l3_cache_schema_root": "L3:0=fff;1=fff",
        "l3_cache_schema": "L3:0=f;1=f",
        "mbm_stats": [{ "mbm_total_bytes": 5, "mbm_local_bytes": 4 }, { "mbm_total_bytes": 0, "mbm_local_bytes": 1 }],
        "cmt_stats": [{ "llc_occupancy": 3 }, { "llc_occupancy": 2 }],
    });
    assert_eq!(line["data"]["intel_rdt"], expected);
    fs::remove_dir_all(monitor.join("mon_data")).expect("as rmdir(2) takes them");
    tree.end(&[&monitor]);
}

fn the_group_is_the_containers_own_from_create_to_delete() {
    let tree = Tree::new(json!({"l3CacheSchema": "L3:0=f"}), "cat /resctrl/*/tasks; sleep 1000");
    let own = tree.own();
    let tree = tree.hook(&format!("cp {0}/tasks {0}.seen", own.display()));
    let output = created(&tree);
    let pid = tree.bundle.pid().to_string();
    assert_eq!(value(own.join("schemata")).expect("schemata"), "L3:0=f");
    assert_eq!(tasks(&own), pid);
    assert_eq!(value(own.with_extension("seen")).expect("the hook's copy"), pid, "before the hooks");
    tree.bundle.start();
    wait(|| output.stdout() == pid);

    // it has been put there when its program begins
    let pid_file = tree.bundle.dir.join("pid");
    let mut command = tree.bundle.command(&["exec", "--pid-file"]);
    command.arg(&pid_file).args([&tree.bundle.id, "sh", "-c", "cat /resctrl/*/tasks"]);
    let entered = outcome(command).well();
    assert_eq!(entered, value(&pid_file).expect("the pid file"));
    assert_ne!(entered, pid);

    tree.end(&[&own]);
    assert!(!own.exists(), "the group is left");
    assert!(tree.root.join("tasks").exists());
}

fn a_class_is_joined_and_stays_but_for_the_containers_monitoring_group() {
    let tree = Tree::new(json!({"closID": "shared", "enableMonitoring": true}), "sleep 1000");
    let class = tree.class("shared");
    let monitor = class.join("mon_groups").join(&tree.bundle.id);
    created(&tree);
    let pid = tree.bundle.pid().to_string();
    assert_eq!((tasks(&class), tasks(&monitor)), (pid.clone(), pid));
    tree.bundle.start();
    tree.bundle.inside("true");
    let entered = tasks(&monitor);
    assert_ne!(entered, tree.bundle.pid().to_string(), "exec");
    assert_eq!(tasks(&class), entered);
    tree.end(&[&monitor]);
    assert!(!monitor.exists() && class.exists());
}

fn a_class_that_the_container_made_stays_as_long_as_another_is_in_it() {
    let tree = Tree::new(json!({"closID": "shared", "l3CacheSchema": "L3:0=f"}), "sleep 1000");
    let class = tree.root.join("shared");
    created(&tree);
    tree.bundle.on("kill", &["KILL"]).well();
    tree.bundle.await_status("stopped");
    fs::write(class.join("tasks"), "1\n").expect("another's");
    tree.bundle.on("delete", &[]).well();
    assert_eq!(tasks(&class), "1");
}

/// It fails late, where the process is in its group.
fn a_create_that_fails_leaves_no_group() {
    let tree = Tree::new(json!({"l3CacheSchema": "L3:0=f"}), "true");
    let own = tree.own();
    let tree = tree.hook(&format!("mv {0}/tasks {0}.seen && rm {0}/schemata && exit 7", own.display()));
    outcome(tree.making("create")).fails("createRuntime hook #0");
    let pid = value(own.with_extension("seen")).expect("the hook's").parse().expect("a pid");
    assert!(!alive(pid));
    assert!(!own.exists(), "the group is left");
    assert!(!tree.bundle.state_dir().exists());
}

/// Whoever removes an empty class takes the lock first.
fn a_class_is_locked_until_the_process_is_in_it() {
    let tree = Tree::new(json!({"closID": "shared"}), "sleep 1000");
    let class = tree.class("shared");
    fs::remove_file(class.join("tasks")).expect("for a fifo in its place");
    nix::unistd::mkfifo(&class.join("tasks"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    let creating = begin(tree.making("create"));
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup/{}", tree.bundle.id));
    wait(|| value(cgroup.join("cgroup.procs")).is_ok_and(|text| !text.is_empty()));
    let lock = |file| Flock::lock(file, FlockArg::LockExclusiveNonblock).map(drop).map_err(|(_, errno)| errno);
    let root = || fs::File::open(&tree.root).expect("the root");
    assert_eq!(lock(root()), Err(nix::errno::Errno::EWOULDBLOCK), "free before the process is assigned");
    let pid = fs::read_to_string(class.join("tasks")).expect("what is written");
    creating.end().well();
    assert_eq!(pid, tree.bundle.pid().to_string());
    assert_eq!(lock(root()), Ok(()), "held for longer");
    fs::remove_file(class.join("tasks")).expect("for a file in its place");
}

fn a_container_without_a_readable_state_leaves_no_group() {
    let tree = Tree::new(json!({"l3CacheSchema": "L3:0=f"}), "sleep 1000");
    let own = tree.own();
    created(&tree);
    let pid = tree.bundle.pid();
    fs::write(tree.bundle.state_dir().join("state.json"), "{").expect("state.json");
    tree.empty(&own);
    outcome(tree.making("forget")).well();
    assert!(!alive(pid) && !own.exists() && !tree.bundle.state_dir().exists());

    let tree = Tree::new(json!({"closID": "shared", "enableMonitoring": true}), "sleep 1000");
    let class = tree.class("shared");
    let monitor = class.join("mon_groups").join(&tree.bundle.id);
    created(&tree);
    fs::write(tree.bundle.state_dir().join("state.json"), "{").expect("state.json");
    [&class, &monitor].into_iter().for_each(|group| tree.empty(group));
    outcome(tree.making("forget")).well();
    assert!(!monitor.exists() && class.exists(), "it may have been there before");
}

fn without_resctrl_it_is_an_error_before_anything_is_made() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(" resctrl "), "this test needs a machine without it");
    let bundle = Bundle::new().edit(|config| config["linux"]["intelRdt"] = json!({"closID": "a"}));
    let said = bundle.run().fails("intelRdt is specified in config, but Intel RDT is not enabled");
    assert!(said.contains("/linux/intelRdt"), "{said}");
    assert!(!bundle.state_dir().exists());
    let plan = outcome(bundle.command(&["plan", bundle.dir.to_str().expect("UTF-8")])).well();
    assert!(plan.contains("make or join resctrl group /a"), "{plan}");
}

/// `linux.intelRdt` of the saved configuration.
fn saved(bundle: &Bundle) -> Value {
    let text = value(bundle.state_dir().join("config.json")).expect("the saved configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["linux"]["intelRdt"].take()
}

/// What is written is what is given: the kernel leaves the other resources as they are.
fn an_update_gives_the_containers_own_group_other_schemata() {
    let tree = Tree::new(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=90"}), "sleep 1000");
    let own = tree.own();
    created(&tree);
    for (options, schemata, cache, bandwidth) in [
        (&["--l3-cache-schema", "L3:0=3"][..], "L3:0=3", "L3:0=3", "MB:0=90"),
        (&["--mem-bw-schema", "MB:0=50"], "MB:0=50", "L3:0=3", "MB:0=50"),
        (&["--l3-cache-schema", "L3:0=7", "--mem-bw-schema", "MB:0=20"], "L3:0=7\nMB:0=20", "L3:0=7", "MB:0=20"),
    ] {
        tree.bundle.on("update", options).well();
        assert_eq!(value(own.join("schemata")).expect("schemata"), schemata);
        assert_eq!(saved(&tree.bundle), json!({"l3CacheSchema": cache, "memBwSchema": bandwidth}));
    }
    tree.end(&[&own]);
}

fn a_class_of_others_is_left_alone_by_an_update() {
    let tree = Tree::new(json!({"closID": "shared"}), "sleep 1000");
    let class = tree.class("shared");
    created(&tree);
    let said = tree.bundle.on("update", &["--l3-cache-schema", "L3:0=3"]).fails("is shared");
    assert!(said.contains(class.to_str().expect("UTF-8")), "{said}");
    assert_eq!(value(class.join("schemata")).expect("schemata"), "    L3:0=f");
    assert_eq!(saved(&tree.bundle), json!({"closID": "shared"}));
    tree.end(&[]);
}

/// A limit, the schemata and what is saved: all of them, or none.
fn an_update_that_fails_half_way_takes_back_limits_and_schemata() {
    let limit = |bytes: u64| json!([{"pageSize": "2MB", "limit": bytes}]);
    let tree = Tree::new(json!({"l3CacheSchema": "L3:0=f"}), "sleep 1000")
        .edit(|config| config["linux"]["resources"]["hugepageLimits"] = limit(4 << 20));
    let own = tree.own();
    created(&tree);
    let change = tree.bundle.dir.join("change.json");
    fs::write(&change, json!({"hugepageLimits": limit(8 << 20)}).to_string()).expect("change.json");
    let options = ["--resources", change.to_str().expect("UTF-8"), "--l3-cache-schema", "L3:0=3"];
    let held = || value(tree.bundle.cgroup().join("hugetlb.2MB.max")).expect("a limit");
    let schemata = || value(own.join("schemata")).expect("schemata");

    // The schemata can't be changed: there are none any more.
    fs::remove_file(own.join("schemata")).expect("rm");
    let said = tree.bundle.on("update", &options).fails("the container's resctrl group is gone");
    assert!(said.contains("the limits are as they were before"), "{said}");
    assert_eq!((held().as_str(), own.join("schemata").exists()), ("4194304", false));

    // They are changed, and then the configuration can't be saved: a directory lies where the new file is written.
    fs::write(own.join("schemata"), "L3:0=f\n").expect("schemata");
    let obstacle = tree.bundle.state_dir().join(".config.json.new");
    fs::create_dir(&obstacle).expect("mkdir");
    let said = tree.bundle.on("update", &options).fails("config.json");
    assert!(said.contains("the limits are as they were before"), "{said}");
    assert_eq!((held().as_str(), schemata().as_str()), ("4194304", "L3:0=f"));
    assert_eq!(saved(&tree.bundle), json!({"l3CacheSchema": "L3:0=f"}));

    fs::remove_dir(&obstacle).expect("rmdir");
    tree.bundle.on("update", &options).well();
    assert_eq!((held().as_str(), schemata().as_str()), ("8388608", "L3:0=3"));
    tree.end(&[&own]);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((verb, words)) = words.split_first().filter(|(verb, _)| ["create", "forget"].contains(&verb.as_str())) {
        if let Err(error) = program(verb, words) {
            eprintln!("{error}");
            std::process::exit(1);
        }
        return;
    }
    let case = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    macro_rules! cases {
        ($($name:ident),* $(,)?) => { vec![$(case(stringify!($name), $name)),*] };
    }
    let cases = cases![
        the_group_is_the_containers_own_from_create_to_delete,
        events_show_what_the_group_has_and_has_used,
        a_class_is_joined_and_stays_but_for_the_containers_monitoring_group,
        a_class_that_the_container_made_stays_as_long_as_another_is_in_it,
        a_create_that_fails_leaves_no_group,
        a_class_is_locked_until_the_process_is_in_it,
        a_container_without_a_readable_state_leaves_no_group,
        an_update_gives_the_containers_own_group_other_schemata,
        a_class_of_others_is_left_alone_by_an_update,
        an_update_that_fails_half_way_takes_back_limits_and_schemata,
        without_resctrl_it_is_an_error_before_anything_is_made,
    ];
    libtest_mimic::run(&Arguments::from_args(), cases).exit();
}
