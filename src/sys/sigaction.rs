//! Signal dispositions and masks of the new process.

use super::{SysResult, check};

/// The kernel's own `struct sigaction`, all-zero: `SIG_DFL`.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Sets every signal to its default action: what the caller ignored or handled is nothing to the container.
pub fn default_all() {
    let default = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for signal in (1..=64).filter(|signal| *signal != libc::SIGKILL && *signal != libc::SIGSTOP) {
        // SAFETY: `default` has the kernel's layout and lives through the call; the old action is not asked for.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelSigaction>(),
                size_of::<u64>(),
            )
        };
    }
}

/// rt_sigprocmask(2) `SIG_SETMASK` to the empty set.
pub fn unblock_all() -> SysResult<()> {
    let none = 0u64;
    // SAFETY: `none` is a kernel sigset and lives through the call; the old mask is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
    .map(drop)
}
