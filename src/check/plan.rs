//! What planning refuses or warns of.

use oci_spec::runtime::{Mount, Spec};

use super::{Findings, of_warning};
use crate::bundle::Bundle;
use crate::cgroup::{self, device};
use crate::plan::{self, HostFacts, Options};
use crate::seccomp;
use crate::systemd;

/// An id for the plan; what depends on it is not looked at.
pub(super) const ID: &str = "ID";

pub(super) fn check(bundle: &Bundle, facts: &HostFacts, systemd_cgroup: bool, findings: &mut Findings) {
    let linux = bundle.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let own = facts.cgroup.as_ref().map_or("/", |hierarchy| &hierarchy.own);
    let path = match systemd_cgroup {
        true => systemd::name_of(path, ID, facts.systemd_user.is_some()).map(drop),
        false => cgroup::path(path, ID, own).map(drop),
    };
    let mut errors: Vec<_> = path.err().into_iter().collect();
    errors.extend(resources.map(|resources| cgroup::writes_and_errors(resources).1).unwrap_or_default());
    if !facts.rootless {
        errors.extend(device::findings(resources));
    }
    errors.extend(linux.and_then(|linux| linux.seccomp().as_ref()).map(seccomp::findings).unwrap_or_default());
    errors.into_iter().for_each(|error| findings.error(error));
    whole(bundle, facts, systemd_cgroup, findings);
}

/// The plan as a whole ends at its first error. What that came from is taken out, and it is asked again.
fn whole(bundle: &Bundle, facts: &HostFacts, systemd_cgroup: bool, findings: &mut Findings) {
    let mut spec = bundle.spec.clone();
    let options = Options { id: ID.to_owned(), systemd_cgroup, ..Options::default() };
    let turns = 8 + spec.mounts().iter().flatten().count();
    for _ in 0..turns {
        let error = match plan::create(&spec, &bundle.dir, facts, &options) {
            Ok(plan) => {
                let all = plan.warnings.iter().chain(&plan.notes);
                return all.for_each(|warning| findings.warning(of_warning(warning)));
            }
            Err(error) => error,
        };
        let pointer = error.pointer.clone().unwrap_or_default();
        if !findings.has_error_near(&pointer) {
            findings.error(error);
        }
        if !take_out(&mut spec, &pointer) {
            return;
        }
    }
}

/// Takes the section out of `spec` that the value at `pointer` belongs to.
fn take_out(spec: &mut Spec, pointer: &str) -> bool {
    let mut tokens = pointer.split('/').skip(1);
    let (section, member) = (tokens.next().unwrap_or_default(), tokens.next());
    match (section, member) {
        ("mounts", Some(index)) => return replace_mount(spec, index),
        ("mounts", None) => drop(spec.set_mounts(None)),
        ("annotations", _) => drop(spec.set_annotations(None)),
        ("hooks", _) => drop(spec.set_hooks(None)),
        ("linux", Some(member)) => {
            let Some(linux) = spec.linux_mut() else { return false };
            match member {
                "seccomp" => drop(linux.set_seccomp(None)),
                "resources" => drop(linux.set_resources(None)),
                "cgroupsPath" => drop(linux.set_cgroups_path(None)),
                "namespaces" => drop(linux.set_namespaces(None)),
                "rootfsPropagation" => drop(linux.set_rootfs_propagation(None)),
                "devices" => drop(linux.set_devices(None)),
                _ => return false,
            }
        }
        _ => return false,
    }
    true
}

/// Another mount in the place of the one that was refused, so that the others keep their numbers.
fn replace_mount(spec: &mut Spec, index: &str) -> bool {
    let mounts = spec.mounts_mut().as_mut();
    let Some(mount) = mounts.and_then(|mounts| mounts.get_mut(index.parse::<usize>().ok()?)) else { return false };
    let mut harmless = Mount::default();
    harmless.set_destination("/".into()).set_typ(Some("tmpfs".into()));
    *mount = harmless;
    true
}
