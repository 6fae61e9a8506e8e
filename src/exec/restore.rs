//! `restore`: criu makes the processes of a container again, in what `create` would have made for them.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::create::{
    Container, Poststop, Undo, claim_resctrl, first_state, make_cgroup, make_notify, make_scope, open_namespace,
    open_proc, remove_abandoned,
};
use super::dump::{Common, DESCRIPTORS, Directories, FILE, message, namespace_key, resolve};
use super::explain::{self, Oom};
use super::hooks;
use super::net_device::{Moved, loopback_up};
use super::protocol::{Question, Report};
use super::spawn::{Process, Reached, Slots, spawn};
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::criu::rpc::{self, Feature, Kind, opts};
use crate::criu::wire::Message;
use crate::criu::{Criu, Place, Root};
use crate::error::{Error, Result};
use crate::foreground;
use crate::notify::{self, Notify};
use crate::plan::op::{Op, Request, Slot};
use crate::plan::{self, HostFacts, Options, Plan, state_json};
use crate::resctrl;
use crate::state::{self, State, Store};
use crate::sys::path as sys;
use crate::sys::process::pidfd_open;
use crate::sys::shared::Shared;

/// The directory in the state directory that criu has the root file system on.
const ROOT: &std::ffi::CStr = c"criu-root";

/// What `restore` alone has.
#[derive(Debug, Default)]
pub struct Wanted {
    /// What both have.
    pub common: Common,
    /// Established TCP connections come back closed.
    pub tcp_close: bool,
    /// `TYPE:NAME` of another LSM profile.
    pub lsm_profile: Option<String>,
    /// Another SELinux label of mounts.
    pub lsm_mount_context: Option<String>,
}

/// Restores a container; its program runs on return.
///
/// # Errors
/// Any failure; nothing is left then, neither process nor cgroup nor state.
pub fn restore(made: &Making<'_>, wanted: &Wanted, store: &Store) -> Result<Container> {
    let mut undo = Undo::new(store.create(&made.options.id, remove_abandoned)?);
    let mut process = None;
    match made.attempt(wanted, &mut undo, &mut process) {
        Ok((state, warnings)) => undo.finish(process, state, warnings),
        Err(error) => {
            if let Some(process) = process {
                process.kill();
            }
            Err(undo.give_up(error))
        }
    }
}

/// What the container is made from.
#[derive(Debug)]
pub struct Making<'a> {
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// The plan of its `run`.
    pub plan: &'a Plan,
    /// The host.
    pub facts: &'a HostFacts,
    /// What the plan was made with.
    pub options: &'a Options,
    /// The socket that gets the terminal's master.
    pub console: Option<&'a OwnedFd>,
}

impl Making<'_> {
    fn attempt(&self, wanted: &Wanted, undo: &mut Undo, process: &mut Option<Process>) -> Result<(State, Vec<String>)> {
        let common = &wanted.common;
        let mut directories = Directories::open(common, "restore.log").map_err(|error| match error.errno {
            Some(Errno::ENOENT) => error.hint("--image-path names the directory that checkpoint has written"),
            _ => error,
        })?;
        self.can_enter(&directories, &common.images)?;
        let streams = streams(&directories)?;
        let mut warnings = self.plan.warnings.clone();
        let Undo { dir, cgroup, unit, devices, resctrl, notify, poststop, .. } = undo;
        let dir = dir.as_ref().ok_or_else(|| Error::new("no state directory"))?;
        let mut state = first_state(self.bundle, self.plan, self.facts, self.options)?;
        dir.write_config(&self.bundle.config)?;
        dir.write(&state)?;
        *notify = make_notify(dir, self.options)?.map(Notify::of_restored);
        let rdt = self.plan.intel_rdt.as_ref();
        let claimed = rdt.map(|rdt| claim_resctrl(rdt, self.facts, dir, &mut state)).transpose()?;
        *resctrl = claimed.as_ref().map(|claimed| claimed.group.clone());
        *cgroup = make_cgroup(self.bundle, self.plan, self.facts, &mut state, &mut warnings)?;
        *poststop = Poststop::of(self.bundle, self.plan, self.options);

        let mut place = Place { streams: !self.plan.terminal, ..Place::default() };
        let mut own = Message::default();
        if self.options.notify.is_none() {
            // The image may have the directory of a NOTIFY_SOCKET, and here nobody wants to hear of it: it stays empty.
            notify::make_directory(dir)?;
            let source = dir.path().join(notify::NAME);
            own.message(opts::EXT_MNT, &rpc::pair(notify::DIRECTORY, source.as_os_str().as_bytes()));
        }
        self.mounts(&mut own)?;
        self.namespaces(&mut place, &mut own)?;
        let outside = |name: &str| name.contains("pipe:") || name.starts_with(FILE);
        for (number, name) in streams.iter().enumerate().filter(|(_, name)| outside(name)) {
            own.message(opts::INHERIT_FD, &rpc::inherit_fd(name, number as i32));
        }
        let root = dir.path().join(ROOT.to_str().unwrap_or_default());
        own.text(opts::ROOT, root.as_os_str().as_bytes());
        sys::mkdirat(dir.fd(), ROOT, 0o755)
            .map_err(|errno| Error::new(format!("make {}", root.display())).call("mkdirat", errno))?;
        place.root = Some(Root {
            path: path_text(&state.rootfs)?,
            onto: path_text(&root)?,
            directories: std::iter::once(&common.images)
                .chain(&common.work)
                .map(|path| path_text(path))
                .collect::<Result<_>>()?,
        });
        place.cgroup = cgroup.as_ref().map(Cgroup::fd);
        let mut criu = Criu::start(&common.program, &place)?;
        let mut opened = std::mem::take(&mut criu.directories).into_iter();
        directories.images = opened.next().unwrap_or(directories.images);
        directories.work = opened.next();
        let mut message = message(common, &directories, "restore.log", &self.bundle.spec);
        own_options(wanted, &mut message);
        message.extend(&own);
        if common.lazy_pages {
            criu.need(Feature::LazyPages, "--lazy-pages")?;
        }
        drop(place);
        if let Some(claimed) = claimed {
            resctrl::assign(&claimed.group, criu.pid().as_raw())?;
        }
        make_scope(self.bundle, self.plan, self.facts, criu.pid(), (dir, &mut state), (cgroup, unit))?;
        if let Some(saved) = &state.cgroup {
            // Wherever the container was when it was dumped.
            message.message(opts::CG_ROOT, &rpc::cgroup_root(&saved.path));
        }
        criu.carry_out(Kind::Restore, &message, &directories.log, &|| false, &mut |told, file| match told
            .script
            .as_str()
        {
            "setup-namespaces" => self.set_up(took(process, told.pid)?, devices),
            "orphan-pts-master" => self.terminal(file),
            "post-restore" => {
                let process = took(process, told.pid)?;
                state.pid = process.pid.as_raw();
                state.start_time = state::start_time(process.pid)?.map(|(start, _)| start).unwrap_or_default();
                state.creating = false;
                dir.write(&state)
            }
            _ => Ok(()),
        })?;
        let _ = sys::unlinkat(dir.fd(), ROOT, libc::AT_REMOVEDIR);
        match process {
            Some(_) => Ok((state, warnings)),
            None => Err(Error::new("criu has not said which process it has restored")),
        }
    }

    /// The processes open the images themselves, in their user namespace.
    fn can_enter(&self, directories: &Directories, path: &std::path::Path) -> Result<()> {
        let Some(userns) = &self.plan.userns else { return Ok(()) };
        let zero = |maps: &[plan::IdMap]| maps.iter().find(|map| map.container == 0).map(|map| map.host);
        let (uid, gid) = (zero(&userns.uids), zero(&userns.gids));
        let stat = sys::fstat(directories.images.as_fd())
            .map_err(|errno| Error::new(format!("look at {}", path.display())).call("fstat", errno))?;
        let needed = match (uid == Some(stat.st_uid), gid == Some(stat.st_gid)) {
            (true, _) => libc::S_IXUSR,
            (false, true) => libc::S_IXGRP,
            (false, false) => libc::S_IXOTH,
        };
        if stat.st_mode & needed != 0 {
            return Ok(());
        }
        let gid = gid.unwrap_or_default();
        Err(Error::new(format!("root of the user namespace can't enter the image directory {}", path.display()))
            .at("/linux/gidMappings")
            .hint(format!(
                "checkpoint makes it so; for a copy: chgrp {gid} and chmod 710 the directory, 644 its files"
            )))
    }

    /// Makes the places for mounts, and tells criu where the external ones come from.
    fn mounts(&self, message: &mut Message) -> Result<()> {
        let externals = plan::externals(self.plan)?;
        let plan = plan::mount_points(self.plan)?;
        let proc = open_proc()?;
        let mut slots = Slots::default();
        slots.set(Slot::Proc, proc.as_fd());
        let report =
            Shared::<Report>::anonymous().map_err(|errno| Error::new("make the shared page").call("mmap", errno))?;
        let process = spawn(&plan, slots, &[], &report, None)?;
        let served = process.serve(&plan, &report, true, None, |question, process| {
            if question == Question::Planned(Request::Ready) {
                let root = self.root_in(process.pid, proc.as_fd())?;
                for external in &externals {
                    let as_is = external.target.to_bytes();
                    let resolved = resolve(root.as_fd(), external);
                    let resolved = resolved.as_ref().map_or(as_is, |path| path.to_bytes());
                    // Masked files all have one name; an image may have either form of the others.
                    let names = if external.only_file { vec![plan::NULL.to_bytes()] } else { vec![resolved, as_is] };
                    // criu takes a symbolic link for what is to be mounted.
                    let source = std::path::Path::new(OsStr::from_bytes(external.source.to_bytes()));
                    let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
                    for name in names {
                        message.message(opts::EXT_MNT, &rpc::pair(name, source.as_os_str().as_bytes()));
                    }
                }
            }
            Ok(None)
        });
        process.kill();
        match served? {
            Reached::Ready | Reached::Executed => Ok(()),
            // It was in our own cgroup.
            Reached::Died(status) => Err(explain::died(status, Oom::Unknown)),
        }
    }

    /// The root file system as the process sees it, with what it has mounted in there.
    fn root_in(&self, pid: Pid, proc: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd> {
        let failed =
            |call: &str, errno| Error::new("look into the root file system").call(call, errno).at("/root/path");
        let top = text(format!("{pid}/root").as_bytes())?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let top = sys::openat(proc, &top, flags, 0).map_err(|errno| failed("openat(/proc/PID/root)", errno))?;
        let path = self.plan.child.iter().find_map(|step| match &step.op {
            Op::OpenRoot { path, .. } => Some(path),
            _ => None,
        });
        let path = path.ok_or_else(|| failed("openat2", Errno::ENOENT))?;
        sys::openat2(top.as_fd(), path, flags, 0, sys::RESOLVE_IN_ROOT).map_err(|errno| failed("openat2", errno))
    }

    /// Namespaces that the container joins: criu inherits the network and pid namespace, and joins others by their paths.
    fn namespaces(&self, place: &mut Place<'_>, message: &mut Message) -> Result<()> {
        for joined in &self.plan.joined {
            let name = match joined.flag {
                libc::CLONE_NEWNET | libc::CLONE_NEWPID => {
                    let number = Place::FIRST + place.inherited.len() as i32;
                    place.inherited.push(open_namespace(joined)?);
                    let key = namespace_key(joined.flag).map_or("", |(_, key)| key);
                    message.message(opts::INHERIT_FD, &rpc::inherit_fd(key, number));
                    continue;
                }
                libc::CLONE_NEWUTS => "uts",
                libc::CLONE_NEWIPC => "ipc",
                libc::CLONE_NEWUSER => "user",
                libc::CLONE_NEWNS => "mnt",
                _ => return Err(Error::new("criu can't restore into this namespace").at(joined.from.clone())),
            };
            message.message(opts::JOIN_NS, &rpc::pair(name, joined.path.as_os_str().as_bytes()));
        }
        Ok(())
    }

    /// Its namespaces are there and empty.
    fn set_up(&self, process: &Process, devices: &mut Option<Moved>) -> Result<()> {
        if self.plan.child.iter().any(|step| step.op == Op::LoopbackUp) {
            loopback_up(process.pid)?;
        }
        if !self.plan.net_devices.is_empty() {
            let moved = devices.insert(Moved::new(process.pid)?);
            self.plan.net_devices.iter().try_for_each(|device| moved.take(device))?;
        }
        let dir = self.bundle.dir.to_string_lossy();
        let json = state_json(&self.bundle.spec, &self.options.id, "creating", process.pid.as_raw(), &dir);
        hooks::run(&self.plan.runtime_hooks, &json, Some(&self.bundle.dir))
    }

    fn terminal(&self, master: Option<OwnedFd>) -> Result<()> {
        let (Some(master), Some(console)) = (master, self.console) else {
            return Err(Error::new("the image has a terminal, and the configuration has none").at("/process/terminal"));
        };
        foreground::send_master(console.as_fd(), master.as_fd())
            .map_err(|errno| Error::new("send the terminal to the console socket").call("sendmsg(SCM_RIGHTS)", errno))
    }
}

/// The restored process: our child (criu's `rst_sibling`), so the number is its own until we wait for it.
fn took(process: &mut Option<Process>, pid: i32) -> Result<&Process> {
    if process.is_none() {
        let pidfd =
            pidfd_open(pid).map_err(|errno| Error::new("open the restored process").call("pidfd_open", errno))?;
        *process = Some(Process { pid: Pid::from_raw(pid), pidfd });
    }
    process.as_ref().ok_or_else(|| Error::new("no process"))
}

fn own_options(wanted: &Wanted, message: &mut Message) {
    message.number(opts::EVASIVE_DEVICES, true);
    message.number(opts::RST_SIBLING, true);
    message.number(opts::TCP_CLOSE, wanted.tcp_close);
    if let Some(profile) = &wanted.lsm_profile {
        message.text(opts::LSM_PROFILE, profile);
    }
    if let Some(context) = &wanted.lsm_mount_context {
        message.text(opts::LSM_MOUNT_CONTEXT, context);
    }
}

/// What the standard streams were.
fn streams(directories: &Directories) -> Result<Vec<String>> {
    let failed = |why: String| {
        Error::new(format!("read {DESCRIPTORS} of the image: {why}"))
            .hint("--image-path names the directory that checkpoint has written")
    };
    let file = sys::openat(directories.images.as_fd(), &text(DESCRIPTORS.as_bytes())?, libc::O_RDONLY, 0);
    let mut bytes = Vec::new();
    let read = File::from(file.map_err(|errno| failed(crate::error::errno_text(errno)))?).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}

fn path_text(path: &std::path::Path) -> Result<CString> {
    text(path.as_os_str().as_bytes())
}

fn text(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new("a path holds a NUL byte"))
}
