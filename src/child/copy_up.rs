//! `tmpcopyup`: what the image has at a tmpfs's target is copied into it before it is attached.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::{Fail, Named};
use crate::sys::path::{self, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS};

/// Directories below each other; a deeper tree is an error rather than a stack overflow.
const DEPTH: usize = 64;

pub(super) fn copy(root: BorrowedFd<'_>, target: &CStr, into: BorrowedFd<'_>) -> Result<(), Fail> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let from = path::openat2(root, target, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS).named("openat2")?;
    let to = path::openat2(into, c".", flags, 0, RESOLVE_BENEATH).named("openat2")?;
    directory(from.as_fd(), to.as_fd(), DEPTH)
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Fail> {
    if depth == 0 {
        return Err(Fail::new("mkdirat", Errno::ENAMETOOLONG).because("tmpcopyup: more than 64 directories deep"));
    }
    let mut buffer = [0u8; 4096];
    loop {
        let length = path::getdents64(from, &mut buffer).named("getdents64")?;
        if length == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < length {
            // struct linux_dirent64: u64 ino, i64 off, u16 reclen, u8 type, name.
            let size = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = CStr::from_bytes_until_nul(&buffer[at + 19..at + size]).unwrap_or(c".");
            if name != c"." && name != c".." {
                entry(from, to, name, depth)?;
            }
            at += size;
        }
    }
}

/// One file: its type, mode and owner. Sockets are left out, as nobody listens on the copy.
fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Fail> {
    let stat = path::lstatat(from, name).named("fstatat")?;
    let mode = stat.st_mode & 0o7777;
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            path::mkdirat(to, name, 0o700).named("mkdirat")?;
            let below = path::openat2(from, name, flags | libc::O_DIRECTORY, 0, resolve).named("openat2")?;
            let copy = path::openat2(to, name, flags | libc::O_DIRECTORY, 0, resolve).named("openat2")?;
            directory(below.as_fd(), copy.as_fd(), depth - 1)?;
            path::fchown(copy.as_fd(), stat.st_uid, stat.st_gid).named("fchown")?;
            path::fchmod(copy.as_fd(), mode).named("fchmod")
        }
        libc::S_IFREG => {
            // Another may have put a fifo in its place since.
            let source = path::openat2(from, name, flags | libc::O_NONBLOCK, 0, resolve).named("openat2")?;
            if path::fstat(source.as_fd()).named("fstat")?.st_mode & libc::S_IFMT != libc::S_IFREG {
                return Err(Fail::new("fstat", Errno::ESTALE).because("tmpcopyup: a file was exchanged meanwhile"));
            }
            let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            let copy = path::openat2(to, name, create, 0o600, resolve).named("openat2")?;
            path::copy_contents(source.as_fd(), copy.as_fd()).named("write")?;
            path::fchown(copy.as_fd(), stat.st_uid, stat.st_gid).named("fchown")?;
            path::fchmod(copy.as_fd(), mode).named("fchmod")
        }
        libc::S_IFLNK => {
            let mut buffer = [0u8; 4097];
            let length = path::readlinkat(from, name, &mut buffer[..4096]).named("readlinkat")?.len();
            buffer[length] = 0;
            let text = CStr::from_bytes_until_nul(&buffer).unwrap_or(c"");
            path::symlinkat(text, to, name).named("symlinkat")?;
            path::fchownat(to, name, stat.st_uid, stat.st_gid).named("fchownat")
        }
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO => {
            path::mknodat(to, name, stat.st_mode, stat.st_rdev).named("mknodat")?;
            path::fchownat(to, name, stat.st_uid, stat.st_gid).named("fchownat")
        }
        _ => Ok(()),
    }
}
