//! The runtime's own binary, as a container finds it in /proc/<pid>/exe.

mod common;

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use common::{Bundle, ORLOP, outcome, wait};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

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
