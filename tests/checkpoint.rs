//! checkpoint and restore, through criu. What needs one that works here runs in the machine of tests/vm: criu 3.17 does not on
//! newer kernels than that one's.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bundle, Outcome, Running, alive, begin, outcome, received, wait};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

/// A container that counts, in a file of its root.
fn counter() -> Bundle {
    Bundle::script("i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done")
}

fn count(bundle: &Bundle) -> u64 {
    let read = || fs::read_to_string(bundle.rootfs("/tmp/count")).ok()?.trim().parse::<u64>().ok();
    wait(|| read().is_some());
    // Between truncation and write it is empty.
    std::iter::repeat_with(read).flatten().next().expect("a number")
}

/// It counts on from where it was, and does not begin again.
fn goes_on_from(bundle: &Bundle, before: u64) {
    let after = count(bundle);
    assert!(after >= before, "{after} after {before}");
    wait(|| count(bundle) > after);
}

fn image(bundle: &Bundle) -> PathBuf {
    bundle.dir.join("image")
}

/// `orlop run --detach`, with the standard streams that a test has given.
fn run(bundle: &Bundle, args: &[&str]) {
    let mut command = bundle.making("run", &["--detach"]);
    well(command.args(args), bundle);
}

/// It ends well, with its errors in a file that a user namespace may open again.
fn well(command: &mut Command, bundle: &Bundle) {
    let said = bundle.dir.join("said");
    let file = fs::File::create(&said).expect("a file");
    file.set_permissions(fs::Permissions::from_mode(0o666)).expect("chmod");
    let status = command.stdout(Stdio::null()).stderr(file).status().expect("orlop");
    assert!(status.success(), "{}", fs::read_to_string(&said).expect("what it said"));
}

fn checkpoint(bundle: &Bundle, args: &[&str]) -> Outcome {
    let mut command = bundle.command(&["checkpoint", "--image-path"]);
    command.arg(image(bundle)).args(args).arg(&bundle.id);
    outcome(command)
}

fn restoring(bundle: &Bundle, args: &[&str]) -> Command {
    let mut command = bundle.command(&["restore", "--detach", "--bundle"]);
    command.arg(&bundle.dir).arg("--image-path").arg(image(bundle)).arg("--work-path").arg(bundle.dir.join("work"));
    command.args(args).arg(&bundle.id);
    command
}

/// Restores, with what criu said when it fails.
fn restore(bundle: &Bundle, args: &[&str]) {
    well(&mut restoring(bundle, args), bundle);
}

#[test]
fn a_criu_that_is_missing_is_one_clear_error_and_nothing_changes() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let pid = bundle.pid();
    let mut command = bundle.command(&["checkpoint", "--image-path"]);
    command.arg(image(&bundle)).arg(&bundle.id).env("PATH", "/nowhere");
    let said = outcome(command).fails("checkpoint and restore need criu, and there is no program criu");
    assert!(said.contains("hint: install criu"), "{said}");
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid));
}

#[test]
fn an_image_that_is_not_there_is_one_clear_error_and_leaves_nothing() {
    let bundle = Bundle::sleeper();
    let said = outcome(restoring(&bundle, &[])).fails("open the directory");
    assert!(said.contains("no such file or directory") && said.contains("--image-path names"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    fs::create_dir(image(&bundle)).expect("mkdir");
    let said = outcome(restoring(&bundle, &[])).fails("read descriptors.json of the image");
    assert!(said.contains("--image-path names"), "{said}");
    assert!(!bundle.state_dir().exists());
}

#[test]
fn only_a_container_that_runs_is_dumped() {
    let bundle = Bundle::sleeper();
    bundle.create();
    checkpoint(&bundle, &[]).fails("Container cannot be checkpointed in created state");
    bundle.start();
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    checkpoint(&bundle, &[]).fails("Container cannot be checkpointed in stopped state");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let bundle = Bundle::sleeper();
    bundle.up();
    checkpoint(&bundle, &["--empty-ns", "pid"]).fails("namespace \"pid\" is not supported");
    checkpoint(&bundle, &["--page-server", "nowhere"]).fails("Use --page-server ADDRESS:PORT");
    checkpoint(&bundle, &["--parent-path", "/image"]).fails("--parent-path must be relative");
    checkpoint(&bundle, &["--parent-path", "none"]).fails("invalid --parent-path");
    checkpoint(&bundle, &["--lazy-pages", "--status-fd", "99"]).fails("invalid --status-fd argument 99");
    assert_eq!(bundle.status(), "running");
}

/// A criu that does nothing, but leaves each request behind in a file with the number of its kind.
struct Recorder {
    dir: PathBuf,
    program: String,
}

/// `criu_req_type` of rpc.proto.
const DUMP: u8 = 1;
const RESTORE: u8 = 2;
const PRE_DUMP: u8 = 4;

impl Recorder {
    /// It says that it has done what it was asked for; of a restore, which takes more than one answer, that it has not.
    fn new(bundle: &Bundle) -> Self {
        let dir = bundle.dir.join("asked");
        fs::create_dir(&dir).expect("mkdir");
        let program = bundle.dir.join("recorder");
        // Fields of criu_resp: 1 the kind, 2 success, 8 features, 10 the version, 3.17.
        let script = format!(
            r#"#!/usr/bin/perl
open(my $socket, '+<&=', 3) or die;
while (sysread($socket, my $asked, 65536)) {{
    my $kind = ord(substr($asked, 1, 1));
    open(my $file, '>', "{}/$kind") or die;
    print $file $asked;
    close($file);
    my $answer = "\x08" . chr($kind) . "\x10" . chr($kind != 2);
    $answer .= "\x42\x04\x08\x01\x10\x01" if $kind == 9;
    $answer .= "\x52\x04\x08\x03\x10\x11" if $kind == 10;
    syswrite($socket, $answer) or die;
}}
"#,
            dir.display()
        );
        fs::write(&program, script).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { dir, program: program.to_str().expect("a path").to_owned() }
    }

    /// The `criu_opts` (field 2) of the last request of this kind, each field by its number.
    fn asked(&self, kind: u8) -> BTreeMap<u32, Field> {
        let path = self.dir.join(kind.to_string());
        let bytes = fs::read(&path).expect("a request of this kind");
        fs::remove_file(&path).expect("remove");
        match parse(&bytes).remove(&2) {
            Some(Field::Bytes(options)) => parse(&options),
            other => panic!("{other:?} for criu_opts"),
        }
    }

    fn dump(&self, bundle: &Bundle, args: &[&str]) {
        let mut command = bundle.command(&["--criu", &self.program, "checkpoint", "--image-path"]);
        command.arg(image(bundle)).args(args).arg(&bundle.id);
        outcome(command).well();
        assert_eq!(bundle.status(), "running", "{args:?}");
    }

    fn restore(&self, bundle: &Bundle, args: &[&str]) {
        let mut command = bundle.command(&["--criu", &self.program, "restore", "--detach", "--bundle"]);
        command.arg(&bundle.dir).arg("--image-path").arg(image(bundle)).args(args).arg(&bundle.id);
        outcome(command).fails("criu failed: type RESTORE");
        assert!(!bundle.state_dir().exists());
    }
}

/// The value of a field; the last one where there are several.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

fn text(text: &str) -> Field {
    Field::Bytes(text.into())
}

/// A message in protobuf's encoding (protobuf.dev, Encoding).
fn parse(mut bytes: &[u8]) -> BTreeMap<u32, Field> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let first = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(first),
            2 => {
                let (value, rest) = bytes.split_at(usize::try_from(first).expect("a length"));
                bytes = rest;
                Field::Bytes(value.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.insert(u32::try_from(tag >> 3).expect("a number"), field);
    }
    fields
}

/// By `changed`, and by nothing else, the second request differs. The numbers of directories' descriptors do not count.
fn differs(plain: &BTreeMap<u32, Field>, with: &BTreeMap<u32, Field>, changed: &[(u32, Field)], args: &[&str]) {
    let (mut with, mut expected) = (with.clone(), plain.clone());
    expected.extend(changed.iter().cloned());
    for fields in [&mut with, &mut expected] {
        fields.remove(&1);
        fields.remove(&17);
    }
    assert_eq!(with, expected, "{args:?}");
    for (field, value) in changed {
        assert_ne!(plain.get(field), Some(value), "{args:?}");
    }
}

/// Options, and the fields of the request that they change.
type Changed = (&'static [&'static str], Vec<(u32, Field)>);

/// Numbers are those of `criu_opts` in rpc.proto.
fn of_both() -> Vec<Changed> {
    let one = |number| vec![(number, Field::Number(1))];
    let mode = |mode| vec![(34, Field::Number(mode))];
    vec![
        (&["--ext-unix-sk"], one(4)),
        (&["--tcp-established"], one(5)),
        (&["--shell-job"], one(7)),
        (&["--file-locks"], one(8)),
        (&["--auto-dedup"], one(16)),
        (&["--lazy-pages"], one(48)),
        (&["--manage-cgroups-mode", "ignore"], mode(0)),
        (&["--manage-cgroups-mode", "soft"], mode(3)),
        (&["--manage-cgroups-mode", "full"], mode(4)),
        (&["--manage-cgroups-mode", "strict"], mode(5)),
        (&["--file-locks", "--tcp-established"], [one(8), one(5)].concat()),
        // What it says is so anyway.
        (&["--empty-ns", "network"], vec![]),
    ]
}

#[test]
fn each_option_of_checkpoint_reaches_criu_and_changes_nothing_else() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let criu = Recorder::new(&bundle);
    criu.dump(&bundle, &["--leave-running"]);
    let plain = criu.asked(DUMP);
    assert_eq!(plain[&2], Field::Number(bundle.pid().into()));
    assert_eq!(plain[&3], Field::Number(1), "it goes on");
    assert_eq!(plain[&13], text(bundle.dir.join("rootfs").to_str().expect("a path")));
    assert_eq!(plain[&38], Field::Number(libc::CLONE_NEWNET as u64));
    fs::create_dir(bundle.dir.join("parent")).expect("mkdir");
    let own: [(&[&str], _); 4] = [
        (&["--link-remap"], vec![(18, Field::Number(1))]),
        (&["--tcp-skip-in-flight"], vec![(46, Field::Number(1))]),
        // criu_page_server_info: 1 an address, 2 a port, 27277.
        (&["--page-server", "10.0.0.1:27277"], vec![(11, Field::Bytes(b"\x0a\x0810.0.0.1\x10\x8d\xd5\x01".into()))]),
        (&["--parent-path", "../parent"], vec![(14, text("../parent")), (15, Field::Number(1))]),
    ];
    for (args, changed) in of_both().into_iter().chain(own) {
        criu.dump(&bundle, &[&["--leave-running"], args].concat());
        differs(&plain, &criu.asked(DUMP), &changed, args);
    }
    let work = bundle.dir.join("work");
    criu.dump(&bundle, &["--leave-running", "--work-path", work.to_str().expect("a path")]);
    assert!(work.is_dir() && matches!((plain.get(&17), criu.asked(DUMP).get(&17)), (None, Some(Field::Number(3..)))));
    criu.dump(&bundle, &["--pre-dump"]);
    let memory = criu.asked(PRE_DUMP);
    assert_eq!((&memory[&2], memory.get(&23)), (&plain[&2], None), "memory alone has no mounts");
}

#[test]
fn each_option_of_restore_reaches_criu_and_changes_nothing_else() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let criu = Recorder::new(&bundle);
    criu.dump(&bundle, &["--leave-running"]);
    bundle.on("delete", &["--force"]).well();
    criu.restore(&bundle, &[]);
    let plain = criu.asked(RESTORE);
    assert_eq!(plain[&38], Field::Number(libc::CLONE_NEWNET as u64));
    let own: [(&[&str], _); 4] = [
        (&["--tcp-close"], vec![(52, Field::Number(1))]),
        (&["--lsm-profile", "apparmor:other"], vec![(53, text("apparmor:other"))]),
        (&["--lsm-mount-context", "system_u:object_r:container_file_t:s0"], {
            vec![(63, text("system_u:object_r:container_file_t:s0"))]
        }),
        (&["--lsm-profile", ""], vec![]),
    ];
    for (args, changed) in of_both().into_iter().chain(own) {
        criu.restore(&bundle, args);
        differs(&plain, &criu.asked(RESTORE), &changed, args);
    }
}

/// In place of criu a program that leaves a process behind, which writes down whose child it is from then on.
#[test]
fn orphans_are_the_restores_unless_it_is_told_otherwise() {
    let bundle = Bundle::sleeper();
    bundle.up();
    Recorder::new(&bundle).dump(&bundle, &["--leave-running"]);
    bundle.on("delete", &["--force"]).well();
    let program = bundle.dir.join("leaver");
    let script = r#"#!/usr/bin/perl
open(my $socket, '+<&=', 3) or die;
while (sysread($socket, my $asked, 65536)) {
    my $kind = ord(substr($asked, 1, 1));
    if ($kind == 2) {
        pipe(my $ended, my $held) or die;
        if (!fork()) {
            my $between = $$;
            if (!fork()) {
                select(undef, undef, undef, 0.01) while getppid() == $between;
                open(my $file, '>', "$0.parent") or die;
                print {$file} getppid();
                close($file);
            }
            exit;
        }
        close($held);
        wait;
        sysread($ended, my $nothing, 1);
    }
    my $answer = "\x08" . chr($kind) . "\x10" . chr($kind != 2);
    $answer .= "\x52\x04\x08\x03\x10\x11" if $kind == 10;
    syswrite($socket, $answer) or die;
}
"#;
    fs::write(&program, script).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let cases: [(&[&str], bool); 3] = [(&[], true), (&["--no-subreaper"], false), (&["--detach"], false)];
    for (options, ours) in cases {
        let mut command = bundle.command(&["--criu", program.to_str().expect("a path"), "restore", "--bundle"]);
        command.arg(&bundle.dir).arg("--image-path").arg(image(&bundle)).args(options).arg(&bundle.id);
        let restoring = begin(command);
        let runtime = restoring.child.id().to_string();
        restoring.end().fails("criu failed: type RESTORE");
        let said = bundle.dir.join("leaver.parent");
        let parent = common::value(&said).expect("whose child it is");
        fs::remove_file(&said).expect("remove");
        assert_eq!(parent == runtime, ours, "{options:?}: {parent}, restore was {runtime}");
    }
}

#[test]
fn engines_find_out_what_there_is() {
    let bundle = Bundle::new();
    outcome(bundle.command(&["checkpoint", "--help"])).well();
    outcome(bundle.command(&["restore", "--lsm-profile"])).fails("flag needs an argument");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_counter_goes_on_after_its_restore() {
    let bundle = counter();
    run(&bundle, &[]);
    let (pid, cgroup) = (bundle.pid(), bundle.cgroup());
    checkpoint(&bundle, &[]).well();
    let before = count(&bundle);
    assert_eq!((bundle.status().as_str(), alive(pid), cgroup.exists()), ("none", false, false));
    let pid_file = bundle.dir.join("pid");
    restore(&bundle, &["--pid-file", pid_file.to_str().expect("a path")]);
    assert_eq!(bundle.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).expect("the pid file"), bundle.pid().to_string());
    goes_on_from(&bundle, before);
    assert_eq!(bundle.cgroup(), cgroup);
    let entries = |dir: PathBuf| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(entries(bundle.state_dir()), ["config.json", "notify", "state.json"]);
    let ours = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!ours.contains(bundle.id.as_str()), "{ours}");
    // And once more, from what was restored.
    checkpoint(&bundle, &[]).well();
    let before = count(&bundle);
    restore(&bundle, &[]);
    goes_on_from(&bundle, before);
    assert_eq!(bundle.inside("echo still here"), "still here");
}

/// A line of the page, in the bundle's directory, with its `orlop` and container for those that the line names.
fn by_the_page(bundle: &Bundle, line: &str) {
    let line = line.replace(" counter", &format!(" {}", bundle.id));
    let script = format!("orlop() {{ '{}' --root '{}' \"$@\"; }}\n{line}\n", common::ORLOP, bundle.store.display());
    let mut command = Command::new("sh");
    well(command.args(["-euc", &script]).current_dir(&bundle.dir).stdin(Stdio::null()), bundle);
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_commands_of_checkpoint_md_do_what_it_says() {
    let page = include_str!("../docs/checkpoint.md");
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a block").lines());
    let (first, second) =
        (blocks.next().expect("a block").collect::<Vec<_>>(), blocks.next().expect("another").collect::<Vec<_>>());
    assert_eq!((first.len(), second.len(), blocks.count()), (3, 3, 0));
    let bundle = counter();
    by_the_page(&bundle, first[0]);
    wait(|| count(&bundle) > 3);
    by_the_page(&bundle, first[1]);
    let before = count(&bundle);
    assert_eq!(bundle.status(), "none");
    by_the_page(&bundle, first[2]);
    goes_on_from(&bundle, before);
    let pid = bundle.pid();
    for line in &second[..2] {
        by_the_page(&bundle, line);
        assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid), "{line}");
    }
    by_the_page(&bundle, second[2]);
    assert_eq!(bundle.status(), "none");
    let before = count(&bundle);
    by_the_page(&bundle, first[2]);
    goes_on_from(&bundle, before);
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn leave_running_lets_the_container_go_on() {
    let bundle = counter();
    run(&bundle, &[]);
    let pid = bundle.pid();
    checkpoint(&bundle, &["--leave-running"]).well();
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid));
    let now = count(&bundle);
    wait(|| count(&bundle) > now);
    assert!(image(&bundle).join("inventory.img").exists());
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn an_image_on_top_of_a_pre_dump_holds_what_has_changed_since() {
    let bundle = counter();
    run(&bundle, &[]);
    let parent = bundle.dir.join("parent");
    let mut command = bundle.command(&["checkpoint", "--pre-dump", "--image-path"]);
    command.arg(&parent).arg(&bundle.id);
    outcome(command).well();
    assert_eq!(bundle.status(), "running");
    let now = count(&bundle);
    wait(|| count(&bundle) > now);
    checkpoint(&bundle, &["--parent-path", "../parent"]).well();
    assert_eq!(fs::read_link(image(&bundle).join("parent")).expect("a link"), PathBuf::from("../parent"));
    let before = count(&bundle);
    restore(&bundle, &[]);
    goes_on_from(&bundle, before);
}

/// A dump whose memory waits at this port, and criu serves it.
fn lazily(bundle: &Bundle) -> (Running, u16) {
    let port = common::free_port();
    let (mut ready, theirs) = std::io::pipe().expect("a pipe");
    let mut command = bundle.command(&["checkpoint", "--lazy-pages", "--page-server", &format!("127.0.0.1:{port}")]);
    command.args(["--status-fd", "0"]).stdin(theirs);
    command.arg("--image-path").arg(image(bundle)).arg(&bundle.id);
    let dump = begin(command);
    let mut byte = [1];
    ready.read_exact(&mut byte).expect("a byte when memory can be fetched");
    assert_eq!(byte, [0]);
    (dump, port)
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn what_waits_for_its_memory_to_be_fetched_can_be_deleted() {
    let bundle = counter();
    run(&bundle, &[]);
    let (first, cgroup) = (bundle.pid(), bundle.cgroup());
    let (dump, _) = lazily(&bundle);
    bundle.on("delete", &["--force"]).well();
    assert!(!alive(first) && !cgroup.exists());
    dump.end().fails("the container was killed while criu held it");
}

/// In place of criu a program that never answers a dump.
#[test]
fn a_checkpoint_that_hangs_ends_with_its_container() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let program = bundle.dir.join("recorder");
    let script = r#"#!/usr/bin/perl
open(my $socket, '+<&=', 3) or die;
sysread($socket, my $asked, 65536);
syswrite($socket, "\x08\x0a\x10\x01\x52\x04\x08\x03\x10\x11") or die;
sysread($socket, $asked, 65536);
open(my $file, '>', "$0.pid") or die;
print $file $$;
close($file);
sleep 60;
"#;
    fs::write(&program, script).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = bundle.command(&["--criu", program.to_str().expect("a path"), "checkpoint", "--image-path"]);
    command.arg(image(&bundle)).arg(&bundle.id);
    let dump = begin(command);
    let asked = bundle.dir.join("recorder.pid");
    wait(|| common::value(&asked).is_ok_and(|pid| !pid.is_empty()));
    let criu = common::value(&asked).expect("a pid").parse().expect("a number");
    let first = bundle.pid();
    bundle.on("delete", &["--force"]).well();
    dump.end().fails("the container was killed while criu held it");
    assert!(!alive(first) && !alive(criu));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn memory_can_come_after_the_restore() {
    let bundle = counter();
    run(&bundle, &[]);
    let (first, old) = (bundle.pid(), bundle.cgroup());
    let (dump, port) = lazily(&bundle);
    let before = count(&bundle);
    let port = port.to_string();
    let mut command = Command::new("criu");
    command.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", &port, "-D"]).arg(image(&bundle));
    let mut fetching = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("criu");
    // Whoever is not fetched yet is still there, and has its name and its cgroup.
    let name = format!("{}-lazy", bundle.id);
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}")));
    wait(|| image(&bundle).join("lazy-pages.socket").exists());
    let mut command = bundle.command(&["restore", "--detach", "--lazy-pages", "--bundle"]);
    command.arg(&bundle.dir).arg("--image-path").arg(image(&bundle)).arg(&name);
    well(&mut command, &bundle);
    dump.end().well();
    assert!(fetching.wait().expect("wait").success());
    assert_eq!((bundle.status().as_str(), alive(first), old.exists()), ("none", false, false));
    goes_on_from(&bundle, before);
    outcome(bundle.command(&["delete", "--force", &name])).well();
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_lock_on_a_file_is_held_again() {
    // criu knows a lock by the process that has taken it, which so must go on.
    let script = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done";
    // The host's flock(1) with its libraries: busybox has none.
    let bind = |path: &&str| json!({ "type": "bind", "source": path, "destination": path, "options": ["bind", "ro"] });
    let binds = ["/lib", "/lib64", "/usr"].iter().map(bind);
    let bundle = Bundle::new().args(&["/usr/bin/flock", "/tmp/lock", "sh", "-c", script]).edit(|config| {
        config["mounts"].as_array_mut().expect("mounts").extend(binds);
    });
    run(&bundle, &[]);
    count(&bundle);
    let said = checkpoint(&bundle, &[]).fails("criu failed: type DUMP");
    assert!(said.contains("file-locks"), "{said}");
    checkpoint(&bundle, &["--file-locks"]).well();
    let before = count(&bundle);
    restore(&bundle, &["--file-locks"]);
    goes_on_from(&bundle, before);
    assert_eq!(bundle.inside("/usr/bin/flock -n /tmp/lock true || echo held"), "held");
}

/// A container in which one program counts and another hears it over TCP; it notes when the connection has ended.
fn connected() -> Bundle {
    // 1B58 is 7000. Whoever writes to what is closed may not be ended by that.
    Bundle::script(
        "sleep 1000 | nc -l -p 7000 | while read n; do echo $n >>/tmp/all; echo $n >/tmp/count; done &
        until cat /proc/net/tcp* | grep -q :1B58; do sleep 0.05; done
        { i=0; while :; do i=$((i+1)); echo $i || break; sleep 0.05; done; } | nc 127.0.0.1 7000
        echo >/tmp/closed; exec sleep 1000",
    )
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_connection_goes_on_where_both_sides_are_told_to_keep_it() {
    let bundle = connected();
    run(&bundle, &[]);
    count(&bundle);
    let said = checkpoint(&bundle, &[]).fails("criu failed: type DUMP");
    assert!(said.contains("tcp-established"), "{said}");
    let counted = count(&bundle);
    wait(|| count(&bundle) > counted);
    checkpoint(&bundle, &["--tcp-established"]).well();
    let before = count(&bundle);
    outcome(restoring(&bundle, &[])).fails("criu failed: type RESTORE");
    let log = fs::read_to_string(bundle.dir.join("work/restore.log")).expect("criu's log");
    assert!(log.contains("Connected TCP socket in image"), "{log}");
    restore(&bundle, &["--tcp-established"]);
    goes_on_from(&bundle, before);
    // No number is lost, and none comes twice.
    let all = fs::read_to_string(bundle.rootfs("/tmp/all")).expect("what was heard");
    let numbers = all.lines().map(|line| line.parse::<usize>().expect("a number"));
    assert!(numbers.eq(1..=all.lines().count()), "{all}");
    assert!(!bundle.rootfs("/tmp/closed").exists());
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_connection_is_closed_where_the_restore_is_told_to() {
    let bundle = connected();
    run(&bundle, &[]);
    count(&bundle);
    checkpoint(&bundle, &["--tcp-established"]).well();
    let closed = bundle.rootfs("/tmp/closed");
    assert!(!closed.exists());
    restore(&bundle, &["--tcp-close"]);
    wait(|| closed.exists());
    assert_eq!(bundle.status(), "running");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_file_is_open_again_whose_name_has_gone() {
    // Another name is left, so it is a file that a restore has to find, and not one that the image holds.
    let script = "echo kept >/tmp/a; exec 9</tmp/a; ln /tmp/a /tmp/b; rm /tmp/a
        i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done; cat <&9 >/tmp/said; sleep 1000";
    let bundle = Bundle::script(script);
    run(&bundle, &[]);
    count(&bundle);
    let said = checkpoint(&bundle, &[]).fails("criu failed: type DUMP");
    assert!(said.contains("link-remap"), "{said}");
    checkpoint(&bundle, &["--link-remap"]).well();
    restore(&bundle, &[]);
    fs::write(bundle.rootfs("/tmp/go"), "").expect("write");
    wait(|| fs::read_to_string(bundle.rootfs("/tmp/said")).is_ok_and(|said| said == "kept\n"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn bind_mounts_are_made_again_from_their_sources() {
    let bundle = counter();
    for dir in ["outer", "inner"] {
        fs::create_dir(bundle.dir.join(dir)).expect("mkdir");
    }
    fs::write(bundle.dir.join("inner/file"), "from outside").expect("write");
    fs::create_dir(bundle.rootfs("/real")).expect("mkdir");
    std::os::unix::fs::symlink("/real", bundle.rootfs("/link")).expect("symlink");
    let bind = |source: &str, target: &str| json!({ "type": "bind", "source": bundle.dir.join(source), "destination": target, "options": ["bind", "ro"] });
    let mounts = [bind("outer/.", "/link"), bind("inner/", "/data")];
    let bundle = bundle.edit(|config| config["mounts"].as_array_mut().expect("mounts").extend(mounts));
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    fs::write(bundle.dir.join("inner/file"), "changed since").expect("write");
    // A restore makes the places for mounts, as create does.
    fs::remove_dir(bundle.rootfs("/data")).expect("rmdir");
    restore(&bundle, &[]);
    assert_eq!(bundle.inside("cat /data/file"), "changed since");
    let mounts = bundle.inside("cat /proc/self/mounts");
    for target in ["/data", "/real"] {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(target));
        let options = line.and_then(|line| line.split(' ').nth(3)).unwrap_or_else(|| panic!("no {target} in {mounts}"));
        assert!(options.split(',').any(|option| option == "ro"), "{target}: {options}");
    }
    // Masked files still are.
    assert_eq!(bundle.inside("wc -c </proc/kcore"), "0");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_console_socket_gets_the_terminal_again() {
    let bundle = Bundle::script("while read line; do echo got $line; done").edit(|config| {
        config["process"]["terminal"] = json!(true);
    });
    let path = bundle.dir.join("console");
    let socket = path.to_str().expect("a path").to_owned();
    let listener = UnixListener::bind(&path).expect("bind");
    run(&bundle, &["--console-socket", &socket]);
    // Held until then: without a master the program would be hung up on.
    let before = received(&listener);
    checkpoint(&bundle, &[]).well();
    drop(before);
    restore(&bundle, &["--console-socket", &socket]);
    let (_, master) = received(&listener);
    answers(fs::File::from(master));
}

/// The program behind this terminal hears a line, and answers.
fn answers(mut master: fs::File) {
    master.write_all(b"hello\n").expect("write");
    let mut said = String::new();
    let mut bytes = [0; 256];
    while !said.contains("got hello") {
        let length = master.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {said:?}"));
        said.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}

/// `restore` without `--detach`.
fn restoring_in_the_foreground(bundle: &Bundle) -> Command {
    let mut command = bundle.command(&["restore", "--bundle"]);
    command.arg(&bundle.dir).arg("--image-path").arg(image(bundle)).arg(&bundle.id);
    command
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_restore_in_the_foreground_ends_as_the_program_does() {
    let bundle = Bundle::script("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo over; exit 7");
    // Of two streams that are one file criu restores both as the first.
    let mut command = bundle.making("run", &["--detach"]);
    let output = bundle.dir.join("output");
    command.stdout(fs::File::create(&output).expect("a file")).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
    let cgroup = bundle.cgroup();
    checkpoint(&bundle, &[]).well();
    let mut command = restoring_in_the_foreground(&bundle);
    let file = fs::File::create(&output).expect("a file");
    let mut restored = command.stdout(file).stderr(Stdio::null()).spawn().expect("restore");
    bundle.await_status("running");
    fs::write(bundle.rootfs("/tmp/go"), "").expect("write");
    assert_eq!(restored.wait().expect("wait").code(), Some(7));
    assert_eq!(fs::read_to_string(&output).expect("the output"), "over\n");
    assert_eq!((bundle.status().as_str(), cgroup.exists()), ("none", false));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_restore_in_the_foreground_has_the_terminal_on_ours() {
    let bundle = Bundle::script("while read line; do echo got $line; done; exit 7").edit(|config| {
        config["process"]["terminal"] = json!(true);
    });
    let path = bundle.dir.join("console");
    let listener = UnixListener::bind(&path).expect("bind");
    run(&bundle, &["--console-socket", path.to_str().expect("a path")]);
    let before = received(&listener);
    checkpoint(&bundle, &[]).well();
    drop(before);
    let ours = nix::pty::openpty(None, None).expect("openpty");
    let stream = || Stdio::from(ours.slave.try_clone().expect("dup"));
    let mut command = restoring_in_the_foreground(&bundle);
    let mut restored = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("restore");
    bundle.await_status("running");
    answers(fs::File::from(ours.master.try_clone().expect("dup")));
    // The end of input, as a person types it.
    fs::File::from(ours.master).write_all(b"\x04").expect("write");
    assert_eq!(restored.wait().expect("wait").code(), Some(7));
}

/// Every limit of a cgroup.
fn limits(bundle: &Bundle) -> BTreeMap<String, String> {
    let endings = [".max", ".min", ".low", ".high", ".weight", ".idle", ".burst", ".cpus", ".mems", ".group"];
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(bundle.cgroup()).expect("a cgroup") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if endings.iter().any(|ending| name.ends_with(ending)) {
            let value = fs::read_to_string(bundle.cgroup().join(&name)).expect("a file of the cgroup");
            found.insert(name, value.trim().to_owned());
        }
    }
    found
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn limits_are_there_again() {
    let bundle = counter().edit(|config| {
        let resources = &mut config["linux"]["resources"];
        resources["memory"] = json!({ "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20 });
        resources["pids"] = json!({ "limit": 77 });
        resources["cpu"] = json!({ "shares": 512, "quota": 150_000, "period": 200_000, "cpus": "0", "mems": "0" });
        resources["blockIO"] = json!({ "weight": 200 });
        resources["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
        resources["unified"] = json!({ "memory.high": "60M", "memory.oom.group": "1" });
    });
    run(&bundle, &[]);
    let before = limits(&bundle);
    let expected = [("memory.max", "67108864"), ("pids.max", "77"), ("cpu.max", "150000 200000"), ("cpuset.cpus", "0")];
    for (name, value) in expected {
        assert_eq!(before[name], value, "{name}");
    }
    checkpoint(&bundle, &[]).well();
    restore(&bundle, &[]);
    assert_eq!(limits(&bundle), before);
    // The filter of devices was attached to the cgroup, not to the processes.
    let refused = bundle.on("exec", &["sh", "-c", "mknod /tmp/sda b 8 0 && cat /tmp/sda"]);
    refused.fails("peration not permitted");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_container_is_restored_into_the_cgroup_that_its_configuration_names_now() {
    let bundle = counter();
    run(&bundle, &[]);
    let old = bundle.cgroup();
    checkpoint(&bundle, &[]).well();
    let name = format!("{}-moved", bundle.id);
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}")));
    restore(&bundle, &[]);
    assert_eq!(bundle.cgroup().file_name().expect("a name").to_string_lossy(), name);
    assert!(!old.exists());
    assert!(bundle.inside("cat /proc/self/cgroup").ends_with("::/"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_filter_and_the_loopback_interface_are_there_again() {
    let script = "i=0; while :; do i=$((i+1)); mkdir /tmp/refused 2>/tmp/why; echo $i >/tmp/count; sleep 0.05; done";
    let bundle = Bundle::script(script).edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ESTALE }],
        });
    });
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    restore(&bundle, &[]);
    assert_eq!(common::proc_status(bundle.pid(), "Seccomp"), "2");
    fs::remove_file(bundle.rootfs("/tmp/why")).expect("remove");
    let counted = count(&bundle);
    wait(|| count(&bundle) > counted + 1);
    let why = fs::read_to_string(bundle.rootfs("/tmp/why")).expect("what mkdir says");
    assert!(why.contains("Stale file handle") && !bundle.rootfs("/tmp/refused").exists(), "{why}");
    assert!(bundle.inside("ip link show lo").contains("UP"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_user_namespace_has_its_ids_again() {
    let bundle = counter().with_user();
    run(&bundle, &[]);
    let maps = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", bundle.pid())).expect("an id map");
    let before = ["uid_map", "gid_map", "setgroups"].map(maps);
    checkpoint(&bundle, &[]).well();
    let counted = count(&bundle);
    // Nobody else reads the memory.
    let about = fs::metadata(image(&bundle)).expect("the image");
    assert_eq!((about.mode() & 0o7777, about.uid(), about.gid()), (0o710, 0, 100_000));
    fs::set_permissions(image(&bundle), fs::Permissions::from_mode(0o700)).expect("chmod");
    outcome(restoring(&bundle, &[])).fails("root of the user namespace can't enter the image directory");
    assert!(!bundle.state_dir().exists());
    fs::set_permissions(image(&bundle), fs::Permissions::from_mode(0o710)).expect("chmod");
    restore(&bundle, &[]);
    goes_on_from(&bundle, counted);
    assert_eq!(["uid_map", "gid_map", "setgroups"].map(maps), before);
    assert_eq!(common::proc_status(bundle.pid(), "Uid").split_whitespace().next(), Some("100000"));
    assert_eq!(bundle.inside("id -u; cat /proc/1/comm"), "0\nsh");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_network_device_comes_once_more_from_the_host() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
    let pair = || {
        let status = Command::new("ip").args(["link", "add", "out", "type", "veth", "peer", "name", "in0"]).status();
        assert!(status.expect("iproute2").success());
    };
    let here = || fs::read_to_string("/proc/thread-self/net/dev").expect("devices").contains("out:");
    let bundle = counter().edit(|config| config["linux"]["netDevices"] = json!({ "in0": { "name": "net1" } }));
    pair();
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    // It has ended with the namespace, and its peer with it.
    wait(|| !here());
    let said = outcome(restoring(&bundle, &[])).fails("/linux/netDevices/in0");
    assert!(!bundle.state_dir().exists(), "{said}");
    pair();
    restore(&bundle, &[]);
    assert!(bundle.inside("cat /proc/net/dev").contains("net1:"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn what_exec_has_put_there_stands_in_the_way_of_a_dump() {
    let bundle = counter();
    run(&bundle, &[]);
    let exec = begin(bundle.command(&["exec", &bundle.id, "sleep", "1000"]));
    wait(|| bundle.processes().matches(',').count() > 1);
    let said = checkpoint(&bundle, &[]).fails("was put into the container by exec");
    assert!(said.contains("sleep") && said.lines().count() == 1, "{said}");
    assert_eq!(bundle.status(), "running");
    let counted = count(&bundle);
    wait(|| count(&bundle) > counted);
    let ended = Command::new("kill").arg(exec.child.id().to_string()).status();
    assert!(ended.expect("kill").success());
    exec.end();
    checkpoint(&bundle, &[]).well();
}

/// A service manager's socket.
fn manager(bundle: &Bundle) -> (UnixDatagram, PathBuf) {
    let path = bundle.dir.join("manager.sock");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    (socket, path)
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_service_manager_hears_of_a_restore_at_once() {
    let script = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; ls /run/notify >/tmp/listed; sleep 0.05; done";
    let bundle = Bundle::script(script);
    let (socket, path) = manager(&bundle);
    let mut command = bundle.making("run", &["--detach"]);
    let mut first =
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
    let there = || fs::read_to_string(bundle.rootfs("/tmp/listed")).unwrap_or_default();
    wait(|| there() == "notify.sock\n");
    // It never says that it is ready.
    first.kill().expect("kill");
    first.wait().expect("wait");
    checkpoint(&bundle, &[]).well();

    let mut command = restoring(&bundle, &[]);
    let restored = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut restored = restored.expect("restore");
    let mut text = [0; 256];
    let length = socket.recv(&mut text).expect("a message in time");
    assert_eq!(String::from_utf8_lossy(&text[..length]), format!("READY=1\nMAINPID={}\n", bundle.pid()));
    let (barrier, open) = common::message(&socket);
    assert_eq!(barrier, "BARRIER=1");
    drop(open);
    assert!(restored.wait().expect("wait").success());
    let counted = count(&bundle);
    wait(|| count(&bundle) > counted);

    // Without a manager the directory is there, and empty.
    checkpoint(&bundle, &[]).well();
    restore(&bundle, &[]);
    wait(|| there().is_empty());
    let counted = count(&bundle);
    wait(|| count(&bundle) > counted);
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn hooks_of_the_runtime_run_when_the_namespaces_are_there() {
    let bundle = counter();
    let seen = bundle.dir.join("seen");
    let script = format!("cat >{}", seen.display());
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    let bundle = bundle.edit(|config| config["hooks"] = json!({ "createRuntime": hook }));
    restore(&bundle, &[]);
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&seen).expect("the hook ran")).expect("JSON");
    assert_eq!(state["pid"].as_u64(), Some(u64::from(bundle.pid())));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_restore_that_fails_leaves_nothing() {
    let bundle = counter();
    run(&bundle, &[]);
    let cgroup = bundle.cgroup();
    checkpoint(&bundle, &[]).well();
    // A hook fails when the container's first process is there already.
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] }]);
    let bundle = bundle.edit(|config| config["hooks"] = json!({ "createRuntime": hook }));
    outcome(restoring(&bundle, &[])).fails("error running createRuntime hook #0: exit status 3");
    assert!(!bundle.state_dir().exists() && !cgroup.exists());
    // An image with a part missing: criu's own words are in the error, and where its log is.
    let bundle = bundle.edit(|config| config["hooks"] = json!({}));
    fs::remove_file(image(&bundle).join("core-1.img")).expect("an image file");
    let said = outcome(restoring(&bundle, &[])).fails("criu failed: type RESTORE");
    assert!(said.contains("Error (criu/") && said.contains("log file: ") && said.contains("restore.log"), "{said}");
    assert!(!bundle.state_dir().exists() && !cgroup.exists());
    let left = Command::new("pgrep").arg("-f").arg(&bundle.id).output().expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}
