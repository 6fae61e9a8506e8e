//! A container that runs only under a lease, with etcd itself: two supervisors in two networks, one key.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Bundle, Running, alive, begin, outcome, value};
use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim");
/// As short as etcd counts them.
const TTL: u64 = 1;
/// The program's word, as long as it runs: its token, and the time since boot in hundredths of a second (proc(5), uptime).
const PROGRAM: &str = r#"
token=$(sed 's/.*"token":\([0-9]*\).*/\1/' /run/orlop/lease.json)
mkfifo /tmp/never 2>/dev/null; exec 3<>/tmp/never
while :; do read up rest </proc/uptime; echo "$token $up" >>/tmp/stamps; read -t 0.005 x <&3; done
"#;

#[track_caller]
fn soon(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn do_in(network: u32, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{network}/ns/net")).args(words).stdin(Stdio::null());
    command
}

/// A process of ours, ended when it is dropped.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace, as long as its process lives.
struct Network(Own);

impl Network {
    fn new() -> Self {
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
        let mut command = Command::new("unshare");
        let child = command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).spawn().expect("unshare");
        let network = Self(Own(child));
        let other = || fs::read_link(format!("/proc/{}/ns/net", network.pid())).is_ok_and(|other| other != own);
        soon("a namespace", other);
        network.ip("link set lo up");
        network
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    fn ip(&self, words: &str) {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        outcome(do_in(self.pid(), &words)).well();
    }
}

/// etcd in a network of its own; its data outlives it.
struct Etcd {
    network: Network,
    data: PathBuf,
    server: Option<Own>,
}

const LISTEN: &str = "http://0.0.0.0:2379";

impl Etcd {
    fn new(data: PathBuf) -> Self {
        let mut etcd = Self { network: Network::new(), data, server: None };
        etcd.start();
        etcd
    }

    fn start(&mut self) {
        let mut command = do_in(self.network.pid(), &["etcd", "--data-dir"]);
        command.arg(&self.data).args(["--listen-client-urls", LISTEN, "--advertise-client-urls", LISTEN]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"]);
        // What a lease lasts at least follows from these.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.server = Some(Own(child.expect("Debian's etcd-server is needed")));
        soon("etcd answers", || self.ask("maintenance/status", &json!({})).is_some());
    }

    fn kill(&mut self) {
        self.server = None;
    }

    /// Through the kernel of its network, whatever becomes of the others.
    fn ask(&self, path: &str, body: &Value) -> Option<Value> {
        let url = format!("http://127.0.0.1:2379/v3/{path}");
        let body = body.to_string();
        let done = outcome(do_in(self.network.pid(), &["curl", "-sf", "-m", "5", "-d", &body, &url]));
        serde_json::from_str(&done.stdout()).ok()
    }
}

/// One token's first and last stamp, in hundredths of a second.
#[derive(Debug, Clone)]
struct Life {
    token: u64,
    from: u64,
    to: u64,
}

/// What was read of a file of stamps.
#[derive(Default)]
struct Seen {
    bytes: u64,
    count: u64,
    lives: Vec<Life>,
}

/// A supervisor in a network of its own, and its bundle.
struct Side {
    bundle: Bundle,
    network: Network,
    /// The end of its cable on etcd's side.
    far: String,
    cgroup: PathBuf,
    shim: Option<Running>,
    seen: RefCell<Seen>,
}

impl Side {
    fn new(number: u32, etcd: &Etcd, health: &Value) -> Self {
        let network = Network::new();
        let far = format!("far{number}");
        let peer = etcd.network.pid();
        network.ip(&format!("link add near type veth peer name {far} netns {peer}"));
        network.ip(&format!("addr add 10.9.{number}.2/24 dev near"));
        network.ip("link set near up");
        etcd.network.ip(&format!("addr add 10.9.{number}.1/24 dev {far}"));
        etcd.network.ip(&format!("link set {far} up"));
        let bundle = Bundle::script(PROGRAM);
        let name = format!("orlop-lease-{}", bundle.id);
        let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}")));
        let mut health = health.clone();
        let ttl = health["lease"]["ttlSeconds"].as_u64().unwrap_or(TTL);
        // Nobody answers at the first one.
        let endpoints = ["http://127.0.0.1:9".to_owned(), format!("http://10.9.{number}.1:2379")];
        health["lease"] = json!({"etcd": endpoints, "key": "/orlop/test", "ttlSeconds": ttl});
        health["stop"] = json!({"timeoutSeconds": 0.1});
        fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
        Self {
            bundle,
            network,
            far,
            cgroup: PathBuf::from("/sys/fs/cgroup").join(name),
            shim: None,
            seen: RefCell::default(),
        }
    }

    fn shims(&self) -> PathBuf {
        self.bundle.dir.join("shims")
    }

    /// `orlop-shim --directory DIR WORDS...` in its network.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = do_in(self.network.pid(), &[SHIM, "--directory"]);
        command.arg(self.shims()).args(words);
        command
    }

    fn start(&mut self) {
        let mut command = self.command(&["run", "--root"]);
        command.arg(&self.bundle.store).arg(&self.bundle.dir).arg(&self.bundle.id);
        self.shim = Some(begin(command));
    }

    fn resume(&mut self) {
        self.shim = Some(begin(self.command(&["resume", &self.bundle.id])));
    }

    fn last_exit(&self) -> Value {
        self.events("exit").last().cloned().unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        let pid = self.shim.as_ref().expect("running").child.id().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().expect("kill").success());
    }

    fn end(&mut self) -> Option<i32> {
        self.shim.take().expect("running").end().code
    }

    /// Cut off, with or without its own kernel seeing it; or connected again.
    fn cut(&self, etcd: &Etcd, seen: bool) {
        match seen {
            true => self.network.ip("link set near down"),
            false => etcd.network.ip(&format!("link set {} down", self.far)),
        }
    }

    fn join(&self, etcd: &Etcd) {
        self.network.ip("link set near up");
        etcd.network.ip(&format!("link set {} up", self.far));
    }

    fn view(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.shims().join(&self.bundle.id).join("read.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let id = &self.bundle.id;
        write!(stream, "GET /v1/containers/{id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn is(&self, summary: &str, reason: &str) -> bool {
        self.view().is_some_and(|view| view["summary"] == summary && view["reason"] == reason)
    }

    fn pid(&self) -> u32 {
        self.view().and_then(|view| view["pid"].as_u64()).expect("a pid") as u32
    }

    /// Reads on in what its program has written. How many stamps there were by now.
    fn stamps(&self) -> u64 {
        let mut seen = self.seen.borrow_mut();
        let Ok(mut file) = File::open(self.bundle.rootfs("tmp/stamps")) else { return 0 };
        let mut text = String::new();
        file.seek(SeekFrom::Start(seen.bytes)).and_then(|_| file.read_to_string(&mut text)).expect("stamps");
        // The last line may be torn.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            seen.bytes += line.len() as u64;
            let stamp = line.trim().split_once(' ').and_then(|(token, time)| {
                Some((token.parse::<u64>().ok()?, time.replace('.', "").parse::<u64>().ok()?))
            });
            let Some((token, time)) = stamp else { continue };
            seen.count += 1;
            match seen.lives.last_mut().filter(|life| life.token == token) {
                Some(life) => life.to = time,
                None => seen.lives.push(Life { token, from: time, to: time }),
            }
        }
        seen.count
    }

    fn lives(&self) -> Vec<Life> {
        self.stamps();
        self.seen.borrow().lives.clone()
    }

    /// The last one that it has written.
    fn token(&self) -> u64 {
        self.lives().last().map_or(0, |life| life.token)
    }

    /// By the kernel: it has processes, and they are not frozen.
    fn runs(&self) -> bool {
        let events = value(self.cgroup.join("cgroup.events")).unwrap_or_default();
        events.contains("populated 1") && !events.contains("frozen 1")
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let directory = self.shims().join(&self.bundle.id);
        let files = ["events.1.ndjson", "events.ndjson"].map(|name| fs::read_to_string(directory.join(name)));
        let text: String = files.into_iter().flatten().collect();
        let kind = format!("org.orlop.container.{kind}");
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["type"] == kind.as_str()).map(|event| event["data"].clone()).collect()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if self.shim.is_some() {
            self.signal("CONT");
            self.signal("TERM");
            self.end();
        }
        self.bundle.on("delete", &["--force"]);
    }
}

struct Pair {
    etcd: Etcd,
    sides: [Side; 2],
}

impl Pair {
    fn new(health: &Value) -> Self {
        let data =
            std::env::temp_dir().join(format!("orlop-etcd-{}-{:?}", std::process::id(), std::thread::current().id()));
        let etcd = Etcd::new(data);
        let mut sides = [1, 2].map(|number| Side::new(number, &etcd, health));
        sides.iter_mut().for_each(Side::start);
        Self { etcd, sides }
    }

    /// The side whose program writes with a token after `token`.
    fn owner(&self, token: u64) -> usize {
        soon("an owner", || self.sides.iter().any(|side| side.token() > token && side.runs()));
        usize::from(self.sides[1].token() > self.sides[0].token())
    }

    /// By what the programs have written, two at a time; None: never.
    fn overlap(&self) -> Option<String> {
        let mut all: Vec<Life> = self.sides.iter().flat_map(Side::lives).collect();
        all.sort_by_key(|life| life.from);
        all.windows(2).find_map(|pair| {
            let wrong = pair[1].from < pair[0].to || pair[1].token <= pair[0].token;
            wrong.then(|| format!("{:?} and {:?}", pair[0], pair[1]))
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in &mut self.sides {
            if side.shim.is_some() {
                side.join(&self.etcd);
                side.signal("CONT");
                side.signal("TERM");
                side.end();
            }
        }
        self.etcd.kill();
        let _ = fs::remove_dir_all(&self.etcd.data);
    }
}

/// Looks at both cgroups as often as it can, until it is told to stop. The first one is looked at before and after the second:
/// what ran at both times ran in between.
fn watch(cgroups: &[PathBuf; 2], stop: &AtomicBool) -> Option<u64> {
    let runs = |cgroup: &PathBuf| {
        let events = value(cgroup.join("cgroup.events")).unwrap_or_default();
        events.contains("populated 1") && !events.contains("frozen 1")
    };
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        if runs(&cgroups[0]) && runs(&cgroups[1]) && runs(&cgroups[0]) {
            return None;
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(looks)
}

/// In seconds: what was left of the lease when the cgroup was empty, how late the fence was, how long the kernel took.
struct Fenced {
    margin: f64,
    late: f64,
    kill: f64,
}

/// What takes the key from its owner in a round.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Its network drops everything.
    Dropped,
    /// Its network is gone, and its kernel knows.
    Unreachable,
    /// etcd is killed, and comes back after the lease has ended.
    Killed,
    /// Somebody takes the lease away.
    Revoked,
}

/// The new owner's token, and how the old one was fenced.
fn one_round(pair: &mut Pair, trouble: Trouble, token: u64) -> (u64, Fenced) {
    let owner = pair.owner(token.saturating_sub(1));
    let before = pair.sides[owner].token();
    match trouble {
        Trouble::Dropped => pair.sides[owner].cut(&pair.etcd, false),
        Trouble::Unreachable => pair.sides[owner].cut(&pair.etcd, true),
        Trouble::Killed => {
            pair.etcd.kill();
            soon("both have stopped", || !pair.sides.iter().any(Side::runs));
            pair.etcd.start();
        }
        Trouble::Revoked => {
            let lease = value(pair.sides[owner].shims().join(&pair.sides[owner].bundle.id).join("lease.json"));
            let lease: Value = serde_json::from_str(&lease.expect("lease.json")).expect("JSON");
            pair.etcd.ask("lease/revoke", &json!({"ID": lease["lease"]})).expect("revoked");
        }
    }
    let next = pair.owner(before);
    let token = pair.sides[next].token();
    pair.sides[owner].join(&pair.etcd);
    assert!(token > before);
    let exit = pair.sides[owner].last_exit();
    assert_eq!(exit["exit"]["kind"], "fenced", "{exit}");
    let seconds = |name: &str| exit["fence"][name].as_f64().expect(name);
    (token, Fenced { margin: seconds("marginSeconds"), late: seconds("lateSeconds"), kill: seconds("killSeconds") })
}

/// So many rounds of one pair.
fn rounds_of(rounds: u32) -> Vec<Fenced> {
    let mut pair = Pair::new(&json!({"restart": {"policy": "always", "firstDelaySeconds": 0.05}}));
    let cgroups = [0, 1].map(|side| pair.sides[side].cgroup.clone());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&cgroups, &stop));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (mut token, mut margins) = (0, Vec::new());
            for round in 0..rounds {
                let trouble = match round % 8 {
                    0 | 4 => Trouble::Dropped,
                    2 | 6 => Trouble::Unreachable,
                    3 => Trouble::Killed,
                    _ => Trouble::Revoked,
                };
                let (new, margin) = one_round(&mut pair, trouble, token);
                token = new;
                margins.push(margin);
                assert_eq!(pair.overlap(), None, "two owners by their own word, in round {round} ({trouble:?})");
            }
            margins
        }));
        stop.store(true, Ordering::Relaxed);
        let looks = watcher.join().expect("a watcher");
        let margins = done.unwrap_or_else(|panic| {
            for side in &pair.sides {
                eprintln!("{:?}\n{:?}", side.view(), side.events("lease"));
            }
            std::panic::resume_unwind(panic)
        });
        assert!(looks.expect("two owners by the kernel's word") > 100);
        margins
    })
}

#[test]
fn never_two_owners() {
    const PAIRS: u32 = 3;
    let rounds = rounds::rounds(30).div_ceil(PAIRS);
    let mut fenced: Vec<Fenced> = std::thread::scope(|scope| {
        let pairs: Vec<_> = (0..PAIRS).map(|_| scope.spawn(move || rounds_of(rounds))).collect();
        pairs.into_iter().flat_map(|pair| pair.join().expect("a pair")).collect()
    });
    fenced.sort_by(|one, other| one.margin.total_cmp(&other.margin));
    let Fenced { margin, late, kill } = fenced[0];
    println!(
        "{} rounds; left of the lease of {TTL} s: median {:.3} s, at least {margin:.3} s (begun {late:.3} s late, killed in {kill:.3} s)",
        fenced.len(),
        fenced[fenced.len() / 2].margin,
    );
}

/// Without a fence two run at once, and both ways to find that out find it: a supervisor that is stopped can do nothing. What it
/// missed is the first thing that it does.
#[test]
fn a_stopped_supervisor_fences_nothing() {
    let pair = Pair::new(&json!({}));
    let owner = pair.owner(0);
    let (cgroups, stop) = ([0, 1].map(|side| pair.sides[side].cgroup.clone()), AtomicBool::new(false));
    pair.sides[owner].signal("STOP");
    soon("another owner", || pair.sides[1 - owner].token() > pair.sides[owner].token());
    assert_eq!(watch(&cgroups, &stop), None);
    soon("two by their own word", || pair.overlap().is_some());
    pair.sides[owner].signal("CONT");
    soon("it is fenced", || !pair.sides[owner].runs());
    soon("its end is known", || pair.sides[owner].last_exit()["exit"]["kind"] == "fenced");
    assert!(pair.sides[1 - owner].runs());
}

/// One supervisor, alone with etcd.
fn alone(health: &Value) -> (Etcd, Side) {
    let name = format!("orlop-etcd-{}-{:?}", std::process::id(), std::thread::current().id());
    let etcd = Etcd::new(std::env::temp_dir().join(name));
    let mut side = Side::new(1, &etcd, health);
    side.start();
    (etcd, side)
}

fn gone(mut etcd: Etcd) {
    etcd.kill();
    let _ = fs::remove_dir_all(&etcd.data);
}

/// How many keys there are: the holder's, and its note.
fn keys(etcd: &Etcd) -> u64 {
    // From a NUL byte to a NUL byte: all of them.
    let all =
        etcd.ask("kv/range", &json!({"key": "AA==", "range_end": "AA==", "count_only": true})).expect("an answer");
    all["count"].as_str().map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn a_token_is_new_with_each_acquisition_and_the_key_is_given_back() {
    let (etcd, mut side) = alone(&json!({"restart": "always"}));
    soon("it runs", || side.is("healthy", "ok") && side.token() > 0);
    let (token, pid) = (side.token(), side.pid());
    let inside = side.bundle.inside("cat /run/orlop/lease.json; echo >/run/orlop/lease.json || echo refused");
    let (text, refused) = inside.split_at(inside.rfind('}').expect("an object") + 1);
    let text: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!((&text["key"], &text["token"], text["lease"].is_string()), (&json!("/orlop/test"), &json!(token), true));
    assert!(refused.contains("refused"), "{refused}");
    let view = side.view().expect("a view");
    assert_eq!((&view["lease"]["state"], &view["lease"]["token"]), (&json!("held"), &json!(token)));
    // A start of its own policy is under the same lease, and another program in the supervisor's process as well.
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill").success());
    soon("it runs again", || side.is("healthy", "ok") && side.view().is_some_and(|view| view["pid"] != pid));
    outcome(side.command(&["upgrade", &side.bundle.id])).well();
    soon("the upgrade", || side.events("supervisor").iter().any(|event| event.get("resumed").is_some()));
    std::thread::sleep(Duration::from_secs(2 * TTL));
    assert!(side.runs() && side.token() == token && keys(&etcd) == 2);
    side.signal("TERM");
    assert_eq!((side.end(), keys(&etcd)), (Some(0), 0));
    // Who finds nobody's note need not wait.
    side.start();
    soon("it runs", || side.token() > token);
    side.signal("TERM");
    side.end();
    gone(etcd);
}

#[test]
fn without_a_restart_of_its_own_a_fence_is_the_end() {
    let (etcd, mut side) = alone(&json!({}));
    soon("it runs", || side.token() > 0);
    let pid = side.pid();
    side.cut(&etcd, false);
    assert_eq!(side.end(), Some(1));
    assert!(!alive(pid));
    let last = value(side.shims().join(&side.bundle.id).join("last.json")).expect("last.json");
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!((&last["summary"], &last["reason"]), (&json!("fenced"), &json!("lease-lost")));
    let exit = side.last_exit();
    assert_eq!((&exit["exit"]["kind"], &exit["exit"]["signal"]), (&json!("fenced"), &json!(9)));
    assert!(exit["fence"]["marginSeconds"].is_f64(), "{exit}");
    // It is another's turn: this one waits until the first may not run any more, and says so to who has begun it.
    side.join(&etcd);
    let mut detached = side.command(&["run", "--detach", "--root"]);
    detached.arg(&side.bundle.store).arg(&side.bundle.dir).arg(&side.bundle.id);
    outcome(detached).well();
    assert!(side.is("starting", "lease-wait") || side.is("healthy", "ok"), "{:?}", side.view());
    soon("it runs", || side.is("healthy", "ok"));
    outcome(side.command(&["stop", &side.bundle.id])).well();
    gone(etcd);
}

#[test]
fn what_a_dead_supervisor_should_have_fenced_is_fenced_by_the_next() {
    let (etcd, mut side) = alone(&json!({"lease": {"ttlSeconds": 4}}));
    soon("it runs", || side.token() > 0);
    let pid = side.pid();
    // In time it goes on.
    side.signal("KILL");
    side.end();
    side.resume();
    soon("a supervisor", || side.is("healthy", "ok"));
    assert!(side.pid() == pid && side.runs());
    side.signal("KILL");
    side.end();
    std::thread::sleep(Duration::from_secs(4));
    assert!(side.runs(), "nobody could end it");
    side.resume();
    assert_eq!((side.end(), side.runs(), alive(pid)), (Some(1), false, false));
    let fenced = side.events("exit");
    assert!(fenced.iter().all(|exit| exit["exit"]["kind"] == "fenced") && fenced.len() == 1, "{fenced:?}");
    gone(etcd);
}

#[test]
fn what_is_being_made_is_not_started_after_the_fence() {
    let (etcd, mut side) = alone(&json!({"restart": "always", "lease": {"ttlSeconds": 2}}));
    soon("it runs", || side.token() > 0);
    side.signal("TERM");
    side.end();
    let (stamps, dir) = (side.stamps(), side.bundle.dir.clone());
    let wait = format!("touch {0}/waits; while [ ! -e {0}/gate ]; do sleep 0.05; done", dir.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", wait]}]});
    let config: Value = serde_json::from_str(&value(dir.join("config.json")).expect("config.json")).expect("JSON");
    let mut config = config;
    config["hooks"] = hooks;
    fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
    side.start();
    soon("it is being made", || dir.join("waits").exists());
    side.cut(&etcd, true);
    soon("it is fenced", || side.events("lease").iter().any(|event| event["fenced"] == true));
    fs::write(dir.join("gate"), "").expect("gate");
    soon("it waits", || side.is("starting", "lease-wait"));
    assert!(!side.runs() && side.stamps() == stamps);
    side.join(&etcd);
    soon("it runs", || side.stamps() > stamps);
    gone(etcd);
}
