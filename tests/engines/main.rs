//! Engines with this runtime in runc's place, each case of a bats file here as `ENGINE::NAME`, natively. Where an engine is not
//! installed (`tests/engines/install`) its cases are one ignored case, which fails with `CI=true`. What needs controllers or
//! systemd is one case per file and cgroup manager, `machine::FILE::MANAGER`, for the machine with systemd (tests/vm.rs).

#[path = "../bats/mod.rs"]
mod bats;

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines");
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/place");
/// An engine and its programs.
const ENGINES: [(&str, &[&str]); 4] = [
    ("buildah", &["buildah"]),
    ("ctr", &["containerd", "ctr", "jq"]),
    ("docker", &["dockerd", "docker"]),
    ("podman", &["podman", "conmon", "catatonit", "newuidmap"]),
];

const MACHINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/machine");
/// What the machine runs, with each of the two.
const FILES: [&str; 4] = ["ctr-limits", "docker-limits", "podman-limits", "rootless"];
const MANAGERS: [&str; 2] = ["cgroupfs", "systemd"];

fn main() {
    bats::main(|| {
        let natively = ENGINES.iter().flat_map(|(engine, programs)| cases(engine, programs));
        let there = FILES.iter().flat_map(|file| MANAGERS.map(|manager| in_the_machine(file, manager)));
        natively.chain(there).collect()
    })
}

fn in_the_machine(file: &'static str, manager: &'static str) -> Trial {
    let run = move || {
        let output =
            Command::new(MACHINE).args([manager, file]).env("RUNTIME", env!("CARGO_BIN_EXE_orlop")).output()?;
        let said = [output.stdout, output.stderr].concat();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned().into()) }
    };
    Trial::test(format!("machine::{file}::{manager}"), run)
        .with_kind("needs systemd, which its machine has")
        .with_ignored_flag(true)
}

fn cases(engine: &'static str, programs: &[&str]) -> Vec<Trial> {
    if let Some(reason) = impossible(programs) {
        return vec![bats::absent(&format!("{engine}::all"), reason)];
    }
    let file = PathBuf::from(format!("{HERE}/{engine}.bats"));
    let trial = |name: String| {
        let file = file.clone();
        Trial::test(format!("{engine}::{name}"), move || {
            bats::run(&[PLACE], &file, &name, ("RUNTIME", env!("CARGO_BIN_EXE_orlop")))
        })
    };
    bats::names(&file).into_iter().map(trial).collect()
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
