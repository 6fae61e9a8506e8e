//! The relay between our standard streams and the pseudo-terminal of a container in the foreground.
//!
//! Nothing here waits but [`Terminal::drain`]: every read and write returns EAGAIN instead, on whatever the caller gave us,
//! and no flag of the caller's open file descriptions, which its shell shares with us, is changed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp, write};

use crate::error::{Error, Result};
use crate::foreground::Signals;
use crate::stream::{Buffer, DRAIN_BYTES, Stream, is_tty, timeout};
use crate::sys::ioctl::{tiocgwinsz, tiocswinsz};

/// How long a master without an open slave is left alone; systemd, for one, closes /dev/console and opens it again.
const HUNG_UP: Duration = Duration::from_millis(100);

/// The host side of a container's terminal: bytes from our stdin go to its master, bytes from the master to our stdout.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    stdin: Stream,
    stdout: Stream,
    /// Our own terminal, when stdin is one.
    tty: Option<Tty>,
    /// The first of our streams that is a terminal; its size is the container's.
    screen: Option<OwnedFd>,
    input: Buffer,
    output: Buffer,
    /// Nothing is read from stdin after its end.
    stdin_open: bool,
    /// Output is thrown away when nobody can read it, so that the container does not hang.
    stdout_open: bool,
    /// Until then the master has no slave.
    hung_up: Option<Instant>,
}

impl Terminal {
    /// Takes the master of the container's pseudo-terminal, which must not be used elsewhere: it becomes non-blocking.
    ///
    /// When stdin is a terminal, it goes into raw mode until the `Terminal` is dropped, unless we run in its background;
    /// then SIGCONT is waited for. The size of our terminal, if we have one, becomes the container's.
    pub fn new(master: OwnedFd) -> Result<Terminal> {
        let [stdin, stdout, stderr] = standard_streams()?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .map_err(|errno| failed("fcntl(F_SETFL, O_NONBLOCK)", errno))?;
        let tty = is_tty(&stdin).then(|| duplicate(&stdin)).transpose()?.map(|fd| Tty { fd, original: None });
        let screen = [&stdin, &stdout, &stderr].into_iter().find(|fd| is_tty(fd)).map(duplicate).transpose()?;
        let mut terminal = Terminal {
            master,
            stdin: Stream::new(stdin, OFlag::O_RDONLY),
            stdout: Stream::new(stdout, OFlag::O_WRONLY),
            tty,
            screen,
            input: Buffer::new(),
            output: Buffer::new(),
            stdin_open: true,
            stdout_open: true,
            hung_up: None,
        };
        // Once, since the container may write at any time: never in two ways what no program changed in between.
        let ours = terminal.take_tty().map_err(|errno| failed("tcsetattr(stdin)", errno))?;
        set_onlcr(&terminal.master, ours).map_err(|errno| failed("tcsetattr(master)", errno))?;
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the container's terminal the size of ours. A size of nothing says that ours has none.
    pub(crate) fn resize(&self) {
        let size = self.screen.as_ref().and_then(|screen| tiocgwinsz(screen.as_fd()).ok());
        if let Some(size) = size.filter(|size| size.ws_row != 0 || size.ws_col != 0) {
            // Fails only after a hangup, when there is nobody to see the size.
            let _ = tiocswinsz(self.master.as_fd(), &size);
        }
    }

    /// After SIGCONT: the shell may have put us into the foreground, and set its own modes while we were stopped.
    pub(crate) fn resume(&mut self) {
        self.stdin_open = true;
        // The terminal may be gone; reading it says so.
        if self.take_tty() == Ok(true) {
            let _ = set_onlcr(&self.master, true);
        }
        self.resize();
    }

    /// Raw mode, if we are in the foreground of our terminal.
    ///
    /// A newline is translated to CR NL in one place, and only if our terminal did it before: by the container's
    /// pseudo-terminal as long as our own is raw and shows the output, by our own otherwise. So nothing is added to what
    /// goes to a file or a pipe, and full-screen programs see a terminal that does what its flags say.
    ///
    /// True when it is for the container's to translate from now on.
    fn take_tty(&mut self) -> nix::Result<bool> {
        let Some(tty) = self.tty.as_mut().filter(|tty| !tty.in_background()) else { return Ok(false) };
        let first = tty.original.is_none();
        let translates = tty.make_raw()?;
        Ok(first && translates && is_tty(&self.stdout.fd))
    }

    /// Adds to `fds` what the relay waits for now, and says for how long to wait at most.
    pub(crate) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> PollTimeout {
        let mut watch = |fd: BorrowedFd<'a>, events: PollFlags| {
            // Hangups and errors are reported even when nothing was asked for: leave such descriptors out.
            if !events.is_empty() {
                fds.push(PollFd::new(fd, events));
            }
        };
        let reads = |yes: bool| if yes { PollFlags::POLLIN } else { PollFlags::empty() };
        let writes = |yes: bool| if yes { PollFlags::POLLOUT } else { PollFlags::empty() };
        watch(self.stdin.fd.as_fd(), reads(self.stdin_open && self.input.has_room()));
        watch(self.stdout.fd.as_fd(), writes(!self.output.is_empty()));
        match self.hung_up {
            None => {
                watch(self.master.as_fd(), reads(self.output.has_room()) | writes(!self.input.is_empty()));
                PollTimeout::NONE
            }
            Some(until) => timeout(until.saturating_duration_since(Instant::now())),
        }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn relay(&mut self) {
        if self.hung_up.is_some_and(|until| until <= Instant::now()) {
            self.hung_up = None;
        }
        if self.stdin_open && self.input.has_room() {
            self.read_stdin();
        }
        if self.hung_up.is_none() {
            self.write_master();
            self.read_master();
        }
        self.write_stdout();
    }

    fn read_stdin(&mut self) {
        match self.input.fill(|bytes| self.stdin.read(bytes)) {
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The end, or EIO of a terminal whose background we are in. No EOT is sent to the container, as runc
            // sends none: to a program in raw mode it would be one more byte of input.
            Ok(0) | Err(_) => self.stdin_open = false,
        }
    }

    fn write_master(&mut self) {
        if let Err(Errno::EIO) = self.input.flush(|bytes| write(&self.master, bytes)) {
            self.hung_up = Some(Instant::now() + HUNG_UP);
        }
    }

    /// Reads until the buffer is full or the master has nothing more; how many bytes came.
    fn read_master(&mut self) -> usize {
        let mut sum = 0;
        while self.output.has_room() {
            match self.output.fill(|bytes| read(&self.master, bytes)) {
                Ok(length @ 1..) => sum += length,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // EIO: no slave is open, and all that was written has been read.
                Ok(0) | Err(_) => {
                    self.hung_up = Some(Instant::now() + HUNG_UP);
                    break;
                }
            }
        }
        sum
    }

    fn write_stdout(&mut self) {
        if self.stdout_open {
            self.stdout_open = self.output.flush(|bytes| self.stdout.write(bytes)).is_ok();
        }
        if !self.stdout_open {
            self.output.clear();
        }
    }

    /// After the container's end: writes out what its terminal still holds, then gives our terminal back.
    ///
    /// Ends early when stdout takes nothing for ten seconds, or when a signal comes that would have ended the container.
    pub(crate) fn drain(mut self, signals: &Signals) {
        let mut sum = 0;
        loop {
            self.write_stdout();
            if !self.output.is_empty() {
                if !self.stdout.moves(signals) {
                    return;
                }
                continue;
            }
            let length = if sum < DRAIN_BYTES { self.read_master() } else { 0 };
            if length == 0 {
                return;
            }
            sum += length;
        }
    }
}

/// Our own terminal, and its modes before we changed them.
#[derive(Debug)]
struct Tty {
    fd: OwnedFd,
    original: Option<Termios>,
}

impl Tty {
    /// Another process group has it: its modes are not ours to change. ENOTTY: it controls another session, or none.
    fn in_background(&self) -> bool {
        tcgetpgrp(&self.fd).is_ok_and(|group| group != getpgrp())
    }

    /// Raw mode; true when the terminal translated newlines to CR NL before.
    fn make_raw(&mut self) -> nix::Result<bool> {
        let original = match self.original.take() {
            Some(original) => original,
            None => tcgetattr(&self.fd)?,
        };
        let mut raw = original.clone();
        cfmakeraw(&mut raw);
        let translates = original.output_flags.contains(OutputFlags::OPOST | OutputFlags::ONLCR);
        self.original = Some(original);
        // TCSANOW keeps what was typed ahead.
        tcsetattr(&self.fd, SetArg::TCSANOW, &raw)?;
        Ok(translates)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Some(original) = &self.original {
            // Fails only when the terminal is gone.
            let _ = tcsetattr(&self.fd, SetArg::TCSANOW, original);
        }
    }
}

/// Duplicates of our standard streams: they share the open file descriptions, not the numbers.
fn standard_streams() -> Result<[OwnedFd; 3]> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    Ok([duplicate(stdin)?, duplicate(stdout)?, duplicate(stderr)?])
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF));
        failed(&format!("fcntl({}, F_DUPFD_CLOEXEC)", fd.as_fd().as_raw_fd()), errno)
    })
}

/// Whether the pseudo-terminal writes CR NL for NL. The modes of a master are those of its slave, see pty(7).
fn set_onlcr(master: &OwnedFd, on: bool) -> nix::Result<()> {
    let mut modes = tcgetattr(master)?;
    modes.output_flags.set(OutputFlags::ONLCR, on);
    tcsetattr(master, SetArg::TCSANOW, &modes)
}

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("set up the terminal").call(call, errno)
}
