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
    // any letter for what the shell or a regular expression would take for itself
    let filter: String = name.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '.' }).collect();
    let output = Command::new(ALONE)
        .arg("100")
        .args(place)
        .args(["bats", "--tap", "--print-output-on-failure", "--filter", &format!("^{filter}$")])
        .arg(file)
        .env(runtime.0, runtime.1)
        .stdin(Stdio::null())
        .output()?;
    let tap = String::from_utf8_lossy(&output.stdout);
    if tap.lines().any(|line| line.trim_end() == format!("ok 1 {name}")) {
        return Ok(());
    }
    Err(format!("{}{}", tap.replace('\r', ""), String::from_utf8_lossy(&output.stderr)).into())
}
