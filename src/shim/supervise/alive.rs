//! One start of a container: its process, and all that is watched of it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;

use super::{Wanted, token};
use crate::error::{Error, Result};
use crate::shim::children::Process;
use crate::shim::clock::{self, Moment};
use crate::shim::config::Config;
use crate::shim::epoll::{EpollFlags, Poll};
use crate::shim::health::Pressure;
use crate::shim::observe::{Limits, Observer};
use crate::shim::probe::Verdict;
use crate::shim::probing::{For, Probing};
use crate::state;
use crate::sys::pidfd::{End, WaitId, waitid};

/// One start of it, as long as its process lives.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) process: Process,
    pub(super) pidfd: OwnedFd,
    /// It is our child. If not, its pidfd tells its end.
    pub(super) child: bool,
    pub(super) observer: Option<Observer>,
    /// The container's NOTIFY_SOCKET.
    pub(super) notify: Option<UnixDatagram>,
    pub(super) started: Moment,
    /// On the wall, in seconds since 1970.
    pub(super) started_unix: f64,
    pub(super) ready_after: Option<Duration>,
    pub(super) probes: Vec<Probing>,
    pub(super) paused: bool,
    pub(super) pressure: Pressure,
    pub(super) next_look: Option<Moment>,
    pub(super) oom_kills: u64,
    /// When the kernel has killed one of its processes for want of memory the last time.
    pub(super) oom_at: Option<Moment>,
    /// Its startup probe has passed, if it has one.
    pub(super) has_started: bool,
    /// After this moment its messages are heard again.
    pub(super) deaf: Option<Moment>,
    /// It ended before its start was known to have worked.
    pub(super) early: Option<End>,
    /// It has ended, and its parent has not waited for it: then it is given up.
    pub(super) unreaped: Option<Moment>,
}

impl Alive {
    /// Opens all there is to watch of a process. None: it has ended.
    pub(super) fn new(process: Process, wanted: &Wanted, poll: &Poll) -> Result<Option<Self>> {
        let Some(pidfd) = process.open()? else { return Ok(None) };
        let dir = wanted.runtime.store().open(&wanted.id)?;
        let cgroup = dir.read()?.open_cgroup()?;
        let observer = cgroup.map(|cgroup| Observer::new(cgroup, Limits::default())).transpose()?;
        let notify = wanted.config.notifies().then(|| bind(&dir)).transpose()?;
        if let Some(observer) = &observer {
            let notices = [
                (&observer.events, token::CGROUP),
                (&observer.memory, token::MEMORY),
                (&observer.pids, token::PRESSURE),
            ];
            for (notice, token) in notices.into_iter().filter_map(|(notice, token)| Some((notice.as_ref()?, token))) {
                poll.add(notice, token, EpollFlags::EPOLLPRI)?;
            }
            for trigger in &observer.triggers {
                poll.add(trigger, token::PRESSURE, EpollFlags::EPOLLPRI)?;
            }
        }
        if let Some(notify) = &notify {
            poll.add(notify, token::NOTIFY, EpollFlags::EPOLLIN)?;
        }
        // As the kernel sees it: a supervisor that was executed anew may have been the second one already.
        let child = waitid(WaitId::Pidfd(pidfd.as_fd()), libc::WNOHANG | libc::WNOWAIT) != Err(Errno::ECHILD);
        if !child {
            poll.add(&pidfd, token::PROCESS, EpollFlags::EPOLLIN)?;
        }
        let paused = observer.as_ref().is_some_and(Observer::frozen);
        let oom_kills = observer.as_ref().map_or(0, Observer::oom_kills);
        let next_look = observer.as_ref().and_then(|observer| observer.next_look(Pressure::None, clock::now()));
        Ok(Some(Self {
            process,
            pidfd,
            child,
            observer,
            notify,
            started: clock::now(),
            started_unix: clock::wall(),
            ready_after: None,
            probes: Vec::new(),
            paused,
            pressure: Pressure::None,
            next_look,
            oom_kills,
            oom_at: None,
            has_started: false,
            deaf: None,
            early: None,
            unreaped: None,
        }))
    }

    /// The probes that pass, by what they are for.
    pub(super) fn passed(&self) -> Vec<String> {
        let passed = self.probes.iter().filter(|probing| probing.verdict() == Verdict::Pass);
        passed.map(|probing| probing.what.as_str().to_owned()).collect()
    }

    pub(super) fn oom_kills_now(&mut self) -> u64 {
        let Some(observer) = &mut self.observer else { return 0 };
        if let Some(memory) = &mut observer.memory {
            memory.read();
        }
        observer.oom_kills()
    }

    /// An end by SIGKILL at `now` is the kernel's, for want of memory: the count and the signal come together, and what a child of
    /// long ago died of says nothing.
    pub(super) fn oom_just_now(&mut self, now: Moment) -> bool {
        const TOGETHER: Duration = Duration::from_secs(2);
        self.oom_kills_now() > self.oom_kills || self.oom_at.is_some_and(|at| now.saturating_sub(at) < TOGETHER)
    }

    pub(super) fn look_at_freezer(&mut self) {
        let Some(observer) = &mut self.observer else { return };
        if let Some(events) = &mut observer.events {
            self.paused = events.read().lines().any(|line| line == "frozen 1");
        }
    }

    pub(super) fn look_at_pressure(&mut self, now: Moment) {
        let Some(observer) = &mut self.observer else { return };
        self.pressure = observer.pressure(self.pressure);
        self.next_look = observer.next_look(self.pressure, now);
    }
}

/// The container's NOTIFY_SOCKET, in the directory that its create has made for it.
fn bind(dir: &state::Dir) -> Result<UnixDatagram> {
    let failed = |call: &str, error: &std::io::Error| {
        Error::new("bind the container's NOTIFY_SOCKET").call(call, crate::host::errno(error))
    };
    let path = format!("/proc/self/fd/{}/{}", dir.fd().as_raw_fd(), crate::notify::socket());
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).map_err(|error| failed("bind", &error))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).map_err(|error| failed("chmod", &error))?;
    socket.set_nonblocking(true).map_err(|error| failed("fcntl", &error))?;
    Ok(socket)
}

/// The probes of one start.
pub(super) fn probes(config: &Config, now: Moment) -> Vec<Probing> {
    let all = [(For::Startup, &config.startup), (For::Liveness, &config.liveness), (For::Readiness, &config.readiness)];
    let checks = all.into_iter().filter_map(|(what, check)| Some((what, check.as_ref()?)));
    checks
        .enumerate()
        .map(|(index, (what, check))| Probing::new(what, check, now, token::PROBE + index as u64, 0.0))
        .collect()
}

/// Those that are made now: until the startup probe has passed, none but it; afterwards, all but it.
pub(super) fn probed(probes: &[Probing]) -> Vec<usize> {
    let waits = probes.iter().any(|probing| probing.what == For::Startup && probing.verdict() != Verdict::Pass);
    let made = |probing: &&Probing| (probing.what == For::Startup) == waits;
    probes.iter().enumerate().filter(|(_, probing)| made(probing)).map(|(index, _)| index).collect()
}
