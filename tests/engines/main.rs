//! Engines with this runtime in runc's place, each case of a bats file here as `ENGINE::NAME`, natively. Where an engine is not
//! installed (`tests/engines/install`) its cases are one ignored case, which fails with `CI=true`. What needs controllers or
//! systemd is run in the machine with systemd by `tests/engines/run --vm`, which takes minutes for each file.

#[path = "../bats/mod.rs"]
mod bats;

use std::path::PathBuf;

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

fn main() {
    bats::main(|| ENGINES.iter().flat_map(|(engine, programs)| cases(engine, programs)).collect())
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
