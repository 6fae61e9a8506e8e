//! `linux.intelRdt`: the class of service and the monitoring group.

use oci_spec::runtime::Spec;

/// What the resctrl file system is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntelRdt {
    /// The class's directory below the root: `closID`, or the container's id; empty for the default class (`/`).
    pub class: String,
    /// `closID` names it: it may be there already, and others may be in it.
    pub given: bool,
    /// What is written to `schemata`, one element per write.
    pub schemata: Vec<String>,
    /// The directory below the class's `mon_groups`.
    pub monitor: Option<String>,
}

/// The resctrl group of the container `id`; none when `spec` asks for none.
pub fn plan(spec: &Spec, id: &str) -> Option<IntelRdt> {
    let rdt = spec.linux().as_ref()?.intel_rdt().as_ref()?;
    let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let (cache, bandwidth) = (text(rdt.l3_cache_schema()), text(rdt.mem_bw_schema()));
    let combined = schemata(cache, bandwidth);
    let lines: String = rdt.schemata().iter().flatten().map(|line| format!("{line}\n")).collect();
    // In one write the kernel takes each resource once; `schemata`, which has the last word, is written after the others.
    let schemata = [combined, lines].into_iter().filter(|lines| !lines.is_empty());
    let given = text(rdt.clos_id());
    Some(IntelRdt {
        given: given.is_some(),
        class: given.unwrap_or_else(|| id.to_owned()).trim_matches('/').to_owned(),
        schemata: schemata.collect(),
        monitor: (*rdt.enable_monitoring() == Some(true)).then(|| id.to_owned()),
    })
}

/// The lines of both schemata. One of the bandwidth in the cache's gives way to the bandwidth's own.
pub fn schemata(cache: Option<String>, bandwidth: Option<String>) -> String {
    let kept = |line: &&str| bandwidth.is_none() || !line.trim_start().starts_with("MB:");
    let cache = cache.iter().flat_map(|lines| lines.lines()).filter(kept);
    let lines = cache.chain(bandwidth.iter().flat_map(|lines| lines.lines()));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(rdt: Value) -> IntelRdt {
        let mut config = crate::spec::default_spec(false);
        config["linux"]["intelRdt"] = rdt;
        let bundle = crate::bundle::Bundle::parse("/".into(), config.to_string().into_bytes()).unwrap();
        plan(&bundle.spec, "c1").unwrap()
    }

    #[test]
    fn the_schemata_are_combined_and_the_complete_ones_come_last() {
        for (rdt, schemata) in [
            (json!({"l3CacheSchema": "L3:0=f"}), &["L3:0=f\n"][..]),
            (json!({"l3CacheSchema": "L3:0=f\nMB:0=9", "memBwSchema": "MB:0=5"}), &["L3:0=f\nMB:0=5\n"]),
            (json!({"l3CacheSchema": "L3:0=f\nMB:0=9"}), &["L3:0=f\nMB:0=9\n"]),
            (json!({"memBwSchema": "MB:0=5", "schemata": ["L2:0=1", "MB:0=7"]}), &["MB:0=5\n", "L2:0=1\nMB:0=7\n"]),
            (json!({"l3CacheSchema": "", "schemata": []}), &[]),
        ] {
            assert_eq!(of(rdt.clone()).schemata, schemata, "{rdt}");
        }
    }

    #[test]
    fn the_class_is_the_containers_own_but_for_a_clos_id() {
        for (rdt, class, given) in [
            (json!({}), "c1", false),
            (json!({"closID": ""}), "c1", false),
            (json!({"closID": "x"}), "x", true),
            (json!({"closID": "/"}), "", true),
        ] {
            let rdt = of(rdt);
            assert_eq!((rdt.class.as_str(), rdt.given, rdt.monitor), (class, given, None));
        }
        for flag in ["enableMonitoring", "enableCMT", "enableMBM"] {
            assert_eq!(of(json!({ flag: true })).monitor.as_deref(), Some("c1"));
            assert_eq!(of(json!({ flag: false })).monitor, None);
        }
    }
}
