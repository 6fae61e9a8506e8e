//! Containers and their processes as the shim knows them, and what of that is on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::proto::{RuncOptions, Timestamp};
use super::stdio::{Given, Io};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::shim::children::Process;
use crate::shim::clock::Moment;
use crate::shim::jobs::Runtime;
use crate::sys::pidfd::End;

/// The file of the bundle.
const RECORD: &str = "orlop.json";

/// Who waits for an answer: a connection and a stream of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub peer: u64,
    pub stream: u32,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// An exec that was not started, or a container's first process that waits for start.
    Created,
    /// A worker starts it.
    Starting,
    Running,
    /// Its end was announced.
    Stopped,
}

/// An end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell has it: 128 and the number of the signal that has killed it.
    pub status: u32,
    pub seconds: i64,
    pub nanos: i32,
}

impl Exit {
    /// Now, in this way.
    pub fn now(end: End) -> Self {
        let status = match end {
            End::Exited(status) => status,
            End::Signaled(signal) => 128 + signal,
        };
        Self::of(status as u32)
    }

    /// Now, with this status.
    pub fn of(status: u32) -> Self {
        let Timestamp { seconds, nanos } = Timestamp::now();
        Self { status, seconds, nanos }
    }

    /// When.
    pub fn at(self) -> Option<Timestamp> {
        Some(Timestamp { seconds: self.seconds, nanos: self.nanos })
    }
}

/// A container's first process, or an exec.
#[derive(Debug)]
pub struct Proc {
    pub given: Given,
    pub io: Io,
    pub process: Option<Process>,
    pub pidfd: Option<OwnedFd>,
    pub phase: Phase,
    /// It has ended; announced only in [`Phase::Stopped`].
    pub exit: Option<Exit>,
    pub waiters: Vec<Caller>,
    /// Of an exec, until it is started: its process as config.json has it.
    pub spec: Vec<u8>,
    /// The copies from and to it.
    pub copies: Vec<u64>,
}

impl Proc {
    pub fn new(given: Given, io: Io, spec: Vec<u8>) -> Self {
        Self {
            given,
            io,
            process: None,
            pidfd: None,
            phase: Phase::Created,
            exit: None,
            waiters: Vec::new(),
            spec,
            copies: Vec::new(),
        }
    }

    /// Its number; 0 when there is none yet.
    pub fn pid(&self) -> u32 {
        self.process.map_or(0, |process| process.pid as u32)
    }

    /// It has been started, and its end was not announced.
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    /// The end that was announced.
    pub fn announced(&self) -> Option<Exit> {
        self.exit.filter(|_| self.phase == Phase::Stopped)
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub runtime: Runtime,
    pub options: RuncOptions,
    pub init: Proc,
    pub execs: BTreeMap<String, Proc>,
    /// The image that start makes it from.
    pub checkpoint: Option<String>,
    pub cgroup: Option<Cgroup>,
    /// `memory.events`, and its token.
    pub memory: Option<(u64, File)>,
    /// Processes killed for want of memory that were told of.
    pub kills: u64,
    /// Until when the end of its first process waits for the ends of execs.
    pub overdue: Option<Moment>,
    /// Whoever has asked for its removal, which is done but for the news of its end.
    pub deleted: Option<Caller>,
}

impl Container {
    /// One of its processes: an exec, or with an empty id the first.
    pub fn proc(&mut self, exec: &str) -> Option<&mut Proc> {
        if exec.is_empty() { Some(&mut self.init) } else { self.execs.get_mut(exec) }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// What is on disk of it.
    pub fn record(&self) -> Record {
        Record {
            root: self.runtime.root.clone(),
            systemd_cgroup: self.runtime.systemd_cgroup,
            init: self.init.process,
            exit: self.init.exit,
        }
    }
}

/// What `delete` has to know when the shim has gone: a file in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub root: PathBuf,
    pub systemd_cgroup: bool,
    pub init: Option<Process>,
    /// Written before the end is announced to anybody.
    pub exit: Option<Exit>,
}

impl Record {
    /// Replaces the file; it is on the disk when this returns.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        let failed = |call: &str, error: &std::io::Error| {
            Error::new(format!("keep the container's end in {}", bundle.display()))
                .call(call, crate::host::errno(error))
        };
        let new = bundle.join(".orlop.json.new");
        let text = serde_json::to_vec(self).map_err(|error| Error::new(format!("encode {RECORD}: {error}")))?;
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new).map_err(|error| failed("open", &error))?;
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(|error| failed("write", &error))?;
        std::fs::rename(&new, bundle.join(RECORD)).map_err(|error| failed("rename", &error))
    }

    /// Reads it; None when there is none.
    pub fn read(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(bundle.join(RECORD)).ok()?).ok()
    }
}
