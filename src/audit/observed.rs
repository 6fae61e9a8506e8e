//! The facts that the kernel tells of a running container, by its first process; nobody enters it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, MountOptFields, Process};

use super::planned::NAMESPACES;
use super::{Cover, Facts, Mount, Sets, Sharing};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::state::State;
use crate::sys::path as sys;

/// What is true of the container of `state` now, of which this was `planned`.
///
/// # Errors
/// It does not run, or its `/proc` files can't be read: that takes root, or the same user.
pub fn observed(state: &State, planned: &Facts) -> Result<Facts> {
    let gone = || {
        Error::new(format!("container {} does not run", state.id))
            .hint("of a bundle, `orlop audit BUNDLE` tells what it would be")
    };
    // Held until all has been read: the number is this process's as long as it lives.
    let held = state.process()?.ok_or_else(gone)?;
    let failed = |error: procfs::ProcError| Error::new(format!("read /proc/{}: {error}", state.pid));
    let process = Process::new(state.pid).map_err(failed)?;
    let status = process.status().map_err(failed)?;
    let table: Vec<MountInfo> = process.mountinfo().map_err(failed)?.0;
    let host: Vec<MountInfo> = Process::myself().and_then(|own| own.mountinfo()).map_err(failed)?.0;
    let namespaces = namespaces(state.pid)?;
    let cgroup = state.open_cgroup()?;
    let facts = Facts {
        root_is_host_root: root_is_host_root(state.pid, namespaces.get("user").copied()),
        namespaces,
        uid: inner_uid(state.pid, status.euid),
        sets: Sets {
            bounding: status.capbnd.unwrap_or(0),
            effective: status.capeff,
            permitted: status.capprm,
            inheritable: status.capinh,
            ambient: status.capamb.unwrap_or(0),
        },
        no_new_privileges: no_new_privileges(state.pid),
        seccomp: status.seccomp == Some(2),
        label: label(state.pid, planned.label.is_some()),
        root_read_only: table.iter().rfind(|entry| entry.mount_point == Path::new("/")).is_some_and(read_only),
        covers: covers(state.pid, &table),
        mounts: table
            .iter()
            .filter(|entry| entry.mount_point != Path::new("/"))
            .map(|entry| mount(entry, &host))
            .collect(),
        device_filter: cgroup.as_ref().and_then(|cgroup| cgroup.has_device_filter().ok()),
        limits: ["memory.max", "pids.max"].map(|file| (file, limited(cgroup.as_ref(), file))).into(),
        oom_score_adj: read(state.pid, "oom_score_adj").and_then(|text| text.trim().parse().ok()),
    };
    match crate::sys::process::poll_in(held.as_fd(), 0) {
        Ok(false) => Ok(facts),
        _ => Err(gone()),
    }
}

fn read(pid: i32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// Against those of the host's first process, or where that can't be looked at the auditor's own.
fn namespaces(pid: i32) -> Result<BTreeMap<&'static str, Sharing>> {
    let inode = |pid: &str, file: &str| std::fs::metadata(format!("/proc/{pid}/ns/{file}")).ok().map(|meta| meta.ino());
    let mut found = BTreeMap::new();
    for (name, _) in NAMESPACES {
        let file = match name {
            "mount" => "mnt",
            "network" => "net",
            other => other,
        };
        let Some(theirs) = inode(&pid.to_string(), file) else { continue };
        let hosts = inode("1", file).or_else(|| inode("self", file));
        found.insert(name, if hosts == Some(theirs) { Sharing::Host } else { Sharing::Own });
    }
    match found.is_empty() {
        true => Err(Error::new(format!("the namespaces of process {pid} can't be looked at"))
            .hint("that takes root, or the user of the container")),
        false => Ok(found),
    }
}

/// The lines of uid_map: inside, outside, how many.
fn uid_map(pid: i32) -> Vec<[u64; 3]> {
    let text = read(pid, "uid_map").unwrap_or_default();
    let line = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        <[u64; 3]>::try_from(numbers).ok()
    };
    text.lines().filter_map(line).collect()
}

fn root_is_host_root(pid: i32, user: Option<Sharing>) -> bool {
    user != Some(Sharing::Own) || uid_map(pid).iter().any(|[inside, outside, _]| *inside == 0 && *outside == 0)
}

fn inner_uid(pid: i32, outer: u32) -> u32 {
    let outer = u64::from(outer);
    let maps = uid_map(pid);
    let map = maps.iter().find(|[_, outside, count]| (*outside..outside + count).contains(&outer));
    map.map_or(outer, |[inside, outside, _]| inside + outer - outside) as u32
}

fn no_new_privileges(pid: i32) -> bool {
    let status = read(pid, "status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|value| value.trim() == "1"))
}

/// Without its mode, and none when it confines nothing. Under SELinux whoever was `given` none has the runtime's.
fn label(pid: i32, given: bool) -> Option<String> {
    let label = read(pid, "attr/current")?;
    let name = label.trim_matches(['\n', '\0']).split(" (").next()?;
    let confines = !is_unconfined(name) && (given || !crate::host::selinux());
    confines.then(|| name.to_owned())
}

/// What AppArmor, SELinux without a policy, and types of its reference policy say of who may do as they like.
fn is_unconfined(label: &str) -> bool {
    let of_selinux = label.split(':').nth(2).is_some_and(|kind| kind.starts_with("unconfined_"));
    of_selinux || ["", "unconfined", "kernel"].contains(&label)
}

fn read_only(entry: &MountInfo) -> bool {
    entry.mount_options.contains_key("ro") || entry.super_options.contains_key("ro")
}

fn mount(entry: &MountInfo, host: &[MountInfo]) -> Mount {
    // Of a mount that the host does not have, peers are the container's own.
    let group = peer_group(entry);
    let shared = group.is_some() && host.iter().any(|other| peer_group(other) == group);
    Mount {
        target: entry.mount_point.to_string_lossy().into_owned(),
        source: host_path(entry, host).map(|path| path.to_string_lossy().into_owned()),
        kind: entry.fs_type.clone(),
        read_only: read_only(entry),
        nosuid: entry.mount_options.contains_key("nosuid"),
        shared,
    }
}

/// The number of the peer group of a shared mount.
fn peer_group(entry: &MountInfo) -> Option<u32> {
    entry.opt_fields.iter().find_map(|field| match field {
        MountOptFields::Shared(group) => Some(*group),
        _ => None,
    })
}

/// Where the host has the file system and the directory of a mount; none for a file system of the container's own.
fn host_path(entry: &MountInfo, host: &[MountInfo]) -> Option<PathBuf> {
    let same = host.iter().filter(|other| other.majmin == entry.majmin);
    let below = same.filter_map(|other| Some((other, Path::new(&entry.root).strip_prefix(&other.root).ok()?)));
    let (there, rest) = below.max_by_key(|(other, _)| other.root.len())?;
    Some(if rest.as_os_str().is_empty() { there.mount_point.clone() } else { there.mount_point.join(rest) })
}

/// What lies over single paths of procfs and sysfs: the same file system, read-only, or something else. What is not there
/// is as good as masked.
fn covers(pid: i32, table: &[MountInfo]) -> BTreeMap<String, Cover> {
    let kernels = |entry: &MountInfo| matches!(entry.fs_type.as_str(), "proc" | "sysfs");
    let roots: Vec<&Path> = table
        .iter()
        .filter(|entry| kernels(entry) && entry.root == "/")
        .map(|entry| entry.mount_point.as_path())
        .collect();
    let over = table
        .iter()
        .filter(|entry| roots.iter().any(|root| entry.mount_point.starts_with(root) && entry.mount_point != *root));
    let covered = over.filter_map(|entry| {
        let cover = match (kernels(entry), read_only(entry)) {
            (true, true) => Cover::ReadOnly,
            (true, false) => return None,
            (false, _) if entry.fs_type.starts_with("cgroup") => return None,
            (false, _) => Cover::Masked,
        };
        Some((entry.mount_point.to_string_lossy().into_owned(), cover))
    });
    let absent = super::rules::kernel_paths().filter(|path| !exists(pid, path));
    covered.chain(absent.map(|path| (path.to_owned(), Cover::Masked))).collect()
}

fn limited(cgroup: Option<&Cgroup>, file: &str) -> Option<bool> {
    let value = cgroup?.read(file).ok()??;
    Some(value.trim() != "max")
}

/// Is there such a path in the container? Links lead to where they lead in there.
pub(super) fn exists(pid: i32, path: &str) -> bool {
    let Ok(root) = std::fs::File::open(format!("/proc/{pid}/root")) else { return false };
    let Ok(path) = std::ffi::CString::new(path.trim_start_matches('/')) else { return false };
    sys::openat2(root.as_fd(), &path, libc::O_PATH, 0, sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_unconfined;

    #[test]
    fn the_type_of_a_label_tells_what_it_confines() {
        for label in ["unconfined", "kernel", "", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"] {
            assert!(is_unconfined(label), "{label}");
        }
        for label in
            ["docker-default", "system_u:system_r:container_t:s0:c1,c2", "unconfined_u:unconfined_r:sandbox_t:s0:c1"]
        {
            assert!(!is_unconfined(label), "{label}");
        }
    }
}
