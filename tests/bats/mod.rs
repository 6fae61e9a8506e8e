//! Cases of bats files for the one runner, each run where it meets no other (`tests/conformance/alone`).

use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

const ALONE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/alone");

/// Runs the trials as the runner asks; none at all, for a case of another name, would end well.
pub fn main(trials: impl FnOnce() -> Vec<Trial>) -> ! {
    let arguments = Arguments::from_args();
    let trials = trials();
    let known = |name: &String| trials.iter().any(|trial| trial.name() == name);
    assert!(!arguments.exact || arguments.filter.as_ref().is_some_and(known), "no such case: {:?}", arguments.filter);
    libtest_mimic::run(&arguments, trials).exit()
}

/// In place of cases that cannot be run: one that is ignored, with the reason, and fails with `CI=true`.
pub fn absent(name: &str, reason: String) -> Trial {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let kind = if ci { String::new() } else { format!("skipped: {reason}") };
    Trial::test(name, || Err(reason.into())).with_kind(kind).with_ignored_flag(!ci)
}

/// The names of a file's cases.
pub fn names(file: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(file).expect("a bats file");
    let name = |line: &str| Some(line.strip_prefix("@test \"")?.rsplit_once("\" {")?.0.to_owned());
    source.lines().filter_map(name).collect()
}

/// One case, with 100 seconds, by `bats` as the arguments of `place` or as the program itself.
pub fn run(place: &[&str], file: &Path, name: &str, runtime: (&str, &str)) -> Result<(), Failed> {
    let mut alone = Command::new(ALONE);
    alone.arg("100").args(place).env(runtime.0, runtime.1);
    run_all(alone, file, &[name.to_owned()])
}

/// Cases by `bats` as the arguments of `place`.
pub fn run_all(mut place: Command, file: &Path, names: &[String]) -> Result<(), Failed> {
    // any letter for what the shell or a regular expression would take for itself
    let letters = |name: &String| -> String {
        name.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '.' }).collect()
    };
    let filter = format!("^({})$", names.iter().map(letters).collect::<Vec<_>>().join("|"));
    let output = place
        .args(["bats", "--tap", "--print-output-on-failure", "--filter", &filter])
        .arg(file)
        .stdin(Stdio::null())
        .output()?;
    let tap = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let passed = |(index, name): (usize, &String)| tap.lines().any(|line| line == format!("ok {} {name}", index + 1));
    if !names.is_empty() && names.iter().enumerate().all(passed) {
        return Ok(());
    }
    Err(format!("{tap}{}", String::from_utf8_lossy(&output.stderr)).into())
}
