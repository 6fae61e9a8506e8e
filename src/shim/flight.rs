//! One HTTP/1.1 request of the supervisor's own (RFC 9112), on its way. Nothing here waits: the loop says when the socket is ready.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, UnixAddr, connect, socket};

use super::clock::Moment;
use super::epoll::{EpollFlags, Poll};
use crate::error::{Error, Result};

/// Bytes of an answer, its head and what it is wrapped in included.
const ANSWER: usize = 64 << 10;
/// Fields of an answer's head.
const FIELDS: usize = 64;
/// Bytes of the first line.
const LINE: usize = 1024;

/// Where a request goes. Names are not looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// `http://ADDRESS:PORT/...`
    Tcp(SocketAddr),
    /// `unix:///SOCKET:/...`
    Unix(PathBuf),
}

/// How much of the answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its first line.
    Status,
    /// All of it.
    Whole,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body; empty where only the status was waited for.
    pub body: Vec<u8>,
}

/// How it went: the answer, or why there is none.
pub type Went = std::result::Result<Answer, String>;

/// A request on its way.
#[derive(Debug)]
pub struct Flight {
    stream: Stream,
    /// What is still to go.
    request: Vec<u8>,
    heard: Vec<u8>,
    part: Part,
    /// Then it is given up.
    pub deadline: Moment,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Flight {
    /// Begins to connect, and waits in `poll` under `token` from here on.
    ///
    /// # Errors
    /// No descriptor is left, nobody listens there, there is no way to it.
    pub fn begin(to: &Where, request: Vec<u8>, part: Part, deadline: Moment, poll: &Poll, token: u64) -> Result<Self> {
        let stream = Stream::open(to)?;
        poll.add(&stream, token, EpollFlags::EPOLLOUT)?;
        Ok(Self { stream, request, heard: Vec::new(), part, deadline })
    }

    /// The socket is ready. None: the answer is not there yet.
    pub fn ready(&mut self, poll: &Poll, token: u64) -> Option<Went> {
        let went = self.go_on();
        if went.is_none() {
            let wanted = if self.request.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
            // It was added, so it can be changed.
            let _ = poll.change(&self.stream, token, wanted);
        }
        went
    }

    /// Closes the connection.
    pub fn end(self, poll: &Poll) {
        poll.remove(&self.stream);
    }

    fn go_on(&mut self) -> Option<Went> {
        use std::io::ErrorKind::WouldBlock;
        while !self.request.is_empty() {
            let written = match &mut self.stream {
                Stream::Tcp(stream) => stream.write(&self.request),
                Stream::Unix(stream) => stream.write(&self.request),
            };
            match written {
                Ok(length) => drop(self.request.drain(..length)),
                Err(error) if error.kind() == WouldBlock => return None,
                Err(error) => return Some(Err(error.to_string())),
            }
        }
        loop {
            let mut buffer = [0; 4096];
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut buffer),
                Stream::Unix(stream) => stream.read(&mut buffer),
            };
            let closed = match read {
                Ok(length) => {
                    self.heard.extend_from_slice(&buffer[..length]);
                    length == 0
                }
                Err(error) if error.kind() == WouldBlock => return None,
                Err(error) => return Some(Err(error.to_string())),
            };
            let went = match self.part {
                Part::Status => first_line(&self.heard),
                Part::Whole => whole(&self.heard, closed),
            };
            match went {
                None if closed => return Some(Err("the connection was closed without an answer".to_owned())),
                None => {}
                went => return went,
            }
        }
    }
}

impl Stream {
    fn open(to: &Where) -> Result<Self> {
        let failed = |call: &str, errno| Error::new("send a request").call(call, errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = |family| socket(family, SockType::Stream, flags, None).map_err(|errno| failed("socket", errno));
        let (stream, connected) = match to {
            Where::Tcp(SocketAddr::V4(address)) => {
                let made = made(AddressFamily::Inet)?;
                let connected = connect(made.as_raw_fd(), &SockaddrIn::from(*address));
                (Self::Tcp(made.into()), connected)
            }
            Where::Tcp(SocketAddr::V6(address)) => {
                let made = made(AddressFamily::Inet6)?;
                let connected = connect(made.as_raw_fd(), &SockaddrIn6::from(*address));
                (Self::Tcp(made.into()), connected)
            }
            Where::Unix(path) => {
                let made = made(AddressFamily::Unix)?;
                let address = UnixAddr::new(path).map_err(|errno| failed("connect", errno))?;
                let connected = connect(made.as_raw_fd(), &address);
                (Self::Unix(made.into()), connected)
            }
        };
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
            Err(errno) => Err(failed("connect", errno)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// One header from a file that nobody else can read. No error says what is in it.
///
/// # Errors
/// It can't be read, can be read by others, or holds something else.
pub fn secret(path: &Path) -> Result<String> {
    let line = super::secret::read(path)?;
    match line.contains(':') && !line.contains(|c: char| c.is_control()) {
        true => Ok(line),
        false => Err(Error::new(format!("{} holds no header", path.display())).hint("one line: Name: value")),
    }
}

/// None: the first line is not there yet.
fn first_line(heard: &[u8]) -> Option<Went> {
    let Some(end) = heard.iter().position(|byte| *byte == b'\n') else {
        return (heard.len() >= LINE).then(|| Err("no HTTP".to_owned()));
    };
    let line = String::from_utf8_lossy(&heard[..end]);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    Some(status.map(|status| Answer { status, body: Vec::new() }).ok_or_else(|| "no HTTP".to_owned()))
}

/// None: it is not all there yet. `closed`: nothing more will come.
fn whole(heard: &[u8], closed: bool) -> Option<Went> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let body = match response.parse(heard) {
        Ok(httparse::Status::Complete(length)) => &heard[length..],
        Ok(httparse::Status::Partial) => return too_long(heard),
        Err(error) => return Some(Err(format!("no HTTP: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let field = |name: &str| {
        let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| String::from_utf8_lossy(field.value).trim().to_owned())
    };
    let body = match (field("Transfer-Encoding"), field("Content-Length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => chunks(body),
        (Some(coding), _) => Some(Err(format!("an answer in {coding:?}"))),
        (None, Some(length)) => match length.parse::<usize>() {
            Ok(length) => body.get(..length).map(|body| Ok(body.to_vec())),
            Err(_) => Some(Err("no HTTP: its length is no number".to_owned())),
        },
        (None, None) => closed.then(|| Ok(body.to_vec())),
    };
    match body {
        Some(body) => Some(body.map(|body| Answer { status, body })),
        None => too_long(heard),
    }
}

fn too_long(heard: &[u8]) -> Option<Went> {
    (heard.len() >= ANSWER).then(|| Err("the answer is too long".to_owned()))
}

/// What is in chunks (RFC 9112, 7.1), without them; what follows the last one says nothing. None: the last one is not there yet.
fn chunks(mut rest: &[u8]) -> Option<std::result::Result<Vec<u8>, String>> {
    let mut body = Vec::new();
    loop {
        let (head, length) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((head, length))) => (head, usize::try_from(length).ok()),
            Ok(httparse::Status::Partial) => return None,
            Err(_) => return Some(Err("no HTTP: a chunk without its length".to_owned())),
        };
        let Some(length) = length.filter(|length| *length <= ANSWER) else {
            return Some(Err("the answer is too long".to_owned()));
        };
        if length == 0 {
            return Some(Ok(body));
        }
        body.extend_from_slice(rest.get(head..head + length)?);
        rest = rest.get(head + length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well(status: u16, body: &str) -> Option<Went> {
        Some(Ok(Answer { status, body: body.into() }))
    }

    #[test]
    fn a_status_is_in_the_first_line() {
        assert_eq!(first_line(b"HTTP/1.1 204 No Content\r\n"), well(204, ""));
        assert_eq!(first_line(b"HTTP/1.0 429\n"), well(429, ""));
        assert_eq!(first_line(b"220 smtp\r\n"), Some(Err("no HTTP".into())));
        assert_eq!(first_line(b"HTTP/1.1 20"), None);
    }

    /// Whatever comes with it, and however it comes: nothing is said before all is there.
    #[test]
    fn a_whole_answer_is_whole() {
        let bodies = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\nhello", true),
        ];
        for (text, closed) in bodies {
            let text = text.as_bytes();
            for length in 0..text.len() {
                assert_eq!(whole(&text[..length], false), None, "{:?}", String::from_utf8_lossy(&text[..length]));
            }
            assert_eq!(whole(text, closed), well(200, "hello"));
        }
        for wrong in [
            "SMTP\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            assert!(matches!(whole(wrong.as_bytes(), false), Some(Err(_))), "{wrong}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(ANSWER));
        assert!(matches!(whole(long.as_bytes(), false), Some(Err(_))));
    }
}
