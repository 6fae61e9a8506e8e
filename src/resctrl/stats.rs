//! What a group has, and what it has used, in the shape of runc's `events` (types/events.go, `intel_rdt`). The files are those of the
//! kernel's documentation, arch/x86/resctrl.rst.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::Group;

/// All that is known of one moment; what the processor lacks is left out.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<Cache>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema: Option<String>,
    /// Bytes, for each domain of the level 3 cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mbm_stats: Vec<Moved>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmt_stats: Vec<Occupied>,
}

#[derive(Debug, Serialize)]
struct Cache {
    cbm_mask: String,
    min_cbm_bits: u64,
    num_closids: u64,
}

#[derive(Debug, Serialize)]
struct Bandwidth {
    bandwidth_gran: u64,
    delay_linear: u64,
    min_bandwidth: u64,
    num_closids: u64,
}

#[derive(Debug, Serialize)]
struct Moved {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Occupied {
    llc_occupancy: u64,
}

impl Stats {
    /// Of a container's group. A file that is not there, or can't be read, is no failure: processors differ in what they have.
    pub fn of(group: &Group) -> Self {
        let (cache, bandwidth) = (group.root.join("info/L3"), group.root.join("info/MB"));
        let schema = |directory: &Path, kind| {
            let schemata = text(directory, "schemata")?;
            schemata.lines().map(str::trim).find(|line| line.starts_with(kind)).map(str::to_owned)
        };
        let l3 = text(&cache, "cbm_mask").map(|cbm_mask| Cache {
            cbm_mask,
            min_cbm_bits: number(&cache, "min_cbm_bits"),
            num_closids: number(&cache, "num_closids"),
        });
        let mb = text(&bandwidth, "bandwidth_gran").map(|_| Bandwidth {
            bandwidth_gran: number(&bandwidth, "bandwidth_gran"),
            delay_linear: number(&bandwidth, "delay_linear"),
            min_bandwidth: number(&bandwidth, "min_bandwidth"),
            num_closids: number(&bandwidth, "num_closids"),
        });
        let domains = domains(&group.monitor.as_ref().unwrap_or(&group.class).join("mon_data"));
        let with = |file: &str| domains.iter().filter(|domain| domain.join(file).exists()).collect::<Vec<_>>();
        let moved = with("mbm_total_bytes").into_iter().map(|domain| Moved {
            mbm_total_bytes: number(domain, "mbm_total_bytes"),
            mbm_local_bytes: number(domain, "mbm_local_bytes"),
        });
        let occupied =
            with("llc_occupancy").into_iter().map(|domain| Occupied { llc_occupancy: number(domain, "llc_occupancy") });
        Self {
            l3_cache_schema_root: l3.as_ref().and_then(|_| schema(&group.root, "L3")),
            l3_cache_schema: l3.as_ref().and_then(|_| schema(&group.class, "L3")),
            l3_cache_info: l3,
            mem_bw_schema_root: mb.as_ref().and_then(|_| schema(&group.root, "MB")),
            mem_bw_schema: mb.as_ref().and_then(|_| schema(&group.class, "MB")),
            mem_bw_info: mb,
            mbm_stats: moved.collect(),
            cmt_stats: occupied.collect(),
        }
    }
}

/// `mon_L3_00` and on, in their order.
fn domains(monitored: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(monitored).into_iter().flatten().flatten();
    let cache = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("mon_L3_");
    let mut found: Vec<_> = entries.filter(|entry| cache(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn text(directory: &Path, file: &str) -> Option<String> {
    fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned())
}

/// `Unavailable`, which a domain says that has just come, is 0.
fn number(directory: &Path, file: &str) -> u64 {
    text(directory, file).and_then(|text| text.parse().ok()).unwrap_or(0)
}
