//! Engines with this runtime in runc's place, each case of a bats file here as `ENGINE::NAME`, natively. Where an engine is not
//! installed (`tests/engines/install`) its cases are one ignored case, which fails with `CI=true`. As the control `runc::ENGINE::NAME`
//! is the same case with runc itself: one that it does not pass must have its line in `reasons`.
//!
//! What needs controllers, systemd or a user's own cgroups is `machine::MANAGER::FILE`, in the machine with systemd: the limits, and the
//! commands of each page with systemd's cgroups. All cases are run there by `tests/engines/run --vm`, for half an hour.

#[path = "../bats/mod.rs"]
mod bats;

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines");
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/place");
/// An engine and its programs.
const ENGINES: [(&str, &[&str]); 7] = [
    ("buildah", &["buildah"]),
    ("ctr", &["containerd", "ctr", "jq"]),
    ("ctr-shim", &["containerd", "ctr", "curl", "jq"]),
    ("cri", &["containerd", "ctr", "curl", "jq", "/usr/lib/cni/ptp"]),
    ("docker", &["dockerd", "docker"]),
    ("ocf-podman", &["podman", "conmon", "curl", "jq", "/usr/lib/ocf/resource.d/heartbeat/podman"]),
    ("podman", &["podman", "conmon", "catatonit", "newuidmap"]),
];
/// Those that call a runtime's program themselves.
const CONTROLS: [&str; 4] = ["buildah", "ctr", "docker", "podman"];
/// Those for the machine: who makes the cgroups, a bats file, and what the names of its cases begin with.
const MACHINE: [(&str, &str, &str); 9] = [
    ("cgroupfs", "ctr-limits", ""),
    ("cgroupfs", "ctr-shim-limits", ""),
    ("cgroupfs", "docker-limits", ""),
    ("cgroupfs", "podman-limits", ""),
    ("cgroupfs", "rootless", ""),
    ("systemd", "buildah", "the commands of"),
    ("systemd", "ctr", "the commands of"),
    ("systemd", "docker", "the commands of"),
    ("systemd", "podman", "the commands of"),
];
const SCOPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/scope");
const CONTROL: &str = "/usr/sbin/runc";
/// Where the control does not pass; `table` describes the form.
const REASONS: &str = include_str!("reasons");

fn main() {
    bats::main(|| {
        let natively = ENGINES.iter().flat_map(|(engine, programs)| both(engine, programs));
        natively.chain(MACHINE.iter().map(|(manager, file, cases)| in_machine(manager, file, cases))).collect()
    })
}

/// Cases for the machine, as one, since an engine takes half a minute to begin there. Ignored elsewhere.
fn in_machine(manager: &'static str, engine: &'static str, begin: &str) -> Trial {
    let file = PathBuf::from(format!("{HERE}/{engine}.bats"));
    let names: Vec<_> = bats::names(&file).into_iter().filter(|name| name.starts_with(begin)).collect();
    let elsewhere = std::env::var_os("ORLOP_MACHINE").is_none();
    let kind = if elsewhere { "skipped: for the machine with systemd: run in the VM by tests/run" } else { "" };
    let run = move || {
        let mut scope = Command::new(SCOPE);
        scope.args([manager, engine]).env("RUNTIME", env!("CARGO_BIN_EXE_orlop")).env("LIMIT", "400");
        bats::run_all(scope, &file, &names)
    };
    Trial::test(format!("machine::{manager}::{engine}"), run).with_kind(kind).with_ignored_flag(elsewhere)
}

fn both(engine: &'static str, programs: &[&str]) -> Vec<Trial> {
    if let Some(reason) = impossible(programs) {
        return vec![bats::absent(&format!("{engine}::all"), reason)];
    }
    let mut trials = cases(engine, "", env!("CARGO_BIN_EXE_orlop"));
    if CONTROLS.contains(&engine) {
        match impossible(&[CONTROL]) {
            Some(reason) => trials.push(bats::absent(&format!("runc::{engine}::all"), reason)),
            None => trials.extend(cases(engine, "runc::", CONTROL)),
        }
    }
    trials
}

/// The cases of an engine with this runtime; those of the control only where it has no reason to fail.
fn cases(engine: &str, prefix: &str, runtime: &'static str) -> Vec<Trial> {
    let file = PathBuf::from(format!("{HERE}/{engine}.bats"));
    let fit = |name: &String| prefix.is_empty() || !excused(&format!("{engine}: {name}"));
    let trial = |name: String| {
        let file = file.clone();
        Trial::test(format!("{prefix}{engine}::{name}"), move || {
            bats::run(&[PLACE], &file, &name, ("RUNTIME", runtime))
        })
    };
    bats::names(&file).into_iter().filter(fit).map(trial).collect()
}

/// Has the case a reason not to pass natively?
fn excused(case: &str) -> bool {
    REASONS
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .any(|parts| parts[0] == case && parts.get(2).is_none_or(|place| *place == "native"))
}

/// Why an engine with these programs cannot be run here.
fn impossible(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("the engines need root".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing = ["bats", "script", "busybox"].iter().chain(programs).find(|program| !there(program))?;
    Some(format!("no {missing} (tests/engines/install)"))
}
