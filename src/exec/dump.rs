//! `checkpoint`: criu dumps the container's processes.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Spec;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::criu::rpc::{self, Feature, Kind, opts};
use crate::criu::wire::Message;
use crate::criu::{Criu, Place};
use crate::error::{Error, Result};
use crate::host::{self, errno};
use crate::plan::{self, External, HostFacts, Plan};
use crate::state::{Dir, State};
use crate::sys::path as sys;
use crate::sys::process::poll_in;

/// The file in the image directory with what the container's standard streams were, as JSON.
pub const DESCRIPTORS: &str = "descriptors.json";
/// How criu's key of a file begins that is not the container's (criu(8), `--external file`).
pub const FILE: &str = "file[";
/// The annotation that names a file with options for criu; empty for none.
pub const CONFIG: &str = "org.criu.config";
/// The file that is taken without it, if it is there.
const DEFAULT_CONFIG: &str = "/etc/criu/runc.conf";

/// What both ways have in common.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// criu: a path, or a name to look for in PATH.
    pub program: String,
    /// The directory of the image.
    pub images: PathBuf,
    /// The directory of logs; the same without it.
    pub work: Option<PathBuf>,
    /// Established TCP connections are kept.
    pub tcp_established: bool,
    /// Unix sockets may lead out of the container.
    pub ext_unix_sk: bool,
    /// The container may belong to a session outside.
    pub shell_job: bool,
    /// File locks are kept.
    pub file_locks: bool,
    /// Pages that are in a later image as well go out of the earlier one.
    pub auto_dedup: bool,
    /// Memory comes when the container already runs.
    pub lazy_pages: bool,
    /// What is done with cgroups, criu's `soft` when not given.
    pub cgroups: Option<Cgroups>,
}

/// `criu_cg_mode`: how the properties of cgroups come back (criu(8), `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Cgroups {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

/// What `checkpoint` alone has.
#[derive(Debug, Default)]
pub struct Options {
    /// What both have.
    pub common: Common,
    /// An earlier image, relative to this one.
    pub parent: Option<PathBuf>,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// Memory alone, and the container goes on.
    pub pre_dump: bool,
    /// Connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Files that were unlinked get a name.
    pub link_remap: bool,
    /// Where memory goes in place of the image directory.
    pub page_server: Option<(String, u16)>,
    /// Gets a byte of 0 when memory can be fetched.
    pub status: Option<OwnedFd>,
}

/// The directories of one call, open.
#[derive(Debug)]
pub struct Directories {
    /// Of the image.
    pub images: OwnedFd,
    /// Of logs, if it is another.
    pub work: Option<OwnedFd>,
    /// criu's log.
    pub log: PathBuf,
}

impl Directories {
    /// Opens them; the one for logs is made where it is missing.
    ///
    /// # Errors
    /// open(2) or mkdir(2) fails.
    pub fn open(common: &Common, log: &str) -> Result<Self> {
        let work = common.work.as_ref().map(|path| make(path, false).and_then(|_| open(path))).transpose()?;
        let log = common.work.as_ref().unwrap_or(&common.images).join(log);
        Ok(Self { images: open(&common.images)?, work, log })
    }
}

/// True: it was not there before.
fn make(path: &Path, with_parents: bool) -> Result<bool> {
    let there = path.exists();
    match DirBuilder::new().mode(0o700).recursive(with_parents).create(path) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
            Err(Error::new(format!("make the directory {}", path.display())).call("mkdir", errno(&error)))
        }
        made => Ok(made.is_ok() && !there),
    }
}

/// A restore opens the images from inside the user namespace: its root's group may enter the directory that was made for them,
/// and nobody else. False: there is no user namespace, or the directory is the caller's own.
fn let_in(path: &Path, made: bool, pid: i32) -> Result<bool> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap_or_default();
    let zero = |line: &str| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "0").then(|| fields.next()?.parse::<u32>().ok()).flatten()
    };
    let Some(group) = map.lines().find_map(zero).filter(|group| made && *group != 0) else { return Ok(false) };
    let directory = open(path)?;
    let owned = sys::fchown(directory.as_fd(), u32::MAX, group).and_then(|()| sys::fchmod(directory.as_fd(), 0o710));
    owned.map(|()| true).map_err(|errno| {
        let failed = format!("let group {group} of the user namespace enter {}", path.display());
        Error::new(failed).call("fchown", errno)
    })
}

fn open(path: &Path) -> Result<OwnedFd> {
    let failed = |errno| Error::new(format!("open the directory {}", path.display())).call("open", errno);
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::EINVAL))?;
    sys::openat(sys::CWD, &text, libc::O_RDONLY | libc::O_DIRECTORY, 0).map_err(failed)
}

/// criu's options that both ways have. `spec` may name a file with more.
pub fn message(common: &Common, directories: &Directories, log: &str, spec: &Spec) -> Message {
    let mut message = Message::default();
    message.number(opts::IMAGES_DIR_FD, directories.images.as_raw_fd());
    if let Some(work) = &directories.work {
        message.number(opts::WORK_DIR_FD, work.as_raw_fd());
    }
    message.number(opts::LOG_LEVEL, 4);
    message.text(opts::LOG_FILE, log);
    for (field, set) in [
        (opts::MANAGE_CGROUPS, true),
        (opts::NOTIFY_SCRIPTS, true),
        (opts::ORPHAN_PTS_MASTER, true),
        (opts::SHELL_JOB, common.shell_job),
        (opts::EXT_UNIX_SK, common.ext_unix_sk),
        (opts::TCP_ESTABLISHED, common.tcp_established),
        (opts::FILE_LOCKS, common.file_locks),
        (opts::AUTO_DEDUP, common.auto_dedup),
        (opts::LAZY_PAGES, common.lazy_pages),
    ] {
        message.number(field, set);
    }
    // Devices and addresses are not the runtime's: whoever made them makes them again, by a hook.
    message.number(opts::EMPTY_NS, libc::CLONE_NEWNET);
    if let Some(mode) = common.cgroups {
        message.number(opts::MANAGE_CGROUPS_MODE, mode as u8);
    }
    let annotation = spec.annotations().as_ref().and_then(|all| all.get(CONFIG)).map(String::as_str);
    match annotation.unwrap_or(DEFAULT_CONFIG) {
        "" => {}
        file => message.text(opts::CONFIG_FILE, file),
    }
    message
}

/// criu's key of an external namespace, as runc has it.
pub fn namespace_key(flag: i32) -> Option<(&'static str, &'static str)> {
    match flag {
        libc::CLONE_NEWNET => Some(("net", "extRootNetNS")),
        libc::CLONE_NEWPID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Where a path of the container leads, from its root on; none when there is nothing. `root` may be in another mount
/// namespace.
pub fn resolve(root: BorrowedFd<'_>, external: &External) -> Option<CString> {
    let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS;
    let file = sys::openat2(root, &external.target, libc::O_PATH, 0, resolve).ok()?;
    let kind = sys::fstat(file.as_fd()).ok()?.st_mode & libc::S_IFMT;
    if external.only_file && kind == libc::S_IFDIR {
        return None;
    }
    let (above, path) = (path_of(root)?, path_of(file.as_fd())?);
    let below = path.strip_prefix(&above).ok()?;
    CString::new(Path::new("/").join(below).into_os_string().as_bytes()).ok()
}

fn path_of(file: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Has criu dump a container that runs.
///
/// # Errors
/// criu's, after which the container goes on as before.
pub fn checkpoint(dir: &Dir, state: &State, options: Options) -> Result<()> {
    let saved = dir.config(&state.bundle)?;
    let plan = plan_of(dir, state, &saved)?;
    if plan::landlock_wanted(&saved.spec) {
        return Err(Error::new("a container with Landlock rules cannot be checkpointed")
            .at("/annotations")
            .hint("criu does not know them: a container that it restores would be free of them"));
    }
    let common = &options.common;
    let made = make(&common.images, true)?;
    let entered = let_in(&common.images, made, state.pid)?;
    if let Some(parent) = &options.parent {
        check_parent(&common.images, parent)?;
    }
    let directories = Directories::open(common, "dump.log")?;
    let mut message = message(common, &directories, "dump.log", &saved.spec);
    own_options(&options, state, &mut message);
    let process = state.process()?.ok_or_else(|| Error::new("the container has stopped"))?;
    namespaces(&plan, state, &mut message)?;
    if let Some(cgroup) = state.open_cgroup()? {
        all_are_its_own(&cgroup, state.pid)?;
        message.text(opts::FREEZE_CGROUP, cgroup.path().as_os_str().as_bytes());
    }
    if !options.pre_dump {
        mounts(&plan, state, &mut message)?;
        descriptors(state, &directories, &mut message)?;
    }
    // As criu means its files to be, whatever the caller's mask.
    let place = Place { umask: entered.then_some(0o022), ..Place::default() };
    let criu = Criu::start(&common.program, &place)?;
    let kind = if options.pre_dump { Kind::PreDump } else { Kind::Dump };
    if options.pre_dump {
        criu.need(Feature::MemoryTracking, "--pre-dump")?;
    }
    if common.lazy_pages {
        criu.need(Feature::LazyPages, "--lazy-pages")?;
    }
    let mut status = options.status;
    let killed = || is_ending(process.as_fd(), state.pid);
    criu.carry_out(kind, &message, &directories.log, &killed, &mut |told, _| {
        if told.script != "status-ready" {
            return Ok(());
        }
        let Some(file) = status.take() else { return Ok(()) };
        sys::write_all_at_once(file.as_fd(), &[0])
            .map_err(|errno| Error::new("write to --status-fd").call("write", errno))
    })
}

/// Has this process ended, or is it about to? In a PID namespace the first one waits for all others, also for those that their tracer
/// has not let go of (`PF_EXITING` in the flags of proc_pid_stat(5)).
fn is_ending(process: BorrowedFd<'_>, pid: i32) -> bool {
    const PF_EXITING: u64 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0) || poll_in(process, 0).unwrap_or(true)
}

/// criu dumps a process and its descendants, and takes another one in their cgroup for an error, without a word of what it is.
fn all_are_its_own(cgroup: &Cgroup, first: i32) -> Result<()> {
    let stat = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    // The name is in parentheses and may hold any character; the parent is the second field after it (proc(5)).
    let parent = |stat: String| stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok();
    for pid in cgroup.processes()? {
        let Some(own) = stat(pid) else { continue };
        let mut ancestor = pid;
        while ancestor != first && ancestor > 1 {
            ancestor = stat(ancestor).and_then(parent).unwrap_or(0);
        }
        // What has ended meanwhile stands in nobody's way.
        if ancestor != first && stat(pid).is_some() {
            let name = own.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("?", |(name, _)| name);
            return Err(Error::new(format!(
                "process {pid} ({name}) is not among the descendants of the container's first process: it was put into the container by exec"
            ))
            .hint("criu can't dump it; let it end before"));
        }
    }
    Ok(())
}

/// The plan once more: what else create's command line asked for adds nothing that matters here.
fn plan_of(dir: &Dir, state: &State, saved: &Bundle) -> Result<Plan> {
    let facts = HostFacts::find(host::Rootless::Auto, false)?;
    let options = plan::Options {
        id: state.id.clone(),
        notify: dir.has(c"notify").then(|| dir.path().join(crate::notify::NAME)),
        systemd_cgroup: state.cgroup.as_ref().is_some_and(|saved| saved.unit.is_some()),
        ..plan::Options::default()
    };
    plan::create(&saved.spec, &saved.dir, &facts, &options)
}

fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    if parent.is_absolute() {
        return Err(Error::new("--parent-path must be relative").hint("it is relative to --image-path"));
    }
    let parent = images.join(parent);
    let failed = |errno| Err(Error::new("invalid --parent-path").call(format!("stat({})", parent.display()), errno));
    match parent.metadata() {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => failed(Errno::ENOTDIR),
        Err(error) => failed(errno(&error)),
    }
}

fn own_options(options: &Options, state: &State, message: &mut Message) {
    message.number(opts::PID, state.pid);
    message.text(opts::ROOT, state.rootfs.as_os_str().as_bytes());
    message.number(opts::LEAVE_RUNNING, options.leave_running);
    message.number(opts::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight);
    message.number(opts::LINK_REMAP, options.link_remap);
    if let Some((address, port)) = &options.page_server {
        message.message(opts::PAGE_SERVER, &rpc::page_server(address, *port));
    }
    if let Some(parent) = &options.parent {
        message.text(opts::PARENT_IMG, parent.as_os_str().as_bytes());
        message.number(opts::TRACK_MEM, true);
    }
}

/// Namespaces that the container has joined are not in the image.
fn namespaces(plan: &Plan, state: &State, message: &mut Message) -> Result<()> {
    for joined in &plan.joined {
        let Some((name, key)) = namespace_key(joined.flag) else { continue };
        let path = format!("/proc/{}/ns/{name}", state.pid);
        let inode =
            std::fs::metadata(&path).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta)).map_err(|error| {
                let error =
                    Error::new("look at the container's namespaces").call(format!("stat({path})"), errno(&error));
                error.at(joined.from.clone())
            })?;
        message.text(opts::EXTERNAL, format!("{name}[{inode}]:{key}"));
    }
    Ok(())
}

/// The places of external mounts as they are in the container now.
fn mounts(plan: &Plan, state: &State, message: &mut Message) -> Result<()> {
    let path = CString::new(format!("/proc/{}/root", state.pid)).unwrap_or_default();
    let root = sys::openat(sys::CWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map_err(|errno| Error::new("open the container's root").call("open", errno))?;
    for external in plan::externals(plan)? {
        let Some(target) = resolve(root.as_fd(), &external) else { continue };
        // What runc names it, so that either can restore what the other has dumped.
        let name = if external.only_file { plan::NULL.to_bytes() } else { target.to_bytes() };
        message.message(opts::EXT_MNT, &rpc::pair(target.to_bytes(), name));
    }
    Ok(())
}

/// The standard streams that lead out of the container: a restore has others in their place. What they are is written into
/// the image, pipes as runc writes them, files by criu's own key.
fn descriptors(state: &State, directories: &Directories, message: &mut Message) -> Result<()> {
    let failed = |call: &str, errno| Error::new(format!("write {DESCRIPTORS}")).call(call, errno);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", state.pid)).unwrap_or_default();
    let streams: Vec<String> = (0..3).map(|number| stream(state.pid, number, &mounts)).collect();
    for file in streams.iter().filter(|name| name.starts_with(FILE)) {
        message.text(opts::EXTERNAL, file);
    }
    let text = serde_json::to_vec(&streams).unwrap_or_default();
    let name = CString::new(DESCRIPTORS).unwrap_or_default();
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
    let file = sys::openat(directories.images.as_fd(), &name, flags, 0o600).map_err(|errno| failed("open", errno))?;
    sys::write_all_at_once(file.as_fd(), &text).map_err(|errno| failed("write", errno))
}

/// What a descriptor is: the text of its link, or `file[MOUNT:INODE]` of a file on a mount that the container does not have.
fn stream(pid: i32, number: i32, mounts: &str) -> String {
    let path = format!("/proc/{pid}/fd/{number}");
    let link = std::fs::read_link(&path).unwrap_or_default().to_string_lossy().into_owned();
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u32>().ok());
    let inside = |mount| mounts.lines().any(|line| line.split(' ').next() == Some(&format!("{mount}")));
    match (mount, std::fs::metadata(&path)) {
        (Some(mount), Ok(meta)) if link.starts_with('/') && !inside(mount) => {
            format!("{FILE}{mount:x}:{:x}]", std::os::unix::fs::MetadataExt::ino(&meta))
        }
        _ => link,
    }
}
