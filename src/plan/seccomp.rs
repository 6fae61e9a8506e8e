//! `linux.seccomp`: the compiled filter, and when it can be loaded.

use oci_spec::runtime::{Process, Spec};

use super::op::{SeccompOp, SeccompWhen};
use crate::error::Result;
use crate::seccomp;

pub(super) fn plan(spec: &Spec, process: &Process, notes: &mut Vec<String>) -> Result<Option<SeccompOp>> {
    let Some(section) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    let Some(filter) = seccomp::compile(section)? else { return Ok(None) };
    notes.extend(filter.warnings);
    let when = if process.no_new_privileges() == Some(true) {
        SeccompWhen::WithNoNewPrivileges
    } else {
        SeccompWhen::WithSysAdmin
    };
    Ok(Some(SeccompOp { program: filter.program, flags: filter.flags, notify: filter.notify, when }))
}
