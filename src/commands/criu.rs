//! `checkpoint` and `restore`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Global;
use super::create::{Common, Console, finish_or_undo, prepare, see_through, write_pid_file};
use crate::error::{Error, Result};
use crate::exec::dump::{self, Cgroups};
use crate::exec::restore::{self, Making, Wanted};
use crate::foreground::{self, Pipes, Signals};
use crate::state::Status;
use crate::sys::{path, process};

/// What both have.
#[derive(Debug, Args)]
struct Shared {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Directory of the image
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
    /// Directory of criu's log and work files [default: that of the image]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Keep established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets that lead out of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a container that belongs to a session outside, as one on the caller's terminal
    #[arg(long)]
    shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    file_locks: bool,
    /// How cgroups and their properties come back
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<Mode>,
    /// Take this namespace without what is in it; network, which always goes so, is the only one
    #[arg(long, value_name = "NAMESPACE")]
    empty_ns: Vec<String>,
    /// Take pages out of an earlier image that are in a later one as well
    #[arg(long)]
    auto_dedup: bool,
    /// Bring memory when the container already runs
    #[arg(long)]
    lazy_pages: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Properties of cgroups that are made (what is taken without the option)
    Soft,
    /// Properties of all
    Full,
    /// As full, and no cgroup may be there
    Strict,
    /// Nothing
    Ignore,
}

impl Shared {
    fn common(&self, global: &Global) -> Result<dump::Common> {
        if let Some(other) = self.empty_ns.iter().find(|name| *name != "network") {
            return Err(Error::new(format!("namespace {other:?} is not supported")).hint("--empty-ns takes network"));
        }
        // An option that stands there without a value is none, as with runc.
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        let images = if given(&self.image_path) { self.image_path.clone() } else { "checkpoint".into() };
        Ok(dump::Common {
            program: global.criu.clone(),
            images,
            work: self.work_path.clone().filter(given),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: self.manage_cgroups_mode.map(|mode| match mode {
                Mode::Soft => Cgroups::Soft,
                Mode::Full => Cgroups::Full,
                Mode::Strict => Cgroups::Strict,
                Mode::Ignore => Cgroups::Ignore,
            }),
        })
    }
}

/// `checkpoint`.
#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    shared: Shared,
    /// An earlier image, relative to --image-path: what has not changed since is not written again
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Dump memory alone, and let the container go on
    #[arg(long)]
    pre_dump: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files a name that are open and have none any more
    #[arg(long)]
    link_remap: bool,
    /// Send memory to a page server, or with --lazy-pages serve it there
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Descriptor that gets a byte of 0 when memory can be fetched (with --lazy-pages)
    #[arg(long, value_name = "FD", allow_negative_numbers = true)]
    status_fd: Option<i32>,
}

/// Dumps a container, and deletes it unless it is to go on.
pub(super) fn checkpoint(args: &CheckpointArgs, global: &Global) -> anyhow::Result<i32> {
    let common = args.shared.common(global)?;
    // Before a file of our own could take the number.
    let status = args.status_fd.filter(|fd| *fd >= 0 && common.lazy_pages).map(status_fd).transpose()?;
    let page_server = args.page_server.as_deref().filter(|text| !text.is_empty()).map(address).transpose()?;
    let dir = global.store().open(&args.shared.id)?.lock()?;
    let state = dir.read()?;
    match state.status(&dir)? {
        Status::Running | Status::Paused => {}
        status => {
            let text = format!("Container cannot be checkpointed in {} state", status.as_str());
            anyhow::bail!(state.explained(Error::new(text)));
        }
    }
    let goes_on = args.leave_running || args.pre_dump;
    let options = dump::Options {
        common,
        parent: args.parent_path.clone().filter(|path| !path.as_os_str().is_empty()),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server,
        status,
    };
    dump::checkpoint(&dir, &state, options)?;
    if !goes_on {
        let spec = dir.config(&state.bundle).ok().map(|saved| saved.spec);
        super::delete::remove(&dir, &state, spec.as_ref(), None)?;
    }
    Ok(0)
}

/// The descriptor, with its owner gone: it is closed when it has been written to, or with us.
fn status_fd(number: i32) -> Result<OwnedFd> {
    let failed = |why: &str| Error::new(format!("invalid --status-fd argument {number}: {why}"));
    let flags = nix::fcntl::fcntl(path::inherited(number), nix::fcntl::FcntlArg::F_GETFL);
    let flags = flags.map_err(|errno| failed(&crate::error::errno_text(errno)))?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(failed("not writable"));
    }
    let copy = process::dup_from(path::inherited(number), 3);
    let copy = copy.map_err(|errno| failed(&crate::error::errno_text(errno)))?;
    // Who waits for its end must not wait for ours.
    let number = number.unsigned_abs();
    process::close_range(number, number, false).map_err(|errno| failed(&crate::error::errno_text(errno)))?;
    Ok(copy)
}

/// `ADDRESS:PORT`, an IPv6 address in brackets.
fn address(text: &str) -> Result<(String, u16)> {
    let wrong = || Error::new("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if address.is_empty() || port.is_empty() {
        return Err(wrong());
    }
    let port = port.parse().map_err(|_| Error::new("Invalid port number").hint("1 to 65535"))?;
    Ok((address.to_owned(), port))
}

/// `restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    shared: Shared,
    /// The bundle: the directory that holds config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Unix socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// File that gets the pid of the container's first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not adopt processes that the container leaves behind
    #[arg(long)]
    no_subreaper: bool,
    /// Taken for callers' sake: the image says how the root was entered
    #[arg(long)]
    no_pivot: bool,
    /// Bring established TCP connections back closed
    #[arg(long)]
    tcp_close: bool,
    /// Another LSM profile for the processes, TYPE:NAME
    #[arg(long, value_name = "PROFILE")]
    lsm_profile: Option<String>,
    /// Another SELinux label for mounts
    #[arg(long, value_name = "LABEL")]
    lsm_mount_context: Option<String>,
}

/// Makes a container from an image, and runs it in the foreground unless it is to be detached.
pub(super) fn restore(args: &RestoreArgs, global: &Global) -> anyhow::Result<i32> {
    let given = |text: &String| !text.is_empty();
    let wanted = Wanted {
        common: args.shared.common(global)?,
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile.clone().filter(given),
        lsm_mount_context: args.lsm_mount_context.clone().filter(given),
    };
    let common = Common::of_restore(&args.shared.id, &args.bundle);
    let prepared = prepare(&common, true, global)?;
    let console = Console::new(prepared.plan.terminal, args.detach, args.console_socket.as_deref())?;
    let foreground = !args.detach;
    if foreground && !args.no_subreaper {
        foreground::become_subreaper()?;
    }
    let signals = if foreground { Some(Signals::block()?) } else { None };
    let making = Making {
        bundle: &prepared.bundle,
        plan: &prepared.plan,
        facts: &prepared.facts,
        options: &prepared.options,
        console: console.child(),
    };
    let container = restore::restore(&making, &wanted, &global.store())?;
    let told = write_pid_file(args.pid_file.as_deref(), container.process.pid);
    let container = finish_or_undo(container, told)?;
    super::log::warnings(global, &container.warnings, foreground);
    Ok(see_through(container, &prepared.bundle.spec, (console, Pipes::none()), signals, false)?)
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        assert_eq!(address("0.0.0.0:27277").unwrap(), ("0.0.0.0".to_owned(), 27277));
        assert_eq!(address("[::1]:1").unwrap(), ("::1".to_owned(), 1));
        for text in ["", "1", ":1", "a:", "a:x", "a:65536", "a:-1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
