//! `linux.resources` and `linux.cgroupsPath`: the cgroup, its limits and its device filter.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount, Spec};

use super::{HostFacts, IdMap, Options};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::systemd::Scope;

/// The cgroup that the container is born in, or that systemd puts it into.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Its path below the cgroup2 mount. With a scope, where it is expected.
    pub path: String,
    /// systemd makes it, as that of this scope.
    pub scope: Option<Scope>,
    /// The configuration named the path.
    pub path_given: bool,
    /// The limits, in the order in which they are written.
    pub writes: Vec<cgroup::Write>,
    /// The device filter's program; None when every device is allowed, or when the caller may not load one.
    pub devices: Option<Vec<crate::sys::bpf::Insn>>,
    /// The host's user to whom the cgroup is delegated.
    pub owner: Option<u32>,
}

impl Resources {
    /// A cgroup is more than a convenience: a limit, a path or a scope was asked for.
    pub fn required(&self) -> bool {
        !self.writes.is_empty() || self.path_given || self.scope.is_some()
    }
}

pub(super) fn plan(
    spec: &Spec,
    facts: &HostFacts,
    options: &Options,
    (warnings, notes): (&mut Vec<String>, &mut Vec<String>),
) -> Result<Option<Resources>> {
    let linux = spec.linux().as_ref();
    let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let writes = resources.map_or_else(|| Ok(Vec::new()), cgroup::writes)?;
    notes.extend(resources.map(cgroup::without_effect).unwrap_or_default());
    let Some(hierarchy) = &facts.cgroup else {
        if !writes.is_empty() {
            return Err(Error::new("no cgroup v2 file system is mounted, so no limit can be set")
                .at(writes[0].from.clone())
                .hint("mount cgroup2 on /sys/fs/cgroup, or take linux.resources out"));
        }
        if options.systemd_cgroup {
            return Err(Error::new("no cgroup v2 file system is mounted, so systemd can make no cgroup")
                .hint("mount cgroup2 on /sys/fs/cgroup, or leave --systemd-cgroup out"));
        }
        warnings.push("no cgroup v2 file system is mounted: the container runs without a cgroup of its own".into());
        return Ok(None);
    };
    let (scope, path) = if options.systemd_cgroup {
        let (scope, path) = Scope::plan(spec, &options.id, &writes, facts.systemd_user, &hierarchy.own)?;
        (Some(scope), path)
    } else {
        (None, cgroup::path(cgroups_path, &options.id, &hierarchy.own)?)
    };
    // A user namespace has no right to BPF_PROG_TYPE_CGROUP_DEVICE: the host's permissions on the nodes hold there.
    let devices = if facts.rootless { None } else { cgroup::device::program(&cgroup::device::rules(resources)?)? };
    let path_given = cgroups_path.is_some_and(|path| !path.as_os_str().is_empty());
    let owner = owner(spec).filter(|uid| *uid != facts.euid);
    Ok(Some(Resources { path, scope, path_given, writes, devices, owner }))
}

/// The host's id of `process.user.uid`, when the container sees its own cgroup as the root of a new cgroup namespace and may
/// write to it (config-linux.md, Cgroup ownership). Of a user namespace that is joined, the mappings given for it count.
fn owner(spec: &Spec) -> Option<u32> {
    let (linux, process) = (spec.linux().as_ref()?, spec.process().as_ref()?);
    let list = || linux.namespaces().iter().flatten();
    let made = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path.as_os_str().is_empty());
    let own_namespace = list().any(|namespace| namespace.typ() == Kind::Cgroup && made(namespace.path()));
    if !own_namespace || !spec.mounts().iter().flatten().any(writable_cgroup) {
        return None;
    }
    host_uid(spec, process.user().uid())
}

/// The host's id of `uid` in the container; None: it has none. Of a user namespace that is joined, the mappings given for it
/// count.
pub fn host_uid(spec: &Spec, uid: u32) -> Option<u32> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    if !namespaces.into_iter().flatten().any(|namespace| namespace.typ() == Kind::User) {
        return Some(uid);
    }
    IdMap::list(linux.and_then(|linux| linux.uid_mappings().as_ref())).iter().find_map(|map| {
        let offset = uid.checked_sub(map.container).filter(|offset| *offset < map.size)?;
        map.host.checked_add(offset)
    })
}

/// Has the host's id `uid` one in the container's own user namespace? None: it has no such namespace.
pub fn has_host_uid(spec: &Spec, uid: u32) -> Option<bool> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let own = namespaces.into_iter().flatten().any(|namespace| namespace.typ() == Kind::User);
    let mapped = |map: &IdMap| uid.checked_sub(map.host).is_some_and(|offset| offset < map.size);
    own.then(|| IdMap::list(linux.and_then(|linux| linux.uid_mappings().as_ref())).iter().any(mapped))
}

fn writable_cgroup(mount: &Mount) -> bool {
    let last = mount.options().iter().flatten().rfind(|option| *option == "ro" || *option == "rw");
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
        && mount.destination() == Path::new("/sys/fs/cgroup")
        && last.is_none_or(|option| option == "rw")
}
