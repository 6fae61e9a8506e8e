//! Where a probe works: a bundle with an image of its own, a runtime, and decoys outside that nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Bundle, Outcome, Running, begin, outcome};
use crate::rounds::rounds;

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

    /// One of this project's seccomp profiles.
    pub fn filtered(self, profile: &str) -> Self {
        let profile = format!("{}/seccomp-profiles/{profile}.json", env!("CARGO_MANIFEST_DIR"));
        let profile: Value = serde_json::from_slice(&fs::read(profile).expect("a profile")).expect("JSON");
        self.edit(|config| config["linux"]["seccomp"] = profile)
    }

    /// With this binary as the container's program, which then does what `mode` says (see `main`).
    pub fn with_program(self, mode: &[&str]) -> Self {
        const PROGRAM: &str = "/bin/probe";
        let source = std::env::current_exe().expect("this binary");
        self.edit(|config| config["process"]["args"] = [&[PROGRAM], mode].concat().into())
            .mount(json!({"destination": PROGRAM, "type": "bind", "source": source, "options": ["bind", "ro"]}))
    }

    /// In a user namespace in which 0 to 65535 stand for 100000 and above, with a root file system of theirs.
    pub fn mapped(self) -> Self {
        let owned = Command::new("chown").args(["-hR", "100000:100000"]).arg(self.bundle.rootfs("")).status();
        assert!(owned.expect("chown").success());
        self.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
            for ids in ["uidMappings", "gidMappings"] {
                config["linux"][ids] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        })
    }

    /// All capabilities that there are here.
    pub fn with_all_capabilities(self) -> Self {
        let own = caps::read(None, caps::CapSet::Permitted).expect("our own capabilities");
        let all: Value = own.iter().map(|capability| json!(capability.to_string())).collect();
        self.edit(|config| {
            config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        })
    }

    /// One more mount.
    pub fn mount(self, mount: Value) -> Self {
        self.edit(|config| config["mounts"].as_array_mut().expect("mounts").push(mount))
    }

    /// The mounts on and below /dev taken away.
    pub fn without_dev(self) -> Self {
        self.edit(|config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
        })
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
        command.args(["-k", "2", &rounds(60).to_string()]).arg(&self.runtime);
        command.arg("--root").arg(&self.bundle.store).args(words).stdin(Stdio::null());
        command
    }

    /// `run`.
    pub fn run_command(&self) -> Command {
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
