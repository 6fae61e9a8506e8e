//! When and where a process runs: scheduler, processors, I/O priority, memory policy, execution domain.

use super::{SysResult, check};

/// `struct sched_attr` of sched_setattr(2), with the clamps of Linux 5.3.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// The size that the kernel is told: it reads no further.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
    /// With `SCHED_FLAG_UTIL_CLAMP_MIN`.
    pub util_min: u32,
    /// With `SCHED_FLAG_UTIL_CLAMP_MAX`.
    pub util_max: u32,
}

impl SchedAttr {
    /// The size of the first version of the struct, which every kernel with the call knows.
    pub const SIZE_VER0: u32 = 48;
}

/// sched_setattr(2) of the caller (Linux 3.14).
pub fn sched_setattr(attr: &SchedAttr) -> SysResult<()> {
    // SAFETY: the struct is at least as long as it says, and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) }).map(drop)
}

/// sched_setaffinity(2) of the caller: one bit for each processor, from the lowest bit of the first word on.
pub fn sched_setaffinity(cpus: &[u64]) -> SysResult<()> {
    // SAFETY: the mask is readable for the length that is passed.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) }).map(drop)
}

/// sched_getaffinity(2) of the caller.
pub fn sched_getaffinity() -> SysResult<Vec<u64>> {
    // As many as the largest kernel configuration has (NR_CPUS 8192).
    let mut cpus = vec![0u64; 8192 / 64];
    let size = size_of_val(cpus.as_slice());
    // SAFETY: the mask is writable for the length that is passed.
    let length = check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size, cpus.as_mut_ptr()) })?;
    cpus.truncate(length as usize / size_of::<u64>());
    Ok(cpus)
}

/// ioprio_set(2) of the caller.
pub fn ioprio_set(class: i32, level: i32) -> SysResult<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: i32 = 13;
    let priority = class << IOPRIO_CLASS_SHIFT | level;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

/// set_mempolicy(2): `mode` holds the mode's flags too; one bit of `nodes` for each node.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> SysResult<()> {
    // The kernel reads one bit less than it is told (get_nodes() in mm/mempolicy.c).
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask is readable for the bits that are passed, or null with none.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// personality(2).
pub fn personality(persona: u64) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}
