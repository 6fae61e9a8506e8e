//! The plan: every kernel operation that a configuration asks for, in order, as data.
//!
//! [`create`] and [`exec`] are pure: they see the configuration, what the command line said, and [`HostFacts`]; never
//! the root file system. Nothing is decided after them but what an operation says only the kernel can decide.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::cgroup;
use crate::error::{Error, Result};
use op::{Op, Pointer, Request, Step};

mod capabilities;
mod checkpoint;
mod devices;
mod hooks;
mod intel_rdt;
mod landlock;
pub mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod notify;
pub mod op;
pub(crate) mod process;
pub mod ranges;
mod resources;
mod root;
pub(crate) mod sched;
mod seccomp;
pub mod show;

pub use capabilities::{capability_sets, may_trace};
pub use checkpoint::{External, NULL, externals, mount_points};
pub use hooks::{list as hook_list, state_json};
pub use intel_rdt::{IntelRdt, plan as intel_rdt, schemata};
pub use landlock::{PREFIX as LANDLOCK, wanted as landlock_wanted};
pub use namespaces::{IdMap, Joined, Userns};
pub use net_devices::NetDevice;
pub use resources::{Resources, has_host_uid, host_uid};

/// What planning may know of the host.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Effective user id of the caller.
    pub euid: u32,
    /// Effective group id of the caller.
    pub egid: u32,
    /// No rights over the host: an ordinary user, or root of a user namespace.
    pub rootless: bool,
    /// With `--systemd-cgroup`, the host's user whose own systemd is asked; None: the system's.
    pub systemd_user: Option<u32>,
    /// The highest capability number that the kernel knows.
    pub last_capability: u8,
    /// The ABI of the kernel's Landlock; 0: it has none.
    pub landlock: u32,
    /// Where cgroup v2 is, if it is mounted at all.
    pub cgroup: Option<cgroup::Hierarchy>,
    /// Mount points of procfs and sysfs, for `--no-pivot` alone.
    pub kernel_mounts: Vec<PathBuf>,
    /// The mount point of resctrl, for a configuration with `linux.intelRdt` alone.
    pub resctrl: Option<PathBuf>,
}

impl HostFacts {
    /// The caller is an ordinary user, who needs a user namespace for everything. Root of a user namespace, as podman makes one
    /// for its user, is rootless as well, but has in it what root has.
    pub fn ordinary(&self) -> bool {
        self.rootless && self.euid != 0
    }
}

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container's id.
    pub id: String,
    /// `run` rather than `create`: no wait for `start`.
    pub run: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`: how many descriptors from 3 on the container gets, those of `listen_fds` included.
    pub preserve_fds: u32,
    /// How many of these are sockets that the service manager has handed over (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The directory in which the container's NOTIFY_SOCKET is, when the service manager wants to hear of it.
    pub notify: Option<PathBuf>,
    /// `--systemd-cgroup`: systemd makes the cgroup. Of an exec: it is a user's, and systemd may have to move the process.
    pub systemd_cgroup: bool,
}

/// A mount that the parent makes before the clone: an id-mapped one, or one of the root file system's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The source of the bind mount.
    pub path: PathBuf,
    /// With all mounts below it (`rbind`).
    pub recursive: bool,
    /// The mapping goes to all mounts below as well (`ridmap`).
    pub recursive_map: bool,
    /// The user mappings; empty: no id mapping, the tree is only made with the caller's rights.
    pub uids: Vec<IdMap>,
    /// The group mappings.
    pub gids: Vec<IdMap>,
    /// The mount it belongs to.
    pub from: Pointer,
}

/// Everything that `create`, `run` or `exec` will do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cgroup, its limits and its device filter. None: the caller has no cgroup rights and asks for no limit.
    pub resources: Option<Resources>,
    /// The resctrl group.
    pub intel_rdt: Option<IntelRdt>,
    /// Namespaces that are joined by path.
    pub joined: Vec<Joined>,
    /// Id-mapped mounts.
    pub trees: Vec<Tree>,
    /// `CLONE_NEW*` of the container's process.
    pub clone_flags: u64,
    /// Id maps of a new user namespace.
    pub userns: Option<Userns>,
    /// Hard limits that the parent raises, since the child in its user namespace may not.
    pub rlimits: Vec<Step>,
    /// `oom_score_adj` that the parent writes, for the same reason.
    pub oom_score_adj: Option<i32>,
    /// What a process does that clones the container's; empty: there is none.
    pub stage: Vec<Step>,
    /// What the container's process does until its execve.
    pub child: Vec<Step>,
    /// The processors that `exec` is on until its process is in the container's cgroup; empty: as the caller's.
    pub initial_cpus: Vec<u64>,
    /// A hook runs in the container's namespaces.
    pub hooks_inside: bool,
    /// Network devices that the parent moves into the container's network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Hooks that the parent runs before the root file system is entered (`prestart`, then `createRuntime`).
    pub runtime_hooks: Vec<op::Hook>,
    /// Hooks that the parent runs when the making of the container has failed on the way (`poststop`).
    pub poststop_hooks: Vec<op::Hook>,
    /// The process has a terminal.
    pub terminal: bool,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// What configurations made for many hosts are full of, and runc says nothing of: for who asks (`plan`, `check`) or looks on
    /// (a `run` in the foreground). Engines show their users what `create` says.
    pub notes: Vec<String>,
}

/// A list of steps that is being made.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    pub(crate) fn push(&mut self, op: Op, from: impl Into<Pointer>) {
        self.0.push(Step { op, from: from.into() });
    }
}

/// A string of the configuration for the kernel; a NUL in it is an error at `from`.
pub(crate) fn cstring(text: impl AsRef<[u8]>, from: &str) -> Result<CString> {
    CString::new(text.as_ref()).map_err(|_| Error::new("the string holds a NUL byte").at(from))
}

pub(crate) fn path_cstring(path: &Path, from: &str) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    cstring(path.as_os_str().as_bytes(), from)
}

/// Plans `create` or `run`. `bundle` is the absolute path that `root.path` is relative to.
pub fn create(spec: &Spec, bundle: &Path, facts: &HostFacts, options: &Options) -> Result<Plan> {
    let notified;
    let spec = match &options.notify {
        Some(directory) => {
            notified = notify::with_directory(spec, directory);
            &notified
        }
        None => spec,
    };
    let process =
        spec.process().as_ref().ok_or_else(|| Error::new("process property must not be empty").at("/process"))?;
    let namespaces = namespaces::Namespaces::of(spec)?;
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    let resources = resources::plan(spec, facts, options, (&mut warnings, &mut notes))?;
    let hooks = hooks::Hooks::of(spec)?;
    let mut stage = Steps::default();
    let mut child = Steps::default();
    let mut trees = Vec::new();

    namespaces.stage(spec, &mut stage)?;
    begin(&mut child);
    if resources.as_ref().is_some_and(|resources| resources.scope.is_some()) {
        // Before the ids change: systemd moves a user's process only as long as it is that user's.
        child.push(Op::Await(Request::Scope), "/linux/cgroupsPath");
    }
    namespaces.enter(&mut child, resources.is_some());
    let net_devices = net_devices::plan(spec, &mut child);
    child.push(Op::ClearDumpable, "");
    if !options.no_new_keyring {
        process::keyring_label(process, &mut child)?;
        child.push(Op::SessionKeyring { name: cstring(format!("_ses.{}", options.id), "")? }, "");
    }
    namespaces.settle(spec, &mut child)?;
    if namespaces.new_user() || namespaces.needs_stage() {
        // In its user namespace the child may raise nothing: the parent does it while the child waits for its maps, or the
        // stage has done it.
    } else {
        process::oom_score_adj(process, &mut child);
    }
    let has_mount_namespace = namespaces.has(LinuxNamespaceType::Mount);
    if has_mount_namespace {
        root::open(spec, bundle, &mut child)?;
        mounts::plan((spec, bundle), facts, &namespaces, resources.as_ref(), &mut trees, &mut child, &mut warnings)?;
        devices::plan(spec, &namespaces, facts, &mut child)?;
    } else {
        root::open_without_namespace(spec, bundle, &mut child)?;
    }
    if hooks.before_pivot() {
        child.push(Op::Await(Request::RuntimeHooks), "/hooks");
    }
    hooks.create_container(&mut child);
    root::enter(has_mount_namespace, facts, options, &mut child)?;
    process::terminal(process, true, &mut child);
    root::finish(spec, has_mount_namespace, &mut child)?;
    process::session(process, &mut child);
    process::rlimits(process, !namespaces.in_userns(), &mut child);
    // What root may do by its rights over the host, an ordinary user may do as the owner of the user namespace, if the process
    // is dumpable: enter it while it waits, and fetch the listener of its filter.
    let guarded = facts.ordinary() && namespaces.all_its_own() && !may_trace(process)?;
    let seccomp = hand_over(spec, process, facts, options, guarded, (&mut warnings, &mut notes), &mut child)?;
    if !options.run {
        child.push(Op::AwaitStart, "");
        if guarded {
            child.push(Op::ClearDumpable, "");
        }
    }
    hooks.start_container(process, seccomp.as_ref(), guarded, &mut child)?;
    finish(process, seccomp, guarded, &notify::variables(options), &mut child)?;

    let hooks_inside = hooks.any_inside();
    let (runtime_hooks, poststop_hooks) = hooks.outside();
    Ok(Plan {
        resources,
        intel_rdt: intel_rdt::plan(spec, &options.id),
        joined: namespaces.joined().to_vec(),
        trees,
        clone_flags: namespaces.clone_flags(),
        userns: namespaces.userns().cloned(),
        rlimits: if namespaces.new_user() { process::hard_limits(process) } else { Vec::new() },
        oom_score_adj: if namespaces.new_user() { process.oom_score_adj() } else { None },
        stage: stage.0,
        child: child.0,
        initial_cpus: Vec::new(),
        hooks_inside,
        net_devices,
        runtime_hooks,
        poststop_hooks,
        terminal: process.terminal().unwrap_or(false),
        warnings,
        notes,
    })
}

/// Plans `exec`: `process` runs in the container that `spec` made from `bundle`.
pub fn exec(spec: &Spec, bundle: &Path, process: &Process, facts: &HostFacts, options: &Options) -> Result<Plan> {
    let namespaces = namespaces::Namespaces::of(spec)?;
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    let mut stage = Steps::default();
    let mut child = Steps::default();
    let mut flags = namespaces.all_flags();
    if !facts.ordinary() && !namespaces.has(LinuxNamespaceType::User) {
        flags &= !libc::CLONE_NEWUSER;
    }
    begin(&mut stage);
    // Its file is the host's root's once the process is not dumpable, and root of a user namespace can't write to it.
    process::oom_score_adj(process, &mut stage);
    if namespaces.has(LinuxNamespaceType::User) {
        stage.0.extend(process::hard_limits(process));
    }
    stage.push(Op::ClearDumpable, "");
    stage.push(Op::JoinInit { flags }, "/linux/namespaces");
    begin(&mut child);
    if options.systemd_cgroup {
        // As in a create: once it has another of the user's ids, systemd leaves it where it is.
        child.push(Op::Await(Request::Scope), "/linux/cgroupsPath");
    }
    if namespaces.has(LinuxNamespaceType::User) {
        child.push(Op::BecomeRoot, "/linux/namespaces");
        child.push(Op::DieWithParent, "");
    }
    child.push(Op::ClearDumpable, "");
    if !options.no_new_keyring {
        process::keyring_label(process, &mut child)?;
        child.push(Op::SessionKeyring { name: cstring(format!("_ses.{}", options.id), "")? }, "");
    }
    root::again(spec, bundle, namespaces.has(LinuxNamespaceType::Mount), &mut child)?;
    process::terminal(process, false, &mut child);
    process::session(process, &mut child);
    process::rlimits(process, !namespaces.has(LinuxNamespaceType::User), &mut child);
    sched::final_cpus(process, &mut child)?;
    let seccomp = hand_over(spec, process, facts, options, false, (&mut warnings, &mut notes), &mut child)?;
    finish(process, seccomp, false, &[], &mut child)?;
    Ok(Plan {
        resources: None,
        intel_rdt: None,
        joined: Vec::new(),
        trees: Vec::new(),
        clone_flags: 0,
        userns: None,
        rlimits: Vec::new(),
        oom_score_adj: None,
        stage: stage.0,
        child: child.0,
        initial_cpus: sched::initial_cpus(process)?,
        hooks_inside: false,
        net_devices: Vec::new(),
        runtime_hooks: Vec::new(),
        poststop_hooks: Vec::new(),
        terminal: process.terminal().unwrap_or(false),
        warnings,
        notes,
    })
}

/// From the rights of set-up to the process's own, and to the point where the runtime hears that all is ready.
fn hand_over(
    spec: &Spec,
    process: &Process,
    facts: &HostFacts,
    options: &Options,
    guarded: bool,
    (warnings, notes): (&mut Vec<String>, &mut Vec<String>),
    child: &mut Steps,
) -> Result<Option<op::SeccompOp>> {
    sched::plan(spec, process, child)?;
    landlock::plan(spec, process, facts, warnings, child)?;
    process::label(process, child)?;
    let seccomp = seccomp::plan(spec, process, notes)?;
    credentials(process, facts, seccomp.as_ref(), guarded, child)?;
    process::program(process, child)?;
    landlock::restrict(spec, child);
    // Before the runtime hears of it: once it has answered it may be gone, and that must not end the container.
    child.push(Op::OutliveParent, "");
    child.push(Op::CloseDescriptors { from: 3 + options.preserve_fds }, "");
    if guarded && !options.run {
        child.push(Op::SetDumpable, "");
    }
    child.push(Op::Await(Request::Ready), "");
    Ok(seccomp)
}

fn begin(steps: &mut Steps) {
    steps.push(Op::ResetSignals, "");
    steps.push(Op::ForgetCaller, "");
    steps.push(Op::DieWithParent, "");
}

/// no_new_privs, bounding set, ids, capabilities: in this order, since each takes away what the one before needed.
fn credentials(
    process: &Process,
    facts: &HostFacts,
    seccomp: Option<&op::SeccompOp>,
    guarded: bool,
    child: &mut Steps,
) -> Result<()> {
    process::cwd(process, false, child)?;
    if process.no_new_privileges() == Some(true) {
        child.push(Op::NoNewPrivileges, "/process/noNewPrivileges");
    }
    capabilities::plan(process, facts, seccomp, guarded, child)
}

/// From `start` on: only the limit of open files, the filter and the execve are left.
fn finish(
    process: &Process,
    seccomp: Option<op::SeccompOp>,
    guarded: bool,
    variables: &[(&str, String)],
    child: &mut Steps,
) -> Result<()> {
    process::open_files(process, child);
    if let Some(filter) = seccomp {
        if guarded && filter.notify {
            child.push(Op::SetDumpable, "/linux/seccomp");
        }
        child.push(Op::Seccomp(Box::new(filter)), "/linux/seccomp");
    }
    process::exec(process, variables, child)
}
