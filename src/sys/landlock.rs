//! Landlock (landlock(7), Linux 5.13).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{SysResult, check, check_fd};

/// `LANDLOCK_ACCESS_FS_*`.
pub mod fs {
    #![allow(missing_docs)]
    pub const EXECUTE: u64 = 1 << 0;
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const REMOVE_DIR: u64 = 1 << 4;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_CHAR: u64 = 1 << 6;
    pub const MAKE_DIR: u64 = 1 << 7;
    pub const MAKE_REG: u64 = 1 << 8;
    pub const MAKE_SOCK: u64 = 1 << 9;
    pub const MAKE_FIFO: u64 = 1 << 10;
    pub const MAKE_BLOCK: u64 = 1 << 11;
    pub const MAKE_SYM: u64 = 1 << 12;
    /// ABI 2 (Linux 5.19); before it what this allows is denied to everybody.
    pub const REFER: u64 = 1 << 13;
    /// ABI 3 (Linux 6.2).
    pub const TRUNCATE: u64 = 1 << 14;
    /// ABI 5 (Linux 6.10).
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// Those that a rule about something else than a directory may have.
    pub const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
}

/// `LANDLOCK_ACCESS_NET_*` (ABI 4, Linux 6.7).
pub mod net {
    #![allow(missing_docs)]
    pub const BIND_TCP: u64 = 1 << 0;
    pub const CONNECT_TCP: u64 = 1 << 1;
}

/// `LANDLOCK_SCOPE_*` (ABI 6, Linux 6.12).
pub mod scope {
    #![allow(missing_docs)]
    pub const ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
    pub const SIGNAL: u64 = 1 << 1;
}

/// `struct landlock_ruleset_attr`: what is denied unless a rule allows it. The kernel takes a longer structure than it knows as
/// long as what it does not know is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ruleset {
    /// `LANDLOCK_ACCESS_FS_*`.
    pub fs: u64,
    /// `LANDLOCK_ACCESS_NET_*`.
    pub net: u64,
    /// `LANDLOCK_SCOPE_*`.
    pub scoped: u64,
}

/// landlock_create_ruleset(2) with `LANDLOCK_CREATE_RULESET_VERSION`: the ABI that the kernel has.
///
/// # Errors
/// `ENOSYS` without the call, `EOPNOTSUPP` when Landlock is not among the LSMs that were started.
pub fn abi() -> SysResult<u32> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel wants no address and reads nothing.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) }).map(|abi| abi as u32)
}

/// landlock_create_ruleset(2).
///
/// # Errors
/// `EINVAL`, `E2BIG`: something that this kernel does not know; those of [`abi`].
pub fn create_ruleset(ruleset: &Ruleset) -> SysResult<OwnedFd> {
    // SAFETY: the structure lives through the call and has the size that is passed.
    check_fd(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const *ruleset, size_of::<Ruleset>(), 0u32)
    })
}

/// landlock_add_rule(2): `access` (`LANDLOCK_ACCESS_FS_*`) to the file, or below the directory, that `file` is open on.
///
/// # Errors
/// `EINVAL`: a right that the ruleset does not handle, or that only directories have; `ENOMSG`: no right at all.
pub fn allow_path(ruleset: BorrowedFd<'_>, file: BorrowedFd<'_>, access: u64) -> SysResult<()> {
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: file.as_raw_fd() };
    // SAFETY: the structure is the one of this type of rule, and lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0u32)
    })
    .map(drop)
}

/// landlock_add_rule(2): `access` (`LANDLOCK_ACCESS_NET_*`) to a TCP port.
///
/// # Errors
/// `EINVAL`: a right that the ruleset does not handle, or no port.
pub fn allow_port(ruleset: BorrowedFd<'_>, port: u16, access: u64) -> SysResult<()> {
    /// `struct landlock_net_port_attr`.
    #[repr(C)]
    struct NetPort {
        allowed_access: u64,
        port: u64,
    }
    const NET_PORT: u32 = 2;
    let rule = NetPort { allowed_access: access, port: port.into() };
    // SAFETY: the structure is the one of this type of rule, and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), NET_PORT, &raw const rule, 0u32) })
        .map(drop)
}

/// landlock_restrict_self(2): from here on for this thread and all that it makes. It takes no_new_privs.
///
/// # Errors
/// `EPERM` without it, `E2BIG` when sixteen rulesets lie over each other already.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: the call takes numbers alone.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}
