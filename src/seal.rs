//! The runtime's own binary, out of a container's reach.
//!
//! A process on its way into a container is a process of this binary, and so is a script of the container whose
//! interpreter is `/proc/self/exe`. Whoever opens `/proc/<pid>/exe` then, and waits for the process to end, can write to
//! the host's file, as root of the container even without a capability (CVE-2019-5736). So what enters a container runs
//! from a file that can't be written to: the binary seen through an overlay without an upper layer
//! (`src/sys/first.rs`, before anything else), or, where that can't be mounted, the sealed copy that is made here.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs, statfs};
use nix::sys::statvfs::FsFlags;

use crate::error::{Error, Result};
use crate::sys::process::{StringArray, execveat};

const EXE: &str = "/proc/self/exe";
const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

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
    let sealed = copy(exe).map_err(|errno| failed("memfd_create", errno))?;
    // Asked as the next start will ask, or there would be no end.
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

/// A copy in memory that nobody can change any more (memfd_create(2)).
fn copy(mut exe: File) -> std::result::Result<File, Errno> {
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
