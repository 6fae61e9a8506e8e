//! The shipped profiles load, compile without a warning, and answer as their README says.

use oci_spec::runtime::{Arch, LinuxSeccomp};
use orlop::seccomp::compile_for;

use crate::interpreter::{Data, check, run};

pub const NAMES: [&str; 3] = ["default", "strict", "complain"];

const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32: u32 = 0x4000_0000;

pub fn load(name: &str) -> LinuxSeccomp {
    let path = format!("{}/seccomp-profiles/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What the profile `name` answers on x86_64.
fn answers(name: &str, arch: u32, calls: &[(u32, [u64; 3], u32)]) {
    let filter = compile_for(&load(name), Arch::ScmpArchX86_64).unwrap().unwrap();
    assert_eq!(filter.warnings, Vec::<String>::new());
    assert_eq!(check(&filter.program), Ok(()));
    for (nr, [a, b, c], expected) in calls {
        let actual = run(&filter.program, &Data { nr: *nr, arch, args: [*a, *b, *c, 0, 0, 0] });
        assert_eq!(actual, *expected, "{name}: call {nr} of {arch:#x} with {a:#x}, {b:#x}, {c:#x}: {actual:#x}");
    }
}

const CLONE_NEWUSER: u64 = 0x1000_0000;

#[test]
fn default_is_dockers() {
    answers(
        "default",
        X86_64,
        &[
            (0, [0; 3], ALLOW),                  // read
            (161, [0; 3], ALLOW),                // chroot
            (101, [0; 3], ALLOW),                // ptrace
            (303, [0; 3], ALLOW),                // name_to_handle_at
            (304, [0; 3], EPERM),                // open_by_handle_at
            (165, [0; 3], EPERM),                // mount
            (272, [CLONE_NEWUSER, 0, 0], EPERM), // unshare
            (308, [0; 3], EPERM),                // setns
            (321, [0; 3], EPERM),                // bpf
            (250, [0; 3], EPERM),                // keyctl
            (323, [0; 3], EPERM),                // userfaultfd
            (425, [0; 3], EPERM),                // io_uring_setup
            (438, [0; 3], EPERM),                // pidfd_getfd
            (56, [0x11, 0, 0], ALLOW),           // clone
            (56, [CLONE_NEWUSER | 0x11, 0, 0], EPERM),
            (435, [0; 3], ENOSYS), // clone3
            (467, [0; 3], ENOSYS), // open_tree_attr, newer than the profile
            (135, [0, 0, 0], ALLOW),
            (135, [0xffff_ffff, 0, 0], ALLOW),
            (135, [0x40000, 0, 0], EPERM), // personality(ADDR_NO_RANDOMIZE)
            (41, [2, 1, 0], ALLOW),        // socket(AF_INET)
            (41, [38, 5, 0], EPERM),       // AF_ALG
            (41, [40, 1, 0], EPERM),       // AF_VSOCK
            (41, [0x1_0000_0028, 1, 0], EPERM),
            (41, [44, 3, 0], ALLOW), // AF_XDP
            (X32, [0; 3], ALLOW),
            (X32 + 321, [0; 3], EPERM),
        ],
    );
    answers(
        "default",
        I386,
        &[
            (3, [0; 3], ALLOW),
            (21, [0; 3], EPERM),      // mount
            (102, [1, 0, 0], ALLOW),  // socketcall(SYS_SOCKET): the family lies in memory
            (359, [40, 1, 0], EPERM), // socket
            (120, [0x11, 0, 0], ALLOW),
            (120, [CLONE_NEWUSER, 0, 0], EPERM),
        ],
    );
    answers("default", 0x4000_0028, &[(3, [0; 3], KILL)]);
}

#[test]
fn strict_closes_more() {
    answers(
        "strict",
        X86_64,
        &[
            (0, [0; 3], ALLOW),
            (59, [0; 3], ALLOW),  // execve
            (303, [0; 3], EPERM), // name_to_handle_at
            (447, [0; 3], EPERM), // memfd_secret
            (278, [0; 3], EPERM), // vmsplice
            (101, [0; 3], EPERM), // ptrace
            (310, [0; 3], EPERM), // process_vm_readv
            (311, [0; 3], EPERM), // process_vm_writev
            (161, [0; 3], EPERM), // chroot
            (425, [0; 3], EPERM), // io_uring_setup
            (323, [0; 3], EPERM), // userfaultfd
            (250, [0; 3], EPERM), // keyctl
            (321, [0; 3], EPERM), // bpf
            (56, [CLONE_NEWUSER | 0x11, 0, 0], EPERM),
            (435, [0; 3], ENOSYS),
            (41, [1, 1, 0], ALLOW),         // AF_UNIX
            (41, [10, 1, 0], ALLOW),        // AF_INET6
            (41, [17, 3, 0], EPERM),        // AF_PACKET
            (133, [0, 0o010644, 0], ALLOW), // mknod of a FIFO
            (133, [0, 0o020644, 0], EPERM), // of a character device
            (259, [3, 0, 0o060644], EPERM), // mknodat of a block device
            (X32, [0; 3], KILL),
        ],
    );
    answers("strict", I386, &[(3, [0; 3], KILL)]);
}

#[test]
fn complain_logs_what_default_denies() {
    let (complain, default) = (load("complain"), load("default"));
    assert_eq!(complain.syscalls(), default.syscalls());
    assert_eq!(complain.architectures(), default.architectures());
    answers("complain", X86_64, &[(0, [0; 3], ALLOW), (165, [0; 3], LOG), (41, [40, 1, 0], LOG), (467, [0; 3], LOG)]);
}

#[test]
fn the_other_family_is_covered_too() {
    for name in ["default", "complain"] {
        let program = compile_for(&load(name), Arch::ScmpArchAarch64).unwrap().unwrap().program;
        assert_eq!(check(&program), Ok(()));
        let call = |arch, nr| run(&program, &Data { nr, arch, args: [0; 6] });
        assert_eq!(call(0xc000_00b7, 63), ALLOW, "{name}: read on aarch64");
        assert_eq!(call(0x4000_0028, 0xf0005), ALLOW, "{name}: set_tls on arm");
        assert_eq!(call(X86_64, 0), KILL, "{name}: x86_64 on aarch64");
    }
}
