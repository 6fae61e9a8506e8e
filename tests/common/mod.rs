//! A bundle of one's own for each test, with busybox as its root file system, and the runtime's verbs on it.
#![allow(dead_code)] // each test binary uses its own part

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The runtime under test.
pub const ORLOP: &str = env!("CARGO_BIN_EXE_orlop");
/// Static, so that a root file system needs nothing else. It finds its applet by the name it is called by, and the file
/// itself must have a name that begins with busybox.
const BUSYBOX: &str = "/usr/bin/busybox";

/// A directory with config.json and rootfs, an id and a `--root` of its own; all of it gone when it is dropped.
pub struct Bundle {
    /// The bundle.
    pub dir: PathBuf,
    /// The container's id, unique on this machine.
    pub id: String,
    /// `--root`.
    pub store: PathBuf,
    /// config.json as last written.
    pub config: Value,
}

/// What a command has left: its exit status and its output, which a container that goes on may still add to.
pub struct Outcome {
    /// The exit status; None for a signal.
    pub code: Option<i32>,
    stdout: File,
    stderr: File,
}

/// A command that has not ended yet.
pub struct Running {
    /// The process.
    pub child: Child,
    stdout: File,
    stderr: File,
}

/// What `orlop spec` writes, without a terminal, with a root that can be written to.
impl Bundle {
    /// A bundle whose program is `true`.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // One that was killed has left its own, and pids come again.
        let (id, dir) = loop {
            let id = format!("orlop-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(&id);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => break (id, made.map(|()| dir).expect("the bundle's directory")),
            }
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        let bin = dir.join("rootfs/bin");
        for name in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(dir.join("rootfs").join(name)).expect("rootfs");
        }
        fs::set_permissions(dir.join("rootfs/tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        fs::copy(BUSYBOX, bin.join("busybox")).expect("busybox-static");
        let applets = Command::new(BUSYBOX).arg("--list").output().expect("busybox --list").stdout;
        for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
            symlink("busybox", bin.join(applet)).expect("an applet's link");
        }
        let mut config = orlop::spec::default_spec(false);
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["true"]);
        config["root"]["readonly"] = json!(false);
        let bundle = Self { store: dir.join("state"), dir, id, config };
        bundle.write();
        bundle
    }

    /// A bundle whose program is a script for its `sh`.
    pub fn script(script: &str) -> Self {
        Self::new().args(&["sh", "-c", script])
    }

    /// A bundle whose program waits until it is killed.
    pub fn sleeper() -> Self {
        Self::new().args(&["sleep", "1000"])
    }

    /// The same bundle with other arguments.
    pub fn args(self, args: &[&str]) -> Self {
        self.edit(|config| config["process"]["args"] = json!(args))
    }

    /// The same bundle with a user namespace in which 0 to 65535 stand for 100000 and above, and a root file system of theirs.
    pub fn with_user(self) -> Self {
        let owned = Command::new("chown").args(["-hR", "100000:100000"]).arg(self.rootfs("/")).status();
        assert!(owned.expect("chown").success());
        self.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
            for ids in ["uidMappings", "gidMappings"] {
                config["linux"][ids] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
            }
        })
    }

    /// The same bundle with a changed config.json.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.write();
        self
    }

    fn write(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("config.json");
    }

    /// A path in the root file system, as the host sees it.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Writes an executable file into the root file system.
    pub fn program(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.rootfs(path), text).expect("write a program");
        fs::set_permissions(self.rootfs(path), fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// The directory that holds the container's state.
    pub fn state_dir(&self) -> PathBuf {
        self.store.join(&self.id)
    }

    /// `orlop --root STORE ARGS...`, nothing on its standard input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(ORLOP);
        command.arg("--root").arg(&self.store).args(args).stdin(Stdio::null());
        command
    }

    /// `orlop VERB --bundle DIR ARGS... ID`.
    pub fn making(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = self.command(&[verb, "--bundle"]);
        command.arg(&self.dir).args(args).arg(&self.id);
        command
    }

    /// `orlop run`: the program's exit status and output.
    pub fn run(&self) -> Outcome {
        outcome(self.making("run", &[]))
    }

    /// `orlop run ARGS...`.
    pub fn run_with(&self, args: &[&str]) -> Outcome {
        outcome(self.making("run", args))
    }

    /// `orlop create`, which must end well. The container's output goes on into what is returned.
    pub fn create(&self) -> Outcome {
        let created = outcome(self.making("create", &[]));
        created.well();
        created
    }

    /// `orlop VERB ID ARGS...`.
    pub fn on(&self, verb: &str, args: &[&str]) -> Outcome {
        let mut command = self.command(&[verb, &self.id]);
        command.args(args);
        outcome(command)
    }

    /// What `orlop ps --format json` prints.
    pub fn processes(&self) -> String {
        outcome(self.command(&["ps", "--format", "json", &self.id])).well()
    }

    /// `orlop start`, which must end well.
    pub fn start(&self) {
        self.on("start", &[]).well();
    }

    /// `orlop create` and `orlop start`.
    pub fn up(&self) -> Outcome {
        let created = self.create();
        self.start();
        created
    }

    /// `orlop exec ID sh -c SCRIPT`, which must end well: its output.
    pub fn inside(&self, script: &str) -> String {
        self.on("exec", &["sh", "-c", script]).well()
    }

    /// What `orlop state` prints.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.on("state", &[]).well()).expect("state is JSON")
    }

    /// The status as `orlop state` has it; `none` when there is no such container.
    pub fn status(&self) -> String {
        let said = self.on("state", &[]);
        if said.code != Some(0) {
            assert!(said.stderr().contains("container does not exist"), "{}", said.stderr());
            return "none".to_owned();
        }
        let state: Value = serde_json::from_str(&said.stdout()).expect("state is JSON");
        state["status"].as_str().expect("a word").to_owned()
    }

    /// The pid of the container's first process.
    pub fn pid(&self) -> u32 {
        self.state()["pid"].as_u64().expect("a pid") as u32
    }

    /// The cgroup of the container's first process, by what the kernel says.
    pub fn cgroup(&self) -> PathBuf {
        cgroup_of(self.pid())
    }

    /// Waits until the container has this status.
    pub fn await_status(&self, status: &str) {
        wait(|| self.status() == status);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = outcome(self.command(&["delete", "--force", &self.id]));
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            deleted.well();
        }
    }
}

/// Runs a command to its end. Its output goes to files, so a container that lives on does not hold us up.
pub fn outcome(command: Command) -> Outcome {
    begin(command).end()
}

/// Starts a command.
pub fn begin(mut command: Command) -> Running {
    let (stdout, stderr) = (unnamed(), unnamed());
    let child = command
        .stdout(stdout.try_clone().expect("dup"))
        .stderr(stderr.try_clone().expect("dup"))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Running { child, stdout, stderr }
}

/// A file in memory that two may write to.
fn unnamed() -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    File::from(nix::sys::memfd::memfd_create(c"output", flags).expect("memfd_create"))
}

/// What has been written into a file so far. Its offset is the writer's, too: a second opening leaves that alone.
fn text(file: &File) -> String {
    let mut file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("open again");
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Running {
    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let code = self.child.wait().expect("wait").code();
        Outcome { code, stdout: self.stdout, stderr: self.stderr }
    }

    /// What it has written so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }
}

impl Outcome {
    /// Standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// It ended well: its standard output without the last newline.
    #[track_caller]
    pub fn well(&self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout(), self.stderr());
        self.stdout().trim_end_matches('\n').to_owned()
    }

    /// It failed, with this in its standard error: all of that.
    #[track_caller]
    pub fn fails(&self, with: &str) -> String {
        let said = self.stderr();
        assert!(!matches!(self.code, Some(0) | None), "ended well: {}{said}", self.stdout());
        assert!(said.contains(with), "no {with:?} in {said:?}");
        said
    }
}

/// What the first connection to a socket brings: a text, and one descriptor.
pub fn received(listener: &UnixListener) -> (String, OwnedFd) {
    message(&accepted(listener))
}

/// The first connection to a socket. Who should connect may have failed, and never will.
pub fn accepted(listener: &UnixListener) -> UnixStream {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 20_000u16), Ok(1), "nobody has connected in 20 s");
    listener.accept().expect("accept").0
}

/// The next message of a socket: a text, and one descriptor.
pub fn message(socket: &impl AsRawFd) -> (String, OwnedFd) {
    let (text, fd) = any_message(socket);
    (text, fd.expect("a descriptor"))
}

/// A message, which may have one.
pub fn any_message(socket: &impl AsRawFd) -> (String, Option<OwnedFd>) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut text = [0u8; 256];
    let mut iov = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([i32; 2]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).expect("recvmsg");
    let length = message.bytes;
    let fds = message.cmsgs().expect("control").find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.map(|fds| {
        assert_eq!(fds.len(), 1);
        // SAFETY: recvmsg has just made it, and nobody else has its number.
        unsafe { OwnedFd::from_raw_fd(fds[0]) }
    });
    (String::from_utf8_lossy(&text[..length]).into_owned(), fd)
}

/// Where the kernel has a process: the cgroup's directory.
pub fn cgroup_of(pid: u32) -> PathBuf {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup of a process");
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup v2");
    Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

/// Does the process exist, other than as a zombie?
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// One field of /proc/PID/status.
pub fn proc_status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}: {status}")).trim().to_owned()
}

/// Waits until it is so, ten seconds at most.
#[track_caller]
pub fn wait(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited for too long");
        sleep(Duration::from_millis(5));
    }
}

/// Waits until it is so, a minute at most: for what other programs do in their own time.
#[track_caller]
pub fn soon(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute");
        sleep(Duration::from_millis(50));
    }
}

/// A port of the loopback interface that nobody has now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// The content of a file, without its last newline; the error when there is none.
pub fn value(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim_end_matches('\n').to_owned())
}

/// The bundle with a user namespace in which 0 to 65535 stand for the host's ids from 100000 on, and its root file system
/// theirs.
pub fn mapped(bundle: Bundle) -> Bundle {
    let owned = Command::new("chown").args(["-hR", "100000:100000"]).arg(bundle.rootfs("")).status();
    assert!(owned.expect("chown").success());
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    })
}
