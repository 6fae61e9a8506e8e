//! The integration tests as executables, for a test binary that runs the others.
#![allow(dead_code)] // each test binary uses its own part

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The project's directory.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The integration tests' names and executables, but for `without`: of each `tests/NAME.rs` or `tests/NAME/main.rs` the newest
/// build beside this one.
pub fn test_binaries(without: &[&str]) -> Vec<(String, PathBuf)> {
    let this = std::env::current_exe().expect("the path of this test");
    let builds = this.parent().expect("its directory");
    let mut names: Vec<_> = fs::read_dir(format!("{PROJECT}/tests"))
        .expect("tests")
        .filter_map(|entry| test_name(&entry.ok()?.path()))
        .filter(|name| !without.contains(&name.as_str()))
        .collect();
    names.sort();
    names.into_iter().filter_map(|name| newest_build(builds, &name).map(|binary| (name, binary))).collect()
}

fn test_name(source: &Path) -> Option<String> {
    let is_test = source.extension().is_some_and(|extension| extension == "rs") || source.join("main.rs").is_file();
    is_test.then(|| source.file_stem()?.to_str().map(str::to_owned)).flatten()
}

fn newest_build(builds: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("{}-", name.replace('-', "_"));
    let executable = |path: &PathBuf| {
        let suffix = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(&prefix));
        suffix.is_some_and(|suffix| suffix.len() == 16 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && path.metadata().is_ok_and(|file| file.permissions().mode() & 0o111 != 0)
    };
    fs::read_dir(builds)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(executable)
        .max_by_key(|path| modified(path))
}

/// When a file was last written.
pub fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The names of all tests of `binary`, the ignored ones too.
pub fn tests_of(binary: &Path) -> Vec<String> {
    let list =
        Command::new(binary).args(["--list", "--format", "terse"]).output().expect("a test binary lists its tests");
    let list = String::from_utf8_lossy(&list.stdout);
    // libtest-mimic has a case's kind before its name
    let bare = |name: &str| match name.strip_prefix('[').and_then(|kind| kind.split_once("] ")) {
        Some((_, name)) => name.to_owned(),
        None => name.to_owned(),
    };
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(bare).collect()
}
