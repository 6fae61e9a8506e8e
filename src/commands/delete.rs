//! `delete`.

use std::os::fd::AsFd;
use std::path::Path;

use clap::Args;
use oci_spec::runtime::Spec;

use super::Global;
use crate::error::{Error, Result};
use crate::exec::{create, hooks};
use crate::plan::{self, HostFacts};
use crate::resctrl;
use crate::state::{Dir, State, Status};

/// `delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Kill what still runs, and remove what a broken container has left; an unknown id is no error
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(args: &DeleteArgs, global: &Global) -> anyhow::Result<i32> {
    let lock = |dir: Dir| if args.force { dir.lock_after(kill) } else { dir.lock() };
    let dir = match global.store().open(&args.id).and_then(lock) {
        Err(error) if args.force && error.message.contains("does not exist") => return Ok(0),
        other => other?,
    };
    let state = match dir.read() {
        Ok(state) => state,
        // A newer orlop's container is not ours to guess at.
        Err(error) if args.force && !error.message.contains("has layout") => {
            // No resctrl, no group of it.
            let facts = HostFacts { resctrl: resctrl::find().ok(), ..HostFacts::find(global.rootless(), false)? };
            create::destroy_unknown(&dir, &args.id, &facts)?;
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    match state.status(&dir)? {
        Status::Stopped | Status::Created => {}
        _ if args.force => {}
        status => anyhow::bail!(
            Error::new(format!("cannot delete container {} that is not stopped: {}", state.id, status.as_str()))
                .hint(format!("orlop kill {0} KILL, or orlop delete --force {0}", state.id))
        ),
    }
    let spec = dir.config(&state.bundle).ok().map(|saved| saved.spec);
    remove(&dir, &state, spec.as_ref(), None)?;
    Ok(0)
}

/// Kills a container that another command is at, such as a checkpoint whose memory nobody fetches: that command ends then.
fn kill(dir: &Dir) {
    let process = dir.read().and_then(|state| state.process());
    if let Ok(Some(process)) = process {
        // Where it can't be killed the wait for the lock tells.
        let _ = crate::sys::process::pidfd_kill(process.as_fd());
    }
}

/// Ends what is left of a container, then runs its poststop hooks. Their failure is said and not returned: the
/// container is gone (runtime.md, Lifecycle 13).
pub(super) fn remove(dir: &Dir, state: &State, spec: Option<&Spec>, directory: Option<&Path>) -> Result<()> {
    create::destroy(dir, state)?;
    let Some(spec) = spec else { return Ok(()) };
    let hooks = plan::hook_list(spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref()), "poststop")?;
    let json = plan::state_json(spec, &state.id, "stopped", 0, &state.bundle.to_string_lossy());
    hooks::run_all(&hooks, &json, directory).into_iter().for_each(super::log::warn);
    Ok(())
}
