//! Words of the command line that runc takes and clap does not: long options with one dash (`-no-subreaper`), as Go's
//! flag packages have them.

use std::collections::HashMap;
use std::ffi::OsString;

/// Gives long options with one dash their second one, up to the words that belong to an `exec`ed program.
pub(super) fn normalise(words: Vec<OsString>) -> Vec<OsString> {
    let single = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.len() > 2 && bytes[0] == b'-' && bytes[1] != b'-'
    };
    // Nearly every call has none: the table of options is not made for it.
    if words.iter().any(single) { Scan::new().all(words) } else { words }
}

struct Scan {
    options: HashMap<String, bool>,
    positionals: usize,
    is_exec: bool,
    value_follows: bool,
    done: bool,
}

impl Scan {
    fn new() -> Self {
        Self { options: options(), positionals: 0, is_exec: false, value_follows: false, done: false }
    }

    fn all(mut self, words: Vec<OsString>) -> Vec<OsString> {
        let mut words = words.into_iter();
        let first = words.next();
        first.into_iter().chain(words.map(|word| self.word(word))).collect()
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
    fn what_belongs_to_the_program_stays() {
        let given = words("orlop exec -tty id find -root -bundle");
        assert_eq!(normalise(given), words("orlop exec --tty id find -root -bundle"));
        let given = words("orlop exec -td id sh");
        assert_eq!(normalise(given.clone()), given, "short options in one word are clap's");
    }
}
