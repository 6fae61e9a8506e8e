//! Prometheus and what it is given: the rules in examples/prometheus by promtool, and a scrape by the server itself.

mod common;
#[path = "common/node.rs"]
mod node;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, free_port, outcome};
use node::Place;
use serde_json::{Value, json};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus")
}

#[test]
fn the_rules_are_valid_and_fire_when_they_should() {
    for words in [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]] {
        let mut command = Command::new("promtool");
        command.args(words).current_dir(examples());
        outcome(command).well();
    }
}

/// Ended when it is dropped.
struct Server(Child);

impl Server {
    /// With the prometheus.yml of a directory.
    fn new(directory: &Path, port: u16) -> Self {
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(server.expect("prometheus"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the server at `port` says to a query, as its values by their labels; None as long as it does not answer.
fn query(port: u16, query: &str) -> Option<Vec<Value>> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    body["data"]["result"].as_array().cloned()
}

#[track_caller]
fn soon(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_scrapes_a_supervisor_and_its_rules_see_a_failure() {
    let bundle = Bundle::script("while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 3");
    let health = json!({"restart": {"policy": "always", "firstDelaySeconds": 600, "longestDelaySeconds": 600}});
    fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let (port, server_port) = (free_port(), free_port());
    let mut shim = Command::new(env!("CARGO_BIN_EXE_orlop-shim"));
    shim.arg("--directory").arg(bundle.dir.join("shims")).args([
        "run",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--root",
    ]);
    shim.arg(&bundle.store).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let shim = common::begin(shim);

    // The example's own files, with this port, and minutes as seconds.
    let config = fs::read_to_string(examples().join("prometheus.yml")).expect("prometheus.yml");
    let config = config
        .replace("9180", &port.to_string())
        .replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s");
    let rules = fs::read_to_string(examples().join("alerts.yml")).expect("alerts.yml").replace("for: 1m", "for: 1s");
    fs::write(bundle.dir.join("prometheus.yml"), config).expect("prometheus.yml");
    fs::write(bundle.dir.join("alerts.yml"), rules).expect("alerts.yml");
    let server = Server::new(&bundle.dir, server_port);

    let id = &bundle.id;
    let value = |text: &str| -> Option<String> {
        let found = query(server_port, text)?;
        Some(found.first()?["value"][1].as_str()?.to_owned())
    };
    let state = |state: &str| format!("orlop_container_state{{id=\"{id}\",state=\"{state}\"}}");
    soon(|| value(&state("healthy")).as_deref() == Some("1"));
    assert_eq!(value(&state("failed")).as_deref(), Some("0"));
    // By a name that dashboards for cAdvisor know.
    let started = value(&format!("container_start_time_seconds{{id=\"{id}\"}}")).expect("a start time");
    assert!(started.parse::<f64>().is_ok_and(|started| started > 1.7e9), "{started}");
    fs::write(bundle.rootfs("tmp/end"), "").expect("write");
    soon(|| value(&state("failed")).as_deref() == Some("1"));
    let alert = format!("ALERTS{{alertname=\"ContainerDown\",alertstate=\"firing\",id=\"{id}\",state=\"failed\"}}");
    soon(|| value(&alert).as_deref() == Some("1"));
    let exit = format!("orlop_container_last_exit_info{{id=\"{id}\"}}");
    let labels = query(server_port, &exit).expect("an answer")[0]["metric"].clone();
    assert_eq!((&labels["kind"], &labels["code"]), (&json!("code"), &json!("3")));

    // Without the port nothing is scraped, and that is seen.
    let _ = Command::new("kill").arg(shim.child.id().to_string()).status();
    shim.end();
    soon(|| value("ALERTS{alertname=\"SupervisorGone\",alertstate=\"firing\"}").as_deref() == Some("1"));
    drop(server);
}

/// By what the page shows, with another address and another file.
#[test]
fn a_server_scrapes_a_node_with_its_token() {
    let place = Place::new("prometheus-node");
    let bundle = Bundle::sleeper();
    let _shim = place.supervise(&bundle, r#"{"stop": {"timeoutSeconds": 0.1}}"#, &[]);
    let (port, server_port, token) = (free_port(), free_port(), place.base.join("token"));
    node::secret(&token, "0123456789abcdef0123456789abcdef\n");
    let token = token.to_str().expect("UTF-8");
    let _node = place.node(&["--listen", &format!("127.0.0.1:{port}"), "--bearer-file", token]);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cluster/prometheus.md");
    let page = fs::read_to_string(page).expect("the page");
    let shown = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a configuration");
    let config = shown.replace("192.0.2.1:9181", &format!("127.0.0.1:{port}"));
    assert!(config.contains("/etc/prometheus/orlop-token"));
    let config = config.replace("/etc/prometheus/orlop-token", token);
    fs::write(place.base.join("prometheus.yml"), format!("global: {{scrape_interval: 1s}}\n{config}")).expect("write");
    let _server = Server::new(&place.base, server_port);
    let query = |text: &str| query(server_port, text).unwrap_or_default();
    let state = format!("orlop_container_state{{job=\"orlop\",id=\"{}\",state=\"healthy\"}} == 1", bundle.id);
    soon(|| query(&state).len() == 1);
    // Another token than the node's scrapes nothing.
    fs::write(token, "fedcba9876543210fedcba9876543210\n").expect("write");
    soon(|| query("up{job=\"orlop\"} == 0").len() == 1);
}
