//! `start`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use clap::Args;
use oci_spec::runtime::Spec;

use super::Global;
use crate::error::{Error, Result};
use crate::exec::{create, hooks};
use crate::foreground::Pipes;
use crate::notify::{self, Notify};
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
        Status::Stopped => {
            anyhow::bail!(state.explained(Error::new("cannot start a container that has stopped")))
        }
        Status::Running | Status::Paused => anyhow::bail!(Error::new("cannot start an already running container")),
        Status::Creating => {
            anyhow::bail!(state.explained(Error::new("cannot start a container in the creating state")))
        }
    }
    let bundle = state.bundle.clone();
    let manager = notify::manager().filter(|_| dir.has(c"notify"));
    let notify = manager.map(|manager| Notify::bind(&dir, manager)).transpose()?;
    let (saved, process) = create::start(&dir, &state, &bundle)?;
    if let Err(error) = poststart(&saved.spec, &state, None, &mut Pipes::none()) {
        // What is left of it waits for `delete`, and its poststop hooks.
        create::stop(&process);
        return Err(error.into());
    }
    let _unlocked = dir.unlock();
    until_ready(notify.as_ref(), &process, state.pid);
    Ok(0)
}

/// Waits until a container that was called by a service manager is ready, or has ended. It runs, so a failure is a warning.
pub(super) fn until_ready(notify: Option<&Notify>, process: &OwnedFd, pid: i32) {
    if let Some(Err(error)) = notify.map(|notify| notify.until_ready(pid.unsigned_abs(), process.as_fd())) {
        super::log::warn(error);
    }
}

/// The poststart hooks, while `pipes` relay what the program says; a failure of one is an error, and the end of the container
/// (runtime-spec 1.3, Lifecycle 10).
pub(super) fn poststart(spec: &Spec, state: &State, directory: Option<&Path>, pipes: &mut Pipes) -> Result<()> {
    let hooks = plan::hook_list(spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref()), "poststart")?;
    if hooks.is_empty() {
        return Ok(());
    }
    let json = plan::state_json(spec, &state.id, "running", state.pid, &state.bundle.to_string_lossy());
    hooks::run_by(&hooks, &json, directory, &mut |hook, milliseconds| pipes.until(hook, milliseconds))
}
