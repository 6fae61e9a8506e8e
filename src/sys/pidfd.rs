//! Processes by file descriptor: pidfd_open(2), pidfd_send_signal(2), and waitid(2), which takes a pidfd too.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_long, id_t};
use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// Opens the process `pid`, a thread group leader (Linux 5.3). The descriptor closes on exec.
///
/// ESRCH: there is no such process. EINVAL: `pid` is not a thread group leader.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Sends signal number `signal` to the process `pidfd`, as kill(2) would (Linux 5.1).
///
/// The number is a plain integer, since real-time signals have no name. ESRCH: the process has ended. EPERM: not ours.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: c_int) -> Result<()> {
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the other arguments are integers.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    Errno::result::<c_long>(sent).map(drop)
}

/// How the process of a pidfd has ended, also for who is not its parent (`PIDFD_GET_INFO`, the status from Linux 6.15 on). None: it
/// has not ended, or has not been waited for by its parent yet. ENOTTY, EINVAL: the kernel is older.
pub fn exit_of(pidfd: BorrowedFd) -> Result<Option<End>> {
    /// `struct pidfd_info` in its first size, of Linux 6.13, with what 6.15 put into its end.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info)
    const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<Info>() as u64) << 16 | 0xFF << 8 | 11;
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the kernel reads and writes no more than the size that is in the number of the call.
    match Errno::result(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) }) {
        Err(Errno::ESRCH) => return Ok(None),
        other => other?,
    };
    let status = info.exit_code;
    let end = match status & 0x7f {
        0 => End::Exited(status >> 8 & 0xff),
        signal => End::Signaled(signal),
    };
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(end))
}

/// Which children [`waitid`] looks at.
#[derive(Debug, Clone, Copy)]
pub enum WaitId<'a> {
    /// Every child.
    All,
    /// The child with this process id.
    Pid(Pid),
    /// The child that this pidfd stands for (Linux 5.4).
    Pidfd(BorrowedFd<'a>),
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its process id.
    pub pid: Pid,
    /// How it ended.
    pub end: End,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// A signal of this number killed it. nix's `WaitStatus` has no place for the real-time ones.
    Signaled(c_int),
}

/// Waits for a child to end; `options` are WNOHANG, WNOWAIT and the like, WEXITED is implied.
///
/// None: WNOHANG was asked for and no child has ended. ECHILD: there is no such child. Restarts after EINTR.
pub fn waitid(id: WaitId, options: c_int) -> Result<Option<Ended>> {
    let (kind, number) = match id {
        WaitId::All => (libc::P_ALL, 0),
        WaitId::Pid(pid) => (libc::P_PID, pid.as_raw() as id_t),
        WaitId::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as id_t),
    };
    // __WALL: a clone that asked for another exit signal than SIGCHLD is a child too.
    let options = options | libc::WEXITED | libc::__WALL;
    // SAFETY: siginfo_t is plain integers, and all zeroes is the value that waitid(2) leaves for "nothing ended".
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t to `info`.
    while let Err(errno) = Errno::result(unsafe { libc::waitid(kind, number, &raw mut info, options) }) {
        if errno != Errno::EINTR {
            return Err(errno);
        }
    }
    // SAFETY: after waitid the fields of SIGCHLD are the valid ones, or all are zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let end = if info.si_code == libc::CLD_EXITED { End::Exited(status) } else { End::Signaled(status) };
    Ok((pid != 0).then_some(Ended { pid: Pid::from_raw(pid), end }))
}
