//! Mounts that the parent makes: of the root file system's own files, and id-mapped ones (mount_setattr(2),
//! `MOUNT_ATTR_IDMAP`, kernel 5.12).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::idmap;
use crate::error::{Error, Result};
use crate::plan::{IdMap, Tree};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::mount::{self, MountAttr};
use crate::sys::{path, process};

/// Makes the detached copy of a mount, id-mapped where it has mappings.
pub fn make(tree: &Tree) -> Result<OwnedFd> {
    let failed = |call: &str, errno: Errno| {
        let kind = if tree.uids.is_empty() { "a" } else { "an id-mapped" };
        Error::new(format!("make {kind} mount of {}", tree.path.display())).call(call, errno).at(tree.from.clone())
    };
    let source =
        std::ffi::CString::new(tree.path.as_os_str().as_bytes()).map_err(|_| failed("open_tree", Errno::EINVAL))?;
    let copy = mount::open_tree(path::CWD, &source, tree.recursive).map_err(|errno| failed("open_tree", errno))?;
    if tree.uids.is_empty() {
        return Ok(copy);
    }
    let userns = user_namespace(&tree.uids, &tree.gids)?;
    let attr =
        MountAttr { attr_set: libc::MOUNT_ATTR_IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount::mount_setattr(copy.as_fd(), tree.recursive_map, &attr).map_err(|errno| {
        let error = failed("mount_setattr(MOUNT_ATTR_IDMAP)", errno);
        match errno {
            Errno::EINVAL => error.hint("the file system, or this kernel for it, has no id-mapped mounts"),
            Errno::EPERM => error.hint("it takes CAP_SYS_ADMIN where the file system was mounted"),
            _ => error,
        }
    })?;
    Ok(copy)
}

/// A user namespace that holds the mappings and nothing else: a process is born in it, and ends when we let go of its pipe.
fn user_namespace(uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd> {
    let failed =
        |call: &str, errno: Errno| Error::new("make a user namespace for an id-mapped mount").call(call, errno);
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2", errno))?;
    let pid = match clone3(libc::CLONE_NEWUSER as u64, None).map_err(|errno| failed("clone3", errno))? {
        Cloned::Child => {
            drop(ours);
            let _ = process::poll_in(theirs.as_fd(), 30_000);
            process::exit(0)
        }
        Cloned::Parent(pid, _) => pid,
    };
    let opened = open_mapped(pid, uids, gids);
    drop(ours);
    let _ = process::wait_status(pid.as_raw());
    opened
}

fn open_mapped(pid: Pid, uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd> {
    let (euid, egid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    idmap::write(pid, uids, gids, euid, egid)?;
    File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).map_err(|error| {
        Error::new("open the user namespace of an id-mapped mount")
            .call("open", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    })
}
