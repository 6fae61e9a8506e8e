//! `update`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Global;
use crate::bundle;
use crate::error::{Error, Result};
use crate::plan::HostFacts;
use crate::state::Status;
use crate::update::{Change, update};

/// `update`.
#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Read limits from this file, or from standard input for -, as config.json's linux.resources has them; the other
    /// options for limits are ignored then
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<String>,
    /// Period of the processor quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<String>,
    /// Processor time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Processor time that may be saved up for bursts, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<String>,
    /// Weight of processor time, 2 to 262144
    #[arg(long, alias = "cpu-shares", value_name = "SHARES")]
    cpu_share: Option<String>,
    /// Realtime period: cgroup v2 has none
    #[arg(long, value_name = "TIME", hide = true)]
    cpu_rt_period: Option<String>,
    /// Realtime runtime: cgroup v2 has none
    #[arg(long, value_name = "TIME", hide = true, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// Processors, as 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1 to run only when nothing else wants to, 0 to end that
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<String>,
    /// Memory limit: bytes, or with k, m, g; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is not reclaimed without need (memory.low)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Limit of kernel memory: ignored
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Limit of the kernel's TCP buffers: ignored
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Schema of the L3 cache for the container's resctrl group
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Schema of memory bandwidth for the container's resctrl group
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

pub(super) fn run(args: &UpdateArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?.lock()?;
    let state = dir.read()?;
    let resources = match &args.resources {
        Some(path) => from_file(path)?,
        None => from_options(args)?,
    };
    match state.status(&dir)? {
        Status::Created | Status::Running | Status::Paused => {}
        Status::Stopped => anyhow::bail!(state.explained(Error::new("container not running"))),
        Status::Creating => {
            anyhow::bail!(state.explained(Error::new(format!("container {} is still being created", state.id))))
        }
    }
    let cgroup = super::pause::cgroup(&state)?;
    if ["kernel", "kernelTCP"].into_iter().any(|key| !resources["memory"][key].is_null()) {
        super::log::warn("Kernel memory settings are ignored and will be removed");
    }
    let text = |option: &Option<String>| option.clone().filter(|text| !text.is_empty());
    let change = Change { resources, cache: text(&args.l3_cache_schema), bandwidth: text(&args.mem_bw_schema) };
    // As create: an ordinary user has no right to a device filter.
    let devices = !HostFacts::find(global.rootless(), false)?.rootless;
    update(&dir, &state, &cgroup, change, devices)?;
    Ok(0)
}

fn from_file(path: &Path) -> Result<Value> {
    if path != Path::new("-") {
        let name = path.display().to_string();
        return bundle::resources(&name, &bundle::content(bundle::open(path, &name, 0)?, &name)?);
    }
    let mut text = Vec::new();
    std::io::stdin()
        .take(bundle::MAX_SIZE)
        .read_to_end(&mut text)
        .map_err(|error| Error::new("read standard input").call("read", crate::host::errno(&error)))?;
    bundle::resources("standard input", &text)
}

fn from_options(args: &UpdateArgs) -> Result<Value> {
    let mut resources = json!({});
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    for (name, text, group, key, parse) in [
        ("blkio-weight", &args.blkio_weight, "blockIO", "weight", unsigned as fn(&str) -> Option<Value>),
        ("cpu-period", &args.cpu_period, "cpu", "period", unsigned),
        ("cpu-quota", &args.cpu_quota, "cpu", "quota", signed),
        ("cpu-burst", &args.cpu_burst, "cpu", "burst", unsigned),
        ("cpu-share", &args.cpu_share, "cpu", "shares", unsigned),
        ("cpu-rt-period", &args.cpu_rt_period, "cpu", "realtimePeriod", unsigned),
        ("cpu-rt-runtime", &args.cpu_rt_runtime, "cpu", "realtimeRuntime", signed),
        ("cpuset-cpus", &args.cpuset_cpus, "cpu", "cpus", |text| Some(json!(text))),
        ("cpuset-mems", &args.cpuset_mems, "cpu", "mems", |text| Some(json!(text))),
        ("cpu-idle", &args.cpu_idle, "cpu", "idle", signed),
        ("memory", &args.memory, "memory", "limit", size),
        ("memory-reservation", &args.memory_reservation, "memory", "reservation", size),
        ("memory-swap", &args.memory_swap, "memory", "swap", size),
        ("kernel-memory", &args.kernel_memory, "memory", "kernel", size),
        ("kernel-memory-tcp", &args.kernel_memory_tcp, "memory", "kernelTCP", size),
        ("pids-limit", &args.pids_limit, "pids", "limit", signed),
    ] {
        if let Some(text) = given(text) {
            let value = parse(&text).ok_or_else(|| Error::new(format!("invalid value for {name}: {text:?}")))?;
            resources[group][key] = value;
        }
    }
    // 0 stands for "not given" on the command line, as in runc.
    if resources["pids"]["limit"] == 0 {
        resources["pids"] = Value::Null;
    }
    bundle::resources("the command line", resources.to_string().as_bytes())
}

fn unsigned(text: &str) -> Option<Value> {
    text.parse::<u64>().ok().map(|value| json!(value))
}

fn signed(text: &str) -> Option<Value> {
    text.parse::<i64>().ok().map(|value| json!(value))
}

/// Bytes, or with a unit of 1024: `50m`, `1.5G`, `64KiB`; -1 for no limit.
fn size(text: &str) -> Option<Value> {
    if text == "-1" {
        return Some(json!(-1));
    }
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let unit = number.bytes().last().and_then(|last| b"kmgtp".iter().position(|unit| *unit == last));
    let number = if unit.is_some() { &number[..number.len() - 1] } else { number };
    let number = number.strip_suffix(' ').unwrap_or(number);
    let factor = unit.map_or(1, |unit| 1_i64 << (10 * (unit + 1)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if digits(number) {
        return number.parse::<i64>().ok()?.checked_mul(factor).map(|size| json!(size));
    }
    let (whole, fraction) = number.split_once('.')?;
    let value = number.parse::<f64>().ok().filter(|_| digits(whole) && digits(fraction))? * factor as f64;
    (value < i64::MAX as f64).then(|| json!(value as i64))
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_as_runc_takes_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("-1", -1),
            ("50M", 50 << 20),
            ("50m", 50 << 20),
            ("1.5g", 3 << 29),
            ("2KiB", 2048),
            ("2 kb", 2048),
            ("7b", 7),
            ("1p", 1i64 << 50),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "-2", "m", "1x", "1.m", ".5m", "1e3", "+1", "9999999999g", "1.2.3", "0x10", "1mm"] {
            assert!(size(text).is_none(), "{text}");
        }
    }
}
