//! Mounts by descriptor: the mount API of Linux 5.2 with mount_setattr(2) of 5.12.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{SysResult, check, check_fd};

/// `AT_RECURSIVE` of open_tree(2) and mount_setattr(2).
pub const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub attr_set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub attr_clr: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; 0 leaves the propagation alone.
    pub propagation: u64,
    /// User namespace for `MOUNT_ATTR_IDMAP`.
    pub userns_fd: u64,
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at `path`, with all below it when `recursive`.
pub fn open_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> SysResult<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: `path` is NUL-terminated and lives through the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2) of a mount descriptor onto the file that `target` is open on.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> SysResult<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty static strings.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    })
    .map(drop)
}

/// fsopen(2): a configuration context for a new file system of `kind`.
pub fn fsopen(kind: &CStr) -> SysResult<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: `kind` is NUL-terminated and lives through the call.
    check_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

fn fsconfig(fs: BorrowedFd<'_>, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> SysResult<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both strings are NUL-terminated or null, as each command wants them, and live through the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, pointer(key), pointer(value), 0) })
        .map(drop)
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
pub fn fsconfig_set_flag(fs: BorrowedFd<'_>, key: &CStr) -> SysResult<()> {
    fsconfig(fs, FSCONFIG_SET_FLAG, Some(key), None)
}

/// fsconfig(2) `FSCONFIG_SET_STRING`.
pub fn fsconfig_set_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> SysResult<()> {
    fsconfig(fs, FSCONFIG_SET_STRING, Some(key), Some(value))
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`.
pub fn fsconfig_create(fs: BorrowedFd<'_>) -> SysResult<()> {
    fsconfig(fs, FSCONFIG_CMD_CREATE, None, None)
}

/// fsconfig(2) `FSCONFIG_CMD_RECONFIGURE`.
pub fn fsconfig_reconfigure(fs: BorrowedFd<'_>) -> SysResult<()> {
    fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, None, None)
}

/// fspick(2): a context to reconfigure the file system that is mounted at `mount`.
pub fn fspick(mount: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    const FSPICK_CLOEXEC: u32 = 1;
    const FSPICK_EMPTY_PATH: u32 = 8;
    // SAFETY: the path is an empty static string.
    check_fd(unsafe {
        libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    })
}

/// fsmount(2): a detached mount of the file system that `fs` has created, with `MOUNT_ATTR_*` in `attr`.
pub fn fsmount(fs: BorrowedFd<'_>, attr: u64) -> SysResult<OwnedFd> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: no memory is passed.
    check_fd(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attr as u32) })
}

/// mount_setattr(2) on the mount whose root `mount` is open on.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> SysResult<()> {
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is a mount_attr of the size that is passed, and lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// mount_setattr(2) on `/` and all below it: sets the propagation (`MS_SLAVE`, ...).
pub fn set_propagation_of_all(propagation: u64) -> SysResult<()> {
    let root = super::path::open_dir(c"/")?;
    mount_setattr(root.as_fd(), true, &MountAttr { propagation, ..MountAttr::default() })
}

/// pivot_root(2) with both arguments `.`: the old root ends up stacked over the new one (man page, NOTES).
pub fn pivot_root_dot() -> SysResult<()> {
    // SAFETY: both paths are static strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// umount2(2).
pub fn umount2(path: &CStr, flags: i32) -> SysResult<()> {
    // SAFETY: `path` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_umount2, path.as_ptr(), flags) }).map(drop)
}
