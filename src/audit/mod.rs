//! How exposed a container is: of a bundle by its plan, of a running container by what the kernel says of it.
//!
//! [`Facts`] are what decides, whoever tells them: [`planned`] reads a configuration, [`observed`] reads `/proc`, the cgroup and
//! the mounts of a container's first process, without entering it. [`rules`] turns them into findings, each with the class of
//! escape that it belongs to and the line that closes it; [`drift`] compares what was planned with what is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

mod drift;
mod observed;
mod planned;
mod rules;
mod sarif;

pub use drift::drift;
pub use observed::observed;
pub use planned::planned;
pub use rules::{RULES, find};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A layer of defence is missing; alone it opens nothing.
    Low,
    /// It widens what a program can reach, or what it can use up.
    Medium,
    /// One more mistake, or one bug, and the program is outside.
    High,
    /// The program is as good as outside.
    Critical,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        ["low", "medium", "high", "critical"][self as usize]
    }

    /// What it takes away from a score of 100.
    fn weight(self) -> u32 {
        [2, 6, 15, 40][self as usize]
    }
}

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name, which stays the same from version to version.
    pub id: &'static str,
    /// The class of escape: `kernel`, `mount`, `namespace`, `privilege`, `device`, `resource`, `drift`.
    pub class: &'static str,
    /// What it is about.
    pub title: &'static str,
}

/// One exposure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub rule: &'static Rule,
    /// How bad it is here.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// The place in config.json.
    pub pointer: String,
    /// What closes it, to be put at that place.
    pub close: String,
}

/// Whose namespace the container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Its own.
    Own,
    /// The host's.
    Host,
    /// Another one, such as a pod's.
    Other,
}

/// What is to be seen at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// Nothing: it is masked.
    Masked,
    /// The file system's own, which can't be written to.
    ReadOnly,
}

/// Capability sets, bit by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, in the container.
    pub target: String,
    /// What of the host is bound there: a path as far as it is known. None: a file system of its own.
    pub source: Option<String>,
    /// The type of the file system; `bind` where only the plan knows it.
    pub kind: String,
    /// It can't be written to.
    pub read_only: bool,
    /// Set-user-ID programs have no effect.
    pub nosuid: bool,
    /// Mounts below it reach the host.
    pub shared: bool,
}

/// What decides on how exposed a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// By the specification's names.
    pub namespaces: BTreeMap<&'static str, Sharing>,
    /// Root in the container is root of the host.
    pub root_is_host_root: bool,
    /// The program's user, in the container.
    pub uid: u32,
    /// Its capabilities.
    pub sets: Sets,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// A seccomp filter is loaded.
    pub seccomp: bool,
    /// The label of AppArmor or SELinux; none when it is unconfined.
    pub label: Option<String>,
    /// Its mounts, in order.
    pub mounts: Vec<Mount>,
    /// `/` can't be written to.
    pub root_read_only: bool,
    /// What lies over paths of procfs and sysfs.
    pub covers: BTreeMap<String, Cover>,
    /// A device filter is attached; None where that can't be known.
    pub device_filter: Option<bool>,
    /// Is there a limit? By the cgroup's file; None where that can't be known.
    pub limits: BTreeMap<&'static str, Option<bool>>,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
}

/// The findings about one bundle or container, the worst first.
#[derive(Debug, Clone)]
pub struct Report {
    /// `bundle` or `container`.
    pub kind: &'static str,
    /// Its path or id.
    pub subject: String,
    /// The file to which the pointers belong.
    pub config: String,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sorts the findings.
    pub fn new(kind: &'static str, subject: String, config: String, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Self { kind, subject, config, findings }
    }

    /// 100 less the weight of each finding, and not below 0. A measure for comparing, not for trusting: a score of 100
    /// says that nothing of what is known here is open.
    pub fn score(&self) -> u32 {
        let lost: u32 = self.findings.iter().map(|finding| finding.severity.weight()).sum();
        100u32.saturating_sub(lost)
    }

    /// Is there a finding as bad as `severity`?
    pub fn reaches(&self, severity: Severity) -> bool {
        self.findings.iter().any(|finding| finding.severity >= severity)
    }

    /// For people.
    pub fn as_text(&self) -> String {
        let one = |finding: &Finding| {
            let Finding { rule, severity, message, pointer, close } = finding;
            let place = if pointer.is_empty() { String::new() } else { format!("\n  at {pointer}") };
            format!("{} ({}, {}): {message}{place}\n  close: {close}\n", severity.name(), rule.class, rule.id)
        };
        let findings: String = self.findings.iter().map(one).collect();
        let all = [Severity::Critical, Severity::High, Severity::Medium, Severity::Low];
        let counts: Vec<String> = all
            .into_iter()
            .map(|severity| (severity, self.findings.iter().filter(|finding| finding.severity == severity).count()))
            .filter(|(_, count)| *count > 0)
            .map(|(severity, count)| format!("{count} {}", severity.name()))
            .collect();
        let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
        format!("{findings}score {} of 100: {counts}\n", self.score())
    }

    /// For programs.
    pub fn as_json(&self) -> Value {
        let one = |finding: &Finding| {
            json!({
                "rule": finding.rule.id,
                "class": finding.rule.class,
                "severity": finding.severity.name(),
                "message": finding.message,
                "pointer": finding.pointer,
                "close": finding.close,
            })
        };
        json!({
            self.kind: self.subject,
            "score": self.score(),
            "findings": self.findings.iter().map(one).collect::<Vec<_>>(),
        })
    }

    /// In the form of code scanners (SARIF 2.1.0).
    pub fn as_sarif(&self) -> Value {
        sarif::sarif(self)
    }
}
