//! The only probe of the host: what planning may know of it.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::cgroup::Hierarchy;
use crate::error::{Error, Result};
use crate::plan::HostFacts;
use crate::sys::creds;

/// `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rootless {
    /// What the caller's ids and user namespace say.
    #[default]
    Auto,
    /// As an ordinary user, whoever calls.
    True,
    /// As root, whoever calls.
    False,
}

impl HostFacts {
    /// Looks at the host. `no_pivot` asks for the mount points of procfs and sysfs as well.
    pub fn find(rootless: Rootless, no_pivot: bool) -> Result<Self> {
        let euid = nix::unistd::geteuid().as_raw();
        let egid = nix::unistd::getegid().as_raw();
        let rootless = match rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => euid != 0 || !in_initial_userns(),
        };
        Ok(Self {
            euid,
            egid,
            rootless,
            last_capability: last_capability(),
            cgroup: Hierarchy::find()?,
            kernel_mounts: if no_pivot { kernel_mounts()? } else { Vec::new() },
        })
    }
}

/// SELinux is enabled: its file system is where it always is (libselinux's `is_selinux_enabled`), with a policy loaded. Before
/// that every process is `kernel`.
pub fn selinux() -> bool {
    const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
    let mounted = crate::sys::path::open_dir(c"/sys/fs/selinux")
        .and_then(|dir| crate::sys::path::fstatfs(dir.as_fd()))
        .is_ok_and(|magic| magic & 0xffff_ffff == SELINUX_MAGIC);
    mounted
        && std::fs::read_to_string("/proc/self/attr/current")
            .is_ok_and(|label| label.trim_end_matches('\0') != "kernel")
}

/// AppArmor is enabled, by what its module says.
pub fn apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// The initial user namespace has a fixed inode number (`PROC_USER_INIT_INO`, since 3.8).
fn in_initial_userns() -> bool {
    const PROC_USER_INIT_INO: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|meta| meta.ino() == PROC_USER_INIT_INO)
}

/// The highest number for which `PR_CAPBSET_READ` knows an answer (capabilities(7): cap_last_cap).
fn last_capability() -> u8 {
    let known = |number: u8| creds::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0).is_ok();
    // CAP_CHECKPOINT_RESTORE of 5.9 is the newest so far; both directions are open.
    let mut last = 40;
    while last < 63 && known(last + 1) {
        last += 1;
    }
    while last > 0 && !known(last) {
        last -= 1;
    }
    last
}

/// Mount points of procfs and sysfs, innermost first.
fn kernel_mounts() -> Result<Vec<PathBuf>> {
    let mounts = procfs::process::Process::myself()
        .and_then(|process| process.mountinfo())
        .map_err(|error| Error::new(format!("read /proc/self/mountinfo: {error}")))?;
    let mut found: Vec<PathBuf> = mounts
        .into_iter()
        .filter(|mount| mount.fs_type == "proc" || mount.fs_type == "sysfs")
        .map(|mount| mount.mount_point)
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}
