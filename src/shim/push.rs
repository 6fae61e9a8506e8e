//! What the supervisor tells on its own: programs at changes of state, and a heartbeat to who wants to hear one.
//!
//! A manager that is told this way needs no adapter: `crm_resource -F`, `attrd_updater`, `scontrol update`, a TTL check of Consul
//! are all configuration. A program is run by a worker, with nothing but what it is given, in a cgroup of its own and in its time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::children::{Children, Job, Reply};
use super::clock::Moment;
use super::epoll::Poll;
use super::flight::{Flight, Part, Where, secret};
use super::health::{Reason, Summary};
use super::view::Event;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{Error, Result};
use crate::exec::hooks;
use crate::plan::op::Hook;
use crate::sys::process::StringArray;

/// What a hook's worker may take beside the hook.
const GRACE: Duration = Duration::from_secs(5);
/// So many programs at once; more wait.
const AT_ONCE: usize = 4;
/// So many wait; the oldest of more is given up, and that is said.
const WAITING: usize = 64;

/// A program that is told of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The summaries that it is told of; None: all.
    pub on: Option<Vec<Summary>>,
    /// The program, an absolute path, and its arguments, in which words are put in ([`Words`]).
    pub exec: Vec<String>,
    /// Then it is killed.
    pub timeout: Duration,
}

/// A request in each period, and at each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// To whom.
    pub to: Where,
    /// What stands between scheme and path: the Host header.
    pub host: String,
    /// The path, in which words are put in.
    pub path: String,
    /// PUT, POST, GET.
    pub method: String,
    /// A file with one header: a token that is nobody else's business. Read for each request, must be 0600.
    pub header_file: Option<PathBuf>,
    /// The body, in which words are put in.
    pub body: String,
    /// How often.
    pub period: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

/// What is put into the place of `{id}`, `{node}`, `{summary}`, `{reason}`, `{seq}`, `{status}` (0 to 3, as of a plugin) and `{consul}`
/// (passing, warning, critical). None of them holds a space, a quote or a percent sign, so each stands for itself in a path, in JSON and
/// on a command line. What else stands in braces stays.
#[derive(Debug, Clone)]
pub struct Words {
    /// The container.
    pub id: String,
    /// The machine, as [`node`] has it.
    pub node: String,
    /// Its state.
    pub summary: Summary,
    /// Why.
    pub reason: Reason,
    /// The number of the event.
    pub seq: u64,
}

impl Words {
    /// `text` with the words.
    pub fn fill(&self, text: &str) -> String {
        let status = super::dialect::words(self.summary).nagios;
        let consul = ["passing", "warning", "critical", "critical"][usize::from(status)];
        text.replace("{id}", &self.id)
            .replace("{summary}", self.summary.as_str())
            .replace("{reason}", self.reason.as_str())
            .replace("{seq}", &self.seq.to_string())
            .replace("{status}", &status.to_string())
            .replace("{consul}", consul)
            .replace("{node}", &self.node)
    }
}

/// The machine's name, as `uname -n` prints it: what Pacemaker and Slurm call a node unless they are told otherwise. What no host's name
/// holds is left out.
pub fn node() -> String {
    let name =
        nix::sys::utsname::uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect()
}

/// All that one supervisor tells.
#[derive(Debug)]
pub struct Push {
    told: Vec<Told>,
    heartbeat: Option<Heartbeat>,
    token: u64,
    waiting: Vec<(Hook, Duration, Event)>,
    running: Vec<Job>,
    flight: Option<Flight>,
    /// Another change has come while one was on its way.
    again: bool,
    next: Moment,
    words: Option<Words>,
    cgroup: Option<Cgroup>,
    /// Why there is none.
    pub without: Option<String>,
    /// How the last heartbeat went: it is said when that changes.
    went: Option<bool>,
}

/// What there is to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A program has failed.
    Hook(String),
    /// The heartbeat is heard again, or is not any more.
    Heartbeat(std::result::Result<(), String>),
}

impl Push {
    /// `token`: of the heartbeat's socket.
    pub fn new(id: &str, told: Vec<Told>, heartbeat: Option<Heartbeat>, token: u64, now: Moment) -> Self {
        let (cgroup, without) = match told.is_empty() {
            true => (None, None),
            false => match own_cgroup(id) {
                Ok(cgroup) => (Some(cgroup), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        Self {
            told,
            heartbeat,
            token,
            waiting: Vec::new(),
            running: Vec::new(),
            flight: None,
            again: false,
            next: now,
            words: None,
            cgroup,
            without,
            went: None,
        }
    }

    /// When there is something to do.
    pub fn next(&self) -> Option<Moment> {
        match (&self.flight, &self.heartbeat, &self.words) {
            (Some(flight), _, _) => Some(flight.deadline),
            (None, Some(_), Some(_)) => Some(self.next),
            _ => None,
        }
    }

    /// Nothing is on its way.
    pub fn idle(&self) -> bool {
        self.flight.is_none() && self.running.is_empty() && self.waiting.is_empty()
    }

    /// No program waits or runs that is to be told of something.
    pub fn told_all(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The state has changed: who wants to is told.
    pub fn changed(&mut self, words: Words, event: &Event, now: Moment) -> Vec<Said> {
        let mut said = Vec::new();
        for (index, told) in self.told.iter().enumerate() {
            if told.on.as_ref().is_some_and(|on| !on.contains(&words.summary)) {
                continue;
            }
            self.waiting.push((hook(index, told, &words), told.timeout, event.clone()));
            if self.waiting.len() > WAITING {
                let (lost, _, event) = self.waiting.remove(0);
                let name = lost.path.to_string_lossy().into_owned();
                said.push(Said::Hook(format!("{name} was not told of event {}: too many wait", event.seq)));
            }
        }
        self.words = Some(words);
        self.next = now;
        self.again = self.flight.is_some();
        said
    }

    /// Begins what can be begun.
    pub fn begin(&mut self, children: &mut Children, poll: &Poll, now: Moment) -> Vec<Said> {
        let mut said = Vec::new();
        while self.running.len() < AT_ONCE && !self.waiting.is_empty() {
            let (hook, timeout, event) = self.waiting.remove(0);
            let event = serde_json::to_value(&event).unwrap_or_default();
            let cgroup = self.cgroup.as_ref();
            let kept: Vec<_> = cgroup.map(Cgroup::fd).into_iter().collect();
            let work = || {
                // Not by clone3(2): a cgroup that was killed once kills who is born in it from outside (Linux 6.18).
                let entered = cgroup.map_or(Ok(()), Cgroup::enter);
                Reply::from(entered.and_then(|()| hooks::run(std::slice::from_ref(&hook), &event, None)))
            };
            match children.begin([None; 3], &kept, timeout + GRACE, work) {
                Ok(job) => self.running.push(job),
                Err(error) => said.push(Said::Hook(error.to_string())),
            }
        }
        if self.flight.as_ref().is_some_and(|flight| flight.deadline <= now) {
            said.extend(self.landed(poll, now, Err("no answer in its time".to_owned())));
        }
        if self.flight.is_none() && self.next <= now && self.words.is_some() {
            said.extend(self.beat(poll, now));
        }
        said
    }

    fn beat(&mut self, poll: &Poll, now: Moment) -> Option<Said> {
        let (Some(heartbeat), Some(words)) = (&self.heartbeat, &self.words) else { return None };
        self.next = now + heartbeat.period;
        self.again = false;
        let begun = request(heartbeat, words).and_then(|request| {
            Flight::begin(&heartbeat.to, request, Part::Status, now + heartbeat.timeout, poll, self.token)
        });
        match begun {
            Ok(flight) => {
                self.flight = Some(flight);
                None
            }
            Err(error) => self.landed(poll, now, Err(error.to_string())),
        }
    }

    /// The heartbeat's socket is ready.
    pub fn ready(&mut self, poll: &Poll, now: Moment) -> Option<Said> {
        let went = self.flight.as_mut()?.ready(poll, self.token)?;
        // 2xx is heard.
        let went = went.and_then(|answer| match answer.status {
            200..=299 => Ok(()),
            status => Err(format!("HTTP status {status}")),
        });
        self.landed(poll, now, went)
    }

    fn landed(&mut self, poll: &Poll, now: Moment, went: std::result::Result<(), String>) -> Option<Said> {
        if let Some(flight) = self.flight.take() {
            flight.end(poll);
        }
        if std::mem::take(&mut self.again) {
            self.next = now;
        }
        let before = self.went.replace(went.is_ok());
        (before != Some(went.is_ok()) && (before.is_some() || went.is_err())).then_some(Said::Heartbeat(went))
    }

    /// A worker has ended; None when it was not one of these.
    pub fn done(&mut self, job: Job, reply: &Reply) -> Option<Option<Said>> {
        let index = self.running.iter().position(|running| *running == job)?;
        self.running.swap_remove(index);
        // What it has left running ends with it, as soon as no other one is there.
        if self.running.is_empty()
            && let Some(cgroup) = &self.cgroup
        {
            let _ = cgroup.kill();
        }
        Some(reply.error.clone().map(Said::Hook))
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.kill();
            cgroup.undo(Instant::now() + Duration::from_secs(1));
        }
    }
}

/// Beside the container's: what is told does not count as what the container uses.
fn own_cgroup(id: &str) -> Result<Cgroup> {
    let hierarchy = Hierarchy::find()?.ok_or_else(|| Error::new("no cgroup2 is mounted"))?;
    let above = hierarchy.own.trim_end_matches('/').to_owned();
    let path = format!("{above}/{id}.told");
    match Cgroup::open(&hierarchy, &path)? {
        None => Cgroup::create(&hierarchy, &path, &[]),
        // Of this supervisor before an upgrade, or of one that has died.
        Some(left) => {
            let _ = left.kill();
            Cgroup::adopt(&hierarchy, &path, &[])
        }
    }
}

fn hook(index: usize, told: &Told, words: &Words) -> Hook {
    let strings = |words: Vec<String>| {
        StringArray::new(words.into_iter().filter_map(|word| std::ffi::CString::new(word).ok()).collect())
    };
    let args: Vec<String> = told.exec.iter().map(|word| words.fill(word)).collect();
    Hook {
        path: std::ffi::CString::new(args.first().cloned().unwrap_or_default()).unwrap_or_default(),
        args: strings(args),
        env: strings(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]),
        inherits: false,
        timeout: u32::try_from(told.timeout.as_secs()).unwrap_or(u32::MAX).max(1),
        kind: "push",
        index,
        seccomp: None,
        capabilities: None,
        open_files: None,
    }
}

fn request(heartbeat: &Heartbeat, words: &Words) -> Result<Vec<u8>> {
    let body = words.fill(&heartbeat.body);
    let mut text =
        format!("{} {} HTTP/1.1\r\nHost: {}\r\n", heartbeat.method, words.fill(&heartbeat.path), heartbeat.host);
    if let Some(path) = &heartbeat.header_file {
        text += &secret(path)?;
        text += "\r\n";
    }
    if !body.is_empty() {
        text += "Content-Type: application/json\r\n";
    }
    text += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_themselves_in_every_place() {
        let words =
            Words { id: "c.1".into(), node: "n-1".into(), summary: Summary::Hung, reason: Reason::Deadlock, seq: 7 };
        assert_eq!(
            words.fill(
                "/v1/{id}@{node}?s={summary}&r={reason} {\"Status\":\"{consul}\",\"n\":{status},\"q\":{seq}} {other}"
            ),
            "/v1/c.1@n-1?s=hung&r=deadlock {\"Status\":\"critical\",\"n\":2,\"q\":7} {other}"
        );
    }
}
