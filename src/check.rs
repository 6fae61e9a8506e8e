//! What is wrong with a bundle, all of it, before anything is made.
//!
//! [`check`] reads a bundle and finds what `create` would refuse, what it would warn of, and what this host lacks for it.
//! It makes and changes nothing, and needs no right: it looks at files, and asks the kernel only what can be asked without
//! a change. Where the answer takes a right that the caller lacks, a note says so. Only what the configuration uses is
//! looked at. How exposed a container is, is no subject of this.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::Value;
#[cfg(test)]
use serde_json::json;

use crate::bundle::Bundle;
use crate::error::Error;
pub use crate::findings::{Finding, Report, Severity};
use crate::host::{self, Rootless};
use crate::plan::HostFacts;
use crate::sys::creds;
use crate::validate;
use view::View;

mod hooks;
mod idmaps;
mod mounts;
mod namespaces;
mod net_devices;
mod plan;
mod process;
mod program;
mod resources;
mod root;
mod security;
mod view;

/// Checks the bundle in `dir`, for the systemd driver or the cgroupfs one. A configuration that can't be read is one finding and the end.
pub fn check(dir: &Path, rootless: Rootless, systemd_cgroup: bool) -> Report {
    let mut findings = Findings::default();
    let bundle = match Bundle::load(dir) {
        Ok(bundle) => bundle,
        Err(error) => {
            findings.error(error);
            return report(dir, findings.list);
        }
    };
    match HostFacts::find(rootless, false) {
        Ok(facts) => all(&bundle, &facts, systemd_cgroup, &mut findings),
        Err(error) => findings.error(error),
    }
    let config = serde_json::from_slice(&bundle.config).unwrap_or_default();
    findings.list.sort_by_cached_key(|finding| position(&config, finding.what.pointer.as_deref()));
    report(&bundle.dir, findings.list)
}

fn report(dir: &Path, findings: Vec<Finding>) -> Report {
    Report { subject: ("bundle", dir.to_owned()), findings }
}

fn all(bundle: &Bundle, facts: &HostFacts, systemd_cgroup: bool, findings: &mut Findings) {
    bundle.warnings.iter().for_each(|warning| findings.warning(of_warning(warning)));
    let spec = &bundle.spec;
    validate::findings(spec, &host::context(bundle, facts)).into_iter().for_each(|error| findings.error(error));
    plan::check(bundle, facts, systemd_cgroup, findings);
    findings.told = findings.list.len();
    let subject = Subject::new(bundle, facts);
    namespaces::check(&subject, findings);
    idmaps::check(&subject, findings);
    resources::check(&subject, systemd_cgroup, findings);
    net_devices::check(&subject, findings);
    net_devices::resctrl(&subject, findings);
    root::check(&subject, findings);
    mounts::check(&subject, findings);
    process::check(&subject, findings);
    program::check(&subject, findings);
    security::check(&subject, findings);
    hooks::check(&subject, findings);
}

/// What the checks of the host look at.
struct Subject<'a> {
    spec: &'a Spec,
    bundle: &'a Bundle,
    facts: &'a HostFacts,
    /// The caller's permitted capabilities.
    capabilities: u64,
    /// The root file system with its mounts; none when there is no such root.
    view: Option<View>,
}

impl<'a> Subject<'a> {
    fn new(bundle: &'a Bundle, facts: &'a HostFacts) -> Self {
        let capabilities = creds::capget().map_or(0, |sets| sets.permitted);
        Self { spec: &bundle.spec, bundle, facts, capabilities, view: View::of(bundle) }
    }

    /// The caller has this capability in the initial user namespace, where it counts for the host.
    fn capable(&self, number: u8) -> bool {
        !self.facts.rootless && self.capabilities & (1 << number) != 0
    }

    /// The configuration has a namespace of `kind`: new, or joined by its path.
    fn namespace(&self, kind: LinuxNamespaceType) -> Option<Namespace<'a>> {
        let list = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let found = list.iter().find(|namespace| namespace.typ() == kind)?;
        Some(match found.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Namespace::Joined(path),
            None => Namespace::New,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace<'a> {
    New,
    Joined(&'a Path),
}

/// The list that is being made. Where the specification or the plan has an error, what the host thinks of the same value
/// is no news.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    /// How many of them are not of the host.
    told: usize,
}

impl Findings {
    fn error(&mut self, what: Error) {
        self.add(Severity::Error, what);
    }

    fn warning(&mut self, what: Error) {
        self.add(Severity::Warning, what);
    }

    fn note(&mut self, what: Error) {
        self.add(Severity::Note, what);
    }

    fn add(&mut self, severity: Severity, what: Error) {
        let same = |other: &&Finding| other.what.pointer == what.pointer;
        let told = &self.list[..self.told];
        let told = told.iter().filter(same).any(|other| other.severity == Severity::Error && what.pointer.is_some());
        if !told && !self.list.iter().filter(same).any(|other| other.what.message == what.message) {
            self.list.push(Finding { severity, what });
        }
    }

    /// An error at `pointer`, above it or below it.
    fn has_error_near(&self, pointer: &str) -> bool {
        let near = |other: &str| within(pointer, other) || within(other, pointer);
        let mut errors = self.list.iter().filter(|finding| finding.severity == Severity::Error);
        errors.any(|finding| finding.what.pointer.as_deref().is_some_and(near))
    }
}

fn within(pointer: &str, above: &str) -> bool {
    pointer.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A warning of the bundle or of a plan: `/mounts/3: text`, or `text, from /mounts/3`.
fn of_warning(warning: &str) -> Error {
    match (warning.strip_prefix('/').and_then(|rest| rest.split_once(": ")), warning.rsplit_once(", from /")) {
        (Some((pointer, text)), _) => Error::new(text).at(format!("/{pointer}")),
        (None, Some((text, pointer))) => Error::new(text).at(format!("/{pointer}")),
        (None, None) => Error::new(warning),
    }
}

/// Where the value at `pointer` stands in `config`, as the numbers of its members and elements on the way; what is
/// missing stands behind what is there. What has no place comes last.
fn position(config: &Value, pointer: Option<&str>) -> Vec<usize> {
    let Some(pointer) = pointer else { return vec![usize::MAX] };
    let mut here = Some(config);
    let mut way = Vec::new();
    for token in pointer.split('/').skip(1) {
        let key = token.replace("~1", "/").replace("~0", "~");
        let (index, next) = match here {
            Some(Value::Object(members)) => {
                let index = members.keys().position(|name| *name == key);
                (index.unwrap_or(members.len()), members.get(&key))
            }
            Some(Value::Array(elements)) => {
                let index = key.parse().unwrap_or(elements.len());
                (index, elements.get(index))
            }
            _ => (0, None),
        };
        way.push(index);
        here = next;
    }
    way
}

/// An error of std as this kind of error, for `message` at `pointer`.
fn of_io(message: impl Into<String>, pointer: &str, call: impl Into<String>, error: &std::io::Error) -> Error {
    Error::new(message).at(pointer).call(call, host::errno(error))
}

/// The words of a file of the kernel; none when it can't be read.
fn words(path: &str) -> Option<HashSet<String>> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().map(str::to_owned).collect())
}

/// The number in a file of the kernel.
fn number(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_have_their_places() {
        let at = |text: &str| of_warning(text);
        assert_eq!(at("/mounts/3: a remount: so"), Error::new("a remount: so").at("/mounts/3"));
        assert_eq!(at("ignoring \"X\", from /process/a/1"), Error::new("ignoring \"X\"").at("/process/a/1"));
        assert_eq!(at("no cgroup v2"), Error::new("no cgroup v2"));
    }

    #[test]
    fn the_order_is_that_of_the_configuration() {
        let config = json!({"root": {"path": "x"}, "mounts": [{}, {"a/b": 1}], "process": {}});
        let order = ["/root", "/root/path", "/root/zzz", "/mounts/1/a~1b", "/mounts/7", "/process/args", "/missing"];
        let positions: Vec<_> = order.iter().map(|pointer| position(&config, Some(pointer))).collect();
        assert!(positions.is_sorted(), "{positions:?}");
        assert!(position(&config, None) > positions[6]);
    }

    #[test]
    fn an_error_of_the_configuration_silences_what_else_there_is_at_its_place() {
        let mut findings = Findings::default();
        findings.warning(Error::new("w").at("/a"));
        findings.error(Error::new("e").at("/a"));
        findings.error(Error::new("another").at("/a"));
        findings.told = findings.list.len();
        findings.note(Error::new("n").at("/a"));
        findings.error(Error::new("of the host").at("/b"));
        findings.error(Error::new("of the host, too").at("/b"));
        findings.error(Error::new("e"));
        findings.error(Error::new("f"));
        let kept: Vec<_> = findings.list.iter().map(|finding| finding.what.message.as_str()).collect();
        assert_eq!(kept, ["w", "e", "another", "of the host", "of the host, too", "e", "f"]);
        assert!(findings.has_error_near("/a/b") && findings.has_error_near("") && !findings.has_error_near("/ab"));
    }
}
