//! `process.capabilities` and `process.user`: what the process may do, and who it is.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Process};

use super::op::{Op, SeccompOp, SeccompWhen};
use super::{HostFacts, Steps};
use crate::error::{Error, Result};
use crate::sys::creds::CapSets;

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// The number of a capability as the kernel counts them.
fn bit(capability: oci_spec::runtime::Capability, from: &str) -> Result<u64> {
    let name = format!("CAP_{capability}");
    caps::Capability::from_str(&name)
        .map(|known| known.bitmask())
        .map_err(|_| Error::new(format!("unknown capability {name}")).at(from))
}

fn mask(set: Option<&Capabilities>, from: &str) -> Result<u64> {
    set.into_iter().flatten().try_fold(0, |mask, capability| Ok(mask | bit(*capability, from)?))
}

/// The sets that capset(2) takes, the bounding set and the ambient set. Without the property all are empty
/// (config.md, Linux Process).
pub(super) fn sets(process: &Process) -> Result<(CapSets, u64, u64)> {
    let Some(given) = process.capabilities() else { return Ok((CapSets::default(), 0, 0)) };
    let sets = CapSets {
        effective: mask(given.effective().as_ref(), "/process/capabilities/effective")?,
        permitted: mask(given.permitted().as_ref(), "/process/capabilities/permitted")?,
        inheritable: mask(given.inheritable().as_ref(), "/process/capabilities/inheritable")?,
    };
    let bounding = mask(given.bounding().as_ref(), "/process/capabilities/bounding")?;
    let ambient = mask(given.ambient().as_ref(), "/process/capabilities/ambient")?;
    Ok((sets, bounding, ambient))
}

/// The five sets of a process as [`crate::audit`] compares them.
///
/// # Errors
/// A capability that this library does not know.
pub fn capability_sets(process: &Process) -> Result<crate::audit::Sets> {
    let (CapSets { effective, permitted, inheritable }, bounding, ambient) = sets(process)?;
    Ok(crate::audit::Sets { bounding, effective, permitted, inheritable, ambient: ambient & permitted & inheritable })
}

/// Has the process CAP_SYS_PTRACE, or can it give it to a program that it executes?
///
/// # Errors
/// A capability that this library does not know.
pub fn may_trace(process: &Process) -> Result<bool> {
    let (CapSets { effective, permitted, inheritable }, bounding, ambient) = sets(process)?;
    Ok((effective | permitted | inheritable | bounding | ambient) & CAP_SYS_PTRACE != 0)
}

/// `guarded`: until its execve the process holds CAP_SYS_PTRACE, so that nobody without it may look into it (ptrace(2),
/// Ptrace access mode checking).
pub(super) fn plan(
    process: &Process,
    facts: &HostFacts,
    seccomp: Option<&SeccompOp>,
    guarded: bool,
    child: &mut Steps,
) -> Result<()> {
    let (sets, bounding, ambient) = sets(process)?;
    // The kernel raises only what is both permitted and inheritable; runc leaves the rest out as well.
    let ambient = ambient & sets.permitted & sets.inheritable;
    let known = u64::MAX >> (63 - facts.last_capability);
    let extra = match seccomp {
        Some(filter) if filter.when == SeccompWhen::WithSysAdmin => CAP_SYS_ADMIN,
        _ => 0,
    };
    let extra = if guarded { extra | CAP_SYS_PTRACE } else { extra };
    child.push(
        Op::BoundingSet { keep: bounding & known, last: facts.last_capability },
        "/process/capabilities/bounding",
    );
    let user = process.user();
    let groups = Some(user.additional_gids().clone().unwrap_or_default());
    let groups = if facts.rootless && groups.as_ref().is_some_and(Vec::is_empty) { None } else { groups };
    let sets = CapSets {
        effective: sets.effective & known,
        permitted: sets.permitted & known,
        inheritable: sets.inheritable & known,
    };
    child.push(
        Op::User { uid: user.uid(), gid: user.gid(), groups, keep: sets.permitted | sets.inheritable | extra },
        "/process/user",
    );
    child.push(Op::Capabilities { sets, ambient: ambient & known, extra }, "/process/capabilities");
    Ok(())
}
