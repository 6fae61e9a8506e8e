//! Where the cgroup2 file system is, and what cgroup v1 has kept from it.

use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::{Error, Result};

use super::file;

/// The cgroup v2 hierarchy as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The mount point of cgroup2.
    pub root: PathBuf,
    /// The cgroup of this process: the `0::` line of `/proc/self/cgroup`.
    pub own: String,
    /// Controllers that cgroup v1 holds, under their v1 names (`blkio` is v2's `io`). Empty but on a hybrid host.
    pub v1: Vec<String>,
}

impl Hierarchy {
    /// Looks for cgroup2 where it usually is, then in the mount table; none when it is not mounted.
    ///
    /// # Errors
    /// `/proc/self/cgroup` or `/proc/self/mountinfo` can't be read.
    pub fn find() -> Result<Option<Hierarchy>> {
        let usual = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = match usual.into_iter().find(|path| is_cgroup2(path)) {
            Some(path) => Some(path.to_owned()),
            None => mounted()?,
        };
        root.map(Self::at).transpose()
    }

    /// The hierarchy that is mounted at `root`.
    ///
    /// # Errors
    /// `/proc/self/cgroup` can't be read.
    pub fn at(root: PathBuf) -> Result<Hierarchy> {
        let (own, v1) = parse(&read("/proc/self/cgroup")?);
        Ok(Hierarchy { root, own, v1 })
    }
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn read(path: &str) -> Result<String> {
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|fd| file::read_fd(&fd))
        .map_err(|errno| Error::new("find the cgroup of this process").call(format!("read({path:?})"), errno))
}

/// The last cgroup2 in the mount table that is visible; a later mount may hide an earlier one.
fn mounted() -> Result<Option<PathBuf>> {
    let table = read("/proc/self/mountinfo")?;
    let points = table.lines().rev().filter_map(mount_point);
    Ok(points.into_iter().find(|point| is_cgroup2(point)))
}

/// The mount point on a line of mountinfo (proc_pid_mountinfo(5)), when the file system is cgroup2.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (mount, source) = line.split_once(" - ")?;
    let escaped = mount.split(' ').nth(4)?;
    let unescaped = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(escaped.to_owned(), |text, (code, character)| text.replace(code, character));
    source.starts_with("cgroup2 ").then(|| unescaped.into())
}

/// `/proc/self/cgroup` (cgroups(7)): the v2 path, and the controllers of v1 hierarchies, named ones left out.
fn parse(text: &str) -> (String, Vec<String>) {
    let (mut own, mut v1) = ("/".to_owned(), Vec::new());
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if controllers.is_empty() {
            own = path.to_owned();
        } else if !controllers.starts_with("name=") {
            v1.extend(controllers.split(',').map(str::to_owned));
        }
    }
    (own, v1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_line_is_read_or_skipped(line in "(\\PC|[\n\t:\\\\]){0,200}") {
            let _ = (mount_point(&line), parse(&line));
        }

        /// As the kernel escapes it (seq_path(9), " \t\n\\").
        #[test]
        fn a_mount_point_comes_back_as_it_is(path in "/[ -~\t\n]{0,40}") {
            let escaped: String = path
                .chars()
                .map(|c| if " \t\n\\".contains(c) { format!("\\{:03o}", u32::from(c)) } else { c.to_string() })
                .collect();
            let line = format!("30 24 0:26 / {escaped} rw,relatime shared:4 - cgroup2 cgroup2 rw");
            prop_assert_eq!(mount_point(&line), Some(path.into()));
        }
    }

    #[test]
    fn hybrid_hosts_list_what_v1_holds() {
        let hybrid = "9:name=systemd:/\n7:blkio:/\n2:cpu,cpuacct:/x\n1:memory:/a:b\n0::/user/a:b\n";
        let v1 = ["blkio", "cpu", "cpuacct", "memory"].map(str::to_owned).to_vec();
        assert_eq!(parse(hybrid), ("/user/a:b".to_owned(), v1));
        assert_eq!(parse("0::/\n"), ("/".to_owned(), Vec::new()));
    }

    #[test]
    fn mountinfo_lines_of_cgroup2() {
        let line = "41 31 0:38 / /mnt/c\\040g rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt/c g")));
        assert_eq!(mount_point("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }
}
