//! sd_notify(3) of the supervisor itself: what the service manager hears of it.

use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::notify::address;
use crate::sys::start::take_variable;

/// The manager, by the environment that it has given us. Nothing that the supervisor begins has that environment.
#[derive(Debug)]
pub struct Manager {
    name: OsString,
    socket: UnixDatagram,
    /// How often it wants to hear `WATCHDOG=1`, at most half of what it waits for (sd_watchdog_enabled(3)).
    pub watchdog: Option<Duration>,
    ready: bool,
    status: String,
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
        Some(Self { name: name?, socket, watchdog, ready: false, status: String::new() })
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
}
