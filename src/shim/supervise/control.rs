//! Who asks over the sockets, and what is done for them.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{Directory, EpollFlags, Error, Listener, Phase, Result, Supervisor, Why, clock};
use crate::shim::api::{self, Action, Answer, Events};
use crate::shim::clock::Moment;
use crate::shim::http::{Client, Kind, Request};
use crate::shim::record::Journal;

/// The sockets in the supervisor's directory, and the port where one is wanted.
pub(super) fn listen(directory: &Directory, port: Option<SocketAddr>) -> Result<Vec<Listener>> {
    let file = directory.file();
    let mut listeners = vec![
        Listener::unix(file.as_fd(), "read.sock", Kind::Read)?,
        Listener::unix(file.as_fd(), "control.sock", Kind::Control)?,
    ];
    if let Some(port) = port {
        listeners.push(Listener::tcp(port)?);
    }
    Ok(listeners)
}

/// A client that waits for an event with a number after `seq`.
#[derive(Debug)]
pub(super) struct Later {
    client: Client,
    request: Request,
    seq: u64,
    pub(super) until: Moment,
}

struct Of<'a>(&'a Journal, &'a str);

impl Events for Of<'_> {
    fn since(&self, id: &str, seq: u64) -> Vec<String> {
        if id == self.1 { self.0.since(seq) } else { Vec::new() }
    }
}

impl Supervisor {
    pub(super) fn client(&mut self, token: u64, flags: EpollFlags) -> Result<()> {
        let now = clock::now();
        let Some((client, request)) = self.connections.ready(token, flags, &self.poll, now) else { return Ok(()) };
        let views = [self.view(now)];
        let response = match api::answer(&request, &views, &Of(&self.journal, &self.wanted.id)) {
            Answer::Response(response) => response,
            Answer::Action(action) => api::acted(&self.act(action)),
            Answer::Later(wait) => {
                self.later.push(Later { client, request, seq: self.journal.seq(), until: now + wait });
                return Ok(());
            }
        };
        self.connections.answer(client, &response, &self.poll, now);
        Ok(())
    }

    /// Answers those who wait for an event when there is one, or when they have waited long enough.
    pub(super) fn answer_later(&mut self) {
        let (now, seq) = (clock::now(), self.journal.seq());
        let due: Vec<_> = self.later.extract_if(.., |later| later.seq != seq || later.until <= now).collect();
        if due.is_empty() {
            return;
        }
        let views = [self.view(now)];
        for Later { client, request, .. } in due {
            let response = api::record(&request, &views, &Of(&self.journal, &self.wanted.id));
            self.connections.answer(client, &response, &self.poll, now);
        }
    }

    /// Does what was asked for on the control socket. What takes its time is begun.
    fn act(&mut self, action: Action) -> Result<()> {
        self.note("supervisor", serde_json::json!({ "asked": format!("{action:?}") }));
        match action {
            Action::Stop { timeout, .. } => self.ask_to_stop(Why::Asked, timeout),
            Action::Restart { .. } => self.ask_to_stop(Why::Restart, None),
            Action::Drain { drained, .. } => {
                self.drained = drained;
                self.keep();
                Ok(())
            }
            Action::Kill { signal, .. } => {
                crate::commands::signal(&signal)?;
                if self.phase != Phase::Up {
                    return Err(Error::new("container not running"));
                }
                self.signal(&signal);
                Ok(())
            }
            Action::Upgrade => {
                self.upgrade = true;
                Ok(())
            }
            Action::Shutdown => self.ask_to_stop(Why::Asked, None),
        }
    }
}
