//! Mounts, masks and read-only paths: built detached, their attributes set, then attached by descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::root::{lookup, lookup_or_create};
use super::{Fail, Named, State, copy_up};
use crate::plan::op::{Mount, Source};
use crate::sys::SysResult;
use crate::sys::mount::{self as sys, MountAttr};
use crate::sys::path::{self, inherited};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// The inode of a procfs's root (`PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;

/// Files of procfs that may be mounted over (lxcfs and the like); everything else there is refused (I-06).
const PROC_FILES: &[&CStr] = &[
    c"/proc/cpuinfo",
    c"/proc/diskstats",
    c"/proc/meminfo",
    c"/proc/stat",
    c"/proc/swaps",
    c"/proc/uptime",
    c"/proc/loadavg",
    c"/proc/slabinfo",
    c"/proc/sys/kernel/ns_last_pid",
    c"/proc/sys/crypto/fips_enabled",
];

/// One entry of `mounts`.
pub(super) fn mount(state: &mut State<'_>, entry: &Mount) -> Result<(), Fail> {
    if let Source::Bind(source) = &entry.source {
        let tree = match sys::open_tree(path::CWD, source, entry.options.recursive) {
            Err(Errno::EACCES) if entry.parent_opens => {
                let source = super::source_from_parent(state)?;
                sys::open_tree(source.as_fd(), c"", entry.options.recursive)
            }
            Err(Errno::ENOENT) if !entry.fallback.is_empty() => fallback(entry),
            answer => answer,
        }
        .named("open_tree")?;
        return attach_bind(state, entry, tree.as_fd());
    }
    match &entry.source {
        Source::Tree(index) => {
            let tree = state.inherited.trees.get(*index).copied().unwrap_or(-1);
            attach_bind(state, entry, inherited(tree))
        }
        Source::New { kind, source } => new(state, entry, kind, source),
        Source::Bind(_) => Ok(()),
    }
}

/// The first that is there, with what is mounted below it, which a user namespace can't leave out; all of it read-only when
/// the mount is.
fn fallback(entry: &Mount) -> SysResult<OwnedFd> {
    let mut answer = Err(Errno::ENOENT);
    for source in &entry.fallback {
        answer = sys::open_tree(path::CWD, source, true);
        if !matches!(answer, Err(Errno::ENOENT)) {
            break;
        }
    }
    let read_only = entry.options.set & libc::MOUNT_ATTR_RDONLY;
    if let (Ok(tree), true) = (&answer, read_only != 0) {
        sys::mount_setattr(tree.as_fd(), true, &MountAttr { attr_set: read_only, ..MountAttr::default() })?;
    }
    answer
}

fn attach_bind(state: &mut State<'_>, entry: &Mount, tree: BorrowedFd<'_>) -> Result<(), Fail> {
    let directory = is_directory(tree).named("fstat")?;
    let target = lookup_or_create(state.root()?, &entry.target, directory).named("openat2")?;
    allowed(&target, &entry.target)?;
    if entry.procfs {
        whole_procfs(tree)?;
    }
    bind_attributes(tree, entry)?;
    attach(state, entry, tree, &target)
}

/// Programs and LSM tools inside trust what they find in `/proc` (CVE-2019-16884).
fn whole_procfs(tree: BorrowedFd<'_>) -> Result<(), Fail> {
    let whole = path::fstatfs(tree).named("fstatfs")? == PROC_SUPER_MAGIC
        && path::fstat(tree).named("fstat")?.st_ino == PROC_ROOT;
    let refused = Fail::new("fstatfs", Errno::EPERM).because("cannot be mounted because it is not of type proc");
    if whole { Ok(()) } else { Err(refused) }
}

fn is_directory(file: BorrowedFd<'_>) -> SysResult<bool> {
    Ok(path::fstat(file)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Attributes that a user namespace holds locked can't be cleared: they stay, and what is to be set is set.
fn bind_attributes(tree: BorrowedFd<'_>, entry: &Mount) -> Result<(), Fail> {
    let options = &entry.options;
    let pairs = [(options.set, options.clear, false), (options.set_recursive, options.clear_recursive, true)];
    for (set, clear, recursive) in pairs {
        if set | clear == 0 {
            continue;
        }
        let attr = MountAttr { attr_set: set, attr_clr: clear, ..MountAttr::default() };
        match sys::mount_setattr(tree, recursive, &attr) {
            Err(Errno::EPERM) if clear != 0 => {
                let kept = MountAttr { attr_clr: 0, ..attr };
                sys::mount_setattr(tree, recursive, &kept).named("mount_setattr")?;
            }
            answer => answer.named("mount_setattr")?,
        }
    }
    Ok(())
}

fn new(state: &mut State<'_>, entry: &Mount, kind: &CStr, source: &CStr) -> Result<(), Fail> {
    let root = state.root()?;
    let target = if entry.ordinary_directory {
        ordinary_directory(root, &entry.target)?
    } else {
        lookup_or_create(root, &entry.target, true).named("openat2")?
    };
    if !entry.ordinary_directory {
        allowed(&target, &entry.target)?;
    }
    let mode = match kind.to_bytes() {
        b"tmpfs" if entry.data.iter().all(|(key, _)| key.as_bytes() != b"mode") => {
            Some(path::fstat(target.as_fd()).named("fstat")?.st_mode & 0o7777)
        }
        _ => None,
    };
    let made = match create(entry, kind, source, mode) {
        Err(fail) if matches!(fail.errno, Errno::EPERM | Errno::EBUSY | Errno::EINVAL) => {
            if entry.fallback.is_empty() {
                return Err(fail);
            }
            let tree = fallback(entry).named("open_tree")?;
            bind_attributes(tree.as_fd(), entry)?;
            tree
        }
        answer => answer?,
    };
    if let Some(label) = &entry.label {
        let top = path::openat(made.as_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0).named("openat")?;
        path::fsetxattr(top.as_fd(), c"security.selinux", label.to_bytes()).named("fsetxattr(security.selinux)")?;
    }
    if entry.options.copy_up {
        copy_up::copy(root, &entry.target, made.as_fd())?;
    }
    let read_only = entry.options.set & libc::MOUNT_ATTR_RDONLY;
    if entry.options.copy_up && read_only != 0 {
        let attr = MountAttr { attr_set: read_only, ..MountAttr::default() };
        sys::mount_setattr(made.as_fd(), false, &attr).named("mount_setattr")?;
    }
    attach(state, entry, made.as_fd(), &target)
}

/// procfs and sysfs go on a real directory and nowhere else: a link there would lead the labels and sysctls that are
/// written later to another place (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
fn ordinary_directory(root: BorrowedFd<'_>, target: &CStr) -> Result<OwnedFd, Fail> {
    const WHY: &str = "must be mounted on ordinary directory";
    match lookup(root, target, libc::O_NOFOLLOW) {
        Ok(file) => match is_directory(file.as_fd()).named("fstat")? {
            true => outside_proc(file, target),
            false => Err(Fail::new("openat2", Errno::ENOTDIR).because(WHY)),
        },
        Err(Errno::ENOENT) => lookup_or_create(root, target, true).named("openat2"),
        Err(Errno::ELOOP) => Err(Fail::new("openat2", Errno::ELOOP).because(WHY)),
        Err(errno) => Err(Fail::new("openat2", errno)),
    }
}

/// A link on the way may have led into the container's procfs, where a second one would show what the first has masked.
fn outside_proc(file: OwnedFd, target: &CStr) -> Result<OwnedFd, Fail> {
    let there = path::fstatfs(file.as_fd()).named("fstatfs")?;
    if there != PROC_SUPER_MAGIC || matches!(target.to_bytes(), b"/proc" | b"/proc/") {
        return Ok(file);
    }
    Err(Fail::new("fstatfs", Errno::EPERM).because("cannot be mounted because it is inside /proc"))
}

/// A target that turns out to lie on procfs, whatever link led there, is refused but for the few files above.
fn allowed(target: &OwnedFd, written: &CStr) -> Result<(), Fail> {
    if path::fstatfs(target.as_fd()).named("fstatfs")? != PROC_SUPER_MAGIC || PROC_FILES.contains(&written) {
        return Ok(());
    }
    Err(Fail::new("fstatfs", Errno::EPERM).because("cannot be mounted because it is inside /proc"))
}

/// fsopen(2) to fsmount(2): the new file system, detached.
fn create(entry: &Mount, kind: &CStr, source: &CStr, mode: Option<u32>) -> Result<OwnedFd, Fail> {
    let fs = sys::fsopen(kind).named("fsopen")?;
    let failed = |call, errno: Errno, key: &CStr| explain(fs.as_fd(), Fail::new(call, errno), key);
    if !source.is_empty() {
        sys::fsconfig_set_string(fs.as_fd(), c"source", source)
            .map_err(|errno| failed("fsconfig(FSCONFIG_SET_STRING)", errno, c"source"))?;
    }
    if let Some(mode) = mode {
        let mut text = super::Text::new();
        octal(&mut text, mode);
        sys::fsconfig_set_string(fs.as_fd(), c"mode", text.as_cstr())
            .map_err(|errno| failed("fsconfig(FSCONFIG_SET_STRING)", errno, c"mode"))?;
    }
    for flag in &entry.flags {
        sys::fsconfig_set_flag(fs.as_fd(), flag).map_err(|errno| failed("fsconfig(FSCONFIG_SET_FLAG)", errno, flag))?;
    }
    parameters(fs.as_fd(), &entry.data)?;
    sys::fsconfig_create(fs.as_fd()).map_err(|errno| failed("fsconfig(FSCONFIG_CMD_CREATE)", errno, kind))?;
    let mut attr = entry.options.set;
    if entry.options.copy_up {
        attr &= !libc::MOUNT_ATTR_RDONLY;
    }
    sys::fsmount(fs.as_fd(), attr).named("fsmount")
}

fn parameters(fs: BorrowedFd<'_>, data: &[(CString, Option<CString>)]) -> Result<(), Fail> {
    for (key, value) in data {
        match value {
            Some(value) => sys::fsconfig_set_string(fs, key, value)
                .map_err(|errno| explain(fs, Fail::new("fsconfig(FSCONFIG_SET_STRING)", errno), key))?,
            None => sys::fsconfig_set_flag(fs, key)
                .map_err(|errno| explain(fs, Fail::new("fsconfig(FSCONFIG_SET_FLAG)", errno), key))?,
        }
    }
    Ok(())
}

/// The file system's own words, which the context's descriptor gives (kernel 5.2), and the parameter.
fn explain(fs: BorrowedFd<'_>, fail: Fail, key: &CStr) -> Fail {
    let mut buffer = [0u8; 256];
    let words = path::read(fs, &mut buffer).map_or(&[][..], |length| &buffer[..length]);
    // "e tmpfs: Bad value for 'size'": the first letter is the level.
    let words = if words.get(1) == Some(&b' ') { &words[2..] } else { words };
    let words = words.strip_suffix(b"\n").unwrap_or(words);
    if words.is_empty() { fail.because("parameter ").with(key.to_bytes()) } else { fail.with(words) }
}

fn octal(text: &mut super::Text, value: u32) {
    for shift in [9, 6, 3, 0] {
        text.push(&[b'0' + (value >> shift & 7) as u8]);
    }
}

fn attach(state: &mut State<'_>, entry: &Mount, made: BorrowedFd<'_>, target: &OwnedFd) -> Result<(), Fail> {
    if let Err(errno) = sys::move_mount(made, target.as_fd()) {
        return Err(not_attached(made, target, errno));
    }
    for propagation in &entry.options.propagation {
        let recursive = propagation & libc::MS_REC != 0;
        let attr = MountAttr { propagation: propagation & !libc::MS_REC, ..MountAttr::default() };
        sys::mount_setattr(made, recursive, &attr).named("mount_setattr")?;
    }
    let trimmed = entry.target.to_bytes();
    if trimmed.strip_suffix(b"/").unwrap_or(trimmed) == b"/dev" {
        state.dev_mount = Some(path::mount_id(made).named("statx")?);
    }
    Ok(())
}

/// Of a file on a directory, or the other way round, move_mount(2) only says EINVAL; mount(2) said ENOTDIR, which engines look for.
fn not_attached(made: BorrowedFd<'_>, target: &OwnedFd, errno: Errno) -> Fail {
    match (errno, is_directory(made), is_directory(target.as_fd())) {
        (Errno::EINVAL, Ok(true), Ok(false)) => {
            Fail::new("move_mount", Errno::ENOTDIR).because("a directory, and its target is none")
        }
        (Errno::EINVAL, Ok(false), Ok(true)) => {
            Fail::new("move_mount", Errno::ENOTDIR).because("no directory, and its target is one")
        }
        _ => Fail::new("move_mount", errno),
    }
}

/// More attributes of a mount that is there.
pub(super) fn attributes(state: &mut State<'_>, target: &CStr, attr: &MountAttr, recursive: bool) -> Result<(), Fail> {
    let target = lookup(state.root()?, target, 0).named("openat2")?;
    sys::mount_setattr(target.as_fd(), recursive, attr).named("mount_setattr")
}

/// An empty read-only tmpfs, detached.
pub(super) fn empty_tmpfs(label: Option<&CStr>) -> SysResult<OwnedFd> {
    let fs = sys::fsopen(c"tmpfs")?;
    sys::fsconfig_set_string(fs.as_fd(), c"size", c"0")?;
    sys::fsconfig_set_string(fs.as_fd(), c"nr_inodes", c"2")?;
    if let Some(label) = label {
        sys::fsconfig_set_string(fs.as_fd(), c"context", label)?;
    }
    sys::fsconfig_create(fs.as_fd())?;
    sys::fsmount(
        fs.as_fd(),
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
    )
}

/// Puts `/dev/null` over a file, or an empty directory over a directory. Only a path that is not there is no failure:
/// whatever else goes wrong would leave it open (CVE-2025-31133).
pub(super) fn mask(state: &mut State<'_>, masked: &CStr, label: Option<&CStr>) -> Result<(), Fail> {
    let target = match lookup(state.root()?, masked, 0) {
        Ok(target) => target,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(Fail::new("openat2", errno)),
    };
    if !is_directory(target.as_fd()).named("fstat")? {
        let null = null_device(state.root()?)?;
        let tree = sys::open_tree(null.as_fd(), c"", false).named("open_tree")?;
        return sys::move_mount(tree.as_fd(), target.as_fd()).named("move_mount");
    }
    match &state.empty {
        Some(empty) => {
            let tree = sys::open_tree(empty.as_fd(), c"", false).named("open_tree")?;
            sys::move_mount(tree.as_fd(), target.as_fd()).named("move_mount")
        }
        None => {
            let empty = empty_tmpfs(label).named("fsmount")?;
            sys::move_mount(empty.as_fd(), target.as_fd()).named("move_mount")?;
            state.empty = Some(empty);
            Ok(())
        }
    }
}

/// `/dev/null` of the container, known by its type and its number (CVE-2025-31133, CVE-2026-88265).
fn null_device(root: BorrowedFd<'_>) -> Result<OwnedFd, Fail> {
    let null = lookup(root, c"/dev/null", libc::O_NOFOLLOW).named("openat2 /dev/null")?;
    let stat = path::fstat(null.as_fd()).named("fstat")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Err(Fail::new("fstat", Errno::ENODEV).because("/dev/null of the container is not the null device"));
    }
    Ok(null)
}

/// Binds a path on itself, read-only. A path that is not there needs none.
pub(super) fn readonly(state: &mut State<'_>, protected: &CStr) -> Result<(), Fail> {
    let target = match lookup(state.root()?, protected, 0) {
        Ok(target) => target,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(Fail::new("openat2", errno)),
    };
    let tree = sys::open_tree(target.as_fd(), c"", true).named("open_tree")?;
    let attr = MountAttr { attr_set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), true, &attr).named("mount_setattr")?;
    sys::move_mount(tree.as_fd(), target.as_fd()).named("move_mount")
}
