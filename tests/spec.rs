//! docs/runtime-spec.md, the table of properties: it says all, and what it says is so.

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
}

fn rows() -> Vec<Row<'static>> {
    let cells = |line: &'static str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [property, operation, test, refused, _kernel] = cells[..] else { panic!("five cells: {line}") };
        Row { property, operation, test, refused }
    };
    TABLE.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
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

/// `FILE::NAME` of an integration test, `MODULE::tests::NAME` of the library: it is there, and speaks of the property.
#[test]
fn every_test_is_there_and_has_the_property() {
    let mut files = Vec::new();
    for directory in ["tests", "src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    let mut wrong = Vec::new();
    for row in rows() {
        let (file, name) = row.test.split_once("::").unwrap_or_else(|| panic!("{}: {}", row.property, row.test));
        let name = name.rsplit("::").next().unwrap_or(name);
        let of_file = |path: &&PathBuf| {
            path.components().any(|part| Path::new(part.as_os_str()).file_stem().is_some_and(|stem| stem == file))
        };
        let body = files
            .iter()
            .filter(of_file)
            .find_map(|path| with_what_it_calls(&fs::read_to_string(path).expect("a source"), name));
        let Some(body) = body else { panic!("{}: no test {}", row.property, row.test) };
        let own = row.property.rsplit('.').next().unwrap_or_default().trim_end_matches(['[', ']', '{', '}']);
        let other = OTHER_WORDS.iter().find(|(property, _)| *property == row.property);
        if !other.map_or_else(|| speaks_of(&body, own), |(_, words)| body.contains(words)) {
            wrong.push(format!("{}: {} says nothing of it", row.property, row.test));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
