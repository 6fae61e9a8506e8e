//! Runs a bundle, and takes down every system call that its programs make (seccomp_unotify(2)).
//!
//! The container is run by another process of this binary, with the filter of [`crate::seccomp::recording`] in place of
//! its own. Here is the agent: it says "go on" to each call, so that nothing but time is different for the program.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::foreground::Signals;
use crate::host::errno;
use crate::seccomp::{Calls, Reply, recording};
use crate::sys::process::{pidfd_open, unblock_signals};
use crate::sys::{notify_answer, notify_receive, socket};

/// Runs the bundle in `dir` by `run`, which has the words of `orlop run` up to its options, and adds its calls to
/// `calls`. Returns the exit status of `orlop run`.
///
/// # Errors
/// The bundle can't be read or has no `linux`; there is no place for a socket; the agent fails.
pub fn record(dir: &Path, id: &str, mut run: Command, calls: &mut Calls) -> Result<i32> {
    let bundle = Bundle::load(dir)?;
    let place = Place::make()?;
    let agent = UnixListener::bind(place.0.join("agent")).map_err(|error| place.failed("bind", &error))?;
    agent.set_nonblocking(true).map_err(|error| place.failed("fcntl", &error))?;
    let config = place.0.join("config.json");
    std::fs::write(&config, with_recording(&bundle, &place.0.join("agent"))?)
        .map_err(|error| place.failed("write", &error))?;
    run.arg("--config").arg(&config).arg("--bundle").arg(&bundle.dir).arg(id);
    // A ^C is for the program; what it has called until then is not lost.
    let _signals = Signals::block()?;
    let mut child = unblock_signals(&mut run)
        .spawn()
        .map_err(|error| Error::new("run the bundle").call("execve(/proc/self/exe)", errno(&error)))?;
    serve(&agent, &child, calls)?;
    let status = child.wait().map_err(|error| Error::new("wait for the run").call("wait4", errno(&error)))?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The configuration with the recording filter.
fn with_recording(bundle: &Bundle, agent: &Path) -> Result<Vec<u8>> {
    let mut config: serde_json::Value = serde_json::from_slice(&bundle.config)
        .map_err(|error| Error::new(format!("config.json is not valid JSON: {error}")))?;
    if bundle.spec.hooks().as_ref().is_some_and(|hooks| hooks.start_container().iter().flatten().next().is_some()) {
        return Err(Error::new("a bundle with startContainer hooks can't be recorded")
            .at("/hooks/startContainer")
            .hint("they run before there is an agent that lets their calls go on: record it without them"));
    }
    let linux = config.get_mut("linux").and_then(serde_json::Value::as_object_mut);
    let linux = linux.ok_or_else(|| Error::new("the configuration has no linux section").at("/linux"))?;
    linux.insert("seccomp".into(), recording(agent)?);
    Ok(config.to_string().into_bytes())
}

/// A directory of our own, gone at the end.
struct Place(PathBuf);

impl Place {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("orlop-record-{}", std::process::id()));
        let place = Self(path);
        std::fs::DirBuilder::new().mode(0o700).create(&place.0).map_err(|error| place.failed("mkdir", &error))?;
        Ok(place)
    }

    fn failed(&self, call: &str, error: &std::io::Error) -> Error {
        Error::new(format!("record in {}", self.0.display()))
            .call(call, errno(error))
            .hint("TMPDIR names another place")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers until the run has ended and no listener has a process left.
fn serve(agent: &UnixListener, child: &Child, calls: &mut Calls) -> Result<()> {
    let failed = |call: &str, errno| Error::new("record system calls").call(call, errno);
    let process = pidfd_open(child.id() as i32).map_err(|errno| failed("pidfd_open", errno))?;
    let mut listeners: Vec<OwnedFd> = Vec::new();
    loop {
        let mut fds =
            vec![PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
        fds.extend(listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("poll", errno)),
        }
        let events: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let mut alive = events[2..].iter();
        for (listener, events) in listeners.iter().zip(&events[2..]) {
            if events.contains(PollFlags::POLLIN) {
                answer(listener, calls).map_err(|errno| failed("ioctl(SECCOMP_IOCTL_NOTIF)", errno))?;
            }
        }
        // Without POLLIN its last process is gone.
        listeners.retain(|_| alive.next().is_some_and(|events| !events.contains(PollFlags::POLLHUP)));
        if events[1].contains(PollFlags::POLLIN) {
            listeners.extend(accept(agent).map_err(|errno| failed("recvmsg", errno))?);
        } else if events[0].contains(PollFlags::POLLIN) {
            return Ok(());
        }
    }
}

/// One connection of a runtime: the listener that it sends.
fn accept(agent: &UnixListener) -> nix::Result<Option<OwnedFd>> {
    let Ok((stream, _)) = agent.accept() else { return Ok(None) };
    // Until the runtime has sent it, no call of the program waits for us.
    if !crate::sys::process::poll_in(stream.as_fd(), 10_000)? {
        return Err(Errno::ETIMEDOUT);
    }
    let mut message = vec![0; 1 << 16];
    let (_, fds) = socket::recvmsg(stream.as_fd(), &mut message)?;
    Ok(fds.into_iter().next())
}

/// Takes one call down and lets it go on. One whose process has ended meanwhile is no error.
fn answer(listener: &OwnedFd, calls: &mut Calls) -> nix::Result<()> {
    let call = match notify_receive(listener.as_fd()) {
        Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
        call => call?,
    };
    let reply = match calls.add(call.arch, call.number, &call.args) {
        Reply::Continue => None,
        Reply::NoSuchCall => Some(Errno::ENOSYS),
    };
    match notify_answer(listener.as_fd(), call.id, reply) {
        Err(Errno::ENOENT) => Ok(()),
        answered => answered,
    }
}
