//! Landlock: the ruleset is made while the root file system is held by descriptor, and comes into force last.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::{Fail, Named, State};
use crate::sys::landlock::{self, Ruleset, fs};
use crate::sys::path::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS};

pub(super) fn begin(state: &mut State<'_>, ruleset: &Ruleset) -> Result<(), Fail> {
    state.landlock = Some(landlock::create_ruleset(ruleset).named("landlock_create_ruleset")?);
    Ok(())
}

/// No link is followed: an image could lead the rule to another place than the one that was meant. Something else than a
/// directory has fewer rights.
pub(super) fn allow_path(state: &State<'_>, file: &CStr, access: u64) -> Result<(), Fail> {
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    let file = path::openat2(state.root()?, file, libc::O_PATH, 0, resolve).named("openat2")?;
    let directory = path::fstat(file.as_fd()).named("fstat")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let access = if directory { access } else { access & fs::OF_FILES };
    landlock::allow_path(ruleset(state)?, file.as_fd(), access).named("landlock_add_rule")
}

pub(super) fn allow_port(state: &State<'_>, port: u16, access: u64) -> Result<(), Fail> {
    landlock::allow_port(ruleset(state)?, port, access).named("landlock_add_rule")
}

pub(super) fn restrict(state: &mut State<'_>) -> Result<(), Fail> {
    landlock::restrict_self(ruleset(state)?).named("landlock_restrict_self")?;
    state.landlock = None;
    Ok(())
}

fn ruleset<'a>(state: &'a State<'_>) -> Result<BorrowedFd<'a>, Fail> {
    state.landlock.as_ref().map(AsFd::as_fd).ok_or_else(|| Fail::new("landlock_add_rule", Errno::EBADF))
}
