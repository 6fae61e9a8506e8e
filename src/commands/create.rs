//! `create` and `run`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::Global;
use crate::bundle::Bundle;
use crate::console::Terminal;
use crate::error::{Error, Result};
use crate::exec::create::{Container, create as make};
use crate::foreground::{self, Pipes, Relay, Signals, Writer};
use crate::host::{self, errno};
use crate::plan::{self, HostFacts, Options, Plan};
use crate::resctrl;
use crate::sys::socket;
use crate::validate;

/// How long a console socket's peer may take.
const CONSOLE: Duration = Duration::from_secs(30);

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The container's id, unique on this host
    #[arg(value_name = "ID")]
    id: String,
    /// The bundle: the directory that holds config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Take this file for the bundle's config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unix socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that gets a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// File that gets the pid of the container's first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not use pivot_root (for an initial ramfs); weaker
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors from 3 on to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

/// `create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    common: Common,
}

/// `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// Return as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the container's state after it has stopped
    #[arg(long)]
    keep: bool,
    /// Do not adopt processes that the container leaves behind
    #[arg(long)]
    no_subreaper: bool,
}

impl Common {
    /// Of a `restore`, whose image says the rest.
    pub(super) fn of_restore(id: &str, bundle: &Path) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            config: None,
            console_socket: None,
            pidfd_socket: None,
            pid_file: None,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
        }
    }
}

/// All that is known before anything is made.
pub(super) struct Prepared {
    pub(super) bundle: Bundle,
    pub(super) facts: HostFacts,
    pub(super) options: Options,
    pub(super) plan: Plan,
}

pub(super) fn prepare(common: &Common, run: bool, global: &Global) -> Result<Prepared> {
    validate::container_id(&common.id)?;
    let bundle = Bundle::load_with(&common.bundle, common.config.as_deref())?;
    let mut facts = HostFacts::find(global.rootless(), common.no_pivot)?;
    validate::validate(&bundle.spec, &host::context(&bundle, &facts))?;
    host::check_root(&bundle)?;
    let listen_fds = listen_fds();
    let notify = crate::notify::manager().map(|_| global.store().root().join(&common.id).join(crate::notify::NAME));
    let notify = notify.map(std::path::absolute).transpose();
    let options = Options {
        id: common.id.clone(),
        run,
        no_pivot: common.no_pivot,
        no_new_keyring: common.no_new_keyring,
        preserve_fds: preserved(common.preserve_fds.saturating_add(listen_fds))?,
        listen_fds,
        notify: notify.map_err(|error| Error::new("find the state directory").call("getcwd", errno(&error)))?,
        systemd_cgroup: global.systemd_cgroup,
    };
    let mut plan = plan::create(&bundle.spec, &bundle.dir, &facts, &options)?;
    plan.warnings.extend(bundle.warnings.iter().cloned());
    if plan.intel_rdt.is_some() {
        facts.resctrl = Some(resctrl::find()?);
    }
    super::log::debug(global, || plan::show::as_text(&plan));
    Ok(Prepared { bundle, facts, options, plan })
}

/// How many sockets our caller has handed over to this very process (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = variable("LISTEN_PID") == Some(std::process::id());
    variable("LISTEN_FDS").filter(|_| ours).unwrap_or(0)
}

/// `--preserve-fds N` promises that N descriptors are open. All above them are ours alone from here on: what the caller
/// has left open does not get into hooks.
pub(super) fn preserved(count: u32) -> Result<u32> {
    let open = |fd: u32| crate::sys::path::fstat(crate::sys::path::inherited(fd as i32)).is_ok();
    let count = count.min(1 << 20);
    match (3..3 + count).find(|fd| !open(*fd)) {
        None => {
            crate::sys::process::close_range(3 + count, u32::MAX, true)
                .map_err(|errno| Error::new("mark descriptors close-on-exec").call("close_range", errno))?;
            Ok(count)
        }
        Some(fd) => {
            Err(Error::new(format!("unable to stat preserved-fd {} (of {count}): bad file descriptor", fd - 3)))
        }
    }
}

/// The socket for the terminal's master, and our end of it when the terminal stays in the foreground.
pub(super) struct Console {
    child: Option<OwnedFd>,
    ours: Option<OwnedFd>,
}

impl Console {
    pub(super) fn new(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<Self> {
        match (terminal, detach, socket) {
            (true, true, Some(path)) => {
                Ok(Self { child: Some(foreground::connect("console socket", path)?), ours: None })
            }
            (true, true, None) => {
                Err(Error::new("cannot allocate tty if runc will detach without setting console socket")
                    .at("/process/terminal")
                    .hint("--console-socket names a socket for the terminal's master, or set terminal to false"))
            }
            (_, _, Some(_)) => Err(Error::new("cannot use console socket if runc will not detach or allocate tty")),
            (true, false, None) => {
                let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                    .map_err(|errno| Error::new("make the console socket").call("socketpair", errno))?;
                Ok(Self { child: Some(theirs), ours: Some(ours) })
            }
            (false, _, None) => Ok(Self { child: None, ours: None }),
        }
    }

    pub(super) fn child(&self) -> Option<&OwnedFd> {
        self.child.as_ref()
    }

    /// What is between a foreground process and our own streams: its terminal, once it has sent the master, or `pipes`.
    pub(super) fn relay(self, pipes: Pipes) -> Result<Relay> {
        drop(self.child);
        match self.ours {
            Some(ours) => {
                let master = foreground::receive_master(ours.as_fd(), CONSOLE)?;
                Ok(Relay::Terminal(Box::new(Terminal::new(master)?)))
            }
            None => Ok(Relay::Pipes(pipes)),
        }
    }
}

/// What a program of the user `uid` that stays in the foreground, without a terminal, needs to open its stdout by name.
pub(super) fn pipes(foreground: bool, spec: &Spec, uid: Option<u32>) -> Result<Pipes> {
    if !foreground {
        return Ok(Pipes::none());
    }
    let user = uid.and_then(|uid| plan::host_uid(spec, uid));
    let owns =
        |owner| user.is_some() && plan::has_host_uid(spec, owner).unwrap_or_else(|| nix::unistd::geteuid().is_root());
    Pipes::needed(&Writer { user, owns })
}

/// The socket of `--pidfd-socket`, connected before anything is made; without the option nothing is sent.
pub(super) struct PidfdSocket(Option<OwnedFd>);

impl PidfdSocket {
    pub(super) fn new(path: Option<&Path>) -> Result<Self> {
        path.map(|path| foreground::connect("pidfd socket", path)).transpose().map(Self)
    }

    /// Sends the process in one message with runc's word for how it was made: `standard`, or `setns` for exec.
    pub(super) fn send(self, process: BorrowedFd<'_>, how: &[u8]) -> Result<()> {
        let Some(socket) = self.0 else { return Ok(()) };
        socket::sendmsg(socket.as_fd(), how, process)
            .map_err(|errno| Error::new("send the process to the pidfd socket").call("sendmsg(SCM_RIGHTS)", errno))
    }
}

/// `create`.
pub(super) fn create(args: &CreateArgs, global: &Global) -> anyhow::Result<i32> {
    let common = &args.common;
    let prepared = prepare(common, false, global)?;
    let console = Console::new(prepared.plan.terminal, true, common.console_socket.as_deref())?;
    let pidfd_socket = PidfdSocket::new(common.pidfd_socket.as_deref())?;
    let container = launch(&prepared, global, &console)?;
    let told = tell(common, &container, pidfd_socket);
    let container = finish_or_undo(container, told)?;
    super::log::warnings(global, &container.warnings, false);
    Ok(0)
}

fn launch(prepared: &Prepared, global: &Global, console: &Console) -> Result<Container> {
    let Prepared { bundle, facts, options, plan } = prepared;
    make(bundle, plan, facts, options, &global.store(), console.child())
}

/// The caller learns which process it is.
fn tell(common: &Common, container: &Container, pidfd_socket: PidfdSocket) -> Result<()> {
    write_pid_file(common.pid_file.as_deref(), container.process.pid)?;
    pidfd_socket.send(container.process.pidfd.as_fd(), b"standard")
}

/// Takes a container away again when what follows its making fails.
pub(super) fn finish_or_undo(container: Container, result: Result<()>) -> Result<Container> {
    match result {
        Ok(()) => Ok(container),
        Err(error) => Err(container.give_up(error)),
    }
}

/// `run`.
pub(super) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<i32> {
    let common = &args.common;
    let prepared = prepare(common, true, global)?;
    let console = Console::new(prepared.plan.terminal, args.detach, common.console_socket.as_deref())?;
    let pidfd_socket = PidfdSocket::new(common.pidfd_socket.as_deref())?;
    let foreground = !args.detach;
    if foreground && !args.no_subreaper {
        foreground::become_subreaper()?;
    }
    let signals = if foreground { Some(Signals::block()?) } else { None };
    let spec = &prepared.bundle.spec;
    let user = spec.process().as_ref().map(|process| process.user().uid());
    let mut pipes = pipes(foreground && !prepared.plan.terminal, spec, user)?;
    let container = pipes.lend(|| launch(&prepared, global, &console))?;
    let started = tell(common, &container, pidfd_socket)
        .and_then(|()| super::start::poststart(spec, &container.state, Some(&container.state.bundle), &mut pipes));
    let container = finish_or_undo(container, started)?;
    let notes: &[String] = if foreground { &prepared.plan.notes } else { &[] };
    super::log::warnings(global, &[&container.warnings, notes].concat(), foreground);
    Ok(see_through(container, spec, (console, pipes), signals, args.keep)?)
}

/// A container that runs: in the foreground (with `signals`) until its end, its exit status; or only until it is ready.
pub(super) fn see_through(
    container: Container,
    spec: &Spec,
    (console, pipes): (Console, Pipes),
    signals: Option<Signals>,
    keep: bool,
) -> Result<i32> {
    let (process, state, dir, notify) = container.into_parts();
    // Others may kill or exec while it runs.
    let dir = dir.unlock();
    let Some(signals) = signals else {
        super::start::until_ready(notify.as_ref(), &process.pidfd, process.pid.as_raw());
        return Ok(0);
    };
    let status = console
        .relay(pipes)
        .and_then(|relay| foreground::wait(process.pid, process.pidfd.as_fd(), &signals, relay, notify));
    match dir.lock() {
        _ if keep => {}
        // Another has deleted it, which does not change how its program ended.
        Err(error) if error.message.contains("does not exist") => {}
        locked => super::delete::remove(&locked?, &state, Some(spec), Some(&state.bundle))?,
    }
    status
}

/// Digits and nothing else, as go-runc reads it; a new file renamed into place.
pub(super) fn write_pid_file(path: Option<&Path>, pid: Pid) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let failed = |call: &str, error: &std::io::Error| {
        Error::new(format!("write the pid file {}", path.display())).call(call, errno(error))
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o644);
    let write = |mut file: std::fs::File| std::io::Write::write_all(&mut file, pid.to_string().as_bytes());
    options.open(&temporary).and_then(write).map_err(|error| failed("open", &error))?;
    std::fs::rename(&temporary, path).map_err(|error| failed("rename", &error))
}
