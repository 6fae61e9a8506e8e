//! The only unsafe code: one function per system call, named after it.
//!
//! Everything here may be called after the clone: nothing allocates, locks or panics. File descriptors come back owned
//! and close-on-exec; strings go in as `&CStr`; errors come out as [`Errno`].

use std::ffi::c_long;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

pub mod alloc_guard;
pub mod bpf;
pub mod clone;
pub mod creds;
#[cfg(target_arch = "x86_64")]
pub mod first;
pub mod ioctl;
pub mod landlock;
pub mod mount;
pub mod path;
pub mod pidfd;
pub mod process;
pub mod sched;
mod seccomp;
pub mod shared;
pub mod sigaction;
pub mod signal;
pub mod socket;
pub mod start;
pub mod terminal;

pub use alloc_guard::after_clone;
pub use seccomp::{notify_answer, notify_receive, seccomp, seccomp_action_available, seccomp_flag_known};

/// The result of one system call.
pub type SysResult<T> = Result<T, Errno>;

fn check(returned: c_long) -> SysResult<c_long> {
    if returned < 0 { Err(Errno::last()) } else { Ok(returned) }
}

fn check_fd(returned: c_long) -> SysResult<OwnedFd> {
    let fd = check(returned)?;
    // SAFETY: the kernel has just handed out this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
