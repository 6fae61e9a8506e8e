//! A runtime's options: runc's message, or, as containerd's CRI gives them to a runtime of any other name, TOML in a message
//! that is everybody's.

use prost::Message;

use super::proto::{Any, GenericOptions, RuncOptions};
use crate::error::{Error, Result};

const RUNC: &str = "containerd.runc.v1.Options";
const GENERIC: &str = "runtimeoptions.v1.Options";

/// Is it a message of options?
pub fn is_known(any: &Any) -> bool {
    matches!(any.name(), RUNC | GENERIC)
}

/// Reads either.
///
/// # Errors
/// Another message, a damaged one, TOML that is none or has another type of value.
pub fn parse(any: &Any) -> Result<RuncOptions> {
    let damaged = |error| Error::new(format!("{} can't be read: {error}", any.name()));
    match any.name() {
        "" => Ok(RuncOptions::default()),
        RUNC => RuncOptions::decode(&*any.value).map_err(damaged),
        GENERIC => {
            let generic = GenericOptions::decode(&*any.value).map_err(damaged)?;
            let body = match generic.config_path.as_str() {
                "" => generic.config_body,
                path => std::fs::read(path).map_err(|error| {
                    Error::new(format!("read the runtime's options {path}")).call("read", crate::host::errno(&error))
                })?,
            };
            toml(&String::from_utf8_lossy(&body))
        }
        other => Err(Error::new(format!("options of an unknown kind: {other}")).hint(format!("{RUNC} or {GENERIC}"))),
    }
}

/// The part of TOML that a table of runc's options is: keys with strings, booleans and numbers. Keys that are not runc's are
/// left alone, as they are by runc's shim.
fn toml(text: &str) -> Result<RuncOptions> {
    let mut options = RuncOptions::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // What follows a table's head belongs to it and not to us.
        if line.starts_with('[') {
            break;
        }
        let wrong = || Error::new(format!("line {} of the runtime's options: {line}", number + 1));
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let value = value.trim();
        let key = key.trim().trim_matches('"');
        let boolean = || bare(value).parse::<bool>().map_err(|_| wrong().hint("true or false is wanted"));
        let integer = || bare(value).parse::<u32>().map_err(|_| wrong().hint("a number is wanted"));
        let string = || string(value).ok_or_else(|| wrong().hint("a string in quotes is wanted"));
        match key {
            "NoPivotRoot" => options.no_pivot_root = boolean()?,
            "NoNewKeyring" => options.no_new_keyring = boolean()?,
            "SystemdCgroup" => options.systemd_cgroup = boolean()?,
            "ShimCgroup" => options.shim_cgroup = string()?,
            "IoUid" => options.io_uid = integer()?,
            "IoGid" => options.io_gid = integer()?,
            "BinaryName" => options.binary_name = string()?,
            "Root" => options.root = string()?,
            "CriuImagePath" => options.criu_image_path = string()?,
            "CriuWorkPath" => options.criu_work_path = string()?,
            _ => {}
        }
    }
    Ok(options)
}

/// A value without the comment after it.
fn bare(value: &str) -> &str {
    value.split('#').next().unwrap_or_default().trim()
}

/// A string: literal in single quotes, or basic in double ones with the escapes of a JSON string, which are TOML's too.
fn string(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.split_once('\'').filter(|(_, rest)| bare(rest).is_empty()).map(|(text, _)| text.to_owned());
    }
    let mut values = serde_json::Deserializer::from_str(value).into_iter::<String>();
    let text = values.next()?.ok()?;
    bare(value.get(values.byte_offset()..)?).is_empty().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(body: &str) -> Any {
        let body = GenericOptions { config_body: body.into(), ..GenericOptions::default() };
        Any::of(GENERIC, &body)
    }

    #[test]
    fn runcs_message_and_toml_say_the_same() {
        let wanted = RuncOptions {
            no_pivot_root: true,
            systemd_cgroup: true,
            io_uid: 7,
            root: "/a \"b\"".into(),
            shim_cgroup: "x#y".into(),
            ..RuncOptions::default()
        };
        assert_eq!(parse(&Any::of(RUNC, &wanted)).expect("runc's"), wanted);
        assert_eq!(parse(&Any::of(&format!("types.googleapis.com/{RUNC}"), &wanted)).expect("runc's"), wanted);
        let text = "# a comment\nNoPivotRoot = true\n  SystemdCgroup=true # here\nIoUid = 7\nRoot = \"/a \\\"b\\\"\"\n\
                    ShimCgroup = 'x#y' # there\nOther = [1]\n\n[table]\nSystemdCgroup = false\n";
        assert_eq!(parse(&generic(text)).expect("TOML"), wanted);
        assert_eq!(parse(&Any::default()).expect("nothing"), RuncOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in ["Root = /a", "SystemdCgroup = \"true\"", "IoUid = -1", "Root", "Root = 'a' b", "Root = \"a\" b"] {
            let error = parse(&generic(text)).expect_err(text);
            assert!(error.message.starts_with("line 1 of the runtime's options"), "{error}");
        }
        assert!(parse(&Any { type_url: "a/other.Options".into(), value: Vec::new() }).is_err());
        assert!(parse(&Any { type_url: RUNC.into(), value: vec![0xff] }).is_err());
    }
}
