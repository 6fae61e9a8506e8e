//! What a cgroup has used, in the shape of runc's `events` (types/events.go, with the pressure that runc 1.2 added).
//!
//! The files are those of the kernel's documentation, admin-guide/cgroup-v2.rst. What no controller counts is left out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Cgroup, file};
use crate::error::Result;

/// All that is known of one moment.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset: Option<Cpuset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    pids: Pids,
    #[serde(skip_serializing_if = "Option::is_none")]
    blkio: Option<Blkio>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    hugetlb: BTreeMap<String, Hugetlb>,
    #[serde(skip_serializing_if = "Rdma::is_empty")]
    rdma: Rdma,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    misc: BTreeMap<String, Misc>,
}

/// Times are in nanoseconds.
#[derive(Debug, Default, Serialize)]
struct Cpu {
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttling: Option<Throttling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, Serialize)]
struct Usage {
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

/// What the processes may use: the lists in effect.
#[derive(Debug, Default, Serialize)]
struct Cpuset {
    cpus: Vec<u16>,
    mems: Vec<u16>,
}

/// Bytes. `swap` is that of cgroup v1: memory and swap together.
#[derive(Debug, Default, Serialize)]
struct Memory {
    cache: u64,
    usage: MemoryEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<MemoryEntry>,
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

/// A limit of `u64::MAX` is none; `failcnt` is how often the limit was met.
#[derive(Debug, Default, Serialize)]
struct MemoryEntry {
    limit: u64,
    usage: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u64>,
    failcnt: u64,
}

/// A limit of 0 is none.
#[derive(Debug, Default, Serialize)]
struct Pids {
    current: u64,
    limit: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    io_service_bytes_recursive: Vec<BlkioEntry>,
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    major: u64,
    minor: u64,
    op: &'static str,
    value: u64,
}

#[derive(Debug, Default, Serialize)]
struct Hugetlb {
    usage: u64,
    failcnt: u64,
}

#[derive(Debug, Default, Serialize)]
struct Rdma {
    rdma_limit: Vec<RdmaEntry>,
    rdma_current: Vec<RdmaEntry>,
}

#[derive(Debug, Serialize)]
struct RdmaEntry {
    device: String,
    hca_handles: u64,
    hca_objects: u64,
}

#[derive(Debug, Default, Serialize)]
struct Misc {
    usage: u64,
    events: u64,
}

/// Pressure (kernel documentation, accounting/psi.rst): shares of time in percent, and a total in microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Psi {
    some: Pressure,
    full: Pressure,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pressure {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

impl Rdma {
    fn is_empty(&self) -> bool {
        self.rdma_limit.is_empty() && self.rdma_current.is_empty()
    }
}

impl Cgroup {
    /// Reads what it has used.
    ///
    /// # Errors
    /// A file that is there can't be read.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats {
            cpu: self.cpu()?,
            cpuset: self.cpuset()?,
            memory: self.memory()?,
            pids: self.pids()?,
            blkio: self.blkio()?,
            hugetlb: self.hugetlb()?,
            rdma: self.rdma()?,
            misc: self.misc()?,
        })
    }

    /// How many of its processes the kernel has killed for want of memory, those below it included; none without the
    /// memory controller.
    ///
    /// # Errors
    /// `memory.events` can't be read.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        Ok(self.read("memory.events")?.map(|text| flat(&text).get("oom_kill").copied().unwrap_or(0)))
    }

    /// The same without those of before [`create`](Self::create) took a cgroup that was there.
    ///
    /// # Errors
    /// As there.
    pub fn new_oom_kills(&self) -> Result<Option<u64>> {
        Ok(self.oom_kills()?.map(|kills| kills.saturating_sub(self.kills_before)))
    }

    fn cpu(&self) -> Result<Cpu> {
        let text = self.read("cpu.stat")?.unwrap_or_default();
        let stat = flat(&text);
        let nanoseconds = |key| stat.get(key).copied().unwrap_or(0).saturating_mul(1000);
        let throttling = stat.get("nr_periods").map(|periods| Throttling {
            periods: *periods,
            throttled_periods: stat.get("nr_throttled").copied().unwrap_or(0),
            throttled_time: nanoseconds("throttled_usec"),
        });
        let usage = Usage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
        };
        Ok(Cpu { usage, throttling, psi: self.pressure("cpu.pressure")? })
    }

    fn cpuset(&self) -> Result<Option<Cpuset>> {
        let Some(cpus) = self.read("cpuset.cpus.effective")? else { return Ok(None) };
        let mems = self.read("cpuset.mems.effective")?.unwrap_or_default();
        Ok(Some(Cpuset { cpus: list(&cpus), mems: list(&mems) }))
    }

    fn memory(&self) -> Result<Option<Memory>> {
        let Some(usage) = self.memory_entry("memory")? else { return Ok(None) };
        let swap = self.memory_entry("memory.swap")?.map(|swap| MemoryEntry {
            usage: swap.usage.saturating_add(usage.usage),
            limit: swap.limit.saturating_add(usage.limit),
            max: None,
            ..swap
        });
        let text = self.read("memory.stat")?.unwrap_or_default();
        let raw = flat(&text);
        let raw: BTreeMap<_, _> = raw.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let cache = raw.get("file").copied().unwrap_or(0);
        Ok(Some(Memory { cache, usage, swap, raw, psi: self.pressure("memory.pressure")? }))
    }

    fn memory_entry(&self, name: &str) -> Result<Option<MemoryEntry>> {
        let Some(usage) = self.value(&format!("{name}.current"))? else { return Ok(None) };
        let events = self.read(&format!("{name}.events"))?.unwrap_or_default();
        Ok(Some(MemoryEntry {
            usage,
            limit: self.value(&format!("{name}.max"))?.unwrap_or(u64::MAX),
            max: self.value(&format!("{name}.peak"))?,
            failcnt: flat(&events).get("max").copied().unwrap_or(0),
        }))
    }

    /// Without the controller processes are counted, where runc counts them too.
    fn pids(&self) -> Result<Pids> {
        match self.value("pids.current")? {
            Some(current) => {
                let limit = self.value("pids.max")?.filter(|limit| *limit != u64::MAX);
                Ok(Pids { current, limit: limit.unwrap_or(0) })
            }
            None => Ok(Pids { current: self.processes()?.len() as u64, limit: 0 }),
        }
    }

    fn blkio(&self) -> Result<Option<Blkio>> {
        let Some(text) = self.read("io.stat")? else { return Ok(None) };
        let mut blkio = Blkio { psi: self.pressure("io.pressure")?, ..Blkio::default() };
        for (device, key, value) in nested(&text) {
            let numbers = device.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let Some((major, minor)) = numbers else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op, value });
        }
        Ok(Some(blkio))
    }

    fn hugetlb(&self) -> Result<BTreeMap<String, Hugetlb>> {
        let mut sizes = BTreeMap::new();
        for name in file::files(self.fd()).unwrap_or_default() {
            let size = name.strip_prefix("hugetlb.").and_then(|name| name.strip_suffix(".current"));
            let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
            let Some(usage) = self.value(&name)? else { continue };
            let events = self.read(&format!("hugetlb.{size}.events"))?.unwrap_or_default();
            let failcnt = flat(&events).get("max").copied().unwrap_or(0);
            sizes.insert(size.to_owned(), Hugetlb { usage, failcnt });
        }
        Ok(sizes)
    }

    fn rdma(&self) -> Result<Rdma> {
        let entries = |text: Option<String>| rdma(&text.unwrap_or_default());
        Ok(Rdma { rdma_limit: entries(self.read("rdma.max")?), rdma_current: entries(self.read("rdma.current")?) })
    }

    fn misc(&self) -> Result<BTreeMap<String, Misc>> {
        let usage = self.read("misc.current")?.unwrap_or_default();
        let events = self.read("misc.events")?.unwrap_or_default();
        let events = flat(&events);
        let one = |(name, usage): (&str, u64)| {
            let events = events.get(format!("{name}.max").as_str()).copied().unwrap_or(0);
            (name.to_owned(), Misc { usage, events })
        };
        Ok(flat(&usage).into_iter().map(one).collect())
    }

    /// None where the kernel does not account for it: CONFIG_PSI, `psi=0`, `cgroup.pressure`.
    fn pressure(&self, name: &str) -> Result<Option<Psi>> {
        Ok(self.read(name)?.filter(|text| !text.is_empty()).map(|text| psi(&text)))
    }

    /// A file with one number; `max` is the greatest.
    fn value(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.read(name)?.map(|text| number(text.trim())))
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(if text == "max" { u64::MAX } else { 0 })
}

/// `KEY VALUE` on each line.
fn flat(text: &str) -> BTreeMap<&str, u64> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, number(value.trim()))).collect()
}

/// `NAME KEY=VALUE KEY=VALUE` on each line: one element for each pair.
fn nested(text: &str) -> impl Iterator<Item = (&str, &str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).flat_map(|(name, pairs)| {
        let pair = move |pair: &'_ str| pair.split_once('=').map(|(key, value)| (key.len(), number(value)));
        pairs.split_whitespace().filter_map(move |text| pair(text).map(|(end, value)| (name, &text[..end], value)))
    })
}

fn rdma(text: &str) -> Vec<RdmaEntry> {
    let mut entries: Vec<RdmaEntry> = Vec::new();
    for (device, key, value) in nested(text) {
        if entries.last().is_none_or(|last| last.device != device) {
            entries.push(RdmaEntry { device: device.to_owned(), hca_handles: 0, hca_objects: 0 });
        }
        match (entries.last_mut(), key) {
            (Some(entry), "hca_handle") => entry.hca_handles = value,
            (Some(entry), "hca_object") => entry.hca_objects = value,
            _ => {}
        }
    }
    entries
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full`.
/// A key of a file in the form `KEY VALUE`.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    flat(text).get(key).copied()
}

/// A share of time in percent, or the total in microseconds, of a pressure file: `value("some", "avg10")`.
pub(crate) fn pressure_of(text: &str, line: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|found| found.strip_prefix(line))?;
    line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?.parse().ok()
}

fn psi(text: &str) -> Psi {
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let field = |key: &str| line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let share = |key| field(key).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        let total = field("total").map_or(0, number);
        Pressure { avg10: share("avg10"), avg60: share("avg60"), avg300: share("avg300"), total }
    };
    Psi { some: line("some "), full: line("full ") }
}

/// `0-2,5` as each of its numbers (cpuset(7), "List format").
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_formats() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(list("\n").is_empty());
        assert_eq!(number("max"), u64::MAX);
        let io: Vec<_> = nested("8:0 rbytes=1 wbytes=2\n8:16 rbytes=3\n").collect();
        assert_eq!(io, [("8:0", "rbytes", 1), ("8:0", "wbytes", 2), ("8:16", "rbytes", 3)]);
        let rdma = rdma("mlx5_0 hca_handle=2 hca_object=max\nmlx5_1 hca_handle=1 hca_object=0\n");
        assert_eq!((rdma.len(), rdma[0].hca_handles, rdma[0].hca_objects), (2, 2, u64::MAX));
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let psi = psi(text);
        assert_eq!((psi.some.avg10, psi.some.avg60, psi.some.total, psi.full.total), (1.5, 0.25, 42, 7));
    }
}
