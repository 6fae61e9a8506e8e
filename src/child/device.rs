//! Device nodes and the links of `/dev`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::root::{lookup_or_create, parent_of};
use super::{Fail, Named, State};
use crate::plan::op::Device;
use crate::sys::{mount, path};

/// A node of its own, or the host's bound where mknod(2) is not allowed.
pub(super) fn make(state: &mut State<'_>, device: &Device) -> Result<(), Fail> {
    match device.path.to_bytes_with_nul().strip_prefix(b"/dev/").map(CStr::from_bytes_with_nul) {
        Some(Ok(name)) if !name.is_empty() && !name.to_bytes().contains(&b'/') && !is_dots(name) => {
            let dev = dev(state)?;
            node(dev, name, device)
        }
        _ => {
            let (directory, name) = parent_of(state.root()?, &device.path)?;
            node(directory.as_fd(), name.as_cstr(), device)
        }
    }
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

fn node(directory: BorrowedFd<'_>, name: &CStr, device: &Device) -> Result<(), Fail> {
    if device.bind {
        return bind(directory, name, device);
    }
    let number = libc::makedev(device.major, device.minor);
    match path::mknodat(directory, name, device.mode, number) {
        // What root makes is root's.
        Ok(()) if device.uid == 0 && device.gid == 0 => Ok(()),
        Ok(()) => path::fchownat(directory, name, device.uid, device.gid).named("fchownat"),
        Err(Errno::EEXIST) => same(directory, name, device),
        Err(Errno::EPERM) if device.mode & libc::S_IFMT != libc::S_IFIFO => bind(directory, name, device),
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
        match path::unlinkat(dev, name, 0) {
            Ok(()) | Err(Errno::ENOENT | Errno::EROFS) => {}
            Err(errno) => return Err(Fail::new("unlinkat", errno)),
        }
    }
    match path::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Fail::new("symlinkat", errno)),
    }
}

/// `/dev` below the root, never what a link of the image makes of it (CVE-2026-41579, CVE-2026-47766). It is looked up
/// and verified once, after the last mount.
pub(super) fn dev<'a>(state: &'a mut State<'_>) -> Result<BorrowedFd<'a>, Fail> {
    if state.dev.is_none() {
        let dev = lookup_or_create(state.root()?, c"/dev", true).named("openat2 /dev")?;
        still_dev(state, dev.as_fd())?;
        state.dev = Some(dev);
    }
    state.dev.as_ref().map(AsFd::as_fd).ok_or_else(|| Fail::new("openat2", Errno::EBADF))
}
