//! `linux.netDevices`: network devices of the host that the container gets.

use oci_spec::runtime::Spec;

use super::Steps;
use super::op::{Op, Pointer, Request};
use crate::bundle::escape;

/// A network device that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name in the runtime's network namespace.
    pub host: String,
    /// Its name in the container, or a template of one with `%d` for the first number that is free.
    pub name: String,
    /// Where it stands.
    pub from: Pointer,
}

/// The devices by name. The child waits for them before its first sysctl, which may be one of theirs.
pub(super) fn plan(spec: &Spec, child: &mut Steps) -> Vec<NetDevice> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let mut devices: Vec<_> = devices
        .into_iter()
        .flatten()
        .map(|(host, device)| NetDevice {
            host: host.clone(),
            name: device.name().as_ref().filter(|name| !name.is_empty()).unwrap_or(host).clone(),
            from: format!("/linux/netDevices/{}", escape(host)),
        })
        .collect();
    devices.sort_by(|one, other| one.host.cmp(&other.host));
    if !devices.is_empty() {
        child.push(Op::Await(Request::NetDevices), "/linux/netDevices");
    }
    devices
}
