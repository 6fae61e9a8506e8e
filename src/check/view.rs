//! The root file system as the container will see it, as far as that is known before there is one: `root.path` with the
//! bind mounts in it. What other mounts hold is not known.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
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

pub(super) struct View(Vec<Mounted>);

/// One mount; the first is the root.
struct Mounted {
    /// Its destination, without links.
    at: PathBuf,
    /// The host's file or directory that is seen there; none: a file system that is yet to be made.
    source: Option<OwnedFd>,
    /// Its number in `mounts`; none for the root.
    index: Option<usize>,
    noexec: bool,
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
        let mut view = View(vec![Mounted { at: "/".into(), source: Some(source), index: None, noexec }]);
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
            let at = view.real(mount.destination());
            view.0.push(Mounted { at, source, index: Some(index), noexec });
        }
        Some(view)
    }

    /// The file at `path`, links followed.
    pub(super) fn look(&self, path: &Path) -> Result<Seen, Nowhere> {
        self.open(&self.resolve(path)?)
    }

    /// The root cannot be executed from.
    pub(super) fn root_noexec(&self) -> bool {
        self.0[0].noexec
    }

    /// The destination of a mount without its links. What is missing is made there as it is written.
    fn real(&self, destination: &Path) -> PathBuf {
        let (mut known, mut rest) = (Path::new("/").join(destination), PathBuf::new());
        loop {
            if let Ok(real) = self.resolve(&known) {
                return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
            }
            let Some(name) = known.file_name().map(ToOwned::to_owned) else { return known };
            rest = if rest.as_os_str().is_empty() { name.into() } else { Path::new(&name).join(rest) };
            known.pop();
        }
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf, Nowhere> {
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(part);
            let Some(file) = self.step(&next, rest.is_empty())? else {
                at = next;
                continue;
            };
            let link = read_link(&file).map_err(Nowhere::Fails)?;
            links += 1;
            if links > MAX_LINKS {
                return Err(Nowhere::Fails(Errno::ELOOP));
            }
            if link.is_absolute() {
                at = "/".into();
            }
            parts(&link).into_iter().rev().for_each(|part| rest.push_front(part));
        }
        Ok(at)
    }

    /// The link at `path`, or none for what is a part of the way or, if it is the `last` part, its end.
    fn step(&self, path: &Path, last: bool) -> Result<Option<OwnedFd>, Nowhere> {
        let seen = match self.open(path) {
            // A mount point that is missing is made with what leads to it; one of a new file system is a directory.
            Err(_) if self.0.iter().any(|mounted| mounted.at.starts_with(path)) => return Ok(None),
            seen => seen?,
        };
        match file_type(&seen.file)? {
            libc::S_IFLNK => Ok(Some(seen.file)),
            libc::S_IFDIR => Ok(None),
            _ if last => Ok(None),
            _ => Err(Nowhere::Fails(Errno::ENOTDIR)),
        }
    }

    /// What lies at a path that holds no links on its way.
    fn open(&self, path: &Path) -> Result<Seen, Nowhere> {
        let mounted =
            self.0.iter().rev().find(|mounted| path.starts_with(&mounted.at)).ok_or(Nowhere::Fails(Errno::ENOENT))?;
        let Some(source) = &mounted.source else { return Err(Nowhere::Unknown(mounted.index.unwrap_or_default())) };
        let below = path.strip_prefix(&mounted.at).unwrap_or(Path::new(""));
        let file = match below.as_os_str().is_empty() {
            true => source.try_clone().map_err(|_| Errno::EMFILE),
            false => {
                let name = CString::new(below.as_os_str().as_bytes()).map_err(|_| Nowhere::Fails(Errno::EINVAL))?;
                let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
                path::openat2(source.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0, resolve)
            }
        };
        let file = file.map_err(Nowhere::Fails)?;
        Ok(Seen { file, mount: mounted.index, noexec: mounted.noexec })
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
}
