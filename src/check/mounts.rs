//! `mounts`: file system types that this kernel has, and sources that exist.

use oci_spec::runtime::Mount;

use super::{Findings, Subject, of_io, words};
use crate::error::Error;
use crate::plan::mount_options::MountOptions;

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    for (index, mount) in subject.spec.mounts().iter().flatten().enumerate() {
        let pointer = format!("/mounts/{index}");
        let Ok(options) = MountOptions::parse(mount.options().as_deref().unwrap_or_default()) else { continue };
        let kind = mount.typ().as_deref().unwrap_or_default();
        if options.remount || findings.has_error_near(&pointer) {
            continue;
        }
        match options.bind || matches!(kind, "bind" | "rbind") {
            true => source(mount, &pointer, findings),
            false => file_system(kind, &format!("{pointer}/type"), findings),
        }
    }
    devices(subject, findings);
}

fn source(mount: &Mount, pointer: &str, findings: &mut Findings) {
    let Some(source) = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty()) else { return };
    if let Err(error) = std::fs::metadata(source) {
        let text = format!("the source {} of the bind mount on {}", source.display(), mount.destination().display());
        findings.error(of_io(text, &format!("{pointer}/source"), "stat", &error));
    }
}

/// A type that is not registered may still come as a module, which the kernel loads when it is mounted.
fn file_system(kind: &str, pointer: &str, findings: &mut Findings) {
    let kind = if kind == "cgroup" { "cgroup2" } else { kind };
    // ext4.sub is a subtype, as of fuse (mount(8)).
    let base = kind.split('.').next().unwrap_or_default();
    let known = words("/proc/filesystems").is_none_or(|known| known.contains(base));
    if known || base.is_empty() {
        return;
    }
    match has_module(base) {
        Some(true) => findings.note(
            Error::new(format!("the file system type {kind:?} is a module that is not loaded"))
                .at(pointer)
                .hint(format!("the kernel loads it at the mount, if it may; modprobe {base}")),
        ),
        _ => findings.error(
            Error::new(format!("this kernel has no file system of type {kind:?}"))
                .at(pointer)
                .hint("/proc/filesystems lists those that it has; a module for it was not found"),
        ),
    }
}

/// Whether there is a module for a type of file system: `fs-TYPE` is its alias.
fn has_module(kind: &str) -> Option<bool> {
    let release = nix::sys::utsname::uname().ok()?;
    let aliases = std::path::Path::new("/lib/modules").join(release.release()).join("modules.alias");
    let text = std::fs::read_to_string(aliases).ok()?;
    let alias = format!("alias fs-{kind} ");
    Some(text.lines().any(|line| line.starts_with(&alias)))
}

/// Where nodes can't be made, the host's are bound.
fn devices(subject: &Subject, findings: &mut Findings) {
    let user_namespace = subject.namespace(oci_spec::runtime::LinuxNamespaceType::User).is_some();
    if !user_namespace && !subject.facts.rootless {
        return;
    }
    let devices = subject.spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for (index, device) in devices.iter().enumerate() {
        if let Err(error) = std::fs::metadata(device.path()) {
            let text =
                format!("the device {} of the host, which is bound in a user namespace", device.path().display());
            findings.error(of_io(text, &format!("/linux/devices/{index}/path"), "stat", &error));
        }
    }
}
