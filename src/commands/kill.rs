//! `kill`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use clap::Args;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::Global;
use crate::error::{Error, Result};
use crate::state::{State, Status};
use crate::sys::pidfd::{pidfd_open, pidfd_send_signal};

/// `kill`.
#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
    /// Every process of the container, not only the first
    #[arg(short, long, hide = true)]
    all: bool,
}

pub(super) fn run(args: &KillArgs, global: &Global) -> anyhow::Result<i32> {
    let signal = parse(&args.signal)?;
    let dir = global.store().open(&args.id)?;
    let state = dir.read()?;
    let status = state.status(&dir)?;
    if args.all {
        all(&state, signal)?;
        return Ok(0);
    }
    let Some(process) = state.process()? else {
        anyhow::bail!(state.explained(Error::new("container not running")));
    };
    send(process.as_fd(), signal)?;
    // A frozen process takes its signal only when it is thawed; SIGKILL must not wait for that (runc).
    if status == Status::Paused
        && signal == libc::SIGKILL
        && let Some(cgroup) = state.open_cgroup()?
    {
        cgroup.thaw(Instant::now() + Duration::from_secs(10))?;
    }
    Ok(0)
}

fn send(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    pidfd_send_signal(process, signal).map_err(|errno| match errno {
        Errno::ESRCH => Error::new("container not running: os: process already finished"),
        other => Error::new(format!("send signal {signal}")).call("pidfd_send_signal", other),
    })
}

/// `--all`: the whole cgroup. A stopped container has none left to signal, which is no error.
fn all(state: &State, signal: i32) -> Result<()> {
    let Some(cgroup) = state.open_cgroup()? else {
        return state.process()?.map_or(Ok(()), |process| send(process.as_fd(), signal));
    };
    if signal == libc::SIGKILL {
        return cgroup.kill();
    }
    for pid in cgroup.processes()? {
        // Opened, then looked for in the cgroup again: a pid that was reused in between is not there.
        let Ok(process) = pidfd_open(Pid::from_raw(pid)) else { continue };
        if cgroup.processes()?.contains(&pid) {
            // ESRCH: it has ended meanwhile.
            let _ = pidfd_send_signal(process.as_fd(), signal);
        }
    }
    Ok(())
}

/// `9`, `KILL`, `SIGKILL`, `SIGRTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let unknown =
        || Error::new(format!("unknown signal {text:?}")).hint("a number to 64, or a name: TERM, SIGKILL, SIGRTMIN+1");
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = real_time(name, "RTMIN", '+', 34)
        .or_else(|| real_time(name, "RTMAX", '-', 64))
        .or_else(|| format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32));
    number.filter(|number| (1..=64).contains(number)).ok_or_else(unknown)
}

/// `RTMIN`, `RTMIN+2`, `RTMAX-1`: glibc leaves 34 to 64 to programs (signal(7)).
fn real_time(name: &str, base: &str, sign: char, number: i32) -> Option<i32> {
    let rest = name.strip_prefix(base)?;
    if rest.is_empty() {
        return Some(number);
    }
    let offset: i32 = rest.strip_prefix(sign)?.parse().ok()?;
    Some(if sign == '+' { number.checked_add(offset)? } else { number.checked_sub(offset)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `run` and `all` find no process before they come to this: it is for one that ends in between.
    #[test]
    fn a_process_that_has_ended_is_told_in_words_that_callers_know() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = pidfd_open(Pid::from_raw(child.id() as i32)).unwrap();
        child.wait().unwrap();
        // containerd's shim looks for either half, CRI-O for the first.
        let error = send(process.as_fd(), libc::SIGTERM).unwrap_err();
        assert_eq!(error.to_string(), "container not running: os: process already finished");
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("9", 9), ("kill", 9), ("SIGTERM", 15), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("0", 0)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "65", "-1", "NOPE", "RTMIN+99", "RTMIN-1", "99999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
