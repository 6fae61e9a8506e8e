//! runc's own integration tests, each as `FILE: NAME`, natively. `tests/conformance/fetch` gets them; without it they are one
//! ignored case, which fails with `CI=true`. What cannot pass here stands in `reasons`, and is not run.

#[path = "../bats/mod.rs"]
mod bats;

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/conformance/runc/tests/integration");
const COMPLETE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/conformance/complete");
const REASONS: &str = include_str!("reasons");

fn main() {
    let absent = || vec![bats::absent("suite", "tests/conformance/fetch has not been run".into())];
    bats::main(|| if Path::new(COMPLETE).exists() { cases() } else { absent() })
}

fn cases() -> Vec<Trial> {
    let mut files: Vec<_> = fs::read_dir(SUITE)
        .expect("the suite")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".bats").map(str::to_owned))
        .collect();
    files.sort();
    files.iter().flat_map(|file| cases_of(file)).collect()
}

fn cases_of(file: &str) -> Vec<Trial> {
    let path = PathBuf::from(format!("{SUITE}/{file}.bats"));
    let trial = |(case, name): (String, String)| {
        let path = path.clone();
        Trial::test(case, move || bats::run(&[], &path, &name, ("RUNC", env!("CARGO_BIN_EXE_orlop"))))
    };
    bats::names(&path)
        .into_iter()
        .map(|name| (format!("{file}: {name}"), name))
        .filter(|(case, _)| REASONS.lines().all(|line| !excuses(line, case)))
        .map(trial)
        .collect()
}

/// Does the line of `reasons` say why the case does not pass natively? `table` describes the form.
fn excuses(line: &str, case: &str) -> bool {
    let parts: Vec<_> = line.split('\t').collect();
    parts[0] == case && parts.get(2).is_none_or(|place| *place == "native")
}
