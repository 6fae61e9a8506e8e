//! The printed form of a plan: for `orlop plan`, for error texts, and for the snapshots that tests hold.

use std::ffi::CStr;
use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use super::op::{Mount, Op, Request, SeccompWhen, Source, Step};
use super::{IdMap, Plan, Resources, ranges};
use crate::sys::landlock::{Ruleset, fs, net, scope};
use crate::sys::process::StringArray;

fn text(string: &CStr) -> std::borrow::Cow<'_, str> {
    string.to_string_lossy()
}

/// `CLONE_NEWNS|CLONE_NEWPID`.
pub fn clone_flags(flags: u64) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
        (0x80, "CLONE_NEWTIME"),
    ];
    let set: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & *bit as u64 != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "0".to_owned() } else { set.join("|") }
}

/// `MOUNT_ATTR_*` by the names of the mount options.
fn attributes(set: u64) -> Vec<&'static str> {
    const NAMES: &[(u64, &str)] = &[
        (libc::MOUNT_ATTR_RDONLY, "ro"),
        (libc::MOUNT_ATTR_NOSUID, "nosuid"),
        (libc::MOUNT_ATTR_NODEV, "nodev"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec"),
        (libc::MOUNT_ATTR_NODIRATIME, "nodiratime"),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
        (libc::MOUNT_ATTR_NOATIME, "noatime"),
        (libc::MOUNT_ATTR_STRICTATIME, "strictatime"),
    ];
    NAMES.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| *name).collect()
}

fn propagation(flags: u64) -> String {
    let kind = match flags & !libc::MS_REC {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_PRIVATE => "private",
        libc::MS_UNBINDABLE => "unbindable",
        _ => "unchanged",
    };
    if flags & libc::MS_REC != 0 { format!("r{kind}") } else { kind.to_owned() }
}

impl Display for Mount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::New { kind, .. } => write!(f, "mount {} on {}", text(kind), text(&self.target))?,
            Source::Bind(source) => write!(f, "bind {} on {}", text(source), text(&self.target))?,
            Source::Tree(index) => write!(f, "attach id-mapped mount {index} on {}", text(&self.target))?,
        }
        let options = &self.options;
        let mut words: Vec<String> = Vec::new();
        if options.recursive {
            words.push("recursive".into());
        }
        words.extend(attributes(options.set).iter().map(|word| (*word).to_owned()));
        words.extend(attributes(options.set_recursive).iter().map(|word| format!("r{word}")));
        words.extend(attributes(options.clear & !libc::MOUNT_ATTR__ATIME).iter().map(|word| format!("-{word}")));
        words.extend(
            attributes(options.clear_recursive & !libc::MOUNT_ATTR__ATIME).iter().map(|word| format!("-r{word}")),
        );
        words.extend(options.propagation.iter().map(|flags| propagation(*flags)));
        words.extend(self.flags.iter().map(|flag| text(flag).into_owned()));
        words.extend(self.data.iter().map(|(key, value)| match value {
            Some(value) => format!("{}={}", text(key), text(value)),
            None => text(key).into_owned(),
        }));
        if options.copy_up {
            words.push("tmpcopyup".into());
        }
        if !words.is_empty() {
            write!(f, " {{{}}}", words.join(","))?;
        }
        match self.source {
            // The one that is refused where the other is not there.
            Source::Bind(_) => self.fallback.iter().try_for_each(|other| write!(f, ", or else {}", text(other))),
            _ => Ok(()),
        }
    }
}

fn capability_names(set: u64) -> String {
    let mut given: Vec<caps::Capability> = caps::all().into_iter().collect();
    given.retain(|capability| set & capability.bitmask() != 0);
    // caps gives a set without an order; the kernel's is the same every time.
    given.sort_by_key(caps::Capability::index);
    let names: Vec<String> = given.iter().map(caps::Capability::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

fn command(args: &StringArray) -> String {
    args.strings().iter().map(|arg| format!("{:?}", text(arg))).collect::<Vec<_>>().join(" ")
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Op::ResetSignals => f.write_str("reset signal dispositions and mask"),
            Op::ForgetCaller => f.write_str("wipe the caller's command line and environment"),
            Op::DieWithParent => f.write_str("die with the runtime until ready"),
            Op::OutliveParent => f.write_str("outlive the runtime"),
            Op::JoinNamespace { flag, path, .. } => {
                write!(f, "setns {} ({})", text(path), clone_flags(*flag as u64))
            }
            Op::JoinInit { flags } => write!(f, "setns to the container's init ({})", clone_flags(*flags as u64)),
            Op::Unshare { flags } => write!(f, "unshare {}", clone_flags(*flags as u64)),
            Op::TimeOffsets { text: offsets } => write!(f, "set time offsets {:?}", text(offsets).trim_end()),
            Op::Await(Request::IdMaps) => f.write_str("wait until the runtime has written the id maps"),
            Op::Await(Request::RuntimeHooks) => {
                f.write_str("wait until the runtime has run prestart and createRuntime")
            }
            Op::Await(Request::Ready) => f.write_str("wait until the runtime has saved the state"),
            Op::Await(Request::Scope) => f.write_str("wait until systemd has this process in the scope"),
            Op::Await(Request::NetDevices) => f.write_str("wait until the runtime has moved the network devices"),
            Op::BecomeRoot => f.write_str("become uid 0 and gid 0 of the user namespace"),
            Op::ClearDumpable => f.write_str("clear the dumpable flag"),
            Op::SetDumpable => f.write_str("set the dumpable flag: the owner of the user namespace may look"),
            Op::SessionKeyring { name } => write!(f, "join a new session keyring {}", text(name)),
            Op::LoopbackUp => f.write_str("bring lo up"),
            Op::OomScoreAdj { value } => write!(f, "write oom_score_adj {value}"),
            Op::Sysctl { path, value } => write!(f, "write /proc/sys/{} = {:?}", text(path), text(value)),
            Op::Hostname { name } => write!(f, "sethostname {}", text(name)),
            Op::Domainname { name } => write!(f, "setdomainname {}", text(name)),
            Op::Propagation { flags } => write!(f, "make every mount {}", propagation(flags | libc::MS_REC)),
            Op::OpenRoot { path, .. } => write!(f, "bind the root file system {} on itself", text(path)),
            Op::OpenPlainRoot { path } => write!(f, "open the root file system {}", text(path)),
            Op::CurrentRoot => f.write_str("open / of the container"),
            Op::Mount(mount) => mount.fmt(f),
            Op::Device(device) => {
                let kind = match device.mode & libc::S_IFMT {
                    libc::S_IFBLK => 'b',
                    libc::S_IFIFO => 'p',
                    _ => 'c',
                };
                let how = if device.bind { "bind device" } else { "mknod" };
                let mode = device.mode & 0o7777;
                write!(f, "{how} {} {kind} {}:{} mode {mode:04o}", text(&device.path), device.major, device.minor)
            }
            Op::DevLink { name, target } => write!(f, "symlink /dev/{} -> {}", text(name), text(target)),
            Op::Terminal { console, .. } => {
                f.write_str("open a pseudo-terminal and send its master")?;
                if *console { f.write_str(", bind its peer on /dev/console") } else { Ok(()) }
            }
            Op::Hook(hook) => write!(f, "run {} hook #{} {}", hook.kind, hook.index, text(&hook.path)),
            Op::PivotRoot => f.write_str("pivot_root"),
            Op::MoveRoot { cover } => {
                write!(f, "move the root file system to / and chroot")?;
                if cover.is_empty() { Ok(()) } else { write!(f, ", {} kernel mounts taken away", cover.len()) }
            }
            Op::Chroot => f.write_str("chroot"),
            Op::RootPropagation { flags } => write!(f, "make / {}", propagation(flags | libc::MS_REC)),
            Op::Attributes { target, propagation: flags, recursive, .. } if *flags != 0 => {
                let flags = if *recursive { flags | libc::MS_REC } else { *flags };
                write!(f, "make {} {}", text(target), propagation(flags))
            }
            Op::Attributes { target, set, clear, recursive, .. } => {
                let below = if *recursive { " and all below" } else { "" };
                write!(f, "set {{{}}} on {}{below}", attributes(*set).join(","), text(target))?;
                match attributes(*clear & !libc::MOUNT_ATTR__ATIME).as_slice() {
                    [] => Ok(()),
                    cleared => write!(f, ", clear {{{}}}", cleared.join(",")),
                }
            }
            Op::Mask { path, .. } => write!(f, "mask {}", text(path)),
            Op::Readonly { path } => write!(f, "make {} read-only", text(path)),
            Op::ReadonlyRoot => f.write_str("make / read-only"),
            Op::CreateCwd { path } => write!(f, "make the working directory {} if it is missing", text(path)),
            Op::Umask { mask: Some(mask) } => write!(f, "umask {mask:04o}"),
            Op::Umask { mask: None } => f.write_str("umask as the caller's"),
            Op::NewSession => f.write_str("setsid"),
            Op::HardLimit { name, hard, .. } => write!(f, "prlimit {name} at least :{}", limit(*hard)),
            Op::Rlimit { name, soft, hard, .. } => write!(f, "prlimit {name} {}:{}", limit(*soft), limit(*hard)),
            Op::Scheduler(attr) => attr.fmt(f),
            Op::IoPriority { class, level } => write!(f, "ioprio_set class {} level {level}", io_class(*class)),
            Op::MemoryPolicy { mode, flags, nodes } => {
                write!(f, "set_mempolicy {}", super::sched::memory_policy_words(*mode, *flags))?;
                if nodes.is_empty() { Ok(()) } else { write!(f, " nodes {}", ranges::text(nodes)) }
            }
            Op::Personality { persona } => write!(f, "personality {}", if *persona == 0 { "LINUX" } else { "LINUX32" }),
            Op::Affinity { cpus } => write!(f, "sched_setaffinity {}", ranges::text(cpus)),
            Op::NoNewPrivileges => f.write_str("set no_new_privs"),
            Op::BoundingSet { keep, .. } => write!(f, "bounding set {}", capability_names(*keep)),
            Op::User { uid, gid, groups, .. } => match groups {
                Some(groups) => write!(f, "become uid {uid} gid {gid} groups {groups:?}"),
                None => write!(f, "become uid {uid} gid {gid}, no groups where setgroups is allowed"),
            },
            Op::Capabilities { sets, ambient, .. } => write!(
                f,
                "capset permitted {} effective {} inheritable {} ambient {}",
                capability_names(sets.permitted),
                capability_names(sets.effective),
                capability_names(sets.inheritable),
                capability_names(*ambient)
            ),
            Op::Cwd { path, last: false } => write!(f, "chdir {}", text(path)),
            Op::Cwd { path, last: true } => write!(f, "chdir {} as the process's user, if not yet there", text(path)),
            Op::Home { uid } => write!(f, "set HOME from /etc/passwd for uid {uid}"),
            Op::FindProgram { name, .. } => write!(f, "find the program {}", text(name)),
            // podman knows a failure of a security module by the path in backticks.
            Op::ExecLabel { file, value } => write!(f, "write {:?} to `/proc/{}`", text(value), text(file)),
            Op::LandlockRuleset(Ruleset { fs, net, scoped }) => {
                f.write_str("begin a Landlock ruleset that denies")?;
                let none =
                    [(*fs != 0, "files"), (net & net::BIND_TCP != 0, "bind"), (net & net::CONNECT_TCP != 0, "connect")];
                let scopes = [
                    (scoped & scope::SIGNAL != 0, "signals"),
                    (scoped & scope::ABSTRACT_UNIX_SOCKET != 0, "abstract sockets"),
                ];
                let words: Vec<&str> =
                    none.iter().chain(&scopes).filter(|(denied, _)| *denied).map(|(_, word)| *word).collect();
                write!(f, " {}", words.join(","))
            }
            Op::LandlockPath { path, access } => write!(f, "allow {} on {}", landlock_access(*access), text(path)),
            Op::LandlockPort { port, access } => {
                write!(f, "allow {} port {port}", if *access == net::BIND_TCP { "bind to" } else { "connect to" })
            }
            Op::LandlockRestrict => f.write_str("restrict this process by the Landlock ruleset"),
            Op::AwaitStart => f.write_str("wait for start"),
            Op::CloseDescriptors { from } => write!(f, "close descriptors from {from} on"),
            Op::Seccomp(filter) => {
                let when = match filter.when {
                    SeccompWhen::WithNoNewPrivileges => "under no_new_privs",
                    SeccompWhen::WithSysAdmin => "with CAP_SYS_ADMIN",
                };
                write!(f, "load a seccomp filter of {} instructions {when}", filter.program.len())
            }
            Op::Exec { args, .. } => write!(f, "execve {}", command(args)),
        }
    }
}

fn landlock_access(access: u64) -> &'static str {
    match access & (fs::WRITE_FILE | fs::EXECUTE) {
        0 => "reading",
        fs::EXECUTE => "execution",
        _ => "writing",
    }
}

fn io_class(class: i32) -> &'static str {
    match class {
        1 => "IOPRIO_CLASS_RT",
        2 => "IOPRIO_CLASS_BE",
        _ => "IOPRIO_CLASS_IDLE",
    }
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

fn maps(maps: &[IdMap]) -> String {
    maps.iter().map(|map| format!("{}:{}:{}", map.container, map.host, map.size)).collect::<Vec<_>>().join(",")
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Runtime,
    Stage,
    Container,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            By::Runtime => "runtime",
            By::Stage => "stage",
            By::Container => "container",
        }
    }
}

/// Every operation in the order in which it happens: who, what, and where it comes from.
fn lines(plan: &Plan) -> Vec<(By, String, String)> {
    let mut lines: Vec<(By, String, String)> = Vec::new();
    let born = plan.resources.as_ref().filter(|resources| resources.scope.is_none());
    if let Some(resources) = born {
        lines.push((By::Runtime, format!("mkdir cgroup {}", resources.path), "/linux/cgroupsPath".to_owned()));
        cgroup_lines(resources, &mut lines);
    }
    let mut runtime = |what: String, from: &str| lines.push((By::Runtime, what, from.to_owned()));
    if let Some(rdt) = &plan.intel_rdt {
        runtime(format!("make or join resctrl group /{}", rdt.class), "/linux/intelRdt");
        for text in &rdt.schemata {
            runtime(format!("write or compare schemata {:?}", text.trim_end()), "/linux/intelRdt");
        }
        if let Some(monitor) = &rdt.monitor {
            runtime(format!("make resctrl monitoring group {monitor}"), "/linux/intelRdt/enableMonitoring");
        }
    }
    for joined in &plan.joined {
        runtime(format!("open namespace {}", joined.path.display()), &joined.from);
    }
    for (index, tree) in plan.trees.iter().enumerate() {
        let what = format!(
            "make id-mapped mount {index} of {} (uids {}, gids {})",
            tree.path.display(),
            maps(&tree.uids),
            maps(&tree.gids)
        );
        runtime(what, &tree.from);
    }
    if !plan.initial_cpus.is_empty() {
        let what =
            format!("sched_setaffinity {}, until the process is in the cgroup", ranges::text(&plan.initial_cpus));
        runtime(what, "/process/execCPUAffinity/initial");
    }
    let into = if born.is_some() { "|CLONE_INTO_CGROUP" } else { "" };
    if plan.stage.is_empty() {
        runtime(format!("clone3 {}{into}", clone_flags(plan.clone_flags)), "/linux/namespaces");
    } else {
        runtime(format!("clone3 a stage process{into}"), "/linux/namespaces");
        lines.extend(plan.stage.iter().map(|step| line(By::Stage, step)));
        let what = format!("clone3 {}|CLONE_PARENT", clone_flags(plan.clone_flags));
        lines.push((By::Stage, what, "/linux/namespaces".to_owned()));
    }
    for step in &plan.child {
        lines.push(line(By::Container, step));
        match &step.op {
            Op::Await(Request::Scope) => plan.resources.iter().for_each(|resources| scope_lines(resources, &mut lines)),
            Op::Await(Request::IdMaps) => id_map_lines(plan, &mut lines),
            Op::Await(Request::NetDevices) => lines.extend(plan.net_devices.iter().map(|device| {
                let what = format!("move network device {} to the container as {}", device.host, device.name);
                (By::Runtime, what, device.from.clone())
            })),
            Op::Await(Request::RuntimeHooks) => lines.extend(plan.runtime_hooks.iter().map(|hook| {
                let what = format!("run {} hook #{} {}", hook.kind, hook.index, text(&hook.path));
                (By::Runtime, what, format!("/hooks/{}/{}", hook.kind, hook.index))
            })),
            _ => {}
        }
    }
    lines
}

/// What is done to the cgroup once it is there.
fn cgroup_lines(resources: &Resources, lines: &mut Vec<(By, String, String)>) {
    let mut runtime = |what: String, from: &str| lines.push((By::Runtime, what, from.to_owned()));
    for write in &resources.writes {
        runtime(format!("write {} = {:?}", write.file, write.value), &write.from);
    }
    if let Some(program) = &resources.devices {
        let what = format!("attach a device filter of {} instructions", program.len());
        runtime(what, "/linux/resources/devices");
    }
    if let Some(uid) = resources.owner {
        runtime(format!("delegate the cgroup to uid {uid}"), "/linux/cgroupsPath");
    }
}

fn scope_lines(resources: &Resources, lines: &mut Vec<(By, String, String)>) {
    let Some(scope) = &resources.scope else { return };
    for property in &scope.properties {
        lines.push((By::Runtime, format!("property {} = {}", property.name, property.value), property.from.clone()));
    }
    let bus = if scope.unit.user { "the user's" } else { "the system's" };
    let what = format!("StartTransientUnit {} with it by {bus} systemd: cgroup {}", scope.unit.name, resources.path);
    lines.push((By::Runtime, what, "/linux/cgroupsPath".to_owned()));
    cgroup_lines(resources, lines);
}

fn line(by: By, step: &Step) -> (By, String, String) {
    (by, step.op.to_string(), step.from.clone())
}

fn id_map_lines(plan: &Plan, lines: &mut Vec<(By, String, String)>) {
    if let Some(userns) = &plan.userns {
        lines.push((By::Runtime, format!("write gid_map {}", maps(&userns.gids)), "/linux/gidMappings".to_owned()));
        lines.push((By::Runtime, format!("write uid_map {}", maps(&userns.uids)), "/linux/uidMappings".to_owned()));
    }
    lines.extend(plan.rlimits.iter().map(|step| line(By::Runtime, step)));
    if let Some(value) = plan.oom_score_adj {
        lines.push((By::Runtime, format!("write oom_score_adj {value}"), "/process/oomScoreAdj".to_owned()));
    }
}

/// `orlop plan`, for people.
pub fn as_text(plan: &Plan) -> String {
    let mut out = String::new();
    for (number, (by, what, from)) in lines(plan).into_iter().enumerate() {
        let from = if from.is_empty() { String::new() } else { format!("   from {from}") };
        out.push_str(&format!("{number:4}  {:9}  {what}{from}\n", by.as_str()));
    }
    for warning in plan.warnings.iter().chain(&plan.notes) {
        out.push_str(&format!("warning: {warning}\n"));
    }
    out
}

/// `orlop plan --format json`.
pub fn as_json(plan: &Plan) -> Value {
    let operations: Vec<Value> = lines(plan)
        .into_iter()
        .map(|(by, what, from)| json!({ "by": by.as_str(), "operation": what, "from": from }))
        .collect();
    let warnings = [&plan.warnings[..], &plan.notes].concat();
    json!({ "operations": operations, "warnings": warnings })
}
