//! Hooks that run in the container's namespaces: createContainer and startContainer.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::{Fail, Named, State, Text};
use crate::plan::op::{Hook, Slot};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::{creds, path, process};

/// Runs one hook, with the state on its standard input and its output to the parent, for at most its time.
pub(super) fn run(state: &State<'_>, hook: &Hook) -> Result<(), Fail> {
    let input = state.slot(Slot::HookState);
    let output = state.slot(Slot::HookOutput);
    path::rewind(input).named("lseek")?;
    let (pid, pidfd) = match clone3(0, None).named("clone3")? {
        Cloned::Child => {
            let fail = become_hook(state, hook);
            say_why(output, &fail);
            process::exit(127)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    let milliseconds = i32::try_from(u64::from(hook.timeout) * 1000).unwrap_or(i32::MAX);
    let ended = process::poll_in(pidfd.as_fd(), milliseconds).named("poll")?;
    if !ended {
        process::kill_group(pid.as_raw()).named("kill")?;
    }
    let status = process::wait_status(pid.as_raw()).named("wait4")?;
    if !ended {
        let mut fail = Fail::new("poll", Errno::ETIMEDOUT).because("killed after ");
        fail.detail.number(i64::from(hook.timeout));
        return Err(fail.because(" s"));
    }
    if status == 0 {
        return Ok(());
    }
    let (what, value) = if libc::WIFSIGNALED(status) {
        ("signal ", libc::WTERMSIG(status))
    } else {
        ("exit status ", libc::WEXITSTATUS(status))
    };
    let mut fail = Fail::new("wait4", Errno::ECHILD).because(what);
    fail.detail.number(i64::from(value));
    Err(fail)
}

/// Ends in the hook's program. It comes back only with what has failed.
fn become_hook(state: &State<'_>, hook: &Hook) -> Fail {
    match prepare(state, hook) {
        Ok(()) => {
            Fail::new("exec ", process::execve(&hook.path, &hook.args, &hook.env, None)).with(hook.path.to_bytes())
        }
        Err(fail) => fail,
    }
}

fn prepare(state: &State<'_>, hook: &Hook) -> Result<(), Fail> {
    // A session and so a group of its own, which ends with it when its time is over.
    process::setsid().named("setsid")?;
    // As runc has it: what such a hook changes is the root file system, and its state does not name that.
    if hook.kind == "createContainer" {
        // Set-up goes on without a mask; the hook's files are not part of it.
        process::umask(state.umask);
        path::fchdir(state.root()?).named("fchdir")?;
    }
    let output = state.slot(Slot::HookOutput);
    for (from, to) in [(state.slot(Slot::HookState), 0), (output, 1), (output, 2)] {
        process::dup_onto(from, to).named("dup3")?;
    }
    // What the runtime's caller left open is nothing for a program of the container.
    process::close_range(3, u32::MAX, true).named("close_range")?;
    // What holds the container's own program holds its hook.
    if let Some(filter) = &hook.seccomp {
        super::load(filter).named("seccomp(SECCOMP_SET_MODE_FILTER)")?;
    }
    match hook.capabilities {
        Some(sets) => creds::capset(sets).named("capset"),
        None => Ok(()),
    }
}

/// The hook could not be executed: that is its output.
fn say_why(output: BorrowedFd<'_>, fail: &Fail) {
    let mut text = Text::new();
    text.push(fail.call.as_bytes());
    text.push(fail.detail.bytes());
    text.push(b": ");
    let words = fail.errno.desc().as_bytes();
    text.push(&[words.first().map_or(b'?', u8::to_ascii_lowercase)]);
    text.push(words.get(1..).unwrap_or_default());
    // Nobody is left to hear of a failure.
    let _ = path::write_all_at_once(output, text.bytes());
}
