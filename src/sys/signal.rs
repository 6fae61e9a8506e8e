//! sigaction(2).

use nix::Result;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Gives `signal` its default action, which a caller may have taken away: "ignored" survives execve.
pub fn sigaction_default(signal: Signal) -> Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { nix::sys::signal::sigaction(signal, &default) }.map(drop)
}
