//! The one error record. Callers parse it: podman reads the whole log as one object, containerd's shim takes the last
//! object with level error, conmon reads standard error.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::{Global, LogFormat};
use crate::error::Error;

/// Writes the record to the log, if there is one, and says on standard error what went wrong.
pub(super) fn failed(global: &Global, error: &anyhow::Error) {
    let own = error.downcast_ref::<Error>();
    let line = printable(&own.map_or_else(|| format!("{error:#}"), ToString::to_string));
    match &global.log {
        Some(path) => {
            if let Err(why) = append(path, &record(global.log_format, "error", &line)) {
                eprintln!("orlop: write the log {}: {why}", path.display());
            }
        }
        None if global.log_format == LogFormat::Json => {
            eprint!("{}", record(LogFormat::Json, "error", &line));
            return;
        }
        None => {}
    }
    match own {
        Some(own) => eprintln!("orlop: {}", printable(&format!("{own:#}"))),
        None => eprintln!("orlop: {line}"),
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
        eprint!("{records}");
        return;
    };
    if let Err(why) = append(path, &records) {
        eprintln!("orlop: write the log {}: {why}", path.display());
    }
}

fn append(path: &std::path::Path, record: &str) -> std::io::Result<()> {
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

/// Control characters of names and of hooks' output are no business of the reader's terminal.
fn printable(text: &str) -> String {
    let safe = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if safe(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}
