//! What the kernel says of a container that runs: its cgroup's counters, its pressure, and what its tasks are about.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::clock::Moment;
use super::health::{Hang, Pressure, Resource};
use crate::cgroup::Cgroup;
use crate::cgroup::stats::{pressure_of, value_of};
use crate::error::Result;

/// The kernel takes no other window from a process without CAP_SYS_RESOURCE than a multiple of this.
const WINDOW: Duration = Duration::from_secs(2);
/// How long a cgroup that was short of something is looked at again before it is called well.
pub const CALM: Duration = Duration::from_secs(5);
/// How often a container with a limit of processor time is looked at: the kernel gives no notice of that one.
const THROTTLED: Duration = Duration::from_secs(10);
/// Tasks that are looked at, of those that there are: enough to say what a container is about.
const TASKS: usize = 256;

/// From which share of time on, in percent, a resource is short. None: it is not looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Some task waits (`some`, avg10).
    pub some: Option<f64>,
    /// All tasks wait (`full`, avg10).
    pub full: Option<f64>,
}

/// The thresholds of the three resources that have pressure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// `cpu.pressure`. Many wait for a processor in any container that works hard: only a share near the whole says something.
    pub cpu: Thresholds,
    /// `memory.pressure`.
    pub memory: Thresholds,
    /// `io.pressure`.
    pub io: Thresholds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Thresholds { some: Some(80.0), full: None },
            memory: Thresholds { some: Some(20.0), full: Some(10.0) },
            io: Thresholds { some: Some(60.0), full: Some(40.0) },
        }
    }
}

impl Limits {
    fn each(&self) -> [(Resource, &'static str, Thresholds); 3] {
        [
            (Resource::Memory, "memory.pressure", self.memory),
            (Resource::Io, "io.pressure", self.io),
            (Resource::Cpu, "cpu.pressure", self.cpu),
        ]
    }
}

/// A file that gives notice when it changes.
#[derive(Debug)]
pub struct Notice(File);

impl Notice {
    /// A file of a cgroup; None: the kernel does not have it.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn of(cgroup: &Cgroup, name: &str) -> Result<Option<Self>> {
        Ok(cgroup.open_file(name)?.map(File::from).map(Self))
    }

    /// Its text now. To read it is what arms the next notice.
    pub fn read(&mut self) -> String {
        let mut text = String::new();
        // ENODEV: the cgroup is gone, which its process's end has told already.
        let _ = self.0.rewind().and_then(|()| self.0.read_to_string(&mut text));
        text
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The cgroup of a container, and what was seen of it last.
#[derive(Debug)]
pub struct Observer {
    cgroup: Cgroup,
    limits: Limits,
    /// cgroup.events: populated and frozen.
    pub events: Option<Notice>,
    /// memory.events: limits that were hit.
    pub memory: Option<Notice>,
    /// pids.events: forks that were refused.
    pub pids: Option<Notice>,
    /// Pressure that has gone over a threshold.
    pub triggers: Vec<File>,
    /// Why there are less triggers than there should be.
    pub untold: Vec<String>,
    /// Of cpu.stat: nr_periods and nr_throttled.
    throttled: (u64, u64),
    pids_max: u64,
}

impl Observer {
    /// Begins with a cgroup, which belongs to one start of one container.
    ///
    /// # Errors
    /// A file that is there can't be opened.
    pub fn new(cgroup: Cgroup, limits: Limits) -> Result<Self> {
        let [mut events, mut memory, mut pids] = [
            Notice::of(&cgroup, "cgroup.events")?,
            Notice::of(&cgroup, "memory.events")?,
            Notice::of(&cgroup, "pids.events")?,
        ];
        for notice in [&mut events, &mut memory, &mut pids].into_iter().flatten() {
            notice.read();
        }
        let (mut triggers, mut untold) = (Vec::new(), Vec::new());
        for (_, name, thresholds) in limits.each() {
            for (some, percent) in [(true, thresholds.some), (false, thresholds.full)] {
                let Some(percent) = percent else { continue };
                let stall = (WINDOW.as_micros() as f64 * percent / 100.0) as u64;
                match cgroup.pressure_trigger(name, some, stall.max(1), WINDOW.as_micros() as u64) {
                    Ok(file) => triggers.extend(file.map(File::from)),
                    Err(error) => untold.push(error.to_string()),
                }
            }
        }
        let mut observer =
            Self { cgroup, limits, events, memory, pids, triggers, untold, throttled: (0, 0), pids_max: 0 };
        observer.throttled = observer.periods();
        observer.pids_max = observer.forks_refused();
        Ok(observer)
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn text(&self, file: &str) -> String {
        self.cgroup.read(file).ok().flatten().unwrap_or_default()
    }

    fn value(&self, file: &str, key: &str) -> u64 {
        value_of(&self.text(file), key).unwrap_or(0)
    }

    fn periods(&self) -> (u64, u64) {
        let text = self.text("cpu.stat");
        (value_of(&text, "nr_periods").unwrap_or(0), value_of(&text, "nr_throttled").unwrap_or(0))
    }

    /// How many of its processes were killed for want of memory, and how often its whole cgroup was.
    pub fn oom_kills(&self) -> u64 {
        self.value("memory.events", "oom_kill")
    }

    /// To read it is what arms the next notice.
    fn forks_refused(&mut self) -> u64 {
        let text = self.pids.as_mut().map(Notice::read).unwrap_or_default();
        value_of(&text, "max").unwrap_or(0)
    }

    /// Microseconds of processor time.
    pub fn cpu_usec(&self) -> u64 {
        self.value("cpu.stat", "usage_usec")
    }

    /// Whether all of it stands still by the freezer.
    pub fn frozen(&self) -> bool {
        self.cgroup.frozen().unwrap_or(false)
    }

    /// What it is short of now, the worst first. `before`: what was said of it last; what is short is so until its share has
    /// fallen to half of what made it so, or it would change its state every second.
    pub fn pressure(&mut self, before: Pressure) -> Pressure {
        let was = match before {
            Pressure::None => None,
            Pressure::Some(what) | Pressure::Critical(what) => Some(what),
        };
        let over = |text: &str, line: &str, threshold: Option<f64>, what: Resource| {
            let share = pressure_of(text, line, "avg10").unwrap_or(0.0);
            threshold.is_some_and(|threshold| share >= if was == Some(what) { threshold / 2.0 } else { threshold })
        };
        let own = self.own_limits();
        let mut found = Pressure::None;
        for (what, name, thresholds) in self.limits.each() {
            let text = self.text(name);
            if over(&text, "full ", thresholds.full, what) {
                return Pressure::Critical(what);
            }
            if found == Pressure::None && over(&text, "some ", thresholds.some, what) {
                found = Pressure::Some(what);
            }
        }
        match (found, own) {
            // Who is held up by a limit of its own waits for a processor, too: that says more.
            (Pressure::None | Pressure::Some(Resource::Cpu), Pressure::Some(Resource::Quota)) => own,
            (Pressure::None, _) => own,
            _ => found,
        }
    }

    /// When the next look at `pressure`, as it is now, is due: while something is short, or where nothing else would tell.
    pub fn next_look(&self, pressure: Pressure, now: Moment) -> Option<Moment> {
        let limited = || self.text("cpu.max").trim_start().starts_with(|first: char| first.is_ascii_digit());
        match pressure {
            Pressure::None => limited().then(|| now + THROTTLED),
            _ => Some(now + CALM),
        }
    }

    /// The container's own limits: of processor time in nine of ten periods since the last look, of processes since then.
    fn own_limits(&mut self) -> Pressure {
        let (periods, throttled) = self.periods();
        let (before, throttled_before) = std::mem::replace(&mut self.throttled, (periods, throttled));
        let (periods, throttled) = (periods.saturating_sub(before), throttled.saturating_sub(throttled_before));
        let pids = self.forks_refused();
        let pids_before = std::mem::replace(&mut self.pids_max, pids);
        match () {
            () if periods >= 10 && throttled * 10 >= periods * 9 => Pressure::Some(Resource::Quota),
            () if pids > pids_before => Pressure::Some(Resource::Pids),
            () => Pressure::None,
        }
    }

    /// What the tasks are about that do not answer: `used` is the processor time since `since`, of one processor.
    pub fn hang(&self, used: Duration, since: Duration) -> Option<Hang> {
        let states = self.states();
        let all = |state: char| !states.is_empty() && states.iter().all(|found| *found == state);
        let share = |file: &str| pressure_of(&self.text(file), "full ", "avg10").unwrap_or(0.0);
        match () {
            () if all('T') => Some(Hang::Stopped),
            () if share("memory.pressure") >= 50.0 => Some(Hang::MemoryStall),
            () if states.contains(&'D') && share("io.pressure") >= 50.0 => Some(Hang::BlockedIo),
            () if used * 10 >= since * 9 && !since.is_zero() => Some(Hang::Spinning),
            // Idle alone says nothing: it is for who asks, and has had no answer, to call it a deadlock.
            () if states.contains(&'D') => Some(Hang::BlockedIo),
            // To ask takes some of the time as well.
            () if all('S') && used * 10 < since => Some(Hang::Deadlock),
            () => None,
        }
    }

    /// The states of its tasks (proc(5), stat field 3).
    fn states(&self) -> Vec<char> {
        let pids = self.cgroup.processes().unwrap_or_default();
        let state = |pid: i32| crate::state::start_time(nix::unistd::Pid::from_raw(pid)).ok().flatten();
        pids.into_iter().take(TASKS).filter_map(state).map(|(_, state)| state).filter(|state| *state != 'Z').collect()
    }

    /// All that is counted, by file and key.
    pub fn counters(&self) -> Vec<(String, f64)> {
        const FLAT: &[&str] = &["cpu.stat", "memory.stat", "memory.events", "pids.events"];
        const SINGLE: &[&str] = &[
            "memory.current",
            "memory.peak",
            "memory.max",
            "memory.swap.current",
            "memory.swap.max",
            "pids.current",
            "pids.max",
        ];
        const PRESSURE: &[&str] = &["cpu.pressure", "memory.pressure", "io.pressure"];
        let mut counters = Vec::new();
        for file in FLAT {
            let text = self.text(file);
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            counters.extend(lines.filter_map(|(key, value)| Some((format!("{file} {key}"), value.parse().ok()?))));
        }
        for file in SINGLE {
            // "max" is no number, and no limit.
            counters.extend(self.text(file).trim().parse().ok().map(|value| ((*file).to_owned(), value)));
        }
        if let Ok(processes) = self.cgroup.processes() {
            counters.push(("cgroup.procs".to_owned(), processes.len() as f64));
        }
        for file in PRESSURE {
            let text = self.text(file);
            for (line, key) in [("some", "avg10"), ("some", "total"), ("full", "avg10"), ("full", "total")] {
                let value = pressure_of(&text, &format!("{line} "), key);
                counters.extend(value.map(|value| (format!("{file} {line} {key}"), value)));
            }
        }
        counters
    }

    /// What of it belongs into the record of an end: peaks, limits that were hit, pressure.
    pub fn evidence(&self) -> serde_json::Map<String, serde_json::Value> {
        let kept = |name: &str| {
            name.starts_with("memory.events")
                || name.starts_with("pids.events")
                || name == "memory.peak"
                || name.ends_with(" avg10")
                || name.starts_with("cpu.stat nr_throttled")
                || name == "cpu.stat usage_usec"
        };
        self.counters().into_iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name, value.into())).collect()
    }
}
