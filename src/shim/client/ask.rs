//! Requests to several supervisors at once, with one deadline for all of it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, socket, sockopt,
};

use super::super::clock::{self, Moment};

/// Bytes of an answer: thousands of containers.
const LARGEST: usize = 16 << 20;
/// So many sockets are open at once.
const AT_ONCE: usize = 64;
/// A socket whose backlog is full can't be waited for: this is when it is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// A status and a body.
pub(in crate::shim) type Reply = (u16, Vec<u8>);

/// The bytes of a request.
pub(in crate::shim) fn request(method: &str, target: &str) -> Vec<u8> {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    request.into_bytes()
}

/// Sends the same request to all sockets: what each has answered by `deadline`.
pub(super) fn ask(sockets: &[PathBuf], method: &str, target: &str, deadline: Moment) -> Vec<Option<Reply>> {
    let request = request(method, target);
    sockets.chunks(AT_ONCE).flat_map(|some| together(some, &request, deadline)).collect()
}

enum Asked<'a> {
    /// Not connected yet.
    Begun(&'a Path),
    Open(Exchange),
    /// An answer or none.
    Done(Option<Reply>),
}

/// One request to one supervisor. Nothing of it waits.
#[derive(Debug)]
pub(in crate::shim) struct Exchange {
    socket: OwnedFd,
    /// So many bytes of the request are sent.
    sent: usize,
    /// What has come.
    answer: Vec<u8>,
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn together(sockets: &[PathBuf], request: &[u8], deadline: Moment) -> Vec<Option<Reply>> {
    let mut all: Vec<Asked> = sockets.iter().map(|path| Asked::Begun(path)).collect();
    loop {
        for asked in &mut all {
            advance(asked, request);
        }
        let begun = all.iter().any(|asked| matches!(asked, Asked::Begun(_)));
        let mut files: Vec<PollFd> = all.iter().filter_map(|asked| waits_for(asked, request.len())).collect();
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() || !begun && files.is_empty() {
            break;
        }
        let wait = if begun { left.min(AGAIN) } else { left };
        // Rounded up: a wait of nothing would be a loop.
        let wait = u16::try_from(wait.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut files, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    let reply = |asked| if let Asked::Done(reply) = asked { reply } else { None };
    all.into_iter().map(reply).collect()
}

fn waits_for<'a>(asked: &'a Asked<'_>, length: usize) -> Option<PollFd<'a>> {
    match asked {
        Asked::Open(exchange) if exchange.sent < length => Some(PollFd::new(exchange.as_fd(), PollFlags::POLLOUT)),
        Asked::Open(exchange) => Some(PollFd::new(exchange.as_fd(), PollFlags::POLLIN)),
        _ => None,
    }
}

/// Goes as far as it can without waiting.
fn advance(asked: &mut Asked<'_>, request: &[u8]) {
    if let Asked::Begun(path) = asked {
        match Exchange::begin(path) {
            Ok(exchange) => *asked = Asked::Open(exchange),
            Err(Errno::EAGAIN) => return,
            Err(_) => *asked = Asked::Done(None),
        }
    }
    if let Asked::Open(exchange) = asked
        && let Some(done) = exchange.advance(request)
    {
        *asked = Asked::Done(done);
    }
}

impl Exchange {
    /// Connects to the supervisor's socket at `path`.
    ///
    /// # Errors
    /// EAGAIN: so many wait there already. Any other: nobody of ours listens.
    pub(in crate::shim) fn begin(path: &Path) -> Result<Self, Errno> {
        Ok(Self { socket: open(path)?, sent: 0, answer: Vec::new() })
    }

    /// Goes as far as it can with `request`, of which all is sent before an answer is looked for. Some when it has come to an end.
    pub(in crate::shim) fn advance(&mut self, request: &[u8]) -> Option<Option<Reply>> {
        let socket = self.socket.as_raw_fd();
        while self.sent < request.len() {
            match send(socket, &request[self.sent..], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                // A supervisor that has too many clients says so before it reads.
                Err(_) => self.sent = request.len(),
            }
        }
        let mut bytes = [0; 16384];
        loop {
            match recv(socket, &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Some(parse(&self.answer)),
                Ok(count) if self.answer.len() + count <= LARGEST => self.answer.extend_from_slice(&bytes[..count]),
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                _ => return Some(None),
            }
        }
    }
}

/// A connection to somebody who may speak for our containers: root or ourselves.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Errno::EINVAL);
    };
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let parent = options.open(parent).map_err(|error| crate::host::errno(&error))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // sockaddr_un holds 107 bytes, and the path may be longer.
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{name}", parent.as_raw_fd()).as_str())?;
    connect(socket.as_raw_fd(), &address)?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    Ok(socket)
}

/// A whole answer: one that was cut off is none.
fn parse(bytes: &[u8]) -> Option<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).ok()? else { return None };
    let body = &bytes[head..];
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.trim().parse().ok()?;
    (body.len() == length).then(|| (response.code.unwrap_or_default(), body.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(parse(whole), Some((200, b"hi".to_vec())));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None);
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\nhi"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&[b"HTTP/1.1 200 OK\r\nContent-Length: ", &bytes[..]].concat());
            let _ = parse(&bytes);
        }
    }
}
