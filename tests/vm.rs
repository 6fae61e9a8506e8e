//! Every integration test once more, as `vm::BINARY::TEST`, in a virtual machine with nothing but cgroup v2 and each of its
//! controllers, those included that are `#[ignore]`d natively for want of one.
//!
//! The tests of the systemd driver, and of units, run in a machine of their own, whose first process is systemd; those of
//! SELinux in one whose kernel has it.
//!
//! One machine serves one run: the first case boots it by `tests/vm/boot`, each case leaves a request in its queue and waits
//! for the answer, and it ends with the runner. Where there can be no machine the cases are ignored, with the reason; with
//! `CI=true` they fail with it.

#[path = "common/builds.rs"]
mod builds;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use builds::{PROJECT, modified, test_binaries, tests_of};
use libtest_mimic::{Arguments, Failed, Trial};

/// Tests of plain data, to which a second kernel adds nothing; of what a person at a terminal would notice, and of faults at
/// each call, which emulation is too slow for; of sources, and of the calls of a start; the probes of `breakout`, likewise; runc's
/// own, which `just conformance --vm` runs there; and the engines but for the cases that are made for the machine, as
/// `just engines --vm` does.
/// Whole binaries, or modules of one.
const NATIVE_ONLY: &[&str] = &[
    "vm",
    "breakout",
    "conformance",
    "consul",
    "engines::buildah",
    "engines::cri",
    "engines::ctr",
    "engines::ctr-shim",
    "engines::docker",
    "engines::ocf-podman",
    "engines::podman",
    "engines::runc",
    "faults",
    "features",
    "foreground",
    "fuzz",
    "haproxy",
    "invariants",
    "lease",
    "node",
    "ocf::native",
    "pacemaker",
    "plan",
    "prometheus",
    "seccomp::errors",
    "seccomp::interpreter",
    "seccomp::libseccomp",
    "seccomp::meaning",
    "seccomp::profiles",
    "seccomp::section",
    "security",
    "shim_http",
    "slurm",
    "spec",
];
/// Those that get another machine, with what the scripts take before their other arguments.
const FLAVOURS: &[(&str, &str)] =
    &[("engines", "--systemd"), ("selinux", "--selinux"), ("systemd", "--systemd"), ("units", "--systemd")];
/// Two attempts to boot, each bounded by the script to two minutes.
const BOOT: Duration = Duration::from_secs(270);
/// Seconds after which the guest kills a test.
const LIMIT: u64 = 300;
/// Those of a binary whose cases are a whole file's, and wait for each other.
const LIMITS: &[(&str, u64)] = &[("engines", 850)];

fn main() {
    let arguments = Arguments::from_args();
    // with --exact the runner has listed before, and asks for one case
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let reason = |flavour| if arguments.exact || ci { None } else { impossible(flavour) };
    let reasons = [None, Some("--selinux"), Some("--systemd")].map(|flavour| (flavour, reason(flavour)));
    let trials: Vec<_> = test_binaries(NATIVE_ONLY)
        .into_iter()
        .flat_map(|(name, binary)| tests_of(&binary).into_iter().map(move |test| (name.clone(), binary.clone(), test)))
        .filter(|(name, _, test)| {
            !NATIVE_ONLY.iter().any(|only| format!("{name}::{test}").starts_with(&format!("{only}::")))
        })
        .map(|(name, binary, test)| {
            let impossible =
                reasons.iter().find_map(|(one, reason)| (*one == flavour(&name)).then_some(reason.as_ref())?);
            let kind = impossible.map(|reason| format!("skipped: {reason}")).unwrap_or_default();
            Trial::test(format!("vm::{name}::{test}"), move || run(&name, &binary, &test))
                .with_kind(kind)
                .with_ignored_flag(impossible.is_some())
        })
        .collect();
    // no case at all would end well
    let known = |name: &String| trials.iter().any(|trial| trial.name() == name);
    assert!(!arguments.exact || arguments.filter.as_ref().is_some_and(known), "no such case: {:?}", arguments.filter);
    libtest_mimic::run(&arguments, trials).exit();
}

fn flavour(name: &str) -> Option<&'static str> {
    FLAVOURS.iter().find_map(|(binary, flavour)| (*binary == name).then_some(*flavour))
}

/// Why there can be no machine here, by the script that gets its kernel, and its root or policy.
fn impossible(flavour: Option<&str>) -> Option<String> {
    let mut prepare = Command::new(format!("{PROJECT}/tests/vm/prepare"));
    let prepare = prepare.args(flavour).output().expect("tests/vm/prepare starts");
    (!prepare.status.success()).then(|| String::from_utf8_lossy(&prepare.stderr).trim().to_owned())
}

/// Nothing older than what it was made from is run: cargo's own list says what that was.
fn assert_current(name: &str, binary: &Path) -> Result<(), Failed> {
    let made_from = fs::read_to_string(binary.with_extension("d"))?;
    let sources =
        made_from.lines().find_map(|line| line.split_once(": ")).map(|(_, sources)| sources).unwrap_or_default();
    let newer = sources.split_whitespace().find(|source| modified(&Path::new(PROJECT).join(source)) > modified(binary));
    newer.map_or(Ok(()), |newer| Err(format!("{newer} is newer than the test {name}: build all tests first").into()))
}

/// One test in the machine: a request in its queue, then the answer.
fn run(name: &str, binary: &Path, test: &str) -> Result<(), Failed> {
    assert_current(name, binary)?;
    let machine = machine(flavour(name))?;
    let request = machine.join("queue").join(format!("{name}.{}.request", test.replace("::", ".").replace('/', ".")));
    let command = format!(
        "cd '{PROJECT}' && exec '{}' --exact '{}' --include-ignored --nocapture\n",
        binary.display(),
        test.replace('\'', "'\\''")
    );
    let draft = request.with_extension("draft");
    fs::create_dir(&draft)?;
    fs::write(draft.join("command"), command)?;
    let limit = LIMITS.iter().find_map(|(binary, limit)| (*binary == name).then_some(*limit)).unwrap_or(LIMIT);
    fs::write(draft.join("limit"), format!("{limit}\n"))?;
    fs::rename(&draft, &request)?;
    wait_for(&machine, &request.join("status"), Duration::from_secs(limit + 30))?;

    let status = fs::read_to_string(request.join("status"))?;
    let output = String::from_utf8_lossy(&fs::read(request.join("output"))?).into_owned();
    // renamed first: a request half gone would look like a new one
    fs::rename(&request, &draft)?;
    fs::remove_dir_all(&draft)?;
    // a name that the binary does not know would end well, too
    if status.trim() == "0" && output.contains("test result: ok. 1 passed") {
        return Ok(());
    }
    Err(format!("in the machine, exit status {}:\n{output}", status.trim()).into())
}

/// The directory of this run's machine, once it takes requests. Whoever makes the directory boots it.
fn machine(flavour: Option<&str>) -> Result<PathBuf, Failed> {
    // nextest starts a process per case; cargo test runs them all in this one
    let runner =
        if std::env::var_os("NEXTEST").is_some() { std::os::unix::process::parent_id() } else { std::process::id() };
    let project = fs::canonicalize(PROJECT)?;
    let directory = format!("target/vm/run-{runner}-{}{}", start_time(runner)?, flavour.unwrap_or_default());
    let directory = project.join(directory);
    fs::create_dir_all(project.join("target/vm"))?;
    if fs::create_dir(&directory).is_ok() {
        Command::new(project.join("tests/vm/boot"))
            .args(flavour)
            .arg(&directory)
            .arg(runner.to_string())
            .arg(PROJECT)
            .arg(std::env::current_exe()?.parent().expect("its directory"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
    }
    wait_for(&directory, &directory.join("queue/ready"), BOOT)?;
    Ok(directory)
}

/// When the process `pid` started, in clock ticks since boot (proc_pid_stat(5), field 22): a pid alone comes back.
fn start_time(pid: u32) -> Result<String, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_the_name = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    after_the_name.split(' ').nth(19).map(str::to_owned).ok_or_else(|| format!("/proc/{pid}/stat: {stat}").into())
}

/// Until `file` exists; an error when the machine is dead, with what its script wrote, or after `limit`.
fn wait_for(machine: &Path, file: &Path, limit: Duration) -> Result<(), Failed> {
    let start = Instant::now();
    while !file.exists() {
        if let Ok(reason) = fs::read_to_string(machine.join("dead")) {
            return Err(format!("no machine: {reason}").into());
        }
        if start.elapsed() > limit {
            return Err(format!("no {} after {limit:?}", file.display()).into());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
