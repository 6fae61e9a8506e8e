//! Pipes in place of our stdout and stderr, for a program in the foreground that could not open those by their names.
//!
//! Images link their log files to `/dev/stdout`. Who opens that opens what descriptor 1 leads to anew, see proc_pid_fd(5):
//! a socket, as journald and sshd give one, has no open(2) at all (ENXIO), and another user's file denies it (EACCES). A
//! pipe can be opened by its owner, which the program's user becomes before the execve. Where stdout and stderr can be
//! opened, nothing stands between.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Uid, dup2_stderr, dup2_stdout, fchown, pipe2, read};

use crate::error::{Error, Result};
use crate::foreground::Signals;
use crate::stream::{Buffer, DRAIN_BYTES, Stream};

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
    to: Stream,
    buffer: Buffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn stat(self) -> nix::Result<FileStat> {
        match self {
            Output::Stdout => fstat(io::stdout()),
            Output::Stderr => fstat(io::stderr()),
        }
    }

    fn duplicate(self) -> Result<OwnedFd> {
        let copy = match self {
            Output::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Output::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        };
        copy.map_err(|error| {
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

    /// Those that a program needs whose user is here `user`; None: an id that is none here.
    ///
    /// Where stdout and stderr are one file there is one pipe, so that what goes to both stays in its order.
    ///
    /// Errors: no more descriptors (EMFILE, ENFILE).
    pub fn needed(user: Option<u32>) -> Result<Pipes> {
        let mut pipes: Vec<(FileStat, Pipe)> = Vec::new();
        for output in [Output::Stdout, Output::Stderr] {
            // EBADF: the caller has closed it.
            let Ok(stat) = output.stat() else { continue };
            if openable(&stat, user) {
                continue;
            }
            match pipes.iter_mut().find(|(other, _)| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino)) {
                Some((_, pipe)) => pipe.outputs.push(output),
                None => pipes.push((stat, Pipe::new(output, user)?)),
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

    /// After the program's end: writes out what it wrote last. What processes write that it has left behind is not waited for.
    pub(crate) fn drain(mut self, signals: &Signals) {
        for pipe in &mut self.0 {
            let mut sum = 0;
            loop {
                pipe.write();
                if !pipe.buffer.is_empty() {
                    if !pipe.to.moves(signals) {
                        return;
                    }
                    continue;
                }
                let length = if sum < DRAIN_BYTES { pipe.read() } else { 0 };
                if length == 0 {
                    break;
                }
                sum += length;
            }
        }
    }
}

impl Pipe {
    fn new(output: Output, user: Option<u32>) -> Result<Pipe> {
        let (from, end) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2(O_CLOEXEC)", errno))?;
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed("fcntl(F_SETFL)", errno))?;
        // Root of a user namespace that does not know our own id could not. An ordinary user's own is mapped in his.
        let _: nix::Result<()> = fchown(&end, user.map(Uid::from_raw), None);
        let to = Stream::new(output.duplicate()?, OFlag::O_WRONLY);
        Ok(Pipe { outputs: vec![output], end: Some(end), from: Some(from), to, buffer: Buffer::new() })
    }

    /// How many bytes have come.
    fn read(&mut self) -> usize {
        let Some(from) = &self.from else { return 0 };
        match self.buffer.fill(|bytes| read(from, bytes)) {
            Ok(length @ 1..) => return length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => self.from = None,
        }
        0
    }

    fn write(&mut self) {
        if self.buffer.flush(|bytes| self.to.write(bytes)).is_err() {
            self.buffer.clear();
            self.from = None;
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

/// May `user` open it for writing by its name? A capability does not count: the program may have none.
///
/// Terminals and pipes: yes, since the program's user becomes their owner.
fn openable(stat: &FileStat, user: Option<u32>) -> bool {
    let mode = Mode::from_bits_truncate(stat.st_mode);
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFSOCK => false,
        SFlag::S_IFREG => user == Some(stat.st_uid) && mode.contains(Mode::S_IWUSR) || mode.contains(Mode::S_IWOTH),
        _ => true,
    }
}

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("put a pipe in the place of stdout or stderr").call(call, errno)
}
