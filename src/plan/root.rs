//! `root`, `linux.rootfsPropagation`, `linux.maskedPaths` and `linux.readonlyPaths`.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::op::Op;
use super::{HostFacts, Options, Steps, cstring, path_cstring};
use crate::error::{Error, Result};

/// The flags of `linux.rootfsPropagation`, all of them recursive.
fn propagation(spec: &Spec) -> Result<Option<u64>> {
    let given = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or("");
    let kind = match given {
        "" => return Ok(None),
        "shared" | "rshared" => libc::MS_SHARED,
        "slave" | "rslave" => libc::MS_SLAVE,
        "private" | "rprivate" => libc::MS_PRIVATE,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        other => {
            return Err(Error::new(format!("rootfsPropagation={other} is not supported"))
                .at("/linux/rootfsPropagation")
                .hint("one of shared, slave, private, unbindable, each also with a leading r"));
        }
    };
    Ok(Some(kind))
}

pub(super) fn root_path(spec: &Spec, bundle: &Path) -> Result<std::path::PathBuf> {
    let root = spec.root().as_ref().ok_or_else(|| Error::new("root must be specified").at("/root"))?;
    Ok(bundle.join(root.path()))
}

pub(super) fn open(spec: &Spec, bundle: &Path, child: &mut Steps) -> Result<()> {
    let propagation = propagation(spec)?;
    let shared = propagation == Some(libc::MS_SHARED);
    // Unbindable would forbid the binds that build the container: it is set at the end.
    let first = match propagation {
        None | Some(libc::MS_UNBINDABLE) => libc::MS_SLAVE,
        Some(other) => other,
    };
    child.push(Op::Propagation { flags: first }, "/linux/rootfsPropagation");
    let path = path_cstring(&root_path(spec, bundle)?, "/root/path")?;
    child.push(Op::OpenRoot { path, private_parent: shared }, "/root/path");
    Ok(())
}

/// Without a mount namespace there is nothing to mount on: only what needs no mount can be had.
pub(super) fn open_without_namespace(spec: &Spec, bundle: &Path, child: &mut Steps) -> Result<()> {
    if spec.mounts().as_ref().is_some_and(|mounts| !mounts.is_empty()) {
        return Err(Error::new("mounts need a mount namespace of the container's own")
            .at("/mounts")
            .hint("add {\"type\": \"mount\"} to linux.namespaces"));
    }
    let path = path_cstring(&root_path(spec, bundle)?, "/root/path")?;
    child.push(Op::OpenPlainRoot { path }, "/root/path");
    Ok(())
}

/// The root for an `exec`: that of the mount namespace that was joined. Without one nothing but a chroot keeps the process
/// from the host's root, and so it gets the container's own.
pub(super) fn again(spec: &Spec, bundle: &Path, mount_namespace: bool, child: &mut Steps) -> Result<()> {
    if mount_namespace {
        child.push(Op::CurrentRoot, "");
        return Ok(());
    }
    let path = path_cstring(&root_path(spec, bundle)?, "/root/path")?;
    child.push(Op::OpenPlainRoot { path }, "/root/path");
    child.push(Op::Chroot, "/root/path");
    Ok(())
}

pub(super) fn enter(mount_namespace: bool, facts: &HostFacts, options: &Options, child: &mut Steps) -> Result<()> {
    if !mount_namespace {
        child.push(Op::Chroot, "/root/path");
    } else if options.no_pivot {
        let cover = facts.kernel_mounts.iter().map(|path| path_cstring(path, "")).collect::<Result<_>>()?;
        child.push(Op::MoveRoot { cover }, "/root/path");
    } else {
        child.push(Op::PivotRoot, "/root/path");
    }
    Ok(())
}

pub(super) fn finish(spec: &Spec, mount_namespace: bool, child: &mut Steps) -> Result<()> {
    if let Some(process) = spec.process() {
        child.push(Op::CreateCwd { path: path_cstring(process.cwd(), "/process/cwd")? }, "/process/cwd");
    }
    if !mount_namespace {
        return Ok(());
    }
    later_attributes(child);
    let linux = spec.linux().as_ref();
    let label = super::mounts::mount_label(spec)?;
    let lists = [
        ("/linux/maskedPaths", linux.and_then(|linux| linux.masked_paths().as_ref()), true),
        ("/linux/readonlyPaths", linux.and_then(|linux| linux.readonly_paths().as_ref()), false),
    ];
    for (from, paths, mask) in lists {
        for (index, path) in paths.into_iter().flatten().enumerate() {
            let from = format!("{from}/{index}");
            let path = cstring(path, &from)?;
            child.push(if mask { Op::Mask { path, label: label.clone() } } else { Op::Readonly { path } }, from);
        }
    }
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
        child.push(Op::ReadonlyRoot, "/root/readonly");
    }
    if let Some(flags) = propagation(spec)? {
        child.push(Op::RootPropagation { flags }, "/linux/rootfsPropagation");
    }
    Ok(())
}

/// Attributes that had to wait until the nodes and links were made.
fn later_attributes(child: &mut Steps) {
    let later: Vec<_> = child
        .0
        .iter()
        .filter_map(|step| match &step.op {
            Op::Mount(mount) if mount.later != 0 => Some((mount.target.clone(), mount.later, step.from.clone())),
            _ => None,
        })
        .collect();
    for (target, set, from) in later {
        child.push(Op::Attributes { target, set, clear: 0, propagation: 0, recursive: false }, from);
    }
}
