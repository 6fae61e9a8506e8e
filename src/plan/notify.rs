//! What the caller's own environment adds to a container: sockets handed over (sd_listen_fds(3)), and the way to its service
//! manager (sd_notify(3)).

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use super::Options;
use crate::notify;

/// The configuration with the directory `source` bound where the container finds its socket.
pub(super) fn with_directory(spec: &Spec, source: &Path) -> Spec {
    let mut mount = Mount::default();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    mount.set_destination(notify::DIRECTORY.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options));
    let mut spec = spec.clone();
    spec.mounts_mut().get_or_insert_default().push(mount);
    spec
}

/// Variables that take the place of the configuration's own.
pub(super) fn variables(options: &Options) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    if options.listen_fds > 0 {
        variables.push(("LISTEN_FDS", options.listen_fds.to_string()));
        // The pid of the program where it has a pid namespace of its own (runc).
        variables.push(("LISTEN_PID", "1".to_owned()));
    }
    if options.notify.is_some() {
        variables.push(("NOTIFY_SOCKET", notify::in_container()));
    }
    variables
}
