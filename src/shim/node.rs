//! All containers of a node at one port, for those who want one: `orlop-shim node`. Optional: nothing needs it, and it holds nothing that
//! is not the supervisors'. One process with one thread and one loop; it changes nothing.
//!
//! [`collect`] asks the supervisors; what goes out is made of their views by the same functions as theirs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::api::{self, Answer, Events};
use super::client::{self, Fact, Source};
use super::clock::{self, Moment};
use super::epoll::{EpollFlags, Poll, Ready};
use super::health::Summary;
use super::http::{Connections, Limits, Listener, Request, Response};
use super::sdnotify::Manager;
use super::secret::Bearer;
use crate::error::{Error, Result};

mod agent;
mod collect;

use agent::Agent;
use collect::Collector;

/// Clients of the port at once. A check of HAProxy's is one for a moment, and there may be one for each container.
const CLIENTS: usize = 256;
/// Bytes of answers that are held: the metrics of a thousand containers have six million.
const OUTPUT: usize = 64 << 20;
/// How long clients wait when no descriptor is left for one more.
const DEAF: Duration = Duration::from_secs(1);
/// How often supervisors may be asked.
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

mod token {
    pub(super) const LISTENER: u64 = 1;
    pub(super) const AGENT: u64 = 2;
    /// From here to `ASKED`: clients of the agent's port.
    pub(super) const AGENTS: u64 = 1 << 59;
    /// From here to `1 << 61`: questions to supervisors.
    pub(super) const ASKED: u64 = 1 << 60;
    pub(super) const ASKED_END: u64 = 1 << 61;
}

/// What is wanted of it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where the supervisors are.
    pub source: Source,
    /// How often they are asked: from a tenth of a second to a minute.
    pub period: Duration,
    /// Where it answers over HTTP.
    pub listen: Option<SocketAddr>,
    /// Where it answers to HAProxy.
    pub agent: Option<SocketAddr>,
    /// Where HAProxy asks from; empty: from anywhere on this machine.
    pub agent_from: Vec<IpAddr>,
    /// The file of the token that clients must tell; None: everybody on this machine may ask.
    pub bearer: Option<PathBuf>,
}

/// The process.
#[derive(Debug)]
pub struct Node {
    poll: Poll,
    collector: Collector,
    listener: Option<Listener>,
    agent: Option<Agent>,
    connections: Connections,
    bearer: Option<Bearer>,
    /// After this moment clients are heard again.
    deaf: Option<Moment>,
    /// Nobody was heard yet: this is when they are, whatever is known by then.
    begins: Option<Moment>,
    manager: Option<Manager>,
}

/// It keeps no events: those of a container are its supervisor's.
struct NoEvents;

impl Events for NoEvents {
    fn since(&self, _: &str, _: u64) -> Vec<String> {
        Vec::new()
    }
}

impl Node {
    /// Listens, and has asked nobody yet.
    ///
    /// # Errors
    /// An address is in use or not ours, a secret is none, others could ask without one.
    pub fn new(wanted: Wanted) -> Result<Self> {
        if !PERIODS.contains(&wanted.period) {
            return Err(Error::new("--period is from 0.1 to 60 seconds"));
        }
        if wanted.listen.is_none() && wanted.agent.is_none() {
            return Err(Error::new("--listen or --agent says where to answer"));
        }
        let listener = wanted.listen.map(|address| listen(address, wanted.bearer.is_some())).transpose()?;
        let agent = wanted.agent.map(|address| Agent::new(address, wanted.agent_from)).transpose()?;
        let bearer = wanted.bearer.map(Bearer::open).transpose()?;
        let poll = Poll::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
        if let Some(listener) = &listener {
            poll.add(listener, token::LISTENER, EpollFlags::empty())?;
        }
        if let Some(agent) = &agent {
            poll.add(agent, token::AGENT, EpollFlags::empty())?;
        }
        Ok(Self {
            poll,
            collector: Collector::new(wanted.source, wanted.period, clock::now()),
            listener,
            agent,
            connections: Connections::with(Limits { clients: CLIENTS, port: CLIENTS, output: OUTPUT }),
            bearer,
            deaf: None,
            begins: Some(clock::now() + client::PATIENCE),
            manager: Manager::take(),
        })
    }

    /// Answers until it is asked to end by SIGTERM or SIGINT. The exit status.
    ///
    /// # Errors
    /// It can't wait any more.
    pub fn run(mut self) -> Result<i32> {
        loop {
            let now = clock::now();
            if let Some(why) = self.collector.times(&self.poll, now) {
                complain(&why);
            }
            // A node that was started anew is not to say that all are unknown, which would take them down.
            if self.begins.is_some_and(|at| at <= now || self.collector.complete()) {
                self.begins = None;
                self.hear(true)?;
                self.manager.iter_mut().for_each(Manager::ready);
            }
            self.connections.expire(now);
            self.agent.iter_mut().for_each(|agent| agent.expire(now));
            if self.deaf.is_some_and(|until| until <= now) {
                self.deaf = None;
                self.hear(true)?;
            }
            let agents = self.agent.as_ref().and_then(Agent::deadline);
            let times = [Some(self.collector.next()), self.connections.deadline(), agents, self.deaf, self.begins];
            self.poll.wake_at(times.into_iter().flatten().min())?;
            for ready in self.poll.wait()? {
                match ready {
                    Ready::Signal(Signal::SIGHUP) => self.read_secret(),
                    Ready::Signal(_) => return Ok(0),
                    Ready::Time => {}
                    Ready::File(found, flags) => self.file(found, flags)?,
                }
            }
        }
    }

    fn read_secret(&mut self) {
        if let Some(Err(error)) = self.bearer.as_mut().map(Bearer::again) {
            complain(&format!("{error:#}: the old one counts"));
        }
    }

    fn hear(&self, hear: bool) -> Result<()> {
        let events = if hear { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        if let Some(listener) = &self.listener {
            self.poll.change(listener, token::LISTENER, events)?;
        }
        if let Some(agent) = &self.agent {
            self.poll.change(agent, token::AGENT, events)?;
        }
        Ok(())
    }

    /// Takes clients; when no descriptor is left for one, none is heard for a while.
    fn accept(&mut self, found: u64, now: Moment) -> Result<()> {
        let taken = match (&self.listener, &mut self.agent) {
            (Some(listener), _) if found == token::LISTENER => self.connections.accept(listener, &self.poll, now),
            (_, Some(agent)) => agent.accept(&self.poll, now),
            _ => Ok(()),
        };
        if let Err(error) = taken {
            complain(&error.to_string());
            self.hear(false)?;
            self.deaf = Some(now + DEAF);
        }
        Ok(())
    }

    fn file(&mut self, found: u64, flags: EpollFlags) -> Result<()> {
        let now = clock::now();
        match found {
            token::LISTENER | token::AGENT => self.accept(found, now)?,
            token::AGENTS..token::ASKED => {
                let collector = &self.collector;
                let known = |id: &str| {
                    client::haproxy(
                        collector.container(id, now).unwrap_or(Err(Fact::Absent)).as_ref().map_err(|fact| *fact),
                    )
                };
                self.agent.iter_mut().for_each(|agent| agent.ready(found, known));
            }
            token::ASKED..token::ASKED_END => self.collector.ready(found, &self.poll, now),
            _ => {
                let Some((client, request)) = self.connections.ready(found, flags, &self.poll, now) else {
                    return Ok(());
                };
                let response = self.answer(&request, now);
                self.connections.answer(client, &response, &self.poll, now);
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request, now: Moment) -> Response {
        let told = request.authorization.as_ref().map_or("", |told| &told.0);
        if self.bearer.as_ref().is_some_and(|bearer| !bearer.is(told)) {
            return Response::error(401, "").header("WWW-Authenticate", "Bearer");
        }
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        if path == ["v1", "events"] {
            return Response::error(404, "events are the supervisors'");
        }
        // A check of one container is not to cost as much as all of them do.
        let one = match path[..] {
            ["livez" | "readyz" | "healthz"] => request.parameter("id"),
            ["v1", "containers", id] => Some(id),
            _ => None,
        };
        let views = match one {
            Some(id) => self.collector.view(id, now).into_iter().collect(),
            None => self.collector.views(now),
        };
        // Of itself, where nobody else is asked for: it goes round, and a node without a container is well.
        if path == ["healthz"] && request.query.is_empty() {
            let unknown = views.iter().filter(|view| view.summary == Summary::Unknown).count();
            return Response::text(200, &format!("ok containers={} unknown={unknown}", views.len()));
        }
        match api::answer(request, &views, &NoEvents) {
            Answer::Response(response) => response,
            // Nobody waits for events here, which were refused above.
            Answer::Action(_) | Answer::Later(_) => Response::error(403, "nothing can be changed here"),
        }
    }
}

/// For those who know a secret, or for this machine.
fn listen(address: SocketAddr, secret: bool) -> Result<Listener> {
    match (secret, address.ip().is_loopback()) {
        (true, _) => Listener::bearer(address),
        (false, true) => Listener::tcp(address),
        (false, false) => Err(Error::new(format!("{address} is not an address of the loopback interface"))
            .hint("--bearer-file FILE has everybody tell the token in it")),
    }
}

/// Says what nobody else can be told. Standard error may be closed, too.
fn complain(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "orlop-shim: {what}");
}
