//! What making a container's cgroup would meet, found out without making it.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::create::{open_root, refused};
use super::enable::{Obstacle, above, controllers, lacks, occupied};
use super::{Cgroup, Hierarchy, Wanted, file};
use crate::error::Error;
use crate::sys::path::access;

/// What [`Cgroup::create`] would be refused.
#[derive(Debug, Default)]
pub struct Foreseen {
    /// Why the directory itself can't be made, or can't be used.
    pub place: Option<Error>,
    /// The controllers that would not come down to it, each with the place in `config.json` that needs it.
    pub lacking: Vec<Error>,
}

/// Looks at the way to the cgroup `path`. What is there already counts only where the configuration has `given` the path.
pub fn foresee(hierarchy: &Hierarchy, path: &str, given: bool, wanted: &[Wanted]) -> Foreseen {
    let root = match open_root(&hierarchy.root) {
        Ok(root) => root,
        Err(error) => return Foreseen { place: Some(error), ..Foreseen::default() },
    };
    let there = Cgroup::open(hierarchy, path).ok().flatten();
    let place = match &there {
        Some(cgroup) if given => cgroup.refuse_used().err().map(|error| error.at("/linux/cgroupsPath")),
        _ => writable(root.as_fd(), path).err().map(|errno| refused(path, "mkdirat", errno)),
    };
    let offered = controllers(root.as_fd(), "/").unwrap_or_default();
    let present = there.and_then(|cgroup| controllers(cgroup.fd(), path).ok()).unwrap_or_default();
    let absent = wanted.iter().filter(|wanted| !present.iter().any(|name| name == wanted.controller));
    let lacking = absent.filter_map(|wanted| {
        let offers = offered.iter().any(|name| name == wanted.controller);
        let obstacle = if offers { Some(obstacle(root.as_fd(), path, wanted.controller)?) } else { None };
        Some(lacks(hierarchy, root.as_fd(), &[wanted.controller], &offered, obstacle.as_slice()).at(wanted.from))
    });
    Foreseen { place, lacking: lacking.collect() }
}

/// Whether a directory could be made in the last cgroup on the way that exists.
fn writable(root: BorrowedFd, path: &str) -> nix::Result<()> {
    let existing = above(path).map_while(|above| file::open_dir(root, above).ok()).last().ok_or(Errno::ENOENT)?;
    access(existing.as_fd(), c".", libc::W_OK | libc::X_OK)
}

/// The first cgroup on the way that neither hands `controller` down nor would let this process make it do so.
fn obstacle(root: BorrowedFd, path: &str, controller: &str) -> Option<Obstacle> {
    above(path).map_while(|above| Some((above, file::open_dir(root, above).ok()?))).find_map(|(above, dir)| {
        let handed = file::read(dir.as_fd(), "cgroup.subtree_control").unwrap_or_default();
        if handed.split_whitespace().any(|name| name == controller) {
            return None;
        }
        let errno = match access(dir.as_fd(), c"cgroup.subtree_control", libc::W_OK) {
            Ok(()) if occupied(dir.as_fd()) => Errno::EBUSY,
            Ok(()) => return None,
            Err(errno) => errno,
        };
        Some(Obstacle { controller: controller.to_owned(), path: above.to_owned(), errno })
    })
}
