//! A client of D-Bus, as small as systemd needs it: one connection, one call at a time, and a deadline for all of it.
//!
//! It is synchronous and starts no thread (docs/decisions/0007-systemd-without-a-library.md). The protocol is that of the
//! D-Bus Specification, 0.43: "Authentication Protocol", "Message Protocol", "Server Addresses".

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};

use crate::error::{Error, Result};

mod value;

pub use value::{Reader, Value, signature};

/// What is longer is not read: the specification's 128 MiB are beyond any answer to what is asked here.
const LONGEST: usize = 1 << 20;
/// The fixed part of a header and the length of its fields.
const FIXED: usize = 16;
/// How long to wait between two tries to connect to a socket whose queue is full, which gives no notice.
const RETRY: Duration = Duration::from_millis(5);

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
/// A service that does not run is not started for the call.
const NO_AUTO_START: u8 = 2;

/// A method of an object of a service.
#[derive(Debug, Clone, Copy)]
pub struct Method<'a> {
    /// The service's name on the bus.
    pub service: &'a str,
    /// The object's path.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub name: &'a str,
}

/// The bus itself.
const fn of_bus(name: &str) -> Method<'_> {
    Method { service: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus", name }
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// What the method returned, and the unique name of who did.
    Values(Vec<Value>, String),
    /// An error: its name, and its words.
    Refused {
        /// Such as `org.freedesktop.DBus.Error.AccessDenied`.
        name: String,
        /// For people.
        text: String,
    },
}

/// A message as it came.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    reply_serial: u32,
    sender: String,
    interface: String,
    member: String,
    error_name: String,
    body: Vec<Value>,
}

/// The time for all that is done over one or more connections.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    pub fn within(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    fn end(self) -> Instant {
        self.start + self.limit
    }
}

/// A connection to a bus, or to one peer.
#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    address: String,
    serial: u32,
    deadline: Deadline,
    /// There is no bus between: who is at the other end sends all its signals, by a name of its own or by none.
    peer: bool,
    input: Vec<u8>,
    /// Signals that came before somebody waited for them.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects to the first address of `addresses` (such as `unix:path=/run/dbus/system_bus_socket`) that can be
    /// reached, and says hello. All that is done with the bus has to end before `deadline`.
    ///
    /// # Errors
    /// No address can be reached, the bus does not take the caller for who it is, or the time is over.
    pub fn connect(addresses: &str, deadline: Deadline) -> Result<Self> {
        let mut bus = Self::reach(addresses, deadline, false)?;
        match bus.call(of_bus("Hello"), &[])? {
            Reply::Values(..) => Ok(bus),
            Reply::Refused { text, .. } => Err(bus.failed(&text)),
        }
    }

    /// The same for a service that is itself at the other end.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn peer(addresses: &str, deadline: Deadline) -> Result<Self> {
        Self::reach(addresses, deadline, true)
    }

    fn reach(addresses: &str, deadline: Deadline, peer: bool) -> Result<Self> {
        let mut last = Error::new(format!("the D-Bus address {addresses:?} names no socket"))
            .hint("addresses look like unix:path=/run/dbus/system_bus_socket");
        for address in addresses.split(';').filter(|address| !address.is_empty()) {
            let Some(target) = target(address) else { continue };
            match open(&target, address, deadline.end()) {
                Ok(socket) => {
                    let address = address.to_owned();
                    let (input, signals) = (Vec::new(), Vec::new());
                    let mut bus = Self { socket, address, serial: 0, deadline, peer, input, signals };
                    bus.authenticate()?;
                    return Ok(bus);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks for the signals that fit `rule` (D-Bus Specification, "Match Rules").
    ///
    /// # Errors
    /// As [`call`](Self::call); the bus refuses.
    pub fn add_match(&mut self, rule: &str) -> Result<()> {
        if self.peer {
            return Ok(());
        }
        match self.call(of_bus("AddMatch"), &[rule.into()])? {
            Reply::Values(..) => Ok(()),
            Reply::Refused { text, .. } => Err(self.failed(&text)),
        }
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The connection breaks, the other side does not speak D-Bus, or the time is over. An error that the method returns
    /// is a [`Reply::Refused`].
    pub fn call(&mut self, method: Method<'_>, body: &[Value]) -> Result<Reply> {
        self.serial += 1;
        self.send(&encode(method, self.serial, body), method.name)?;
        loop {
            let message = self.receive(method.name)?;
            match message.kind {
                SIGNAL => self.signals.push(message),
                METHOD_RETURN if message.reply_serial == self.serial => {
                    return Ok(Reply::Values(message.body, message.sender));
                }
                ERROR if message.reply_serial == self.serial => {
                    let text = message.body.first().and_then(Value::as_str).unwrap_or(&message.error_name).to_owned();
                    return Ok(Reply::Refused { name: message.error_name, text });
                }
                _ => {}
            }
        }
    }

    /// Waits for a signal of `sender`, a unique name, whose body is the one that is waited for; `what` names it in errors.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn signal(
        &mut self,
        sender: &str,
        (interface, member): (&str, &str),
        wanted: impl Fn(&[Value]) -> bool,
        what: &str,
    ) -> Result<Vec<Value>> {
        let fits = |message: &Message| {
            // Anybody on the bus may send us a signal of this name.
            message.sender == sender
                && message.interface == interface
                && message.member == member
                && wanted(&message.body)
        };
        if let Some(index) = self.signals.iter().position(&fits) {
            return Ok(self.signals.swap_remove(index).body);
        }
        self.signals.clear();
        loop {
            let message = self.receive(what)?;
            if message.kind == SIGNAL && fits(&message) {
                return Ok(message.body);
            }
        }
    }

    /// The name of the caller is what the kernel says of the socket: EXTERNAL with an empty identity, so that root of a
    /// user namespace needs not know its id outside.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", "AUTH")?;
        loop {
            let line = loop {
                match self.input.windows(2).position(|two| two == b"\r\n") {
                    Some(end) => break self.input.drain(..end + 2).collect::<Vec<u8>>(),
                    None if self.input.len() > LONGEST => return Err(self.failed("it does not speak D-Bus")),
                    None => self.fill("AUTH")?,
                }
            };
            match &line[..] {
                line if line.starts_with(b"OK ") => return Ok(()),
                line if line.starts_with(b"DATA") => {}
                line if line.starts_with(b"REJECTED") => return Err(self.failed("it has rejected this user")),
                _ => return Err(self.failed("it does not speak D-Bus")),
            }
        }
    }

    fn send(&self, mut bytes: &[u8], what: &str) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, what)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("the connection is broken").call("send", errno)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, what: &str) -> Result<Message> {
        loop {
            match decode(&self.input) {
                Decoded::Message(message, length) => {
                    self.input.drain(..length);
                    return Ok(*message);
                }
                Decoded::More => self.fill(what)?,
                Decoded::Wrong => return Err(self.failed("it does not speak D-Bus")),
            }
        }
    }

    /// Reads what there is, once there is something.
    fn fill(&mut self, what: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            // Not only before a poll: who sends without an end would never let one time out.
            self.left(what)?;
            match nix::unistd::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(self.failed("it has closed the connection")),
                Ok(count) => {
                    self.input.extend(&buffer[..count]);
                    return Ok(());
                }
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN, what)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("the connection is broken").call("read", errno)),
            }
        }
    }

    /// The time that is left.
    fn left(&self, what: &str) -> Result<PollTimeout> {
        match self.deadline.end().checked_duration_since(Instant::now()) {
            Some(left) => Ok(PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)),
            None => Err(self.silent(what)),
        }
    }

    fn wait(&self, events: PollFlags, what: &str) -> Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], self.left(what)?) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(self.failed("the connection is broken").call("poll", errno)),
            }
        }
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(format!("speak to systemd over {}: {why}", self.address))
    }

    fn silent(&self, what: &str) -> Error {
        Error::new(format!(
            "systemd did not answer within {} s ({what} over {})",
            self.deadline.limit.as_secs(),
            self.address
        ))
        .hint("systemctl status shows whether it works; --systemd-cgroup is what asks for it")
    }
}

/// The socket of an address; None for another transport than `unix`, or another kind of its.
fn target(address: &str) -> Option<UnixAddr> {
    let keys = address.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => UnixAddr::new(&unescape(path)?[..]).ok(),
        ("abstract", name) => UnixAddr::new_abstract(&unescape(name)?).ok(),
        _ => None,
    })
}

/// `%2f` is `/`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8
            }
            byte => byte,
        });
    }
    Some(out)
}

fn open(target: &UnixAddr, address: &str, deadline: Instant) -> Result<OwnedFd> {
    let failed = |call: &str, errno| Error::new(format!("connect to systemd over {address}")).call(call, errno);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|errno| failed("socket", errno))?;
    loop {
        match connect(socket.as_raw_fd(), target) {
            Ok(()) => return Ok(socket),
            // Its queue is full (unix(7)).
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(RETRY),
            Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(failed("connect", errno).hint("there is no bus: --systemd-cgroup needs systemd"));
            }
        }
    }
}

/// A method call (D-Bus Specification, "Message Format").
fn encode(method: Method<'_>, serial: u32, body: &[Value]) -> Vec<u8> {
    let mut content = Vec::new();
    body.iter().for_each(|value| value.write(&mut content));
    let field = |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut fields = vec![
        field(1, Value::Path(method.path.to_owned())),
        field(2, method.interface.into()),
        field(3, method.name.into()),
        field(6, method.service.into()),
    ];
    if !body.is_empty() {
        fields.push(field(8, Value::Signature(signature(body))));
    }
    let mut out = vec![b'l', METHOD_CALL, NO_AUTO_START, 1];
    out.extend((content.len() as u32).to_le_bytes());
    out.extend(serial.to_le_bytes());
    Value::Array("(yv)".to_owned(), fields).write(&mut out);
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(content);
    out
}

/// What the first bytes of the input are.
enum Decoded {
    /// A message of so many bytes.
    Message(Box<Message>, usize),
    /// The beginning of one.
    More,
    /// No message.
    Wrong,
}

fn decode(input: &[u8]) -> Decoded {
    if input.len() < FIXED {
        return Decoded::More;
    }
    let (big, kind) = (input[0] == b'B', input[1]);
    let number = |at: usize| {
        let bytes: [u8; 4] = input[at..at + 4].try_into().unwrap_or_default();
        (if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }) as usize
    };
    let (body, fields) = (number(4), number(12));
    if !matches!(input[0], b'l' | b'B') || input[3] != 1 || body > LONGEST || fields > LONGEST {
        return Decoded::Wrong;
    }
    let start = (FIXED + fields).next_multiple_of(8);
    let Some(message) = input.get(..start + body) else { return Decoded::More };
    match parse(message, kind, start, big) {
        Some(parsed) => Decoded::Message(Box::new(parsed), message.len()),
        None => Decoded::Wrong,
    }
}

fn parse(message: &[u8], kind: u8, start: usize, big: bool) -> Option<Message> {
    let mut header = Reader::new(&message[..start], big);
    let values = header.values("yyyyuua(yv)")?;
    let Some(Value::Array(_, fields)) = values.into_iter().next_back() else { return None };
    let mut parsed = Message { kind, ..Message::default() };
    let mut types = String::new();
    for field in fields {
        let Value::Struct(pair) = field else { return None };
        let [Value::Byte(code), Value::Variant(value)] = &pair[..] else { return None };
        match (code, &**value) {
            (2, Value::Str(text)) => parsed.interface = text.clone(),
            (3, Value::Str(text)) => parsed.member = text.clone(),
            (4, Value::Str(text)) => parsed.error_name = text.clone(),
            (5, Value::Uint32(serial)) => parsed.reply_serial = *serial,
            (7, Value::Str(text)) => parsed.sender = text.clone(),
            (8, Value::Signature(text)) => types = text.clone(),
            _ => {}
        }
    }
    // Types that nothing here asks for are those of a signal that nobody waits for.
    parsed.body = Reader::new(&message[start..], big).values(&types).unwrap_or_default();
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A bus that does what `serve` does with the one connection that it gets; its address.
    fn bus(name: &str, serve: impl FnOnce(UnixStream) + Send + 'static) -> String {
        let path = std::env::temp_dir().join(format!("orlop-dbus-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let own = path.clone();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            std::fs::remove_file(own).unwrap();
            serve(stream);
        });
        format!("unix:path={}", path.display())
    }

    /// Reads the authentication, and agrees.
    fn agree(stream: &mut UnixStream) {
        let mut bytes = [0; 29];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
        stream.write_all(b"DATA\r\nOK 0123\r\n").unwrap();
    }

    /// Reads one call: its serial.
    fn heard(stream: &mut UnixStream) -> u32 {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed).unwrap();
        let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap());
        let rest = (FIXED + number(12) as usize).next_multiple_of(8) - FIXED + number(4) as usize;
        stream.read_exact(&mut vec![0; rest]).unwrap();
        number(8)
    }

    /// A message of another kind than a call.
    fn message(kind: u8, fields: &[(u8, Value)], body: &[Value]) -> Vec<u8> {
        let mut out = encode(of_bus("X"), 1, body);
        let start = out.len() - {
            let mut content = Vec::new();
            body.iter().for_each(|value| value.write(&mut content));
            content.len()
        };
        let content = out.split_off(start);
        out.truncate(12);
        out[1] = kind;
        let field = |(code, value): &(u8, Value)| {
            Value::Struct(vec![Value::Byte(*code), Value::Variant(Box::new(value.clone()))])
        };
        let types = (8, Value::Signature(signature(body)));
        let fields = fields.iter().chain([&types]).map(field).collect();
        Value::Array("(yv)".to_owned(), fields).write(&mut out);
        out.resize(out.len().next_multiple_of(8), 0);
        [out, content].concat()
    }

    fn answer(serial: u32, body: &[Value]) -> Vec<u8> {
        message(METHOD_RETURN, &[(5, Value::Uint32(serial)), (7, ":1.1".into())], body)
    }

    fn removed(sender: &str, job: u32) -> Vec<u8> {
        let fields = [(2, "x.Manager".into()), (3, "JobRemoved".into()), (7, sender.into())];
        message(SIGNAL, &fields, &[Value::Uint32(job)])
    }

    const ANYTHING: Method<'_> = Method { service: "x", path: "/x", interface: "x.y", name: "Start" };

    #[test]
    fn a_call_gets_its_own_answer_and_a_signal_is_kept_until_it_is_waited_for() {
        let address = bus("call", |mut stream| {
            agree(&mut stream);
            let hello = heard(&mut stream);
            stream.write_all(&answer(hello, &[":1.7".into()])).unwrap();
            let serial = heard(&mut stream);
            let said = [
                removed(":1.1", 4),
                answer(serial + 9, &["not ours".into()]),
                removed(":1.66", 5),
                answer(serial, &["ours".into()]),
                removed(":1.1", 5),
            ];
            // In two parts, that fall apart within a message.
            let said = said.concat();
            stream.write_all(&said[..said.len() - 7]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&said[said.len() - 7..]).unwrap();
        });
        let mut bus = Bus::connect(&address, Deadline::within(10 * SECOND)).unwrap();
        assert_eq!(bus.call(ANYTHING, &[]).unwrap(), Reply::Values(vec!["ours".into()], ":1.1".into()));
        let signal = ("x.Manager", "JobRemoved");
        for job in [4, 5] {
            let wanted = |body: &[Value]| body == [Value::Uint32(job)];
            assert_eq!(bus.signal(":1.1", signal, wanted, "JobRemoved").unwrap(), [Value::Uint32(job)]);
        }
        let error = bus.signal(":1.1", signal, |_| true, "JobRemoved").unwrap_err();
        assert!(error.message.contains("has closed the connection"), "that of another sender is none: {error}");
    }

    #[test]
    fn an_error_has_its_name_and_words() {
        let address = bus("error", |mut stream| {
            agree(&mut stream);
            let hello = heard(&mut stream);
            stream.write_all(&answer(hello, &[])).unwrap();
            let serial = heard(&mut stream);
            let fields = [(4, "a.b.Denied".into()), (5, Value::Uint32(serial))];
            stream.write_all(&message(ERROR, &fields, &["no".into(), Value::Bool(true)])).unwrap();
        });
        let mut bus = Bus::connect(&address, Deadline::within(10 * SECOND)).unwrap();
        let refused = Reply::Refused { name: "a.b.Denied".into(), text: "no".into() };
        assert_eq!(bus.call(ANYTHING, &[Value::Uint32(1)]).unwrap(), refused);
    }

    #[test]
    fn a_peer_is_not_greeted_and_has_no_name() {
        let address = bus("peer", |mut stream| {
            agree(&mut stream);
            let serial = heard(&mut stream);
            let fields = [(2, "x.Manager".into()), (3, "JobRemoved".into())];
            stream.write_all(&message(SIGNAL, &fields, &[Value::Uint32(4)])).unwrap();
            stream.write_all(&message(METHOD_RETURN, &[(5, Value::Uint32(serial))], &["ours".into()])).unwrap();
        });
        let mut peer = Bus::peer(&address, Deadline::within(10 * SECOND)).unwrap();
        peer.add_match("type='signal'").unwrap();
        assert_eq!(peer.call(ANYTHING, &[]).unwrap(), Reply::Values(vec!["ours".into()], String::new()));
        let signal = peer.signal("", ("x.Manager", "JobRemoved"), |_| true, "JobRemoved");
        assert_eq!(signal.unwrap(), [Value::Uint32(4)]);
    }

    #[test]
    fn who_says_nothing_or_too_much_is_given_up_in_time() {
        let silent = bus("silent", |mut stream| drop(stream.read_to_end(&mut Vec::new())));
        let chatty = bus("chatty", |mut stream| {
            agree(&mut stream);
            while stream.write_all(&removed(":1.1", 0)).is_ok() {}
        });
        for address in [silent, chatty] {
            let error = Bus::connect(&address, Deadline::within(SECOND)).unwrap_err();
            assert!(error.message.starts_with("systemd did not answer within 1 s ("), "{error}");
        }
    }

    #[test]
    fn what_is_no_bus_is_an_error() {
        let garbage = bus("garbage", |mut stream| {
            agree(&mut stream);
            stream.write_all(&[b'x'; 64]).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let rejecting = bus("rejecting", |mut stream| {
            stream.read_exact(&mut [0; 29]).unwrap();
            stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = |address: &str| Bus::connect(address, Deadline::within(10 * SECOND)).unwrap_err().message;
        assert!(error(&garbage).contains("does not speak D-Bus"));
        assert!(error(&rejecting).contains("has rejected this user"));
        assert!(error("tcp:host=x;;").contains("names no socket"));
        assert!(error("unix:path=/nonexistent/bus").contains("connect to systemd over unix:path=/nonexistent/bus"));
    }

    #[test]
    fn addresses_are_unescaped() {
        assert_eq!(unescape("/run/a%2fb%20c"), Some(b"/run/a/b c".to_vec()));
        assert_eq!(unescape("%2"), None);
        let path = target("unix:guid=1,path=/run/a%20b").unwrap();
        assert_eq!(path.path().unwrap().to_str(), Some("/run/a b"));
        assert_eq!(target("unix:abstract=/tmp/x").unwrap().as_abstract(), Some(&b"/tmp/x"[..]));
        assert!(target("unix:dir=/tmp").is_none() && target("launchd:env=X").is_none());
    }
}
