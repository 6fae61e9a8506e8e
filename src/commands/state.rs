//! `state`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::Global;
use crate::error::Result;
use crate::state::{Dir, State, Status};

/// `state`.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(args: &StateArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?;
    let state = dir.read()?;
    super::log::print(&format!("{}\n", serde_json::to_string_pretty(&object(&state, &dir)?)?))?;
    Ok(0)
}

/// runc's fields in runc's order. CRI-O reads more names than these out of the top level, so nothing is added there.
pub(super) fn object(state: &State, dir: &Dir) -> Result<Value> {
    let status = state.status(dir)?;
    let pid = if status == Status::Stopped { 0 } else { state.pid };
    let mut object = Map::new();
    object.insert("ociVersion".into(), json!(state.oci_version));
    object.insert("id".into(), json!(state.id));
    object.insert("pid".into(), json!(pid));
    object.insert("status".into(), json!(status.as_str()));
    object.insert("bundle".into(), json!(state.bundle));
    object.insert("rootfs".into(), json!(state.rootfs));
    object.insert("created".into(), json!(state.created));
    if !state.annotations.is_empty() {
        object.insert("annotations".into(), json!(state.annotations));
    }
    object.insert("owner".into(), json!(if state.owner == "root" { "" } else { &state.owner }));
    Ok(Value::Object(object))
}
