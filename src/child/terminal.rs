//! The pseudo-terminal of the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::device::dev;
use super::{Fail, Named, State};
use crate::plan::op::Slot;
use crate::sys::{mount, path, socket, terminal as sys};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Opens a new pair on the container's devpts, sends the master away, and makes the peer standard input, output and
/// error, and `/dev/console`.
pub(super) fn make(state: &mut State<'_>, size: Option<(u16, u16)>, console: bool) -> Result<(), Fail> {
    let master = open_ptmx(state.root()?)?;
    sys::unlockpt(master.as_fd()).named("ioctl(TIOCSPTLCK)")?;
    let peer = sys::peer(master.as_fd()).named("ioctl(TIOCGPTPEER)")?;
    if let Some((rows, columns)) = size {
        sys::set_window_size(peer.as_fd(), rows, columns).named("ioctl(TIOCSWINSZ)")?;
    }
    if console {
        console_on(state, peer.as_fd())?;
    }
    socket::sendmsg(state.slot(Slot::Console), b"/dev/ptmx", master.as_fd()).named("sendmsg to the console socket")?;
    drop(master);
    sys::set_controlling(peer.as_fd()).named("ioctl(TIOCSCTTY)")?;
    for number in 0..3 {
        crate::sys::process::dup_onto(peer.as_fd(), number).named("dup3")?;
    }
    Ok(())
}

/// `/dev/pts/ptmx` with no link on the way, and what was opened is asked whether it is ptmx of a devpts: an image or a
/// running container may have put something else there (CVE-2025-52565).
fn open_ptmx(root: BorrowedFd<'_>) -> Result<OwnedFd, Fail> {
    let resolve = path::RESOLVE_IN_ROOT | path::RESOLVE_NO_SYMLINKS | path::RESOLVE_NO_MAGICLINKS;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
    let there = path::openat2(root, c"/dev/pts/ptmx", libc::O_PATH | libc::O_NOFOLLOW, 0, resolve)
        .named("openat2 /dev/pts/ptmx")?;
    let is_ptmx = |file: BorrowedFd<'_>| -> Result<bool, Fail> {
        let stat = path::fstat(file).named("fstat")?;
        let device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(5, 2);
        Ok(device && path::fstatfs(file).named("fstatfs")? == DEVPTS_SUPER_MAGIC)
    };
    let not =
        || Fail::new("fstat", Errno::ENODEV).because("/dev/pts/ptmx of the container is not the ptmx of a devpts");
    if !is_ptmx(there.as_fd())? {
        return Err(not());
    }
    let master = path::openat2(root, c"/dev/pts/ptmx", flags, 0, resolve).named("openat2 /dev/pts/ptmx")?;
    if !is_ptmx(master.as_fd())? {
        return Err(not());
    }
    crate::sys::terminal::set_blocking(master.as_fd()).named("fcntl(F_SETFL)")?;
    Ok(master)
}

fn console_on(state: &mut State<'_>, peer: BorrowedFd<'_>) -> Result<(), Fail> {
    let dev = dev(state)?;
    let target = path::create_empty(dev, c"console", false).named("openat2 /dev/console")?;
    let tree = mount::open_tree(peer, c"", false).named("open_tree")?;
    mount::move_mount(tree.as_fd(), target.as_fd()).named("move_mount /dev/console")
}
