//! What a cgroup has used, as the message that containerd's metrics and Kubernetes read: cgroups/v2/stats/metrics.proto.

use prost::Message;

use crate::cgroup::Cgroup;
use crate::error::Result;

/// Its name in an Any.
pub const NAME: &str = "io.containerd.cgroups.v2.Metrics";

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Metrics {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<Cpu>,
    #[prost(message, optional, tag = "4")]
    memory: Option<Memory>,
    #[prost(message, optional, tag = "5")]
    rdma: Option<Rdma>,
    #[prost(message, optional, tag = "6")]
    io: Option<Io>,
    #[prost(message, repeated, tag = "7")]
    hugetlb: Vec<HugeTlb>,
    #[prost(message, optional, tag = "8")]
    memory_events: Option<MemoryEvents>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Rdma {
    #[prost(message, repeated, tag = "1")]
    current: Vec<RdmaEntry>,
    #[prost(message, repeated, tag = "2")]
    limit: Vec<RdmaEntry>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RdmaEntry {
    #[prost(string, tag = "1")]
    device: String,
    #[prost(uint32, tag = "2")]
    hca_handles: u32,
    #[prost(uint32, tag = "3")]
    hca_objects: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Io {
    #[prost(message, repeated, tag = "1")]
    usage: Vec<IoEntry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct IoEntry {
    #[prost(uint64, tag = "1")]
    major: u64,
    #[prost(uint64, tag = "2")]
    minor: u64,
    #[prost(uint64, tag = "3")]
    rbytes: u64,
    #[prost(uint64, tag = "4")]
    wbytes: u64,
    #[prost(uint64, tag = "5")]
    rios: u64,
    #[prost(uint64, tag = "6")]
    wios: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HugeTlb {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    max: u64,
    #[prost(string, tag = "3")]
    pagesize: String,
}

/// Messages whose fields are lines of a file, by the kernel's names of them (admin-guide/cgroup-v2.rst).
macro_rules! lines {
    ($name:ident { $($field:ident = $tag:literal),* } $({ $($other:ident = $other_tag:literal),* })?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Message)]
        struct $name {
            $(#[prost(uint64, tag = $tag)] $field: u64,)*
            $($(#[prost(uint64, tag = $other_tag)] $other: u64,)*)?
        }

        impl $name {
            fn parse(text: &str) -> Self {
                let mut message = Self::default();
                for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
                    match key {
                        $(stringify!($field) => message.$field = number(value),)*
                        _ => {}
                    }
                }
                message
            }
        }
    };
}

lines!(Cpu {
    usage_usec = "1", user_usec = "2", system_usec = "3", nr_periods = "4", nr_throttled = "5", throttled_usec = "6"
});

lines!(Memory {
    anon = "1", file = "2", kernel_stack = "3", slab = "4", sock = "5", shmem = "6", file_mapped = "7", file_dirty = "8",
    file_writeback = "9", anon_thp = "10", inactive_anon = "11", active_anon = "12", inactive_file = "13",
    active_file = "14", unevictable = "15", slab_reclaimable = "16", slab_unreclaimable = "17", pgfault = "18",
    pgmajfault = "19", workingset_refault = "20", workingset_activate = "21", workingset_nodereclaim = "22",
    pgrefill = "23", pgscan = "24", pgsteal = "25", pgactivate = "26", pgdeactivate = "27", pglazyfree = "28",
    pglazyfreed = "29", thp_fault_alloc = "30", thp_collapse_alloc = "31"
} { usage = "32", usage_limit = "33", swap_usage = "34", swap_limit = "35" });

lines!(MemoryEvents { low = "1", high = "2", max = "3", oom = "4", oom_kill = "5" });

/// `max` is the greatest.
fn number(text: &str) -> u64 {
    let text = text.trim();
    text.parse().unwrap_or(if text == "max" { u64::MAX } else { 0 })
}

/// Reads it. What no controller counts is left out, but for the number of processes, which is counted.
///
/// # Errors
/// A file that is there can't be read.
pub fn metrics(cgroup: &Cgroup) -> Result<Metrics> {
    let value = |name: &str| Ok(cgroup.read(name)?.map_or(0, |text| number(&text)));
    let pids = match cgroup.read("pids.current")? {
        Some(current) => Pids { current: number(&current), limit: value("pids.max")? },
        None => Pids { current: cgroup.processes()?.len() as u64, limit: 0 },
    };
    let memory = match cgroup.read("memory.stat")? {
        Some(text) => Some(Memory {
            usage: value("memory.current")?,
            usage_limit: value("memory.max")?,
            swap_usage: value("memory.swap.current")?,
            swap_limit: value("memory.swap.max")?,
            ..Memory::parse(&text)
        }),
        None => None,
    };
    let rdma = match (cgroup.read("rdma.current")?, cgroup.read("rdma.max")?) {
        (Some(current), limit) => Some(Rdma { current: rdma(&current), limit: rdma(&limit.unwrap_or_default()) }),
        _ => None,
    };
    Ok(Metrics {
        pids: Some(pids),
        cpu: cgroup.read("cpu.stat")?.map(|text| Cpu::parse(&text)),
        memory,
        rdma,
        io: cgroup.read("io.stat")?.map(|text| Io { usage: text.lines().filter_map(io).collect() }),
        hugetlb: hugetlb(cgroup)?,
        memory_events: cgroup.read("memory.events")?.map(|text| MemoryEvents::parse(&text)),
    })
}

fn hugetlb(cgroup: &Cgroup) -> Result<Vec<HugeTlb>> {
    let mut sizes = Vec::new();
    for pagesize in ["64KB", "2MB", "32MB", "512MB", "1GB", "16GB"] {
        if let Some(current) = cgroup.read(&format!("hugetlb.{pagesize}.current"))? {
            let max = cgroup.read(&format!("hugetlb.{pagesize}.max"))?.map_or(0, |text| number(&text));
            sizes.push(HugeTlb { current: number(&current), max, pagesize: pagesize.into() });
        }
    }
    Ok(sizes)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io(line: &str) -> Option<IoEntry> {
    let (device, pairs) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
    for (key, value) in pairs.split(' ').filter_map(|pair| pair.split_once('=')) {
        match key {
            "rbytes" => entry.rbytes = number(value),
            "wbytes" => entry.wbytes = number(value),
            "rios" => entry.rios = number(value),
            "wios" => entry.wios = number(value),
            _ => {}
        }
    }
    Some(entry)
}

/// `mlx5_0 hca_handle=2 hca_object=max`.
fn rdma(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let (device, pairs) = line.split_once(' ')?;
        let value = |key| {
            let value = pairs.split(' ').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key);
            value.map_or(0, |(_, value)| u32::try_from(number(value)).unwrap_or(u32::MAX))
        };
        Some(RdmaEntry { device: device.into(), hca_handles: value("hca_handle"), hca_objects: value("hca_object") })
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_formats() {
        let cpu = Cpu::parse("usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_bursts 9\nnr_throttled 3\n");
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_throttled), (12, 7, 5, 3));
        let entry = io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6").expect("an entry");
        let read = (entry.major, entry.minor, entry.rbytes, entry.wbytes, entry.rios, entry.wios);
        assert_eq!(read, (8, 16, 1, 2, 3, 4));
        let rdma = rdma("mlx5_0 hca_handle=2 hca_object=max\n");
        assert_eq!((rdma[0].device.as_str(), rdma[0].hca_handles, rdma[0].hca_objects), ("mlx5_0", 2, u32::MAX));
        assert_eq!((number("max\n"), number("17\n")), (u64::MAX, 17));
    }
}
