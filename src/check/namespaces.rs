//! `linux.namespaces`: what this kernel has, and lets the caller have.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};

use super::{Findings, Namespace, Subject, number, of_io};
use crate::error::Error;
use crate::sys::clone::ns_get_nstype;

const CAP_SYS_ADMIN: u8 = 21;

/// The names below `/proc/self/ns` and in `/proc/sys/user/max_*_namespaces`.
fn kernel_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mnt",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "net",
        Kind::Time => "time",
    }
}

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let list = subject.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in list.iter().enumerate() {
        let pointer = format!("/linux/namespaces/{index}");
        match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => joined(namespace, path, &format!("{pointer}/path"), findings),
            None => new(namespace.typ(), &pointer, subject, findings),
        }
    }
    let user = subject.namespace(Kind::User).is_some();
    if !list.is_empty() && !user && !subject.facts.rootless && !subject.capable(CAP_SYS_ADMIN) {
        findings.error(
            Error::new("namespaces take CAP_SYS_ADMIN, which this process lacks")
                .at("/linux/namespaces")
                .hint("add a user namespace with id mappings, or give the caller the capability"),
        );
    }
}

fn new(kind: Kind, pointer: &str, subject: &Subject, findings: &mut Findings) {
    let name = kernel_name(kind);
    if !Path::new("/proc/self/ns").join(name).exists() {
        let error = Error::new(format!("this kernel has no {name} namespaces"));
        return findings.error(error.at(pointer).hint("it was built without them (/proc/self/ns)"));
    }
    let limit = format!("/proc/sys/user/max_{name}_namespaces");
    if number(&limit) == Some(0) {
        let error = Error::new(format!("this host forbids new {name} namespaces: {limit} is 0"));
        return findings.error(error.at(pointer).hint(format!("sysctl user.max_{name}_namespaces=1000")));
    }
    if kind == Kind::User && !subject.capable(CAP_SYS_ADMIN) {
        unprivileged(pointer, findings);
    }
}

/// What distributions forbid to ordinary users.
fn unprivileged(pointer: &str, findings: &mut Findings) {
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        findings.error(
            Error::new("this host forbids user namespaces to ordinary users: kernel.unprivileged_userns_clone is 0")
                .at(pointer)
                .hint("sysctl kernel.unprivileged_userns_clone=1, or run as root"),
        );
    }
    let confined = std::fs::read_to_string("/proc/self/attr/apparmor/current");
    let unconfined = confined.is_ok_and(|profile| profile.trim() == "unconfined");
    if unconfined && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        findings.error(
            Error::new("AppArmor gives ordinary users no rights in their user namespaces on this host")
                .at(pointer)
                .hint("load a profile for this program with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        );
    }
}

fn joined(namespace: &LinuxNamespace, path: &Path, pointer: &str, findings: &mut Findings) {
    let name = kernel_name(namespace.typ());
    let text = format!("the {name} namespace {}", path.display());
    let kind = match std::fs::metadata(path).and_then(|meta| match meta.is_file() {
        // A FIFO or a device is not opened.
        true => std::fs::File::open(path).map(Some),
        false => Ok(None),
    }) {
        Ok(Some(file)) => ns_get_nstype(file.as_fd()),
        Ok(None) => Err(Errno::ENOTTY),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return findings.note(of_io(format!("{text} can't be looked at without root"), pointer, "open", &error));
        }
        Err(error) => return findings.error(of_io(text, pointer, "open", &error)),
    };
    match kind {
        Ok(flag) if flag == namespace.typ() as i32 => {}
        Ok(_) => findings
            .error(Error::new(format!("{} is a namespace of another type than {name}", path.display())).at(pointer)),
        Err(errno) => {
            let error = Error::new(text).at(pointer).call("ioctl(NS_GET_NSTYPE)", errno);
            findings.error(error.hint("the path must lead to a namespace"));
        }
    }
}

impl Subject<'_> {
    /// The container gets a user namespace of its own, with all capabilities in it.
    pub(super) fn new_user_namespace(&self) -> bool {
        self.namespace(Kind::User) == Some(Namespace::New)
    }
}
