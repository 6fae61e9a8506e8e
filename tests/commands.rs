//! Verbs that look at a container from outside, and what the command line itself says.

mod common;

use std::process::Command;

use common::{Bundle, ORLOP};
use serde_json::Value;

#[test]
fn pause_stops_all_processes_until_resume() {
    let bundle = Bundle::sleeper();
    bundle.up().well();
    bundle.on("resume", &[]).fails("container not paused");
    bundle.on("pause", &[]).well();
    assert_eq!(bundle.status(), "paused");
    assert_eq!(common::value(bundle.cgroup().join("cgroup.freeze")).expect("cgroup.freeze"), "1");
    bundle.on("pause", &[]).fails("container not running");
    bundle.on("resume", &[]).well();
    assert_eq!(bundle.status(), "running");
    assert_eq!(common::value(bundle.cgroup().join("cgroup.freeze")).expect("cgroup.freeze"), "0");
}

#[test]
fn ps_shows_the_containers_processes_and_no_others() {
    let bundle = Bundle::sleeper();
    bundle.up().well();
    let json = bundle.processes();
    assert_eq!(serde_json::from_str::<Vec<u32>>(&json).expect("an array of pids"), [bundle.pid()]);
    let table = bundle.on("ps", &["-o", "pid,comm", "-e"]).well();
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(lines, ["PID", &bundle.pid().to_string()]);
    // What follows the id is for ps(1), options that we have too included.
    assert!(bundle.on("ps", &["-f"]).stdout().starts_with("UID"));
    bundle.on("ps", &["--format", "pid,comm", "-e"]).well();
}

#[test]
fn debug_adds_a_record_for_each_operation_to_the_log() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    let log = log.to_str().expect("UTF-8");
    bundle.making("run", &["--log", log, "--log-format", "json"]).status().expect("run");
    assert!(std::fs::read_to_string(log).is_err(), "without --debug nothing is logged");
    bundle.making("run", &["--debug", "--log", log, "--log-format", "json"]).status().expect("run");
    let text = std::fs::read_to_string(log).expect("the log");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert!(records.iter().all(|record| record["level"] == "debug"));
    assert!(records.iter().any(|record| record["msg"].as_str().is_some_and(|text| text.contains("pivot_root"))));
}

#[test]
fn the_version_has_the_lines_that_callers_parse() {
    let output = Command::new(ORLOP).arg("--version").output().expect("orlop");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let starts: Vec<_> = output.lines().map(|line| line.rsplit_once(' ').map(|(start, _)| start)).collect();
    assert!(output.starts_with("runc version 0."), "{output}");
    assert_eq!(&starts[1..], [Some("commit:"), Some("spec:")]);
}
