//! The facts that a configuration leads to.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount as Entry, Spec};

use super::{Cover, Facts, Mount, Sets, Sharing};
use crate::cgroup::device;
use crate::error::Result;
use crate::plan::capability_sets;

/// The specification's names of all namespaces.
pub(super) const NAMESPACES: [(&str, Kind); 8] = [
    ("mount", Kind::Mount),
    ("pid", Kind::Pid),
    ("network", Kind::Network),
    ("ipc", Kind::Ipc),
    ("uts", Kind::Uts),
    ("user", Kind::User),
    ("cgroup", Kind::Cgroup),
    ("time", Kind::Time),
];

/// What `create` would make of `spec`, as far as it matters here.
///
/// # Errors
/// A configuration that no plan is made of.
pub fn planned(spec: &Spec) -> Result<Facts> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let namespaces = namespaces(spec);
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let sets = match process {
        Some(process) => capability_sets(process)?,
        None => Sets::default(),
    };
    let labels = process.map(|process| [process.apparmor_profile(), process.selinux_label()]);
    let label = labels.into_iter().flatten().flatten().find(|label| !label.is_empty() && *label != "unconfined");
    let limited = |limit: Option<i64>| Some(limit.is_some_and(|limit| limit > 0));
    let memory = resources.and_then(|resources| resources.memory().as_ref()).and_then(|memory| memory.limit());
    let pids = resources.and_then(|resources| resources.pids().as_ref()).map(|pids| pids.limit());
    let unified = |file: &str| {
        let value = resources.and_then(|resources| resources.unified().as_ref()).and_then(|unified| unified.get(file));
        value.map(|value| value.trim() != "max")
    };
    Ok(Facts {
        root_is_host_root: root_is_host_root(spec, namespaces.get("user").copied()),
        namespaces,
        uid: process.map_or(0, |process| process.user().uid()),
        sets,
        no_new_privileges: process.is_some_and(|process| process.no_new_privileges() == Some(true)),
        seccomp: linux.and_then(|linux| linux.seccomp().as_ref()).is_some_and(filters),
        label: label.cloned(),
        mounts: spec.mounts().iter().flatten().map(mount).collect(),
        root_read_only: spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)),
        covers: covers(spec),
        device_filter: Some(device::program(&device::rules(resources)?)?.is_some()),
        limits: BTreeMap::from([
            ("memory.max", unified("memory.max").map_or_else(|| limited(memory), Some)),
            ("pids.max", unified("pids.max").map_or_else(|| limited(pids), Some)),
        ]),
        oom_score_adj: process.and_then(|process| process.oom_score_adj()),
    })
}

fn filters(section: &oci_spec::runtime::LinuxSeccomp) -> bool {
    crate::seccomp::compile(section).is_ok_and(|filter| filter.is_some())
}

fn namespaces(spec: &Spec) -> BTreeMap<&'static str, Sharing> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let sharing = |kind: Kind| match list.iter().find(|namespace| namespace.typ() == kind) {
        None => Sharing::Host,
        Some(namespace) if namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) => Sharing::Other,
        Some(_) => Sharing::Own,
    };
    NAMESPACES.into_iter().map(|(name, kind)| (name, sharing(kind))).collect()
}

/// A user namespace that is joined has maps of which nothing is known: it counts as separate.
fn root_is_host_root(spec: &Spec, user: Option<Sharing>) -> bool {
    match user {
        Some(Sharing::Host) | None => true,
        Some(Sharing::Other) => false,
        Some(Sharing::Own) => {
            let maps = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
            maps.iter().any(|map| map.container_id() == 0 && map.host_id() == 0)
        }
    }
}

fn mount(entry: &Entry) -> Mount {
    let options = entry.options().as_deref().unwrap_or_default();
    let has = |names: &[&str]| options.iter().any(|option| names.contains(&option.as_str()));
    let last =
        |yes: &str, no: &str| options.iter().rfind(|one| *one == yes || *one == no).is_some_and(|one| one == yes);
    let bind = has(&["bind", "rbind"]) || matches!(entry.typ().as_deref(), Some("bind" | "rbind"));
    let source = entry.source().as_ref().map(|source| source.to_string_lossy().into_owned());
    Mount {
        target: entry.destination().to_string_lossy().into_owned(),
        source: source.filter(|_| bind),
        kind: if bind { "bind".to_owned() } else { entry.typ().clone().unwrap_or_default() },
        read_only: last("ro", "rw") || has(&["rro"]),
        nosuid: last("nosuid", "suid") || has(&["rnosuid"]),
        shared: has(&["shared", "rshared"]),
    }
}

fn covers(spec: &Spec) -> BTreeMap<String, Cover> {
    let Some(linux) = spec.linux() else { return BTreeMap::new() };
    let read_only = linux.readonly_paths().iter().flatten().map(|path| (path.clone(), Cover::ReadOnly));
    let masked = linux.masked_paths().iter().flatten().map(|path| (path.clone(), Cover::Masked));
    read_only.chain(masked).collect()
}
