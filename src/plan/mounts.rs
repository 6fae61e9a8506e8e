//! `mounts`: each entry one detached mount, its attributes set before it is attached.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount as Entry, Spec};

use super::mount_options::MountOptions;
use super::namespaces::{IdMap, Namespaces};
use super::op::{Mount, Op, Source};
use super::{HostFacts, Resources, Steps, Tree, cstring, path_cstring};
use crate::cgroup::Hierarchy;
use crate::error::{Error, Result};

const MOUNT_ATTR_RDONLY: u64 = 1;

pub(super) fn plan(
    (spec, bundle): (&Spec, &Path),
    facts: &HostFacts,
    namespaces: &Namespaces,
    resources: Option<&Resources>,
    trees: &mut Vec<Tree>,
    child: &mut Steps,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let root = super::root::root_path(spec, bundle)?;
    for (index, entry) in spec.mounts().iter().flatten().enumerate() {
        let from = format!("/mounts/{index}");
        let options = MountOptions::parse(entry.options().as_deref().unwrap_or(&[])).map_err(|error| {
            let below = error.pointer.clone().unwrap_or_default();
            error.at(format!("{from}{below}"))
        })?;
        let target = path_cstring(entry.destination(), &format!("{from}/destination"))?;
        if !entry.destination().is_absolute() {
            // config.md, Mounts: for old tools alone it may be relative, and is below / then.
            warnings.push(format!("{from}/destination: it is not absolute, and taken as below /"));
        }
        if options.remount {
            if !options.data.is_empty() || !options.flags.is_empty() {
                warnings
                    .push(format!("{from}: a remount changes the mount's own options, not those of its file system"));
            }
            remount(&target, &options, &from, child);
            continue;
        }
        let mut mount = one(entry, &from, target, options)?;
        without_effect(&mut mount, &from, warnings);
        set_label(spec, &mut mount)?;
        if let Source::Bind(_) = mount.source {
            mount.parent_opens = namespaces.new_user() && !facts.ordinary();
            id_mapped(spec, entry, &from, &mut mount, trees)?;
            if !facts.ordinary() && entry.source().as_ref().is_some_and(|source| source.starts_with(&root)) {
                of_the_host(entry, &from, &mut mount, trees);
            }
        }
        if matches!(&mount.source, Source::New { kind, .. } if kind.as_bytes() == b"cgroup2") {
            let own_namespace = namespaces.has(LinuxNamespaceType::Cgroup);
            cgroup(&mut mount, facts, resources, own_namespace, &from, warnings)?;
        }
        child.push(Op::Mount(Box::new(mount)), from);
    }
    Ok(())
}

/// The options of a mount that is there: its own, those of all below it, and where changes go.
fn remount(target: &CString, options: &MountOptions, from: &str, child: &mut Steps) {
    let mut change = |set, clear, propagation, recursive| {
        child.push(Op::Attributes { target: target.clone(), set, clear, propagation, recursive }, from.to_owned());
    };
    let below = options.set_recursive | options.clear_recursive != 0;
    if !below && options.propagation.is_empty() || options.set | options.clear != 0 {
        change(options.set, options.clear, 0, false);
    }
    if below {
        change(options.set_recursive, options.clear_recursive, 0, true);
    }
    for flags in &options.propagation {
        change(0, 0, flags & !libc::MS_REC, flags & libc::MS_REC != 0);
    }
}

/// What is asked for in vain: a bind mount has the file system of its source, with that one's options; and `fsconfig(2)` has no
/// word for two flags of `mount(2)`.
fn without_effect(mount: &mut Mount, from: &str, warnings: &mut Vec<String>) {
    let mut lost = mount.options.legacy.clone();
    if !matches!(mount.source, Source::New { .. }) {
        lost.extend(mount.options.flags.iter().map(String::as_str));
        lost.extend(mount.options.data.iter().map(|(key, _)| key.as_str()));
        mount.flags.clear();
        mount.data.clear();
    }
    if !lost.is_empty() {
        let why = match mount.source {
            Source::New { .. } => "the kernel's mount API has no word for it",
            _ => "a bind mount has the file system of its source, with that one's options",
        };
        warnings.push(format!("{from}/options: {} has no effect: {why}", lost.join(",")));
    }
}

fn one(entry: &Entry, from: &str, target: CString, mut options: MountOptions) -> Result<Mount> {
    let kind = entry.typ().as_deref().unwrap_or("");
    let source = entry.source().as_deref();
    let bind = options.bind || matches!(kind, "bind" | "rbind");
    if kind == "rbind" {
        options.recursive = true;
    }
    let source = if bind {
        let source = source.ok_or_else(|| Error::new("a bind mount needs a source").at(from))?;
        Source::Bind(path_cstring(source, &format!("{from}/source"))?)
    } else {
        let kind = match kind {
            "" => return Err(Error::new("the mount has neither a type nor the option bind").at(from)),
            "cgroup" => "cgroup2",
            other => other,
        };
        Source::New {
            kind: cstring(kind, &format!("{from}/type"))?,
            source: path_cstring(source.unwrap_or(Path::new(kind)), &format!("{from}/source"))?,
        }
    };
    let flags = options.flags.iter().map(|flag| cstring(flag, from)).collect::<Result<Vec<_>>>()?;
    let data = options
        .data
        .iter()
        .map(|(key, value)| {
            let value = value.as_ref().map(|value| cstring(value, from)).transpose()?;
            Ok((cstring(key, from)?, value))
        })
        .collect::<Result<Vec<_>>>()?;
    if !bind {
        // A new file system has nothing below it: the recursive form, which comes last, is the plain one.
        options.set = options.set & !options.clear_recursive | options.set_recursive;
        (options.set_recursive, options.clear_recursive) = (0, 0);
    }
    // Nodes are still to be made in /dev, so it is written to once more.
    let is_dev = Path::new(OsStr::from_bytes(target.to_bytes())).components().eq(Path::new("/dev").components());
    let later = if is_dev && !bind { options.set & MOUNT_ATTR_RDONLY } else { 0 };
    options.set &= !later;
    let ordinary_directory =
        matches!(&source, Source::New { kind, .. } if matches!(kind.as_bytes(), b"proc" | b"sysfs"));
    let procfs = bind && crate::validate::lexical(entry.destination()) == Path::new("/proc");
    Ok(Mount {
        source,
        target,
        options,
        flags,
        data,
        ordinary_directory,
        procfs,
        later,
        parent_opens: false,
        fallback: Vec::new(),
        label: None,
    })
}

/// `linux.mountLabel`. Bind mounts keep their labels, and so do the file systems that the kernel shares or labels by itself.
fn set_label(spec: &Spec, mount: &mut Mount) -> Result<()> {
    let (Some(label), Source::New { kind, .. }) = (mount_label(spec)?, &mount.source) else { return Ok(()) };
    match kind.as_bytes() {
        b"proc" | b"sysfs" | b"cgroup2" => {}
        b"mqueue" => mount.label = Some(label),
        _ if mount.data.iter().any(|(key, _)| key.as_bytes() == b"context") => {}
        _ => mount.data.push((c"context".to_owned(), Some(label))),
    }
    Ok(())
}

/// The SELinux label of new file systems.
pub(super) fn mount_label(spec: &Spec) -> Result<Option<CString>> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    label.filter(|label| !label.is_empty()).map(|label| cstring(label, "/linux/mountLabel")).transpose()
}

/// The parent makes an id-mapped mount: it takes CAP_SYS_ADMIN in the file system's user namespace.
fn id_mapped(spec: &Spec, entry: &Entry, from: &str, mount: &mut Mount, trees: &mut Vec<Tree>) -> Result<()> {
    let mut uids = IdMap::list(entry.uid_mappings().as_ref());
    let mut gids = IdMap::list(entry.gid_mappings().as_ref());
    if uids.is_empty() && gids.is_empty() {
        if mount.options.idmap.is_none() {
            return Ok(());
        }
        let linux = spec.linux().as_ref();
        uids = IdMap::list(linux.and_then(|linux| linux.uid_mappings().as_ref()));
        gids = IdMap::list(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::new("an idmap mount needs uidMappings and gidMappings").at(from).hint(
            "give both on the mount, or a new user namespace with mappings in linux.uidMappings and linux.gidMappings",
        ));
    }
    let path = entry.source().clone().unwrap_or_default();
    let recursive_map = mount.options.idmap == Some(true);
    trees.push(Tree { path, recursive: mount.options.recursive, recursive_map, uids, gids, from: from.to_owned() });
    mount.source = Source::Tree(trees.len() - 1);
    Ok(())
}

/// A source inside the root file system is what the host has there, and not what an earlier mount of the container's has put over it
/// (CVE-2021-30465): the parent takes it before there are any. An ordinary user's parent has no right to.
fn of_the_host(entry: &Entry, from: &str, mount: &mut Mount, trees: &mut Vec<Tree>) {
    if let Source::Bind(_) = mount.source {
        let (path, recursive) = (entry.source().clone().unwrap_or_default(), mount.options.recursive);
        let (uids, gids) = (Vec::new(), Vec::new());
        trees.push(Tree { path, recursive, recursive_map: false, uids, gids, from: from.to_owned() });
        mount.source = Source::Tree(trees.len() - 1);
    }
}

/// cgroup2 as the container sees it. Without a cgroup namespace a new mount would show the host's whole tree, so only
/// the container's own cgroup is bound; rootless without a namespace, nothing of it may be writable (CVE-2023-25809).
fn cgroup(
    mount: &mut Mount,
    facts: &HostFacts,
    resources: Option<&Resources>,
    own_namespace: bool,
    from: &str,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let own = match (&facts.cgroup, resources) {
        (Some(hierarchy), Some(resources)) => Some(hierarchy.root.join(resources.path.trim_start_matches('/'))),
        (Some(hierarchy), None) => Some(hierarchy.root.clone()),
        _ => None,
    };
    let Some(own) = own else {
        warnings.push(format!("{from}: no cgroup v2 file system on this host, so none is mounted"));
        return Ok(());
    };
    // Without a cgroup of its own the container is in the caller's, with the right to kill or freeze it.
    if facts.rootless && !resources.is_some_and(Resources::required) {
        mount.options.set |= MOUNT_ATTR_RDONLY;
        mount.fallback =
            facts.cgroup.iter().map(|hierarchy| path_cstring(&callers(hierarchy), from)).collect::<Result<_>>()?;
    }
    if !own_namespace {
        if facts.rootless {
            mount.options.set |= MOUNT_ATTR_RDONLY;
        }
        mount.source = Source::Bind(path_cstring(&own, from)?);
        mount.data.clear();
        mount.flags.clear();
    } else {
        mount.fallback.insert(0, path_cstring(&own, from)?);
    }
    Ok(())
}

/// Where the caller's cgroup is mounted; the root where that lies outside of the cgroup namespace.
fn callers(hierarchy: &Hierarchy) -> PathBuf {
    let own = hierarchy.own.trim_start_matches('/');
    if own.split('/').any(|name| name == "..") { hierarchy.root.clone() } else { hierarchy.root.join(own) }
}
