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
        "potentiallyUnsafeConfigAnnotations": [crate::systemd::PREFIX, crate::exec::dump::CONFIG],
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
        // Those that the compiler has a table of; on a kernel of another family they are accepted and never match.
        "archs": [
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_LOONGARCH64",
            "SCMP_ARCH_PPC64",
            "SCMP_ARCH_PPC64LE",
            "SCMP_ARCH_RISCV64",
            "SCMP_ARCH_S390X",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X86_64",
        ],
        "knownFlags": flags,
        "supportedFlags": flags,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::{Arch, Capability, Features};

    use super::*;
    use crate::bundle::Bundle;
    use crate::validate::validate;

    fn list(place: &str) -> Vec<String> {
        serde_json::from_value(features().pointer(place).unwrap().clone()).unwrap()
    }

    #[test]
    fn it_is_a_features_document() {
        let document: Features = serde_json::from_value(features()).unwrap();
        assert_eq!(document.oci_version_min(), "1.0.0");
        let linux = document.linux().as_ref().unwrap();
        assert!(linux.mount_extensions().as_ref().unwrap().idmap().as_ref().unwrap().enabled().unwrap());
        assert!(linux.seccomp().as_ref().unwrap().archs().as_ref().unwrap().contains(&Arch::ScmpArchX86_64));
    }

    #[test]
    fn what_callers_look_for() {
        assert!(list("/mountOptions").contains(&"rro".into()));
        assert!(list("/linux/namespaces").contains(&"user".into()));
        assert_eq!(features().pointer("/linux/cgroup/v2"), Some(&true.into()));
    }

    #[test]
    fn every_capability_it_names_is_taken_and_none_is_left_out() {
        let names = list("/linux/capabilities");
        assert_eq!((names[0].as_str(), names[21].as_str()), ("CAP_CHOWN", "CAP_SYS_ADMIN"));
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            41,
            "CAP_CHECKPOINT_RESTORE, the last one of Linux 6.18, is number 40"
        );
        for name in names {
            serde_json::from_value::<Capability>(name.clone().into()).expect(&name);
        }
    }

    /// The document must not promise what the validator refuses, nor the other way round.
    #[test]
    fn it_tells_the_truth_about_namespaces_hooks_and_what_is_not_supported() {
        let check = |pointer: &str, value: Value| {
            let mut config = crate::spec::default_spec(false);
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
            let bundle = Bundle::parse("/".into(), config.to_string().into_bytes()).unwrap();
            validate(&bundle.spec, &Default::default())
        };
        let ids = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
        for kind in list("/linux/namespaces").into_iter().filter(|kind| kind != "uts") {
            let mut linux = json!({"namespaces": [{"type": "uts"}, {"type": kind}]});
            if kind == "user" {
                (linux["uidMappings"], linux["gidMappings"]) = (ids.clone(), ids.clone());
            }
            check("/linux", linux).expect(&kind);
        }
        for kind in list("/hooks") {
            assert!(check("/hooks", json!({kind: [{"path": "relative"}]})).is_err());
        }
        for (feature, property) in [("intelRdt", json!({"closID": "a"})), ("netDevices", json!({"eth0": {}}))] {
            let enabled = features().pointer(&format!("/linux/{feature}/enabled")).unwrap().as_bool().unwrap();
            assert_eq!(check(&format!("/linux/{feature}"), property).is_ok(), enabled, "{feature}");
        }
        let policies = features().pointer("/linux/memoryPolicy").is_some();
        assert_eq!(check("/linux/memoryPolicy", json!({"mode": "MPOL_LOCAL"})).is_ok(), policies);
    }
}
