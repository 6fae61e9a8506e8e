//! One clone, and the conversation until the execve or the wait for `start`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use super::explain;
use super::listener::Agent;
use super::protocol::{GO, QUESTION, Question, Report, Staged};
use crate::child::{self, Inherited, SLOTS};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::op::{Op, Request, Slot};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::path as sys;
use crate::sys::process::{kill_child, pidfd_kill, pidfd_open, poll_in, wait_status};
use crate::sys::shared::Shared;
use crate::sys::socket;

/// What the set-up of a container may take beside its hooks' own time.
const BOUND: Duration = Duration::from_secs(120);

/// A process of ours, with what later steps need of it.
#[derive(Debug)]
pub struct Process {
    /// Its pid as we see it.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

impl Process {
    /// Ends the process, and takes its status so that nothing is left of it.
    pub fn kill(&self) {
        kill(self.pid, &self.pidfd);
    }
}

fn kill(pid: Pid, pidfd: &OwnedFd) {
    if !matches!(pidfd_kill(pidfd.as_fd()), Ok(()) | Err(Errno::ESRCH)) {
        let _ = kill_child(pid.as_raw(), libc::SIGKILL);
    }
    if poll_in(pidfd.as_fd(), 10_000).unwrap_or(false) {
        let _ = wait_status(pid.as_raw());
    }
}

/// The container's process, and the conversation with it.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid as we see it.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    socket: OwnedFd,
}

/// Descriptors for the child, by slot. They belong to the caller.
#[derive(Debug, Clone)]
pub struct Slots {
    fds: [RawFd; SLOTS],
    kept: RawFd,
}

impl Default for Slots {
    fn default() -> Self {
        Self { fds: [-1; SLOTS], kept: -1 }
    }
}

impl Slots {
    /// Puts a descriptor into a slot.
    pub fn set(&mut self, slot: Slot, fd: BorrowedFd<'_>) {
        self.fds[slot as usize] = fd.as_raw_fd();
    }

    /// Names a descriptor that stays the parent's alone: the child closes it first. A flock(2) belongs to all that share
    /// its open file, so a child that waits for `start` would hold on to the lock of a runtime that was killed.
    pub fn keep_from_child(&mut self, fd: BorrowedFd<'_>) {
        self.kept = fd.as_raw_fd();
    }

    /// Puts a namespace into the slot of its place among those that are joined.
    pub fn set_namespace(&mut self, index: usize, fd: BorrowedFd<'_>) {
        self.fds[Slot::Namespace0 as usize + index] = fd.as_raw_fd();
    }
}

/// Clones the process of `plan`. The child runs; the parent goes on with [`Spawned::serve`].
///
/// # Errors
/// clone3(2) itself, or a failure of the stage.
pub fn spawn(
    plan: &Plan,
    mut slots: Slots,
    trees: &[OwnedFd],
    report: &Shared<Report>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Spawned> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::new("make the socket to the child").call("socketpair", errno))?;
    slots.set(Slot::Parent, theirs.as_fd());
    let trees: Vec<RawFd> = trees.iter().map(AsRawFd::as_raw_fd).collect();
    let staged_pid =
        Shared::<Staged>::anonymous().map_err(|errno| Error::new("make the shared page").call("mmap", errno))?;
    let inherited = Inherited { fds: slots.fds, trees: &trees, report, staged: &staged_pid };
    let staged = !plan.stage.is_empty();
    let flags = if staged { 0 } else { plan.clone_flags };
    let (pid, pidfd) = match clone3(flags, cgroup).map_err(|errno| clone_error(plan, errno))? {
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
        Cloned::Child => {
            crate::sys::after_clone();
            // With a copy of it the child would never see the end of file that a killed runtime leaves.
            drop(ours);
            if let Ok(fd) = u32::try_from(slots.kept) {
                // It fails only for a number that is not open.
                let _ = crate::sys::process::close_range(fd, fd, false);
            }
            in_child(plan, staged, &inherited)
        }
    };
    drop(theirs);
    if !staged {
        return Ok(Spawned { pid, pidfd, socket: ours });
    }
    let (pid, pidfd) = after_stage(plan, pid, &pidfd, report, &staged_pid)?;
    Ok(Spawned { pid, pidfd, socket: ours })
}

fn in_child(plan: &Plan, staged: bool, inherited: &Inherited<'_>) -> ! {
    // Asked once: the child of a stage would find the stage's empty one.
    let umask = crate::sys::process::umask(0);
    if staged {
        child::run(&plan.stage, true, inherited, umask);
        match clone3(plan.clone_flags | libc::CLONE_PARENT as u64, None) {
            Err(errno) => child::clone_failed(inherited, plan.stage.len(), errno),
            Ok(Cloned::Parent(pid, _)) => {
                inherited.staged.update(|staged| staged.pid = pid.as_raw());
                crate::sys::process::exit(0)
            }
            Ok(Cloned::Child) => {}
        }
    }
    child::run(&plan.child, false, inherited, umask);
    // A plan ends in Exec, which does not return.
    crate::sys::process::exit(1)
}

/// The stage ends as soon as it has cloned; the container's process is our child (CLONE_PARENT).
fn after_stage(
    plan: &Plan,
    stage: Pid,
    pidfd: &OwnedFd,
    report: &Shared<Report>,
    staged: &Shared<Staged>,
) -> Result<(Pid, OwnedFd)> {
    let ended = poll_in(pidfd.as_fd(), BOUND.as_millis() as i32).unwrap_or(false);
    if !ended {
        let _ = pidfd_kill(pidfd.as_fd());
    }
    let _ = wait_status(stage.as_raw());
    let pid = staged.get().pid;
    if pid == 0 {
        return Err(match report.get().failure() {
            Some(failure) => explain::failure(plan, &failure),
            None => Error::new("unable to start container process: the stage process was killed"),
        });
    }
    // Not yet waited for, so the number is still that process's.
    let pidfd =
        pidfd_open(pid).map_err(|errno| Error::new("open the container's process").call("pidfd_open", errno))?;
    Ok((Pid::from_raw(pid), pidfd))
}

const NO_USERNS: &str = "root rights are missing, or user namespaces are not allowed here (user.max_user_namespaces, \
    kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)";

fn clone_error(plan: &Plan, errno: Errno) -> Error {
    let error = Error::new("unable to start container process: make the process and its namespaces")
        .call(format!("clone3({})", crate::plan::show::clone_flags(plan.clone_flags)), errno)
        .at("/linux/namespaces");
    match errno {
        Errno::EPERM => {
            let root = nix::unistd::geteuid().is_root();
            let missing = explain::lacks(caps::Capability::CAP_SYS_ADMIN).filter(|_| root);
            let confined =
                || explain::confined().map_or_else(|| NO_USERNS.to_owned(), |by| format!("{NO_USERNS}; or {by}"));
            error.hint(missing.unwrap_or_else(confined))
        }
        Errno::ENOSPC => error.hint(explain::NAMESPACE_LIMIT),
        Errno::EAGAIN => error.hint("pids.max of a cgroup above, or RLIMIT_NPROC, is reached"),
        Errno::EINVAL => error.hint(explain::NO_NAMESPACE),
        Errno::ENOSYS => error.hint("clone3 needs Linux 5.3, and an outer seccomp profile that allows it"),
        _ => error,
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The child has made everything and waits for `start`.
    Ready,
    /// The program has been executed.
    Executed,
    /// The process is gone and has left no word: its status, if it could be taken.
    Died(Option<i32>),
}

impl Spawned {
    /// Answers the child's questions, with what `answer` returns sent along, until it is ready (`until_ready`) or
    /// its program runs.
    ///
    /// # Errors
    /// What `answer` returned; what the child reported; too long a silence.
    pub fn serve(
        &self,
        plan: &Plan,
        report: &Shared<Report>,
        until_ready: bool,
        mut agent: Option<&mut Agent>,
        mut answer: impl FnMut(Question, &Spawned) -> Result<Option<OwnedFd>>,
    ) -> Result<Reached> {
        let deadline = Instant::now() + BOUND + hook_time(plan);
        loop {
            let wait = if agent.is_some() { 1 } else { remaining(deadline) };
            let heard = poll_in(self.socket.as_fd(), wait)
                .map_err(|errno| Error::new("wait for the child").call("poll", errno))?;
            if !heard {
                if let Some(agent) = agent.as_deref_mut() {
                    agent.look(report, self.pid, self.pidfd.as_fd())?;
                }
                if Instant::now() >= deadline {
                    return Err(Error::new("the container's process has not come to its execve in time")
                        .hint("a hook, or a file system that does not answer"));
                }
                continue;
            }
            let mut message = [0u8; QUESTION];
            let length = match sys::read(self.socket.as_fd(), &mut message) {
                // It died before it had read our last answer.
                Err(Errno::ECONNRESET) => 0,
                other => other.map_err(|errno| Error::new("hear the child").call("read", errno))?,
            };
            if length == 0 {
                return self.ended(plan, report);
            }
            let question = Question::of(message);
            let answered = match answer(question, self)? {
                None => sys::write_all_at_once(self.socket.as_fd(), &[GO]),
                Some(file) => socket::sendmsg(self.socket.as_fd(), &[GO], file.as_fd()),
            };
            answered.or_else(|errno| match errno {
                // It died while we worked: the next read tells why.
                Errno::EPIPE => Ok(()),
                errno => Err(Error::new("answer the child").call("write", errno)),
            })?;
            if question == Question::Planned(Request::Ready) && until_ready {
                return Ok(Reached::Ready);
            }
        }
    }

    fn ended(&self, plan: &Plan, report: &Shared<Report>) -> Result<Reached> {
        let seen = report.get();
        match seen.failure() {
            Some(failure) => Err(explain::failure(plan, &failure)),
            None if seen.executing != 0 => Ok(Reached::Executed),
            // Whatever keeps it, its socket is closed: there is nothing more to hear from it.
            None if !poll_in(self.pidfd.as_fd(), 1000).unwrap_or(false) => {
                Err(Error::new("the container's process has left the conversation, and has not ended"))
            }
            None => Ok(Reached::Died(wait_status(self.pid.as_raw()).ok())),
        }
    }

    /// Ends the process, and takes its status so that nothing is left of it.
    pub fn kill(&self) {
        kill(self.pid, &self.pidfd);
    }

    /// The process, when all has been said.
    pub fn into_process(self) -> Process {
        Process { pid: self.pid, pidfd: self.pidfd }
    }
}

fn remaining(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
    i32::try_from(left).unwrap_or(i32::MAX)
}

fn hook_time(plan: &Plan) -> Duration {
    let seconds = |op: &Op| if let Op::Hook(hook) = op { u64::from(hook.timeout) } else { 0 };
    Duration::from_secs(plan.child.iter().map(|step| seconds(&step.op)).sum())
}
