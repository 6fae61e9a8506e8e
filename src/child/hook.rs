//! Hooks that run in the container's namespaces: createContainer and startContainer.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{Fail, Named, State, Text};
use crate::plan::op::{Hook, Slot};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::{SysResult, creds, path, process};

/// What holds the container's own program holds its hook.
fn confine(hook: &Hook) -> SysResult<()> {
    if let Some(filter) = &hook.seccomp {
        super::load(filter)?;
    }
    match hook.capabilities {
        Some(sets) => creds::capset(sets),
        None => Ok(()),
    }
}

/// Runs one hook, with the state on its standard input and its output to the parent, for at most its time.
pub(super) fn run(state: &State<'_>, hook: &Hook) -> Result<(), Fail> {
    let input = state.slot(Slot::HookState);
    let output = state.slot(Slot::HookOutput);
    path::rewind(input).named("lseek")?;
    let (pid, pidfd) = match clone3(0, None).named("clone3")? {
        Cloned::Child => {
            // A session and so a group of its own, which ends with it when its time is over.
            if process::setsid().is_err() {
                process::exit(127);
            }
            // As runc has it: what such a hook changes is the root file system, and its state does not name that.
            if hook.kind == "createContainer" {
                // Set-up goes on without a mask; the hook's files are not part of it.
                process::umask(state.umask);
                if state.root().map_or(true, |root| path::fchdir(root).is_err()) {
                    process::exit(127);
                }
            }
            for (from, to) in [(input, 0), (output, 1), (output, 2)] {
                if process::dup_onto(from, to).is_err() {
                    process::exit(127);
                }
            }
            // What the runtime's caller left open is nothing for a program of the container.
            if process::close_range(3, u32::MAX, true).is_err() {
                process::exit(127);
            }
            if confine(hook).is_err() {
                process::exit(127);
            }
            let errno = process::execve(&hook.path, &hook.args, &hook.env, None);
            say_why(&hook.path, errno);
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

/// The hook could not be executed: that is its output.
fn say_why(hook: &CStr, errno: Errno) {
    let mut text = Text::new();
    text.push(b"exec ");
    text.push(hook.to_bytes());
    text.push(b": ");
    text.push(errno.desc().as_bytes());
    // Nobody is left to hear of a failure.
    let _ = path::write_all_at_once(path::inherited(2), text.bytes());
}
