#!/usr/bin/env python3
"""Writes src/seccomp/syscalls.rs from the kernel's uapi numbers as the crate linux-raw-sys 0.12.1 carries them.

Rerun after `cargo fetch`: tools/seccomp-syscalls.py > src/seccomp/syscalls.rs && cargo fmt
"""
import glob
import os
import re

# Order of the columns: Abi in src/seccomp/abi.rs. x32 numbers stand without their bit 30.
COLUMNS = ["x86_64", "x86", "x32", "aarch64", "arm", "riscv64", "powerpc64", "s390x", "loongarch64"]
X32_BIT = 0x40000000
REGISTRY = os.path.expanduser(os.environ.get("CARGO_HOME", "~/.cargo")) + "/registry/src/*/linux-raw-sys-0.12.1/src/"
# __ARM_NR_*, the private calls of arm's unistd.h.
ARM_PRIVATE = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"]


def numbers(column):
    text = open(glob.glob(REGISTRY + column + "/general.rs")[0]).read()
    found = {name: int(nr) & ~X32_BIT for name, nr in re.findall(r"const __NR_([a-z0-9_]+): u32 = (\d+);", text)}
    if column == "arm":
        found |= {name: int(re.search(rf"__ARM_NR_{name}: u32 = (\d+);", text)[1]) for name in ARM_PRIVATE}
    return found


tables = [numbers(column) for column in COLUMNS]
print("//! System call numbers up to Linux 6.18, sorted by name. Written by tools/seccomp-syscalls.py; do not edit.")
print()
print(f"/// Name and number under each [`Abi`](super::abi::Abi), in its order; -1 where the call does not exist.")
print(f"pub(super) static SYSCALLS: &[(&str, [i32; {len(COLUMNS)}])] = &[")
print("    // " + ", ".join(COLUMNS))
for name in sorted(set().union(*tables)):
    print(f'    ("{name}", [{", ".join(str(table.get(name, -1)) for table in tables)}]),')
print("];")
