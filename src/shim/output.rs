//! What a container writes: fifos that outlive the supervisor, and files that are begun anew before they are too large.
//!
//! The container's standard output is a fifo that its process holds open in both directions: while no supervisor reads it the
//! process waits when it is full, and gets no SIGPIPE. The next supervisor goes on reading.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::config::Log;
use crate::error::{Error, Result};
use crate::host::errno;

/// So much of the end of what was written to stderr goes into the record of an exit.
const TAIL: usize = 4096;
/// So many reads in one round of the loop: who writes without a pause must not hold it.
const AT_ONCE: usize = 16;

/// One of the two streams.
#[derive(Debug)]
pub struct Stream {
    /// The container's end, open in both directions.
    writer: File,
    reader: File,
}

/// Both streams and the file that they go to.
#[derive(Debug)]
pub struct Output {
    streams: [Stream; 2],
    log: Log,
    file: Option<File>,
    size: u64,
    tail: VecDeque<u8>,
    /// Bytes that could not be written down.
    lost: u64,
}

fn failed(path: &Path, call: &str, error: &io::Error) -> Error {
    Error::new(format!("write the container's output to {}", path.display())).call(call, errno(error)).at("log")
}

impl Stream {
    fn open(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(Error::new(format!("make {}", path.display())).call("mkfifo", errno)),
        }
        let open = |flags: i32| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(flags | libc::O_NOFOLLOW)
                .open(&path)
                .map_err(|error| failed(&path, "open", &error))
        };
        // Two openings: O_NONBLOCK belongs to one, and the container's programs do not expect it.
        Ok(Self { writer: open(0)?, reader: open(libc::O_NONBLOCK)? })
    }
}

impl Output {
    /// Opens the fifos in the supervisor's directory and the log.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn open(directory: &Path, log: &Log) -> Result<Self> {
        let streams = [Stream::open(directory, "stdout")?, Stream::open(directory, "stderr")?];
        let mut output =
            Self { streams, log: log.clone(), file: None, size: 0, tail: VecDeque::with_capacity(TAIL), lost: 0 };
        output.begin()?;
        Ok(output)
    }

    fn begin(&mut self) -> Result<()> {
        let path = &self.log.path;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| failed(path, "open", &error))?;
        let meta = file.metadata().map_err(|error| failed(path, "fstat", &error))?;
        // A fifo would hold the supervisor, and a device be renamed when it is full.
        if !meta.is_file() {
            return Err(Error::new(format!("{} is no regular file", path.display())).at("log"));
        }
        self.size = meta.len();
        self.file = Some(file);
        Ok(())
    }

    /// The container's ends: its standard output and its standard error.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.streams[0].writer.as_fd(), self.streams[1].writer.as_fd()]
    }

    /// What to wait for.
    pub fn readers(&self) -> [BorrowedFd<'_>; 2] {
        [self.streams[0].reader.as_fd(), self.streams[1].reader.as_fd()]
    }

    /// Takes what is there of a stream, 0 or 1; true when there may be more.
    pub fn take(&mut self, stream: usize) -> bool {
        let mut buffer = [0; 16 << 10];
        for _ in 0..AT_ONCE {
            match self.streams[stream].reader.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    if stream == 1 {
                        let over = (self.tail.len() + length).saturating_sub(TAIL);
                        self.tail.drain(..over.min(self.tail.len()));
                        self.tail.extend(&buffer[length.saturating_sub(TAIL)..length]);
                    }
                    self.keep(&buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// All that is there, after an exit.
    pub fn drain(&mut self) {
        for stream in 0..2 {
            // The pipe holds a bounded number of bytes, and what has ended writes no more; what it left running may.
            for _ in 0..AT_ONCE {
                if !self.take(stream) {
                    break;
                }
            }
        }
    }

    /// Writes it down, in pieces that fit; none ends within a line that fits.
    fn keep(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.log.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let piece = match bytes.split_at_checked(room) {
                None => bytes.len(),
                Some((fits, _)) => match fits.iter().rposition(|byte| *byte == b'\n') {
                    Some(newline) => newline + 1,
                    // A line that is longer than a whole file is torn.
                    None if self.size == 0 => room,
                    None => 0,
                },
            };
            let (now, later) = bytes.split_at(piece);
            match self.file.as_mut().map(|file| file.write_all(now)) {
                Some(Ok(())) => self.size += now.len() as u64,
                _ => self.lost += now.len() as u64,
            }
            bytes = later;
            if !bytes.is_empty() && self.turn_over().is_err() {
                self.lost += bytes.len() as u64;
                return;
            }
        }
    }

    fn turn_over(&mut self) -> Result<()> {
        let numbered = |number: u32| {
            let mut name = self.log.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let path = &self.log.path;
        if self.log.keep == 0 {
            fs::remove_file(path).map_err(|error| failed(path, "unlink", &error))?;
        } else {
            for number in (1..self.log.keep).rev() {
                let _ = fs::rename(numbered(number), numbered(number + 1));
            }
            fs::rename(path, numbered(1)).map_err(|error| failed(path, "rename", &error))?;
        }
        self.begin()
    }

    /// The end of what was written to stderr.
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Nothing of the next start is this one's.
    pub fn forget(&mut self) {
        self.tail.clear();
    }

    /// How many bytes could not be written down.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_begun_anew_before_it_is_too_large() {
        let directory = std::env::temp_dir().join(format!("orlop-output-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).expect("mkdir");
        let log = Log { path: directory.join("log"), max_bytes: 4096, keep: 2 };
        let mut output = Output::open(&directory, &log).expect("open");
        for number in 0..30 {
            let line = format!("{number:0>999}\n");
            (&output.streams[1].writer).write_all(line.as_bytes()).expect("write");
            while output.take(1) {}
        }
        let size = |name: &str| fs::metadata(directory.join(name)).map(|meta| meta.len()).ok();
        assert_eq!(["log", "log.1", "log.2", "log.3"].map(size), [Some(2000), Some(4000), Some(4000), None]);
        assert!(output.tail().ends_with("029\n") && output.tail().len() == TAIL);
        assert_eq!(output.lost(), 0);
        let log = Log { path: "/dev/null".into(), ..log };
        assert!(Output::open(&directory, &log).expect_err("a device").to_string().contains("no regular file"));
        fs::remove_dir_all(directory).expect("remove");
    }
}
