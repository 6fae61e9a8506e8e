//! `delete`: what is left of a container whose shim has gone, and how its first process ended: as the shim has written it down,
//! else as the kernel says.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;

use super::bootstrap::{self, Call};
use super::events::Events;
use super::process::{Exit, Record};
use super::proto::{DeleteResponse, RuncOptions};
use super::{mounts, start, task};
use crate::error::{Error, Result};
use crate::shim::children::Process;
use crate::shim::clock;
use crate::shim::jobs::Runtime;
use crate::sys::pidfd::exit_of;
use crate::sys::process::poll_in;

/// What containerd itself takes for an end of which nothing is known (`UnknownExitStatus`).
const UNKNOWN: u32 = 255;
/// How long the process may take to go when all of its cgroup was killed, and its new parent to wait for it.
const GOING: Duration = Duration::from_secs(2);
/// How long events may take that the shim has left: containerd itself waits five seconds for all of this.
const EVENTS: Duration = Duration::from_millis(1500);

/// Removes it, and answers how it ended.
pub fn delete(call: &Call) -> Result<()> {
    let bundle = match &call.bundle {
        Some(bundle) => bundle.clone(),
        None => PathBuf::from("."),
    };
    let bundle = std::path::absolute(&bundle)
        .map_err(|error| Error::new("find the bundle").call("getcwd", crate::host::errno(&error)))?;
    let record = Record::read(&bundle);
    let runtime = match &record {
        Some(record) => Runtime { root: record.root.clone(), systemd_cgroup: record.systemd_cgroup },
        None => task::runtime(&RuncOptions::default(), &call.namespace),
    };
    let init = record.as_ref().and_then(|record| record.init);
    let exit = record.and_then(|record| record.exit);
    // Open before it is killed: afterwards nobody could be asked.
    let pidfd = init.map(Process::open).transpose()?.flatten();
    runtime
        .call(&["delete", "--force", &call.id])
        .map_err(|error| Error::new(format!("remove container {}: {error:#}", call.id)))?;
    let exit = exit.or_else(|| pidfd.as_ref().and_then(true_end)).unwrap_or_else(|| Exit::of(UNKNOWN));
    mounts::unmount_all(&bundle.join("rootfs"))?;
    left_events(call, &bundle);
    let pid = init.map_or(0, |init| init.pid as u32);
    super::say(&DeleteResponse { pid, exit_status: exit.status, exited_at: exit.at() }.encode_to_vec())
}

/// How the process of a pidfd has ended, when the kernel tells who is not its parent.
fn true_end(pidfd: &OwnedFd) -> Option<Exit> {
    let end = Instant::now() + GOING;
    poll_in(pidfd.as_fd(), GOING.as_millis() as i32).ok()?;
    loop {
        match exit_of(pidfd.as_fd()) {
            Ok(Some(end)) => return Some(Exit::now(end)),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            // An older kernel. We have killed it, since it was there when it was opened.
            _ => return Some(Exit::of(128 + libc::SIGKILL as u32)),
        }
    }
}

/// Tells the events that the shim could not, and removes its socket. Not where it lives, or another one of its group: those tell
/// theirs themselves.
fn left_events(call: &Call, bundle: &Path) {
    let config = std::fs::read(bundle.join("config.json")).unwrap_or_default();
    let config = serde_json::from_slice(&config).unwrap_or_default();
    let address = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
    let group = bootstrap::group(&config, &call.id);
    let socket = match address.strip_prefix("unix://") {
        Some(socket) => PathBuf::from(socket),
        None => return,
    };
    // A socket of another name is none of ours: the file's content is not to be trusted with a path to remove.
    let named = bootstrap::socket(socket.parent().unwrap_or(Path::new("/")), &call.address, &call.namespace, group);
    if named.ok().as_ref() != Some(&socket) || std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        return;
    }
    let file = start::events_file(&socket);
    if file.exists()
        && let Ok(mut events) = Events::open(file, std::env::var("TTRPC_ADDRESS").ok())
    {
        // containerd tells of this container's end and removal by itself.
        events.forget_end_of(&call.id);
        let until = clock::now() + EVENTS;
        while !events.is_empty() && clock::now() < until {
            events.go_on(clock::now());
            std::thread::sleep(Duration::from_millis(2));
        }
        events.close();
    }
    let _ = std::fs::remove_file(socket);
}
