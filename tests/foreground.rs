//! A process in the foreground, as `run` and `exec` have one: this binary starts itself again as the runtime (see
//! `runtime`), which starts a shell script as the container, and looks at it from outside.
//!
//! `cargo test --test foreground -- NAME` runs the tests whose names contain NAME.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::termios::{InputFlags, LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use orlop::foreground::{Pipes, Relay, Signals, Terminal, Writer, become_subreaper, wait};
use orlop::sys::ioctl::tiocswinsz;
use orlop::sys::pidfd::{pidfd_open, pidfd_send_signal};

const RUNTIME: &str = "--as-runtime";
const CHILD: &str = "--as-child";

/// An id that owns no file of these tests.
const NOBODY: u32 = 65_534;

/// The runtime: `--as-runtime MODE SCRIPT`. `pty`: with a terminal, or else without. `other`: as if the child were to become another
/// user. `during`: the child's end is awaited in other work, `given-up`: without any relay.
#[allow(clippy::zombie_processes)] // `wait`, the code under test, reaps it.
fn runtime(mode: &str, script: &str) -> orlop::error::Result<i32> {
    let signals = Signals::block()?;
    become_subreaper()?;
    let pty = (mode == "pty").then(private_pty);
    let mut command = Command::new(std::env::current_exe().expect("current_exe"));
    command.arg(CHILD);
    if let Some(pty) = &pty {
        let slave = || Stdio::from(pty.slave.try_clone().expect("dup"));
        command.args(["setsid", "--ctty"]).stdin(slave()).stdout(slave()).stderr(slave());
    }
    let user = if mode == "other" { NOBODY } else { nix::unistd::geteuid().as_raw() };
    let mut pipes =
        if pty.is_some() { Pipes::none() } else { Pipes::needed(&Writer { user: Some(user), owns: |_| true })? };
    let child = pipes.lend(|| Ok(command.args(["sh", "-c", script]).spawn().expect("spawn")))?;
    drop(command);
    let pid = Pid::from_raw(child.id() as i32);
    let pidfd = pidfd_open(pid).expect("pidfd_open");
    match mode {
        "during" => assert!(pipes.until(pidfd.as_fd(), 10_000), "it waits for a reader"),
        "given-up" => {
            // Left as it is where an error ends the command.
            let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], 10_000u16).expect("poll");
            return Ok(if ended == 1 { 9 } else { 0 });
        }
        _ => {}
    }
    let relay = match pty {
        Some(OpenptyResult { master, .. }) => Relay::Terminal(Box::new(Terminal::new(master)?)),
        None => Relay::Pipes(pipes),
    };
    wait(pid, pidfd.as_fd(), &signals, relay, None)
}

/// A pseudo-terminal that the child gets as its standard streams only: openpty(3) leaves both ends open across execve,
/// and a child that holds the slave twice can never hang it up.
fn private_pty() -> OpenptyResult {
    let pty = openpty(None, None).expect("openpty");
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("F_SETFD");
    }
    pty
}

/// The child between its clone and its execve: it takes no mask along, and does not outlive a test that failed.
fn child(command: &[String]) -> ! {
    nix::sys::signal::SigSet::empty().thread_set_mask().expect("sigprocmask");
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("prctl");
    panic!("{}", Command::new(&command[0]).args(&command[1..]).exec());
}

/// A runtime under test, killed when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn new(mode: &str, script: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Running {
        let binary = std::env::current_exe().expect("current_exe");
        let mut command = Command::new(binary);
        command.args([RUNTIME, mode, script]).stdin(stdin).stdout(stdout);
        Running(command.spawn().expect("spawn"))
    }

    fn piped(mode: &str, script: &str) -> (Running, BufReader<ChildStdout>) {
        let mut running = Running::new(mode, script, Stdio::null(), Stdio::piped());
        let stdout = running.0.stdout.take().expect("stdout");
        (running, BufReader::new(stdout))
    }

    fn signal(&self, number: i32) {
        let pidfd = pidfd_open(Pid::from_raw(self.0.id() as i32)).expect("pidfd_open");
        pidfd_send_signal(pidfd.as_fd(), number).expect("pidfd_send_signal");
    }

    /// Its exit status, within ten seconds.
    fn status(&mut self) -> i32 {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().expect("wait") {
                return status.code().expect("the runtime was killed");
            }
            sleep(Duration::from_millis(5));
        }
        panic!("the runtime did not end");
    }

    /// Processor time in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("comm").split_whitespace().collect();
        fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum()
    }

    /// That it uses next to no processor time in half a second.
    fn assert_idle(&self) {
        let before = self.ticks();
        sleep(Duration::from_millis(500));
        let used = self.ticks() - before;
        // A loop that spins uses them all; a slow machine some for what came before.
        assert!(used <= 30, "{used} ticks of 50 used while there was nothing to do");
    }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("read");
    line
}

/// Reads what a terminal shows until `text` came.
fn until(master: &OwnedFd, text: &str) -> String {
    let mut file = File::from(master.try_clone().expect("dup"));
    let (mut seen, mut bytes) = (String::new(), [0; 4096]);
    while !seen.contains(text) {
        match file.read(&mut bytes) {
            Ok(length @ 1..) => seen.push_str(&String::from_utf8_lossy(&bytes[..length])),
            end => panic!("{end:?} before {text:?}: {seen:?}"),
        }
    }
    seen
}

/// Waits up to five seconds.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn is_raw(tty: &OwnedFd) -> bool {
    !tcgetattr(tty).expect("tcgetattr").local_flags.contains(LocalFlags::ICANON)
}

fn flags(modes: &Termios) -> (InputFlags, OutputFlags, LocalFlags) {
    (modes.input_flags, modes.output_flags, modes.local_flags)
}

fn resize(tty: &OwnedFd, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tiocswinsz(tty.as_fd(), &size).expect("TIOCSWINSZ");
}

/// A runtime whose stdin and stdout are the terminal `slave`.
fn on_tty(mode: &str, script: &str, slave: &OwnedFd) -> Running {
    let dup = || slave.try_clone().expect("dup");
    Running::new(mode, script, dup(), dup())
}

fn exit_status_is_the_childs() {
    assert_eq!(Running::piped("pipe", "exit 7").0.status(), 7);
    assert_eq!(Running::piped("pty", "exit 0").0.status(), 0);
}

fn death_by_signal_is_128_and_its_number() {
    assert_eq!(Running::piped("pipe", "kill -KILL $$").0.status(), 128 + 9);
    assert_eq!(Running::piped("pipe", "kill -40 $$").0.status(), 128 + 40);
}

fn signals_are_forwarded() {
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGTSTP, libc::SIGWINCH, 40] {
        let script = format!("trap 'exit 3' {number}; echo ready; while :; do sleep 0.02; done");
        let (mut running, mut stdout) = Running::piped("pipe", &script);
        assert_eq!(line(&mut stdout), "ready\n");
        running.signal(number);
        assert_eq!(running.status(), 3, "signal {number}");
    }
}

fn sigpipe_and_sigchld_are_ours() {
    let script = "trap 'exit 3' PIPE; trap 'exit 4' CHLD; echo ready; sleep 0.4; exit 0";
    let (mut running, mut stdout) = Running::piped("pipe", &script.replace("; trap 'exit 4' CHLD", ""));
    assert_eq!(line(&mut stdout), "ready\n");
    running.signal(libc::SIGPIPE);
    running.signal(libc::SIGCHLD);
    assert_eq!(running.status(), 0);
}

fn a_caller_may_ignore_sigchld() {
    let binary = std::env::current_exe().expect("current_exe");
    // env, since dash's trap does not ignore SIGCHLD.
    let mut shell = Command::new("env");
    shell.arg("--ignore-signal=CHLD").arg(binary).args([RUNTIME, "pipe", "sleep 0.1; exit 7"]);
    assert_eq!(Running(shell.spawn().expect("spawn")).status(), 7);
}

fn orphans_are_reaped() {
    let (mut running, mut stdout) = Running::piped("pipe", "sh -c 'sleep 0.1 & echo $!'; sleep 1");
    let orphan = line(&mut stdout);
    let stat = format!("/proc/{}/stat", orphan.trim());
    let parent = format!(") S {} ", running.0.id());
    eventually("inherited", || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(&parent)));
    eventually("reaped", || std::fs::metadata(&stat).is_err());
    assert!(running.0.try_wait().expect("wait").is_none(), "reaped only when the runtime ended");
    assert_eq!(running.status(), 0);
}

fn ten_megabytes_reach_a_slow_reader() {
    let (mut running, mut stdout) = Running::piped("pty", "seq 1 1450000; exit 5");
    running.assert_idle();
    let (mut all, mut bytes) = (Vec::new(), vec![0; 50_000]);
    while let length @ 1.. = stdout.read(&mut bytes).expect("read") {
        all.extend_from_slice(&bytes[..length]);
        sleep(Duration::from_millis(1));
    }
    assert_eq!(running.status(), 5);
    let wanted: String = (1..=1_450_000).map(|number| format!("{number}\n")).collect();
    assert!(wanted.len() > 10_000_000);
    assert_eq!(all.len(), wanted.len(), "no byte lost, and no CR added");
    assert!(all == wanted.as_bytes());
}

fn the_last_output_survives_the_exit() {
    // Ends before anything is read: the rest lies in our buffer, and, with the longer one, in the pseudo-terminal too.
    for last in [15_000, 24_000] {
        let (mut running, mut stdout) = Running::piped("pty", &format!("seq 1 {last}; exit 5"));
        sleep(Duration::from_millis(300));
        let mut all = String::new();
        stdout.read_to_string(&mut all).expect("read");
        assert!(all.ends_with(&format!("\n{last}\n")), "ends with {:?}", &all[all.len().saturating_sub(20)..]);
        assert_eq!(running.status(), 5);
    }
}

fn a_non_blocking_stdout_loses_nothing_and_keeps_its_flags() {
    for wanted in [OFlag::O_NONBLOCK, OFlag::empty()] {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let kept = writer.try_clone().expect("dup");
        fcntl(&kept, FcntlArg::F_SETFL(wanted)).expect("F_SETFL");
        let mut running = Running::new("pty", "seq 1 100000; sleep 0.3", Stdio::null(), writer);
        let flags = || OFlag::from_bits_retain(fcntl(&kept, FcntlArg::F_GETFL).expect("F_GETFL"));
        sleep(Duration::from_millis(200));
        assert_eq!(flags() & OFlag::O_NONBLOCK, wanted);
        let (mut all, mut bytes) = (Vec::new(), vec![0; 50_000]);
        while !all.ends_with(b"\n100000\n") {
            let length = reader.read(&mut bytes).expect("read");
            all.extend_from_slice(&bytes[..length]);
        }
        assert_eq!(running.status(), 0);
        assert_eq!(flags() & OFlag::O_NONBLOCK, wanted);
        assert_eq!(all.len(), 588_895);
    }
}

fn sockets_and_files_are_relayed_too() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    let stdin = OwnedFd::from(theirs.try_clone().expect("dup"));
    let mut running = Running::new("pty", "stty -echo; echo ready; read a; seq 1 $a", stdin, OwnedFd::from(theirs));
    let mut reader = BufReader::new(&ours);
    assert_eq!(line(&mut reader), "ready\n");
    (&ours).write_all(b"100000\n").expect("write");
    sleep(Duration::from_millis(200));
    let mut all = String::new();
    reader.read_to_string(&mut all).expect("read");
    assert_eq!(all.len(), 588_895);
    assert_eq!(running.status(), 0);

    let path = std::env::temp_dir().join(format!("orlop-foreground-{}", std::process::id()));
    std::fs::write(&path, "first\n").expect("write");
    let file = File::options().append(true).open(&path).expect("open");
    let status = Running::new("pty", "echo second", Stdio::null(), file).status();
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::remove_file(&path).expect("remove");
    assert_eq!((status, text.as_str()), (0, "first\nsecond\n"));
}

/// Sockets that hold 32 KiB at most; a pipe holds 64, and what our buffer takes of it at once is not known.
fn short_pair() -> (std::os::unix::net::UnixStream, std::os::unix::net::UnixStream) {
    let pair = std::os::unix::net::UnixStream::pair().expect("socketpair");
    setsockopt(&pair.1, sockopt::SndBuf, &(16 << 10)).expect("SO_SNDBUF");
    pair
}

/// A socket as the stdout of a runtime without a terminal, and our end of it.
fn on_socket(script: &str) -> (Running, std::os::unix::net::UnixStream) {
    on_socket_as("pipe", script)
}

fn on_socket_as(mode: &str, script: &str) -> (Running, std::os::unix::net::UnixStream) {
    let (ours, theirs) = short_pair();
    (Running::new(mode, script, Stdio::null(), OwnedFd::from(theirs)), ours)
}

fn stdout_can_be_opened_by_name_where_it_is_a_socket() {
    let (mut running, mut ours) =
        on_socket("exec 2>&1; echo a; echo b >/dev/stderr; echo c >/dev/stdout; echo d; exit 3");
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert_eq!((all.as_str(), running.status()), ("a\nb\nc\nd\n", 3));
}

fn both_outputs_of_one_socket_stay_in_order() {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    let script = "for n in $(seq 1 2000); do echo $n; echo $n >&2; done";
    let mut command = Command::new(std::env::current_exe().expect("current_exe"));
    command
        .args([RUNTIME, "pipe", script])
        .stdin(Stdio::null())
        .stderr(OwnedFd::from(theirs.try_clone().expect("dup")));
    let mut running = Running(command.stdout(OwnedFd::from(theirs)).spawn().expect("spawn"));
    drop(command);
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    let wanted: String = (1..=2000).map(|number| format!("{number}\n{number}\n")).collect();
    assert_eq!(running.status(), 0);
    assert!(all == wanted, "{} bytes, not {}", all.len(), wanted.len());
}

fn ten_megabytes_reach_a_slow_reader_of_a_socket() {
    let (mut running, mut ours) = on_socket("seq 1 1450000; exit 5");
    running.assert_idle();
    let (mut all, mut bytes) = (Vec::new(), vec![0; 50_000]);
    while let length @ 1.. = ours.read(&mut bytes).expect("read") {
        all.extend_from_slice(&bytes[..length]);
    }
    assert_eq!(running.status(), 5);
    let wanted: String = (1..=1_450_000).map(|number| format!("{number}\n")).collect();
    assert!(all == wanted.as_bytes(), "{} bytes, not {}", all.len(), wanted.len());
}

fn the_last_output_survives_the_exit_behind_a_socket() {
    // More than the socket holds: the rest lies in the pipe and in our buffer when the program ends.
    let (mut running, mut ours) = on_socket("seq 1 14000; exit 5");
    sleep(Duration::from_millis(300));
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert!(all.ends_with("\n14000\n"), "ends with {:?}", &all[all.len().saturating_sub(20)..]);
    assert_eq!(running.status(), 5);
}

fn a_reader_that_pauses_misses_nothing() {
    let (mut running, mut ours) = on_socket("seq 1 14000; exit 5");
    sleep(Duration::from_millis(10_500));
    running.assert_idle();
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert!(all.ends_with("\n14000\n"), "ends with {:?}", &all[all.len().saturating_sub(20)..]);
    assert_eq!(running.status(), 5);
}

fn nobody_at_stdout_keeps_nothing_from_stderr_and_a_signal_ends_the_wait() {
    let (stdout, theirs) = short_pair();
    let (stderr, other) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    let mut command = Command::new(std::env::current_exe().expect("current_exe"));
    command.args([RUNTIME, "pipe", "seq 1 14000; echo last >&2"]).stdin(Stdio::null()).stderr(OwnedFd::from(other));
    let mut running = Running(command.stdout(OwnedFd::from(theirs)).spawn().expect("spawn"));
    drop(command);
    let mut stderr = BufReader::new(stderr);
    assert_eq!(line(&mut stderr), "last\n");
    sleep(Duration::from_millis(300));
    running.signal(libc::SIGTERM);
    // The program ended well, but not all of what it said is anywhere.
    assert_eq!(running.status(), 1);
    assert!(line(&mut stderr).contains("not all that the program said could be written"));
    drop(stdout);
}

fn what_a_file_does_not_take_is_told_and_ends_nobody() {
    let path = std::env::temp_dir().join(format!("orlop-foreground-full-{}", std::process::id()));
    let file = File::create(&path).expect("create");
    let mut command = Command::new("sh");
    // The runtime may write two blocks of 512 bytes, and the program as much into a pipe as it will.
    command.args(["-c", "ulimit -f 2; exec \"$@\"", "sh"]).arg(std::env::current_exe().expect("current_exe"));
    command.args([RUNTIME, "other", "seq 1 1000; sleep 0.3; seq 1 1000; exit 0"]).stdin(Stdio::null());
    let mut running = Running(command.stdout(file).stderr(Stdio::piped()).spawn().expect("spawn"));
    let mut said = String::new();
    running.0.stderr.take().expect("stderr").read_to_string(&mut said).expect("read");
    let status = running.status();
    let length = std::fs::metadata(&path).expect("a file").len();
    std::fs::remove_file(&path).expect("remove");
    assert_eq!((status, length), (1, 1024), "{said}");
    assert!(said.contains("could be written") && said.to_lowercase().contains("file too large"), "{said}");
}

fn a_socket_of_messages_is_handed_over() {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("socketpair");
    let script = "readlink /proc/$$/fd/1";
    assert_eq!(Running::new("pipe", script, Stdio::null(), OwnedFd::from(theirs)).status(), 0);
    let mut bytes = [0; 100];
    let length = ours.recv(&mut bytes).expect("recv");
    assert!(bytes[..length].starts_with(b"socket:"), "{:?}", String::from_utf8_lossy(&bytes));
}

fn what_is_said_meanwhile_is_relayed_during_other_work() {
    let (mut running, mut ours) = on_socket_as("during", "seq 1 100000; exit 5");
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert_eq!((all.len(), running.status()), (588_895, 5));
}

fn what_was_said_is_written_where_the_container_is_given_up() {
    let (mut running, mut ours) = on_socket_as("given-up", "echo why; kill -9 $$");
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    assert_eq!((all.as_str(), running.status()), ("why\n", 9));
}

fn a_socket_without_a_reader_ends_the_program_as_ever() {
    let (mut running, ours) = on_socket("yes");
    drop(ours);
    assert_eq!(running.status(), 128 + libc::SIGPIPE);
}

fn what_is_left_behind_does_not_keep_the_runtime() {
    let (mut running, mut ours) = on_socket("sleep 5 & echo $!; exit 4");
    assert_eq!(running.status(), 4);
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("read");
    let pidfd = pidfd_open(Pid::from_raw(all.trim().parse().expect("pid"))).expect("pidfd_open");
    pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).expect("kill");
}

fn only_anothers_file_has_a_pipe_before_it() {
    let path = std::env::temp_dir().join(format!("orlop-foreground-other-{}", std::process::id()));
    for (mode, shared, leads_to) in [
        ("pipe", false, path.to_str().expect("a path")),
        ("other", false, "pipe:"),
        ("other", true, path.to_str().expect("a path")),
    ] {
        std::fs::write(&path, "first\n").expect("write");
        let permissions = if shared { 0o666 } else { 0o644 };
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(permissions)).expect("chmod");
        let file = File::options().append(true).open(&path).expect("open");
        let status = Running::new(mode, "readlink /proc/$$/fd/1", Stdio::null(), file).status();
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(status == 0 && text.starts_with(&format!("first\n{leads_to}")), "{mode} {shared}: {status} {text:?}");
    }
    std::fs::remove_file(&path).expect("remove");
}

fn a_reader_that_goes_away_stops_nothing() {
    let (mut running, stdout) = Running::piped("pty", "seq 1 200000; exit 6");
    drop(stdout);
    assert_eq!(running.status(), 6);
}

fn stdin_reaches_the_container_and_its_end_sends_nothing() {
    let mut running = Running::new(
        "pty",
        "stty -echo; echo ready; read a; echo \"<$a>\"; timeout 1 cat; exit $?",
        Stdio::piped(),
        Stdio::piped(),
    );
    let mut stdout = BufReader::new(running.0.stdout.take().expect("stdout"));
    assert_eq!(line(&mut stdout), "ready\n");
    let mut stdin = running.0.stdin.take().expect("stdin");
    stdin.write_all(b"word\n").expect("write");
    assert_eq!(line(&mut stdout), "<word>\n");
    drop(stdin);
    running.assert_idle();
    // timeout's own status: cat saw no end of file.
    assert_eq!(running.status(), 124);
}

fn the_size_follows_our_terminal() {
    let ours = openpty(None, None).expect("openpty");
    resize(&ours.master, 33, 77);
    let script = "sleep 0.1; stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut running = on_tty("pty", script, &ours.slave);
    assert!(until(&ours.master, "ready").contains("33 77\r\n"));
    resize(&ours.master, 44, 88);
    running.signal(libc::SIGWINCH);
    until(&ours.master, "44 88\r\n");
    assert_eq!(running.status(), 0);
}

fn our_terminal_is_raw_meanwhile_and_as_before_after() {
    for (script, status) in [("echo ready; read a; exit 4", 4), ("echo ready; read a; kill -9 $$", 137)] {
        let ours = openpty(None, None).expect("openpty");
        let before = tcgetattr(&ours.slave).expect("tcgetattr");
        let mut running = on_tty("pty", script, &ours.slave);
        until(&ours.master, "ready");
        eventually("raw", || is_raw(&ours.slave));
        File::from(ours.master.try_clone().expect("dup")).write_all(b"\r").expect("write");
        assert_eq!(running.status(), status);
        assert_eq!(flags(&tcgetattr(&ours.slave).expect("tcgetattr")), flags(&before));
    }
}

fn newlines_are_translated_once_where_our_terminal_did_it() {
    for translates in [true, false] {
        let ours = openpty(None, None).expect("openpty");
        let mut modes = tcgetattr(&ours.slave).expect("tcgetattr");
        modes.output_flags.set(OutputFlags::ONLCR, translates);
        tcsetattr(&ours.slave, SetArg::TCSANOW, &modes).expect("tcsetattr");
        let mut running = on_tty("pty", "sleep 0.1; printf 'a\\nb'", &ours.slave);
        assert_eq!(until(&ours.master, "b"), if translates { "a\r\nb" } else { "a\nb" });
        assert_eq!(running.status(), 0);
    }
}

fn a_stop_and_the_shell_do_not_end_raw_mode() {
    let ours = openpty(None, None).expect("openpty");
    let before = tcgetattr(&ours.slave).expect("tcgetattr");
    let mut running = on_tty("pty", "echo ready; read a; exit 4", &ours.slave);
    until(&ours.master, "ready");
    eventually("raw", || is_raw(&ours.slave));
    running.signal(libc::SIGSTOP);
    tcsetattr(&ours.slave, SetArg::TCSANOW, &before).expect("tcsetattr");
    running.signal(libc::SIGCONT);
    eventually("raw again", || is_raw(&ours.slave));
    File::from(ours.master.try_clone().expect("dup")).write_all(b"\r").expect("write");
    assert_eq!(running.status(), 4);
    assert_eq!(flags(&tcgetattr(&ours.slave).expect("tcgetattr")), flags(&before));
}

fn a_background_job_leaves_the_terminal_alone() {
    let ours = openpty(None, None).expect("openpty");
    let mut line_editor = tcgetattr(&ours.slave).expect("tcgetattr");
    cfmakeraw(&mut line_editor);
    line_editor.local_flags.insert(LocalFlags::ICANON);
    tcsetattr(&ours.slave, SetArg::TCSANOW, &line_editor).expect("tcsetattr");
    // A shell with job control on its own terminal, whose job is the runtime in the background.
    let binary = std::env::current_exe().expect("current_exe");
    let job = format!("set -m; {} {RUNTIME} pty 'sleep 0.3; echo done' <&0 & wait $!", binary.display());
    let dup = || ours.slave.try_clone().expect("dup");
    let mut shell = Command::new("setsid");
    shell.args(["--ctty", "sh", "-c", &job]).stdin(dup()).stdout(dup()).process_group(0);
    let mut running = Running(shell.spawn().expect("spawn"));
    let end = Instant::now() + Duration::from_millis(250);
    while Instant::now() < end {
        assert!(!is_raw(&ours.slave), "raw mode from the background");
        sleep(Duration::from_millis(5));
    }
    until(&ours.master, "done");
    assert!(!is_raw(&ours.slave));
    let _ = running.0.wait();
}

fn a_terminal_may_be_closed_and_opened_again() {
    let script = "t=$(tty); exec <&- >&- 2>&-; sleep 0.9; echo back >$t; exit 2";
    let (mut running, mut stdout) = Running::piped("pty", script);
    sleep(Duration::from_millis(200));
    running.assert_idle();
    assert_eq!(line(&mut stdout), "back\n");
    assert_eq!(running.status(), 2);
}

fn a_signal_ends_the_wait_for_a_reader_that_never_reads() {
    let (mut running, stdout) = Running::piped("pty", "seq 1 15000; exit 5");
    sleep(Duration::from_millis(500));
    assert!(running.0.try_wait().expect("wait").is_none(), "the reader is waited for");
    running.signal(libc::SIGTERM);
    assert_eq!(running.status(), 5);
    drop(stdout);
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as fn())),*] };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, mode, script] = arguments.as_slice()
        && first == RUNTIME
    {
        let status = runtime(mode, script).expect("runtime");
        return ExitCode::from(status as u8);
    }
    if let [first, command @ ..] = arguments.as_slice()
        && first == CHILD
    {
        child(command);
    }
    let tests = tests![
        exit_status_is_the_childs,
        death_by_signal_is_128_and_its_number,
        signals_are_forwarded,
        sigpipe_and_sigchld_are_ours,
        a_caller_may_ignore_sigchld,
        orphans_are_reaped,
        ten_megabytes_reach_a_slow_reader,
        the_last_output_survives_the_exit,
        a_non_blocking_stdout_loses_nothing_and_keeps_its_flags,
        sockets_and_files_are_relayed_too,
        stdout_can_be_opened_by_name_where_it_is_a_socket,
        both_outputs_of_one_socket_stay_in_order,
        ten_megabytes_reach_a_slow_reader_of_a_socket,
        the_last_output_survives_the_exit_behind_a_socket,
        a_reader_that_pauses_misses_nothing,
        nobody_at_stdout_keeps_nothing_from_stderr_and_a_signal_ends_the_wait,
        what_a_file_does_not_take_is_told_and_ends_nobody,
        a_socket_of_messages_is_handed_over,
        what_is_said_meanwhile_is_relayed_during_other_work,
        what_was_said_is_written_where_the_container_is_given_up,
        a_socket_without_a_reader_ends_the_program_as_ever,
        what_is_left_behind_does_not_keep_the_runtime,
        only_anothers_file_has_a_pipe_before_it,
        a_reader_that_goes_away_stops_nothing,
        stdin_reaches_the_container_and_its_end_sends_nothing,
        the_size_follows_our_terminal,
        our_terminal_is_raw_meanwhile_and_as_before_after,
        newlines_are_translated_once_where_our_terminal_did_it,
        a_stop_and_the_shell_do_not_end_raw_mode,
        a_background_job_leaves_the_terminal_alone,
        a_terminal_may_be_closed_and_opened_again,
        a_signal_ends_the_wait_for_a_reader_that_never_reads,
    ];
    // one at a time and in this thread: they send signals to, and reap, what belongs to this process
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}
