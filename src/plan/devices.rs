//! `linux.devices`, and what every container finds in `/dev` (config-linux.md, Default Devices and /dev symbolic links).

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, Spec};

use super::namespaces::Namespaces;
use super::op::{Device, Op};
use super::{HostFacts, Steps, path_cstring};
use crate::error::{Error, Result};

const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

pub(super) fn plan(spec: &Spec, namespaces: &Namespaces, facts: &HostFacts, child: &mut Steps) -> Result<()> {
    if dev_is_bound(spec) {
        return Ok(());
    }
    let bind = namespaces.in_userns() || facts.rootless;
    let given = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let named = |path: &str| given.into_iter().flatten().any(|device| device.path() == Path::new(path));
    for (path, major, minor) in DEFAULT.iter().filter(|(path, ..)| !named(path)) {
        let path = path_cstring(Path::new(path), "")?;
        let mode = libc::S_IFCHR | 0o666;
        child.push(Op::Device(Device { path, mode, major: *major, minor: *minor, uid: 0, gid: 0, bind }), "");
    }
    let listed = given.into_iter().flatten().enumerate();
    for (index, device) in listed.filter(|(_, device)| !is_ptmx(device.path())) {
        let from = format!("/linux/devices/{index}");
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(Error::new("a is not a device type").at(format!("{from}/type"))),
        };
        let (major, minor) = if kind == libc::S_IFIFO {
            (0, 0)
        } else {
            (number(device.major(), &format!("{from}/major"))?, number(device.minor(), &format!("{from}/minor"))?)
        };
        let op = Device {
            path: path_cstring(device.path(), &format!("{from}/path"))?,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            major,
            minor,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            bind: bind && kind != libc::S_IFIFO,
        };
        child.push(Op::Device(op), from);
    }
    for (name, target) in LINKS {
        child.push(Op::DevLink { name: (*name).to_owned(), target: (*target).to_owned() }, "");
    }
    Ok(())
}

/// Validation has refused what mknod(2) does not take; what does not fit is never cut to another device's number.
fn number(value: i64, place: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::new(format!("{value} is not a device number")).at(place))
}

/// `/dev/ptmx` is always the link to the container's own devpts (config-linux.md, Default Devices), also where a
/// configuration lists it: the host's, bound there, could not make way for the link (runc: createDevices).
fn is_ptmx(path: &Path) -> bool {
    path.components().eq(Path::new("/dev/ptmx").components())
}

/// A host directory bound over `/dev` is the caller's own business (runc: needsSetupDev).
fn dev_is_bound(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let bind = mount.typ().as_deref() == Some("bind")
            || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        bind && mount.destination().components().eq(Path::new("/dev").components())
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_that_does_not_fit_is_not_cut() {
        assert_eq!(number(4095, "").unwrap(), 4095);
        for wrong in [-1, 1 << 32, (1 << 32) + 1, i64::MIN] {
            let error = number(wrong, "/linux/devices/0/major").unwrap_err();
            assert_eq!(error.message, format!("{wrong} is not a device number"));
            assert_eq!(error.pointer.as_deref(), Some("/linux/devices/0/major"));
        }
    }
}
