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

    /// Puts `place` before the pointer.
    pub fn below(mut self, place: impl fmt::Display) -> Self {
        self.pointer = Some(format!("{place}{}", self.pointer.unwrap_or_default()));
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

/// What becomes of the errors of a check: the first one ends it and comes back, or all of them are kept.
///
/// Neither way costs anything where nothing is wrong.
#[derive(Debug)]
pub struct Found(Option<Vec<Error>>);

impl Found {
    /// The first error ends the check.
    pub fn first() -> Self {
        Self(None)
    }

    /// All errors are kept, and none comes back.
    pub fn all() -> Self {
        Self(Some(Vec::new()))
    }

    /// What was kept, in the order in which it was found.
    pub fn into_errors(self) -> Vec<Error> {
        self.0.unwrap_or_default()
    }

    /// The value of `result`; none when there is an error that was kept.
    ///
    /// # Errors
    /// That of `result`, when the first one ends the check.
    pub fn value<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match (result, &mut self.0) {
            (Ok(value), _) => Ok(Some(value)),
            (Err(error), None) => Err(error),
            (Err(error), Some(kept)) => {
                kept.push(error);
                Ok(None)
            }
        }
    }

    /// As [`value`](Self::value), of a check that gives nothing.
    ///
    /// # Errors
    /// As there.
    pub fn note(&mut self, result: Result<()>) -> Result<()> {
        self.value(result).map(drop)
    }

    /// Runs `check`, and puts `place` before the pointers of what it finds.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    pub fn under(&mut self, place: impl fmt::Display, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.0.as_ref().map_or(0, Vec::len);
        let ended = check(self).map_err(|error| error.below(&place));
        for error in self.0.iter_mut().flat_map(|kept| &mut kept[before..]) {
            error.pointer = Some(format!("{place}{}", error.pointer.as_deref().unwrap_or_default()));
        }
        ended
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
    fn the_first_error_or_all_of_them_with_their_places() {
        let check = |found: &mut Found| {
            found.note(Err(Error::new("a").at("/x")))?;
            found.under("/list", |found| found.under(1, |found| found.note(Err(Error::new("b")))))
        };
        let first = Found::first().under("/top", check).unwrap_err();
        assert_eq!(first, Error::new("a").at("/top/x"));
        let mut found = Found::all();
        found.note(Err(Error::new("before").at("/here"))).unwrap();
        found.under("/top", check).unwrap();
        let pointers: Vec<_> = found.into_errors().into_iter().map(|error| error.pointer.unwrap()).collect();
        assert_eq!(pointers, ["/here", "/top/x", "/top/list1"]);
    }

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
