//! Device nodes and the links of `/dev`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::root::{lookup, parent_of};
use super::{Fail, Named, State};
use crate::plan::op::Device;
use crate::sys::{mount, path};

/// A node of its own, or the host's bound where mknod(2) is not allowed.
pub(super) fn make(state: &mut State<'_>, device: &Device) -> Result<(), Fail> {
    let (directory, name) = parent_of(state.root()?, &device.path)?;
    if device.path.to_bytes().starts_with(b"/dev/") && !device.path.to_bytes()[5..].contains(&b'/') {
        still_dev(state, directory.as_fd())?;
    }
    let name = name.as_cstr();
    if device.bind {
        return bind(directory.as_fd(), name, device);
    }
    let number = libc::makedev(device.major, device.minor);
    match path::mknodat(directory.as_fd(), name, device.mode, number) {
        Ok(()) => path::fchownat(directory.as_fd(), name, device.uid, device.gid).named("fchownat"),
        Err(Errno::EEXIST) => same(directory.as_fd(), name, device),
        Err(Errno::EPERM) if device.mode & libc::S_IFMT != libc::S_IFIFO => bind(directory.as_fd(), name, device),
        Err(errno) => Err(Fail::new("mknodat", errno)),
    }
}

/// What was mounted on `/dev` must still be what is found there: an alias in the image can cover it (I-05).
fn still_dev(state: &State<'_>, directory: BorrowedFd<'_>) -> Result<(), Fail> {
    match state.dev_mount {
        Some(made) if path::mount_id(directory).named("statx")? != made => {
            Err(Fail::new("statx", Errno::EXDEV).because("another mount covers /dev"))
        }
        _ => Ok(()),
    }
}

/// A file that is already there serves only if it is that very device.
fn same(directory: BorrowedFd<'_>, name: &CStr, device: &Device) -> Result<(), Fail> {
    let stat = path::lstatat(directory, name).named("fstatat")?;
    let kind = device.mode & libc::S_IFMT;
    let number = kind == libc::S_IFIFO || stat.st_rdev == libc::makedev(device.major, device.minor);
    if stat.st_mode & libc::S_IFMT == kind && number {
        return Ok(());
    }
    Err(Fail::new("mknodat", Errno::EEXIST).because("the file that is there is another one"))
}

fn bind(directory: BorrowedFd<'_>, name: &CStr, device: &Device) -> Result<(), Fail> {
    let host = path::openat(path::CWD, &device.path, libc::O_PATH | libc::O_NOFOLLOW, 0).named("open on the host")?;
    let stat = path::fstat(host.as_fd()).named("fstat")?;
    if stat.st_mode & libc::S_IFMT != device.mode & libc::S_IFMT
        || stat.st_rdev != libc::makedev(device.major, device.minor)
    {
        return Err(Fail::new("fstat", Errno::ENODEV).because("the host has another device there"));
    }
    let target = path::create_empty(directory, name, false).named("openat2")?;
    let tree = mount::open_tree(host.as_fd(), c"", false).named("open_tree")?;
    mount::move_mount(tree.as_fd(), target.as_fd()).named("move_mount")
}

/// `/dev/<name>` to `target`; a link or file that the image brought stays, as in runc, but for `ptmx`.
pub(super) fn link(state: &mut State<'_>, name: &CStr, target: &CStr) -> Result<(), Fail> {
    let dev = dev(state)?;
    if name == c"ptmx" {
        match path::unlinkat(dev.as_fd(), name, 0) {
            Ok(()) | Err(Errno::ENOENT | Errno::EROFS) => {}
            Err(errno) => return Err(Fail::new("unlinkat", errno)),
        }
    }
    match path::symlinkat(target, dev.as_fd(), name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Fail::new("symlinkat", errno)),
    }
}

/// `/dev` below the root, never what a link of the image makes of it (CVE-2026-41579, CVE-2026-47766).
pub(super) fn dev(state: &State<'_>) -> Result<OwnedFd, Fail> {
    let dev = lookup(state.root()?, c"/dev", libc::O_DIRECTORY).named("openat2 /dev")?;
    still_dev(state, dev.as_fd())?;
    Ok(dev)
}
