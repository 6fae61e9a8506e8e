//! The rules that a configuration must keep: those of the specification, and those of runc's validator.
//!
//! Pure: nothing here looks at the host, the rootfs or a file. Each check returns an error whose pointer is relative to
//! the value it was given; the caller puts its own place before it. Texts that callers of runc or its tests match are
//! runc's. Seccomp is checked by its compiler, `cgroupsPath` and the limits by [`crate::cgroup`].

mod linux;
mod mounts;
mod process;
mod sysctl;
#[cfg(test)]
mod tests;

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Process, Spec};

pub use self::sysctl::sysctl_path;
use crate::bundle::escape;
use crate::error::{Error, Result};

/// What the rules need to know that the configuration does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    /// The caller is not root: its effective user id is not 0, or it lacks the capabilities of root where it stands.
    pub rootless: bool,
    /// The configuration joins a network namespace by path, and it is the caller's own.
    pub host_network: bool,
    /// There is an SELinux label, and the kernel has SELinux not enabled.
    pub no_selinux: bool,
    /// There is an AppArmor profile, and the kernel has AppArmor not enabled.
    pub no_apparmor: bool,
}

/// Checks a whole configuration.
///
/// # Errors
/// The first rule that is broken, with the JSON pointer of the value that breaks it, or of the place where one is missing.
pub fn validate(spec: &Spec, context: &Context) -> Result<()> {
    version(spec.version()).map_err(|error| error.at("/ociVersion"))?;
    root(spec)?;
    let process = spec.process().as_ref().ok_or_else(|| bad("/process", "process property must not be empty"))?;
    // Before the process, whose ids must be among the mappings.
    under("/linux", linux::linux(spec, context))?;
    under("/process", validate_process(process, spec, context))?;
    names(spec)?;
    each("/mounts", spec.mounts(), |mount| mounts::mount(mount, spec, context))?;
    spec.hooks().as_ref().map_or(Ok(()), |all| under("/hooks", hooks(all)))?;
    if spec.annotations().as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        return Err(bad("/annotations/", "an annotation has an empty key"));
    }
    Ok(())
}

/// Checks the process of `spec`, or one that `exec` adds to its container. Pointers are relative to the process.
///
/// # Errors
/// As [`validate`].
pub fn validate_process(process: &Process, spec: &Spec, context: &Context) -> Result<()> {
    process::process(process)?;
    process::labels(process, context)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    under("/user", process::ids_are_mapped(process.user(), linux, context))
}

/// Checks the id of a container: what runc allows, and at most 1024 bytes.
///
/// # Errors
/// With runc's texts; no pointer, for the id is not from the configuration.
pub fn container_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new("container id cannot be empty"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
    if id.len() <= 1024 && id != "." && id != ".." && id.bytes().all(allowed) {
        return Ok(());
    }
    let shown: String = id.chars().take(64).collect();
    Err(Error::new(format!("invalid container ID format: {shown:?}"))
        .hint("letters, digits and _ + . - are allowed, at most 1024 of them; . and .. are not ids"))
}

/// An error of the configuration at `pointer`.
fn bad(pointer: impl Into<String>, message: impl Into<String>) -> Error {
    Error::new(message).at(pointer)
}

/// `result` with `place` put before its pointer.
fn under<T>(place: &str, result: Result<T>) -> Result<T> {
    result.map_err(|mut error| {
        error.pointer = Some(format!("{place}{}", error.pointer.unwrap_or_default()));
        error
    })
}

/// Checks the elements of an array at `place`.
fn each<T>(place: &str, elements: &Option<Vec<T>>, mut check: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let mut elements = elements.iter().flatten().enumerate();
    elements.try_for_each(|(index, element)| under(&format!("{place}/{index}"), check(element)))
}

/// The namespaces of a configuration. A path that is empty asks for a new one, as in runc.
#[derive(Clone, Copy)]
struct Namespaces<'a>(&'a [LinuxNamespace]);

impl<'a> Namespaces<'a> {
    fn of(spec: &'a Spec) -> Self {
        Self::of_linux(spec.linux().as_ref())
    }

    fn of_linux(linux: Option<&'a Linux>) -> Self {
        Self(linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default())
    }

    fn has(self, kind: LinuxNamespaceType) -> bool {
        self.0.iter().any(|namespace| namespace.typ() == kind)
    }

    /// Whether one of `kind` is joined by its path.
    fn joins(self, kind: LinuxNamespaceType) -> bool {
        self.0.iter().any(|namespace| namespace.typ() == kind && path_of(namespace).is_some())
    }
}

fn path_of(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// SemVer 2.0.0 with the major version that this runtime knows; within it all versions are compatible.
fn version(version: &str) -> Result<()> {
    let wrong =
        |what: &str| Error::new(what).hint("versions of the runtime specification look like 1.0.2 or 1.2.0-rc.1");
    if version.is_empty() {
        return Err(wrong("ociVersion is missing"));
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let suffix = &version[core.len()..];
    let number = |part: &str| part == "0" || part.bytes().all(|b| b.is_ascii_digit()) && !part.starts_with(['0']);
    let parts: Vec<_> = core.split('.').collect();
    let core_ok = parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && number(part));
    if !core_ok || !suffix_ok(suffix) {
        return Err(wrong(&format!("ociVersion {version:?} is not a semantic version")));
    }
    match parts[0] {
        "1" => Ok(()),
        _ => Err(wrong(&format!("ociVersion {version:?} is not supported: the major version must be 1"))),
    }
}

/// Whether `suffix` is a pre-release (`-rc.1`), build metadata (`+dev`), both, or nothing.
fn suffix_ok(suffix: &str) -> bool {
    let (pre, build) = suffix.split_once('+').map_or((suffix, None), |(pre, build)| (pre, Some(build)));
    let dotted = |text: &str| {
        text.split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    };
    (pre.is_empty() || pre.strip_prefix('-').is_some_and(dotted)) && build.is_none_or(dotted)
}

fn root(spec: &Spec) -> Result<()> {
    let root = spec.root().as_ref().ok_or_else(|| bad("/root", "root must be specified"))?;
    if root.path().as_os_str().is_empty() {
        return Err(bad("/root/path", "root.path must not be empty").hint("a path, absolute or below the bundle"));
    }
    no_nul("/root/path", root.path())
}

/// `hostname` and `domainname`: at most `__NEW_UTS_LEN` (64) bytes, in a namespace of their own.
fn names(spec: &Spec) -> Result<()> {
    for (what, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let place = format!("/{what}");
        if !Namespaces::of(spec).has(LinuxNamespaceType::Uts) {
            return Err(bad(place, format!("unable to set {what} without a private UTS namespace")).hint(add("uts")));
        }
        if name.len() > 64 {
            return Err(bad(place, format!("{what} has {} bytes; the kernel takes 64", name.len())));
        }
        no_nul(&place, Path::new(name))?;
    }
    Ok(())
}

/// The hint for a namespace that is missing.
fn add(kind: &str) -> String {
    format!("add {{\"type\": \"{kind}\"}} to linux.namespaces")
}

#[allow(deprecated)] // prestart: callers still use it, and the specification keeps it
fn hooks(hooks: &Hooks) -> Result<()> {
    each("/prestart", hooks.prestart(), hook)?;
    each("/createRuntime", hooks.create_runtime(), hook)?;
    each("/createContainer", hooks.create_container(), hook)?;
    each("/startContainer", hooks.start_container(), hook)?;
    each("/poststart", hooks.poststart(), hook)?;
    each("/poststop", hooks.poststop(), hook)
}

fn hook(hook: &Hook) -> Result<()> {
    absolute("/path", hook.path())?;
    strings("/args", hook.args())?;
    each("/env", hook.env(), |pair| process::environment(pair))?;
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => {
            Err(bad("/timeout", format!("hook timeout {seconds} is not above 0"))
                .hint("seconds; leave it out for none"))
        }
        _ => Ok(()),
    }
}

fn no_nul(place: &str, path: &Path) -> Result<()> {
    match path.as_os_str().as_bytes().contains(&0) {
        true => Err(bad(place, format!("{path:?} contains a NUL byte"))),
        false => Ok(()),
    }
}

/// No string of `strings` holds a NUL byte.
fn strings(place: &str, strings: &Option<Vec<String>>) -> Result<()> {
    each(place, strings, |string| no_nul("", Path::new(string)))
}

/// `path` is absolute and without NUL bytes.
fn absolute(place: &str, path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return Err(bad(place, format!("{path:?} is not an absolute path")));
    }
    no_nul(place, path)
}

/// `path` has no `..`.
fn no_parent(place: &str, path: &Path) -> Result<()> {
    match path.components().any(|part| part == Component::ParentDir) {
        true => Err(bad(place, format!("{path:?} contains \"..\""))),
        false => Ok(()),
    }
}

/// `id` is one of those that `mappings` map from the container.
fn maps(mappings: &[LinuxIdMapping], id: u32) -> bool {
    mappings.iter().any(|mapping| id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size()))
}

/// Checks the values of a map at `place` in the order of their keys, so that of two errors always the same is shown.
fn each_key<T>(
    place: &str,
    map: &Option<std::collections::HashMap<String, T>>,
    mut check: impl FnMut(&str, &T) -> Result<()>,
) -> Result<()> {
    let mut sorted: Vec<_> = map.iter().flatten().collect();
    sorted.sort_by_key(|(key, _)| *key);
    sorted.into_iter().try_for_each(|(key, value)| under(&format!("{place}/{}", escape(key)), check(key, value)))
}
