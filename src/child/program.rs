//! The program: found, and executed; and when that fails, why.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::{Fail, Named, State, Text};
use crate::sys::path::{self, CWD};
use crate::sys::process::{self, StringArray};

/// More of `/etc/passwd` than this is not read.
const PASSWD: usize = 1 << 20;

/// `HOME` as `/etc/passwd` of the container has it for `uid`; `/` when it has none. A fifo or a device in its place is
/// not read.
pub(super) fn home(state: &mut State<'_>, uid: u32) -> Result<(), Fail> {
    let mut home = Text::new();
    home.push(b"HOME=");
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = path::RESOLVE_IN_ROOT | path::RESOLVE_NO_MAGICLINKS;
    if let Ok(passwd) = path::openat2(state.root()?, c"/etc/passwd", flags, 0, resolve) {
        let regular = path::fstat(passwd.as_fd()).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        if regular {
            search(passwd.as_fd(), uid, &mut home);
        }
    }
    if home.bytes() == b"HOME=" {
        home.push(b"/");
    }
    state.home = Some(home);
    Ok(())
}

fn search(passwd: BorrowedFd<'_>, uid: u32, home: &mut Text) {
    let mut buffer = [0u8; 4096];
    let mut kept = 0;
    let mut total = 0;
    while total < PASSWD {
        let Ok(length) = path::read(passwd, &mut buffer[kept..]) else { return };
        total += length;
        let end = kept + length;
        let mut start = 0;
        while let Some(newline) = buffer[start..end].iter().position(|byte| *byte == b'\n') {
            if line(&buffer[start..start + newline], uid, home) {
                return;
            }
            start += newline + 1;
        }
        if length == 0 {
            line(&buffer[start..end], uid, home);
            return;
        }
        // A line longer than the buffer is skipped.
        kept = if start == 0 && end == buffer.len() { 0 } else { end - start };
        buffer.copy_within(start..start + kept, 0);
    }
}

/// name:password:uid:gid:comment:home:shell
fn line(line: &[u8], uid: u32, home: &mut Text) -> bool {
    let mut fields = line.split(|byte| *byte == b':');
    let (Some(number), Some(directory)) = (fields.nth(2), fields.nth(2)) else { return false };
    let parsed = std::str::from_utf8(number).ok().and_then(|text| text.parse::<u32>().ok());
    if parsed == Some(uid) && !directory.is_empty() {
        home.push(directory);
        return true;
    }
    false
}

/// The first of the candidates that this process may execute.
pub(super) fn find<'a>(state: &mut State<'a>, candidates: &'a [CString]) -> Result<(), Fail> {
    let mut worst = Fail::new("stat", Errno::ENOENT);
    for candidate in candidates {
        match executable(candidate) {
            Ok(()) => {
                state.program = Some(candidate);
                return Ok(());
            }
            Err(fail) if matches!(fail.errno, Errno::ENOENT | Errno::ENOTDIR) && candidates.len() > 1 => {}
            Err(fail) => worst = fail,
        }
    }
    Err(worst)
}

/// A regular file, reached without a magic link (`/proc/self/exe` would be the runtime itself, CVE-2019-5736), with an
/// execute bit for this process.
fn executable(candidate: &CStr) -> Result<(), Fail> {
    let file = path::openat2(CWD, candidate, libc::O_PATH, 0, path::RESOLVE_NO_MAGICLINKS).named("openat2")?;
    match path::fstat(file.as_fd()).named("fstat")?.st_mode & libc::S_IFMT {
        libc::S_IFREG => path::executable(CWD, candidate).named("faccessat2"),
        libc::S_IFDIR => Err(Fail::new("fstat", Errno::EISDIR)),
        _ => Err(Fail::new("fstat", Errno::EACCES)),
    }
}

/// execve(2). It comes back only with an error, for which [`diagnose`] looks for a reason.
pub(super) fn exec(state: &State<'_>, args: &StringArray, env: &StringArray) -> Result<(), Fail> {
    let program = state.program.unwrap_or(c"");
    state.inherited.report.update(|report| report.executing = 1);
    let errno = process::execve(program, args, env, state.home.as_ref().map(Text::as_cstr));
    state.inherited.report.update(|report| report.executing = 0);
    Err(Fail::new("execve", errno))
}

/// What execve(2) does not say: which interpreter is missing, and what is wrong with the first line. Names are looked up
/// as the kernel does it, from the root that this process has by now; every descriptor is closed already.
pub(super) fn diagnose(state: &State<'_>, errno: Errno) -> Text {
    let mut why = Text::new();
    look(state.program.unwrap_or(c""), errno, &mut why);
    why
}

fn look(program: &CStr, errno: Errno, why: &mut Text) {
    let mut head = [0u8; 256];
    let Ok(file) = path::openat(CWD, program, libc::O_RDONLY | libc::O_NONBLOCK, 0) else { return };
    let Ok(length) = path::read(file.as_fd(), &mut head) else { return };
    let head = &head[..length];
    match errno {
        Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR if head.starts_with(b"#!") => script(head, why),
        Errno::ENOENT | Errno::EACCES if head.starts_with(b"\x7fELF") => elf(file.as_fd(), head, why),
        Errno::ENOEXEC => not_a_program(head, why),
        Errno::EPERM => why.push(b"a seccomp or LSM rule may forbid execve"),
        _ => {}
    }
    if errno == Errno::EACCES && why.bytes().is_empty() {
        why.push(b"the file system may be mounted noexec");
    }
}

fn script(head: &[u8], why: &mut Text) {
    let line = head[2..].split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let name = line.trim_ascii().split(|byte| *byte == b' ' || *byte == b'\t').next().unwrap_or(&[]);
    if line.ends_with(b"\r") {
        why.push(b"the first line of the script ends in CR LF, so its interpreter would be called ");
        why.push(name);
        why.push(b"\\r");
        return;
    }
    interpreter(name, b"the script's interpreter ", why);
}

/// Says what is wrong with an interpreter, or nothing.
fn interpreter(name: &[u8], what: &[u8], why: &mut Text) {
    let mut text = Text::new();
    text.push(name);
    let state: &[u8] = match path::openat(CWD, text.as_cstr(), libc::O_PATH, 0) {
        Err(Errno::ENOENT) => b" does not exist in the container",
        Err(_) => b" can't be reached",
        Ok(_) if path::executable(CWD, text.as_cstr()).is_err() => b" may not be executed",
        Ok(_) => return,
    };
    why.push(what);
    why.push(name);
    why.push(state);
}

/// `PT_INTERP` of a 64-bit ELF file, as elf(5) lays it out.
fn elf(file: BorrowedFd<'_>, head: &[u8], why: &mut Text) {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let offset = head.get(32..40).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
    let (Some(&2), Some(size), Some(count), Some(offset)) = (head.get(4), half(54), half(56), offset) else { return };
    for number in 0..u64::from(count.min(64)) {
        let mut header = [0u8; 40];
        if path::pread(file, &mut header, offset + number * u64::from(size)) != Ok(header.len()) {
            return;
        }
        let word = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        if word(0) as u32 != PT_INTERP {
            continue;
        }
        let mut name = [0u8; 256];
        let length = (word(32) as usize).min(name.len());
        if path::pread(file, &mut name[..length], word(8)).is_ok() {
            let name = name[..length].split(|byte| *byte == 0).next().unwrap_or(&[]);
            interpreter(name, b"the program's interpreter (dynamic loader) ", why);
        }
        return;
    }
}

fn not_a_program(head: &[u8], why: &mut Text) {
    let what: &[u8] = if head.is_empty() {
        b"the file is empty"
    } else if head.starts_with(b"\x7fELF") {
        b"the program is for another architecture"
    } else {
        b"neither an ELF program nor a script with a #! line"
    };
    why.push(what);
}
