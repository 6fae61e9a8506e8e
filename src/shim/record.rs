//! What outlives the supervisor: a directory per container, 0700.
//!
//! ```text
//! <directory>/<id>/
//!     supervisor.json     what `resume` needs: the bundle, the process, how often it was started
//!     last.json           the last View, when the supervisor has ended as it should
//!     events.ndjson       CloudEvents, the newest last; events.1.ndjson those before
//!     read.sock           0600, what may be asked
//!     control.sock        0600, what may be done
//!     lease.json          the lease's token, where one is needed; config.json: the bundle's with that mounted
//!     stdout, stderr      fifos, where a log was asked for
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::view::Event;
use crate::error::{Error, Result};
use crate::host::errno;
use crate::state;

/// A file of events is put aside when it is larger than this.
const EVENTS_MAX: u64 = 256 << 10;
/// What a CloudEvent's type begins with.
const TYPE: &str = "org.orlop.container.";

/// Where the directories of all supervisors are.
pub fn default_directory() -> PathBuf {
    let users = |dir: &std::ffi::OsString| crate::host::in_runtime_dir() && !dir.is_empty();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(users) {
        Some(runtime) => Path::new(&runtime).join("orlop-shim"),
        None => PathBuf::from("/run/orlop-shim"),
    }
}

/// A supervisor's directory, which is its own as long as this is held.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Locked: one supervisor for one container.
    lock: Flock<File>,
}

fn failed(path: &Path, call: &str, error: &io::Error) -> Error {
    Error::new(format!("use the supervisor's directory {}", path.display())).call(call, errno(error))
}

impl Directory {
    /// Makes it, or takes what a supervisor has left.
    ///
    /// # Errors
    /// It belongs to somebody else, or another supervisor has it.
    pub fn claim(all: &Path, id: &str) -> Result<Self> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(all).map_err(|error| failed(all, "mkdir", &error))?;
        let path = all.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path, "mkdir", &error)),
            _ => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
            .map_err(|error| failed(&path, "open", &error))?;
        let meta = directory.metadata().map_err(|error| failed(&path, "fstat", &error))?;
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::new(format!("the supervisor's directory {} is another user's", path.display())));
        }
        directory
            .set_permissions(fs::Permissions::from_mode(0o700))
            .map_err(|error| failed(&path, "fchmod", &error))?;
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::new(format!("container {id} has a supervisor already"))
                .hint(format!("orlop-shim status shows it; orlop-shim stop {id} ends both")),
            errno => Error::new(format!("lock {}", path.display())).call("flock", errno),
        })?;
        Ok(Self { path, lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory. Whoever holds a copy of the descriptor holds the lock, which a re-executed supervisor does.
    pub fn file(&self) -> impl AsFd + '_ {
        self.lock.as_fd()
    }

    /// What tells it from all others on its file system.
    ///
    /// # Errors
    /// fstat(2) fails.
    pub fn inode(&self) -> Result<u64> {
        self.lock.metadata().map(|meta| meta.ino()).map_err(|error| failed(&self.path, "fstat", &error))
    }

    /// Replaces a file, all at once.
    ///
    /// # Errors
    /// There is no room.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.put(name, value, 0o600)
    }

    /// The same, for a file that a container gets: it may be read by any of its users.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_for_all(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.put(name, value, 0o444)
    }

    fn put(&self, name: &str, value: &impl Serialize, mode: u32) -> Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let text = serde_json::to_vec(value).map_err(|error| Error::new(format!("encode {name}: {error}")))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(|error| failed(&new, "open", &error))?;
        file.write_all(&text).map_err(|error| failed(&new, "write", &error))?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(|error| failed(&new, "fchmod", &error))?;
        fs::rename(&new, &path).map_err(|error| failed(&path, "rename", &error))
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }
}

/// Reads a file of a supervisor's directory; None when it is not there.
///
/// # Errors
/// It is not what it should be.
pub fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>> {
    let path = directory.join(name);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::new(format!("{} is damaged: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path, "open", &error)),
    }
}

/// The events of one container, numbered without a gap.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    id: String,
    file: File,
    size: u64,
    seq: u64,
}

const NAME: &str = "events.ndjson";
const OLD: &str = "events.1.ndjson";

impl Journal {
    /// Goes on with what is there.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn open(directory: &Directory, id: &str) -> Result<Self> {
        let path = directory.path().join(NAME);
        let last = |name| lines(&directory.path().join(name)).filter_map(|line| seq_of(&line)).last();
        let seq = last(NAME).or_else(|| last(OLD)).unwrap_or(0);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, "open", &error))?;
        let mut size = file.metadata().map_err(|error| failed(&path, "fstat", &error))?.len();
        // A line that a killed supervisor has not finished is not gone on with.
        if size > 0 && !ends_with_newline(&path) {
            file.write_all(b"\n").map_err(|error| failed(&path, "write", &error))?;
            size += 1;
        }
        Ok(Self { directory: directory.path().to_owned(), id: id.to_owned(), file, size, seq })
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// One that is not written down: it has the number of the last one that is.
    pub fn event(&self, kind: &str, data: Value) -> Event {
        Event {
            specversion: "1.0".to_owned(),
            id: format!("{}.{}", self.id, self.seq),
            source: format!("/orlop/{}", self.id),
            kind: format!("{TYPE}{kind}"),
            time: state::now(),
            seq: self.seq,
            data,
        }
    }

    /// Writes one down. `lasting`: it is on the disk when this returns.
    ///
    /// # Errors
    /// There is no room for it: its number is not used.
    pub fn append(&mut self, kind: &str, data: Value, lasting: bool) -> Result<Event> {
        let seq = self.seq + 1;
        let event = Event { seq, id: format!("{}.{seq}", self.id), ..self.event(kind, data) };
        let path = self.directory.join(NAME);
        let mut line = serde_json::to_vec(&event).map_err(|error| Error::new(format!("encode an event: {error}")))?;
        line.push(b'\n');
        if self.size + line.len() as u64 > EVENTS_MAX {
            self.turn_over()?;
        }
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would take the next one with it.
            let _ = self.file.set_len(self.size);
            return Err(failed(&path, "write", &error));
        }
        if lasting {
            self.file.sync_data().map_err(|error| failed(&path, "fdatasync", &error))?;
        }
        self.size += line.len() as u64;
        self.seq = seq;
        Ok(event)
    }

    fn turn_over(&mut self) -> Result<()> {
        let path = self.directory.join(NAME);
        fs::rename(&path, self.directory.join(OLD)).map_err(|error| failed(&path, "rename", &error))?;
        self.file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, "open", &error))?;
        self.size = 0;
        Ok(())
    }

    /// The lines of all events after number `seq` that are still there.
    pub fn since(&self, seq: u64) -> Vec<String> {
        let all = [OLD, NAME].into_iter().flat_map(|name| lines(&self.directory.join(name)));
        all.filter(|line| seq_of(line).is_some_and(|found| found > seq)).collect()
    }
}

fn lines(path: &Path) -> impl Iterator<Item = String> + use<> {
    let file = File::open(path).ok();
    // A torn line may end within a character; those after it are whole.
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).split(b'\n').map_while(io::Result::ok));
    lines.filter_map(|line| String::from_utf8(line).ok())
}

fn seq_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Event>(line).ok().map(|event| event.seq)
}

fn ends_with_newline(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(file) = File::open(path) else { return true };
    let mut last = [0];
    let size = file.metadata().map_or(0, |meta| meta.len());
    size == 0 || (file.read_exact_at(&mut last, size - 1).is_ok() && last == *b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn directory(name: &str) -> Directory {
        let all = std::env::temp_dir().join(format!("orlop-record-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&all);
        Directory::claim(&all, "c").expect("claim")
    }

    fn gone(directory: Directory) {
        let all = directory.path().parent().expect("a parent").to_owned();
        drop(directory);
        fs::remove_dir_all(all).expect("remove");
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_a_torn_line() {
        let directory = directory("torn");
        let mut journal = Journal::open(&directory, "c").expect("open");
        for number in 1..=3 {
            assert_eq!(journal.append("start", json!({}), false).expect("append").seq, number);
        }
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(directory.path().join(NAME)).expect("open");
        file.write_all("{\"specversion\":\"1.0\",\"data\":\"ä".as_bytes().split_last().expect("bytes").1)
            .expect("a torn line");
        let mut journal = Journal::open(&directory, "c").expect("open");
        assert_eq!(journal.append("exit", json!({}), true).expect("append").seq, 4);
        drop(journal);
        let mut journal = Journal::open(&directory, "c").expect("open");
        assert_eq!(journal.append("exit", json!({}), true).expect("append").seq, 5);
        let seqs: Vec<_> = journal.since(1).iter().map(|line| seq_of(line).expect("an event")).collect();
        assert_eq!(seqs, [2, 3, 4, 5]);
        gone(directory);
    }

    #[test]
    fn old_events_give_way_to_new_ones() {
        let directory = directory("old");
        let mut journal = Journal::open(&directory, "c").expect("open");
        let text = "x".repeat(1000);
        for _ in 0..1000 {
            journal.append("probe", json!({ "text": text }), false).expect("append");
        }
        let seqs: Vec<_> = journal.since(0).iter().map(|line| seq_of(line).expect("an event")).collect();
        assert!(seqs.len() > 200 && seqs.len() < 600, "{}", seqs.len());
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap");
        assert_eq!(seqs.last(), Some(&1000));
        gone(directory);
    }

    #[test]
    fn one_container_has_one_supervisor() {
        let directory = directory("one");
        let all = directory.path().parent().expect("a parent").to_owned();
        let said = Directory::claim(&all, "c").expect_err("claimed twice").to_string();
        assert!(said.contains("has a supervisor already"), "{said}");
        gone(directory);
    }
}
