//! `exec`: one more process in a container, by a plan of its own.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::Spec;

use super::create::open_proc;
use super::explain::{self, Oom};
use super::listener::Agent;
use super::protocol::{Question, Report};
use super::spawn::{Reached, Slots, Spawned, spawn};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::op::{Request, Slot};
use crate::resctrl;
use crate::state::State;
use crate::sys::path as sys;
use crate::sys::sched;
use crate::sys::shared::Shared;
use crate::systemd;

/// Carries out the plan of an exec: the process is born in the container's cgroup, or in the one below it that `sub`
/// names, and its program runs on return.
///
/// # Errors
/// The container has stopped; any operation of the plan; nothing is left then.
pub fn enter(plan: &Plan, spec: &Spec, state: &State, sub: Option<&str>, console: Option<&OwnedFd>) -> Result<Spawned> {
    let init = state.process()?.ok_or_else(|| Error::new("cannot exec in a stopped container"))?;
    let proc = open_proc()?;
    let mut slots = Slots::default();
    slots.set(Slot::Proc, proc.as_fd());
    slots.set(Slot::Init, init.as_fd());
    if let Some(console) = console {
        slots.set(Slot::Console, console.as_fd());
    }
    let report =
        Shared::<Report>::anonymous().map_err(|errno| Error::new("make the shared page").call("mmap", errno))?;
    let mut agent = Agent::connect(spec, &state.id, "running", &state.bundle)?.map(|agent| agent.beside(state.pid));
    let affinity = Affinity::begin(&plan.initial_cpus)?;
    let born = match sub {
        Some(sub) => in_sub_cgroup(plan, slots.clone(), &report, state, sub),
        None => in_own_cgroup(plan, slots.clone(), &report, state),
    };
    let (process, unit) = match (born, scope(state)) {
        // A user outside of the user's own systemd, as in a login session, may move nothing into it: systemd itself does,
        // when the process asks for it ([`Request::Scope`]).
        (Err(error), Some(unit)) if error.errno == Some(Errno::EACCES) => {
            (spawn(plan, slots, &[], &report, None)?, Some(unit))
        }
        (born, _) => (born?, None),
    };
    drop(affinity);
    let grouped = state.resctrl.as_ref().map_or(Ok(()), |group| resctrl::assign(group, process.pid.as_raw()));
    let answer = |question, process: &Spawned| match (question, unit) {
        (Question::Planned(Request::Scope), Some(unit)) => systemd::attach(unit, sub, process.pid).map(|()| None),
        _ => Ok(None),
    };
    match grouped.and_then(|()| process.serve(plan, &report, false, agent.as_mut(), answer)) {
        Ok(Reached::Ready | Reached::Executed) => Ok(process),
        Ok(Reached::Died(status)) => {
            let cgroup = state.open_cgroup().ok().flatten();
            Err(explain::died(status, Oom::of_shared(cgroup.as_ref())))
        }
        Err(error) => {
            process.kill();
            Err(error)
        }
    }
}

fn in_own_cgroup(plan: &Plan, slots: Slots, report: &Shared<Report>, state: &State) -> Result<Spawned> {
    let cgroup = state.open_cgroup()?;
    match spawn(plan, slots.clone(), &[], report, cgroup.as_ref().map(Cgroup::fd)) {
        // Controllers are enabled below the container's cgroup (systemd or docker inside it), so no process may be in
        // it any more: the one that init has moved to takes this one too.
        Err(error) if error.errno == Some(Errno::EBUSY) => {
            let moved = init_cgroup(state)?;
            spawn(plan, slots, &[], report, Some(moved.as_fd()))
        }
        other => other,
    }
}

/// The cgroup that the caller has named, and no other. Errors have the words of runc, which adds a pid to `cgroup.procs`.
fn in_sub_cgroup(plan: &Plan, slots: Slots, report: &Shared<Report>, state: &State, sub: &str) -> Result<Spawned> {
    let cgroup = state.open_cgroup()?;
    let cgroup = cgroup.ok_or_else(|| Error::new(format!("container {} has no cgroup of its own", state.id)))?;
    let procs = cgroup.path().join(sub).join("cgroup.procs");
    let failed = |errno| {
        Error::new("error adding pid of the process to cgroups").call(format!("open {}", procs.display()), errno)
    };
    let dir = cgroup.below(sub).map_err(failed)?;
    match spawn(plan, slots, &[], report, Some(dir.as_fd())) {
        Err(Error { errno: Some(errno @ Errno::EBUSY), .. }) => {
            Err(failed(errno).hint("it hands controllers down to cgroups below it: name one of those"))
        }
        Err(Error { errno: Some(errno @ Errno::EOPNOTSUPP), .. }) => {
            Err(failed(errno).hint("it is threaded, or the cgroup above it is (cgroup.type)"))
        }
        other => other,
    }
}

/// The user's scope that the container's cgroup is.
pub fn scope(state: &State) -> Option<&systemd::Unit> {
    state.cgroup.as_ref()?.unit.as_ref().filter(|unit| unit.user)
}

/// The processors of this process while it clones, since a child has those of its parent; dropped, they are as before.
struct Affinity(Vec<u64>);

impl Affinity {
    fn begin(cpus: &[u64]) -> Result<Option<Self>> {
        if cpus.is_empty() {
            return Ok(None);
        }
        let failed = |call: &str, errno| {
            Error::new("set the initial CPU affinity").call(call, errno).at("/process/execCPUAffinity/initial")
        };
        let before = sched::sched_getaffinity().map_err(|errno| failed("sched_getaffinity", errno))?;
        sched::sched_setaffinity(cpus).map_err(|errno| match errno {
            Errno::EINVAL => failed("sched_setaffinity", errno).hint("none of these processors is online here"),
            _ => failed("sched_setaffinity", errno),
        })?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        // It was allowed before. Where a processor has gone since, the mask stays as it is.
        let _ = sched::sched_setaffinity(&self.0);
    }
}

/// The cgroup in which the container's first process is now; never one outside of the container's own.
fn init_cgroup(state: &State) -> Result<OwnedFd> {
    let failed = |why: &str| Error::new(format!("find the cgroup of the container's first process: {why}"));
    let saved = state.cgroup.as_ref().ok_or_else(|| failed("the container has none"))?;
    let text =
        std::fs::read_to_string(format!("/proc/{}/cgroup", state.pid)).map_err(|error| failed(&error.to_string()))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(|| failed("no 0:: line"))?;
    let own = saved.path.trim_end_matches('/');
    let below = path.strip_prefix(own).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let below = below.ok_or_else(|| failed("it has left the container's cgroup"))?;
    let cgroup = state.open_cgroup()?.ok_or_else(|| failed("it is gone"))?;
    let below = std::ffi::CString::new(format!(".{below}")).map_err(|_| failed("a NUL in the path"))?;
    let resolve = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS;
    sys::openat2(cgroup.fd(), &below, libc::O_PATH | libc::O_DIRECTORY, 0, resolve)
        .map_err(|errno| failed("open it").call("openat2", errno))
}
