//! A process's standard descriptors, as containerd's URIs name them.
//!
//! A FIFO (`fifo://`, or no scheme) is the process's own descriptor: nothing is copied. The shim holds the other end as well, so
//! that neither the end nor the death of whoever reads is a SIGPIPE for the process, and none of who writes an end of file before
//! CloseIO. Output for a file comes by a pipe, since with the file itself the process could undo what it has written. Output for
//! a program (`binary://`) is a pipe to that. A terminal's master is copied from and to all these.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::error::{Error, Result};
use crate::shim::children::Process;
use crate::sys::clone::{Cloned, clone3};
use crate::sys::process::{StringArray, close_range, dup_from, dup_onto, execve, exit, kill_group, poll_in, setsid};
use crate::sys::{path, sigaction};

/// How long a logger may take until it is ready.
const LOGGER: i32 = 10_000;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Nowhere,
    Fifo(PathBuf),
    File(PathBuf),
    Program(Program),
}

/// A logger.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    /// It says that it is ready by a byte; otherwise by closing the descriptor.
    says_so: bool,
}

impl Target {
    fn parse(uri: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(format!("standard output to {uri:?}")).hint(why);
        let Some((scheme, rest)) = uri.split_once("://") else {
            return match uri {
                "" => Ok(Self::Nowhere),
                path if path.starts_with('/') => Ok(Self::Fifo(path.into())),
                _ => Err(wrong("an absolute path or a URI is wanted")),
            };
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decoded(path));
        if !path.is_absolute() {
            return Err(wrong("an absolute path is wanted"));
        }
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => {
                let pairs = query.split('&').filter(|pair| !pair.is_empty());
                let words = |pair: &str| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    [key, value].into_iter().filter(|word| !word.is_empty()).map(decoded).collect::<Vec<_>>()
                };
                let arguments = pairs.flat_map(words).collect();
                Ok(Self::Program(Program { path, arguments, says_so: scheme == "binary-v2" }))
            }
            _ => Err(wrong("fifo, file, binary and binary-v2 are known")),
        }
    }
}

/// `%41` and `+` of a URI.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], escape.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What the shim keeps for a process.
#[derive(Debug, Default)]
pub struct Io {
    /// The other ends of its FIFOs.
    held: Vec<OwnedFd>,
    /// The writing end of its input, until CloseIO.
    stdin: Option<OwnedFd>,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// Where the terminal's output goes, and where its input comes from, until there is a master.
    sink: Option<OwnedFd>,
    source: Option<OwnedFd>,
    /// The program that gets its output.
    pub logger: Option<Process>,
}

/// What the worker needs that makes the process, and the copying that begins with it.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The process's own descriptors.
    pub child: [Option<OwnedFd>; 3],
    pub io: Io,
    pub copies: Vec<Copy>,
    pub logger: Option<Logger>,
}

/// A program that gets output, to be started by a worker.
#[derive(Debug)]
pub struct Logger {
    program: Program,
    out: OwnedFd,
    err: OwnedFd,
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("open {} for a container", path.display())).call("open", crate::host::errno(error))
}

fn open(path: &Path, read: bool, write: bool) -> Result<File> {
    let mut options = File::options();
    options.read(read).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).map_err(|error| failed(path, &error))
}

fn is_fifo(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// The process waits in it, as any process would.
fn blocking(file: File) -> Result<OwnedFd> {
    let set = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()));
    set.map_err(|errno| Error::new("hand a descriptor to a container").call("fcntl(F_SETFL)", errno))?;
    Ok(file.into())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::new("make a pipe for output").call("pipe2", errno))
}

fn nonblocking(file: OwnedFd) -> Result<OwnedFd> {
    let set = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    set.map_err(|errno| Error::new("copy output").call("fcntl(F_SETFL)", errno))?;
    Ok(file)
}

/// The file of `file://`, with the directories above it.
fn log_file(path: &Path) -> Result<OwnedFd> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    }
    let mut options = File::options();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    Ok(options.open(path).map_err(|error| failed(path, &error))?.into())
}

impl Prepared {
    /// Opens all that `given` names. The owner of what the process gets is `owner` (0: as it is).
    ///
    /// # Errors
    /// A URI that is none, a file that can't be opened.
    pub fn new(given: &Given, owner: (u32, u32)) -> Result<Self> {
        let mut prepared = Self::default();
        prepared.input(given)?;
        let stdout = Target::parse(&given.stdout)?;
        if given.terminal {
            prepared.io.sink = prepared.sink(stdout)?;
            return Ok(prepared);
        }
        // Both may go to one program, which then gets each by a descriptor of its own.
        let stderr = Target::parse(&given.stderr)?;
        if let (Target::Program(program), _) | (_, Target::Program(program)) = (&stdout, &stderr) {
            prepared.program(program.clone(), [&stdout, &stderr])?;
        }
        prepared.output(1, stdout)?;
        prepared.output(2, stderr)?;
        if owner != (0, 0) {
            for file in prepared.child.iter().flatten() {
                path::fchown(file.as_fd(), owner.0, owner.1)
                    .map_err(|errno| Error::new("give a container its standard descriptors").call("fchown", errno))?;
            }
        }
        Ok(prepared)
    }

    fn input(&mut self, given: &Given) -> Result<()> {
        let path = match Target::parse(&given.stdin)? {
            Target::Nowhere => return Ok(()),
            Target::Fifo(path) | Target::File(path) => path,
            Target::Program(_) => return Err(Error::new(format!("standard input from {:?}", given.stdin))),
        };
        let file = open(&path, true, false)?;
        if is_fifo(&file) {
            self.io.stdin = Some(open(&path, false, true)?.into());
        }
        match given.terminal {
            true => self.io.source = Some(file.into()),
            false => self.child[0] = Some(blocking(file)?),
        }
        Ok(())
    }

    fn output(&mut self, number: usize, target: Target) -> Result<()> {
        match target {
            Target::Nowhere | Target::Program(_) => {}
            Target::Fifo(path) => {
                let ours = open(&path, true, false)?;
                if !is_fifo(&ours) {
                    return self.output(number, Target::File(path));
                }
                self.child[number] = Some(blocking(open(&path, false, true)?)?);
                self.io.held.push(ours.into());
            }
            Target::File(path) => {
                let file = log_file(&path)?;
                let (read, write) = pipe()?;
                self.child[number] = Some(write);
                self.copies.push(Copy::new(nonblocking(read)?, file));
            }
        }
        Ok(())
    }

    /// Two pipes to one program. What does not go there at all is at its end at once.
    fn program(&mut self, program: Program, targets: [&Target; 2]) -> Result<()> {
        let (out, for_out) = pipe()?;
        let (err, for_err) = pipe()?;
        for (number, write) in [(1, for_out), (2, for_err)] {
            if matches!(targets[number - 1], Target::Program(_)) {
                self.child[number] = Some(write);
            }
        }
        self.logger = Some(Logger { program, out, err });
        Ok(())
    }

    /// Where a terminal's output goes.
    fn sink(&mut self, target: Target) -> Result<Option<OwnedFd>> {
        match target {
            Target::Nowhere => Ok(None),
            Target::Fifo(path) => {
                let file = open(&path, true, true)?;
                if is_fifo(&file) { Ok(Some(file.into())) } else { log_file(&path).map(Some) }
            }
            Target::File(path) => log_file(&path).map(Some),
            Target::Program(program) => {
                let (out, write) = pipe()?;
                let (err, _) = pipe()?;
                self.logger = Some(Logger { program, out, err });
                nonblocking(write).map(Some)
            }
        }
    }
}

impl Io {
    /// The process has its terminal: the copies from and to its master.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn attach(&mut self, master: OwnedFd) -> Result<Vec<Copy>> {
        let again = |file: &OwnedFd| {
            file.try_clone().map_err(|error| Error::new("copy a terminal").call("dup", crate::host::errno(&error)))
        };
        let master = nonblocking(master)?;
        let mut copies = Vec::new();
        if let Some(source) = self.source.take() {
            copies.push(Copy::new(source, again(&master)?));
        }
        copies.push(Copy { to: self.sink.take(), ..Copy::new(again(&master)?, again(&master)?) });
        self.console = Some(master);
        Ok(copies)
    }

    /// CloseIO: the end of the process's input is that of whoever else writes.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

/// Bytes on their way from a descriptor to another.
#[derive(Debug)]
pub struct Copy {
    pub from: OwnedFd,
    /// None: what comes is thrown away.
    pub to: Option<OwnedFd>,
    buffer: Vec<u8>,
    ended: bool,
}

/// What a copy waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Something to read.
    Input,
    /// Room to write.
    Room,
    /// Nothing: all is copied, or nobody takes it any more.
    End,
}

impl Copy {
    /// Both must not block, unless `to` is a file on a disk.
    fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from, to: Some(to), buffer: Vec::new(), ended: false }
    }

    /// Copies what can be copied now, up to as much as one pipe holds: others want their turn.
    pub fn step(&mut self) -> Wants {
        let mut chunk = [0; 8192];
        for _ in 0..8 {
            if !self.flush() {
                return Wants::Room;
            }
            if self.ended {
                return Wants::End;
            }
            match path::read(self.from.as_fd(), &mut chunk) {
                Ok(0) => self.ended = true,
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.buffer = Vec::new();
                    return Wants::Input;
                }
                // EIO: nobody has the terminal any more.
                Err(_) => self.ended = true,
            }
        }
        if self.flush() { Wants::Input } else { Wants::Room }
    }

    /// False when there is no room for all.
    fn flush(&mut self) -> bool {
        while !self.buffer.is_empty() {
            let Some(to) = &self.to else {
                self.buffer.clear();
                break;
            };
            match nix::unistd::write(to, &self.buffer) {
                Ok(length) => drop(self.buffer.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                // A reader that has gone or a disk that is full must not stop the process.
                Err(_) => self.to = None,
            }
        }
        true
    }
}

impl Logger {
    /// The descriptors that the worker has to keep for it.
    pub fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.out.as_fd(), self.err.as_fd()]
    }

    /// Starts the program, and waits until it is ready. It gets the output on 3 and 4, and says on 5 that it is ready.
    ///
    /// # Errors
    /// It can't be executed, ends, or is not ready in time.
    pub fn start(&self, id: &str, namespace: &str) -> Result<Process> {
        let program = &self.program;
        let failed = |why: &str| Error::new(format!("start the logger {}: {why}", program.path.display()));
        let text = |text: &[u8]| CString::new(text).map_err(|_| failed("a NUL byte in its arguments"));
        let path = text(program.path.as_os_str().as_bytes())?;
        let arguments = program.arguments.iter().map(|word| text(word.as_bytes()));
        let argv = StringArray::new(std::iter::once(Ok(path.clone())).chain(arguments).collect::<Result<_>>()?);
        let environment = [format!("CONTAINER_ID={id}"), format!("CONTAINER_NAMESPACE={namespace}")];
        let envp = environment.iter().map(|text_| text(text_.as_bytes())).collect::<Result<_>>()?;
        let envp = StringArray::new(envp);
        let (ready, says_ready) = pipe()?;
        let (started, says_errno) = pipe()?;
        let files = [self.out.as_fd(), self.err.as_fd(), says_ready.as_fd(), says_errno.as_fd()];
        let cloned = clone3(0, None).map_err(|errno| failed("no process").call("clone3", errno))?;
        let Cloned::Parent(pid, _) = cloned else { become_logger(&files, &path, &argv, &envp) };
        drop((says_ready, says_errno));
        let mut byte = [0];
        // Its end is the execve, or the errno of one that has failed.
        if poll_in(started.as_fd(), LOGGER) == Ok(true) && path::read(started.as_fd(), &mut byte) == Ok(1) {
            return Err(failed("it can't be executed").call("execve", Errno::from_raw(byte[0].into())));
        }
        let made = Process::now(pid.as_raw())?.ok_or_else(|| failed("it has ended"));
        let in_time = poll_in(ready.as_fd(), LOGGER) == Ok(true);
        let said = in_time && path::read(ready.as_fd(), &mut byte) == Ok(1);
        if !in_time || (program.says_so && !said) {
            // A child that was not waited for, and the leader of its session: the number is its own.
            let _ = kill_group(pid.as_raw());
            return Err(failed("it has not said that it is ready"));
        }
        made
    }
}

fn become_logger(files: &[BorrowedFd<'_>; 4], path: &CString, argv: &StringArray, envp: &StringArray) -> ! {
    let prepare = || {
        let null = path::openat(path::CWD, c"/dev/null", libc::O_RDWR, 0)?;
        // First all out of the way of what they become.
        let [out, err, ready, started] = files;
        let [out, err] = [dup_from(*out, 16)?, dup_from(*err, 16)?];
        let [ready, started] = [dup_from(*ready, 16)?, dup_from(*started, 16)?];
        for (number, file) in [&null, &null, &null, &out, &err, &ready, &started].into_iter().enumerate() {
            dup_onto(file.as_fd(), number as i32)?;
        }
        // Those that were moved go with it, and are not closed twice.
        close_range(6, u32::MAX, true)?;
        sigaction::default_all();
        let _ = setsid();
        Err(execve(path, argv, envp, None))
    };
    let done: std::result::Result<(), Errno> = prepare();
    if let Err(errno) = done {
        let _ = path::write(path::inherited(6), &[errno as i32 as u8]);
    }
    exit(127)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn uris_as_containerd_writes_them() {
        let program = |path: &str, arguments: &[&str], says_so| {
            let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
            Target::Program(Program { path: path.into(), arguments, says_so })
        };
        for (uri, target) in [
            ("", Target::Nowhere),
            ("/run/x", Target::Fifo("/run/x".into())),
            ("fifo:///run/x", Target::Fifo("/run/x".into())),
            ("file:///var/log/a%20b", Target::File("/var/log/a b".into())),
            ("binary:///bin/log?id=a%26b&flag", program("/bin/log", &["id", "a&b", "flag"], false)),
            ("binary-v2:///bin/log", program("/bin/log", &[], true)),
        ] {
            assert_eq!(Target::parse(uri).expect(uri), target);
        }
        for uri in ["x", "file://x", "npipe:///x", "binary://?a=b"] {
            assert!(Target::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_copy_waits_for_who_does_not_read_and_loses_nothing() {
        let pair = || UnixStream::pair().expect("a pair");
        let ((mut writer, from), (to, mut reader)) = (pair(), pair());
        for socket in [&writer, &from, &to, &reader] {
            socket.set_nonblocking(true).expect("fcntl");
        }
        let mut copy = Copy::new(from.into(), to.into());
        let (mut written, mut read) = (Vec::new(), Vec::new());
        for number in 0..2000u32 {
            let bytes = number.to_le_bytes().repeat(1000);
            let Ok(length) = writer.write(&bytes) else { break };
            written.extend_from_slice(&bytes[..length]);
            copy.step();
        }
        assert_eq!(copy.step(), Wants::Room);
        assert!(copy.buffer.len() <= 8192);
        drop(writer);
        loop {
            let ended = copy.step() == Wants::End;
            let _ = reader.read_to_end(&mut read);
            if ended {
                break;
            }
        }
        assert_eq!(read, written);
    }

    #[test]
    fn a_copy_to_nobody_goes_on() {
        let ((mut writer, from), (to, reader)) =
            (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
        from.set_nonblocking(true).expect("fcntl");
        drop(reader);
        let mut copy = Copy::new(from.into(), to.into());
        writer.write_all(b"lost").expect("write");
        // SIGPIPE is ignored by the test's harness, as it is by the shim.
        assert_eq!(copy.step(), Wants::Input);
        drop(writer);
        assert_eq!(copy.step(), Wants::End);
    }
}
