//! The systemd driver: against a systemd that this file plays, and, in the machine that has one, against the real one.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, alive, begin, cgroup_of, outcome, wait};
use orlop::dbus::{Reader, Value, signature};
use serde_json::json;

const DBUS: &str = "org.freedesktop.DBus.Error";
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// A method call that the fake has heard.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    name: String,
    body: Vec<Value>,
}

/// What the fake does with a call.
enum Answer {
    Values(Vec<Value>),
    /// A job that ends so.
    Job(&'static str),
    Error(String, &'static str),
    /// Nothing, for as long as the caller likes.
    Silence,
}

/// A bus with a systemd of our own making behind it.
struct Fake {
    path: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
    /// The step at which nothing is said any more.
    silent: Arc<Mutex<&'static str>>,
}

impl Fake {
    fn new(bundle: &Bundle, systemd: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(bundle.dir.join("bus"), systemd)
    }

    /// At the socket `private` it is systemd itself, without a bus between.
    fn at(path: PathBuf, systemd: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let peer = path.ends_with("private");
        let listener = UnixListener::bind(&path).expect("bind");
        // For users too.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let silent = Arc::new(Mutex::new(""));
        let (heard, systemd, still) = (Arc::clone(&calls), Arc::new(systemd), Arc::clone(&silent));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (heard, systemd, silent) = (Arc::clone(&heard), Arc::clone(&systemd), *still.lock().unwrap());
                std::thread::spawn(move || serve(stream, &heard, (silent, peer), &*systemd));
            }
        });
        Self { path, calls, silent }
    }

    /// Connections from now on go without an answer to this call, or the signal or the greeting of this name.
    fn fall_silent(&self, step: &'static str) {
        *self.silent.lock().unwrap() = step;
    }

    /// The calls of systemd so far, by name.
    fn heard(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|call| call.name.clone()).collect()
    }

    fn on(&self, mut command: Command) -> Outcome {
        outcome(self.with(&mut command))
    }

    fn with(&self, command: &mut Command) -> Command {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.path.display()));
        std::mem::replace(command, Command::new("true"))
    }
}

/// One connection, until the caller closes it.
fn serve(
    mut stream: UnixStream,
    heard: &Mutex<Vec<Call>>,
    (silent, peer): (&str, bool),
    systemd: &dyn Fn(&Call) -> Answer,
) {
    let mut words = [0; 29];
    if stream.read_exact(&mut words).is_err() {
        return;
    }
    if silent == "AUTH" {
        // Until the caller gives up.
        let _ = stream.read_to_end(&mut Vec::new());
        return;
    }
    stream.write_all(b"DATA\r\nOK 00\r\n").expect("write");
    while let Some((serial, call)) = read(&mut stream) {
        let answer = match call.name.as_str() {
            name @ ("Hello" | "AddMatch") if name == silent && !peer => Answer::Silence,
            "Hello" if !peer => Answer::Values(vec![":1.9".into()]),
            "AddMatch" if !peer => Answer::Values(Vec::new()),
            _ => {
                heard.lock().unwrap().push(call.clone());
                if call.name == silent { Answer::Silence } else { systemd(&call) }
            }
        };
        let to = (5, Value::Uint32(serial));
        let message = |kind, fields: Vec<(u8, Value)>, body: &[Value]| {
            let sender = if peer { None } else { Some((7, ":1.1".into())) };
            message(kind, fields.into_iter().chain(sender).collect(), body)
        };
        let said = match answer {
            Answer::Values(values) => message(2, vec![to], &values),
            Answer::Error(name, text) => message(3, vec![to, (4, name.as_str().into())], &[text.into()]),
            Answer::Job(result) => {
                let job = Value::Path("/job/1".into());
                let unit = call.body[0].clone();
                let names = vec![(2, format!("{SYSTEMD}.Manager").as_str().into()), (3, "JobRemoved".into())];
                let removed = message(4, names, &[Value::Uint32(1), job.clone(), unit, result.into()]);
                let removed = if silent == "JobRemoved" { Vec::new() } else { removed };
                [removed, message(2, vec![to], &[job])].concat()
            }
            Answer::Silence => continue,
        };
        // The caller may have given up.
        let _ = stream.write_all(&said);
    }
}

fn read(stream: &mut UnixStream) -> Option<(u32, Call)> {
    let mut message = vec![0; 16];
    stream.read_exact(&mut message).ok()?;
    let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
    let (body, serial) = (number(4) as usize, number(8));
    let start = (16 + number(12) as usize).next_multiple_of(8);
    message.resize(start + body, 0);
    stream.read_exact(&mut message[16..]).ok()?;
    let fields = Reader::new(&message[..start], false).values("yyyyuua(yv)").expect("a header").pop();
    let Some(Value::Array(_, fields)) = fields else { panic!("no fields") };
    let field = |wanted: u8| {
        fields.iter().find_map(|field| match field {
            Value::Struct(pair) if pair[0] == Value::Byte(wanted) => match &pair[1] {
                Value::Variant(value) => Some((**value).clone()),
                _ => None,
            },
            _ => None,
        })
    };
    let types = field(8).map(|types| if let Value::Signature(types) = types { types } else { String::new() });
    let body = Reader::new(&message[start..], false).values(&types.unwrap_or_default()).expect("a body");
    Some((serial, Call { name: field(3)?.as_str()?.to_owned(), body }))
}

fn message(kind: u8, mut fields: Vec<(u8, Value)>, body: &[Value]) -> Vec<u8> {
    fields.push((8, Value::Signature(signature(body))));
    let field = |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut content = Vec::new();
    body.iter().for_each(|value| value.write(&mut content));
    let mut out = vec![b'l', kind, 0, 1];
    out.extend((content.len() as u32).to_le_bytes());
    out.extend(7u32.to_le_bytes());
    Value::Array("(yv)".into(), fields.into_iter().map(field).collect()).write(&mut out);
    out.resize(out.len().next_multiple_of(8), 0);
    [out, content].concat()
}

/// The properties in a call of StartTransientUnit.
fn properties(call: &Call) -> Vec<(String, Value)> {
    assert_eq!(signature(&call.body), "ssa(sv)a(sa(sv))");
    let Value::Array(_, list) = &call.body[2] else { panic!("{call:?}") };
    let pair = |value: &Value| match value {
        Value::Struct(pair) => match &pair[1] {
            Value::Variant(value) => (pair[0].as_str().unwrap().to_owned(), (**value).clone()),
            _ => panic!("{value:?}"),
        },
        _ => panic!("{value:?}"),
    };
    list.iter().map(pair).collect()
}

fn property(call: &Call, name: &str) -> Option<Value> {
    properties(call).into_iter().rev().find(|(other, _)| other == name).map(|(_, value)| value)
}

/// The container's process as the call names it.
fn pid(call: &Call) -> u32 {
    match property(call, "PIDs") {
        Some(Value::Array(_, pids)) => match pids[..] {
            [Value::Uint32(pid)] => pid,
            _ => panic!("{pids:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What systemd does: the cgroup with the process in it below that of the test, and its end.
fn working(bundle: &Bundle) -> impl Fn(&Call) -> Answer + Send + Sync + use<> {
    let group = group(bundle);
    move |call| match call.name.as_str() {
        "StartTransientUnit" => {
            let scope = group.join(call.body[0].as_str().unwrap());
            fs::create_dir_all(&scope).expect("a cgroup");
            fs::write(scope.join("cgroup.procs"), pid(call).to_string()).expect("move the process");
            Answer::Job("done")
        }
        "StopUnit" => {
            let scope = group.join(call.body[0].as_str().unwrap());
            fs::write(scope.join("cgroup.kill"), "1").expect("kill");
            wait(|| fs::remove_dir(&scope).is_ok());
            let _ = fs::remove_dir(&group);
            Answer::Job("done")
        }
        _ => Answer::Error(format!("{SYSTEMD}.NoSuchUnit"), "not loaded"),
    }
}

fn group(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(&bundle.id)
}

fn named(bundle: Bundle) -> Bundle {
    let path = format!("t-a.slice:orlop:{}", bundle.id);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
}

fn nothing_left(bundle: &Bundle) {
    assert!(!bundle.state_dir().exists());
}

#[test]
fn a_scope_is_started_with_the_waiting_process_and_later_commands_know_it() {
    let bundle = named(Bundle::sleeper()).edit(|config| {
        config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "5", "other": "x"});
        config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let fake = Fake::new(&bundle, working(&bundle));
    let unit = format!("orlop-{}.scope", bundle.id);
    fake.on(bundle.making("create", &["--systemd-cgroup"])).well();
    let call = fake.calls.lock().unwrap()[0].clone();
    assert_eq!(
        (call.name.as_str(), &call.body[..2]),
        ("StartTransientUnit", &[unit.as_str().into(), "replace".into()][..])
    );
    for (name, value) in [
        ("Slice", Value::from("t-a.slice")),
        ("Delegate", Value::Bool(true)),
        ("DefaultDependencies", Value::Bool(false)),
        ("MemoryAccounting", Value::Bool(true)),
        ("CPUAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        ("IOAccounting", Value::Bool(true)),
        ("TimeoutStopUSec", Value::Uint64(5_000_000)),
    ] {
        assert_eq!(property(&call, name), Some(value), "{name}");
    }
    assert_eq!(pid(&call), bundle.pid());
    let scope = group(&bundle).join(&unit);
    assert_eq!(cgroup_of(bundle.pid()), scope);

    bundle.start();
    // The cgroup namespace was made in the scope, and exec is born there.
    assert_eq!(bundle.inside("cat /proc/1/cgroup /proc/self/cgroup | grep ^0:"), "0::/\n0::/");
    assert_eq!(bundle.inside("cat /dev/fuse 2>&1 | grep -c 'open.*not permitted'"), "1");
    bundle.on("pause", &[]).well();
    assert_eq!(fs::read_to_string(scope.join("cgroup.freeze")).unwrap().trim(), "1");
    bundle.on("resume", &[]).well();
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    fake.on(bundle.command(&["delete", &bundle.id])).well();
    assert_eq!(fake.heard()[1..], ["StopUnit", "ResetFailedUnit"]);
    assert!(!scope.exists());
    nothing_left(&bundle);
}

fn running(bundle: &Bundle, fake: &Fake) -> Outcome {
    fake.on(run(bundle))
}

fn run(bundle: &Bundle) -> Command {
    bundle.making("run", &["--systemd-cgroup"])
}

#[test]
fn a_run_stops_its_scope_at_the_end() {
    let bundle = Bundle::script("cat /proc/self/cgroup | grep ^0:; exit 7");
    let fake = Fake::new(&bundle, working(&bundle));
    let outcome = running(&bundle, &fake);
    assert_eq!((outcome.code, outcome.stdout().trim()), (Some(7), "0::/"));
    let call = fake.calls.lock().unwrap()[0].clone();
    assert_eq!(call.body[0].as_str(), Some(format!("runc-{}.scope", bundle.id).as_str()));
    assert_eq!(property(&call, "Slice"), Some("system.slice".into()));
    assert_eq!(fake.heard(), ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]);
    nothing_left(&bundle);
}

#[test]
fn without_a_bus_nothing_is_made() {
    let bundle = named(Bundle::new());
    for address in ["unix:path=/nonexistent/bus", "tcp:host=x", ""] {
        let mut command = run(&bundle);
        // The machine with systemd has a bus in the usual place.
        if address.is_empty() && Path::new("/run/dbus/system_bus_socket").exists() {
            continue;
        }
        outcome(std::mem::replace(command.env("DBUS_SYSTEM_BUS_ADDRESS", address), Command::new("true")))
            .fails(if address.starts_with("tcp") { "names no socket" } else { "connect to systemd over unix:path=" });
        nothing_left(&bundle);
    }
}

/// Steps of a start at which the bus, or systemd behind it, falls silent.
const OF_START: [&str; 7] = ["AUTH", "Hello", "AddMatch", "Get", "StartTransientUnit", "JobRemoved", "ResetFailedUnit"];
/// The same of a delete.
const OF_STOP: [&str; 4] = ["AUTH", "StopUnit", "JobRemoved", "ResetFailedUnit"];

fn silence_at(step: &str) -> String {
    format!("systemd did not answer within 30 s ({step} over unix:path=")
}

/// Each takes the half minute that systemd has, so all wait at the same time.
#[test]
fn a_silent_systemd_is_an_error_in_time_at_each_step() {
    let begun = Instant::now();
    let starts = OF_START.map(|step| std::thread::spawn(move || silent_start(step)));
    let stops = OF_STOP.map(|step| std::thread::spawn(move || silent_stop(step)));
    let exec = std::thread::spawn(silent_exec);
    let all = starts.into_iter().chain(stops).chain([exec]);
    let failed = all.map(std::thread::JoinHandle::join).filter(Result::is_err).count();
    assert_eq!(failed, 0, "of {} cases", OF_START.len() + OF_STOP.len() + 1);
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
}

/// The container's process waits for its scope meanwhile, and ends with the error.
fn silent_start(step: &'static str) {
    // Its weight is a property that not every systemd knows, so the version is asked for.
    let bundle = named(Bundle::new()).edit(|config| config["linux"]["resources"] = json!({"cpu": {"idle": 1}}));
    let works = working(&bundle);
    let fake = Fake::new(&bundle, move |call| match call.name.as_str() {
        "Get" => Answer::Values(vec![Value::Variant(Box::new("252".into()))]),
        "StartTransientUnit" if step == "ResetFailedUnit" => {
            Answer::Error(format!("{SYSTEMD}.UnitExists"), "already loaded")
        }
        _ => works(call),
    });
    fake.fall_silent(step);
    running(&bundle, &fake).fails(&silence_at(step));
    for call in fake.calls.lock().unwrap().iter().filter(|call| call.name == "StartTransientUnit") {
        assert!(!alive(pid(call)), "{step}");
    }
    // What did not answer is not asked again.
    let last = match step {
        "AUTH" | "Hello" | "AddMatch" => None,
        "JobRemoved" => Some("StartTransientUnit"),
        other => Some(other),
    };
    assert_eq!(fake.heard().last().map(String::as_str), last);
    nothing_left(&bundle);
    if step == "JobRemoved" {
        // An empty scope is systemd's to take away, by its name it might be another's.
        fs::remove_dir(group(&bundle).join(format!("orlop-{}.scope", bundle.id))).expect("a scope with nobody in it");
        fs::remove_dir(group(&bundle)).expect("rmdir");
    }
    assert!(!group(&bundle).exists(), "{step}");
}

/// The container ends all the same: its cgroup can be removed.
fn silent_stop(step: &'static str) {
    let bundle = named(Bundle::sleeper());
    let fake = Fake::new(&bundle, working(&bundle));
    fake.on(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
    let (scope, pid) = (bundle.cgroup(), bundle.pid());
    fake.fall_silent(step);
    let begun = Instant::now();
    fake.on(bundle.command(&["delete", "--force", &bundle.id])).well();
    assert!(begun.elapsed() >= Duration::from_secs(29), "{step}: nobody was silent");
    assert_eq!((alive(pid), scope.exists()), (false, false), "{step}");
    nothing_left(&bundle);
    let _ = fs::remove_dir(group(&bundle));
}

/// A user's process can't be born in the scope, and is never run elsewhere.
fn silent_exec() {
    let bundle = of_nobody(Bundle::sleeper()).edit(|config| config["linux"]["resources"] = json!({}));
    let fake = Fake::new(&bundle, working(&bundle));
    let on = |command: Command| {
        let mut command = as_user(&command, false);
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", fake.path.display()));
        outcome(command)
    };
    on(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
    fake.fall_silent("AttachProcessesToUnit");
    let made = bundle.rootfs("tmp/made");
    on(bundle.command(&["exec", &bundle.id, "touch", "/tmp/made"])).fails(&silence_at("AttachProcessesToUnit"));
    let call = fake.calls.lock().unwrap().last().cloned().expect("a call");
    let Value::Array(_, pids) = &call.body[2] else { panic!("{call:?}") };
    let [Value::Uint32(pid)] = pids[..] else { panic!("{call:?}") };
    assert_eq!((call.name.as_str(), alive(pid), made.exists()), ("AttachProcessesToUnit", false, false));
    on(bundle.command(&["delete", "--force", &bundle.id])).well();
    nothing_left(&bundle);
}

#[test]
#[ignore = "needs the pids controller, which its machine has"]
fn an_update_that_systemd_does_not_answer_changes_nothing() {
    let bundle = named(Bundle::sleeper()).edit(|config| config["linux"]["resources"] = json!({"pids": {"limit": 20}}));
    let fake = Fake::new(&bundle, working(&bundle));
    fake.on(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
    fake.fall_silent("SetUnitProperties");
    let update = bundle.command(&["update", "--pids-limit", "21", &bundle.id]);
    let said = fake.on(update).fails(&silence_at("SetUnitProperties"));
    assert!(said.contains("the limits are as they were before"), "{said}");
    assert_eq!(value(&bundle, "pids.max"), "20");
    let config = fs::read_to_string(bundle.state_dir().join("config.json")).expect("config.json");
    assert!(!config.contains("21"), "{config}");
    fake.on(bundle.command(&["delete", "--force", &bundle.id])).well();
    nothing_left(&bundle);
}

#[test]
fn a_unit_that_is_there_is_left_alone() {
    let bundle = named(Bundle::new());
    let exists = format!("{SYSTEMD}.UnitExists");
    let fake = Fake::new(&bundle, move |call| match call.name.as_str() {
        "StartTransientUnit" => {
            Answer::Error(exists.clone(), "Unit x.scope was already loaded or has a fragment file.")
        }
        _ => Answer::Values(Vec::new()),
    });
    let said = running(&bundle, &fake)
        .fails("unable to apply cgroup configuration: Unit x.scope was already loaded or has a fragment file.");
    assert!(said.contains("/linux/cgroupsPath"), "{said}");
    // One that has failed is reset; never is one stopped that is another's.
    assert_eq!(fake.heard(), ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);
    nothing_left(&bundle);
}

#[test]
fn what_systemd_refuses_or_fails_to_do_is_said() {
    let bundle = named(Bundle::new());
    let fake = Fake::new(&bundle, |call| match call.name.as_str() {
        "StartTransientUnit" => Answer::Job("failed"),
        _ => Answer::Values(Vec::new()),
    });
    running(&bundle, &fake).fails("got `failed`");
    assert_eq!(fake.heard(), ["StartTransientUnit", "ResetFailedUnit"]);
    nothing_left(&bundle);

    let bundle = named(Bundle::new());
    let fake = Fake::new(&bundle, |_| Answer::Error(format!("{DBUS}.ServiceUnknown"), "no such name"));
    running(&bundle, &fake).fails("systemd is not on this bus");

    // Done, it says, and the process is where it was.
    let bundle = named(Bundle::new());
    let fake = Fake::new(&bundle, |_| Answer::Job("done"));
    running(&bundle, &fake).fails("but the container's process is in the cgroup");
    assert_eq!(fake.heard(), ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]);
    nothing_left(&bundle);
}

/// The user's systemd has just begun, the bus is one that was made for a program, or there is none.
#[test]
fn a_users_systemd_that_is_not_on_the_bus_is_asked_at_its_own_socket() {
    for bus in ["NameHasNoOwner", "ServiceUnknown", "none"] {
        let bundle = of_nobody(Bundle::script("grep ^0: /proc/self/cgroup"))
            .edit(|config| config["linux"]["resources"] = json!({}));
        let without = Fake::new(&bundle, move |_| Answer::Error(format!("{DBUS}.{bus}"), "no such name"));
        if bus == "none" {
            fs::remove_file(bundle.dir.join("bus")).expect("rm");
        }
        fs::create_dir(bundle.dir.join("systemd")).expect("mkdir");
        let fake = Fake::at(bundle.dir.join("systemd/private"), working(&bundle));
        let mut command = as_user(&run(&bundle), false);
        command.env("XDG_RUNTIME_DIR", &bundle.dir);
        assert_eq!(outcome(command).well(), "0::/", "{bus}");
        assert_eq!(fake.heard(), ["StartTransientUnit", "StopUnit", "ResetFailedUnit"], "{bus}");
        // The bus is the first that is asked.
        let asked = if bus == "none" { &[][..] } else { &["StartTransientUnit", "StopUnit"] };
        assert_eq!(without.heard(), asked, "{bus}");
        nothing_left(&bundle);
    }
}

#[test]
fn a_runtime_that_is_killed_leaves_no_process_and_touches_no_unit() {
    let bundle = named(Bundle::new());
    let fake = Fake::new(&bundle, |_| Answer::Silence);
    let mut command = run(&bundle);
    let mut runtime = begin(fake.with(&mut command));
    wait(|| !fake.heard().is_empty());
    let process = pid(&fake.calls.lock().unwrap()[0].clone());
    assert!(alive(process));
    runtime.child.kill().unwrap();
    runtime.child.wait().unwrap();
    wait(|| !alive(process));
    // The unit of that name may be another's.
    fake.on(bundle.command(&["delete", "--force", &bundle.id])).well();
    assert_eq!(fake.heard(), ["StartTransientUnit"]);
    nothing_left(&bundle);
}

#[test]
fn a_container_is_deleted_without_systemd_too() {
    let bundle = named(Bundle::sleeper());
    let fake = Fake::new(&bundle, working(&bundle));
    fake.on(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
    let scope = bundle.cgroup();
    let mut delete = bundle.command(&["delete", "--force", &bundle.id]);
    delete.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    outcome(delete).well();
    assert!(!scope.exists());
    let _ = fs::remove_dir(group(&bundle));
    nothing_left(&bundle);
}

#[test]
fn an_older_systemd_is_not_asked_for_what_it_does_not_know() {
    for (version, expected) in [("249.11-0ubuntu3", None), ("252.39-1~deb12u1", Some(Value::Uint64(0)))] {
        let bundle = named(Bundle::new()).edit(|config| config["linux"]["resources"] = json!({"cpu": {"idle": 1}}));
        let fake = Fake::new(&bundle, move |call| match call.name.as_str() {
            "Get" => Answer::Values(vec![Value::Variant(Box::new(version.into()))]),
            _ => Answer::Error(format!("{DBUS}.AccessDenied"), "not this time"),
        });
        running(&bundle, &fake).fails("not this time");
        let call = fake.calls.lock().unwrap().iter().find(|call| call.name == "StartTransientUnit").cloned();
        assert_eq!(property(&call.expect("a call"), "CPUWeight"), expected, "{version}");
    }
}

/// What CRI-O and podman add, beside a time to stop.
fn of_engines(config: &mut serde_json::Value) {
    for (name, value) in [("After", "['crio.service']"), ("DefaultDependencies", "true"), ("KillSignal", "3")] {
        config["annotations"][format!("org.systemd.property.{name}")] = json!(value);
    }
}

#[test]
fn properties_of_engines_go_over_our_own() {
    let bundle = named(Bundle::new()).edit(of_engines);
    let fake = Fake::new(&bundle, |_| Answer::Error(format!("{DBUS}.AccessDenied"), "not this time"));
    running(&bundle, &fake).fails("not this time");
    let call = fake.calls.lock().unwrap()[0].clone();
    for (name, value) in [
        ("After", Value::Array("s".into(), vec!["crio.service".into()])),
        ("DefaultDependencies", Value::Bool(true)),
        ("KillSignal", Value::Int32(3)),
    ] {
        assert_eq!(property(&call, name), Some(value), "{name}");
    }
    nothing_left(&bundle);
}

#[test]
fn what_is_no_unit_or_no_property_is_an_error_in_place() {
    for (pointer, key, value, words) in [
        ("/linux/cgroupsPath", "cgroupsPath", "/a/b", "slice:prefix:name"),
        ("/linux/cgroupsPath", "cgroupsPath", "a--b.slice:p:n", "invalid slice name"),
        ("/annotations/org.systemd.property.X-y", "X-y", "true", "name"),
        ("/annotations/org.systemd.property.PIDs", "PIDs", "@au [1]", "the runtime itself"),
        ("/annotations/org.systemd.property.After", "After", "a.service", "GVariant"),
    ] {
        let bundle = Bundle::new().edit(|config| match key {
            "cgroupsPath" => config["linux"]["cgroupsPath"] = json!(value),
            _ => config["annotations"] = json!({format!("org.systemd.property.{key}"): value}),
        });
        for verb in ["plan", "check"] {
            let mut command = bundle.command(&["--systemd-cgroup", verb]);
            // check looks for the bus, too
            command.arg(&bundle.dir).env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
            let said = outcome(command);
            let said = said.stdout() + &said.stderr();
            assert!(said.contains(pointer) && said.contains(words), "{verb}: {said}");
        }
    }
}

#[test]
fn the_plan_says_what_systemd_is_asked_and_when() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["cgroupsPath"] = json!("a-b.slice:p:n");
        config["linux"]["resources"] = json!({"memory": {"limit": 1048576}});
    });
    let mut command = bundle.command(&["--systemd-cgroup", "plan"]);
    command.arg(&bundle.dir);
    let said = outcome(command).well();
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("no {words:?} in {said}"));
    let order = [
        at("wait until systemd has this process in the scope"),
        at("property Slice = \"a-b.slice\""),
        at("property MemoryMax = 1048576"),
        at("StartTransientUnit p-n.scope"),
        at("cgroup /a.slice/a-b.slice/p-n.scope"),
        at("write memory.max = \"1048576\""),
        at("unshare CLONE_NEWCGROUP"),
    ];
    assert!(order.is_sorted(), "{said}");
    assert!(!said.contains("CLONE_INTO_CGROUP") && !said.contains("mkdir cgroup"), "{said}");
}

// From here on with the real systemd.

/// `systemctl show` of the container's scope.
fn show(bundle: &Bundle, names: &str) -> String {
    let unit = format!("orlop-{}.scope", bundle.id);
    outcome(systemctl(&["show", &unit, "--property", names])).well()
}

fn systemctl(args: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(args);
    command
}

fn up(bundle: &Bundle) {
    outcome(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
}

fn value(bundle: &Bundle, file: &str) -> String {
    fs::read_to_string(bundle.cgroup().join(file)).expect(file).trim().to_owned()
}

fn limited() -> Bundle {
    named(Bundle::sleeper()).edit(|config| {
        config["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        config["linux"]["resources"] = json!({
            "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432},
            "cpu": {"shares": 2048, "quota": 50000, "period": 200000, "burst": 10000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 20},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}],
            "devices": [{"allow": false, "access": "rwm"}],
            "unified": {"memory.high": "50331648", "memory.min": "16777216", "cgroup.max.descendants": "3"}
        });
    })
}

/// systemd has properties for some of them, and does not touch the others.
const FILES: &[(&str, &str)] = &[
    ("memory.max", "67108864"),
    ("memory.low", "33554432"),
    ("memory.high", "50331648"),
    ("memory.min", "16777216"),
    ("cpu.weight", "174"),
    ("cpu.max", "50000 200000"),
    ("cpu.max.burst", "10000"),
    ("cpuset.cpus", "0"),
    ("cpuset.mems", "0"),
    ("pids.max", "20"),
    ("hugetlb.2MB.max", "2097152"),
    ("cgroup.max.descendants", "3"),
];

#[test]
#[ignore = "needs systemd, which its machine has"]
fn limits_are_properties_and_outlast_a_reload() {
    let bundle = limited();
    up(&bundle);
    let unit = format!("orlop-{}.scope", bundle.id);
    assert_eq!(bundle.cgroup(), Path::new("/sys/fs/cgroup/t.slice/t-a.slice").join(&unit));
    let shown = show(
        &bundle,
        "Slice,Delegate,MemoryMax,MemoryLow,MemoryMin,MemoryHigh,MemorySwapMax,TasksMax,CPUWeight,CPUQuotaPerSecUSec,\
         CPUQuotaPeriodUSec,AllowedCPUs,AllowedMemoryNodes",
    );
    for line in [
        "Slice=t-a.slice",
        "Delegate=yes",
        "MemoryMax=67108864",
        "MemoryLow=33554432",
        "MemoryMin=16777216",
        "MemoryHigh=50331648",
        "MemorySwapMax=67108864",
        "TasksMax=20",
        "CPUWeight=174",
        "CPUQuotaPerSecUSec=250ms",
        "CPUQuotaPeriodUSec=200ms",
        "AllowedCPUs=0",
        "AllowedMemoryNodes=0",
    ] {
        assert!(shown.lines().any(|other| other == line), "{line} in {shown}");
    }
    // A device of fuse that could be opened is not permitted to be read before it is mounted.
    let device = "cat /dev/fuse 2>&1 | grep -c 'open.*not permitted'; head -c 1 /dev/zero | wc -c";
    for reloaded in [false, true] {
        for (file, expected) in FILES {
            assert_eq!(value(&bundle, file), *expected, "{file}, reloaded: {reloaded}");
        }
        assert_eq!(bundle.inside(device), "1\n1", "reloaded: {reloaded}");
        outcome(systemctl(&["daemon-reload"])).well();
    }
    bundle.on("update", &["--pids-limit", "21", "--memory", "60000k", "--cpu-quota", "12345"]).well();
    for reloaded in [false, true] {
        let shown = show(&bundle, "TasksMax,MemoryMax,CPUQuotaPerSecUSec");
        assert_eq!(shown, "CPUQuotaPerSecUSec=70ms\nMemoryMax=61440000\nTasksMax=21");
        assert_eq!((value(&bundle, "pids.max"), value(&bundle, "memory.max")), ("21".into(), "61440000".into()));
        // 6.17 percent, of which systemd keeps whole ones.
        assert_eq!(value(&bundle, "cpu.max"), if reloaded { "14000 200000" } else { "12345 200000" });
        outcome(systemctl(&["daemon-reload"])).well();
    }
    bundle.on("delete", &["--force"]).well();
    assert!(show(&bundle, "LoadState").contains("not-found"));
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn a_frozen_cgroup_of_the_scopes_name_is_refused() {
    let bundle = named(Bundle::sleeper());
    let scope = PathBuf::from(format!("/sys/fs/cgroup/t.slice/t-a.slice/orlop-{}.scope", bundle.id));
    fs::create_dir_all(&scope).expect("mkdir");
    fs::write(scope.join("cgroup.freeze"), "1").expect("freeze");
    outcome(run(&bundle)).fails("container's cgroup unexpectedly frozen");
    nothing_left(&bundle);
    // It is whoever's has made it.
    assert_eq!(fs::read_to_string(scope.join("cgroup.freeze")).expect("still there").trim(), "1");
    fs::remove_dir(&scope).expect("rmdir");
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn a_restored_container_has_a_scope_with_its_limits_again() {
    let bundle = limited();
    // criu can't dump what a test has for output.
    let detached = |mut command: Command| {
        let said = fs::File::create(bundle.dir.join("said")).expect("a file");
        let status = command.stdout(Stdio::null()).stderr(said).status().expect("orlop");
        assert!(status.success(), "{}", fs::read_to_string(bundle.dir.join("said")).expect("what it said"));
    };
    detached(bundle.making("run", &["--systemd-cgroup", "--detach"]));
    let (scope, pid) = (bundle.cgroup(), bundle.pid());
    let image = bundle.dir.join("image");
    let with_image = |mut command: Command| {
        command.arg("--image-path").arg(&image).arg(&bundle.id);
        command
    };
    outcome(with_image(bundle.command(&["checkpoint"]))).well();
    assert_eq!(
        (alive(pid), scope.exists(), show(&bundle, "LoadState").as_str()),
        (false, false, "LoadState=not-found")
    );
    let dir = bundle.dir.to_str().expect("UTF-8");
    detached(with_image(bundle.command(&["--systemd-cgroup", "restore", "--detach", "--bundle", dir])));
    assert_eq!((bundle.cgroup(), show(&bundle, "ActiveState").as_str()), (scope.clone(), "ActiveState=active"));
    outcome(systemctl(&["daemon-reload"])).well();
    for (file, expected) in FILES {
        assert_eq!(value(&bundle, file), *expected, "{file}");
    }
    bundle.on("delete", &["--force"]).well();
    assert!(!scope.exists());
}

/// A disk of nobody's: its number.
fn disk() -> (u32, u32) {
    let mut modprobe = Command::new("modprobe");
    modprobe.arg("null_blk");
    outcome(modprobe).well();
    let disk = fs::read_to_string("/sys/block/nullb0/dev").expect("a disk");
    let (major, minor) = disk.trim().split_once(':').expect("MAJOR:MINOR");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    (number(major), number(minor))
}

/// No property is set for it: systemd writes the throttles that it has been told of, and those alone.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn throttles_of_a_disk_outlast_a_reload() {
    let (major, minor) = disk();
    let of_disk = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let bundle = named(Bundle::sleeper()).edit(|config| {
        config["linux"]["resources"]["blockIO"] =
            json!({"throttleReadBpsDevice": of_disk(1 << 20), "throttleWriteIOPSDevice": of_disk(77)});
    });
    up(&bundle);
    for reloaded in [false, true] {
        let expected = format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=77");
        assert_eq!(value(&bundle, "io.max"), expected, "reloaded: {reloaded}");
        outcome(systemctl(&["daemon-reload"])).well();
    }
    bundle.on("delete", &["--force"]).well();
}

/// Inside either device can be opened only while the list has it.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn another_list_of_devices_outlasts_a_reload() {
    let (major, minor) = disk();
    let list = |allowed: serde_json::Value| json!({"devices": [{"allow": false, "access": "rwm"}, allowed]});
    let first = list(json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}));
    let second = list(json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}));
    let bundle = named(Bundle::sleeper()).edit(|config| {
        config["linux"]["devices"] = json!([
            {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
            {"path": "/dev/disk", "type": "b", "major": major, "minor": minor},
        ]);
        config["linux"]["resources"] = first;
    });
    let opened = || bundle.inside("true >/dev/kmsg && echo kmsg; true </dev/disk && echo disk; true");
    up(&bundle);
    for device in ["kmsg", "disk"] {
        if device == "disk" {
            let change = bundle.dir.join("change.json");
            fs::write(&change, second.to_string()).expect("change.json");
            bundle.on("update", &["--resources", change.to_str().expect("UTF-8")]).well();
        }
        for reloaded in [false, true] {
            assert_eq!(opened(), device, "reloaded: {reloaded}");
            outcome(systemctl(&["daemon-reload"])).well();
        }
    }
    bundle.on("delete", &["--force"]).well();
}

/// systemd writes BFQ's weight for all disks at a reload, and with it the kernel forgets those of single ones.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn weights_of_bfq_outlast_a_reload() {
    let (major, minor) = disk();
    let mut modprobe = Command::new("modprobe");
    modprobe.arg("bfq");
    outcome(modprobe).well();
    fs::write("/sys/block/nullb0/queue/scheduler", "bfq").expect("bfq");
    let one = |weight: u16| json!({"major": major, "minor": minor, "weight": weight});
    let bundle = named(Bundle::sleeper())
        .edit(|config| config["linux"]["resources"] = json!({"blockIO": {"weight": 50, "weightDevice": [one(700)]}}));
    let weights = |all: u16, one: u16| format!("default {all}\n{major}:{minor} {one}");
    up(&bundle);
    for (all, one_of_them) in [(50, 700), (600, 30)] {
        if all == 600 {
            let change = bundle.dir.join("change.json");
            let io = json!({"blockIO": {"weight": 600, "weightDevice": [one(30)]}});
            fs::write(&change, io.to_string()).expect("change.json");
            bundle.on("update", &["--resources", change.to_str().expect("UTF-8")]).well();
        }
        for reloaded in [false, true] {
            assert_eq!(value(&bundle, "io.bfq.weight"), weights(all, one_of_them), "reloaded: {reloaded}");
            outcome(systemctl(&["daemon-reload"])).well();
        }
    }
    bundle.on("delete", &["--force"]).well();
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn an_idle_container_stays_idle_after_a_reload() {
    let bundle = named(Bundle::sleeper()).edit(|config| config["linux"]["resources"] = json!({"cpu": {"idle": 1}}));
    up(&bundle);
    assert_eq!(value(&bundle, "cpu.idle"), "1");
    outcome(systemctl(&["daemon-reload"])).well();
    assert_eq!(value(&bundle, "cpu.idle"), "1");
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn runc_has_the_same_properties() {
    let names = "Slice,Delegate,DefaultDependencies,MemoryMax,MemoryLow,MemoryMin,MemorySwapMax,TasksMax,\
                 CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,AllowedCPUs,AllowedMemoryNodes,TimeoutStopUSec,KillMode,\
                 SendSIGHUP,After,KillSignal";
    let bundle = limited().edit(|config| {
        // What runc 1.1 does not know, or counts in another way.
        for (section, key) in [("/cpu", "burst"), ("/cpu", "shares"), ("", "hugepageLimits")] {
            let section = config["linux"]["resources"].pointer_mut(section).unwrap();
            section.as_object_mut().unwrap().remove(key);
        }
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
            "org.systemd.property.SendSIGHUP": "true",
        });
        of_engines(config);
    });
    // Units come in any order.
    let shown = || {
        let text = show(&bundle, names);
        let (before, after) = text.split_once("After=").expect("After");
        let (units, rest) = after.split_once('\n').unwrap_or((after, ""));
        let mut units: Vec<_> = units.split(' ').map(str::to_owned).collect();
        units.sort();
        (units, format!("{before}{rest}"))
    };
    up(&bundle);
    let ours = shown();
    for line in ["TimeoutStopUSec=7s", "SendSIGHUP=yes", "DefaultDependencies=yes", "KillSignal=3"] {
        assert!(ours.1.lines().any(|other| other == line), "{line} in {}", ours.1);
    }
    assert!(ours.0.contains(&"crio.service".to_owned()), "{:?}", ours.0);
    bundle.on("delete", &["--force"]).well();
    let root = bundle.dir.join("runc");
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root).args(args).current_dir(&bundle.dir).stdin(Stdio::null());
        outcome(command)
    };
    runc(&["--systemd-cgroup", "run", "--detach", &bundle.id]).well();
    let theirs = shown();
    runc(&["delete", "--force", &bundle.id]).well();
    assert_eq!(ours, theirs);
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn a_scope_ends_with_its_container() {
    let bundle = named(Bundle::sleeper());
    let runtime = begin(run(&bundle));
    bundle.await_status("running");
    let scope = bundle.cgroup();
    // another container may not share it
    let second =
        Bundle::new().edit(|config| config["linux"]["cgroupsPath"] = json!(format!("t-a.slice:orlop:{}", bundle.id)));
    outcome(run(&second)).fails("was already loaded or has a fragment file");
    assert_eq!(bundle.status(), "running");
    let mut killed = runtime;
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    bundle.on("delete", &["--force"]).well();
    assert!(!scope.exists());
    assert!(show(&bundle, "LoadState").contains("not-found"));

    // One that the kernel has ended for its memory has failed, and is forgotten all the same.
    let hungry = named(Bundle::script("tail /dev/zero")).edit(|config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 8388608, "swap": 8388608}});
    });
    assert_eq!(outcome(run(&hungry)).code, Some(137));
    assert!(show(&hungry, "LoadState").contains("not-found"));
}

/// A minimal host has systemd and no bus.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn without_a_bus_systemd_is_asked_at_its_own_socket() {
    let bundle = limited();
    let hidden = |command: Command| {
        let mut hiding = Command::new("unshare");
        hiding.args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /run/dbus && exec \"$@\"", "sh"]);
        hiding
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .env_remove("DBUS_SYSTEM_BUS_ADDRESS");
        outcome(hiding)
    };
    hidden(bundle.making("run", &["--systemd-cgroup", "--detach"])).well();
    let scope = Path::new("/sys/fs/cgroup/t.slice/t-a.slice").join(format!("orlop-{}.scope", bundle.id));
    assert_eq!(bundle.cgroup(), scope);
    assert_eq!(show(&bundle, "MemoryMax,TasksMax"), "MemoryMax=67108864\nTasksMax=20");
    hidden(bundle.command(&["update", "--pids-limit", "21", &bundle.id])).well();
    assert_eq!(show(&bundle, "TasksMax"), "TasksMax=21");
    hidden(bundle.command(&["delete", "--force", &bundle.id])).well();
    assert!(!scope.exists() && show(&bundle, "LoadState").contains("not-found"));
}

/// The machine's ordinary user, with a systemd of its own.
const USER: u32 = 1000;

fn as_user(command: &Command, own_session: bool) -> Command {
    let mut user = Command::new("setpriv");
    user.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
    if own_session {
        user.args(["systemd-run", "--user", "--scope", "--quiet", "--collect"]);
    }
    user.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    user.env("XDG_RUNTIME_DIR", format!("/run/user/{USER}")).env_remove("DBUS_SESSION_BUS_ADDRESS").current_dir("/");
    user
}

fn of_user(bundle: Bundle) -> Bundle {
    outcome({
        let mut command = Command::new("loginctl");
        command.args(["enable-linger", "user"]);
        command
    })
    .well();
    // Returns when it is up.
    outcome(systemctl(&["start", &format!("user@{USER}.service")])).well();
    of_nobody(bundle)
}

/// A bundle of a user of this number, who may have no name.
fn of_nobody(bundle: Bundle) -> Bundle {
    let bundle = bundle.edit(|config| {
        let rootless = orlop::spec::default_spec(true);
        for key in ["namespaces", "uidMappings", "gidMappings"] {
            config["linux"][key] = rootless["linux"][key].clone();
        }
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
        config["mounts"] = rootless["mounts"].clone();
        config["linux"]["resources"] = json!({"memory": {"limit": 67108864}, "pids": {"limit": 30}});
        config["linux"]["cgroupsPath"] = json!("");
    });
    outcome({
        let mut command = Command::new("chown");
        command.arg("-hR").arg(format!("{USER}:{USER}")).arg(&bundle.dir);
        command
    })
    .well();
    chown(&bundle.dir, Some(USER), Some(USER)).expect("chown");
    fs::set_permissions(&bundle.dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn a_users_container_is_a_scope_of_the_users_own_systemd() {
    let bundle = of_user(Bundle::sleeper());
    let create = bundle.making("run", &["--systemd-cgroup", "--detach"]);
    // Once from a scope of its own, once from outside of its systemd, as from a login session.
    for own_session in [true, false] {
        outcome(as_user(&create, own_session)).well();
        let slice = format!("/sys/fs/cgroup/user.slice/user-{USER}.slice/user@{USER}.service/user.slice");
        let scope = Path::new(&slice).join(format!("runc-{}.scope", bundle.id));
        let on = |args: &[&str]| outcome(as_user(&bundle.command(args), own_session));
        let state = || serde_json::from_str::<serde_json::Value>(&on(&["state", &bundle.id]).well()).expect("JSON");
        assert_eq!(cgroup_of(state()["pid"].as_u64().expect("a pid") as u32), scope);
        for (file, expected) in [("memory.max", "67108864"), ("pids.max", "30")] {
            assert_eq!(fs::read_to_string(scope.join(file)).expect(file).trim(), expected);
        }
        // In the scope, and so at the root of the container's cgroup namespace.
        assert_eq!(on(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]).well(), "0::/", "{own_session}");
        on(&["pause", &bundle.id]).well();
        assert_eq!(state()["status"], "paused");
        on(&["resume", &bundle.id]).well();
        let unit = format!("runc-{}.scope", bundle.id);
        let shown = outcome(as_user(&systemctl(&["--user", "show", &unit, "--property", "MemoryMax"]), false)).well();
        assert_eq!(shown, "MemoryMax=67108864");
        on(&["delete", "--force", &bundle.id]).well();
        assert!(!scope.exists());
    }
    // On a bus for one program, where nobody is.
    let mut on_its_bus = Command::new("dbus-run-session");
    on_its_bus.arg("--").arg(create.get_program()).args(create.get_args());
    outcome(as_user(&on_its_bus, false)).well();
    outcome(as_user(&bundle.command(&["delete", "--force", &bundle.id]), false)).well();
    // What is not delegated to it is an error that says how.
    let bundle = bundle
        .edit(|config| config["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}));
    outcome(as_user(&create, true)).fails("user@.service");
    nothing_left(&bundle);
}

/// systemd moves only a process that has the user's own id, so it is there before it takes one of the subordinate ids.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn an_exec_with_another_of_a_users_ids_is_in_the_scope() {
    let line = fs::read_to_string("/etc/subuid").expect("subuid");
    let first: u32 = line.trim().split(':').nth(1).and_then(|first| first.parse().ok()).expect("a range");
    let bundle = of_user(Bundle::sleeper()).edit(|config| {
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids]
                .as_array_mut()
                .expect("a list")
                .push(json!({"containerID": 1, "hostID": first, "size": 100}));
        }
    });
    outcome(as_user(&bundle.making("run", &["--systemd-cgroup", "--detach"]), false)).well();
    for own_session in [true, false] {
        let on = |args: &[&str]| outcome(as_user(&bundle.command(args), own_session));
        let said = on(&["exec", "--user", "5:6", &bundle.id, "sh", "-c", "id -u; id -g; cat /proc/self/cgroup"]).well();
        assert_eq!(said, "5\n6\n0::/", "{own_session}");
    }
    outcome(as_user(&bundle.command(&["delete", "--force", &bundle.id]), false)).well();
    nothing_left(&bundle);
}
