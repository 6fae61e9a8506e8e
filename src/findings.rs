//! Findings: what a look at a configuration tells, for people and as JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::error::{Error, errno_text};

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It would fail, or must not be.
    Error,
    /// It may fail, or is not what was meant.
    Warning,
    /// What can't be known here, or what is only good to know.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub severity: Severity,
    /// What it is, where, and what helps.
    pub what: Error,
}

/// Everything that was found, in the order of what was looked at.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was looked at: its kind, the key in JSON, and where it is.
    pub subject: (&'static str, PathBuf),
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings there are of `severity`.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// As lines, like a compiler's; the last one is the count.
    pub fn as_text(&self) -> String {
        let findings: String = self.findings.iter().map(|finding| finding.as_text() + "\n").collect();
        format!("{findings}{}\n", self.summary())
    }

    fn summary(&self) -> String {
        let many = |severity: Severity| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {}", severity.name())),
            count => Some(format!("{count} {}s", severity.name())),
        };
        let counts: Vec<_> =
            [Severity::Error, Severity::Warning, Severity::Note].into_iter().filter_map(many).collect();
        if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") }
    }

    /// As one JSON object. `call` and `hint` are missing where there is none, `pointer` is empty for what has no place.
    pub fn as_json(&self) -> Value {
        let (kind, path) = &self.subject;
        json!({
            *kind: path,
            "findings": self.findings.iter().map(Finding::as_json).collect::<Vec<_>>(),
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
        })
    }
}

impl Finding {
    fn call(&self) -> Option<String> {
        let answer = self.what.errno.map(errno_text);
        let parts: Vec<String> = [self.what.call.clone(), answer].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    }

    fn as_text(&self) -> String {
        let mut text = format!("{}: {}", self.severity.name(), self.what.message);
        let pointer = self.what.pointer.as_ref().filter(|pointer| !pointer.is_empty());
        for (name, line) in [("at ", pointer.cloned()), ("", self.call()), ("hint: ", self.what.hint.clone())] {
            if let Some(line) = line {
                text += &format!("\n  {name}{line}");
            }
        }
        text
    }

    fn as_json(&self) -> Value {
        let mut json = json!({
            "severity": self.severity.name(),
            "pointer": self.what.pointer.as_deref().unwrap_or_default(),
            "message": self.what.message,
        });
        for (key, value) in [("call", self.call()), ("hint", self.what.hint.clone())] {
            if let Some(value) = value {
                json[key] = value.into();
            }
        }
        json
    }
}
