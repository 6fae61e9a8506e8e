//! docs/runtime-spec.md, the table of properties: it says all, and what it says is so.

#[path = "spec_common/shape.rs"]
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use orlop::bundle::{Bundle, escape};
use orlop::cgroup::Hierarchy;
use orlop::error::Result;
use orlop::plan::{self, HostFacts, Options, Plan};
use orlop::validate::{self, Context};
use serde_json::Value;

const EVERYTHING: &str = include_str!("corpus/everything.json");
const TABLE: &str = include_str!("../docs/runtime-spec.md");
const OPERATIONS: &str = include_str!("../docs/operations.md");
const KERNEL_FEATURES: &str = include_str!("../docs/kernel-features.md");

/// Where one property contradicts another the error stands at the first of them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("process.rlimits[].hard", "/process/rlimits/0/soft"),
    ("process.scheduler.deadline", "/process/scheduler/runtime"),
    ("process.scheduler.period", "/process/scheduler/runtime"),
    ("linux.resources.devices[].major", "/linux/resources/devices/1/major"),
    ("linux.resources.devices[].minor", "/linux/resources/devices/1/minor"),
];

fn expected(property: &str, place: String) -> String {
    ELSEWHERE.iter().find(|(other, _)| *other == property).map_or(place, |(_, at)| (*at).to_owned())
}

/// Properties that their test speaks of by other words than their own.
const OTHER_WORDS: &[(&str, &str)] = &[("process.args[]", ".args(&[")];

struct Row<'a> {
    property: &'a str,
    operation: &'a str,
    test: &'a str,
    refused: &'a str,
    kernel: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let cells = |line: &'static str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [property, operation, test, refused, kernel] = cells[..] else { panic!("five cells: {line}") };
        Row { property, operation, test, refused, kernel }
    };
    let (properties, _) = TABLE.split_once("## Beside the properties").expect("the other table");
    properties.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

fn everything() -> Value {
    serde_json::from_str(EVERYTHING).expect("JSON")
}

/// `process.rlimits[].soft` for `/process/rlimits/0/soft`; a value that is no object or list is a leaf, and so is an empty one.
fn properties(value: &Value, here: String, all: &mut BTreeSet<String>) {
    let dotted = |key: &str| if here.is_empty() { key.to_owned() } else { format!("{here}.{key}") };
    match value {
        Value::Object(map) if is_map(&here) => {
            map.values().for_each(|below| properties(below, format!("{here}{{}}"), all));
        }
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, below)| properties(below, dotted(key), all))
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().for_each(|below| properties(below, format!("{here}[]"), all));
        }
        _ => drop(all.insert(here)),
    }
}

/// Objects whose keys are no properties but names.
fn is_map(property: &str) -> bool {
    let maps = ["annotations", "linux.sysctl", "linux.resources.unified", "linux.resources.rdma", "linux.netDevices"];
    maps.contains(&property)
}

/// The pointer of the first place in `config` that is this property.
fn pointer(config: &Value, property: &str) -> Option<String> {
    let steps = property.replace("[]", ".[]").replace("{}", ".{}");
    let mut candidates = vec![(String::new(), config)];
    for step in steps.split('.') {
        candidates = candidates.into_iter().flat_map(|(at, value)| below(&at, value, step)).collect();
    }
    candidates.into_iter().next().map(|(at, _)| at)
}

fn below<'a>(at: &str, value: &'a Value, step: &str) -> Vec<(String, &'a Value)> {
    match (step, value) {
        ("[]", Value::Array(list)) => list.iter().enumerate().map(|(index, v)| (format!("{at}/{index}"), v)).collect(),
        ("{}", Value::Object(map)) => map.iter().map(|(key, v)| (format!("{at}/{}", escape(key)), v)).collect(),
        (key, Value::Object(map)) => map.get(key).map(|v| (format!("{at}/{key}"), v)).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What `create` does before it asks the kernel for anything.
fn made(config: &Value) -> Result<Plan> {
    let facts = HostFacts {
        euid: 0,
        egid: 0,
        rootless: false,
        systemd_user: None,
        last_capability: 40,
        landlock: 7,
        cgroup: Some(Hierarchy { root: "/sys/fs/cgroup".into(), own: "/".into(), v1: Vec::new() }),
        kernel_mounts: Vec::new(),
        resctrl: None,
    };
    let bundle = Bundle::parse("/bundle".into(), config.to_string().into_bytes())?;
    validate::validate(&bundle.spec, &Context::default())?;
    plan::create(&bundle.spec, &bundle.dir, &facts, &Options { id: "ID".into(), ..Options::default() })
}

#[test]
fn every_property_has_its_row_and_every_row_its_property() {
    let mut there = BTreeSet::new();
    properties(&everything(), String::new(), &mut there);
    let said: BTreeSet<String> = rows().iter().map(|row| row.property.to_owned()).collect();
    let missing: Vec<_> = there.difference(&said).collect();
    let strange: Vec<_> = said.difference(&there).collect();
    assert!(missing.is_empty() && strange.is_empty(), "no row: {missing:?}; no such property: {strange:?}");
    assert_eq!(rows().len(), said.len(), "a property has two rows");
}

/// What oci-spec reads that is no property of Linux in the specification, or has its row by another name.
const NO_ROW: &[&str] = &[
    // Windows
    "process.commandLine",
    "process.user.username",
    // The specification has them in `linux` and in `mounts`.
    "uidMappings[].",
    "gidMappings[].",
    // Gone since 1.3: `enableCMT` and `enableMBM` are read as `enableMonitoring`.
    "linux.intelRdt.enableCmt",
    "linux.intelRdt.enableMbm",
    // Refused as a whole, ignored as a whole, or by the names that there are.
    "linux.resources.network.priorities[].",
    "linux.personality.flags[]",
    "linux.timeOffsets{}.",
];

/// A property that the crate with the specification's types learns must get its row.
#[test]
fn every_property_that_oci_spec_reads_has_its_row() {
    let said: BTreeSet<String> = rows().iter().map(|row| row.property.to_owned()).collect();
    let ours = |property: &String| {
        let section = property.split(['.', '{']).next().unwrap_or_default();
        let other = ["solaris", "windows", "vm", "zos", "freebsd"].contains(&section);
        !other && !NO_ROW.iter().any(|prefix| property.starts_with(prefix))
    };
    let known = shape::properties::<oci_spec::runtime::Spec>();
    assert!(known.contains("linux.resources.blockIO.weightDevice[].leafWeight"), "{known:?}");
    let missing: Vec<_> = known.into_iter().filter(ours).filter(|property| !said.contains(property)).collect();
    assert!(missing.is_empty(), "no row: {missing:?}");
}

#[test]
fn the_configuration_with_every_property_is_planned() {
    made(&everything()).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn each_refused_value_is_an_error_in_its_place() {
    let mut wrong = Vec::new();
    for row in rows() {
        let mut config = everything();
        let place = pointer(&config, row.property).unwrap_or_else(|| panic!("{}: not found", row.property));
        let value = serde_json::from_str(row.refused).unwrap_or_else(|error| panic!("{}: {error}", row.property));
        *config.pointer_mut(&place).expect("the place") = value;
        match made(&config) {
            Ok(_) => wrong.push(format!("{}: {} is taken", row.property, row.refused)),
            Err(error) => {
                let at = error.pointer.clone().unwrap_or_default();
                if at != expected(row.property, place) {
                    wrong.push(format!("{}: {} is refused at {at:?}: {error}", row.property, row.refused));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_operation_is_one_that_there_is() {
    for row in rows() {
        for name in row.operation.split('`').skip(1).step_by(2) {
            // a name with a dot or a blank is that of a file in a cgroup
            let known = name.contains(['.', ' ']) || OPERATIONS.contains(&format!("| `{name}` |"));
            assert!(known, "{}: no operation {name}", row.property);
        }
    }
}

fn sources(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        match entry.path() {
            path if path.is_dir() => sources(&path, all),
            path if path.extension().is_some_and(|extension| extension == "rs") => all.push(path),
            _ => {}
        }
    }
}

/// The functions of a source by their names, each up to the brace in the column where it begins.
fn functions(text: &str) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    for (at, _) in text.match_indices("fn ") {
        let name = text[at + 3..].split(['(', '<']).next().unwrap_or_default();
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let indent = text[line..].len() - text[line..].trim_start_matches(' ').len();
        let end = text[at..].find(&format!("\n{}}}\n", " ".repeat(indent)));
        all.entry(name).or_insert(&text[at..end.map_or(text.len(), |length| at + length)]);
    }
    all
}

/// The function, and those of the same source that it calls, and those that these call.
fn with_what_it_calls(text: &str, name: &str) -> Option<String> {
    let mut functions = functions(text);
    let mut all = String::new();
    let mut unread = vec![functions.remove(name)?];
    while let Some(body) = unread.pop() {
        all += body;
        let words = body.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        unread.extend(words.filter_map(|word| functions.remove(word)));
    }
    Some(all)
}

/// Whether it has the word as a key of JSON or in a pointer.
fn speaks_of(body: &str, word: &str) -> bool {
    let mut at = body.match_indices(word);
    at.any(|(at, _)| body[..at].ends_with(['"', '/']) && body[at + word.len()..].starts_with(['"', '/', '\\', '-']))
}

/// Linux `MAJOR.MINOR`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim_matches([',', ';']).split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn a_kernel_newer_than_the_least_stands_with_the_features() {
    let (_, rest) = KERNEL_FEATURES.split_once("The least kernel is ").expect("the least kernel");
    let least = rest.split(' ').next().and_then(version).expect("a version");
    let since: Vec<_> = KERNEL_FEATURES.lines().filter_map(|line| line.split(" | ").nth(1)).collect();
    let said: BTreeSet<_> = since.iter().flat_map(|cell| cell.split(' ')).filter_map(version).collect();
    let mut newer = 0;
    for row in rows() {
        for version in row.kernel.split(' ').filter_map(version).filter(|version| *version > least) {
            newer += 1;
            assert!(said.contains(&version), "{}: {version:?} is not in kernel-features.md", row.property);
        }
    }
    assert!(newer > 1, "the column holds versions");
}

/// The test `FILE::NAME` or `MODULE::tests::NAME`, with what it calls.
fn find_test(test: &str) -> Option<String> {
    let mut files = Vec::new();
    for directory in ["tests", "src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    let (file, name) = test.split_once("::")?;
    let name = name.rsplit("::").next().unwrap_or(name);
    let of_file = |path: &&PathBuf| {
        path.components().any(|part| Path::new(part.as_os_str()).file_stem().is_some_and(|stem| stem == file))
    };
    let mut files = files.iter().filter(of_file);
    files.find_map(|path| with_what_it_calls(&fs::read_to_string(path).expect("a source"), name))
}

/// The second table: what, where it stands, its test.
#[test]
fn what_is_no_property_has_its_test() {
    let (_, table) = TABLE.split_once("## Beside the properties").expect("the section");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, place, test] = cells[..] else { panic!("three cells: {row}") };
        assert!(!place.is_empty() && find_test(test.trim_matches('`')).is_some(), "{row}");
    }
}

/// `FILE::NAME` of an integration test, `MODULE::tests::NAME` of the library: it is there, and speaks of the property.
#[test]
fn every_test_is_there_and_has_the_property() {
    let mut wrong = Vec::new();
    for row in rows() {
        let Some(body) = find_test(row.test) else { panic!("{}: no test {}", row.property, row.test) };
        let own = row.property.rsplit('.').next().unwrap_or_default().trim_end_matches(['[', ']', '{', '}']);
        let other = OTHER_WORDS.iter().find(|(property, _)| *property == row.property);
        if !other.map_or_else(|| speaks_of(&body, own), |(_, words)| body.contains(words)) {
            wrong.push(format!("{}: {} says nothing of it", row.property, row.test));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
