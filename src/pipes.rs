//! Pipes in place of our stdout and stderr, for a program in the foreground that could not open those by their names.
//!
//! Images link their log files to `/dev/stdout`. Who opens that opens what descriptor 1 leads to anew, see proc_pid_fd(5):
//! a socket, as journald and sshd give one, has no open(2) at all (ENXIO), and another user's file or pipe denies it
//! (EACCES). A pipe of our own can be opened for writing by everybody who has it. Where stdout and stderr can be opened,
//! nothing stands between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{dup2_stderr, dup2_stdout, pipe2, read};

use crate::error::{Error, Result};
use crate::foreground::Signals;
use crate::stream::{Buffer, Stream, ends, timeout};
use crate::sys::ioctl::fionread;

/// At most two pipes, and what comes out of them on its way to our own stdout and stderr.
#[derive(Debug, Default)]
pub struct Pipes(Vec<Pipe>);

#[derive(Debug)]
struct Pipe {
    outputs: Vec<Output>,
    /// What the program writes to, until it has it.
    end: Option<OwnedFd>,
    /// None after the end of the program's last descriptor, or of our reader: then the program has EPIPE, as from our own.
    from: Option<OwnedFd>,
    /// How many bytes are still to be taken: those that it held when the program ended.
    left: usize,
    to: Stream,
    buffer: Buffer,
    /// Why bytes are not where they should be.
    lost: Option<Errno>,
}

/// Whom a program writes as, in the ids of the host.
#[derive(Debug)]
pub struct Writer<O> {
    /// None: an id that is none here.
    pub user: Option<u32>,
    /// May it become the owner of a pipe of this user's?
    pub owns: O,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn fd(self) -> BorrowedFd<'static> {
        // Always open: what our caller has closed is /dev/null.
        crate::sys::path::inherited(match self {
            Output::Stdout => libc::STDOUT_FILENO,
            Output::Stderr => libc::STDERR_FILENO,
        })
    }

    fn duplicate(self) -> Result<OwnedFd> {
        self.fd().try_clone_to_owned().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF));
            failed("fcntl(F_DUPFD_CLOEXEC)", errno)
        })
    }

    fn becomes(self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        match self {
            Output::Stdout => dup2_stdout(fd),
            Output::Stderr => dup2_stderr(fd),
        }
    }
}

impl Pipes {
    /// No pipes: the program has our own streams, or a terminal.
    pub fn none() -> Pipes {
        Pipes::default()
    }

    /// Those that a program needs which writes as `writer`.
    ///
    /// Where stdout and stderr are one file, opened in one way, there is one pipe, so that what goes to both stays in its order.
    ///
    /// Errors: no more descriptors (EMFILE, ENFILE).
    pub fn needed<O: Fn(u32) -> bool>(writer: &Writer<O>) -> Result<Pipes> {
        let mut pipes: Vec<((u64, u64, i32), Pipe)> = Vec::new();
        for output in [Output::Stdout, Output::Stderr] {
            let Ok(stat) = fstat(output.fd()) else { continue };
            if openable(output.fd(), &stat, writer) {
                continue;
            }
            let flags = fcntl(output.fd(), FcntlArg::F_GETFL).map_err(|errno| failed("fcntl(F_GETFL)", errno))?;
            let file = (stat.st_dev, stat.st_ino, flags);
            match pipes.iter_mut().find(|(other, _)| *other == file) {
                Some((_, pipe)) => pipe.outputs.push(output),
                None => pipes.push((file, Pipe::new(output)?)),
            }
        }
        Ok(Pipes(pipes.into_iter().map(|(_, pipe)| pipe).collect()))
    }

    /// What `make` clones has the pipes as its stdout and stderr; we have our own again when it returns.
    ///
    /// To be called once. Errors: those of `make`; dup2(2) is refused.
    pub fn lend<T>(&mut self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut lent = Lent(Vec::new());
        for pipe in &mut self.0 {
            let Some(end) = pipe.end.take() else { continue };
            for output in &pipe.outputs {
                let own = output.duplicate()?;
                output.becomes(end.as_fd()).map_err(|errno| failed("dup2", errno))?;
                lent.0.push((*output, own));
            }
        }
        make()
    }

    /// Adds to `fds` what the relay waits for now. What has come is written before more is taken.
    pub(crate) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        for pipe in &self.0 {
            match &pipe.from {
                _ if !pipe.buffer.is_empty() => fds.push(PollFd::new(pipe.to.fd.as_fd(), PollFlags::POLLOUT)),
                Some(from) => fds.push(PollFd::new(from.as_fd(), PollFlags::POLLIN)),
                None => {}
            }
        }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn relay(&mut self) {
        for pipe in &mut self.0 {
            if pipe.buffer.is_empty() {
                pipe.read();
            }
            pipe.write();
        }
    }

    /// Relays until `end` is ready for reading, or its time is over: false. A program that says more than a pipe holds is not to
    /// wait for what we wait for.
    pub fn until(&mut self, end: BorrowedFd<'_>, milliseconds: i32) -> bool {
        let over = Instant::now() + Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
        loop {
            let left = over.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(end, PollFlags::POLLIN)];
            self.watch(&mut fds);
            let answer = poll(&mut fds, timeout(left));
            let ended = fds[0].any().unwrap_or(false);
            self.relay();
            match answer {
                Ok(_) | Err(Errno::EINTR) if ended => return true,
                Ok(_) | Err(Errno::EINTR) if left.is_zero() => return false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// After the program's end: writes out what it wrote last, for as long as our reader takes, or until a signal that would have
    /// ended the program. What processes write from now on that it has left behind is not waited for.
    ///
    /// Says why bytes were lost, if any were, but for want of a reader.
    pub(crate) fn drain(mut self, signals: &Signals) -> Option<Errno> {
        for pipe in &mut self.0 {
            pipe.left = pipe.from.as_ref().map_or(0, |from| fionread(from.as_fd()).unwrap_or(0));
        }
        loop {
            self.relay();
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let waits = |pipe: &&Pipe| !pipe.buffer.is_empty();
            fds.extend(self.0.iter().filter(waits).map(|pipe| PollFd::new(pipe.to.fd.as_fd(), PollFlags::POLLOUT)));
            let waiting = fds.len() > 1;
            if !waiting && self.0.iter().all(|pipe| pipe.left == 0) {
                return self.lost();
            }
            let answer = if waiting { poll(&mut fds, PollTimeout::NONE) } else { Ok(0) };
            if ends(signals) || answer.is_err_and(|errno| errno != Errno::EINTR) {
                return self.lost().or(Some(Errno::EINTR));
            }
        }
    }

    fn lost(&self) -> Option<Errno> {
        self.0.iter().find_map(|pipe| pipe.lost)
    }
}

/// Where the container is given up, what it said is all that explains why: as much of it as can be written without waiting.
impl Drop for Pipes {
    fn drop(&mut self) {
        for pipe in &mut self.0 {
            let mut rounds = 0..64;
            pipe.write();
            while pipe.buffer.is_empty() && pipe.read() != 0 && rounds.next().is_some() {
                pipe.write();
            }
        }
    }
}

impl Pipe {
    fn new(output: Output) -> Result<Pipe> {
        let (from, end) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2(O_CLOEXEC)", errno))?;
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed("fcntl(F_SETFL)", errno))?;
        // For whatever id it is there, and for writing alone: what one has said is not another's to take out.
        fchmod(&end, Mode::from_bits_truncate(0o222)).map_err(|errno| failed("fchmod", errno))?;
        let (to, buffer) = (Stream::new(output.duplicate()?, OFlag::O_WRONLY), Buffer::new());
        let (end, from) = (Some(end), Some(from));
        Ok(Pipe { outputs: vec![output], end, from, left: usize::MAX, to, buffer, lost: None })
    }

    /// How many bytes have come.
    fn read(&mut self) -> usize {
        let Some(from) = self.from.as_ref().filter(|_| self.left != 0) else { return 0 };
        let left = self.left;
        let length = match self.buffer.fill(|bytes| {
            let most = bytes.len().min(left);
            read(from, &mut bytes[..most])
        }) {
            Ok(length @ 1..) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                // Somebody else took what it held when the program ended: nothing is to be waited for.
                if left != usize::MAX {
                    self.left = 0;
                }
                return 0;
            }
            Ok(0) | Err(_) => {
                self.from = None;
                self.left = 0;
                return 0;
            }
        };
        if left != usize::MAX {
            self.left -= length;
        }
        length
    }

    fn write(&mut self) {
        let Err(errno) = self.buffer.flush(|bytes| self.to.write(bytes)) else { return };
        self.buffer.clear();
        match errno {
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => {
                self.from = None;
                self.left = 0;
            }
            // A disk that is full may have room again: the program goes on, as it might with the file itself.
            errno => self.lost = Some(errno),
        }
    }
}

/// Our own streams while the pipes are in their places.
struct Lent(Vec<(Output, OwnedFd)>);

impl Drop for Lent {
    fn drop(&mut self) {
        for (output, own) in &self.0 {
            // EBADF alone, of a descriptor that we own; EINTR and EBUSY do not happen where the number is open.
            let _ = output.becomes(own.as_fd());
        }
    }
}

/// May the program open it for writing by its name? A capability does not count: it may have none.
///
/// A terminal is handed over whosever it is, since a pipe is none; and a socket of messages, since a pipe has no bounds between.
fn openable<O: Fn(u32) -> bool>(fd: BorrowedFd<'_>, stat: &FileStat, writer: &Writer<O>) -> bool {
    let mode = Mode::from_bits_truncate(stat.st_mode);
    let own = writer.user == Some(stat.st_uid);
    let may_write = mode.contains(if own { Mode::S_IWUSR } else { Mode::S_IWOTH });
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFSOCK => getsockopt(&fd, sockopt::SockType) != Ok(SockType::Stream),
        SFlag::S_IFREG => may_write,
        // Before the execve its user becomes its owner where it can.
        SFlag::S_IFIFO => may_write || (writer.owns)(stat.st_uid),
        _ => true,
    }
}

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("put a pipe in the place of stdout or stderr").call(call, errno)
}
