//! The right to run, as a lease that is held elsewhere: what is asked for when, and until when a container may run.
//!
//! ```text
//! Idle ─▶ Looking ◀─▶ Free ─▶ Granted ─▶ Held ─▶ Leaving ─▶ Idle
//!            ▲─────────────────────┘  lost │
//!            └─────────────────────────────┘
//! ```
//!
//! [`Claim`] is plain data: it is told what was answered and when, and asks nobody for the time. [`etcd`] has the messages,
//! [`holder`] sends them. Decision 12 has the reasons.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::flight::Where;
use super::health;

pub mod etcd;
pub mod holder;

pub use holder::Holder;

/// What a bundle wants: `lease` in health.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where etcd answers, with the Host field of each; the next one is asked when one does not answer.
    pub etcd: Vec<(Where, String)>,
    /// The key that its holder has.
    pub key: String,
    /// How long it lasts without being renewed: whole seconds, as etcd counts them.
    pub ttl: Duration,
    /// A file with one header: a token that is nobody else's business. Read for each request, must be 0600.
    pub header_file: Option<std::path::PathBuf>,
}

/// So much of a lease's time is left when the container is stopped: a twentieth for what clocks and the scheduler do to us, and
/// a fifth, at most two seconds, for the kernel to end its processes.
pub fn reserve(ttl: Duration) -> Duration {
    ttl / 20 + (ttl / 5).min(Duration::from_secs(2))
}

/// What is asked of etcd. Leases and tokens are its int64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Has somebody the key?
    Look,
    /// A lease.
    Grant,
    /// The key under this lease, if nobody has it.
    Take(i64),
    /// This lease's time once more.
    Renew(i64),
    /// The key is given back by the holder with this token.
    Leave(i64),
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nobody has the key.
    Free,
    /// Somebody has it.
    Taken,
    /// A lease.
    Granted(i64),
    /// The key is ours.
    Won {
        /// Its create_revision: greater than that of each holder before.
        token: i64,
        /// Who had it and has not given it back.
        before: Option<Before>,
    },
    /// The lease lasts on.
    Renewed,
    /// There is no such lease any more.
    Gone,
    /// The key is given back, or was another's.
    Left,
}

/// A holder whose key has gone without being given back: it may run for as long as it believes in its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Its lease.
    pub lease: i64,
    /// Its time.
    pub ttl: Duration,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Under which lease.
    pub lease: i64,
    /// The key's create_revision.
    pub token: i64,
    /// When the last request was sent that has prolonged it. Sent, not answered: its time may have begun then.
    since: Moment,
    /// Before that the holder before may still run.
    usable: Moment,
    /// It was taken away.
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Looking,
    Free,
    Granted { lease: i64, since: Moment },
    Held(Held),
    Leaving(i64),
}

/// One container's claim to its key.
#[derive(Debug, Clone)]
pub struct Claim {
    ttl: Duration,
    state: State,
    asked: Option<(Ask, Moment)>,
    next: Moment,
    /// The lease under which a container of ours has run, and does not any more when another one is looked for.
    own: Option<i64>,
}

/// What another supervisor goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    held: Option<Held>,
    own: Option<i64>,
}

impl Claim {
    /// Nothing is held, and nothing asked for.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, state: State::Idle, asked: None, next: Moment::ZERO, own: None }
    }

    /// What has to outlive this supervisor.
    pub fn save(&self) -> Saved {
        Saved { held: self.held().copied(), own: self.own }
    }

    /// Goes on. Of another boot nothing is held any more: nothing of it runs.
    pub fn go_on(&mut self, saved: Saved, same_boot: bool, now: Moment) {
        self.own = saved.own;
        if let Some(held) = saved.held.filter(|_| same_boot) {
            self.state = State::Held(held);
            self.next = now;
        }
    }

    /// Begins to look for the key, if it is not ours.
    pub fn want(&mut self, now: Moment) {
        if matches!(self.state, State::Idle | State::Leaving(_)) {
            (self.state, self.asked, self.next) = (State::Looking, None, now);
        }
    }

    /// The container runs from now on, under what is held.
    pub fn used(&mut self) {
        self.own = self.held().map(|held| held.lease).or(self.own);
    }

    /// What is held is given up: nothing runs under it, or it was lost.
    pub fn lose(&mut self) {
        (self.state, self.asked) = (State::Idle, None);
    }

    /// Nothing of ours runs, or will: the key is given back. While the holder before may still run it is left to run out: whoever
    /// comes next would not know of that one.
    pub fn leave(&mut self, now: Moment) {
        self.asked = None;
        match self.state {
            State::Held(held) if !held.gone && now >= held.usable => {
                (self.state, self.next) = (State::Leaving(held.token), now)
            }
            State::Leaving(_) => {}
            _ => self.state = State::Idle,
        }
    }

    /// Nothing is to be asked for.
    pub fn idle(&self) -> bool {
        self.state == State::Idle
    }

    /// The key is being given back.
    pub fn leaves(&self) -> bool {
        matches!(self.state, State::Leaving(_))
    }

    /// It has asked, and has to wait.
    pub fn waits(&self, now: Moment) -> bool {
        match &self.state {
            State::Looking | State::Granted { .. } => self.asked.is_none() && self.next > now,
            State::Held(held) => held.usable > now,
            _ => false,
        }
    }

    /// What is held, used or not.
    pub fn held(&self) -> Option<&Held> {
        if let State::Held(held) = &self.state { Some(held) } else { None }
    }

    /// A container may be started under this.
    pub fn usable(&self, now: Moment) -> Option<&Held> {
        self.held().filter(|held| now >= held.usable && self.deadline().is_some_and(|deadline| now < deadline))
    }

    /// Then it must be stopped, when it runs; [`end`](Self::end) is what it must have ended before. None: nothing is held.
    pub fn deadline(&self) -> Option<Moment> {
        let held = self.held()?;
        Some(if held.gone { held.since } else { held.since + self.ttl.saturating_sub(reserve(self.ttl)) })
    }

    /// Not before that another one starts.
    pub fn end(&self) -> Option<Moment> {
        Some(self.held()?.since + self.ttl)
    }

    /// For the summary.
    pub fn axis(&self, now: Moment) -> health::Lease {
        match &self.state {
            State::Held(held) if held.gone => health::Lease::Lost,
            State::Held(held) if now >= held.since + self.ttl / 2 => health::Lease::Expiring,
            State::Held(held) if now >= held.usable => health::Lease::Held,
            _ => health::Lease::Waiting,
        }
    }

    /// When there is something to do: a request is due, what is held becomes usable, or ends.
    pub fn next(&self, now: Moment) -> Option<Moment> {
        let request = (self.asked.is_none() && self.state != State::Idle).then_some(self.next);
        let usable = self.held().map(|held| held.usable).filter(|usable| *usable > now);
        [request, usable, self.deadline()].into_iter().flatten().min()
    }

    /// The request that is due; it is sent at `now`, and given up at the second moment.
    pub fn due(&mut self, now: Moment) -> Option<(Ask, Moment)> {
        if self.asked.is_some() || now < self.next {
            return None;
        }
        let (ask, part) = match self.state {
            State::Idle => return None,
            State::Looking => (Ask::Look, 3),
            State::Free => (Ask::Grant, 3),
            State::Granted { lease, .. } => (Ask::Take(lease), 3),
            State::Held(held) if held.gone => return None,
            // Short, so that another one may follow in time.
            State::Held(held) => (Ask::Renew(held.lease), 6),
            State::Leaving(token) => (Ask::Leave(token), 3),
        };
        self.asked = Some((ask, now));
        Some((ask, now + (self.ttl / part).min(Duration::from_secs(5))))
    }

    /// What was asked for last was answered at `now`.
    pub fn answered(&mut self, heard: Heard, now: Moment) {
        let Some((ask, at)) = self.asked.take() else { return };
        self.next = now;
        match (self.state, heard) {
            (State::Looking, Heard::Free) => self.state = State::Free,
            (State::Free, Heard::Granted(lease)) => self.state = State::Granted { lease, since: at },
            (State::Granted { lease, since }, Heard::Won { token, before }) => {
                let before = before.filter(|before| Some(before.lease) != self.own);
                // Whoever had it has renewed it before it went, and it went before this answer.
                let usable = before.map_or(now, |before| now + before.ttl.max(self.ttl));
                self.state = State::Held(Held { lease, token, since, usable, gone: false });
                self.next = since + self.ttl / 3;
            }
            (State::Held(held), Heard::Renewed) if ask == Ask::Renew(held.lease) => {
                self.state = State::Held(Held { since: at, ..held });
                self.next = at + self.ttl / 3;
            }
            (State::Held(held), Heard::Gone) => self.state = State::Held(Held { gone: true, ..held }),
            (State::Leaving(_), Heard::Left) => self.state = State::Idle,
            (State::Looking | State::Free | State::Granted { .. }, _) => self.look_again(at, now),
            _ => {}
        }
    }

    /// What was asked for last was not answered in its time, or not as it should be.
    pub fn failed(&mut self, now: Moment) {
        let Some((_, at)) = self.asked.take() else { return };
        let soon = now.max(at + self.ttl / 12);
        match self.state {
            // It may have been taken: asked for once more under the same lease, that is found out.
            State::Granted { since, .. } if now < since + self.ttl / 2 => self.next = soon,
            State::Looking | State::Free | State::Granted { .. } => self.look_again(at, now),
            _ => self.next = soon,
        }
    }

    fn look_again(&mut self, at: Moment, now: Moment) {
        (self.state, self.next) = (State::Looking, now.max(at + self.ttl / 3));
    }
}

#[cfg(test)]
mod tests;
