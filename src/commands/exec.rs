//! `exec`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{LinuxCapabilities, Process, Spec};

use super::Global;
use super::create::{Console, PidfdSocket, pipes, preserved, write_pid_file};
use crate::bundle;
use crate::error::{Error, Result};
use crate::exec::enter;
use crate::foreground::{self, Signals};
use crate::plan::{self, HostFacts, Options};
use crate::state::{State, Status};
use crate::validate;

/// `exec`.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Read the process from this file, as config.json's process has it
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Unix socket that gets the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// One more environment variable, NAME=VALUE
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Ids of the process, UID or UID:GID
    #[arg(short, long, value_name = "IDS")]
    user: Option<String>,
    /// One more group of the process
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Return as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// File that gets the pid of the process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// One more capability in the bounding, effective and permitted sets
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Pass this many descriptors from 3 on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Unix socket that gets a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Cgroup of the process, below the container's own
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Enter a paused container: the process waits until it is resumed
    #[arg(long)]
    ignore_paused: bool,
}

pub(super) fn run(args: &ExecArgs, global: &Global) -> anyhow::Result<i32> {
    // Before a file of our own could take one of these numbers.
    let preserve_fds = preserved(args.preserve_fds)?;
    let dir = global.store().open(&args.id)?;
    let state = dir.read()?;
    let status = state.status(&dir)?;
    enterable(args, &state, status)?;
    let spec = dir.config(&state.bundle)?.spec;
    let (process, warnings) = process(args, &spec)?;
    let cgroup = sub_cgroup(&args.cgroup)?;
    let facts = HostFacts::find(global.rootless(), false)?;
    validate::validate_process(&process, &spec, &crate::host::label_context(Some(&process), None, &facts)).map_err(
        |error| {
            let below = error.pointer.clone().unwrap_or_default();
            error.at(format!("/process{below}"))
        },
    )?;
    // It could look into the process that waits, which holds what the container shall not.
    if status == Status::Created && facts.ordinary() && plan::may_trace(&process)? {
        anyhow::bail!(
            Error::new("a process with CAP_SYS_PTRACE can't enter a container that waits for its start")
                .at("/process/capabilities")
                .hint("start it before, or leave the capability away")
        );
    }
    let systemd_cgroup = enter::scope(&state).is_some();
    let options = Options { id: args.id.clone(), preserve_fds, systemd_cgroup, ..Options::default() };
    let plan = plan::exec(&spec, &state.bundle, &process, &facts, &options)?;
    super::log::debug(global, || plan::show::as_text(&plan));
    let console = Console::new(plan.terminal, args.detach, args.console_socket.as_deref())?;
    let pidfd_socket = PidfdSocket::new(args.pidfd_socket.as_deref())?;
    let signals = if args.detach { None } else { Some(Signals::block()?) };
    let mut pipes = pipes(!args.detach && !plan.terminal, &spec, Some(process.user().uid()))?;
    let spawned = pipes.lend(|| enter::enter(&plan, &spec, &state, cgroup.as_deref(), console.child()))?;
    let told = write_pid_file(args.pid_file.as_deref(), spawned.pid)
        .and_then(|()| pidfd_socket.send(spawned.pidfd.as_fd(), b"setns"));
    if let Err(error) = told {
        spawned.kill();
        return Err(error.into());
    }
    super::log::warnings(global, &[warnings, plan.warnings].concat(), false);
    let Some(signals) = signals else { return Ok(0) };
    let status = console
        .relay(pipes)
        .and_then(|relay| foreground::wait(spawned.pid, spawned.pidfd.as_fd(), &signals, relay, None));
    if status.is_err() {
        spawned.kill();
    }
    Ok(status?)
}

fn enterable(args: &ExecArgs, state: &State, status: Status) -> Result<()> {
    match status {
        Status::Running | Status::Created => Ok(()),
        Status::Paused if args.ignore_paused => Ok(()),
        Status::Paused => {
            Err(Error::new("cannot exec in a paused container").hint("--ignore-paused enters it all the same"))
        }
        Status::Stopped => Err(state.explained(Error::new("cannot exec in a stopped container"))),
        Status::Creating => Err(state.explained(Error::new(format!("container {} is still being created", state.id)))),
    }
}

/// The path of `--cgroup`. Before it runc takes controllers, which cgroup v2 has no hierarchies for.
fn sub_cgroup(given: &[String]) -> Result<Option<String>> {
    for text in given {
        match text.split(':').collect::<Vec<_>>()[..] {
            [_] if given.len() == 1 => {}
            [_] => {
                let text = format!("invalid --cgroup argument: {text} (missing <controller>: prefix)");
                return Err(Error::new(text).hint("on cgroup v2 there is one path, without a prefix"));
            }
            [controllers, _] => {
                let first = controllers.split(',').next().unwrap_or_default();
                return Err(Error::new(format!("unknown controller {first} in --cgroup {text}"))
                    .hint("on cgroup v2 there is one path, without a prefix"));
            }
            _ => return Err(Error::new(format!("invalid --cgroup argument: {text}"))),
        }
    }
    given.first().map(|path| below(path)).transpose()
}

/// The path without `.` and `..`, relative to the container's cgroup.
fn below(path: &str) -> Result<String> {
    let mut names = Vec::new();
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name != ".." {
            names.push(name);
        } else if names.pop().is_none() {
            return Err(Error::new(format!("{path} is not a sub cgroup path")));
        }
    }
    Ok(names.join("/"))
}

/// The process: a file's, or the container's own with what the command line changes.
fn process(args: &ExecArgs, spec: &Spec) -> Result<(Process, Vec<String>)> {
    if let Some(path) = &args.process {
        let (mut process, warnings) = bundle::load_process(path)?;
        spec.process().iter().for_each(|own| inherit(&mut process, own));
        return Ok((process, warnings));
    }
    if args.command.is_empty() {
        return Err(Error::new("process args cannot be empty").hint("orlop exec ID COMMAND..., or --process FILE"));
    }
    let own = spec.process().clone().ok_or_else(|| Error::new("the container's configuration has no process"))?;
    let mut process = own;
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let env = process.env().iter().flatten().chain(&args.env).cloned().collect();
    process.set_env(Some(env));
    if let Some(user) = &args.user {
        let (uid, gid) = ids(user)?;
        let mut user = process.user().clone();
        user.set_uid(uid);
        user.set_gid(gid.unwrap_or(user.gid()));
        process.set_user(user);
    }
    if !args.additional_gids.is_empty() {
        let mut user = process.user().clone();
        let gids = user.additional_gids().iter().flatten().chain(&args.additional_gids).copied().collect();
        user.set_additional_gids(Some(gids));
        process.set_user(user);
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    let mut warnings = Vec::new();
    add_capabilities(&args.cap, &mut process, &mut warnings);
    Ok((process, warnings))
}

/// Capabilities, labels and the OOM score that a file leaves out are the container's own, as with runc, and so are its limits.
/// `noNewPrivileges` is a boolean, of which a file says nothing by leaving it out but that it is not set.
fn inherit(process: &mut Process, own: &Process) {
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().as_ref().is_none_or(String::is_empty) {
        process.set_selinux_label(own.selinux_label().clone());
    }
}

/// `UID` or `UID:GID`, decimal. A name is never looked up: an image's /etc/passwd could make it any id (CVE-2016-3697).
fn ids(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits).ok_or_else(|| {
            Error::new(format!("parsing {text:?} as UID[:GID]: {part:?} is not an id"))
                .hint("ids are decimal numbers up to 4294967294; names are not looked up")
        })
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

/// Never the inheritable set, and so never the ambient one (CVE-2022-29162, CVE-2022-27650, CVE-2025-27612).
fn add_capabilities(names: &[String], process: &mut Process, warnings: &mut Vec<String>) {
    if names.is_empty() {
        return;
    }
    let mut added = oci_spec::runtime::Capabilities::new();
    for name in names {
        let bare = name.to_ascii_uppercase();
        let bare = bare.strip_prefix("CAP_").unwrap_or(&bare).to_owned();
        match bare.parse::<oci_spec::runtime::Capability>() {
            Ok(capability) => drop(added.insert(capability)),
            // As one in a configuration.
            Err(_) => warnings.push(format!("--cap: unknown capability {name} is left out")),
        }
    }
    let empty = || {
        let mut none = LinuxCapabilities::default();
        none.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
        none
    };
    let mut sets = process.capabilities().clone().unwrap_or_else(empty);
    let with =
        |set: &Option<oci_spec::runtime::Capabilities>| Some(set.iter().flatten().chain(&added).copied().collect());
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(sets));
}

#[cfg(test)]
mod tests {
    use super::{ids, sub_cgroup};

    #[test]
    fn ids_are_decimal_numbers_and_nothing_else() {
        for (text, expected) in [("0", (0, None)), ("1:1", (1, Some(1))), ("4294967294:7", (4_294_967_294, Some(7)))] {
            assert_eq!(ids(text).unwrap(), expected, "{text}");
        }
        for text in ["", ":5", "1:", "-1", "+1", "0x1", "4294967296", "root", "1:root", " 1", "1 ", "1:2:3"] {
            assert!(ids(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sub_cgroup_is_one_path_that_stays_below() {
        let of = |given: &[&str]| sub_cgroup(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        for (given, path) in [("/", ""), ("a", "a"), ("/a/./b//c/..", "a/b")] {
            assert_eq!(of(&[given]).unwrap().as_deref(), Some(path), "{given}");
        }
        assert_eq!(of(&[]).unwrap(), None);
        for (given, message) in [
            (&[".."][..], ".. is not a sub cgroup path"),
            (&["a/../../b"], "a/../../b is not a sub cgroup path"),
            (&["a", "b"], "invalid --cgroup argument: a (missing <controller>: prefix)"),
            (&["a:b:c"], "invalid --cgroup argument: a:b:c"),
            (&["cpu,pids:a"], "unknown controller cpu in --cgroup cpu,pids:a"),
        ] {
            assert_eq!(of(given).unwrap_err().message, message);
        }
    }
}
