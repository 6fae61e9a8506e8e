//! The supervisor's command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use nix::fcntl::OFlag;

use super::client::{self, As, Format, PATIENCE, Source};
use super::config::Config;
use super::jobs::Runtime;
use super::node::{self, Node};
use super::record;
use super::supervise::{self, Supervisor, Wanted};
use crate::error::{Error, Result};
use crate::sys::clone::{Cloned, clone3};

/// How long `stop` waits for a supervisor that was asked: the longest stop that can be asked for, and what a removal may take.
const LONGEST_STOP: Duration = Duration::from_secs(86_400 + 600);

/// Runs a container, knows its health, and tells any cluster manager
#[derive(Debug, Parser)]
#[command(name = "orlop-shim", version, disable_help_subcommand = true)]
struct Line {
    /// Directory of all supervisors [default: /run/orlop-shim, or $XDG_RUNTIME_DIR/orlop-shim for ordinary users]
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a bundle, and start it again as it wants to be
    Run(RunArgs),
    /// Go on where a supervisor was that has died: its container is neither stopped nor started anew
    Resume(ResumeArgs),
    /// Say how a container is, in the words of a manager
    Check(CheckArgs),
    /// List the containers of all supervisors
    Status(StatusArgs),
    /// Show them live
    Top,
    /// Stop a container and its supervisor
    Stop(StopArgs),
    /// Stop a container, and start it again at once
    Restart(IdArgs),
    /// Have a container get no new work; it goes on
    Drain(IdArgs),
    /// It may get work again
    Undrain(IdArgs),
    /// Send a signal to a container's first process
    Kill(KillArgs),
    /// Execute the supervisor's program anew, without a change for its container
    Upgrade(IdArgs),
    /// Tell of all containers of all supervisors at one port
    Node(NodeArgs),
}

#[derive(Debug, Args)]
struct IdArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Whose words
    #[arg(long = "as", value_name = "MANAGER", default_value = "bool")]
    words: As,
    /// What is older says nothing
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<f64>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// How it is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, Args)]
struct StopArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// After that it is killed [default: as its configuration says]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
}

#[derive(Debug, Args)]
struct KillArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Answer over HTTP here; what is no address of the loopback interface takes --bearer-file
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Answer HAProxy's agent-check here: a container's id is sent, and its line comes back
    #[arg(long, value_name = "ADDRESS:PORT")]
    agent: Option<SocketAddr>,
    /// Where HAProxy asks from; may be given several times, and must be where --agent is no address of the loopback interface
    #[arg(long, value_name = "ADDRESS", requires = "agent")]
    agent_from: Vec<IpAddr>,
    /// A file with the token that must be told: 32 bytes at least, mode 600. SIGHUP has it read anew
    #[arg(long, value_name = "FILE", requires = "listen")]
    bearer_file: Option<PathBuf>,
    /// How often the supervisors are asked
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    period: f64,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The bundle: a directory with config.json, and health.json if it has one
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The container's id [default: the bundle's name]
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Return as soon as the program runs; the supervisor stays
    #[arg(short, long)]
    detach: bool,
    /// Answer what may be read on this port as well: 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Directory for the state of containers, as of orlop [default: /run/orlop, or $XDG_RUNTIME_DIR/orlop for ordinary users]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Have systemd make the cgroup
    #[arg(long)]
    systemd_cgroup: bool,
    /// Go on where a supervisor was that has died, if one was, as `resume` does
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, Args)]
struct ResumeArgs {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Return at once; the supervisor stays
    #[arg(short, long)]
    detach: bool,
    /// So many listening sockets are open from descriptor 100 on: this is the same process, with another program
    #[arg(long, value_name = "N", hide = true)]
    sockets: Option<usize>,
    #[arg(long, hide = true)]
    foreground: bool,
    #[arg(long, hide = true)]
    in_place: bool,
}

/// Runs it. The exit status.
pub fn main() -> i32 {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    let directory = line.directory.unwrap_or_else(record::default_directory);
    // A supervisor of its own goes to the root directory.
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    let root = crate::state::default_root(crate::host::in_runtime_dir());
    let source = Source { directory: directory.clone(), root };
    let done = match line.verb {
        Verb::Run(args) => run(args, directory),
        Verb::Resume(args) => resume(&args, directory),
        Verb::Check(args) => check(&args, &source),
        Verb::Status(args) => client::status(&source, args.format).and_then(|text| print(&text)),
        Verb::Top => client::top(&source).map(|()| 0),
        Verb::Stop(args) => stop(&args, &source),
        Verb::Restart(args) => post(&source, &args.id, "restart"),
        Verb::Drain(args) => post(&source, &args.id, "drain"),
        Verb::Undrain(args) => post(&source, &args.id, "undrain"),
        Verb::Kill(args) => post(&source, &args.id, &format!("kill?signal={}", args.signal.replace('+', "%2B"))),
        Verb::Upgrade(args) => posted(client::post(&source, &args.id, "/v1/upgrade", PATIENCE)),
        Verb::Node(args) => node(args, source),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "orlop-shim: {error:#}");
        1
    })
}

/// The command line as clap knows it, for completions, man pages and tests.
pub fn command_line() -> clap::Command {
    use clap::CommandFactory;
    Line::command()
}

fn print(text: &str) -> Result<i32> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map(|()| 0)
        .map_err(|error| Error::new("write to standard output").call("write", crate::host::errno(&error)))
}

fn seconds(option: &str, given: Option<f64>) -> Result<Option<Duration>> {
    let duration = |seconds| {
        Duration::try_from_secs_f64(seconds).map_err(|_| Error::new(format!("{option}: {seconds} is no time")))
    };
    given.map(duration).transpose()
}

fn check(args: &CheckArgs, source: &Source) -> Result<i32> {
    let checked = client::check(&args.id, source, args.words, seconds("--max-age", args.max_age)?);
    let _ = std::io::stderr().write_all(checked.stderr.as_bytes());
    print(&checked.stdout).map(|_| checked.status)
}

fn post(source: &Source, id: &str, verb: &str) -> Result<i32> {
    posted(client::post(source, id, &format!("/v1/containers/{id}/{verb}"), PATIENCE))
}

fn posted(answer: Result<(u16, String)>) -> Result<i32> {
    match answer? {
        (200, _) => Ok(0),
        (_, text) => {
            let error = serde_json::from_str::<serde_json::Value>(&text).ok();
            let error = error.and_then(|error| Some(error["error"].as_str()?.to_owned()));
            Err(Error::new(error.unwrap_or_else(|| text.trim().to_owned())))
        }
    }
}

/// Asks, and waits until the supervisor has ended: the container is gone then.
fn stop(args: &StopArgs, source: &Source) -> Result<i32> {
    let timeout = seconds("--timeout", args.timeout)?;
    let control = source.directory.join(&args.id).join(client::CONTROL);
    let query = timeout.map(|timeout| format!("?timeout={}", timeout.as_secs_f64())).unwrap_or_default();
    post(source, &args.id, &format!("stop{query}"))?;
    let told = Instant::now();
    while control.exists() {
        // The supervisor's own bounds end this; they are in its configuration.
        if told.elapsed() > LONGEST_STOP {
            return Err(Error::new(format!("the supervisor of {} has not ended", args.id)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(0)
}

fn run(args: RunArgs, directory: PathBuf) -> Result<i32> {
    let bundle = args.bundle.canonicalize().map_err(|error| {
        Error::new(format!("open the bundle {}", args.bundle.display())).call("realpath", crate::host::errno(&error))
    })?;
    let id = match args.id {
        Some(id) => id,
        None => bundle.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    crate::validate::container_id(&id)?;
    let config = Config::of_bundle(&bundle)?;
    let root = args.root.unwrap_or_else(|| crate::state::default_root(crate::host::in_runtime_dir()));
    let root = std::path::absolute(&root)
        .map_err(|error| Error::new("find the state directory").call("getcwd", crate::host::errno(&error)))?;
    let runtime = Runtime { root, systemd_cgroup: args.systemd_cgroup };
    let program = supervise::program();
    if args.resume && directory.join(&id).join(client::FACTS).exists() {
        let (saved, _) = supervise::left(&directory, &id, program)?;
        if saved.bundle != bundle {
            let left = saved.bundle.display();
            return Err(Error::new(format!("the supervisor that has left container {id} had the bundle {left}")));
        }
        let foreground = !args.detach;
        return resume(&ResumeArgs { id, detach: args.detach, sockets: None, foreground, in_place: false }, directory);
    }
    let wanted = Wanted { id, bundle, runtime, directory, listen: args.listen, config, program };
    if args.detach {
        return detached(move |parent| {
            let mut supervisor = Supervisor::new(wanted, false, None)?;
            supervisor.tell(parent);
            supervisor.run()
        });
    }
    Supervisor::new(wanted, true, None)?.run()
}

fn node(args: NodeArgs, source: Source) -> Result<i32> {
    let period = seconds("--period", Some(args.period))?.unwrap_or_default();
    let NodeArgs { listen, agent, agent_from, bearer_file: bearer, .. } = args;
    Node::new(node::Wanted { source, period, listen, agent, agent_from, bearer })?.run()
}

fn resume(args: &ResumeArgs, directory: PathBuf) -> Result<i32> {
    let (_, wanted) = supervise::left(&directory, &args.id, supervise::program())?;
    let inherited = args.sockets.map(supervise::inherited_sockets).transpose()?;
    let (foreground, id, program) = (args.foreground, args.id.clone(), wanted.program.clone());
    let go_on = move |wanted| {
        let mut supervisor = Supervisor::new(wanted, foreground, inherited)?;
        // Another supervisor may have ended only just now: read again, now that nobody else writes it.
        let (saved, _) = supervise::left(&directory, &id, program)?;
        supervisor.go_on(saved)?;
        Ok(supervisor)
    };
    if args.detach {
        return detached(move |parent| {
            let supervisor = go_on(wanted)?;
            crate::sys::path::write(std::os::fd::AsFd::as_fd(&parent), &[0])
                .map_err(|errno| Error::new("tell that it goes on").call("write", errno))?;
            drop(parent);
            supervisor.run()
        });
    }
    go_on(wanted)?.run()
}

/// Has a process of its own do `supervise`, and returns when that has written a byte of zero to what it is given. Anything else that
/// it writes is why it has failed.
fn detached(supervise: impl FnOnce(OwnedFd) -> Result<i32>) -> Result<i32> {
    let failed = |call: &str, errno| Error::new("detach the supervisor").call(call, errno);
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("pipe2", errno))?;
    match clone3(0, None).map_err(|errno| failed("clone3", errno))? {
        Cloned::Parent(..) => {}
        Cloned::Child => {
            drop(ours);
            let said = theirs.try_clone();
            let status = apart().and_then(|()| supervise(theirs));
            if let (Err(error), Ok(said)) = (&status, said) {
                // Nobody may listen any more.
                let _ = File::from(said).write_all(format!("{error:#}").as_bytes());
            }
            crate::sys::process::exit(status.unwrap_or(1));
        }
    }
    drop(theirs);
    let mut said = Vec::new();
    let mut ours = File::from(ours);
    let mut buffer = [0; 4096];
    // An error ends with its process; a good word is one byte.
    while let Ok(length @ 1..) = ours.read(&mut buffer) {
        said.extend_from_slice(&buffer[..length]);
        if said[0] == 0 {
            break;
        }
    }
    match said.first() {
        Some(0) => Ok(0),
        None => Err(Error::new("the supervisor has died before the container's start")),
        Some(_) => {
            let _ = writeln!(std::io::stderr(), "orlop-shim: {}", String::from_utf8_lossy(&said));
            Ok(1)
        }
    }
}

/// A session of its own, and no standard descriptor of the caller's.
fn apart() -> Result<()> {
    let failed = |call: &str, errno| Error::new("detach the supervisor").call(call, errno);
    crate::sys::process::setsid().map_err(|errno| failed("setsid", errno))?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| failed("open(/dev/null)", crate::host::errno(&error)))?;
    for number in 0..3 {
        crate::sys::process::dup_onto(std::os::fd::AsFd::as_fd(&null), number)
            .map_err(|errno| failed("dup3", errno))?;
    }
    let root = OsString::from("/");
    std::env::set_current_dir(root).map_err(|error| failed("chdir(/)", crate::host::errno(&error)))
}

/// Begins a supervisor of its own for a container; true when the program runs. Why not is on standard error.
pub(super) fn begin(bundle: &std::path::Path, id: &str, source: &Source, systemd_cgroup: bool) -> Result<bool> {
    let args = RunArgs {
        bundle: bundle.to_owned(),
        id: Some(id.to_owned()),
        detach: true,
        listen: None,
        root: Some(source.root.clone()),
        systemd_cgroup,
        resume: false,
    };
    run(args, source.directory.clone()).map(|status| status == 0)
}
