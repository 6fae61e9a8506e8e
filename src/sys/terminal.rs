//! Pseudo-terminals by descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{SysResult, check, check_fd};

/// ioctl_tty(2) `TIOCSPTLCK` 0: unlocks the peer of `master`.
pub fn unlockpt(master: BorrowedFd<'_>) -> SysResult<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: the ioctl reads one int, which lives through the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }).map(drop)
}

/// ioctl_tty(2) `TIOCGPTPEER`: opens the peer of `master` without a path (kernel 4.13; CVE-2025-52565).
pub fn peer(master: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    check_fd(unsafe { libc::syscall(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCGPTPEER, flags) })
}

/// ioctl_tty(2) `TIOCSWINSZ`.
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> SysResult<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a winsize and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// ioctl_tty(2) `TIOCSCTTY`: makes `terminal` the controlling terminal of this session.
pub fn set_controlling(terminal: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: the argument is an integer.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// fcntl(2) `F_SETFL` without `O_NONBLOCK`.
pub fn set_blocking(file: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: the argument is an integer.
    let flags = check(unsafe { libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), libc::F_GETFL) })?;
    let flags = flags & !i64::from(libc::O_NONBLOCK);
    // SAFETY: the argument is an integer.
    check(unsafe { libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}
