//! From a failure's number to what a person, or a caller that matches on texts, reads.

use nix::errno::Errno;

use super::protocol::Failure;
use crate::error::{Error, errno_text};
use crate::plan::Plan;
use crate::plan::op::{Op, Step};

/// runc's words before every failure of the container's process.
const START: &str = "unable to start container process";

/// The error of a failed operation.
pub fn failure(plan: &Plan, failure: &Failure) -> Error {
    let list = if failure.stage { &plan.stage } else { &plan.child };
    match list.get(failure.op) {
        Some(step) => of_step(step, failure),
        None => Error::new(format!("{START}: make the process in the joined namespaces"))
            .call(failure.call.clone(), failure.errno)
            .at("/linux/namespaces"),
    }
}

/// The same where the operation is not known.
pub fn unplanned(failure: &Failure) -> Error {
    let text = if failure.detail.is_empty() { "what follows start has failed" } else { &failure.detail };
    Error::new(format!("{START}: {text}")).call(failure.call.clone(), failure.errno)
}

fn of_step(step: &Step, failure: &Failure) -> Error {
    let error = match &step.op {
        Op::FindProgram { name, .. } => not_found(&name.to_string_lossy(), failure),
        Op::Exec { args, .. } => {
            let name = args.strings().first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let mut text = format!("{START}: exec {name}: {}", errno_text(failure.errno));
            if !failure.detail.is_empty() {
                text = format!("{text}: {}", failure.detail);
            }
            Error { errno: None, ..Error::new(text) }
        }
        Op::Hook(hook) => {
            let why = if failure.detail.is_empty() { errno_text(failure.errno) } else { failure.detail.clone() };
            Error::new(format!("{START}: error running {} hook #{}: {why}", hook.kind, hook.index))
        }
        op => {
            let mut text = format!("{START}: {op}");
            if !failure.detail.is_empty() {
                text = format!("{text}: {}", failure.detail);
            }
            Error::new(text).call(failure.call.clone(), failure.errno)
        }
    };
    let error = if step.from.is_empty() { error } else { error.at(step.from.clone()) };
    match hint(&step.op, failure.errno) {
        Some(hint) if error.hint.is_none() => error.hint(hint),
        _ => error,
    }
}

/// Go's words, by which docker and podman tell 126 from 127.
fn not_found(name: &str, failure: &Failure) -> Error {
    let errno = failure.errno;
    let nowhere = !name.contains('/') && matches!(errno, Errno::ENOENT | Errno::ENOTDIR);
    let why = match errno {
        _ if nowhere => "executable file not found in $PATH".to_owned(),
        Errno::ENOENT | Errno::ENOTDIR => format!("stat {name}: {}", errno_text(errno)),
        Errno::ELOOP => "the path leads through a magic link of procfs: permission denied".to_owned(),
        Errno::EISDIR => "is a directory".to_owned(),
        other => errno_text(other),
    };
    let error = Error::new(format!("{START}: exec: \"{name}\": {why}"));
    match errno {
        _ if nowhere => error.hint("process.env's PATH is searched inside the container"),
        Errno::EACCES => error.hint("no execute bit for the process's user, or a noexec mount"),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR => error,
        _ => error.call(failure.call.clone(), errno),
    }
}

/// What helps, by operation and errno.
fn hint(op: &Op, errno: Errno) -> Option<&'static str> {
    let text = match (op, errno) {
        (Op::OpenRoot { .. } | Op::OpenPlainRoot { .. }, Errno::ENOENT) => {
            "root.path names the root file system, relative to the bundle"
        }
        (Op::OpenRoot { .. }, Errno::EACCES) => {
            "the path to the root file system must be passable for the ids of the user namespace"
        }
        (Op::Mount(mount), Errno::ENOENT) if matches!(mount.source, crate::plan::op::Source::Bind(_)) => {
            "the source does not exist on the host"
        }
        (Op::Mount(mount), Errno::EACCES) if matches!(mount.source, crate::plan::op::Source::Bind(_)) => {
            "the way to the source must be passable for the ids of the user namespace"
        }
        (Op::Mount(_), Errno::ENODEV) => "the kernel has no such file system",
        (Op::Mount(_), Errno::EPERM) => {
            "in a user namespace a new procfs or sysfs must not show more than those mounted already: something masked \
             in the outer /proc or /sys forbids it; bind the outer one instead"
        }
        (Op::Mount(_), Errno::EROFS) => "the mount's target is missing, and the root file system can't be written to",
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
        (Op::ExecLabel { .. }, Errno::ENOENT) => "the LSM of this label is not active on this host",
        (Op::JoinNamespace { .. }, Errno::EPERM) => "CAP_SYS_ADMIN in the namespace's owner is missing",
        _ => return None,
    };
    Some(text)
}

/// The process is gone and has left no word.
pub fn died(status: Option<i32>) -> Error {
    match status {
        Some(status) if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL => {
            Error::new(format!("{START}: container init was OOM-killed (memory limit too low?)"))
                .hint("or it was killed by a signal: the kernel's log tells")
        }
        Some(status) if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            let error = Error::new(format!("{START}: the process was ended by signal {signal} before its execve"));
            if signal == libc::SIGSYS { error.hint("the seccomp profile kills execve") } else { error }
        }
        _ => Error::new(format!("{START}: the process ended before its execve")),
    }
}
