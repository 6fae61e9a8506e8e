//! sd_notify(3) across a container's border: its program says that it is ready, and the service manager that has called us
//! hears it.
//!
//! The manager's own socket stays outside. The container has another one in a directory of its state directory, bound over
//! [`DIRECTORY`]; of what comes there nothing but `READY=1` goes on, with the pid that the manager is to watch. systemd
//! looks up who has sent a message, so whoever ends after the message waits until it has been taken (`BARRIER=1`).

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::host::errno;
use crate::state::Dir;
use crate::sys::{process, socket};

/// Where the container finds the directory of its socket.
pub const DIRECTORY: &str = "/run/notify";

/// The name of the directory in the state directory.
pub const NAME: &str = "notify";

const SOCKET: &str = "notify.sock";

/// How long the manager may take for a message, in milliseconds (runc).
const BARRIER: i32 = 30_000;

/// More messages than this are left for the next look: who sends without a pause must not hold us.
const AT_ONCE: usize = 64;

/// The value of `NOTIFY_SOCKET` in the container.
pub fn in_container() -> String {
    format!("{DIRECTORY}/{SOCKET}")
}

/// The socket's path in the state directory.
pub fn socket() -> String {
    format!("{NAME}/{SOCKET}")
}

/// The service manager's socket, by our own environment.
pub fn manager() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Makes the directory of the socket, which every user of the container may enter.
///
/// # Errors
/// mkdir(2) or chmod(2) fails.
pub fn make_directory(dir: &Dir) -> Result<()> {
    let path = dir.path().join(NAME);
    let failed =
        |call: &str, error: &io::Error| Error::new(format!("make {}", path.display())).call(call, errno(error));
    std::fs::DirBuilder::new().mode(0o755).create(&path).map_err(|error| failed("mkdir", &error))?;
    // Whatever our umask is.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(|error| failed("chmod", &error))
}

/// The container's socket, bound.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    manager: OsString,
    /// The program has been ready before, and will not say so again.
    ready: bool,
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Notify {
    /// Binds the socket in the directory that [`make_directory`] has made; what is left of an earlier attempt gives way.
    ///
    /// # Errors
    /// bind(2) or chmod(2) fails.
    pub fn bind(dir: &Dir, manager: OsString) -> Result<Self> {
        let failed =
            |call: &str, error: &io::Error| Error::new("bind the container's NOTIFY_SOCKET").call(call, errno(error));
        // sockaddr_un holds 107 bytes, and the state directory may be longer.
        let path = format!("/proc/self/fd/{}/{NAME}/{SOCKET}", dir.fd().as_raw_fd());
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(|error| failed("bind", &error))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).map_err(|error| failed("chmod", &error))?;
        socket.set_nonblocking(true).map_err(|error| failed("fcntl", &error))?;
        Ok(Self { socket, manager, ready: false })
    }

    /// Of a container that has been restored: its program is ready whatever it says.
    pub fn of_restored(self) -> Self {
        Self { ready: true, ..self }
    }

    /// Looks at what has come, and passes `READY=1` on with `main` as the pid to watch; true when it has.
    ///
    /// # Errors
    /// The manager's socket does not take it.
    pub fn forward(&self, main: u32) -> Result<bool> {
        if self.ready {
            return self.tell(main);
        }
        let mut message = [0; 4096];
        for _ in 0..AT_ONCE {
            match self.socket.recv(&mut message) {
                Ok(length) if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") => {
                    return self.tell(main);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(error) => return Err(Error::new("hear the container's NOTIFY_SOCKET").call("recv", errno(&error))),
            }
        }
        Ok(false)
    }

    fn tell(&self, main: u32) -> Result<bool> {
        let sent = self.connect()?.send(format!("READY=1\nMAINPID={main}\n").as_bytes());
        sent.map(|_| true).map_err(|error| self.failed("send", errno(&error)))
    }

    /// Waits until the container is ready, and the manager has heard it, or until its first process has ended.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); the manager does not take the message within 30 seconds.
    pub fn until_ready(&self, main: u32, process: BorrowedFd<'_>) -> Result<()> {
        if self.ready {
            return self.tell(main).and_then(|_| self.barrier());
        }
        loop {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN), PollFd::new(process, PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::new("wait until the container is ready").call("poll()", errno)),
            }
            let ended = fds[1].any().unwrap_or(false);
            if self.forward(main)? {
                return self.barrier();
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn connect(&self) -> Result<UnixDatagram> {
        let connected = address(&self.manager).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address).map(|()| socket)
        });
        connected.map_err(|error| self.failed("connect", errno(&error)))
    }

    fn failed(&self, call: &str, errno: Errno) -> Error {
        let manager = self.manager.to_string_lossy();
        Error::new(format!("tell NOTIFY_SOCKET {manager} that the container is ready")).call(call, errno)
    }

    /// The manager closes the descriptor when it has come to the message (sd_notify(3), `BARRIER`).
    fn barrier(&self) -> Result<()> {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| self.failed("pipe2", errno))?;
        socket::sendmsg(self.connect()?.as_fd(), b"BARRIER=1", theirs.as_fd())
            .map_err(|errno| self.failed("sendmsg(BARRIER=1)", errno))?;
        drop(theirs);
        match process::poll_hangup(ours.as_fd(), BARRIER) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(self.failed("poll", Errno::ETIMEDOUT).hint("it has not answered BARRIER=1 for 30 seconds"))
            }
            Err(errno) => Err(self.failed("poll", errno)),
        }
    }
}

/// A path, or the name of an abstract socket after `@` (unix(7)).
pub(crate) fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
