//! criu: the program that writes the processes of a container into files, and makes them again from these files.
//!
//! One process of criu serves one checkpoint or restore (`criu swrk`): requests and answers go over a socket pair
//! ([`rpc`], written by [`wire`]), and in between criu tells how far it has come and waits (criu.org/RPC).

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::exec::protocol::Report;
use crate::sys::path as sys;
use crate::sys::process::{kill_child, poll_in, wait_status};
use crate::sys::shared::Shared;
use crate::sys::socket;

pub mod rpc;
mod spawn;
pub mod wire;

pub use spawn::{Place, Root};

/// The oldest criu that knows all that is asked of it, the LSM options above all (July 2021).
const OLDEST: (u64, u64) = (3, 16);
/// Room for an answer; criu's have a few dozen bytes, and the text of an error.
const LONGEST: usize = 16384;
/// How many lines of criu's log go into an error.
const LINES: usize = 5;
/// How often is looked whether what criu holds has been killed, in milliseconds.
const LOOK: i32 = 500;
/// How many such looks the end of it may be criu's own doing, which kills what it has dumped, and waits until its memory is free. Less
/// than `delete --force` waits for the lock.
const LOOKS: u32 = 8;
/// Where programs are when the caller has no PATH, as podman's conmon.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process of criu, and the conversation with it.
///
/// It is not tied to our own end: killed between two steps it would leave its own code in the container's processes. When we
/// are gone it finds its socket closed, and undoes what it has begun.
pub struct Criu {
    pid: Pid,
    socket: Option<OwnedFd>,
    /// Why it could not be executed.
    report: Shared<Report>,
    /// Those of [`Root::directories`], as criu's mount namespace has them.
    pub directories: Vec<OwnedFd>,
}

/// What criu tells in between, with the descriptor that came along.
pub type Notified<'a> = &'a mut dyn FnMut(&rpc::Response, Option<OwnedFd>) -> Result<()>;

impl Criu {
    /// Starts `program`, a path or a name to look for in `PATH`, and asks for its version.
    ///
    /// # Errors
    /// There is no such program; it does not start, or is too old.
    pub fn start(program: &str, place: &Place<'_>) -> Result<Self> {
        let path = find(program)?;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| Error::new("make the socket to criu").call("socketpair", errno))?;
        let (pid, report) = spawn::spawn(&path, &theirs, place)?;
        drop(theirs);
        let mut criu = Self { pid, socket: Some(ours), report, directories: Vec::new() };
        for _ in place.root.iter().flat_map(|root| &root.directories) {
            criu.directories.push(criu.directory()?);
        }
        let (major, minor) = criu.ask(rpc::Kind::Version, None)?.version;
        if (major, minor) < OLDEST {
            let (least, lesser) = OLDEST;
            return Err(Error::new(format!("criu is {major}.{minor}, {least}.{lesser} or newer is needed")));
        }
        Ok(criu)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Does this criu, on this kernel, have a feature?
    ///
    /// # Errors
    /// It does not; the conversation failed.
    pub fn need(&self, feature: rpc::Feature, option: &str) -> Result<()> {
        let answer = self.ask(rpc::Kind::FeatureCheck, Some(feature))?;
        match answer.features.contains(&(feature as u32)) {
            true => Ok(()),
            false => {
                Err(Error::new(format!("CRIU is missing features: {option} does not work with this criu and kernel"))
                    .hint("criu check --all tells what there is"))
            }
        }
    }

    fn ask(&self, kind: rpc::Kind, feature: Option<rpc::Feature>) -> Result<rpc::Response> {
        self.send(&rpc::question(kind, feature))?;
        let (answer, _) = self.receive()?;
        match answer.success {
            true => Ok(answer),
            false => Err(Error::new(format!("criu failed: type {} errno {}", kind.name(), answer.errno))),
        }
    }

    /// One checkpoint or restore, until criu has ended. `log` is the file that it writes. `killed` tells whether what it holds has
    /// been killed: it can't end as long as criu, which waits for who fetches its memory, is its tracer, so criu is killed then.
    ///
    /// # Errors
    /// What `notified` returned, and then criu undoes what it has begun; a failure of criu's own.
    pub fn carry_out(
        mut self,
        kind: rpc::Kind,
        options: &wire::Message,
        log: &Path,
        killed: &dyn Fn() -> bool,
        notified: Notified<'_>,
    ) -> Result<()> {
        self.send(&rpc::request(kind, options))?;
        loop {
            self.await_word(killed)?;
            let (response, file) = self.receive().map_err(|error| with_log(error, log))?;
            if !response.success {
                // Until it has put everything back.
                self.end();
                let said = format!("criu failed: type {} errno {}", kind.name(), response.errno);
                return Err(with_log(Error::new(said), log));
            }
            if response.kind != rpc::Kind::Notify as u64 {
                break;
            }
            notified(&response, file)?;
            self.send(&rpc::go_on())?;
        }
        // After a pre-dump it waits for the next one, and takes the end of the conversation for a failure.
        match self.end() {
            0 => Ok(()),
            _ if kind == rpc::Kind::PreDump => Ok(()),
            status => Err(with_log(Error::new(format!("criu failed: wait status {status:#x}")), log)),
        }
    }

    fn socket(&self) -> Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::new("the conversation with criu is over"))
    }

    fn send(&self, message: &wire::Message) -> Result<()> {
        sys::write_all_at_once(self.socket()?, message.bytes())
            .map_err(|errno| Error::new("speak to criu").call("write", errno))
    }

    /// Until there is something to hear, or what criu holds has been killed, and criu with it.
    fn await_word(&mut self, killed: &dyn Fn() -> bool) -> Result<()> {
        let failed = |call: &str, errno| Error::new("hear criu").call(call, errno);
        let mut looks = 0;
        while !poll_in(self.socket()?, LOOK).map_err(|errno| failed("poll", errno))? {
            looks = if killed() { looks + 1 } else { 0 };
            if looks >= LOOKS {
                kill_child(self.pid.as_raw(), libc::SIGKILL).map_err(|errno| failed("kill", errno))?;
                self.end();
                return Err(Error::new("the container was killed while criu held it"));
            }
        }
        Ok(())
    }

    /// Waits without a bound of our own: a dump takes as long as the memory is large, and the end of criu is the end of the
    /// socket.
    fn receive(&self) -> Result<(rpc::Response, Option<OwnedFd>)> {
        let failed = |call: &str, errno| Error::new("hear criu").call(call, errno);
        let socket = self.socket()?;
        let mut bytes = [0; LONGEST];
        poll_in(socket, -1).map_err(|errno| failed("poll", errno))?;
        let (length, mut files) = socket::recvmsg(socket, &mut bytes).map_err(|errno| failed("recvmsg", errno))?;
        match rpc::Response::of(&bytes[..length]) {
            _ if length == 0 => Err(self.ended()),
            Some(response) => Ok((response, files.pop())),
            None => Err(Error::new("criu has said what is no answer")),
        }
    }

    /// The next directory that the child sends before it is criu.
    fn directory(&self) -> Result<OwnedFd> {
        let failed = |call: &str, errno| Error::new("hear the process that becomes criu").call(call, errno);
        let socket = self.socket()?;
        poll_in(socket, -1).map_err(|errno| failed("poll", errno))?;
        let (_, mut files) = socket::recvmsg(socket, &mut [0]).map_err(|errno| failed("recvmsg", errno))?;
        files.pop().ok_or_else(|| self.ended())
    }

    fn ended(&self) -> Error {
        match self.report.get().failure() {
            Some(failure) => Error::new("start criu").call(failure.call, failure.errno),
            None => Error::new("criu has ended before it was done").hint("criu check tells whether it works here"),
        }
    }

    /// Ends the conversation, and waits for the end of criu: its wait status.
    fn end(&mut self) -> i32 {
        if self.socket.take().is_none() {
            return 0;
        }
        wait_status(self.pid.as_raw()).unwrap_or(0)
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program's path.
fn find(program: &str) -> Result<CString> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![program.into()],
        false => std::env::split_paths(&path).map(|dir| dir.join(program)).collect(),
    };
    let text = |path: &PathBuf| CString::new(path.as_os_str().as_bytes()).ok();
    let found = candidates.iter().filter_map(text).find(|path| {
        let regular = std::fs::metadata(OsStr::from_bytes(path.to_bytes())).is_ok_and(|meta| meta.is_file());
        regular && sys::executable(sys::CWD, path).is_ok()
    });
    found.ok_or_else(|| {
        Error::new(format!("checkpoint and restore need criu, and there is no program {program}"))
            .hint("install criu 3.16 or newer (docs/checkpoint.md), or name it by --criu")
    })
}

/// Adds the last errors of criu's log, and where it is.
fn with_log(error: Error, log: &Path) -> Error {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut said: Vec<&str> = text.lines().filter(|line| line.contains(" Error ")).rev().take(LINES).collect();
    said.reverse();
    let lines = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
    let hint = format!("log file: {}", log.display());
    Error { message: format!("{}{lines}", error.message), ..error }.hint(hint)
}
