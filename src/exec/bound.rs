//! The end of a program of the host's that the runtime waits for, in bounded time.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};

use nix::errno::Errno;

use crate::sys::process::{kill_group, pidfd_open, poll_in};

/// Waits for a program that leads a process group of its own (`CommandExt::process_group`). None: its time was over, and it
/// was killed with its group.
///
/// # Errors
/// The call that failed. Where that is not kill(2), nothing of it goes on.
pub fn wait(child: &mut Child, milliseconds: i32) -> Result<Option<ExitStatus>, (&'static str, Errno)> {
    wait_by(child, milliseconds, &mut poll)
}

/// Waits for a descriptor alone. Where poll(2) fails its time is taken to be over.
pub fn poll(pidfd: BorrowedFd<'_>, milliseconds: i32) -> bool {
    poll_in(pidfd, milliseconds).unwrap_or(false)
}

/// What waits until a descriptor is ready for reading, so many milliseconds; false: it was not.
pub type Wait<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, i32) -> bool;

/// The same, by a wait that does something meanwhile.
///
/// # Errors
/// Likewise.
pub fn wait_by(
    child: &mut Child,
    milliseconds: i32,
    wait: Wait<'_>,
) -> Result<Option<ExitStatus>, (&'static str, Errno)> {
    let id = child.id() as i32;
    let in_time = pidfd_open(id).map(|pidfd| wait(pidfd.as_fd(), milliseconds));
    let in_time = in_time.map_err(|errno| ("pidfd_open", errno));
    if !matches!(in_time, Ok(true)) {
        // Its group is its own, and its leader is not waited for yet.
        kill_group(id).map_err(|errno| ("kill", errno))?;
    }
    let status = child.wait().map_err(|error| ("wait4", crate::host::errno(&error)))?;
    in_time.map(|in_time| in_time.then_some(status))
}
