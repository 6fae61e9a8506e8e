//! `linux.resources` and `linux.cgroupsPath`: the cgroup, its limits and its device filter.

use oci_spec::runtime::Spec;

use super::HostFacts;
use crate::cgroup;
use crate::error::{Error, Result};

/// The cgroup that the container is born in.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Its path below the cgroup2 mount.
    pub path: String,
    /// The configuration named the path.
    pub path_given: bool,
    /// The limits, in the order in which they are written.
    pub writes: Vec<cgroup::Write>,
    /// The device filter's program; None when every device is allowed, or when the caller may not load one.
    pub devices: Option<Vec<crate::sys::bpf::Insn>>,
}

impl Resources {
    /// A cgroup is more than a convenience: a limit or a path was asked for.
    pub fn required(&self) -> bool {
        !self.writes.is_empty() || self.path_given
    }
}

pub(super) fn plan(spec: &Spec, facts: &HostFacts, id: &str, warnings: &mut Vec<String>) -> Result<Option<Resources>> {
    let linux = spec.linux().as_ref();
    let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let writes = resources.map_or_else(|| Ok(Vec::new()), cgroup::writes)?;
    let Some(hierarchy) = &facts.cgroup else {
        if !writes.is_empty() {
            return Err(Error::new("no cgroup v2 file system is mounted, so no limit can be set")
                .at(writes[0].from.clone())
                .hint("mount cgroup2 on /sys/fs/cgroup, or take linux.resources out"));
        }
        warnings.push("no cgroup v2 file system is mounted: the container runs without a cgroup of its own".into());
        return Ok(None);
    };
    let path = cgroup::path(cgroups_path, id, &hierarchy.own)?;
    // A user namespace has no right to BPF_PROG_TYPE_CGROUP_DEVICE: the host's permissions on the nodes hold there.
    let devices = if facts.rootless { None } else { cgroup::device::program(&cgroup::device::rules(resources)?)? };
    let path_given = cgroups_path.is_some_and(|path| !path.as_os_str().is_empty());
    Ok(Some(Resources { path, path_given, writes, devices }))
}
