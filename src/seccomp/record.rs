//! A profile from what programs have called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use serde_json::{Value, json};

use super::abi::{self, Abi, Syscall};
use super::native;
use crate::error::{Error, Result};

/// `CLONE_NEW*` of clone(2).
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Calls whose first argument goes into the profile as well: what they do hangs on it, and programs give few values.
const BY_FIRST: &[&str] = &["socket", "personality"];

/// What an agent of [`recording`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The call is carried out.
    Continue,
    /// The call fails with ENOSYS: its arguments lie in memory, and C libraries have another one for it.
    NoSuchCall,
}

/// What was called.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Calls {
    names: BTreeSet<String>,
    arches: BTreeSet<String>,
    /// First arguments, by name.
    firsts: BTreeMap<&'static str, BTreeSet<u32>>,
    /// clone(2) was called to make namespaces.
    namespaces: bool,
    /// Numbers that no table knows.
    unknown: BTreeSet<(u32, u32)>,
}

/// A section that tells an agent at `listener` of every call but write(2), which no agent may have (runc).
///
/// # Errors
/// There is no table for this machine.
pub fn recording(listener: &Path) -> Result<Value> {
    let family = abi::family(native()?).unwrap_or_default();
    let names: Vec<_> = Syscall::all().map(Syscall::name).filter(|name| *name != "write").collect();
    let killable = crate::sys::seccomp_flag_known(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).is_ok();
    let flags: &[&str] = if killable { &["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] } else { &[] };
    Ok(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": family.iter().map(|(arch, _)| arch).collect::<Vec<_>>(),
        "flags": flags,
        "listenerPath": listener,
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    }))
}

impl Calls {
    /// Takes down one call, by `seccomp_data`.
    pub fn add(&mut self, audit: u32, number: u32, args: &[u64; 6]) -> Reply {
        let Some((arch, name)) = named(audit, number) else {
            self.unknown.insert((audit, number));
            return Reply::Continue;
        };
        self.arches.insert(arch.to_string());
        if name == "clone3" {
            return Reply::NoSuchCall;
        }
        self.namespaces |= name == "clone" && args[0] & NEW_NAMESPACES != 0;
        if let Some(name) = BY_FIRST.iter().find(|by_first| **by_first == name) {
            self.firsts.entry(name).or_default().insert(args[0] as u32);
        } else {
            self.names.insert(name.to_owned());
        }
        Reply::Continue
    }

    /// Adds what an earlier recording has written.
    ///
    /// # Errors
    /// A rule that no recording writes.
    pub fn merge(&mut self, section: &LinuxSeccomp) -> Result<()> {
        let foreign = |index: usize| {
            Error::new("this profile was not written by a recording, which it could be added to")
                .at(format!("/syscalls/{index}"))
        };
        for (index, rule) in section.syscalls().iter().flatten().enumerate() {
            let args = rule.args().as_deref().unwrap_or_default();
            match (rule.action(), args, &rule.names()[..]) {
                (LinuxSeccompAction::ScmpActAllow, [], names) => {
                    self.namespaces |= names.iter().any(|name| name == "clone");
                    self.names.extend(names.iter().cloned());
                }
                (LinuxSeccompAction::ScmpActAllow, [_], [name]) if name == "clone" => {
                    self.names.insert(name.clone());
                }
                (LinuxSeccompAction::ScmpActAllow, [arg], [name]) => {
                    let name = BY_FIRST.iter().find(|by_first| *by_first == name).ok_or_else(|| foreign(index))?;
                    self.firsts.entry(name).or_default().insert(arg.value_two().unwrap_or(0) as u32);
                }
                (LinuxSeccompAction::ScmpActErrno, [], [name]) if name == "clone3" => {}
                _ => return Err(foreign(index)),
            }
        }
        self.arches.extend(section.architectures().iter().flatten().map(Arch::to_string));
        Ok(())
    }

    /// How many system calls there were, by name.
    pub fn count(&self) -> usize {
        self.names.len() + self.firsts.len()
    }

    /// Numbers that were called and have no name, with their `seccomp_data.arch`.
    pub fn unknown(&self) -> impl Iterator<Item = &(u32, u32)> {
        self.unknown.iter()
    }

    /// The smallest profile that lets all of it through.
    pub fn section(&self) -> Value {
        let by_itself = |name: &&String| *name != "clone" || self.namespaces;
        let mut names: BTreeSet<&str> = self.names.iter().filter(by_itself).map(String::as_str).collect();
        names.insert("write");
        let mut rules = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
        let mut with = |name: &str, mask: u64, value: u64| {
            let arg = json!({"index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"});
            rules.push(json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [arg]}));
        };
        if self.names.contains("clone") && !self.namespaces {
            with("clone", NEW_NAMESPACES, 0);
        }
        for (name, values) in &self.firsts {
            values.iter().for_each(|value| with(name, u64::from(u32::MAX), u64::from(*value)));
        }
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": libc::EPERM,
            "architectures": self.arches,
            "syscalls": rules,
        })
    }
}

/// The ABI and the name of a call.
fn named(audit: u32, number: u32) -> Option<(Arch, &'static str)> {
    let family = abi::family(abi::native()?)?;
    let x32 = number & abi::X32_SYSCALL_BIT != 0;
    let (arch, abi) = family.iter().find(|(arch, abi)| abi::audit_arch(*arch) == audit && (*abi == Abi::X32) == x32)?;
    let call = Syscall::all().find(|call| call.number(*abi) == Some(number))?;
    Some((*arch, call.name()))
}
