//! What may be asked of the supervisor, and what is answered: a function of the views and of the record of events.

use std::time::Duration;

use super::http::{Kind, Request, Response};
use super::view::View;
use crate::error::Error;

/// The record of events.
pub trait Events {
    /// The events of one container, or of all, with a number greater than `seq`, the oldest first: each an
    /// [`Event`](super::view::Event) as JSON on one line, without its newline.
    fn since(&self, id: Option<&str>, seq: u64) -> Vec<String>;
}

/// What follows from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is answered at once.
    Response(Response),
    /// It is for the supervisor to do; [`acted`] is the answer.
    Action(Action),
}

/// What is asked on the control socket. Ids are those of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `POST /v1/containers/ID/stop?timeout=SECONDS`; None: as the configuration says.
    Stop {
        /// Which one.
        id: String,
        /// After that its cgroup is killed.
        timeout: Option<Duration>,
    },
    /// `POST /v1/containers/ID/restart`.
    Restart {
        /// Which one.
        id: String,
    },
    /// `POST /v1/containers/ID/kill?signal=SIGNAL`.
    Kill {
        /// Which one.
        id: String,
        /// A signal that `kill` takes; KILL if none is named.
        signal: String,
    },
    /// `POST /v1/upgrade`.
    Upgrade,
    /// `POST /v1/shutdown`.
    Shutdown,
}

/// The answer to a request.
pub fn answer(request: &Request, views: &[View], events: &dyn Events) -> Answer {
    let _ = (request, views, events, Kind::Read);
    Answer::Response(Response::error(404, ""))
}

/// What is said of an action that is done, or has failed.
pub fn acted(result: &Result<(), Error>) -> Response {
    match result {
        Ok(()) => Response::new(200, "application/json", "{\"done\":true}\n"),
        Err(error) => {
            let text = serde_json::json!({ "done": false, "error": error.to_string() });
            Response::new(409, "application/json", format!("{text}\n"))
        }
    }
}
