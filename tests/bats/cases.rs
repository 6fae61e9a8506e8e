//! The cases of a bats file, by their names.

use std::path::Path;

/// The names of a file's cases.
pub fn names(file: &Path) -> Vec<String> {
    let source = std::fs::read_to_string(file).expect("a bats file");
    let name = |line: &str| Some(line.strip_prefix("@test \"")?.rsplit_once("\" {")?.0.to_owned());
    source.lines().filter_map(name).collect()
}

/// What `bats --filter` takes for one case: any letter for what the shell or a regular expression would take for itself.
pub fn filter(name: &str) -> String {
    let plain = name.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '.' });
    format!("^{}$", plain.collect::<String>())
}
