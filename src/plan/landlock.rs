//! `org.orlop.landlock.*`: what of its own file system, of TCP and of other processes the container's process may still use
//! (landlock(7)). The specification has no property for it yet; once there is one, that has the word.

use std::path::Path;

use oci_spec::runtime::{Process, Spec};

use super::op::Op;
use super::{HostFacts, Steps, path_cstring};
use crate::error::{Error, Result};
use crate::sys::landlock::{Ruleset, fs, net, scope};

/// What such an annotation's name begins with.
pub const PREFIX: &str = "org.orlop.landlock.";
const READ: u64 = fs::READ_FILE | fs::READ_DIR;
const EXECUTE: u64 = READ | fs::EXECUTE;
const WRITE: u64 = READ
    | fs::WRITE_FILE
    | fs::REMOVE_DIR
    | fs::REMOVE_FILE
    | fs::MAKE_CHAR
    | fs::MAKE_DIR
    | fs::MAKE_REG
    | fs::MAKE_SOCK
    | fs::MAKE_FIFO
    | fs::MAKE_BLOCK
    | fs::MAKE_SYM
    | fs::REFER
    | fs::TRUNCATE
    | fs::IOCTL_DEV;
/// The rights of newer kernels, each with its ABI and with what is free for all without it.
const NEWER: [(u64, u32, &str); 3] = [
    (fs::REFER, 2, ""), // before it nobody may
    (fs::TRUNCATE, 3, "truncate(2)"),
    (fs::IOCTL_DEV, 5, "ioctl(2) of devices"),
];

/// What an annotation after [`PREFIX`] is about.
enum Kind {
    Paths(u64),
    Ports(u64),
    Scope,
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "read" => Kind::Paths(READ),
        "execute" => Kind::Paths(EXECUTE),
        "write" => Kind::Paths(WRITE),
        "bind" => Kind::Ports(net::BIND_TCP),
        "connect" => Kind::Ports(net::CONNECT_TCP),
        "scope" => Kind::Scope,
        _ => return None,
    })
}

/// A container with such an annotation.
pub fn wanted(spec: &Spec) -> bool {
    annotations(spec).next().is_some()
}

/// The annotations in the order of their names: the part after the prefix, and the value.
fn annotations(spec: &Spec) -> impl Iterator<Item = (&str, &str)> {
    let mut all: Vec<_> = spec
        .annotations()
        .iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())))
        .collect();
    all.sort_unstable();
    all.into_iter()
}

/// Makes the ruleset with the rights of set-up, while the root file system is held by descriptor; [`restrict`] uses it.
pub(super) fn plan(
    spec: &Spec,
    process: &Process,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
    child: &mut Steps,
) -> Result<()> {
    let mut ruleset = Ruleset::default();
    let mut rules = Steps::default();
    for (name, value) in annotations(spec) {
        let from = format!("/annotations/{PREFIX}{}", crate::bundle::escape(name));
        let kind = kind(name).ok_or_else(|| {
            Error::new(format!("unknown annotation {PREFIX}{name}"))
                .at(&*from)
                .hint("read, execute, write, bind, connect and scope are known")
        })?;
        match kind {
            Kind::Paths(access) => {
                // Whatever is named, the rest of the file system is closed in every way.
                ruleset.fs = known(EXECUTE | WRITE, facts.landlock);
                paths(value, access & ruleset.fs, &from, &mut rules)?;
            }
            Kind::Ports(access) => {
                needs(facts, 4, "the ports of TCP", "6.7", &from)?;
                ruleset.net |= access;
                ports(value, access, &from, &mut rules)?;
            }
            Kind::Scope => {
                needs(facts, 6, "scopes", "6.12", &from)?;
                ruleset.scoped = scopes(value, &from)?;
            }
        }
        needs(facts, 1, "paths", "5.13, and landlock among the LSMs (/sys/kernel/security/lsm)", &from)?;
        if process.no_new_privileges() != Some(true) {
            return Err(Error::new("Landlock needs process.noNewPrivileges")
                .at("/process/noNewPrivileges")
                .hint(format!("set it to true, or leave {PREFIX}{name} out")));
        }
    }
    if ruleset == Ruleset::default() {
        return Ok(());
    }
    warnings.extend(free(ruleset, facts.landlock));
    child.push(Op::LandlockRuleset(ruleset), "/annotations");
    child.0.extend(rules.0);
    Ok(())
}

/// From here on the process itself is under the ruleset, and everything that comes after it.
pub(super) fn restrict(spec: &Spec, child: &mut Steps) {
    if wanted(spec) {
        child.push(Op::LandlockRestrict, "/annotations");
    }
}

fn needs(facts: &HostFacts, abi: u32, what: &str, kernel: &str, from: &str) -> Result<()> {
    if facts.landlock >= abi {
        return Ok(());
    }
    Err(Error::new(format!("the kernel's Landlock (ABI {}) knows nothing of {what}", facts.landlock))
        .at(from)
        .hint(format!("it takes Linux {kernel}")))
}

/// What of `rights` a kernel with this ABI knows.
fn known(rights: u64, abi: u32) -> u64 {
    NEWER.iter().filter(|(_, since, _)| abi < *since).fold(rights, |rights, (right, ..)| rights & !right)
}

/// What the kernel is too old to close.
fn free(ruleset: Ruleset, abi: u32) -> Option<String> {
    let free: Vec<&str> =
        NEWER.iter().filter(|(_, since, what)| abi < *since && !what.is_empty()).map(|(.., what)| *what).collect();
    (ruleset.fs != 0 && !free.is_empty())
        .then(|| format!("{PREFIX}*: the kernel's Landlock (ABI {abi}) does not restrict {}", free.join(" and ")))
}

fn paths(value: &str, access: u64, from: &str, rules: &mut Steps) -> Result<()> {
    for path in value.split(':').filter(|path| !path.is_empty()) {
        if !path.starts_with('/') {
            return Err(Error::new(format!("{path:?} is not an absolute path"))
                .at(from)
                .hint("paths of the container, with a colon between them"));
        }
        rules.push(Op::LandlockPath { path: path_cstring(Path::new(path), from)?, access }, from);
    }
    Ok(())
}

fn ports(value: &str, access: u64, from: &str, rules: &mut Steps) -> Result<()> {
    for text in value.split(',').filter(|text| !text.is_empty()) {
        let port = text.parse().map_err(|_| {
            Error::new(format!("{text:?} is not a port"))
                .at(from)
                .hint("numbers up to 65535, with a comma between them")
        })?;
        rules.push(Op::LandlockPort { port, access }, from);
    }
    Ok(())
}

fn scopes(value: &str, from: &str) -> Result<u64> {
    let scope = |name: &str| match name {
        "signal" => Ok(scope::SIGNAL),
        "abstract-unix-socket" => Ok(scope::ABSTRACT_UNIX_SOCKET),
        _ => Err(Error::new(format!("{name:?} is not a scope")).at(from).hint("signal and abstract-unix-socket are")),
    };
    value.split(',').filter(|name| !name.is_empty()).try_fold(0, |scoped, name| Ok(scoped | scope(name)?))
}
