//! HAProxy's agent-check for all containers of a node at one port: it connects, sends the id of a container as a line (`agent-send`), and
//! gets one line of [`dialect`](crate::shim::dialect).
//!
//! What is no id gets a line that takes the server down, and so does silence: HAProxy leaves a server as it was where there is no
//! answer.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::token;
use crate::error::{Error, Result};
use crate::shim::clock::Moment;
use crate::shim::dialect;
use crate::shim::epoll::{EpollFlags, Poll};
use crate::shim::health::Summary;
use crate::shim::http;
use crate::validate;

/// So many clients at once. Who comes then is hung up on.
const CLIENTS: usize = 256;
/// So many are taken in one round of the loop.
const AT_ONCE: usize = 16;
/// How long a client may take for its line.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a line: the longest id, and its end.
const LINE: usize = 1024 + 2;

/// The port and who has come.
#[derive(Debug)]
pub(super) struct Agent {
    listener: TcpListener,
    /// Who may ask; empty: everybody who reaches it.
    from: Vec<IpAddr>,
    clients: BTreeMap<u64, Client>,
    count: u64,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    line: Vec<u8>,
    deadline: Moment,
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Agent {
    /// Listens. Nobody tells who he is there, so beyond the loopback interface only `from` is answered.
    ///
    /// # Errors
    /// The address is in use or not ours, or everybody could ask.
    pub(super) fn new(address: SocketAddr, from: Vec<IpAddr>) -> Result<Self> {
        if !address.ip().is_loopback() && from.is_empty() {
            return Err(Error::new(format!("{address} is not an address of the loopback interface"))
                .hint("--agent-from ADDRESS says where HAProxy asks from"));
        }
        let listener = http::port(address)?;
        let from = from.iter().map(IpAddr::to_canonical).collect();
        Ok(Self { listener, from, clients: BTreeMap::new(), count: token::AGENTS })
    }

    /// When the next client has had its time.
    pub(super) fn deadline(&self) -> Option<Moment> {
        // They have come in their order.
        self.clients.values().next().map(|client| client.deadline)
    }

    /// Ends those that have had their time.
    pub(super) fn expire(&mut self, now: Moment) {
        self.clients.retain(|_, client| {
            let late = client.deadline <= now;
            if late {
                client.end(&invalid());
            }
            !late
        });
    }

    /// Takes those who have come.
    ///
    /// # Errors
    /// No descriptor is left. The listener stays ready then: leave it for a while.
    pub(super) fn accept(&mut self, poll: &Poll, now: Moment) -> Result<()> {
        for _ in 0..AT_ONCE {
            match self.listener.accept() {
                Ok((stream, peer)) => self.welcome(stream, peer.ip(), poll, now),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => {
                        return Err(
                            Error::new("take a client of the agent's port").call("accept4", crate::host::errno(&error))
                        );
                    }
                },
            }
        }
        Ok(())
    }

    fn welcome(&mut self, stream: TcpStream, peer: IpAddr, poll: &Poll, now: Moment) {
        let known = self.from.is_empty() || self.from.contains(&peer.to_canonical());
        if !known || self.clients.len() >= CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.count += 1;
        if poll.add(&stream, self.count, EpollFlags::EPOLLIN).is_ok() {
            self.clients.insert(self.count, Client { stream, line: Vec::new(), deadline: now + PATIENCE });
        }
    }

    /// Goes on with a client; `known` has the line of a container.
    pub(super) fn ready(&mut self, token: u64, known: impl Fn(&str) -> String) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if let Some(line) = client.read(known) {
            client.end(&line);
            self.clients.remove(&token);
        }
    }
}

/// What is said to who has named no container.
fn invalid() -> String {
    dialect::haproxy_line(dialect::words(Summary::Unknown).haproxy, "invalid-id")
}

impl Client {
    /// Some when it has come to an end: what is to be said.
    fn read(&mut self, known: impl Fn(&str) -> String) -> Option<String> {
        let mut bytes = [0; LINE];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Some(invalid()),
            Ok(count) => self.line.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            Err(_) => return Some(invalid()),
        }
        match self.line.iter().position(|byte| *byte == b'\n') {
            Some(end) => Some(answer(&self.line[..end], known)),
            None => (self.line.len() >= LINE).then(invalid),
        }
    }

    /// Says it, if the socket takes it at once, and that nothing follows. It is closed when it is dropped.
    fn end(&mut self, line: &str) {
        let _ = self.stream.write(line.as_bytes());
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

/// The answer to a line without its newline.
fn answer(line: &[u8], known: impl Fn(&str) -> String) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(id) if validate::container_id(id).is_ok() => known(id),
        _ => invalid(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shim::client::{Fact, haproxy};
    use crate::shim::health::Reason;
    use crate::shim::view::{View, tests::view};

    /// What HAProxy 2.6 takes for a command where it stands in a line: a weight, a number of connections, a good word.
    fn commands(line: &str) -> Vec<&str> {
        let text = line.trim_end_matches('\n');
        text.split('#')
            .next()
            .unwrap_or_default()
            .split([' ', '\t', ',', '\r'])
            .filter(|word| !word.is_empty())
            .collect()
    }

    fn harmless(line: &str, good: bool) -> std::result::Result<(), TestCaseError> {
        let expected: &[&str] = if good { &["ready", "up"] } else { &commands(line)[..1] };
        prop_assert_eq!(commands(line), expected, "{}", line);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(line.ends_with('\n') && line.is_ascii() && line.len() < 64 && !line.contains(['%', '\r', ':']));
        if !good {
            prop_assert!(["down", "drain", "fail", "stopped"].contains(&expected[0]), "{}", line);
            prop_assert!(line.contains(" #"), "{}", line);
        }
        Ok(())
    }

    proptest! {
        /// Whatever is sent, whatever is known: one line, and a good one for a container that may be sent work alone.
        #[test]
        fn a_line_is_one_of_the_table(
            sent in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[a-z]{0,3}[ #%\r,:]{0,3}(up|ready|100%|web)".prop_map(String::into_bytes)],
            summary in prop::sample::select(Summary::ALL.to_vec()), reason in prop::sample::select(Reason::ALL.to_vec()),
            fact in prop::sample::select(vec![None, Some(Fact::Runs(7)), Some(Fact::Ended), Some(Fact::Absent), Some(Fact::Unknown)]),
        ) {
            let found = View { summary, reason, ..view("web") };
            let known = |_: &str| haproxy(fact.map_or(Ok(&found), Err));
            let good = fact.is_none() && matches!(summary, Summary::Healthy | Summary::Degraded);
            harmless(&known("web"), good)?;
            let valid = std::str::from_utf8(&sent).is_ok_and(|text| validate::container_id(text.strip_suffix('\r').unwrap_or(text)).is_ok());
            harmless(&answer(&sent, known), good && valid)?;
        }
    }
}
