//! rtnetlink(7): one request and its answers at a time.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::sys::clone::setns;

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// A dump comes in parts of 32 KiB at most (`netlink_dump` of net/netlink/af_netlink.c).
const BUFFER: usize = 1 << 16;
/// How often a dump begins anew that a change has interrupted.
const DUMPS: usize = 8;

/// What [`Socket::open`] calls.
pub(super) const SOCKET: &str = "socket(AF_NETLINK)";

/// A socket to the routing tables of one network namespace, which it keeps alive.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// In the caller's network namespace.
    pub(super) fn open() -> nix::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(10, 0))?;
        Ok(Self(fd))
    }

    /// In another network namespace: the calling process, which has one thread, goes there and comes back `home`. The rights
    /// of a netlink socket are those of who has opened it, so that one of the child's would have too few in a user namespace.
    ///
    /// # Errors
    /// The call that has failed, and how.
    pub(super) fn open_in(
        namespace: BorrowedFd<'_>,
        home: BorrowedFd<'_>,
    ) -> std::result::Result<Self, (&'static str, Errno)> {
        const SETNS: &str = "setns(CLONE_NEWNET)";
        setns(namespace, libc::CLONE_NEWNET).map_err(|errno| (SETNS, errno))?;
        let opened = Self::open();
        setns(home, libc::CLONE_NEWNET).map_err(|errno| (SETNS, errno))?;
        opened.map_err(|errno| (SOCKET, errno))
    }

    /// Sends a request with the flags `NLM_F_*` beside `NLM_F_REQUEST`, and returns the bodies of the answers: the fixed
    /// header of the type and the attributes.
    ///
    /// # Errors
    /// The kernel's answer; EAGAIN when none came within ten seconds.
    pub(super) fn request(&self, kind: u16, flags: i32, body: &[u8]) -> nix::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMPS {
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
            let mut message = Vec::with_capacity(HEADER + body.len());
            message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(flags.to_ne_bytes());
            message.extend([0; 8]);
            message.extend(body);
            send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
            if let Some(answers) = self.answers()? {
                return Ok(answers);
            }
        }
        Err(Errno::EINTR)
    }

    /// Everything up to the acknowledgement or the end of the dump. None: the tables have changed during the dump.
    fn answers(&self) -> nix::Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = vec![0; BUFFER];
        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let (length, from) = recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer)?;
            // Another process of the namespace may send, too; the kernel's port is 0.
            if from.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            let mut rest = &buffer[..length];
            while let Some((kind, flags, body, after)) = message(rest) {
                whole &= i32::from(flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(kind) {
                    libc::NLMSG_ERROR => return acknowledged(body).map(|()| Some(answers)),
                    libc::NLMSG_DONE => return Ok(whole.then_some(answers)),
                    _ => answers.push(body.to_vec()),
                }
                rest = after;
            }
        }
    }
}

/// `struct nlmsgerr`: a negative errno, or 0.
fn acknowledged(body: &[u8]) -> nix::Result<()> {
    match number(body, 0) as i32 {
        0 => Ok(()),
        error => Err(Errno::from_raw(-error)),
    }
}

/// The first message: its type, its flags, its body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = number(bytes, 0) as usize;
    let body = bytes.get(HEADER..length)?;
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    Some((half(4), half(6), body, bytes.get(aligned(length)..).unwrap_or_default()))
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The 32-bit number at `at`; 0 past the end.
pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Appends an attribute (`struct rtattr`: length and type, then the value, padded).
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(aligned(message.len()), 0);
}

/// The attributes in `bytes`, by type.
pub(super) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    /// `NLA_TYPE_MASK`: the two bits above are flags.
    const TYPE: u16 = 0x3fff;
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push((u16::from_ne_bytes([bytes[2], bytes[3]]) & TYPE, value));
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, b"eth0\0");
        put(&mut bytes, 0x8000 | 28, &7u32.to_ne_bytes());
        assert_eq!(bytes.len(), 12 + 8);
        assert_eq!(attributes(&bytes), [(3, &b"eth0\0"[..]), (28, &7u32.to_ne_bytes()[..])]);
        assert_eq!(attributes(&bytes[..14]), [(3, &b"eth0\0"[..])]);
        assert_eq!(attributes(&[0, 0, 1, 0]), []);
    }

    #[test]
    fn the_kernel_answers_and_refuses() {
        let socket = Socket::open().unwrap();
        let mut body = vec![0; 16];
        put(&mut body, libc::IFLA_IFNAME, b"lo\0");
        let found = socket.request(libc::RTM_GETLINK, 0, &body).unwrap();
        assert_eq!(found.len(), 1);
        assert!(attributes(&found[0][16..]).contains(&(libc::IFLA_IFNAME, b"lo\0")));
        let all = socket.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]).unwrap();
        assert!(all.iter().any(|link| attributes(&link[16..]).contains(&(libc::IFLA_IFNAME, b"lo\0"))));
        let mut body = vec![0; 16];
        put(&mut body, libc::IFLA_IFNAME, b"not-there\0");
        assert_eq!(socket.request(libc::RTM_GETLINK, 0, &body), Err(Errno::ENODEV));
    }
}
