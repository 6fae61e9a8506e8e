//! The clone that becomes criu. After it nothing allocates, as in [`crate::child`].

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::exec::protocol::Report;
use crate::sys::clone::{Cloned, clone3};
use crate::sys::path;
use crate::sys::process::{self, StringArray};
use crate::sys::shared::Shared;
use crate::sys::{mount, sigaction, socket};

/// criu's number of the socket; what it inherits follows.
const SOCKET: RawFd = 3;
/// Beyond all the numbers that are given away, so that none lies where another has to go.
const BEYOND: RawFd = 64;

/// Where criu runs, and with what.
#[derive(Debug, Default)]
pub struct Place<'a> {
    /// The cgroup that it is born in, and with it what it makes.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// A root file system, in a mount namespace of criu's own.
    pub root: Option<Root>,
    /// Our standard streams are criu's and so the container's; otherwise they are `/dev/null`.
    pub streams: bool,
    /// The file mode mask of criu; as ours without it.
    pub umask: Option<u32>,
    /// What it finds from number [`Place::FIRST`] on.
    pub inherited: Vec<OwnedFd>,
}

impl Place<'_> {
    /// criu's number of the first descriptor that it inherits.
    pub const FIRST: RawFd = SOCKET + 1;
}

/// criu wants the root file system to be a mount with nothing mounted over its parent: so it is bound to another directory, in
/// a mount namespace that ends with criu. Nothing of it is ever seen in ours.
#[derive(Debug)]
pub struct Root {
    /// The root file system.
    pub path: CString,
    /// An empty directory.
    pub onto: CString,
    /// Directories that criu gets by descriptor. It mounts in its working directory, so that must be one of its own
    /// namespace: the child opens them, and sends them to us.
    pub directories: Vec<CString>,
}

/// Clones a process and executes criu in it. What fails in there is left in the page.
pub(super) fn spawn(program: &CStr, peer: &OwnedFd, place: &Place<'_>) -> Result<(Pid, Shared<Report>)> {
    let failed = |call: &str, errno| Error::new(format!("start {}", program.to_string_lossy())).call(call, errno);
    let high = |file: &OwnedFd| process::dup_from(file.as_fd(), BEYOND).map_err(|errno| failed("fcntl", errno));
    let passed = std::iter::once(peer).chain(&place.inherited).map(high).collect::<Result<Vec<_>>>()?;
    let null = path::openat(path::CWD, c"/dev/null", libc::O_RDWR, 0).map_err(|errno| failed("open", errno))?;
    let report = Shared::anonymous().map_err(|errno| failed("mmap", errno))?;
    let child = Child {
        program,
        argv: StringArray::new(vec![program.to_owned(), c"swrk".to_owned(), c"3".to_owned()]),
        env: environment(),
        null: (!place.streams).then_some(null.as_fd()),
        passed: &passed,
        umask: place.umask,
        root: place.root.as_ref(),
    };
    let flags = if place.root.is_some() { libc::CLONE_NEWNS as u64 } else { 0 };
    match clone3(flags, place.cgroup).map_err(|errno| failed("clone3", errno))? {
        Cloned::Parent(pid, _) => Ok((pid, report)),
        Cloned::Child => {
            crate::sys::after_clone();
            let (call, errno) = child.run();
            report.update(|report| report.fail(false, 0, call, errno, b""));
            process::exit(1)
        }
    }
}

fn environment() -> StringArray {
    let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let bytes = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(bytes).ok()
    };
    StringArray::new(std::env::vars_os().filter_map(entry).collect())
}

/// All that is needed after the clone.
struct Child<'a> {
    program: &'a CStr,
    argv: StringArray,
    env: StringArray,
    null: Option<BorrowedFd<'a>>,
    passed: &'a [OwnedFd],
    umask: Option<u32>,
    root: Option<&'a Root>,
}

impl Child<'_> {
    /// Returns only what has failed.
    fn run(&self) -> (&'static str, Errno) {
        match self.prepare() {
            Ok(()) => ("execve", process::execve(self.program, &self.argv, &self.env, None)),
            Err(failed) => failed,
        }
    }

    fn prepare(&self) -> std::result::Result<(), (&'static str, Errno)> {
        let named = |call: &'static str| move |errno: Errno| (call, errno);
        sigaction::default_all();
        sigaction::unblock_all().map_err(named("rt_sigprocmask"))?;
        if let Some(mask) = self.umask {
            process::umask(mask);
        }
        if let Some(root) = self.root {
            mount::set_propagation_of_all(libc::MS_SLAVE).map_err(named("mount_setattr"))?;
            let tree = mount::open_tree(path::CWD, &root.path, true).map_err(named("open_tree"))?;
            // The directory as this namespace has it: its descriptor lies on a mount of the other one.
            let onto =
                path::openat(path::CWD, &root.onto, libc::O_PATH | libc::O_DIRECTORY, 0).map_err(named("open"))?;
            mount::move_mount(tree.as_fd(), onto.as_fd()).map_err(named("move_mount"))?;
            for directory in &root.directories {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                let opened = path::openat(path::CWD, directory, flags, 0).map_err(named("open"))?;
                let socket = self.passed.first().map_or(path::CWD, AsFd::as_fd);
                socket::sendmsg(socket, &[0], opened.as_fd()).map_err(named("sendmsg"))?;
            }
        }
        for (null, number) in self.null.iter().flat_map(|null| (0..3).map(move |number| (null, number))) {
            process::dup_onto(*null, number).map_err(named("dup3"))?;
        }
        for (index, file) in self.passed.iter().enumerate() {
            process::dup_onto(file.as_fd(), SOCKET + index as RawFd).map_err(named("dup3"))?;
        }
        // Whatever else our caller has left open is not criu's.
        let first = SOCKET as u32 + self.passed.len() as u32;
        process::close_range(first, u32::MAX, true).map_err(named("close_range"))
    }
}
