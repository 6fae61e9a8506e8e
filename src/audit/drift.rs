//! Plan against kernel: where a running container is more open than its configuration says.

use super::observed::exists;
use super::rules::{drift_rule, names};
use super::{Cover, Facts, Finding, Severity, Sharing};
use crate::state::State;

const CLOSE: &str = "delete the container and make it again; whoever has changed it had the host's rights";

/// What `planned` closes and `observed` does not. What a program has given up itself is no difference.
pub fn drift(planned: &Facts, observed: &Facts, state: &State) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |severity, message: String, pointer: &str| {
        let (pointer, close) = (pointer.to_owned(), CLOSE.to_owned());
        found.push(Finding { rule: drift_rule(), severity, message, pointer, close });
    };
    let (plan, now) = (&planned.sets, &observed.sets);
    for (name, extra) in [
        ("bounding", now.bounding & !plan.bounding),
        ("inheritable", now.inheritable & !plan.inheritable),
        ("ambient", now.ambient & !plan.ambient),
        // execve(2) gives root what is in the bounding set.
        ("permitted", now.permitted & !(plan.permitted | plan.bounding)),
    ] {
        if extra != 0 {
            let text = format!("the {name} set has {} that the configuration has not", names(extra));
            add(Severity::High, text, &format!("/process/capabilities/{name}"));
        }
    }
    for (planned, observed, what, pointer) in [
        (planned.no_new_privileges, observed.no_new_privileges, "no_new_privs is not set", "/process/noNewPrivileges"),
        (planned.seccomp, observed.seccomp, "no seccomp filter is loaded", "/linux/seccomp"),
        (planned.root_read_only, observed.root_read_only, "/ can be written to", "/root/readonly"),
    ] {
        if planned && !observed {
            add(Severity::High, what.to_owned(), pointer);
        }
    }
    for (name, sharing) in &planned.namespaces {
        if *sharing == Sharing::Own && observed.namespaces.get(name) == Some(&Sharing::Host) {
            add(Severity::Critical, format!("the {name} namespace is the host's"), "/linux/namespaces");
        }
    }
    if planned.label.is_some() && planned.label != observed.label {
        let label = |label: &Option<String>| label.clone().unwrap_or_else(|| "none".to_owned());
        let text = format!("the label is {}, and was to be {}", label(&observed.label), label(&planned.label));
        add(Severity::High, text, "/process");
    }
    if planned.device_filter == Some(true) && observed.device_filter == Some(false) {
        add(Severity::High, "no device filter is attached".to_owned(), "/linux/resources/devices");
    }
    for (file, limit) in &planned.limits {
        if *limit == Some(true) && observed.limits.get(file) == Some(&Some(false)) {
            add(Severity::Medium, format!("{file} has no limit"), "/linux/resources");
        }
    }
    for (path, cover) in &planned.covers {
        let covered = observed.covers.iter().any(|(other, _)| path == other || path.starts_with(&format!("{other}/")));
        let mount = observed
            .mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.target))
            .max_by_key(|mount| mount.target.len());
        let read_only = *cover == Cover::ReadOnly && mount.is_some_and(|mount| mount.read_only);
        if !covered && !read_only && !over(observed, path) && exists(state.pid, path) {
            let (how, place) = match cover {
                Cover::Masked => ("is not masked", "/linux/maskedPaths"),
                Cover::ReadOnly => ("can be written to", "/linux/readonlyPaths"),
            };
            add(Severity::High, format!("{path} {how}"), place);
        }
    }
    if let Some(text) = elsewhere(state) {
        add(Severity::High, text, "/linux/cgroupsPath");
    }
    found
}

/// A mount lies on the very path, wherever that is.
fn over(observed: &Facts, path: &str) -> bool {
    observed.mounts.iter().any(|mount| mount.target == path)
}

/// The words for a first process that is not in the container's cgroup.
fn elsewhere(state: &State) -> Option<String> {
    let planned = state.cgroup.as_ref()?;
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", state.pid)).ok()?;
    let now = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = now.strip_prefix(planned.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!below).then(|| format!("the first process is in the cgroup {now}, and was to be in {}", planned.path))
}
