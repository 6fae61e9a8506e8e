//! From a failure's number to what a person, or a caller that matches on texts, reads.

use nix::errno::Errno;

use super::protocol::Failure;
use crate::cgroup::Cgroup;
use crate::error::{Error, errno_text};
use crate::plan::Plan;
use crate::plan::op::{Op, Step};

mod hint;

pub use hint::{NAMESPACE_LIMIT, NO_NAMESPACE, confined, lacks};

/// runc's words before every failure of the container's process.
const START: &str = "unable to start container process";

/// The error of a failed operation.
pub fn failure(plan: &Plan, failure: &Failure) -> Error {
    let list = if failure.stage { &plan.stage } else { &plan.child };
    match list.get(failure.op) {
        Some(step) => of_step(plan, step, failure),
        None => Error::new(format!("{START}: make the process in the joined namespaces"))
            .call(failure.call.clone(), failure.errno)
            .at("/linux/namespaces"),
    }
}

/// The same where the operation is not known.
pub fn unplanned(failure: &Failure) -> Error {
    let text = if failure.detail.is_empty() { "what follows start has failed" } else { &failure.detail };
    Error::new(format!("{START}: {text}")).call(failure.call.clone(), failure.errno)
}

fn of_step(plan: &Plan, step: &Step, failure: &Failure) -> Error {
    let error = match &step.op {
        Op::FindProgram { name, .. } => not_found(&name.to_string_lossy(), failure),
        Op::Exec { args, .. } => {
            let name = args.strings().first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let mut text = format!("{START}: exec {name}: {}", errno_text(failure.errno));
            if !failure.detail.is_empty() {
                text = format!("{text}: {}", failure.detail);
            }
            Error { errno: None, ..Error::new(text) }
        }
        Op::Hook(hook) => {
            let why = if failure.detail.is_empty() { errno_text(failure.errno) } else { failure.detail.clone() };
            Error::new(format!("{START}: error running {} hook #{}: {why}", hook.kind, hook.index))
        }
        op => {
            let mut text = format!("{START}: {op}");
            if !failure.detail.is_empty() {
                text = format!("{text}: {}", failure.detail);
            }
            Error::new(text).call(failure.call.clone(), failure.errno)
        }
    };
    let error = if step.from.is_empty() { error } else { error.at(step.from.clone()) };
    match hint::of(plan, &step.op, failure) {
        Some(hint) if error.hint.is_none() => error.hint(hint),
        _ => error,
    }
}

/// Go's words, by which docker and podman tell 126 from 127.
fn not_found(name: &str, failure: &Failure) -> Error {
    let errno = failure.errno;
    let nowhere = !name.contains('/') && matches!(errno, Errno::ENOENT | Errno::ENOTDIR);
    let why = match errno {
        _ if nowhere => "executable file not found in $PATH".to_owned(),
        Errno::ENOENT | Errno::ENOTDIR => format!("stat {name}: {}", errno_text(errno)),
        Errno::ELOOP => "the path leads through a magic link of procfs: permission denied".to_owned(),
        // Newer engines know the first words, older ones the others.
        Errno::EISDIR => "is a directory: permission denied".to_owned(),
        other => errno_text(other),
    };
    let error = Error::new(format!("{START}: exec: \"{name}\": {why}"));
    match errno {
        _ if nowhere => error.hint("process.env's PATH is searched inside the container"),
        Errno::EACCES => error.hint("no execute bit for the process's user, or a noexec mount"),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR => error,
        _ => error.call(failure.call.clone(), errno),
    }
}

/// What the cgroup of a process that is gone says of kills for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oom {
    /// The kernel has killed there, and nobody else was in it.
    Killed,
    /// It has killed so many there, of which the process may be one.
    Perhaps(u64),
    /// It has killed nobody.
    No,
    /// There is no cgroup with the memory controller.
    Unknown,
}

impl Oom {
    /// Of a cgroup in which there was nobody before the process.
    pub fn of_own(cgroup: Option<&Cgroup>) -> Self {
        match Self::of_shared(cgroup) {
            Self::Perhaps(_) => Self::Killed,
            other => other,
        }
    }

    /// Of a cgroup with others in it.
    pub fn of_shared(cgroup: Option<&Cgroup>) -> Self {
        match cgroup.and_then(|cgroup| cgroup.new_oom_kills().ok()?) {
            Some(0) => Self::No,
            Some(kills) => Self::Perhaps(kills),
            None => Self::Unknown,
        }
    }

    /// What helps who knows no more than that the process is gone.
    fn hint(self) -> Option<String> {
        match self {
            Self::Killed => Some("the kernel's OOM killer was it (memory.events): raise the memory limit".to_owned()),
            Self::Perhaps(kills) => Some(format!(
                "the kernel has killed {kills} of the container's processes for want of memory (memory.events): the memory limit \
                 may be too low"
            )),
            Self::No => None,
            Self::Unknown => {
                Some("its cgroup counts no OOM kills: the kernel's log tells whether it was one".to_owned())
            }
        }
    }
}

/// Who kills beside the OOM killer.
const KILLERS: &str = "somebody killed it; or everything in this process's own cgroup was killed before (cgroup.kill), which \
    Linux 6.18 does to its children elsewhere as well";

/// The process is gone and has left no word; its status, where it was our child.
pub fn died(status: Option<i32>, oom: Oom) -> Error {
    let signal = status.filter(|status| libc::WIFSIGNALED(*status)).map(|status| libc::WTERMSIG(status));
    let error = match signal {
        Some(libc::SIGKILL) | None if oom == Oom::Killed => {
            Error::new(format!("{START}: container init was OOM-killed (memory limit too low?)"))
        }
        Some(signal) => Error::new(format!("{START}: the process was ended by signal {signal} before its execve")),
        None => Error::new(format!("{START}: the process ended before its execve")),
    };
    let hint = match signal {
        Some(libc::SIGSYS) => Some("the seccomp profile kills execve".to_owned()),
        Some(libc::SIGKILL) if oom != Oom::Killed => {
            Some(oom.hint().map_or_else(|| KILLERS.to_owned(), |hint| format!("{hint}; else {KILLERS}")))
        }
        Some(libc::SIGKILL) | None => oom.hint(),
        Some(_) => None,
    };
    Error { hint, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_has_counted_is_an_oom_kill() {
        let of_signal = |signal: i32, oom| died(Some(signal), oom).to_string();
        assert!(
            of_signal(libc::SIGKILL, Oom::Killed).contains("container init was OOM-killed (memory limit too low?)")
        );
        for oom in [Oom::No, Oom::Unknown, Oom::Perhaps(2)] {
            let said = of_signal(libc::SIGKILL, oom);
            assert!(said.contains("ended by signal 9") && !said.contains("OOM-killed"), "{oom:?}: {said}");
        }
        assert!(of_signal(libc::SIGKILL, Oom::Perhaps(2)).contains("has killed 2 of the container's processes"));
        assert!(of_signal(libc::SIGSEGV, Oom::Killed).ends_with("ended by signal 11 before its execve"));
        assert!(died(None, Oom::Perhaps(1)).to_string().contains("memory limit"));
        assert!(!died(None, Oom::No).to_string().contains("memory"));
    }
}
