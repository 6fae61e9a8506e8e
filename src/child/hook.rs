//! Hooks that run in the container's namespaces: createContainer and startContainer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::{Fail, Named, State, Text};
use crate::plan::op::{Hook, Slot};
use crate::sys::clone::{Cloned, clone3};
use crate::sys::{SysResult, creds, path, process};

/// Runs one hook, with the state on its standard input and its output to the parent, for at most its time.
pub(super) fn run(state: &State<'_>, hook: &Hook) -> Result<(), Fail> {
    path::rewind(state.slot(Slot::HookState)).named("lseek")?;
    let (said, output) = pipe2(OFlag::O_CLOEXEC).named("pipe2")?;
    let (pid, pidfd) = match clone3(0, None).named("clone3")? {
        Cloned::Child => {
            let fail = become_hook(state, hook, output.as_fd());
            say_why(output.as_fd(), &fail);
            process::exit(127)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(output);
    let mut tail = Tail::new(said);
    let ended = await_end(pidfd.as_fd(), &mut tail, hook.timeout).named("poll")?;
    if !ended {
        process::kill_group(pid.as_raw()).named("kill")?;
    }
    let status = process::wait_status(pid.as_raw()).named("wait4")?;
    if status != 0 {
        tail.drain();
        // Nobody is left to hear of a failure.
        let _ = path::write_all_at_once(state.slot(Slot::HookOutput), tail.bytes());
    }
    if !ended {
        let mut fail = Fail::new("poll", Errno::ETIMEDOUT).because("killed after ");
        fail.detail.number(i64::from(hook.timeout));
        return Err(fail.because(" s"));
    }
    if status == 0 {
        return Ok(());
    }
    let (what, value) = if libc::WIFSIGNALED(status) {
        ("signal ", libc::WTERMSIG(status))
    } else {
        ("exit status ", libc::WEXITSTATUS(status))
    };
    let mut fail = Fail::new("wait4", Errno::ECHILD).because(what);
    fail.detail.number(i64::from(value));
    Err(fail)
}

/// The end of what a hook says, which may be without an end. Nothing of it is kept but this.
struct Tail {
    said: OwnedFd,
    kept: [u8; KEPT],
    length: usize,
}

/// What goes into an error, and what fits into a [`path::write_all_at_once`].
const KEPT: usize = 4096;
/// What a pipe holds (pipe(7)), in reads.
const PIPE: usize = 65536 / KEPT;

impl Tail {
    fn new(said: OwnedFd) -> Self {
        Self { said, kept: [0; KEPT], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.kept.get(..self.length).unwrap_or_default()
    }

    /// Takes what is there, once poll(2) has said that something is. False: no writer is left.
    fn take(&mut self) -> bool {
        let mut new = [0; KEPT];
        let count = path::read(self.said.as_fd(), &mut new).unwrap_or(0);
        let over = (self.length + count).saturating_sub(KEPT);
        self.kept.copy_within(over..self.length, 0);
        self.length -= over;
        if let (Some(to), Some(from)) = (self.kept.get_mut(self.length..self.length + count), new.get(..count)) {
            to.copy_from_slice(from);
            self.length += count;
        }
        count > 0
    }

    /// Takes what is left after the hook's end, but not what those whom it has started go on to say.
    fn drain(&mut self) {
        let mut left = PIPE;
        while left > 0 && process::poll_in(self.said.as_fd(), 0) == Ok(true) && self.take() {
            left -= 1;
        }
    }
}

/// Waits for the hook's end, and takes what it says meanwhile; false when its time is over.
fn await_end(pidfd: BorrowedFd<'_>, tail: &mut Tail, seconds: u32) -> SysResult<bool> {
    let end = Instant::now() + Duration::from_secs(u64::from(seconds));
    let mut open = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return process::poll_in(pidfd, 0);
        }
        let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        if !open {
            return process::poll_in(pidfd, milliseconds);
        }
        let (ended, said) = process::poll_two(pidfd, tail.said.as_fd(), milliseconds)?;
        if ended {
            return Ok(true);
        }
        open = !said || tail.take();
    }
}

/// Ends in the hook's program. It comes back only with what has failed.
fn become_hook(state: &State<'_>, hook: &Hook, output: BorrowedFd<'_>) -> Fail {
    match prepare(state, hook, output) {
        Ok(()) => {
            Fail::new("exec ", process::execve(&hook.path, &hook.args, &hook.env, None)).with(hook.path.to_bytes())
        }
        Err(fail) => fail,
    }
}

fn prepare(state: &State<'_>, hook: &Hook, output: BorrowedFd<'_>) -> Result<(), Fail> {
    // A session and so a group of its own, which ends with it when its time is over.
    process::setsid().named("setsid")?;
    // As runc has it: what such a hook changes is the root file system, and its state does not name that.
    if hook.kind == "createContainer" {
        // Set-up goes on without a mask; the hook's files are not part of it.
        process::umask(state.umask);
        path::fchdir(state.root()?).named("fchdir")?;
    }
    for (from, to) in [(state.slot(Slot::HookState), 0), (output, 1), (output, 2)] {
        process::dup_onto(from, to).named("dup3")?;
    }
    // What the runtime's caller left open is nothing for a program of the container.
    process::close_range(3, u32::MAX, true).named("close_range")?;
    if let Some((soft, hard)) = hook.open_files {
        process::prlimit(0, libc::RLIMIT_NOFILE, soft, hard).named("prlimit")?;
    }
    // What holds the container's own program holds its hook.
    if let Some(filter) = &hook.seccomp {
        super::load(filter).named("seccomp(SECCOMP_SET_MODE_FILTER)")?;
    }
    match hook.capabilities {
        Some(sets) => creds::capset(sets).named("capset"),
        None => Ok(()),
    }
}

/// The hook could not be executed: that is its output.
fn say_why(output: BorrowedFd<'_>, fail: &Fail) {
    let mut text = Text::new();
    text.push(fail.call.as_bytes());
    text.push(fail.detail.bytes());
    text.push(b": ");
    let words = fail.errno.desc().as_bytes();
    text.push(&[words.first().map_or(b'?', u8::to_ascii_lowercase)]);
    text.push(words.get(1..).unwrap_or_default());
    // Nobody is left to hear of a failure.
    let _ = path::write_all_at_once(output, text.bytes());
}
