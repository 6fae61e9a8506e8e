//! Files by descriptor: openat2(2) and the *at calls.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{SysResult, check, check_fd};

/// `RESOLVE_NO_XDEV` of openat2(2).
pub const RESOLVE_NO_XDEV: u64 = 0x01;
/// `RESOLVE_NO_MAGICLINKS` of openat2(2).
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// `RESOLVE_NO_SYMLINKS` of openat2(2).
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
/// `RESOLVE_BENEATH` of openat2(2).
pub const RESOLVE_BENEATH: u64 = 0x08;
/// `RESOLVE_IN_ROOT` of openat2(2).
pub const RESOLVE_IN_ROOT: u64 = 0x10;

/// The current directory, for the *at calls.
pub const CWD: BorrowedFd<'static> = at_fdcwd();

const fn at_fdcwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is no descriptor that could be closed; every *at call knows it.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// Borrows a descriptor number, 0 or more, that the parent left open for us, for the rest of the process's life.
pub fn inherited(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the plan's slots stay open until the execve; a number that is not open makes the next call answer EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// openat2(2); `O_CLOEXEC` is added. EAGAIN (a rename raced with `..`) is retried a bounded number of times.
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: u64) -> SysResult<OwnedFd> {
    // SAFETY: all-zero is a valid open_how.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    for _ in 0..128 {
        // SAFETY: `path` is NUL-terminated, `how` has the size that is passed, both live through the call.
        let opened = check_fd(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match opened {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            answer => return answer,
        }
    }
    Err(Errno::EAGAIN)
}

/// openat(2) of a path on the host, which is trusted; `O_CLOEXEC` is added.
pub fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> SysResult<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and lives through the call.
    check_fd(unsafe { libc::syscall(libc::SYS_openat, dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// Opens a directory of the host by `O_PATH`.
pub fn open_dir(path: &CStr) -> SysResult<OwnedFd> {
    openat(CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// mkdirat(2).
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> SysResult<()> {
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_mkdirat, dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// mknodat(2); `mode` holds the file type.
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> SysResult<()> {
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_mknodat, dir.as_raw_fd(), name.as_ptr(), mode, device) }).map(drop)
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> SysResult<()> {
    // SAFETY: both strings are NUL-terminated and live through the call.
    check(unsafe { libc::syscall(libc::SYS_symlinkat, target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// readlinkat(2) into `buffer`: the part of it that the link's text fills.
pub fn readlinkat<'a>(dir: BorrowedFd<'_>, name: &CStr, buffer: &'a mut [u8]) -> SysResult<&'a [u8]> {
    // SAFETY: `buffer` is writable for the length that is passed.
    let length = check(unsafe {
        libc::syscall(libc::SYS_readlinkat, dir.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(&buffer[..length as usize])
}

/// unlinkat(2).
pub fn unlinkat(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> SysResult<()> {
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_unlinkat, dir.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

/// fchownat(2) of the file itself, never of what a link points at. With an empty `name`, of `dir` (which may be `O_PATH`).
pub fn fchownat(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> SysResult<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_fchownat, dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) }).map(drop)
}

/// fchown(2).
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_fchown, fd.as_raw_fd(), uid, gid) }).map(drop)
}

/// fsetxattr(2): makes or replaces an extended attribute.
pub fn fsetxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> SysResult<()> {
    // SAFETY: `name` is NUL-terminated and `value` is readable for its length; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_fsetxattr, fd.as_raw_fd(), name.as_ptr(), value.as_ptr(), value.len(), 0) })
        .map(drop)
}

/// fchmod(2).
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_fchmod, fd.as_raw_fd(), mode) }).map(drop)
}

/// fstat(2).
pub fn fstat(fd: BorrowedFd<'_>) -> SysResult<libc::stat> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable and lives through the call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat)
}

/// fstatat(2) without following a link at the end.
pub fn lstatat(dir: BorrowedFd<'_>, name: &CStr) -> SysResult<libc::stat> {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable, `name` NUL-terminated; both live through the call.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW) }.into())?;
    Ok(stat)
}

/// statx(2) `STATX_MNT_ID`: the id of the mount that `fd` lies on (kernel 5.8).
pub fn mount_id(fd: BorrowedFd<'_>) -> SysResult<u64> {
    const STATX_MNT_ID: u32 = 0x1000;
    // SAFETY: all-zero is a valid statx.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty static string; `statx` is writable and lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_statx, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID, &raw mut statx)
    })?;
    Ok(statx.stx_mnt_id)
}

/// fstatfs(2): the magic number of the file system.
pub fn fstatfs(fd: BorrowedFd<'_>) -> SysResult<i64> {
    // SAFETY: all-zero is a valid statfs.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `statfs` is writable and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_fstatfs, fd.as_raw_fd(), &raw mut statfs) })?;
    Ok(statfs.f_type)
}

/// faccessat2(2) with `AT_EACCESS`: may this process, as it is now, do what `mode` says (`R_OK`, `W_OK`, `X_OK`) to `path`?
pub fn access(dir: BorrowedFd<'_>, path: &CStr, mode: i32) -> SysResult<()> {
    // SAFETY: `path` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_faccessat2, dir.as_raw_fd(), path.as_ptr(), mode, libc::AT_EACCESS) })
        .map(drop)
}

/// [`access`] for execution.
pub fn executable(dir: BorrowedFd<'_>, path: &CStr) -> SysResult<()> {
    access(dir, path, libc::X_OK)
}

/// read(2), retried on EINTR.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> SysResult<usize> {
    loop {
        // SAFETY: `buffer` is writable for the length that is passed.
        match check(unsafe { libc::syscall(libc::SYS_read, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) }) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|length| length as usize),
        }
    }
}

/// write(2), retried on EINTR; may write less than asked for.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> SysResult<usize> {
    loop {
        // SAFETY: `bytes` is readable for the length that is passed.
        match check(unsafe { libc::syscall(libc::SYS_write, fd.as_raw_fd(), bytes.as_ptr(), bytes.len()) }) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|length| length as usize),
        }
    }
}

/// Writes all of `bytes` in one write(2), as files of procfs and cgroupfs want it; a short write is EIO.
pub fn write_all_at_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> SysResult<()> {
    if write(fd, bytes)? == bytes.len() { Ok(()) } else { Err(Errno::EIO) }
}

/// getdents64(2) into `buffer`: how many bytes of records there are, 0 at the end.
pub fn getdents64(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> SysResult<usize> {
    // SAFETY: `buffer` is writable for the length that is passed.
    check(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
        .map(|length| length as usize)
}

/// copy_file_range(2) with a fall-back to read and write, until the end of `from`.
pub fn copy_contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> SysResult<()> {
    let mut buffer = [0u8; 16384];
    loop {
        let length = read(from, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = write(to, rest)?;
            rest = &rest[written..];
        }
    }
}

/// fchdir(2).
pub fn fchdir(dir: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_fchdir, dir.as_raw_fd()) }).map(drop)
}

/// chroot(2) to the current directory.
pub fn chroot_dot() -> SysResult<()> {
    // SAFETY: the path is a static string.
    check(unsafe { libc::syscall(libc::SYS_chroot, c".".as_ptr()) }).map(drop)
}

/// getcwd(2) as the system call gives it: `(unreachable)...` when the directory is not below the root.
pub fn getcwd(buffer: &mut [u8]) -> SysResult<&[u8]> {
    // SAFETY: `buffer` is writable for the length that is passed.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(&buffer[..(length as usize).saturating_sub(1)])
}

/// flock(2), retried on EINTR: the lock belongs to the open file, and goes when its last descriptor is closed.
pub fn flock(file: BorrowedFd<'_>, operation: i32) -> SysResult<()> {
    loop {
        // SAFETY: no memory is passed.
        match check(unsafe { libc::syscall(libc::SYS_flock, file.as_raw_fd(), operation) }) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(drop),
        }
    }
}

/// mkfifoat(3).
pub fn mkfifoat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> SysResult<()> {
    mknodat(dir, name, libc::S_IFIFO | mode, 0)
}

/// Makes `name` in `dir` a file or directory that was not there before, and opens it by `O_PATH`.
pub fn create_empty(dir: BorrowedFd<'_>, name: &CStr, directory: bool) -> SysResult<OwnedFd> {
    if directory {
        match mkdirat(dir, name, 0o755) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        return openat2(dir, name, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0, RESOLVE_BENEATH);
    }
    let file =
        openat2(dir, name, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW, 0o644, RESOLVE_BENEATH);
    match file {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat2(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0, RESOLVE_BENEATH)
}

/// pread(2).
pub fn pread(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> SysResult<usize> {
    // SAFETY: `buffer` is writable for the length that is passed.
    check(unsafe { libc::syscall(libc::SYS_pread64, file.as_raw_fd(), buffer.as_mut_ptr(), buffer.len(), offset) })
        .map(|length| length as usize)
}

/// lseek(2) to the beginning.
pub fn rewind(file: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_lseek, file.as_raw_fd(), 0, libc::SEEK_SET) }).map(drop)
}
