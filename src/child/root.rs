//! The root file system: opened once, bound, entered.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::text::PathText;
use super::{Fail, Named, State};
use crate::sys::SysResult;
use crate::sys::mount::{self, MountAttr};
use crate::sys::path::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};

/// One lookup in the root file system: links stay inside, magic links are refused (openat2(2), kernel 5.6).
pub(super) fn lookup(root: BorrowedFd<'_>, file: &CStr, flags: i32) -> SysResult<OwnedFd> {
    path::openat2(root, file, libc::O_PATH | flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// Looks `file` up, and makes what is missing of it: directories, and at the end a directory or an empty file.
///
/// Each part is made on the descriptor of its parent and opened without following a link, so that nothing is ever made
/// outside (CVE-2024-45310).
pub(super) fn lookup_or_create(root: BorrowedFd<'_>, file: &CStr, directory: bool) -> SysResult<OwnedFd> {
    match lookup(root, file, 0) {
        Err(Errno::ENOENT) => {}
        answer => return answer,
    }
    if let Some(made) = create_last(root, file, directory)? {
        return Ok(made);
    }
    let mut prefix = PathText::new();
    let mut parent = lookup(root, c".", libc::O_DIRECTORY)?;
    let mut parts = file.to_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        if !prefix.push(b"/") || !prefix.push(part) {
            return Err(Errno::ENAMETOOLONG);
        }
        parent = match lookup(root, prefix.as_cstr(), 0) {
            Err(Errno::ENOENT) if part != b".." => {
                let mut name = PathText::new();
                name.push(part);
                path::create_empty(parent.as_fd(), name.as_cstr(), directory || parts.peek().is_some())?
            }
            answer => answer?,
        };
    }
    Ok(parent)
}

/// The usual case: only the last part is missing.
fn create_last(root: BorrowedFd<'_>, file: &CStr, directory: bool) -> SysResult<Option<OwnedFd>> {
    let bytes = file.to_bytes();
    let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else { return Ok(None) };
    let (mut parent, mut name) = (PathText::new(), PathText::new());
    let last = &bytes[slash + 1..];
    if last.is_empty() || last == b"." || last == b".." || !parent.push(&bytes[..=slash]) || !name.push(last) {
        return Ok(None);
    }
    match lookup(root, parent.as_cstr(), libc::O_DIRECTORY) {
        Ok(parent) => path::create_empty(parent.as_fd(), name.as_cstr(), directory).map(Some),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The directory of `file`, made where it is missing, and the last part of its name.
pub(super) fn parent_of(root: BorrowedFd<'_>, file: &CStr) -> Result<(OwnedFd, PathText), Fail> {
    let bytes = file.to_bytes();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b'/').count();
    let start = bytes[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = &bytes[start..end];
    let mut directory = PathText::new();
    let mut last = PathText::new();
    if name.is_empty() || name == b"." || name == b".." || !directory.push(b"/") {
        return Err(Fail::new("openat2", Errno::EINVAL).because("not a file name: ").with(bytes));
    }
    if !directory.push(&bytes[..start]) || !last.push(name) {
        return Err(Fail::new("openat2", Errno::ENAMETOOLONG));
    }
    let parent = lookup_or_create(root, directory.as_cstr(), true).named("openat2")?;
    Ok((parent, last))
}

/// Binds the root file system on itself, so that it is a mount of its own for pivot_root(2).
///
/// pivot_root refuses a new root that is shared, or that is mounted on a shared mount; and a bind on a shared mount would
/// show on the host. With `private_parent` the mount that holds the root is made private first, in this namespace alone.
pub(super) fn open(state: &mut State<'_>, file: &CStr, private_parent: bool) -> Result<(), Fail> {
    let below = path::open_dir(file).named("open")?;
    if private_parent {
        make_private(below.as_fd())?;
    }
    let tree = mount::open_tree(below.as_fd(), c"", true).named("open_tree")?;
    mount::move_mount(tree.as_fd(), below.as_fd()).named("move_mount")?;
    state.root = Some(tree);
    Ok(())
}

/// Makes the mount that holds `dir` private. mount_setattr(2) takes the root of a mount alone (EINVAL), so the way to it
/// is walked up; no path has more parts than it has bytes.
fn make_private(dir: BorrowedFd<'_>) -> Result<(), Fail> {
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    let mut above: Option<OwnedFd> = None;
    for _ in 0..libc::PATH_MAX {
        let here = above.as_ref().map_or(dir, AsFd::as_fd);
        match mount::mount_setattr(here, false, &private) {
            Err(Errno::EINVAL) => {
                above = Some(path::openat(here, c"..", libc::O_PATH | libc::O_DIRECTORY, 0).named("openat")?);
            }
            answer => return answer.named("mount_setattr"),
        }
    }
    Err(Fail::new("mount_setattr", Errno::EINVAL).because("the root file system is below a chroot"))
}

/// Opens a root that is not bound.
pub(super) fn open_plain(state: &mut State<'_>, file: &CStr) -> Result<(), Fail> {
    state.root = Some(path::open_dir(file).named("open")?);
    Ok(())
}

/// pivot_root(2) of `.` on `.`: the old root lies over the new one and is taken away (man page, NOTES).
pub(super) fn pivot(state: &mut State<'_>) -> Result<(), Fail> {
    let old = path::open_dir(c"/").named("open")?;
    path::fchdir(state.root()?).named("fchdir")?;
    mount::pivot_root_dot().named("pivot_root")?;
    // The unmount must not travel to the host, whatever rootfsPropagation says.
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    mount::mount_setattr(old.as_fd(), true, &slave).named("mount_setattr")?;
    path::fchdir(old.as_fd()).named("fchdir")?;
    mount::umount2(c".", libc::MNT_DETACH).named("umount2")?;
    path::fchdir(state.root()?).named("fchdir")
}

/// move_mount(2) over `/` and chroot(2), where `/` is the initial ramfs that pivot_root(2) refuses.
pub(super) fn move_root(state: &mut State<'_>, cover: &[CString]) -> Result<(), Fail> {
    for covered in cover {
        match mount::umount2(covered, libc::MNT_DETACH) {
            Ok(()) => {}
            // Locked by a user namespace, or a part of a larger mount: an empty tmpfs hides it.
            Err(Errno::EINVAL | Errno::EPERM) => {
                let target = path::open_dir(covered).named("open")?;
                let empty = super::mount::empty_tmpfs(None).named("fsmount")?;
                mount::move_mount(empty.as_fd(), target.as_fd()).named("move_mount")?;
            }
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Fail::new("umount2", errno).with(covered.to_bytes())),
        }
    }
    let root = state.root()?;
    path::fchdir(root).named("fchdir")?;
    let old = path::open_dir(c"/").named("open")?;
    mount::move_mount(root, old.as_fd()).named("move_mount")?;
    path::chroot_dot().named("chroot")?;
    path::fchdir(root).named("fchdir")
}

/// chroot(2) alone.
pub(super) fn chroot(state: &mut State<'_>) -> Result<(), Fail> {
    path::fchdir(state.root()?).named("fchdir")?;
    path::chroot_dot().named("chroot")
}

/// Propagation of `/` and all below it.
pub(super) fn propagation(state: &mut State<'_>, flags: u64) -> Result<(), Fail> {
    let attr = MountAttr { propagation: flags, ..MountAttr::default() };
    mount::mount_setattr(state.root()?, true, &attr).named("mount_setattr")
}

/// `/` alone; what is mounted below keeps its own attributes.
pub(super) fn readonly(state: &mut State<'_>) -> Result<(), Fail> {
    let attr = MountAttr { attr_set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount::mount_setattr(state.root()?, false, &attr).named("mount_setattr")
}

/// The working directory is made where it is missing, by descriptor (CVE-2026-55686). On a file system that can't be
/// written to, its absence is told when it is entered.
pub(super) fn create_cwd(state: &mut State<'_>, file: &CStr) -> Result<(), Fail> {
    match lookup_or_create(state.root()?, file, true) {
        Ok(_) | Err(Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ENOTDIR | Errno::EEXIST | Errno::ELOOP) => {
            Ok(())
        }
        Err(errno) => Err(Fail::new("mkdirat", errno)),
    }
}

/// Enters the working directory, and asks the kernel whether it is below the root: getcwd(2) of a directory outside
/// begins with `(unreachable)` (CVE-2024-21626).
pub(super) fn enter_cwd(state: &mut State<'_>, file: &CStr, last: bool) -> Result<(), Fail> {
    if state.in_cwd {
        return Ok(());
    }
    let found = lookup(state.root()?, file, libc::O_DIRECTORY).named("openat2");
    match found.and_then(|cwd| path::fchdir(cwd.as_fd()).named("fchdir")) {
        Ok(()) => {}
        Err(Fail { errno: Errno::EACCES | Errno::EPERM, .. }) if !last => return Ok(()),
        Err(fail) => return Err(fail),
    }
    let mut buffer = [0u8; 4097];
    let inside = path::getcwd(&mut buffer).is_ok_and(|cwd| cwd.first() == Some(&b'/'));
    if !inside {
        return Err(Fail::new("getcwd", Errno::EPERM)
            .because("current working directory is outside of container mount namespace root"));
    }
    state.in_cwd = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::child::{Inherited, SLOTS};
    use crate::exec::protocol::{Report, Staged};
    use crate::sys::shared::Shared;

    /// A directory of its own with `root` in it, which is opened.
    fn scratch(name: &str) -> (PathBuf, OwnedFd) {
        let top = std::env::temp_dir().join(format!("orlop-root-{name}-{}", std::process::id()));
        std::fs::create_dir_all(top.join("root")).unwrap();
        let root = opened(&top.join("root"));
        (top, root)
    }

    fn opened(path: &Path) -> OwnedFd {
        path::open_dir(&CString::new(path.as_os_str().as_bytes()).unwrap()).unwrap()
    }

    /// What validation refuses in a configuration, and a link of the image could have all the same.
    #[test]
    fn what_climbs_is_made_below_the_root() {
        let (top, root) = scratch("climbing");
        std::os::unix::fs::symlink("../..", top.join("root/up")).unwrap();
        for (file, made) in [(c"/dev/../../made", "made"), (c"/../made/more", "made/more"), (c"/up/linked", "linked")] {
            lookup_or_create(root.as_fd(), file, true).unwrap();
            assert!(top.join("root").join(made).is_dir(), "{file:?}");
        }
        let (directory, name) = parent_of(root.as_fd(), c"/../../beside/device").ok().unwrap();
        path::mkdirat(directory.as_fd(), name.as_cstr(), 0o755).unwrap();
        assert!(top.join("root/beside/device").is_dir());
        let beside: Vec<_> = std::fs::read_dir(&top).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(beside, ["root"]);
        std::fs::remove_dir_all(top).unwrap();
    }

    /// A descriptor that leads out, as a lookup must never find it: the kernel is asked where it is all the same.
    #[test]
    fn a_working_directory_outside_is_not_entered() {
        if !nix::unistd::geteuid().is_root() {
            return; // chroot(2)
        }
        let (top, root) = scratch("outside");
        let entered = |from: &Path| {
            let (fd, root) = (opened(from), root.try_clone().unwrap());
            // A thread with a root of its own.
            let entering = move || {
                crate::sys::clone::unshare(libc::CLONE_FS).unwrap();
                path::fchdir(root.as_fd()).unwrap();
                path::chroot_dot().unwrap();
                let (report, staged) = (Shared::<Report>::anonymous().unwrap(), Shared::<Staged>::anonymous().unwrap());
                let inherited = Inherited { fds: [-1; SLOTS], trees: &[], report: &report, staged: &staged };
                let mut state = State::new(&inherited, 0o022);
                state.root = Some(fd);
                enter_cwd(&mut state, c".", true).map_err(|fail| (fail.call, fail.errno))
            };
            std::thread::spawn(entering).join().unwrap()
        };
        assert_eq!(entered(&top.join("root")), Ok(()));
        assert_eq!(entered(&top), Err(("getcwd", Errno::EPERM)));
        std::fs::remove_dir_all(top).unwrap();
    }
}
