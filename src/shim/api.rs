//! What may be asked of the supervisor, and what is answered: a function of the views and of the record of events.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::dialect::{self, Words};
use super::http::{Kind, Request, Response};
use super::metrics;
use super::view::View;
use crate::error::Error;

/// Bytes of an answer about health: what Nomad and Consul keep of one.
const HEALTH: usize = 3 << 10;
/// Bytes of events in one answer. Who has read them asks for those after the last.
const EVENTS: usize = 1 << 20;
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// The longest time that an event is waited for, in seconds: shorter than what stands between gives up a silent connection.
const LONGEST_WAIT: f64 = 50.0;
/// The longest time that a stop may be given: a day.
const LONGEST_STOP: f64 = 86_400.0;

/// The record of events.
pub trait Events {
    /// The events of this container with a number greater than `seq`, the oldest first: each an
    /// [`Event`](super::view::Event) as JSON on one line, without its newline.
    fn since(&self, id: &str, seq: u64) -> Vec<String>;
}

/// What follows from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is answered at once.
    Response(Response),
    /// It is for the supervisor to do; [`acted`] is the answer.
    Action(Action),
    /// There is no event yet: [`record`] is the answer as soon as there is one, or after this time.
    Later(Duration),
}

/// What is asked on the control socket. Ids are those of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `POST /v1/containers/ID/stop?timeout=SECONDS`; None: as the configuration says.
    Stop {
        /// Which one.
        id: String,
        /// After that its cgroup is killed.
        timeout: Option<Duration>,
    },
    /// `POST /v1/containers/ID/restart`.
    Restart {
        /// Which one.
        id: String,
    },
    /// `POST /v1/containers/ID/drain` and `undrain`.
    Drain {
        /// Which one.
        id: String,
        /// It is to get no work; false: it may again.
        drained: bool,
    },
    /// `POST /v1/containers/ID/kill?signal=SIGNAL`.
    Kill {
        /// Which one.
        id: String,
        /// One that the command `kill` takes; SIGTERM if none is named.
        signal: String,
    },
    /// `POST /v1/upgrade`.
    Upgrade,
    /// `POST /v1/shutdown`.
    Shutdown,
}

/// The answer to a request.
pub fn answer(request: &Request, views: &[View], events: &dyn Events) -> Answer {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let verb = match path[..] {
        ["livez" | "readyz" | "healthz" | "metrics"] | ["v1", "containers" | "events"] | ["v1", "containers", _] => {
            let response = match request.method.as_str() {
                "GET" | "HEAD" => read(request, &path, views, events),
                _ => not_allowed("GET, HEAD"),
            };
            let wait = request.parameter("wait").filter(|_| path == ["v1", "events"] && response.status == 200);
            return match wait.map(|wait| seconds(wait, LONGEST_WAIT)) {
                Some(None) => Answer::Response(Response::error(400, "wait is from 0 to 50 seconds")),
                Some(Some(wait)) if response.body.is_empty() && !wait.is_zero() => Answer::Later(wait),
                _ => Answer::Response(response),
            };
        }
        ["v1", "containers", id, verb @ ("stop" | "restart" | "drain" | "undrain" | "kill")] => (verb, Some(id)),
        ["v1", verb @ ("upgrade" | "shutdown")] => (verb, None),
        _ => return Answer::Response(Response::error(404, "there is nothing here")),
    };
    match (request.method.as_str(), request.kind) {
        ("POST", Kind::Control) => act(request, verb, views).map_or_else(Answer::Response, Answer::Action),
        ("POST", _) => Answer::Response(Response::error(403, "this is for the control socket")),
        _ => Answer::Response(not_allowed("POST")),
    }
}

fn not_allowed(allowed: &str) -> Response {
    Response::error(405, "").header("Allow", allowed)
}

fn unknown() -> Response {
    Response::error(404, "unknown container")
}

fn read(request: &Request, path: &[&str], views: &[View], events: &dyn Events) -> Response {
    match path {
        ["livez"] | ["healthz"] => health(request, views, |words| words.live),
        ["readyz"] => health(request, views, |words| words.ready),
        ["metrics"] => {
            let openmetrics = metrics::wanted(&request.accept);
            let content_type = if openmetrics { metrics::OPENMETRICS } else { metrics::TEXT };
            Response::new(200, content_type, metrics::write(views, openmetrics))
        }
        ["v1", "events"] => record(request, views, events),
        ["v1", "containers", id] => match views.iter().find(|view| view.id == *id) {
            Some(view) => json(&public(view, request.kind)),
            None => unknown(),
        },
        _ => json(&views.iter().map(|view| public(view, request.kind)).collect::<Vec<_>>()),
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            Response::new(200, JSON, body)
        }
        Err(error) => Response::error(500, &error.to_string()),
    }
}

/// A view for those who ask on a socket of this kind.
fn public(view: &View, kind: Kind) -> View {
    let mut view = view.clone();
    if kind.public() {
        view.probes.iter_mut().for_each(|probe| probe.output.clear());
    }
    view
}

/// The status for the container that is named, or else for the worst of all; a supervisor of none can't say that one is well.
fn health(request: &Request, views: &[View], status: fn(Words) -> u16) -> Response {
    let mut asked: Vec<&View> = match request.parameter("id") {
        Some(id) => views.iter().filter(|view| view.id == id).collect(),
        None => views.iter().collect(),
    };
    asked.sort_by_key(|view| (view.summary.rank(), &view.id));
    let Some(worst) = asked.first() else { return unknown() };
    let mut body = format!("{} {}\n", worst.summary, worst.reason);
    if request.parameter("verbose").is_some_and(|value| !matches!(value, "0" | "false")) {
        for view in &asked {
            verbose(view, status(dialect::words(view.summary)) == 200, &mut body);
        }
    }
    // Whole lines only.
    if let Some(end) = body.get(..HEALTH).and_then(|body| body.rfind('\n')) {
        body.truncate(end + 1);
    }
    // What is said of all is as old as the oldest of them.
    let age = asked.iter().map(|view| view.age_seconds).fold(0.0, f64::max);
    let response = Response::new(status(dialect::words(worst.summary)), "text/plain; charset=utf-8", body);
    response.header("X-Health-Age-Ms", format!("{:.0}", age * 1000.0))
}

/// One line for a container and one for each of its probes. What probes have said is not in it.
fn verbose(view: &View, good: bool, body: &mut String) {
    let sign = |good: bool| if good { '+' } else { '-' };
    let _ = writeln!(
        body,
        "[{}] {} {} {} {} pressure={} crash={} restarts={}",
        sign(good),
        view.id,
        view.summary,
        view.reason,
        view.lifecycle,
        view.pressure.replace(' ', "-"),
        view.crash,
        view.restarts
    );
    for probe in &view.probes {
        let (sign, name) = (sign(probe.verdict != "fail"), &probe.name);
        let _ =
            writeln!(body, "[{sign}] {} {name} {} failures={}/{}", view.id, probe.verdict, probe.failures, probe.count);
    }
}

/// Events of one container: their numbers are its own, so without an id there must be only one.
pub fn record(request: &Request, views: &[View], events: &dyn Events) -> Response {
    let id = match (request.parameter("id"), views) {
        (Some(id), _) => match views.iter().find(|view| view.id == id) {
            Some(view) => &view.id,
            None => return unknown(),
        },
        (None, [view]) => &view.id,
        (None, []) => return unknown(),
        (None, _) => return Response::error(400, "id=ID says whose events"),
    };
    let Ok(since) = request.parameter("since").unwrap_or("0").parse() else {
        return Response::error(400, "since is a number of an event");
    };
    let mut body = String::new();
    for line in events.since(id, since) {
        let line = if request.kind.public() { without_output(&line).unwrap_or_default() } else { line };
        if body.len() + line.len() > EVENTS {
            break;
        }
        if !line.is_empty() {
            body.push_str(&line);
            body.push('\n');
        }
    }
    Response::new(200, NDJSON, body)
}

/// An event without what a probe or the container itself has said.
fn without_output(line: &str) -> Option<String> {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !matches!(name.as_str(), "output" | "stderr"));
                fields.values_mut().for_each(clean);
            }
            Value::Array(values) => values.iter_mut().for_each(clean),
            _ => {}
        }
    }
    let mut event: Value = serde_json::from_str(line).ok()?;
    clean(&mut event);
    Some(event.to_string())
}

/// What is to be done. A parameter that is not understood is an error: who asks for it wants something else.
fn act(request: &Request, (verb, id): (&str, Option<&str>), views: &[View]) -> Result<Action, Response> {
    let id = match id {
        Some(id) if !views.iter().any(|view| view.id == id) => return Err(unknown()),
        id => id.unwrap_or_default().to_owned(),
    };
    let known = match verb {
        "stop" => "timeout",
        "kill" => "signal",
        _ => "",
    };
    if !request.body.is_empty() || request.query.len() > 1 || request.query.iter().any(|(name, _)| name != known) {
        return Err(Response::error(400, "no body and no such parameter is taken"));
    }
    let value = request.parameter(known);
    Ok(match verb {
        "stop" => Action::Stop { id, timeout: value.map(timeout).transpose()? },
        "restart" => Action::Restart { id },
        "drain" | "undrain" => Action::Drain { id, drained: verb == "drain" },
        "kill" => {
            let signal = value.unwrap_or("SIGTERM");
            crate::commands::signal(signal).map_err(|_| Response::error(400, "unknown signal"))?;
            Action::Kill { id, signal: signal.to_owned() }
        }
        "upgrade" => Action::Upgrade,
        _ => Action::Shutdown,
    })
}

fn timeout(text: &str) -> Result<Duration, Response> {
    seconds(text, LONGEST_STOP).ok_or_else(|| Response::error(400, "timeout is from 0 seconds to a day"))
}

fn seconds(text: &str, longest: f64) -> Option<Duration> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=longest).contains(seconds));
    seconds.map(Duration::from_secs_f64)
}

/// What is said of an action that is done, or has failed.
pub fn acted(result: &Result<(), Error>) -> Response {
    let (status, text) = match result {
        Ok(()) => (200, serde_json::json!({ "done": true })),
        Err(error) => (409, serde_json::json!({ "done": false, "error": error.to_string() })),
    };
    Response::new(status, JSON, format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::health::{Reason, Summary};
    use crate::shim::view::{ProbeView, tests::view};

    struct Record;

    impl Events for Record {
        fn since(&self, id: &str, seq: u64) -> Vec<String> {
            let said = r#""stderr":"secret","probes":[{"output":"secret"}]"#;
            (seq + 1..=9).map(|seq| format!(r#"{{"id":"{id}.{seq}","data":{{{said},"n":[{seq}]}}}}"#)).collect()
        }
    }

    fn ask(method: &str, target: &str, kind: Kind, views: &[View]) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        let request = Request {
            method: method.to_owned(),
            path: path[1..].split('/').map(str::to_owned).collect(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            accept: String::new(),
            authorization: None,
            body: Vec::new(),
            kind,
        };
        answer(&request, views, &Record)
    }

    fn get(target: &str, kind: Kind, views: &[View]) -> (u16, String) {
        match ask("GET", target, kind, views) {
            Answer::Response(response) => (response.status, String::from_utf8(response.body).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn some() -> Vec<View> {
        let probe = ProbeView {
            name: "liveness".to_owned(),
            verdict: "fail".to_owned(),
            count: 5,
            failures: 3,
            last_seconds: Some(0.01),
            output: "secret".to_owned(),
        };
        vec![
            view("a"),
            View {
                summary: Summary::Unhealthy,
                reason: Reason::ProbeFailed,
                age_seconds: 1.5,
                probes: vec![probe],
                ..view("b")
            },
            View { summary: Summary::Starting, reason: Reason::StartupProbe, ..view("c") },
        ]
    }

    #[test]
    fn an_event_is_waited_for_where_there_is_none_yet() {
        let one = [view("a")];
        let later = |target| ask("GET", target, Kind::Read, &one);
        assert_eq!(later("/v1/events?since=9&wait=0.5"), Answer::Later(Duration::from_millis(500)));
        assert_eq!(get("/v1/events?since=8&wait=5", Kind::Read, &one).1.lines().count(), 1);
        assert_eq!(get("/v1/events?since=9&wait=0", Kind::Read, &one), (200, String::new()));
        assert_eq!(get("/v1/events?id=other&wait=5", Kind::Read, &one).0, 404);
        for wrong in ["51", "-1", "x", "NaN"] {
            assert_eq!(get(&format!("/v1/events?since=9&wait={wrong}"), Kind::Read, &one).0, 400, "{wrong}");
        }
    }

    #[test]
    fn health_is_that_of_the_worst_or_of_the_one_that_is_named() {
        let views = some();
        for (target, status, line) in [
            ("/livez", 503, "unhealthy probe-failed"),
            ("/readyz", 503, "unhealthy probe-failed"),
            ("/livez?id=a", 200, "healthy ok"),
            ("/livez?id=c", 200, "starting startup-probe"),
            ("/readyz?id=c", 503, "starting startup-probe"),
            ("/livez?id=d", 404, "unknown container"),
        ] {
            assert_eq!(get(target, Kind::Tcp, &views), (status, format!("{line}\n")), "{target}");
        }
        assert_eq!(get("/livez", Kind::Read, &[]).0, 404);
        let Answer::Response(response) = ask("HEAD", "/livez", Kind::Read, &views) else { panic!() };
        assert_eq!(response.headers, [("X-Health-Age-Ms", "1500".to_owned())]);
    }

    #[test]
    fn verbose_health_is_whole_lines_of_three_kilobytes() {
        let views = some();
        let (_, body) = get("/healthz?verbose", Kind::Read, &views);
        let lines: Vec<_> = body.lines().collect();
        assert_eq!(lines[1], "[-] b unhealthy probe-failed running pressure=none crash=none restarts=0");
        assert_eq!(lines[2], "[-] b liveness fail failures=3/5");
        assert!(!body.contains("secret"));
        let many: Vec<_> = (0..1000).map(|number| view(&number.to_string())).collect();
        let (status, body) = get("/healthz?verbose=1", Kind::Read, &many);
        assert!(status == 200 && body.len() <= HEALTH && body.len() > HEALTH - 200 && body.ends_with("restarts=0\n"));
    }

    #[test]
    fn what_probes_have_said_is_not_for_every_user() {
        let views = some();
        for target in ["/v1/containers", "/v1/containers/b", "/v1/events?id=b"] {
            assert!(get(target, Kind::Read, &views).1.contains("secret"), "{target}");
            let (status, body) = get(target, Kind::Tcp, &views);
            assert!(status == 200 && body.contains('b') && !body.contains("secret"), "{target}: {body}");
        }
        let one: View = serde_json::from_str(&get("/v1/containers/b", Kind::Read, &views).1).unwrap();
        assert_eq!(one, views[1]);
    }

    #[test]
    fn events_go_on_after_the_last_one() {
        let views = some();
        let (_, body) = get("/v1/events?id=a&since=7", Kind::Tcp, &views);
        assert_eq!(
            body,
            "{\"id\":\"a.8\",\"data\":{\"probes\":[{}],\"n\":[8]}}\n{\"id\":\"a.9\",\"data\":{\"probes\":[{}],\"n\":[9]}}\n"
        );
        assert_eq!(get("/v1/events?since=7", Kind::Read, &views[..1]).1.lines().count(), 2);
        for target in ["/v1/events", "/v1/events?id=a&since=-1"] {
            assert_eq!(get(target, Kind::Read, &views).0, 400, "{target}");
        }
    }

    #[test]
    fn what_changes_something_is_for_the_control_socket() {
        let views = some();
        let stop = |timeout| Action::Stop { id: "a".into(), timeout };
        for (target, action) in [
            ("/v1/containers/a/stop", stop(None)),
            ("/v1/containers/a/stop?timeout=0.5", stop(Some(Duration::from_millis(500)))),
            ("/v1/containers/a/restart", Action::Restart { id: "a".into() }),
            ("/v1/containers/a/kill", Action::Kill { id: "a".into(), signal: "SIGTERM".into() }),
            ("/v1/containers/a/kill?signal=9", Action::Kill { id: "a".into(), signal: "9".into() }),
            ("/v1/upgrade", Action::Upgrade),
            ("/v1/shutdown", Action::Shutdown),
        ] {
            assert_eq!(ask("POST", target, Kind::Control, &views), Answer::Action(action), "{target}");
            for kind in [Kind::Read, Kind::Tcp] {
                assert!(matches!(ask("POST", target, kind, &views), Answer::Response(no) if no.status == 403));
            }
            let Answer::Response(no) = ask("GET", target, Kind::Control, &views) else { panic!("{target}") };
            assert_eq!((no.status, no.headers), (405, vec![("Allow", "POST".to_owned())]));
        }
        for (target, status) in [
            ("/v1/containers/d/stop", 404),
            ("/v1/containers/a/stop?timeout=-1", 400),
            ("/v1/containers/a/stop?timeout=NaN", 400),
            ("/v1/containers/a/stop?timeout=1e9", 400),
            ("/v1/containers/a/stop?signal=9", 400),
            ("/v1/containers/a/kill?signal=NO", 400),
            ("/v1/upgrade?x", 400),
            ("/v1/containers/a/delete", 404),
            ("/v1/containers/", 405),
            ("/livez", 405),
        ] {
            assert!(
                matches!(ask("POST", target, Kind::Control, &views), Answer::Response(no) if no.status == status),
                "{target}"
            );
        }
    }
}
