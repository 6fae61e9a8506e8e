//! The shim's loop: one thread, which waits for its peers, its children, its copies and containerd's word, and never for
//! anything else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use prost::Message;

use super::events::Events;
use super::outcome::Pending;
use super::process::{Caller, Container};
use super::proto::{Request, RuncOptions, Status};
use super::stdio::{Copy, Wants};
use super::ttrpc::{Answer, Connection, Frame, Item, REQUEST, code};
use crate::error::{Error, Result};
use crate::shim::children::{Children, Told};
use crate::shim::clock::{self, Moment};
use crate::shim::epoll::{EpollFlags, Poll, Ready};

/// Peers at one time that have no container. containerd has one for each of a pod, and for a moment two while it restarts.
const PEERS: usize = 64;
const LISTENER: u64 = 0;
/// How long after the last request.
const CALM: Duration = Duration::from_secs(1);
/// How long a shim without a container waits for a peer.
const ALONE: Duration = Duration::from_secs(120);

/// The shim.
#[derive(Debug)]
pub struct Shim {
    pub(super) poll: Poll,
    pub(super) children: Children,
    listener: UnixListener,
    pub(super) socket: PathBuf,
    peers: BTreeMap<u64, Connection>,
    copies: BTreeMap<u64, (Copy, Wants)>,
    pub(super) memory: BTreeMap<u64, String>,
    next: u64,
    pub(super) events: Events,
    events_token: Option<(u64, bool)>,
    pub(super) log: Log,
    pub(super) namespace: String,
    pub(super) options: RuncOptions,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) jobs: BTreeMap<u64, Pending>,
    /// Shutdown was asked for: until when the events may take.
    pub(super) ending: Option<Moment>,
    /// Since when nobody has been here.
    alone: Option<Moment>,
    /// Then what the last requests have taken of memory is given back.
    settle: Option<Moment>,
}

/// The FIFO in the bundle that containerd reads.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    debug: bool,
}

impl Log {
    /// Where that is not there, nothing is said.
    pub fn new(file: Option<File>, debug: bool) -> Self {
        Self { file, debug }
    }

    /// A line. When nobody reads and the FIFO is full it is lost: the shim does not wait.
    fn line(&mut self, level: &str, text: &str) {
        if let Some(file) = &mut self.file {
            let line = format!("time=\"{}\" level={level} msg={text:?} runtime=orlop\n", crate::state::now());
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// What somebody should look at.
    pub fn warn(&mut self, text: impl std::fmt::Display) {
        self.line("warning", &text.to_string());
    }

    /// With `-debug`.
    pub fn debug(&mut self, text: impl FnOnce() -> String) {
        if self.debug {
            self.line("debug", &text());
        }
    }
}

impl Shim {
    /// A shim that listens on `socket`.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(
        listener: UnixListener,
        socket: PathBuf,
        events: Events,
        log: Log,
        namespace: String,
        options: RuncOptions,
    ) -> Result<Self> {
        let poll = Poll::new(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE])?;
        listener.set_nonblocking(true).map_err(|error| {
            Error::new("listen for containerd").call("fcntl(O_NONBLOCK)", crate::host::errno(&error))
        })?;
        poll.add(&listener, LISTENER, EpollFlags::EPOLLIN)?;
        let mut children = Children::default();
        children.raise_open_files();
        Ok(Self {
            poll,
            children,
            listener,
            socket,
            peers: BTreeMap::new(),
            copies: BTreeMap::new(),
            memory: BTreeMap::new(),
            next: LISTENER + 1,
            events,
            events_token: None,
            log,
            namespace,
            options,
            containers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ending: None,
            alone: None,
            settle: None,
        })
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Serves until the last task has gone and Shutdown was called.
    ///
    /// # Errors
    /// The loop itself can't go on.
    pub fn serve(mut self) -> Result<()> {
        while !self.tick()? {
            for ready in self.poll.wait()? {
                if ready != Ready::Time {
                    self.settle = Some(clock::now() + CALM);
                }
                match ready {
                    Ready::File(LISTENER, _) => self.accept(),
                    Ready::File(token, _) => self.ready(token)?,
                    Ready::Signal(Signal::SIGCHLD) => self.reap()?,
                    // A shim is ended by Shutdown, or by force.
                    Ready::Signal(_) | Ready::Time => {}
                }
            }
        }
        self.events.close();
        // Its directory may be gone.
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }

    /// All that is due, and the moment to wake up at. True at the end.
    fn tick(&mut self) -> Result<bool> {
        let now = clock::now();
        self.children.kill_late(now);
        self.overdue(now);
        self.tell(now)?;
        let alone = self.containers.is_empty() && self.jobs.is_empty() && self.peers.is_empty();
        self.alone = alone.then(|| self.alone.unwrap_or(now + ALONE));
        let ended = self.ending.is_some_and(|until| self.events.is_empty() || until <= now);
        if ended || self.alone.is_some_and(|until| until <= now) {
            return Ok(true);
        }
        if self.settle.is_some_and(|at| at <= now) {
            self.settle = None;
            crate::sys::process::forget_what_is_done();
        }
        let overdue = self.containers.values().filter_map(|container| container.overdue);
        let deadlines = [self.children.deadline(), self.events.deadline(), self.ending, self.alone, self.settle];
        self.poll.wake_at(deadlines.into_iter().flatten().chain(overdue).min())?;
        Ok(false)
    }

    /// Events on their way.
    pub(super) fn tell(&mut self, now: Moment) -> Result<()> {
        if self.events.go_on(now) {
            self.events_token = None;
        }
        for complaint in self.events.complaints() {
            self.log.warn(complaint);
        }
        let Some((socket, behind)) = self.events.socket() else { return Ok(()) };
        let flags = interest(behind);
        match self.events_token {
            Some((_, was)) if was == behind => {}
            Some((token, _)) => {
                self.poll.change(socket, token, flags)?;
                self.events_token = Some((token, behind));
            }
            None => {
                self.next += 1;
                self.poll.add(socket, self.next, flags)?;
                self.events_token = Some((self.next, behind));
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    if let Err(error) = self.welcome(socket) {
                        self.log.warn(error);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => return self.log.warn(format!("accept: {error}")),
            }
        }
    }

    /// Only this user and root are served: the socket's mode says so too, but not to who had it before.
    fn welcome(&mut self, socket: UnixStream) -> Result<()> {
        let refused = |why: &str| Error::new(format!("a peer is refused: {why}"));
        let uid = getsockopt(&socket, PeerCredentials).map(|peer| peer.uid());
        let uid = uid.map_err(|errno| refused("who is it?").call("getsockopt(SO_PEERCRED)", errno))?;
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(refused(&format!("it is of user {uid}")));
        }
        if self.peers.len() >= PEERS + 2 * self.containers.len() {
            return Err(refused("there are too many"));
        }
        let peer = Connection::new(socket).map_err(|error| refused(&error.to_string()))?;
        let token = self.token();
        self.poll.add(&peer, token, interest(false))?;
        self.peers.insert(token, peer);
        Ok(())
    }

    fn ready(&mut self, token: u64) -> Result<()> {
        if self.peers.contains_key(&token) {
            self.hear(token);
        } else if self.copies.contains_key(&token) {
            self.copy(token)?;
        } else if let Some(id) = self.memory.get(&token).cloned() {
            self.look_for_oom(&id);
        }
        // Events are looked at in each round.
        Ok(())
    }

    fn hear(&mut self, token: u64) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let Ok(items) = peer.flush().and_then(|()| peer.receive()) else { return self.leave(token) };
        for item in items {
            let (stream, answer) = match item {
                Item::Frame(frame) if frame.kind == REQUEST => {
                    (frame.stream, self.call(Caller { peer: token, stream: frame.stream }, &frame.payload))
                }
                // Data of a stream: no method here has one.
                Item::Frame(_) => continue,
                Item::TooLong(stream) => {
                    let text = "the message is longer than 4 MiB";
                    (stream, Some(Err(Status::new(code::RESOURCE_EXHAUSTED, text))))
                }
            };
            if let Some(answer) = answer {
                self.answer(Caller { peer: token, stream }, answer);
            }
        }
        self.watch_peer(token);
    }

    fn call(&mut self, caller: Caller, payload: &[u8]) -> Option<Answer> {
        let request = match Request::decode(payload) {
            Ok(request) => request,
            Err(error) => return Some(Err(Status::new(code::INVALID_ARGUMENT, error.to_string()))),
        };
        let answer = match request.service.as_str() {
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                self.task(caller, &request.method, &request.payload)
            }
            other => Err(Status::new(code::UNIMPLEMENTED, format!("service {other}"))),
        };
        if let Err(status) = &answer {
            self.log.debug(|| format!("{}: {}", request.method, status.message));
        }
        answer.transpose()
    }

    /// Answers, unless whoever has asked has gone.
    pub(super) fn answer(&mut self, caller: Caller, answer: Answer) {
        let Some(peer) = self.peers.get_mut(&caller.peer) else { return };
        match peer.send(&Frame::answer(caller.stream, answer)) {
            Ok(()) => self.watch_peer(caller.peer),
            Err(_) => self.leave(caller.peer),
        }
    }

    fn watch_peer(&mut self, token: u64) {
        let Some(peer) = self.peers.get(&token) else { return };
        if self.poll.change(peer, token, interest(peer.is_behind())).is_err() {
            self.leave(token);
        }
    }

    fn leave(&mut self, token: u64) {
        if let Some(peer) = self.peers.remove(&token) {
            self.poll.remove(&peer);
        }
        for container in self.containers.values_mut() {
            for process in std::iter::once(&mut container.init).chain(container.execs.values_mut()) {
                process.waiters.retain(|waiter| waiter.peer != token);
            }
        }
    }

    fn reap(&mut self) -> Result<()> {
        for told in self.children.reap()? {
            match told {
                Told::Done(job, reply) => self.done(job.0, reply),
                Told::Ended(process, end) => self.ended(process, end),
            }
        }
        Ok(())
    }

    /// Begins to copy. The token under which that goes on; None when it has come to its end already.
    pub(super) fn begin_copy(&mut self, copy: Copy) -> Result<u64> {
        let token = self.token();
        self.poll.add(&copy.from, token, EpollFlags::EPOLLIN)?;
        self.copies.insert(token, (copy, Wants::Input));
        Ok(token)
    }

    fn copy(&mut self, token: u64) -> Result<()> {
        let Some((copy, was)) = self.copies.get_mut(&token) else { return Ok(()) };
        let wants = copy.step();
        if wants == *was {
            return Ok(());
        }
        unwatch(&self.poll, copy, *was);
        *was = wants;
        match (wants, &copy.to) {
            (Wants::Input, _) => self.poll.add(&copy.from, token, EpollFlags::EPOLLIN),
            (Wants::Room, Some(to)) => self.poll.add(to, token, EpollFlags::EPOLLOUT),
            _ => {
                self.copies.remove(&token);
                Ok(())
            }
        }
    }

    /// Copies what is there, and no more.
    pub(super) fn end_copies(&mut self, tokens: &[u64]) {
        for token in tokens {
            if let Some((mut copy, was)) = self.copies.remove(token) {
                copy.step();
                unwatch(&self.poll, &copy, was);
            }
        }
    }
}

fn unwatch(poll: &Poll, copy: &Copy, was: Wants) {
    match (was, &copy.to) {
        (Wants::Input, _) => poll.remove(&copy.from),
        (Wants::Room, Some(to)) => poll.remove(to),
        _ => {}
    }
}

fn interest(behind: bool) -> EpollFlags {
    let input = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
    if behind { input | EpollFlags::EPOLLOUT } else { input }
}

/// A file that says `POLLPRI` for news.
pub(super) fn watch_news(poll: &Poll, file: impl AsFd, token: u64) -> Result<()> {
    poll.add(file, token, EpollFlags::EPOLLPRI)
}
