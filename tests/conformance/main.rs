//! runc's own integration tests, each as `FILE: NAME`, natively. `tests/conformance/fetch` gets them; without it they are one
//! ignored case, which fails with `CI=true`. What cannot pass here stands in `reasons`, and is not run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/conformance/runc/tests/integration");
const COMPLETE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/conformance/complete");
const ALONE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/alone");
const REASONS: &str = include_str!("reasons");

fn main() {
    let arguments = Arguments::from_args();
    let trials = if Path::new(COMPLETE).exists() { cases() } else { vec![absent()] };
    let known = |name: &String| trials.iter().any(|trial| trial.name() == name);
    assert!(!arguments.exact || arguments.filter.as_ref().is_some_and(known), "no such case: {:?}", arguments.filter);
    libtest_mimic::run(&arguments, trials).exit();
}

fn absent() -> Trial {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    Trial::test("suite", || Err("tests/conformance/fetch has not been run".into()))
        .with_kind(if ci { "" } else { "skipped: tests/conformance/fetch has not been run" })
        .with_ignored_flag(!ci)
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
    let source = fs::read_to_string(format!("{SUITE}/{file}.bats")).expect("a bats file");
    let names =
        source.lines().filter_map(|line| line.strip_prefix("@test \"")?.rsplit_once("\" {").map(|(name, _)| name));
    names
        .map(|name| (format!("{file}: {name}"), file.to_owned(), name.to_owned()))
        .filter(|(case, ..)| REASONS.lines().all(|line| !excuses(line, case)))
        .map(|(case, file, name)| Trial::test(case, move || run(&file, &name)))
        .collect()
}

/// Does the line of `reasons` say why the case does not pass natively? `table` describes the form.
fn excuses(line: &str, case: &str) -> bool {
    let parts: Vec<_> = line.split('\t').collect();
    parts[0] == case && parts.get(2).is_none_or(|place| *place == "native")
}

/// One case, where it meets no other.
fn run(file: &str, name: &str) -> Result<(), Failed> {
    // any letter for what the shell or a regular expression would take for itself
    let filter: String = name.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '.' }).collect();
    let output = Command::new(ALONE)
        .args(["100", "bats", "--tap", "--filter", &format!("^{filter}$"), &format!("{SUITE}/{file}.bats")])
        .env("RUNC", env!("CARGO_BIN_EXE_orlop"))
        .stdin(Stdio::null())
        .output()?;
    let tap = String::from_utf8_lossy(&output.stdout);
    if tap.lines().any(|line| line.trim_end() == format!("ok 1 {name}")) {
        return Ok(());
    }
    Err(tap.replace('\r', "").into())
}
