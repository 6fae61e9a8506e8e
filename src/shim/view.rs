//! What the supervisor says of a container: the one document that every output is made from.
//!
//! `GET /v1/containers/ID` is this as JSON; `check`, `status`, `top`, `/metrics` and the probes of managers are made of nothing
//! else. Times on the wall are RFC 3339, all others seconds.

use serde::{Deserialize, Serialize};

use super::health::{Reason, Summary};

/// A container at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: String,
    /// Its first process, while it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The one word.
    pub summary: Summary,
    /// Why.
    pub reason: Reason,
    /// When the summary became what it is.
    pub since: String,
    /// The number of the event that said so.
    pub seq: u64,
    /// created, starting, running, paused, stopping or exited; unknown where nothing is.
    pub lifecycle: Word,
    /// May it be sent work?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// none, some or critical, and of what: `some memory`; unknown where nothing is.
    pub pressure: Word,
    /// none, backoff or loop; unknown where nothing is.
    pub crash: Word,
    /// What it must hold to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseView>,
    /// Starts after the first.
    pub restarts: u64,
    /// How long it has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<f64>,
    /// When its first process was started, in seconds since 1970. It does not change while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_seconds: Option<f64>,
    /// From the start to the first time that it was ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_latency_seconds: Option<f64>,
    /// The age of the oldest sample that the summary is made of; 0 where nothing is sampled.
    pub age_seconds: f64,
    /// How late the supervisor's loop was at worst in the last minute.
    pub lag_seconds: f64,
    /// What its probes have found.
    pub probes: Vec<ProbeView>,
    /// How it ended the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ExitView>,
    /// What its cgroup counts, where there is one. Kept by the names of the kernel's files: `cpu.stat usage_usec`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<(String, f64)>,
}

/// A word of a closed list that is written down elsewhere.
pub type Word = String;

/// A lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseView {
    /// waiting, held, expiring, lost, or none where it was given back.
    pub state: Word,
    /// Its key.
    pub key: String,
    /// The key's create_revision, while it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<i64>,
    /// How long it may still run if no request is answered any more; 0 where nothing is held.
    pub remaining_seconds: f64,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeView {
    /// startup, liveness or readiness.
    pub name: Word,
    /// unknown, pass or fail.
    pub verdict: Word,
    /// How many were made.
    pub count: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How long the last one took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seconds: Option<f64>,
    /// What the last one said, printable and at most 256 bytes. Over TCP it is left away.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// An exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitView {
    /// code, signal, oom, asked, unhealthy, fenced, not-started or unknown.
    pub kind: Word,
    /// Its status, of a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Its signal, where one has ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// When.
    pub at: String,
    /// How long it had run.
    pub uptime_seconds: f64,
}

/// One thing that has happened, as a CloudEvent 1.0 (its `data`, `type` and `seq`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// "1.0".
    pub specversion: String,
    /// The container's id, a dot and `seq`: unique.
    pub id: String,
    /// `/orlop/` and the container's id.
    pub source: String,
    /// `org.orlop.container.` and summary, exit, start, oom, probe, lease or supervisor.
    #[serde(rename = "type")]
    pub kind: String,
    /// When, on the wall.
    pub time: String,
    /// Numbers of one container's events are one more each time, without a gap.
    pub seq: u64,
    /// What.
    pub data: serde_json::Value,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A container that is well, and of which little is known.
    pub(in crate::shim) fn view(id: &str) -> View {
        View {
            id: id.to_owned(),
            bundle: "/bundle".to_owned(),
            pid: Some(7),
            summary: Summary::Healthy,
            reason: Reason::Ok,
            since: "2026-01-01T00:00:00Z".to_owned(),
            seq: 3,
            lifecycle: "running".to_owned(),
            ready: Some(true),
            pressure: "none".to_owned(),
            crash: "none".to_owned(),
            lease: None,
            restarts: 0,
            uptime_seconds: Some(60.0),
            started_seconds: Some(1_767_225_600.0),
            start_latency_seconds: None,
            age_seconds: 0.0,
            lag_seconds: 0.5,
            probes: Vec::new(),
            last_exit: None,
            counters: Vec::new(),
        }
    }
}
