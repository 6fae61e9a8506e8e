//! The command line: runc's verbs with runc's flags, one thin file each, and our own.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};

use crate::error::Error;
use crate::host::Rootless;
use crate::state::Store;

mod arguments;
mod audit;
mod check;
mod create;
mod criu;
mod delete;
mod events;
mod exec;
mod kill;
mod list;
mod log;
mod pause;
mod plan;
mod ps;
mod seccomp;
mod spec;
mod start;
mod state;
mod update;

pub(crate) use kill::parse as signal;

const ABOUT: &str = "Runs containers from OCI bundles, on Linux with cgroups v2";

const LONG_ABOUT: &str = "Runs containers from OCI bundles, on Linux with cgroups v2.

A bundle is a directory with a config.json and a root file system. `orlop spec` writes a config.json to begin with, \
`orlop check` says what is wrong with a bundle, `orlop plan` shows what it would do, `orlop run` does it.";

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Log each operation of the container's plan, too
    #[arg(long, global = true)]
    debug: bool,
    /// Write the error record to this file as well
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The form of the record: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Directory for the state of containers [default: /run/orlop, or $XDG_RUNTIME_DIR/orlop for ordinary users]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The program that checkpoint and restore are done by
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "criu", hide = true)]
    criu: String,
    /// Have systemd make the cgroup: a scope, named by linux.cgroupsPath as slice:prefix:name
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Act as an ordinary user would: true, false or auto
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", num_args = 0..=1,
          default_missing_value = "true", require_equals = true)]
    rootless: RootlessArg,
    /// Print the version
    #[arg(short, long)]
    version: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RootlessArg {
    Auto,
    #[value(aliases = ["1", "t", "T", "TRUE", "True"])]
    True,
    #[value(aliases = ["0", "f", "F", "FALSE", "False"])]
    False,
}

impl Global {
    /// As [`crate::host`] takes it.
    pub(crate) fn rootless(&self) -> Rootless {
        match self.rootless {
            RootlessArg::Auto => Rootless::Auto,
            RootlessArg::True => Rootless::True,
            RootlessArg::False => Rootless::False,
        }
    }

    /// The store of containers.
    pub(crate) fn store(&self) -> Store {
        let users = || match self.rootless {
            RootlessArg::True => true,
            RootlessArg::False => false,
            RootlessArg::Auto => crate::host::in_runtime_dir(),
        };
        Store::new(self.root.clone().unwrap_or_else(|| crate::state::default_root(users())))
    }
}

/// One verb: its options are made only when it is the one that is called, since to make those of all takes longer than
/// many a verb's own work.
struct Verb {
    name: &'static str,
    about: &'static str,
    options: fn(clap::Command) -> clap::Command,
    with_booleans: fn(clap::Command) -> clap::Command,
    run: fn(&ArgMatches, &Global) -> anyhow::Result<i32>,
}

macro_rules! verbs {
    ($($name:literal, $about:literal, $args:ty, $run:path;)*) => {
        &[$(Verb {
            name: $name,
            about: $about,
            options: |command| <$args as Args>::augment_args(command).about($about).long_about(None),
            with_booleans: |command| {
                arguments::with_booleans(<$args as Args>::augment_args(command).about($about).long_about(None))
            },
            run: |matches, global| $run(&<$args as FromArgMatches>::from_arg_matches(matches)?, global),
        }),*]
    };
}

const VERBS: &[Verb] = verbs! {
    "create", "Make a container: everything is set up, its program waits for `start`", create::CreateArgs, create::create;
    "start", "Let the program of a created container run", start::StartArgs, start::run;
    "run", "Make a container and run its program", create::RunArgs, create::run;
    "exec", "Run one more process in a container", exec::ExecArgs, exec::run;
    "state", "Print a container's state as JSON", state::StateArgs, state::run;
    "kill", "Send a signal to a container's first process", kill::KillArgs, kill::run;
    "delete", "Remove a container that has stopped", delete::DeleteArgs, delete::run;
    "list", "List the containers of this root", list::ListArgs, list::run;
    "ps", "List the processes of a container", ps::PsArgs, ps::run;
    "pause", "Stop all processes of a container where they are", pause::PauseArgs, pause::pause;
    "resume", "Let a paused container go on", pause::PauseArgs, pause::resume;
    "update", "Change the limits of a container", update::UpdateArgs, update::run;
    "events", "Print what a container uses, and when it lacks memory, as JSON", events::EventsArgs, events::run;
    "checkpoint", "Write the processes of a container into files, by criu", criu::CheckpointArgs, criu::checkpoint;
    "restore", "Make a container again from these files", criu::RestoreArgs, criu::restore;
    "spec", "Write a config.json to begin with", spec::SpecArgs, spec::run;
    "features", "Print what this runtime supports, as JSON", spec::FeaturesArgs, spec::features;
    "check", "Say all that is wrong with a bundle, here and in itself, without doing anything and without root", check::CheckArgs, check::run;
    "audit", "Say how exposed a container or a bundle is, and what closes it", audit::AuditArgs, audit::run;
    "seccomp", "Look into seccomp profiles, and write one from what a program does", seccomp::SeccompArgs, seccomp::run;
    "plan", "Show what a bundle would do, without doing anything and without root", plan::PlanArgs, plan::run;
};

/// The verbs that put a process of this binary into a container.
const ENTERING: &[&str] = &["create", "run", "exec"];

/// Runs the command line, and returns the exit status.
pub fn main() -> i32 {
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let words = arguments::normalise(words);
    let command = if arguments::have_values(&words) { with_booleans() } else { command_line() };
    let parsed = command.try_get_matches_from(words).and_then(|matches| {
        let global = Global::from_arg_matches(&matches)?;
        Ok((matches, global))
    });
    let (matches, global) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() {
                log_of_refused(&error);
            }
            if misses_value(&error) {
                // podman asks so whether restore has --lsm-profile, and looks for these words of runc's.
                log::warn("flag needs an argument");
            }
            // runc's status where there is no such command.
            let unknown = error.kind() == clap::error::ErrorKind::InvalidSubcommand;
            return if unknown { 3 } else { i32::from(error.use_stderr()) };
        }
    };
    if global.version {
        return i32::from(log::print(&version()).is_err());
    }
    let called = matches.subcommand().and_then(|(name, own)| Some((VERBS.iter().find(|verb| verb.name == name)?, own)));
    let Some((verb, own)) = called else {
        let _ = command_line().print_help();
        return 0;
    };
    match dispatch(verb, own, &global) {
        Ok(status) => status,
        Err(error) => {
            log::failed(&global, &error);
            if verb.name == "exec" { 255 } else { 1 }
        }
    }
}

/// One command of the command line within this process, which must have no other thread: what the supervisor's workers do.
/// What it prints goes to the standard descriptors; of an error nothing is printed.
///
/// # Errors
/// As the command says it.
pub(crate) fn call(words: &[std::ffi::OsString]) -> anyhow::Result<i32> {
    let words = std::iter::once(std::ffi::OsString::from("orlop")).chain(words.iter().cloned());
    let matches = command_line().try_get_matches_from(words)?;
    let global = Global::from_arg_matches(&matches)?;
    let called = matches.subcommand().and_then(|(name, own)| Some((VERBS.iter().find(|verb| verb.name == name)?, own)));
    let (verb, own) = called.ok_or_else(|| Error::new("no such command"))?;
    dispatch(verb, own, &global)
}

/// Writes the record of a command line that is none, as far as that names a log before its verb: what comes later may be an
/// `exec`ed program's.
fn log_of_refused(error: &clap::Error) {
    let words = arguments::normalise(std::env::args_os().collect());
    let verb = |word: &std::ffi::OsString| VERBS.iter().any(|verb| word == verb.name);
    let own = words.split(verb).next().unwrap_or_default();
    let value = |name: &str| {
        let joined = |word: &std::ffi::OsString| Some(word.to_str()?.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        own.iter().enumerate().rev().find_map(|(at, word)| match word == name {
            true => own.get(at + 1)?.to_str().filter(|value| !value.starts_with('-')).map(str::to_owned),
            false => joined(word),
        })
    };
    let Some(path) = value("--log").filter(|path| !path.is_empty()) else { return };
    let format = if value("--log-format").as_deref() == Some("json") { LogFormat::Json } else { LogFormat::Text };
    // What follows the first empty line is the usage.
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    log::refused(std::path::Path::new(&path), format, line.strip_prefix("error: ").unwrap_or(&line));
}

/// An option that takes a value was the last word.
fn misses_value(error: &clap::Error) -> bool {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let empty = |value: &ContextValue| matches!(value, ContextValue::String(text) if text.is_empty());
    error.kind() == ErrorKind::InvalidValue && error.get(ContextKind::InvalidValue).is_some_and(empty)
}

fn dispatch(verb: &Verb, matches: &ArgMatches, global: &Global) -> anyhow::Result<i32> {
    if ENTERING.contains(&verb.name) {
        crate::seal::ensure()?;
    }
    (verb.run)(matches, global)
}

/// The shape that go-runc and Docker parse: `runc version <version>`, then lines that begin with `commit: ` and `spec: `.
fn version() -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), option_env!("ORLOP_COMMIT").unwrap_or("unknown"));
    format!("runc version {version} (orlop)\ncommit: {commit}\nspec: {}\n", crate::spec::OCI_VERSION)
}

/// The whole command line as clap knows it, for completions, man pages and tests.
pub fn command_line() -> clap::Command {
    let verb =
        |verb: &Verb| clap::Command::new(verb.name).about(verb.about).args_override_self(true).defer(verb.options);
    root().subcommands(VERBS.iter().map(verb))
}

/// The same where boolean options may have a value.
fn with_booleans() -> clap::Command {
    let verb = |verb: &Verb| {
        clap::Command::new(verb.name).about(verb.about).args_override_self(true).defer(verb.with_booleans)
    };
    arguments::with_booleans(root()).subcommands(VERBS.iter().map(verb))
}

fn root() -> clap::Command {
    let root = clap::Command::new("orlop").about(ABOUT).long_about(LONG_ABOUT).args_override_self(true);
    Global::augment_args(root.disable_version_flag(true)).about(ABOUT).long_about(LONG_ABOUT)
}
