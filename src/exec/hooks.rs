//! Hooks on the host's side: prestart, createRuntime, poststart, poststop.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::bound::{Wait, poll};
use crate::error::{Error, Result, errno_text};
use crate::plan::op::Hook;

/// How much of a failed hook's output goes into the error.
const SHOWN: u64 = 4096;

/// A file in memory.
pub fn memory_file(name: &std::ffi::CStr) -> Result<File> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|errno| Error::new("make a file in memory").call("memfd_create", errno))
}

/// Replaces the content of a file in memory, and goes back to its beginning.
pub fn refill(file: &mut File, bytes: &[u8]) -> Result<()> {
    let io = |error: std::io::Error| {
        Error::new("write a file in memory").call("write", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    };
    file.set_len(0).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io).map(drop)
}

/// Runs the hooks in order; the first that fails ends it. Their directory is the bundle's while the container is made, as with
/// runc, or else the caller's.
pub fn run(hooks: &[Hook], state: &serde_json::Value, directory: Option<&Path>) -> Result<()> {
    run_by(hooks, state, directory, &mut poll)
}

/// The same, each waited for by `wait`.
pub fn run_by(hooks: &[Hook], state: &serde_json::Value, directory: Option<&Path>, wait: Wait<'_>) -> Result<()> {
    let bytes = serde_json::to_vec(state).unwrap_or_default();
    hooks.iter().try_for_each(|hook| one(hook, &bytes, directory, wait))
}

/// Runs the hooks of a container that is gone, all of them: what failed (runtime.md, Lifecycle 13).
pub fn run_all(hooks: &[Hook], state: &serde_json::Value, directory: Option<&Path>) -> Vec<Error> {
    let bytes = serde_json::to_vec(state).unwrap_or_default();
    hooks.iter().filter_map(|hook| one(hook, &bytes, directory, &mut poll).err()).collect()
}

fn one(hook: &Hook, state: &[u8], directory: Option<&Path>, wait: Wait<'_>) -> Result<()> {
    let failed = |why: String| {
        Error::new(format!("error running {} hook #{}: {why}", hook.kind, hook.index))
            .at(format!("/hooks/{}/{}", hook.kind, hook.index))
    };
    let mut input = memory_file(c"state")?;
    refill(&mut input, state)?;
    let output = memory_file(c"output")?;
    let copy = || output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
    let mut command = Command::new(OsStr::from_bytes(hook.path.as_bytes()));
    let strings = hook.args.strings();
    if let Some((first, rest)) = strings.split_first() {
        command.arg0(OsStr::from_bytes(first.as_bytes()));
        command.args(rest.iter().map(|arg| OsStr::from_bytes(arg.as_bytes())));
    }
    command.stdin(Stdio::from(input)).stdout(copy()).stderr(copy()).process_group(0);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    if !hook.inherits {
        command.env_clear();
    }
    for entry in hook.env.strings() {
        let bytes = entry.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        let value = bytes.get(at + 1..).unwrap_or_default();
        command.env(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(value));
    }
    crate::sys::process::unblock_signals(&mut command);
    let mut child = command.spawn().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        failed(format!("exec {}: {}", hook.path.to_string_lossy(), errno_text(errno)))
            .hint("a hook is an absolute path of the host, executable, with its interpreter there")
    })?;
    let milliseconds = i32::try_from(u64::from(hook.timeout) * 1000).unwrap_or(i32::MAX);
    let ended = super::bound::wait_by(&mut child, milliseconds, wait)
        .map_err(|(call, errno)| failed("it can't be waited for in its time".to_owned()).call(call, errno))?;
    let why = match ended.map(|status| (status.signal(), status.code())) {
        None => format!("context deadline exceeded: killed after {} s", hook.timeout),
        Some((_, Some(0))) => return Ok(()),
        Some((Some(signal), _)) => format!("signal {signal}"),
        Some((None, code)) => format!("exit status {}", code.unwrap_or(-1)),
    };
    Err(failed(format!("{why}, output: {}", tail(output))))
}

/// The end of what a hook said.
pub fn tail(mut output: File) -> String {
    let length = output.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    let start = SeekFrom::Start(length.saturating_sub(SHOWN));
    if output.seek(start).is_ok() {
        let _ = output.take(SHOWN).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().escape_debug().collect::<String>().replace("\\n", "\n")
}
