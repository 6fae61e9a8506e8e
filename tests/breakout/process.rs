//! Malicious processes: what a program finds of the runtime and of its caller, in a run and in an exec.

use serde_json::json;

use crate::place::{CANARY, Place, Verdict, ended};

/// Descriptors that a runtime might leave open.
const NUMBERS: std::ops::Range<u32> = 3..24;

/// From a directory of the host that was left open, the way leads everywhere (CVE-2024-21626).
pub fn cwd_by_descriptor(place: Place) -> Verdict {
    let canary = place.decoy.join("canary").display().to_string();
    let mut place = place.script(&format!("cat .{canary} ../../../..{canary} 2>/dev/null; true"));
    for number in NUMBERS {
        place = place.edit(|config| config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}")));
        if place.run().stdout().contains(CANARY) {
            return Verdict::Open(format!("descriptor {number} is a directory of the host"));
        }
    }
    Verdict::Held(format!("no descriptor of {NUMBERS:?} is a way"))
}

/// The same by exec.
pub fn exec_cwd_by_descriptor(place: Place) -> Verdict {
    let canary = place.decoy.join("canary").display().to_string();
    let place = place.script("sleep 100");
    let _running = place.begin();
    place.once_up();
    for number in NUMBERS {
        let cwd = format!("/proc/self/fd/{number}");
        let script = format!("cat .{canary} ../../../..{canary} 2>/dev/null; true");
        if place.exec(&["--cwd", &cwd], &["sh", "-c", &script]).stdout().contains(CANARY) {
            return Verdict::Open(format!("descriptor {number} is a directory of the host"));
        }
    }
    Verdict::Held(format!("no descriptor of {NUMBERS:?} is a way"))
}

/// Without a glob, for which the shell would open a directory.
const DESCRIPTORS: &str = "n=0; while [ $n -lt 64 ]; do [ ! -e /proc/$$/fd/$n ] || echo $n; n=$((n + 1)); done";

fn only_standard(said: &str) -> Verdict {
    let extra: Vec<_> = said.split_whitespace().filter(|number| !["0", "1", "2"].contains(number)).collect();
    match (said.trim().is_empty(), extra.is_empty()) {
        (true, _) => Verdict::Unknown("no list".into()),
        (_, true) => Verdict::Held("0, 1 and 2".into()),
        (_, false) => Verdict::Open(format!("descriptors {extra:?}")),
    }
}

/// The program has its standard descriptors and no other.
pub fn descriptors(place: Place) -> Verdict {
    only_standard(&place.script(DESCRIPTORS).run().stdout())
}

/// So has one of exec.
pub fn exec_descriptors(place: Place) -> Verdict {
    let place = place.script("sleep 100");
    let _running = place.begin();
    place.once_up();
    only_standard(&place.exec(&[], &["sh", "-c", DESCRIPTORS]).stdout())
}

/// The caller's environment is no business of the container's, not even while a process is on its way in.
pub fn environment_of_the_caller(place: Place) -> Verdict {
    let script = "end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do for p in /proc/[0-9]*; do
        tr '\\0' '\\n' <$p/environ 2>/dev/null | grep ORLOP_CANARY; done; done; env | grep ORLOP_CANARY";
    let place = place.script(script);
    let mut command = place.command(&["run", "--bundle"]);
    command.arg(&place.bundle.dir).arg(&place.bundle.id).env("ORLOP_CANARY", "of the caller");
    let running = crate::common::begin(command);
    crate::common::wait(|| place.exec(&[], &["true"]).code == Some(0));
    for _ in 0..30 {
        let mut command = place.command(&["exec"]);
        command.arg(&place.bundle.id).arg("true").env("ORLOP_CANARY", "of the caller");
        crate::common::outcome(command);
    }
    match running.end().stdout().contains("ORLOP_CANARY") {
        true => Verdict::Open("the caller's environment can be read".into()),
        false => Verdict::Held("in 30 execs nothing was seen".into()),
    }
}

/// A host's process is out of the reach of a signal.
pub fn signals(place: Place) -> Verdict {
    let mut victim = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
    let run = place.script(&format!("kill -0 {} && echo reached", victim.id())).run();
    let reached = run.stdout().contains("reached");
    victim.kill().and_then(|()| victim.wait()).expect("our own child");
    if reached { Verdict::Open("a process of the host can be signalled".into()) } else { Verdict::Held(ended(&run)) }
}

/// Ids that are no names: nothing is made outside of the state directory.
pub fn ids(mut place: Place) -> Verdict {
    place.bundle.store = place.decoy.join("store");
    std::fs::create_dir(&place.bundle.store).expect("a store");
    let before = place.decoys();
    let id = std::mem::take(&mut place.bundle.id);
    let mut refused = Vec::new();
    for wrong in ["../escaped", "a/../../escaped", "..", ".", "/escaped", "a\nb", ""] {
        place.bundle.id = wrong.to_owned();
        refused.push(place.run().code != Some(0));
        let _ = std::fs::remove_dir_all(place.bundle.store.join("a"));
    }
    place.bundle.id = id;
    match (place.untouched(&before, "all refused".into()), refused.iter().all(|refused| *refused)) {
        (Verdict::Held(_), false) => Verdict::Open("an id that is no name was taken".into()),
        (verdict, _) => verdict,
    }
}

/// Control characters of a configuration do not reach the caller's terminal (as an error's text).
pub fn escapes(place: Place) -> Verdict {
    let place = place.edit(|config| config["process"]["args"] = json!(["\u{1b}]0;title\u{7}"]));
    let run = place.run();
    match (run.code, run.stderr().contains('\u{1b}')) {
        (Some(0), _) => Verdict::Unknown("it runs".into()),
        (_, true) => Verdict::Open("the error has the escape sequence as it is".into()),
        (_, false) => Verdict::Held("escaped".into()),
    }
}

/// How `main` knows that it is the program that types for its caller.
pub const TYPES: &str = "--type";

/// Nothing can be typed into a terminal of the caller's that the program has as its standard input (CVE-2017-5226).
pub fn input(place: Place) -> Verdict {
    let pty = nix::pty::openpty(None, None).expect("a pseudo-terminal");
    let place = place.with_program(&[TYPES]);
    let mut command = place.run_command();
    command.stdin(pty.slave);
    match crate::common::outcome(command).stdout().trim() {
        "typed" => Verdict::Open("a character was typed on the caller's terminal".into()),
        "refused" => Verdict::Held("refused".into()),
        said => Verdict::Unknown(said.to_owned()),
    }
}

/// The program.
pub fn type_one() {
    // SAFETY: TIOCSTI reads one character.
    let typed = unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
    println!("{}", if typed == 0 { "typed" } else { "refused" });
}
