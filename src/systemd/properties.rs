//! Limits as properties of the unit (systemd.resource-control(5)), so that systemd knows them, and writes the same when it
//! writes to the cgroup again, as after `systemctl daemon-reload`.
//!
//! What has no property (`hugetlb`, `rdma`, `misc`, `cpu.max.burst`, most of `unified`), or one that is less
//! exact, is written to the cgroup's files once the scope is there, as the cgroupfs driver does.

use crate::cgroup::{Refused, Write};
use crate::dbus::Value;
use crate::plan::op::Pointer;
use crate::plan::ranges;

/// The `CPUWeight` that stands for `cpu.idle`.
const IDLE: Value = Value::Uint64(0);

/// The file of BFQ's weights, which is there once its module is.
pub(super) const BFQ: &str = "io.bfq.weight";

/// One property of the unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Its name on D-Bus, such as `MemoryMax`.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Place in `config.json` that it comes from.
    pub from: Pointer,
    /// The version of systemd that reads it so; 0 for those that every version with cgroup v2 has.
    pub(super) since: u32,
}

impl Property {
    pub(super) fn new(name: &str, value: Value, from: &str) -> Self {
        let since = if name == "CPUWeight" && value == IDLE { 252 } else { 0 };
        Self { name: name.to_owned(), value, from: from.to_owned(), since }
    }
}

/// The properties that say the same as `writes`, as far as there are any.
pub(super) fn of_writes(writes: &[Write]) -> Vec<Property> {
    writes.iter().flat_map(of_write).collect()
}

/// The properties of which systemd makes the weights of `writes` again in a cgroup that has BFQ's file.
pub(super) fn of_bfq(writes: &[Write]) -> Vec<Property> {
    writes
        .iter()
        .filter(|write| write.file == BFQ)
        .flat_map(|write| weight(&write.value, from_bfq, &write.from))
        // Older ones count in another way, and the first properties are nearer to that.
        .map(|property| Property { since: 250, ..property })
        .collect()
}

/// systemd has the weights of `io.weight`, and takes the part above the default of 100 to that of BFQ, of at most 1000
/// (`BFQ_WEIGHT` in its `cgroup-setup.h`, since version 250).
fn from_bfq(weight: u64) -> u64 {
    weight.min(100) + weight.saturating_sub(100) * (10_000 - 100) / (1000 - 100)
}

/// For all disks, `WEIGHT`, or for one, `MAJOR:MINOR WEIGHT`.
fn weight(value: &str, convert: impl Fn(u64) -> u64, from: &str) -> Vec<Property> {
    let amount = |weight: &str| weight.parse().ok().map(|weight| Value::Uint64(convert(weight)));
    let property = match value.split_once(' ') {
        None => amount(value).map(|weight| Property::new("IOWeight", weight, from)),
        Some((disk, weight)) => amount(weight).map(|weight| {
            let disk = Value::Struct(vec![format!("/dev/block/{disk}").as_str().into(), weight]);
            Property::new("IODeviceWeight", Value::Array("(st)".to_owned(), vec![disk]), from)
        }),
    };
    property.into_iter().collect()
}

fn of_write(write: &Write) -> Vec<Property> {
    let property = |name: &str, value: Option<Value>| value.map(|value| Property::new(name, value, &write.from));
    let amount = |name: &str| property(name, amount(&write.value)).into_iter().collect();
    let mask = |name: &str| property(name, mask(&write.value)).into_iter().collect();
    match write.file.as_str() {
        "memory.max" => amount("MemoryMax"),
        "memory.high" => amount("MemoryHigh"),
        "memory.low" => amount("MemoryLow"),
        "memory.min" => amount("MemoryMin"),
        "memory.swap.max" => amount("MemorySwapMax"),
        "pids.max" => amount("TasksMax"),
        "cpu.weight" => amount("CPUWeight"),
        "cpu.idle" if write.value == "1" => vec![Property::new("CPUWeight", IDLE, &write.from)],
        "cpuset.cpus" => mask("AllowedCPUs"),
        "cpuset.mems" => mask("AllowedMemoryNodes"),
        "cpu.max" => bandwidth(&write.value)
            .into_iter()
            .flat_map(|(quota, period)| {
                [
                    Property::new("CPUQuotaPerSecUSec", quota, &write.from),
                    Property::new("CPUQuotaPeriodUSec", period, &write.from),
                ]
            })
            .collect(),
        // The weights of v1 are foreseen for two files, and systemd knows the second one's.
        BFQ => match &write.refused {
            Refused::InsteadIfMissing { value, .. } => weight(value, |weight| weight, &write.from),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// A number, or `max`. What is neither, such as a size with a unit or an entry for one device, is the kernel's to read.
fn amount(value: &str) -> Option<Value> {
    if value == "max" { Some(Value::Uint64(u64::MAX)) } else { value.parse().ok().map(Value::Uint64) }
}

/// The time of each second. systemd keeps it in whole percents, and cuts what is below: so it is rounded up here, and
/// the cgroup's file has the exact one until systemd writes it again.
fn bandwidth(value: &str) -> Option<(Value, Value)> {
    let (quota, period) = value.split_once(' ')?;
    let period: u64 = period.parse().ok()?;
    let per_second = match quota {
        "max" => u64::MAX,
        quota => {
            let exact = u128::from(quota.parse::<u64>().ok()?) * 1_000_000 / u128::from(period.max(1));
            u64::try_from(exact).ok()?.checked_next_multiple_of(10_000)?
        }
    };
    Some((Value::Uint64(per_second), Value::Uint64(period)))
}

/// A list of numbers as the bytes of a bit mask, the lowest first.
fn mask(list: &str) -> Option<Value> {
    let words = ranges::mask(list).ok()?;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0)? + 1);
    Some(Value::Array("y".to_owned(), bytes.into_iter().map(Value::Byte).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::writes;

    fn shown(resources: &str) -> Vec<String> {
        let writes = writes(&serde_json::from_str(resources).unwrap()).unwrap();
        of_writes(&writes).iter().map(|property| format!("{}={}", property.name, property.value)).collect()
    }

    #[test]
    fn limits_become_properties() {
        let all = r#"{
            "memory": {"limit": 33554432, "swap": 67108864, "reservation": 1048576},
            "cpu": {"shares": 1024, "quota": 12345, "period": 100000, "burst": 1000, "cpus": "0,9", "mems": "0"},
            "pids": {"limit": -1},
            "blockIO": {"weight": 500},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "unified": {"memory.high": "30000000", "cgroup.max.depth": "3"}
        }"#;
        assert_eq!(
            shown(all),
            [
                "TasksMax=infinity",
                "MemorySwapMax=33554432",
                "MemoryMax=33554432",
                "MemoryLow=1048576",
                "IOWeight=4950",
                "CPUWeight=100",
                "CPUQuotaPerSecUSec=130000",
                "CPUQuotaPeriodUSec=100000",
                "AllowedCPUs=[0x01 0x02]",
                "AllowedMemoryNodes=[0x01]",
                "MemoryHigh=30000000",
            ]
        );
    }

    #[test]
    fn what_only_the_kernel_reads_is_left_to_it() {
        assert_eq!(shown(r#"{"unified": {"memory.max": "1G", "cpu.max": "max"}}"#), [""; 0]);
        assert_eq!(shown(r#"{"cpu": {"idle": 1, "shares": 2}}"#), ["CPUWeight=0"]);
        assert_eq!(shown(r#"{"cpu": {"idle": 0, "shares": 2}}"#), ["CPUWeight=1"]);
        assert_eq!(shown(r#"{"cpu": {"period": 50000}}"#), ["CPUQuotaPerSecUSec=infinity", "CPUQuotaPeriodUSec=50000"]);
    }

    #[test]
    fn weights_are_those_of_the_file_that_the_kernel_has() {
        let io = r#"{"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}"#;
        assert_eq!(shown(io), ["IOWeight=4950", "IODeviceWeight=[[\"/dev/block/8:0\" 1]]"]);
        let writes = writes(&serde_json::from_str(io).unwrap()).unwrap();
        let values: Vec<_> = of_bfq(&writes).iter().map(|property| property.value.to_string()).collect();
        assert_eq!(values, ["4500", "[[\"/dev/block/8:0\" 10]]"]);
        // as systemd counts
        let back = |weight: u64| if weight <= 100 { weight } else { 100 + (weight - 100) * 900 / 9900 };
        assert!((1..=1000).all(|weight| back(from_bfq(weight)) == weight && from_bfq(weight) <= 10_000));
    }
}
