//! One container under supervision: from its first start to its last end.
//!
//! ```text
//! Leasing ─▶ Making ─▶ Starting ─▶ Up ─▶ Removing ─▶ Waiting ─▶ Leasing ...
//!               └─────────┴───────────────▲  └────────▶ Over
//! ```
//!
//! Who needs no lease, or still has one, does not wait for it.
//!
//! One thread and one loop. What takes its time is a worker's ([`super::children`]); the loop itself makes no call that waits.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::children::{Children, Job, Process, Reply, Told, end_with_supervisor};
use super::clock::{self, Moment};
use super::config::{Config, How};
use super::epoll::{EpollFlags, Poll, Ready};
use super::health::{Exit, Lease, Reason, Summary};
use super::http::{Connections, Listener};
use super::jobs::Runtime;
use super::lease::Holder;
use super::output::Output;
use super::probe::Verdict;
use super::probing::{For, Means, Probing};
use super::push::{self, Push, Said, Words};
use super::record::{Directory, Journal};
use super::restart::{Next, Restarts, When};
use super::sdnotify::Manager;
use super::view::ExitView;
use crate::error::{Error, Result};
use crate::state;
use crate::sys::pidfd::{End, exit_of};
use crate::sys::process;

mod alive;
mod control;
mod fence;
mod health;
mod saved;
mod stop;

use alive::{Alive, probed, probes};
use fence::Fence;
pub use saved::{Saved, inherited_sockets, left};
use stop::{Stop, Why};

/// What a worker may take to make a container, hooks and all, and to remove it.
const WORK: Duration = Duration::from_secs(120);
/// How long the parent of a process that is not our child may take to wait for it.
const UNREAPED: Duration = Duration::from_secs(5);
/// How long the last word may take to be told.
const FAREWELL: Duration = Duration::from_secs(10);
/// So many messages of a container are heard at once, and then none for a while.
const HEARD: u32 = 16;
const QUIET: Duration = Duration::from_millis(100);
/// How long clients wait when no descriptor is left for one more.
const DEAF: Duration = Duration::from_secs(1);
/// What a start may want of systemd's patience each time.
const EXTENSION: Duration = Duration::from_secs(30);

mod token {
    pub(super) const OUTPUT: u64 = 1; // and 2
    pub(super) const LISTENER: u64 = 3; // to 5
    pub(super) const CGROUP: u64 = 6;
    pub(super) const MEMORY: u64 = 7;
    pub(super) const PRESSURE: u64 = 8;
    pub(super) const NOTIFY: u64 = 9;
    pub(super) const PROCESS: u64 = 10;
    pub(super) const HEARTBEAT: u64 = 11;
    pub(super) const LEASE: u64 = 12;
    pub(super) const FENCE: u64 = 13;
    pub(super) const PROBE: u64 = 16;
}

/// What is to be supervised, and how.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The container's id.
    pub id: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
    /// The runtime's own options.
    pub runtime: Runtime,
    /// The directory of all supervisors.
    pub directory: PathBuf,
    /// A loopback port for what may be read.
    pub listen: Option<SocketAddr>,
    /// What the bundle says of its health.
    pub config: Config,
    /// The supervisor's own program, for an upgrade.
    pub program: PathBuf,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// It is about to be made.
    Idle,
    /// It may not be made yet.
    Leasing,
    Making(Job),
    Starting(Job),
    Up,
    /// It has ended, and is taken away.
    Removing(Job, Ended),
    /// It is started again then.
    Waiting(Moment),
    Over(Ended),
}

/// An end: what is said of it, and the status that the kernel gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ended {
    exit: Exit,
    end: Option<End>,
    uptime: Duration,
}

/// The supervisor.
#[derive(Debug)]
pub struct Supervisor {
    wanted: Wanted,
    directory: Directory,
    journal: Journal,
    poll: Poll,
    children: Children,
    netns: OwnedFd,
    output: Option<Output>,
    manager: Option<Manager>,
    watchdog: Option<Moment>,
    connections: Connections,
    /// Clients that wait for an event.
    later: Vec<control::Later>,
    listeners: Vec<Listener>,
    restarts: Restarts,
    phase: Phase,
    alive: Option<Alive>,
    stop: Option<Stop>,
    /// Somebody wants it to get no work.
    drained: bool,
    last_exit: Option<ExitView>,
    said: Option<(Summary, Reason)>,
    since: String,
    /// The container's standard descriptors are ours.
    foreground: bool,
    upgrade: bool,
    lag: health::Lag,
    /// What went wrong with the last start.
    failure: Option<String>,
    /// Whatever container has the id was made here, and is here to be removed.
    ours: bool,
    /// Another container had the id when ours was to be made.
    taken: bool,
    /// Some start has worked. The first one that does not is final: who has asked for it hears so.
    started_once: bool,
    /// After this moment clients are heard again.
    deaf: Option<Moment>,
    /// The parent of a detached supervisor waits for one word.
    parent: Option<OwnedFd>,
    push: Push,
    /// It is over: until then, at most, the last word is told.
    farewell: Option<Moment>,
    lease: Option<Holder>,
    /// What was said of it last, and its end as it was written down.
    lease_told: (Option<(Lease, Option<i64>)>, Option<Moment>),
    fence: Fence,
    /// What a start takes of memory has been given back.
    settled: bool,
}

/// Signals that are for the supervisor.
pub const SIGNALS: &[Signal] =
    &[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR2];

impl Supervisor {
    /// Everything but the container.
    ///
    /// # Errors
    /// The directory is another supervisor's, the log can't be written, an address is in use.
    pub fn new(wanted: Wanted, foreground: bool, inherited: Option<Vec<Listener>>) -> Result<Self> {
        crate::foreground::become_subreaper()?;
        let manager = Manager::take();
        let directory = Directory::claim(&wanted.directory, &wanted.id)?;
        let journal = Journal::open(&directory, &wanted.id)?;
        let poll = Poll::new(SIGNALS)?;
        let netns = std::fs::File::open("/proc/self/ns/net").map(OwnedFd::from).map_err(|error| {
            Error::new("open the supervisor's network namespace").call("open", crate::host::errno(&error))
        })?;
        let output = wanted.config.log.as_ref().map(|log| Output::open(directory.path(), log)).transpose()?;
        if let Some(output) = &output {
            for (index, reader) in output.readers().into_iter().enumerate() {
                poll.add(reader, token::OUTPUT + index as u64, EpollFlags::EPOLLIN)?;
            }
        }
        let listeners = match inherited {
            Some(listeners) => listeners,
            None => control::listen(&directory, wanted.listen)?,
        };
        for (index, listener) in listeners.iter().enumerate() {
            poll.add(listener, token::LISTENER + index as u64, EpollFlags::EPOLLIN)?;
        }
        directory.remove("last.json");
        let watchdog = manager.as_ref().and_then(|manager| Some(clock::now() + manager.watchdog?));
        let restarts = Restarts::new(wanted.config.restart);
        let (told, heartbeat) = (wanted.config.push.clone(), wanted.config.heartbeat.clone());
        // Two supervisors may have a container of one name, in directories of their own.
        let name = format!("{}.{:x}", wanted.id, directory.inode()?);
        let push = Push::new(&name, told, heartbeat, token::HEARTBEAT, clock::now());
        let lease = fence::holder(&wanted);
        Ok(Self {
            wanted,
            directory,
            journal,
            poll,
            children: Children::default(),
            netns,
            output,
            manager,
            watchdog,
            connections: Connections::new(),
            later: Vec::new(),
            listeners,
            restarts,
            phase: Phase::Idle,
            alive: None,
            stop: None,
            drained: false,
            last_exit: None,
            said: None,
            since: state::now(),
            foreground,
            upgrade: false,
            lag: health::Lag::default(),
            failure: None,
            ours: false,
            taken: false,
            started_once: false,
            deaf: None,
            parent: None,
            push,
            farewell: None,
            lease,
            lease_told: (None, None),
            fence: Fence::default(),
            settled: false,
        })
    }

    /// Tells `parent` when the first start has worked, by a byte of zero, or why it has not.
    pub fn tell(&mut self, parent: OwnedFd) {
        self.parent = Some(parent);
    }

    /// Supervises it until it is over. The exit status: the container's own, 0 when it was asked to stop.
    ///
    /// # Errors
    /// The supervisor can't go on, or the container could not be started and is not tried again.
    pub fn run(mut self) -> Result<i32> {
        if let Some(why) = self.push.without.take() {
            self.note("supervisor", json!({ "push": why }));
        }
        if self.phase == Phase::Idle {
            self.launch()?;
        }
        // What has ended before the signals were read, as when this program has just been executed anew.
        self.reap()?;
        loop {
            self.reconsider()?;
            self.answer_later();
            if let Phase::Over(ended) = self.phase {
                let now = clock::now();
                let until = *self.farewell.get_or_insert(now + FAREWELL);
                if (self.give_back(now) && self.push.idle()) || until <= now {
                    return self.finish(ended);
                }
            }
            if self.upgrade && self.can_be_replaced() {
                self.upgrade = false;
                let error = self.execute_anew();
                self.note("supervisor", json!({ "upgrade": error.to_string() }));
            }
            let wake = self.next();
            self.poll.wake_at(wake)?;
            if self.phase == Phase::Up && !std::mem::replace(&mut self.settled, true) {
                process::forget_what_is_done();
            }
            let all = self.poll.wait()?;
            self.fence_when_due(clock::now());
            for ready in all {
                self.one(ready)?;
            }
            self.lag.woken(wake);
            self.times()?;
        }
    }

    fn finish(mut self, ended: Ended) -> Result<i32> {
        if let (Some(parent), Exit::Asked) = (self.parent.take(), ended.exit) {
            let _ = crate::sys::path::write(parent.as_fd(), b"it was asked to stop before its start");
        }
        if self.ours {
            let id = &self.wanted.id;
            complain(&Error::new(format!("container {id} is left")).hint(format!("orlop delete --force {id}")));
        }
        if let Some(manager) = &self.manager {
            manager.stopping();
        }
        let view = self.view(clock::now());
        self.directory.write("last.json", &view)?;
        for name in ["supervisor.json", "read.sock", "control.sock", fence::TOKEN, fence::CONFIG] {
            self.directory.remove(name);
        }
        self.connections.clear();
        match (ended.exit, ended.end) {
            (Exit::NotStarted, _) => Err(Error::new(self.failure.take().unwrap_or_default())),
            (Exit::Asked, _) => Ok(0),
            (Exit::Unhealthy | Exit::Fenced, _) => Ok(1),
            (_, Some(End::Exited(status))) => Ok(status),
            (_, Some(End::Signaled(signal))) => Ok(128 + signal),
            (_, None) => Ok(1),
        }
    }

    /// Writes a change of state down, and tells it.
    fn tell_all(&mut self, found: (Summary, Reason), data: serde_json::Value) {
        let now = clock::now();
        // What can't be written down is told all the same: managers must hear of a failure on a full disk.
        let event = self.journal.append("summary", data.clone(), false).unwrap_or_else(|error| {
            complain(&error);
            self.journal.event("summary", data)
        });
        let (summary, reason) = found;
        let words = Words { id: self.wanted.id.clone(), node: push::node(), summary, reason, seq: event.seq };
        let mut said = self.push.changed(words, &event, now);
        said.extend(self.push.begin(&mut self.children, &self.poll, now));
        self.pushed(said);
        if matches!(self.phase, Phase::Over(_)) {
            self.farewell = Some(now + FAREWELL);
        }
    }

    /// Writes an event down. What can't be is said on standard error, and does not stop anything.
    fn note(&mut self, kind: &str, data: serde_json::Value) {
        let lasting = kind == "exit";
        if let Err(error) = self.journal.append(kind, data, lasting) {
            complain(&error);
        }
    }

    /// The next moment at which something is to be done.
    fn next(&self) -> Option<Moment> {
        let probes = || {
            let alive = self.alive.as_ref().filter(|alive| self.phase == Phase::Up && !alive.paused);
            alive
                .into_iter()
                .flat_map(|alive| probed(&alive.probes))
                .filter_map(|index| self.alive.as_ref().and_then(|alive| alive.probes[index].next()))
        };
        let waiting = if let Phase::Waiting(at) = self.phase { Some(at) } else { None };
        let times = [
            self.children.deadline(),
            self.connections.deadline(),
            self.later.iter().map(|later| later.until).min(),
            self.push.next(),
            self.farewell,
            self.stop.and_then(|stop| stop.deadline),
            self.stop.and_then(|stop| stop.signal_at),
            self.watchdog,
            waiting,
            self.alive.as_ref().filter(|_| self.phase == Phase::Up).and_then(|alive| alive.next_look),
            self.deaf,
            self.lease.as_ref().and_then(|holder| holder.next(clock::now())),
            self.fence.next(),
            self.alive.as_ref().and_then(|alive| alive.deaf),
            self.alive.as_ref().and_then(|alive| alive.unreaped),
        ];
        times.into_iter().flatten().chain(probes()).min()
    }

    fn one(&mut self, ready: Ready) -> Result<()> {
        match ready {
            Ready::Signal(Signal::SIGCHLD) => self.reap(),
            Ready::Signal(Signal::SIGHUP) => Ok(()),
            Ready::Signal(Signal::SIGUSR2) => {
                self.upgrade = true;
                Ok(())
            }
            Ready::Signal(_) => self.ask_to_stop(Why::Asked, None),
            Ready::Time => Ok(()),
            Ready::File(found, flags) if Connections::owns(found) => self.client(found, flags),
            Ready::File(found, _) => self.file(found),
        }
    }

    fn file(&mut self, found: u64) -> Result<()> {
        let now = clock::now();
        match found {
            token::OUTPUT..token::LISTENER => {
                if let Some(output) = &mut self.output {
                    output.take((found - token::OUTPUT) as usize);
                }
                Ok(())
            }
            token::LISTENER..token::CGROUP => {
                let index = (found - token::LISTENER) as usize;
                let Some(listener) = self.listeners.get(index) else { return Ok(()) };
                if let Err(error) = self.connections.accept(listener, &self.poll, now) {
                    complain(&error);
                    self.hear_clients(false);
                    self.deaf = Some(now + DEAF);
                }
                Ok(())
            }
            token::PROCESS => self.gone(),
            token::LEASE => self.lease_ready(now),
            token::FENCE => {
                self.look_at_fence(now);
                Ok(())
            }
            token::HEARTBEAT => {
                let said = self.push.ready(&self.poll, now);
                self.pushed(said);
                Ok(())
            }
            _ => {
                self.kernel(found, now);
                Ok(())
            }
        }
    }

    fn hear_clients(&mut self, hear: bool) {
        let events = if hear { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        for (index, listener) in self.listeners.iter().enumerate() {
            // It was added, so it can be changed.
            let _ = self.poll.change(listener, token::LISTENER + index as u64, events);
        }
    }

    /// Something of the container that is alive.
    fn kernel(&mut self, found: u64, now: Moment) {
        let Some(alive) = &mut self.alive else { return };
        match found {
            token::CGROUP => {
                let before = alive.paused;
                alive.look_at_freezer();
                // What was asked before it was frozen is not answered in its time.
                if before != alive.paused {
                    for probing in &mut alive.probes {
                        probing.afresh(now, &mut self.children, &self.poll);
                    }
                }
            }
            token::MEMORY => {
                let kills = alive.oom_kills_now();
                let more = kills.saturating_sub(std::mem::replace(&mut alive.oom_kills, kills));
                if more > 0 {
                    alive.oom_at = Some(now);
                    self.note("oom", json!({ "kills": more }));
                }
            }
            token::PRESSURE => alive.look_at_pressure(now),
            token::NOTIFY => self.hear(now),
            probe => {
                let poll = &self.poll;
                let changed = alive.probes.iter_mut().any(|probing| probing.ready(probe, now, poll));
                if changed {
                    self.verdicts();
                }
            }
        }
    }

    /// What the container's program says of itself.
    fn hear(&mut self, now: Moment) {
        let Some(alive) = &mut self.alive else { return };
        let Some(socket) = &alive.notify else { return };
        let mut message = [0; 4096];
        let mut changed = false;
        for number in 0..=HEARD {
            // Who sends without a pause must not hold the loop: it waits, as the kernel lets it when nobody reads.
            if number == HEARD {
                let _ = self.poll.change(socket, token::NOTIFY, EpollFlags::empty());
                alive.deaf = Some(now + QUIET);
                break;
            }
            let Ok(length) = socket.recv(&mut message) else { break };
            let text = String::from_utf8_lossy(&message[..length]);
            changed |= alive.probes.iter_mut().fold(false, |changed, probing| probing.told(&text, now) | changed);
        }
        if changed {
            self.verdicts();
        }
    }

    /// A process that is not our child has ended.
    fn gone(&mut self) -> Result<()> {
        self.reap()?;
        let Some(alive) = self.alive.as_ref().filter(|alive| !alive.child) else { return Ok(()) };
        if process::poll_in(alive.pidfd.as_fd(), 0) != Ok(true) {
            return Ok(());
        }
        let now = clock::now();
        match (exit_of(alive.pidfd.as_fd()), alive.unreaped) {
            // The kernel tells only once its parent has waited for it. A hangup says so.
            (Ok(None), None) => {
                self.poll.change(&alive.pidfd, token::PROCESS, EpollFlags::empty())?;
                if let Some(alive) = &mut self.alive {
                    alive.unreaped = Some(now + UNREAPED);
                }
                Ok(())
            }
            (Ok(None), Some(until)) if now < until => Ok(()),
            (end, _) => {
                self.ended(end.ok().flatten());
                Ok(())
            }
        }
    }

    fn reap(&mut self) -> Result<()> {
        let now = clock::now();
        for told in self.children.reap()? {
            match told {
                Told::Done(job, reply) => self.done(job, reply, now)?,
                Told::Ended(process, end) => {
                    if self.alive.as_ref().is_some_and(|alive| alive.process == process) {
                        self.ended(Some(end));
                    } else if let Some(alive) = &mut self.alive {
                        let poll = &self.poll;
                        let changed =
                            alive.probes.iter_mut().find_map(|probing| probing.ended(process, end, now, poll));
                        if changed == Some(true) {
                            self.verdicts();
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn done(&mut self, job: Job, reply: Reply, now: Moment) -> Result<()> {
        match self.phase.clone() {
            Phase::Making(own) if own == job => match (reply.error, reply.made) {
                (None, Some(made)) => {
                    self.made(made);
                    Ok(())
                }
                (error, _) => {
                    // What has failed has cleared up after itself.
                    self.ours = reply.silent && !self.taken;
                    self.not_started(error.unwrap_or_default());
                    Ok(())
                }
            },
            Phase::Starting(own) if own == job => match reply.error {
                None => self.started(now),
                Some(error) => {
                    self.not_started(error);
                    Ok(())
                }
            },
            Phase::Removing(own, ended) if own == job => {
                self.ours = reply.error.is_some();
                if let Some(error) = reply.error {
                    self.note("supervisor", json!({ "remove": error }));
                }
                self.removed(ended, now)
            }
            _ => {
                if let Some(said) = self.push.done(job, &reply) {
                    self.pushed(said);
                    return Ok(());
                }
                let Some(alive) = &mut self.alive else { return Ok(()) };
                let (children, poll) = (&self.children, &self.poll);
                let changed =
                    alive.probes.iter_mut().find_map(|probing| probing.done(job, &reply, now, children, poll));
                if changed == Some(true) {
                    self.verdicts();
                }
                Ok(())
            }
        }
    }

    fn work(&mut self, work: impl FnOnce() -> Reply) -> Result<Job> {
        self.children.begin([None; 3], &[], WORK, work)
    }

    /// Makes the container, as soon as it may be made.
    fn launch(&mut self) -> Result<()> {
        self.stop = None;
        self.failure = None;
        self.fence = Fence::default();
        if let Some(manager) = &self.manager {
            manager.extend(EXTENSION);
        }
        match self.may_be_made(clock::now()) {
            Ok(true) => self.make(),
            Ok(false) => {
                self.phase = Phase::Leasing;
                self.note_down()
            }
            Err(error) => {
                self.not_started(error.to_string());
                Ok(())
            }
        }
    }

    /// Writes down where it is: at first it must be possible.
    fn note_down(&mut self) -> Result<()> {
        if self.started_once {
            self.keep();
            return Ok(());
        }
        self.save()
    }

    fn make(&mut self) -> Result<()> {
        let (runtime, id, bundle) = (self.wanted.runtime.clone(), self.wanted.id.clone(), self.wanted.bundle.clone());
        let notify = self.wanted.config.notifies();
        let lease = self.lease.is_some().then(|| self.directory.path().to_owned());
        // What an earlier start has left is taken away first. A container that was not made here is nobody's to take away.
        let left = self.ours;
        self.taken = !left && runtime.store().open(&id).is_ok();
        let supervisor = nix::unistd::getpid();
        let work = move || {
            if let Err(error) = end_with_supervisor(supervisor) {
                return Reply::failed(error);
            }
            if let Some(error) = left.then(|| runtime.remove(&id)).and_then(|reply| reply.error) {
                return Reply { silent: true, ..Reply::failed(error) };
            }
            if notify {
                // The runtime gives the container a socket of its own where its caller has one. Whose it is then is ours to say.
                crate::sys::start::set_variable("NOTIFY_SOCKET", std::ffi::OsStr::new("/dev/null"));
            }
            match lease.map_or(Ok(Vec::new()), |directory| fence::with_token(&bundle, &directory)) {
                Ok(options) => runtime.create(&id, &bundle, &options),
                Err(error) => Reply::failed(error),
            }
        };
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let stdio = match &self.output {
            Some(output) => {
                let [stdout, stderr] = output.ends();
                [self.foreground.then(|| stdin.as_fd()), Some(stdout), Some(stderr)]
            }
            None if self.foreground => [Some(stdin.as_fd()), Some(stdout.as_fd()), Some(stderr.as_fd())],
            None => [None; 3],
        };
        match self.children.begin(stdio, &[], WORK, work) {
            Ok(job) => self.phase = Phase::Making(job),
            Err(error) => {
                self.not_started(error.to_string());
                return Ok(());
            }
        }
        self.note_down()
    }

    /// It waits for its start: all that is to be watched is watched from here on, before its program does anything.
    fn made(&mut self, process: Process) {
        self.ours = true;
        if self.stop.is_some_and(|stop| stop.why == Why::Asked) {
            return self.not_started("it was asked to stop".to_owned());
        }
        let alive = match Alive::new(process, &self.wanted, &self.poll) {
            Ok(Some(alive)) => alive,
            Ok(None) => return self.not_started("its process has ended before its start".to_owned()),
            Err(error) => return self.not_started(error.to_string()),
        };
        if let Err(error) = self.arm(clock::now()) {
            return self.not_started(error.to_string());
        }
        for untold in alive.observer.iter().flat_map(|observer| observer.untold.clone()).collect::<Vec<_>>() {
            self.note("supervisor", json!({ "pressure": untold }));
        }
        if let Some(manager) = &self.manager {
            manager.keep(process, alive.pidfd.as_fd());
        }
        self.alive = Some(alive);
        if let Some(output) = &mut self.output {
            output.forget();
        }
        let (runtime, id, supervisor) = (self.wanted.runtime.clone(), self.wanted.id.clone(), nix::unistd::getpid());
        let start = move || match end_with_supervisor(supervisor) {
            Ok(()) => Reply::from(runtime.call(&["start", &id])),
            Err(error) => Reply::failed(error),
        };
        match self.work(start) {
            Ok(job) => self.phase = Phase::Starting(job),
            Err(error) => return self.not_started(error.to_string()),
        }
        self.keep();
    }

    fn started(&mut self, now: Moment) -> Result<()> {
        self.phase = Phase::Up;
        self.started_once = true;
        let Some(alive) = &mut self.alive else { return Ok(()) };
        alive.started = now;
        alive.started_unix = clock::wall();
        alive.probes = probes(&self.wanted.config, now);
        let (pid, early) = (alive.process.pid, alive.early);
        self.note("start", json!({ "pid": pid, "restarts": self.restarts.total() }));
        self.keep();
        if let Some(parent) = self.parent.take() {
            // It may not wait any more.
            let _ = crate::sys::path::write(parent.as_fd(), &[0]);
        }
        if let Some(end) = early {
            self.ended(Some(end));
            return Ok(());
        }
        match self.stop.take() {
            Some(stop) => self.ask_to_stop(stop.why, stop.deadline.map(|deadline| deadline.saturating_sub(now))),
            None => Ok(()),
        }
    }

    fn not_started(&mut self, error: String) {
        self.note("start", json!({ "error": error }));
        self.failure = Some(error);
        let exit = if self.fence.fired() { Exit::Fenced } else { Exit::NotStarted };
        let failed = Ended { exit, end: None, uptime: Duration::ZERO };
        self.last_exit = Some(failed.view());
        let asked = self.stop.is_some_and(|stop| stop.why == Why::Asked);
        self.remove(Ended { exit: if asked { Exit::Asked } else { failed.exit }, ..failed });
    }

    /// Its first process has ended. What the kernel still counts is read now: the cgroup goes next.
    fn ended(&mut self, end: Option<End>) {
        if let (Phase::Making(_) | Phase::Starting(_), Some(alive)) = (&self.phase, &mut self.alive) {
            // Its start tells more of why, or that it was a short one.
            alive.early = end;
            return;
        }
        self.abandon_probes();
        let now = clock::now();
        if self.alive.is_none() || self.fence.holds(end, now) {
            return;
        }
        let Some(mut alive) = self.alive.take() else { return };
        let uptime = now.saturating_sub(alive.started);
        let fenced = self.fence.fired();
        let exit = kind(self.stop.map(|stop| stop.why), fenced, end, || alive.oom_just_now(now));
        let ended = Ended { exit, end, uptime };
        if let Some(output) = &mut self.output {
            output.drain();
        }
        self.record(&alive, ended);
        self.alive = Some(alive);
        self.remove(ended);
    }

    /// Ends the probes that are being made.
    fn abandon_probes(&mut self) {
        let Some(alive) = &mut self.alive else { return };
        for probing in &mut alive.probes {
            probing.abandon(&mut self.children, &self.poll);
        }
    }

    /// Takes it away, with all that it has left running.
    fn remove(&mut self, ended: Ended) {
        if let Some((manager, alive)) = self.manager.as_ref().zip(self.alive.take()) {
            manager.forget(alive.process);
        }
        self.fence.leave();
        if let Some(stop) = &mut self.stop {
            (stop.signal_at, stop.deadline) = (None, None);
        }
        let (runtime, id, ours) = (self.wanted.runtime.clone(), self.wanted.id.clone(), self.ours);
        match self.work(move || if ours { runtime.remove(&id) } else { Reply::default() }) {
            Ok(job) => self.phase = Phase::Removing(job, ended),
            Err(error) => {
                self.note("supervisor", json!({ "remove": error.to_string() }));
                self.over_or_again(ended, clock::now());
            }
        }
        self.keep();
    }

    fn removed(&mut self, ended: Ended, now: Moment) -> Result<()> {
        self.fence.disarm();
        if self.stop.is_some_and(|stop| stop.why == Why::Restart) {
            return self.launch();
        }
        self.over_or_again(ended, now);
        self.keep();
        Ok(())
    }

    fn over_or_again(&mut self, ended: Ended, now: Moment) {
        let asked = self.stop.is_some_and(|stop| stop.why == Why::Asked);
        self.phase = match self.restarts.exited(now, ended.uptime, ended.exit, health::jitter()) {
            Next::Start(_) if !self.started_once && ended.exit != Exit::Fenced => Phase::Over(ended),
            // It had ended by itself, and was asked before it was started again.
            Next::Start(_) if asked => Phase::Over(Ended { exit: Exit::Asked, ..ended }),
            Next::Start(at) => Phase::Waiting(at),
            Next::Stay => Phase::Over(ended),
        };
    }

    /// What has had its time.
    fn times(&mut self) -> Result<()> {
        let now = clock::now();
        self.fence_when_due(now);
        if self.fence.fired() {
            self.look_at_fence(now);
        }
        self.lease(now)?;
        self.children.kill_late(now);
        self.connections.expire(now);
        if let Some((manager, at)) = self.manager.as_ref().zip(self.watchdog).filter(|(_, at)| *at <= now) {
            let half = manager.watchdog.unwrap_or(EXTENSION);
            if self.well() {
                manager.alive();
            }
            self.watchdog = Some(at.max(now.saturating_sub(half)) + half);
        }
        if let Some(alive) = self.alive.as_mut().filter(|alive| alive.deaf.is_some_and(|until| until <= now)) {
            alive.deaf = None;
            if let Some(socket) = &alive.notify {
                let _ = self.poll.change(socket, token::NOTIFY, EpollFlags::EPOLLIN);
            }
        }
        if self.deaf.is_some_and(|until| until <= now) {
            self.deaf = None;
            self.hear_clients(true);
        }
        if self.stop.and_then(|stop| stop.signal_at).is_some_and(|at| at <= now) {
            self.signal_to_stop();
        }
        if self.stop.and_then(|stop| stop.deadline).is_some_and(|deadline| deadline <= now) {
            self.kill();
        }
        if self.alive.as_ref().and_then(|alive| alive.unreaped).is_some_and(|until| until <= now) {
            self.gone()?;
        }
        if let Phase::Waiting(at) = self.phase
            && at <= now
        {
            return self.launch();
        }
        self.probe(now);
        let said = self.push.begin(&mut self.children, &self.poll, now);
        self.pushed(said);
        Ok(())
    }

    /// What became of what was told.
    fn pushed(&mut self, said: impl IntoIterator<Item = Said>) {
        for said in said {
            let data = match said {
                Said::Hook(error) => json!({ "push": error }),
                Said::Heartbeat(went) => json!({ "heartbeat": went.err() }),
            };
            self.note("supervisor", data);
        }
    }

    /// The probes whose time has come.
    fn probe(&mut self, now: Moment) {
        if self.phase != Phase::Up {
            return;
        }
        let Some(alive) = &mut self.alive else { return };
        if alive.next_look.is_some_and(|at| at <= now) {
            alive.look_at_pressure(now);
        }
        // What is frozen can't answer.
        if alive.paused {
            return;
        }
        let mut changed = false;
        let mut looked = false;
        for index in probed(&alive.probes) {
            let probing = &mut alive.probes[index];
            if probing.next().is_none_or(|at| at > now) {
                continue;
            }
            looked |= !probing.busy();
            let mut means = Means {
                children: &mut self.children,
                poll: &self.poll,
                runtime: &self.wanted.runtime,
                id: &self.wanted.id,
                pidfd: alive.pidfd.as_fd(),
                observer: alive.observer.as_ref(),
                directory: self.directory.path(),
                netns: self.netns.as_fd(),
            };
            changed |= probing.due(now, &mut means);
        }
        // Who wakes up anyway looks at the limits that give no notice, too.
        if looked && alive.next_look.is_none() {
            alive.look_at_pressure(now);
        }
        if changed {
            self.verdicts();
        }
    }

    /// A probe has come to another verdict.
    fn verdicts(&mut self) {
        let Some(alive) = &mut self.alive else { return };
        let started = alive.probes.iter().any(|probing| probing.what == For::Startup) && !alive.starting();
        if started && !std::mem::replace(&mut alive.has_started, started) {
            let now = clock::now();
            for probing in alive.probes.iter_mut().filter(|probing| probing.what != For::Startup) {
                probing.afresh(now, &mut self.children, &self.poll);
            }
        }
        let views: Vec<_> = alive.probes.iter().map(Probing::view).collect();
        let failed = alive
            .probes
            .iter()
            .find(|probing| probing.what != For::Readiness && matches!(probing.verdict(), Verdict::Fail(_)));
        let failed = failed.map(|probing| probing.what.as_str());
        self.note("probe", serde_json::to_value(views).unwrap_or_default());
        self.keep();
        let restarts = self.wanted.config.restart.when != When::No;
        if let (Some(what), None, true) = (failed, self.stop, restarts) {
            self.note("supervisor", json!({ "stop": format!("{what} probe fails") }));
            if let Err(error) = self.ask_to_stop(Why::Unhealthy, None) {
                complain(&error);
            }
        }
    }
}

/// What is said of an end, by why it was asked for, if it was. `fenced`: it was killed for want of its lease. `oom`: memory is what the kernel has killed it for.
fn kind(asked: Option<Why>, fenced: bool, end: Option<End>, oom: impl FnOnce() -> bool) -> Exit {
    match (asked, end) {
        (Some(Why::Asked), _) => Exit::Asked,
        _ if fenced => Exit::Fenced,
        (Some(Why::Restart), _) => Exit::Asked,
        (Some(Why::Unhealthy), _) => Exit::Unhealthy,
        (None, Some(End::Exited(status))) => Exit::Code(status as u8),
        (None, Some(End::Signaled(libc::SIGKILL))) if oom() => Exit::Oom,
        (None, Some(End::Signaled(signal))) => Exit::Signal(signal as u8),
        (None, None) => Exit::Unknown,
    }
}

impl Config {
    /// Whether some probe is what the program says itself.
    pub fn notifies(&self) -> bool {
        let checks = [&self.startup, &self.liveness, &self.readiness];
        checks.into_iter().flatten().any(|check| check.how == How::Notify)
    }
}

/// Says what nobody else can be told. Standard error may be closed, too.
fn complain(error: &Error) {
    let _ = writeln!(std::io::stderr(), "orlop-shim: {error}");
}

/// The program by the name it was called by, for an upgrade: an absolute path.
pub fn program() -> PathBuf {
    let name = std::env::args_os().next().unwrap_or_default();
    let path = Path::new(&name);
    if path.components().count() > 1 {
        return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    }
    let directories =
        std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/sbin:/usr/sbin:/sbin:/bin"));
    let found = std::env::split_paths(&directories).map(|directory| directory.join(path));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| path.to_owned())
}
