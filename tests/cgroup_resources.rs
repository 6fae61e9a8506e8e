//! `linux.resources` as writes: each key's file, value, place and order.

#[path = "common/rounds.rs"]
mod rounds;

use oci_spec::runtime::LinuxResources;
use orlop::cgroup::{Refused, Write, wanted_controllers, weight, without_effect, writes};
use orlop::error::{Error, Result};
use proptest::prelude::*;
use rounds::rounds;

fn of(json: &str) -> Result<Vec<Write>> {
    writes(&serde_json::from_str::<LinuxResources>(json).unwrap())
}

/// The writes as lines `file=value`.
fn lines(json: &str) -> Vec<String> {
    of(json).unwrap().iter().map(|write| format!("{}={}", write.file, write.value)).collect()
}

fn error(json: &str) -> Error {
    of(json).expect_err(json)
}

#[test]
fn each_key_has_its_file_and_value() {
    let table: &[(&str, &[&str])] = &[
        ("{}", &[]),
        (r#"{"memory": {}, "cpu": {}, "blockIO": {}, "network": {}}"#, &[]),
        (r#"{"pids": {"limit": 100}}"#, &["pids.max=100"]),
        (r#"{"pids": {"limit": 0}}"#, &["pids.max=1"]),
        (r#"{"pids": {"limit": -1}}"#, &["pids.max=max"]),
        (r#"{"memory": {"limit": 4096}}"#, &["memory.max=4096"]),
        (r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0}}"#, &[]),
        (r#"{"memory": {"limit": -1}}"#, &["memory.swap.max=max", "memory.max=max"]),
        (r#"{"memory": {"limit": 4096, "swap": 4096}}"#, &["memory.swap.max=0", "memory.max=4096"]),
        (r#"{"memory": {"limit": 4096, "swap": 12288}}"#, &["memory.swap.max=8192", "memory.max=4096"]),
        (r#"{"memory": {"limit": 4096, "swap": -1}}"#, &["memory.swap.max=max", "memory.max=4096"]),
        (r#"{"memory": {"limit": -1, "swap": 8192}}"#, &["memory.swap.max=8192", "memory.max=max"]),
        (r#"{"memory": {"swap": -1}}"#, &["memory.swap.max=max"]),
        (r#"{"memory": {"reservation": 2048}}"#, &["memory.low=2048"]),
        (r#"{"memory": {"reservation": -1}}"#, &["memory.low=max"]),
        (
            r#"{"memory": {"kernel": 1, "kernelTCP": 1, "swappiness": 0, "disableOOMKiller": true, "useHierarchy": true}}"#,
            &[],
        ),
        (r#"{"cpu": {"shares": 1024}}"#, &["cpu.weight=100"]),
        (r#"{"cpu": {"shares": 0}}"#, &[]),
        (r#"{"cpu": {"quota": 50000}}"#, &["cpu.max=50000 100000"]),
        (r#"{"cpu": {"period": 20000}}"#, &["cpu.max=max 20000"]),
        (r#"{"cpu": {"quota": -1, "period": 20000}}"#, &["cpu.max=max 20000"]),
        (r#"{"cpu": {"quota": 5000, "period": 20000}}"#, &["cpu.max=5000 20000"]),
        (r#"{"cpu": {"quota": 0, "period": 0}}"#, &[]),
        (r#"{"cpu": {"quota": 1000, "period": 1000}}"#, &["cpu.max=1000 1000"]),
        (r#"{"cpu": {"period": 1000000}}"#, &["cpu.max=max 1000000"]),
        (r#"{"cpu": {"burst": 1000}}"#, &["cpu.max.burst=1000"]),
        (
            r#"{"cpu": {"quota": 5000, "burst": 1000}}"#,
            &["cpu.max.burst=1000", "cpu.max=5000 100000", "cpu.max.burst=1000"],
        ),
        (r#"{"cpu": {"idle": 0, "shares": 1024}}"#, &["cpu.idle=0", "cpu.weight=100"]),
        (r#"{"cpu": {"idle": 1, "shares": 1024}}"#, &["cpu.idle=1"]),
        (r#"{"cpu": {"realtimeRuntime": 0, "realtimePeriod": 0}}"#, &[]),
        (r#"{"cpu": {"cpus": "0-3,5", "mems": "0"}}"#, &["cpuset.cpus=0-3,5", "cpuset.mems=0"]),
        (r#"{"cpu": {"cpus": "", "mems": ""}}"#, &[]),
        (r#"{"blockIO": {"weight": 500}}"#, &["io.bfq.weight=500"]),
        (r#"{"blockIO": {"weight": 0, "leafWeight": 300}}"#, &[]),
        (r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 16, "weight": 20}]}}"#, &["io.bfq.weight=8:16 20"]),
        (
            r#"{"blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 700}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 800}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}"#,
            &["io.max=8:0 rbps=600", "io.max=8:0 wbps=700", "io.max=8:0 riops=800", "io.max=8:0 wiops=max"],
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
            &["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"],
        ),
        (
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}, "mlx4_0": {"hcaObjects": 9}, "none": {}}}"#,
            &["rdma.max=mlx4_0 hca_object=9", "rdma.max=mlx5_1 hca_handle=3 hca_object=10"],
        ),
        (r#"{"network": {"classID": 0, "priorities": []}}"#, &[]),
        (
            r#"{"unified": {"memory.high": "1024", "io.max": "8:0 rbps=1\n8:16 rbps=2", "misc.max": ""}, "pids": {"limit": 3}}"#,
            &["pids.max=3", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "memory.high=1024"],
        ),
    ];
    for (json, expected) in table {
        assert_eq!(lines(json), *expected, "{json}");
    }
}

/// Said of what is set, and of nothing that asks for what is so anyway.
#[test]
fn keys_of_cgroup_v1_alone_have_no_effect_and_a_warning() {
    for (json, keys) in [
        (r#"{"memory": {"kernel": 1048576}}"#, &["memory/kernel"][..]),
        (r#"{"memory": {"kernelTCP": 1048576}}"#, &["memory/kernelTCP"]),
        (r#"{"memory": {"swappiness": 0}}"#, &["memory/swappiness"]),
        (r#"{"memory": {"disableOOMKiller": true}}"#, &["memory/disableOOMKiller"]),
        (r#"{"memory": {"useHierarchy": false}}"#, &["memory/useHierarchy"]),
        (
            r#"{"blockIO": {"leafWeight": 300, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]}}"#,
            &["blockIO/leafWeight", "blockIO/weightDevice/0/leafWeight"],
        ),
        (
            r#"{"memory": {"kernel": -1, "kernelTCP": 0, "swappiness": 18446744073709551615, "disableOOMKiller": false,
                "useHierarchy": true}, "blockIO": {"leafWeight": 0}}"#,
            &[],
        ),
    ] {
        let said = without_effect(&serde_json::from_str(json).unwrap());
        let places: Vec<_> = said.iter().map(|text| text.split_once(": has no effect: ").expect("why").0).collect();
        let expected: Vec<_> = keys.iter().map(|key| format!("/linux/resources/{key}")).collect();
        assert_eq!(places, expected, "{json}");
        assert_eq!(lines(json), [""; 0], "{json}");
    }
}

#[test]
fn values_outside_the_specification_are_refused_in_place() {
    for (json, pointer) in [
        (r#"{"memory": {"limit": -2}}"#, "memory/limit"),
        (r#"{"memory": {"swap": 4096}}"#, "memory/swap"),
        (r#"{"memory": {"limit": 4096, "swap": 4095}}"#, "memory/swap"),
        (r#"{"memory": {"limit": 4096, "swap": -3}}"#, "memory/swap"),
        (r#"{"memory": {"reservation": -9}}"#, "memory/reservation"),
        (r#"{"cpu": {"idle": 2}}"#, "cpu/idle"),
        (r#"{"cpu": {"realtimeRuntime": 950000}}"#, "cpu/realtimeRuntime"),
        (r#"{"cpu": {"realtimePeriod": 1000000}}"#, "cpu/realtimePeriod"),
        (r#"{"cpu": {"cpus": "all"}}"#, "cpu/cpus"),
        (r#"{"cpu": {"cpus": "0,3-1"}}"#, "cpu/cpus"),
        (r#"{"cpu": {"mems": "2-1:1/2"}}"#, "cpu/mems"),
        (r#"{"cpu": {"quota": 999}}"#, "cpu/quota"),
        (r#"{"cpu": {"period": 999}}"#, "cpu/period"),
        (r#"{"cpu": {"quota": 1000, "period": 1000001}}"#, "cpu/period"),
        (r#"{"blockIO": {"weight": 9}}"#, "blockIO/weight"),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 1001}]}}"#,
            "blockIO/weightDevice/0/weight",
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -8, "minor": 0, "rate": 1}]}}"#,
            "blockIO/throttleReadBpsDevice/0/major",
        ),
        (r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": -1, "weight": 10}]}}"#, "blockIO/weightDevice/0/minor"),
        (r#"{"hugepageLimits": [{"pageSize": "../../x/2MB", "limit": 1}]}"#, "hugepageLimits/0/pageSize"),
        (r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -2}]}"#, "hugepageLimits/0/limit"),
        (r#"{"rdma": {"a b": {"hcaHandles": 1}}}"#, "rdma/a b"),
        (r#"{"network": {"classID": 1048577}}"#, "network/classID"),
        (r#"{"network": {"priorities": [{"name": "eth0", "priority": 5}]}}"#, "network/priorities"),
        (r#"{"unified": {"../memory.max": "1"}}"#, "unified/..~1memory.max"),
        (r#"{"unified": {"memory": "1"}}"#, "unified/memory"),
        (r#"{"unified": {"..": "1"}}"#, "unified/.."),
        (r#"{"unified": {"memory..max": "1"}}"#, "unified/memory..max"),
        (r#"{"unified": {"cgroup.procs": "1"}}"#, "unified/cgroup.procs"),
        (r#"{"unified": {"cgroup.freeze": "1"}}"#, "unified/cgroup.freeze"),
    ] {
        assert_eq!(error(json).pointer, Some(format!("/linux/resources/{pointer}")), "{json}");
    }
}

#[test]
fn page_sizes_are_a_number_and_a_unit() {
    for (size, good) in [
        ("64KB", true),
        ("1GB", true),
        ("512B", true),
        ("2mb", false),
        ("MB", false),
        ("02MB", false),
        ("2M", false),
        ("", false),
    ] {
        let json = format!(r#"{{"hugepageLimits": [{{"pageSize": "{size}", "limit": 0}}]}}"#);
        assert_eq!(of(&json).is_ok(), good, "{size}");
    }
}

#[test]
fn shares_become_the_weight_that_the_peers_give() {
    for (shares, expected) in [
        (0, 0),
        (1, 1),
        (2, 1),
        (3, 2),
        (102, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (4096, 303),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight(shares), expected, "{shares}");
    }
}

#[test]
fn block_weight_goes_to_iocost_where_there_is_no_bfq() {
    for (weight, converted) in [(10, 1), (100, 910), (1000, 10_000)] {
        let write = &of(&format!(r#"{{"blockIO": {{"weight": {weight}}}}}"#)).unwrap()[0];
        let value = format!("{converted}");
        assert_eq!(write.refused, Refused::InsteadIfMissing { file: "io.weight", value });
    }
}

#[test]
fn only_limits_need_controllers() {
    let all = of(r#"{"memory": {"limit": 1, "swap": 1}, "pids": {"limit": 1}, "cpu": {"quota": 1000, "cpus": "0"},
        "blockIO": {"weight": 10}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "rdma": {"x": {"hcaHandles": 1}},
        "unified": {"misc.max": "sev 1", "cgroup.max.depth": "3", "memory.high": "5"}}"#)
    .unwrap();
    let names: Vec<_> = wanted_controllers(&all).iter().map(|wanted| wanted.controller).collect();
    assert_eq!(names, ["pids", "memory", "io", "cpu", "cpuset", "hugetlb", "rdma", "misc"]);
    assert_eq!(wanted_controllers(&all)[1].from, "/linux/resources/memory/limit");

    let none = of(r#"{"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1},
        "hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}"#)
    .unwrap();
    assert_eq!(wanted_controllers(&none), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(256)))]

    #[test]
    fn weight_is_in_range_and_grows_with_shares(shares in 1_u64..300_000) {
        prop_assert!((1..=10_000).contains(&weight(shares)));
        prop_assert!(weight(shares) <= weight(shares + 1));
    }

    #[test]
    fn swap_never_exceeds_what_the_sum_allows(limit in any::<i64>(), swap in any::<i64>()) {
        let json = format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#);
        if let Ok(writes) = of(&json) {
            let value = |file| writes.iter().find(|write| write.file == file).map(|write| write.value.clone());
            if limit > 0 && swap > 0 {
                let sum: i64 = ["memory.max", "memory.swap.max"].map(|file| value(file).unwrap().parse::<i64>().unwrap()).iter().sum();
                prop_assert_eq!(sum, swap);
            }
            prop_assert!(limit != -1 || value("memory.max").as_deref() == Some("max"));
        } else {
            prop_assert!(limit < -1 || swap < -1 || (swap > 0 && swap < limit) || (limit == 0 && swap != 0));
        }
    }

    #[test]
    fn keys_that_pass_are_plain_file_names(key in "\\PC{0,12}|[a-z.]{1,8}\\.[a-z/.]{1,8}") {
        let json = serde_json::json!({"unified": {&key: "1"}}).to_string();
        if let Ok(writes) = of(&json) {
            let file = &writes[0].file;
            prop_assert!(!file.contains('/') && !file.contains("..") && file.contains('.'), "{}", file);
            prop_assert!(writes[0].from.starts_with("/linux/resources/unified/"));
        }
    }
}
