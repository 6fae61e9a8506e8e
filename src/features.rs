//! What `orlop features` says: the properties and values of a configuration that this runtime acts on
//! (runtime-spec 1.3, `features.md` and `features-linux.md`).
//!
//! It speaks of the runtime and not of the host: a host without AppArmor still has a runtime that knows it. Callers
//! decide by it: containerd gives user namespaces only where `user` and `mountExtensions.idmap` are here, and recursive
//! read-only mounts where `rro` is.

use serde_json::{Value, json};

use crate::plan::mount_options;
use crate::spec::OCI_VERSION;

/// The features document, with its properties in the specification's order.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {"v1": false, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": seccomp(),
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "mountExtensions": {"idmap": {"enabled": true}},
            "memoryPolicy": memory_policy(),
            "netDevices": {"enabled": true},
        },
        "annotations": {"orlop.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": [crate::exec::dump::CONFIG, crate::plan::LANDLOCK, crate::systemd::PREFIX],
    })
}

/// The names that `process.capabilities` may hold, by number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn memory_policy() -> Value {
    let (modes, flags) = crate::plan::sched::memory_policies();
    json!({"modes": modes, "flags": flags})
}

fn seccomp() -> Value {
    let flags = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_LOG",
            "SCMP_ACT_NOTIFY",
            "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_LE",
            "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ",
            "SCMP_CMP_NE",
        ],
        // Every name that is taken. Those that the kernel of this machine has no ABI for never match.
        "archs": [
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_LOONGARCH64",
            "SCMP_ARCH_M68K",
            "SCMP_ARCH_MIPS",
            "SCMP_ARCH_MIPS64",
            "SCMP_ARCH_MIPS64N32",
            "SCMP_ARCH_MIPSEL",
            "SCMP_ARCH_MIPSEL64",
            "SCMP_ARCH_MIPSEL64N32",
            "SCMP_ARCH_NATIVE",
            "SCMP_ARCH_PARISC",
            "SCMP_ARCH_PARISC64",
            "SCMP_ARCH_PPC",
            "SCMP_ARCH_PPC64",
            "SCMP_ARCH_PPC64LE",
            "SCMP_ARCH_RISCV64",
            "SCMP_ARCH_S390",
            "SCMP_ARCH_S390X",
            "SCMP_ARCH_SH",
            "SCMP_ARCH_SHEB",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X86_64",
        ],
        "knownFlags": flags,
        "supportedFlags": flags,
    })
}
