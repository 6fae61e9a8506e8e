//! The end of a program of the host's that the runtime waits for, in bounded time.

use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};

use nix::errno::Errno;

use crate::sys::process::{kill_group, pidfd_open, poll_in};

/// Waits for a program that leads a process group of its own (`CommandExt::process_group`). None: its time was over, and it
/// was killed with its group.
///
/// # Errors
/// The call that failed. Where that is not kill(2), nothing of it goes on.
pub fn wait(child: &mut Child, milliseconds: i32) -> Result<Option<ExitStatus>, (&'static str, Errno)> {
    let id = child.id() as i32;
    // Where poll(2) fails its time is taken to be over.
    let in_time = pidfd_open(id).map(|pidfd| poll_in(pidfd.as_fd(), milliseconds).unwrap_or(false));
    let in_time = in_time.map_err(|errno| ("pidfd_open", errno));
    if !matches!(in_time, Ok(true)) {
        // Its group is its own, and its leader is not waited for yet.
        kill_group(id).map_err(|errno| ("kill", errno))?;
    }
    let status = child.wait().map_err(|error| ("wait4", crate::host::errno(&error)))?;
    in_time.map(|in_time| in_time.then_some(status))
}
