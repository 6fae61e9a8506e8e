//! The root file system as the container will see it, as far as that is known before there is one: `root.path` with the
//! bind mounts in it. What other mounts hold is not known.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::bundle::Bundle;
use crate::plan::mount_options::MountOptions;
use crate::sys::path::{self, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS};

/// As the kernel's own `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

pub(super) struct View {
    /// In their order: the later one hides what lies below it. The first is the root.
    mounts: Vec<Mounted>,
    /// What leads to the mount points, by name; the first is the root.
    points: Vec<Point>,
}

struct Mounted {
    /// The host's file or directory that is seen there; none: a file system that is yet to be made.
    source: Option<OwnedFd>,
    /// Its number in `mounts` of the configuration; none for the root.
    index: Option<usize>,
    noexec: bool,
}

/// A mount point, or a directory on the way to one.
#[derive(Default)]
struct Point {
    below: HashMap<OsString, usize>,
    /// The last mount there.
    mount: Option<usize>,
}

/// The way to a place, without its links: a level per name, the root first.
#[derive(Clone)]
struct Way {
    levels: Vec<Level>,
    /// How many links there were.
    links: usize,
}

#[derive(Clone)]
struct Level {
    name: OsString,
    /// Its number among the points.
    point: Option<usize>,
    /// The mount that is seen here.
    mount: usize,
    /// The number of names that lead to that mount's root.
    root: usize,
    /// The mount's source does not have it: it will be made, since it leads to a mount point.
    missing: bool,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// The kernel would say this.
    Fails(Errno),
    /// It lies in the mount of this number, which is yet to be made.
    Unknown(usize),
}

/// What lies at a path.
pub(super) struct Seen {
    /// A descriptor by `O_PATH`.
    pub(super) file: OwnedFd,
    /// The mount that it lies on; none for the root.
    pub(super) mount: Option<usize>,
    /// Nothing on that mount can be executed.
    pub(super) noexec: bool,
}

impl View {
    pub(super) fn of(bundle: &Bundle) -> Option<View> {
        let root = bundle.dir.join(bundle.spec.root().as_ref()?.path());
        let source = open_host(&root)?;
        let noexec = is_noexec(&source);
        let mounts = vec![Mounted { source: Some(source), index: None, noexec }];
        let mut view = View { mounts, points: vec![Point::default()] };
        for (index, mount) in bundle.spec.mounts().iter().flatten().enumerate() {
            let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default()).unwrap_or_default();
            if options.remount {
                continue;
            }
            let bind = options.bind || matches!(mount.typ().as_deref(), Some("bind" | "rbind"));
            let source = mount.source().as_deref().filter(|_| bind).and_then(open_host);
            let inherited = source.as_ref().is_some_and(is_noexec);
            let noexec =
                options.set & libc::MOUNT_ATTR_NOEXEC != 0 || inherited && options.clear & libc::MOUNT_ATTR_NOEXEC == 0;
            let point = view.real(mount.destination()).into_iter().fold(0, |point, name| view.point(point, name));
            view.points[point].mount = Some(view.mounts.len());
            view.mounts.push(Mounted { source, index: Some(index), noexec });
        }
        Some(view)
    }

    /// The point of this name below `above`.
    fn point(&mut self, above: usize, name: OsString) -> usize {
        let next = self.points.len();
        let point = *self.points[above].below.entry(name).or_insert(next);
        if point == next {
            self.points.push(Point::default());
        }
        point
    }

    /// The file at `path`, links followed.
    pub(super) fn look(&self, path: &Path) -> Result<Seen, Nowhere> {
        let (mut way, mut parts) = (Way::new(), parts(path));
        while let Some(part) = parts.pop_front() {
            self.follow(&mut way, &part, parts.is_empty())?;
        }
        self.open(&way.levels)
    }

    /// The root cannot be executed from.
    pub(super) fn root_noexec(&self) -> bool {
        self.mounts[0].noexec
    }

    /// The destination of a mount without its links, by name. What is missing is made there as it is written.
    fn real(&self, destination: &Path) -> Vec<OsString> {
        let (mut way, mut parts) = (Way::new(), parts(destination));
        while parts.front().is_some_and(|part| self.follow(&mut way, part, parts.len() == 1).is_ok()) {
            parts.pop_front();
        }
        let mut names: Vec<OsString> = way.levels.into_iter().skip(1).map(|level| level.name).collect();
        for part in parts {
            if part == ".." {
                names.pop();
            } else {
                names.push(part);
            }
        }
        names
    }

    /// Goes on to `part`, which is the `last` one or not; where that fails, the way is as it was.
    fn follow(&self, way: &mut Way, part: &OsStr, last: bool) -> Result<(), Nowhere> {
        let Some(link) = self.step(way, part, last)? else { return Ok(()) };
        let mut beyond = Way { levels: way.levels.clone(), links: way.links + 1 };
        if beyond.links > MAX_LINKS {
            return Err(Nowhere::Fails(Errno::ELOOP));
        }
        if link.is_absolute() {
            beyond.levels.truncate(1);
        }
        let mut parts = parts(&link);
        while let Some(part) = parts.pop_front() {
            self.follow(&mut beyond, &part, last && parts.is_empty())?;
        }
        *way = beyond;
        Ok(())
    }

    /// The same, but for a link, which is returned.
    fn step(&self, way: &mut Way, part: &OsStr, last: bool) -> Result<Option<PathBuf>, Nowhere> {
        if part == ".." {
            way.levels.truncate((way.levels.len() - 1).max(1));
            return Ok(None);
        }
        let next = self.below(&way.levels, part);
        way.levels.push(next);
        let link = self.at_end(&mut way.levels, last);
        if !matches!(link, Ok(None)) {
            way.levels.pop();
        }
        link
    }

    /// The link at the end of the levels, or none for what is a part of the way or, if it is the `last` part, its end.
    fn at_end(&self, levels: &mut [Level], last: bool) -> Result<Option<PathBuf>, Nowhere> {
        let seen = self.open(levels);
        let seen = match (seen, levels.last_mut()) {
            // A mount point that is missing is made with what leads to it; one of a new file system is a directory.
            (Err(_), Some(level)) if level.point.is_some() => {
                level.missing = true;
                return Ok(None);
            }
            (seen, _) => seen?,
        };
        match file_type(&seen.file)? {
            libc::S_IFLNK => read_link(&seen.file).map(Some).map_err(Nowhere::Fails),
            libc::S_IFDIR => Ok(None),
            _ if last => Ok(None),
            _ => Err(Nowhere::Fails(Errno::ENOTDIR)),
        }
    }

    fn below(&self, levels: &[Level], name: &OsStr) -> Level {
        let depth = levels.len();
        let above = &levels[depth - 1];
        let point = above.point.and_then(|point| self.points[point].below.get(name).copied());
        let name = name.to_owned();
        match point.and_then(|point| self.points[point].mount).filter(|mount| *mount > above.mount) {
            Some(mount) => Level { name, point, mount, root: depth, missing: false },
            None => Level { name, point, mount: above.mount, root: above.root, missing: above.missing },
        }
    }

    /// What lies at the end of the levels.
    fn open(&self, levels: &[Level]) -> Result<Seen, Nowhere> {
        let level = &levels[levels.len() - 1];
        let mounted = &self.mounts[level.mount];
        let Some(source) = &mounted.source else { return Err(Nowhere::Unknown(mounted.index.unwrap_or_default())) };
        let below = &levels[level.root + 1..];
        let file = if below.is_empty() {
            source.try_clone().map_err(|_| Errno::EMFILE)
        } else if level.missing {
            Err(Errno::ENOENT)
        } else {
            let names: Vec<&[u8]> = below.iter().map(|level| level.name.as_bytes()).collect();
            let name = CString::new(names.join(&b'/')).map_err(|_| Nowhere::Fails(Errno::EINVAL))?;
            let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
            path::openat2(source.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0, resolve)
        };
        let file = file.map_err(Nowhere::Fails)?;
        Ok(Seen { file, mount: mounted.index, noexec: mounted.noexec })
    }
}

impl Way {
    fn new() -> Self {
        let root = Level { name: OsString::new(), point: Some(0), mount: 0, root: 0, missing: false };
        Self { levels: vec![root], links: 0 }
    }
}

impl Seen {
    /// The file's type and permissions.
    pub(super) fn mode(&self) -> u32 {
        path::fstat(self.file.as_fd()).map_or(0, |stat| stat.st_mode)
    }

    /// The regular file, to be read.
    pub(super) fn read(&self) -> Option<File> {
        let regular = self.mode() & libc::S_IFMT == libc::S_IFREG;
        // Our own descriptor, of a file that is known to be neither a FIFO nor a device.
        if regular { File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok() } else { None }
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let named = |part: Component| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(named).collect()
}

fn open_host(path: &Path) -> Option<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    path::openat(path::CWD, &path, libc::O_PATH, 0).ok()
}

fn is_noexec(file: &OwnedFd) -> bool {
    use nix::sys::statvfs::{FsFlags, fstatvfs};
    fstatvfs(file).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_NOEXEC))
}

fn file_type(file: &OwnedFd) -> Result<u32, Nowhere> {
    path::fstat(file.as_fd()).map(|stat| stat.st_mode & libc::S_IFMT).map_err(Nowhere::Fails)
}

fn read_link(link: &OwnedFd) -> Result<PathBuf, Errno> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let target = path::readlinkat(link.as_fd(), c"", &mut buffer)?;
    Ok(OsString::from_vec(target.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    /// A bundle with `rootfs` and `other`, of which `other` is bound to what `/link` leads to.
    fn view(name: &str) -> (PathBuf, View) {
        let dir = std::env::temp_dir().join(format!("orlop-view-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for made in ["rootfs/etc", "rootfs/usr"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        fs::create_dir_all(dir.join("other/below")).unwrap();
        fs::write(dir.join("rootfs/etc/file"), "root").unwrap();
        fs::write(dir.join("other/below/file"), "other").unwrap();
        for (target, link) in [("/usr", "link"), ("../../../etc/file", "up"), ("loop", "loop"), ("link/below", "into")]
        {
            symlink(target, dir.join("rootfs").join(link)).unwrap();
        }
        let config = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": [
            {"destination": "/link", "source": "other", "options": ["bind", "noexec"]},
            {"destination": "/made/by/mount", "type": "tmpfs", "source": "tmpfs"},
        ]});
        let bundle = Bundle::parse(dir.clone(), config.to_string().into_bytes()).unwrap();
        (dir, View::of(&bundle).unwrap())
    }

    #[test]
    fn paths_lead_where_the_container_would_find_them() {
        let (dir, view) = view("paths");
        let text = |path: &str| {
            let seen = view.look(Path::new(path)).map_err(|nowhere| panic!("{path}: {nowhere:?}")).unwrap();
            (std::io::read_to_string(seen.read().unwrap()).unwrap(), seen.mount)
        };
        assert_eq!(text("/etc/file"), ("root".into(), None));
        assert_eq!(text("/up"), ("root".into(), None), "no link leads out");
        for path in ["/usr/below/file", "/link/below/file", "/into/file", "/usr/../usr/./below/file"] {
            assert_eq!(text(path), ("other".into(), Some(0)), "{path}");
        }
        assert!(view.look(Path::new("/into/file")).is_ok_and(|seen| seen.noexec));
        let fails = |path: &str| view.look(Path::new(path)).err();
        assert_eq!(fails("/nothing"), Some(Nowhere::Fails(Errno::ENOENT)));
        assert_eq!(fails("/etc/file/x"), Some(Nowhere::Fails(Errno::ENOTDIR)));
        assert_eq!(fails("/loop"), Some(Nowhere::Fails(Errno::ELOOP)));
        assert_eq!(fails("/made/by/mount/x"), Some(Nowhere::Unknown(1)));
        fs::remove_dir_all(dir).unwrap();
    }

    /// With work for each pair of them, or for each pair of names in one, this would not come to its end.
    #[test]
    fn very_many_nested_targets_are_seen_in_time() {
        let dir = std::env::temp_dir().join(format!("orlop-view-nested-{}", std::process::id()));
        fs::create_dir_all(dir.join("rootfs/a/a")).unwrap();
        fs::write(dir.join("file"), "seen").unwrap();
        const DEPTH: usize = 1500;
        let mount = |depth: usize| json!({"destination": "/a".repeat(depth), "source": ".", "options": ["bind"]});
        let mounts: Vec<_> = (1..=DEPTH).map(mount).collect();
        let config = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts});
        let bundle = Bundle::parse(dir.clone(), config.to_string().into_bytes()).unwrap();
        let view = View::of(&bundle).unwrap();
        for depth in [1, DEPTH / 2, DEPTH] {
            let seen =
                view.look(Path::new(&format!("{}/file", "/a".repeat(depth)))).map_err(|nowhere| panic!("{nowhere:?}"));
            assert_eq!(seen.unwrap().mount, Some(depth - 1));
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_later_mount_hides_what_lies_below_it() {
        let dir = std::env::temp_dir().join(format!("orlop-view-hidden-{}", std::process::id()));
        for made in ["rootfs", "one", "two/below"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        fs::write(dir.join("one/file"), "").unwrap();
        symlink("/new/../new", dir.join("two/up")).unwrap();
        let bind = |at: &str, source: &str| json!({"destination": at, "source": source, "options": ["bind"]});
        let mounts = [bind("/new/below", "one"), bind("/new", "two"), bind("/new/up/below", "two")];
        let config = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts});
        let bundle = Bundle::parse(dir.clone(), config.to_string().into_bytes()).unwrap();
        let view = View::of(&bundle).unwrap();
        let mount = |path: &str| view.look(Path::new(path)).map(|seen| seen.mount);
        assert_eq!(mount("/new"), Ok(Some(1)));
        assert_eq!(mount("/new/below"), Ok(Some(2)), "by way of the link");
        assert_eq!(mount("/new/below/file"), Err(Nowhere::Fails(Errno::ENOENT)), "of what is hidden");
        assert_eq!(mount("/new/below/.././up/below/up"), Ok(Some(1)));
        fs::remove_dir_all(dir).unwrap();
    }
}
