//! After the clone: the interpreter of the plan.
//!
//! Nothing here allocates, locks, formats into a heap string or panics. Every operation ends in `Ok` or in a [`Fail`]
//! that is written into the shared page; the process ends in execve(2) or _exit(2).

// A Fail carries its words with it: a box would be an allocation after the clone.
#![allow(clippy::result_large_err)]

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::exec::protocol::{self, GO, Report, Staged};
use crate::plan::op::{NAMESPACES, Op, Request, SeccompOp, Slot, Step};
use crate::sys::clone::{setns, unshare};
use crate::sys::creds;
use crate::sys::mount::MountAttr;
use crate::sys::path::{self, inherited};
use crate::sys::process as sys_process;
use crate::sys::shared::Shared;
use crate::sys::{SysResult, sched, sigaction};

mod copy_up;
mod credentials;
mod device;
mod hook;
mod landlock;
mod mount;
mod program;
mod root;
mod terminal;
mod text;

pub use text::Text;

/// How many descriptors the parent can hand over.
pub const SLOTS: usize = Slot::Namespace0 as usize + NAMESPACES;

/// What the child inherits: descriptor numbers by [`Slot`], -1 where there is none.
pub struct Inherited<'a> {
    /// The slots.
    pub fds: [RawFd; SLOTS],
    /// The id-mapped mounts.
    pub trees: &'a [RawFd],
    /// The page in which a failure is left.
    pub report: &'a Shared<Report>,
    /// The page in which a stage leaves the pid of what it has cloned.
    pub staged: &'a Shared<Staged>,
}

/// Why an operation failed.
pub struct Fail {
    /// The system call.
    pub call: &'static str,
    /// Its errno.
    pub errno: Errno,
    /// What else is known.
    pub detail: Text,
}

impl Fail {
    /// A failed call of which nothing more is known.
    pub fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno, detail: Text::new() }
    }

    /// Adds what is known.
    pub fn because(mut self, why: &str) -> Self {
        self.detail.push(why.as_bytes());
        self
    }

    /// Adds a path or another string of the configuration.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.detail.push(bytes);
        self
    }
}

/// Names the call of a failed `SysResult`.
pub trait Named<T> {
    /// Turns the errno into a [`Fail`] of this call.
    fn named(self, call: &'static str) -> Result<T, Fail>;
}

impl<T> Named<T> for SysResult<T> {
    fn named(self, call: &'static str) -> Result<T, Fail> {
        self.map_err(|errno| Fail::new(call, errno))
    }
}

/// What operations leave behind for later ones: kernel objects, nothing that decides.
pub struct State<'a> {
    inherited: &'a Inherited<'a>,
    /// The number of the step that is carried out.
    step: usize,
    /// The root file system.
    root: Option<OwnedFd>,
    /// The id of the mount that was made on `/dev`.
    dev_mount: Option<u64>,
    /// `/dev`, verified.
    dev: Option<OwnedFd>,
    /// The empty read-only directory that masks directories.
    empty: Option<OwnedFd>,
    /// The Landlock ruleset, until it is in force.
    landlock: Option<OwnedFd>,
    /// The caller's umask.
    umask: u32,
    /// The working directory has been entered.
    in_cwd: bool,
    /// The program's path.
    program: Option<&'a CStr>,
    /// `HOME=...`.
    home: Option<Text>,
}

impl<'a> State<'a> {
    fn new(inherited: &'a Inherited<'a>, umask: u32) -> Self {
        Self {
            inherited,
            step: 0,
            root: None,
            dev_mount: None,
            dev: None,
            empty: None,
            landlock: None,
            umask,
            in_cwd: false,
            program: None,
            home: None,
        }
    }

    fn slot(&self, slot: Slot) -> BorrowedFd<'static> {
        inherited(self.inherited.fds[slot as usize])
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Fail> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| Fail::new("openat2", Errno::EBADF))
    }
}

/// Carries out the steps one by one. Returns when all are done (a stage), or never (execve). `umask` is the caller's: set-up
/// is done without one.
///
/// A failure is written into the shared page, and the process ends with status 1.
pub fn run<'a>(steps: &'a [Step], stage: bool, inherited: &'a Inherited<'a>, umask: u32) {
    let mut state = State::new(inherited, umask);
    for (number, step) in steps.iter().enumerate() {
        state.step = number;
        if let Err(fail) = execute(&step.op, &mut state) {
            let Fail { call, errno, detail } = fail;
            inherited.report.update(|report| report.fail(stage, number, call, errno, detail.bytes()));
            // Only now: a filter that is loaded may end the process for looking into the file.
            if let Op::Exec { .. } = step.op {
                let why = program::diagnose(&state, errno);
                inherited.report.update(|report| report.explain(why.bytes()));
            }
            sys_process::exit(1);
        }
    }
}

/// Writes into the page that the stage's own clone3(2) failed, and ends the stage.
pub fn clone_failed(inherited: &Inherited<'_>, steps: usize, errno: Errno) -> ! {
    inherited.report.update(|report| report.fail(true, steps, "clone3", errno, b""));
    sys_process::exit(1)
}

fn execute<'a>(op: &'a Op, state: &mut State<'a>) -> Result<(), Fail> {
    match op {
        Op::ResetSignals => reset_signals(),
        Op::ForgetCaller => {
            crate::sys::start::forget_caller();
            Ok(())
        }
        Op::DieWithParent => die_with_parent(state),
        Op::OutliveParent => creds::prctl(libc::PR_SET_PDEATHSIG, 0, 0).map(drop).named("prctl(PR_SET_PDEATHSIG)"),
        Op::JoinNamespace { slot, flag, .. } => {
            let fd = inherited(state.inherited.fds[Slot::Namespace0 as usize + slot]);
            setns(fd, *flag).named("setns")
        }
        Op::JoinInit { flags } => setns(state.slot(Slot::Init), *flags).named("setns"),
        Op::Unshare { flags } => unshare(*flags).named("unshare"),
        Op::TimeOffsets { text } => {
            proc_write(state, c"self/timens_offsets", text.to_bytes(), "write /proc/self/timens_offsets")
        }
        Op::Await(request) => request_and_wait(state, *request),
        Op::BecomeRoot => credentials::become_root(),
        Op::ClearDumpable => creds::prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop).named("prctl(PR_SET_DUMPABLE)"),
        Op::SetDumpable => creds::prctl(libc::PR_SET_DUMPABLE, 1, 0).map(drop).named("prctl(PR_SET_DUMPABLE)"),
        Op::SessionKeyring { name } => session_keyring(name),
        Op::LoopbackUp => sys_process::loopback_up().named("ioctl(SIOCSIFFLAGS)"),
        Op::OomScoreAdj { value } => oom_score_adj(state, *value),
        Op::Sysctl { path, value } => sysctl(state, path, value),
        Op::Hostname { name } => sys_process::sethostname(name).named("sethostname"),
        Op::Domainname { name } => sys_process::setdomainname(name).named("setdomainname"),
        Op::Propagation { flags } => crate::sys::mount::set_propagation_of_all(*flags).named("mount_setattr"),
        Op::OpenRoot { path, private_parent } => root::open(state, path, *private_parent),
        Op::OpenPlainRoot { path } => root::open_plain(state, path),
        Op::CurrentRoot => root::open_plain(state, c"/"),
        Op::Mount(mount) => mount::mount(state, mount),
        Op::Device(device) => device::make(state, device),
        Op::DevLink { name, target } => device::link(state, name, target),
        Op::Terminal { size, console } => terminal::make(state, *size, *console),
        Op::Hook(hook) => hook::run(state, hook),
        Op::PivotRoot => root::pivot(state),
        Op::MoveRoot { cover } => root::move_root(state, cover),
        Op::Chroot => root::chroot(state),
        Op::RootPropagation { flags } => root::propagation(state, *flags),
        Op::Attributes { target, set, clear, propagation, recursive } => {
            let attr =
                MountAttr { attr_set: *set, attr_clr: *clear, propagation: *propagation, ..MountAttr::default() };
            mount::attributes(state, target, &attr, *recursive)
        }
        Op::Mask { path, label } => mount::mask(state, path, label.as_deref()),
        Op::Readonly { path } => mount::readonly(state, path),
        Op::ReadonlyRoot => root::readonly(state),
        Op::CreateCwd { path } => root::create_cwd(state, path),
        Op::Umask { mask } => {
            sys_process::umask(mask.unwrap_or(state.umask));
            Ok(())
        }
        Op::NewSession => sys_process::setsid().named("setsid"),
        Op::Rlimit { resource, soft, hard, .. } => sys_process::prlimit(0, *resource, *soft, *hard).named("prlimit"),
        Op::HardLimit { resource, hard, .. } => sys_process::raise_hard_limit(0, *resource, *hard).named("prlimit"),
        Op::Scheduler(attr) => sched::sched_setattr(attr).named("sched_setattr"),
        Op::IoPriority { class, level } => sched::ioprio_set(*class, *level).named("ioprio_set"),
        Op::MemoryPolicy { mode, flags, nodes } => sched::set_mempolicy(mode | flags, nodes).named("set_mempolicy"),
        Op::Personality { persona } => sched::personality(*persona).named("personality"),
        Op::Affinity { cpus } => sched::sched_setaffinity(cpus).named("sched_setaffinity"),
        Op::NoNewPrivileges => {
            creds::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop).named("prctl(PR_SET_NO_NEW_PRIVS)")
        }
        Op::BoundingSet { keep, last } => creds::drop_bounding(*keep, *last).named("prctl(PR_CAPBSET_DROP)"),
        Op::User { uid, gid, groups, keep } => credentials::user(*uid, *gid, groups.as_deref(), *keep),
        Op::Capabilities { sets, ambient, extra } => credentials::capabilities(*sets, *ambient, *extra),
        Op::Cwd { path, last } => root::enter_cwd(state, path, *last),
        Op::Home { uid } => program::home(state, *uid),
        Op::FindProgram { candidates, .. } => program::find(state, candidates),
        Op::ExecLabel { file, value } => proc_write(state, file, value.to_bytes(), "write /proc/self/attr"),
        Op::LandlockRuleset(ruleset) => landlock::begin(state, ruleset),
        Op::LandlockPath { path, access } => landlock::allow_path(state, path, *access),
        Op::LandlockPort { port, access } => landlock::allow_port(state, *port, *access),
        Op::LandlockRestrict => landlock::restrict(state),
        Op::AwaitStart => await_start(state),
        Op::CloseDescriptors { from } => close_descriptors(state, *from),
        Op::Seccomp(filter) => seccomp(state, filter),
        Op::Exec { args, env } => program::exec(state, args, env),
    }
}

fn reset_signals() -> Result<(), Fail> {
    sigaction::default_all();
    sigaction::unblock_all().named("rt_sigprocmask")
}

/// A parent that died before this is seen by the end of file on its socket.
fn die_with_parent(state: &State<'_>) -> Result<(), Fail> {
    creds::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).named("prctl(PR_SET_PDEATHSIG)")?;
    match crate::sys::clone::peek_end(state.slot(Slot::Parent)) {
        true => Err(Fail::new("recv", Errno::EPIPE).because("the runtime is gone")),
        false => Ok(()),
    }
}

fn request_and_wait(state: &State<'_>, request: Request) -> Result<(), Fail> {
    let socket = state.slot(Slot::Parent);
    path::write_all_at_once(socket, &[request as u8]).named("write to the runtime")?;
    let mut answer = [0u8; 1];
    match path::read(socket, &mut answer).named("read from the runtime")? {
        1 if answer[0] == GO => Ok(()),
        _ => Err(Fail::new("read from the runtime", Errno::EPIPE).because("the runtime is gone")),
    }
}

/// Has the parent open the source of the bind mount that is this step.
fn source_from_parent(state: &State<'_>) -> Result<OwnedFd, Fail> {
    let socket = state.slot(Slot::Parent);
    path::write_all_at_once(socket, &protocol::source(state.step)).named("write to the runtime")?;
    match crate::sys::socket::receive_file(socket).named("recvmsg from the runtime")? {
        (GO, Some(file)) => Ok(file),
        _ => Err(Fail::new("recvmsg from the runtime", Errno::EPIPE).because("the runtime is gone")),
    }
}

/// `KEY_POS_ALL` stays; search for the owner is added as runc does, so that keyctl(1) inside finds its own keys.
fn session_keyring(name: &CStr) -> Result<(), Fail> {
    const USER_SEARCH: u32 = 0x0008_0000;
    const POSSESSOR_ALL_USER_VIEW_READ: u32 = 0x3f03_0000;
    let key = match creds::join_session_keyring(name) {
        Ok(key) => key,
        // A kernel without keyrings, or an outer seccomp filter that says so, has none to leak.
        Err(Errno::ENOSYS) => return Ok(()),
        Err(errno) => return Err(Fail::new("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", errno)),
    };
    match creds::set_key_permissions(key, POSSESSOR_ALL_USER_VIEW_READ | USER_SEARCH) {
        Ok(()) | Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(Fail::new("keyctl(KEYCTL_SETPERM)", errno)),
    }
}

/// Writes a file of the host's procfs, which the parent opened and verified before the clone; `call` is the write.
fn proc_write(state: &State<'_>, file: &CStr, bytes: &[u8], call: &'static str) -> Result<(), Fail> {
    let resolve = path::RESOLVE_BENEATH | path::RESOLVE_NO_MAGICLINKS | path::RESOLVE_NO_XDEV;
    let file = path::openat2(state.slot(Slot::Proc), file, libc::O_WRONLY, 0, resolve).named("openat2 /proc/self")?;
    path::write_all_at_once(file.as_fd(), bytes).named(call)
}

fn oom_score_adj(state: &State<'_>, value: i32) -> Result<(), Fail> {
    let mut text = Text::new();
    text.number(i64::from(value));
    proc_write(state, c"self/oom_score_adj", text.bytes(), "write /proc/self/oom_score_adj")
}

fn sysctl(state: &State<'_>, path: &CStr, value: &CStr) -> Result<(), Fail> {
    let resolve = path::RESOLVE_BENEATH | path::RESOLVE_NO_SYMLINKS | path::RESOLVE_NO_XDEV;
    let sys = path::openat2(state.slot(Slot::Proc), c"sys", libc::O_PATH | libc::O_DIRECTORY, 0, resolve)
        .named("openat2 /proc/sys")?;
    let file = path::openat2(sys.as_fd(), path, libc::O_WRONLY, 0, resolve).named("openat2 /proc/sys")?;
    path::write_all_at_once(file.as_fd(), value.to_bytes()).named("write /proc/sys")
}

/// The fifo is open for reading and writing, so the read waits for `start` and sees no end of file.
fn await_start(state: &State<'_>) -> Result<(), Fail> {
    let mut byte = [0u8; 1];
    path::read(state.slot(Slot::ExecFifo), &mut byte).named("read exec.fifo").map(drop)
}

/// Closes all but the socket and the fifo, whose end of file tells the other side of the execve, and the two files in memory
/// of the hooks: a descriptor that is only marked close-on-exec can still be named as `/proc/self/fd/N` in the execve
/// (CVE-2024-21626), and one of the host's is a way out for who may trace a process that waits for `start`. Those that are
/// kept are nothing that a path could lead out by.
fn close_descriptors(state: &State<'_>, from: u32) -> Result<(), Fail> {
    let slots = [Slot::Parent, Slot::ExecFifo, Slot::HookState, Slot::HookOutput];
    let mut kept = slots.map(|slot| state.inherited.fds[slot as usize]);
    kept.sort_unstable();
    let mut first = from;
    for fd in kept {
        if fd >= 0 && fd as u32 >= from {
            if fd as u32 > first {
                sys_process::close_range(first, fd as u32 - 1, false).named("close_range")?;
            }
            first = fd as u32 + 1;
        }
    }
    sys_process::close_range(first, u32::MAX, false).named("close_range")
}

fn load(filter: &SeccompOp) -> SysResult<i32> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let program = libc::sock_fprog { len: filter.program.len() as u16, filter: filter.program.as_ptr().cast_mut() };
    crate::sys::seccomp(SECCOMP_SET_MODE_FILTER, filter.flags, &program)
}

/// Loads the filter. With a listener, its number lies in the page until the parent has taken it: the filter may forbid
/// every call that could send it.
fn seccomp(state: &State<'_>, filter: &SeccompOp) -> Result<(), Fail> {
    let report = state.inherited.report;
    report.update(|report| report.executing = 1);
    let listener = load(filter).map_err(|errno| {
        report.update(|report| report.executing = 0);
        Fail::new("seccomp(SECCOMP_SET_MODE_FILTER)", errno)
    })?;
    if !filter.notify {
        return Ok(());
    }
    report.update(|report| report.listener = listener as u32 + 1);
    // No call may be made, not even to look at a clock: some minutes of turns are the bound.
    for _ in 0..1u64 << 32 {
        if report.get().taken != 0 {
            return Ok(());
        }
        std::hint::spin_loop();
    }
    Err(Fail::new("pidfd_getfd", Errno::ETIMEDOUT).because("nobody has taken the seccomp listener"))
}
