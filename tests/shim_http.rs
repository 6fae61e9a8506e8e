//! The supervisor's sockets: a loop with its connections as the supervisor has them, and clients of every kind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use orlop::shim::api::{self, Action, Answer, Events};
use orlop::shim::client::{self, As, Format, Source};
use orlop::shim::epoll::{EpollFlags, Poll, Ready};
use orlop::shim::health::{Reason, Summary};
use orlop::shim::http::{CLIENTS, Client, Connections, Kind, Listener, directory};
use orlop::shim::metrics;
use orlop::shim::view::{ExitView, LeaseView, ProbeView, View};

const WAKE: u64 = 1;
const FIRST_LISTENER: u64 = 2;

/// What the loop's thread and the test have in common.
#[derive(Default)]
struct Shared {
    views: Mutex<Vec<View>>,
    actions: Mutex<Vec<Action>>,
    /// Actions are kept waiting while this is set.
    busy: AtomicBool,
    /// What time it is for the loop, in seconds. It goes on when a test says so.
    time: AtomicU64,
    end: AtomicBool,
}

/// A supervisor's sockets with nothing behind them.
struct Server {
    base: PathBuf,
    shared: Arc<Shared>,
    port: SocketAddr,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

struct Record;

impl Events for Record {
    fn since(&self, _: &str, seq: u64) -> Vec<String> {
        (seq + 1..=3).map(|seq| format!("{{\"seq\":{seq}}}")).collect()
    }
}

impl Server {
    fn of(views: Vec<View>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("orlop-http-{}-{number}", std::process::id()));
        let own = directory(&base.join("web")).expect("a directory");
        let listeners = vec![
            Listener::unix(own.as_fd(), client::READ, Kind::Read).expect("read.sock"),
            Listener::unix(own.as_fd(), client::CONTROL, Kind::Control).expect("control.sock"),
            Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a port"),
        ];
        let port = listeners[2].address().expect("a port");
        let shared = Arc::new(Shared::default());
        *shared.views.lock().unwrap() = views;
        let (wake, woken) = UnixStream::pair().expect("socketpair");
        let theirs = shared.clone();
        let thread = spawn(move || serve(&theirs, &listeners, &woken));
        Self { base, shared, port, wake, thread: Some(thread) }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.base.join("web").join(name)
    }

    fn read(&self) -> UnixStream {
        connect(&self.socket(client::READ))
    }

    fn control(&self) -> UnixStream {
        connect(&self.socket(client::CONTROL))
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.port).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    fn source(&self) -> Source {
        Source { directory: self.base.clone(), root: self.base.join("none") }
    }

    /// The loop looks at what has changed.
    fn wake(&self) {
        (&self.wake).write_all(b"x").expect("wake");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.base);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// The loop, as the supervisor's is made.
fn serve(shared: &Shared, listeners: &[Listener], woken: &UnixStream) {
    let mut poll = Poll::new(&[]).expect("epoll");
    poll.add(woken, WAKE, EpollFlags::EPOLLIN).expect("add");
    for (listener, token) in listeners.iter().zip(FIRST_LISTENER..) {
        poll.add(listener, token, EpollFlags::EPOLLIN).expect("add");
    }
    let mut connections = Connections::new();
    let mut waiting: Vec<Client> = Vec::new();
    while !shared.end.load(Ordering::SeqCst) {
        let now = || Duration::from_secs(shared.time.load(Ordering::SeqCst));
        connections.expire(now());
        for ready in poll.wait().expect("wait") {
            match ready {
                Ready::File(WAKE, _) => {
                    let _ = (&mut &*woken).read(&mut [0; 64]);
                }
                Ready::File(token, flags) if Connections::owns(token) => {
                    let Some((client, request)) = connections.ready(token, flags, &poll, now()) else { continue };
                    let views = shared.views.lock().unwrap();
                    match api::answer(&request, &views, &Record) {
                        Answer::Response(response) => connections.answer(client, &response, &poll, now()),
                        Answer::Action(action) => {
                            shared.actions.lock().unwrap().push(action);
                            waiting.push(client);
                        }
                        Answer::Later(_) => panic!("nobody here asks for that"),
                    }
                }
                Ready::File(token, _) => {
                    let listener = &listeners[(token - FIRST_LISTENER) as usize];
                    connections.accept(listener, &poll, now()).expect("accept");
                }
                _ => {}
            }
        }
        if !shared.busy.load(Ordering::SeqCst) {
            for client in waiting.drain(..) {
                connections.answer(client, &api::acted(&Ok(())), &poll, now());
            }
        }
    }
}

fn view(id: &str, summary: Summary, reason: Reason) -> View {
    View {
        id: id.to_owned(),
        bundle: "/bundle".to_owned(),
        pid: Some(7),
        summary,
        reason,
        since: "2026-01-01T00:00:00Z".to_owned(),
        seq: 3,
        lifecycle: "running".to_owned(),
        ready: Some(true),
        pressure: "none".to_owned(),
        crash: "none".to_owned(),
        lease: Some(LeaseView {
            state: "held".to_owned(),
            key: "/key".to_owned(),
            token: Some(7),
            remaining_seconds: 5.5,
        }),
        restarts: 1,
        uptime_seconds: Some(60.0),
        started_seconds: Some(1_767_225_600.5),
        start_latency_seconds: Some(0.25),
        age_seconds: 0.5,
        lag_seconds: 0.001,
        probes: vec![ProbeView {
            name: "liveness".to_owned(),
            verdict: "pass".to_owned(),
            count: 9,
            failures: 1,
            last_seconds: Some(0.002),
            output: "said".to_owned(),
        }],
        last_exit: Some(ExitView {
            kind: "oom".to_owned(),
            code: None,
            signal: Some(9),
            at: "2026-01-01T00:00:00Z".to_owned(),
            uptime_seconds: 5.0,
        }),
        counters: Vec::new(),
    }
}

fn healthy() -> Vec<View> {
    vec![view("web", Summary::Healthy, Reason::Ok)]
}

fn request(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// One answer: its status, its fields and its body, by its Content-Length; None at the end of the connection.
fn answer(stream: &mut impl Read, head_only: bool) -> Option<(u16, BTreeMap<String, String>, String)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => {
                assert!(head.is_empty(), "cut off: {}", String::from_utf8_lossy(&head));
                return None;
            }
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset && head.is_empty() => return None,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).expect("UTF-8");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let fields: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let mut body = vec![0; if head_only { 0 } else { fields["Content-Length"].parse().expect("a length") }];
    stream.read_exact(&mut body).expect("the body");
    Some((status.expect("a status"), fields, String::from_utf8(body).expect("UTF-8")))
}

fn ask(stream: &mut (impl Read + Write), text: &str) -> (u16, BTreeMap<String, String>, String) {
    // A server that refuses may close its end before all is written.
    let _ = stream.write_all(text.as_bytes());
    answer(stream, text.starts_with("HEAD")).expect("an answer")
}

fn status(stream: &mut (impl Read + Write), text: &str) -> u16 {
    ask(stream, text).0
}

#[test]
fn the_sockets_are_their_users_alone() {
    let server = Server::of(healthy());
    assert_eq!(fs::metadata(server.base.join("web")).unwrap().mode() & 0o7777, 0o700);
    for name in [client::READ, client::CONTROL] {
        let found = fs::metadata(server.socket(name)).unwrap();
        assert!(found.file_type().is_socket() && found.mode() & 0o777 == 0o600, "{name}: {:o}", found.mode());
    }
    // Another supervisor answers there.
    let own = directory(&server.base.join("web")).unwrap();
    let error = Listener::unix(own.as_fd(), client::READ, Kind::Read).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("another supervisor answers there"));
    assert_eq!(status(&mut server.read(), &request("GET /livez")), 200);
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        assert!(Listener::tcp(open.parse().unwrap()).unwrap_err().message.contains("loopback"), "{open}");
    }
    fs::set_permissions(server.base.join("web"), PermissionsExt::from_mode(0o750)).unwrap();
    assert!(directory(&server.base.join("web")).unwrap_err().message.contains("0750"));
}

#[test]
fn a_supervisor_that_has_gone_leaves_its_name_and_a_long_path_is_none_too_long() {
    let base = std::env::temp_dir().join(format!("orlop-http-long-{}", std::process::id()));
    let own = directory(&base.join("x".repeat(120))).unwrap();
    for _ in 0..2 {
        drop(Listener::unix(own.as_fd(), client::READ, Kind::Read).unwrap());
    }
    fs::remove_dir_all(base).unwrap();
}

#[test]
fn requests_of_one_client_are_answered_in_their_order() {
    let server = Server::of(healthy());
    let mut stream = server.read();
    let (code, fields, body) = ask(&mut stream, &request("GET /livez?id=web"));
    assert_eq!((code, body.as_str()), (200, "healthy ok\n"));
    assert_eq!((fields["Cache-Control"].as_str(), fields["X-Health-Age-Ms"].as_str()), ("no-store", "500"));
    assert_eq!(ask(&mut stream, &request("HEAD /livez")).1["Content-Length"], "11");
    // Three at once, and the third says that it is the last.
    let last = "GET /v1/events?since=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all((request("GET /readyz") + &request("GET /none") + last).as_bytes()).unwrap();
    assert_eq!(answer(&mut stream, false).unwrap().2, "healthy ok\n");
    assert_eq!(answer(&mut stream, false).unwrap().0, 404);
    assert_eq!(answer(&mut stream, false).unwrap().2, "{\"seq\":2}\n{\"seq\":3}\n");
    assert!(answer(&mut stream, false).is_none());
    // In pieces.
    let mut stream = server.tcp();
    for byte in request("GET /livez").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(answer(&mut stream, false).unwrap().0, 200);
}

#[test]
fn what_is_too_large_is_refused() {
    let server = Server::of(healthy());
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    assert_eq!(status(&mut server.read(), &long), 431);
    assert_eq!(status(&mut server.tcp(), &long), 431);
    let body = format!("POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{}", "x".repeat(9000));
    assert_eq!(status(&mut server.control(), &body), 413);
    assert_eq!(status(&mut server.read(), "nonsense\r\n\r\n"), 400);
    let mut stream = server.read();
    assert_eq!(ask(&mut stream, &request("POST /livez")).1["Allow"], "GET, HEAD");
    assert_eq!(status(&mut stream, &request("GET /livez")), 200, "the connection goes on");
    assert!(server.shared.actions.lock().unwrap().is_empty());
}

#[test]
fn who_says_nothing_has_ten_seconds() {
    let server = Server::of(healthy());
    let (mut idle, mut slow, mut good) = (server.read(), server.tcp(), server.read());
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(status(&mut good, &request("GET /livez")), 200);
    // All of it has come, since one that came the same way later has its answer.
    assert_eq!(status(&mut server.tcp(), &request("GET /livez")), 200);
    server.shared.time.store(9, Ordering::SeqCst);
    server.wake();
    assert_eq!(status(&mut good, &request("GET /livez")), 200);
    server.shared.time.store(11, Ordering::SeqCst);
    server.wake();
    assert_eq!(answer(&mut slow, false).unwrap().0, 408);
    assert!(answer(&mut slow, false).is_none() && answer(&mut idle, false).is_none());
    assert_eq!(status(&mut good, &request("GET /livez")), 200);
}

/// Clients of a port, where everybody may come, take nothing from those of the sockets.
#[test]
fn one_kind_of_clients_does_not_shut_out_another() {
    let server = Server::of(healthy());
    let mut held: Vec<TcpStream> = (0..CLIENTS).map(|_| server.tcp()).collect();
    assert_eq!(answer(held.last_mut().unwrap(), false).unwrap().0, 503);
    let mut readers: Vec<UnixStream> = (0..CLIENTS).map(|_| server.read()).collect();
    assert_eq!(answer(readers.last_mut().unwrap(), false).unwrap().0, 503);
    assert_eq!(status(&mut readers[0], &request("GET /livez")), 200);
    assert_eq!(status(&mut server.control(), &request("POST /v1/upgrade")), 200);
    assert_eq!(status(&mut held[0], &request("GET /livez")), 200);
    drop((held, readers));
    // They have gone: there is room again.
    let mut tries = 0;
    while status(&mut server.tcp(), &request("GET /livez")) != 200 {
        tries += 1;
        assert!(tries < 1000, "no room comes back");
    }
}

#[test]
fn an_action_is_for_the_control_socket_and_is_waited_for() {
    let server = Server::of(healthy());
    let stop = request("POST /v1/containers/web/stop?timeout=2");
    assert_eq!(status(&mut server.read(), &stop), 403);
    assert_eq!(status(&mut server.tcp(), &stop), 403);
    assert!(server.shared.actions.lock().unwrap().is_empty());
    server.shared.busy.store(true, Ordering::SeqCst);
    let mut stream = server.control();
    stream.write_all((stop + &request("GET /livez")).as_bytes()).unwrap();
    let mut gone = server.control();
    gone.write_all(request("POST /v1/containers/web/restart").as_bytes()).unwrap();
    while server.shared.actions.lock().unwrap().len() < 2 {
        std::thread::yield_now();
    }
    drop(gone);
    // Nobody is told to wait for more than ten seconds, and a stop may take longer.
    server.shared.time.store(60, Ordering::SeqCst);
    server.shared.busy.store(false, Ordering::SeqCst);
    server.wake();
    assert_eq!(answer(&mut stream, false).unwrap().2, "{\"done\":true}\n");
    assert_eq!(answer(&mut stream, false).unwrap().2, "healthy ok\n");
    let timeout = Some(Duration::from_secs(2));
    let actions = server.shared.actions.lock().unwrap().clone();
    assert_eq!(actions, [Action::Stop { id: "web".into(), timeout }, Action::Restart { id: "web".into() }]);
}

#[test]
fn the_control_socket_is_asked_by_a_function() {
    let server = Server::of(healthy());
    let patience = Duration::from_secs(20);
    let done = client::post(&server.source(), "web", "/v1/containers/web/kill?signal=9", patience).unwrap();
    assert_eq!(done, (200, "{\"done\":true}\n".to_owned()));
    assert_eq!(*server.shared.actions.lock().unwrap(), [Action::Kill { id: "web".into(), signal: "9".into() }]);
    let error = client::post(&server.source(), "other", "/v1/upgrade", patience).unwrap_err();
    assert!(error.message.contains("does not answer"), "{error}");
}

/// A client that does not read holds a bounded part of our memory, and gets all when it does.
#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut large = view("web", Summary::Healthy, Reason::Ok);
    large.counters = (0..100_000).map(|number| (format!("memory.stat {number:032}"), 0.0)).collect();
    let length = serde_json::to_vec(&[&large]).unwrap().len() + 1;
    assert!(length > 3 << 20);
    let server = Server::of(vec![large]);
    let mut streams: Vec<UnixStream> = (0..4).map(|_| server.read()).collect();
    for stream in &mut streams {
        stream.write_all(request("GET /v1/containers").as_bytes()).unwrap();
    }
    // One socket and one loop: when this has its answer, the others have been answered.
    assert_eq!(status(&mut server.read(), &request("GET /livez")), 200);
    let answers: Vec<_> = streams.iter_mut().map(|stream| answer(stream, false).unwrap()).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.0).collect();
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    assert!(answers.iter().all(|answer| answer.0 == 503 || answer.2.len() == length));
    assert_eq!(status(&mut streams[0], &request("GET /v1/containers/web")), 200);
}

/// SO_PEERCRED: the modes are opened on purpose.
#[test]
fn another_users_client_is_turned_away() {
    let server = Server::of(healthy());
    for (path, mode) in [(server.base.clone(), 0o755), (server.base.join("web"), 0o755)] {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    for name in [client::READ, client::CONTROL] {
        let path = server.socket(name);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let asked = spawn(move || {
            // SAFETY: a number, and the user of this thread alone; glibc's own function would change that of all.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
            status(&mut connect(&path), &request("GET /livez"))
        });
        assert_eq!(asked.join().unwrap(), 403, "{name}");
    }
}

#[test]
fn check_and_status_read_the_socket() {
    let mut views = healthy();
    views.push(view("db", Summary::Hung, Reason::BlockedIo));
    let server = Server::of(views);
    let said = |words, max_age| client::check("web", &server.source(), words, max_age);
    assert_eq!((said(As::Ocf, None).status, said(As::Nagios, None).status), (0, 0));
    assert_eq!(said(As::Haproxy, None).stdout, "ready up\n");
    assert_eq!(said(As::Ocf, Some(Duration::from_millis(400))).stdout, "unknown stale-sample\n");
    server.shared.views.lock().unwrap()[0].summary = Summary::Degraded;
    assert_eq!((said(As::Ocf, None).status, said(As::Nagios, None).status), (190, 1));
    let table = client::status(&server.source(), Format::Table).unwrap();
    let first: Vec<&str> = table.lines().map(|line| line.split_ascii_whitespace().next().unwrap()).collect();
    assert_eq!(first, ["ID", "db", "web"], "{table}");
    assert!(table.contains("hung") && table.contains("blocked-io"), "{table}");
    let json = client::status(&server.source(), Format::Json).unwrap();
    let views = server.shared.views.lock().unwrap().clone();
    assert_eq!(serde_json::from_str::<Vec<View>>(&json).unwrap(), [views[1].clone(), views[0].clone()]);
}

/// It accepts and says nothing, or something else; the container is nowhere. `check` comes back.
#[test]
fn a_supervisor_that_does_not_answer_is_not_waited_for() {
    let base = std::env::temp_dir().join(format!("orlop-http-mute-{}", std::process::id()));
    let source = Source { directory: base.clone(), root: base.join("none") };
    let own = directory(&base.join("web")).unwrap();
    let _mute = Listener::unix(own.as_fd(), client::READ, Kind::Read).unwrap();
    let checked = client::check("web", &source, As::Ocf, None);
    assert_eq!((checked.status, checked.stdout.as_str()), (7, "unknown no-such-container\n"));
    fs::write(base.join("web").join(client::FACTS), "damaged").unwrap();
    assert!(client::status(&source, Format::Table).unwrap().contains("unknown  no-supervisor"));
    fs::remove_dir_all(base).unwrap();
}

/// Every metric there is, with ids and all.
fn everything() -> Vec<View> {
    let mut one = view("web", Summary::Failed, Reason::OomKill);
    let names = metrics::kernel_names();
    one.counters = names.zip(1u32..).map(|(name, value)| (name.to_owned(), f64::from(value) * 1000.0)).collect();
    let two = View { id: "two".into(), last_exit: None, started_seconds: None, ..one.clone() };
    vec![one, two]
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("promtool (Debian's prometheus)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn promtool_finds_nothing_in_the_metrics() {
    let server = Server::of(everything());
    let (code, fields, text) = ask(&mut server.tcp(), &request("GET /metrics"));
    assert_eq!((code, fields["Content-Type"].as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(promtool(&["check", "metrics"], &text), (true, String::new()));
    for family in metrics::FAMILIES {
        assert!(text.contains(&format!("\n{}{}", family.name, family.kind.suffix())), "{} is missing", family.name);
    }
    let (clean, said) = promtool(&["check", "metrics"], &text.replace("# HELP container_threads Threads.\n", ""));
    assert!(!clean && said.contains("container_threads no help text"), "promtool does not look: {said}");
}

/// promtool reads OpenMetrics where it makes blocks of it, and wants each sample's time there.
#[test]
fn promtool_takes_the_metrics_as_openmetrics() {
    let server = Server::of(everything());
    let accept =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let (_, fields, text) = ask(&mut server.read(), accept);
    assert!(fields["Content-Type"].starts_with("application/openmetrics-text; version=1.0.0"));
    let timed = |text: &str| -> String {
        let line =
            |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1767225600\n") };
        text.lines().map(line).collect()
    };
    let base = server.base.join("blocks");
    fs::create_dir(&base).unwrap();
    let take = |text: &str| {
        let (file, blocks) = (base.join("metrics"), base.join("out"));
        fs::write(&file, text).unwrap();
        let paths = [file, blocks].map(|path| path.to_str().unwrap().to_owned());
        promtool(&["tsdb", "create-blocks-from", "openmetrics", &paths[0], &paths[1]], "")
    };
    let (taken, said) = take(&timed(&text));
    assert!(taken, "{said}");
    let (taken, _) = take(&timed(&text).replace("# EOF\n", ""));
    assert!(!taken, "it does not look");
}
