//! Reading a bundle: `config.json`, its size and its syntax, and nothing else.
//!
//! The types of oci-spec are stricter than the specification in some places. When they refuse a document it is read once
//! more as a plain JSON value, brought into the form that they know (`repair_spec`), and given to them again; what is
//! still wrong then becomes an error with its place. A document that they take at once pays for none of that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{Capability, LinuxResources, LinuxSeccomp, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, error::Category};
use serde_path_to_error::Segment;

use crate::error::{Error, Result};

/// The name of the configuration in a bundle (runtime-spec, `bundle.md`).
pub const CONFIG: &str = "config.json";

/// The largest `config.json` that is read, in bytes. Real ones have 5 to 60 kB; the largest known, with a mount per
/// Kubernetes volume, stay under 1 MiB.
pub const MAX_SIZE: u64 = 16 << 20;

/// A bundle: the directory and the configuration in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// The bundle's directory: absolute, without symbolic links.
    pub dir: PathBuf,
    /// The configuration; not yet validated.
    pub spec: Spec,
    /// The bytes of `config.json` as they were read.
    pub config: Vec<u8>,
    /// What was ignored, one line each, with the place in the configuration.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Reads the bundle in `dir`.
    ///
    /// # Errors
    /// When `dir` is no directory, when `config.json` is missing (with runc's text), is no regular file or is larger than
    /// [`MAX_SIZE`], and as [`Bundle::parse`]. Does not wait for a writer when `config.json` is a FIFO.
    pub fn load(dir: &Path) -> Result<Bundle> {
        Bundle::load_with(dir, None)
    }

    /// The same with another file for `config.json`.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn load_with(dir: &Path, config: Option<&Path>) -> Result<Bundle> {
        let absolute = dir.canonicalize().map_err(|error| {
            Error::new(format!("open the bundle {}", dir.display()))
                .call(format!("realpath({dir:?})"), errno(&error))
                .hint("--bundle names the directory that holds config.json")
        })?;
        let config = match config {
            Some(file) => read(file, &file.display().to_string())?,
            None => read(&absolute.join(CONFIG), CONFIG)?,
        };
        Bundle::parse(absolute, config)
    }

    /// Reads `config` as the configuration of the bundle in `dir`, which must be absolute already.
    ///
    /// # Errors
    /// When `config` is not UTF-8 or not JSON (with line and column), or when a value has the wrong type or is not one of
    /// the known ones (with its JSON pointer). An unknown capability is a warning, as runtime-spec's `config.md` wants it.
    pub fn parse(dir: PathBuf, config: Vec<u8>) -> Result<Bundle> {
        let (mut spec, warnings) = decode(CONFIG, &config, repair_spec)?;
        drop_pids_without_limit(&mut spec, &config);
        monitoring_of_old(&mut spec, &config);
        absolute_sources(&mut spec, &dir);
        Ok(Bundle { dir, spec, config, warnings })
    }
}

/// Reads the process of `exec --process FILE`, with warnings; the pointers of its errors are relative to the file.
///
/// # Errors
/// As [`Bundle::load`] for its `config.json`, but any file will do: a shell's `<(...)` is a FIFO, and is waited for.
pub fn load_process(path: &Path) -> Result<(Process, Vec<String>)> {
    let name = path.display().to_string();
    decode(&name, &content(open(path, &name, 0)?, &name)?, repair_process)
}

/// Reads a seccomp profile: a file with the content of `linux.seccomp` alone, a configuration that has one, or a bundle.
/// Returns it with the pointer at which it stands in there.
///
/// # Errors
/// As [`Bundle::load`]; there is none in the configuration.
pub fn load_seccomp(path: &Path) -> Result<(LinuxSeccomp, &'static str)> {
    const PLACE: &str = "/linux/seccomp";
    let file = if path.is_dir() { path.join(CONFIG) } else { path.to_owned() };
    let name = file.display().to_string();
    let json = content(open(&file, &name, 0)?, &name)?;
    let members: Map<String, Value> = serde_json::from_slice(&json).unwrap_or_default();
    if members.contains_key("archMap") {
        return Err(Error::new(format!(
            "{name} is in the form of Docker's own profiles, with conditions to be resolved"
        ))
        .at("/archMap")
        .hint(
            "a container's config.json has it resolved, such as /run/containerd/io.containerd.runtime.v2.task/moby/ID",
        ));
    }
    if !path.is_dir() && !members.contains_key("ociVersion") {
        return decode(&name, &json, |section, _| drop_nulls(section)).map(|(section, _)| (section, ""));
    }
    let (spec, _) = decode::<Spec>(&name, &json, repair_spec)?;
    let section = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    section
        .map(|section| (section, PLACE))
        .ok_or_else(|| Error::new(format!("{name} has no seccomp profile")).at(PLACE))
}

/// Reads `json` as `linux.resources` with what is to change: the rest, and what stands for "not set", is left out. 0 does so
/// in `memory`, `cpu` and `blockIO`, but for `cpu.idle` and `cpu.burst`, and a text without characters.
///
/// # Errors
/// As [`Bundle::parse`]; the pointers are relative to `json`.
pub fn resources(name: &str, json: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(name, json, error.valid_up_to()))?;
    let mut value: Value = serde_json::from_str(text).map_err(|error| not_json(name, &error))?;
    if !value.is_object() {
        return Err(Error::new(format!("{name} is not a JSON object")));
    }
    drop_nulls(&mut value);
    each(&mut value, "/hugepageLimits").for_each(clamp_limit);
    serde_path_to_error::deserialize::<_, LinuxResources>(&value)
        .map_err(|error| wrong(name, pointer(error.path()), error.inner()))?;
    for group in ["memory", "cpu", "blockIO"] {
        if let Some(members) = value.get_mut(group).and_then(Value::as_object_mut) {
            let not_set = |value: &Value| *value == 0 || *value == "";
            members.retain(|key, value| matches!(key.as_str(), "idle" | "burst") || !not_set(value));
        }
    }
    if value.pointer("/pids").is_some_and(|pids| pids.get("limit").is_none()) {
        value["pids"] = Value::Null;
        drop_nulls(&mut value);
    }
    Ok(value)
}

/// The same as the types that limits are made from.
///
/// # Errors
/// A value that they do not have a place for.
pub fn typed_resources(resources: &Value) -> Result<LinuxResources> {
    serde_path_to_error::deserialize(resources)
        .map_err(|error| wrong("resources", pointer(error.path()), error.inner()))
}

/// The content of the regular file at `path`. `O_NONBLOCK` keeps the open of a FIFO or a device from waiting.
fn read(path: &Path, name: &str) -> Result<Vec<u8>> {
    let file = open(path, name, libc::O_NONBLOCK)?;
    check_regular(&file, name)?;
    content(file, name)
}

pub(crate) fn open(path: &Path, name: &str, flags: i32) -> Result<File> {
    let flags = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match errno(&error) {
        Errno::ENOENT if name == CONFIG => Error::new("JSON specification file config.json not found")
            .hint("`orlop spec` writes one; --bundle names the directory that holds it"),
        errno => Error::new(format!("read {name}")).call(format!("openat({path:?})"), errno),
    })
}

pub(crate) fn content(file: File, name: &str) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity(32 << 10);
    let failed = |error| Error::new(format!("read {name}")).call("read", errno(&error));
    file.take(MAX_SIZE + 1).read_to_end(&mut content).map_err(failed)?;
    check_size(content.len() as u64, name)?;
    Ok(content)
}

fn check_regular(file: &File, name: &str) -> Result<()> {
    let status = file.metadata().map_err(|error| Error::new(format!("read {name}")).call("fstat", errno(&error)))?;
    let kind = status.file_type();
    let what = match () {
        () if kind.is_file() => return check_size(status.len(), name),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () => "a device",
    };
    Err(Error::new(format!("{name} is {what}, not a regular file")))
}

fn check_size(size: u64, name: &str) -> Result<()> {
    if size <= MAX_SIZE {
        return Ok(());
    }
    Err(Error::new(format!("{name} has {size} bytes or more; the limit is {MAX_SIZE} (16 MiB)")))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Decodes `json`; on failure once more, after `repair`. Returns the warnings of the repair too.
fn decode<T: DeserializeOwned>(
    name: &str,
    json: &[u8],
    repair: fn(&mut Value, &mut Vec<String>),
) -> Result<(T, Vec<String>)> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(name, json, error.valid_up_to()))?;
    let refused = match serde_json::from_str(text) {
        // serde takes an array for a struct, with its elements for the members in order.
        Ok(_) if text.trim_start().starts_with('[') => return Err(Error::new(format!("{name} is not a JSON object"))),
        Ok(decoded) => return Ok((decoded, Vec::new())),
        Err(error) => error,
    };
    let mut value = serde_json::from_str(text).map_err(|error| not_json(name, &error))?;
    if refused.to_string().starts_with("duplicate field") {
        return Err(wrong(name, text_path::<T>(text), &refused));
    }
    let mut warnings = Vec::new();
    repair(&mut value, &mut warnings);
    match serde_path_to_error::deserialize(value) {
        Ok(decoded) => Ok((decoded, warnings)),
        Err(error) => Err(wrong(name, pointer(error.path()), error.inner())),
    }
}

fn not_utf8(name: &str, json: &[u8], offset: usize) -> Error {
    let line = 1 + json[..offset].iter().filter(|&&byte| byte == b'\n').count();
    Error::new(format!("{name} is not UTF-8: byte 0x{:02x} at offset {offset}, line {line}", json[offset]))
        .hint("RFC 8259 wants JSON in UTF-8")
}

fn not_json(name: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let wrong = Error::new(format!("{name} is not valid JSON: {text}"));
    match error.classify() {
        Category::Eof => wrong.hint("the file is empty or was cut off"),
        _ if text.starts_with("recursion limit") => wrong.hint("values may be nested 127 levels deep"),
        _ => wrong,
    }
}

/// The place where the decoding of `text` as a `T` fails.
fn text_path<T: DeserializeOwned>(text: &str) -> String {
    let failed = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text));
    failed.err().map(|error| pointer(error.path())).unwrap_or_default()
}

/// The JSON pointer (RFC 6901) of `path`.
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |parent, segment| match segment {
        Segment::Seq { index } => format!("{parent}/{index}"),
        Segment::Map { key } => parent + "/" + &escape(key),
        Segment::Enum { .. } | Segment::Unknown => parent,
    })
}

/// `key` as a part of a JSON pointer (RFC 6901, section 3).
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What serde found wrong, in its words but for two cases: a missing property gets the pointer where it belongs, and of
/// an unknown value the known ones become the hint.
fn wrong(name: &str, at: String, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if let Some(key) = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return Error::new(format!("{name}: required property {key:?} is missing")).at(format!("{at}/{}", escape(key)));
    }
    let wrong = |text: &str| Error::new(format!("{name}: {text}")).at(at.clone());
    match text.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected ")) {
        Some((value, known)) => wrong(&format!("unknown value {value}")).hint(format!("known: {}", known_list(known))),
        None => wrong(&text),
    }
}

fn known_list(expected: &str) -> String {
    expected.trim_start_matches("one of ").replace('`', "")
}

/// The source of a bind mount may be relative to the bundle (config.md, Mounts), and never to where the caller stands.
fn absolute_sources(spec: &mut Spec, dir: &Path) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bind = matches!(mount.typ().as_deref(), Some("bind" | "rbind"))
            || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        if let Some(source) = mount.source().clone().filter(|source| bind && !source.as_os_str().is_empty()) {
            mount.set_source(Some(dir.join(source)));
        }
    }
}

/// `pids: {}` asks for no limit, but the types read it as 0, which is a limit (`config-linux.md`, `resources.pids`) since
/// runtime-spec 1.3. Before that it was none: podman 4 writes it for `--pids-limit -1`.
fn drop_pids_without_limit(spec: &mut Spec, config: &[u8]) {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if resources.and_then(|resources| resources.pids().as_ref()).is_none_or(|pids| pids.limit() != 0) {
        return;
    }
    let minor = spec.version().split('.').nth(1).and_then(|number| number.parse::<u32>().ok());
    let given = || serde_json::from_slice::<Value>(config).ok()?.pointer("/linux/resources/pids/limit")?.as_i64();
    if minor.is_some_and(|minor| minor < 3) || given().is_none() {
        let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
        if let Some(resources) = resources {
            resources.set_pids(None);
        }
    }
}

/// Before runtime-spec 1.3 monitoring was asked for by `enableCMT` or `enableMBM`, which the types know by other names.
fn monitoring_of_old(spec: &mut Spec, config: &[u8]) {
    let Some(rdt) = spec.linux_mut().as_mut().and_then(|linux| linux.intel_rdt_mut().as_mut()) else { return };
    let value = serde_json::from_slice::<Value>(config).unwrap_or_default();
    let asked = |flag: &str| value.pointer(&format!("/linux/intelRdt/{flag}")) == Some(&Value::Bool(true));
    if ["enableCMT", "enableMBM"].into_iter().any(asked) {
        rdt.set_enable_monitoring(Some(true));
    }
}

fn repair_spec(spec: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(spec);
    let Some(top) = spec.as_object_mut() else { return };
    // Of other platforms: they mean nothing on Linux, so nothing in them can be wrong.
    for platform in ["freebsd", "solaris", "vm", "windows", "zos"] {
        top.shift_remove(platform);
    }
    if let Some(process) = top.get_mut("process") {
        repair_process_at("/process", process, warnings);
    }
    for limit in each(spec, "/linux/resources/hugepageLimits") {
        clamp_limit(limit);
    }
}

fn repair_process(process: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(process);
    repair_process_at("", process, warnings);
}

fn repair_process_at(at: &str, process: &mut Value, warnings: &mut Vec<String>) {
    if let Some(members) = process.as_object_mut() {
        // The id 0 is what runc, which does not tell absent from 0, takes.
        members.entry("user").or_insert_with(|| Value::Object(Map::new()));
    }
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        let place = format!("/capabilities/{set}");
        if let Some(names) = process.pointer_mut(&place).and_then(Value::as_array_mut) {
            drop_unknown_capabilities(&format!("{at}{place}"), names, warnings);
        }
    }
    for flag in each(process, "/scheduler/flags") {
        respell_flag(flag);
    }
    if let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        affinity.retain(|_, list| list != "");
    }
}

/// The elements of the array at `place`, if there is one.
fn each<'a>(value: &'a mut Value, place: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(place).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A member that is null is as good as absent (in Go's decoder, whose output configurations are).
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn drop_unknown_capabilities(at: &str, names: &mut Vec<Value>, warnings: &mut Vec<String>) {
    let mut index = 0;
    names.retain(|name| {
        let unknown = name.is_string() && serde_json::from_value::<Capability>(name.clone()).is_err();
        if unknown {
            warnings.push(format!("ignoring unknown capability {name}, from {at}/{index}"));
        }
        index += 1;
        !unknown
    });
}

/// Two flags of `process.scheduler` are spelt differently in oci-spec 0.10 and in the specification.
fn respell_flag(flag: &mut Value) {
    match flag.as_str() {
        Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
        Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
        _ => {}
    }
}

/// The limit of huge pages is a uint64 in the specification and an i64 in oci-spec. The kernel counts in pages and takes
/// everything from `PAGE_COUNTER_MAX` (`i64::MAX / PAGE_SIZE`) pages on as no limit, so nothing is lost.
fn clamp_limit(hugepages: &mut Value) {
    if let Some(limit) = hugepages.get_mut("limit").filter(|limit| limit.as_u64() > Some(i64::MAX as u64)) {
        *limit = i64::MAX.into();
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSchedulerFlag, PosixRlimitType};
    use serde_json::json;

    use super::*;

    fn parse(config: Value) -> Result<Bundle> {
        Bundle::parse("/bundle".into(), config.to_string().into_bytes())
    }

    /// A process that the types of oci-spec refuse, so that the whole configuration goes through the repair.
    fn process(members: Value) -> Value {
        let mut process = json!({"cwd": "/", "args": ["sh"]});
        process.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        json!({"ociVersion": "1.0.2", "process": process})
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("orlop-bundle-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_process_may_come_through_a_fifo() {
        let fifo = scratch("fifo").join("process.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let copy = fifo.clone();
        let writer = std::thread::spawn(move || {
            std::fs::write(copy, r#"{"cwd": "/", "args": ["a"], "user": {"uid": 1, "gid": 2}}"#)
        });
        let (process, _) = load_process(&fifo).unwrap();
        writer.join().unwrap().unwrap();
        std::fs::remove_dir_all(fifo.parent().unwrap()).unwrap();
        assert_eq!(process.user().uid(), 1);
    }

    #[test]
    fn a_bundle_is_read_with_its_bytes_and_its_canonical_directory() {
        let dir = scratch("good");
        std::fs::write(dir.join(CONFIG), br#"{"ociVersion": "1.0.2",  "unknown": [1]}"#).unwrap();
        let bundle = Bundle::load(&dir.join("../").join(dir.file_name().unwrap())).unwrap();
        assert_eq!(bundle.dir, dir.canonicalize().unwrap());
        assert_eq!(bundle.config, br#"{"ociVersion": "1.0.2",  "unknown": [1]}"#);
        assert_eq!(bundle.spec.version(), "1.0.2");
        assert_eq!(bundle.warnings, Vec::<String>::new());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_file_or_too_large_is_named() {
        let dir = scratch("bad");
        let config = dir.join(CONFIG);
        let message = || Bundle::load(&dir).unwrap_err().message;
        assert_eq!(message(), "JSON specification file config.json not found");
        nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(message(), "config.json is a FIFO, not a regular file");
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        assert_eq!(message(), "config.json is a directory, not a regular file");
        std::fs::remove_dir(&config).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &config).unwrap();
        assert_eq!(message(), "config.json is a device, not a regular file");
        std::fs::remove_file(&config).unwrap();
        File::create(&config).unwrap().set_len(64 << 20).unwrap();
        assert_eq!(message(), "config.json has 67108864 bytes or more; the limit is 16777216 (16 MiB)");
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// A process may come through any file, also one that has no end.
    #[test]
    fn a_file_without_an_end_is_read_to_the_limit() {
        let message = load_process(Path::new("/dev/zero")).unwrap_err().message;
        assert_eq!(message, "/dev/zero has 16777217 bytes or more; the limit is 16777216 (16 MiB)");
    }

    #[test]
    fn a_directory_that_is_not_there() {
        let error = Bundle::load(Path::new("/no/such/bundle")).unwrap_err();
        assert!(error.to_string().contains("/no/such/bundle"), "{error}");
        assert!(error.to_string().contains("no such file or directory"), "{error}");
    }

    #[test]
    fn what_is_no_json_has_line_and_column() {
        let message = |config: &[u8]| Bundle::parse("/".into(), config.to_vec()).unwrap_err().message;
        assert!(message(b"{\n \"root\": {,}}").ends_with("at line 2 column 11"), "{}", message(b"{\n \"root\": {,}}"));
        assert!(message(b"{\"root\": ").contains("EOF while parsing a value at line 1 column 9"));
        assert!(message(b"").contains("EOF"));
        assert_eq!(message(b" []"), "config.json is not a JSON object");
        assert!(message(b"{} {}").contains("trailing characters"));
        assert!(message(&[b"{\"x\": ".as_slice(), &b"[".repeat(100_000)].concat()).len() < 200);
        assert!(message(&b"[".repeat(100_000)).contains("recursion limit exceeded at line 1 column 128"));
        assert_eq!(message(b"{\n\"root\": \"\xff\"}"), "config.json is not UTF-8: byte 0xff at offset 11, line 2");
        assert!(message(b"{\"hostname\": 1,}").contains("trailing comma"), "syntax comes before types");
    }

    #[test]
    fn wrong_values_have_their_pointer() {
        for (config, at, text) in [
            (json!(5), "", "expected struct Spec"),
            (json!({"hostname": 5}), "/hostname", "invalid type: integer `5`, expected a string"),
            (process(json!({"args": "sh"})), "/process/args", "expected a sequence"),
            (process(json!({"user": {"uid": -1}})), "/process/user/uid", "expected u32"),
            (process(json!({"user": {"uid": 4294967296u64}})), "/process/user/uid", "expected u32"),
            (
                process(json!({"rlimits": [{"type": "RLIMIT_X"}]})),
                "/process/rlimits/0/type",
                "unknown value `RLIMIT_X`",
            ),
            (json!({"linux": {"namespaces": [{"type": "net"}]}}), "/linux/namespaces/0/type", "unknown value `net`"),
            (json!({"linux": {"sysctl": {"net/a~b": 1}}}), "/linux/sysctl/net~1a~0b", "expected a string"),
            (json!({"mounts": [{"type": "proc"}]}), "/mounts/0/destination", "\"destination\" is missing"),
            (json!({"process": {}}), "/process/cwd", "\"cwd\" is missing"),
            (
                json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}}}),
                "/linux/seccomp/flags/0",
                "unknown value `X`",
            ),
        ] {
            let error = parse(config).unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some(at), "{error}");
            assert!(error.message.contains(text), "{error}");
        }
        let error = parse(process(json!({"rlimits": [{"type": "RLIMIT_X"}]}))).unwrap_err();
        assert!(error.hint.unwrap().starts_with("known: RLIMIT_CPU, RLIMIT_FSIZE, "));
    }

    #[test]
    fn a_property_given_twice_is_refused() {
        let config = br#"{"root": {"path": "a", "path": "b"}}"#.to_vec();
        let error = Bundle::parse("/".into(), config).unwrap_err();
        assert!(error.message.contains("duplicate field `path` at line 1"), "{error}");
        assert_eq!(error.pointer.as_deref(), Some("/root"));
    }

    #[test]
    fn unknown_capabilities_are_dropped_with_a_warning() {
        let names = json!(["CAP_KILL", "CAP_OF_TOMORROW", "CAP_CHOWN"]);
        let bundle = parse(process(json!({"capabilities": {"bounding": names}}))).unwrap();
        let process = bundle.spec.process().as_ref().unwrap();
        assert_eq!(
            process.capabilities().as_ref().unwrap().bounding(),
            &Some([Capability::Kill, Capability::Chown].into())
        );
        assert_eq!(
            bundle.warnings,
            ["ignoring unknown capability \"CAP_OF_TOMORROW\", from /process/capabilities/bounding/1"]
        );
    }

    #[test]
    fn flags_of_the_scheduler_in_the_spelling_of_the_specification() {
        let flags = json!(["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]);
        let bundle = parse(process(json!({"scheduler": {"policy": "SCHED_OTHER", "flags": flags}}))).unwrap();
        let process = bundle.spec.process().as_ref().unwrap();
        assert_eq!(
            process.scheduler().as_ref().unwrap().flags().as_deref().unwrap(),
            [
                LinuxSchedulerFlag::SchedResetOnFork,
                LinuxSchedulerFlag::SchedFlagDLOverrun,
                LinuxSchedulerFlag::SchedFlagReclaim
            ]
        );
    }

    #[test]
    fn absent_null_and_large_values() {
        let bundle = parse(process(json!({"user": {"uid": null}, "env": null, "rlimits": null}))).unwrap();
        let process = bundle.spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": u64::MAX}]});
        let bundle = parse(json!({"linux": {"resources": resources}, "vm": {"hypervisor": 1}})).unwrap();
        let linux = bundle.spec.linux().as_ref().unwrap();
        let limits = linux.resources().as_ref().unwrap().hugepage_limits().as_ref().unwrap();
        assert_eq!(limits[0].limit(), i64::MAX);
    }

    #[test]
    fn a_pids_object_without_a_limit_is_no_limit() {
        let cases = [
            ("1.3.0", json!({}), None),
            ("1.3.0", json!({"limit": null}), None),
            ("1.3.0", json!({"limit": 0}), Some(0)),
            ("1.0.2-dev", json!({"limit": 0}), None),
            ("1.2.1", json!({"limit": 0}), None),
            ("1.2.1", json!({"limit": 1}), Some(1)),
        ];
        for (version, pids, limit) in cases {
            let bundle = parse(json!({"ociVersion": version, "linux": {"resources": {"pids": pids}}})).unwrap();
            let linux = bundle.spec.linux().as_ref().unwrap();
            assert_eq!(linux.resources().as_ref().unwrap().pids().map(|pids| pids.limit()), limit);
        }
    }

    #[test]
    fn a_process_of_its_own() {
        let dir = scratch("process");
        let path = dir.join("process.json");
        std::fs::write(&path, r#"{"cwd": "/", "args": ["id"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1}]}"#)
            .unwrap();
        let (process, _) = load_process(&path).unwrap();
        assert_eq!(process.rlimits().as_ref().unwrap()[0].typ(), PosixRlimitType::RlimitNofile);
        std::fs::write(&path, r#"{"cwd": "/", "args": [1]}"#).unwrap();
        assert_eq!(load_process(&path).unwrap_err().pointer.as_deref(), Some("/args/0"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
