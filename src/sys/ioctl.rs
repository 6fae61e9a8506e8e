//! ioctl(2) on terminals and pipes, see ioctl_tty(2) and pipe(7).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;

/// The size of the terminal `tty` in characters.
///
/// ENOTTY: `tty` is not a terminal.
pub fn tiocgwinsz(tty: BorrowedFd) -> Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(size)
}

/// How many bytes the pipe `pipe` holds.
pub fn fionread(pipe: BorrowedFd) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which `bytes` is.
    Errno::result(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sets the size of the terminal `tty`; its foreground process group gets SIGWINCH when that is a change.
///
/// ENOTTY: `tty` is not a terminal.
pub fn tiocswinsz(tty: BorrowedFd, size: &libc::winsize) -> Result<()> {
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` points to.
    Errno::result(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) }).map(drop)
}

/// The number N of the slave /dev/pts/N that belongs to the pseudo-terminal master `master`.
///
/// ENOTTY: `master` is not the master of a pseudo-terminal.
pub fn tiocgptn(master: BorrowedFd) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int, which `number` is.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    Ok(number)
}
