//! The one error type below the commands.
//!
//! An [`Error`] says which operation failed, where in `config.json` it came from, which system call said no, and what
//! helps. `{}` prints one line, as the log record wants it; `{:#}` prints the lines a person reads on a terminal.

use std::fmt;

use nix::errno::Errno;

/// What went wrong, for the one record that a caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The operation, in the words of the kernel and of the OCI specification.
    pub message: String,
    /// Place in `config.json` as a JSON pointer (RFC 6901), when the operation came from there.
    pub pointer: Option<String>,
    /// The system call with its arguments, as strace would print it.
    pub call: Option<String>,
    /// What the kernel answered.
    pub errno: Option<Errno>,
    /// What the reader can do about it.
    pub hint: Option<String>,
}

/// The result of everything that can fail below the commands.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with nothing but its message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), pointer: None, call: None, errno: None, hint: None }
    }

    /// Adds the JSON pointer that the failed operation came from.
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// Adds the system call that failed and its errno.
    pub fn call(mut self, call: impl Into<String>, errno: Errno) -> Self {
        self.call = Some(call.into());
        self.errno = Some(errno);
        self
    }

    /// Adds what the reader can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `context: ` before the message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

/// The kernel's text for `errno` as callers of runc match it: strerror's words with a lower-case first letter.
pub fn errno_text(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, call, hint) =
            if f.alternate() { ("\n  from ", "\n  ", "\n  hint: ") } else { (", from ", ": ", "; hint: ") };
        f.write_str(&self.message)?;
        if !f.alternate() {
            write_call(self, call, f)?;
        }
        if let Some(pointer) = &self.pointer {
            write!(f, "{from}{pointer}")?;
        }
        if f.alternate() {
            write_call(self, call, f)?;
        }
        if let Some(text) = &self.hint {
            write!(f, "{hint}{text}")?;
        }
        Ok(())
    }
}

fn write_call(error: &Error, before: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(call) = &error.call {
        write!(f, "{before}{call}")?;
    }
    match error.errno {
        Some(errno) => write!(f, ": {}", errno_text(errno)),
        None => Ok(()),
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_logs_and_several_for_people() {
        let error = Error::new("mount tmpfs on /run")
            .at("/mounts/5")
            .call("fsconfig(SET_STRING, \"size\", \"1x\")", Errno::EINVAL)
            .hint("tmpfs size takes k, m, g or %");
        assert_eq!(
            error.to_string(),
            "mount tmpfs on /run: fsconfig(SET_STRING, \"size\", \"1x\"): invalid argument, from /mounts/5; hint: tmpfs size takes k, m, g or %"
        );
        assert_eq!(
            format!("{error:#}"),
            "mount tmpfs on /run\n  from /mounts/5\n  fsconfig(SET_STRING, \"size\", \"1x\"): invalid argument\n  hint: tmpfs size takes k, m, g or %"
        );
    }
}
