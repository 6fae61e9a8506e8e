//! HAProxy itself, with the configuration in examples/haproxy: whom it sends work to.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, begin, free_port};
use serde_json::json;

struct Proxy {
    child: Child,
    stats: PathBuf,
    port: u16,
}

impl Proxy {
    /// The example's own file, with other ports and another socket.
    fn new(directory: &Path, program: u16, supervisor: u16) -> Self {
        let (port, stats) = (free_port(), directory.join("haproxy.sock"));
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/haproxy/haproxy.cfg");
        let config = fs::read_to_string(example).expect("haproxy.cfg");
        let config = config.replace("/run/haproxy/orlop.sock", &stats.to_string_lossy());
        let config = config.replace(":8080", &format!(":{program}")).replace("9180", &supervisor.to_string());
        let config = config.replace(":8000", &format!(":{port}")).replace("inter 500ms", "inter 50ms");
        let path = directory.join("haproxy.cfg");
        fs::write(&path, config).expect("haproxy.cfg");
        let child =
            Command::new("haproxy").arg("-db").arg("-f").arg(path).stdin(Stdio::null()).spawn().expect("haproxy");
        Self { child, stats, port }
    }

    /// The status of the one server, and its weight.
    fn server(&self) -> Option<(String, String)> {
        let mut socket = UnixStream::connect(&self.stats).ok()?;
        socket.write_all(b"show stat\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.starts_with("containers,web,"))?;
        let fields: Vec<&str> = line.split(',').collect();
        Some((fields[17].to_owned(), fields[18].to_owned()))
    }

    fn is(&self, status: &str) -> bool {
        self.server().is_some_and(|(found, weight)| found == status && weight == "1")
    }

    /// A request through the proxy: its status.
    fn ask(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn soon(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within half a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn work_goes_to_a_container_that_is_ready_and_to_no_other() {
    let (program, supervisor) = (free_port(), free_port());
    let script = format!(
        "mkdir /tmp/www; echo it works > /tmp/www/index.html; exec httpd -f -p 127.0.0.1:{program} -h /tmp/www"
    );
    // In the network that the proxy is in.
    let bundle = Bundle::script(&script).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    let readiness = json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 5});
    let health = json!({"readiness": readiness, "stop": {"timeoutSeconds": 0.1}});
    fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let proxy = Proxy::new(&bundle.dir, program, supervisor);
    soon(|| proxy.is("DOWN"));

    let mut shim = Command::new(env!("CARGO_BIN_EXE_orlop-shim"));
    shim.arg("--directory").arg(bundle.dir.join("shims")).args([
        "run",
        "--listen",
        &format!("127.0.0.1:{supervisor}"),
        "--root",
    ]);
    shim.arg(&bundle.store).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let shim = begin(shim);
    // Its program answers, and it is not ready: no work, whoever asks.
    soon(|| TcpStream::connect(("127.0.0.1", program)).is_ok() && bundle.status() == "running");
    std::thread::sleep(Duration::from_millis(300));
    assert!(proxy.is("DOWN"));
    assert_eq!(proxy.ask(), Some(503));
    fs::write(bundle.rootfs("tmp/ready"), "").expect("write");
    soon(|| proxy.is("UP"));
    assert_eq!(proxy.ask(), Some(200));
    fs::remove_file(bundle.rootfs("tmp/ready")).expect("remove");
    soon(|| proxy.is("DOWN"));
    fs::write(bundle.rootfs("tmp/ready"), "").expect("write");
    soon(|| proxy.is("UP"));
    // What is frozen takes none, and what goes on does.
    bundle.on("pause", &[]).well();
    soon(|| proxy.is("DOWN"));
    bundle.on("resume", &[]).well();
    soon(|| proxy.is("UP"));
    let _ = Command::new("kill").arg(shim.child.id().to_string()).status();
    shim.end();
    soon(|| proxy.is("DOWN"));
    assert_eq!(proxy.ask(), Some(503));
}
