//! Who asks over the sockets, and what is done for them.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{Directory, EpollFlags, Error, Listener, Phase, Result, Supervisor, Why, clock};
use crate::shim::api::{self, Action, Answer, Events};
use crate::shim::http::Kind;
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
        };
        self.connections.answer(client, &response, &self.poll, now);
        Ok(())
    }

    /// Does what was asked for on the control socket. What takes its time is begun.
    fn act(&mut self, action: Action) -> Result<()> {
        self.note("supervisor", serde_json::json!({ "asked": format!("{action:?}") }));
        match action {
            Action::Stop { timeout, .. } => self.ask_to_stop(Why::Asked, timeout),
            Action::Restart { .. } => self.ask_to_stop(Why::Restart, None),
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
