//! Where a probe works: a bundle with an image of its own, a runtime, and decoys outside that nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Bundle, Outcome, Running, begin, outcome};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The runtime holds: how.
    Held(String),
    /// Something got through: what.
    Open(String),
    /// It can't be said here: why.
    Unknown(String),
}

/// One probe's ground.
pub struct Place {
    pub runtime: PathBuf,
    pub bundle: Bundle,
    /// A directory of the host with a canary in it.
    pub decoy: PathBuf,
}

pub const CANARY: &str = "a canary of the host";

impl Place {
    pub fn new(runtime: &Path) -> Self {
        let bundle = Bundle::new().edit(|config| {
            // As engines have it; a probe of one guard takes what it needs.
            config["process"]["noNewPrivileges"] = json!(true);
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
            });
            // What the control knows of.
            config["ociVersion"] = json!("1.0.2");
        });
        let decoy = bundle.dir.join("decoy");
        fs::create_dir(&decoy).expect("a decoy");
        fs::write(decoy.join("canary"), CANARY).expect("a canary");
        Self { runtime: runtime.to_owned(), bundle, decoy }
    }

    /// The same place with another configuration.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.bundle.config);
        fs::write(self.bundle.dir.join("config.json"), self.bundle.config.to_string()).expect("config.json");
        self
    }

    /// The seccomp profile for ordinary services.
    pub fn filtered(self) -> Self {
        let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/seccomp-profiles/default.json");
        let profile: Value = serde_json::from_slice(&fs::read(profile).expect("a profile")).expect("JSON");
        self.edit(|config| config["linux"]["seccomp"] = profile)
    }

    pub fn script(self, script: &str) -> Self {
        self.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]))
    }

    /// Replaces a path of the image by a symbolic link.
    pub fn link(&self, path: &str, to: &Path) {
        let path = self.bundle.rootfs(path);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::os::unix::fs::symlink(to, path).expect("a link");
    }

    /// The runtime with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        // A runtime that hangs has not held, but it does not hold up the others.
        let mut command = Command::new("timeout");
        command.args(["-k", "2", "30"]).arg(&self.runtime);
        command.arg("--root").arg(&self.bundle.store).args(words).stdin(Stdio::null());
        command
    }

    fn run_command(&self) -> Command {
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(&self.bundle.dir).arg(&self.bundle.id);
        command
    }

    /// `run` to its end.
    pub fn run(&self) -> Outcome {
        outcome(self.run_command())
    }

    /// `run`, which goes on.
    pub fn begin(&self) -> Running {
        begin(self.run_command())
    }

    /// `exec` with these words.
    pub fn exec(&self, options: &[&str], program: &[&str]) -> Outcome {
        let mut command = self.command(&["exec"]);
        command.args(options).arg(&self.bundle.id).args(program);
        outcome(command)
    }

    /// `exec` as soon as the container is there.
    pub fn once_up(&self) {
        crate::common::wait(|| self.exec(&[], &["true"]).code == Some(0));
    }

    /// Everything of the decoy: names, types, modes, owners, contents.
    pub fn decoys(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        collect(&self.decoy, &mut all);
        all
    }

    /// Held, unless the decoy is another than before, or a mount is left on the host.
    pub fn untouched(&self, before: &BTreeMap<PathBuf, String>, how: String) -> Verdict {
        let after = self.decoys();
        let changed: Vec<_> = after.iter().filter(|(path, is)| before.get(*path) != Some(is)).collect();
        let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let left = mounts.lines().find(|line| line.contains(self.bundle.dir.to_str().expect("UTF-8")));
        match (changed.is_empty() && gone.is_empty(), left) {
            (true, None) => Verdict::Held(how),
            (true, Some(line)) => Verdict::Open(format!("a mount is left on the host: {line}")),
            (false, _) => Verdict::Open(format!("the host's decoy has changed: {changed:?}, gone: {gone:?}")),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.runtime.ends_with("orlop") {
            let mut delete = self.command(&["delete", "--force"]);
            delete.arg(&self.bundle.id).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = delete.status();
        }
    }
}

fn collect(directory: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let content = if meta.is_file() { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let is = format!("{:o} {} {} {} {content}", meta.permissions().mode(), meta.uid(), meta.gid(), meta.rdev());
        all.insert(path.clone(), is);
        if meta.is_dir() {
            collect(&path, all);
        }
    }
}

/// How a run ended, in short.
pub fn ended(outcome: &Outcome) -> String {
    let said = outcome.stderr();
    let last = said.trim().lines().last().unwrap_or_default().chars().take(160).collect::<String>();
    match outcome.code {
        Some(0) => "it runs, and nothing got out".to_owned(),
        code => format!("refused ({code:?}): {last}"),
    }
}
