//! A container in the foreground: signals forwarded, the terminal relayed, the exit status returned.
//!
//! One thread, one poll(2) over a signalfd, the container's pidfd, and what the [`Relay`] waits for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libc::c_int;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

pub use crate::console::Terminal;
use crate::error::{Error, Result};
use crate::notify::Notify;
pub use crate::pipes::{Pipes, Writer};
use crate::sys::ioctl::tiocgptn;
use crate::sys::pidfd::{End, WaitId, pidfd_send_signal, waitid};
use crate::sys::process::kill_child;
use crate::sys::signal::sigaction_default;
use crate::sys::socket;

/// What stands between the program's streams and our own.
#[derive(Debug)]
pub enum Relay {
    /// A pseudo-terminal.
    Terminal(Box<Terminal>),
    /// Pipes for its stdout and stderr, or none: then it has our own.
    Pipes(Pipes),
}

impl Relay {
    /// Adds to `fds` what is waited for now, and says for how long to wait at most.
    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> PollTimeout {
        match self {
            Relay::Terminal(terminal) => terminal.watch(fds),
            Relay::Pipes(pipes) => {
                pipes.watch(fds);
                PollTimeout::NONE
            }
        }
    }

    fn relay(&mut self) {
        match self {
            Relay::Terminal(terminal) => terminal.relay(),
            Relay::Pipes(pipes) => pipes.relay(),
        }
    }

    /// Why what the program said last is not where it should be.
    fn drain(self, signals: &Signals) -> Option<Errno> {
        match self {
            Relay::Terminal(terminal) => {
                terminal.drain(signals);
                None
            }
            Relay::Pipes(pipes) => pipes.drain(signals),
        }
    }
}

/// Longest path that sun_path of `sockaddr_un` holds with its final NUL, see unix(7).
const SUN_PATH: usize = 107;

/// All signals of this process, blocked and collected in a signalfd.
///
/// Blocked before the clone, none is lost between the clone and [`wait`]. Dropped, it restores the mask, and what is still
/// pending takes its default action: keep it until the container is deleted.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    old: SigSet,
}

impl Signals {
    /// Blocks every signal. The child has to restore [`Signals::old`], since execve keeps the mask.
    ///
    /// SIGCHLD gets its default action: a caller that ignores it would make the kernel reap the container itself.
    pub fn block() -> Result<Signals> {
        sigaction_default(Signal::SIGCHLD)
            .map_err(|errno| Error::new("give SIGCHLD its default action").call("rt_sigaction(SIGCHLD)", errno))?;
        let fd = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|errno| Error::new("open a signalfd").call("signalfd4(-1, ~[])", errno))?;
        let old = SigSet::all()
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
            .map_err(|errno| Error::new("block signals").call("rt_sigprocmask(SIG_SETMASK, ~[])", errno))?;
        Ok(Signals { fd, old })
    }

    /// The mask before [`Signals::block`].
    pub fn old(&self) -> &SigSet {
        &self.old
    }

    /// The number of the next signal that is pending, if any.
    pub(crate) fn next(&self) -> Option<c_int> {
        self.fd.read_signal().ok().flatten().map(|info| info.ssi_signo as c_int)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Fails only for a bad pointer.
        let _ = self.old.thread_set_mask();
    }
}

/// Waits until our child `child`, open as `pidfd`, has ended, and returns its exit status, or 128 plus the number of the
/// signal that killed it, as runc does.
///
/// Meanwhile every signal that we get is sent on to it, but SIGCHLD, SIGPIPE, SIGXFSZ, and SIGWINCH when there is a terminal to
/// resize; other children that have ended, which a subreaper inherits, are reaped; what it says is relayed. Before it
/// returns, what the container wrote last is written out, and our own terminal is as it was before.
///
/// That it is ready goes from its NOTIFY_SOCKET to the service manager, with our own pid as the one to watch.
///
/// Errors: `child` is not our child (ECHILD).
pub fn wait(
    child: Pid,
    pidfd: BorrowedFd,
    signals: &Signals,
    mut relay: Relay,
    mut notify: Option<Notify>,
) -> Result<i32> {
    notify = notify.filter(|notify| !passed_on(notify));
    loop {
        let ended = poll_once(pidfd, signals, &relay, notify.as_ref())?;
        notify = notify.filter(|notify| !passed_on(notify));
        while let Some(signal) = signals.next() {
            handle(signal, child, pidfd, &mut relay);
        }
        relay.relay();
        if ended {
            break;
        }
    }
    let ended = waitid(WaitId::Pidfd(pidfd), 0);
    let lost = relay.drain(signals);
    if let Some(errno) = lost {
        let error = Error::new("not all that the program said could be written").call("write", errno);
        let _ = writeln!(io::stderr(), "orlop: warning: {error}");
    }
    let ended = ended
        .map_err(|errno| Error::new(format!("wait for process {child}")).call("waitid(P_PIDFD, WEXITED)", errno))?;
    match ended.map(|ended| ended.end) {
        // Who asks for a copy of a database is not to take half of it for one.
        Some(End::Exited(0)) if lost.is_some() => Ok(1),
        Some(End::Exited(status)) => Ok(status),
        Some(End::Signaled(signal)) => Ok(128 + signal),
        None => Err(Error::new(format!("wait for process {child}: it has not ended"))),
    }
}

/// Sleeps until there is something to do; true when the child has ended.
fn poll_once(pidfd: BorrowedFd, signals: &Signals, relay: &Relay, notify: Option<&Notify>) -> Result<bool> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let timeout = relay.watch(&mut fds);
    fds.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
        Err(errno) => Err(Error::new("wait for the container").call("poll()", errno)),
    }
}

/// What one signal to us means for the container.
fn handle(signal: c_int, child: Pid, pidfd: BorrowedFd, relay: &mut Relay) {
    match (signal, relay) {
        (libc::SIGCHLD, _) => reap_others(child),
        // The answers to our own writes, to a closed pipe and to a file that has become too large.
        (libc::SIGPIPE | libc::SIGXFSZ, _) => {}
        (libc::SIGWINCH, Relay::Terminal(terminal)) => terminal.resize(),
        (libc::SIGCONT, Relay::Terminal(terminal)) => {
            terminal.resume();
            forward(signal, child, pidfd);
        }
        _ => forward(signal, child, pidfd),
    }
}

/// Has the service manager been told that the container is ready? A failure is said once, and ends the attempts.
fn passed_on(notify: &Notify) -> bool {
    notify.forward(std::process::id()).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "orlop: warning: {error}");
        true
    })
}

fn forward(signal: c_int, child: Pid, pidfd: BorrowedFd) {
    let sent = match pidfd_send_signal(pidfd, signal) {
        Err(Errno::ENOSYS | Errno::EPERM) => kill_child(child.as_raw(), signal),
        sent => sent,
    };
    match sent {
        // ESRCH: it has ended meanwhile, and the next poll says so.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => {
            let error = Error::new(format!("forward signal {signal} to the container"))
                .call(format!("kill({child}, {signal})"), errno);
            // Not eprintln: it panics when stderr is gone.
            let _ = writeln!(io::stderr(), "{error}");
        }
    }
}

/// Reaps every child that has ended but `child`, which is left to its pidfd. Does not wait.
fn reap_others(child: Pid) {
    while let Ok(Some(ended)) = waitid(WaitId::All, libc::WNOHANG | libc::WNOWAIT) {
        if ended.pid == child || waitid(WaitId::Pid(ended.pid), libc::WNOHANG).is_err() {
            return;
        }
    }
}

/// Makes us the parent of descendants whose own parent has ended (PR_SET_CHILD_SUBREAPER, Linux 3.4).
pub fn become_subreaper() -> Result<()> {
    prctl::set_child_subreaper(true)
        .map_err(|errno| Error::new("become a subreaper").call("prctl(PR_SET_CHILD_SUBREAPER, 1)", errno))
}

/// Receives the master of the container's pseudo-terminal: one message on `socket` with one descriptor, within `deadline`.
///
/// Errors: the other side ended or sent nothing in time; it sent another number of descriptors, all closed again, or
/// something that is no pseudo-terminal master.
pub fn receive_master(socket: BorrowedFd, deadline: Duration) -> Result<OwnedFd> {
    let failed = |why: &str| Error::new(format!("receive the container's terminal: {why}"));
    wait_readable(socket, deadline)?;
    // As long as the longest name that runc accepts beside the descriptor.
    let mut name = [0; 4096];
    let (length, mut fds) = socket::recvmsg(socket, &mut name)
        .map_err(|errno| failed("one descriptor wanted").call("recvmsg(MSG_CMSG_CLOEXEC)", errno))?;
    if length == 0 {
        return Err(failed("the socket was closed before a descriptor came"));
    }
    let master = match fds.pop() {
        Some(fd) if fds.is_empty() => fd,
        last => {
            let count = fds.len() + usize::from(last.is_some());
            return Err(failed(&format!("one descriptor wanted, {count} came")));
        }
    };
    tiocgptn(master.as_fd())
        .map_err(|errno| failed("not the master of a pseudo-terminal").call("ioctl(TIOCGPTN)", errno))?;
    Ok(master)
}

fn wait_readable(socket: BorrowedFd, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up, so that the last fraction of a millisecond is not a busy loop.
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => {
                let seconds = deadline.as_secs_f64();
                return Err(Error::new(format!("receive the container's terminal: nothing came within {seconds} s")));
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::new("receive the container's terminal").call("poll()", errno)),
        }
    }
}

/// Sends the pseudo-terminal master `master` over `socket`, as a caller of `--console-socket` expects it: one message with
/// one descriptor, and the name that runc gives it. Allocates nothing, so it may be called after a clone.
pub fn send_master(socket: BorrowedFd, master: BorrowedFd) -> nix::Result<()> {
    socket::sendmsg(socket, b"/dev/ptmx", master)
}

/// Connects to the AF_UNIX stream socket at `path`, of any length; `what` it is for stands in errors.
///
/// A path that `sockaddr_un` cannot hold goes through /proc/self/fd. Errors: `path` does not exist, is not a socket,
/// or nobody listens.
pub fn connect(what: &str, path: &Path) -> Result<OwnedFd> {
    let failed = |call: &str, error: io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL));
        Error::new(format!("connect to {what} {}", path.display())).call(call, errno)
    };
    let (_held, short) = match shortened(path).map_err(|error| failed("open(O_PATH)", error))? {
        Some((held, short)) => (Some(held), short),
        None => (None, path.to_owned()),
    };
    let stream = UnixStream::connect(short).map_err(|error| {
        let error = failed("connect(AF_UNIX)", error);
        match error.errno {
            Some(Errno::ECONNREFUSED) => error.hint("the socket exists, but nobody listens on it"),
            _ => error,
        }
    })?;
    Ok(stream.into())
}

/// A short name for a path that is too long for `sockaddr_un`, valid as long as the file is open.
fn shortened(path: &Path) -> io::Result<Option<(File, PathBuf)>> {
    if path.as_os_str().len() <= SUN_PATH {
        return Ok(None);
    }
    let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    Ok(Some((held, short)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::pty::openpty;
    use nix::unistd::ttyname;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("socketpair")
    }

    #[test]
    fn a_master_crosses_a_socket() {
        let (ours, theirs) = pair();
        let pty = openpty(None, None).expect("openpty");
        send_master(theirs.as_fd(), pty.master.as_fd()).expect("send");
        let master = receive_master(ours.as_fd(), SOON).expect("receive");
        let number = tiocgptn(master.as_fd()).expect("TIOCGPTN");
        assert_eq!(ttyname(&pty.slave).expect("ttyname"), Path::new(&format!("/dev/pts/{number}")));
        let flags = nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_GETFD).expect("F_GETFD");
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn what_is_no_master_is_refused() {
        let (ours, theirs) = pair();
        let pty = openpty(None, None).expect("openpty");
        send_master(theirs.as_fd(), pty.slave.as_fd()).expect("send");
        let error = receive_master(ours.as_fd(), SOON).expect_err("a slave");
        assert!(error.message.contains("not the master"), "{error}");
        (&theirs).write_all(b"x").expect("write");
        let error = receive_master(ours.as_fd(), SOON).expect_err("no descriptor");
        assert!(error.message.contains("0 came"), "{error}");
    }

    #[test]
    fn silence_and_the_end_of_the_stream_are_errors() {
        let (ours, theirs) = pair();
        let start = Instant::now();
        let error = receive_master(ours.as_fd(), Duration::from_millis(50)).expect_err("silence");
        assert!(error.message.contains("nothing came within 0.05 s"), "{error}");
        assert!(start.elapsed() < SOON);
        drop(theirs);
        let error = receive_master(ours.as_fd(), SOON).expect_err("end");
        assert!(error.message.contains("closed"), "{error}");
    }

    #[test]
    fn a_console_socket_may_have_a_long_path() {
        let top = std::env::temp_dir().join(format!("orlop-console-{}", std::process::id()));
        let dir = top.join("d".repeat(120));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let held = File::open(&dir).expect("open");
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/s", held.as_raw_fd())).expect("bind");
        connect("console socket", &dir.join("s")).expect("connect");
        listener.accept().expect("accept");
        drop(listener);
        let dead = connect("console socket", &dir.join("s")).expect_err("nobody listens");
        let none = connect("console socket", &dir.join("none")).expect_err("no socket");
        std::fs::remove_dir_all(&top).expect("remove");
        assert_eq!(dead.errno, Some(Errno::ECONNREFUSED));
        assert!(none.to_string().ends_with("no such file or directory"), "{none}");
    }
}
