//! `enosys matrix [BINARY...]`: the integration tests, all or those of the named binaries, once for each call that a kernel may
//! lack and each way to be refused. `tests/full` runs it.
//!
//! No test knows of it: the launcher is mounted over the runtime's binary, in this mount namespace alone. A test passes as ever,
//! or it fails since the runtime has said which call was refused. Nothing else is good: no other error, no panic, no silence, no
//! test that does not end, and nothing that is left behind. What a test is not able to do by way of the launcher, with nothing
//! refused, is not held against a call.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::builds::{test_binaries, tests_of};
use super::common::ORLOP;
use super::launcher::Order;

/// Tests of other things than what the runtime does with a kernel: of plain data and texts, of calls that are counted or of the
/// binary itself, which the launcher is a part of here; of other programs, the supervisor's among them, and of a runtime that is
/// made wrong; and those that need
/// a machine, or an hour, of their own.
const OTHERS: &[&str] = &[
    "breakout",
    "bundles",
    "check",
    "checkpoint",
    "commands",
    "conformance",
    "consul",
    "docs",
    "engines",
    "enosys",
    "environment",
    "exhaustion",
    "faults",
    "features",
    "foreground",
    "fuzz",
    "haproxy",
    "invariants",
    "lease",
    "node",
    "ocf",
    "pacemaker",
    "plan",
    "prometheus",
    "resctrl",
    "seal",
    "seccomp",
    "seccomp_tools",
    "security",
    "shim",
    "shim_http",
    "shim_outputs",
    "shim_task",
    "slurm",
    "spec",
    "state",
    "systemd",
    "units",
    "vm",
];
/// What docs/kernel-features.md lists.
pub const CALLS: &[&str] = &[
    "openat2",
    "clone3",
    "fsopen",
    "fsconfig",
    "fsmount",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_getfd",
    "waitid",
    "setns",
    "close_range",
    "faccessat2",
    "statx",
    "bpf",
    "memfd_create",
    "madvise",
    "keyctl",
    "set_mempolicy",
];
/// What docs/kernel-features.md says a container has less without a call, and what no test can find then: a call, its answer
/// and the test.
const LESS: &[(&str, &str, &str)] = &[("keyctl", "ENOSYS", "process::the_session_keyring_is_the_containers_own")];
const ERRNOS: &[&str] = &["ENOSYS", "EPERM"];
/// How long a test may take; the longest takes less than ten seconds.
const LIMIT: Duration = Duration::from_secs(90);

struct Test {
    name: String,
    binary: PathBuf,
    case: String,
}

/// What a test has left to be judged by.
struct Ran {
    passed: bool,
    ended: bool,
    output: String,
    /// Each call of the runtime: its arguments, and its errors.
    calls: Vec<(String, Vec<String>)>,
    /// Cgroups, by the ids of their containers.
    left: Vec<String>,
}

/// A directory in which everything lies.
struct Work {
    dir: PathBuf,
    order: PathBuf,
}

pub fn run(words: impl Iterator<Item = OsString>) -> i32 {
    let named: Vec<_> = words.filter_map(|word| word.into_string().ok()).collect();
    let tests: Vec<Test> = test_binaries(OTHERS)
        .into_iter()
        .filter(|(name, _)| named.is_empty() || named.contains(name))
        .flat_map(|(name, binary)| tests_of(&binary).into_iter().map(move |case| (name.clone(), binary.clone(), case)))
        .map(|(name, binary, case)| Test { name: format!("{name}::{case}"), binary, case })
        .collect();
    let work = Work::new();
    // With a filter as well, for a call that no kernel has: who looks at filters sees it.
    let control = work.round(&tests, Some(("nfsservctl", "ENOSYS")));
    let able: Vec<&Test> =
        tests.iter().filter(|test| control[&test.name].passed && control[&test.name].left.is_empty()).collect();
    for test in tests.iter().filter(|test| !able.iter().any(|able| able.name == test.name)) {
        println!("# not by way of the launcher: {}", test.name);
    }
    let mut binaries: Vec<_> = tests.iter().filter_map(|test| Some(test.name.split_once("::")?.0)).collect();
    binaries.dedup();
    println!("# {} of {} tests of {}", able.len(), tests.len(), binaries.join(", "));
    let rounds = CALLS.iter().flat_map(|call| ERRNOS.iter().map(move |errno| (*call, *errno)));
    let wrong = rounds.enumerate().map(|(number, (call, errno))| {
        let able = able.iter().copied().filter(|test| !LESS.contains(&(call, errno, test.name.as_str())));
        let mut ran = work.round(able, Some((call, errno)));
        let wrong = |ran: &Ran, name: &str| judge(ran, &control[name], call, errno).err();
        let first: Vec<_> = ran.iter().filter_map(|(name, ran)| Some((name.clone(), wrong(ran, name)?))).collect();
        // Of thousands of tests at once some miss a moment: what a call does to a test it does twice.
        let again = tests.iter().filter(|test| first.iter().any(|(name, _)| *name == test.name));
        ran.extend(work.round(again, Some((call, errno))));
        let late = first.iter().filter(|(name, _)| wrong(&ran[name], name).is_none());
        let late =
            late.inspect(|(name, why)| println!("# the second time: {name}: {}", why.replace('\n', " / "))).count();
        tell(number + 1, &ran, &control, (call, errno), late)
    });
    i32::from(wrong.sum::<usize>() > 0)
}

/// Says what became of the tests, `late` of them only the second time, in a line of TAP and a row of docs/full.md. How many
/// are wrong.
fn tell(
    number: usize,
    ran: &BTreeMap<String, Ran>,
    control: &BTreeMap<String, Ran>,
    (call, errno): (&str, &str),
    late: usize,
) -> usize {
    let (mut good, mut told, mut wrong) = (0, 0, Vec::new());
    for (name, ran) in ran {
        match judge(ran, &control[name], call, errno) {
            Ok(true) => good += 1,
            Ok(false) => told += 1,
            Err(why) => wrong.push(format!("{name}: {why}")),
        }
    }
    println!("{} {number} {call} {errno}", if wrong.is_empty() { "ok" } else { "not ok" });
    wrong.iter().for_each(|why| println!("# {}", why.replace('\n', " / ")));
    println!("| {call} | {errno} | {good} | {told} | {late} | {} |", wrong.len());
    wrong.len()
}

/// True when it passed, false when the runtime has told why it could not; else what is wrong.
fn judge(ran: &Ran, control: &Ran, call: &str, errno: &str) -> Result<bool, String> {
    let names = |error: &&String| names(error, call, errno);
    let errors = || ran.calls.iter().flat_map(|(_, errors)| errors);
    if !ran.ended {
        return Err(format!("not at its end in {} s", LIMIT.as_secs()));
    }
    if let Some(panic) = ran.output.lines().find(|line| line.contains("panicked at src/")) {
        return Err(panic.to_owned());
    }
    if let Some(left) = ran.left.iter().find(|id| !kept(&ran.calls, id, (call, errno))) {
        return Err(format!("left behind: {left}"));
    }
    if ran.passed {
        return Ok(true);
    }
    // With a log of the caller's own the launcher's stays empty: the test shows what was said.
    let shown = || ran.output.lines().filter(|line| line.contains("orlop: ")).map(str::to_owned);
    if !errors().any(|error| names(&error)) && !shown().any(|line| names(&&line)) {
        return Err(format!("fails, and no error names the call: {}", tail(&ran.output)));
    }
    let known: Vec<_> =
        control.calls.iter().flat_map(|(_, errors)| errors).map(|error| without_numbers(error)).collect();
    let follows = |error: &String| {
        // what was not made is not there, and what could not be deleted is
        error.contains("does not exist")
            || error.contains("container with given ID already exists")
            || known.contains(&without_numbers(error))
    };
    match errors().find(|error| !names(error) && !follows(error)) {
        Some(other) => Err(format!("another error: {other}")),
        None => Ok(false),
    }
}

fn names(error: &str, call: &str, errno: &str) -> bool {
    error.contains(call) && error.contains(super::words(errno))
}

/// A container that could not be ended since the call was refused: that is no fault of its own.
fn kept(calls: &[(String, Vec<String>)], id: &str, (call, errno): (&str, &str)) -> bool {
    // a cgroup may have a longer name than its container
    let named = |word: &str| word.starts_with("orlop-test-") && id.starts_with(word);
    let ending = |args: &str| args.contains("delete") && args.split(' ').any(named);
    calls.iter().any(|(args, errors)| ending(args) && errors.iter().any(|error| names(error, call, errno)))
}

fn without_numbers(text: &str) -> String {
    // of any base: addresses of devices as well
    text.chars().filter(|c| !c.is_ascii_hexdigit()).collect()
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().filter(|line| !line.is_empty()).collect();
    let from = lines.iter().position(|line| line.contains("panicked at")).unwrap_or(0);
    lines[from..].iter().take(6).copied().collect::<Vec<_>>().join("\n").chars().take(600).collect()
}

impl Work {
    fn new() -> Self {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a mount namespace");
        let (own, callers) = (std::process::id(), std::os::unix::process::parent_id());
        assert_ne!(namespace(own), namespace(callers), "by way of tests/native, as cargo runs it");
        let dir = std::env::temp_dir().join(format!("od-{}", std::process::id()));
        fs::create_dir(&dir).expect("a directory to work in");
        // in memory: thousands of root file systems are made and removed
        mount(&["-t", "tmpfs", "none"], &dir);
        open_to_all(&dir, 0o755);
        fs::create_dir(dir.join("log")).expect("mkdir");
        fs::copy(ORLOP, dir.join("runtime")).expect("copy the runtime");
        let launcher = dir.join("launcher");
        fs::copy(std::env::current_exe().expect("this binary"), &launcher).expect("copy the launcher");
        allow_filters(&launcher);
        mount(&["--bind", launcher.to_str().expect("UTF-8")], Path::new(ORLOP));
        Self { dir, order: Path::new(ORLOP).with_extension("denied") }
    }

    /// All tests once.
    fn round<'a>(
        &self,
        tests: impl IntoIterator<Item = &'a Test>,
        denied: Option<(&str, &str)>,
    ) -> BTreeMap<String, Ran> {
        let order = denied.map(|(call, errno)| (call.to_owned(), errno.to_owned()));
        let order = Order { denied: order, runtime: self.dir.join("runtime"), records: self.dir.join("log") };
        fs::write(&self.order, serde_json::to_vec(&order).expect("JSON")).expect("the launcher's order");
        let (tests, (sender, receiver)) =
            (Mutex::new(tests.into_iter().collect::<Vec<_>>().into_iter()), mpsc::channel());
        let tests = &tests;
        std::thread::scope(|scope| {
            for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
                let sender = sender.clone();
                scope.spawn(move || {
                    let next = || tests.lock().expect("the tests").next();
                    while let Some(test) = next() {
                        let _ = sender.send((test.name.clone(), self.one(test, denied)));
                    }
                });
            }
        });
        drop(sender);
        // A build has put another file there, and so has ended the mount.
        let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        assert_eq!(
            inode(Path::new(ORLOP)),
            inode(&self.dir.join("launcher")),
            "the launcher is not in its place any more"
        );
        receiver.into_iter().collect()
    }

    fn one(&self, test: &Test, denied: Option<(&str, &str)>) -> Ran {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let dir = self.dir.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        let (log, output) = (dir.join("log"), dir.join("output"));
        fs::create_dir_all(&log).expect("mkdir");
        open_to_all(&dir, 0o1777);
        open_to_all(&log, 0o1777);
        let file = fs::File::create(&output).expect("the output");
        // The default state directory as well: a number that comes again would find what an earlier round could not delete.
        let script = "mount --bind \"$1\" \"$2\" && shift 2 && mkdir -p /run/orlop && mount -t tmpfs none /run/orlop && \
            exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .args([&log, &self.dir.join("log")]);
        command.arg(&test.binary).args(["--exact", &test.case, "--include-ignored", "--nocapture"]).env("TMPDIR", &dir);
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone().expect("dup")).stderr(file);
        let (began, begin) = (SystemTime::now(), Instant::now());
        let mut child = command.spawn().expect("unshare");
        let status = loop {
            match child.try_wait().expect("wait") {
                Some(status) => break Some(status),
                None if begin.elapsed() > LIMIT => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if status.is_none() {
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            let _ = child.wait();
        }
        let output = String::from_utf8_lossy(&fs::read(output).unwrap_or_default()).into_owned();
        let calls = calls(&log);
        let left = left_by(child.id(), began, |id| denied.is_some_and(|denied| kept(&calls, id, denied)));
        let ran =
            Ran { passed: status.is_some_and(|status| status.success()), ended: status.is_some(), output, calls, left };
        let _ = fs::remove_dir_all(&dir);
        ran
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(ORLOP).arg(&self.dir).status();
        let _ = fs::remove_file(&self.order);
        let _ = fs::remove_dir(&self.dir);
    }
}

/// In the mount namespace that tests/native has made.
fn mount(arguments: &[&str], at: &Path) {
    assert!(Command::new("mount").args(arguments).arg(at).status().expect("mount").success(), "mount {arguments:?}");
}

/// The runtime's records of one test.
fn calls(log: &Path) -> Vec<(String, Vec<String>)> {
    let entries = fs::read_dir(log).expect("the records").flatten().map(|entry| entry.path());
    let called = entries.filter(|path| path.extension().is_some_and(|extension| extension == "args"));
    let call = |path: PathBuf| {
        let errors = fs::read_to_string(path.with_extension("log")).unwrap_or_default();
        let errors = errors.lines().filter(|line| line.contains("level=error") || line.contains("\"level\":\"error\""));
        (fs::read_to_string(&path).unwrap_or_default(), errors.map(str::to_owned).collect())
    };
    called.map(call).collect()
}

/// The containers of a test that still have a cgroup, which are ended; those that are not `kept` have some time to go by themselves.
/// Numbers of processes come again within minutes: what is older than the test is another's.
fn left_by(pid: u32, began: SystemTime, kept: impl Fn(&str) -> bool) -> Vec<String> {
    let prefix = format!("orlop-test-{pid}-");
    let find = || {
        let mut found = Vec::new();
        cgroups(Path::new("/sys/fs/cgroup"), &prefix, &mut found);
        found.retain(|cgroup| cgroup.metadata().and_then(|meta| meta.modified()).is_ok_and(|made| made >= began));
        found
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut found = find();
    let goes = |cgroup: &PathBuf| !cgroup.file_name().is_some_and(|name| kept(&name.to_string_lossy()));
    while found.iter().any(goes) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        found = find();
    }
    for cgroup in &found {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(10);
        while remove(cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    found.iter().filter_map(|cgroup| cgroup.file_name()?.to_str().map(str::to_owned)).collect()
}

/// With those that a container has made in it.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    fs::remove_dir(cgroup)
}

/// Depth first.
fn cgroups(dir: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        cgroups(&entry.path(), prefix, found);
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Lets ordinary users load a filter by this file without no_new_privs (capabilities(7), File capabilities, version 2).
fn allow_filters(file: &Path) {
    const CAP_SYS_ADMIN: u32 = 21;
    let words = [0x0200_0000_u32, 1 << CAP_SYS_ADMIN, 0, 0, 0].map(u32::to_le_bytes).concat();
    let path = CString::new(file.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: both strings end in a NUL byte, and the value is as long as it is said to be.
    let set = unsafe {
        libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), words.as_ptr().cast(), words.len(), 0)
    };
    assert_eq!(set, 0, "security.capability");
}
