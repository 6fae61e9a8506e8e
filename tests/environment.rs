//! What every other integration test stands on: the cgroup hierarchy that the runner, or the machine, gave it.

use std::fs;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

#[test]
fn cgroup2_is_on_sys_fs_cgroup() {
    let filesystem = statfs("/sys/fs/cgroup").expect("statfs(/sys/fs/cgroup)").filesystem_type();
    let root = nix::unistd::geteuid().is_root();
    assert!(!root || filesystem == CGROUP2_SUPER_MAGIC, "/sys/fs/cgroup is {filesystem:?}: run by tests/native");
}

#[test]
fn the_mount_namespace_is_private() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let shared = mounts.lines().find(|line| line.contains(" shared:"));
    assert!(!nix::unistd::geteuid().is_root() || shared.is_none(), "a mount would be seen by the machine: {shared:?}");
}

#[test]
#[ignore = "needs every controller: runs in the machine (vm::environment)"]
fn every_controller_is_enabled_for_children_of_the_root() {
    let enabled = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").expect("cgroup.subtree_control");
    for controller in ["cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma", "misc"] {
        assert!(enabled.split_whitespace().any(|name| name == controller), "{controller} is missing: {enabled}");
    }
}
