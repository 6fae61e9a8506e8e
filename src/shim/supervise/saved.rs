//! What another supervisor needs to go on: after this one's death, or in its place.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use super::fence::SavedLease;
use super::{
    Alive, Deserialize, Duration, Ended, Error, Exit, Moment, Path, PathBuf, Phase, Process, Restarts, Result,
};
use super::{End, Runtime, Serialize, SocketAddr, Stop, Supervisor, Wanted, Why, clock, kind, probes, state, token};
use crate::shim::config::Config;
use crate::shim::record;
use crate::shim::view::ExitView;
use crate::sys::pidfd::exit_of;
use crate::sys::process::{StringArray, dup_onto, execve};
use std::os::fd::AsFd;

/// Where it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum At {
    /// It was being made and started, or about to be.
    Start,
    Up,
    /// It was being taken away.
    Removing(Ended),
    /// Until this moment of `boot_id`.
    Waiting(Moment),
    Over(Ended),
}

/// supervisor.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The container's id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The directory of the containers' states.
    pub root: PathBuf,
    /// systemd makes its cgroup.
    pub systemd_cgroup: bool,
    /// A loopback port.
    pub listen: Option<SocketAddr>,
    /// The boot that `process` and `started` are of.
    pub boot_id: String,
    /// Its first process.
    pub process: Option<Process>,
    /// When that was started, in seconds of `CLOCK_BOOTTIME`.
    pub started: f64,
    /// The same on the wall, in seconds since 1970.
    pub started_unix: f64,
    /// It had been asked to stop, for this.
    stop: Option<Why>,
    /// Where it was.
    at: At,
    /// Whatever container has the id is this supervisor's.
    ours: bool,
    /// Some start has worked.
    started_once: bool,
    /// Its processes that were killed for want of memory, as far as that was told.
    #[serde(default)]
    oom_kills: u64,
    /// The probes that passed last, by what they are for.
    #[serde(default)]
    pub passed: Vec<String>,
    /// Somebody wants it to get no work.
    #[serde(default)]
    pub drained: bool,
    /// From its start to the first time that it was ready, in seconds.
    #[serde(default)]
    pub ready_after: Option<f64>,
    /// What it has lived through.
    pub restarts: Restarts,
    /// How it ended the last time.
    pub last_exit: Option<ExitView>,
    /// What it holds.
    #[serde(default)]
    lease: Option<SavedLease>,
}

impl Supervisor {
    pub(super) fn save(&self) -> Result<()> {
        let alive = self.alive.as_ref();
        let saved = Saved {
            id: self.wanted.id.clone(),
            bundle: self.wanted.bundle.clone(),
            root: self.wanted.runtime.root.clone(),
            systemd_cgroup: self.wanted.runtime.systemd_cgroup,
            listen: self.wanted.listen,
            boot_id: state::boot_id()?,
            process: alive.map(|alive| alive.process),
            started: alive.map_or(Duration::ZERO, |alive| alive.started).as_secs_f64(),
            started_unix: alive.map_or(0.0, |alive| alive.started_unix),
            stop: self.stop.map(|stop| stop.why),
            at: match self.phase {
                Phase::Idle | Phase::Leasing | Phase::Making(_) | Phase::Starting(_) => At::Start,
                Phase::Up => At::Up,
                Phase::Removing(_, ended) => At::Removing(ended),
                Phase::Waiting(at) => At::Waiting(at),
                Phase::Over(ended) => At::Over(ended),
            },
            ours: self.ours || (matches!(self.phase, Phase::Making(_)) && !self.taken),
            started_once: self.started_once,
            oom_kills: alive.map(|alive| alive.oom_kills).unwrap_or_default(),
            passed: alive.map(Alive::passed).unwrap_or_default(),
            drained: self.drained,
            ready_after: alive.and_then(|alive| Some(alive.ready_after?.as_secs_f64())),
            restarts: self.restarts.clone(),
            last_exit: self.last_exit.clone(),
            lease: self.saved_lease(),
        };
        self.directory.write("supervisor.json", &saved)
    }

    /// Writes down where it is. A full file system ends no supervision: the next one knows less then, and that is said.
    pub(super) fn keep(&mut self) {
        if let Err(error) = self.save() {
            self.note("supervisor", serde_json::json!({ "save": error.to_string() }));
        }
    }

    /// Goes on where another supervisor was, which may have been this very process before an execve.
    ///
    /// # Errors
    /// The container's state can't be read.
    pub fn go_on(&mut self, saved: Saved) -> Result<()> {
        let same_boot = saved.boot_id == state::boot_id()?;
        self.go_on_with_lease(saved.lease.as_ref(), same_boot, clock::now());
        self.restarts = saved.restarts.clone().under(self.wanted.config.restart);
        if !same_boot {
            self.restarts.another_boot();
        }
        self.last_exit = saved.last_exit.clone();
        self.ours = saved.ours;
        self.drained = saved.drained;
        self.started_once = saved.started_once;
        let stop = |why| Stop::of(why, None);
        match saved.at {
            At::Up => return self.go_on_with(&saved, same_boot),
            At::Start if saved.stop == Some(Why::Asked) => {
                let ended = Ended { exit: Exit::Asked, end: None, uptime: Duration::ZERO };
                self.stop = saved.stop.map(stop);
                self.remove(ended);
            }
            // Its start may have worked after all: then it runs, and is not made anew.
            At::Start if same_boot && self.runs() => return self.go_on_with(&saved, same_boot),
            At::Start => {}
            At::Removing(ended) => {
                self.stop = saved.stop.map(stop);
                self.remove(ended);
            }
            At::Waiting(at) => self.phase = Phase::Waiting(if same_boot { at } else { clock::now() }),
            At::Over(ended) => self.phase = Phase::Over(ended),
        }
        self.note("supervisor", serde_json::json!({ "resumed": null }));
        self.save()
    }

    /// Its program has been started.
    fn runs(&self) -> bool {
        let status = |dir: state::Dir| dir.read()?.status(&dir);
        let status = self.wanted.runtime.store().open(&self.wanted.id).and_then(status);
        matches!(status, Ok(state::Status::Running | state::Status::Paused))
    }

    fn go_on_with(&mut self, saved: &Saved, same_boot: bool) -> Result<()> {
        let (now, started) = (clock::now(), Moment::try_from_secs_f64(saved.started).unwrap_or_default());
        let alive = match saved.process.filter(|_| same_boot) {
            Some(process) => Alive::new(process, &self.wanted, &self.poll)?,
            None => None,
        };
        // It ended while nobody looked. Who has kept its pidfd knows how, where the kernel tells (6.15); else nobody does.
        let Some(mut alive) = alive else {
            let kept = saved.process.filter(|_| same_boot).and_then(|process| self.manager.as_ref()?.kept(process));
            let end = kept.and_then(|pidfd| exit_of(pidfd.as_fd()).ok().flatten());
            let uptime = if same_boot { now.saturating_sub(started) } else { Duration::ZERO };
            return self.missed(saved, uptime, end, same_boot);
        };
        // One that was being started has none yet.
        if !started.is_zero() {
            alive.started = started;
            alive.started_unix = saved.started_unix;
        }
        alive.probes = probes(&self.wanted.config, now);
        alive.ready_after = saved.ready_after.and_then(|after| Duration::try_from_secs_f64(after).ok());
        let (pid, child) = (alive.process.pid, alive.child);
        for probing in &mut alive.probes {
            if saved.passed.iter().any(|passed| passed == probing.what.as_str()) {
                probing.passed_before(now, child);
            }
        }
        self.alive = Some(alive);
        self.phase = Phase::Up;
        self.started_once = true;
        self.note("supervisor", serde_json::json!({ "resumed": pid, "child": child }));
        if let Some(why) = saved.stop {
            self.ask_to_stop(why, None)?;
        }
        self.save()
    }

    fn missed(&mut self, saved: &Saved, uptime: Duration, end: Option<End>, same_boot: bool) -> Result<()> {
        let exit = kind(saved.stop, self.fence.fired(), end, || self.oom_kills_left() > saved.oom_kills);
        let ended = Ended { exit, end, uptime };
        let view = ended.view();
        let fence = self.fence.evidence();
        let said = serde_json::json!({ "exit": view, "missed": true, "sameBoot": same_boot, "fence": fence });
        self.note("exit", said);
        self.last_exit = Some(view);
        self.stop = saved.stop.map(|why| Stop::of(why, None));
        if let Some((manager, process)) = self.manager.as_ref().zip(saved.process) {
            manager.forget(process);
        }
        self.remove(ended);
        Ok(())
    }

    /// What is counted in the cgroup that a container has left.
    fn oom_kills_left(&self) -> u64 {
        let dir = self.wanted.runtime.store().open(&self.wanted.id);
        let cgroup = dir.and_then(|dir| dir.read()?.open_cgroup()).ok().flatten();
        let text = cgroup.and_then(|cgroup| cgroup.read("memory.events").ok().flatten()).unwrap_or_default();
        crate::cgroup::stats::value_of(&text, "oom_kill").unwrap_or(0)
    }

    /// Nothing is on its way that another program would not know of.
    pub(super) fn can_be_replaced(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Waiting(_) | Phase::Leasing)
            && !self.fence.fired()
            && self.children.idle()
            && self.push.told_all()
    }

    /// Executes the supervisor's program anew, as the parent of the same children. Comes back with why that was not possible.
    pub(super) fn execute_anew(&mut self) -> Error {
        const FIRST: i32 = 100;
        // What it would end with is found out while there is a way back.
        if let Err(error) = Config::of_bundle(&self.wanted.bundle).and_then(|_| self.save()) {
            return error;
        }
        self.abandon_probes();
        for (index, listener) in self.listeners.iter().enumerate() {
            let copied = crate::sys::process::dup_from(listener.as_fd(), FIRST + 32);
            let passed = copied.and_then(|copy| dup_onto(copy.as_fd(), FIRST + index as i32));
            if let Err(errno) = passed {
                return Error::new("pass the listening sockets on").call("dup3", errno);
            }
        }
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        let word = |word: &str| CString::new(word).unwrap_or_default();
        let program = text(&self.wanted.program);
        let words = vec![
            program.clone(),
            word("resume"),
            word("--directory"),
            text(&self.wanted.directory),
            word("--sockets"),
            word(&self.listeners.len().to_string()),
            word(if self.foreground { "--foreground" } else { "--in-place" }),
            word(&self.wanted.id),
        ];
        let own = self.manager.iter().flat_map(|manager| manager.environment());
        let own = own.map(|(name, value)| (std::ffi::OsString::from(name), value));
        let environment = std::env::vars_os().chain(own).filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.as_bytes()).ok()
        });
        let errno = execve(&program, &StringArray::new(words), &StringArray::new(environment.collect()), None);
        let _ = crate::sys::process::close_range(FIRST as u32, FIRST as u32 + 8, false);
        Error::new(format!("execute {}", self.wanted.program.display())).call("execve", errno)
    }
}

/// What a supervisor has left, and the bundle's word on its health, read anew.
///
/// # Errors
/// There is nothing, or the bundle is not what it should be.
pub fn left(directory: &Path, id: &str, program: PathBuf) -> Result<(Saved, Wanted)> {
    crate::validate::container_id(id)?;
    let saved: Option<Saved> = record::read(&directory.join(id), "supervisor.json")?;
    let saved = saved.ok_or_else(|| {
        Error::new(format!("no supervisor has left anything of container {id}"))
            .hint("orlop-shim run begins one; a supervisor that has ended as it should leaves nothing to go on with")
    })?;
    let runtime = Runtime { root: saved.root.clone(), systemd_cgroup: saved.systemd_cgroup };
    let wanted = Wanted {
        id: id.to_owned(),
        bundle: saved.bundle.clone(),
        runtime,
        directory: directory.to_owned(),
        listen: saved.listen,
        config: Config::of_bundle(&saved.bundle)?,
        program,
    };
    Ok((saved, wanted))
}

/// The listening sockets of this process before its execve.
pub fn inherited_sockets(count: usize) -> Result<Vec<super::Listener>> {
    use crate::shim::http::Kind;
    let kinds = [Kind::Read, Kind::Control, Kind::Tcp];
    let mut listeners = Vec::new();
    for (index, kind) in kinds.into_iter().take(count).enumerate() {
        let socket = crate::sys::path::inherited(100 + index as i32).try_clone_to_owned();
        let socket = socket.map_err(|error| Error::new(format!("take the listening sockets over: {error}")))?;
        listeners.push(super::Listener::inherited(socket, kind));
    }
    let _ = crate::sys::process::close_range(100, 108, false);
    const { assert!(token::LISTENER + 3 <= token::CGROUP) };
    Ok(listeners)
}
