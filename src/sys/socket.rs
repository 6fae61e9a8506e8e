//! File descriptors over AF_UNIX sockets: sendmsg(2) and recvmsg(2) with SCM_RIGHTS, see unix(7).

use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_uint, c_void};
use nix::Result;
use nix::errno::Errno;

/// How many descriptors [`recvmsg`] takes from one message; a message with more has the rest closed by the kernel.
const FDS: usize = 4;

/// Room for one control message of [`FDS`] descriptors, aligned as cmsghdr(3) wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

// SAFETY: CMSG_SPACE is arithmetic.
const _: () = assert!(unsafe { libc::CMSG_SPACE((FDS * size_of::<c_int>()) as c_uint) } as usize <= 64);

/// Sends `data` and the descriptor `fd` in one message. Allocates nothing, so it may be called after a clone.
///
/// `data` must not be empty: a stream socket carries descriptors only beside at least one byte. EPIPE instead of SIGPIPE when
/// the peer has gone.
pub fn sendmsg(socket: BorrowedFd, data: &[u8], fd: BorrowedFd) -> Result<()> {
    const LEN: c_uint = size_of::<c_int>() as c_uint;
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec { iov_base: data.as_ptr() as *mut c_void, iov_len: data.len() };
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_SPACE is arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(LEN) } as _;
    // SAFETY: `control` is aligned, and has room for one header and one descriptor, as the assertion above shows.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(LEN) as _;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(fd.as_raw_fd());
    }
    loop {
        // SAFETY: `message` points to `iov` and `control`, which live until the end of this function.
        match Errno::result(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }) {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// Receives one message into `data`: its length and its descriptors, which close on exec. Does not wait.
///
/// A length of 0 is the end of the stream. EAGAIN: no message is there yet. EMSGSIZE: the message had more descriptors than
/// four, or our table of descriptors is full; none is kept.
pub fn recvmsg(socket: BorrowedFd, data: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_SPACE is arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((FDS * size_of::<c_int>()) as c_uint) } as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes to `data` and `control`, within the lengths given.
    let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    let fds = descriptors(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMSGSIZE);
    }
    Ok((length as usize, fds))
}

/// Waits for one message of one byte with at most one descriptor, which closes on exec. Allocates nothing, so it may be
/// called after a clone.
///
/// A byte of 0 and no descriptor is the end of the stream. Further descriptors are closed by the kernel.
pub fn receive_file(socket: BorrowedFd) -> Result<(u8, Option<OwnedFd>)> {
    const LEN: c_uint = size_of::<c_int>() as c_uint;
    let mut byte = 0u8;
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_LEN is arithmetic: room for one descriptor and not for a second one.
    message.msg_controllen = unsafe { libc::CMSG_LEN(LEN) } as _;
    loop {
        // SAFETY: `message` points to `iov` and `control`, which live until the end of this function.
        match Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: the kernel laid one header out within msg_controllen, or none; the descriptor is new and is taken once.
    let file = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let rights = !header.is_null()
            && ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(LEN) as usize;
        rights.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned()))
    };
    Ok((byte, file))
}

/// The descriptors of a message that recvmsg(2) has just filled in, which become ours.
fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel laid the headers out within msg_controllen; every descriptor is new and is taken once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header).cast::<c_int>();
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let taken = (0..bytes / size_of::<c_int>()).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                fds.extend(taken);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}
