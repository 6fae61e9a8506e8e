//! Where clients come in: a socket in a directory of our own, or a port of the loopback interface.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use crate::error::{Error, Result};
use crate::host::errno;
use crate::sys::process;

/// What may be asked on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A unix socket: everything that changes nothing.
    Read,
    /// A unix socket: everything.
    Control,
    /// A loopback port, which every user of the machine reaches: what changes nothing, without what probes have said.
    Tcp,
    /// A port of any address: the same for those who know a secret, which is for who answers to look at.
    Bearer,
}

/// Clients of a supervisor's port.
pub(super) const PORT: usize = 28;

impl Kind {
    /// So many clients of one kind at most, `port` of them by a port: those of one can't shut out those of another.
    pub(super) fn most(self, port: usize) -> usize {
        match self {
            Self::Read => 28,
            Self::Control => 8,
            Self::Tcp | Self::Bearer => port,
        }
    }

    /// Others than the supervisor's user come there.
    pub fn public(self) -> bool {
        matches!(self, Self::Tcp | Self::Bearer)
    }
}

const _: () = assert!(28 + 8 + PORT == super::CLIENTS);

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    kind: Kind,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// Opens `path`, which is made with all that leads to it where it is not there, as a directory that is ours alone.
///
/// # Errors
/// It can't be made, belongs to somebody else, or others may enter it.
pub fn directory(path: &Path) -> Result<OwnedFd> {
    let failed =
        |call: &str, error: &io::Error| Error::new(format!("make {}", path.display())).call(call, errno(error));
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(|error| failed("mkdir", &error))?;
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags).open(path).map_err(|error| failed("open", &error))?;
    let found = opened.metadata().map_err(|error| failed("fstat", &error))?;
    if found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        let message =
            format!("{} belongs to uid {} with mode {:04o}", path.display(), found.uid(), found.mode() & 0o7777);
        return Err(Error::new(message).hint("the supervisor's directory must be its user's alone: 0700"));
    }
    Ok(opened.into())
}

impl Listener {
    /// Listens on a socket of this name, 0600, in a directory that [`directory`] has opened. What a supervisor that has ended
    /// has left gives way.
    ///
    /// # Errors
    /// Another supervisor listens there; bind(2) says no.
    pub fn unix(directory: BorrowedFd<'_>, name: &str, kind: Kind) -> Result<Self> {
        let failed = |call: &str, error: &io::Error| Error::new(format!("listen on {name}")).call(call, errno(error));
        // sockaddr_un holds 107 bytes, and the directory's own path may be longer.
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let bind = || {
            let before = process::umask(0o177);
            let bound = UnixListener::bind(&path);
            process::umask(before);
            bound
        };
        let socket = match bind() {
            Err(error) if errno(&error) == Errno::EADDRINUSE => match UnixStream::connect(&path) {
                Err(error) if errno(&error) == Errno::ECONNREFUSED => {
                    std::fs::remove_file(&path).map_err(|error| failed("unlink", &error))?;
                    bind()
                }
                _ => return Err(failed("bind", &error).hint("another supervisor answers there")),
            },
            bound => bound,
        };
        let socket = socket.map_err(|error| failed("bind", &error))?;
        socket.set_nonblocking(true).map_err(|error| failed("fcntl", &error))?;
        Ok(Self { socket: Socket::Unix(socket), kind })
    }

    /// Listens on a port of the loopback interface, for reading.
    ///
    /// # Errors
    /// The address is another one; bind(2) says no.
    pub fn tcp(address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            return Err(Error::new(format!("{address} is not an address of the loopback interface"))
                .hint("what is read from other machines goes through a proxy that knows who asks"));
        }
        Ok(Self { socket: Socket::Tcp(port(address)?), kind: Kind::Tcp })
    }

    /// Listens on a port of any address, for reading by those who know a secret.
    ///
    /// # Errors
    /// bind(2) says no.
    pub fn bearer(address: SocketAddr) -> Result<Self> {
        Ok(Self { socket: Socket::Tcp(port(address)?), kind: Kind::Bearer })
    }

    /// A socket that listens since before an execve(2).
    pub fn inherited(socket: OwnedFd, kind: Kind) -> Self {
        let socket = match kind {
            Kind::Read | Kind::Control => Socket::Unix(socket.into()),
            Kind::Tcp | Kind::Bearer => Socket::Tcp(socket.into()),
        };
        Self { socket, kind }
    }

    /// What may be asked on it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address of a port; None of a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(_) => None,
            Socket::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    /// The next client's socket, which does not block.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Unix(socket) => socket.accept().and_then(|(socket, _)| {
                socket.set_nonblocking(true)?;
                Ok(socket.into())
            }),
            Socket::Tcp(socket) => socket.accept().and_then(|(socket, _)| {
                socket.set_nonblocking(true)?;
                Ok(socket.into())
            }),
        }
    }

    pub(super) fn failed(&self, call: &str, errno: Errno) -> Error {
        Error::new("take a client of the supervisor").call(call, errno)
    }
}

/// A port that listens, and does not block.
///
/// # Errors
/// bind(2) says no.
pub fn port(address: SocketAddr) -> Result<TcpListener> {
    let failed = |call: &str, error: &io::Error| Error::new(format!("listen on {address}")).call(call, errno(error));
    let socket = TcpListener::bind(address).map_err(|error| failed("bind", &error))?;
    socket.set_nonblocking(true).map_err(|error| failed("fcntl", &error))?;
    Ok(socket)
}

/// The user who has opened a unix socket (`SO_PEERCRED`, unix(7)) must be ours, or root: the file's mode alone does not say
/// so of a descriptor that was passed on.
pub(super) fn allowed(socket: &OwnedFd, kind: Kind) -> bool {
    match kind {
        Kind::Tcp | Kind::Bearer => true,
        Kind::Read | Kind::Control => getsockopt(socket, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw()),
    }
}
