//! `linux.netDevices`: devices that this host has, and that can move.

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::{Findings, Subject};
use crate::bundle::escape;
use crate::error::Error;
use crate::resctrl;

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let devices = subject.spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    for name in devices.into_iter().flat_map(|devices| devices.keys()) {
        let pointer = format!("/linux/netDevices/{}", escape(name));
        if name == "lo" {
            let error = Error::new("the loopback device cannot move to another network namespace");
            findings.error(error.at(pointer).hint("each network namespace has its own"));
        } else if if_nametoindex(name.as_str()) == Err(Errno::ENODEV) {
            let error = Error::new(format!("no network device {name} in the caller's network namespace"));
            findings.error(error.at(pointer).hint("ip link shows those that are there"));
        }
    }
}

/// `linux.intelRdt`: the file system is mounted.
pub(super) fn resctrl(subject: &Subject, findings: &mut Findings) {
    let wanted = subject.spec.linux().as_ref().is_some_and(|linux| linux.intel_rdt().is_some());
    if let Some(Err(error)) = wanted.then(resctrl::find) {
        findings.error(error);
    }
}
