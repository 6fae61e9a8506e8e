//! Delegation to the container: the owner of its cgroup (config-linux.md, Cgroup ownership).

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchownat};

use crate::error::{Error, Result};

use super::Cgroup;

/// The kernel's list of files that may belong to who a cgroup is delegated to (cgroups(7), Linux 4.15), one a line.
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

/// What the specification names for kernels without that list.
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads";

impl Cgroup {
    /// Gives the directory and the files of `/sys/kernel/cgroup/delegate` that are in it to the host's user `uid`, and no
    /// other: with the files of the limits the container could raise its own.
    ///
    /// # Errors
    /// fchownat(2) is refused.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let list = std::fs::read_to_string(DELEGATE).unwrap_or_else(|_| FILES.to_owned());
        for file in list.lines().chain([""]) {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH;
            match fchownat(self.fd(), file, Some(Uid::from_raw(uid)), None, flags) {
                // Of a controller that is not enabled here.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(Error::new(format!("give the cgroup {} to uid {uid}", self.path().display()))
                        .call(format!("fchownat({file:?}, {uid})"), errno)
                        .at("/linux/cgroupsPath"));
                }
            }
        }
        Ok(())
    }
}
