//! `mounts`: destinations, options and id mappings.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Mount, Spec};

use super::{Context, bad, each, linux::mappings, maps, no_nul};
use crate::error::{Error, Found, Result};
use crate::plan::mount_options::MountOptions;

/// What lxcfs emulates, and two files that containers get a version of their own of: runc allows no other mount in /proc.
const IN_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

pub(super) fn mount(found: &mut Found, mount: &Mount, spec: &Spec, context: &Context) -> Result<()> {
    if mount.destination().as_os_str().is_empty() {
        found.note(Err(bad("/destination", "mount destination must not be empty")))?;
    }
    found.note(no_nul("/destination", mount.destination()))?;
    found.note(no_nul("/type", Path::new(mount.typ().as_deref().unwrap_or_default())))?;
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    found.note(no_nul("/source", source))?;
    let Ok(options) = MountOptions::parse(mount.options().as_deref().unwrap_or_default()) else {
        return each(found, "/options", mount.options(), |_, option| parses(option));
    };
    if options.bind && source.as_os_str().is_empty() {
        found.note(Err(bad("/source", "a bind mount needs a source")))?;
    }
    found.note(in_proc(mount, source, &options))?;
    id_mapped(found, mount, &options, context)?;
    match spec.linux() {
        Some(linux) if context.rootless => owner_is_mapped(mount, linux),
        _ => Ok(()),
    }
}

/// `option` alone; its error has no pointer.
fn parses(option: &String) -> Result<()> {
    MountOptions::parse(std::slice::from_ref(option)).map(drop).map_err(|error| Error { pointer: None, ..error })
}

/// What a mount in /proc or over it would hide or fake is what the runtime and the LSMs rely on (CVE-2019-16884,
/// CVE-2025-52881). This looks at the destination as it is written; the same is asked again of what it resolves to.
fn in_proc(mount: &Mount, source: &Path, options: &MountOptions) -> Result<()> {
    let written = mount.destination();
    let path = lexical(written);
    let fresh = !options.bind && mount.typ().as_deref() == Some("proc");
    if path == Path::new("/proc") {
        let source = lexical(source);
        let part = source.starts_with("/proc") && source != Path::new("/proc");
        return match fresh || options.bind && !part || options.remount {
            true => Ok(()),
            false => Err(bad("/destination", format!("{written:?} cannot be mounted because it is not of type proc"))),
        };
    }
    if !path.starts_with("/proc") || IN_PROC.iter().any(|allowed| path == Path::new(allowed)) {
        return Ok(());
    }
    Err(bad("/destination", format!("{written:?} cannot be mounted because it is inside /proc"))
        .hint(format!("allowed are {}", IN_PROC.join(", "))))
}

/// `path` below the root, its `.` and `..` taken away as if it held no links.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name as &OsStr),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// `uidMappings`, `gidMappings`, `idmap` and `ridmap`: the kernel maps a detached copy of a mount, for which it wants
/// CAP_SYS_ADMIN in the user namespace that owns the file system.
fn id_mapped(found: &mut Found, mount: &Mount, options: &MountOptions, context: &Context) -> Result<()> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    if uids.is_empty() && gids.is_empty() && options.idmap.is_none() {
        return Ok(());
    }
    let place = if options.idmap.is_some() { "/options" } else { "/uidMappings" };
    if !options.bind {
        return Err(bad(place, "id-mapped mounts are only supported for bind-mounts"));
    }
    if context.rootless {
        return Err(bad(place, "id-mapped mounts are not supported for rootless containers"));
    }
    if uids.is_empty() != gids.is_empty() {
        let missing = if uids.is_empty() { "/uidMappings" } else { "/gidMappings" };
        return Err(bad(missing, "an id-mapped mount needs both uidMappings and gidMappings"));
    }
    found.under("/uidMappings", |found| mappings(found, uids))?;
    found.under("/gidMappings", |found| mappings(found, gids))
}

/// `uid=` and `gid=` name ids of the container; the kernel refuses those that its user namespace does not map.
fn owner_is_mapped(mount: &Mount, linux: &Linux) -> Result<()> {
    let options = mount.options().iter().flatten().enumerate();
    for (index, option) in options {
        for (key, ids) in [("uid", linux.uid_mappings()), ("gid", linux.gid_mappings())] {
            let Some(ids) = ids.as_deref().filter(|ids| !ids.is_empty()) else { continue };
            let of_key = |part: &str| part.strip_prefix(key)?.strip_prefix('=')?.parse().ok();
            if let Some(id) = option.split(',').filter_map(of_key).find(|id| !maps(ids, *id)) {
                let text = format!("cannot specify {key}= mount options for unmapped {key} in rootless containers");
                return Err(bad(format!("/options/{index}"), text)
                    .hint(format!("leave {key}={id} out, or map {id} in linux.{key}Mappings")));
            }
        }
    }
    Ok(())
}
