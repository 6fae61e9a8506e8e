//! The one error record. Callers parse it: podman reads the whole log as one object, containerd's shim takes the last
//! object with level error, conmon reads standard error, of which podman shows the line that it knows.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Global, LogFormat};
use crate::error::{Error, Result};

/// Writes the record to the log, if there is one, and says on standard error what went wrong.
pub(super) fn failed(global: &Global, error: &anyhow::Error) {
    let own = error.downcast_ref::<Error>();
    let line = printable(&own.map_or_else(|| format!("{error:#}"), ToString::to_string));
    match &global.log {
        Some(path) => {
            if let Err(why) = append(path, &record(global.log_format, "error", &line)) {
                say(&format!("orlop: write the log {}: {why}\n", path.display()));
            }
        }
        None if global.log_format == LogFormat::Json => {
            say(&record(LogFormat::Json, "error", &line));
            return;
        }
        None => {}
    }
    match own {
        Some(own) if std::io::stderr().is_terminal() => say(&format!("orlop: {}\n", printable(&format!("{own:#}")))),
        _ => say(&format!("orlop: {line}\n")),
    }
}

/// The record of a command line that is none. What it says is on standard error already.
pub(super) fn refused(path: &Path, format: LogFormat, line: &str) {
    if let Err(why) = append(path, &record(format, "error", &printable(line))) {
        say(&format!("orlop: write the log {}: {why}\n", path.display()));
    }
}

/// With `--debug`, a record for each line of `text`, in the log or else on standard error.
pub(super) fn debug(global: &Global, text: impl FnOnce() -> String) {
    if !global.debug {
        return;
    }
    let records = |text: &str| text.lines().map(|line| record(global.log_format, "debug", &printable(line))).collect();
    let records: String = records(&text());
    let Some(path) = &global.log else {
        say(&records);
        return;
    };
    if let Err(why) = append(path, &records) {
        say(&format!("orlop: write the log {}: {why}\n", path.display()));
    }
}

/// What did not keep a command from doing its work: for who reads the log, and on standard error where there is none, or where
/// `said` tells that it is the caller's.
pub(super) fn warnings(global: &Global, warnings: &[String], said: bool) {
    for warning in warnings {
        if let Some(path) = &global.log {
            if let Err(why) = append(path, &record(global.log_format, "warning", &printable(warning))) {
                say(&format!("orlop: write the log {}: {why}\n", path.display()));
            }
        } else if global.log_format == LogFormat::Json {
            say(&record(LogFormat::Json, "warning", &printable(warning)));
            continue;
        }
        if said || global.log.is_none() {
            warn(warning);
        }
    }
}

/// Says something that is no error on standard error.
pub(super) fn warn(warning: impl std::fmt::Display) {
    say(&format!("orlop: warning: {}\n", printable(&warning.to_string())));
}

/// Writes on standard error what can be written: where that is gone or full, eprintln would panic.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes a command's answer on standard output.
///
/// # Errors
/// It could not be written, all of it.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::new("write to standard output").call("write", crate::host::errno(&error)))
}

fn append(path: &Path, record: &str) -> std::io::Result<()> {
    // /dev/stderr is a link, and nobody but root makes links in /dev.
    let follow = if path.starts_with("/dev") { 0 } else { libc::O_NOFOLLOW };
    let flags = follow | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    file.write_all(record.as_bytes())
}

fn record(format: LogFormat, level: &str, line: &str) -> String {
    let time = crate::state::now();
    match format {
        LogFormat::Json => format!("{}\n", serde_json::json!({ "level": level, "msg": line, "time": time })),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={line:?}\n"),
    }
}

/// Control characters of names and of hooks' output are no business of the reader's terminal, nor are those that turn the
/// direction of what follows (Unicode, Bidirectional Algorithm).
pub(super) fn printable(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let safe = |c: char| !(c.is_control() || turns(c)) || c == '\n' || c == '\t';
    text.chars().map(|c| if safe(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}
