//! Rules that are absences: calls that no start makes, and names that no source has.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Bundle, outcome};

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            // What tests of a module do is no part of it.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            found.push((path, text));
        }
    }
    assert!(found.len() > 4, "{}: {} files", directory.display(), found.len());
    found
}

fn without(directory: &str, words: &[&str]) {
    for (path, text) in sources(directory) {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}: line {} of code has {word}: {line}", path.display(), number + 1);
            }
        }
    }
}

/// A path there is relative to a descriptor (`sys::path`), and nothing takes memory.
#[test]
fn what_runs_after_the_clone_uses_no_library_of_paths() {
    let paths = ["std::fs", "std::env", "std::process", "std::thread", "std::net", "Path::", "PathBuf"];
    let memory =
        ["format!", "vec!", "Vec::", "String::", ".to_owned()", ".to_string()", ".to_vec()", "Box::", ".collect"];
    without("src/child", &paths);
    without("src/child", &memory);
}

/// They see the configuration and what `HostFacts` says of the host.
#[test]
fn planning_and_validation_ask_the_kernel_for_nothing() {
    let host = ["std::fs", "std::env", "std::process", "std::net", "std::os::unix::net", ".exists()", ".metadata()"];
    let calls = ["sys::path", "sys::mount", "sys::clone", "nix::unistd", "nix::sys", "nix::fcntl"];
    for directory in ["src/plan", "src/validate"] {
        without(directory, &host);
        without(directory, &calls);
    }
}

/// The system calls of a `run` until the program begins, and of the runtime until the end.
fn traced(bundle: &Bundle) -> String {
    let trace = bundle.dir.join("trace");
    let run = bundle.making("run", &[]);
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-qq", "-s", "4096", "-o"]).arg(&trace).arg(run.get_program()).args(run.get_args());
    outcome(command).well();
    fs::read_to_string(trace).expect("what strace has seen")
}

#[test]
fn a_start_makes_no_call_by_a_path_into_the_root() {
    let bundle = Bundle::new().edit(|config| config["root"]["readonly"] = true.into());
    let trace = traced(&bundle);
    let calls: Vec<&str> = trace.lines().filter_map(|line| line.split_once(' ')).map(|(_, call)| call.trim()).collect();
    let made = |name: &str| calls.iter().any(|call| call.starts_with(&format!("{name}(")));
    assert!(made("openat2") && made("move_mount") && made("mknodat"), "strace has not seen the child: {trace}");
    for name in [
        "mount", "kill", "tkill", "tgkill", "open", "creat", "mknod", "symlink", "link", "chmod", "chown", "lchown",
        "unlink",
    ] {
        let call = calls.iter().find(|call| call.starts_with(&format!("{name}(")));
        assert!(call.is_none(), "{call:?}");
    }
    // By its own path the root file system is looked at once, and opened once.
    let root = bundle.rootfs("/");
    let root = root.to_str().expect("UTF-8").trim_end_matches('/');
    let by_path: Vec<_> =
        calls.iter().filter(|call| !call.starts_with("write(") && call.contains(&format!("\"{root}"))).collect();
    assert!(by_path.iter().all(|call| call.contains(&format!("\"{root}\""))), "{by_path:?}");
    let [looked, opened] = by_path[..] else { panic!("{by_path:?}") };
    assert!(looked.starts_with("statx(") && opened.contains("O_PATH|O_DIRECTORY"), "{by_path:?}");
    // Until the root is entered, a lookup that may meet its content stays inside.
    let entered = calls.iter().position(|call| call.starts_with("pivot_root(")).expect("pivot_root");
    let begins = calls.iter().position(|call| call.contains(&format!("\"{root}\", O_RDONLY"))).expect("the root");
    for call in &calls[begins..entered] {
        if call.starts_with("openat2(") {
            assert!(call.contains("RESOLVE_IN_ROOT") || call.contains("RESOLVE_BENEATH"), "{call}");
        }
        if ["mknodat(", "mkdirat(", "symlinkat(", "unlinkat(", "renameat("].iter().any(|name| call.starts_with(name)) {
            let name = call.split('"').nth(if call.starts_with("symlinkat(") { 3 } else { 1 }).expect("a name");
            assert!(!name.contains('/'), "more than a name: {call}");
        }
    }
}
