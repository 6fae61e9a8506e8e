//! `start`.

use clap::Args;
use oci_spec::runtime::Spec;

use super::Global;
use crate::error::{Error, Result};
use crate::exec::{create, hooks};
use crate::plan;
use crate::state::{State, Status};

/// `start`.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(args: &StartArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?.lock()?;
    let state = dir.read()?;
    match state.status(&dir)? {
        Status::Created => {}
        Status::Stopped => anyhow::bail!(Error::new("cannot start a container that has stopped")),
        Status::Running | Status::Paused => anyhow::bail!(Error::new("cannot start an already running container")),
        Status::Creating => anyhow::bail!(Error::new("cannot start a container in the creating state")),
    }
    let bundle = state.bundle.clone();
    create::start(&dir, &state, &bundle)?;
    poststart(&dir.config(&bundle)?.spec, &state)?;
    Ok(0)
}

/// The poststart hooks; a failure of one is a failure of `start` (runtime-spec 1.3, Lifecycle 10).
pub(super) fn poststart(spec: &Spec, state: &State) -> Result<()> {
    let hooks = plan::hook_list(spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref()), "poststart")?;
    if hooks.is_empty() {
        return Ok(());
    }
    hooks::run(&hooks, &plan::state_json(spec, &state.id, "running", state.pid, &state.bundle.to_string_lossy()))
}
