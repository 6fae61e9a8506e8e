//! `hooks`: programs that are there. Those of `startContainer` are the container's, all others the host's.

use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::Hook;

use super::view::Nowhere;
use super::{Findings, Subject, idmaps::executable, of_io};
use crate::error::Error;

#[allow(deprecated)] // prestart: callers still use it
pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let Some(hooks) = subject.spec.hooks() else { return };
    for (kind, list) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in list.iter().flatten().enumerate() {
            let pointer = format!("/hooks/{kind}/{index}/path");
            match kind {
                "startContainer" => inside(subject, hook, &pointer, findings),
                // The container is gone by then: its failure is told and no more.
                "poststop" => outside(hook.path(), &pointer).into_iter().for_each(|error| findings.warning(error)),
                _ => outside(hook.path(), &pointer).into_iter().for_each(|error| findings.error(error)),
            }
        }
    }
}

fn text(path: &Path) -> String {
    format!("the hook {}", path.display())
}

fn outside(path: &Path, pointer: &str) -> Option<Error> {
    match std::fs::metadata(path) {
        Err(error) => Some(of_io(text(path), pointer, "stat", &error)),
        Ok(_) if executable(path) => None,
        Ok(_) => Some(Error::new(format!("{} is not an executable file", text(path))).at(pointer)),
    }
}

fn inside(subject: &Subject, hook: &Hook, pointer: &str, findings: &mut Findings) {
    let Some(view) = &subject.view else { return };
    let error = Error::new(format!("{} in the root file system", text(hook.path()))).at(pointer);
    match view.look(hook.path()) {
        Ok(seen) if seen.mode() & libc::S_IFMT == libc::S_IFREG && seen.mode() & 0o111 != 0 => {}
        Ok(_) => findings.warning(error.call("execve", Errno::EACCES)),
        Err(Nowhere::Fails(errno)) => {
            findings.warning(error.call("stat", errno).hint("a mount or an earlier hook may still bring it"));
        }
        Err(Nowhere::Unknown(mount)) => findings.note(
            Error::new(format!("{} lies in /mounts/{mount}, which is yet to be made", text(hook.path()))).at(pointer),
        ),
    }
}
