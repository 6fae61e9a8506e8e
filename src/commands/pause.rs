//! `pause` and `resume`.

use std::time::{Duration, Instant};

use clap::Args;

use super::Global;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::state::{State, Status};

/// How long the container's processes may take to stop or to go on.
const DEADLINE: Duration = Duration::from_secs(10);

/// `pause` and `resume`.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Stops all processes of a container where they are.
pub(super) fn pause(args: &PauseArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?.lock()?;
    let state = dir.read()?;
    match state.status(&dir)? {
        Status::Running | Status::Created => cgroup(&state)?.freeze(Instant::now() + DEADLINE)?,
        _ => anyhow::bail!(state.explained(Error::new("container not running"))),
    }
    Ok(0)
}

/// Lets a paused container go on.
pub(super) fn resume(args: &PauseArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?.lock()?;
    let state = dir.read()?;
    match state.process()?.is_some().then(|| cgroup(&state)).transpose()? {
        // A container that was paused before its start has the status created, and is frozen all the same.
        Some(cgroup) if cgroup.frozen()? => cgroup.thaw(Instant::now() + DEADLINE)?,
        _ => anyhow::bail!(state.explained(Error::new("container not paused"))),
    }
    Ok(0)
}

/// The container's cgroup, without which there is nothing to freeze.
pub(super) fn cgroup(state: &State) -> Result<Cgroup> {
    state.open_cgroup()?.ok_or_else(|| Error::new(format!("container {} has no cgroup of its own", state.id)))
}
