//! The runtime's own binary, as a container finds it in /proc/<pid>/exe.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bundle, ORLOP, begin, outcome, wait};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn the_binary_of_a_process_that_waits_for_start_cannot_be_written_to() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let exe = format!("/proc/{}/exe", bundle.pid());
    let before = fs::read(ORLOP).expect("the binary");
    assert_eq!(fs::read(&exe).expect("what the process runs").len(), before.len());
    // Of a read-only mount, or a memfd that is sealed: ETXTBSY alone would be gone with the process.
    let opened = OpenOptions::new().write(true).open(&exe).map(drop);
    let read_only = opened.expect_err("opened for writing").raw_os_error() == Some(libc::EROFS);
    let file = fs::File::open(&exe).expect("what the process runs");
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    let sealed = seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL);
    assert!(read_only || sealed, "{seals:?}");
}

/// What strace(1) says of the calls `calls` of the runtime itself, not of what it clones, while it creates the container.
fn traced_create(bundle: &Bundle, calls: &str, inject: &[&str]) -> String {
    let log = bundle.dir.join("trace");
    // A copy can be written to wherever the project lies, and so has to be sealed.
    let copy = bundle.dir.join("orlop");
    fs::copy(ORLOP, &copy).expect("a copy");
    let mut command = Command::new("strace");
    command.arg("-qq").arg("-o").arg(&log).args(["-e", &format!("trace={calls}")]).args(inject);
    command.arg(copy).arg("--root").arg(&bundle.store).args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(Stdio::null());
    outcome(command).well();
    fs::read_to_string(log).expect("the trace")
}

/// arch_prctl(2) sets up thread-local storage, which is among the first things that the C library does.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_start_that_only_seals_comes_before_the_c_library() {
    let bundle = Bundle::sleeper();
    let trace = traced_create(&bundle, "execve,execveat,arch_prctl", &[]);
    let calls: Vec<_> = trace.lines().filter_map(|line| line.split('(').next()).collect();
    assert_eq!(calls, ["execve", "execveat", "arch_prctl"], "{trace}");
}

#[test]
fn where_no_overlay_can_be_mounted_it_is_a_sealed_copy() {
    let bundle = Bundle::sleeper();
    traced_create(&bundle, "fsopen", &["-e", "inject=fsopen:error=EPERM"]);
    let exe = format!("/proc/{}/exe", bundle.pid());
    let file = fs::File::open(&exe).expect("what the process runs");
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate).expect("a memfd");
    let all = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    assert_eq!(seals, all);
    assert_eq!(fs::read(&exe).expect("the copy"), fs::read(ORLOP).expect("the binary"));
}

/// Without procfs it can't be told what was executed: a start that looks there would execute itself again and again.
#[test]
fn where_proc_is_another_file_system_it_is_one_error() {
    for exe in ["ln -s $0", "cp $0"] {
        let bundle = Bundle::sleeper();
        let script = format!(
            "mount -t tmpfs none /proc && mkdir /proc/self && {exe} /proc/self/exe && exec timeout 10 $0 \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, ORLOP, "--root"]).arg(&bundle.store).args(["create", "--bundle"]);
        command.arg(&bundle.dir).arg(&bundle.id);
        outcome(command).fails("/proc of this host is not procfs");
    }
}

/// strace(1) holds it between the look at its own path and the look into that directory.
#[test]
fn what_takes_the_binarys_name_meanwhile_is_not_executed() {
    let bundle = Bundle::sleeper();
    let (ours, theirs) = (bundle.dir.join("ours"), bundle.dir.join("theirs"));
    fs::copy(ORLOP, &ours).expect("a copy");
    // A binary: a script of a descriptor that is close-on-exec would have no file for its interpreter.
    fs::copy("/bin/false", &theirs).expect("another program");
    let log = bundle.dir.join("trace");
    let mut command = Command::new("strace");
    command
        .args(["-qq", "-e", "trace=readlink,execveat", "-e", "inject=readlink:delay_exit=2000000:when=1", "-o"])
        .arg(&log);
    command.arg(&ours).arg("--root").arg(&bundle.store).args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("strace");
    // The line of a call that is held is written without its end.
    wait(|| fs::read_to_string(&log).is_ok_and(|log| log.contains("readlink(")));
    fs::rename(&ours, bundle.dir.join("away")).expect("a rename");
    fs::rename(&theirs, &ours).expect("a rename");
    let output = started.wait_with_output().expect("strace");
    assert!(output.status.success());
    let exe = format!("/proc/{}/exe", bundle.pid());
    assert_eq!(fs::read(&exe).expect("what the process runs"), fs::read(ORLOP).expect("the binary"));
}

/// A version of its own of a binary, in the bundle.
fn version(bundle: &Bundle, binary: &str) -> PathBuf {
    let name = Path::new(binary).file_name().expect("a name");
    let copy = bundle.dir.join(name);
    fs::copy(binary, &copy).expect("a copy");
    copy
}

/// The name of the directory in which the copy of this file is.
fn directory_of(binary: &Path) -> String {
    let of = fs::metadata(binary).expect("the binary");
    format!("{}-{}-{}-{}", of.dev(), of.ino(), of.ctime(), of.ctime_nsec())
}

/// The kernel refuses that for what is executed from its own file; this is not.
#[test]
fn what_is_copied_over_the_binary_ends_nobody_who_stays() {
    for binary in [ORLOP, env!("CARGO_BIN_EXE_orlop-shim")] {
        let bundle = Bundle::script("trap 'exit 3' TERM; while :; do sleep 0.1; done");
        let copy = version(&bundle, binary);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh"]).arg(&copy);
        if binary == ORLOP {
            command.arg("--root").arg(&bundle.store).args(["run", "--bundle"]);
        } else {
            command.arg("--directory").arg(bundle.dir.join("shims")).args(["run", "--root"]).arg(&bundle.store);
        }
        command.arg(&bundle.dir).arg(&bundle.id);
        let running = begin(command);
        wait(|| bundle.dir.join("state").exists() && bundle.status() == "running");
        // One copy for all of this version, and nothing beside it.
        let pid = running.child.id();
        let kept = PathBuf::from(format!("/proc/{pid}/root/run/orlop-exe"));
        let list = |path: &Path| -> Vec<_> {
            fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect()
        };
        assert_eq!(list(&kept), [directory_of(&copy).as_str()]);
        assert_eq!(list(&kept.join(directory_of(&copy))), [copy.file_name().expect("a name")]);
        let exe = fs::read_link(format!("/proc/{pid}/exe")).expect("what it runs");
        assert!(!exe.to_string_lossy().contains("memfd"), "{exe:?}");
        fs::write(&copy, vec![0; 1 << 20]).expect("another version");
        let pid = Pid::from_raw(pid as i32);
        kill(pid, Signal::SIGTERM).expect("kill");
        // SIGBUS, were it the text of that process.
        let ended = running.end();
        let ends = if binary == ORLOP { Some(3) } else { Some(0) };
        assert_eq!(ended.code, ends, "{binary}: {}", ended.stderr());
    }
}

/// Only what root alone can have put there.
#[test]
fn a_copy_in_a_directory_that_others_can_write_to_is_not_executed() {
    for (mode, owner, taken) in [(0o700, 0, true), (0o770, 0, false), (0o700, 1000, false)] {
        let bundle = Bundle::sleeper();
        let copy = version(&bundle, ORLOP);
        let name = directory_of(&copy);
        let script = format!(
            "mount -t tmpfs none /run && mkdir -m 700 /run/orlop-exe && cd /run/orlop-exe && mkdir -m {mode:o} {name} &&
             cp /bin/false {name}/orlop && chown {owner} {name} && exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(&copy).arg("--root").arg(&bundle.store);
        command.args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
        let done = outcome(command);
        assert_eq!(done.code, Some(i32::from(taken)), "{mode:o} {owner}: {}", done.stderr());
        if !taken {
            let exe = format!("/proc/{}/exe", bundle.pid());
            assert_eq!(fs::read(exe).expect("what it runs"), fs::read(ORLOP).expect("the binary"));
        }
    }
}
