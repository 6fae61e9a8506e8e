//! A process's own attributes, and its end in execve(2) or _exit(2).

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::{SysResult, check};

/// Strings as execve(2) takes them: a null-terminated array of pointers, made before the clone, with room for one more.
#[derive(Debug, Default)]
pub struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<Cell<*const c_char>>,
}

impl StringArray {
    /// Takes the strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let ends = [Cell::new(std::ptr::null()), Cell::new(std::ptr::null())];
        let pointers = strings.iter().map(|string| Cell::new(string.as_ptr())).chain(ends).collect();
        Self { strings, pointers }
    }

    /// The strings themselves.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// Puts one more string at the end. It must live until the execve.
    fn append(&self, string: &CStr) {
        if let Some(last) = self.pointers.get(self.strings.len()) {
            last.set(string.as_ptr());
        }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr().cast()
    }
}

impl Clone for StringArray {
    fn clone(&self) -> Self {
        Self::new(self.strings.clone())
    }
}

impl PartialEq for StringArray {
    fn eq(&self, other: &Self) -> bool {
        self.strings == other.strings
    }
}

impl Eq for StringArray {}

/// execve(2): returns only when it fails. `extra` is one more environment string, set when the configuration leaves it
/// out (`HOME`).
pub fn execve(path: &CStr, argv: &StringArray, envp: &StringArray, extra: Option<&CStr>) -> Errno {
    if let Some(extra) = extra {
        envp.append(extra);
    }
    // SAFETY: both arrays are null-terminated and point at NUL-terminated strings that live through the call.
    let answer = check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) });
    answer.err().unwrap_or(Errno::UnknownErrno)
}

/// execveat(2) `AT_EMPTY_PATH` of the file that `file` is open on: returns only when it fails.
pub fn execveat(file: BorrowedFd<'_>, argv: &StringArray, envp: &StringArray) -> Errno {
    // SAFETY: both arrays are null-terminated and point at NUL-terminated strings; the path is an empty static string.
    let answer = check(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    });
    answer.err().unwrap_or(Errno::UnknownErrno)
}

/// _exit(2): no destructor, no buffer of the parent's is run or flushed.
pub fn exit(status: i32) -> ! {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_exit_group, status) };
    // Only a seccomp filter can have denied it; abort(3) ends in an instruction that no filter sees.
    std::process::abort()
}

/// close_range(2): closes `first..=last`, or only marks them close-on-exec.
pub fn close_range(first: u32, last: u32, cloexec_only: bool) -> SysResult<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    let flags = if cloexec_only { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: no memory is passed; the caller ends in execve, so no owner of a closed number lives on.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// setsid(2).
pub fn setsid() -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setsid) }).map(drop)
}

/// umask(2): the mask before.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail, no memory is passed.
    unsafe { libc::syscall(libc::SYS_umask, mask) as u32 }
}

/// sethostname(2).
pub fn sethostname(name: &CStr) -> SysResult<()> {
    // SAFETY: `name` is readable for its length.
    check(unsafe { libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// setdomainname(2).
pub fn setdomainname(name: &CStr) -> SysResult<()> {
    // SAFETY: `name` is readable for its length.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// kill(2) of `child`, which must be a child that was not waited for, so that nobody else can have its number: the way that is left
/// where an outer filter denies pidfd_send_signal(2).
pub fn kill_child(child: i32, signal: i32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_kill, child, signal) }).map(drop)
}

/// kill(2) of the group that `leader` was made to lead with `SIGKILL`, and of `leader`, which may have left it by setpgid(2). It must
/// be a child that was not waited for, so that nobody else can have its number.
pub fn kill_group(leader: i32) -> SysResult<()> {
    // SAFETY: no memory is passed. A group of nobody is no failure.
    unsafe { libc::syscall(libc::SYS_kill, -leader, libc::SIGKILL) };
    kill_child(leader, libc::SIGKILL)
}

/// prlimit64(2) of `pid` (0: the caller).
pub fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives through the call; the old limit is not asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    })
    .map(drop)
}

/// prlimit64(2) of `pid` (0: the caller): raises the hard limit where it is lower, and leaves the soft one as it is.
pub fn raise_hard_limit(pid: i32, resource: u32, hard: u64) -> SysResult<()> {
    let (soft, now) = getrlimit(pid, resource)?;
    if now < hard { prlimit(pid, resource, soft, hard) } else { Ok(()) }
}

/// prlimit64(2) of `pid` (0: the caller) without a change: the soft and the hard limit.
pub fn getrlimit(pid: i32, resource: u32) -> SysResult<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable and lives through the call; no new limit is passed.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit)
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// dup3(2) onto `to`, which is not close-on-exec afterwards; nothing to do when it is the same number. For a process after the
/// clone, which ends in execve.
pub fn dup_onto(from: BorrowedFd<'_>, to: i32) -> SysResult<()> {
    if from.as_raw_fd() == to {
        // SAFETY: no memory is passed.
        return check(unsafe { libc::syscall(libc::SYS_fcntl, to, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: no memory is passed; the caller ends in execve, so no owner of a replaced number lives on.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) }).map(drop)
}

/// fcntl(2) `F_DUPFD_CLOEXEC`: a copy with the lowest number that is free from `least` on.
pub fn dup_from(fd: BorrowedFd<'_>, least: i32) -> SysResult<std::os::fd::OwnedFd> {
    // SAFETY: no memory is passed.
    super::check_fd(unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })
}

/// netdevice(7): sets `IFF_UP` on `lo` of the current network namespace.
pub fn loopback_up() -> SysResult<()> {
    // SAFETY: no memory is passed.
    let socket = super::check_fd(unsafe {
        libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: `request` is an ifreq and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) }).map(drop)
}

/// poll(2) for `POLLIN`: true when it came before `milliseconds` were over (-1: without end).
pub fn poll_in(fd: BorrowedFd<'_>, milliseconds: i32) -> SysResult<bool> {
    poll_for(fd, libc::POLLIN, milliseconds)
}

/// poll(2) for nothing but the end of the other side.
pub fn poll_hangup(fd: BorrowedFd<'_>, milliseconds: i32) -> SysResult<bool> {
    poll_for(fd, 0, milliseconds)
}

fn poll_for(fd: BorrowedFd<'_>, events: i16, milliseconds: i32) -> SysResult<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    loop {
        // SAFETY: one pollfd, which lives through the call.
        match check(unsafe { libc::syscall(libc::SYS_poll, &raw mut poll, 1, milliseconds) }) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|ready| ready > 0),
        }
    }
}

/// poll(2) for `POLLIN` of two: which of them have something to read or their other side's end, false for both when
/// `milliseconds` are over.
pub fn poll_two(one: BorrowedFd<'_>, other: BorrowedFd<'_>, milliseconds: i32) -> SysResult<(bool, bool)> {
    let poll = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls = [poll(one), poll(other)];
    // SAFETY: two pollfds, which live through the call.
    match check(unsafe { libc::syscall(libc::SYS_poll, &raw mut polls, 2, milliseconds) }) {
        Err(Errno::EINTR) | Ok(0) => Ok((false, false)),
        answer => answer.map(|_| (polls[0].revents != 0, polls[1].revents != 0)),
    }
}

/// pidfd_send_signal(2) of `SIGKILL`.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: no siginfo is passed.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<u8>(), 0)
    })
    .map(drop)
}

/// wait4(2) of one child: its wait status.
pub fn wait_status(pid: i32) -> SysResult<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable through the call; no usage is asked for.
        let answer = check(unsafe {
            libc::syscall(libc::SYS_wait4, pid, &raw mut status, 0, std::ptr::null_mut::<libc::rusage>())
        });
        match answer {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|_| status),
        }
    }
}

/// pidfd_open(2) (kernel 5.3).
pub fn pidfd_open(pid: i32) -> SysResult<std::os::fd::OwnedFd> {
    // SAFETY: no memory is passed.
    super::check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_getfd(2) (kernel 5.6): a copy of descriptor `number` of another process.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> SysResult<std::os::fd::OwnedFd> {
    // SAFETY: no memory is passed.
    super::check_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// Lets `command` begin with no signal blocked: std's Command passes the caller's mask on, and a foreground runtime has
/// blocked them all.
pub fn unblock_signals(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    let unblock = || super::sigaction::unblock_all().map_err(std::io::Error::from);
    // SAFETY: between fork and execve only one raw system call is made.
    unsafe { command.pre_exec(unblock) }
}

/// Gives back the memory of what a long-lived process has done once and does not do again: pages of code and constants, which come
/// from the file when they are used, the part of the stack that is below the caller's, and what is free of the heap.
pub fn forget_what_is_done() {
    const PAGE: usize = 4096;
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize & !(PAGE - 1));
    // Every page there is of a read-only mapping of the file (headers, constants, code; the linker puts what is written after
    // etext), so it is as it was when it comes again.
    // SAFETY: the range is this program's own image, see above.
    unsafe { libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED) };
    let here = 0u8;
    let here = &raw const here as usize & !(PAGE - 1);
    const DEPTH: usize = 1 << 20;
    // ENOMEM says that a part of it was never used, and is not mapped.
    // SAFETY: what is below this function's frame, a page left between, is nobody's: there is one thread and one stack.
    unsafe { libc::madvise((here - DEPTH) as *mut libc::c_void, DEPTH - 2 * PAGE, libc::MADV_DONTNEED) };
    // SAFETY: the C library's own.
    unsafe { libc::malloc_trim(0) };
}
