//! What is done with a cgroup that exists: its processes, freezing, killing, its device filter, and its removal.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};

use crate::error::{Error, Result};
use crate::sys::bpf::{self, Insn};

use super::{Cgroup, file};

/// The longest sleep between two looks at what gives no notice (a directory that is busy for a moment more).
const RETRY: Duration = Duration::from_millis(2);

/// The state in `cgroup.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// There are processes in it or below it.
    pub populated: bool,
    /// It and all below it are frozen.
    pub frozen: bool,
}

fn parse_events(text: &str) -> Events {
    let has = |line| text.lines().any(|other| other == line);
    Events { populated: has("populated 1"), frozen: has("frozen 1") }
}

/// Whole milliseconds until `deadline`, rounded up so that the last poll does not spin.
fn until(deadline: Instant) -> Option<PollTimeout> {
    let left = deadline.checked_duration_since(Instant::now())?;
    Some(PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX))
}

impl Cgroup {
    fn failed(&self, operation: &str, call: &str, errno: Errno) -> Error {
        Error::new(format!("{operation} cgroup {}", self.path().display())).call(call, errno)
    }

    /// Reads `cgroup.events`. A cgroup that has been removed is empty and not frozen.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn events(&self) -> Result<Events> {
        match file::read(self.fd(), "cgroup.events") {
            Ok(text) => Ok(parse_events(&text)),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(Events { populated: false, frozen: false }),
            Err(errno) => Err(self.failed("look at", "read(\"cgroup.events\")", errno)),
        }
    }

    /// Whether there are processes in it or below it.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub fn populated(&self) -> Result<bool> {
        Ok(self.events()?.populated)
    }

    /// Whether all processes in it are frozen.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub fn frozen(&self) -> Result<bool> {
        Ok(self.events()?.frozen)
    }

    /// Waits until `done` holds for `cgroup.events`; false at the deadline.
    fn await_events(&self, deadline: Instant, done: impl Fn(Events) -> bool) -> Result<bool> {
        let failed = |errno| self.failed("wait for", "poll(\"cgroup.events\")", errno);
        let file = match file::open(self.fd(), "cgroup.events", OFlag::O_RDONLY) {
            Ok(file) => file,
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(done(Events { populated: false, frozen: false })),
            Err(errno) => return Err(failed(errno)),
        };
        loop {
            // Reading is what arms the next notice, so nothing is missed between it and poll.
            match file::read_fd(&file) {
                Ok(text) if done(parse_events(&text)) => return Ok(true),
                Err(Errno::ENODEV) => return Ok(done(Events { populated: false, frozen: false })),
                Ok(_) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let Some(timeout) = until(deadline) else { return Ok(false) };
            match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            lseek(&file, 0, Whence::SeekSet).map_err(failed)?;
        }
    }

    /// The pids in it and in the cgroups below it, as this pid namespace numbers them; what ends meanwhile is left out.
    ///
    /// # Errors
    /// `cgroup.procs` can't be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect(self.fd(), &mut pids).map_err(|errno| self.failed("list", "read(\"cgroup.procs\")", errno))?;
        Ok(pids)
    }

    /// Stops every process in it and waits until they have stopped; at the deadline it is thawed again.
    ///
    /// # Errors
    /// The write is refused, or the deadline passes (a process in an uninterruptible sleep).
    pub fn freeze(&self, deadline: Instant) -> Result<()> {
        self.set_frozen(true)?;
        let stopped = self.await_events(deadline, |events| events.frozen);
        if matches!(stopped, Ok(true)) {
            return Ok(());
        }
        // What has failed leaves nobody stopped.
        self.set_frozen(false)?;
        stopped?;
        Err(self
            .failed("freeze", "poll(\"cgroup.events\")", Errno::ETIMEDOUT)
            .hint("a process does not stop: look for state D in ps"))
    }

    /// Lets the processes go on, and waits until the kernel says so.
    ///
    /// # Errors
    /// The write is refused, or the deadline passes: a cgroup above is frozen.
    pub fn thaw(&self, deadline: Instant) -> Result<()> {
        self.set_frozen(false)?;
        if self.await_events(deadline, |events| !events.frozen)? {
            return Ok(());
        }
        Err(self
            .failed("thaw", "poll(\"cgroup.events\")", Errno::ETIMEDOUT)
            .hint("a cgroup above it is frozen (cgroup.freeze)"))
    }

    /// Begins to stop every process in it, without waiting for it.
    ///
    /// # Errors
    /// The write is refused.
    pub fn begin_freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets the processes go on, without waiting for it.
    ///
    /// # Errors
    /// The write is refused.
    pub fn begin_thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let value = if frozen { "1" } else { "0" };
        let call = format!("write(\"cgroup.freeze\", {value:?})");
        file::write(self.fd(), "cgroup.freeze", value).map_err(|errno| self.failed("freeze or thaw", &call, errno))
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// The write is refused.
    pub fn enter(&self) -> Result<()> {
        file::write(self.fd(), "cgroup.procs", "0")
            .map_err(|errno| self.failed("enter", "write(\"cgroup.procs\", \"0\")", errno))
    }

    /// SIGKILL to every process in it and below it, frozen ones and those being forked included (`cgroup.kill`, Linux
    /// 5.14). Does not wait; a cgroup that has been removed has nothing to kill.
    ///
    /// # Errors
    /// The write is refused.
    pub fn kill(&self) -> Result<()> {
        match file::write(self.fd(), "cgroup.kill", "1") {
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            // An older kernel has the directory without the file.
            Err(Errno::ENOENT) if !self.populated()? => Ok(()),
            Err(errno) => Err(self.failed("kill the processes of", "write(\"cgroup.kill\", \"1\")", errno)),
        }
    }

    /// Removes it with the cgroups below it, waiting for processes that are about to end. One that is gone is removed.
    ///
    /// # Errors
    /// At the deadline there are still processes, or no permission.
    pub fn remove(&self, deadline: Instant) -> Result<()> {
        loop {
            match file::rmdir(self.parent(), self.name()) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(self.failed("remove", "unlinkat(AT_REMOVEDIR)", errno)),
            }
            if !self.await_events(deadline, |events| !events.populated)? || Instant::now() >= deadline {
                return Err(self.still_used());
            }
            if !self.remove_below()? {
                std::thread::sleep(RETRY);
            }
        }
    }

    fn still_used(&self) -> Error {
        let pids = self.processes().unwrap_or_default();
        let error = self.failed("remove", "unlinkat(AT_REMOVEDIR)", Errno::EBUSY);
        match pids.first() {
            Some(pid) => error.hint(format!("{} process(es) are still in it, the first is {pid}", pids.len())),
            None => error,
        }
    }

    /// Removes all cgroups below it, deepest first, and says whether there were any. It holds two descriptors however
    /// deep a container has nested its cgroups.
    fn remove_below(&self) -> Result<bool> {
        let failed = |errno| self.failed("remove the children of", "unlinkat(AT_REMOVEDIR)", errno);
        let mut names: Vec<CString> = Vec::new();
        let mut removed = false;
        let mut here: OwnedFd = file::open_dir(self.fd(), ".").map_err(failed)?;
        loop {
            if let Some(child) = file::children(here.as_fd()).map_err(failed)?.pop() {
                here = file::open_dir(here.as_fd(), child.as_c_str()).map_err(failed)?;
                names.push(child);
                continue;
            }
            let Some(name) = names.pop() else { return Ok(removed) };
            here = up(here.as_fd()).map_err(failed)?;
            match file::rmdir(here.as_fd(), name.as_c_str()) {
                Ok(()) | Err(Errno::ENOENT) => removed = true,
                // A process was born there since: the caller waits again.
                Err(Errno::EBUSY) => return Ok(removed),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Attaches a loaded device filter beside those that are there.
    ///
    /// # Errors
    /// The kernel refuses: EPERM without CAP_BPF and CAP_NET_ADMIN in the initial user namespace.
    pub fn attach_devices(&mut self, program: OwnedFd) -> Result<()> {
        bpf::prog_attach(self.fd(), program.as_fd(), None)
            .map_err(|errno| self.devices_failed("BPF_PROG_ATTACH", errno))?;
        self.filter = Some(program);
        Ok(())
    }

    /// The way back where this cgroup was there before: the cgroups below it and our device filter go. What has
    /// processes until `deadline` stays.
    pub(super) fn clear(&self, deadline: Instant) {
        if self.await_events(deadline, |events| !events.populated).unwrap_or(false) {
            let _ = self.remove_below();
        }
        if let Some(filter) = &self.filter {
            let _ = bpf::prog_detach(self.fd(), filter.as_fd());
        }
    }

    /// Puts `program` (none: everything is allowed) in the place of the device filters attached to this cgroup. One
    /// filter is replaced in one step; several are detached after the new one holds.
    ///
    /// # Errors
    /// As [`attach_devices`](Self::attach_devices); CAP_SYS_ADMIN is needed to find the old ones.
    pub fn replace_devices(&self, program: Option<BorrowedFd>) -> Result<()> {
        let old = self.attached_devices()?;
        let (replaced, mut detached) = match old.as_slice() {
            [one] if program.is_some() => (Some(one.as_fd()), [].as_slice()),
            all => (None, all),
        };
        if let Some(program) = program {
            bpf::prog_attach(self.fd(), program, replaced)
                .map_err(|errno| self.devices_failed("BPF_PROG_ATTACH", errno))?;
        }
        while let Some((program, rest)) = detached.split_first() {
            bpf::prog_detach(self.fd(), program.as_fd())
                .map_err(|errno| self.devices_failed("BPF_PROG_DETACH", errno))?;
            detached = rest;
        }
        Ok(())
    }

    /// Is a device filter attached to this very cgroup?
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN.
    pub fn has_device_filter(&self) -> Result<bool> {
        let mut ids = [0; bpf::MAX_PROGS];
        let count = bpf::prog_query(self.fd(), &mut ids);
        count.map(|count| count > 0).map_err(|errno| self.devices_failed("BPF_PROG_QUERY", errno))
    }

    fn attached_devices(&self) -> Result<Vec<OwnedFd>> {
        let mut ids = [0; bpf::MAX_PROGS];
        let count =
            bpf::prog_query(self.fd(), &mut ids).map_err(|errno| self.devices_failed("BPF_PROG_QUERY", errno))?;
        let open = |id: &u32| bpf::prog_get_fd_by_id(*id);
        let programs: nix::Result<Vec<_>> = ids[..count].iter().map(open).collect();
        programs.map_err(|errno| self.devices_failed("BPF_PROG_GET_FD_BY_ID", errno))
    }

    fn devices_failed(&self, command: &str, errno: Errno) -> Error {
        self.failed("set the device filter of", &format!("bpf({command}, BPF_CGROUP_DEVICE)"), errno)
            .at("/linux/resources/devices")
    }
}

/// Loads a device filter ([`super::device::program`]), to be attached by [`Cgroup::attach_devices`].
///
/// # Errors
/// The kernel refuses: EPERM without CAP_BPF.
pub fn load_devices(program: &[Insn]) -> Result<OwnedFd> {
    bpf::prog_load(program, "orlop_devices").map_err(|errno| {
        let error = Error::new("load the device filter").at("/linux/resources/devices");
        let error =
            error.call(format!("bpf(BPF_PROG_LOAD, BPF_PROG_TYPE_CGROUP_DEVICE, {} insns)", program.len()), errno);
        match errno {
            Errno::EPERM => {
                error.hint("it needs CAP_BPF, and CAP_SYS_RESOURCE or RLIMIT_MEMLOCK on kernels before 5.11")
            }
            _ => error,
        }
    })
}

/// Adds the pids of `dir` and of all below; what is removed meanwhile has none.
fn collect(dir: BorrowedFd, pids: &mut Vec<i32>) -> nix::Result<()> {
    let text = match file::read(dir, "cgroup.procs") {
        // A threaded cgroup: its processes are those of the domain above it (cgroups(7), "Thread mode").
        Err(Errno::EOPNOTSUPP) => String::new(),
        read => unless_gone(read)?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in unless_gone(file::children(dir))? {
        match file::open_dir(dir, child.as_c_str()) {
            Ok(child) => collect(child.as_fd(), pids)?,
            gone => unless_gone(gone.map(drop))?,
        }
    }
    Ok(())
}

fn unless_gone<T: Default>(result: nix::Result<T>) -> nix::Result<T> {
    match result {
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(T::default()),
        result => result,
    }
}

/// The directory above; cgroupfs has no links, so it is the one that we came from.
fn up(dir: BorrowedFd) -> nix::Result<OwnedFd> {
    nix::fcntl::openat(dir, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}
