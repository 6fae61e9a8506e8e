//! What outlives a command: one directory per container, locked, written atomically.
//!
//! ```text
//! <root>/<id>/            0711, held by flock(2) while a command changes the container
//!     state.json          State, replaced by rename(2)
//!     config.json         0600, the configuration as create read it; later commands read only this
//!     exec.fifo           there until start: the process holds it open until its execve, which tells running from created
//!     report              the page in which the waiting process leaves why its execve failed
//!     notify/             the container's NOTIFY_SOCKET, where the service manager wants to hear of it
//!     output              what the hooks in the container's namespaces said, where there are any
//! ```
//!
//! state.json holds no plan. It names the process by pid, start time and boot, so that a reused pid is never taken for
//! the container's.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::path as sys;

/// The newest layout of state.json that this binary writes.
pub const VERSION: u32 = 1;

/// state.json.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Layout of this file.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// The container's first process; 0 while it is not there yet.
    pub pid: i32,
    /// Its start in clock ticks since boot (proc(5), stat field 22).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root file system's absolute path.
    pub rootfs: PathBuf,
    /// When the container was made, RFC 3339.
    pub created: String,
    /// Who made it.
    pub owner: String,
    /// Annotations of the configuration.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// The cgroup, if it has one of its own.
    pub cgroup: Option<CgroupState>,
    /// The resctrl group, if `linux.intelRdt` asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<crate::resctrl::Group>,
    /// No create has finished.
    pub creating: bool,
}

/// The container's cgroup as later commands find it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CgroupState {
    /// The cgroup2 mount.
    pub root: PathBuf,
    /// The path below it.
    pub path: String,
    /// `cgroupfs` or `systemd`.
    pub driver: String,
    /// The scope, with the driver `systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<crate::systemd::Unit>,
}

/// runtime.md, State.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Being made.
    Creating,
    /// Waiting for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The word that state and list print.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The directory of all containers.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One container's directory, held open.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    /// Once the lock is taken, it lasts until this is closed.
    fd: OwnedFd,
}

fn io(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Store {
    /// The store at `root`; nothing is made yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of a new container, and holds its lock. What a create that died has left there is handed to
    /// `clean` first, which removes the directory.
    ///
    /// Of several at once exactly one gets the id: whoever finds a directory without a container removes it only under
    /// its lock, and whoever made it has lost it then.
    pub fn create(&self, id: &str, clean: impl Fn(&Dir) -> Result<()>) -> Result<Dir> {
        let path = self.root.join(id);
        for last in [false, true] {
            match std::fs::DirBuilder::new().mode(0o711).create(&path) {
                Ok(()) => return claim(path, id),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) && !last => self.make_root()?,
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) && !last => clear(&path, id, &clean)?,
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Err(exists(id)),
                Err(error) => {
                    return Err(Error::new(format!("make the state directory {}", path.display()))
                        .call("mkdir", io(&error))
                        .hint("--root names the directory for state"));
                }
            }
        }
        Err(exists(id))
    }

    fn make_root(&self) -> Result<()> {
        std::fs::DirBuilder::new().mode(0o711).recursive(true).create(&self.root).map_err(|error| {
            Error::new(format!("make the state directory {}", self.root.display()))
                .call("mkdir", io(&error))
                .hint("--root names the directory for state")
        })
    }

    /// The directory of a container that is there.
    pub fn open(&self, id: &str) -> Result<Dir> {
        crate::validate::container_id(id)?;
        Dir::open(self.root.join(id)).map_err(|error| match error.errno {
            Some(Errno::ENOENT | Errno::ENOTDIR) => {
                Error::new(format!("container does not exist: {id}")).hint("orlop list shows those that do")
            }
            _ => error,
        })
    }

    /// The ids of all containers, sorted. A root that is not there has none.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(error) => return Err(Error::new(format!("read {}", self.root.display())).call("open", io(&error))),
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| crate::validate::container_id(id).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

fn exists(id: &str) -> Error {
    Error::new(format!("container with given ID already exists: {id}"))
        .hint(format!("orlop delete {id}, or choose another id"))
}

/// The same of a container whose directory can be read.
fn exists_in(dir: &Dir, id: &str) -> Error {
    match dir.read() {
        Ok(state) => state.explained(exists(id)),
        Err(_) => exists(id),
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.errno, Some(Errno::ENOENT | Errno::ENOTDIR))
}

/// Locks the directory that was just made. It is lost when another has it already, having taken it for a dead one's;
/// what has come in its place may be used as long as it is empty.
fn claim(path: PathBuf, id: &str) -> Result<Dir> {
    match Dir::open(path.clone()).and_then(Dir::try_lock) {
        Ok(Some(dir)) if !dir.has(c"state.json") => Ok(dir),
        Ok(_) => Err(exists(id)),
        Err(error) if is_gone(&error) => Err(exists(id)),
        Err(error) => {
            // Where nothing can be locked nobody has it either.
            let _ = std::fs::remove_dir(path);
            Err(error)
        }
    }
}

/// Removes what a create that died has left at `path`; an error when that is a container, or is becoming one.
fn clear(path: &Path, id: &str, clean: impl Fn(&Dir) -> Result<()>) -> Result<()> {
    let dir = match Dir::open(path.to_owned()) {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other?,
    };
    match dir.try_lock() {
        Ok(Some(dir)) if dir.unfinished() => clean(&dir),
        Ok(Some(dir)) => Err(exists_in(&dir, id)),
        Ok(None) => Err(exists(id)),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Dir {
    fn open(path: PathBuf) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |errno| Error::new(format!("open the state directory {}", path.display())).call("open", errno);
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::EINVAL))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let fd = sys::openat(sys::CWD, &name, flags, 0).map_err(failed)?;
        let owner = sys::fstat(fd.as_fd()).map_err(failed)?.st_uid;
        if owner != nix::unistd::geteuid().as_raw() && owner != 0 {
            return Err(Error::new(format!("the state directory {} belongs to uid {owner}", path.display())));
        }
        Ok(Self { path, fd })
    }

    /// Takes the lock that every command holds while it changes the container; waits for at most ten seconds.
    ///
    /// # Errors
    /// Another command holds it; the container was removed meanwhile.
    pub fn lock(self) -> Result<Self> {
        for _ in 0..1000 {
            if self.take_lock()? {
                return Ok(self);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(Error::new(format!("another command has held {} for ten seconds", self.path.display())))
    }

    /// The same, but where another command holds it, `held` first.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn lock_after(self, held: impl FnOnce(&Self)) -> Result<Self> {
        if self.take_lock()? {
            return Ok(self);
        }
        held(&self);
        self.lock()
    }

    /// The same without waiting: None when another command holds the lock.
    fn try_lock(self) -> Result<Option<Self>> {
        Ok(if self.take_lock()? { Some(self) } else { None })
    }

    /// Takes the lock if it is free. A directory that has been removed, or replaced by that of a new container, is not
    /// taken: its lock protects nothing.
    fn take_lock(&self) -> Result<bool> {
        let failed = |call: &str, errno| Error::new("lock the state").call(call, errno);
        match sys::flock(self.fd(), libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) => {}
            Err(Errno::EWOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(failed("flock", errno)),
        }
        let ours = sys::fstat(self.fd()).map_err(|errno| failed("fstat", errno))?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.st_dev, ours.st_ino) => Ok(true),
            _ => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                Err(Error { errno: Some(Errno::ENOENT), ..Error::new(format!("container does not exist: {name}")) })
            }
        }
    }

    /// Lets go of the lock: other commands may change the container.
    pub fn unlock(self) -> Self {
        // It fails only for a descriptor that is none.
        let _ = sys::flock(self.fd(), libc::LOCK_UN);
        self
    }

    /// No create has come to its end here. Under the lock this means that its runtime is gone.
    fn unfinished(&self) -> bool {
        self.read().map_or_else(|_| !self.has(c"state.json"), |state| state.creating)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Is there a file of this name?
    pub fn has(&self, name: &std::ffi::CStr) -> bool {
        sys::lstatat(self.fd(), name).is_ok()
    }

    /// Does a process wait in the fifo? Its execve closes it, also where a `start` that was killed has left the name.
    fn awaits_start(&self) -> Result<bool> {
        let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let failed = |call, errno| Error::new("look whether the container waits for start").call(call, errno);
        match sys::openat(self.fd(), c"exec.fifo", flags, 0) {
            // Nobody waits in another kind of file that has come into its place, and start would wait for its end in vain.
            Ok(file) => {
                let stat = sys::fstat(file.as_fd()).map_err(|errno| failed("fstat(exec.fifo)", errno))?;
                Ok(stat.st_mode & libc::S_IFMT == libc::S_IFIFO)
            }
            Err(Errno::ENXIO | Errno::ENOENT | Errno::ELOOP | Errno::EISDIR) => Ok(false),
            Err(errno) => Err(failed("openat(exec.fifo)", errno)),
        }
    }

    /// Replaces state.json: a new file, synchronised, renamed over the old one.
    pub fn write(&self, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state).map_err(|error| Error::new(format!("encode state.json: {error}")))?;
        self.replace("state.json", &text, 0o600)
    }

    /// Keeps the configuration as it was read.
    pub fn write_config(&self, config: &[u8]) -> Result<()> {
        self.replace("config.json", config, 0o600)
    }

    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let temporary = format!(".{name}.new");
        let failed =
            |call: &str, errno| Error::new(format!("write {}", self.path.join(name).display())).call(call, errno);
        let new = CString::new(temporary.as_str()).unwrap_or_default();
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
        let mut file = File::from(sys::openat(self.fd(), &new, flags, mode).map_err(|errno| failed("openat", errno))?);
        file.write_all(bytes).map_err(|error| failed("write", io(&error)))?;
        file.sync_data().map_err(|error| failed("fdatasync", io(&error)))?;
        nix::fcntl::renameat(&self.fd, temporary.as_str(), &self.fd, name).map_err(|errno| failed("renameat", errno))
    }

    fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        let failed = |errno| Error::new(format!("read {}", self.path.join(name).display())).call("read", errno);
        let file = CString::new(name).unwrap_or_default();
        let fd = sys::openat(self.fd(), &file, libc::O_RDONLY | libc::O_NOFOLLOW, 0).map_err(failed)?;
        let mut bytes = Vec::new();
        File::from(fd).read_to_end(&mut bytes).map_err(|error| failed(io(&error)))?;
        Ok(bytes)
    }

    /// state.json.
    pub fn read(&self) -> Result<State> {
        let bytes = self.read_file("state.json").map_err(|error| match error.errno {
            // A create has just begun, or one died in its first steps.
            Some(Errno::ENOENT) => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                Error::new(format!("container does not exist: {name}"))
                    .hint("its directory is there and empty: orlop delete --force removes it")
            }
            _ => error,
        })?;
        let state: State = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(format!("{} is damaged: {error}", self.path.join("state.json").display()))
                .hint("orlop delete --force removes what is left of the container")
        })?;
        if state.version > VERSION {
            return Err(Error::new(format!("state.json has layout {}, this orlop knows {VERSION}", state.version))
                .hint("use the newer orlop that made the container"));
        }
        Ok(state)
    }

    /// The configuration as create read it.
    pub fn config(&self, bundle: &Path) -> Result<crate::bundle::Bundle> {
        crate::bundle::Bundle::parse(bundle.to_owned(), self.read_file("config.json")?)
    }

    /// Removes the directory with all that is in it.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(Error::new(format!("remove {}", self.path.display())).call("unlinkat", io(&error)))
            }
            _ => Ok(()),
        }
    }
}

impl State {
    /// The pidfd of the container's first process, if it is still that very process and has not ended.
    ///
    /// # Errors
    /// It can't be known: no descriptor or memory is left, or procfs can't be read. Who took that for "ended" would remove
    /// a container that runs.
    pub fn process(&self) -> Result<Option<OwnedFd>> {
        if self.pid <= 0 || self.boot_id != boot_id()? {
            return Ok(None);
        }
        let pidfd = match crate::sys::process::pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            // EINVAL: older kernels say so when the number is still that of a group or session, and no longer a process's.
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            Err(errno) => {
                return Err(Error::new("look for the container's first process").call("pidfd_open", errno));
            }
        };
        // The start time is read after the pidfd was opened: the same pid with the same start is the same process.
        let same = |(start, state)| start == self.start_time && !matches!(state, 'Z' | 'X');
        Ok(start_time(Pid::from_raw(self.pid))?.is_some_and(same).then_some(pidfd))
    }

    /// What the container is doing, as the kernel has it.
    ///
    /// # Errors
    /// As [`process`](Self::process), and when its cgroup can't be looked at.
    pub fn status(&self, dir: &Dir) -> Result<Status> {
        Ok(match () {
            () if self.creating => Status::Creating,
            () if self.process()?.is_none() => Status::Stopped,
            () if dir.awaits_start()? => Status::Created,
            () => match self.open_cgroup()? {
                Some(cgroup) if cgroup.frozen()? => Status::Paused,
                _ => Status::Running,
            },
        })
    }

    /// Nothing of the container outlived the host's last boot.
    pub fn is_of_another_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot != self.boot_id)
    }

    /// Of a failure for a container that does not run: why it does not, where the host's reboot has ended it.
    pub fn explained(&self, error: Error) -> Error {
        if !self.is_of_another_boot() {
            return error;
        }
        error.hint(format!(
            "the host was rebooted since the container was made, so nothing of it runs: orlop delete {}",
            self.id
        ))
    }

    /// The container's cgroup, if it has one and it is still there.
    pub fn open_cgroup(&self) -> Result<Option<crate::cgroup::Cgroup>> {
        match &self.cgroup {
            Some(saved) => {
                let hierarchy = crate::cgroup::Hierarchy::at(saved.root.clone())?;
                crate::cgroup::Cgroup::open(&hierarchy, &saved.path)
            }
            None => Ok(None),
        }
    }
}

/// The name of this boot (random(4)), or the empty string where the kernel does not tell.
///
/// # Errors
/// It tells, and can't be heard: without it a saved state would never be this boot's.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    match small_file(PATH) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(Errno::ENOENT) => Ok(String::new()),
        Err(errno) => Err(Error::new(format!("read {PATH}")).call("read", errno)),
    }
}

/// A file of procfs that is shorter than a page, in one read(2).
fn small_file(path: &str) -> std::result::Result<String, Errno> {
    let mut bytes = vec![0; 4096];
    let length = File::open(path).and_then(|mut file| file.read(&mut bytes)).map_err(|error| io(&error))?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Start time and state letter of a process (proc(5), stat fields 22 and 3); none when there is no such process.
///
/// # Errors
/// procfs can't be read, or has another form.
pub fn start_time(pid: Pid) -> Result<Option<(u64, char)>> {
    let failed = |errno| Error::new(format!("read /proc/{pid}/stat")).call("read", errno);
    match small_file(&format!("/proc/{pid}/stat")) {
        Ok(stat) => stat_fields(&stat).map(Some).ok_or_else(|| failed(Errno::EINVAL)),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

fn stat_fields(stat: &str) -> Option<(u64, char)> {
    // The command's name is in parentheses and may hold any character.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// Now, as RFC 3339 with nanoseconds in UTC.
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// A time as HTTP has it (RFC 9110, IMF-fixdate).
pub fn http_date(time: std::time::SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let seconds = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil((seconds / 86400) as i64);
    let (weekday, month) = (DAYS[(seconds / 86400 % 7) as usize], MONTHS[(month - 1) as usize]);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Days since 1970-01-01 to a date of the Gregorian calendar, by eras of 400 years that begin on 1 March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The name of the user who owns `path`, or the number where there is none.
pub fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    entry.and_then(|line| line.split(':').next()).map_or_else(|| uid.to_string(), str::to_owned)
}

/// The default root: `/run/orlop`, or below `XDG_RUNTIME_DIR` for a user's containers.
pub fn default_root(users: bool) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| users && !dir.is_empty());
    match runtime {
        Some(dir) => {
            let root = Path::new(&dir).join("orlop");
            // The sticky bit keeps it from the cleaning of old files in this directory (XDG base directory specification).
            if std::fs::create_dir_all(&root).is_ok() && std::fs::metadata(&root).is_ok_and(|m| m.mode() & 0o1000 == 0)
            {
                let _ = std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1700));
            }
            root
        }
        None => PathBuf::from("/run/orlop"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_779), (2026, 11, 22));
        assert_eq!(civil(-1), (1969, 12, 31));
        let example = std::time::UNIX_EPOCH + std::time::Duration::from_secs(784_111_777);
        assert_eq!(http_date(example), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_an_unknown_layout_is_refused() {
        let root = std::env::temp_dir().join(format!("orlop-state-{}", std::process::id()));
        let store = Store::new(root.clone());
        let dir = store.create("a", |_| Ok(())).unwrap();
        let mut state = State {
            version: VERSION,
            id: "a".into(),
            oci_version: "1.3.0".into(),
            pid: std::process::id() as i32,
            start_time: start_time(Pid::this()).unwrap().unwrap().0,
            boot_id: boot_id().unwrap(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: now(),
            owner: "root".into(),
            annotations: Default::default(),
            cgroup: None,
            resctrl: None,
            creating: false,
        };
        dir.write(&state).unwrap();
        assert_eq!(dir.read().unwrap(), state);
        assert!(!serde_json::to_string(&state).unwrap().contains("resctrl"), "as before there was this field");
        assert_eq!(state.status(&dir).unwrap(), Status::Running);
        assert!(store.create("a", |_| Ok(())).unwrap_err().message.contains("container with given ID already exists"));
        state.start_time += 1;
        assert_eq!(state.status(&dir).unwrap(), Status::Stopped, "another process with this pid is not ours");
        state.start_time -= 1;
        state.boot_id = "another".into();
        assert_eq!(state.status(&dir).unwrap(), Status::Stopped, "a pid of another boot is not ours");
        state.version = VERSION + 1;
        dir.write(&state).unwrap();
        assert!(dir.read().unwrap_err().message.contains("layout"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
