//! What the document lists is taken and acted on, and what it does not list is refused or left alone. Each name goes through
//! the parser, the rules and the planner, as that of a container does.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{Arch, Capability, Features};
use orlop::bundle::Bundle;
use orlop::cgroup::Hierarchy;
use orlop::error::{Error, Result};
use orlop::features::features;
use orlop::plan::mount_options::MountOptions;
use orlop::plan::op::Op;
use orlop::plan::{self, HostFacts, Options, Plan};
use orlop::seccomp::{self, Filter};
use orlop::validate::{Context, validate};
use serde_json::{Value, json};

type Names = BTreeSet<String>;

fn at(place: &str) -> Value {
    features().pointer(place).unwrap_or_else(|| panic!("no {place}")).clone()
}

fn list(place: &str) -> Vec<String> {
    serde_json::from_value(at(place)).expect("as it is listed")
}

fn enabled(place: &str) -> bool {
    serde_json::from_value(at(place)).expect("as it is listed")
}

/// The names of a list, which has each of them once and in order.
fn names(place: &str) -> Names {
    let list = list(place);
    assert!(list.is_sorted_by(|a, b| a < b), "{place}: {list:?}");
    list.into_iter().collect()
}

/// The default configuration with other values at these places.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut config = orlop::spec::default_spec(false);
    for (place, value) in changes {
        let (parent, key) = place.rsplit_once('/').expect("as it is listed");
        config.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"))[key] = value.clone();
    }
    config
}

fn parsed(config: &Value) -> Result<Bundle> {
    Bundle::parse("/".into(), config.to_string().into_bytes())
}

fn planned(config: &Value, systemd_user: Option<u32>, systemd_cgroup: bool) -> Result<Plan> {
    let bundle = parsed(config)?;
    validate(&bundle.spec, &Context::default())?;
    let facts = HostFacts {
        euid: 0,
        egid: 0,
        rootless: false,
        systemd_user,
        last_capability: 40,
        landlock: 7,
        cgroup: Some(Hierarchy { root: "/sys/fs/cgroup".into(), own: "/user@7.service/a".into(), v1: Vec::new() }),
        kernel_mounts: Vec::new(),
        resctrl: None,
    };
    let options = Options { id: "ID".into(), systemd_cgroup, ..Options::default() };
    plan::create(&bundle.spec, Path::new("/bundle"), &facts, &options)
}

fn plan(changes: &[(&str, Value)]) -> Result<Plan> {
    planned(&with(changes), None, false)
}

fn does(plan: &Plan, op: impl Fn(&Op) -> bool) -> bool {
    plan.child.iter().any(|step| op(&step.op))
}

/// The names that are taken at the last of these places, by what an unknown one is told.
#[track_caller]
fn taken(changes: &[(&str, Value)]) -> Names {
    let error: Error = plan(changes).expect_err("an unknown name");
    let hint = error.hint.clone().unwrap_or_else(|| panic!("no hint: {error}"));
    let known = hint.strip_prefix("known: ").unwrap_or_else(|| panic!("{hint}"));
    known.split(", ").map(ToOwned::to_owned).collect()
}

fn section(member: &str, value: Value) -> Value {
    let mut section = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ALLOW"}]});
    section[member] = value;
    section
}

fn rule(action: &str, operator: Option<&str>) -> Value {
    let mut rule = json!({"names": ["getcwd"], "action": action});
    if let Some(operator) = operator {
        rule["args"] = json!([{"index": 0, "value": 1, "op": operator}]);
    }
    section("syscalls", json!([rule]))
}

fn filter(section: Value) -> Filter {
    let section = serde_json::from_value(section).expect("as it is listed");
    seccomp::compile_for(&section, Arch::ScmpArchX86_64).expect("as it is listed").expect("XX")
}

fn words(section: Value) -> Vec<(u16, u8, u8, u32)> {
    filter(section).program.iter().map(|word| (word.code, word.jt, word.jf, word.k)).collect()
}

#[test]
fn it_is_a_features_document() {
    let document: Features = serde_json::from_value(features()).expect("as it is listed");
    assert_eq!(document.oci_version_min(), "1.0.0");
    let linux = document.linux().as_ref().expect("as it is listed");
    assert!(
        linux
            .mount_extensions()
            .as_ref()
            .expect("as it is listed")
            .idmap()
            .as_ref()
            .expect("XX")
            .enabled()
            .expect("XX")
    );
    assert!(
        linux
            .seccomp()
            .as_ref()
            .expect("as it is listed")
            .archs()
            .as_ref()
            .expect("XX")
            .contains(&Arch::ScmpArchX86_64)
    );
}

#[test]
fn namespaces() {
    assert_eq!(names("/linux/namespaces"), taken(&[("/linux/namespaces", json!([{"type": "x"}]))]));
    let ids = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    for (kind, flag) in [
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("ipc", libc::CLONE_NEWIPC),
        ("mount", libc::CLONE_NEWNS),
        ("network", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
        ("time", 0x80),
        ("user", libc::CLONE_NEWUSER),
        ("uts", libc::CLONE_NEWUTS),
    ] {
        let mut linux = json!({"namespaces": [{"type": kind}]});
        if kind != "uts" {
            linux["namespaces"].as_array_mut().expect("as it is listed").push(json!({"type": "uts"}));
        }
        if kind == "user" {
            (linux["uidMappings"], linux["gidMappings"]) = (ids.clone(), ids.clone());
        }
        let plan = plan(&[("/linux", linux), ("/mounts", json!([]))]).expect(kind);
        let steps = plan.stage.iter().chain(&plan.child);
        let unshared = steps.filter_map(|step| if let Op::Unshare { flags } = step.op { Some(flags) } else { None });
        let made = unshared.fold(plan.clone_flags, |all, flags| all | flags as u64);
        assert!(made & flag as u64 != 0, "{kind}: {made:#x}");
        assert!(names("/linux/namespaces").contains(kind));
    }
    assert_eq!(names("/linux/namespaces").len(), 8);
}

#[test]
fn hooks() {
    let of = |kind: &str, path: &str| plan(&[("/hooks", json!({kind: [{"path": path}]}))]);
    for kind in list("/hooks") {
        assert!(of(&kind, "relative").is_err(), "{kind} is not looked at");
        let spec = parsed(&with(&[("/hooks", json!({&kind: [{"path": "/bin/x"}]}))])).expect("as it is listed").spec;
        let hooks = spec.hooks().as_ref().expect("as it is listed");
        let after = [hooks.poststart(), hooks.poststop()].map(|list| list.as_ref().map_or(0, Vec::len));
        let plan = of(&kind, "/bin/x").expect(&kind);
        let before = plan.runtime_hooks.len() + usize::from(plan.hooks_inside);
        assert_eq!(before + after.iter().sum::<usize>(), 1, "{kind} is run once");
    }
    assert!(of("postcreate", "relative").is_ok(), "who knows what that is");
    let all = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(list("/hooks"), all);
}

/// runtime-spec 1.3, `config.md`, "Linux mount options", in its groups.
const MOUNT_OPTIONS: &str = "
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow rbind relatime remount ro rw silent
    strictatime suid symfollow sync
    private rprivate shared rshared slave rslave unbindable runbindable
    rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime ratime
    rstrictatime rnostrictatime rnosymfollow rsymfollow
    idmap ridmap tmpcopyup";

#[test]
fn mount_options() {
    let of = |option: &str| MountOptions::parse(&[option.to_owned()]).expect("as it is listed");
    let specified: Names = MOUNT_OPTIONS.split_whitespace().map(ToOwned::to_owned).collect();
    assert_eq!(names("/mountOptions"), specified);
    for name in specified {
        assert_eq!(of(&name).data, [], "{name} is the file system's");
        let idle = ["defaults", "loud", "noiversion", "norelatime", "rnorelatime"].contains(&name.as_str());
        assert_eq!(of(&name) == MountOptions::default(), idle, "{name}");
    }
    for name in ["acl", "noacl", "nosuch", "r"] {
        assert_eq!(of(name).data, [(name.to_owned(), None)], "{name} is not the file system's");
    }
}

#[test]
fn capabilities_by_number() {
    let names = list("/linux/capabilities");
    assert_eq!((names[0].as_str(), names[21].as_str()), ("CAP_CHOWN", "CAP_SYS_ADMIN"));
    let last = "CAP_CHECKPOINT_RESTORE, the last one of Linux 6.18, is number 40";
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 41, "{last}");
    for (number, name) in names.iter().enumerate() {
        serde_json::from_value::<Capability>(name.clone().into()).expect(name);
        let config = with(&[("/process/capabilities", json!({"bounding": [name]}))]);
        assert_eq!(parsed(&config).expect("as it is listed").warnings, [""; 0], "{name}");
        let plan = planned(&config, None, false).expect("as it is listed");
        assert!(does(&plan, |op| matches!(op, Op::BoundingSet { keep, .. } if *keep == 1 << number)), "{name}");
    }
    let unknown =
        parsed(&with(&[("/process/capabilities", json!({"bounding": ["CAP_NEW"]}))])).expect("as it is listed");
    assert_eq!(unknown.warnings.len(), 1, "{:?}", unknown.warnings);
}

#[test]
fn cgroups() {
    let limits = |resources: Value| plan(&[("/linux/resources", resources)]);
    let writes = |resources: Value, file: &str| {
        let writes = limits(resources).expect("as it is listed").resources.expect("XX").writes;
        writes.iter().any(|write| write.file == file)
    };
    assert_eq!(enabled("/linux/cgroup/v1"), limits(json!({"network": {"classID": 1}})).is_ok());
    assert_eq!(enabled("/linux/cgroup/v2"), writes(json!({"pids": {"limit": 5}}), "pids.max"));
    assert_eq!(enabled("/linux/cgroup/rdma"), writes(json!({"rdma": {"mlx5_0": {"hcaHandles": 3}}}), "rdma.max"));
    for (feature, user) in [("systemd", None), ("systemdUser", Some(7))] {
        let plan = planned(&with(&[]), user, true).expect("as it is listed");
        let unit = plan.resources.and_then(|resources| resources.scope).map(|scope| scope.unit);
        let its = unit.is_some_and(|unit| unit.user == user.is_some());
        assert_eq!(enabled(&format!("/linux/cgroup/{feature}")), its, "{feature}");
    }
}

#[test]
fn seccomp_actions() {
    assert!(enabled("/linux/seccomp/enabled"));
    assert_eq!(names("/linux/seccomp/actions"), taken(&[("/linux/seccomp", rule("x", None))]));
    for (name, returned) in [
        ("SCMP_ACT_ALLOW", libc::SECCOMP_RET_ALLOW),
        ("SCMP_ACT_ERRNO", libc::SECCOMP_RET_ERRNO | 1),
        ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", libc::SECCOMP_RET_USER_NOTIF),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
    ] {
        assert!(names("/linux/seccomp/actions").contains(name));
        let plan = plan(&[("/linux/seccomp", rule(name, None))]).expect(name);
        assert!(does(&plan, |op| matches!(op, Op::Seccomp(_))), "{name}");
        assert!(words(rule(name, None)).iter().any(|word| word.0 == 6 && word.3 == returned), "{name}");
    }
}

#[test]
fn seccomp_operators() {
    let listed = names("/linux/seccomp/operators");
    assert_eq!(listed, taken(&[("/linux/seccomp", rule("SCMP_ACT_LOG", Some("x")))]));
    assert_eq!(listed.len(), 7);
    let mut programs = BTreeSet::new();
    for name in listed {
        plan(&[("/linux/seccomp", rule("SCMP_ACT_LOG", Some(&name)))]).expect(&name);
        programs.insert(words(rule("SCMP_ACT_LOG", Some(&name))));
    }
    assert_eq!(programs.len(), 7, "each compares in another way");
}

/// runtime-spec 1.3, `config-linux.md`, the constants of `architectures`.
const ARCHITECTURES: &str =
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE
    S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB";

#[test]
fn seccomp_architectures() {
    let listed = names("/linux/seccomp/archs");
    assert_eq!(listed, taken(&[("/linux/seccomp", section("architectures", json!(["x"])))]));
    let specified = ARCHITECTURES.split_whitespace().chain(["NATIVE"]);
    assert_eq!(listed, specified.map(|name| format!("SCMP_ARCH_{name}")).collect());
    let alone = words(section("architectures", json!([])));
    for name in listed {
        let section = section("architectures", json!([name]));
        plan(&[("/linux/seccomp", section.clone())]).expect(&name);
        let others = ["SCMP_ARCH_X32", "SCMP_ARCH_X86"].contains(&name.as_str());
        assert_eq!(words(section) != alone, others, "{name} on x86_64");
    }
}

#[test]
fn seccomp_flags() {
    let known = taken(&[("/linux/seccomp", section("flags", json!(["x"])))]);
    let listed = |place: &str| list(place).into_iter().collect::<Names>();
    assert_eq!(listed("/linux/seccomp/knownFlags"), known);
    assert_eq!(listed("/linux/seccomp/supportedFlags"), known);
    // linux/seccomp.h
    for (name, bit) in [("TSYNC", 1), ("LOG", 2), ("SPEC_ALLOW", 4), ("WAIT_KILLABLE_RECV", 32)] {
        let name = format!("SECCOMP_FILTER_FLAG_{name}");
        assert!(known.contains(&name), "{name}");
        let mut section = rule("SCMP_ACT_NOTIFY", None);
        section["flags"] = json!([name]);
        let given = |plan: &Plan| does(plan, |op| matches!(op, Op::Seccomp(filter) if filter.flags & 0x27 == bit));
        assert!(given(&plan(&[("/linux/seccomp", section)]).expect("as it is listed")), "{name}");
    }
    assert_eq!(known.len(), 4);
}

#[test]
fn labels() {
    for (feature, property, file) in
        [("apparmor", "apparmorProfile", c"self/attr/apparmor/exec"), ("selinux", "selinuxLabel", c"self/attr/exec")]
    {
        let plan = plan(&[(&format!("/process/{property}"), json!("a:b:c:s0"))]).expect("as it is listed");
        let given = does(&plan, |op| matches!(op, Op::ExecLabel { file: one, .. } if one.as_c_str() == file));
        assert_eq!(enabled(&format!("/linux/{feature}/enabled")), given, "{feature}");
    }
}

#[test]
fn intel_rdt() {
    let rdt = json!({"closID": "a", "schemata": ["L2:0=1"], "enableMonitoring": true});
    let group = plan(&[("/linux/intelRdt", rdt)]).expect("as it is listed").intel_rdt;
    assert_eq!(enabled("/linux/intelRdt/enabled"), group.as_ref().is_some_and(|group| group.class == "a"));
    let lines: String = group.iter().flat_map(|group| group.schemata.clone()).collect();
    assert_eq!(enabled("/linux/intelRdt/schemata"), lines == "L2:0=1\n");
    assert_eq!(enabled("/linux/intelRdt/monitoring"), group.is_some_and(|group| group.monitor.is_some()));
}

#[test]
fn id_mapped_mounts() {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    let mount =
        json!([{"destination": "/a", "source": "/b", "options": ["bind"], "uidMappings": ids, "gidMappings": ids}]);
    let mapped = plan(&[("/mounts", mount)]).expect("as it is listed").trees;
    let mapped = mapped.iter().any(|tree| tree.uids.len() == 1 && tree.gids.len() == 1);
    assert_eq!(enabled("/linux/mountExtensions/idmap/enabled"), mapped);
}

#[test]
fn net_devices() {
    let devices = plan(&[("/linux/netDevices", json!({"eth0": {}}))]).expect("as it is listed").net_devices;
    assert_eq!(enabled("/linux/netDevices/enabled"), devices.len() == 1);
}

#[test]
fn memory_policies() {
    let of = |mode: &str, flags: Value| {
        let nodes = if ["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode) { "" } else { "0" };
        [("/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes, "flags": flags}))]
    };
    let sorted = |place: &str| list(place).into_iter().collect::<Names>();
    assert_eq!(sorted("/linux/memoryPolicy/modes"), taken(&of("x", json!([]))));
    assert_eq!(sorted("/linux/memoryPolicy/flags"), taken(&of("MPOL_BIND", json!(["x"]))));
    // linux/mempolicy.h
    let modes = "DEFAULT PREFERRED BIND INTERLEAVE LOCAL PREFERRED_MANY WEIGHTED_INTERLEAVE";
    for (number, mode) in modes.split(' ').enumerate() {
        let plan = plan(&of(&format!("MPOL_{mode}"), json!([]))).expect(mode);
        assert!(does(&plan, |op| matches!(op, Op::MemoryPolicy { mode, .. } if *mode as usize == number)), "{mode}");
    }
    for (flag, bit) in [("NUMA_BALANCING", 1 << 13), ("RELATIVE_NODES", 1 << 14), ("STATIC_NODES", 1 << 15)] {
        let plan = plan(&of("MPOL_BIND", json!([format!("MPOL_F_{flag}")]))).expect(flag);
        assert!(does(&plan, |op| matches!(op, Op::MemoryPolicy { flags, .. } if *flags == bit)), "{flag}");
    }
    assert_eq!((list("/linux/memoryPolicy/modes").len(), list("/linux/memoryPolicy/flags").len()), (7, 3));
}

/// All that change what the runtime does, by what they change.
#[test]
fn annotations() {
    let listed = list("/potentiallyUnsafeConfigAnnotations");
    assert_eq!(listed, ["org.criu.config", "org.orlop.landlock.", "org.systemd.property."]);
    let annotated = |name: &str, value: &str| {
        let config = with(&[("/annotations", json!({name: value}))]);
        planned(&config, None, true).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let restricted = annotated("org.orlop.landlock.read", "/usr");
    assert!(does(&restricted, |op| matches!(op, Op::LandlockRestrict)));
    let properties = annotated("org.systemd.property.CollectMode", "'inactive'")
        .resources
        .expect("as it is listed")
        .scope
        .expect("XX")
        .properties;
    assert!(format!("{properties:?}").contains("CollectMode"));
    assert_eq!(orlop::exec::dump::CONFIG, listed[0]);
    let (other, none) =
        (annotated("org.example.key", "value"), planned(&with(&[]), None, true).expect("as it is listed"));
    assert_eq!(plan::show::as_text(&other), plan::show::as_text(&none), "any other changes nothing");
}
