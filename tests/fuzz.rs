//! Whatever bytes stand in config.json, they are planned or refused with a message that has a place: nothing panics, hangs or
//! takes memory without bound. From reading to the list of operations no kernel is asked, so this is fast.
//!
//! A short run with fixed seeds is a test; `just fuzz` goes on for ten minutes with seeds of its own. What fails is written
//! to target/fuzz, and is a test of its own as long as it lies there.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orlop::bundle::Bundle;
use orlop::cgroup::Hierarchy;
use orlop::criu::{rpc, wire};
use orlop::dbus;
use orlop::plan::{self, HostFacts, Options, show};
use orlop::state::State;
use orlop::validate;
use serde_json::{Value, json};

/// Xorshift (Marsaglia 2003): the same seed gives the same inputs everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Configurations that are in order: one with every property there is, and those of the bundles with a profile each.
fn corpus() -> Vec<Value> {
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(manifest(path)).expect(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let everything = read("tests/corpus/everything.json");
    let mut scope = everything.clone();
    scope["linux"]["cgroupsPath"] = json!("a-b.slice:orlop:fuzz");
    scope["annotations"]["org.systemd.property.TimeoutStopUSec"] = json!("uint64 5");
    let mut all = vec![everything, scope, orlop::spec::default_spec(true)];
    for profile in ["default", "strict", "complain"] {
        let mut config = orlop::spec::default_spec(false);
        config["linux"]["seccomp"] = read(&format!("seccomp-profiles/{profile}.json"));
        all.push(config);
    }
    all
}

/// Values that have been trouble somewhere: limits of number types, empty things, controls, paths that lead out, templates.
fn trouble(random: &mut Random) -> Value {
    match random.below(8) {
        0 => json!(random.of(&[0i64, 1, -1, i64::MAX, i64::MIN, 65_536, 1 << 32, 4096, -2])),
        1 => json!(random.of(&[u64::MAX, 1 << 63, 1e9 as u64])),
        2 => json!(random.of(&[1.5f64, -0.0, 1e308, 5e-324])),
        3 => json!(random.of(&[
            "",
            "/",
            "..",
            "../../..",
            "/proc/self/fd/7",
            "a\0b",
            "\u{1b}[2J",
            "\u{202e}",
            "%n%s",
            "0-4095",
            "4095-0",
            "-1",
            "CAP_SYS_ADMIN",
            "SCMP_ACT_NOTIFY",
            "rbind",
            "size=1x",
            "idmap",
            "bind",
            "tmpcopyup",
            "é",
            "max",
            "=",
            "A=",
        ])),
        4 => Value::String("x".repeat(1 << random.below(14))),
        5 => Value::Null,
        6 => json!(random.of(&[true, false])),
        _ => random.of(&[json!([]), json!({}), json!([{}]), json!([[[]]]), json!({"": null})]).clone(),
    }
}

fn places(value: &Value, here: String, all: &mut Vec<String>) {
    all.push(here.clone());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, below)| places(below, format!("{here}/{}", orlop::bundle::escape(key)), all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, below)| places(below, format!("{here}/{index}"), all));
        }
        _ => {}
    }
}

/// One change of the tree: trouble, a copy of another place or of another configuration's, a removal, a repetition.
fn change(config: &mut Value, corpus: &[Value], random: &mut Random) {
    let mut all = Vec::new();
    places(config, String::new(), &mut all);
    let place = random.of(&all).clone();
    let kind = random.below(6);
    let new = match kind {
        0 | 1 => trouble(random),
        2 => config.pointer(random.of::<String>(&all)).cloned().unwrap_or_default(),
        _ => {
            let other = random.of(corpus);
            let mut theirs = Vec::new();
            places(other, String::new(), &mut theirs);
            let from = if kind == 3 { &place } else { random.of(&theirs) };
            other.pointer(from.as_str()).cloned().unwrap_or_default()
        }
    };
    if kind < 4 {
        if let Some(old) = config.pointer_mut(&place) {
            *old = new;
        }
        return;
    }
    let Some((parent, key)) = place.rsplit_once('/') else { return };
    match config.pointer_mut(parent) {
        Some(Value::Array(list)) if kind == 4 => list.extend(std::iter::repeat_n(new, 1 + random.below(40))),
        Some(Value::Array(list)) => drop(list.pop()),
        Some(Value::Object(map)) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
        _ => {}
    }
}

/// A change of the text itself.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes.truncate(at),
        2 => bytes.insert(at, *random.of(b"\"{}[],:\\\x00\xff0e-")),
        3 => drop(bytes.remove(at)),
        _ => {
            let end = at + random.below(bytes.len() - at).min(64);
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

fn input(corpus: &[Value], random: &mut Random) -> Vec<u8> {
    let mut config = random.of(corpus).clone();
    for _ in 0..1 + random.below(4) {
        change(&mut config, corpus, random);
    }
    let mut bytes = config.to_string().into_bytes();
    if random.below(4) == 0 {
        damage(&mut bytes, random);
    }
    bytes
}

/// What `create` and `exec` do with a configuration before they ask the kernel for anything.
fn try_one(bytes: Vec<u8>, rootless: bool, systemd_cgroup: bool) {
    let facts = HostFacts {
        euid: if rootless { 1000 } else { 0 },
        egid: 0,
        rootless,
        systemd_user: rootless.then_some(1000),
        last_capability: 40,
        landlock: 7,
        cgroup: Some(Hierarchy { root: "/sys/fs/cgroup".into(), own: "/".into(), v1: Vec::new() }),
        kernel_mounts: vec!["/proc".into(), "/sys".into()],
        resctrl: systemd_cgroup.then(|| "/sys/fs/resctrl".into()),
    };
    let options = Options { id: "fuzz".into(), systemd_cgroup, ..Options::default() };
    let made = Bundle::parse("/bundle".into(), bytes).and_then(|bundle| {
        let context = validate::Context { rootless, ..Default::default() };
        let all = validate::findings(&bundle.spec, &context);
        let first = validate::validate(&bundle.spec, &context);
        assert_eq!(all.is_empty(), first.is_ok(), "one of them finds what the other does not");
        first?;
        let plan = plan::create(&bundle.spec, &bundle.dir, &facts, &options)?;
        let process = bundle.spec.process().as_ref().expect("it is valid");
        Ok([plan, plan::exec(&bundle.spec, &bundle.dir, process, &facts, &options)?])
    });
    match made {
        Ok(plans) => plans.iter().for_each(|plan| {
            let last = plan.child.last().expect("a last step").op.to_string();
            assert!(last.starts_with("execve "), "{last}");
            assert!(!show::as_text(plan).is_empty());
        }),
        Err(error) => {
            assert!(!error.message.is_empty());
            if let Some(pointer) = &error.pointer {
                assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer:?} is no JSON pointer");
            }
        }
    }
}

fn checked(bytes: &[u8]) -> Result<(), PathBuf> {
    let began = Instant::now();
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    let all = || ways.into_iter().for_each(|(rootless, systemd)| try_one(bytes.to_vec(), rootless, systemd));
    // far beyond what any input of this size may take: a hang is a failure too
    if catch_unwind(AssertUnwindSafe(all)).is_ok() && began.elapsed() < Duration::from_secs(20) {
        return Ok(());
    }
    let directory = manifest("target/fuzz");
    fs::create_dir_all(&directory).expect("target/fuzz");
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let path = directory.join(format!("{hash:016x}.json"));
    fs::write(&path, bytes).expect("the input");
    Err(path)
}

#[test]
fn the_corpus_itself_is_in_order() {
    for config in corpus() {
        let bundle = Bundle::parse("/bundle".into(), config.to_string().into_bytes()).expect("it parses");
        assert!(bundle.warnings.is_empty(), "{:?}", bundle.warnings);
    }
}

#[test]
fn what_has_failed_before_does_not_fail_again() {
    for entry in fs::read_dir(manifest("target/fuzz")).into_iter().flatten().flatten() {
        checked(&fs::read(entry.path()).expect("an input")).expect("no panic");
    }
}

#[test]
fn any_bytes_are_planned_or_refused() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let seed = match seconds {
        Some(_) => nanoseconds(),
        None => 0x5eed,
    };
    let corpus = corpus();
    let mut random = Random(seed | 1);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut count = 0u64;
    while count < 2000 || Instant::now() < end {
        if let Err(path) = checked(&input(&corpus, &mut random)) {
            panic!("after {count} inputs of seed {seed:#x}: {}", path.display());
        }
        count += 1;
    }
    println!("{count} inputs of seed {seed:#x}");
}

/// What is read of others: a state that an older or a damaged disk has, messages of a bus and of criu.
fn decode(bytes: &[u8], random: &mut Random) {
    if let Ok(state) = serde_json::from_slice::<State>(bytes) {
        let _ = serde_json::to_string(&state).expect("what was read can be written");
    }
    let signature: String = (0..random.below(12)).map(|_| *random.of(b"ybiuxtdsogav()") as char).collect();
    let values = dbus::Reader::new(bytes, random.below(2) == 0).values(&signature);
    // Each value takes a byte at least, but for empty arrays and structures: nothing grows out of nothing.
    assert!(values.is_none_or(|values| values.len() <= signature.len()));
    assert!(wire::fields(bytes).is_none_or(|fields| fields.len() <= bytes.len()));
    let _ = rpc::Response::of(bytes);
}

fn messages() -> Vec<Vec<u8>> {
    let state = json!({
        "version": 1, "id": "c1", "ociVersion": "1.3.0", "pid": 7, "startTime": 99, "bootId": "b", "bundle": "/b",
        "rootfs": "/b/rootfs", "created": "2026-01-01T00:00:00Z", "owner": "root", "annotations": {"a": "b"},
        "cgroup": {"root": "/sys/fs/cgroup", "path": "/c1", "driver": "cgroupfs"}, "creating": false,
    });
    let mut body = Vec::new();
    dbus::Value::Struct(vec![dbus::Value::Uint32(7), dbus::Value::Str("text".into()), dbus::Value::Bool(true)])
        .write(&mut body);
    dbus::Value::Array("s".into(), vec!["one".into(), "two".into()]).write(&mut body);
    let request = rpc::request(rpc::Kind::Dump, &rpc::pair("key", "value"));
    vec![state.to_string().into_bytes(), body, request.bytes().to_vec()]
}

#[test]
fn what_others_say_is_read_or_refused() {
    assert!(serde_json::from_slice::<State>(&messages()[0]).is_ok(), "the state itself is in order");
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let mut random = Random(seconds.map_or(0x5eed, |_| nanoseconds()) | 1);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut count = 0u64;
    while count < 20_000 || Instant::now() < end {
        let mut bytes = random.of(&messages()).clone();
        for _ in 0..1 + random.below(6) {
            if !bytes.is_empty() {
                damage(&mut bytes, &mut random);
            }
        }
        decode(&bytes, &mut random);
        count += 1;
    }
}

fn nanoseconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
