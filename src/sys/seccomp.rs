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
