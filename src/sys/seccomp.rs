use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// seccomp(2): `operation` is a `SECCOMP_*`, `flags` are `SECCOMP_FILTER_FLAG_*`; returns the listener's descriptor
/// with `NEW_LISTENER`, else 0. Allocates nothing, so a child after clone(2) may call it.
///
/// # Errors
/// `EACCES` without `no_new_privs` and `CAP_SYS_ADMIN`, `EINVAL` for a program that the kernel's checker refuses or an
/// unknown flag, `ESRCH` (`TSYNC_ESRCH`) when a thread cannot take the filter, `ENOSYS` before Linux 3.17. With `TSYNC`
/// alone a positive value is the id of such a thread.
pub fn seccomp(operation: u32, flags: u32, program: &libc::sock_fprog) -> Result<i32, Errno> {
    // SAFETY: `program` outlives the call; it is the caller's duty that its pointer and length name valid
    // instructions, and the kernel copies them with its own checks, so that a bad pointer is EFAULT.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, program as *const libc::sock_fprog) };
    Errno::result(result).map(|result| result as i32)
}

/// seccomp(2) `SECCOMP_GET_ACTION_AVAIL` (Linux 4.14): whether the kernel knows the return value `action`.
///
/// # Errors
/// `EOPNOTSUPP` when it does not; anything else when it can't be asked.
pub fn seccomp_action_available(action: u32) -> Result<(), Errno> {
    const SECCOMP_GET_ACTION_AVAIL: u32 = 2;
    // SAFETY: the kernel reads one u32, which `action` is.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) }).map(drop)
}

/// Whether the kernel knows a flag of `SECCOMP_SET_MODE_FILTER`. A filter at no address is never loaded: what the kernel
/// does not know is `EINVAL` (the error), and of what it knows it comes as far as the address (`EFAULT`).
pub fn seccomp_flag_known(flag: libc::c_ulong) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    // WAIT_KILLABLE_RECV is taken beside NEW_LISTENER alone.
    let flags = match flag {
        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV => flag | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
        _ => flag,
    };
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel checks the address before it reads from it.
    match Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, none) }) {
        Err(Errno::EFAULT) => Ok(()),
        answer => answer.map(drop),
    }
}

/// A call that waits for an agent's answer (seccomp_unotify(2)).
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// What the answer names it by.
    pub id: u64,
    /// `seccomp_data.arch`.
    pub arch: u32,
    /// `seccomp_data.nr`.
    pub number: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// ioctl(2) `SECCOMP_IOCTL_NOTIF_RECV`: the next call that waits.
///
/// # Errors
/// `ENOENT`: its process was killed meanwhile; `EINTR`.
pub fn notify_receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100;
    // SAFETY: all-zero is a valid seccomp_notif, and the kernel wants it zeroed.
    let mut heard: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable and as large as the number of the ioctl says.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut heard) })?;
    let data = heard.data;
    Ok(Notification { id: heard.id, arch: data.arch, number: data.nr as u32, args: data.args })
}

/// ioctl(2) `SECCOMP_IOCTL_NOTIF_SEND`: the call goes on (Linux 5.5), or fails with `error`.
///
/// # Errors
/// `ENOENT`: its process was killed meanwhile.
pub fn notify_answer(listener: BorrowedFd<'_>, id: u64, error: Option<Errno>) -> Result<(), Errno> {
    const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101;
    const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
    let flags = if error.is_none() { SECCOMP_USER_NOTIF_FLAG_CONTINUE } else { 0 };
    let error = error.map_or(0, |errno| -(errno as i32));
    let mut said = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the structure is as large as the number of the ioctl says.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut said) }).map(drop)
}
