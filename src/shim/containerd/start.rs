//! `start`: a socket that listens, a process that serves it, and only then an answer.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::bootstrap::{self, Call, Told};
use super::events::Events;
use super::server::{Log, Shim};
use crate::error::{Error, Result};
use crate::foreground::become_subreaper;
use crate::host::errno;
use crate::sys::clone::{Cloned, clone3};
use crate::sys::process::{close_range, dup_onto, exit, setsid};

/// Starts a shim for the container of the working directory, or finds the one of its group, and answers with its address.
pub fn start(call: &Call) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let told = Told::parse(call, &super::input()?, variable("MAX_SHIM_VERSION").as_deref(), variable("TTRPC_ADDRESS"))?;
    let config = std::fs::read("config.json")
        .map_err(|error| Error::new("read the bundle's config.json").call("open", errno(&error)))?;
    let config: serde_json::Value = serde_json::from_slice(&config)
        .map_err(|error| Error::new(format!("config.json is not valid JSON: {error}")))?;
    let group = bootstrap::group(&config, &call.id);
    let daemon = told.address.as_deref().unwrap_or(&call.address);
    let socket = bootstrap::socket(&told.sockets, daemon, &call.namespace, group)?;
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = listen(&socket)? {
        let started = serve(call, &told, listener, &socket);
        if let Err(error) = started {
            let _ = std::fs::remove_file(&socket);
            return Err(error);
        }
    }
    write_address(&address)?;
    super::say(&told.answer(&address))
}

/// A listener on the socket; None when a shim of the group has one.
fn listen(socket: &Path) -> Result<Option<UnixListener>> {
    let failed = |call: &str, error: &std::io::Error| {
        Error::new(format!("listen on {}", socket.display())).call(call, errno(error))
    };
    make_directory(socket.parent().unwrap_or(Path::new("/")))?;
    for last in [false, true] {
        match UnixListener::bind(socket) {
            Ok(listener) => {
                std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
                    .map_err(|error| failed("chmod", &error))?;
                return Ok(Some(listener));
            }
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && !last => {
                if UnixStream::connect(socket).is_ok() {
                    return Ok(None);
                }
                // What a shim has left that was killed.
                std::fs::remove_file(socket).map_err(|error| failed("unlink", &error))?;
            }
            Err(error) => return Err(failed("bind", &error)),
        }
    }
    Ok(None)
}

/// The directory of sockets: nobody else's, and nobody else may look into it.
fn make_directory(path: &Path) -> Result<()> {
    let failed = |call: &str, error: &std::io::Error| {
        Error::new(format!("make the directory for sockets {}", path.display())).call(call, errno(error))
    };
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(|error| failed("mkdir", &error))?;
    let metadata = std::fs::symlink_metadata(path).map_err(|error| failed("lstat", &error))?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::new(format!("{} is not a directory of ours", path.display())));
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(|error| failed("chmod", &error))
}

/// The file `address`, which containerd to 1.7 reads when it comes back.
fn write_address(address: &str) -> Result<()> {
    let new = ".address";
    std::fs::write(new, address)
        .and_then(|()| std::fs::rename(new, "address"))
        .map_err(|error| Error::new("write the bundle's file address").call("rename", errno(&error)))
}

/// Where events wait for containerd.
pub fn events_file(socket: &Path) -> PathBuf {
    PathBuf::from(format!("{}.events", socket.display()))
}

/// Clones the process that serves. It has nothing of ours but the listener and the log.
fn serve(call: &Call, told: &Told, listener: UnixListener, socket: &Path) -> Result<()> {
    let failed = |call: &str, errno| Error::new("start the shim's process").call(call, errno);
    let events = Events::open(events_file(socket), told.events.clone())?;
    // Both ends: to open the writing one alone would fail until containerd reads, and to write to it once it has gone.
    let mut log = File::options();
    log.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let log = log.open("log").ok();
    let parents_score = read_score(nix::unistd::getppid().as_raw());
    let cgroup = cgroup(&told.options.shim_cgroup)?;
    match clone3(0, cgroup.as_ref().map(AsFd::as_fd)).map_err(|errno| failed("clone3", errno))? {
        Cloned::Parent(..) => Ok(()),
        Cloned::Child => {
            let keep = [listener.as_fd(), events.file()].into_iter().chain(log.as_ref().map(AsFd::as_fd));
            if detach(&keep.collect::<Vec<_>>(), log.as_ref()).is_err() {
                exit(1);
            }
            let mut log = Log::new(log, told.debug);
            if let Err(why) = adjust(parents_score) {
                log.warn(why);
            }
            let socket = socket.to_owned();
            let shim = Shim::new(listener, socket, events, log, call.namespace.clone(), told.options.clone());
            exit(i32::from(shim.and_then(Shim::serve).is_err()))
        }
    }
}

/// A session of its own, the parent of what containers leave behind, with no descriptor but `kept`.
fn detach(kept: &[BorrowedFd<'_>], log: Option<&File>) -> Result<()> {
    let failed = |call: &str, errno| Error::new("detach the shim").call(call, errno);
    setsid().map_err(|errno| failed("setsid", errno))?;
    become_subreaper()?;
    std::env::set_current_dir("/").map_err(|error| failed("chdir", errno(&error)))?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(|error| failed("open", errno(&error)))?;
    for number in 0..3 {
        let to = log.filter(|_| number == 2).unwrap_or(&null);
        dup_onto(to.as_fd(), number).map_err(|errno| failed("dup3", errno))?;
    }
    drop(null);
    let mut open: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    open.sort_unstable();
    let mut first = 3;
    for number in open {
        if number > first {
            close_range(first as u32, number as u32 - 1, false).map_err(|errno| failed("close_range", errno))?;
        }
        first = number + 1;
    }
    close_range(first as u32, u32::MAX, false).map_err(|errno| failed("close_range", errno))
}

fn read_score(pid: i32) -> Option<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
}

/// The kernel takes the shim a little before containerd when memory is short.
fn adjust(parents: Option<i32>) -> Result<()> {
    let Some(score) = parents.map(|score| (score + 1).min(1000)) else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(|error| Error::new(format!("set the shim's oom_score_adj to {score}")).call("write", errno(&error)))
}

/// The cgroup that the options name, for the process to be born in.
fn cgroup(path: &str) -> Result<Option<File>> {
    if path.is_empty() {
        return Ok(None);
    }
    let hierarchy = crate::cgroup::Hierarchy::find()?
        .ok_or_else(|| Error::new("shim_cgroup is given, and cgroup2 is not mounted"))?;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let open = options.open(hierarchy.root.join(path.trim_start_matches('/')));
    open.map(Some).map_err(|error| Error::new(format!("put the shim into cgroup {path}")).call("open", errno(&error)))
}
