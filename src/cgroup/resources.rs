//! `linux.resources` as writes to files of a cgroup, version 2 (kernel documentation, admin-guide/cgroup-v2.rst).
//!
//! Keys that only cgroup v1 had are treated as runc treats them. Without an effect: `memory.kernel`, `memory.kernelTCP`,
//! `memory.swappiness`, `memory.disableOOMKiller`, `memory.useHierarchy`, and `leafWeight` of `blockIO`. An error, since
//! nothing on v2 could keep the promise: `cpu.realtimeRuntime`, `cpu.realtimePeriod`, and a `network` that is not empty.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma, LinuxResources,
    LinuxThrottleDevice, LinuxWeightDevice,
};

use crate::error::{Error, Found, Result};

/// One write to a file of the container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file's name, such as `memory.max`: one component.
    pub file: String,
    /// What is written, in one write(2).
    pub value: String,
    /// Place in `config.json` that it comes from, as a JSON pointer.
    pub from: String,
    /// What happens when the kernel refuses.
    pub refused: Refused,
}

/// What happens when a [`Write`] is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is an error.
    Fail,
    /// A missing file is no error: the value asks for no more than what the kernel does without the file.
    SkipIfMissing,
    /// The other file takes the other value when the first is missing.
    InsteadIfMissing {
        /// The other file's name.
        file: &'static str,
        /// The value in its units.
        value: String,
    },
    /// EINVAL is no error: the same write comes again later in the list, when what forbids it may have changed.
    AgainLater,
}

/// A controller that a list of writes needs, and the first place in `config.json` that needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The controller's name in `cgroup.controllers`.
    pub controller: &'a str,
    /// JSON pointer.
    pub from: &'a str,
}

/// The controllers without which `writes` can't be done, each once, in the order of the list.
pub fn wanted_controllers(writes: &[Write]) -> Vec<Wanted<'_>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for write in writes.iter().filter(|write| write.refused != Refused::SkipIfMissing) {
        let controller = write.file.split('.').next().unwrap_or_default();
        if controller != "cgroup" && wanted.iter().all(|other| other.controller != controller) {
            wanted.push(Wanted { controller, from: &write.from });
        }
    }
    wanted
}

/// The writes that `resources` ask for, in the order in which they are to be done: `unified` comes last and so wins.
///
/// As in runc, 0 stands for "not set" in memory, cpu.shares, cpu.quota, cpu.period and blockIO.weight, and -1 for "no
/// limit". A `pids.limit` of 0 gives 1, the least that lets the container's first process be. `"pids": {}` reads as 0
/// too (`oci-spec` can't tell): who reads the JSON takes an empty `pids` out first.
///
/// # Errors
/// At the value's place: one that the specification or the kernel's format excludes, or that v2 has no file for.
pub fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut list = List(Vec::new());
    list.all(&mut Found::first(), resources)?;
    Ok(list.0)
}

/// Every error that [`writes`] could end with, and the writes of what is right.
pub fn writes_and_errors(resources: &LinuxResources) -> (Vec<Write>, Vec<Error>) {
    let (mut list, mut found) = (List(Vec::new()), Found::all());
    let ended = list.all(&mut found, resources);
    debug_assert_eq!(ended, Ok(()), "what is kept does not come back");
    (list.0, found.into_errors())
}

/// What is set and does nothing: keys that only cgroup v1 had. Each as a warning, `/POINTER: TEXT`.
pub fn without_effect(resources: &LinuxResources) -> Vec<String> {
    let mut list = Vec::new();
    let mut say = |set: bool, key: &str, why: &str| {
        if set {
            list.push(format!("{}: has no effect: {why}", at(key)));
        }
    };
    let positive = |value: Option<i64>| value.is_some_and(|value| value > 0);
    if let Some(memory) = resources.memory() {
        let counted = "cgroup v2 counts the kernel's memory as the container's, under memory.limit";
        say(positive(memory.kernel()), "memory/kernel", counted);
        say(positive(memory.kernel_tcp()), "memory/kernelTCP", counted);
        // Above 100 it stands for "not set": docker's -1 is such a number.
        let swappiness = memory.swappiness().is_some_and(|value| value <= 100);
        say(swappiness, "memory/swappiness", "cgroup v2 has none; memory.swap limits the swap");
        let killer = memory.disable_oom_killer() == Some(true);
        say(killer, "memory/disableOOMKiller", "cgroup v2 always ends a process that finds no memory");
        let flat = memory.use_hierarchy() == Some(false);
        say(flat, "memory/useHierarchy", "on cgroup v2 limits always count for all that is below");
    }
    let no_leaf = "cgroup v2 has no weight of a cgroup's own processes";
    if let Some(io) = resources.block_io() {
        say(io.leaf_weight().is_some_and(|weight| weight != 0), "blockIO/leafWeight", no_leaf);
        for (index, device) in io.weight_device().iter().flatten().enumerate() {
            let leaf = device.leaf_weight().is_some_and(|weight| weight != 0);
            say(leaf, &format!("blockIO/weightDevice/{index}/leafWeight"), no_leaf);
        }
    }
    list
}

/// The map in the order of its keys, so that the same configuration always gives the same list.
fn sorted<T>(map: &Option<std::collections::HashMap<String, T>>) -> Vec<(&String, &T)> {
    let mut pairs: Vec<_> = map.iter().flatten().collect();
    pairs.sort_unstable_by_key(|(key, _)| *key);
    pairs
}

/// `cpu.weight` (1 to 10000) for v1 `shares` (2 to 262144): the quadratic in log2 that takes the least, the default (1024
/// to 100) and the greatest to their like, as runc and crun have it. Zero stays zero: not set.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log2 = (shares as f64).log2();
            10f64.powf((log2 * log2 + 125.0 * log2) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// `memory.swap.max` for v1's sum of memory and swap; none when nothing is to be written.
fn swap_max(memory: i64, swap: i64) -> Result<Option<i64>> {
    match (memory, swap) {
        (-1, 0) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) | (-1, _) => Ok(Some(swap)),
        (0, _) => Err(Error::new("unable to set swap limit without memory limit")),
        _ if swap < memory => Err(Error::new("memory+swap limit should be >= memory limit")),
        _ => Ok(Some(swap - memory)),
    }
}

/// `io.weight` (1 to 10000) for `blkio.weight` (10 to 1000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

struct List(Vec<Write>);

/// The JSON pointer of a key below `linux.resources`.
fn at(key: &str) -> String {
    format!("/linux/resources/{key}")
}

/// A name as one token of a JSON pointer (RFC 6901).
fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A v2 limit: -1 is `max`.
fn limit(value: i64) -> Result<String> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(Error::new(format!("{value} is not a limit")).hint("a limit is positive, or -1 for none")),
    }
}

impl List {
    fn push(&mut self, file: impl Into<String>, value: impl ToString, from: &str) {
        self.push_or(file, value, from, Refused::Fail);
    }

    fn push_or(&mut self, file: impl Into<String>, value: impl ToString, from: &str, refused: Refused) {
        self.0.push(Write { file: file.into(), value: value.to_string(), from: at(from), refused });
    }

    /// Writes a limit; `max` asks for nothing, so a missing file is as good.
    fn limit(&mut self, file: impl Into<String>, value: i64, from: &str) -> Result<()> {
        let refused = if value == -1 { Refused::SkipIfMissing } else { Refused::Fail };
        let value = limit(value).map_err(|error| error.at(at(from)))?;
        self.push_or(file, value, from, refused);
        Ok(())
    }

    fn all(&mut self, found: &mut Found, resources: &LinuxResources) -> Result<()> {
        if let Some(pids) = resources.pids() {
            let limit = if pids.limit() == 0 { 1 } else { pids.limit().max(-1) };
            found.note(self.limit("pids.max", limit, "pids/limit"))?;
        }
        if let Some(memory) = resources.memory() {
            found.note(self.memory(memory))?;
        }
        if let Some(io) = resources.block_io() {
            self.block_io(found, io)?;
        }
        if let Some(cpu) = resources.cpu() {
            found.note(self.cpu(cpu))?;
            self.cpuset(found, cpu)?;
        }
        for (index, hugepage) in resources.hugepage_limits().iter().flatten().enumerate() {
            found.note(self.hugepage(hugepage, index))?;
        }
        for (device, rdma) in sorted(resources.rdma()) {
            found.note(self.rdma(device, rdma))?;
        }
        if let Some(network) = resources.network() {
            found.note(refuse_network(network))?;
        }
        sorted(resources.unified()).into_iter().try_for_each(|(key, value)| found.note(self.unified(key, value)))
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        let max = memory.limit().unwrap_or(0);
        let swap = memory.swap().unwrap_or(0);
        for (value, from) in [(max, "memory/limit"), (swap, "memory/swap")] {
            limit(value).map_err(|error| error.at(at(from)))?;
        }
        if let Some(swap_max) = swap_max(max, swap).map_err(|error| error.at(at("memory/swap")))? {
            // A kernel without swap accounting has no file, and no swap to use above the memory limit either.
            let refused = if swap_max <= 0 { Refused::SkipIfMissing } else { Refused::Fail };
            let from = if swap == 0 { "memory/limit" } else { "memory/swap" };
            self.push_or("memory.swap.max", limit(swap_max)?, from, refused);
        }
        if max != 0 {
            self.limit("memory.max", max, "memory/limit")?;
        }
        match memory.reservation().unwrap_or(0) {
            0 => Ok(()),
            reservation => self.limit("memory.low", reservation, "memory/reservation"),
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<()> {
        refuse_realtime(cpu)?;
        let idle = cpu.idle();
        if let Some(idle) = idle {
            if !matches!(idle, 0 | 1) {
                return Err(Error::new(format!("cpu.idle of {idle}: it is 0 or 1")).at(at("cpu/idle")));
            }
            self.push("cpu.idle", idle, "cpu/idle");
        }
        // The kernel refuses a weight (EINVAL) where cpu.idle is 1, which is the least weight of all.
        let weight = weight(cpu.shares().unwrap_or(0));
        if weight != 0 && idle != Some(1) {
            self.push("cpu.weight", weight, "cpu/shares");
        }
        check_bandwidth(cpu)?;
        self.bandwidth(cpu);
        Ok(())
    }

    /// The burst may not be above the quota at any time: it goes in before the quota when it can (an update that lowers
    /// both), and after it.
    fn bandwidth(&mut self, cpu: &LinuxCpu) {
        let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
        let bandwidth = quota != 0 || period != 0;
        if let (Some(burst), true) = (cpu.burst(), bandwidth) {
            self.push_or("cpu.max.burst", burst, "cpu/burst", Refused::AgainLater);
        }
        if bandwidth {
            // 100 ms is the kernel's default period.
            let period = if period == 0 { 100_000 } else { period };
            let from = if quota == 0 { "cpu/period" } else { "cpu/quota" };
            match quota {
                1.. => self.push("cpu.max", format!("{quota} {period}"), from),
                _ => self.push_or("cpu.max", format!("max {period}"), from, Refused::SkipIfMissing),
            }
        }
        if let Some(burst) = cpu.burst() {
            self.push("cpu.max.burst", burst, "cpu/burst");
        }
    }

    fn cpuset(&mut self, found: &mut Found, cpu: &LinuxCpu) -> Result<()> {
        for (value, name) in [(cpu.cpus(), "cpus"), (cpu.mems(), "mems")] {
            let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
            let from = format!("cpu/{name}");
            if !is_list(value) {
                let error = Error::new(format!("{name} {value:?} is not a list")).at(at(&from));
                found.note(Err(error.hint("a list looks like 0-3,5 (cpuset(7), \"List format\")")))?;
                continue;
            }
            self.push(format!("cpuset.{name}"), value.trim(), &from);
        }
        Ok(())
    }

    fn block_io(&mut self, found: &mut Found, io: &LinuxBlockIo) -> Result<()> {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            found.note(self.io_weight("", weight, "blockIO/weight"))?;
        }
        for (index, device) in io.weight_device().iter().flatten().enumerate() {
            found.note(self.weight_device(device, &format!("blockIO/weightDevice/{index}")))?;
        }
        for (devices, key, name) in [
            (io.throttle_read_bps_device(), "rbps", "throttleReadBpsDevice"),
            (io.throttle_write_bps_device(), "wbps", "throttleWriteBpsDevice"),
            (io.throttle_read_iops_device(), "riops", "throttleReadIOPSDevice"),
            (io.throttle_write_iops_device(), "wiops", "throttleWriteIOPSDevice"),
        ] {
            for (index, device) in devices.iter().flatten().enumerate() {
                found.note(self.throttle(device, key, &format!("blockIO/{name}/{index}")))?;
            }
        }
        Ok(())
    }

    fn weight_device(&mut self, device: &LinuxWeightDevice, from: &str) -> Result<()> {
        let number = device_number(device.major(), device.minor(), from)?;
        match device.weight() {
            None | Some(0) => Ok(()),
            Some(weight) => self.io_weight(&format!("{number} "), weight, &format!("{from}/weight")),
        }
    }

    /// BFQ has the weights of v1 in a file of its own, which exists once the scheduler is loaded; `io.weight` belongs to
    /// iocost.
    fn io_weight(&mut self, device: &str, weight: u16, from: &str) -> Result<()> {
        if !(10..=1000).contains(&weight) {
            return Err(Error::new(format!("block I/O weight {weight}: it is between 10 and 1000")).at(at(from)));
        }
        let value = format!("{device}{}", io_weight(weight));
        let refused = Refused::InsteadIfMissing { file: "io.weight", value };
        self.push_or("io.bfq.weight", format!("{device}{weight}"), from, refused);
        Ok(())
    }

    /// A rate of 0 lifts the limit, as on v1.
    fn throttle(&mut self, device: &LinuxThrottleDevice, key: &str, from: &str) -> Result<()> {
        let number = device_number(device.major(), device.minor(), from)?;
        match device.rate() {
            0 => self.push_or("io.max", format!("{number} {key}=max"), from, Refused::SkipIfMissing),
            rate => self.push("io.max", format!("{number} {key}={rate}"), from),
        }
        Ok(())
    }

    /// Both the pages in use and, where the kernel counts them (Linux 5.7), the reserved ones, as the specification says.
    fn hugepage(&mut self, hugepage: &LinuxHugepageLimit, index: usize) -> Result<()> {
        let size = hugepage.page_size();
        let from = format!("hugepageLimits/{index}");
        if !is_page_size(size) {
            let error = Error::new(format!("{size:?} is not a page size")).at(at(&format!("{from}/pageSize")));
            return Err(error.hint("page sizes look like 64KB, 2MB, 1GB (/sys/kernel/mm/hugepages)"));
        }
        let from = format!("{from}/limit");
        self.limit(format!("hugetlb.{size}.max"), hugepage.limit(), &from)?;
        self.push_or(format!("hugetlb.{size}.rsvd.max"), limit(hugepage.limit())?, &from, Refused::SkipIfMissing);
        Ok(())
    }

    fn rdma(&mut self, device: &str, rdma: &LinuxRdma) -> Result<()> {
        let from = format!("rdma/{}", token(device));
        if device.is_empty() || device.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::new(format!("{device:?} is not an RDMA device")).at(at(&from)));
        }
        let mut value = device.to_owned();
        for (key, count) in [("hca_handle", rdma.hca_handles()), ("hca_object", rdma.hca_objects())] {
            if let Some(count) = count {
                value += &format!(" {key}={count}");
            }
        }
        if value.len() > device.len() {
            self.push("rdma.max", value, &from);
        }
        Ok(())
    }

    /// Line by line: files with an entry per device take one entry per write(2).
    fn unified(&mut self, key: &str, value: &str) -> Result<()> {
        let from = format!("unified/{}", token(key));
        check_key(key).map_err(|error| error.at(at(&from)))?;
        for line in value.lines() {
            self.push(key, line, &from);
        }
        Ok(())
    }
}

/// Made of what a list is made of (cpuset(7)), and no range ends before it begins. The rest is the kernel's to say.
fn is_list(text: &str) -> bool {
    let backwards = |range: &str| {
        let (first, rest) = range.split_once('-')?;
        let last = rest.split(':').next()?;
        Some(last.parse::<u64>().ok()? < first.parse::<u64>().ok()?)
    };
    let known = |byte: u8| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b' ' | b'\n' | b':' | b'/');
    text.bytes().all(known) && !text.split([',', ' ', '\n']).any(|range| backwards(range) == Some(true))
}

/// The kernel's bounds (`min_cfs_quota_period`, `max_cfs_quota_period`), which it says only as EINVAL.
fn check_bandwidth(cpu: &LinuxCpu) -> Result<()> {
    let quota = cpu.quota().filter(|quota| (1..1000).contains(quota));
    let period = cpu.period().filter(|period| *period != 0 && !(1000..=1_000_000).contains(period));
    if let Some(quota) = quota {
        let error = Error::new(format!("cpu.quota of {quota} microseconds: it is 1000 or more"));
        return Err(error.at(at("cpu/quota")).hint("-1 is no limit"));
    }
    match period {
        None => Ok(()),
        Some(period) => {
            let error = format!("cpu.period of {period} microseconds: it is between 1000 and 1000000");
            Err(Error::new(error).at(at("cpu/period")))
        }
    }
}

fn device_number(major: i64, minor: i64, from: &str) -> Result<String> {
    let wrong =
        |half: &str| Error::new(format!("{major}:{minor} is not a device number")).at(at(&format!("{from}/{half}")));
    let major = u32::try_from(major).map_err(|_| wrong("major"))?;
    let minor = u32::try_from(minor).map_err(|_| wrong("minor"))?;
    Ok(format!("{major}:{minor}"))
}

/// `<size><unit>B` with unit K, M, G, T, P, E or none: it becomes part of a file name (GHSA-5g49-rx9x-qfc6).
fn is_page_size(text: &str) -> bool {
    let Some(text) = text.strip_suffix('B') else { return false };
    let digits = text.strip_suffix(['K', 'M', 'G', 'T', 'P', 'E']).unwrap_or(text);
    !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Files of the cgroup core that move, stop or kill processes, or decide what the directory is: no resources.
const NOT_RESOURCES: [&str; 6] =
    ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control"];

fn check_key(key: &str) -> Result<()> {
    if key.contains('/') {
        return Err(Error::new(format!("unified resource {key:?} must be a file name (no slashes)")));
    }
    let dotted = key.split_once('.').is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty());
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !dotted || !plain || key.contains("..") {
        return Err(Error::new(format!("unified resource {key:?} must be in the form CONTROLLER.PARAMETER")));
    }
    if NOT_RESOURCES.contains(&key) {
        return Err(Error::new(format!(
            "unified resource {key:?} is not a resource but controls the container itself"
        )));
    }
    Ok(())
}

fn refuse_realtime(cpu: &LinuxCpu) -> Result<()> {
    let runtime = cpu.realtime_runtime().is_some_and(|value| value != 0).then_some("cpu/realtimeRuntime");
    let period = cpu.realtime_period().is_some_and(|value| value != 0).then_some("cpu/realtimePeriod");
    match runtime.or(period) {
        None => Ok(()),
        Some(from) => Err(Error::new("cgroup v2 has no realtime limits")
            .at(at(from))
            .hint("drop it; process.scheduler can give the process a realtime policy")),
    }
}

fn refuse_network(network: &LinuxNetwork) -> Result<()> {
    let class = network.class_id().is_some_and(|id| id != 0).then_some("network/classID");
    let priorities = network.priorities().iter().flatten().next().is_some().then_some("network/priorities");
    match class.or(priorities) {
        None => Ok(()),
        Some(from) => Err(Error::new("cgroup v2 has no network classes and priorities")
            .at(at(from))
            .hint("drop it; on v2 packets are matched by the cgroup's path (nft socket cgroupv2)")),
    }
}
