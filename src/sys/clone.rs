//! Processes and namespaces: clone3(2), setns(2), unshare(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::unistd::Pid;

use super::{SysResult, check};

/// `CLONE_INTO_CGROUP` of clone3(2).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone3`] returned, and to whom.
pub enum Cloned {
    /// In the parent: the new process and its pidfd.
    Parent(Pid, OwnedFd),
    /// In the new process.
    Child,
}

/// clone3(2) without `CLONE_VM`: the new process has its own copy of memory, as after fork(2).
///
/// `flags` are `CLONE_*` beyond `CLONE_PIDFD`; with `cgroup` the process is born in that cgroup (`CLONE_INTO_CGROUP`,
/// kernel 5.7). With `CLONE_PARENT` the exit signal is the caller's own.
///
/// The caller must be single-threaded, or the child must do nothing but async-signal-safe work: that is what
/// `child/` is for.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> SysResult<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets its own copy of the address space and of the stack, like fork(2).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD has stored a descriptor that is ours alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(Pid::from_raw(pid as i32), pidfd))
}

/// setns(2) with an nsfs descriptor (one namespace) or a pidfd (several, kernel 5.8).
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags) }).map(drop)
}

/// unshare(2).
pub fn unshare(flags: i32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// ioctl_ns(2) `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of an nsfs descriptor (kernel 4.11).
pub fn ns_get_nstype(fd: BorrowedFd<'_>) -> SysResult<i32> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: this ioctl takes no argument.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), NS_GET_NSTYPE, 0) }).map(|kind| kind as i32)
}

/// recv(2) `MSG_PEEK | MSG_DONTWAIT`: has the other side of the socket gone?
pub fn peek_end(socket: BorrowedFd<'_>) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one byte is writable through the call; no address is asked for.
    let answer = check(unsafe {
        libc::syscall(libc::SYS_recvfrom, socket.as_raw_fd(), &raw mut byte, 1, flags, std::ptr::null::<u8>(), 0)
    });
    answer == Ok(0)
}
