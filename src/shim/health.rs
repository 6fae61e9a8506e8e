//! One model: six axes, each with a source of its own, and one summary that follows from them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many periods a sample counts for. One that is older says nothing: the last good value is not repeated.
pub const STALE_AFTER: u32 = 3;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// It waits for `start`.
    Created,
    /// It runs, and its startup probe has not passed yet.
    Starting,
    /// It runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// It was asked to stop, or has ended and its cgroup is still populated.
    Stopping,
    /// Its cgroup has no process.
    Exited(Exit),
}

/// How a container's first process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself.
    Code(u8),
    /// By a signal that nothing else explains.
    Signal(u8),
    /// By the kernel, for want of memory (`memory.events`, `oom_kill`): its exit status alone looks like SIGKILL.
    Oom,
    /// It was asked to stop, and has.
    Asked,
    /// It does not answer any more, and was stopped for that.
    Unhealthy,
    /// Its lease was about to end, and it was stopped for that.
    Fenced,
    /// It could not be made, or its program could not be executed.
    NotStarted,
    /// Nobody has seen it: the supervisor was away, and this kernel tells only a parent (before 6.15).
    Unknown,
}

impl Exit {
    /// Nothing has gone wrong.
    pub fn good(self) -> bool {
        matches!(self, Self::Code(0) | Self::Asked)
    }
}

/// What the liveness probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// There is no probe: a process that runs is alive.
    Unprobed,
    /// The probe has not said anything yet.
    Unknown,
    /// It passes.
    Pass,
    /// It fails.
    Fail(Failure),
    /// It fails, and the kernel says what the processes are about.
    Hung(Hang),
}

/// How a probe fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It said no.
    Answer,
    /// It said nothing in its time.
    Timeout,
}

/// Why nothing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// Its processors are busy all the time.
    Spinning,
    /// Its tasks wait for I/O (state D, `io.pressure`).
    BlockedIo,
    /// Its tasks wait for memory (`memory.pressure`, full).
    MemoryStall,
    /// Its tasks sleep, and use no time.
    Deadlock,
    /// Its tasks are stopped by a signal (state T).
    Stopped,
}

/// How short resources are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// They are not.
    None,
    /// Work is held up.
    Some(Resource),
    /// Work stands still for a good part of the time.
    Critical(Resource),
}

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processor time: `cpu.pressure`.
    Cpu,
    /// `memory.pressure`.
    Memory,
    /// `io.pressure`.
    Io,
    /// The container's own limit of processor time: `cpu.stat`, `nr_throttled`.
    Quota,
    /// The container's own limit of processes: `pids.events`, `max`.
    Pids,
}

/// Whether it ends again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Crash {
    /// It does not.
    None,
    /// It waits for its next start.
    Backoff,
    /// It has ended more often than its window allows.
    Loop,
}

/// The right to run, where one is held elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// None is asked for.
    None,
    /// Another one has it, or may still run under it.
    Waiting,
    /// It is held.
    Held,
    /// It was not renewed for half of its time.
    Expiring,
    /// It ran out, or another has it.
    Lost,
}

/// A sample's age, and the period in which it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// How old it is.
    pub age: Duration,
    /// How often it should come.
    pub period: Duration,
}

impl Age {
    fn stale(self) -> bool {
        self.age > self.period.saturating_mul(STALE_AFTER)
    }
}

/// Everything that is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes {
    /// Its life.
    pub lifecycle: Lifecycle,
    /// Does it answer?
    pub liveness: Liveness,
    /// May it be sent work? None: nothing says, so it may as soon as it runs.
    pub ready: Option<bool>,
    /// Somebody wants it to get no work, whatever else it is.
    pub drained: bool,
    /// Is it short of something?
    pub pressure: Pressure,
    /// Does it end again and again?
    pub crash: Crash,
    /// May it run?
    pub lease: Lease,
    /// The samples that the others are from, but for the life, which the kernel tells at once.
    pub samples: Vec<Age>,
}

impl Axes {
    /// A container of which nothing but its life is looked at.
    pub fn of(lifecycle: Lifecycle) -> Self {
        Self {
            lifecycle,
            liveness: Liveness::Unprobed,
            ready: None,
            drained: false,
            pressure: Pressure::None,
            crash: Crash::None,
            lease: Lease::None,
            samples: Vec::new(),
        }
    }
}

/// The one word for it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    /// It was stopped for want of a lease.
    Fenced,
    /// It has ended as it should not.
    Failed,
    /// It does not answer, and the kernel says why.
    Hung,
    /// It does not answer.
    Unhealthy,
    /// It ends again and again.
    CrashLoop,
    /// It is about to end.
    Stopping,
    /// It has ended.
    Stopped,
    /// It is frozen.
    Paused,
    /// It is on its way.
    Starting,
    /// It runs, and wants no work now.
    NotReady,
    /// It works, and not as well as it should.
    Degraded,
    /// It works.
    Healthy,
    /// Nobody knows: what is known is too old.
    Unknown,
}

impl Summary {
    /// All of them, the worst first: of several containers, the first one's says how they are together.
    pub const ALL: [Summary; 13] = [
        Summary::Fenced,
        Summary::Failed,
        Summary::Hung,
        Summary::Unhealthy,
        Summary::CrashLoop,
        Summary::Unknown,
        Summary::Stopped,
        Summary::Stopping,
        Summary::Paused,
        Summary::Starting,
        Summary::NotReady,
        Summary::Degraded,
        Summary::Healthy,
    ];

    /// Its place in [`ALL`](Self::ALL): less is worse.
    pub fn rank(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).unwrap_or_default()
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Summary::Fenced => "fenced",
            Summary::Failed => "failed",
            Summary::Hung => "hung",
            Summary::Unhealthy => "unhealthy",
            Summary::CrashLoop => "crashloop",
            Summary::Unknown => "unknown",
            Summary::Stopped => "stopped",
            Summary::Stopping => "stopping",
            Summary::Paused => "paused",
            Summary::Starting => "starting",
            Summary::NotReady => "notready",
            Summary::Degraded => "degraded",
            Summary::Healthy => "healthy",
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why, in one of a closed list of words: `[a-z0-9-]{1,32}`, so that it can stand in any protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Reason {
    Ok,
    Created,
    StartupProbe,
    NotReady,
    Drained,
    Paused,
    Stopping,
    Exited,
    ExitCode,
    Signal,
    OomKill,
    ExitUnknown,
    StartFailed,
    StoppedUnhealthy,
    ProbeFailed,
    ProbeTimeout,
    ProbePending,
    Spinning,
    BlockedIo,
    MemoryStall,
    Deadlock,
    StoppedBySignal,
    CrashLoop,
    CpuPressure,
    MemoryPressure,
    IoPressure,
    Throttled,
    PidsLimit,
    LeaseLost,
    LeaseExpiring,
    LeaseWait,
    StaleSample,
    /// Said of it by others: its supervisor does not answer.
    NoSupervisor,
}

impl Reason {
    /// All of them, in the order of the source.
    pub const ALL: [Reason; 33] = [
        Reason::Ok,
        Reason::Created,
        Reason::StartupProbe,
        Reason::NotReady,
        Reason::Drained,
        Reason::Paused,
        Reason::Stopping,
        Reason::Exited,
        Reason::ExitCode,
        Reason::Signal,
        Reason::OomKill,
        Reason::ExitUnknown,
        Reason::StartFailed,
        Reason::StoppedUnhealthy,
        Reason::ProbeFailed,
        Reason::ProbeTimeout,
        Reason::ProbePending,
        Reason::Spinning,
        Reason::BlockedIo,
        Reason::MemoryStall,
        Reason::Deadlock,
        Reason::StoppedBySignal,
        Reason::CrashLoop,
        Reason::CpuPressure,
        Reason::MemoryPressure,
        Reason::IoPressure,
        Reason::Throttled,
        Reason::PidsLimit,
        Reason::LeaseLost,
        Reason::LeaseExpiring,
        Reason::LeaseWait,
        Reason::StaleSample,
        Reason::NoSupervisor,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Ok => "ok",
            Reason::Created => "created",
            Reason::StartupProbe => "startup-probe",
            Reason::NotReady => "not-ready",
            Reason::Drained => "drained",
            Reason::Paused => "paused",
            Reason::Stopping => "stopping",
            Reason::Exited => "exited",
            Reason::ExitCode => "exit-code",
            Reason::Signal => "signal",
            Reason::OomKill => "oom-kill",
            Reason::ExitUnknown => "exit-unknown",
            Reason::StartFailed => "start-failed",
            Reason::StoppedUnhealthy => "stopped-unhealthy",
            Reason::ProbeFailed => "probe-failed",
            Reason::ProbeTimeout => "probe-timeout",
            Reason::ProbePending => "probe-pending",
            Reason::Spinning => "spinning",
            Reason::BlockedIo => "blocked-io",
            Reason::MemoryStall => "memory-stall",
            Reason::Deadlock => "deadlock",
            Reason::StoppedBySignal => "stopped-by-signal",
            Reason::CrashLoop => "crash-loop",
            Reason::CpuPressure => "cpu-pressure",
            Reason::MemoryPressure => "memory-pressure",
            Reason::IoPressure => "io-pressure",
            Reason::Throttled => "throttled",
            Reason::PidsLimit => "pids-limit",
            Reason::LeaseLost => "lease-lost",
            Reason::LeaseExpiring => "lease-expiring",
            Reason::LeaseWait => "lease-wait",
            Reason::StaleSample => "stale-sample",
            Reason::NoSupervisor => "no-supervisor",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The summary and its reason. What is worse comes first; of what is equally bad, what explains the rest.
pub fn summary(axes: &Axes) -> (Summary, Reason) {
    if axes.lease == Lease::Lost {
        return (Summary::Fenced, Reason::LeaseLost);
    }
    match axes.lifecycle {
        Lifecycle::Exited(exit) => ended(exit, axes.crash),
        // What is asked to stop fails its probes, and what is frozen can't answer them: neither says anything.
        Lifecycle::Stopping => (Summary::Stopping, Reason::Stopping),
        Lifecycle::Paused => (Summary::Paused, Reason::Paused),
        Lifecycle::Created if axes.lease == Lease::Waiting => (Summary::Starting, Reason::LeaseWait),
        Lifecycle::Created => (Summary::Starting, Reason::Created),
        Lifecycle::Starting if axes.crash == Crash::Loop => (Summary::CrashLoop, Reason::CrashLoop),
        Lifecycle::Starting => (Summary::Starting, Reason::StartupProbe),
        Lifecycle::Running => running(axes),
    }
}

fn ended(exit: Exit, crash: Crash) -> (Summary, Reason) {
    let reason = match exit {
        Exit::Code(0) | Exit::Asked => Reason::Exited,
        Exit::Code(_) => Reason::ExitCode,
        Exit::Signal(_) => Reason::Signal,
        Exit::Oom => Reason::OomKill,
        Exit::Unhealthy => Reason::StoppedUnhealthy,
        Exit::Fenced => Reason::LeaseLost,
        Exit::NotStarted => Reason::StartFailed,
        Exit::Unknown => Reason::ExitUnknown,
    };
    match crash {
        Crash::Loop => (Summary::CrashLoop, Reason::CrashLoop),
        _ if exit.good() => (Summary::Stopped, reason),
        _ => (Summary::Failed, reason),
    }
}

fn running(axes: &Axes) -> (Summary, Reason) {
    if axes.samples.iter().any(|sample| sample.stale()) {
        return (Summary::Unknown, Reason::StaleSample);
    }
    match axes.liveness {
        Liveness::Hung(hang) => return (Summary::Hung, hung(hang)),
        Liveness::Fail(Failure::Answer) => return (Summary::Unhealthy, Reason::ProbeFailed),
        Liveness::Fail(Failure::Timeout) => return (Summary::Unhealthy, Reason::ProbeTimeout),
        Liveness::Unknown => return (Summary::Starting, Reason::ProbePending),
        Liveness::Unprobed | Liveness::Pass => {}
    }
    if axes.drained {
        return (Summary::NotReady, Reason::Drained);
    }
    if axes.ready == Some(false) {
        return (Summary::NotReady, Reason::NotReady);
    }
    if let Pressure::Some(what) | Pressure::Critical(what) = axes.pressure {
        return (Summary::Degraded, short_of(what));
    }
    match (axes.lease, axes.crash) {
        (Lease::Expiring | Lease::Waiting, _) => (Summary::Degraded, Reason::LeaseExpiring),
        // It runs again, and has not yet for long enough to be believed.
        (_, Crash::Loop) => (Summary::Degraded, Reason::CrashLoop),
        _ => (Summary::Healthy, Reason::Ok),
    }
}

fn hung(hang: Hang) -> Reason {
    match hang {
        Hang::Spinning => Reason::Spinning,
        Hang::BlockedIo => Reason::BlockedIo,
        Hang::MemoryStall => Reason::MemoryStall,
        Hang::Deadlock => Reason::Deadlock,
        Hang::Stopped => Reason::StoppedBySignal,
    }
}

fn short_of(what: Resource) -> Reason {
    match what {
        Resource::Cpu => Reason::CpuPressure,
        Resource::Memory => Reason::MemoryPressure,
        Resource::Io => Reason::IoPressure,
        Resource::Quota => Reason::Throttled,
        Resource::Pids => Reason::PidsLimit,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn every<T: std::fmt::Debug + Clone + 'static>(all: &[T]) -> impl Strategy<Value = T> + use<T> {
        prop::sample::select(all.to_vec())
    }

    fn axes() -> impl Strategy<Value = Axes> {
        let exits = [Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::Oom, Exit::Asked, Exit::Unknown];
        let lives =
            [Lifecycle::Created, Lifecycle::Starting, Lifecycle::Running, Lifecycle::Paused, Lifecycle::Stopping];
        let lives: Vec<_> = lives.into_iter().chain(exits.map(Lifecycle::Exited)).collect();
        let liveness = [
            Liveness::Unprobed,
            Liveness::Unknown,
            Liveness::Pass,
            Liveness::Fail(Failure::Answer),
            Liveness::Fail(Failure::Timeout),
            Liveness::Hung(Hang::Spinning),
            Liveness::Hung(Hang::Stopped),
        ];
        let pressure = [Pressure::None, Pressure::Some(Resource::Io), Pressure::Critical(Resource::Memory)];
        (
            every(&lives),
            every(&liveness),
            (every(&[None, Some(false), Some(true)]), every(&[false, true])),
            every(&pressure),
            every(&[Crash::None, Crash::Backoff, Crash::Loop]),
            every(&[Lease::None, Lease::Waiting, Lease::Held, Lease::Expiring, Lease::Lost]),
            prop::collection::vec(0u64..10, 0..3),
        )
            .prop_map(|(lifecycle, liveness, (ready, drained), pressure, crash, lease, ages)| Axes {
                lifecycle,
                liveness,
                ready,
                drained,
                pressure,
                crash,
                lease,
                samples: ages.into_iter().map(|age| Age { age: SECOND * age as u32, period: SECOND }).collect(),
            })
    }

    proptest! {
        /// Healthy means that nothing that is known speaks against it, and that all of it is new.
        #[test]
        fn healthy_has_no_but(axes in axes()) {
            let (found, reason) = summary(&axes);
            let good = axes.lifecycle == Lifecycle::Running
                && matches!(axes.liveness, Liveness::Unprobed | Liveness::Pass)
                && axes.ready != Some(false)
                && !axes.drained
                && axes.pressure == Pressure::None
                && axes.crash != Crash::Loop
                && matches!(axes.lease, Lease::None | Lease::Held)
                && axes.samples.iter().all(|sample| sample.age <= SECOND * 3);
            prop_assert_eq!(found == Summary::Healthy, good);
            prop_assert_eq!(reason == Reason::Ok, good);
        }

        /// What has ended is never said to run, and what runs never to have ended.
        #[test]
        fn the_kernels_word_on_its_life_is_kept(axes in axes()) {
            let (found, _) = summary(&axes);
            let ended = matches!(axes.lifecycle, Lifecycle::Exited(_));
            match found {
                Summary::Failed | Summary::Stopped => prop_assert!(ended),
                Summary::CrashLoop | Summary::Fenced => {}
                _ => prop_assert!(!ended),
            }
        }

        /// Without the lease nothing else counts.
        #[test]
        fn a_lost_lease_comes_first(axes in axes()) {
            prop_assert_eq!(summary(&axes).0 == Summary::Fenced, axes.lease == Lease::Lost);
        }
    }

    #[test]
    fn a_sample_counts_for_three_periods() {
        let aged = |seconds| Axes {
            liveness: Liveness::Pass,
            samples: vec![Age { age: seconds * SECOND, period: SECOND }],
            ..Axes::of(Lifecycle::Running)
        };
        assert_eq!(summary(&aged(3)), (Summary::Healthy, Reason::Ok));
        assert_eq!(summary(&aged(4)), (Summary::Unknown, Reason::StaleSample));
    }

    #[test]
    fn one_status_is_told_from_the_other() {
        let of = |exit| summary(&Axes::of(Lifecycle::Exited(exit)));
        assert_eq!(of(Exit::Code(0)), (Summary::Stopped, Reason::Exited));
        assert_eq!(of(Exit::Code(137)), (Summary::Failed, Reason::ExitCode));
        assert_eq!(of(Exit::Signal(9)), (Summary::Failed, Reason::Signal));
        assert_eq!(of(Exit::Oom), (Summary::Failed, Reason::OomKill));
        assert_eq!(of(Exit::Unknown), (Summary::Failed, Reason::ExitUnknown));
    }

    #[test]
    fn reasons_are_words_of_every_protocol() {
        for reason in Reason::ALL {
            let word = reason.as_str();
            assert!((1..=32).contains(&word.len()), "{word}");
            assert!(
                word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{word}"
            );
            assert_eq!(serde_json::to_value(reason).unwrap(), word);
        }
    }
}
