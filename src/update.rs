//! `update`: other limits for a container that is there. What is not given stays as it is.

use std::os::fd::AsFd;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::bundle::{self, Bundle};
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::plan::schemata;
use crate::resctrl::{self, Group};
use crate::state::{Dir, State};
use crate::systemd;

/// What is to change.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// `linux.resources` with what changes, as [`bundle::resources`] gives it.
    pub resources: Value,
    /// `linux.intelRdt.l3CacheSchema`.
    pub cache: Option<String>,
    /// `linux.intelRdt.memBwSchema`.
    pub bandwidth: Option<String>,
}

/// Makes the change in the kernel and in the saved configuration, or in neither. The directory must be locked.
///
/// A list of devices that is the saved one leaves the filter alone, since others may have added to it: callers hand over
/// whole configurations with one limit changed (containerd).
///
/// # Errors
/// A value that `create` would refuse as well, at its place in the configuration; a write that the kernel refuses; a limit
/// that is in use already, where `memory.checkBeforeUpdate` is set.
pub fn update(dir: &Dir, state: &State, cgroup: &Cgroup, mut change: Change, devices: bool) -> Result<()> {
    let saved = dir.config(&state.bundle)?;
    let mut config: Value = serde_json::from_slice(&saved.config)
        .map_err(|error| Error::new(format!("the saved configuration is damaged: {error}")))?;
    complete(&mut change.resources, &config["linux"]["resources"], cgroup)?;
    let resources = bundle::typed_resources(&change.resources)?;
    let writes = cgroup::writes(&resources)?;
    check_memory(&resources, &saved, cgroup)?;
    let filter = if devices { filter(&resources, &saved)? } else { None };
    let group = group(state, &change)?;
    merge_change(&mut config, &change, &writes);

    let unit = state.cgroup.as_ref().and_then(|saved| saved.unit.as_ref());
    let before = cgroup.update(&writes)?;
    let text = schemata(change.cache, change.bandwidth);
    let rest = || {
        let old = group.map(|group| resctrl::replace(group, &text)).transpose()?;
        let kept = dir.write_config(config.to_string().as_bytes());
        let kept = kept.and_then(|()| unit.map_or(Ok(()), |unit| tell_systemd(unit, cgroup, &writes)));
        let kept = kept.and_then(|()| match &filter {
            Some(program) => replace_devices(cgroup, program.as_deref()),
            None => Ok(()),
        });
        kept.inspect_err(|_| {
            let _ = dir.write_config(&saved.config);
            if let (Some(group), Some(old)) = (group, old) {
                let _ = resctrl::replace(group, &old);
            }
        })
    };
    rest().map_err(|error| before.take_back(cgroup, error))
}

/// systemd would write the old limits again. It has some of the new ones less exactly, so the files come last.
fn tell_systemd(unit: &systemd::Unit, cgroup: &Cgroup, writes: &[cgroup::Write]) -> Result<()> {
    systemd::set_limits(unit, writes, cgroup)?;
    writes.iter().try_for_each(|write| cgroup.write(write))
}

/// Values that are written together: of those that are not given, the ones in force are added.
fn complete(given: &mut Value, saved: &Value, cgroup: &Cgroup) -> Result<()> {
    let number = |value: &Value| value.as_i64();
    let (quota, period) = (number(&given["cpu"]["quota"]), number(&given["cpu"]["period"]));
    if quota.is_some() != period.is_some()
        && let Some(in_force) = cgroup.read("cpu.max")?
        && let Some((max, in_force)) = in_force.trim().split_once(' ')
    {
        match quota {
            Some(_) => given["cpu"]["period"] = json!(in_force.parse::<u64>().unwrap_or(100_000)),
            None => given["cpu"]["quota"] = json!(max.parse::<i64>().unwrap_or(-1)),
        }
    }
    // What was idle has lost its weight.
    if number(&given["cpu"]["idle"]) == Some(0) && given["cpu"]["shares"].is_null() {
        given["cpu"]["shares"] = saved["cpu"]["shares"].clone();
    }
    if number(&given["blockIO"]["weight"]).is_some() {
        complete_weights(&mut given["blockIO"]["weightDevice"], &saved["blockIO"]["weightDevice"]);
    }
    complete_memory(given, saved, cgroup)?;
    bundle::drop_nulls(given);
    Ok(())
}

/// Of bfq every disk gets the weight that is written for all: those with their own get that again, but for a disk that is gone.
fn complete_weights(given: &mut Value, saved: &Value) {
    let number = |one: &Value| (one["major"].as_u64(), one["minor"].as_u64());
    let is_there = |one: &&Value| match number(one) {
        (Some(major), Some(minor)) => std::path::Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists(),
        _ => false,
    };
    let mut all = given.as_array().cloned().unwrap_or_default();
    let named: Vec<_> = all.iter().map(number).collect();
    let rest = saved.as_array().into_iter().flatten().filter(|one| !named.contains(&number(one)));
    all.extend(rest.filter(is_there).cloned());
    if !all.is_empty() {
        *given = Value::Array(all);
    }
}

/// `memory.swap` counts memory too, and the kernel counts swap alone: either is known only with the other.
fn complete_memory(given: &mut Value, saved: &Value, cgroup: &Cgroup) -> Result<()> {
    let in_force = |file| Ok(cgroup.read(file)?.and_then(|text| text.trim().parse::<i64>().ok()));
    match (given["memory"]["limit"].as_i64(), given["memory"]["swap"].as_i64()) {
        (None, Some(1..)) => {
            if let Some(limit) = in_force("memory.max")? {
                given["memory"]["limit"] = json!(limit);
            }
        }
        (Some(-1), None) if saved["memory"]["swap"].is_i64() => given["memory"]["swap"] = json!(-1),
        (Some(limit @ 1..), None) if saved["memory"]["swap"].as_i64() > Some(0) => {
            if let Some(swap) = in_force("memory.swap.max")? {
                given["memory"]["swap"] = json!(limit.saturating_add(swap));
            }
        }
        _ => {}
    }
    Ok(())
}

fn saved_resources(saved: &Bundle) -> Option<&LinuxResources> {
    saved.spec.linux().as_ref()?.resources().as_ref()
}

fn check_memory(resources: &LinuxResources, saved: &Bundle, cgroup: &Cgroup) -> Result<()> {
    let Some(mut memory) = *resources.memory() else { return Ok(()) };
    if memory.check_before_update().is_none() {
        let before = saved_resources(saved).and_then(|saved| saved.memory().as_ref()?.check_before_update());
        memory.set_check_before_update(before);
    }
    cgroup.check_memory(&memory)
}

/// The new device filter: None when it stays, or else its program, which is None where everything is allowed.
type Filter = Option<Option<Vec<crate::sys::bpf::Insn>>>;

fn filter(resources: &LinuxResources, saved: &Bundle) -> Result<Filter> {
    let same = saved_resources(saved).is_some_and(|saved| saved.devices() == resources.devices());
    if resources.devices().is_none() || same {
        return Ok(None);
    }
    cgroup::device::program(&cgroup::device::rules(Some(resources))?).map(Some)
}

fn replace_devices(cgroup: &Cgroup, program: Option<&[crate::sys::bpf::Insn]>) -> Result<()> {
    let loaded = program.map(cgroup::load_devices).transpose()?;
    cgroup.replace_devices(loaded.as_ref().map(AsFd::as_fd))
}

/// The container's own resctrl group, when its schemata are to change.
fn group<'a>(state: &'a State, change: &Change) -> Result<Option<&'a Group>> {
    let refused = match (&change.cache, &change.bandwidth) {
        (None, None) => return Ok(None),
        (Some(_), _) => "Intel RDT/CAT: l3 cache schema is not enabled",
        (None, Some(_)) => "Intel RDT/MBA: memory bandwidth schema is not enabled",
    };
    match &state.resctrl {
        Some(group) if group.made => Ok(Some(group)),
        Some(group) => Err(Error::new(format!("the resctrl group {} is shared", group.class.display()))
            .hint("change it by hand: every container in it is concerned")),
        None => Err(Error::new(refused).hint("the container has no resctrl group: its linux.intelRdt asks for one")),
    }
}

/// The saved configuration with the change in it.
fn merge_change(config: &mut Value, change: &Change, writes: &[cgroup::Write]) {
    let resources = &mut config["linux"]["resources"];
    // A file has one value: what a property sets now is no longer what `unified` has set before.
    if let Some(unified) = resources.get_mut("unified").and_then(Value::as_object_mut) {
        let set = writes.iter().filter(|write| !write.from.starts_with("/linux/resources/unified/"));
        set.for_each(|write| drop(unified.shift_remove(&write.file)));
    }
    merge(resources, &change.resources);
    for (key, text) in [("l3CacheSchema", &change.cache), ("memBwSchema", &change.bandwidth)] {
        if let Some(text) = text {
            config["linux"]["intelRdt"][key] = json!(text);
        }
    }
}

/// Puts what is given over what is saved: members by name, limits of a device or of a page size by that. The list of
/// devices is an ordered one, and is replaced.
fn merge(saved: &mut Value, given: &Value) {
    match (&mut *saved, given) {
        (Value::Null, Value::Object(_)) => {
            *saved = json!({});
            merge(saved, given);
        }
        (Value::Object(saved), Value::Object(given)) => {
            for (key, value) in given {
                match saved.get_mut(key) {
                    Some(there) if key != "devices" => merge(there, value),
                    _ => drop(saved.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(saved), Value::Array(given)) => {
            let what = |value: &Value| ["pageSize", "major", "minor"].map(|key| value[key].clone());
            for value in given {
                match saved.iter_mut().find(|there| what(there) == what(value)) {
                    Some(there) => *there = value.clone(),
                    None => saved.push(value.clone()),
                }
            }
        }
        _ => *saved = given.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_goes_over_what_is_saved() {
        let mut saved = json!({
            "devices": [{"allow": false}], "memory": {"limit": 5, "reservation": 3},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}, {"major": 8, "minor": 16, "rate": 2}]},
        });
        merge(
            &mut saved,
            &json!({
                "devices": [{"allow": true}], "memory": {"limit": 6}, "pids": {"limit": 7},
                "hugepageLimits": [{"pageSize": "1GB", "limit": 9}, {"pageSize": "2MB", "limit": 8}],
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 3}]},
            }),
        );
        let expected = json!({
            "devices": [{"allow": true}], "memory": {"limit": 6, "reservation": 3}, "pids": {"limit": 7},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 8}, {"pageSize": "1GB", "limit": 9}],
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 3}, {"major": 8, "minor": 16, "rate": 2}]},
        });
        assert_eq!(saved, expected);
    }

    #[test]
    fn disks_that_are_there_keep_their_weights() {
        let disks = std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten();
        let disks = disks.filter_map(|disk| {
            disk.file_name().to_str()?.split_once(':')?.1.parse::<u32>().ok().map(|minor| (disk, minor))
        });
        let weight = |disk: &std::fs::DirEntry, minor: u32, weight: u32| {
            let major: u32 = disk.file_name().to_str().unwrap().split_once(':').unwrap().0.parse().unwrap();
            json!({"major": major, "minor": minor, "weight": weight})
        };
        let disks: Vec<_> = disks.take(2).collect();
        let [(one, first), (other, second)] = &disks[..] else { panic!("two block devices: {disks:?}") };
        let saved =
            json!([weight(one, *first, 20), weight(other, *second, 30), {"major": 4095, "minor": 7, "weight": 40}]);
        let mut given = json!([weight(one, *first, 50)]);
        complete_weights(&mut given, &saved);
        assert_eq!(given, json!([weight(one, *first, 50), weight(other, *second, 30)]));
        let mut none = Value::Null;
        complete_weights(&mut none, &Value::Null);
        assert_eq!(none, Value::Null);
    }

    #[test]
    fn a_property_ends_what_unified_has_set_for_the_same_file() {
        let mut config = json!({"linux": {"resources": {"unified": {"pids.max": "5", "cpu.weight": "7"}}}});
        let change = Change { resources: json!({"pids": {"limit": 9}}), ..Change::default() };
        let writes = cgroup::writes(&bundle::typed_resources(&change.resources).unwrap()).unwrap();
        merge_change(&mut config, &change, &writes);
        let expected = json!({"unified": {"cpu.weight": "7"}, "pids": {"limit": 9}});
        assert_eq!(config["linux"]["resources"], expected);
    }
}
