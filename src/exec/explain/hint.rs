//! What helps against a failure.

use caps::{CapSet, Capability};
use nix::errno::Errno;

use crate::exec::protocol::Failure;
use crate::plan::Plan;
use crate::plan::op::{Mount, Op, Source, Step};
use crate::seccomp::{self, Action};

/// What helps, by the operation, its errno, what the runtime itself lacks, and what its filter denies.
pub(super) fn of(plan: &Plan, op: &Op, failure: &Failure) -> Option<String> {
    let errno = failure.errno;
    if let Some(denied) = denied(plan, failure) {
        return Some(denied);
    }
    // In a user namespace of its own the process has every capability over what is the container's.
    if let Some(closed) = by_landlock(plan, op, errno).or_else(|| by_selinux(plan, op, failure)) {
        return Some(closed.to_owned());
    }
    let missing = needed(op).filter(|_| errno == Errno::EPERM && !in_userns(plan)).and_then(lacks);
    if missing.is_some() {
        return missing;
    }
    let inside = in_userns(plan) || !crate::host::in_initial_userns();
    let known =
        by_operation(op, failure).or_else(|| by_user_namespace(op, failure).filter(|_| inside)).map(str::to_owned);
    let refused = matches!(errno, Errno::EPERM | Errno::EACCES) && needed(op).is_some();
    known.or_else(|| confined().filter(|_| refused))
}

/// The words for what has the runtime itself in hand and may refuse what its capabilities allow: an LSM, and a seccomp filter.
pub fn confined() -> Option<String> {
    let label = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let label = label.trim_end_matches(['\n', '\0']);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    by_surroundings(label, status.lines().any(|line| line == "Seccomp:\t2"))
}

fn by_surroundings(label: &str, filter: bool) -> Option<String> {
    // "kernel" is what SELinux says without a policy; what its targeted policy lets do as it likes has "unconfined" in it.
    let lsm = (!label.is_empty() && label != "kernel" && !label.contains("unconfined")).then(|| {
        format!("the runtime itself is confined by the LSM label {label:?}, which may refuse this: the audit log tells")
    });
    let filter = filter.then_some(
        "the runtime itself runs under a seccomp filter, such as a container's or SystemCallFilter=, which may refuse this",
    );
    match (lsm, filter) {
        (Some(lsm), Some(filter)) => Some(format!("{lsm}; {filter}")),
        (lsm, filter) => lsm.or(filter.map(str::to_owned)),
    }
}

/// The words for a namespace that can't be made, by clone3(2) or unshare(2).
pub const NAMESPACE_LIMIT: &str = "a limit of user.max_*_namespaces is reached";
/// Likewise.
pub const NO_NAMESPACE: &str = "a namespace that the kernel does not have (docs/kernel-features.md)";

/// The words for what is refused only in a user namespace.
fn by_user_namespace(op: &Op, failure: &Failure) -> Option<&'static str> {
    let Op::Mount(mount) = op else { return None };
    match (&mount.source, failure.errno) {
        (Source::New { kind, .. }, Errno::EPERM) if [c"proc", c"sysfs"].contains(&kind.as_c_str()) => Some(
            "in a user namespace a new procfs or sysfs must not show more than those mounted already: something masked \
             in the outer /proc or /sys forbids it; bind the outer one instead",
        ),
        (Source::New { .. }, Errno::EPERM) => {
            Some("in a user namespace the kernel mounts only some types of file systems (user_namespaces(7))")
        }
        // mount_namespaces(7): mounts that come from a more privileged namespace are locked together.
        (Source::Bind(_), Errno::EINVAL) if failure.call == "open_tree" && !mount.options.recursive => {
            Some("something is mounted below the source, which in a user namespace can't be left out: rbind takes all")
        }
        (Source::Bind(_), Errno::EACCES) => {
            Some("the way to the source must be passable for the ids of the user namespace")
        }
        _ => None,
    }
}

/// The words for a call that the container's own filter answers with this errno, once it is loaded.
fn denied(plan: &Plan, failure: &Failure) -> Option<String> {
    let before = plan.child.get(..failure.op).filter(|_| !failure.stage)?;
    let program = before.iter().find_map(|step| match &step.op {
        Op::Seccomp(filter) => Some(&filter.program),
        _ => None,
    })?;
    let name = failure.call.split('(').next().unwrap_or_default();
    let Action(answer) = seccomp::answer(program, name)?;
    (answer == libc::SECCOMP_RET_ERRNO | failure.errno as u32).then(|| {
        format!("the seccomp profile answers {name} so: `orlop seccomp explain BUNDLE {name}` says by which rule")
    })
}

/// The words for a program that no rule of the container's own lets it execute.
fn by_landlock(plan: &Plan, op: &Op, errno: Errno) -> Option<&'static str> {
    let restricted = plan.child.iter().any(|step| step.op == Op::LandlockRestrict);
    (restricted && matches!(op, Op::Exec { .. } | Op::Hook(_)) && errno == Errno::EACCES)
        .then_some("org.orlop.landlock.execute must name the program and its interpreter, or a directory above each")
}

/// The words for a change of label that the policy refuses, and for a label of a mount's own options that it does not know.
fn by_selinux(plan: &Plan, op: &Op, failure: &Failure) -> Option<&'static str> {
    let is_label = |op: &Op| matches!(op, Op::ExecLabel { file, .. } if file.as_c_str() == c"self/attr/exec");
    let labelled = || plan.child.iter().any(|step| is_label(&step.op));
    match (op, failure.errno) {
        (Op::Exec { .. }, Errno::EACCES | Errno::EPERM) if labelled() => Some(
            "it may be the SELinux policy, too: it must let the runtime's own label change to process.selinuxLabel \
             (transition, and nnp_transition with noNewPrivileges) by this file (entrypoint); the audit log tells",
        ),
        (Op::Mount(_), Errno::EINVAL)
            if failure.detail.starts_with("parameter ") && failure.detail.ends_with("context") =>
        {
            Some("the SELinux policy that is loaded does not know this label, or SELinux is not enabled")
        }
        _ => None,
    }
}

/// The words for a capability that this runtime does not have, as in a container or a service with a bounding set; none if
/// it has it.
pub fn lacks(capability: Capability) -> Option<String> {
    match caps::has_cap(None, CapSet::Effective, capability) {
        Ok(false) => Some(format!(
            "the runtime itself has no {capability}: whoever has started it, such as a container or a service with \
             CapabilityBoundingSet=, has taken it away"
        )),
        _ => None,
    }
}

/// The capability that an operation takes (capabilities(7)).
fn needed(op: &Op) -> Option<Capability> {
    Some(match op {
        Op::Mount(_) | Op::PivotRoot | Op::MoveRoot { .. } | Op::Propagation { .. } | Op::RootPropagation { .. } => {
            Capability::CAP_SYS_ADMIN
        }
        Op::Attributes { .. } | Op::Mask { .. } | Op::Readonly { .. } | Op::ReadonlyRoot => Capability::CAP_SYS_ADMIN,
        Op::JoinNamespace { .. } | Op::JoinInit { .. } | Op::Unshare { .. } => Capability::CAP_SYS_ADMIN,
        Op::Hostname { .. } | Op::Domainname { .. } | Op::OpenRoot { .. } => Capability::CAP_SYS_ADMIN,
        Op::Device(_) => Capability::CAP_MKNOD,
        Op::Chroot => Capability::CAP_SYS_CHROOT,
        Op::LoopbackUp => Capability::CAP_NET_ADMIN,
        Op::BoundingSet { .. } => Capability::CAP_SETPCAP,
        Op::User { .. } => {
            [Capability::CAP_SETGID, Capability::CAP_SETUID].into_iter().find(|one| lacks(*one).is_some())?
        }
        _ => return None,
    })
}

/// Does the mount's file system get an owner by its options?
fn owned(mount: &Mount) -> bool {
    mount.data.iter().any(|(key, _)| [c"gid", c"uid"].contains(&key.as_c_str()))
}

/// Is the container's process in another user namespace than the runtime?
fn in_userns(plan: &Plan) -> bool {
    let joins = |step: &Step| match step.op {
        Op::JoinNamespace { flag, .. } => flag == libc::CLONE_NEWUSER,
        Op::JoinInit { flags } => flags & libc::CLONE_NEWUSER != 0,
        _ => false,
    };
    plan.userns.is_some() || plan.stage.iter().chain(&plan.child).any(joins)
}

fn by_operation(op: &Op, failure: &Failure) -> Option<&'static str> {
    let text = match (op, failure.errno) {
        (Op::OpenRoot { .. } | Op::OpenPlainRoot { .. }, Errno::ENOENT) => {
            "root.path names the root file system, relative to the bundle"
        }
        (Op::OpenRoot { .. }, Errno::EACCES) => {
            "the path to the root file system must be passable for the ids of the user namespace"
        }
        (Op::Mount(mount), Errno::ENOENT) if matches!(mount.source, Source::Bind(_)) => {
            "the source does not exist on the host"
        }
        (Op::Mount(_), Errno::ENOTDIR) if failure.call == "move_mount" => {
            "a directory goes on a directory and a file on a file: the root file system has something else at this path"
        }
        (Op::Mount(_), Errno::ENODEV) => "the kernel has no such file system",
        (Op::Mount(mount), Errno::EINVAL) if owned(mount) => {
            "gid= and uid= must be ids that the user namespace maps; without them the file system is root's"
        }
        (Op::Mount(_), Errno::EROFS) => "the mount's target is missing, and the root file system can't be written to",
        (Op::Unshare { .. }, Errno::ENOSPC) => NAMESPACE_LIMIT,
        (Op::Unshare { .. }, Errno::EINVAL) => NO_NAMESPACE,
        (Op::Sysctl { .. }, Errno::ENOENT) => "the kernel has no such sysctl",
        (Op::Sysctl { .. }, Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
            "the namespace that the sysctl belongs to must be the container's own, and /proc/sys writable here"
        }
        (Op::SessionKeyring { .. }, Errno::EDQUOT) => {
            "the user's keyring quota (kernel.keys.maxkeys, maxbytes) is used up; --no-new-keyring goes without one"
        }
        (Op::User { .. }, Errno::EINVAL) => "an id that the user namespace does not map",
        (Op::User { .. }, Errno::EPERM) => "groups can't be set where setgroups is denied (newgidmap gives the right)",
        (Op::Rlimit { .. } | Op::HardLimit { .. }, Errno::EPERM) => "a hard limit is raised only with CAP_SYS_RESOURCE",
        (Op::Rlimit { .. }, Errno::EINVAL) => "the soft limit is above the hard one",
        (Op::Scheduler(_) | Op::IoPriority { .. }, Errno::EPERM) => {
            "it takes CAP_SYS_NICE in the initial user namespace (or RLIMIT_NICE, RLIMIT_RTPRIO), and for a real-time policy a \
             cgroup with real-time bandwidth where the kernel has RT_GROUP_SCHED"
        }
        (Op::Hook(_), Errno::EAGAIN) => {
            "the limit of processes is reached (pids.max, RLIMIT_NPROC); or process.scheduler is SCHED_DEADLINE, which starts \
             nobody without SCHED_FLAG_RESET_ON_FORK"
        }
        (Op::Scheduler(_), Errno::EINVAL) => "a policy or flag that this kernel does not have, as SCHED_ISO everywhere",
        (Op::Scheduler(_), Errno::EBUSY) => "SCHED_DEADLINE: no such bandwidth is left on these processors",
        (Op::Scheduler(_), Errno::EOPNOTSUPP) => "the kernel has no utilisation clamping (CONFIG_UCLAMP_TASK)",
        (Op::MemoryPolicy { .. }, Errno::EINVAL) => {
            "a node that is not online or not in cpuset.mems, or a mode or flag that this kernel does not have"
        }
        (Op::MemoryPolicy { .. }, Errno::ENOSYS) => "the kernel has no NUMA policies (CONFIG_NUMA)",
        (Op::Affinity { .. }, Errno::EINVAL) => "none of these processors is online and in the container's cpuset.cpus",
        (Op::PivotRoot, Errno::EINVAL) => "an initial ramfs can't be left by pivot_root: use --no-pivot",
        (Op::Cwd { .. }, Errno::ENOENT) => "process.cwd does not exist in the container",
        (Op::Cwd { .. }, Errno::EACCES) => "process.cwd can't be entered by the process's user",
        (Op::Seccomp(_), Errno::EINVAL) => "a flag of the filter that this kernel does not know",
        (Op::Seccomp(_), Errno::EMFILE) => "the listener takes a descriptor, and RLIMIT_NOFILE leaves none",
        (Op::Seccomp(_), Errno::EACCES) => "without noNewPrivileges the filter needs CAP_SYS_ADMIN",
        (Op::Terminal { .. }, Errno::ENOENT) => "a terminal needs a devpts mount on /dev/pts",
        (Op::OomScoreAdj { .. }, Errno::EACCES) => "lowering oom_score_adj takes CAP_SYS_RESOURCE",
        (Op::ExecLabel { .. }, Errno::ENOENT) => {
            "no profile of this name is loaded (aa-status lists them, apparmor_parser loads one), or the LSM is not active"
        }
        (Op::ExecLabel { .. }, Errno::EINVAL) => "the policy that is loaded does not know this label",
        (Op::ExecLabel { .. }, Errno::EACCES | Errno::EPERM) => {
            "the policy does not let the runtime's own label change to this one"
        }
        (Op::LandlockPath { .. }, Errno::ELOOP) => "a symbolic link leads there: name what it leads to",
        (Op::LandlockPath { .. }, Errno::ENOENT) => "a path of a rule must be there when the container is made",
        (Op::LandlockRestrict, Errno::E2BIG) => "sixteen rulesets lie over each other here already",
        (Op::JoinNamespace { .. }, Errno::EPERM) => "CAP_SYS_ADMIN in the namespace's owner is missing",
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::by_surroundings;

    #[test]
    fn what_confines_the_runtime_is_named_and_nothing_else() {
        for label in ["", "unconfined", "kernel", "unconfined_u:unconfined_r:unconfined_t:s0"] {
            assert_eq!(by_surroundings(label, false), None, "{label}");
        }
        let said = by_surroundings("docker-default (enforce)", true).unwrap();
        assert!(said.contains("LSM label \"docker-default (enforce)\"") && said.contains("seccomp filter"), "{said}");
        assert!(!by_surroundings("unconfined", true).unwrap().contains("LSM"));
    }
}
