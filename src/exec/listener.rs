//! `SCMP_ACT_NOTIFY`: the listener goes to the agent at `listenerPath` (config-linux.md, Seccomp).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde_json::json;

use super::protocol::Report;
use crate::error::{Error, Result};
use crate::plan::state_json;
use crate::sys::process::pidfd_getfd;
use crate::sys::shared::Shared;
use crate::sys::socket;

/// The connection to the seccomp agent, and what it is told.
pub struct Agent {
    stream: UnixStream,
    metadata: String,
    spec_state: Box<dyn Fn(i32) -> serde_json::Value>,
    /// The container's own process, where the listener is that of another one.
    init: Option<i32>,
    sent: bool,
}

impl Agent {
    /// Connects to the agent of the configuration; None when there is no rule that notifies.
    pub fn connect(spec: &Spec, id: &str, status: &'static str, bundle: &Path) -> Result<Option<Self>> {
        let Some(section) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
        let notifies = crate::seccomp::compile(section)?.is_some_and(|filter| filter.notify);
        let Some(path) = section.listener_path().as_ref().filter(|_| notifies) else { return Ok(None) };
        let stream = UnixStream::connect(path).map_err(|error| {
            Error::new(format!(
                "failed to connect with seccomp agent specified in the seccomp profile: {}",
                path.display()
            ))
            .call("connect", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            .at("/linux/seccomp/listenerPath")
        })?;
        let (spec, id, bundle) = (spec.clone(), id.to_owned(), PathBuf::from(bundle));
        Ok(Some(Self {
            stream,
            metadata: section.listener_metadata().clone().unwrap_or_default(),
            spec_state: Box::new(move |pid| state_json(&spec, &id, status, pid, &bundle.to_string_lossy())),
            init: None,
            sent: false,
        }))
    }

    /// Of a process beside the container's own: the state stays that of the container.
    pub fn beside(self, init: i32) -> Self {
        Self { init: Some(init), ..self }
    }

    /// Takes the listener out of the child, which waits for that, and sends it on with the container's state.
    pub fn look(&mut self, report: &Shared<Report>, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<()> {
        let Some(number) = report.get().listener.checked_sub(1).filter(|_| !self.sent) else { return Ok(()) };
        let failed = |call: &str, errno: Errno| {
            Error::new("send the seccomp listener to the agent").call(call, errno).at("/linux/seccomp/listenerPath")
        };
        let listener: OwnedFd = pidfd_getfd(pidfd, number as i32).map_err(|errno| failed("pidfd_getfd", errno))?;
        let message = json!({
            "ociVersion": crate::spec::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid.as_raw(),
            "metadata": self.metadata,
            "state": (self.spec_state)(self.init.unwrap_or(pid.as_raw())),
        });
        socket::sendmsg(self.stream.as_fd(), message.to_string().as_bytes(), listener.as_fd())
            .map_err(|errno| failed("sendmsg", errno))?;
        self.sent = true;
        report.update(|report| report.taken = 1);
        Ok(())
    }
}
