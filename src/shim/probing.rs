//! Probes as they are made: a program in the container, a connection from its network namespace, what its program says itself,
//! or its pressure. When, and what the answers come to, is [`super::probe`]'s.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect, getsockopt, socket,
};
use nix::unistd::pipe2;

use super::children::{Children, Job, Process, Reply};
use super::clock::Moment;
use super::config::{Check, How};
use super::epoll::{EpollFlags, Poll};
use super::health::{Failure, Hang};
use super::jobs::Runtime;
use super::observe::Observer;
use super::probe::{Answer, Probe, Verdict};
use super::view::ProbeView;
use crate::cgroup::stats::pressure_of;
use crate::error::Error;
use crate::sys::clone::setns;
use crate::sys::pidfd::End;
use crate::sys::process;

/// So much of what a probe says is kept.
const OUTPUT: usize = 4096;
/// Bytes of it that are read at all. Who writes more has a full pipe to wait for, and not the supervisor's loop to itself.
const FLOOD: usize = 1 << 20;
/// And shown.
const SHOWN: usize = 256;
/// What a probe's process may take to end after SIGKILL, and a worker to be made, beside the probe's own time.
const GRACE: Duration = Duration::from_secs(5);

/// When this supervisor itself looks that much later than it should have, what was not said in time says nothing: it, or the whole
/// machine, stood still.
const LATE: Duration = Duration::from_secs(2);

/// What a probe is made with.
pub struct Means<'a> {
    /// The workers.
    pub children: &'a mut Children,
    /// What they are waited for with.
    pub poll: &'a Poll,
    /// The container's runtime.
    pub runtime: &'a Runtime,
    /// The container.
    pub id: &'a str,
    /// Its first process.
    pub pidfd: BorrowedFd<'a>,
    /// Its cgroup.
    pub observer: Option<&'a Observer>,
    /// The supervisor's directory.
    pub directory: &'a Path,
    /// The supervisor's own network namespace.
    pub netns: BorrowedFd<'a>,
}

/// One that is being made.
#[derive(Debug)]
enum Flight {
    Exec { job: Option<Job>, process: Option<(Process, OwnedFd)>, said: File },
    Connection { stream: TcpStream, request: Option<Vec<u8>>, heard: Vec<u8> },
}

/// What one is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Until it passes, the others are not made.
    Startup,
    /// It fails: the container should be started again.
    Liveness,
    /// It fails: it should be sent no work.
    Readiness,
}

impl For {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// A probe of one start of a container.
#[derive(Debug)]
pub struct Probing {
    /// What it is for.
    pub what: For,
    how: How,
    probe: Probe,
    token: u64,
    flight: Option<Flight>,
    begun: Moment,
    deadline: Moment,
    /// The container's processor time when it was begun.
    cpu_usec: u64,
    /// Its time is over, and its process has not ended yet.
    late: bool,
    count: u64,
    failures: u64,
    last: Option<Duration>,
    said: String,
    /// What the one that is being made has written so far.
    heard: String,
    /// So many bytes of its output are still read.
    patience: usize,
    hang: Option<Hang>,
}

impl Probing {
    /// A probe of a container that was started at `start`. `token`: of its descriptor.
    pub fn new(what: For, check: &Check, start: Moment, token: u64, jitter: f64) -> Self {
        let mut probe = Probe::new(check.schedule, start, jitter);
        // What the program itself says needs a whole period to be missed.
        if check.how == How::Notify {
            probe.postponed(start + check.schedule.initial_delay);
        }
        Self {
            what,
            how: check.how.clone(),
            probe,
            token,
            flight: None,
            begun: start,
            deadline: start,
            cpu_usec: 0,
            late: false,
            count: 0,
            failures: 0,
            last: None,
            said: String::new(),
            heard: String::new(),
            patience: FLOOD,
            hang: None,
        }
    }

    /// What is known by now.
    pub fn verdict(&self) -> Verdict {
        self.probe.verdict()
    }

    /// Another supervisor, or this one before an upgrade (`replaced`), knew that it passes. What is said once, and what has been
    /// waited for, is so for good; all else only if it was heard just now.
    pub fn passed_before(&mut self, now: Moment, replaced: bool) {
        if replaced || self.what == For::Startup || (self.how == How::Notify && self.what == For::Readiness) {
            self.probe.passed_before(now);
        }
    }

    /// How old the last answer is. What the program itself says counts until it says something else.
    pub fn age(&self, now: Moment) -> Option<super::health::Age> {
        let spoken = self.how == How::Notify && self.what != For::Liveness;
        self.probe.age(now).filter(|_| !spoken)
    }

    /// What the container was about when the last one had no answer in its time.
    pub fn hang(&self) -> Option<Hang> {
        self.hang.filter(|_| self.probe.verdict() == Verdict::Fail(Failure::Timeout))
    }

    /// When there is something to do.
    pub fn next(&self) -> Option<Moment> {
        match (&self.flight, &self.how) {
            (Some(_), _) => Some(self.deadline),
            (None, How::Notify) if self.what != For::Liveness => None,
            (None, _) => Some(self.probe.next()),
        }
    }

    /// Whether it is being made.
    pub fn busy(&self) -> bool {
        self.flight.is_some()
    }

    /// The time for something to do has come. True when the verdict is another one.
    pub fn due(&mut self, now: Moment, means: &mut Means<'_>) -> bool {
        if self.flight.is_some() {
            return self.out_of_time(now, means);
        }
        let late = now.saturating_sub(self.probe.next()) > LATE;
        self.probe.begun(now);
        self.begun = now;
        self.deadline = now + self.probe.timeout();
        self.cpu_usec = means.observer.map_or(0, Observer::cpu_usec);
        self.late = false;
        self.heard.clear();
        self.patience = FLOOD;
        let begun = match &self.how {
            How::Exec(command) => exec(command.clone(), self.probe.timeout(), self.token, means).map(Some),
            How::Tcp { host, port } => connection(host, *port, None, self.token, means).map(Some),
            How::Http { host, port, path, headers } => {
                connection(host, *port, Some(request(host, *port, path, headers)), self.token, means).map(Some)
            }
            How::Psi { resource, full, percent } => {
                let (resource, full, percent) = (*resource, *full, f64::from(*percent));
                return self.pressure(now, resource, full, percent, means);
            }
            How::Notify if late => {
                self.probe.postponed(now);
                return false;
            }
            // Nothing was said for a whole period.
            How::Notify => return self.answered(now, Answer::Fail(Failure::Timeout), "nothing was said in a period"),
        };
        match begun {
            Ok(flight) => {
                self.flight = flight;
                false
            }
            Err(Begin::Refused(errno)) => self.answered(now, Answer::Fail(Failure::Answer), &words(errno)),
            Err(Begin::Failed(error)) => self.answered(now, Answer::Error, &error.to_string()),
        }
    }

    fn pressure(&mut self, now: Moment, resource: &str, full: bool, percent: f64, means: &Means<'_>) -> bool {
        let file = format!("{resource}.pressure");
        let text = means.observer.and_then(|observer| observer.cgroup().read(&file).ok().flatten());
        let line = if full { "full " } else { "some " };
        match text.and_then(|text| pressure_of(&text, line, "avg10")) {
            None => self.answered(now, Answer::Error, &format!("{file} is not accounted here")),
            Some(share) => {
                let answer = if share < percent { Answer::Pass } else { Answer::Fail(Failure::Answer) };
                self.answered(now, answer, &format!("{file} {line}avg10={share}"))
            }
        }
    }

    /// It goes on after it could not answer: it was frozen, or had to start first. What was asked before is not counted.
    pub fn afresh(&mut self, now: Moment, children: &mut Children, poll: &Poll) {
        if self.how == How::Notify {
            self.probe.postponed(now);
        }
        self.abandon(children, poll);
    }

    fn out_of_time(&mut self, now: Moment, means: &mut Means<'_>) -> bool {
        if !self.late && now.saturating_sub(self.deadline) > LATE {
            self.abandon(means.children, means.poll);
            return self.answered(now, Answer::Error, "the supervisor stood still");
        }
        // Before its own process is killed, which would be in another state then.
        if !self.late {
            self.hang = means.observer.and_then(|observer| {
                let used = Duration::from_micros(observer.cpu_usec().saturating_sub(self.cpu_usec));
                observer.hang(used, now.saturating_sub(self.begun))
            });
        }
        match &self.flight {
            Some(Flight::Exec { job, process, .. }) if !self.late => {
                self.late = true;
                self.deadline = now + GRACE;
                if let Some((_, pidfd)) = process {
                    // It may have ended just now.
                    let _ = process::pidfd_kill(pidfd.as_fd());
                }
                if let Some(job) = job {
                    means.children.kill(*job);
                }
                self.answered(now, Answer::Fail(Failure::Timeout), "nothing was said in its time")
            }
            // Even SIGKILL does not end it: another one is tried, and tells.
            Some(Flight::Exec { said, .. }) => {
                means.poll.remove(said);
                self.flight = None;
                false
            }
            _ => {
                self.land(means.poll);
                self.answered(now, Answer::Fail(Failure::Timeout), "nothing was said in its time")
            }
        }
    }

    fn land(&mut self, poll: &Poll) {
        match self.flight.take() {
            Some(Flight::Exec { said, .. }) => poll.remove(&said),
            Some(Flight::Connection { stream, .. }) => poll.remove(&stream),
            None => {}
        }
    }

    /// Ends what is being made, of which nothing is to be said any more.
    pub fn abandon(&mut self, children: &mut Children, poll: &Poll) {
        if let Some(Flight::Exec { process: Some((_, pidfd)), .. }) = &self.flight {
            let _ = process::pidfd_kill(pidfd.as_fd());
        }
        if let Some(Flight::Exec { job: Some(job), .. }) = &self.flight {
            children.kill(*job);
        }
        self.land(poll);
    }

    /// Its descriptor is ready. True when the verdict is another one.
    pub fn ready(&mut self, token: u64, now: Moment, poll: &Poll) -> bool {
        if token != self.token {
            return false;
        }
        match &mut self.flight {
            Some(Flight::Exec { said, .. }) => {
                if hear(said, &mut self.heard, &mut self.patience) {
                    poll.remove(said);
                }
                false
            }
            Some(Flight::Connection { stream, request, heard }) => match talk(stream, request, heard) {
                Talk::More(events) => {
                    let _ = poll.change(&*stream, token, events);
                    false
                }
                Talk::Over(answer, text) => {
                    self.land(poll);
                    self.answered(now, answer, &text)
                }
            },
            None => false,
        }
    }

    /// A worker has ended; None when it was not this probe's.
    pub fn done(&mut self, job: Job, reply: &Reply, now: Moment, children: &Children, poll: &Poll) -> Option<bool> {
        let Some(Flight::Exec { job: Some(own), .. }) = &self.flight else { return None };
        if *own != job {
            return None;
        }
        let Some(made) = reply.made else {
            self.land(poll);
            let error = reply.error.clone().unwrap_or_default();
            // Its time has been counted already.
            return Some(!self.late && self.answered(now, not_made(&error), &error));
        };
        if let Some(end) = children.early(made) {
            return Some(self.ended_with(end, now, poll));
        }
        let opened = made.open().ok().flatten();
        if let (Some(pidfd), true) = (&opened, self.late) {
            let _ = process::pidfd_kill(pidfd.as_fd());
        }
        if let Some(Flight::Exec { job, process, .. }) = &mut self.flight {
            *job = None;
            *process = opened.map(|pidfd| (made, pidfd));
        }
        Some(false)
    }

    /// A process has ended; None when it was not this probe's.
    pub fn ended(&mut self, ended: Process, end: End, now: Moment, poll: &Poll) -> Option<bool> {
        match &self.flight {
            Some(Flight::Exec { process: Some((process, _)), .. }) if *process == ended => {
                Some(self.ended_with(end, now, poll))
            }
            _ => None,
        }
    }

    fn ended_with(&mut self, end: End, now: Moment, poll: &Poll) -> bool {
        if let Some(Flight::Exec { said, .. }) = &mut self.flight {
            hear(said, &mut self.heard, &mut self.patience);
        }
        let said = std::mem::take(&mut self.heard);
        self.land(poll);
        // Its time has been counted already.
        if self.late {
            return false;
        }
        match end {
            End::Exited(0) => self.answered(now, Answer::Pass, &said),
            End::Exited(status) => {
                self.answered(now, Answer::Fail(Failure::Answer), &format!("status {status}: {said}"))
            }
            End::Signaled(signal) => {
                self.answered(now, Answer::Fail(Failure::Answer), &format!("killed by signal {signal}: {said}"))
            }
        }
    }

    /// The program has said something of itself (sd_notify(3)). True when the verdict is another one.
    pub fn told(&mut self, message: &str, now: Moment) -> bool {
        if self.how != How::Notify {
            return false;
        }
        let has = |line: &str| message.lines().any(|found| found == line);
        let status = message.lines().find_map(|line| line.strip_prefix("STATUS=")).unwrap_or_default().to_owned();
        match self.what {
            For::Liveness if has("WATCHDOG=1") => {
                self.probe.begun(now);
                self.answered(now, Answer::Pass, &status)
            }
            For::Liveness if has("WATCHDOG=trigger") => self.answered(now, Answer::Fail(Failure::Answer), &status),
            For::Startup | For::Readiness if has("READY=1") => self.answered(now, Answer::Pass, &status),
            For::Readiness if has("READY=0") || has("STOPPING=1") => {
                self.answered(now, Answer::Fail(Failure::Answer), &status)
            }
            _ => false,
        }
    }

    fn answered(&mut self, now: Moment, answer: Answer, said: &str) -> bool {
        self.count += 1;
        self.failures += u64::from(matches!(answer, Answer::Fail(_)));
        self.last = Some(now.saturating_sub(self.begun));
        self.said = shown(said);
        self.probe.answered(now, answer)
    }

    /// What is said of it.
    pub fn view(&self) -> ProbeView {
        let verdict = match self.verdict() {
            Verdict::Unknown => "unknown",
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
        };
        ProbeView {
            name: self.what.as_str().to_owned(),
            verdict: verdict.to_owned(),
            count: self.count,
            failures: self.failures,
            last_seconds: self.last.map(|last| last.as_secs_f64()),
            output: self.said.clone(),
        }
    }
}

/// Why one is not made.
enum Begin {
    /// The container's side said no.
    Refused(Errno),
    /// It says nothing of the container.
    Failed(Error),
}

impl From<Error> for Begin {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The program is not in the container, or may not be run: that is an answer. All else is none.
fn not_made(error: &str) -> Answer {
    let programs_own = ["executable file not found", "no such file or directory", "permission denied"];
    match programs_own.iter().any(|words| error.contains(words)) && error.contains("exec") {
        true => Answer::Fail(Failure::Answer),
        false => Answer::Error,
    }
}

fn exec(
    command: Vec<String>,
    timeout: Duration,
    token: u64,
    means: &mut Means<'_>,
) -> std::result::Result<Flight, Begin> {
    let failed = |errno| Error::new("make a pipe for a probe").call("pipe2", errno);
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let said = File::from(ours);
    nix::fcntl::fcntl(&said, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    let (runtime, id) = (means.runtime.clone(), means.id.to_owned());
    let pid_file: PathBuf = means.directory.join(format!("probe-{token}.pid"));
    let stdio = [None, Some(theirs.as_fd()), Some(theirs.as_fd())];
    let work = move || runtime.exec(&id, &pid_file, &[], &command);
    let job = means.children.begin(stdio, &[], timeout + GRACE, work)?;
    means.poll.add(&said, token, EpollFlags::EPOLLIN)?;
    Ok(Flight::Exec { job: Some(job), process: None, said })
}

/// Takes what is there; true at the end, which may be that of what is read.
fn hear(said: &mut File, kept: &mut String, left: &mut usize) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..16 {
        match said.read(&mut buffer) {
            Ok(0) => return true,
            Ok(length) => {
                *left = left.saturating_sub(length);
                if *left == 0 {
                    return true;
                }
                let room = OUTPUT.saturating_sub(kept.len());
                kept.push_str(&String::from_utf8_lossy(&buffer[..length.min(room)]));
            }
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

fn request(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    let own = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    if !own("host") {
        text +=
            &if host.contains(':') { format!("Host: [{host}]:{port}\r\n") } else { format!("Host: {host}:{port}\r\n") };
    }
    if !own("user-agent") {
        text += concat!("User-Agent: orlop/", env!("CARGO_PKG_VERSION"), "\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "Accept: */*\r\nConnection: close\r\n\r\n").into_bytes()
}

/// A socket belongs to the network namespace in which it was made: this process visits the container's for that one call.
fn connection(
    host: &str,
    port: u16,
    request: Option<Vec<u8>>,
    token: u64,
    means: &Means<'_>,
) -> std::result::Result<Flight, Begin> {
    let address: IpAddr = host.parse().map_err(|_| Error::new(format!("{host:?} is not an IP address")))?;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    setns(means.pidfd, libc::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::ESRCH => Error::new("the container has ended"),
        errno => Error::new("enter the container's network namespace for a probe")
            .call("setns(CLONE_NEWNET)", errno)
            .hint("it takes CAP_SYS_ADMIN: an ordinary user's containers are asked by exec"),
    })?;
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp);
    if setns(means.netns, libc::CLONE_NEWNET).is_err() {
        // Everything after this would happen in the container's network: the next supervisor begins in ours.
        process::exit(70);
    }
    let made = made.map_err(|errno| Error::new("make a socket for a probe").call("socket", errno))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&made);
    let connected = match address {
        IpAddr::V4(address) => connect(fd, &SockaddrIn::from(SocketAddrV4::new(address, port))),
        IpAddr::V6(address) => connect(fd, &SockaddrIn6::from(SocketAddrV6::new(address, port, 0, 0))),
    };
    match connected {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(Begin::Refused(errno)),
    }
    let stream = TcpStream::from(made);
    means.poll.add(&stream, token, EpollFlags::EPOLLOUT)?;
    Ok(Flight::Connection { stream, request, heard: Vec::new() })
}

enum Talk {
    More(EpollFlags),
    Over(Answer, String),
}

fn talk(stream: &mut TcpStream, request: &mut Option<Vec<u8>>, heard: &mut Vec<u8>) -> Talk {
    use std::io::ErrorKind::WouldBlock;
    let no = |why: String| Talk::Over(Answer::Fail(Failure::Answer), why);
    match getsockopt(&*stream, nix::sys::socket::sockopt::SocketError) {
        Ok(0) => {}
        Ok(errno) => return no(words(Errno::from_raw(errno))),
        Err(errno) => return no(words(errno)),
    }
    let Some(left) = request else {
        // Asked without a request there is nothing to hear: the connection is the answer.
        return Talk::Over(Answer::Pass, String::new());
    };
    if !left.is_empty() {
        match stream.write(left) {
            Ok(length) => drop(left.drain(..length)),
            Err(error) if error.kind() == WouldBlock => {}
            Err(error) => return no(error.to_string()),
        }
        if !left.is_empty() {
            return Talk::More(EpollFlags::EPOLLOUT);
        }
    }
    let mut buffer = [0; 512];
    match stream.read(&mut buffer) {
        Ok(0) => no("the connection was closed without an answer".to_owned()),
        Ok(length) => {
            heard.extend_from_slice(&buffer[..length]);
            status(heard).unwrap_or(Talk::More(EpollFlags::EPOLLIN))
        }
        Err(error) if error.kind() == WouldBlock => Talk::More(EpollFlags::EPOLLIN),
        Err(error) => no(error.to_string()),
    }
}

/// The first line says all; None when it is not there yet.
fn status(heard: &[u8]) -> Option<Talk> {
    let no = |why: &str| Some(Talk::Over(Answer::Fail(Failure::Answer), why.to_owned()));
    let Some(end) = heard.iter().position(|byte| *byte == b'\n') else {
        return if heard.len() > 1024 { no("no HTTP") } else { None };
    };
    let line = String::from_utf8_lossy(&heard[..end]);
    let mut words = line.split_ascii_whitespace();
    let code = match (words.next(), words.next().and_then(|code| code.parse::<u16>().ok())) {
        (Some(version), Some(code)) if version.starts_with("HTTP/1.") => code,
        _ => return no("no HTTP"),
    };
    let answer = if (200..400).contains(&code) { Answer::Pass } else { Answer::Fail(Failure::Answer) };
    Some(Talk::Over(answer, format!("HTTP status {code}")))
}

fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// Printable, one line, and short.
fn shown(text: &str) -> String {
    let clean = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept = String::new();
    for c in clean {
        if kept.len() + c.len_utf8() > SHOWN {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Answer, String)> {
        match status(text.as_bytes()) {
            Some(Talk::Over(answer, said)) => Some((answer, said)),
            _ => None,
        }
    }

    #[test]
    fn the_status_is_kubelets_to_judge() {
        assert_eq!(of("HTTP/1.1 200 OK\r\n"), Some((Answer::Pass, "HTTP status 200".into())));
        assert_eq!(of("HTTP/1.0 302 Found\r\n"), Some((Answer::Pass, "HTTP status 302".into())));
        assert_eq!(of("HTTP/1.1 503 No\n"), Some((Answer::Fail(Failure::Answer), "HTTP status 503".into())));
        assert_eq!(of("SSH-2.0-x\r\n"), Some((Answer::Fail(Failure::Answer), "no HTTP".into())));
        assert_eq!(of("HTTP/1.1 20"), None);
    }

    #[test]
    fn a_request_is_whole_and_says_its_own_headers() {
        let text = String::from_utf8(request("::1", 80, "/ok?x=1", &[("Host".into(), "me".into())])).expect("UTF-8");
        assert!(text.starts_with("GET /ok?x=1 HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"));
        assert!(text.contains("\r\nHost: me\r\n") && !text.contains("[::1]"), "{text}");
        let text = String::from_utf8(request("::1", 80, "/", &[])).expect("UTF-8");
        assert!(text.contains("\r\nHost: [::1]:80\r\n"), "{text}");
    }

    #[test]
    fn a_program_that_says_itself_that_it_lives_has_a_period_for_it() {
        let seconds = Duration::from_secs;
        let schedule = super::super::probe::Schedule { initial_delay: seconds(2), ..Default::default() };
        let next = |how| Probing::new(For::Liveness, &Check { how, schedule }, seconds(100), 16, 0.0).next();
        assert_eq!(next(How::Notify), Some(seconds(112)));
        assert_eq!(next(How::Exec(vec!["true".to_owned()])), Some(seconds(102)));
    }

    #[test]
    fn what_a_probe_says_is_one_printable_line() {
        assert_eq!(shown("a\nb\u{1b}[2J \n"), "a b [2J");
        assert_eq!(shown(&"ä".repeat(300)).len(), 256);
    }
}
