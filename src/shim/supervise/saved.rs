//! What another supervisor needs to go on: after this one's death, or in its place.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use super::{Alive, Deserialize, Duration, Error, Moment, Path, PathBuf, Phase, Process, Restarts, Result, Runtime};
use super::{Serialize, SocketAddr, Supervisor, Wanted, Why, clock, probes, state, token};
use crate::shim::config::Config;
use crate::shim::record;
use crate::shim::view::ExitView;
use crate::sys::process::{StringArray, dup_onto, execve};
use std::os::fd::AsFd;

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
    /// It had been asked to stop.
    pub stopping: bool,
    /// What it has lived through.
    pub restarts: Restarts,
    /// How it ended the last time.
    pub last_exit: Option<ExitView>,
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
            stopping: self.stop.is_some_and(|stop| stop.why == Why::Asked),
            restarts: self.restarts.clone(),
            last_exit: self.last_exit.clone(),
        };
        self.directory.write("supervisor.json", &saved)
    }

    /// Goes on where another supervisor was. `child`: it was this very process, before an execve.
    ///
    /// # Errors
    /// The container's state can't be read.
    pub fn go_on(&mut self, saved: Saved, child: bool) -> Result<()> {
        self.restarts = saved.restarts.clone().under(self.wanted.config.restart);
        self.last_exit = saved.last_exit.clone();
        let same_boot = saved.boot_id == state::boot_id()?;
        let alive = match saved.process.filter(|_| same_boot) {
            Some(process) => Alive::new(process, &self.wanted, &self.poll, child)?,
            None => None,
        };
        let now = clock::now();
        let started = Moment::try_from_secs_f64(saved.started).unwrap_or(now);
        match alive {
            Some(mut alive) => {
                alive.started = started;
                alive.started_unix = saved.started_unix;
                alive.probes = probes(&self.wanted.config, now);
                let pid = alive.process.pid;
                self.alive = Some(alive);
                self.phase = Phase::Up;
                self.note("supervisor", serde_json::json!({ "resumed": pid, "child": child }));
                if saved.stopping {
                    self.ask_to_stop(Why::Asked, None)?;
                }
                self.save()
            }
            // It ended while nobody looked: how is not known any more.
            None if saved.process.is_some() => self.missed(now.saturating_sub(started), same_boot, saved.stopping),
            // Between two starts.
            None => Ok(()),
        }
    }

    fn missed(&mut self, uptime: Duration, same_boot: bool, stopping: bool) -> Result<()> {
        let exit = if stopping { super::Exit::Asked } else { super::Exit::Unknown };
        let uptime = if same_boot { uptime } else { Duration::ZERO };
        let view = ExitView {
            kind: if stopping { "asked" } else { "unknown" }.to_owned(),
            code: None,
            signal: None,
            at: state::now(),
            uptime_seconds: uptime.as_secs_f64(),
        };
        self.note("exit", serde_json::json!({ "exit": view, "missed": true, "sameBoot": same_boot }));
        self.last_exit = Some(view);
        self.remove(super::Ended { exit, end: None, uptime })
    }

    /// Executes the supervisor's program anew, as the parent of the same children. Comes back with why that was not possible.
    pub(super) fn execute_anew(&mut self) -> Error {
        const FIRST: i32 = 100;
        if let Err(error) = self.save() {
            return error;
        }
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
