//! `linux`: namespaces, id mappings, devices and paths.

use std::path::Path;

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespace, LinuxNetDevice, LinuxTimeOffset, Spec,
};

use super::sysctl::sysctl;
use super::{Context, LinuxNamespaceType, Namespaces, absolute, add, bad, each, each_key, no_parent, path_of};
use crate::error::{Error, Found, Result};

/// The kernel takes this many lines in `/proc/<pid>/uid_map` (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
const MAX_MAPPINGS: usize = 340;

pub(super) fn linux(found: &mut Found, spec: &Spec, context: &Context) -> Result<()> {
    let namespaces = Namespaces::of(spec);
    if context.rootless && !namespaces.has(LinuxNamespaceType::User) {
        found.note(Err(bad("/namespaces", "rootless container requires user namespaces").hint(add("user"))))?;
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    namespace_list(found, linux.namespaces())?;
    id_mappings(found, linux, namespaces, context)?;
    each_key(found, "/sysctl", linux.sysctl(), |key, value| sysctl(key, value, namespaces, context))?;
    each(found, "/devices", linux.devices(), |_, one| device(one))?;
    found.note(propagation(linux))?;
    restricted_paths(found, linux, namespaces)?;
    time_offsets(found, linux, namespaces)?;
    found.note(personality(linux))?;
    if let Some(policy) = linux.memory_policy() {
        found.note(crate::plan::sched::memory_policy(policy).map(drop).map_err(below_linux))?;
    }
    net_devices(found, linux, namespaces, context)?;
    intel_rdt(found, linux)?;
    found.note(mount_label(linux, context))
}

fn namespace_list(found: &mut Found, namespaces: &Option<Vec<LinuxNamespace>>) -> Result<()> {
    let mut seen = Vec::new();
    each(found, "/namespaces", namespaces, |_, namespace| {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(bad("/type", format!("malformed spec file: duplicated ns {:?}", name(kind))));
        }
        seen.push(kind);
        path_of(namespace).map_or(Ok(()), |path| absolute("/path", path))
    })
}

/// The specification's name of `kind`; the kernel's own is `mnt` for `mount` and `net` for `network`.
fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// A user namespace that is made needs mappings. One that is joined has its own; containerd and CRI-O give both.
fn id_mappings(found: &mut Found, linux: &Linux, namespaces: Namespaces, context: &Context) -> Result<()> {
    let user = namespaces.has(LinuxNamespaceType::User);
    let joined = namespaces.joins(LinuxNamespaceType::User);
    for (place, list) in [("/uidMappings", linux.uid_mappings()), ("/gidMappings", linux.gid_mappings())] {
        let kind = &place[1..4];
        let list = list.as_deref().unwrap_or_default();
        if !user && !list.is_empty() {
            let text = "user namespace mappings specified, but user namespace isn't enabled in the config";
            found.note(Err(bad(place, text).hint(add("user"))))?;
        }
        if user && !joined && list.is_empty() {
            found.note(Err(match context.rootless {
                true => {
                    bad(place, format!("rootless containers requires at least one {} mapping", kind.to_uppercase()))
                }
                false => bad(place, format!("user namespaces enabled, but no {kind} mappings found")),
            }))?;
        }
        found.under(place, |found| mappings(found, list))?;
    }
    Ok(())
}

/// What `/proc/<pid>/uid_map` refuses (user_namespaces(7)): empty ranges, ranges past the last id, and overlaps on
/// either side.
pub(super) fn mappings(found: &mut Found, list: &[LinuxIdMapping]) -> Result<()> {
    if list.len() > MAX_MAPPINGS {
        return found.note(Err(bad(
            format!("/{MAX_MAPPINGS}"),
            format!("{} mappings; the kernel takes {MAX_MAPPINGS}", list.len()),
        )));
    }
    for (index, mapping) in list.iter().enumerate() {
        let checked = one_mapping(mapping, &list[..index]);
        found.note(checked.map_err(|(member, text)| bad(format!("/{index}/{member}"), text)))?;
    }
    Ok(())
}

fn one_mapping(mapping: &LinuxIdMapping, before: &[LinuxIdMapping]) -> std::result::Result<(), (&'static str, String)> {
    let size = mapping.size();
    if size == 0 {
        return Err(("size", "an id mapping of size 0 maps nothing".into()));
    }
    type Side = fn(&LinuxIdMapping) -> u32;
    for (member, side) in [("containerID", LinuxIdMapping::container_id as Side), ("hostID", LinuxIdMapping::host_id)] {
        let first = side(mapping);
        // The last id, 4294967295, is none: the range must end before it.
        if first.checked_add(size).is_none() {
            return Err((member, format!("an id mapping from {first} of size {size} ends above 4294967294")));
        }
        let overlaps =
            |other: &&LinuxIdMapping| side(other) < first + size && first < side(other).saturating_add(other.size());
        if let Some(other) = before.iter().find(overlaps) {
            return Err((member, format!("an id mapping from {first} overlaps one from {}", side(other))));
        }
    }
    Ok(())
}

/// Device numbers have 12 and 20 bits (`MINORBITS` of `linux/kdev_t.h`); a FIFO has none.
fn device(device: &LinuxDevice) -> Result<()> {
    absolute("/path", device.path())?;
    no_parent("/path", device.path())?;
    if device.typ() == LinuxDeviceType::A {
        return Err(bad("/type", "invalid device type \"a\"").hint("known: c, b, u, p"));
    }
    let fifo = device.typ() == LinuxDeviceType::P;
    for (member, number, last) in [("major", device.major(), 0xfff), ("minor", device.minor(), 0xf_ffff)] {
        if fifo && number != 0 {
            return Err(bad(format!("/{member}"), format!("a FIFO has no {member} number")));
        }
        if !(0..=last).contains(&number) {
            return Err(bad(format!("/{member}"), format!("the {member} number {number} is not between 0 and {last}")));
        }
    }
    Ok(())
}

fn propagation(linux: &Linux) -> Result<()> {
    let value = linux.rootfs_propagation().as_deref().unwrap_or_default();
    let known = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];
    if value.is_empty() || known.contains(&value) {
        return Ok(());
    }
    Err(bad("/rootfsPropagation", format!("rootfsPropagation={value} is not supported"))
        .hint(format!("known: {}", known.join(", "))))
}

fn restricted_paths(found: &mut Found, linux: &Linux, namespaces: Namespaces) -> Result<()> {
    for (place, paths) in [("/maskedPaths", linux.masked_paths()), ("/readonlyPaths", linux.readonly_paths())] {
        if paths.iter().flatten().next().is_some() && !namespaces.has(LinuxNamespaceType::Mount) {
            let text = "unable to restrict sys entries without a private MNT namespace";
            found.note(Err(bad(place, text).hint(add("mount"))))?;
        }
        each(found, place, paths, |_, path| absolute("", Path::new(path)))?;
    }
    Ok(())
}

/// `/proc/<pid>/timens_offsets` can be written before the first process enters the namespace (time_namespaces(7)).
fn time_offsets(found: &mut Found, linux: &Linux, namespaces: Namespaces) -> Result<()> {
    if linux.time_offsets().as_ref().is_none_or(|offsets| offsets.is_empty()) {
        return Ok(());
    }
    if !namespaces.has(LinuxNamespaceType::Time) {
        let text = "time namespace offsets specified, but time namespace isn't enabled in the config";
        found.note(Err(bad("/timeOffsets", text).hint(add("time"))))?;
    }
    if namespaces.joins(LinuxNamespaceType::Time) {
        found.note(Err(bad("/timeOffsets", "offsets cannot be set for an existing time namespace")))?;
    }
    each_key(found, "/timeOffsets", linux.time_offsets(), time_offset)
}

fn time_offset(clock: &str, offset: &LinuxTimeOffset) -> Result<()> {
    if !["monotonic", "boottime"].contains(&clock) {
        return Err(bad("", format!("unknown clock {clock:?} in timeOffsets")).hint("known: monotonic, boottime"));
    }
    match offset.nanosecs() {
        Some(nanosecs) if nanosecs >= 1_000_000_000 => {
            Err(bad("/nanosecs", format!("nanosecs {nanosecs} is not below 1000000000")))
        }
        _ => Ok(()),
    }
}

/// The planner's errors have whole pointers, those here are relative to `linux`.
fn below_linux(error: Error) -> Error {
    let pointer = error.pointer.as_deref().and_then(|pointer| pointer.strip_prefix("/linux")).map(str::to_owned);
    Error { pointer: pointer.or(error.pointer), ..error }
}

fn personality(linux: &Linux) -> Result<()> {
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    match flags {
        Some(flags) if !flags.is_empty() => {
            Err(bad("/personality/flags", "personality flags are not supported").hint("the specification defines none"))
        }
        _ => Ok(()),
    }
}

/// Devices are moved from the caller's network namespace to one that is not it, under names that the kernel takes.
fn net_devices(found: &mut Found, linux: &Linux, namespaces: Namespaces, context: &Context) -> Result<()> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else { return Ok(()) };
    if !namespaces.has(LinuxNamespaceType::Network) || context.host_network {
        let text = "unable to move network devices without a NET namespace";
        found.note(Err(bad("/netDevices", text).hint(add("network"))))?;
    }
    if context.rootless {
        found.note(Err(bad("/netDevices", "network devices are not supported for rootless containers")))?;
    }
    let named = |device: &LinuxNetDevice| device.name().clone().filter(|name| !name.is_empty());
    each_key(found, "/netDevices", linux.net_devices(), |host, device| {
        interface_name("", host)?;
        let name = named(device);
        name.map_or(Ok(()), |name| interface_name("/name", &name).and_then(|()| template("/name", &name)))?;
        let name = named(device).unwrap_or_else(|| host.to_owned());
        // of two the one whose key comes later is told
        let taken = |(other, theirs): (&String, &LinuxNetDevice)| {
            other.as_str() < host && named(theirs).unwrap_or_else(|| other.clone()) == name
        };
        match !name.contains("%d") && devices.iter().any(taken) {
            true => Err(bad("/name", format!("two network devices get the name {name:?}"))),
            false => Ok(()),
        }
    })
}

/// `dev_valid_name` of net/core/dev.c: at most 15 bytes (`IFNAMSIZ` with the NUL), no path, no alias, no space.
fn interface_name(place: &str, name: &str) -> Result<()> {
    let forbidden = |byte: u8| matches!(byte, 0 | b'/' | b':' | b' ' | 9..=13 | 0xa0);
    match name {
        "" | "." | ".." => {}
        _ if name.len() < libc::IFNAMSIZ && !name.bytes().any(forbidden) => return Ok(()),
        _ => {}
    }
    Err(bad(place, format!("invalid network device name {name:?}"))
        .hint("1 to 15 bytes without space, slash and colon, and not . or .."))
}

/// `%d` stands for a number, once; the kernel takes no other `%` in a new name.
fn template(place: &str, name: &str) -> Result<()> {
    match name.split_once('%') {
        None => Ok(()),
        Some((_, rest)) if rest.strip_prefix('d').is_some_and(|rest| !rest.contains('%')) => Ok(()),
        Some(_) => Err(bad(place, format!("invalid network device name {name:?}"))
            .hint("a % is the beginning of %d, which stands once for the first free number")),
    }
}

/// `closID` is the name of a directory in resctrl, or `/` for the class that is always there.
fn intel_rdt(found: &mut Found, linux: &Linux) -> Result<()> {
    let Some(rdt) = linux.intel_rdt() else { return Ok(()) };
    let clos = rdt.clos_id().as_deref().unwrap_or_default();
    if matches!(clos, "." | "..") || (clos != "/" && clos.contains(['/', '\n', '\0'])) {
        found.note(Err(bad("/intelRdt/closID", format!("invalid intelRdt.ClosID {clos:?}"))
            .hint("the name of one directory, or / for the default class")))?;
    }
    let bandwidth = rdt.mem_bw_schema().as_deref().unwrap_or_default();
    if !bandwidth.is_empty() && (!bandwidth.starts_with("MB:") || bandwidth.contains('\n')) {
        found.note(Err(bad("/intelRdt/memBwSchema", format!("invalid intelRdt.memBwSchema {bandwidth:?}"))
            .hint("one line that begins with MB:")))?;
    }
    each(found, "/intelRdt/schemata", rdt.schemata(), |_, line| match line.contains('\n') {
        true => Err(bad("", format!("invalid intelRdt.schemata {line:?}")).hint("each element is one line")),
        false => Ok(()),
    })
}

fn mount_label(linux: &Linux, context: &Context) -> Result<()> {
    let label = linux.mount_label().as_deref().unwrap_or_default();
    if context.no_selinux && !label.is_empty() {
        return Err(super::process::no_selinux("/mountLabel"));
    }
    if context.unknown_mount_label {
        return Err(super::process::unknown_label("/mountLabel", linux.mount_label()));
    }
    super::no_nul("/mountLabel", Path::new(label))
}
