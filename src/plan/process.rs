//! `process`: its limits, terminal, directory, program.

use std::collections::HashSet;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};

use super::op::{Op, Step};
use super::{Steps, cstring, path_cstring};
use crate::error::{Error, Result};
use crate::sys::process::StringArray;

/// `PATH` where the environment has none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn oom_score_adj(process: &Process, child: &mut Steps) {
    if let Some(value) = process.oom_score_adj() {
        child.push(Op::OomScoreAdj { value }, "/process/oomScoreAdj");
    }
}

fn limits(process: &Process, op: impl Fn(&PosixRlimit) -> Option<Op>) -> Vec<Step> {
    let step = |(index, limit)| Some(Step { op: op(limit)?, from: format!("/process/rlimits/{index}") });
    process.rlimits().iter().flatten().enumerate().filter_map(step).collect()
}

fn hard_limit(limit: &PosixRlimit) -> Op {
    let (resource, name) = rlimit(limit.typ());
    Op::HardLimit { resource, name, hard: limit.hard() }
}

fn exact(limit: &PosixRlimit) -> Op {
    let (resource, name) = rlimit(limit.typ());
    Op::Rlimit { resource, name, soft: limit.soft(), hard: limit.hard() }
}

/// What has to be done before a user namespace is entered in which nobody may raise a hard limit. Nothing is lowered:
/// the limits are the program's, and set-up goes on.
pub(super) fn hard_limits(process: &Process) -> Vec<Step> {
    limits(process, |limit| Some(hard_limit(limit)))
}

/// The limits, while the rights of set-up are there (`privileged`; without them [`hard_limits`] has come before). Set-up
/// itself opens files until its end, so that [`open_files`] comes last, and only the right to it is taken here.
pub(super) fn rlimits(process: &Process, privileged: bool, child: &mut Steps) {
    child.0.extend(limits(process, |limit| match limit.typ() {
        PosixRlimitType::RlimitNofile => privileged.then(|| hard_limit(limit)),
        _ => Some(exact(limit)),
    }));
}

/// `RLIMIT_NOFILE`: from here on no file may have to be opened, but that of a seccomp listener. The filter may forbid
/// prlimit(2).
pub(super) fn open_files(process: &Process, child: &mut Steps) {
    let nofile = |limit: &PosixRlimit| (limit.typ() == PosixRlimitType::RlimitNofile).then(|| exact(limit));
    child.0.extend(limits(process, nofile));
}

/// The same as values, soft and hard: of several the last one counts.
pub(super) fn open_files_limit(process: &Process) -> Option<(u64, u64)> {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    let last = limits.iter().rfind(|limit| limit.typ() == PosixRlimitType::RlimitNofile)?;
    Some((last.soft(), last.hard()))
}

/// `RLIMIT_*` as the kernel numbers it, and its name.
pub(crate) fn rlimit(kind: PosixRlimitType) -> (u32, &'static str) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => (libc::RLIMIT_CPU, "RLIMIT_CPU"),
        T::RlimitFsize => (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
        T::RlimitData => (libc::RLIMIT_DATA, "RLIMIT_DATA"),
        T::RlimitStack => (libc::RLIMIT_STACK, "RLIMIT_STACK"),
        T::RlimitCore => (libc::RLIMIT_CORE, "RLIMIT_CORE"),
        T::RlimitRss => (libc::RLIMIT_RSS, "RLIMIT_RSS"),
        T::RlimitNproc => (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
        T::RlimitNofile => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
        T::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
        T::RlimitAs => (libc::RLIMIT_AS, "RLIMIT_AS"),
        T::RlimitLocks => (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
        T::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
        T::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
        T::RlimitNice => (libc::RLIMIT_NICE, "RLIMIT_NICE"),
        T::RlimitRtprio => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
        T::RlimitRttime => (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
    }
}

/// The terminal, and `/dev/console` when the container is being made.
pub(super) fn terminal(process: &Process, console: bool, child: &mut Steps) {
    child.push(Op::NewSession, "");
    if process.terminal() != Some(true) {
        return;
    }
    let clamp = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    let size = process.console_size().map(|size| (clamp(size.height()), clamp(size.width())));
    child.push(Op::Terminal { size, console }, "/process/terminal");
}

/// Set-up runs with an empty umask, so that modes are as written; here the process's own begins.
pub(super) fn session(process: &Process, child: &mut Steps) {
    child.push(Op::Umask { mask: process.user().umask() }, "/process/user/umask");
}

/// The SELinux label of the keyring that is made next, so that the process may use it; the execve forgets it.
pub(super) fn keyring_label(process: &Process, child: &mut Steps) -> Result<()> {
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        let value = cstring(label, "/process/selinuxLabel")?;
        child.push(Op::ExecLabel { file: c"self/attr/keycreate".to_owned(), value }, "/process/selinuxLabel");
    }
    Ok(())
}

/// The LSM label of the execve(2).
pub(super) fn label(process: &Process, child: &mut Steps) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|profile| !profile.is_empty()) {
        let value = cstring(format!("exec {profile}"), "/process/apparmorProfile")?;
        child.push(Op::ExecLabel { file: c"self/attr/apparmor/exec".to_owned(), value }, "/process/apparmorProfile");
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        let value = cstring(label, "/process/selinuxLabel")?;
        child.push(Op::ExecLabel { file: c"self/attr/exec".to_owned(), value }, "/process/selinuxLabel");
    }
    Ok(())
}

/// The value of a variable of the process's environment.
pub(crate) fn variable<'a>(process: &'a Process, name: &str) -> Option<&'a str> {
    let value = |entry: &'a String| entry.strip_prefix(name)?.strip_prefix('=');
    process.env().iter().flatten().rev().find_map(value)
}

fn args(process: &Process) -> Result<&[String]> {
    match process.args() {
        Some(args) if !args.is_empty() => Ok(args),
        _ => Err(Error::new("args must not be empty").at("/process/args").hint("name the program to run")),
    }
}

pub(super) fn cwd(process: &Process, last: bool, child: &mut Steps) -> Result<()> {
    child.push(Op::Cwd { path: path_cstring(process.cwd(), "/process/cwd")?, last }, "/process/cwd");
    Ok(())
}

/// The working directory, `HOME`, and the program's path: looked up as the process will see them.
pub(super) fn program(process: &Process, child: &mut Steps) -> Result<()> {
    cwd(process, true, child)?;
    if variable(process, "HOME").is_none_or(str::is_empty) {
        child.push(Op::Home { uid: process.user().uid() }, "/process/env");
    }
    let name = &args(process)?[0];
    let candidates = if name.contains('/') {
        vec![cstring(name, "/process/args/0")?]
    } else {
        let path = variable(process, "PATH").unwrap_or(DEFAULT_PATH);
        let candidate =
            |dir: &str| cstring(format!("{}/{name}", if dir.is_empty() { "." } else { dir }), "/process/env");
        path.split(':').map(candidate).collect::<Result<_>>()?
    };
    child.push(Op::FindProgram { name: cstring(name, "/process/args/0")?, candidates }, "/process/args/0");
    Ok(())
}

/// The variables without those of whose name there is another one later.
fn last_of_each(env: Vec<String>) -> Vec<String> {
    let mut names = HashSet::new();
    let name = |entry: &'_ str| entry.find('=').unwrap_or(entry.len());
    let mut last: Vec<bool> = env.iter().rev().map(|entry| names.insert(&entry[..name(entry)])).collect();
    last.reverse();
    env.into_iter().zip(last).filter_map(|(entry, last)| last.then_some(entry)).collect()
}

/// The program's environment. Of variables of the same name the last one stands, as with runc: programs would take the first,
/// and what is given to an exec comes after the container's own. `variables` come after all.
pub(super) fn environment(process: &Process, variables: &[(&str, String)]) -> Result<StringArray> {
    let given = process.env().as_deref().unwrap_or(&[]);
    let added = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let mut env = last_of_each(given.iter().cloned().chain(added).collect());
    // It is replaced.
    env.retain(|entry| entry != "HOME=");
    strings(&env, "/process/env")
}

fn strings(list: &[String], from: &str) -> Result<StringArray> {
    let strings = list.iter().enumerate().map(|(index, text)| cstring(text, &format!("{from}/{index}")));
    strings.collect::<Result<Vec<_>>>().map(StringArray::new)
}

/// The execve(2).
pub(super) fn exec(process: &Process, variables: &[(&str, String)], child: &mut Steps) -> Result<()> {
    let args = strings(args(process)?, "/process/args")?;
    child.push(Op::Exec { args, env: environment(process, variables)? }, "/process/args");
    Ok(())
}
