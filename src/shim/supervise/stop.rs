//! How it is asked to stop, whatever it is about.

use std::os::fd::AsFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EXTENSION, Ended, Phase, Supervisor};
use crate::error::{Error, Result};
use crate::shim::clock::{self, Moment};
use crate::shim::health::Exit;
use crate::sys::process;

/// Why it is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Why {
    Asked,
    Restart,
    Unhealthy,
}

/// It has been asked to stop, and is killed at the deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) why: Why,
    /// Until then it ends what work it has. None: it has had the signal.
    pub(super) signal_at: Option<Moment>,
    pub(super) deadline: Option<Moment>,
}

impl Stop {
    /// One whose moments are to come, or have passed.
    pub(super) fn of(why: Why, deadline: Option<Moment>) -> Self {
        Self { why, signal_at: None, deadline }
    }
}

impl Supervisor {
    pub(super) fn ask_to_stop(&mut self, why: Why, timeout: Option<Duration>) -> Result<()> {
        // Asked twice it does not wait longer, and who asks outranks what was decided here.
        let before = self.stop.and_then(|stop| stop.deadline);
        let timeout = timeout.unwrap_or(self.wanted.config.stop.timeout);
        let deadline = clock::now() + timeout;
        let deadline = before.map_or(deadline, |before| before.min(deadline));
        let why = if self.stop.is_some_and(|stop| stop.why == Why::Asked) { Why::Asked } else { why };
        match &self.phase {
            // It is about to start anew in any case.
            Phase::Idle | Phase::Leasing | Phase::Making(_) | Phase::Starting(_) if why == Why::Restart => {
                return Ok(());
            }
            Phase::Idle | Phase::Making(_) | Phase::Starting(_) => {
                self.stop = Some(Stop::of(why, Some(deadline)));
            }
            Phase::Up => {
                let signal_at = match self.stop.filter(|_| before.is_some()) {
                    Some(stop) => stop.signal_at,
                    None => self.drain(why).map(|drain| clock::now() + drain),
                };
                // Who gives less time than that wants it used for the end.
                let waits = signal_at.filter(|at| *at < deadline);
                self.stop = Some(Stop { why, signal_at: waits, deadline: Some(deadline) });
                if let (Some(manager), Why::Asked) = (&self.manager, why) {
                    manager.stopping();
                    manager.extend(timeout + EXTENSION);
                }
                if waits.is_none() && (before.is_none() || signal_at.is_some()) {
                    self.signal_to_stop();
                }
            }
            Phase::Removing(..) => self.stop = Some(Stop::of(why, None)),
            Phase::Waiting(_) if why == Why::Restart => return self.launch(),
            Phase::Waiting(_) | Phase::Leasing => {
                let ended = Ended { exit: Exit::Asked, end: None, uptime: Duration::ZERO };
                self.phase = Phase::Over(ended);
            }
            Phase::Over(_) if why == Why::Restart => {
                return Err(Error::new("the container's supervisor is about to end"));
            }
            Phase::Over(_) => {}
        }
        self.keep();
        Ok(())
    }

    /// How long it is to get no new work before it is sent anything. What does not answer, or is frozen, ends no work.
    fn drain(&self, why: Why) -> Option<Duration> {
        let frozen = self.alive.as_ref().is_some_and(|alive| alive.paused);
        Some(self.wanted.config.stop.drain).filter(|drain| !drain.is_zero() && !frozen && why != Why::Unhealthy)
    }

    /// Its signal, by which it ends in order.
    pub(super) fn signal_to_stop(&mut self) {
        if let Some(stop) = &mut self.stop {
            stop.signal_at = None;
        }
        self.signal(&self.wanted.config.stop.signal.clone());
        self.thaw();
    }

    pub(super) fn signal(&mut self, name: &str) {
        let number = crate::commands::signal(name).unwrap_or(libc::SIGTERM);
        if let Some(alive) = &self.alive {
            // ESRCH: it has ended, which SIGCHLD tells.
            let _ = crate::sys::pidfd::pidfd_send_signal(alive.pidfd.as_fd(), number);
        }
    }

    /// Frozen it would not see the signal. Where that can't be, its deadline ends it.
    fn thaw(&self) {
        let observer = self.alive.as_ref().filter(|alive| alive.paused).and_then(|alive| alive.observer.as_ref());
        if let Some(observer) = observer {
            let _ = observer.cgroup().begin_thaw();
        }
    }

    /// SIGKILL to everything in its cgroup, or to its first process where there is none; to the worker that makes or starts it.
    pub(super) fn kill(&mut self) {
        if let Some(stop) = &mut self.stop {
            (stop.signal_at, stop.deadline) = (None, None);
        }
        if let Phase::Making(job) | Phase::Starting(job) = self.phase {
            return self.children.kill(job);
        }
        let Some(alive) = &self.alive else { return };
        let killed = alive.observer.as_ref().is_some_and(|observer| observer.cgroup().kill().is_ok());
        if !killed {
            let _ = process::pidfd_kill(alive.pidfd.as_fd());
        }
    }
}
