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
