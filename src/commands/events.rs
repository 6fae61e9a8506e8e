//! `events`.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::Global;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::resctrl;
use crate::state::Status;

/// `events`.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Time between two lines of statistics: 5s, 100ms, 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", allow_hyphen_values = true)]
    interval: String,
    /// Print the statistics once
    #[arg(long)]
    stats: bool,
}

pub(super) fn run(args: &EventsArgs, global: &Global) -> anyhow::Result<i32> {
    let dir = global.store().open(&args.id)?;
    let interval = duration(&args.interval)?;
    let state = dir.read()?;
    let stopped = || state.explained(Error::new(format!("container with id {} is not running", state.id)));
    if state.status(&dir)? == Status::Stopped {
        anyhow::bail!(stopped());
    }
    let process = state.process()?.ok_or_else(stopped)?;
    let cgroup = super::pause::cgroup(&state)?;
    let watch = Watch { id: &state.id, cgroup, resctrl: state.resctrl.as_ref(), process: process.as_fd() };
    let ended = if args.stats { watch.stats() } else { watch.until_the_end(interval) };
    match ended {
        // Whoever reads has heard enough.
        Err(error) if error.errno == Some(Errno::EPIPE) => Ok(0),
        other => Ok(other.map(|()| 0)?),
    }
}

/// A container that is looked at.
struct Watch<'a> {
    id: &'a str,
    cgroup: Cgroup,
    resctrl: Option<&'a resctrl::Group>,
    process: std::os::fd::BorrowedFd<'a>,
}

impl Watch<'_> {
    fn say(&self, kind: &str, data: Option<Value>) -> Result<()> {
        let mut line = json!({ "type": kind, "id": self.id });
        if let Some(data) = data {
            line["data"] = data;
        }
        super::log::print(&format!("{line}\n"))
    }

    fn stats(&self) -> Result<()> {
        let failed = |error| Error::new(format!("encode the statistics: {error}"));
        let mut stats = serde_json::to_value(self.cgroup.stats()?).map_err(failed)?;
        if let Some(group) = self.resctrl {
            stats["intel_rdt"] = serde_json::to_value(resctrl::Stats::of(group)).map_err(failed)?;
        }
        self.say("stats", Some(stats))
    }

    /// Statistics at each interval, and a line for each rise of the count of kills, until the first process has ended.
    fn until_the_end(&self, interval: Duration) -> Result<()> {
        let mut kills = self.cgroup.oom_kills()?;
        let mut events = self.cgroup.open_file("memory.events")?.map(File::from);
        let mut next = Instant::now() + interval;
        loop {
            // To read the file is what arms the next notice; the count comes after that, so none is lost.
            let ended = self.wait(events.as_ref(), next)?;
            if let Some(file) = &mut events {
                let read = file.rewind().and_then(|()| file.read_to_string(&mut String::new()));
                events = if read.is_ok() { events } else { None };
            }
            let now = self.cgroup.oom_kills()?;
            if now > kills {
                kills = now;
                self.say("oom", None)?;
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                self.stats()?;
                next = next.max(Instant::now() - interval) + interval;
            }
        }
    }

    /// Sleeps until a notice of the kernel or `until`; true when the container's first process has ended.
    fn wait(&self, events: Option<&File>, until: Instant) -> Result<bool> {
        let mut fds = vec![PollFd::new(self.process, PollFlags::POLLIN)];
        fds.extend(events.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
            Err(errno) => Err(Error::new("wait for the container").call("poll()", errno)),
        }
    }
}

/// A duration as Go writes it: `5s`, `100ms`, `1m30s`, `1.5h`.
fn duration(text: &str) -> Result<Duration> {
    let invalid = || Error::new(format!("invalid value {text:?} for flag -interval: time: invalid duration {text:?}"));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let units = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(units);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        seconds += number.parse::<f64>().map_err(|_| invalid())? * factor;
        rest = next;
    }
    if negative || seconds <= 0.0 {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    // Go's are 63 bits of nanoseconds.
    if seconds < 9e9 { Ok(Duration::from_secs_f64(seconds)) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("+2s", 2000),
            ("1000us", 1),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["0", "0s", "-1s", "-0", "+0"] {
            assert_eq!(duration(text).unwrap_err().message, "duration interval must be greater than 0", "{text}");
        }
        for text in ["", "5", "s", "5x", "1.2.3s", "5 s", "-", "1h1", "1e3s", "99999999999999h"] {
            assert!(duration(text).unwrap_err().message.contains("invalid duration"), "{text}");
        }
    }
}
