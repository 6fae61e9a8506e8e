//! `root`: the directory that becomes the container's `/`.

use super::{Findings, Subject};
use crate::error::Error;
use crate::host;

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let Some(root) = subject.spec.root().as_ref().filter(|root| !root.path().as_os_str().is_empty()) else { return };
    if let Err(error) = host::check_root(subject.bundle) {
        return findings.error(error);
    }
    let path = subject.bundle.dir.join(root.path());
    if let Ok(target) = std::fs::read_link(&path) {
        findings.note(
            Error::new(format!("the root file system is a link to {}", target.display()))
                .at("/root/path")
                .hint("it is followed here; runc refuses it"),
        );
    }
    if subject.view.as_ref().is_some_and(super::View::root_noexec) {
        findings.warning(
            Error::new("the root file system lies on a mount with noexec: nothing in it can be executed")
                .at("/root/path")
                .hint("move the bundle, or mount its file system without noexec"),
        );
    }
}
