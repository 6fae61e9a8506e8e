//! Workers, and all processes that the supervisor is the parent of.
//!
//! What may take its time (a create, an exec, a delete) is done by a worker: a copy of this process (clone3(2), no execve) that
//! does one command of the command line's and ends. The supervisor is a subreaper (prctl(2)), so the process that a worker has
//! made becomes its child when the worker ends, and its end is told to it by the kernel: neither a worker that dies nor one that
//! hangs takes another container's supervision with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::clock::{self, Moment};
use crate::error::{Error, Result};
use crate::state;
use crate::sys::clone::{Cloned, clone3};
use crate::sys::pidfd::{End, WaitId, pidfd_open, waitid};
use crate::sys::process;

/// A process by its number and its start (proc(5), stat field 22), which together name no other one of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// The process with this number now; None when there is none.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn now(pid: i32) -> Result<Option<Self>> {
        Ok(state::start_time(Pid::from_raw(pid))?.map(|(start, _)| Self { pid, start }))
    }

    /// A pidfd of it; None when it has gone.
    ///
    /// # Errors
    /// `/proc` can't be read, no descriptors are left.
    pub fn open(self) -> Result<Option<OwnedFd>> {
        let file = match pidfd_open(Pid::from_raw(self.pid)) {
            Ok(file) => file,
            Err(Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(Error::new(format!("open process {}", self.pid)).call("pidfd_open", errno)),
        };
        // Looked at after it was opened: the number is still that of what is open.
        Ok((Self::now(self.pid)? == Some(self)).then_some(file))
    }
}

/// What a worker has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Why it has failed, as the command line would say.
    pub error: Option<String>,
    /// The process that it has made.
    pub made: Option<Process>,
    /// Whatever else was asked for.
    pub text: String,
    /// The worker has said nothing: what it has done is not known.
    #[serde(skip)]
    pub silent: bool,
}

impl Reply {
    /// A failure.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self { error: Some(error.to_string()), ..Self::default() }
    }
}

impl<T: Into<anyhow::Error>> From<std::result::Result<(), T>> for Reply {
    fn from(result: std::result::Result<(), T>) -> Self {
        match result {
            Ok(()) => Self::default(),
            Err(error) => Self::failed(format!("{:#}", error.into())),
        }
    }
}

/// A worker's number, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job(pub u64);

/// What has become of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A worker has ended.
    Done(Job, Reply),
    /// Another process has.
    Ended(Process, End),
}

#[derive(Debug)]
struct Worker {
    job: Job,
    pid: Pid,
    pidfd: OwnedFd,
    reply: File,
    deadline: Moment,
    late: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Children {
    jobs: u64,
    workers: Vec<Worker>,
    /// Processes that ended before the worker that made them had said so.
    early: Vec<(Process, End)>,
    /// `RLIMIT_NOFILE` before it was raised: the workers' own, and so the containers'.
    files: Option<(u64, u64)>,
}

/// So many ends are taken in one round of the loop.
const AT_ONCE: usize = 64;
/// So many ends are kept while a worker has not said what it has made.
const EARLY: usize = 256;

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("start a worker of the supervisor").call(call, errno)
}

impl Children {
    /// Has as many descriptors as may be had, and leaves those that it starts at what they would have had: programs that close all
    /// that could be open take long where the limit is high.
    pub fn raise_open_files(&mut self) {
        let limits = process::getrlimit(0, libc::RLIMIT_NOFILE).ok();
        let raised = |(soft, hard)| soft < hard && process::prlimit(0, libc::RLIMIT_NOFILE, hard, hard).is_ok();
        self.files = self.files.or(limits.filter(|limits| raised(*limits)));
    }

    /// Starts a worker that does `work` with `stdio` as its standard descriptors (`/dev/null` where None), and has of all others
    /// only `kept` and what it opens. After `within` it is killed.
    ///
    /// # Errors
    /// There is no room for one more process.
    pub fn begin(
        &mut self,
        stdio: [Option<BorrowedFd<'_>>; 3],
        kept: &[BorrowedFd<'_>],
        within: Duration,
        work: impl FnOnce() -> Reply,
    ) -> Result<Job> {
        let reply = memfd_create(c"reply", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed("memfd_create", errno))?;
        let files = self.files;
        let (pid, pidfd) = match clone3(0, None).map_err(|errno| failed("clone3", errno))? {
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
            Cloned::Child => work_in_child(reply.as_fd(), stdio, kept, files, work),
        };
        self.jobs += 1;
        let (job, deadline) = (Job(self.jobs), clock::now() + within);
        self.workers.push(Worker { job, pid, pidfd, reply: File::from(reply), deadline, late: false });
        Ok(job)
    }

    /// When the next worker has had its time.
    pub fn deadline(&self) -> Option<Moment> {
        self.workers.iter().filter(|worker| !worker.late).map(|worker| worker.deadline).min()
    }

    /// No worker is left, also none that was killed and has not ended yet.
    pub fn idle(&self) -> bool {
        self.workers.is_empty()
    }

    /// Kills the workers that have had their time. They end by SIGCHLD as others do.
    pub fn kill_late(&mut self, now: Moment) {
        for worker in self.workers.iter_mut().filter(|worker| !worker.late && worker.deadline <= now) {
            worker.late = true;
            // It may have ended just now.
            let _ = process::pidfd_kill(worker.pidfd.as_fd());
        }
    }

    /// Ends a worker before its time.
    pub fn kill(&mut self, job: Job) {
        for worker in self.workers.iter_mut().filter(|worker| worker.job == job) {
            worker.deadline = Moment::ZERO;
        }
        self.kill_late(Moment::ZERO);
    }

    /// After SIGCHLD, which is blocked: whoever has ended since; after many of them, another SIGCHLD. Everything that the containers
    /// leave behind is waited for as well.
    ///
    /// # Errors
    /// waitid(2) or `/proc` says something else.
    pub fn reap(&mut self) -> Result<Vec<Told>> {
        let mut told = Vec::new();
        for number in 0..=AT_ONCE {
            if number == AT_ONCE {
                // A container without a pid namespace may leave orphans without a pause: others have their turn in between.
                let _ = raise(Signal::SIGCHLD);
                break;
            }
            // Looked at before it is waited for: its entry in /proc goes then.
            let seen = match waitid(WaitId::All, libc::WNOHANG | libc::WNOWAIT) {
                Ok(Some(seen)) => seen,
                Ok(None) | Err(Errno::ECHILD) => break,
                Err(errno) => return Err(Error::new("wait for children").call("waitid", errno)),
            };
            let process = Process::now(seen.pid.as_raw())?;
            let _ = waitid(WaitId::Pid(seen.pid), libc::WNOHANG);
            match self.workers.iter().position(|worker| worker.pid == seen.pid) {
                Some(index) => {
                    let worker = self.workers.swap_remove(index);
                    told.push(Told::Done(worker.job, worker.reply(seen.end)));
                }
                None => {
                    let Some(process) = process else { continue };
                    // Orphans of a container without a pid namespace are ours to wait for as well, as many as it likes.
                    if self.early.len() >= EARLY {
                        self.early.remove(0);
                    }
                    self.early.push((process, seen.end));
                    told.push(Told::Ended(process, seen.end));
                }
            }
        }
        // First what workers have made, then how it ended.
        told.sort_by_key(|told| matches!(told, Told::Ended(..)));
        if self.workers.is_empty() && !told.iter().any(|told| matches!(told, Told::Done(..))) {
            self.early.clear();
        }
        Ok(told)
    }

    /// How a process that a worker has just made has ended already, if it has.
    pub fn early(&self, process: Process) -> Option<End> {
        self.early.iter().find(|(early, _)| *early == process).map(|(_, end)| *end)
    }
}

impl Worker {
    fn reply(mut self, end: End) -> Reply {
        let mut text = String::new();
        let read = self.reply.seek(SeekFrom::Start(0)).and_then(|_| self.reply.read_to_string(&mut text));
        let reply = read.ok().and_then(|_| serde_json::from_str(&text).ok());
        let silent = || match end {
            _ if self.late => "the supervisor's worker has had its time".to_owned(),
            End::Signaled(signal) => format!("the supervisor's worker was killed by signal {signal}"),
            End::Exited(status) => format!("the supervisor's worker has said nothing (status {status})"),
        };
        reply.unwrap_or_else(|| Reply { silent: true, ..Reply::failed(silent()) })
    }
}

/// In a worker: it ends with the supervisor, and what it has not finished with it. What it has begun to make is not given to one
/// who does not know of it.
pub fn end_with_supervisor(supervisor: Pid) -> Result<()> {
    crate::sys::creds::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
        .map_err(|errno| failed("prctl", errno))?;
    // It may have died before.
    match nix::unistd::getppid() == supervisor {
        true => Ok(()),
        false => Err(Error::new("the supervisor has died")),
    }
}

/// A worker's life. It begins with nothing of ours but the memory.
fn work_in_child(
    reply: BorrowedFd<'_>,
    stdio: [Option<BorrowedFd<'_>>; 3],
    kept: &[BorrowedFd<'_>],
    files: Option<(u64, u64)>,
    work: impl FnOnce() -> Reply,
) -> ! {
    let limited = || {
        let Some((soft, hard)) = files else { return Ok(()) };
        process::prlimit(0, libc::RLIMIT_NOFILE, soft, hard).map_err(|errno| failed("prlimit64", errno))
    };
    // Last: a descriptor above the limit can't be made, but it can be closed.
    let said = match prepare(reply, stdio, kept).and_then(|()| limited()) {
        Ok(()) => work(),
        Err(error) => Reply::failed(error),
    };
    let text = serde_json::to_vec(&said).unwrap_or_default();
    let mut file = match reply.try_clone_to_owned() {
        Ok(file) => File::from(file),
        Err(_) => process::exit(1),
    };
    let written = file.write_all(&text);
    process::exit(i32::from(written.is_err()))
}

fn prepare(reply: BorrowedFd<'_>, stdio: [Option<BorrowedFd<'_>>; 3], kept: &[BorrowedFd<'_>]) -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(|errno| failed("sigprocmask", errno))?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| failed("open(/dev/null)", crate::host::errno(&error)))?;
    // None of them lies below 3: the standard descriptors of a program are open from its start (sys/start.rs).
    for (number, file) in stdio.iter().enumerate() {
        let file = file.unwrap_or(null.as_fd());
        process::dup_onto(file, number as i32).map_err(|errno| failed("dup3", errno))?;
    }
    drop(null);
    let mut open: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).chain([reply.as_raw_fd()]).collect();
    open.sort_unstable();
    let mut first = 3;
    for number in open.into_iter().filter(|number| *number >= 3) {
        if number > first {
            process::close_range(first as u32, number as u32 - 1, false)
                .map_err(|errno| failed("close_range", errno))?;
        }
        first = number + 1;
    }
    process::close_range(first as u32, u32::MAX, false).map_err(|errno| failed("close_range", errno))
}
