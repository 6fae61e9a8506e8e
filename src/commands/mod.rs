//! The command line: runc's verbs with runc's flags, one thin file each, and our own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::host::Rootless;
use crate::state::Store;

mod arguments;
mod create;
mod delete;
mod exec;
mod kill;
mod list;
mod log;
mod pause;
mod plan;
mod ps;
mod spec;
mod start;
mod state;

/// Runs containers from OCI bundles, on Linux with cgroups v2.
///
/// A bundle is a directory with a config.json and a root file system. `orlop spec` writes a config.json to begin with,
/// `orlop plan` shows what a bundle would do, `orlop run` does it.
#[derive(Debug, Parser)]
#[command(name = "orlop", args_override_self = true, disable_version_flag = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, Args)]
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
    /// Let systemd make the cgroup (not supported yet: an error)
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
    True,
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
        let ordinary = match self.rootless {
            RootlessArg::True => true,
            RootlessArg::False => false,
            RootlessArg::Auto => !nix::unistd::geteuid().is_root(),
        };
        Store::new(self.root.clone().unwrap_or_else(|| crate::state::default_root(ordinary)))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container: everything is set up, its program waits for `start`
    Create(create::CreateArgs),
    /// Let the program of a created container run
    Start(start::StartArgs),
    /// Make a container and run its program
    Run(create::RunArgs),
    /// Run one more process in a container
    Exec(exec::ExecArgs),
    /// Print a container's state as JSON
    State(state::StateArgs),
    /// Send a signal to a container's first process
    Kill(kill::KillArgs),
    /// Remove a container that has stopped
    Delete(delete::DeleteArgs),
    /// List the containers of this root
    List(list::ListArgs),
    /// List the processes of a container
    Ps(ps::PsArgs),
    /// Stop all processes of a container where they are
    Pause(pause::PauseArgs),
    /// Let a paused container go on
    Resume(pause::PauseArgs),
    /// Write a config.json to begin with
    Spec(spec::SpecArgs),
    /// Print what this runtime supports, as JSON
    Features,
    /// Show what a bundle would do, without doing anything and without root
    Plan(plan::PlanArgs),
}

/// Runs the command line, and returns the exit status.
pub fn main() -> i32 {
    let words = arguments::normalise(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    if cli.global.version {
        print_version();
        return 0;
    }
    let Some(command) = cli.command else {
        let _ = command_line().print_help();
        return 0;
    };
    let own_failure = if matches!(command, Command::Exec(_)) { 255 } else { 1 };
    match dispatch(command, &cli.global) {
        Ok(status) => status,
        Err(error) => {
            log::failed(&cli.global, &error);
            own_failure
        }
    }
}

fn dispatch(command: Command, global: &Global) -> anyhow::Result<i32> {
    if global.systemd_cgroup {
        anyhow::bail!(
            crate::error::Error::new("the systemd cgroup driver is not supported by this version")
                .hint("leave --systemd-cgroup out: the cgroupfs driver is used")
        );
    }
    match command {
        Command::Create(args) => create::create(&args, global),
        Command::Run(args) => create::run(&args, global),
        Command::Start(args) => start::run(&args, global),
        Command::Exec(args) => exec::run(&args, global),
        Command::State(args) => state::run(&args, global),
        Command::Kill(args) => kill::run(&args, global),
        Command::Delete(args) => delete::run(&args, global),
        Command::List(args) => list::run(&args, global),
        Command::Ps(args) => ps::run(&args, global),
        Command::Pause(args) => pause::pause(&args, global),
        Command::Resume(args) => pause::resume(&args, global),
        Command::Spec(args) => spec::run(&args, global),
        Command::Features => spec::features(),
        Command::Plan(args) => plan::run(&args, global),
    }
}

/// The shape that go-runc and Docker parse: `runc version <version>`, then lines that begin with `commit: ` and `spec: `.
fn print_version() {
    println!("runc version {} (orlop)", env!("CARGO_PKG_VERSION"));
    println!("commit: {}", option_env!("ORLOP_COMMIT").unwrap_or("unknown"));
    println!("spec: {}", crate::spec::OCI_VERSION);
}

/// The whole command line as clap knows it, for completions, man pages and tests.
pub fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}
