//! Files of a cgroup, opened below its directory and nowhere else.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::NixPath;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::unistd;

/// Opens `path` below `dir` with `flags`. Nothing leads out of it: no `..`, no link, no other mount (GHSA-5g49-rx9x-qfc6).
pub fn open<P: ?Sized + NixPath>(dir: BorrowedFd, path: &P, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    loop {
        match openat2(dir, path, how) {
            // A rename or mount elsewhere came between (openat2(2)).
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
}

/// Opens the cgroup `path` below `dir`: a handle for what takes a directory descriptor.
pub fn open_dir<P: ?Sized + NixPath>(dir: BorrowedFd, path: &P) -> nix::Result<OwnedFd> {
    open(dir, path, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

/// Reads the whole of a file.
pub fn read(dir: BorrowedFd, name: &str) -> nix::Result<String> {
    read_fd(&open(dir, name, OFlag::O_RDONLY)?)
}

/// Reads an open file from where it stands to its end.
pub fn read_fd(fd: &OwnedFd) -> nix::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match unistd::read(fd, &mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes `value` to a file in one write(2).
pub fn write(dir: BorrowedFd, name: &str, value: &str) -> nix::Result<()> {
    let fd = open(dir, name, OFlag::O_WRONLY)?;
    loop {
        match unistd::write(&fd, value.as_bytes()) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

/// The cgroups directly below `dir`. A container may give its own any name, also one that is not UTF-8.
pub fn children(dir: BorrowedFd) -> nix::Result<Vec<CString>> {
    entries(dir, Type::Directory)
}

/// The files of `dir`.
pub fn files(dir: BorrowedFd) -> nix::Result<Vec<String>> {
    Ok(entries(dir, Type::File)?.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

fn entries(dir: BorrowedFd, kind: Type) -> nix::Result<Vec<CString>> {
    let mut listing = Dir::from_fd(open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(kind) && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// `mkdirat(2)` with the mode that runc gives cgroups.
pub fn mkdir(dir: BorrowedFd, name: &str) -> nix::Result<()> {
    nix::sys::stat::mkdirat(dir, name, Mode::from_bits_truncate(0o755))
}

/// `unlinkat(2)` with AT_REMOVEDIR.
pub fn rmdir<P: ?Sized + NixPath>(dir: BorrowedFd, name: &P) -> nix::Result<()> {
    unistd::unlinkat(dir, name, unistd::UnlinkatFlags::RemoveDir)
}
