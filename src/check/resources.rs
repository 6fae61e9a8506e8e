//! `linux.resources` and `linux.sysctl`: controllers, CPUs, nodes, devices and files that this host has.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxNamespaceType, LinuxResources, MemoryPolicyModeType};

use super::{Findings, Namespace, Subject, plan::ID};
use crate::bundle::escape;
use crate::cgroup;
use crate::error::Error;
use crate::plan::ranges;
use crate::systemd;
use crate::validate::sysctl_path;

pub(super) fn check(subject: &Subject, systemd_cgroup: bool, findings: &mut Findings) {
    let Some(linux) = subject.spec.linux() else { return };
    if !systemd_cgroup {
        controllers(subject, findings);
    } else if let Err(error) = systemd::reachable(subject.facts.systemd_user.is_some()) {
        findings.error(error);
    }
    for key in linux.sysctl().iter().flat_map(|map| map.keys()) {
        sysctl(key, subject, findings);
    }
    if let Some(policy) = linux.memory_policy() {
        online(policy.nodes().as_deref().unwrap_or_default(), "/linux/memoryPolicy/nodes", &NODES, findings);
        let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
        newer_mode(policy.mode(), &release.unwrap_or_default()).into_iter().for_each(|error| findings.warning(error));
    }
    let Some(resources) = linux.resources() else { return };
    if let Some(cpu) = resources.cpu() {
        cpus(cpu.cpus().as_deref().unwrap_or_default(), "/linux/resources/cpu/cpus", findings);
        online(cpu.mems().as_deref().unwrap_or_default(), "/linux/resources/cpu/mems", &NODES, findings);
    }
    hugepages(resources, findings);
    if let Some(io) = resources.block_io() {
        block_devices(io, findings);
    }
}

/// A mode that came after the least kernel. It can't be asked for without being set, and distributions bring it to older kernels.
fn newer_mode(mode: MemoryPolicyModeType, release: &str) -> Option<Error> {
    let (name, since) = match mode {
        MemoryPolicyModeType::MpolPreferredMany => ("MPOL_PREFERRED_MANY", (5, 15)),
        MemoryPolicyModeType::MpolWeightedInterleave => ("MPOL_WEIGHTED_INTERLEAVE", (6, 9)),
        _ => return None,
    };
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let here = (numbers.next()?, numbers.next()?);
    let (major, minor) = since;
    (here < since).then(|| {
        Error::new(format!("this kernel, {release}, may not have {name}"))
            .at("/linux/memoryPolicy/mode")
            .hint(format!("Linux {major}.{minor} was the first"))
    })
}

/// Where the container's cgroup would be made, and whether what limits it would come down to it.
fn controllers(subject: &Subject, findings: &mut Findings) {
    let linux = subject.spec.linux().as_ref();
    let asked = linux.and_then(|linux| linux.cgroups_path().as_deref()).filter(|path| !path.as_os_str().is_empty());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let Some(hierarchy) = &subject.facts.cgroup else { return };
    let Ok(path) = cgroup::path(asked, ID, &hierarchy.own) else { return };
    // What is wrong with one key is told already; the others still count.
    let writes = resources.map(|resources| cgroup::writes_and_errors(resources).0).unwrap_or_default();
    let wanted = cgroup::wanted_controllers(&writes);
    let foreseen = cgroup::foresee(hierarchy, &path, asked.is_some(), &wanted);
    match foreseen.place {
        Some(error) if writes.is_empty() && asked.is_none() => {
            findings.warning(error.context("the container runs without a cgroup of its own"));
        }
        Some(error) => {
            let pointer = writes.first().map_or("/linux/cgroupsPath", |write| &write.from).to_owned();
            let error = if error.pointer.is_none() { error.at(pointer) } else { error };
            findings.error(cgroup::in_words_of_runc(error, subject.facts.rootless, asked.is_some()));
        }
        None => {}
    }
    foreseen.lacking.into_iter().for_each(|error| findings.error(error));
}

/// A kind of things that are numbered.
struct Numbered {
    what: &'static str,
    dir: &'static str,
}

const CPUS: Numbered = Numbered { what: "CPU", dir: "/sys/devices/system/cpu" };
const NODES: Numbered = Numbered { what: "NUMA node", dir: "/sys/devices/system/node" };

pub(super) fn cpus(list: &str, pointer: &str, findings: &mut Findings) {
    online(list, pointer, &CPUS, findings);
}

/// The kernel refuses numbers that are not possible, and goes without those that are offline.
fn online(list: &str, pointer: &str, kind: &Numbered, findings: &mut Findings) {
    let have = |name: &str| ranges::mask(&std::fs::read_to_string(Path::new(kind.dir).join(name)).ok()?).ok();
    let (Ok(wanted), Some(possible), Some(online)) = (ranges::mask(list), have("possible"), have("online")) else {
        return;
    };
    let hint = format!("{}/online says which there are", kind.dir);
    let (never, offline) = (without(&wanted, &possible), without(&wanted, &online));
    if !never.is_empty() {
        findings.error(Error::new(format!("this machine has no {} {never}", kind.what)).at(pointer).hint(hint));
    } else if !offline.is_empty() {
        let text = format!("not online on this machine: {} {offline}", kind.what);
        findings.warning(Error::new(text).at(pointer).hint(hint));
    }
}

/// The list of what is in `wanted` and not in `have`.
fn without(wanted: &[u64], have: &[u64]) -> String {
    let rest = wanted.iter().enumerate().map(|(word, bits)| bits & !have.get(word).copied().unwrap_or(0));
    ranges::text(&rest.collect::<Vec<_>>())
}

fn hugepages(resources: &LinuxResources, findings: &mut Findings) {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let Some(kilobytes) = kilobytes(limit.page_size()).filter(|_| limit.limit() >= 0) else { continue };
        if !Path::new(&format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB")).exists() {
            findings.error(
                Error::new(format!("this kernel has no huge pages of {}", limit.page_size()))
                    .at(format!("/linux/resources/hugepageLimits/{index}/pageSize"))
                    .hint("/sys/kernel/mm/hugepages lists the sizes that it has"),
            );
        }
    }
}

fn kilobytes(size: &str) -> Option<u64> {
    let size = size.strip_suffix('B')?;
    let unit = |(at, shift): (usize, u32)| size[..at].parse::<u64>().ok()?.checked_shl(shift);
    let shift = "KMGTPE".find(size.chars().last()?)?;
    unit((size.len() - 1, 10 * shift as u32))
}

fn block_devices(io: &LinuxBlockIo, findings: &mut Findings) {
    let weights = io.weight_device().iter().flatten().map(|device| (device.major(), device.minor()));
    one_list("weightDevice", weights, findings);
    for (name, list) in [
        ("throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ] {
        one_list(name, list.iter().flatten().map(|device| (device.major(), device.minor())), findings);
    }
}

fn one_list(name: &str, devices: impl Iterator<Item = (i64, i64)>, findings: &mut Findings) {
    for (index, (major, minor)) in devices.enumerate() {
        let pointer = format!("/linux/resources/blockIO/{name}/{index}");
        let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        if !device.exists() {
            let error = Error::new(format!("there is no block device {major}:{minor}")).at(pointer);
            findings.error(error.hint("/proc/partitions lists those that there are"));
        } else if device.join("partition").exists() {
            let error = Error::new(format!("the block device {major}:{minor} is a partition")).at(pointer);
            findings.error(error.hint("limits of I/O are for whole disks"));
        }
    }
}

/// The file of a sysctl. Those of network devices are those of the container's own, of which a new namespace has only lo.
fn sysctl(key: &str, subject: &Subject, findings: &mut Findings) {
    let mut path = sysctl_path(key);
    let pointer = format!("/linux/sysctl/{}", escape(key));
    let device = network_device(&path).map(ToOwned::to_owned);
    let joined = matches!(subject.namespace(LinuxNamespaceType::Network), Some(Namespace::Joined(_)));
    if let Some(device) = device.filter(|device| !["all", "default", "lo"].contains(&device.as_str())) {
        if !joined {
            findings.warning(
                Error::new(format!(
                    "sysctl {key:?} is of the network device {device}, which a new namespace does not have"
                ))
                .at(pointer.as_str())
                .hint("a new network namespace has lo alone; `default` stands for those that are made later"),
            );
        }
        path = path.replacen(&format!("/{device}/"), "/default/", 1);
    }
    // What leads out of /proc/sys is an error of the configuration, and has been told.
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain && !Path::new("/proc/sys").join(&path).exists() {
        findings.error(
            Error::new(format!("this kernel has no sysctl {key:?}"))
                .at(pointer)
                .hint(format!("there is no /proc/sys/{path}; a module may have to be loaded for it")),
        );
    }
}

/// The network device in `net/ipv4/conf/DEVICE/forwarding` and its like.
fn network_device(path: &str) -> Option<&str> {
    let mut parts = path.split('/');
    let known = parts.next() == Some("net")
        && matches!(parts.next(), Some("ipv4" | "ipv6" | "mpls"))
        && matches!(parts.next(), Some("conf" | "neigh"));
    if known { parts.next() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_a_memory_policy_by_the_release() {
        let doubtful = |mode, release: &str| newer_mode(mode, release).is_some();
        let (many, weighted) = (MemoryPolicyModeType::MpolPreferredMany, MemoryPolicyModeType::MpolWeightedInterleave);
        assert_eq!(["5.14.0-1", "5.15.0"].map(|release| doubtful(many, release)), [true, false]);
        assert_eq!(
            ["6.1.0-56-cloud-amd64", "6.8.12", "6.9-rc1", "7.0"].map(|r| doubtful(weighted, r)),
            [true, true, false, false]
        );
        assert!(!doubtful(MemoryPolicyModeType::MpolBind, "5.14.0") && !doubtful(weighted, "unknown"));
    }

    #[test]
    fn lists_and_sizes() {
        assert_eq!(without(&[0b1110, 1], &[0b0100]), "1,3,64");
        assert_eq!([kilobytes("64KB"), kilobytes("2MB"), kilobytes("1GB")], [Some(64), Some(2048), Some(1 << 20)]);
        assert_eq!([kilobytes("2M"), kilobytes("MB"), kilobytes("12B")], [None, None, None]);
        assert_eq!(network_device("net/ipv4/conf/eth0.1/forwarding"), Some("eth0.1"));
        assert_eq!(network_device("net/ipv4/ip_forward"), None);
    }
}
