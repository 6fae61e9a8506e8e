//! The runtime's own binary, out of a container's reach.
//!
//! A process on its way into a container is a process of this binary, and so is a script of the container whose
//! interpreter is `/proc/self/exe`. Whoever opens `/proc/<pid>/exe` then, and waits for the process to end, can write to
//! the host's file, as root of the container even without a capability (CVE-2019-5736). So what enters a container runs
//! from a file that can't be written to: the binary seen through an overlay without an upper layer, or a sealed copy.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::FsFlags;

use crate::error::{Error, Result};
use crate::sys::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use crate::sys::path as sys;
use crate::sys::process::{StringArray, execveat};

const EXE: &str = "/proc/self/exe";
const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);
/// Says that this is the second try, so that a kernel which shows no seal ends in an error and not in a circle.
const TRIED: &str = "ORLOP_SEALED";

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("keep the runtime's binary from containers").call(call, errno)
}

/// Executes this binary once more from a file that nobody can write to, unless it is one already.
///
/// # Errors
/// There is no such file to be had: neither overlayfs nor memory for a copy.
pub fn ensure() -> Result<()> {
    let exe = File::open(EXE)
        .map_err(|error| failed("open(/proc/self/exe)", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    if is_sealed(&exe) {
        return Ok(());
    }
    if std::env::var_os(TRIED).is_some() {
        return Err(Error::new("the runtime's binary can be written to by containers").hint(format!("unset {TRIED}")));
    }
    let sealed = overlay(&exe).or_else(|_| copy(exe)).map_err(|errno| failed("memfd_create", errno))?;
    let strings =
        |list: Vec<Vec<u8>>| StringArray::new(list.into_iter().filter_map(|text| CString::new(text).ok()).collect());
    let args = strings(std::env::args_os().map(OsStringExt::into_vec).collect());
    let variable =
        |(name, value): (std::ffi::OsString, std::ffi::OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let tried = (TRIED.into(), "1".into());
    let env = strings(std::env::vars_os().chain([tried]).map(variable).collect());
    Err(failed("execveat", execveat(sealed.as_fd(), &args, &env)))
}

/// Asked of the kernel: a memfd with every seal, or a file of a read-only mount.
fn is_sealed(exe: &File) -> bool {
    let seals = fcntl(exe, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    seals.contains(SEALS) || fstatfs(exe).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

/// The binary in an overlay of its directory over an empty one, which costs no copy. Without an upper layer there is
/// nothing in it that could be made writable (overlayfs.rst); it is mounted nowhere, and goes with the last process.
fn overlay(exe: &File) -> std::result::Result<OwnedFd, Errno> {
    let path = std::fs::read_link(EXE).map_err(|_| Errno::ENOENT)?;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ENOENT) };
    let dir = sys::open_dir(&string(dir.as_os_str())?)?;
    let name = string(name)?;
    let (there, ours) = (sys::lstatat(dir.as_fd(), &name)?, exe.metadata().map_err(|_| Errno::EIO)?);
    if (there.st_dev, there.st_ino) != (ours.dev(), ours.ino()) {
        return Err(Errno::ESTALE);
    }
    let empty = fsopen(c"tmpfs")?;
    fsconfig_create(empty.as_fd())?;
    let empty = fsmount(empty.as_fd(), libc::MOUNT_ATTR_RDONLY)?;
    let overlay = fsopen(c"overlay")?;
    let layers = format!("/proc/self/fd/{}:/proc/self/fd/{}", dir.as_raw_fd(), empty.as_raw_fd());
    fsconfig_set_string(overlay.as_fd(), c"lowerdir", &string(OsStr::new(&layers))?)?;
    fsconfig_create(overlay.as_fd())?;
    let mount = fsmount(overlay.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)?;
    sys::openat(mount.as_fd(), &name, libc::O_RDONLY | libc::O_NOFOLLOW, 0)
}

fn string(text: &OsStr) -> std::result::Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// A copy in memory that nobody can change any more (memfd_create(2)).
fn copy(mut exe: File) -> std::result::Result<OwnedFd, Errno> {
    const NAME: &CStr = c"orlop";
    let mut copy = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    std::io::copy(&mut exe, &mut copy).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy.into())
}
