//! Making a container's cgroup, filling its files, and its device filter.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxMemory;

use crate::error::{Error, Result};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::process;

use super::control::Events;
use super::enable::enable;
use super::file;
use super::{Hierarchy, Refused, Wanted, Write};

/// How often making the path starts again when another runtime removes a parent at the same time.
const ATTEMPTS: usize = 8;

/// A cgroup directory, held open.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
    path: PathBuf,
    name: String,
    dir: OwnedFd,
    parent: OwnedFd,
    /// Directories that `create` made, relative to the root, topmost first.
    made: Vec<String>,
    /// What `create` found in `memory.events` of a cgroup that was there.
    pub(super) kills_before: u64,
    /// The device filter that was attached to it.
    pub(super) filter: Option<OwnedFd>,
}

/// Whether `error` came of a host that lets us make no cgroup (a read-only cgroupfs, no permission): without limits in
/// the configuration the container can go on without one.
pub fn cannot_be_made(error: &Error) -> bool {
    matches!(error.errno, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM))
}

/// runc's words before what goes wrong with the container's cgroup.
pub const APPLY: &str = "unable to apply cgroup configuration";

/// Of an ordinary user who names no cgroup, may make none, and asks for more than none; runc's words.
const NO_RIGHT: &str = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";

/// What came of [`Cgroup::create`](super::Cgroup::create), said as callers of runc know it.
pub fn in_words_of_runc(error: Error, rootless: bool, path_given: bool) -> Error {
    if !cannot_be_made(&error) {
        return error;
    }
    let error = if rootless && !path_given { error.context(NO_RIGHT) } else { error };
    error.context(APPLY)
}

pub(super) fn open_root(root: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(root, flags, Mode::empty())
        .map_err(|errno| Error::new("open the cgroup2 root").call(format!("open({root:?}, O_PATH|O_DIRECTORY)"), errno))
}

/// The parent (`.` for the root) and the last name of a path below the root.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_matches('/');
    path.rsplit_once('/').unwrap_or((".", path))
}

fn open_pair(root: BorrowedFd, path: &str) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (parent, name) = split(path);
    let parent = file::open_dir(root, parent)?;
    let dir = file::open_dir(parent.as_fd(), name)?;
    Ok((parent, dir))
}

impl Cgroup {
    /// Makes the cgroup `path` (absolute below the root, as [`super::path`] gives it) with the directories that lead to
    /// it, and enables on the way what controllers there are; of those only `wanted` must succeed.
    ///
    /// On an error what it made is gone again.
    ///
    /// # Errors
    /// The cgroup exists and has processes or is frozen; no permission or a read-only file system
    /// ([`cannot_be_made`]); a wanted controller that v1 holds, that is not delegated, or that a parent can't enable
    /// because it has processes of its own.
    pub fn create(hierarchy: &Hierarchy, path: &str, wanted: &[Wanted]) -> Result<Cgroup> {
        let root = open_root(&hierarchy.root)?;
        let mut cgroup = Self::make(hierarchy, root.as_fd(), path)?;
        let usable = if cgroup.made.is_empty() { cgroup.take() } else { Ok(()) };
        match usable.and_then(|()| enable(hierarchy, root.as_fd(), path, cgroup.fd(), wanted)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // Its descriptors first: where none was left, the way back has these.
                let made = std::mem::take(&mut cgroup.made);
                drop(cgroup);
                remove_made(root.as_fd(), &made);
                Err(error)
            }
        }
    }

    /// Opens the cgroup `path`, which somebody else has made and which has the container's process in it, and enables
    /// controllers on the way to it as [`create`](Self::create) does.
    ///
    /// # Errors
    /// There is no such cgroup; a wanted controller, as there.
    pub fn adopt(hierarchy: &Hierarchy, path: &str, wanted: &[Wanted]) -> Result<Cgroup> {
        let root = open_root(&hierarchy.root)?;
        let pair = open_pair(root.as_fd(), path)
            .map_err(|errno| Error::new(format!("open cgroup {path}")).call(format!("openat2({path:?})"), errno))?;
        // It was made for this container, and ends with it.
        let cgroup = Self::new(hierarchy, path, pair, vec![path.trim_matches('/').to_owned()]);
        enable(hierarchy, root.as_fd(), path, cgroup.fd(), wanted)?;
        Ok(cgroup)
    }

    /// Refuses a cgroup of which somebody else has made the directory before, and frozen it.
    ///
    /// # Errors
    /// It is frozen, or can't be looked at.
    pub fn refuse_if_frozen(hierarchy: &Hierarchy, path: &str) -> Result<()> {
        let there = Self::open(hierarchy, path)?;
        there.map_or(Ok(()), |cgroup| cgroup.events().and_then(|events| cgroup.refuse_frozen(events)))
    }

    /// Opens the cgroup `path`; none when there is no such cgroup.
    ///
    /// # Errors
    /// Anything but a missing directory.
    pub fn open(hierarchy: &Hierarchy, path: &str) -> Result<Option<Cgroup>> {
        let root = open_root(&hierarchy.root)?;
        match open_pair(root.as_fd(), path) {
            Ok(pair) => Ok(Some(Self::new(hierarchy, path, pair, Vec::new()))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::new(format!("open cgroup {path}")).call(format!("openat2({path:?})"), errno)),
        }
    }

    fn new(hierarchy: &Hierarchy, path: &str, (parent, dir): (OwnedFd, OwnedFd), made: Vec<String>) -> Cgroup {
        let root = hierarchy.root.clone();
        let name = split(path).1.to_owned();
        Cgroup { path: root.join(path.trim_matches('/')), root, name, dir, parent, made, kills_before: 0, filter: None }
    }

    /// The directories from the root to `path`; what can't be finished is undone.
    fn make(hierarchy: &Hierarchy, root: BorrowedFd, path: &str) -> Result<Cgroup> {
        let mut made = Vec::new();
        for _ in 1..ATTEMPTS {
            match make_dirs(root, path, &mut made) {
                Ok(pair) => return Ok(Self::new(hierarchy, path, pair, made)),
                // A parent went away between: its owner removed it.
                Err((_, Errno::ENOENT | Errno::ENODEV)) => {}
                Err((call, errno)) => {
                    remove_made(root, &made);
                    return Err(refused(path, call, errno));
                }
            }
        }
        remove_made(root, &made);
        Err(refused(path, "mkdirat", Errno::ENOENT))
    }

    /// One that was there already.
    fn take(&mut self) -> Result<()> {
        self.refuse_used()?;
        if self.kills_newborns() {
            self.make_anew();
        }
        // None is said of a controller that is enabled only now, which begins at 0.
        self.kills_before = self.oom_kills().ok().flatten().unwrap_or(0);
        Ok(())
    }

    /// Who is born in it by CLONE_INTO_CGROUP ends at once: everything in it was killed before (`cgroup.kill`), and the kernel takes
    /// the count of the parent's cgroup for its own (`cgroup_css_set_fork`; seen on Linux 6.18).
    fn kills_newborns(&self) -> bool {
        match clone3(0, Some(self.fd())) {
            Ok(Cloned::Child) => process::exit(0),
            Ok(Cloned::Parent(pid, _)) => {
                process::wait_status(pid.as_raw()).is_ok_and(|status| libc::WIFSIGNALED(status))
            }
            // Whatever speaks against it is said when the container's process is cloned.
            Err(_) => false,
        }
    }

    /// The same directory with nothing behind it. Where that can't be, as with cgroups below it, it stays as it is.
    fn make_anew(&mut self) {
        let name = self.name.as_str();
        if file::rmdir(self.parent.as_fd(), name).and_then(|()| file::mkdir(self.parent.as_fd(), name)).is_ok()
            && let Ok(dir) = file::open_dir(self.parent.as_fd(), name)
        {
            self.dir = dir;
        }
    }

    /// A container must not share its limits, nor its end, with processes that are there already.
    pub(super) fn refuse_used(&self) -> Result<()> {
        let events = self.events()?;
        if events.populated {
            let count = self.processes()?.len();
            return Err(Error::new(format!("container's cgroup is not empty: {count} process(es) found"))
                .hint(format!("see {}/cgroup.procs, or choose another linux.cgroupsPath", self.path.display())));
        }
        self.refuse_frozen(events)
    }

    /// What is put into it would never come to its execve.
    fn refuse_frozen(&self, events: Events) -> Result<()> {
        match events.frozen {
            true => Err(Error::new("container's cgroup unexpectedly frozen").hint(format!(
                "write 0 to cgroup.freeze of {} or of the one above that is frozen",
                self.path.display()
            ))),
            false => Ok(()),
        }
    }

    /// The directory as an O_PATH descriptor, close-on-exec: what CLONE_INTO_CGROUP takes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens a cgroup below it, as [`fd`](Self::fd) gives it; the empty path is itself. Nothing leads out of it.
    ///
    /// # Errors
    /// ENOENT: there is none.
    pub fn below(&self, path: &str) -> nix::Result<OwnedFd> {
        file::open_dir(self.fd(), if path.is_empty() { "." } else { path })
    }

    /// The absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes the directories that [`create`](Self::create) made and what is below this cgroup: the way back when a later
    /// step of a create failed. A cgroup that was there before stays, and so do its parents with other children. What has
    /// processes until `deadline` stays too.
    pub fn undo(self, deadline: Instant) {
        let ours = self.made.last().is_some_and(|made| self.path == self.root.join(made));
        if ours {
            let _ = self.remove(deadline);
        } else {
            self.clear(deadline);
        }
        if let Ok(root) = open_root(&self.root) {
            remove_made(root.as_fd(), &self.made);
        }
    }

    /// Does one write.
    ///
    /// # Errors
    /// The kernel's, with the file, the value and where it comes from, but for what [`Refused`] lets pass.
    pub fn write(&self, write: &Write) -> Result<()> {
        let errno = match file::write(self.fd(), &write.file, &write.value) {
            Ok(()) => return Ok(()),
            Err(errno) => errno,
        };
        match (&write.refused, errno) {
            (Refused::SkipIfMissing, Errno::ENOENT) | (Refused::AgainLater, Errno::EINVAL) => Ok(()),
            (Refused::InsteadIfMissing { file, value }, Errno::ENOENT) => {
                let instead = Write { file: (*file).to_owned(), value: value.clone(), ..write.clone() };
                self.write(&Write { refused: Refused::Fail, ..instead })
            }
            _ => Err(self.write_failed(write, errno)),
        }
    }

    fn write_failed(&self, write: &Write, errno: Errno) -> Error {
        let Write { file, value, from, .. } = write;
        let error = Error::new(format!("write {value:?} to {}/{file}", self.path.display()))
            .at(from)
            .call(format!("write({file:?}, {value:?})"), errno);
        match hint(file, errno, || file::read(self.fd(), "cgroup.controllers").unwrap_or_default()) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// `memory.checkBeforeUpdate`: refuses limits that the cgroup uses up already, where the kernel would kill. Does
    /// nothing where the key is not set, or the usage can't be read.
    ///
    /// # Errors
    /// The usage is at or above a limit.
    pub fn check_memory(&self, memory: &LinuxMemory) -> Result<()> {
        let limits = [("memory+swap", memory.swap(), "swap"), ("memory", memory.limit(), "limit")];
        let mut limits =
            limits.into_iter().filter_map(|(name, limit, key)| Some((name, limit.filter(|limit| *limit > 0)?, key)));
        if memory.check_before_update() != Some(true) || limits.clone().next().is_none() {
            return Ok(());
        }
        let Ok(usage) = file::read(self.fd(), "memory.current") else { return Ok(()) };
        let usage: i64 = usage.trim().parse().unwrap_or(0);
        match limits.find(|limit| limit.1 <= usage) {
            None => Ok(()),
            Some((name, limit, key)) => Err(Error::new(format!("rejecting {name} limit {limit} <= usage {usage}"))
                .at(format!("/linux/resources/memory/{key}"))
                .hint("memory.checkBeforeUpdate asks for this check")),
        }
    }
}

/// Makes what is missing of `path` and opens its parent and itself. The usual case, a parent that exists, goes first.
fn make_dirs(
    root: BorrowedFd,
    path: &str,
    made: &mut Vec<String>,
) -> std::result::Result<(OwnedFd, OwnedFd), (&'static str, Errno)> {
    let path = path.trim_matches('/');
    let (above, name) = split(path);
    let parent = match file::open_dir(root, above) {
        Err(Errno::ENOENT) => make_dirs(root, above, made)?.1,
        opened => opened.map_err(|errno| ("openat2", errno))?,
    };
    match file::mkdir(parent.as_fd(), name) {
        Ok(()) => made.push(path.to_owned()),
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(("mkdirat", errno)),
    }
    let dir = file::open_dir(parent.as_fd(), name).map_err(|errno| ("openat2", errno))?;
    Ok((parent, dir))
}

fn remove_made(root: BorrowedFd, made: &[String]) {
    for path in made.iter().rev() {
        let (parent, name) = split(path);
        // What somebody else uses by now stays: rmdir(2) takes only what is empty.
        let _ = file::open_dir(root, parent).and_then(|parent| file::rmdir(parent.as_fd(), name));
    }
}

pub(super) fn refused(path: &str, call: &str, errno: Errno) -> Error {
    let error = Error::new(format!("create cgroup {path}")).call(format!("{call}({path:?})"), errno);
    match errno {
        Errno::EROFS => error.hint("cgroupfs is read-only here: mount it writable, as for a nested runtime"),
        Errno::EACCES | Errno::EPERM => {
            error.hint("this user has no right to the parent: delegate a cgroup to it (systemd: Delegate=yes)")
        }
        Errno::EAGAIN => error.hint("cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached"),
        Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV => {
            error.hint("a name in the path is a file, a link or another mount").at("/linux/cgroupsPath")
        }
        _ => error,
    }
}

/// What helps when a write to `file` is refused.
fn hint(file: &str, errno: Errno, controllers: impl Fn() -> String) -> Option<String> {
    let controller = file.split('.').next().unwrap_or_default();
    let text = match (file, errno) {
        (_, Errno::ENOENT) if controllers().split_whitespace().any(|name| name == controller) => match controller {
            "hugetlb" => "this kernel has no pages of that size (/sys/kernel/mm/hugepages)",
            _ => "this kernel's controller has no such file",
        },
        (_, Errno::ENOENT) => {
            return Some(format!("the controller {controller} is not enabled here (cgroup.controllers)"));
        }
        ("cpu.max", Errno::EINVAL) => "a period is 1000 to 1000000 us, a quota at least 1000 us and at least the burst",
        ("cpu.max.burst", Errno::EINVAL) => "a burst is at most the quota",
        ("cpu.weight", Errno::EINVAL) => "where cpu.idle is 1 there is no weight",
        ("cpuset.cpus" | "cpuset.mems", Errno::EINVAL | Errno::ERANGE | Errno::ENOSPC | Errno::EOVERFLOW) => {
            "the list names what this machine does not have online (/sys/devices/system/{cpu,node}/online)"
        }
        ("io.max" | "io.weight" | "io.bfq.weight", Errno::ENODEV | Errno::ENXIO) => {
            "there is no such block device (/proc/partitions)"
        }
        ("io.max" | "io.weight" | "io.bfq.weight", Errno::EINVAL | Errno::EOPNOTSUPP) => {
            "it takes a whole disk, not a partition, whose driver supports this control"
        }
        ("rdma.max", _) => "the device must be one of rdma.current's",
        (_, Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
            "this user may not write here: delegate the cgroup, or drop the limit"
        }
        _ => return None,
    };
    Some(text.to_owned())
}
