//! What a plan says: as it was when somebody last looked (tests/snapshots), in the order that safety asks for, and for
//! configurations that nobody would write. Nothing here needs root; `UPDATE_SNAPSHOTS=1` writes the snapshots anew.

#[path = "common/rounds.rs"]
mod rounds;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_spec::runtime::{Process, Spec};
use orlop::bundle::Bundle;
use orlop::cgroup::Hierarchy;
use orlop::check::{self, Severity};
use orlop::host::Rootless;
use orlop::plan::{self, HostFacts, Options, show};
use orlop::validate::{self, Context};
use proptest::prelude::*;
use proptest::sample::Index;
use rounds::rounds;
use serde_json::{Value, json};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// A host of which the plans are made: root or an ordinary user, cgroup v2 where it usually is.
fn facts(rootless: bool) -> HostFacts {
    let id = if rootless { 1000 } else { 0 };
    HostFacts {
        euid: id,
        egid: id,
        rootless,
        systemd_user: rootless.then_some(1000),
        last_capability: 40,
        landlock: 7,
        cgroup: Some(Hierarchy { root: "/sys/fs/cgroup".into(), own: "/".into(), v1: Vec::new() }),
        kernel_mounts: vec!["/sys".into(), "/proc".into()],
        resctrl: None,
    }
}

fn plan_of(dir: &Path, config: Vec<u8>, rootless: bool, options: &Options) -> orlop::error::Result<plan::Plan> {
    let bundle = Bundle::parse(dir.to_owned(), config)?;
    validate::validate(&bundle.spec, &Context { rootless, ..Context::default() })?;
    plan::create(&bundle.spec, &bundle.dir, &facts(rootless), options)
}

fn options() -> Options {
    Options { id: "ID".into(), ..Options::default() }
}

fn bundles() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(PROJECT).join("bundles")).expect("bundles");
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.join("config.json").exists()).collect();
    found.sort();
    found
}

#[test]
fn every_bundle_has_the_plan_of_its_snapshot() {
    let bundles = bundles();
    assert!(bundles.len() >= 4, "{bundles:?}");
    for dir in bundles {
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let config = fs::read(dir.join("config.json")).expect("config.json");
        let plan =
            plan_of(&dir, config, name == "rootless", &options()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = show::as_text(&plan).replace(&format!("{PROJECT}/"), "");
        let snapshot = Path::new(PROJECT).join("tests/snapshots").join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&snapshot, &text).expect("write the snapshot");
        }
        let kept = fs::read_to_string(&snapshot).unwrap_or_default();
        let differs = text.lines().zip(kept.lines()).find(|(new, old)| new != old);
        assert!(text == kept, "{name}: UPDATE_SNAPSHOTS=1 if it is meant: {differs:?}");
    }
}

#[test]
fn an_ordinary_user_gets_a_plan_and_nothing_is_touched() {
    let root = std::env::temp_dir().join(format!("orlop-plan-{}", std::process::id()));
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_orlop")]);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_orlop"))
    };
    let said = command.arg("--root").arg(&root).args(["plan", "--format", "json", "--bundle"]);
    let said = said.arg(Path::new(PROJECT).join("bundles/rootless")).output().expect("orlop plan");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let plan: Value = serde_json::from_slice(&said.stdout).expect("a plan is JSON");
    let last = plan["operations"].as_array().expect("operations").last().expect("one at least");
    assert!(last["operation"].as_str().expect("a text").starts_with("execve "), "{last}");
    assert!(!root.exists(), "a plan makes no state");
}

/// A configuration in which each part has something to do.
fn rich() -> Value {
    let mut config = orlop::spec::default_spec(false);
    config["process"]["terminal"] = json!(false);
    config["process"]["user"] = json!({ "uid": 7, "gid": 8, "umask": 18, "additionalGids": [9, 10] });
    config["process"]["oomScoreAdj"] = json!(100);
    config["domainname"] = json!("domain");
    config["hooks"] = json!({
        "createRuntime": [{ "path": "/bin/true" }],
        "createContainer": [{ "path": "/bin/true", "args": ["true"], "timeout": 3 }],
        "startContainer": [{ "path": "/bin/true", "env": ["A=b"] }],
    });
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.push(
        json!({ "destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rro", "rslave"] }),
    );
    mounts.push(json!({ "destination": "/copy", "type": "tmpfs", "options": ["tmpcopyup", "size=1m,mode=755"] }));
    mounts.push(json!({ "destination": "/mapped", "type": "bind", "source": "/srv", "options": ["bind"],
        "uidMappings": [{ "containerID": 0, "hostID": 100000, "size": 10 }],
        "gidMappings": [{ "containerID": 0, "hostID": 100000, "size": 10 }] }));
    let linux = &mut config["linux"];
    linux["rootfsPropagation"] = json!("private");
    linux["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    linux["devices"] =
        json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0 }]);
    linux["netDevices"] = json!({ "eth0": {}, "eth1": { "name": "net%d" } });
    linux["intelRdt"] = json!({ "closID": "a", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=50", "schemata": ["L2:0=f"],
        "enableMonitoring": true });
    linux["resources"]["pids"] = json!({ "limit": 10 });
    linux["resources"]["memory"] = json!({ "limit": 100_000_000, "swap": 200_000_000 });
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["mount", "umount2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
            "args": [{ "index": 3, "value": 1, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 1 }] }],
    });
    config
}

/// The texts of a plan's operations with the place each came from, of the container's process alone.
fn operations(config: &Value, options: &Options) -> Vec<(String, String)> {
    let plan = plan_of(Path::new("/bundle"), config.to_string().into_bytes(), false, options);
    let plan = plan.unwrap_or_else(|error| panic!("{error}: {config}"));
    let json = show::as_json(&plan);
    let text = |operation: &Value, key: &str| operation[key].as_str().expect("a text").to_owned();
    let all = json["operations"].as_array().expect("operations").iter();
    all.filter(|operation| operation["by"] == "container")
        .map(|operation| (text(operation, "operation"), text(operation, "from")))
        .collect()
}

#[track_caller]
fn place(operations: &[(String, String)], begins: &str) -> usize {
    let mut found = operations.iter().enumerate().filter(|(_, (text, _))| text.starts_with(begins));
    let (place, _) = found.next().unwrap_or_else(|| panic!("no {begins:?}: {operations:#?}"));
    assert_eq!(found.next(), None, "{begins:?} is there twice");
    place
}

#[track_caller]
fn in_order(operations: &[(String, String)], begins: &[&str]) {
    let places: Vec<usize> = begins.iter().map(|begins| place(operations, begins)).collect();
    assert!(places.is_sorted(), "{begins:?} are at {places:?}: {operations:#?}");
}

#[test]
fn each_step_comes_after_what_it_needs() {
    let all = operations(&rich(), &options());
    in_order(
        &all,
        &[
            "unshare CLONE_NEWCGROUP",
            "clear the dumpable",
            "make every mount rprivate",
            "bind the root file system",
            "mount proc on",
            "mount tmpfs on /dev ",
            "mknod /dev/null",
            "mknod /dev/fuse",
            "wait until the runtime has run prestart",
            "run createContainer",
            "pivot_root",
            "mask /proc/kcore",
            "make /proc/sys read-only",
            "make / rprivate",
            "umask 0022",
            "prlimit RLIMIT_NOFILE at least",
            "chdir / as the process's user",
            "outlive the runtime",
            "close descriptors",
            "wait until the runtime has saved",
            "wait for start",
            "run startContainer",
            "prlimit RLIMIT_NOFILE 1024:1024",
            "load a seccomp filter",
            "execve",
        ],
    );
    in_order(&all, &["set no_new_privs", "bounding set", "become uid 7 gid 8 groups [9, 10]", "capset permitted"]);
    in_order(&all, &["set no_new_privs", "load a seccomp filter"]);
    assert_eq!(place(&all, "execve"), all.len() - 1, "nothing follows the execve");
}

#[test]
fn nothing_that_a_filter_could_forbid_lies_between_it_and_the_execve() {
    for no_new_privileges in [true, false] {
        let mut config = rich();
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let all = operations(&config, &options());
        assert_eq!(place(&all, "load a seccomp filter"), all.len() - 2, "{all:#?}");
        assert!(all.iter().any(|(text, _)| text == "set no_new_privs") == no_new_privileges);
    }
}

#[test]
fn mounts_come_as_listed() {
    let all = operations(&rich(), &options());
    let order: Vec<usize> = all.iter().filter_map(|(_, from)| from.strip_prefix("/mounts/")?.parse().ok()).collect();
    assert_eq!(order, (0..rich()["mounts"].as_array().expect("mounts").len()).collect::<Vec<_>>());
}

#[test]
fn the_options_of_the_command_line_change_the_plan() {
    let has = |options: Options, text: &str| operations(&rich(), &options).iter().any(|(op, _)| op.starts_with(text));
    assert!(!has(Options { run: true, ..options() }, "wait for start"));
    assert!(!has(Options { no_new_keyring: true, ..options() }, "join a new session keyring"));
    assert!(has(options(), "join a new session keyring _ses.ID"));
    assert!(has(Options { preserve_fds: 2, ..options() }, "close descriptors from 5"));
    let no_pivot = Options { no_pivot: true, ..options() };
    assert!(!has(no_pivot.clone(), "pivot_root") && has(no_pivot, "move the root file system"));
}

#[test]
fn every_operation_of_a_property_names_a_place_that_exists() {
    let config = rich();
    for (text, from) in operations(&config, &options()) {
        let optional = ["/linux/rootfsPropagation", "/process/user/umask", "/hooks"];
        assert!(
            from.is_empty() || config.pointer(&from).is_some() || optional.contains(&from.as_str()),
            "{text}: {from}"
        );
    }
}

/// `mountLabel` is the context of what is new and has a label of its own; a bind mount keeps its files' labels.
#[test]
fn new_file_systems_get_the_mount_label() {
    let mut config = rich();
    config["linux"]["mountLabel"] = json!("a:b:c:s0:c1,c2");
    config["process"]["selinuxLabel"] = json!("a:b:p:s0");
    config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .push(json!({ "destination": "/own", "type": "tmpfs", "options": ["context=x:y:z:s0"] }));
    let all = operations(&config, &options());
    let of = |start: &str| {
        let found = all.iter().find(|(text, _)| text.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start}: {all:?}")).0.clone()
    };
    for start in
        ["mount tmpfs on /dev ", "mount devpts on /dev/pts ", "mount tmpfs on /dev/shm ", "mount tmpfs on /copy "]
    {
        assert!(of(start).contains("context=a:b:c:s0:c1,c2"), "{}", of(start));
    }
    for start in ["mount proc on", "mount sysfs on", "mount cgroup2 on", "mount mqueue on", "bind /srv on"] {
        assert!(!of(start).contains("context="), "{}", of(start));
    }
    assert_eq!(of("mount tmpfs on /own").matches("context=").count(), 1);
    let place = |text: &str| all.iter().position(|(other, _)| other.starts_with(text)).expect(text);
    assert!(place("write \"a:b:p:s0\" to `/proc/self/attr/keycreate`") < place("join a new session keyring"));
    assert!(place("join a new session keyring") < place("write \"a:b:p:s0\" to `/proc/self/attr/exec`"));
    let plan = plan_of(Path::new("/bundle"), config.to_string().into_bytes(), false, &options()).expect("a plan");
    let labels = |of: fn(&plan::op::Op) -> Option<&Option<std::ffi::CString>>| {
        plan.child.iter().filter_map(|step| of(&step.op)).map(|label| label.as_deref()).collect::<Vec<_>>()
    };
    let masks = labels(|op| if let plan::op::Op::Mask { label, .. } = op { Some(label) } else { None });
    let mounts = labels(|op| if let plan::op::Op::Mount(mount) = op { Some(&mount.label) } else { None });
    let label = Some(c"a:b:c:s0:c1,c2");
    assert!(!masks.is_empty() && masks.iter().all(|mask| *mask == label), "{masks:?}");
    assert_eq!(mounts.iter().filter(|mount| **mount == label).count(), 1, "mqueue has it by its attribute");
}

/// How the same configuration may be planned.
#[derive(Debug, Clone, Copy)]
struct Way {
    rootless: bool,
    run: bool,
    no_pivot: bool,
    systemd: bool,
    resctrl: bool,
}

fn way() -> impl Strategy<Value = Way> {
    any::<[bool; 5]>().prop_map(|[rootless, run, no_pivot, systemd, resctrl]| Way {
        rootless,
        run,
        no_pivot,
        systemd,
        resctrl,
    })
}

impl Way {
    fn facts(self) -> HostFacts {
        HostFacts { resctrl: self.resctrl.then(|| "/sys/fs/resctrl".into()), ..facts(self.rootless) }
    }

    fn options(self) -> Options {
        Options { run: self.run, no_pivot: self.no_pivot, systemd_cgroup: self.systemd, ..options() }
    }

    /// The configuration with every property that there may be in this way, in the form that systemd's driver wants.
    fn everything(self) -> Value {
        let mut config: Value = serde_json::from_str(include_str!("corpus/everything.json")).expect("JSON");
        if self.rootless {
            config["linux"].as_object_mut().expect("an object").remove("netDevices");
            config["mounts"][6] =
                json!({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]});
        }
        if self.systemd {
            config["linux"]["cgroupsPath"] = json!("a-b.slice:orlop:everything");
            config["annotations"]["org.systemd.property.TimeoutStopUSec"] = json!("uint64 5");
        }
        config
    }
}

/// Every way that a configuration goes before the kernel is asked for anything; it comes back when it has a plan.
fn try_all(config: &Value, way: Way) -> orlop::error::Result<()> {
    let bundle = Bundle::parse("/bundle".into(), config.to_string().into_bytes())?;
    let context = Context { rootless: way.rootless, ..Context::default() };
    let all = validate::findings(&bundle.spec, &context);
    let first = validate::validate(&bundle.spec, &context);
    let message = |error: &orlop::error::Error| error.message.clone();
    assert_eq!(first.as_ref().err().map(message), all.first().map(message));
    // `check` asks for the plan of what is not valid, too.
    let plan = plan::create(&bundle.spec, &bundle.dir, &way.facts(), &way.options());
    first?;
    let plan = plan?;
    assert!(show::as_text(&plan).lines().any(|line| line.contains("execve ")));
    assert!(show::as_json(&plan)["operations"].is_array());
    ends_with_execve(&plan);
    let process = bundle.spec.process().clone().expect("it is valid");
    exec(&bundle.spec, &process, way)
}

fn ends_with_execve(plan: &plan::Plan) {
    let last = plan.child.last().map(|step| step.op.to_string()).unwrap_or_default();
    assert!(last.starts_with("execve"), "{last}");
}

fn exec(spec: &Spec, process: &Process, way: Way) -> orlop::error::Result<()> {
    validate::validate_process(process, spec, &Context { rootless: way.rootless, ..Context::default() })?;
    let plan = plan::exec(spec, Path::new("/bundle"), process, &way.facts(), &way.options())?;
    assert!(!show::as_text(&plan).is_empty());
    ends_with_execve(&plan);
    Ok(())
}

/// A process as `exec --process` reads it, from a file that is gone with its descriptor.
fn loaded(process: &Value) -> orlop::error::Result<Process> {
    let file = nix::sys::memfd::memfd_create("process", nix::sys::memfd::MFdFlags::empty()).expect("memfd_create");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::write(&path, process.to_string()).expect("write");
    orlop::bundle::load_process(Path::new(&path)).map(|(process, _)| process)
}

/// What a value may turn into.
fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!("a\u{0}b")),
        Just(json!("../../..")),
        Just(json!("/")),
        Just(json!([])),
        Just(json!({})),
        Just(json!(true)),
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(i64::MIN)),
        Just(json!(u64::MAX)),
        Just(json!(u32::MAX)),
        Just(json!(1.5e300)),
        Just(json!("x".repeat(5000))),
        Just(json!(["a", "a"])),
        "[a-z=,:./]{0,12}".prop_map(|text| json!(text)),
    ]
}

fn places(value: &Value, here: String, all: &mut Vec<String>) {
    all.push(here.clone());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, below)| {
            places(below, format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), all)
        }),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, below)| places(below, format!("{here}/{index}"), all))
        }
        _ => {}
    }
}

/// Another value at the place, the value of yet another place there, or nothing.
fn mutate(config: &mut Value, place: Index, kind: u8, other: Index, junk: Value) {
    let mut all = Vec::new();
    places(config, String::new(), &mut all);
    let target = all[place.index(all.len())].clone();
    match kind {
        0 => *config.pointer_mut(&target).expect("it exists") = junk,
        1 => {
            let copied = config.pointer(&all[other.index(all.len())]).expect("it exists").clone();
            *config.pointer_mut(&target).expect("it exists") = copied;
        }
        _ => {
            let Some((parent, key)) = target.rsplit_once('/') else { return };
            match config.pointer_mut(parent).expect("it exists") {
                Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
                Value::Array(list) => drop(list.remove(key.parse::<usize>().expect("an index"))),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(400), failure_persistence: None, ..ProptestConfig::default() })]

    /// A configuration with a few values changed is planned or refused with a message; nothing panics.
    #[test]
    fn a_mutated_configuration_is_planned_or_refused(
        changes in prop::collection::vec((any::<Index>(), 0u8..3, any::<Index>(), junk()), 1..4),
        way in way(),
    ) {
        let mut config = way.everything();
        for (place, kind, other, junk) in changes {
            mutate(&mut config, place, kind, other, junk);
        }
        if let Err(error) = try_all(&config, way) {
            prop_assert!(!error.message.is_empty());
        }
    }

    /// The same of a process for `exec`, in a container that is in order.
    #[test]
    fn a_mutated_process_is_planned_or_refused(
        changes in prop::collection::vec((any::<Index>(), 0u8..3, any::<Index>(), junk()), 0..4),
        way in way(),
    ) {
        let config = way.everything();
        let mut process = config["process"].clone();
        let untouched = changes.is_empty();
        for (place, kind, other, junk) in changes {
            mutate(&mut process, place, kind, other, junk);
        }
        let bundle = Bundle::parse("/bundle".into(), config.to_string().into_bytes()).expect("a configuration");
        match loaded(&process).and_then(|process| exec(&bundle.spec, &process, way)) {
            Ok(()) => {}
            Err(error) => prop_assert!(!untouched && !error.message.is_empty(), "{error}"),
        }
    }
}

#[test]
fn the_configuration_with_every_property_is_planned_in_every_way() {
    for bits in 0..32 {
        let [rootless, run, no_pivot, systemd, resctrl] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
        let way = Way { rootless, run, no_pivot, systemd, resctrl };
        try_all(&way.everything(), way).unwrap_or_else(|error| panic!("{way:?}: {error}"));
        let bundle = Bundle::parse("/bundle".into(), way.everything().to_string().into_bytes()).expect("it parses");
        let plan = plan::create(&bundle.spec, &bundle.dir, &way.facts(), &way.options()).expect("a plan");
        let scope = plan.resources.and_then(|resources| resources.scope);
        assert_eq!(scope.is_some(), systemd, "{way:?}");
        let limits = |scope: orlop::systemd::Scope| format!("{:?}", scope.properties).contains("MemoryMax");
        assert!(scope.is_none_or(limits), "the limits are properties");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(48), failure_persistence: None, ..ProptestConfig::default() })]

    /// `check` takes out what is refused and asks again, so that it ends with findings whatever the bundle holds.
    #[test]
    fn a_mutated_bundle_is_checked(
        changes in prop::collection::vec((any::<Index>(), 0u8..3, any::<Index>(), junk()), 1..6),
        way in way(),
    ) {
        let mut config = way.everything();
        for (place, kind, other, junk) in changes {
            mutate(&mut config, place, kind, other, junk);
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plan-check-{}", std::process::id()));
        fs::create_dir_all(dir.join("rootfs")).expect("mkdir");
        fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
        let rootless = if way.rootless { Rootless::True } else { Rootless::False };
        let report = check::check(&dir, rootless, way.systemd);
        fs::remove_dir_all(&dir).expect("remove");
        prop_assert!(report.findings.iter().all(|finding| !finding.what.message.is_empty()));
        let refused = try_all(&config, way).err();
        let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        prop_assert!(refused.is_none() || errors > 0, "check does not see: {refused:?}");
    }
}

/// Any JSON, three levels deep at most.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..3).prop_map(|members| json!(members)),
        ]
    })
}

/// Replaces the `number`th value of `value`, counted depth first.
fn replace(value: &mut Value, number: &mut usize, new: &Value) {
    if *number == 0 {
        *value = new.clone();
    }
    *number = number.wrapping_sub(1);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, number, new)),
        Value::Array(elements) => elements.iter_mut().for_each(|element| replace(element, number, new)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(256), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(config in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Bundle::parse("/".into(), config);
    }

    #[test]
    fn a_value_of_another_type_never_panics(
        mut number in 0usize..500, new in any_value(), way in way(), default in any::<bool>()
    ) {
        let mut config = if default { orlop::spec::default_spec(false) } else { way.everything() };
        number %= if default { 150 } else { 500 };
        replace(&mut config, &mut number, &new);
        let _ = try_all(&config, way);
    }

    #[test]
    fn damaged_text_never_panics(at in 0usize..3000, byte in any::<u8>(), cut in 0usize..3000) {
        let mut config = orlop::spec::default_spec(false).to_string().into_bytes();
        let length = config.len();
        config[at % length] = byte;
        config.truncate(length.max(cut));
        let _ = Bundle::parse("/".into(), config);
    }
}
