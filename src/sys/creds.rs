//! Credentials: ids, capabilities, keyring, prctl(2). Raw calls: glibc's wrappers would signal threads that are not there.

use std::ffi::{CStr, c_long};

use nix::errno::Errno;

use super::{SysResult, check};

/// setresuid(2) with one id for all three.
pub fn setresuid(uid: u32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// setresgid(2) with one id for all three.
pub fn setresgid(gid: u32) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setgroups(2).
pub fn setgroups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: `groups` is readable for the length that is passed.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// The three sets that capset(2) takes, one bit per capability number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// capget(2) of the caller.
pub fn capget() -> SysResult<CapSets> {
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 wants a header and two data elements; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// capset(2) of the caller.
pub fn capset(sets: CapSets) -> SysResult<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let part = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: version 3 wants a header and two data elements; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// prctl(2) with up to four integer arguments.
pub fn prctl(option: i32, arg2: u64, arg3: u64) -> SysResult<c_long> {
    // SAFETY: only options with integer arguments are used.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, arg2, arg3, 0u64, 0u64) })
}

/// `PR_CAPBSET_DROP` of every capability up to `last` that is not in `keep`.
pub fn drop_bounding(keep: u64, last: u8) -> SysResult<()> {
    for capability in 0..=u64::from(last) {
        if keep & (1 << capability) == 0 {
            prctl(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
    }
    Ok(())
}

/// `PR_CAP_AMBIENT`: makes the ambient set exactly `ambient`.
pub fn set_ambient(ambient: u64) -> SysResult<()> {
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0) {
        // A kernel before 4.3 has no ambient set: nothing to clear.
        Err(Errno::EINVAL) if ambient == 0 => return Ok(()),
        answer => answer?,
    };
    for capability in (0..64).filter(|bit| ambient & (1u64 << bit) != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)?;
    }
    Ok(())
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: a new session keyring called `name`; its serial number.
pub fn join_session_keyring(name: &CStr) -> SysResult<c_long> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr(), 0, 0, 0) })
}

/// keyctl(2) `KEYCTL_SETPERM`.
pub fn set_key_permissions(key: c_long, permissions: u32) -> SysResult<()> {
    const KEYCTL_SETPERM: c_long = 5;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions, 0, 0) }).map(drop)
}
