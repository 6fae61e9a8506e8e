//! The rules that a configuration must keep: those of the specification, and those of runc's validator.
//!
//! Pure: nothing here looks at the host, the rootfs or a file. Each check finds errors whose pointers are relative to
//! the value it was given; the caller puts its own place before them. [`Found`] says whether the first one ends the
//! work, as for `create`, or all are wanted, as for `check`: a rule is a `Result`, what has several rules takes `found`.
//! A rule that can't be kept while an earlier one is broken keeps quiet then. Texts that callers of runc or its tests match are
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

pub(crate) use self::mounts::lexical;
pub use self::sysctl::sysctl_path;
use crate::bundle::escape;
use crate::error::{Error, Found, Result};

/// What the rules need to know that the configuration does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    /// The caller is an ordinary user ([`HostFacts::ordinary`](crate::plan::HostFacts::ordinary)).
    pub rootless: bool,
    /// The configuration joins a network namespace by path, and it is the caller's own.
    pub host_network: bool,
    /// There is an SELinux label, and the kernel has SELinux not enabled.
    pub no_selinux: bool,
    /// The SELinux policy does not know the process's label.
    pub unknown_label: bool,
    /// Nor that of mounts.
    pub unknown_mount_label: bool,
    /// There is an AppArmor profile, and the kernel has AppArmor not enabled.
    pub no_apparmor: bool,
}

/// Checks a whole configuration.
///
/// # Errors
/// The first rule that is broken, with the JSON pointer of the value that breaks it, or of the place where one is missing.
pub fn validate(spec: &Spec, context: &Context) -> Result<()> {
    rules(&mut Found::first(), spec, context)
}

/// Everything that [`validate`] could find, in the order of the rules; the first one is its error. What lacks the same
/// namespace is one finding, whose hint names the other places.
pub fn findings(spec: &Spec, context: &Context) -> Vec<Error> {
    let mut found = Found::all();
    let ended = rules(&mut found, spec, context);
    debug_assert_eq!(ended, Ok(()), "what is kept does not come back");
    one_for_each_namespace(found.into_errors())
}

fn rules(found: &mut Found, spec: &Spec, context: &Context) -> Result<()> {
    found.note(version(spec.version()).map_err(|error| error.at("/ociVersion")))?;
    found.note(root(spec))?;
    let process = spec.process().as_ref().ok_or_else(|| bad("/process", "process property must not be empty"));
    let process = found.value(process)?;
    // Before the process, whose ids must be among the mappings.
    found.under("/linux", |found| linux::linux(found, spec, context))?;
    if let Some(process) = process {
        found.under("/process", |found| process_rules(found, process, spec, context))?;
    }
    names(found, spec)?;
    each(found, "/mounts", spec.mounts(), |found, mount| mounts::mount(found, mount, spec, context))?;
    if let Some(all) = spec.hooks() {
        found.under("/hooks", |found| hooks(found, all))?;
    }
    if spec.annotations().as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        found.note(Err(bad("/annotations/", "an annotation has an empty key")))?;
    }
    Ok(())
}

fn one_for_each_namespace(errors: Vec<Error>) -> Vec<Error> {
    let mut kept: Vec<Error> = Vec::new();
    let mut others: Vec<(usize, String)> = Vec::new();
    for error in errors {
        let lacks = |other: &Error| error.hint.is_some() && error.hint == other.hint;
        match kept.iter().position(lacks).filter(|_| error.hint.as_deref().is_some_and(|hint| hint.starts_with(ADD))) {
            Some(first) => others.push((first, error.pointer.unwrap_or_default())),
            None => kept.push(error),
        }
    }
    for (first, pointer) in others {
        let hint = kept[first].hint.get_or_insert_default();
        hint.push_str(if hint.contains("; it is needed at ") { ", " } else { "; it is needed at " });
        hint.push_str(&pointer);
    }
    kept
}

/// Checks the process of `spec`, or one that `exec` adds to its container. Pointers are relative to the process.
///
/// # Errors
/// As [`validate`].
pub fn validate_process(process: &Process, spec: &Spec, context: &Context) -> Result<()> {
    process_rules(&mut Found::first(), process, spec, context)
}

fn process_rules(found: &mut Found, process: &Process, spec: &Spec, context: &Context) -> Result<()> {
    process::process(found, process)?;
    process::labels(found, process, context)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    found.under("/user", |found| process::ids_are_mapped(found, process.user(), linux, context))
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

/// Checks the elements of an array at `place`.
fn each<T>(
    found: &mut Found,
    place: &str,
    elements: &Option<Vec<T>>,
    mut check: impl FnMut(&mut Found, &T) -> Result<()>,
) -> Result<()> {
    let mut elements = elements.iter().flatten().enumerate();
    elements.try_for_each(|(index, element)| {
        found.under(format_args!("{place}/{index}"), |found| {
            let checked = check(found, element);
            found.note(checked)
        })
    })
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
fn names(found: &mut Found, spec: &Spec) -> Result<()> {
    for (place, name) in [("/hostname", spec.hostname()), ("/domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let what = &place[1..];
        if !Namespaces::of(spec).has(LinuxNamespaceType::Uts) {
            let text = format!("unable to set {what} without a private UTS namespace");
            found.note(Err(bad(place, text).hint(add("uts"))))?;
        }
        if name.len() > 64 {
            found.note(Err(bad(place, format!("{what} has {} bytes; the kernel takes 64", name.len()))))?;
        }
        found.note(no_nul(place, Path::new(name)))?;
    }
    Ok(())
}

const ADD: &str = "add {\"type\": ";

/// The hint for a namespace that is missing.
fn add(kind: &str) -> String {
    format!("{ADD}\"{kind}\"}} to linux.namespaces")
}

#[allow(deprecated)] // prestart: callers still use it, and the specification keeps it
fn hooks(found: &mut Found, hooks: &Hooks) -> Result<()> {
    each(found, "/prestart", hooks.prestart(), hook)?;
    each(found, "/createRuntime", hooks.create_runtime(), hook)?;
    each(found, "/createContainer", hooks.create_container(), hook)?;
    each(found, "/startContainer", hooks.start_container(), hook)?;
    each(found, "/poststart", hooks.poststart(), hook)?;
    each(found, "/poststop", hooks.poststop(), hook)
}

fn hook(found: &mut Found, hook: &Hook) -> Result<()> {
    found.note(absolute("/path", hook.path()))?;
    strings(found, "/args", hook.args())?;
    each(found, "/env", hook.env(), |_, pair| process::environment(pair))?;
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
fn strings(found: &mut Found, place: &str, strings: &Option<Vec<String>>) -> Result<()> {
    each(found, place, strings, |_, string| no_nul("", Path::new(string)))
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

/// Checks the values of a map at `place` in the order of their keys, so that of two errors always the same comes first.
fn each_key<T>(
    found: &mut Found,
    place: &str,
    map: &Option<std::collections::HashMap<String, T>>,
    check: impl Fn(&str, &T) -> Result<()>,
) -> Result<()> {
    let wrong = |(key, value): (&String, &T)| check(key, value).err().map(|error| (key.clone(), error));
    let mut wrong: Vec<_> = map.iter().flatten().filter_map(wrong).collect();
    wrong.sort_by(|one, other| one.0.cmp(&other.0));
    let mut wrong = wrong.into_iter();
    wrong.try_for_each(|(key, error)| found.note(Err(error.below(format_args!("{place}/{}", escape(&key))))))
}
