//! `create` and `run`: from a plan to a container, or to nothing at all.
//!
//! Whatever is made is written down before it is made (state.json with `creating`), and taken away again in reverse when
//! a later step fails.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::explain::Oom;
use super::listener::Agent;
use super::net_device::Moved;
use super::protocol::{Failure, Question, Report};
use super::spawn::{Process, Reached, Slots, Spawned, spawn};
use super::{explain, hooks, idmap, tree};
use crate::bundle::Bundle;
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::notify::{self, Notify};
use crate::plan::op::{Hook, Op, Request, Slot, Source};
use crate::plan::{self, HostFacts, IntelRdt, Joined, Options, Plan, Resources, state_json};
use crate::resctrl;
use crate::state::{self, CgroupState, Dir, State, Store};
use crate::sys::path as sys;
use crate::sys::shared::Shared;
use crate::systemd::{self, Scope};

/// How long the end of a container's processes and of its cgroup may take.
const END: Duration = Duration::from_secs(10);

/// A container that waits for `start`, or runs.
#[derive(Debug)]
pub struct Container {
    /// Its process.
    pub process: Process,
    /// Its state as saved.
    pub state: State,
    /// Its directory, locked.
    pub dir: Dir,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// Where a container that runs says that it is ready, if the service manager wants to hear of it.
    pub notify: Option<Notify>,
    /// Network devices that are the container's now.
    devices: Option<Moved>,
    poststop: Option<Poststop>,
}

/// The poststop hooks, which run when a container that was begun ends, as that of a create that fails (runtime.md, Lifecycle
/// 6 to 13): what the hooks before have made, such as a network, is theirs to take away.
#[derive(Debug)]
pub(super) struct Poststop {
    hooks: Vec<Hook>,
    state: serde_json::Value,
    bundle: PathBuf,
}

impl Poststop {
    /// None when there is no hook.
    pub(super) fn of(bundle: &Bundle, plan: &Plan, options: &Options) -> Option<Self> {
        if plan.poststop_hooks.is_empty() {
            return None;
        }
        let state = state_json(&bundle.spec, &options.id, "stopped", 0, &bundle.dir.to_string_lossy());
        Some(Self { hooks: plan.poststop_hooks.clone(), state, bundle: bundle.dir.clone() })
    }

    /// After everything else is gone; `error` says as well which have failed.
    fn run(this: Option<Self>, error: Error) -> Error {
        let failed = this.map_or_else(Vec::new, |this| hooks::run_all(&this.hooks, &this.state, Some(&this.bundle)));
        let words = failed.into_iter().map(|failed| failed.message);
        Error { message: std::iter::once(error.message).chain(words).collect::<Vec<_>>().join("; "), ..error }
    }
}

impl Container {
    /// What later steps need. The hold on its network namespace ends: its devices are its own.
    pub fn into_parts(self) -> (Process, State, Dir, Option<Notify>) {
        (self.process, self.state, self.dir, self.notify)
    }

    /// Takes the container away again, when what follows its making has failed with `error`.
    pub fn give_up(self, error: Error) -> Error {
        match destroy(&self.dir, &self.state) {
            Ok(()) => Poststop::run(self.poststop, put_back(self.devices, error)),
            // It is there, and `delete` has the hooks.
            Err(kept) => {
                let error = put_back(self.devices, error);
                Error { message: format!("{}; {}", error.message, kept.message), ..error }
            }
        }
    }
}

/// Carries out a plan. `console` is the socket that gets the terminal's master.
///
/// # Errors
/// Any failure; nothing is left then, neither process nor cgroup nor state.
pub fn create(
    bundle: &Bundle,
    plan: &Plan,
    facts: &HostFacts,
    options: &Options,
    store: &Store,
    console: Option<&OwnedFd>,
) -> Result<Container> {
    let mut undo = Undo::new(store.create(&options.id, remove_abandoned)?);
    match attempt(bundle, plan, facts, options, console, &mut undo) {
        Ok((state, warnings)) => {
            let process = undo.process.take().map(Spawned::into_process);
            undo.finish(process, state, warnings)
        }
        Err(error) => Err(undo.give_up(error)),
    }
}

/// What has been made so far.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) dir: Option<Dir>,
    pub(super) cgroup: Option<Cgroup>,
    /// A scope that systemd has started.
    pub(super) unit: Option<systemd::Unit>,
    process: Option<Spawned>,
    pub(super) devices: Option<Moved>,
    pub(super) resctrl: Option<resctrl::Group>,
    pub(super) notify: Option<Notify>,
    pub(super) poststop: Option<Poststop>,
}

/// Network devices go back to where they came from; `error` says so when they can't.
fn put_back(devices: Option<Moved>, error: Error) -> Error {
    let lost = devices.map(Moved::give_back).unwrap_or_default();
    Error { message: [vec![error.message], lost].concat().join("; "), ..error }
}

impl Undo {
    pub(super) fn new(dir: Dir) -> Self {
        Self {
            dir: Some(dir),
            cgroup: None,
            unit: None,
            process: None,
            devices: None,
            resctrl: None,
            notify: None,
            poststop: None,
        }
    }

    /// Nothing is undone any more.
    pub(super) fn finish(self, process: Option<Process>, state: State, warnings: Vec<String>) -> Result<Container> {
        let (Some(dir), Some(process)) = (self.dir, process) else {
            return Err(Error::new("the container is gone"));
        };
        let Self { notify, devices, poststop, .. } = self;
        Ok(Container { process, state, dir, warnings, notify, devices, poststop })
    }

    /// Takes everything away again; `error` says as well what could not be put back.
    pub(super) fn give_up(mut self, error: Error) -> Error {
        self.all();
        Poststop::run(self.poststop, put_back(self.devices, error))
    }

    fn all(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
        }
        if let Some(unit) = self.unit.take() {
            let _ = systemd::stop(&unit);
        }
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.undo(Instant::now() + END);
        }
        if let Some(group) = self.resctrl.take() {
            let _ = resctrl::remove(&group);
        }
        if let Some(dir) = self.dir.take() {
            let _ = dir.remove();
        }
    }
}

fn attempt(
    bundle: &Bundle,
    plan: &Plan,
    facts: &HostFacts,
    options: &Options,
    console: Option<&OwnedFd>,
    undo: &mut Undo,
) -> Result<(State, Vec<String>)> {
    let mut warnings = plan.warnings.clone();
    let dir = undo.dir.as_ref().ok_or_else(|| Error::new("no state directory"))?;
    let mut state = first_state(bundle, plan, facts, options)?;
    dir.write_config(&bundle.config)?;
    dir.write(&state)?;
    undo.notify = make_notify(dir, options)?;
    undo.cgroup = make_cgroup(bundle, plan, facts, &mut state, &mut warnings)?;

    let mut slots = Slots::default();
    let report_file = if options.run { None } else { Some(state_file(dir, c"report", size_of::<Report>())?) };
    let report = match &report_file {
        Some(file) => Shared::<Report>::of_file(file.as_fd()),
        None => Shared::<Report>::anonymous(),
    }
    .map_err(|errno| Error::new("make the shared page").call("mmap", errno))?;
    report.update(|report| report.steps = plan.child.len() as u32);
    let opened = Opened::new(plan, dir, options, &mut slots)?;
    slots.keep_from_child(dir.fd());
    if let Some(console) = console {
        slots.set(Slot::Console, console.as_fd());
    }
    let agent = if options.run { Agent::connect(&bundle.spec, &options.id, "creating", &bundle.dir)? } else { None };
    let trees = plan.trees.iter().map(tree::make).collect::<Result<Vec<_>>>()?;
    let claimed = plan.intel_rdt.as_ref().map(|wanted| claim_resctrl(wanted, facts, dir, &mut state)).transpose()?;
    undo.resctrl = claimed.as_ref().map(|claimed| claimed.group.clone());
    let process = spawn(plan, slots, &trees, &report, undo.cgroup.as_ref().map(Cgroup::fd))?;
    drop(trees);
    undo.poststop = Poststop::of(bundle, plan, options);
    state.pid = process.pid.as_raw();
    let process = undo.process.insert(process);
    state.start_time = state::start_time(process.pid)?.map(|(start, _)| start).ok_or_else(|| {
        Error::new(format!("read when the container's process has started (/proc/{}/stat)", process.pid))
    })?;
    // Before any answer, so that hooks and all else that it forks are born in its group.
    if let Some(claimed) = claimed {
        resctrl::assign(&claimed.group, state.pid)?;
    }
    let context = Answers { bundle, plan, facts, options, dir, hook_state: &opened.hook_state };
    let mut agent = agent;
    let Undo { cgroup, unit, devices, .. } = undo;
    let mut made = Made { cgroup, unit, devices };
    let reached = process
        .serve(plan, &report, !options.run, agent.as_mut(), |question, process| match question {
            Question::Source(step) => context.source(step, process, opened.proc.as_fd()).map(Some),
            Question::Planned(request) => context.answer(request, process, &mut state, &mut made).map(|()| None),
        })
        .map_err(|error| with_hook_output(error, &opened.hook_output))?;
    match reached {
        Reached::Ready | Reached::Executed => Ok((state, warnings)),
        Reached::Died(status) => Err(explain::died(status, Oom::of_own(made.cgroup.as_ref()))),
    }
}

/// The directory of the container's NOTIFY_SOCKET; the socket itself is made by who will listen: `run`, or `start`.
pub(super) fn make_notify(dir: &Dir, options: &Options) -> Result<Option<Notify>> {
    if options.notify.is_none() {
        return Ok(None);
    }
    notify::make_directory(dir)?;
    notify::manager().filter(|_| options.run).map(|manager| Notify::bind(dir, manager)).transpose()
}

/// The resctrl group, written down before it is made.
pub(super) fn claim_resctrl(
    wanted: &IntelRdt,
    facts: &HostFacts,
    dir: &Dir,
    state: &mut State,
) -> Result<resctrl::Claimed> {
    let root = facts.resctrl.as_ref().ok_or_else(resctrl::not_enabled)?;
    resctrl::make(root, wanted, |group| {
        state.resctrl = Some(group.clone());
        dir.write(state)
    })
}

pub(super) fn first_state(bundle: &Bundle, plan: &Plan, facts: &HostFacts, options: &Options) -> Result<State> {
    let root = bundle.spec.root().as_ref().map(|root| bundle.dir.join(root.path())).unwrap_or_default();
    Ok(State {
        version: state::VERSION,
        id: options.id.clone(),
        oci_version: bundle.spec.version().clone(),
        pid: 0,
        start_time: 0,
        boot_id: state::boot_id()?,
        bundle: bundle.dir.clone(),
        rootfs: root,
        created: state::now(),
        owner: if facts.euid == 0 { "root".to_owned() } else { state::owner(facts.euid) },
        annotations: bundle.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        cgroup: cgroup_state(plan.resources.as_ref(), facts),
        resctrl: None,
        creating: true,
    })
}

/// A scope is none yet: until systemd has started it, its name may be another's, and without it the process that waits in
/// no cgroup of its own ends with the runtime.
fn cgroup_state(resources: Option<&Resources>, facts: &HostFacts) -> Option<CgroupState> {
    let (resources, hierarchy) = (resources?, facts.cgroup.as_ref()?);
    let (root, path, driver) = (hierarchy.root.clone(), resources.path.clone(), "cgroupfs".to_owned());
    resources.scope.is_none().then_some(CgroupState { root, path, driver, unit: None })
}

/// The cgroup with its limits and its device filter, before there is a process for them.
pub(super) fn make_cgroup(
    bundle: &Bundle,
    plan: &Plan,
    facts: &HostFacts,
    state: &mut State,
    warnings: &mut Vec<String>,
) -> Result<Option<Cgroup>> {
    let born = plan.resources.as_ref().filter(|resources| resources.scope.is_none());
    let (Some(resources), Some(hierarchy)) = (born, &facts.cgroup) else { return Ok(None) };
    let wanted = cgroup::wanted_controllers(&resources.writes);
    let mut cgroup = match Cgroup::create(hierarchy, &resources.path, &wanted) {
        Ok(cgroup) => cgroup,
        Err(error) if cgroup::cannot_be_made(&error) && !resources.required() => {
            state.cgroup = None;
            // An ordinary user loses nothing by it that was asked for: no limit was, and what keeps devices away is its namespace.
            // `check` says it; runc says nothing, and callers read the first line.
            if !facts.rootless {
                warnings.push(format!("the container runs without a cgroup of its own: {error}"));
            }
            return Ok(None);
        }
        Err(error) => return Err(cgroup::in_words_of_runc(error, facts.rootless, resources.path_given)),
    };
    match fill(bundle, resources, facts, &mut cgroup) {
        Ok(()) => Ok(Some(cgroup)),
        Err(error) => {
            cgroup.undo(Instant::now() + END);
            Err(error)
        }
    }
}

fn fill(bundle: &Bundle, resources: &Resources, facts: &HostFacts, cgroup: &mut Cgroup) -> Result<()> {
    let memory = bundle.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()?.memory().as_ref());
    if let Some(memory) = memory {
        cgroup.check_memory(memory)?;
    }
    resources.writes.iter().try_for_each(|write| cgroup.write(write))?;
    if let Some(program) = &resources.devices {
        cgroup.attach_devices(cgroup::load_devices(program)?)?;
    }
    match resources.owner {
        Some(uid) => delegate(cgroup, uid, facts),
        None => Ok(()),
    }
}

/// The specification leaves it to the runtime whether it delegates: who may not give files away keeps them.
fn delegate(cgroup: &Cgroup, uid: u32, facts: &HostFacts) -> Result<()> {
    match cgroup.delegate(uid) {
        Err(error) if facts.rootless && error.errno == Some(Errno::EPERM) => Ok(()),
        delegated => delegated,
    }
}

/// A new file of `size` bytes in the state directory.
fn state_file(dir: &Dir, name: &CStr, size: usize) -> Result<File> {
    let failed = |call: &str, errno| {
        Error::new(format!("make {}", dir.path().join(&*name.to_string_lossy()).display())).call(call, errno)
    };
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let mut file = File::from(sys::openat(dir.fd(), name, flags, 0o600).map_err(|errno| failed("openat", errno))?);
    // Written and not only as long: a hole of a full file system would be a SIGBUS at the first look into the page.
    file.write_all(&vec![0; size])
        .map_err(|error| failed("write", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    Ok(file)
}

/// What the child inherits, held open until it has been cloned.
struct Opened {
    proc: OwnedFd,
    _fifo: Option<OwnedFd>,
    _namespaces: Vec<OwnedFd>,
    hook_state: Option<File>,
    hook_output: Option<File>,
}

impl Opened {
    fn new(plan: &Plan, dir: &Dir, options: &Options, slots: &mut Slots) -> Result<Self> {
        let proc = open_proc()?;
        slots.set(Slot::Proc, proc.as_fd());
        let fifo = if options.run { None } else { Some(exec_fifo(dir)?) };
        if let Some(fifo) = &fifo {
            slots.set(Slot::ExecFifo, fifo.as_fd());
        }
        let namespaces = plan.joined.iter().map(open_namespace).collect::<Result<Vec<_>>>()?;
        for (index, namespace) in namespaces.iter().enumerate() {
            slots.set_namespace(index, namespace.as_fd());
        }
        let (mut hook_state, mut hook_output) = (None, None);
        if plan.hooks_inside {
            let state = hook_state.insert(hooks::memory_file(c"state")?);
            slots.set(Slot::HookState, state.as_fd());
            // The hooks of a container that waits for start fail when its create has long ended: start reads the file.
            let output = if options.run { hooks::memory_file(c"output") } else { state_file(dir, c"output", 0) };
            let output = hook_output.insert(output?);
            slots.set(Slot::HookOutput, output.as_fd());
        }
        Ok(Self { proc, _fifo: fifo, _namespaces: namespaces, hook_state, hook_output })
    }
}

/// `/proc` of the host, which must be procfs: labels, sysctls and scores are written through it (CVE-2025-52881).
pub fn open_proc() -> Result<OwnedFd> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let proc = sys::open_dir(c"/proc").map_err(|errno| Error::new("open /proc").call("open", errno))?;
    match sys::fstatfs(proc.as_fd()) {
        Ok(PROC_SUPER_MAGIC) => Ok(proc),
        _ => Err(Error::new("/proc of this host is not procfs").hint("mount -t proc proc /proc")),
    }
}

/// The fifo in which the created process waits: it holds it open in both directions, so that `start` can write at once
/// and sees the end of file that execve(2) makes.
fn exec_fifo(dir: &Dir) -> Result<OwnedFd> {
    let failed = |call: &str, errno| Error::new("make exec.fifo").call(call, errno);
    sys::mkfifoat(dir.fd(), c"exec.fifo", 0o600).map_err(|errno| failed("mkfifoat", errno))?;
    sys::openat(dir.fd(), c"exec.fifo", libc::O_RDWR | libc::O_NOFOLLOW, 0).map_err(|errno| failed("openat", errno))
}

/// Opened once and asked for its type, so that another file in its place does no harm.
pub(super) fn open_namespace(joined: &Joined) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |call: &str, errno| {
        Error::new(format!("open the namespace {}", joined.path.display())).call(call, errno).at(joined.from.clone())
    };
    let path = CString::new(joined.path.as_os_str().as_bytes()).map_err(|_| failed("openat", Errno::EINVAL))?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let fd = sys::openat(sys::CWD, &path, flags, 0).map_err(|errno| failed("openat", errno))?;
    match crate::sys::clone::ns_get_nstype(fd.as_fd()) {
        Ok(kind) if kind == joined.flag => Ok(fd),
        Ok(_) => {
            Err(Error::new(format!("{} is a namespace of another type", joined.path.display())).at(joined.from.clone()))
        }
        Err(errno) => Err(failed("ioctl(NS_GET_NSTYPE)", errno).hint("the path must lead to a namespace")),
    }
}

/// What answers to the child's requests make, to be undone.
struct Made<'a> {
    cgroup: &'a mut Option<Cgroup>,
    unit: &'a mut Option<systemd::Unit>,
    devices: &'a mut Option<Moved>,
}

/// The parent's side of the child's requests.
struct Answers<'a> {
    bundle: &'a Bundle,
    plan: &'a Plan,
    facts: &'a HostFacts,
    options: &'a Options,
    dir: &'a Dir,
    hook_state: &'a Option<File>,
}

impl Answers<'_> {
    fn answer(&self, request: Request, process: &Spawned, state: &mut State, made: &mut Made<'_>) -> Result<()> {
        match request {
            Request::Scope => {
                let made = (&mut *made.cgroup, &mut *made.unit);
                make_scope(self.bundle, self.plan, self.facts, process.pid, (self.dir, state), made)
            }
            Request::IdMaps => self.id_maps(process),
            Request::NetDevices => {
                let moved = made.devices.insert(Moved::new(process.pid)?);
                self.plan.net_devices.iter().try_for_each(|device| moved.take(device))
            }
            Request::RuntimeHooks => {
                let json = self.tell_hooks("creating", process)?;
                hooks::run(&self.plan.runtime_hooks, &json, Some(&self.bundle.dir))
            }
            Request::Ready => {
                self.tell_hooks("created", process)?;
                state.creating = false;
                self.dir.write(state)
            }
        }
    }

    /// The source of a bind mount that the child may not reach, opened with our rights among the child's own mounts,
    /// which have the flags of ours locked. The child makes the mount of it with its own rights.
    fn source(&self, step: usize, process: &Spawned, proc: BorrowedFd<'_>) -> Result<OwnedFd> {
        let refused = || Error::new("the container's process has asked for what its plan does not have");
        let step = self.plan.child.get(step).ok_or_else(refused)?;
        let source = match &step.op {
            Op::Mount(mount) if mount.parent_opens => match &mount.source {
                Source::Bind(source) => source,
                _ => return Err(refused()),
            },
            _ => return Err(refused()),
        };
        let failed = |call: &str, errno| {
            Error::new(format!("open {} for the container's process", source.to_string_lossy()))
                .call(call, errno)
                .at(step.from.clone())
        };
        let path = absolute(source).map_err(|errno| failed("getcwd", errno))?;
        // The number is our own child's, which we have not waited for.
        let root = CString::new(format!("{}/root", process.pid)).unwrap_or_default();
        let root = sys::openat(proc, &root, libc::O_PATH | libc::O_DIRECTORY, 0)
            .map_err(|errno| failed(&format!("openat(/proc/{}/root)", process.pid), errno))?;
        // Links lead to where they lead in the child, and none of procfs to a file of ours.
        sys::openat2(root.as_fd(), &path, libc::O_PATH, 0, sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS)
            .map_err(|errno| failed("openat2", errno))
    }

    fn tell_hooks(&self, status: &str, process: &Spawned) -> Result<serde_json::Value> {
        let dir = self.bundle.dir.to_string_lossy();
        let json = state_json(&self.bundle.spec, &self.options.id, status, process.pid.as_raw(), &dir);
        if let Some(file) = self.hook_state {
            let mut file =
                file.try_clone().map_err(|error| Error::new(format!("duplicate the hooks' state: {error}")))?;
            hooks::refill(&mut file, json.to_string().as_bytes())?;
        }
        Ok(json)
    }

    /// Maps first: only with them is anything in the new user namespace owned by somebody.
    fn id_maps(&self, process: &Spawned) -> Result<()> {
        if let Some(userns) = &self.plan.userns {
            idmap::write(process.pid, &userns.uids, &userns.gids, self.facts.euid, self.facts.egid)?;
        }
        for step in &self.plan.rlimits {
            if let Op::HardLimit { resource, hard, name } = &step.op {
                crate::sys::process::raise_hard_limit(process.pid.as_raw(), *resource, *hard).map_err(|errno| {
                    Error::new(format!("raise the hard limit {name}"))
                        .call(format!("prlimit({name}, {hard})"), errno)
                        .at(step.from.clone())
                        .hint("a hard limit is raised only with CAP_SYS_RESOURCE")
                })?;
            }
        }
        match self.plan.oom_score_adj {
            Some(value) => oom_score_adj(process, value),
            None => Ok(()),
        }
    }
}

/// systemd puts the process into its scope; then the cgroup is filled as one that a process is born in.
pub(super) fn make_scope(
    bundle: &Bundle,
    plan: &Plan,
    facts: &HostFacts,
    process: Pid,
    (dir, state): (&Dir, &mut State),
    (made_cgroup, made_unit): (&mut Option<Cgroup>, &mut Option<systemd::Unit>),
) -> Result<()> {
    let planned = plan.resources.as_ref().and_then(|resources| Some((resources, resources.scope.as_ref()?)));
    let (Some((resources, scope)), Some(hierarchy)) = (planned, &facts.cgroup) else { return Ok(()) };
    Cgroup::refuse_if_frozen(hierarchy, &resources.path)?;
    systemd::start(scope, process)?;
    let unit = made_unit.insert(scope.unit.clone());
    let path = scope_path(process, &unit.name)?;
    let (root, driver, unit) = (hierarchy.root.clone(), "systemd".to_owned(), Some(unit.clone()));
    state.cgroup = Some(CgroupState { root, path: path.clone(), driver, unit });
    dir.write(state)?;
    let wanted = cgroup::wanted_controllers(&resources.writes);
    let adopted = Cgroup::adopt(hierarchy, &path, &wanted);
    let cgroup = made_cgroup.insert(adopted.map_err(|error| user_hint(error, &scope.unit))?);
    systemd::set_limits(&scope.unit, &systemd::weights_of_bfq(&resources.writes, cgroup)?, cgroup)?;
    fill(bundle, resources, facts, cgroup)
}

/// Where systemd has put the process, by what the kernel says.
fn scope_path(process: Pid, unit: &str) -> Result<String> {
    let file = format!("/proc/{process}/cgroup");
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::new(format!("read {file}")).call("read", errno)
    })?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    match path.rsplit('/').next() {
        Some(name) if name == unit => Ok(path.to_owned()),
        _ => Err(Error::new(format!(
            "systemd has started {unit}, but the container's process is in the cgroup {path:?}"
        ))
        .hint("the runtime must be in the same pid namespace as systemd")),
    }
}

/// A user's systemd has what the system's has delegated to it.
fn user_hint(error: Error, unit: &systemd::Unit) -> Error {
    match (unit.user, &error.pointer) {
        (true, Some(_)) => error.hint(
            "have it delegated to user@.service: systemctl edit user@.service, [Service] Delegate=cpu cpuset io memory pids",
        ),
        _ => error,
    }
}

/// A path as the child has it, whose working directory is still ours.
fn absolute(path: &CStr) -> std::result::Result<CString, Errno> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let here = std::env::current_dir().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let path = here.join(std::ffi::OsStr::from_bytes(path.to_bytes()));
    CString::new(path.into_os_string().into_vec()).map_err(|_| Errno::EINVAL)
}

fn oom_score_adj(process: &Spawned, value: i32) -> Result<()> {
    std::fs::write(format!("/proc/{}/oom_score_adj", process.pid), value.to_string()).map_err(|error| {
        Error::new(format!("set oom_score_adj to {value}"))
            .call("write", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            .at("/process/oomScoreAdj")
            .hint("an ordinary user may only raise it")
    })
}

/// A hook in the container's namespaces has failed: what it said goes into the error.
fn with_hook_output(error: Error, output: &Option<File>) -> Error {
    match output.as_ref().and_then(|output| output.try_clone().ok()) {
        Some(output) if error.message.contains(" hook #") && error.pointer.is_some() => {
            let said = hooks::tail(output);
            Error { message: format!("{}, output: {said}", error.message), ..error }
        }
        _ => error,
    }
}

/// Ends what a create that died has left: its process, its cgroup, its directory.
pub fn remove_abandoned(dir: &Dir) -> Result<()> {
    match dir.read() {
        Ok(state) => destroy(dir, &state),
        Err(_) => dir.remove(),
    }
}

/// Ends every process of a container, and removes its cgroup and its directory.
pub fn destroy(dir: &Dir, state: &State) -> Result<()> {
    let process = state.process()?;
    if process.is_none() && state.is_of_another_boot() {
        // What has the cgroup's name now is somebody else's.
        return dir.remove();
    }
    let cgroup = state.open_cgroup()?;
    if let Some(process) = process {
        match crate::sys::process::pidfd_kill(process.as_fd()) {
            Ok(()) | Err(Errno::ESRCH) => end_of(&process)?,
            Err(errno) => {
                return Err(Error::new("kill the container's first process").call("pidfd_send_signal(SIGKILL)", errno));
            }
        }
    }
    if let Some(cgroup) = &cgroup
        && cgroup.populated().unwrap_or(false)
    {
        cgroup.kill()?;
    }
    let unit = state.cgroup.as_ref().and_then(|saved| saved.unit.as_ref());
    let stopped = unit.map_or(Ok(()), systemd::stop);
    if let Some(cgroup) = cgroup {
        // A scope whose cgroup is gone has ended: where that can be done without systemd, its silence is no failure.
        cgroup.remove(Instant::now() + END).map_err(|error| stopped.err().unwrap_or(error))?;
    }
    if let Some(group) = &state.resctrl {
        resctrl::remove(group)?;
    }
    dir.remove()
}

/// The same where state.json can't be read: the saved configuration and the id still tell the cgroup, and so every
/// process in it, and the resctrl group.
pub fn destroy_unknown(dir: &Dir, id: &str, facts: &HostFacts) -> Result<()> {
    let Ok(saved) = dir.config(Path::new("/")) else { return dir.remove() };
    if let Some(hierarchy) = &facts.cgroup {
        let given = saved.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let path = match cgroup::path(given, id, &hierarchy.own) {
            Ok(path) => path,
            // A scope, which ends with its processes.
            Err(_) => Scope::plan(&saved.spec, id, &[], crate::host::systemd_user(), &hierarchy.own)?.1,
        };
        if let Some(cgroup) = Cgroup::open(hierarchy, &path)? {
            cgroup.kill()?;
            cgroup.remove(Instant::now() + END)?;
        }
    }
    if let (Some(wanted), Some(root)) = (plan::intel_rdt(&saved.spec, id), &facts.resctrl) {
        resctrl::remove_unknown(root, &wanted)?;
    }
    dir.remove()
}

/// Ends a container's first process, whatever becomes of the rest: of what is over already, and what can't be ended, `delete`
/// speaks.
pub fn stop(process: &OwnedFd) {
    if crate::sys::process::pidfd_kill(process.as_fd()).is_ok() {
        let _ = end_of(process);
    }
}

fn end_of(process: &OwnedFd) -> Result<()> {
    match crate::sys::process::poll_in(process.as_fd(), END.as_millis() as i32) {
        Ok(true) => Ok(()),
        _ => Err(Error::new("the container's first process has not ended ten seconds after SIGKILL")
            .hint("it may be stuck in the kernel (state D in ps)")),
    }
}

/// What has failed after the wait for start, by a plan that is made again. What else create's command line asked for is not
/// known any more; it adds steps, but none that come after the wait: so they are counted from the end of the list.
fn late_failure(state: &State, saved: &Bundle, failure: Failure, steps: u32) -> Error {
    let systemd_cgroup = state.cgroup.as_ref().is_some_and(|saved| saved.unit.is_some());
    let options = Options { id: state.id.clone(), systemd_cgroup, ..Options::default() };
    let plan = HostFacts::find(crate::host::Rootless::Auto, false)
        .and_then(|facts| crate::plan::create(&saved.spec, &saved.dir, &facts, &options));
    let Ok(plan) = plan else { return explain::unplanned(&failure) };
    let from_end = (steps as usize).saturating_sub(failure.op);
    match plan.child.len().checked_sub(from_end) {
        Some(op) => explain::failure(&plan, &Failure { op, ..failure }),
        None => explain::unplanned(&failure),
    }
}

/// Tells `start` to the waiting process, and waits until its program runs; gives back its configuration and the process.
///
/// # Errors
/// It is gone; its execve failed; it has not come to its execve within the bound.
pub fn start(dir: &Dir, state: &State, bundle: &Path) -> Result<(Bundle, OwnedFd)> {
    let saved = dir.config(bundle)?;
    let mut agent = Agent::connect(&saved.spec, &state.id, "created", bundle)?;
    let process = state.process()?.ok_or_else(|| Error::new("cannot start a container that has stopped"))?;
    let open = |flags| sys::openat(dir.fd(), c"exec.fifo", flags | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0);
    let gone = |errno| Error::new("the container's process does not wait for start").call("open(exec.fifo)", errno);
    let reader = open(libc::O_RDONLY).map_err(gone)?;
    let writer = open(libc::O_WRONLY).map_err(gone)?;
    let page = sys::openat(dir.fd(), c"report", libc::O_RDWR | libc::O_NOFOLLOW, 0)
        .and_then(|file| Shared::<Report>::of_file(file.as_fd()))
        .map_err(|errno| Error::new("open the state file report").call("openat", errno))?;
    sys::write_all_at_once(writer.as_fd(), b"0").map_err(gone)?;
    drop(writer);
    let pid = Pid::from_raw(state.pid);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let wait = if agent.is_some() { 1 } else { 1000 };
        if crate::sys::process::poll_hangup(reader.as_fd(), wait).unwrap_or(true) {
            break;
        }
        if let Some(agent) = &mut agent {
            agent.look(&page, pid, process.as_fd())?;
        }
        if Instant::now() > deadline {
            return Err(Error::new("the container's process has not come to its execve within 120 s"));
        }
    }
    let seen = page.get();
    let _ = sys::unlinkat(dir.fd(), c"exec.fifo", 0);
    match seen.failure() {
        Some(failure) => {
            let output = sys::openat(dir.fd(), c"output", libc::O_RDONLY | libc::O_NOFOLLOW, 0).ok().map(File::from);
            Err(with_hook_output(late_failure(state, &saved, failure, seen.steps), &output))
        }
        None if seen.executing != 0 => Ok((saved, process)),
        None => {
            let cgroup = state.open_cgroup().ok().flatten();
            Err(explain::died(None, Oom::of_shared(cgroup.as_ref())))
        }
    }
}
