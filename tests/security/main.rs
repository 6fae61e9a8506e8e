//! docs/security-table.md, made from table.tsv: each property and each advisory of runc, crun, youki and their callers, with the
//! tests that guard it. `UPDATE_DOCS=1 cargo test --test security` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("table.tsv");
const HEAD: &str = "# What holds, and what shows it

Made from `tests/security/table.tsv` by `UPDATE_DOCS=1 cargo test --test security`, which also holds that every test is there.
A test is named by its file in `tests/` and its function; `breakout` has those that run against any runtime
([breakout.md](breakout.md)), each of which is shown to catch a runtime without the guard.

## Properties

| | property | held by | tests |
|---|---|---|---|
";
const ADVISORIES: &str = "
## Advisories

What has gone wrong in runtimes and in what calls them, and what keeps it from going wrong here.

| advisory | what it was | closed by | tests |
|---|---|---|---|
";

struct Row {
    kind: &'static str,
    id: &'static str,
    what: &'static str,
    held: &'static str,
    tests: Vec<&'static str>,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let cells: Vec<_> = line.split('\t').collect();
        let [kind, id, what, held, tests] = cells[..] else { panic!("five cells: {line}") };
        Row { kind, id, what, held, tests: tests.split(' ').filter(|test| !test.is_empty()).collect() }
    };
    TABLE.lines().map(row).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The sources of a test binary: a file, or a directory.
fn sources(binary: &str) -> Vec<PathBuf> {
    let file = root().join(format!("tests/{binary}.rs"));
    if file.exists() {
        return vec![file];
    }
    let files = fs::read_dir(root().join("tests").join(binary)).into_iter().flatten().flatten();
    files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn every_test_is_there() {
    for row in rows() {
        assert!(!row.tests.is_empty(), "{} has no test", row.id);
        for test in row.tests {
            let parts: Vec<&str> = test.split("::").collect();
            let (binary, function) = (parts[0], parts[parts.len() - 1]);
            let wanted = format!("fn {function}(");
            let there =
                sources(binary).iter().any(|path| fs::read_to_string(path).expect("a source").contains(&wanted));
            assert!(there, "{}: no test {test}", row.id);
        }
    }
}

#[test]
fn no_row_is_there_twice_and_every_property_is() {
    let rows = rows();
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), rows.len());
    for number in 1..=26 {
        assert!(ids.contains(format!("I-{number:02}").as_str()), "I-{number:02}");
    }
    // A property that closes an advisory is one of these.
    for row in rows.iter().filter(|row| row.kind == "advisory") {
        for id in row.held.split([',', ';', ' ']).filter(|word| word.starts_with("I-")) {
            assert!(ids.contains(id), "{}: {id}", row.id);
        }
    }
}

#[test]
fn security_table_md_is_what_the_table_says() {
    let mut page = HEAD.to_owned();
    let rows = rows();
    for kind in ["property", "advisory"] {
        if kind == "advisory" {
            page.push_str(ADVISORIES);
        }
        for Row { id, what, held, tests, .. } in rows.iter().filter(|row| row.kind == kind) {
            let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
            writeln!(page, "| {id} | {what} | {held} | {} |", tests.join(" ")).expect("write");
        }
    }
    let path = root().join("docs/security-table.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("write security-table.md");
    }
    let there = fs::read_to_string(path).expect("security-table.md");
    assert!(there == page, "run UPDATE_DOCS=1 cargo test --test security");
}
