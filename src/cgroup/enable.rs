//! Controllers, handed down from the root to a container's cgroup (kernel documentation, admin-guide/cgroup-v2.rst,
//! "Controlling Controllers").

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Error, Result};

use super::file;
use super::{Hierarchy, Wanted};

/// How many processes an error names.
const NAMED: usize = 5;

/// A controller that a cgroup on the way would not hand down.
pub(super) struct Obstacle {
    pub(super) controller: String,
    /// The cgroup, relative to the root; `.` for the root itself.
    pub(super) path: String,
    pub(super) errno: Errno,
}

/// Enables in each cgroup above `path` the controllers that the root has and `leaf` lacks. As in runc this is best
/// effort, so that the container's usage can be read without limits too; only `wanted` must come down to the leaf.
pub fn enable(hierarchy: &Hierarchy, root: BorrowedFd, path: &str, leaf: BorrowedFd, wanted: &[Wanted]) -> Result<()> {
    let mut present = controllers(leaf, path)?;
    let offered = controllers(root, "/")?;
    let absent: Vec<&str> = offered.iter().filter(|name| !present.contains(name)).map(String::as_str).collect();
    let mut obstacles = Vec::new();
    if !absent.is_empty() {
        for above in above(path) {
            hand_down(root, above, &absent, &mut obstacles);
        }
        present = controllers(leaf, path)?;
    }
    match wanted.iter().find(|wanted| !present.iter().any(|name| name == wanted.controller)) {
        None => Ok(()),
        Some(first) => {
            let lacking: Vec<&str> =
                wanted.iter().map(|w| w.controller).filter(|name| !present.iter().any(|other| other == name)).collect();
            Err(lacks(hierarchy, root, &lacking, &offered, &obstacles).at(first.from))
        }
    }
}

pub(super) fn controllers(dir: BorrowedFd, path: &str) -> Result<Vec<String>> {
    let text = file::read(dir, "cgroup.controllers").map_err(|errno| {
        Error::new(format!("read the controllers of cgroup {path}")).call("read(\"cgroup.controllers\")", errno)
    })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The root and the cgroups between it and `path`, topmost first.
pub(super) fn above(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_matches('/');
    ["."].into_iter().chain(path.match_indices('/').map(|(end, _)| &path[..end]))
}

/// Controllers that a cgroup with processes may hand down (cgroup-v2.rst, "Threads").
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// All at once, as one write costs as much as each; one by one where the kernel refuses the lot because of one of them.
///
/// Where a cgroup has processes, threaded controllers alone would be accepted, and make it the root of a threaded subtree:
/// no process could be born in the container's cgroup any more (EOPNOTSUPP). So they are not tried there.
fn hand_down(root: BorrowedFd, path: &str, names: &[&str], obstacles: &mut Vec<Obstacle>) {
    let Ok(dir) = file::open_dir(root, path) else { return };
    let lot = match names.iter().all(|name| THREADED.contains(name)) && occupied(dir.as_fd()) {
        true => Err(Errno::EBUSY),
        false => write_control(dir.as_fd(), names),
    };
    let Err(errno) = lot else { return };
    let alone = matches!(errno, Errno::ENOENT | Errno::EINVAL) && !occupied(dir.as_fd());
    for name in names {
        if let Err(errno) = if alone { write_control(dir.as_fd(), &[name]) } else { Err(errno) } {
            obstacles.push(Obstacle { controller: (*name).to_owned(), path: path.to_owned(), errno });
        }
    }
}

fn write_control(dir: BorrowedFd, names: &[&str]) -> nix::Result<()> {
    let value: String = names.iter().map(|name| format!("+{name} ")).collect();
    file::write(dir, "cgroup.subtree_control", value.trim_end())
}

/// Whether processes lie in the cgroup itself where they may not: anywhere but in the real root, which has no type.
pub(super) fn occupied(dir: BorrowedFd) -> bool {
    file::read(dir, "cgroup.type").is_ok() && file::read(dir, "cgroup.procs").is_ok_and(|procs| !procs.is_empty())
}

/// The error for the wanted controllers that the leaf still lacks.
pub(super) fn lacks(
    h: &Hierarchy,
    root: BorrowedFd,
    lacking: &[&str],
    offered: &[String],
    obstacles: &[Obstacle],
) -> Error {
    let held: Vec<&str> = lacking.iter().copied().filter(|name| holds(&h.v1, name)).collect();
    if !held.is_empty() {
        return Error::new(format!(
            "the limits need controllers that cgroup v1 holds on this host: {}",
            held.join(", ")
        ))
        .hint(
            "boot with systemd.unified_cgroup_hierarchy=1 (without systemd: cgroup_no_v1=all), or drop these limits",
        );
    }
    match obstacles.iter().find(|obstacle| lacking.contains(&obstacle.controller.as_str())) {
        Some(obstacle) => stopped(h, root, obstacle),
        None => Error::new(format!(
            "the limits need controllers that {} does not offer: {}",
            h.root.display(),
            lacking.join(", ")
        ))
        .hint(format!(
            "it offers: {}; enable the others in the kernel or in the cgroup above, or drop these limits",
            offered.join(" ")
        )),
    }
}

fn holds(v1: &[String], controller: &str) -> bool {
    let name = if controller == "io" { "blkio" } else { controller };
    v1.iter().any(|other| other == name)
}

fn stopped(hierarchy: &Hierarchy, root: BorrowedFd, obstacle: &Obstacle) -> Error {
    let Obstacle { controller, path, errno } = obstacle;
    let cgroup = if path == "." { hierarchy.root.clone() } else { hierarchy.root.join(path) };
    let cgroup = cgroup.display();
    let error = Error::new(format!("enable controller {controller} in {cgroup}"))
        .call(format!("write(\"cgroup.subtree_control\", \"+{controller}\")"), *errno);
    match errno {
        Errno::EBUSY => error.hint(format!(
            "{cgroup} has processes of its own ({}), so it can't limit cgroups below it: move them to a child cgroup first, or set linux.cgroupsPath to a place without processes",
            processes(root, path)
        )),
        Errno::EOPNOTSUPP => error.hint(format!("{cgroup} is threaded (cgroup.type): set linux.cgroupsPath to a place outside it")),
        Errno::ENOENT => error.hint(format!("the cgroup above {cgroup} does not hand {controller} down (its cgroup.subtree_control)")),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => error.hint("this user may not change it: have the controller delegated, or drop the limit"),
        _ => error,
    }
}

fn processes(root: BorrowedFd, path: &str) -> String {
    let text = file::open_dir(root, path).and_then(|dir| file::read(dir.as_fd(), "cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<&str> = text.lines().take(NAMED + 1).collect();
    if pids.len() > NAMED {
        pids[NAMED] = "...";
    }
    format!("pid {}", pids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_blkio_on_v1() {
        let v1 = ["blkio".to_owned(), "memory".to_owned()];
        assert!(holds(&v1, "io") && holds(&v1, "memory") && !holds(&v1, "pids"));
    }

    #[test]
    fn the_way_to_a_cgroup_starts_at_the_root() {
        assert_eq!(above("/a/b/c").collect::<Vec<_>>(), [".", "a", "a/b"]);
        assert_eq!(above("/a").collect::<Vec<_>>(), ["."]);
    }
}
