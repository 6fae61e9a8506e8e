//! What a bundle wants of its supervisor: `health.json` beside its `config.json`, and annotations `org.orlop.health.KEY`, whose
//! values are those of the file's keys as JSON. The annotation has the last word.
//!
//! Everything is read and checked before anything starts; what is not understood is one error at its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::flight::Where;
use super::health::Summary;
use super::lease;
use super::probe::Schedule;
use super::push::{Heartbeat, Told};
use super::restart::{Policy, When};
use crate::error::{Error, Result};

/// What an annotation begins with.
pub const PREFIX: &str = "org.orlop.health.";
/// No time is longer than this: a year.
const LONGEST: f64 = 366.0 * 86_400.0;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Until it passes, the others are not made, and the container is starting.
    pub startup: Option<Check>,
    /// Fails: it should be started again.
    pub liveness: Option<Check>,
    /// Fails: it should be sent no work.
    pub readiness: Option<Check>,
    /// What follows an exit.
    pub restart: Policy,
    /// How it is stopped.
    pub stop: Stop,
    /// Where its output goes.
    pub log: Option<Log>,
    /// Programs that are told of its state.
    pub push: Vec<Told>,
    /// Who hears that it lives.
    pub heartbeat: Option<Heartbeat>,
    /// What it must hold to run.
    pub lease: Option<lease::Wanted>,
}

/// A probe and when it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// How.
    pub how: How,
    /// When.
    pub schedule: Schedule,
}

/// How a container is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// A program in the container: 0 is a yes.
    Exec(Vec<String>),
    /// A GET from the container's network namespace: 200 to 399 is a yes.
    Http {
        /// An address of the container.
        host: String,
        /// Its port.
        port: u16,
        /// With its query.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// A connection from the container's network namespace.
    Tcp {
        /// An address of the container.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A share of time in which its tasks stand still: less than `percent` is a yes.
    Psi {
        /// cpu, memory or io.
        resource: &'static str,
        /// All tasks at once (`full`), or any (`some`).
        full: bool,
        /// The average of ten seconds.
        percent: u8,
    },
    /// The program says so itself: `READY=1` for startup and readiness, `WATCHDOG=1` in each period for liveness (sd_notify(3)).
    Notify,
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// What it is sent first.
    pub signal: String,
    /// After that its cgroup is killed.
    pub timeout: Duration,
    /// So long it is said to be stopping before it is sent anything, so that it gets no new work and ends what it has.
    pub drain: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: "TERM".to_owned(), timeout: Duration::from_secs(10), drain: Duration::ZERO }
    }
}

/// Files of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The newest one; older ones have `.1` and so on behind it.
    pub path: std::path::PathBuf,
    /// A file is begun anew before it is larger than this.
    pub max_bytes: u64,
    /// So many are kept beside the newest.
    pub keep: u32,
}

/// Reads both. `file`: the text of health.json, if there is one.
///
/// # Errors
/// The first thing that is not understood, at its place in the file (a pointer) or at its annotation.
pub fn read(file: Option<&[u8]>, annotations: &BTreeMap<String, String>) -> Result<Config> {
    let mut keys: Map<String, Value> = match file {
        None => Map::new(),
        Some(text) => serde_json::from_slice(text)
            .map_err(|error| Error::new(format!("health.json is no JSON object: {error}")))?,
    };
    let mut places: BTreeMap<String, String> =
        keys.keys().map(|key| (key.clone(), format!("health.json /{key}"))).collect();
    for (name, value) in annotations {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let place = format!("/annotations/{name}");
        // A bare word is a text: `always` need not be quoted twice.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
        keys.insert(key.to_owned(), value);
        places.insert(key.to_owned(), place);
    }
    let mut config = Config::default();
    for (key, value) in keys {
        let place = places.remove(&key).unwrap_or_default();
        one(&mut config, &key, value, &place)?;
    }
    Ok(config)
}

impl Config {
    /// What the bundle in a directory says.
    ///
    /// # Errors
    /// Its config.json or health.json can't be read, or is not understood.
    pub fn of_bundle(bundle: &std::path::Path) -> Result<Self> {
        let loaded = crate::bundle::Bundle::load(bundle)?;
        let annotations = loaded.spec.annotations().clone().unwrap_or_default().into_iter().collect();
        let path = loaded.dir.join("health.json");
        let file = match std::fs::read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(Error::new(format!("read {}", path.display())).call("open", crate::host::errno(&error)));
            }
        };
        read(file.as_deref(), &annotations)
    }
}

fn one(config: &mut Config, key: &str, value: Value, place: &str) -> Result<()> {
    match key {
        "startup" => config.startup = Some(check(value, place, false)?),
        "liveness" => config.liveness = Some(check(value, place, true)?),
        "readiness" => config.readiness = Some(check(value, place, false)?),
        "restart" => config.restart = restart(value, place)?,
        "stop" => config.stop = stop(parse(value, place)?, place)?,
        "log" => config.log = Some(log(parse(value, place)?, place)?),
        "push" => config.push = push(parse(value, place)?, place)?,
        "heartbeat" => config.heartbeat = Some(heartbeat(parse(value, place)?, place)?),
        "lease" => config.lease = Some(lease(parse(value, place)?, place)?),
        _ => {
            return Err(Error::new(format!("unknown key {key:?}"))
                .at(place)
                .hint("startup, liveness, readiness, restart, stop, log, push, heartbeat and lease are known"));
        }
    }
    Ok(())
}

/// The value as `T`, with the place of what is wrong in it.
fn parse<T: for<'a> Deserialize<'a>>(value: Value, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below: String = match error.path().to_string().as_str() {
            "." => String::new(),
            path => path.split('.').map(|part| format!("/{part}")).collect(),
        };
        Error::new(error.inner().to_string()).at(format!("{place}{below}"))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CheckText {
    exec: Option<ExecText>,
    http_get: Option<HttpText>,
    tcp_socket: Option<TcpText>,
    notify: Option<NotifyText>,
    psi: Option<PsiText>,
    initial_delay_seconds: Option<f64>,
    period_seconds: Option<f64>,
    timeout_seconds: Option<f64>,
    success_threshold: Option<u32>,
    failure_threshold: Option<u32>,
    /// Ours: `[M, N]`.
    failure_window: Option<(u32, u32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecText {
    command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpText {
    host: Option<String>,
    port: u16,
    path: Option<String>,
    #[serde(default)]
    http_headers: Vec<HeaderText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderText {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpText {
    host: Option<String>,
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyText {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PsiText {
    resource: String,
    kind: Option<String>,
    percent: u8,
}

/// `liveness`: kubelet takes no other threshold of successes than 1 there, since the first one ends the fault.
fn check(value: Value, place: &str, liveness: bool) -> Result<Check> {
    let text: CheckText = parse(value, place)?;
    let default = Schedule::default();
    let seconds = |value: Option<f64>, name: &str, least: f64, default: Duration| match value {
        None => Ok(default),
        Some(seconds) if seconds >= least && seconds <= LONGEST => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => {
            Err(Error::new(format!("{name} must be from {least} seconds to a year")).at(format!("{place}/{name}")))
        }
    };
    let schedule = Schedule {
        initial_delay: seconds(text.initial_delay_seconds, "initialDelaySeconds", 0.0, default.initial_delay)?,
        period: seconds(text.period_seconds, "periodSeconds", 0.1, default.period)?,
        timeout: seconds(text.timeout_seconds, "timeoutSeconds", 0.01, default.timeout)?,
        success_threshold: text.success_threshold.unwrap_or(default.success_threshold),
        failure_threshold: text.failure_threshold.unwrap_or(default.failure_threshold),
        window: text.failure_window,
    };
    let bad = |name: &str, why: &str| Err(Error::new(format!("{name} {why}")).at(format!("{place}/{name}")));
    if schedule.success_threshold == 0 || schedule.failure_threshold == 0 {
        let name = if schedule.success_threshold == 0 { "successThreshold" } else { "failureThreshold" };
        return bad(name, "must be at least 1");
    }
    if liveness && schedule.success_threshold != 1 {
        return bad("successThreshold", "of liveness is 1");
    }
    if schedule.window.is_some_and(|(bad, of)| bad == 0 || bad > of || of > 64) {
        return bad("failureWindow", "is [M, N] with M of the last N, at most 64");
    }
    Ok(Check { how: how(text, place)?, schedule })
}

fn how(text: CheckText, place: &str) -> Result<How> {
    let host = |host: Option<String>| host.unwrap_or_else(|| "127.0.0.1".to_owned());
    let plain = |text: &str, at: &str| match text.bytes().any(|byte| byte.is_ascii_control()) {
        true => Err(Error::new("control characters").at(format!("{place}{at}"))),
        false => Ok(()),
    };
    match (text.exec, text.http_get, text.tcp_socket, text.notify, text.psi) {
        (Some(exec), None, None, None, None) => match exec.command.first().is_some_and(|program| !program.is_empty()) {
            true => Ok(How::Exec(exec.command)),
            false => Err(Error::new("command must not be empty").at(format!("{place}/exec/command"))),
        },
        (None, Some(http), None, None, None) => {
            let path = http.path.unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') || path.contains(' ') {
                return Err(Error::new("path must begin with / and hold no space").at(format!("{place}/httpGet/path")));
            }
            plain(&path, "/httpGet/path")?;
            for header in &http.http_headers {
                plain(&header.name, "/httpGet/httpHeaders")?;
                plain(&header.value, "/httpGet/httpHeaders")?;
            }
            let headers = http.http_headers.into_iter().map(|header| (header.name, header.value)).collect();
            Ok(How::Http { host: address(host(http.host), place, "httpGet")?, port: http.port, path, headers })
        }
        (None, None, Some(tcp), None, None) => {
            Ok(How::Tcp { host: address(host(tcp.host), place, "tcpSocket")?, port: tcp.port })
        }
        (None, None, None, Some(NotifyText {}), None) => Ok(How::Notify),
        (None, None, None, None, Some(psi)) => pressure(&psi, place),
        _ => Err(Error::new("one of exec, httpGet, tcpSocket, notify and psi must say how").at(place)),
    }
}

fn pressure(text: &PsiText, place: &str) -> Result<How> {
    let bad = |at: &str, why: &str| Error::new(why).at(format!("{place}/psi/{at}"));
    let resource = ["cpu", "memory", "io"].into_iter().find(|name| *name == text.resource);
    let resource = resource.ok_or_else(|| bad("resource", "cpu, memory and io have pressure"))?;
    let full = match text.kind.as_deref() {
        None | Some("some") => false,
        Some("full") => true,
        Some(_) => return Err(bad("kind", "it is some or full")),
    };
    match text.percent {
        1..=100 => Ok(How::Psi { resource, full, percent: text.percent }),
        _ => Err(bad("percent", "it is from 1 to 100")),
    }
}

/// Names are not looked up: a resolver could keep the supervisor waiting.
fn address(host: String, place: &str, of: &str) -> Result<String> {
    match host.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(host),
        Err(_) => Err(Error::new(format!("{host:?} is not an IP address"))
            .at(format!("{place}/{of}/host"))
            .hint("an address of the container; names are not looked up")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RestartText {
    policy: String,
    retries: Option<u32>,
    first_delay_seconds: Option<f64>,
    longest_delay_seconds: Option<f64>,
    reset_seconds: Option<f64>,
}

/// `"always"`, or an object with that as its `policy`.
fn restart(value: Value, place: &str) -> Result<Policy> {
    let text: RestartText = match value {
        Value::String(policy) => RestartText {
            policy,
            retries: None,
            first_delay_seconds: None,
            longest_delay_seconds: None,
            reset_seconds: None,
        },
        value => parse(value, place)?,
    };
    let when = match text.policy.as_str() {
        "no" => When::No,
        "on-failure" => When::OnFailure,
        "always" => When::Always,
        other => {
            return Err(Error::new(format!("unknown policy {other:?}"))
                .at(place)
                .hint("no, on-failure and always are known"));
        }
    };
    let default = Policy::default();
    let seconds = |value: Option<f64>, name: &str, default: Duration| match value {
        None => Ok(default),
        Some(seconds) if (0.01..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(Error::new(format!("{name} must be from 0.01 seconds to a year")).at(format!("{place}/{name}"))),
    };
    let policy = Policy {
        when,
        retries: text.retries,
        first: seconds(text.first_delay_seconds, "firstDelaySeconds", default.first)?,
        longest: seconds(text.longest_delay_seconds, "longestDelaySeconds", default.longest)?,
        reset: seconds(text.reset_seconds, "resetSeconds", default.reset)?,
        ..default
    };
    match policy.first <= policy.longest {
        true => Ok(policy),
        false => {
            Err(Error::new("the longest delay is shorter than the first").at(format!("{place}/longestDelaySeconds")))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StopText {
    signal: Option<String>,
    timeout_seconds: Option<f64>,
    drain_seconds: Option<f64>,
}

fn stop(text: StopText, place: &str) -> Result<Stop> {
    let default = Stop::default();
    let timeout = match text.timeout_seconds {
        None => default.timeout,
        Some(seconds) if (0.0..=LONGEST).contains(&seconds) => Duration::from_secs_f64(seconds),
        Some(_) => {
            return Err(
                Error::new("timeoutSeconds must be from 0 seconds to a year").at(format!("{place}/timeoutSeconds"))
            );
        }
    };
    let drain = match text.drain_seconds {
        None => default.drain,
        Some(seconds) if seconds == 0.0 || (seconds > 0.0 && seconds < timeout.as_secs_f64()) => {
            Duration::from_secs_f64(seconds)
        }
        Some(_) => {
            return Err(Error::new("drainSeconds must be less than timeoutSeconds, of which it is a part")
                .at(format!("{place}/drainSeconds")));
        }
    };
    let signal = text.signal.unwrap_or(default.signal);
    crate::commands::signal(&signal).map_err(|error| error.at(format!("{place}/signal")))?;
    Ok(Stop { signal, timeout, drain })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LogText {
    path: std::path::PathBuf,
    max_bytes: Option<u64>,
    keep: Option<u32>,
}

fn log(text: LogText, place: &str) -> Result<Log> {
    let log = Log { path: text.path, max_bytes: text.max_bytes.unwrap_or(16 << 20), keep: text.keep.unwrap_or(3) };
    if !log.path.is_absolute() {
        return Err(Error::new("path must be absolute").at(format!("{place}/path")));
    }
    // Less than a page would be begun anew at every write; more files than this are never looked at.
    if log.max_bytes < 4096 || log.keep > 1000 {
        return Err(Error::new("maxBytes is 4096 at least, keep 1000 at most").at(place));
    }
    Ok(log)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PushText {
    on: Option<Vec<Summary>>,
    exec: Vec<String>,
    timeout_seconds: Option<f64>,
}

/// A hook's time is in whole seconds.
fn push(texts: Vec<PushText>, place: &str) -> Result<Vec<Told>> {
    let one = |(index, text): (usize, PushText)| {
        let at = |name: &str| format!("{place}/{index}/{name}");
        if !text.exec.first().is_some_and(|program| program.starts_with('/')) {
            return Err(Error::new("the program must be an absolute path").at(at("exec")));
        }
        let timeout = match text.timeout_seconds {
            None => Duration::from_secs(10),
            Some(seconds) if (1.0..=3600.0).contains(&seconds) => Duration::from_secs(seconds as u64),
            Some(_) => return Err(Error::new("it must be from a second to an hour").at(at("timeoutSeconds"))),
        };
        Ok(Told { on: text.on, exec: text.exec, timeout })
    };
    if texts.len() > 16 {
        return Err(Error::new("more than 16 programs").at(place));
    }
    texts.into_iter().enumerate().map(one).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HeartbeatText {
    url: String,
    method: Option<String>,
    header_file: Option<std::path::PathBuf>,
    body: Option<String>,
    period_seconds: Option<f64>,
    timeout_seconds: Option<f64>,
}

/// `http://ADDRESS:PORT/PATH`, or `unix:///SOCKET:/PATH`. TLS is for a proxy: no key lies in a process per container.
fn heartbeat(text: HeartbeatText, place: &str) -> Result<Heartbeat> {
    let bad = |name: &str, why: &str| Error::new(why).at(format!("{place}/{name}"));
    let url =
        || bad("url", "it must be http://ADDRESS:PORT/PATH or unix:///SOCKET:/PATH").hint("names are not looked up");
    if text.url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(url());
    }
    let (to, host, path) = if let Some(rest) = text.url.strip_prefix("unix://") {
        let (socket, path) = rest.split_once(":/").ok_or_else(url)?;
        if !socket.starts_with('/') {
            return Err(url());
        }
        (Where::Unix(socket.into()), "localhost".to_owned(), format!("/{path}"))
    } else {
        let rest = text.url.strip_prefix("http://").ok_or_else(url)?;
        let (host, path) = rest.split_once('/').ok_or_else(url)?;
        (Where::Tcp(host.parse().map_err(|_| url())?), host.to_owned(), format!("/{path}"))
    };
    let method = text.method.unwrap_or_else(|| "PUT".to_owned());
    if !["PUT", "POST", "GET"].contains(&method.as_str()) {
        return Err(bad("method", "it is PUT, POST or GET"));
    }
    if text.header_file.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(bad("headerFile", "it must be absolute"));
    }
    let seconds = |name: &str, value: Option<f64>, default: f64| match value.unwrap_or(default) {
        seconds if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(bad(name, "it must be from 0.1 seconds to a day")),
    };
    Ok(Heartbeat {
        to,
        host,
        path,
        method,
        header_file: text.header_file,
        body: text.body.unwrap_or_default(),
        period: seconds("periodSeconds", text.period_seconds, 10.0)?,
        timeout: seconds("timeoutSeconds", text.timeout_seconds, 2.0)?,
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Endpoints {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LeaseText {
    etcd: Endpoints,
    key: String,
    ttl_seconds: Option<u64>,
    header_file: Option<std::path::PathBuf>,
}

/// etcd's endpoints are `http://ADDRESS:PORT`; as for a heartbeat, TLS is for a proxy.
fn lease(text: LeaseText, place: &str) -> Result<lease::Wanted> {
    let bad = |name: &str, why: &str| Error::new(why).at(format!("{place}/{name}"));
    let one = |url: String| {
        let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/').to_owned());
        let address = host.as_ref().and_then(|host| host.parse().ok());
        let wrong = || bad("etcd", "it must be http://ADDRESS:PORT").hint("names are not looked up");
        address.map(Where::Tcp).zip(host).ok_or_else(wrong)
    };
    let etcd: Vec<_> = match text.etcd {
        Endpoints::One(url) => vec![one(url)?],
        Endpoints::Several(urls) => urls.into_iter().map(one).collect::<Result<_>>()?,
    };
    if etcd.is_empty() || etcd.len() > 16 {
        return Err(bad("etcd", "it has from 1 to 16 endpoints"));
    }
    if text.key.is_empty() || text.key.len() > 1024 || text.key.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(bad("key", "it is from 1 to 1024 bytes without control characters"));
    }
    // etcd counts whole seconds. A day is enough for any of them.
    let ttl = match text.ttl_seconds.unwrap_or(10) {
        seconds @ 1..=86_400 => Duration::from_secs(seconds),
        _ => return Err(bad("ttlSeconds", "it must be from a second to a day")),
    };
    if text.header_file.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(bad("headerFile", "it must be absolute"));
    }
    Ok(lease::Wanted { etcd, key: text.key, ttl, header_file: text.header_file })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(value: Value) -> Result<Config> {
        read(Some(value.to_string().as_bytes()), &BTreeMap::new())
    }

    #[test]
    fn kubelets_fields_have_kubelets_defaults() {
        let config = file(json!({"liveness": {"exec": {"command": ["/bin/check"]}}})).unwrap();
        let check = config.liveness.unwrap();
        assert_eq!(check.how, How::Exec(vec!["/bin/check".into()]));
        let Schedule { initial_delay, period, timeout, success_threshold, failure_threshold, window } = check.schedule;
        assert_eq!((initial_delay.as_secs(), period.as_secs(), timeout.as_secs()), (0, 10, 1));
        assert_eq!((success_threshold, failure_threshold, window), (1, 3, None));
        let http = json!({"readiness": {"httpGet": {"port": 80, "path": "/ok"}, "periodSeconds": 0.5}});
        let config = file(http).unwrap();
        let How::Http { host, port, path, .. } = config.readiness.unwrap().how else { panic!("http") };
        assert_eq!((host.as_str(), port, path.as_str()), ("127.0.0.1", 80, "/ok"));
    }

    #[test]
    fn an_annotation_has_the_last_word() {
        let annotations = |restart: &str| BTreeMap::from([(format!("{PREFIX}restart"), restart.to_owned())]);
        let of =
            |restart: &str| read(Some(br#"{"restart": "always"}"#), &annotations(restart)).map(|all| all.restart.when);
        assert_eq!(of("on-failure"), Ok(When::OnFailure));
        assert_eq!(of("\"no\""), Ok(When::No));
        assert_eq!(of(r#"{"policy": "always", "retries": 3}"#), Ok(When::Always));
        let error = of("sometimes").unwrap_err();
        assert_eq!(error.pointer.as_deref(), Some("/annotations/org.orlop.health.restart"));
        assert!(read(None, &BTreeMap::from([("org.other".into(), "x".into())])) == Ok(Config::default()));
    }

    #[test]
    fn what_is_not_understood_is_an_error_at_its_place() {
        for (value, place) in [
            (json!({"alive": {}}), "health.json /alive"),
            (json!({"liveness": {}}), "health.json /liveness"),
            (json!({"liveness": {"exec": {"command": []}}}), "health.json /liveness/exec/command"),
            (json!({"liveness": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}), "health.json /liveness"),
            (json!({"liveness": {"tcpSocket": {"port": 65536}}}), "health.json /liveness/tcpSocket/port"),
            (json!({"liveness": {"tcpSocket": {"port": 1, "host": "db"}}}), "health.json /liveness/tcpSocket/host"),
            (json!({"liveness": {"notify": {}, "periodSeconds": 0}}), "health.json /liveness/periodSeconds"),
            (json!({"liveness": {"notify": {}, "successThreshold": 2}}), "health.json /liveness/successThreshold"),
            (json!({"liveness": {"notify": {}, "failureWindow": [5, 4]}}), "health.json /liveness/failureWindow"),
            (json!({"liveness": {"notify": {}, "period": 1}}), "health.json /liveness/period"),
            (json!({"startup": {"httpGet": {"port": 1, "path": "ok"}}}), "health.json /startup/httpGet/path"),
            (json!({"startup": {"httpGet": {"port": 1, "path": "/a\r\nb"}}}), "health.json /startup/httpGet/path"),
            (
                json!({"restart": {"policy": "always", "firstDelaySeconds": 400}}),
                "health.json /restart/longestDelaySeconds",
            ),
            (json!({"stop": {"timeoutSeconds": -1}}), "health.json /stop/timeoutSeconds"),
            (json!({"stop": {"drainSeconds": 10}}), "health.json /stop/drainSeconds"),
            (json!({"stop": {"drainSeconds": -1}}), "health.json /stop/drainSeconds"),
            (json!({"log": {"path": "out"}}), "health.json /log/path"),
            (json!({"log": {"path": "/out", "maxBytes": 1}}), "health.json /log"),
            (json!({"lease": {"key": "/k"}}), "health.json /lease"),
            (json!({"lease": {"etcd": "http://etcd:2379", "key": "/k"}}), "health.json /lease/etcd"),
            (json!({"lease": {"etcd": ["http://[::1]:1", "https://[::1]:2"], "key": "/k"}}), "health.json /lease/etcd"),
            (json!({"lease": {"etcd": [], "key": "/k"}}), "health.json /lease/etcd"),
            (json!({"lease": {"etcd": "http://[::1]:1", "key": ""}}), "health.json /lease/key"),
            (
                json!({"lease": {"etcd": "http://[::1]:1/", "key": "k", "ttlSeconds": 0}}),
                "health.json /lease/ttlSeconds",
            ),
            (
                json!({"lease": {"etcd": "http://[::1]:1", "key": "k", "ttlSeconds": 1.5}}),
                "health.json /lease/ttlSeconds",
            ),
            (
                json!({"lease": {"etcd": "http://[::1]:1", "key": "k", "headerFile": "t"}}),
                "health.json /lease/headerFile",
            ),
        ] {
            let error = file(value.clone()).expect_err(&value.to_string());
            assert_eq!(error.pointer.as_deref(), Some(place), "{value}: {error:?}");
        }
        assert!(read(Some(b"[]"), &BTreeMap::new()).is_err());
    }
}
