//! What parent and child say to each other.
//!
//! ```text
//!  parent                         child
//!    │ ─────── clone3 ─────────────▶ │
//!    │ ◀─── Request (one byte) ───── │   Scope, IdMaps, NetDevices, RuntimeHooks, Ready; Source with the number of its step
//!    │ ──── go (one byte) ─────────▶ │   for Source with a descriptor
//!    │ ◀─── end of file ──────────── │   execve has closed the socket, or the process is gone
//! ```
//!
//! A failure is no message: once the seccomp filter is loaded a write(2) can be denied, or wait for ever for an agent.
//! It lies in a shared page ([`Report`]), and the end of file only says that it is time to look.

use nix::errno::Errno;

use crate::plan::op::Request;
use crate::sys::shared::plain;

/// Bytes of a call's name in a [`Report`].
const CALL: usize = 64;
/// Bytes of a detail in a [`Report`].
pub const DETAIL: usize = 512;

/// The shared page.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Report {
    /// 0: nothing has failed; else 1 + the number of the operation.
    failed: u32,
    /// The operation is one of the stage's.
    stage: u32,
    errno: i32,
    /// The child is about to execve: an end of file after this is a success.
    pub executing: u32,
    /// 1 + the number of the seccomp listener in the child.
    pub listener: u32,
    /// The listener has been taken, the child may go on.
    pub taken: u32,
    /// How many steps the child's list has.
    pub steps: u32,
    call_length: u32,
    detail_length: u32,
    call: [u8; CALL],
    detail: [u8; DETAIL],
}

plain!(Report);

/// What a stage leaves: its own page, since the process that it has cloned may be writing to the other one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Staged {
    /// The container's process as the stage's clone3 returned it; 0 while there is none.
    pub pid: i32,
}

plain!(Staged);

/// A failure as the parent reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The number of the operation in its list.
    pub op: usize,
    /// It is one of the stage's.
    pub stage: bool,
    /// The call that failed.
    pub call: String,
    /// What the kernel said.
    pub errno: Errno,
    /// What the child found out about it.
    pub detail: String,
}

impl Report {
    /// Writes down a failure; the first one stands.
    pub fn fail(&mut self, stage: bool, op: usize, call: &str, errno: Errno, detail: &[u8]) {
        if self.failed != 0 {
            return;
        }
        self.stage = u32::from(stage);
        self.errno = errno as i32;
        let call = &call.as_bytes()[..call.len().min(CALL)];
        self.call[..call.len()].copy_from_slice(call);
        self.call_length = call.len() as u32;
        self.explain(detail);
        self.failed = op as u32 + 1;
    }

    /// Adds what has been found out about the failure since.
    pub fn explain(&mut self, detail: &[u8]) {
        let detail = &detail[..detail.len().min(DETAIL)];
        self.detail[..detail.len()].copy_from_slice(detail);
        self.detail_length = detail.len() as u32;
    }

    /// The failure, if there is one.
    pub fn failure(&self) -> Option<Failure> {
        let op = self.failed.checked_sub(1)? as usize;
        let text = |bytes: &[u8], length: u32| {
            String::from_utf8_lossy(&bytes[..(length as usize).min(bytes.len())]).into_owned()
        };
        Some(Failure {
            op,
            stage: self.stage != 0,
            call: text(&self.call, self.call_length),
            errno: Errno::from_raw(self.errno),
            detail: text(&self.detail, self.detail_length),
        })
    }
}

/// The parent's answer to every request.
pub const GO: u8 = 1;

/// What the child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A request that the plan has.
    Planned(Request),
    /// Open the source of the bind mount that is this step of the child's: the ids of the user namespace can't reach it.
    /// A path is not sent: the parent opens what its own plan has.
    Source(usize),
}

/// The longest question.
pub const QUESTION: usize = 5;
/// The first byte of [`Question::Source`]; none of a [`Request`].
const SOURCE: u8 = 0;

/// [`Question::Source`] as it is sent: the number is little-endian.
pub fn source(step: usize) -> [u8; QUESTION] {
    let [a, b, c, d] = (step as u32).to_le_bytes();
    [SOURCE, a, b, c, d]
}

impl Question {
    /// A message of the child.
    pub fn of(message: [u8; QUESTION]) -> Self {
        let [kind, step @ ..] = message;
        match kind {
            SOURCE => Self::Source(u32::from_le_bytes(step) as usize),
            1 => Self::Planned(Request::IdMaps),
            2 => Self::Planned(Request::RuntimeHooks),
            4 => Self::Planned(Request::NetDevices),
            5 => Self::Planned(Request::Scope),
            _ => Self::Planned(Request::Ready),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shared::Shared;

    #[test]
    fn a_failure_crosses_the_page_and_the_first_one_stands() {
        let page = Shared::<Report>::anonymous().unwrap();
        assert_eq!(page.get().failure(), None);
        page.update(|report| report.fail(true, 7, "fsmount", Errno::EPERM, b"why"));
        page.update(|report| report.fail(false, 8, "execve", Errno::ENOENT, b""));
        let failure = page.get().failure().unwrap();
        assert_eq!((failure.op, failure.stage, failure.errno), (7, true, Errno::EPERM));
        assert_eq!((failure.call.as_str(), failure.detail.as_str()), ("fsmount", "why"));
    }

    #[test]
    fn texts_that_are_too_long_are_cut() {
        let page = Shared::<Report>::anonymous().unwrap();
        page.update(|report| report.fail(false, 0, &"x".repeat(200), Errno::EIO, &[b'y'; 1000]));
        let failure = page.get().failure().unwrap();
        assert_eq!((failure.call.len(), failure.detail.len()), (CALL, DETAIL));
    }
}
