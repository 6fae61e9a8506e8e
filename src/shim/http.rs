//! HTTP/1.1 (RFC 9110, RFC 9112) for the supervisor's loop: who asks, and what goes back. Nothing here waits.
//!
//! [`Listener`] is a socket that clients come to, [`Connections`] holds those that have come, and [`message`] reads what they
//! say. A client's requests are served one after the other: while one is answered, nothing more is read from it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::clock::Moment;
use super::epoll::{EpollFlags, Poll};
use crate::error::Result;
use crate::host::errno;

mod listener;
mod message;

pub use listener::{Kind, Listener, directory, port};
pub use message::{Request, Response, Secret};

use message::Parsed;

/// The token of the first connection in [`Poll`]; all tokens from here to `1 << 63` are connections'.
pub const FIRST_TOKEN: u64 = 1 << 62;
/// So many clients at once.
pub const CLIENTS: usize = 64;
/// Bytes of a request's line and headers.
pub const HEAD: usize = 8 << 10;
/// Bytes of a request's body.
pub const BODY: usize = 8 << 10;
/// How long a request may take to come, and how long a client may take nothing of its answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of answers that are held for all clients together.
pub const OUTPUT: usize = 8 << 20;

/// How much is held for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once.
    pub clients: usize,
    /// Those that have come by a port.
    pub port: usize,
    /// Bytes of answers, for all clients together.
    pub output: usize,
}

impl Default for Limits {
    /// Those of a supervisor: the sockets of a kind can't shut out those of another.
    fn default() -> Self {
        Self { clients: CLIENTS, port: listener::PORT, output: OUTPUT }
    }
}
/// So many are accepted in one round of the loop.
const AT_ONCE: usize = 16;
/// What is read after the last answer, so that the client reads it before the kernel resets the connection.
const DRAINED: usize = 64 << 10;

/// Whom an answer is for: never another one, also when that client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(u64);

/// The clients that have come.
#[derive(Debug, Default)]
pub struct Connections {
    limits: Limits,
    count: u64,
    clients: BTreeMap<Client, Connection>,
    /// Given up for a moment to turn a client away when no descriptor is left.
    spare: Option<OwnedFd>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    kind: Kind,
    state: State,
    /// What has come of the next requests.
    input: Vec<u8>,
    /// What is still to go.
    output: Vec<u8>,
    sent: usize,
    /// None while it is for the supervisor to answer.
    deadline: Option<Moment>,
    /// Of the request that is answered: without a body.
    head: bool,
    /// Another request may follow the answer.
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request is awaited.
    Reading,
    /// It has come, and the supervisor has not answered.
    Waiting,
    /// The answer is on its way.
    Writing,
    /// All is said, and so many bytes were thrown away since.
    Draining(usize),
}

/// What becomes of a connection.
#[derive(Debug)]
enum Next {
    /// It waits for this.
    Stay(EpollFlags),
    /// It asks.
    Ask(Request),
    /// It ends.
    Close,
}

impl Connections {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet, and another number of them at most.
    pub fn with(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether a token is that of a connection.
    pub fn owns(token: u64) -> bool {
        (FIRST_TOKEN..1 << 63).contains(&token)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// After `EPOLLIN` on a listener: takes those who have come. Who is not allowed, and who is one too many, is told so.
    ///
    /// # Errors
    /// No descriptor is left, also none to turn the client away. The listener stays ready then: leave it for a while.
    pub fn accept(&mut self, listener: &Listener, poll: &Poll, now: Moment) -> Result<()> {
        if self.spare.is_none() {
            self.spare = std::fs::File::open("/dev/null").ok().map(OwnedFd::from);
        }
        for _ in 0..AT_ONCE {
            match listener.accept() {
                Ok(socket) => self.welcome(socket, listener.kind(), poll, now),
                Err(error) => match errno(&error) {
                    Errno::EAGAIN => break,
                    // It has gone before it was taken.
                    Errno::ECONNABORTED | Errno::EINTR => {}
                    Errno::EMFILE | Errno::ENFILE if self.spare.take().is_some() => {
                        if let Ok(socket) = listener.accept() {
                            refuse(&socket, 503);
                        }
                        break;
                    }
                    other => return Err(listener.failed("accept4", other)),
                },
            }
        }
        Ok(())
    }

    fn welcome(&mut self, socket: OwnedFd, kind: Kind, poll: &Poll, now: Moment) {
        let same = self.clients.values().filter(|other| other.kind == kind).count();
        if !listener::allowed(&socket, kind) {
            return refuse(&socket, 403);
        }
        if same >= kind.most(self.limits.port) || self.clients.len() >= self.limits.clients {
            return refuse(&socket, 503);
        }
        let client = Client(FIRST_TOKEN + self.count);
        if poll.add(&socket, client.0, EpollFlags::EPOLLIN).is_err() {
            return refuse(&socket, 503);
        }
        self.count += 1;
        self.clients.insert(client, Connection::new(socket, kind, now));
    }

    /// Goes on with a connection that is ready for `flags`; the request that is whole by now.
    ///
    /// [`answer`](Self::answer) must follow it at some time. Until then nothing more comes from this client.
    pub fn ready(&mut self, token: u64, flags: EpollFlags, poll: &Poll, now: Moment) -> Option<(Client, Request)> {
        let client = Client(token);
        let room = self.room();
        let connection = self.clients.get_mut(&client)?;
        let next = connection.ready(flags, room, now);
        self.follow(client, next, poll).map(|request| (client, request))
    }

    /// Sends the answer to the request that `client` has made last. It is thrown away when the client has gone.
    pub fn answer(&mut self, client: Client, response: &Response, poll: &Poll, now: Moment) {
        let room = self.room();
        let Some(connection) = self.clients.get_mut(&client) else { return };
        if connection.state == State::Waiting {
            let next = connection.answer(response, room, now);
            self.follow(client, next, poll);
        }
    }

    /// When the next client has had its time.
    pub fn deadline(&self) -> Option<Moment> {
        self.clients.values().filter_map(|connection| connection.deadline).min()
    }

    /// Ends those that have had their time; who was about to ask is told so.
    pub fn expire(&mut self, now: Moment) {
        self.clients.retain(|_, connection| {
            let late = connection.deadline.is_some_and(|deadline| deadline <= now);
            if late && connection.state == State::Reading && !connection.input.is_empty() {
                refuse(&connection.socket, 408);
            }
            !late
        });
    }

    /// Ends all of them, whatever they wait for.
    pub fn clear(&mut self) {
        self.clients.clear();
    }

    /// How many more bytes of answers may be held.
    fn room(&self) -> usize {
        self.limits.output.saturating_sub(self.clients.values().map(|connection| connection.output.len()).sum())
    }

    fn follow(&mut self, client: Client, next: Next, poll: &Poll) -> Option<Request> {
        let connection = self.clients.get(&client)?;
        let (events, request) = match next {
            Next::Close => (None, None),
            Next::Stay(events) => (Some(events), None),
            // EPOLLHUP is told in any case.
            Next::Ask(request) => (Some(EpollFlags::empty()), Some(request)),
        };
        if events.is_none_or(|events| poll.change(&connection.socket, client.0, events).is_err()) {
            self.clients.remove(&client);
            return None;
        }
        request
    }
}

/// Says in one word why there is no answer, if the socket takes it at once.
fn refuse(socket: &OwnedFd, status: u16) {
    let _ = write(socket, &Response::error(status, "").encode(false, false));
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// Less than all where the socket takes no more.
fn write(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(count) => sent += count,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(sent)
}

impl Connection {
    fn new(socket: OwnedFd, kind: Kind, now: Moment) -> Self {
        Self {
            socket,
            kind,
            state: State::Reading,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            deadline: Some(now + PATIENCE),
            head: false,
            keep: true,
        }
    }

    fn ready(&mut self, flags: EpollFlags, room: usize, now: Moment) -> Next {
        match self.state {
            State::Reading => self.read(room, now),
            // A client that has closed one direction only may still want its answer: that is no EPOLLHUP.
            State::Waiting if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) => Next::Close,
            State::Waiting => Next::Stay(EpollFlags::empty()),
            State::Writing => self.write(now),
            State::Draining(before) => self.drain(before),
        }
    }

    fn read(&mut self, room: usize, now: Moment) -> Next {
        // What has come with the request before.
        if !self.input.is_empty()
            && let Some(next) = self.take(room, now)
        {
            return next;
        }
        let mut bytes = [0; 4096];
        let count = match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Next::Close,
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Next::Stay(EpollFlags::EPOLLIN),
            Err(_) => return Next::Close,
        };
        if self.input.is_empty() {
            self.deadline = Some(now + PATIENCE);
        }
        self.input.extend_from_slice(&bytes[..count]);
        self.take(room, now).unwrap_or(Next::Stay(EpollFlags::EPOLLIN))
    }

    /// Takes a request out of the input; None when there is no whole one.
    fn take(&mut self, room: usize, now: Moment) -> Option<Next> {
        match message::parse(&self.input, self.kind) {
            Parsed::Partial => None,
            Parsed::Bad(status, why) => {
                (self.head, self.keep) = (false, false);
                Some(self.answer(&Response::error(status, why), room, now))
            }
            Parsed::Whole(request, used, keep) => {
                self.input.drain(..used);
                self.input.shrink_to_fit();
                self.head = request.method == "HEAD";
                self.keep = keep;
                self.state = State::Waiting;
                self.deadline = None;
                Some(Next::Ask(request))
            }
        }
    }

    fn answer(&mut self, response: &Response, room: usize, now: Moment) -> Next {
        self.output = match response.body.len() <= room {
            true => response.encode(self.head, self.keep),
            false => Response::error(503, "too many answers wait for their clients").encode(self.head, self.keep),
        };
        self.sent = 0;
        self.state = State::Writing;
        self.deadline = Some(now + PATIENCE);
        self.write(now)
    }

    fn write(&mut self, now: Moment) -> Next {
        match write(&self.socket, &self.output[self.sent..]) {
            Ok(0) => {}
            Ok(count) => {
                self.sent += count;
                self.deadline = Some(now + PATIENCE);
            }
            Err(_) => return Next::Close,
        }
        if self.sent < self.output.len() {
            return Next::Stay(EpollFlags::EPOLLOUT);
        }
        (self.output, self.sent) = (Vec::new(), 0);
        if self.keep {
            self.state = State::Reading;
            // What has come already is looked at in the next round, after the other clients.
            let more = if self.input.is_empty() { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
            return Next::Stay(EpollFlags::EPOLLIN | more);
        }
        self.input = Vec::new();
        self.state = State::Draining(0);
        match shutdown(self.socket.as_raw_fd(), Shutdown::Write) {
            Ok(()) => Next::Stay(EpollFlags::EPOLLIN),
            Err(_) => Next::Close,
        }
    }

    fn drain(&mut self, before: usize) -> Next {
        let mut bytes = [0; 4096];
        match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(count) if count > 0 && before + count < DRAINED => {
                self.state = State::Draining(before + count);
                Next::Stay(EpollFlags::EPOLLIN)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Next::Stay(EpollFlags::EPOLLIN),
            _ => Next::Close,
        }
    }
}
