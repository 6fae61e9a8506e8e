//! The runtime's own binary, out of a container's reach.
//!
//! A process on its way into a container is a process of this binary, and so is a script of the container whose
//! interpreter is `/proc/self/exe`. Whoever opens `/proc/<pid>/exe` then, and waits for the process to end, can write to
//! the host's file, as root of the container even without a capability (CVE-2019-5736). So what enters a container runs
//! from a file that can't be written to: the binary seen through an overlay without an upper layer
//! (`src/sys/first.rs`, before anything else), or, where that can't be mounted, the sealed copy that is made here.
//!
//! The overlay has a price: the kernel refuses to write to a file that is executed (ETXTBSY), and no longer does when it
//! is executed through one. Whoever copies a new version over the old one would write to the text of each process that
//! there is, and end it by SIGBUS. So what may last as long as a container, the supervisor and a `run` or `exec` in the
//! foreground, runs from a copy of the binary in [`KEPT`], one for all of them, which nobody knows to write to; and so
//! does the rest, once it is there.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs, statfs};
use nix::sys::statvfs::FsFlags;
use nix::unistd::linkat;

use crate::error::{Error, Result};
use crate::sys::mount;
use crate::sys::process::{StringArray, execveat};

const EXE: &str = "/proc/self/exe";
const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// One directory for each version of the binary, by its file's device, inode and ctime, with the copy in it under the
/// binary's name. Root's: others have no overlay, and so a sealed copy each. `src/sys/first.rs` has the same words.
pub const KEPT: &str = "/run/orlop-exe";

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("keep the runtime's binary from containers").call(call, errno)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Executes this binary once more from a copy that nobody can write to, unless its file is such a one already.
///
/// # Errors
/// There is no memory for a copy, or no procfs to find the file by.
pub fn ensure() -> Result<()> {
    // Anything else would show the next start the same file again, without an end.
    match statfs("/proc/self") {
        Ok(stat) if stat.filesystem_type() == PROC_SUPER_MAGIC => {}
        Ok(_) => return Err(Error::new("/proc of this host is not procfs").hint("mount -t proc proc /proc")),
        Err(errno) => return Err(failed("statfs(/proc/self)", errno).hint("mount -t proc proc /proc")),
    }
    let exe = File::open(EXE).map_err(|error| failed("open(/proc/self/exe)", errno(&error)))?;
    if is_sealed(&exe) {
        return Ok(());
    }
    // Asked as the next start will ask, or there would be no end.
    let sealed = match kept(&exe).ok().filter(is_sealed) {
        Some(sealed) => sealed,
        None => copy(exe).map_err(|errno| failed("memfd_create", errno))?,
    };
    if !is_sealed(&sealed) {
        return Err(failed("fcntl(F_GET_SEALS)", Errno::EPERM));
    }
    let strings = |list: Vec<OsString>| {
        StringArray::new(list.into_iter().filter_map(|text| CString::new(text.into_vec()).ok()).collect())
    };
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let args = strings(std::env::args_os().collect());
    let env = strings(std::env::vars_os().map(variable).collect());
    Err(failed("execveat", execveat(sealed.as_fd(), &args, &env)))
}

/// Asked of the kernel: a memfd with every seal, or a file of a read-only mount.
fn is_sealed(exe: &File) -> bool {
    let seals = fcntl(exe, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    seals.contains(SEALS) || fstatfs(exe).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

/// The copy in [`KEPT`], made if it is not there, seen through an overlay.
fn kept(exe: &File) -> io::Result<File> {
    let own = exe.metadata()?;
    let name = fs::read_link(EXE)?.file_name().ok_or(io::ErrorKind::NotFound)?.to_owned();
    let version = format!("{}-{}-{}-{}", own.dev(), own.ino(), own.ctime(), own.ctime_nsec());
    private(Path::new(KEPT))?;
    let directory = Path::new(KEPT).join(version);
    private(&directory)?;
    let copy = directory.join(&name);
    if !copy.try_exists()? {
        write(exe, &copy)?;
        forget_others(&directory, &name);
    }
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&directory)?;
    let overlay = overlay(&directory)?;
    let name = CString::new(name.into_vec())?;
    let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(&overlay, name.as_c_str(), flags, Mode::empty())?.into())
}

/// A directory of ours that nobody else can look into; made if it is not there.
fn private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let there = fs::symlink_metadata(path)?;
    let ours = there.is_dir() && there.uid() == 0 && there.mode() & 0o77 == 0;
    if ours { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// The whole of this binary, from a file without a name (`O_TMPFILE`, Linux 3.11), so that nothing half done can be found. It is on
/// the disk first, should there be one: a name without its content would be taken after a crash.
fn write(mut exe: &File, copy: &Path) -> io::Result<()> {
    let directory = copy.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut file = OpenOptions::new().write(true).mode(0o555).custom_flags(libc::O_TMPFILE).open(directory)?;
    exe.rewind()?;
    io::copy(&mut exe, &mut file)?;
    file.sync_data()?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, copy, AtFlags::AT_SYMLINK_FOLLOW) {
        Err(Errno::EEXIST) => Ok(()), // another one's, of the same file
        linked => Ok(linked?),
    }
}

/// The older versions under this name: who runs one keeps it until its end.
fn forget_others(mine: &Path, name: &OsStr) {
    let others =
        fs::read_dir(KEPT).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path != mine);
    for other in others {
        let _ = fs::remove_file(other.join(name));
        let _ = fs::remove_dir(other);
    }
}

/// A read-only overlay of this directory over `/dev`, without an upper layer, mounted nowhere (see `src/sys/first.rs`).
fn overlay(directory: &File) -> std::result::Result<OwnedFd, Errno> {
    let layers = CString::new(format!("/proc/self/fd/{}:/dev", directory.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    let fs = mount::fsopen(c"overlay")?;
    mount::fsconfig_set_string(fs.as_fd(), c"lowerdir", &layers)?;
    mount::fsconfig_create(fs.as_fd())?;
    mount::fsmount(fs.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

/// A copy in memory that nobody can change any more (memfd_create(2)).
fn copy(mut exe: File) -> std::result::Result<File, Errno> {
    exe.rewind().map_err(|error| errno(&error))?;
    const NAME: &CStr = c"orlop";
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // vm.memfd_noexec (Linux 6.3) makes a memfd not executable that does not ask for it; older kernels do not know the flag.
    let made = match memfd_create(NAME, flags | MFdFlags::from_bits_retain(libc::MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(NAME, flags),
        made => made,
    };
    let mut copy = File::from(made?);
    std::io::copy(&mut exe, &mut copy).map_err(|error| errno(&error))?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy)
}
