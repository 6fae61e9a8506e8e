//! What the supervisors of a node have said last: each is asked in each period over its socket for reading, and none is waited for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nix::errno::Errno;

use super::token;
use crate::error;
use crate::shim::client::ask::{Exchange, Reply, request};
use crate::shim::client::{Fact, PATIENCE, READ, Source, fact};
use crate::shim::clock::Moment;
use crate::shim::epoll::{EpollFlags, Poll};
use crate::shim::health::{Reason, Summary};
use crate::shim::view::View;
use crate::state;

/// So many are asked at once, and so many of those that did not answer the last time: they can't hold up the others.
const AT_ONCE: usize = 128;
const SILENT_AT_ONCE: usize = 32;

/// All supervisors below one directory.
#[derive(Debug)]
pub(super) struct Collector {
    source: Source,
    period: Duration,
    supervisors: BTreeMap<String, Supervisor>,
    /// Those that are to be asked in this round: who has answered the last time, and who has not.
    waiting: [VecDeque<String>; 2],
    /// Who is asked, by the token of the exchange.
    asked: BTreeMap<u64, Asked>,
    count: u64,
    next: Moment,
    /// Why the directory can't be read.
    failure: Option<String>,
}

#[derive(Debug)]
struct Asked {
    id: String,
    exchange: Exchange,
    at: Moment,
    silent: bool,
}

#[derive(Debug)]
struct Supervisor {
    found: Found,
    asked: bool,
    /// When it was asked the last time.
    tried: Moment,
}

#[derive(Debug)]
enum Found {
    /// It was not asked yet.
    Nothing,
    /// It has said so, then.
    Said(Box<View>, Moment),
    /// It has ended with its container, and this was its last word.
    Last(Box<View>),
    /// It does not answer; since then, on the wall.
    Silent(Fact, String),
}

impl Collector {
    pub(super) fn new(source: Source, period: Duration, now: Moment) -> Self {
        Self {
            source,
            period,
            supervisors: BTreeMap::new(),
            waiting: Default::default(),
            asked: BTreeMap::new(),
            count: token::ASKED,
            next: now,
            failure: None,
        }
    }

    /// The next moment at which something is to be done.
    pub(super) fn next(&self) -> Moment {
        // They are asked in their order, so the first one has waited for the longest time.
        let first = self.asked.values().next().map(|asked| asked.at + PATIENCE);
        first.map_or(self.next, |first| first.min(self.next))
    }

    /// Everybody there was has been asked, and has answered or will not.
    pub(super) fn complete(&self) -> bool {
        !self.supervisors.values().any(|supervisor| matches!(supervisor.found, Found::Nothing))
    }

    /// Begins what is to be begun, and gives up who has had his time. Why the directory can't be read, once.
    pub(super) fn times(&mut self, poll: &Poll, now: Moment) -> Option<String> {
        let late = self.asked.iter().filter(|(_, asked)| asked.at + PATIENCE <= now).map(|(token, _)| *token);
        for token in late.collect::<Vec<_>>() {
            self.answered(token, None, now);
        }
        let mut said = None;
        if self.next <= now {
            self.next = now + self.period;
            let failure = self.round().err().map(|error| error.to_string());
            if failure != self.failure {
                said.clone_from(&failure);
                self.failure = failure;
            }
        }
        self.fill(poll, now);
        said
    }

    /// All there are now are to be asked, unless they are asked already.
    fn round(&mut self) -> error::Result<()> {
        let ids = self.source.ids()?;
        self.supervisors.retain(|id, _| ids.binary_search(id).is_ok());
        for id in ids {
            let new = Supervisor { found: Found::Nothing, asked: false, tried: Moment::ZERO };
            self.supervisors.entry(id).or_insert(new);
        }
        // Whose turn has not come in the last round is the first in this one.
        let mut waiting: Vec<_> = self.supervisors.iter().filter(|(_, supervisor)| !supervisor.asked).collect();
        waiting.sort_by_key(|(_, supervisor)| supervisor.tried);
        let queue = |silent| {
            let all = waiting.iter().filter(|(_, supervisor)| supervisor.silent() == silent);
            all.map(|(id, _)| String::clone(id)).collect()
        };
        self.waiting = [queue(false), queue(true)];
        Ok(())
    }

    /// Asks as many as may be asked at once.
    fn fill(&mut self, poll: &Poll, now: Moment) {
        while self.asked.len() < AT_ONCE {
            let silent = self.asked.values().filter(|asked| asked.silent).count();
            let [heard, unheard] = &mut self.waiting;
            let next = heard.pop_front().map(|id| (id, false));
            let next =
                next.or_else(|| (silent < SILENT_AT_ONCE).then(|| unheard.pop_front()).flatten().map(|id| (id, true)));
            let Some((id, silent)) = next else { break };
            let Some(supervisor) = self.supervisors.get_mut(&id) else { continue };
            supervisor.tried = now;
            match Exchange::begin(&self.source.directory.join(&id).join(READ)) {
                Ok(exchange) => self.ask(id, exchange, silent, poll, now),
                // EAGAIN as well: a queue that is full belongs to somebody who takes nobody.
                Err(errno) => self.unheard(&id, errno == Errno::EAGAIN),
            }
        }
    }

    fn ask(&mut self, id: String, exchange: Exchange, silent: bool, poll: &Poll, now: Moment) {
        self.count += 1;
        if poll.add(&exchange, self.count, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT).is_err() {
            return self.unheard(&id, true);
        }
        if let Some(supervisor) = self.supervisors.get_mut(&id) {
            supervisor.asked = true;
            self.asked.insert(self.count, Asked { id, exchange, at: now, silent });
        }
    }

    /// Goes on with an exchange.
    pub(super) fn ready(&mut self, token: u64, poll: &Poll, now: Moment) {
        let Some(asked) = self.asked.get_mut(&token) else { return };
        match asked.exchange.advance(&request("GET", "/v1/containers")) {
            // All of it is sent, for one that takes as much as that.
            None => {
                let _ = poll.change(&asked.exchange, token, EpollFlags::EPOLLIN);
            }
            Some(reply) => self.answered(token, reply, now),
        }
        self.fill(poll, now);
    }

    fn answered(&mut self, token: u64, reply: Option<Reply>, now: Moment) {
        let Some(Asked { id, at, .. }) = self.asked.remove(&token) else { return };
        let views = reply.and_then(|(status, body)| (status == 200).then(|| serde_json::from_slice(&body).ok())?);
        // A supervisor speaks for the container of its name alone: so none is there twice.
        let view = views.and_then(|views: Vec<View>| views.into_iter().find(|view| view.id == id));
        let Some(supervisor) = self.supervisors.get_mut(&id) else { return };
        supervisor.asked = false;
        match view {
            // It is as old as the question: when in between it was made is not known.
            Some(view) => supervisor.found = Found::Said(Box::new(view), at.min(now)),
            None => self.unheard(&id, true),
        }
    }

    /// `listens`: somebody does, who has not answered.
    fn unheard(&mut self, id: &str, listens: bool) {
        let fact = fact(&self.source, id);
        let last = if listens || fact != Fact::Absent { None } else { self.source.last(id) };
        let Some(supervisor) = self.supervisors.get_mut(id) else { return };
        supervisor.found = match (last, &supervisor.found) {
            (Some(last), _) => Found::Last(Box::new(last)),
            (None, Found::Silent(_, since)) => Found::Silent(fact, since.clone()),
            (None, _) => Found::Silent(fact, state::now()),
        };
    }

    /// What is known of a container, as old as it is; None: there is no such supervisor.
    pub(super) fn container(&self, id: &str, now: Moment) -> Option<Result<View, Fact>> {
        // An answer counts for so long.
        let oldest = now.saturating_sub(self.period + PATIENCE);
        Some(self.supervisors.get(id)?.known(oldest, now))
    }

    /// The view of one. One whose supervisor does not answer is unknown, or stopped where the kernel says so.
    pub(super) fn view(&self, id: &str, now: Moment) -> Option<View> {
        let supervisor = self.supervisors.get(id)?;
        self.container(id, now).map(|known| known.unwrap_or_else(|fact| unheard(id, fact, supervisor)))
    }

    /// The views of all.
    pub(super) fn views(&self, now: Moment) -> Vec<View> {
        self.supervisors.keys().filter_map(|id| self.view(id, now)).collect()
    }
}

impl Supervisor {
    fn silent(&self) -> bool {
        matches!(self.found, Found::Silent(..))
    }

    /// What it has said since `oldest`. The last good value is not repeated.
    fn known(&self, oldest: Moment, now: Moment) -> Result<View, Fact> {
        match &self.found {
            Found::Said(view, at) if *at >= oldest => {
                let mut view = View::clone(view);
                view.age_seconds += now.saturating_sub(*at).as_secs_f64();
                Ok(view)
            }
            Found::Said(..) | Found::Nothing => Err(Fact::Unknown),
            Found::Last(view) => Ok(View::clone(view)),
            Found::Silent(fact, _) => Err(*fact),
        }
    }
}

/// What is said of a container whose supervisor does not answer.
fn unheard(id: &str, fact: Fact, supervisor: &Supervisor) -> View {
    let (summary, lifecycle) = match fact {
        Fact::Ended => (Summary::Stopped, "exited"),
        _ => (Summary::Unknown, "unknown"),
    };
    View {
        id: id.to_owned(),
        bundle: String::new(),
        pid: fact.pid(),
        summary,
        reason: Reason::NoSupervisor,
        since: if let Found::Silent(_, since) = &supervisor.found { since.clone() } else { state::now() },
        seq: 0,
        lifecycle: lifecycle.to_owned(),
        ready: None,
        pressure: "unknown".to_owned(),
        crash: "unknown".to_owned(),
        restarts: 0,
        uptime_seconds: None,
        started_seconds: None,
        start_latency_seconds: None,
        age_seconds: 0.0,
        lag_seconds: 0.0,
        probes: Vec::new(),
        last_exit: None,
        counters: Vec::new(),
        lease: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::view::tests::view;

    #[test]
    fn an_old_answer_is_none() {
        let second = Duration::from_secs;
        let source = Source { directory: "/nowhere".into(), root: "/nowhere".into() };
        let mut all = Collector::new(source, second(1), second(10));
        let found = Found::Said(Box::new(view("web")), second(10));
        all.supervisors.insert("web".into(), Supervisor { found, asked: true, tried: second(10) });
        let said = |now| all.views(now).pop().map(|view| (view.summary, view.reason, view.age_seconds));
        assert_eq!(said(second(10)), Some((Summary::Healthy, Reason::Ok, 0.0)));
        assert_eq!(said(second(13)), Some((Summary::Healthy, Reason::Ok, 3.0)));
        assert_eq!(said(Duration::from_millis(13_001)), Some((Summary::Unknown, Reason::NoSupervisor, 0.0)));
        assert!(all.container("other", second(10)).is_none());
    }

    #[test]
    fn those_that_hang_leave_room_for_the_others() {
        let base = std::env::temp_dir().join(format!("orlop-collect-{}", std::process::id()));
        let (source, second) = (Source { directory: base.clone(), root: base.join("none") }, Duration::from_secs);
        let (poll, mut all) = (Poll::new(&[]).unwrap(), Collector::new(source, second(1), second(10)));
        let listens = |name: String| {
            let path = base.join(&name);
            std::fs::create_dir_all(&path).unwrap();
            (name, std::os::unix::net::UnixListener::bind(path.join(READ)).unwrap())
        };
        let mute: Vec<_> = (0..AT_ONCE + 20).map(|number| listens(format!("a{number}"))).collect();
        // At first nobody knows that they hang; then no more of them are asked than may be.
        assert_eq!((all.times(&poll, second(10)), all.asked.len(), all.complete()), (None, AT_ONCE, false));
        all.times(&poll, second(12));
        all.times(&poll, second(14));
        assert!(all.complete() && all.asked.len() == SILENT_AT_ONCE, "{}", all.asked.len());
        // One more, the last by its name.
        let (name, _listener) = listens("z".to_owned());
        all.times(&poll, second(15));
        assert!(all.asked.values().any(|asked| asked.id == name && !asked.silent));
        // Those that had to wait for their turn have it next.
        let silent = |all: &Collector| -> Vec<String> {
            all.asked.values().filter(|asked| asked.silent).map(|asked| asked.id.clone()).collect()
        };
        let before = silent(&all);
        all.times(&poll, second(16));
        assert!(silent(&all).iter().all(|id| !before.contains(id)) && silent(&all).len() == SILENT_AT_ONCE);
        drop(mute);
        std::fs::remove_dir_all(base).unwrap();
    }
}
