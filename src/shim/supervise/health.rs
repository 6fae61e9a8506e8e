//! What is known of the container at this moment, and what is said of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use serde_json::json;

use super::{Alive, Ended, Phase, Supervisor};
use crate::error::Result;
use crate::shim::clock::{self, Moment};
use crate::shim::health::{Axes, Crash, Exit, Lifecycle, Liveness, Pressure, Resource, Summary, summary};
use crate::shim::probe::Verdict;
use crate::shim::probing::{For, Probing};
use crate::shim::view::{ExitView, View};
use crate::state;
use crate::sys::pidfd::End;

/// How late the loop was, at worst, in this minute and in the one before.
#[derive(Debug, Default)]
pub(super) struct Lag {
    minute: u64,
    worst: [Duration; 2],
}

impl Lag {
    /// It should have woken at `wake`, or whenever something came.
    pub(super) fn woken(&mut self, wake: Option<Moment>) {
        let now = clock::now();
        let minute = now.as_secs() / 60;
        if minute != self.minute {
            let before = if minute == self.minute + 1 { self.worst[0] } else { Duration::ZERO };
            *self = Self { minute, worst: [Duration::ZERO, before] };
        }
        let late = wake.map_or(Duration::ZERO, |wake| now.saturating_sub(wake));
        self.worst[0] = self.worst[0].max(late);
    }

    fn worst(&self) -> Duration {
        self.worst[0].max(self.worst[1])
    }
}

/// From 0 to 1: what has failed together comes not back together.
pub(super) fn jitter() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

impl Supervisor {
    fn lifecycle(&self) -> Lifecycle {
        match &self.phase {
            Phase::Idle | Phase::Leasing | Phase::Making(_) | Phase::Starting(_) => Lifecycle::Created,
            Phase::Up if self.stop.is_some() => Lifecycle::Stopping,
            Phase::Up => match &self.alive {
                Some(alive) if alive.paused => Lifecycle::Paused,
                // One whose startup probe fails has not started, and is not on its way any more.
                Some(alive) if alive.starting() && !alive.start_fails() => Lifecycle::Starting,
                _ => Lifecycle::Running,
            },
            Phase::Removing(..) => Lifecycle::Stopping,
            Phase::Waiting(_) => Lifecycle::Exited(self.last()),
            Phase::Over(ended) => Lifecycle::Exited(ended.exit),
        }
    }

    /// How it ended the last time, by the record.
    fn last(&self) -> Exit {
        let Some(last) = &self.last_exit else { return Exit::NotStarted };
        match last.kind.as_str() {
            "code" => Exit::Code(last.code.unwrap_or(0)),
            "signal" => Exit::Signal(last.signal.unwrap_or(0)),
            "oom" => Exit::Oom,
            "asked" => Exit::Asked,
            "unhealthy" => Exit::Unhealthy,
            "fenced" => Exit::Fenced,
            "not-started" => Exit::NotStarted,
            _ => Exit::Unknown,
        }
    }

    fn axes(&self, now: Moment) -> Axes {
        let lease = self.lease_axis(now);
        let mut axes = Axes { crash: self.restarts.crash(), lease, ..Axes::of(self.lifecycle()) };
        let Some(alive) = self.alive.as_ref().filter(|_| self.phase == Phase::Up) else { return axes };
        axes.pressure = alive.pressure;
        for probing in &alive.probes {
            match probing.what {
                For::Startup if !alive.start_fails() => {}
                For::Liveness if alive.start_fails() => {}
                For::Startup | For::Liveness => {
                    axes.liveness = match (probing.verdict(), probing.hang()) {
                        (Verdict::Unknown, _) => Liveness::Unknown,
                        (Verdict::Pass, _) => Liveness::Pass,
                        (Verdict::Fail(_), Some(hang)) => Liveness::Hung(hang),
                        (Verdict::Fail(why), None) => Liveness::Fail(why),
                    }
                }
                For::Readiness => axes.ready = Some(probing.verdict() == Verdict::Pass),
            }
            if probing.what != For::Startup && !alive.starting() {
                axes.samples.extend(probing.age(now));
            }
        }
        if self.drained {
            (axes.drained, axes.ready) = (true, Some(false));
        }
        axes
    }

    /// It does what a supervisor's watchdog is for: where another restarts, a container that does not answer is not well.
    pub(super) fn well(&self) -> bool {
        let own = self.wanted.config.restart.when != crate::shim::restart::When::No;
        own || !matches!(self.said, Some((Summary::Unhealthy | Summary::Hung | Summary::Fenced | Summary::Unknown, _)))
    }

    /// Says what is new.
    pub(super) fn reconsider(&mut self) -> Result<()> {
        let now = clock::now();
        if let Some(alive) = self.alive.as_ref().filter(|_| self.phase == Phase::Up) {
            self.restarts.running(now.saturating_sub(alive.started));
        }
        self.tell_lease(now);
        let axes = self.axes(now);
        let found = summary(&axes);
        let ready = matches!(found.0, Summary::Healthy | Summary::Degraded);
        if let Some(alive) = self.alive.as_mut().filter(|alive| ready && alive.ready_after.is_none()) {
            alive.ready_after = Some(now.saturating_sub(alive.started));
        }
        if self.said != Some(found) {
            let before = self.said.map(|(summary, reason)| json!([summary, reason]));
            self.said = Some(found);
            self.since = state::now();
            self.tell_all(found, json!({ "from": before, "to": found.0, "reason": found.1 }));
        }
        if let Some(manager) = &mut self.manager {
            manager.status(&format!("{}: {} ({})", self.wanted.id, word(found.0), found.1));
            if ready {
                manager.ready();
            }
        }
        Ok(())
    }

    /// The whole of it.
    pub(crate) fn view(&self, now: Moment) -> View {
        let axes = self.axes(now);
        let (summary, reason) = summary(&axes);
        let alive = self.alive.as_ref();
        let up = alive.filter(|_| self.phase == Phase::Up);
        let oldest = axes.samples.iter().map(|sample| sample.age).max().unwrap_or_default();
        View {
            id: self.wanted.id.clone(),
            bundle: self.wanted.bundle.to_string_lossy().into_owned(),
            pid: alive.map(|alive| alive.process.pid),
            summary,
            reason,
            since: self.since.clone(),
            seq: self.journal.seq(),
            lifecycle: life(axes.lifecycle).to_owned(),
            ready: axes.ready,
            pressure: short(axes.pressure),
            crash: match axes.crash {
                Crash::None => "none",
                Crash::Backoff => "backoff",
                Crash::Loop => "loop",
            }
            .to_owned(),
            lease: self.lease_view(now),
            restarts: self.restarts.total(),
            uptime_seconds: up.map(|alive| now.saturating_sub(alive.started).as_secs_f64()),
            started_seconds: up.map(|alive| alive.started_unix),
            start_latency_seconds: up.and_then(|alive| Some(alive.ready_after?.as_secs_f64())),
            age_seconds: oldest.as_secs_f64(),
            lag_seconds: self.lag.worst().as_secs_f64(),
            probes: alive.map(|alive| alive.probes.iter().map(Probing::view).collect()).unwrap_or_default(),
            last_exit: self.last_exit.clone(),
            counters: up.and_then(|alive| Some(alive.observer.as_ref()?.counters())).unwrap_or_default(),
        }
    }

    /// The last word on one start, on the disk before anybody hears of it.
    pub(super) fn record(&mut self, alive: &Alive, ended: Ended) {
        let view = ended.view();
        let probes: Vec<_> = alive.probes.iter().map(Probing::view).collect();
        let evidence = alive.observer.as_ref().map(|observer| observer.evidence());
        let data = json!({
            "exit": view,
            "pid": alive.process.pid,
            "stderr": self.output.as_ref().map(|output| output.tail()),
            "lost": self.output.as_ref().map(|output| output.lost()),
            "probes": probes,
            "counters": evidence,
            "fence": self.fence.evidence(),
        });
        self.last_exit = Some(view);
        self.note("exit", data);
    }
}

impl Ended {
    /// As it is told.
    pub(super) fn view(self) -> ExitView {
        let (code, signal) = match self.end {
            Some(End::Exited(status)) => (Some(status as u8), None),
            Some(End::Signaled(signal)) => (None, Some(signal as u8)),
            None => (None, None),
        };
        ExitView {
            kind: exit_word(self.exit).to_owned(),
            code,
            signal,
            at: state::now(),
            uptime_seconds: self.uptime.as_secs_f64(),
        }
    }
}

impl Alive {
    /// Its startup probe has failed as often as it may.
    pub(super) fn start_fails(&self) -> bool {
        self.probes.iter().any(|probing| probing.what == For::Startup && matches!(probing.verdict(), Verdict::Fail(_)))
    }

    /// Its startup probe has not passed yet.
    pub(super) fn starting(&self) -> bool {
        self.probes.iter().any(|probing| probing.what == For::Startup && probing.verdict() != Verdict::Pass)
    }
}

fn word(summary: Summary) -> String {
    serde_json::to_value(summary).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn life(lifecycle: Lifecycle) -> &'static str {
    match lifecycle {
        Lifecycle::Created => "created",
        Lifecycle::Starting => "starting",
        Lifecycle::Running => "running",
        Lifecycle::Paused => "paused",
        Lifecycle::Stopping => "stopping",
        Lifecycle::Exited(_) => "exited",
    }
}

fn short(pressure: Pressure) -> String {
    let of = |what| match what {
        Resource::Cpu => "cpu",
        Resource::Memory => "memory",
        Resource::Io => "io",
        Resource::Quota => "quota",
        Resource::Pids => "pids",
    };
    match pressure {
        Pressure::None => "none".to_owned(),
        Pressure::Some(what) => format!("some {}", of(what)),
        Pressure::Critical(what) => format!("critical {}", of(what)),
    }
}

fn exit_word(exit: Exit) -> &'static str {
    match exit {
        Exit::Code(_) => "code",
        Exit::Signal(_) => "signal",
        Exit::Oom => "oom",
        Exit::Asked => "asked",
        Exit::Unhealthy => "unhealthy",
        Exit::Fenced => "fenced",
        Exit::NotStarted => "not-started",
        Exit::Unknown => "unknown",
    }
}
