//! Several supervised containers in one directory, and `orlop-shim node` beside them.
#![allow(dead_code)] // each test binary uses its own part

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Bundle, Running, begin};

/// A directory of supervisors, gone when it is dropped.
pub struct Place {
    /// Room for more files.
    pub base: PathBuf,
}

/// A process of ours that is asked to end when it is dropped, and waited for.
pub struct Process(Option<Running>);

impl Place {
    pub fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("orlop-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir(&base).expect("a directory");
        Self { base }
    }

    /// `orlop-shim --directory DIR WORDS...`.
    pub fn shim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop-shim"));
        command.arg("--directory").arg(self.base.join("shims")).args(words).stdin(Stdio::null());
        command
    }

    /// A bundle under its supervisor, by these words of health.json.
    pub fn supervise(&self, bundle: &Bundle, health: &str, words: &[&str]) -> Process {
        fs::write(bundle.dir.join("health.json"), health).expect("health.json");
        let mut command = self.shim(&["run", "--root"]);
        command.arg(&bundle.store).args(words).arg(&bundle.dir).arg(&bundle.id);
        Process(Some(begin(command)))
    }

    /// The node, which asks ten times a second.
    pub fn node(&self, words: &[&str]) -> Process {
        self.node_of(Path::new(""), words)
    }

    /// The same for a manager that listens there.
    pub fn node_of(&self, manager: &Path, words: &[&str]) -> Process {
        let mut command = self.shim(&[&["node", "--period", "0.1"], words].concat());
        command.env("NOTIFY_SOCKET", manager);
        Process(Some(begin(command)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.as_ref().expect("a process").child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill").success());
    }

    /// Sends a signal and waits for the end: its status and what it has said.
    pub fn end(mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        let ended = self.0.take().expect("a process").end();
        (ended.code, ended.stdout() + &ended.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            for name in ["CONT", "TERM"] {
                let _ = Command::new("kill").arg(format!("-{name}")).arg(running.child.id().to_string()).status();
            }
            running.end();
        }
    }
}

/// A request to a port of the loopback interface: the status and the body; None: nobody answers.
pub fn ask(port: u16, request: &str, fields: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let host = if fields.contains("Host:") { "" } else { "Host: localhost\r\n" };
    write!(stream, "{request} HTTP/1.1\r\n{host}{fields}Connection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// The same with GET; it must be answered.
#[track_caller]
pub fn get(port: u16, target: &str) -> (u16, String) {
    ask(port, &format!("GET {target}"), "").expect("an answer")
}

/// In the network that the test is in.
pub fn without_network(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
    })
}

/// Makes a file that only its user can read.
pub fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a secret");
}
