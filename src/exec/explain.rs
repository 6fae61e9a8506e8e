//! From a failure's number to what a person, or a caller that matches on texts, reads.

use nix::errno::Errno;

use super::protocol::Failure;
use crate::error::{Error, errno_text};
use crate::plan::Plan;
use crate::plan::op::{Op, Step};

mod hint;

pub use hint::lacks;

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
        Errno::EISDIR => "is a directory".to_owned(),
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

/// The process is gone and has left no word.
pub fn died(status: Option<i32>) -> Error {
    match status {
        Some(status) if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL => {
            Error::new(format!("{START}: container init was OOM-killed (memory limit too low?)"))
                .hint(
                    "or it was killed by a signal: the kernel's log tells; or everything in this process's own cgroup was killed \
                     before (cgroup.kill), which Linux 6.18 does to its children elsewhere as well",
                )
        }
        Some(status) if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            let error = Error::new(format!("{START}: the process was ended by signal {signal} before its execve"));
            if signal == libc::SIGSYS { error.hint("the seccomp profile kills execve") } else { error }
        }
        _ => Error::new(format!("{START}: the process ended before its execve")),
    }
}
