//! A claim and its connection: what is due is sent, and what comes back is told to the claim.

use super::{Ask, Claim, Wanted, etcd};
use crate::error::Result;
use crate::shim::clock::Moment;
use crate::shim::epoll::Poll;
use crate::shim::flight::{Flight, Part, Went, secret};

/// A claim, and how etcd is asked.
#[derive(Debug)]
pub struct Holder {
    /// What is held.
    pub claim: Claim,
    wanted: Wanted,
    /// The key's value: for people who look who has it.
    who: String,
    token: u64,
    flight: Option<(Ask, Flight)>,
    /// Which of its endpoints is asked.
    endpoint: usize,
    /// Why the last request has failed; said when it changes.
    trouble: Option<String>,
}

impl Holder {
    /// `token`: of the socket in the loop.
    pub fn new(wanted: Wanted, who: String, token: u64) -> Self {
        let claim = Claim::new(wanted.ttl);
        Self { claim, wanted, who, token, flight: None, endpoint: 0, trouble: None }
    }

    /// What it is for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// A request is on its way.
    pub fn asks(&self) -> bool {
        self.flight.is_some()
    }

    /// When there is something to do.
    pub fn next(&self, now: Moment) -> Option<Moment> {
        let flight = self.flight.as_ref().map(|(_, flight)| flight.deadline);
        [self.claim.next(now), flight].into_iter().flatten().min()
    }

    /// Changes the claim, whatever was asked for before: an answer to that is not waited for.
    pub fn turn(&mut self, poll: &Poll, change: impl FnOnce(&mut Claim)) {
        if let Some((_, flight)) = self.flight.take() {
            flight.end(poll);
        }
        change(&mut self.claim);
    }

    /// Sends what is due, and gives up what has had its time. Some: what is new to be said of how etcd answers.
    pub fn go_on(&mut self, poll: &Poll, now: Moment) -> Option<Option<String>> {
        let mut said = None;
        if self.flight.as_ref().is_some_and(|(_, flight)| flight.deadline <= now) {
            said = self.landed(poll, now, Err("no answer in its time".to_owned()));
        }
        let Some((ask, deadline)) = self.claim.due(now) else { return said };
        let (to, _) = &self.wanted.etcd[self.endpoint];
        let begun = self.request(ask).and_then(|text| Flight::begin(to, text, Part::Whole, deadline, poll, self.token));
        match begun {
            Ok(flight) => self.flight = Some((ask, flight)),
            Err(error) => said = self.landed(poll, now, Err(error.to_string())).or(said),
        }
        said
    }

    /// The socket is ready. As [`go_on`](Self::go_on).
    pub fn ready(&mut self, poll: &Poll, now: Moment) -> Option<Option<String>> {
        let went = self.flight.as_mut()?.1.ready(poll, self.token)?;
        self.landed(poll, now, went)
    }

    fn landed(&mut self, poll: &Poll, now: Moment, went: Went) -> Option<Option<String>> {
        let ask = self.flight.take().map(|(ask, flight)| {
            flight.end(poll);
            ask
        });
        let heard = went.and_then(|answer| match ask {
            Some(ask) => etcd::heard(ask, self.wanted.ttl, answer.status, &answer.body),
            None => Err("nothing was asked for".to_owned()),
        });
        let trouble = match heard {
            Ok(heard) => {
                self.claim.answered(heard, now);
                None
            }
            Err(error) => {
                self.claim.failed(now);
                self.endpoint = (self.endpoint + 1) % self.wanted.etcd.len();
                Some(error)
            }
        };
        let new = self.trouble.is_some() != trouble.is_some();
        self.trouble = trouble;
        new.then(|| self.trouble.clone())
    }

    fn request(&self, ask: Ask) -> Result<Vec<u8>> {
        let (path, body) = etcd::request(ask, &self.wanted.key, self.wanted.ttl, &self.who);
        let (_, host) = &self.wanted.etcd[self.endpoint];
        let mut text = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        if let Some(file) = &self.wanted.header_file {
            text += &secret(file)?;
            text += "\r\n";
        }
        let body = body.to_string();
        text += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        Ok(text.into_bytes())
    }
}
