//! How containerd calls the shim: its command line, what stands on standard input, and in which of three dialects `start`
//! answers. The caller decides that anew in each call, so a shim outlives an upgrade of containerd in both directions.

use std::ffi::OsString;
use std::path::PathBuf;

use prost::Message;

use super::proto::{Any, BootstrapParams, BootstrapResult, RuncOptions};
use super::{options, sha256};
use crate::error::{Error, Result};

/// The longest standard input that is read.
pub const LONGEST: u64 = 10 << 20;
/// The newest task service that is spoken.
const NEWEST: i32 = 3;
/// Where sockets are, unless the caller says it.
const SOCKETS: &str = "/run/containerd/s";
/// The longest address: `sun_path` of `sockaddr_un`, unix(7), as containerd counts it.
const ADDRESS: usize = 106;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Serve tasks.
    Start,
    /// Remove what is left of a container whose shim has gone.
    Delete,
    /// Say what the runtime supports.
    Info,
    /// Say the version.
    Version,
}

/// The command line: Go's flags, with one dash or two, then a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    pub bundle: Option<PathBuf>,
    /// containerd's gRPC socket: a part of the shim's address.
    pub address: String,
    pub debug: bool,
}

impl Call {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// No verb, an unknown one, an id or namespace that is none.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut call = Self {
            action: Action::Version,
            namespace: String::new(),
            id: String::new(),
            bundle: None,
            address: String::new(),
            debug: false,
        };
        let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        let mut action = None;
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag)) else {
                action.get_or_insert(match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(Error::new(format!("no such command: {word}")).hint("start or delete")),
                });
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => call.debug = value.as_deref() != Some("false"),
                "v" | "version" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                _ => {
                    let value = value.or_else(|| words.next());
                    let value = value.ok_or_else(|| Error::new(format!("-{name} takes a value")))?;
                    match name {
                        "namespace" => call.namespace = value,
                        "id" => call.id = value,
                        "bundle" => call.bundle = Some(value.into()),
                        "address" => call.address = value,
                        // The socket for events comes by the environment; what is added later is not for us.
                        _ => {}
                    }
                }
            }
        }
        call.action = action.ok_or_else(|| Error::new("no command").hint("start or delete"))?;
        if matches!(call.action, Action::Start | Action::Delete) {
            crate::validate::container_id(&call.id)?;
            crate::validate::container_id(&call.namespace).map_err(|error| error.context("the namespace"))?;
        }
        Ok(call)
    }
}

/// How the answer to `start` is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// containerd to 1.6: the address alone.
    Address,
    /// 1.7 to 2.2, which say the newest version that they know: JSON.
    Json(i32),
    /// From 2.3: protobuf.
    Protobuf,
}

/// What `start` is told beside the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub dialect: Dialect,
    pub options: RuncOptions,
    /// The socket for events.
    pub events: Option<String>,
    /// containerd's gRPC socket, when it is not on the command line.
    pub address: Option<String>,
    pub sockets: PathBuf,
    pub debug: bool,
}

impl Told {
    /// Reads standard input. `newest` is `MAX_SHIM_VERSION`, `events` is `TTRPC_ADDRESS` of the environment.
    ///
    /// An older containerd's Any is a BootstrapParams as well, to protobuf: a name where the id is, bytes where the namespace
    /// is. So it is one only where both are those of the command line.
    ///
    /// # Errors
    /// Neither of them, or options that can't be read.
    pub fn parse(call: &Call, input: &[u8], newest: Option<&str>, events: Option<String>) -> Result<Self> {
        let params = BootstrapParams::decode(input).ok();
        let params = params.filter(|params| params.instance_id == call.id && params.namespace == call.namespace);
        let newest = newest.and_then(|newest| newest.parse::<i32>().ok()).filter(|newest| *newest >= 2);
        let mut told = Self {
            dialect: newest.map_or(Dialect::Address, |newest| Dialect::Json(newest.min(NEWEST))),
            options: RuncOptions::default(),
            events: events.filter(|events| !events.is_empty()),
            address: None,
            sockets: SOCKETS.into(),
            debug: call.debug,
        };
        let Some(params) = params else {
            let any =
                Any::decode(input).map_err(|error| Error::new(format!("standard input is no message: {error}")))?;
            told.options = options::parse(&any)?;
            return Ok(told);
        };
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        told.dialect = Dialect::Protobuf;
        told.events = given(params.containerd_ttrpc_address).or(told.events);
        told.address = given(params.containerd_grpc_address);
        told.sockets = given(params.socket_dir).map_or(told.sockets, PathBuf::from);
        told.debug |= params.log_level < 0;
        for any in params.extensions.into_iter().filter_map(|extension| extension.value) {
            if options::is_known(&any) {
                told.options = options::parse(&any)?;
            }
        }
        Ok(told)
    }

    /// The answer: where the shim listens.
    pub fn answer(&self, address: &str) -> Vec<u8> {
        match self.dialect {
            Dialect::Address => address.into(),
            Dialect::Json(version) => {
                serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" }).to_string().into()
            }
            Dialect::Protobuf => {
                let (address, protocol) = (address.into(), "ttrpc".into());
                BootstrapResult { version: NEWEST, address, protocol }.encode_to_vec()
            }
        }
    }
}

/// The shim's socket. All containers of a group of one namespace of one containerd have the same.
///
/// # Errors
/// The directory's name is too long.
pub fn socket(sockets: &std::path::Path, address: &str, namespace: &str, group: &str) -> Result<PathBuf> {
    let path = sockets.join(sha256::hex(format!("{address}/{namespace}/{group}").as_bytes()));
    if path.as_os_str().len() > ADDRESS {
        return Err(Error::new(format!("the socket's path is longer than {ADDRESS} bytes: {}", path.display())));
    }
    Ok(path)
}

/// The group that a container belongs to: its own annotation, else the pod that it is in, else itself.
pub fn group<'a>(config: &'a serde_json::Value, id: &'a str) -> &'a str {
    let annotation = |name: &str| config.get("annotations")?.get(name)?.as_str().filter(|text| !text.is_empty());
    annotation("io.containerd.runc.v2.group").or_else(|| annotation("io.kubernetes.cri.sandbox-id")).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::proto::Extension;
    use super::*;

    fn call(words: &[&str]) -> Result<Call> {
        Call::parse(words.iter().map(OsString::from))
    }

    fn start() -> Call {
        let words = ["-namespace", "default", "-address", "/run/c.sock", "-publish-binary", "/usr/bin/containerd"];
        call(&[&words[..], &["-id", "c1", "-debug", "start"]].concat()).expect("a call")
    }

    #[test]
    fn the_command_line_as_go_takes_it() {
        let start = start();
        assert_eq!((start.action, start.id.as_str(), start.namespace.as_str()), (Action::Start, "c1", "default"));
        assert_eq!((start.address.as_str(), start.debug), ("/run/c.sock", true));
        let delete = call(&["--namespace=a", "-id=b", "-bundle", "/x", "delete"]).expect("a call");
        assert_eq!((delete.action, delete.bundle), (Action::Delete, Some("/x".into())));
        assert_eq!(call(&["-v"]).expect("a call").action, Action::Version);
        assert_eq!(call(&["-info"]).expect("a call").action, Action::Info);
        for wrong in [&["-id", "c"][..], &["-id"], &["-id", "c", "-namespace", "n", "stop"], &["-id", "../c", "start"]]
        {
            assert!(call(wrong).is_err(), "{wrong:?}");
        }
        assert!(call(&["-id", "c", "-namespace", "../x", "start"]).is_err());
    }

    fn options() -> Any {
        Any::of("containerd.runc.v1.Options", &RuncOptions { root: "/r".into(), ..RuncOptions::default() })
    }

    #[test]
    fn each_containerd_is_answered_in_its_own_dialect() {
        let address = "unix:///run/containerd/s/x";
        for (newest, dialect, answer) in [
            (None, Dialect::Address, address.to_owned()),
            (Some("2"), Dialect::Json(2), json!({"version": 2, "address": address, "protocol": "ttrpc"}).to_string()),
            (Some("4"), Dialect::Json(3), json!({"version": 3, "address": address, "protocol": "ttrpc"}).to_string()),
        ] {
            for input in [options().encode_to_vec(), Vec::new()] {
                let told = Told::parse(&start(), &input, newest, Some("/t".into())).expect("told");
                assert_eq!(told.dialect, dialect);
                assert_eq!(told.options.root, if input.is_empty() { "" } else { "/r" });
                assert_eq!(told.answer(address), answer.as_bytes());
                assert_eq!(told.events.as_deref(), Some("/t"));
            }
        }
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "default".into(),
            containerd_ttrpc_address: "/u".into(),
            extensions: vec![Extension { value: Some(options()) }],
            socket_dir: "/s".into(),
            ..BootstrapParams::default()
        };
        let told = Told::parse(&start(), &params.encode_to_vec(), Some("3"), Some("/t".into())).expect("told");
        assert_eq!((told.dialect.clone(), told.options.root.as_str()), (Dialect::Protobuf, "/r"));
        assert_eq!((told.events.as_deref(), told.sockets.as_path()), (Some("/u"), "/s".as_ref()));
        let result = BootstrapResult::decode(&*told.answer(address)).expect("a result");
        assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (3, address, "ttrpc"));
    }

    #[test]
    fn an_any_that_parses_as_bootstrap_params_is_none() {
        let input = options().encode_to_vec();
        assert!(BootstrapParams::decode(&*input).is_ok(), "the trap is gone");
        let told = Told::parse(&start(), &input, Some("3"), None).expect("told");
        assert_eq!((told.dialect, told.options.root.as_str()), (Dialect::Json(3), "/r"));
    }

    #[test]
    fn a_pod_has_one_socket() {
        let config = |name: &str| json!({"annotations": {name: "g"}});
        assert_eq!(group(&config("io.containerd.runc.v2.group"), "c"), "g");
        assert_eq!(group(&config("io.kubernetes.cri.sandbox-id"), "c"), "g");
        assert_eq!(group(&config("other"), "c"), "c");
        let at = |namespace, group| socket("/s".as_ref(), "/a", namespace, group).expect("a path");
        assert_eq!(at("n", "g"), at("n", "g"));
        assert_ne!(at("n", "g"), at("m", "g"));
        assert!(socket(&PathBuf::from("/".repeat(60)), "/a", "n", "g").is_err());
    }
}
