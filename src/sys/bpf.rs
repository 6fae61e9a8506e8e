//! `bpf(2)`: the commands that a device filter needs (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15).

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `struct bpf_insn` of `<linux/bpf.h>`: one instruction of eBPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation, with its class in the low three bits.
    pub code: u8,
    /// Destination register in the low nibble, source register in the high one (little-endian hosts).
    pub regs: u8,
    /// Signed offset: of a jump in instructions, of a load in bytes.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_PROG_DETACH: c_int = 9;
const BPF_PROG_GET_FD_BY_ID: c_int = 13;
const BPF_PROG_QUERY: c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The longest list of attached programs that [`prog_query`] reads; the kernel's own bound (`BPF_CGROUP_MAX_PROGS`).
pub const MAX_PROGS: usize = 64;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes a shorter attr as zero-filled.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    /// The union is 8-byte aligned; this keeps the struct free of padding.
    unused: u32,
}

#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    unused: u32,
}

#[repr(C)]
struct ProgGetFdById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
    unused: u32,
}

/// Runs one command of `bpf(2)`.
///
/// # Safety
/// Every address and descriptor in `attr` must be valid for what `command` does with it.
unsafe fn bpf<T>(command: c_int, attr: &mut T) -> nix::Result<c_long> {
    // SAFETY: attr is a live, exclusively borrowed struct of exactly the size passed; its content is the caller's duty.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>() as c_uint) };
    Errno::result(returned)
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: bpf(2) has just made this descriptor (close-on-exec, as all of its descriptors) and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as c_int) }
}

/// `BPF_PROG_LOAD` of a device filter; `name` (15 bytes at most are kept) is what bpftool(8) shows. The program must not
/// call GPL-only helpers: its licence says "Apache-2.0". No rlimit is touched: since Linux 5.11 the memory is charged to
/// the memory cgroup and RLIMIT_MEMLOCK does not count.
///
/// # Errors
/// EPERM without CAP_BPF, EINVAL or EACCES when the verifier says no.
pub fn prog_load(insns: &[Insn], name: &str) -> nix::Result<OwnedFd> {
    const LICENSE: &CStr = c"Apache-2.0";
    let mut prog_name = [0; 16];
    let kept = name.len().min(prog_name.len() - 1);
    prog_name[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: insns and LICENSE outlive the call and are only read; there is no log buffer.
    unsafe { bpf(BPF_PROG_LOAD, &mut attr) }.map(owned)
}

/// `BPF_PROG_ATTACH` of a device filter to the cgroup directory `cgroup` (O_PATH will do), beside those that are there
/// (BPF_F_ALLOW_MULTI), or in the place of `replaced` in one step (BPF_F_REPLACE, Linux 5.6).
///
/// # Errors
/// EPERM when an ancestor forbids programs below it or without the capability, E2BIG at 64 programs.
pub fn prog_attach(cgroup: BorrowedFd, program: BorrowedFd, replaced: Option<BorrowedFd>) -> nix::Result<()> {
    let mut attr = ProgAttach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
        unused: 0,
    };
    // SAFETY: the attr holds descriptors only, borrowed for the call.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// `BPF_PROG_DETACH` of a device filter from the cgroup directory `cgroup`.
///
/// # Errors
/// ENOENT when it is not attached there.
pub fn prog_detach(cgroup: BorrowedFd, program: BorrowedFd) -> nix::Result<()> {
    let mut attr = ProgAttach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
        unused: 0,
    };
    // SAFETY: the attr holds descriptors only, borrowed for the call.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// `BPF_PROG_QUERY`: writes the ids of the device filters attached to `cgroup` itself into `ids` and gives their number.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN (or CAP_SYS_ADMIN).
pub fn prog_query(cgroup: BorrowedFd, ids: &mut [u32; MAX_PROGS]) -> nix::Result<usize> {
    let mut attr = ProgQuery {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGS as u32,
        unused: 0,
    };
    // SAFETY: prog_ids points to prog_cnt words, exclusively borrowed for the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok((attr.prog_cnt as usize).min(MAX_PROGS))
}

/// `BPF_PROG_GET_FD_BY_ID`: a descriptor of a loaded program.
///
/// # Errors
/// ENOENT when there is no such program any more, EPERM without CAP_SYS_ADMIN.
pub fn prog_get_fd_by_id(id: u32) -> nix::Result<OwnedFd> {
    let mut attr = ProgGetFdById { prog_id: id, next_id: 0, open_flags: 0, unused: 0 };
    // SAFETY: the attr holds numbers only.
    unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }.map(owned)
}
