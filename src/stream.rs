//! Our standard streams for a relay: reads and writes that never wait, whatever the caller gave us, and bytes on their way.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{isatty, read, write};

use crate::foreground::Signals;

/// Bytes held in each direction.
const BUFFER: usize = 64 * 1024;

/// Bytes that poll(2) promises for a pipe that is writable: a write of more could block. See pipe(7).
const PIPE_BUF: usize = 4096;

/// After the container's end, how many bytes are still taken from the master: far more than a pseudo-terminal holds, so the
/// bound only meets a survivor that never stops writing.
pub(crate) const DRAIN_BYTES: usize = 1 << 20;

/// After the container's end, how long the reader of its terminal may take no byte at all.
const DRAIN_STALL: Duration = Duration::from_secs(10);

/// One of our standard streams, to be read or written without ever waiting.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Answers EAGAIN by itself, or never waits, as files do.
    NonBlocking,
    /// recv(2) and send(2) take the wish per call.
    Socket,
    /// Asked with poll(2) before each call, in portions that a ready pipe always takes.
    Blocking,
}

impl Stream {
    /// `access` is O_RDONLY or O_WRONLY.
    pub(crate) fn new(fd: OwnedFd, access: OFlag) -> Stream {
        let kind = match fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT) {
            Ok(SFlag::S_IFREG) => Kind::NonBlocking,
            Ok(SFlag::S_IFSOCK) => Kind::Socket,
            Ok(SFlag::S_IFIFO) => return Stream::reopened(fd, access),
            _ if is_tty(&fd) => return Stream::reopened(fd, access),
            _ => Kind::Blocking,
        };
        Stream { fd, kind }
    }

    /// The same pipe or terminal through an open file description of our own, whose O_NONBLOCK nobody shares; if
    /// permissions forbid it, the one that we were given.
    fn reopened(fd: OwnedFd, access: OFlag) -> Stream {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let (reads, writes) = (access == OFlag::O_RDONLY, access == OFlag::O_WRONLY);
        match OpenOptions::new().read(reads).write(writes).custom_flags(flags).open(path) {
            Ok(own) => Stream { fd: own.into(), kind: Kind::NonBlocking },
            Err(_) => Stream { fd, kind: Kind::Blocking },
        }
    }

    pub(crate) fn read(&self, bytes: &mut [u8]) -> nix::Result<usize> {
        match self.kind {
            Kind::NonBlocking => read(&self.fd, bytes),
            Kind::Socket => recv(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT),
            Kind::Blocking => self.ready(PollFlags::POLLIN).and_then(|()| read(&self.fd, bytes)),
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.kind {
            Kind::NonBlocking => write(&self.fd, bytes),
            Kind::Socket => send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Kind::Blocking => {
                self.ready(PollFlags::POLLOUT).and_then(|()| write(&self.fd, &bytes[..bytes.len().min(PIPE_BUF)]))
            }
        }
    }

    /// Waits for it to take bytes; false when the wait is to be given up: it took none for ten seconds, or a signal came that
    /// would have ended the container.
    pub(crate) fn moves(&self, signals: &Signals) -> bool {
        let mut fds =
            [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout(DRAIN_STALL)) {
            Ok(0) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
        !ends(signals)
    }

    fn ready(&self, events: PollFlags) -> nix::Result<()> {
        match poll(&mut [PollFd::new(self.fd.as_fd(), events)], PollTimeout::ZERO)? {
            0 => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }
}

/// Bytes on their way, in the order they came.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer { bytes: vec![0; BUFFER], from: 0, to: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Room comes back all at once, when the last byte has been flushed.
    pub(crate) fn has_room(&self) -> bool {
        self.to < self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
    }

    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> nix::Result<usize>) -> nix::Result<usize> {
        let length = read(&mut self.bytes[self.to..])?;
        self.to += length;
        Ok(length)
    }

    /// Writes until nothing is left or `write` answers EAGAIN, which is no error.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[u8]) -> nix::Result<usize>) -> nix::Result<()> {
        while self.from < self.to {
            match write(&self.bytes[self.from..self.to]) {
                Ok(length @ 1..) => self.from += length,
                Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        self.clear();
        Ok(())
    }
}

pub(crate) fn is_tty(fd: &OwnedFd) -> bool {
    isatty(fd).unwrap_or(false)
}

/// Has a signal come that would have ended the container?
pub(crate) fn ends(signals: &Signals) -> bool {
    let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
    std::iter::from_fn(|| signals.next()).any(|signal| ends.contains(&signal))
}

/// Rounded up, so that the last fraction of a millisecond is not a busy loop.
pub(crate) fn timeout(duration: Duration) -> PollTimeout {
    PollTimeout::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}
