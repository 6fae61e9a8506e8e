//! sd_notify(3) of the supervisor itself: what the service manager hears of it, and what it keeps for the next one.

use std::ffi::OsString;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use super::children::Process;
use crate::notify::address;
use crate::sys::path::inherited;
use crate::sys::process::close_range;
use crate::sys::start::take_variable;

/// Descriptors of the manager's that are looked at; a supervisor has given it one.
const KEPT: u32 = 64;

/// The manager, by the environment that it has given us. Nothing that the supervisor begins has that environment.
#[derive(Debug)]
pub struct Manager {
    name: OsString,
    socket: UnixDatagram,
    /// How often it wants to hear `WATCHDOG=1`, at most half of what it waits for (sd_watchdog_enabled(3)).
    pub watchdog: Option<Duration>,
    ready: bool,
    status: String,
    /// What an earlier supervisor has given it, by name.
    kept: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// None: nobody wants to hear anything.
    pub fn take() -> Option<Self> {
        let name = take_variable("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let (usec, pid) = (take_variable("WATCHDOG_USEC"), take_variable("WATCHDOG_PID"));
        let number = |text: Option<OsString>| text.and_then(|text| text.to_str()?.parse::<u64>().ok());
        let ours = pid.is_none() || number(pid) == Some(u64::from(std::process::id()));
        let watchdog = number(usec).filter(|usec| *usec > 0 && ours).map(|usec| Duration::from_micros(usec / 2));
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { name: name?, socket, watchdog, ready: false, status: String::new(), kept: kept() })
    }

    /// The environment as it was, for the same program once more.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let watchdog = self.watchdog.map(|half| ("WATCHDOG_USEC", (half.as_micros() * 2).to_string().into()));
        [("NOTIFY_SOCKET", self.name.clone())].into_iter().chain(watchdog).collect()
    }

    /// Sends one message. Whether the manager has heard it is not known: a full queue is its own affair, and the next message
    /// says the same.
    fn send(&self, message: &str) -> bool {
        address(&self.name).and_then(|address| self.socket.send_to_addr(message.as_bytes(), &address)).is_ok()
    }

    /// The container may be sent work. Said once: sd_notify has no word for the contrary.
    pub fn ready(&mut self) {
        if !self.ready {
            self.ready = self.send("READY=1");
        }
    }

    /// What `systemctl status` shows.
    pub fn status(&mut self, text: &str) {
        if self.status != text && self.send(&format!("STATUS={text}")) {
            text.clone_into(&mut self.status);
        }
    }

    /// The supervisor's loop goes round.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// A start takes its time.
    pub fn extend(&self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// It is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Gives it the pidfd of a container's first process: as long as that is open somewhere, the kernel tells how the process has
    /// ended (6.15), also when nobody is there to see it. `FDPOLL=0`: or it would be given up with the process's end.
    pub fn keep(&self, process: Process, pidfd: BorrowedFd<'_>) {
        let message = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", fd_name(process));
        let Ok(path) = address(&self.name) else { return };
        let connected = UnixDatagram::unbound().and_then(|socket| socket.connect_addr(&path).map(|()| socket));
        // One that keeps nothing (FileDescriptorStoreMax=0) ignores it.
        let Ok(socket) = connected else { return };
        let _ = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(message.as_bytes())],
            &[ControlMessage::ScmRights(&[pidfd.as_raw_fd()])],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }

    /// It need not keep it any more.
    pub fn forget(&self, process: Process) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={}", fd_name(process)));
    }

    /// The pidfd of this very process, if an earlier supervisor has given it away.
    pub fn kept(&self, process: Process) -> Option<&OwnedFd> {
        let wanted = fd_name(process);
        self.kept.iter().find(|(name, _)| *name == wanted).map(|(_, file)| file)
    }
}

/// Number and start together name no other process of this boot.
fn fd_name(process: Process) -> String {
    format!("process-{}-{}", process.pid, process.start)
}

/// What it has passed us (sd_listen_fds(3)): copies, which no child of ours has.
fn kept() -> Vec<(String, OwnedFd)> {
    const FIRST: u32 = 3;
    let (pid, count, names) =
        (take_variable("LISTEN_PID"), take_variable("LISTEN_FDS"), take_variable("LISTEN_FDNAMES"));
    let number = |text: Option<OsString>| text?.to_str()?.parse::<u32>().ok();
    let count = number(count).filter(|count| (1..=KEPT).contains(count)).unwrap_or(0);
    if number(pid) != Some(std::process::id()) || count == 0 {
        return Vec::new();
    }
    let names = names.map(|names| names.to_string_lossy().into_owned()).unwrap_or_default();
    let numbers = FIRST..FIRST + count;
    let files = names
        .split(':')
        .zip(numbers)
        .filter_map(|(name, number)| Some((name.to_owned(), inherited(number as i32).try_clone_to_owned().ok()?)));
    let files = files.collect();
    let _ = close_range(FIRST, FIRST + count - 1, false);
    files
}
