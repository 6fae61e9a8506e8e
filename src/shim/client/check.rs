//! `check`: a container's health in one manager's words.

use std::time::Duration;

use super::super::dialect::{self, ocf};
use super::super::health::{Reason, Summary};
use super::super::view::View;
use super::{Fact, Source, fact};
use crate::validate;

/// Whose words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum As {
    /// The monitor of an OCF agent: Pacemaker.
    Ocf,
    /// A plugin: Nagios, Icinga, Nomad, Consul.
    Nagios,
    /// An init script's `status`.
    Lsb,
    /// 0 unless it should be restarted, and 1 then.
    Bool,
    /// As `bool`, and all that is known.
    Json,
    /// HAProxy's agent-check. The status is 0.
    Haproxy,
}

/// What `check` ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its exit status.
    pub status: i32,
    /// What goes to its standard output.
    pub stdout: String,
    /// What goes to its standard error: Pacemaker shows what stands there after `ocf-exit-reason:`.
    pub stderr: String,
}

/// What is said of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict<'a> {
    /// For OCF, a plugin and LSB.
    statuses: (u8, u8, u8),
    /// It should not be restarted.
    live: bool,
    summary: Summary,
    reason: &'a str,
    haproxy: &'static str,
}

/// The supervisor does not answer, and the container runs: whatever it does, it must not be started a second time.
const UNSUPERVISED: Verdict<'_> = Verdict {
    statuses: (ocf::DEGRADED, 3, 4),
    live: false,
    summary: Summary::Unknown,
    reason: Reason::NoSupervisor.as_str(),
    haproxy: "down",
};

fn of(summary: Summary, reason: Reason) -> Verdict<'static> {
    let words = dialect::words(summary);
    Verdict {
        statuses: (words.ocf, words.nagios, words.lsb),
        live: words.live == 200,
        summary,
        reason: reason.as_str(),
        haproxy: dialect::haproxy_status(summary, reason),
    }
}

/// What a view says, if it is not older than `max_age`. What has ended does not change any more.
fn of_view(view: &View, max_age: Option<Duration>) -> Verdict<'static> {
    let old = max_age.is_some_and(|most| view.age_seconds > most.as_secs_f64());
    match view.summary {
        Summary::Stopped | Summary::Failed | Summary::Fenced => of(view.summary, view.reason),
        _ if old => of(Summary::Unknown, Reason::StaleSample),
        summary => of(summary, view.reason),
    }
}

fn of_fact(fact: Fact) -> Verdict<'static> {
    match fact {
        Fact::Runs(_) => UNSUPERVISED,
        Fact::Ended => Verdict { reason: Reason::NoSupervisor.as_str(), ..of(Summary::Stopped, Reason::Exited) },
        Fact::Absent => Verdict {
            statuses: (ocf::NOT_RUNNING, 3, 3),
            reason: "no-such-container",
            ..of(Summary::Unknown, Reason::Exited)
        },
        Fact::Unknown => Verdict { reason: Reason::NoSupervisor.as_str(), ..of(Summary::Unknown, Reason::Exited) },
    }
}

/// The line of HAProxy's agent-check, from a view or from what is known without one.
pub(in crate::shim) fn haproxy(found: Result<&View, Fact>) -> String {
    let verdict = found.map_or_else(of_fact, |view| of_view(view, None));
    dialect::haproxy_line(verdict.haproxy, verdict.reason)
}

/// What each state is in all words, as the page shows it: a name, the statuses of `/livez` and `/readyz`, those of OCF, a plugin,
/// LSB and `bool`, HAProxy's line and gRPC's status. What has no supervisor is asked of none over HTTP.
pub fn table() -> Vec<[String; 9]> {
    let row = |name: &str, http: [String; 2], verdict: Verdict<'_>, grpc: &str| {
        let (ocf, nagios, lsb) = verdict.statuses;
        let haproxy = dialect::haproxy_line(verdict.haproxy, verdict.reason);
        let [live, ready] = http;
        let status = |status: u8| status.to_string();
        let bool = status(u8::from(!verdict.live));
        let line = haproxy.trim_end().to_owned();
        [name.to_owned(), live, ready, status(ocf), status(nagios), status(lsb), bool, line, grpc.to_owned()]
    };
    let of_summary = |summary: Summary, name: &str, verdict: Verdict<'static>| {
        let words = dialect::words(summary);
        let serving = serde_json::json!(words.grpc);
        let http = [words.live, words.ready].map(|status| status.to_string());
        row(name, http, verdict, serving.as_str().unwrap_or_default())
    };
    let known = Summary::ALL.into_iter().rev().flat_map(|summary| {
        let any = of_summary(summary, summary.as_str(), Verdict { reason: "REASON", ..of(summary, Reason::Ok) });
        // The one reason that has a word of its own.
        let drained = (summary == Summary::NotReady).then(|| of(summary, Reason::Drained));
        std::iter::once(any).chain(drained.map(|verdict| of_summary(summary, "notready, drained", verdict)))
    });
    let none = [
        ("no supervisor, and it runs", Fact::Runs(0)),
        ("no supervisor, and it has ended", Fact::Ended),
        ("no such container", Fact::Absent),
        ("no supervisor, and it can't be known", Fact::Unknown),
    ];
    let unknown = none.into_iter().map(|(name, fact)| {
        let http = if fact == Fact::Absent { "404" } else { "" };
        row(name, [http.to_owned(), http.to_owned()], of_fact(fact), "")
    });
    known.chain(unknown).collect()
}

/// Asks the supervisor of `id`, or else the kernel. A sample that is older than `max_age` says nothing.
pub fn check(id: &str, source: &Source, words: As, max_age: Option<Duration>) -> Checked {
    if let Err(error) = validate::container_id(id) {
        return invalid(words, &error.to_string());
    }
    match source.view(id) {
        Some(view) => say(id, words, of_view(&view, max_age), Some(view)),
        None => match (fact(source, id), source.last(id)) {
            (Fact::Absent, Some(last)) => say(id, words, of_view(&last, None), Some(last)),
            (fact, _) => say(id, words, of_fact(fact), None),
        },
    }
}

fn invalid(words: As, error: &str) -> Checked {
    const ERR_ARGS: i32 = 2;
    let (status, stdout) = match words {
        As::Ocf => (ERR_ARGS, String::new()),
        As::Nagios => (3, "CONTAINER UNKNOWN - invalid id\n".to_owned()),
        As::Lsb => (4, String::new()),
        As::Haproxy => (0, "down #invalid-id\n".to_owned()),
        As::Bool | As::Json => (1, String::new()),
    };
    Checked { status, stdout, stderr: format!("{}\n", super::plain(error)) }
}

fn say(id: &str, words: As, verdict: Verdict<'_>, view: Option<View>) -> Checked {
    let Verdict { statuses: (ocf, nagios, lsb), live, summary, reason, haproxy } = verdict;
    let line = format!("{summary} {reason}\n");
    let (status, stdout) = match words {
        As::Ocf => (ocf, line),
        As::Lsb => (lsb, line),
        As::Bool => (u8::from(!live), line),
        As::Json => (u8::from(!live), json(id, summary, reason, view)),
        As::Nagios => (nagios, dialect::nagios_line(id, nagios, reason)),
        As::Haproxy => (0, dialect::haproxy_line(haproxy, reason)),
    };
    let stderr = match words {
        As::Ocf if status != ocf::SUCCESS => format!("ocf-exit-reason:{summary}: {reason}\n"),
        _ => String::new(),
    };
    Checked { status: status.into(), stdout, stderr }
}

/// The view with the summary that counts, or what there is in its place.
fn json(id: &str, summary: Summary, reason: &str, view: Option<View>) -> String {
    let mut value = view.map_or_else(|| serde_json::json!({ "id": id }), |view| serde_json::json!(view));
    value["summary"] = summary.as_str().into();
    value["reason"] = reason.into();
    super::table::ascii(&value.to_string()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::super::view::tests::view;
    use super::*;

    /// Every state that a check may meet, in the words of all: by the table of `docs/shim/outputs.md`, written down once more.
    #[test]
    fn a_container_that_runs_is_never_not_running() {
        const NOT_RUNNING: i32 = 7;
        let said = |verdict: Verdict<'static>, words| say("a", words, verdict, None);
        for summary in Summary::ALL {
            let ended = matches!(summary, Summary::Stopped | Summary::Failed);
            for reason in Reason::ALL {
                let verdict = of(summary, reason);
                assert!(ended || said(verdict, As::Ocf).status != NOT_RUNNING, "{summary}");
                assert!(ended || !matches!(said(verdict, As::Lsb).status, 1..=3), "{summary}");
            }
        }
        let all = [As::Ocf, As::Nagios, As::Lsb, As::Bool, As::Json, As::Haproxy];
        for (fact, statuses, line) in [
            (Fact::Runs(1), [190, 3, 4, 1, 1, 0], "down #no-supervisor\n"),
            (Fact::Ended, [7, 2, 3, 1, 1, 0], "stopped #no-supervisor\n"),
            (Fact::Absent, [7, 3, 3, 1, 1, 0], "down #no-such-container\n"),
            (Fact::Unknown, [1, 3, 4, 1, 1, 0], "down #no-supervisor\n"),
        ] {
            assert_eq!(all.map(|words| said(of_fact(fact), words).status), statuses, "{fact:?}");
            assert_eq!(said(of_fact(fact), As::Haproxy).stdout, line, "{fact:?}");
        }
    }

    #[test]
    fn what_is_too_old_is_not_known() {
        let second = |view: &View| of_view(view, Some(Duration::from_secs(1)));
        let old = View { age_seconds: 1.5, ..view("a") };
        assert_eq!((second(&old).summary, second(&old).reason), (Summary::Unknown, "stale-sample"));
        assert_eq!(of_view(&old, None).summary, Summary::Healthy);
        assert_eq!(second(&View { age_seconds: 0.5, ..old.clone() }).summary, Summary::Healthy);
        // It has ended, and that will not change.
        let ended = View { summary: Summary::Failed, reason: Reason::OomKill, ..old };
        assert_eq!(second(&ended).reason, "oom-kill");
    }

    #[test]
    fn every_manager_reads_its_own_words() {
        let view =
            View { summary: Summary::Failed, reason: Reason::OomKill, bundle: "/\u{9b}é".into(), ..view("web") };
        let said = |words| say("web", words, of_view(&view, None), Some(view.clone()));
        let ocf = said(As::Ocf);
        assert_eq!((ocf.status, ocf.stderr.as_str()), (1, "ocf-exit-reason:failed: oom-kill\n"));
        let nagios = said(As::Nagios);
        assert_eq!((nagios.status, nagios.stdout.as_str()), (2, "CONTAINER CRITICAL - web: oom-kill\n"));
        assert_eq!(said(As::Haproxy).stdout, "fail #oom-kill\n");
        assert_eq!((said(As::Lsb).status, said(As::Bool).status), (1, 1));
        let json = said(As::Json).stdout;
        assert!(json.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{json}");
        assert_eq!(serde_json::from_str::<View>(&json).unwrap(), view);
    }

    #[test]
    fn what_is_no_id_is_said_to_be_none() {
        let source = Source { directory: "/nowhere".into(), root: "/nowhere".into() };
        for words in [As::Ocf, As::Nagios, As::Lsb, As::Bool] {
            let checked = check("../a\u{1b}", &source, words, None);
            assert!(checked.status != 0 && checked.status != 7 && !checked.stderr.contains('\u{1b}'), "{checked:?}");
        }
    }
}
