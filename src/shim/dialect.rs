//! One table for every manager: what a summary is in its words.

use serde::Serialize;

use super::health::{Reason, Summary};

/// What follows from a summary for each kind of manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The status of `/livez`: should it be restarted?
    pub live: u16,
    /// The status of `/readyz`: should it be sent work?
    pub ready: u16,
    /// The exit status of an OCF agent's monitor (resource-agents, OCF 1.1).
    pub ocf: u8,
    /// The exit status of a plugin: 0 OK, 1 warning, 2 critical, 3 unknown (Nagios, Icinga, Nomad, Consul scripts).
    pub nagios: u8,
    /// The exit status of an init script's `status` (LSB 3.2, 20.2): 0 running, 1 dead, 3 not running, 4 unknown.
    pub lsb: u8,
    /// HAProxy's agent-check, without its reason (management guide, agent-check).
    pub haproxy: &'static str,
    /// gRPC's health protocol.
    pub grpc: Serving,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Serving {
    Serving,
    NotServing,
}

/// Statuses of OCF (`ocf-returncodes`).
pub mod ocf {
    #![allow(missing_docs)]
    pub const SUCCESS: u8 = 0;
    pub const ERR_GENERIC: u8 = 1;
    pub const NOT_RUNNING: u8 = 7;
    /// It runs, and not as well as it should (Pacemaker 2.1).
    pub const DEGRADED: u8 = 190;
}

/// The table.
///
/// A container that runs is never `NOT_RUNNING`, whatever is wrong with it: a manager would start it elsewhere as well.
pub fn words(summary: Summary) -> Words {
    use ocf::{DEGRADED, ERR_GENERIC, NOT_RUNNING, SUCCESS};
    const YES: Serving = Serving::Serving;
    const NO: Serving = Serving::NotServing;
    let (live, ready, ocf, nagios, lsb, haproxy, grpc) = match summary {
        Summary::Healthy => (200, 200, SUCCESS, 0, 0, "ready up", YES),
        Summary::Degraded => (200, 200, DEGRADED, 1, 0, "ready up", YES),
        Summary::Starting => (200, 503, SUCCESS, 1, 0, "down", NO),
        Summary::NotReady => (200, 503, DEGRADED, 1, 0, "down", NO),
        Summary::Paused => (200, 503, DEGRADED, 1, 0, "drain", NO),
        Summary::Stopping => (200, 503, SUCCESS, 1, 0, "drain", NO),
        Summary::Unhealthy | Summary::Hung => (503, 503, ERR_GENERIC, 2, 4, "down", NO),
        Summary::Stopped => (503, 503, NOT_RUNNING, 2, 3, "stopped", NO),
        Summary::Failed => (503, 503, ERR_GENERIC, 2, 1, "fail", NO),
        // It may run just now, or have ended.
        Summary::CrashLoop => (503, 503, ERR_GENERIC, 2, 4, "fail", NO),
        Summary::Fenced => (503, 503, ERR_GENERIC, 2, 4, "down", NO),
        Summary::Unknown => (503, 503, ERR_GENERIC, 3, 4, "down", NO),
    };
    Words { live, ready, ocf, nagios, lsb, haproxy, grpc }
}

/// The line of HAProxy's agent-check. HAProxy takes a reason only after a space, and leaves a server UP whose line it does
/// not understand: so a good state has no reason, and a bad one has one word of a closed list.
pub fn haproxy(summary: Summary, reason: Reason) -> String {
    haproxy_line(haproxy_status(summary, reason), reason.as_str())
}

/// What was taken out by hand keeps the sessions that it has.
pub(super) fn haproxy_status(summary: Summary, reason: Reason) -> &'static str {
    match (summary, reason) {
        (Summary::NotReady, Reason::Drained) => "drain",
        _ => words(summary).haproxy,
    }
}

/// The same of a status of HAProxy's.
pub(super) fn haproxy_line(status: &str, reason: &str) -> String {
    match status {
        good @ "ready up" => format!("{good}\n"),
        bad => format!("{bad} #{reason}\n"),
    }
}

/// The line of a plugin, for its standard output.
pub fn nagios(id: &str, summary: Summary, reason: Reason) -> String {
    nagios_line(id, words(summary).nagios, reason.as_str())
}

/// The same of an exit status.
pub(super) fn nagios_line(id: &str, status: u8, reason: &str) -> String {
    let state = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::from(status.min(3))];
    // The text ends at the first bar, and what follows it would be measurements; ids hold none.
    format!("CONTAINER {state} - {id}: {reason}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manager_is_told_the_same() {
        for summary in Summary::ALL {
            let words = words(summary);
            let work = words.ready == 200;
            assert_eq!(words.grpc == Serving::Serving, work, "{summary:?}");
            assert_eq!(words.haproxy == "ready up", work, "{summary:?}");
            assert!(words.live == 200 || words.ready == 503, "{summary:?} is dead and gets work");
            assert_eq!(words.live == 503, words.nagios >= 2, "{summary:?}");
            assert_eq!(words.ocf == ocf::NOT_RUNNING, summary == Summary::Stopped, "{summary:?}");
            let ended = matches!(summary, Summary::Stopped | Summary::Failed);
            assert_eq!(matches!(words.lsb, 1 | 3), ended, "{summary:?}");
            assert_eq!(words.lsb == 0, words.live == 200, "{summary:?}");
        }
    }

    /// The worst of several containers has the worst status of all of them.
    #[test]
    fn the_order_of_summaries_is_that_of_their_statuses() {
        let statuses = Summary::ALL.map(|summary| (words(summary).live, words(summary).ready));
        assert!(statuses.is_sorted_by(|worse, better| worse.0 >= better.0 && worse.1 >= better.1), "{statuses:?}");
    }

    /// By what HAProxy 2.6 was seen to take: a status, and a reason after a space.
    #[test]
    fn no_bad_state_leaves_a_server_up() {
        for summary in Summary::ALL {
            for reason in Reason::ALL {
                let line = haproxy(summary, reason);
                let mut parts = line.trim_end().splitn(2, " #");
                let (status, why) = (parts.next().unwrap(), parts.next());
                match status {
                    "ready up" => assert!(why.is_none() && words(summary).ready == 200),
                    "down" | "fail" | "stopped" | "drain" => assert!(why.is_some() && words(summary).ready == 503),
                    other => panic!("{other}"),
                }
                assert!(line.ends_with('\n') && !line.contains(['%', '\r', ',']), "{line}");
            }
        }
    }
}
