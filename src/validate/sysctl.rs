//! `linux.sysctl`: only what belongs to a namespace of the container may be written.

use super::{Context, LinuxNamespaceType, Namespaces, add, bad};
use crate::error::Result;

/// What is in `/proc/sys/kernel` and belongs to the IPC namespace (`ipc/ipc_sysctl.c`, Linux 6.12).
const IPC: [&str; 12] = [
    "kernel/auto_msgmni",
    "kernel/msg_next_id",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/sem_next_id",
    "kernel/shm_next_id",
    "kernel/shm_rmid_forced",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
];

/// The path below `/proc/sys` of the sysctl `key`, by the rule of `sysctl(8)`: the first separator, `.` or `/`, is the one
/// between directories; the other one then stands for itself, turned round. `net.ipv4.conf.eth0/1.forwarding` and
/// `net/ipv4/conf/eth0.1/forwarding` are the same.
pub fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(first) if key.as_bytes()[first] == b'.' => key.chars().map(turn).collect(),
        _ => key.to_owned(),
    }
}

fn turn(separator: char) -> char {
    match separator {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

pub(super) fn sysctl(key: &str, value: &str, namespaces: Namespaces, context: &Context) -> Result<()> {
    let path = sysctl_path(key);
    if key.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad("", format!("sysctl {key:?} is not a name below /proc/sys")));
    }
    if value.trim_end_matches('\n').contains(['\0', '\n']) {
        return Err(bad("", format!("the value of sysctl {key:?} contains a NUL byte or a newline")));
    }
    belongs(key, &path, namespaces, context)
}

fn belongs(key: &str, path: &str, namespaces: Namespaces, context: &Context) -> Result<()> {
    use LinuxNamespaceType::{Ipc, Network, User, Uts};
    let refuse = |text: &str| Err(bad("", format!("sysctl {key:?} {text}")));
    let in_dir = |dir: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if in_dir("net") {
        return match namespaces.has(Network) && !context.host_network {
            true => Ok(()),
            false => refuse("not allowed in host network namespace").map_err(|error| error.hint(add("network"))),
        };
    }
    if in_dir("fs/mqueue") || IPC.contains(&path) {
        return match namespaces.has(Ipc) {
            true => Ok(()),
            false => refuse("is not allowed in the hosts ipc namespace").map_err(|error| error.hint(add("ipc"))),
        };
    }
    match path {
        "kernel/domainname" if namespaces.has(Uts) => Ok(()),
        "kernel/hostname" => refuse("is not allowed as it conflicts with the OCI \"hostname\" field"),
        _ if in_dir("user") && namespaces.has(User) => Ok(()),
        _ => refuse("is not in a separate kernel namespace").map_err(|error| {
            error
                .hint("allowed are net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*, kernel.domainname, user.*")
        }),
    }
}
