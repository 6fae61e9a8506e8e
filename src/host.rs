//! The only probe of the host: what planning may know of it.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Process;

use crate::bundle::Bundle;
use crate::cgroup::Hierarchy;
use crate::error::{Error, Result};
use crate::plan::HostFacts;
use crate::sys::creds;
use crate::validate;

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
        let (rootless, systemd_user) = match rootless {
            Rootless::True => (true, Some(id_outside(euid))),
            Rootless::False => (false, None),
            Rootless::Auto => (euid != 0 || !in_initial_userns(), systemd_user()),
        };
        Ok(Self {
            euid,
            egid,
            rootless,
            systemd_user,
            last_capability: last_capability(),
            landlock: crate::sys::landlock::abi().unwrap_or(0),
            cgroup: Hierarchy::find()?,
            kernel_mounts: if no_pivot { kernel_mounts()? } else { Vec::new() },
            resctrl: None,
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

/// The policy that is loaded has no such label. Who may not ask it (`security: check_context`) learns nothing.
fn unknown_label(label: Option<&str>) -> bool {
    let Some(label) = label.filter(|label| !label.is_empty() && selinux()) else { return false };
    let ask = std::fs::OpenOptions::new().write(true).open("/sys/fs/selinux/context");
    ask.is_ok_and(|mut file| file.write_all(label.as_bytes()).is_err_and(|error| errno(&error) == Errno::EINVAL))
}

/// AppArmor is enabled, by what its module says, and has its own file for the label of an execve (Linux 5.8).
pub fn apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
        && Path::new("/proc/self/attr/apparmor/exec").exists()
}

/// Whether the caller's containers are in its `XDG_RUNTIME_DIR`, by runc's rule: those of an ordinary user, and of what podman
/// makes of one, root of a user namespace who does not go by root's name.
pub fn in_runtime_dir() -> bool {
    let named_root = || std::env::var_os("USER").is_some_and(|name| name == "root");
    !nix::unistd::geteuid().is_root() || (!in_initial_userns() && !named_root())
}

/// The user whose own systemd makes the cgroups, by the same rule, with the id outside of the user namespace; None: the
/// system's does.
pub fn systemd_user() -> Option<u32> {
    in_runtime_dir().then(|| id_outside(nix::unistd::geteuid().as_raw()))
}

/// A user id of this user namespace as it is in the one around it; itself where that can't be known.
fn id_outside(id: u32) -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().find_map(|line| outside(line, id)).unwrap_or(id)
}

/// By a line of `uid_map`: the first id inside, the first outside, and how many (user_namespaces(7)).
fn outside(line: &str, id: u32) -> Option<u32> {
    let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u32>().ok());
    let (inside, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
    outside.checked_add(offset)
}

/// The initial user namespace has a fixed inode number (`PROC_USER_INIT_INO`, since 3.8).
pub(crate) fn in_initial_userns() -> bool {
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

/// What validation must be told about the host.
pub fn context(bundle: &Bundle, facts: &HostFacts) -> validate::Context {
    let namespaces = bundle.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == oci_spec::runtime::LinuxNamespaceType::Network)
        .and_then(|namespace| namespace.path().as_ref());
    let same = |path: &PathBuf| {
        let (given, own) = (std::fs::metadata(path).ok()?, std::fs::metadata("/proc/self/ns/net").ok()?);
        Some(given.ino() == own.ino() && given.dev() == own.dev())
    };
    let mount_label = bundle.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    validate::Context {
        host_network: network.and_then(same).unwrap_or(false),
        ..label_context(bundle.spec.process().as_ref(), mount_label, facts)
    }
}

/// The same for a process alone. The kernel is asked for its LSMs only when there is a label for one.
pub fn label_context(process: Option<&Process>, mount_label: Option<&str>, facts: &HostFacts) -> validate::Context {
    let given = |label: Option<&str>| label.is_some_and(|label| !label.is_empty());
    let label = process.and_then(|process| process.selinux_label().as_deref());
    let profile = process.and_then(|process| process.apparmor_profile().as_deref());
    validate::Context {
        rootless: facts.ordinary(),
        host_network: false,
        no_selinux: (given(label) || given(mount_label)) && !selinux(),
        unknown_label: unknown_label(label),
        unknown_mount_label: unknown_label(mount_label),
        no_apparmor: given(profile) && !apparmor(),
    }
}

/// A root that is not there is told before anything is made.
pub fn check_root(bundle: &Bundle) -> Result<()> {
    let Some(root) = bundle.spec.root() else { return Ok(()) };
    let path = bundle.dir.join(root.path());
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => {
            Err(Error::new(format!("the root file system {} is not a directory", path.display())).at("/root/path"))
        }
        Err(error) => Err(Error::new(format!("the root file system {}", path.display()))
            .call("stat", errno(&error))
            .at("/root/path")
            .hint("root.path is relative to the bundle")),
    }
}

/// The errno of an error of std.
pub fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::outside;

    #[test]
    fn an_id_outside_is_as_far_from_the_first_as_inside() {
        assert_eq!(outside("         0       1000          1", 0), Some(1000));
        assert_eq!(outside("         0       1000          1", 1), None);
        assert_eq!(outside("         1     100000      65536", 1000), Some(100_999));
        assert_eq!(outside("         0          0 4294967295", 7), Some(7));
        assert_eq!(outside("", 0), None);
    }
}
