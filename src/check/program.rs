//! `process.cwd` and `process.args`: whether they lead to something in the root file system and its bind mounts. As a
//! mount or a hook may still bring what is missing, nothing here is more than a warning.

use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Process;

use super::view::{Nowhere, Seen, View};
use super::{Findings, Subject};
use crate::error::{Error, errno_text};
use crate::plan::process::{DEFAULT_PATH, variable};

const ARGS: &str = "/process/args/0";
const LATER: &str = "looked for in root.path and its bind mounts; another mount or a hook may still bring it";

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let (Some(process), Some(view)) = (subject.spec.process(), &subject.view) else { return };
    cwd(process.cwd(), view, findings);
    let name = process.args().iter().flatten().next().filter(|name| !name.is_empty() && !name.contains('\0'));
    if let Some(name) = name {
        program(name, process, view, subject, findings);
    }
}

/// A directory that is missing is made.
fn cwd(path: &Path, view: &View, findings: &mut Findings) {
    let errno = match view.look(path) {
        Ok(seen) if seen.mode() & libc::S_IFMT != libc::S_IFDIR => Errno::ENOTDIR,
        Err(Nowhere::Fails(errno)) if errno != Errno::ENOENT => errno,
        _ => return,
    };
    let text = format!("chdir to {}: {}", path.display(), errno_text(errno));
    findings.warning(Error::new(text).at("/process/cwd").hint(LATER));
}

fn program(name: &str, process: &Process, view: &View, subject: &Subject, findings: &mut Findings) {
    let candidates: Vec<PathBuf> = match name.contains('/') {
        true => vec![process.cwd().join(name)],
        false => variable(process, "PATH")
            .unwrap_or(DEFAULT_PATH)
            .split(':')
            .map(|dir| process.cwd().join(dir).join(name))
            .collect(),
    };
    let mut worst = Errno::ENOENT;
    for candidate in &candidates {
        let errno = match view.look(candidate) {
            Ok(seen) => match refused(&seen) {
                None => return found(candidate, &seen, view, findings),
                Some(errno) => errno,
            },
            Err(Nowhere::Unknown(mount)) => return unknown(candidate, mount, subject, findings),
            Err(Nowhere::Fails(Errno::ENOENT | Errno::ENOTDIR)) if candidates.len() > 1 => continue,
            Err(Nowhere::Fails(errno)) => errno,
        };
        worst = errno;
    }
    let text = match (worst, name.contains('/')) {
        (Errno::ENOENT, false) => format!("exec: {name:?}: executable file not found in $PATH"),
        (Errno::ENOENT, true) => format!("exec: {name:?}: stat {name}: no such file or directory"),
        (Errno::EISDIR, _) => format!("exec: {name:?}: is a directory: permission denied"),
        (errno, _) => format!("exec: {name:?}: {}", errno_text(errno)),
    };
    findings.warning(Error::new(text).at(ARGS).hint(LATER));
}

fn refused(seen: &Seen) -> Option<Errno> {
    let mode = seen.mode();
    match mode & libc::S_IFMT {
        libc::S_IFREG if mode & 0o111 != 0 => None,
        libc::S_IFDIR => Some(Errno::EISDIR),
        _ => Some(Errno::EACCES),
    }
}

fn unknown(candidate: &Path, mount: usize, subject: &Subject, findings: &mut Findings) {
    let kind = subject
        .spec
        .mounts()
        .iter()
        .flatten()
        .nth(mount)
        .and_then(|mount| mount.typ().as_deref())
        .unwrap_or("file system");
    let text = format!("the program {} lies in /mounts/{mount}, which is yet to be made", candidate.display());
    let error = Error::new(text).at(ARGS);
    match kind {
        "proc" => {
            findings.warning(error.hint(
                "a program is not reached by a magic link such as /proc/self/exe: that would be the runtime itself",
            ))
        }
        _ => findings.note(error.hint(format!("what is in a new {kind} is known only then"))),
    }
}

/// What execve(2) would say about it.
fn found(path: &Path, seen: &Seen, view: &View, findings: &mut Findings) {
    if seen.noexec {
        let place = seen.mount.map_or("the root file system".to_owned(), |mount| format!("/mounts/{mount}"));
        let error = Error::new(format!("exec {}: permission denied", path.display())).at(ARGS);
        return findings.warning(error.hint(format!("{place} is mounted noexec")));
    }
    let mut head = Vec::new();
    let Some(file) = seen.read() else { return };
    if file.take(4096).read_to_end(&mut head).is_err() {
        return;
    }
    if let Some((errno, why)) = refused_by_execve(&head, view) {
        let text = format!("exec {}: {}", path.display(), errno_text(errno));
        findings.warning(Error::new(text).at(ARGS).hint(why));
    }
}

fn refused_by_execve(head: &[u8], view: &View) -> Option<(Errno, String)> {
    if let Some(line) = head.strip_prefix(b"#!") {
        return script(line, view);
    }
    if head.is_empty() {
        return Some((Errno::ENOEXEC, "the file is empty".to_owned()));
    }
    if !head.starts_with(b"\x7fELF") {
        let why = "it is neither an ELF program nor a script with a first line that begins with #!";
        return Some((Errno::ENOEXEC, why.to_owned()));
    }
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    match half(18).zip(machines()) {
        Some((machine, known)) if !known.contains(&machine) => Some((
            Errno::ENOEXEC,
            format!("the program is of another architecture (e_machine {machine}); this is {}", std::env::consts::ARCH),
        )),
        _ => loader(head).and_then(|name| interpreter(&name, "the program's loader", view)),
    }
}

/// `e_machine` of what this machine runs itself (elf.h).
fn machines() -> Option<&'static [u16]> {
    match std::env::consts::ARCH {
        "x86_64" => Some(&[62, 3]),
        "aarch64" => Some(&[183, 40]),
        "riscv64" => Some(&[243]),
        _ => None,
    }
}

fn script(line: &[u8], view: &View) -> Option<(Errno, String)> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let name = line.trim_ascii().split(|byte| *byte == b' ' || *byte == b'\t').next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    if line.ends_with(b"\r") {
        let why = format!("the first line of the script ends in CR LF, so its interpreter would be called {name}\\r");
        return Some((Errno::ENOENT, why));
    }
    interpreter(&name, "the script's interpreter", view)
}

fn interpreter(name: &str, what: &str, view: &View) -> Option<(Errno, String)> {
    match view.look(Path::new(name)) {
        Ok(seen) if refused(&seen).is_some() => Some((Errno::EACCES, format!("{what} {name} may not be executed"))),
        Err(Nowhere::Fails(Errno::ENOENT)) => {
            Some((Errno::ENOENT, format!("{what} {name} does not exist in the container")))
        }
        Err(Nowhere::Fails(errno)) => Some((errno, format!("{what} {name} can't be reached"))),
        Ok(_) | Err(Nowhere::Unknown(_)) => None,
    }
}

/// `PT_INTERP` of a 64-bit little-endian program, as elf(5) lays it out, where it lies in the first page.
fn loader(head: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let long = |at: usize| usize::try_from(u64::from_le_bytes(head.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok();
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(head.get(at..at.checked_add(2)?)?.try_into().ok()?)));
    if head.get(4..6) != Some(&[2, 1]) {
        return None;
    }
    let (table, size, count) = (long(32)?, half(54)?, half(56)?);
    let entries = (0..count).map_while(|index| table.checked_add(index.checked_mul(size)?));
    let is_interp = |at: &usize| {
        let kind = at.checked_add(4).and_then(|end| head.get(*at..end));
        kind.is_some_and(|kind| kind == PT_INTERP.to_le_bytes())
    };
    let entry = entries.into_iter().find(is_interp)?;
    let (offset, length) = (long(entry.checked_add(8)?)?, long(entry.checked_add(32)?)?);
    let name = head.get(offset..offset.checked_add(length)?)?;
    let name = name.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}
