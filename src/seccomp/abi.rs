//! The system call ABIs a filter can tell apart: their numbers, word sizes and multiplexed calls.

use oci_spec::runtime::Arch;

use super::syscalls::SYSCALLS;

/// Bit that marks the number of an x32 call; x86_64 and x32 share one `seccomp_data.arch`.
pub(super) const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// First of arm's private calls (`__ARM_NR_BASE`), far above the numbers that grow with new kernels.
const ARM_NR_BASE: u32 = 0x000f_0000;

/// A system call ABI; the discriminant is its column in [`SYSCALLS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    Ppc64,
    S390x,
    Loongarch64,
}

/// A row of [`SYSCALLS`]: what one name means under every ABI.
#[derive(Clone, Copy)]
pub(super) struct Syscall(&'static (&'static str, [i32; 9]));

impl Syscall {
    /// The system call `name` of any ABI, by the kernel's name for it.
    pub(super) fn named(name: &str) -> Option<Self> {
        let row = SYSCALLS.binary_search_by(|row| row.0.cmp(name)).ok()?;
        Some(Self(&SYSCALLS[row]))
    }

    /// Every system call of any ABI, by name.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        SYSCALLS.iter().map(Self)
    }

    /// The kernel's name for it.
    pub(super) fn name(self) -> &'static str {
        self.0.0
    }

    /// Its number as it stands in `seccomp_data.nr`.
    pub(super) fn number(self, abi: Abi) -> Option<u32> {
        let number = u32::try_from(self.0.1[abi as usize]).ok()?;
        Some(number + abi.first())
    }

    /// How `socketcall(2)` or `ipc(2)` carries it: the number of that call, and its first argument.
    pub(super) fn multiplexed(self, abi: Abi) -> Option<(u32, u64)> {
        if !abi.multiplexes() {
            return None;
        }
        let (through, call) = multiplexer(self.0.0)?;
        Some((Self::named(through)?.number(abi)?, call))
    }
}

/// The call of linux/net.h and linux/ipc.h that stands for `name`.
fn multiplexer(name: &str) -> Option<(&'static str, u64)> {
    const SOCKETCALL: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    // SEMOP is 1, MSGSND 11, SHMAT 21.
    const IPC: [[&str; 4]; 3] = [
        ["semop", "semget", "semctl", "semtimedop"],
        ["msgsnd", "msgrcv", "msgget", "msgctl"],
        ["shmat", "shmdt", "shmget", "shmctl"],
    ];
    if let Some(index) = SOCKETCALL.iter().position(|call| *call == name) {
        return Some(("socketcall", index as u64 + 1));
    }
    IPC.iter().enumerate().find_map(|(family, calls)| {
        let index = calls.iter().position(|call| *call == name)?;
        Some(("ipc", (family * 10 + index + 1) as u64))
    })
}

impl Abi {
    /// The number that 0 of this ABI has in `seccomp_data.nr`.
    pub(super) fn first(self) -> u32 {
        if self == Abi::X32 { X32_SYSCALL_BIT } else { 0 }
    }

    /// Whether libseccomp compares whole registers (64 bits) or their lower half. x32 counts as the latter.
    pub(super) fn is_64_bit(self) -> bool {
        !matches!(self, Abi::X86 | Abi::X32 | Abi::Arm)
    }

    /// Whether `number` belongs to the one growing table, so that a larger one means a newer system call.
    pub(super) fn grows(self, number: u32) -> bool {
        self != Abi::Arm || number < ARM_NR_BASE
    }

    fn multiplexes(self) -> bool {
        matches!(self, Abi::X86 | Abi::Ppc64 | Abi::S390x)
    }
}

/// The ABIs that a kernel of `native` runs, with the name the specification gives them, its own first. Any other
/// never shows up in `seccomp_data.arch` there. `None`: no table for this machine.
pub(super) fn family(native: Arch) -> Option<&'static [(Arch, Abi)]> {
    Some(match native {
        Arch::ScmpArchX86_64 => {
            &[(Arch::ScmpArchX86_64, Abi::X86_64), (Arch::ScmpArchX32, Abi::X32), (Arch::ScmpArchX86, Abi::X86)]
        }
        Arch::ScmpArchX86 => &[(Arch::ScmpArchX86, Abi::X86)],
        Arch::ScmpArchAarch64 => &[(Arch::ScmpArchAarch64, Abi::Aarch64), (Arch::ScmpArchArm, Abi::Arm)],
        Arch::ScmpArchArm => &[(Arch::ScmpArchArm, Abi::Arm)],
        Arch::ScmpArchRiscv64 => &[(Arch::ScmpArchRiscv64, Abi::Riscv64)],
        Arch::ScmpArchPpc64le => &[(Arch::ScmpArchPpc64le, Abi::Ppc64)],
        Arch::ScmpArchPpc64 => &[(Arch::ScmpArchPpc64, Abi::Ppc64)],
        Arch::ScmpArchS390x => &[(Arch::ScmpArchS390x, Abi::S390x)],
        Arch::ScmpArchLoongarch64 => &[(Arch::ScmpArchLoongarch64, Abi::Loongarch64)],
        _ => return None,
    })
}

/// The machine this program was built for.
pub(super) fn native() -> Option<Arch> {
    Some(match (std::env::consts::ARCH, cfg!(target_endian = "little")) {
        ("x86_64", _) => Arch::ScmpArchX86_64,
        ("x86", _) => Arch::ScmpArchX86,
        ("aarch64", true) => Arch::ScmpArchAarch64,
        ("arm", true) => Arch::ScmpArchArm,
        ("riscv64", _) => Arch::ScmpArchRiscv64,
        ("powerpc64", true) => Arch::ScmpArchPpc64le,
        ("powerpc64", false) => Arch::ScmpArchPpc64,
        ("s390x", _) => Arch::ScmpArchS390x,
        ("loongarch64", _) => Arch::ScmpArchLoongarch64,
        _ => return None,
    })
}

/// `seccomp_data.arch` of `arch` (linux/audit.h). The specification's numbers are the kernel's, but for x32.
pub(super) fn audit_arch(arch: Arch) -> u32 {
    if arch == Arch::ScmpArchX32 { Arch::ScmpArchX86_64 as u32 } else { arch as u32 }
}

/// Whether the kernel of `native` keeps the upper half of a `u64` first.
pub(super) fn is_big_endian(native: Arch) -> bool {
    matches!(native, Arch::ScmpArchPpc64 | Arch::ScmpArchS390x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_the_binary_search() {
        assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbers_of_the_common_tail_agree_everywhere() {
        for (name, number) in [("pidfd_send_signal", 424), ("clone3", 435), ("cachestat", 451), ("file_setattr", 469)] {
            for &(_, abi) in family(Arch::ScmpArchX86_64).unwrap().iter().chain(family(Arch::ScmpArchAarch64).unwrap())
            {
                let found = Syscall::named(name).unwrap().number(abi);
                assert_eq!(found, Some(number + abi.first()), "{name} under {abi:?}");
            }
        }
    }
}
