//! Words of the command line that runc takes and clap does not: long options with one dash (`-no-subreaper`), as Go's
//! flag packages have them, a word of its own for the value of `--rootless`, and values of boolean options.

use std::collections::HashMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// Whether an option has a value in the same word that may be meant for a boolean, as `--tty=false`: nearly no call does, and
/// what [`with_booleans`] does is not done for the others. podman's `--log-format=json` is in every call of it.
pub(super) fn have_values(words: &[OsString]) -> bool {
    let may_be_boolean = |value: &[u8]| {
        value.len() <= 5 && value.iter().all(u8::is_ascii_alphanumeric) && !matches!(value, b"json" | b"text")
    };
    words.iter().map(|word| word.as_encoded_bytes()).filter(|word| word.first() == Some(&b'-')).any(|word| {
        let equals = word.iter().position(|byte| *byte == b'=');
        equals.is_some_and(|equals| may_be_boolean(&word[equals + 1..]))
    })
}

/// The command with boolean options that take a value, too; only the help of such a call says so.
pub(super) fn with_booleans(command: Command) -> Command {
    let boolean = |argument: Arg| match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(boolean),
        _ => argument,
    };
    command.mut_args(boolean).mut_subcommands(with_booleans)
}

/// What Go's `strconv.ParseBool` takes.
fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("a boolean is true or false"),
    }
}

/// Gives long options with one dash their second one and joins `--rootless` with its value, up to the words that belong to
/// an `exec`ed program.
pub(super) fn normalise(words: Vec<OsString>) -> Vec<OsString> {
    let single = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.len() > 2 && bytes[0] == b'-' && bytes[1] != b'-'
    };
    // Nearly every call has none: the table of options is not made for it.
    if words.iter().any(|word| single(word) || word == "--rootless") { Scan::new().all(words) } else { words }
}

struct Scan {
    options: HashMap<String, bool>,
    positionals: usize,
    is_exec: bool,
    value_follows: bool,
    rootless: bool,
    done: bool,
}

impl Scan {
    fn new() -> Self {
        Self { options: options(), positionals: 0, is_exec: false, value_follows: false, rootless: false, done: false }
    }

    fn all(mut self, words: Vec<OsString>) -> Vec<OsString> {
        let mut words = words.into_iter();
        let mut all: Vec<OsString> = words.next().into_iter().collect();
        for word in words {
            if std::mem::take(&mut self.rootless)
                && word.to_str().is_some_and(|text| text == "auto" || boolean(text).is_ok())
            {
                all.pop();
                let mut joined = OsString::from("--rootless=");
                joined.push(word);
                all.push(joined);
            } else {
                all.push(self.word(word));
            }
        }
        all
    }

    fn word(&mut self, word: OsString) -> OsString {
        if self.done || std::mem::take(&mut self.value_follows) {
            return word;
        }
        let text = word.to_string_lossy().into_owned();
        let Some(name) = text.strip_prefix('-').filter(|name| *name != "-") else {
            self.positional(&text);
            return word;
        };
        let bare = name.trim_start_matches('-').split('=').next().unwrap_or_default();
        let Some(takes_value) = self.options.get(bare) else { return word };
        self.value_follows = *takes_value && !text.contains('=');
        self.rootless = bare == "rootless" && !text.contains('=');
        if text.starts_with("--") || bare.len() == 1 { word } else { OsString::from(format!("-{text}")) }
    }

    fn positional(&mut self, text: &str) {
        self.is_exec |= self.positionals == 0 && text == "exec";
        self.positionals += 1;
        self.done = text == "--" || (self.is_exec && self.positionals == 2);
    }
}

/// Every option's names, long and short, and whether a value follows it.
fn options() -> HashMap<String, bool> {
    let mut root = super::command_line();
    root.build();
    let mut options = HashMap::new();
    for command in std::iter::once(&root).chain(root.get_subcommands()) {
        for argument in command.get_arguments() {
            let value = argument.get_action().takes_values() && !argument.is_require_equals_set();
            options.extend(argument.get_long().map(|name| (name.to_owned(), value)));
            options.extend(argument.get_short().map(|name| (name.to_string(), value)));
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn long_options_with_one_dash_get_their_second() {
        let given = words("orlop -root /r -log-format=json run -no-subreaper -bundle -b id");
        assert_eq!(normalise(given), words("orlop --root /r --log-format=json run --no-subreaper --bundle -b id"));
    }

    #[test]
    fn rootless_takes_its_value_from_the_next_word() {
        let given = words("orlop --rootless T -rootless auto -log --rootless list");
        assert_eq!(normalise(given), words("orlop --rootless=T --rootless=auto --log --rootless list"));
        let given = words("orlop --rootless list --rootless");
        assert_eq!(normalise(given.clone()), given, "without one it is true");
        let given = words("orlop exec id sh --rootless true -debug=false");
        assert_eq!(normalise(given.clone()), given, "the program's");
    }

    #[test]
    fn what_belongs_to_the_program_stays() {
        let given = words("orlop exec -tty id find -root -bundle");
        assert_eq!(normalise(given), words("orlop exec --tty id find -root -bundle"));
        let given = words("orlop exec -td id sh");
        assert_eq!(normalise(given.clone()), given, "short options in one word are clap's");
    }
}
