//! The shim as containerd speaks to it, without containerd: what it refuses, and whom. Tasks are run in tests/engines.

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;

/// Fields of several messages: of BootstrapParams and of BootstrapResult, of ttrpc's Request and Response.
#[derive(Clone, PartialEq, Message)]
struct Bootstrap {
    #[prost(string, tag = "1")]
    instance_id: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(message, repeated, tag = "8")]
    extensions: Vec<Extension>,
    #[prost(string, tag = "9")]
    socket_dir: String,
}

#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(message, optional, tag = "1")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// One of runc's Options.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(string, tag = "3")]
    shim_cgroup: String,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "7")]
    root: String,
}

#[derive(Clone, PartialEq, Message)]
struct Started {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The first numbers of a ConnectResponse.
#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint32, tag = "1")]
    shim: u32,
    #[prost(uint32, tag = "2")]
    task: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

impl Options {
    fn message(&self) -> Any {
        Any { name: "containerd.runc.v1.Options".into(), value: self.encode_to_vec() }
    }
}

/// Fields of CreateTaskRequest.
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    bundle: String,
    #[prost(message, repeated, tag = "3")]
    rootfs: Vec<Mount>,
    #[prost(string, tag = "6")]
    stdout: String,
    #[prost(message, optional, tag = "10")]
    options: Option<Any>,
}

/// containerd's Mount.
#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

/// Fields of KillRequest.
#[derive(Clone, PartialEq, Message)]
struct Kill {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
}

struct Shim {
    dir: PathBuf,
    socket: PathBuf,
}

impl Shim {
    fn start(name: &str) -> Self {
        Self::start_with(name, &Options::default(), ":")
    }

    /// `first`: what a shell does before it executes the shim.
    fn start_with(name: &str, options: &Options, first: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("shim-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("config.json"), "{}").expect("write");
        let program = dir.join("containerd-shim-orlop-v2");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orlop-shim"), &program).expect("a link");
        let socket_dir = dir.display().to_string();
        let extensions = vec![Extension { value: Some(options.message()) }];
        let params = Bootstrap { instance_id: "c".into(), namespace: "n".into(), extensions, socket_dir };
        let mut start = Command::new("sh")
            .args(["-c", &format!("{first}; exec \"$@\""), "sh"])
            .arg(program)
            .args(["-namespace", "n", "-address", "/a", "-id", "c", "start"])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shim");
        start.stdin.take().expect("its input").write_all(&params.encode_to_vec()).expect("write");
        let output = start.wait_with_output().expect("its answer");
        assert!(output.status.success());
        let started = Started::decode(&*output.stdout).expect("a BootstrapResult");
        assert_eq!(started.version, 3);
        Self { dir, socket: started.address.strip_prefix("unix://").expect("an address").into() }
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.socket).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("setsockopt");
        socket
    }

    fn pid(&self) -> u32 {
        let answer = call(&mut self.connect(), "containerd.task.v2.Task", "Connect", "c").expect("Connect");
        Pids::decode(&*answer).expect("a ConnectResponse").shim
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // A failure has been said; it ends by itself when it is alone.
        if !std::thread::panicking() && self.socket.exists() {
            call(&mut self.connect(), "containerd.task.v2.Task", "Shutdown", "c").expect("Shutdown");
            let end = Instant::now() + Duration::from_secs(20);
            while self.socket.exists() {
                assert!(Instant::now() < end, "the shim is still there");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(files(&self.dir), ["address", "config.json", "containerd-shim-orlop-v2"]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn files(dir: &Path) -> Vec<String> {
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("UTF-8");
    let mut files: Vec<String> = std::fs::read_dir(dir).expect("a directory").map(name).collect();
    files.sort();
    files
}

fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

/// One request, and its answer or the code of its refusal.
fn call(socket: &mut UnixStream, service: &str, method: &str, id: &str) -> Result<Vec<u8>, i32> {
    ask(socket, service, method, &Id { id: id.into() })
}

fn ask(socket: &mut UnixStream, service: &str, method: &str, message: &impl Message) -> Result<Vec<u8>, i32> {
    let payload = message.encode_to_vec();
    let request = Request { service: service.into(), method: method.into(), payload };
    socket.write_all(&frame(7, 1, &request.encode_to_vec())).expect("write");
    answer(socket, 7)
}

fn answer(socket: &mut UnixStream, stream: u32) -> Result<Vec<u8>, i32> {
    let mut header = [0; 10];
    socket.read_exact(&mut header).expect("an answer");
    assert_eq!(header[4..10], [&stream.to_be_bytes()[..], &[2, 0]].concat());
    let mut payload = vec![0; u32::from_be_bytes(header[..4].try_into().expect("four bytes")) as usize];
    socket.read_exact(&mut payload).expect("an answer");
    let response = Response::decode(&*payload).expect("a response");
    response.status.map_or(Ok(response.payload), |status| {
        println!("{}", status.message); // shown where that is a failure
        Err(status.code)
    })
}

#[test]
fn both_versions_are_served_and_what_is_not_there_is_refused_by_its_code() {
    let shim = Shim::start("codes");
    let mut socket = shim.connect();
    for version in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        assert!(call(&mut socket, version, "Connect", "c").is_ok());
        for method in [
            "State",
            "Start",
            "Delete",
            "Pids",
            "Pause",
            "Resume",
            "Checkpoint",
            "Kill",
            "ResizePty",
            "CloseIO",
            "Update",
            "Wait",
            "Stats",
        ] {
            assert_eq!(call(&mut socket, version, method, "c"), Err(5), "{method}");
        }
        // An id that is none of the process to be, and of the container to be.
        assert_eq!(call(&mut socket, version, "Exec", "c"), Err(3));
        assert_eq!(call(&mut socket, version, "Create", "../c"), Err(3));
        assert_eq!(call(&mut socket, version, "Other", "c"), Err(12));
    }
    assert_eq!(call(&mut socket, "containerd.runtime.sandbox.v1.Sandbox", "CreateSandbox", "c"), Err(12));
}

#[test]
fn the_shim_is_a_session_of_its_own_in_the_cgroup_that_was_named() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = format!("/shim-task-{}", std::process::id());
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup{name}"));
    std::fs::create_dir(&cgroup).expect("a cgroup");
    let shim = Shim::start_with("cgroup", &Options { shim_cgroup: name.clone(), ..Options::default() }, ":");
    let pid = shim.pid();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("procfs");
    assert!(read("cgroup").lines().any(|line| line.strip_prefix("0::") == Some(&name)));
    // After the name in parentheses: state, parent, process group, session.
    let stat = read("stat");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    assert_eq!(fields[2..4], [pid.to_string(), pid.to_string()]);
    assert_eq!(read("status").lines().find(|line| line.starts_with("Threads:")), Some("Threads:\t1"));
    drop(shim);
    let end = Instant::now() + Duration::from_secs(20);
    while std::fs::remove_dir(&cgroup).is_err() {
        assert!(Instant::now() < end, "the shim is still there");
    }
}

#[test]
fn no_bytes_end_the_shim() {
    let shim = Shim::start("bytes");
    let pid = shim.pid();
    const METHODS: &[&str] =
        &["State", "Start", "Delete", "Pids", "Kill", "Exec", "ResizePty", "Update", "Wait", "Stats", "Connect"];
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let request = (prop::sample::select(METHODS), bytes()).prop_map(|(method, payload)| {
        let request = Request { service: "containerd.task.v2.Task".into(), method: method.into(), payload };
        frame(1, 1, &request.encode_to_vec())
    });
    let any_frame =
        (any::<u32>(), any::<u8>(), bytes()).prop_map(|(stream, kind, payload)| frame(stream, kind, &payload));
    let one = prop_oneof![request, any_frame, bytes()];
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&prop::collection::vec(one, 1..6), |parts| {
        let mut socket = shim.connect();
        // It may leave before all is written.
        let _ = socket.write_all(&parts.concat());
        drop(socket);
        prop_assert_eq!(shim.pid(), pid);
        Ok(())
    });
    tried.expect("a shim that goes on");
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let shim = Shim::start("long");
    let mut socket = shim.connect();
    let length = (4 << 20) + 1;
    socket.write_all(&frame(5, 1, &vec![0; length])).expect("write");
    assert_eq!(answer(&mut socket, 5), Err(8));
    assert!(call(&mut socket, "containerd.task.v2.Task", "Connect", "c").is_ok());
}

#[test]
fn there_is_an_end_to_the_number_of_peers() {
    let shim = Shim::start("peers");
    let mut peers: Vec<UnixStream> = (0..64).map(|_| shim.connect()).collect();
    assert!(call(&mut peers[63], "containerd.task.v2.Task", "Connect", "c").is_ok());
    assert_eq!(shim.connect().read(&mut [0]).expect("an end"), 0);
    peers.pop();
    // It hears of that end before it looks at who comes next, or is asked once more.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut next = shim.connect();
        next.set_read_timeout(Some(Duration::from_millis(100))).expect("setsockopt");
        // Silence, not an end.
        if next.read(&mut [0]).is_err() {
            break;
        }
        assert!(Instant::now() < end, "nobody is let in any more");
    }
}

/// A connection for each, as containerd has it, and four descriptors: more than there are peers without a container, and more than
/// the soft limit that the shim was started with, which is the containers' all the same.
#[test]
fn many_containers_have_one_shim() {
    const COUNT: usize = 80;
    const SOFT: &str = "150";
    let shim = Shim::start_with("many", &Options::default(), &format!("ulimit -Sn {SOFT}"));
    let bundle = common::Bundle::sleeper();
    let mut peers = Vec::new();
    for number in 0..COUNT {
        let mut peer = shim.connect();
        let id = format!("{}-{number}", bundle.id);
        let dir = bundle.dir.join(&id);
        std::fs::create_dir(&dir).expect("a directory");
        let mut config = bundle.config.clone();
        config["process"].as_object_mut().expect("a process").remove("rlimits");
        config["root"]["path"] = bundle.rootfs("").display().to_string().into();
        config["linux"]["cgroupsPath"] = format!("/{id}").into();
        std::fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
        begin(&mut peer, &Create { id: id.clone(), bundle: dir.display().to_string(), ..created(&bundle) });
        peers.push((peer, id));
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid())).expect("children");
    let children: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(children.len(), COUNT);
    for pid in children {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
        assert_eq!(files.split_whitespace().next(), Some(SOFT));
    }
    for (peer, id) in &mut peers {
        end(peer, id);
    }
}

const TASK: &str = "containerd.task.v2.Task";

/// A task of a bundle.
fn created(bundle: &common::Bundle) -> Create {
    let options = Options { root: bundle.store.display().to_string(), ..Options::default() };
    let dir = bundle.dir.display().to_string();
    Create { id: bundle.id.clone(), bundle: dir, options: Some(options.message()), ..Create::default() }
}

/// Creates and starts it: its pid.
fn begin(peer: &mut UnixStream, create: &Create) -> u32 {
    /// Of a CreateTaskResponse.
    #[derive(Clone, PartialEq, Message)]
    struct Pid {
        #[prost(uint32, tag = "1")]
        pid: u32,
    }
    let made = ask(peer, TASK, "Create", create).expect("Create");
    call(peer, TASK, "Start", &create.id).expect("Start");
    Pid::decode(&*made).expect("a CreateTaskResponse").pid
}

fn end(peer: &mut UnixStream, id: &str) {
    ask(peer, TASK, "Kill", &Kill { id: id.to_owned(), signal: 9 }).expect("Kill");
    call(peer, TASK, "Wait", id).expect("Wait");
    call(peer, TASK, "Delete", id).expect("Delete");
}

#[test]
fn output_belongs_to_who_was_named_and_its_program_says_that_it_is_ready() {
    let shim = Shim::start("owner");
    let bundle = common::Bundle::script("echo out; exec sleep 1000");
    let logger = bundle.dir.join("logger");
    let write = |text: &str| {
        std::fs::write(&logger, text).expect("write");
        std::fs::set_permissions(&logger, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    let mut peer = shim.connect();
    let root = bundle.store.display().to_string();
    let options = Options { root, io_gid: 1234, ..Options::default() };
    let stdout = format!("binary-v2://{}?to={}", logger.display(), bundle.dir.join("out").display());
    let create = Create { stdout, options: Some(options.message()), ..created(&bundle) };
    // The end of descriptor 5 is enough for binary://, and says nothing here.
    write("#!/bin/sh\nexec 5>&-; cat <&3\n");
    assert_eq!(ask(&mut peer, TASK, "Create", &create), Err(2));
    write("#!/bin/sh\nprintf r >&5; exec 5>&-; exec cat <&3 >$2\n");
    let pid = begin(&mut peer, &create);
    let owner = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(format!("/proc/{pid}/fd/1")).expect("a pipe"));
    assert_eq!(owner, 1234);
    common::wait(|| std::fs::read_to_string(bundle.dir.join("out")).is_ok_and(|text| text == "out\n"));
    end(&mut peer, &bundle.id);
}

/// An overlay whose layers' names do not fit into the page that mount(2) takes.
#[test]
fn a_root_file_system_may_have_many_layers() {
    let shim = Shim::start("layers");
    let bundle = common::Bundle::sleeper();
    let layers = bundle.dir.join("layers".repeat(10));
    let name = |number: usize| layers.join(number.to_string());
    for number in 0..100 {
        std::fs::create_dir_all(name(number)).expect("a layer");
        std::fs::write(name(number).join(format!("file{number}")), "").expect("a file");
    }
    std::fs::rename(bundle.rootfs(""), name(100)).expect("the last layer");
    std::fs::create_dir(bundle.rootfs("")).expect("rootfs");
    let lower: Vec<String> = (0..=100).map(|number| name(number).display().to_string()).collect();
    let own = ["upperdir", "workdir"].map(|name| {
        let dir = bundle.dir.join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        format!("{name}={}", dir.display())
    });
    let options = [vec![format!("lowerdir={}", lower.join(":"))], own.to_vec()].concat();
    assert!(options[0].len() > 4096);
    let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), options };
    let mut peer = shim.connect();
    let pid = begin(&mut peer, &Create { rootfs: vec![overlay], ..created(&bundle) });
    for number in [0, 99] {
        assert!(Path::new(&format!("/proc/{pid}/root/file{number}")).exists(), "{number}");
    }
    end(&mut peer, &bundle.id);
    assert_eq!(std::fs::read_dir(bundle.rootfs("")).expect("rootfs").count(), 0, "it is still mounted");
    // The kernel would look for the part of a name that fits.
    let options = vec![format!("lowerdir={}", vec![lower.join(":"); 9].join(":"))];
    let overlay = Mount { kind: "overlay".into(), source: "overlay".into(), options };
    assert_eq!(ask(&mut peer, TASK, "Create", &Create { rootfs: vec![overlay], ..created(&bundle) }), Err(2));
}

#[test]
fn another_user_is_not_served_where_the_modes_would_let_it_in() {
    if let Some(socket) = std::env::var_os("SHIM_SOCKET") {
        let mut socket = UnixStream::connect(socket).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
        assert_eq!(socket.read(&mut [0]).expect("an end"), 0);
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let shim = Shim::start("user");
    for path in [&shim.dir, &shim.socket] {
        let mode = std::fs::metadata(path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let other = Command::new("/proc/self/exe")
        .args(["--exact", "another_user_is_not_served_where_the_modes_would_let_it_in"])
        .env("SHIM_SOCKET", &shim.socket)
        .uid(1000)
        .output()
        .expect("another user");
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
}
