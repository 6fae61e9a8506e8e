//! Man pages and completions, as `just install` makes them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the example writes, gone when it is dropped.
struct Share(PathBuf);

impl Share {
    fn new(name: &str) -> Self {
        let example = Path::new(common::ORLOP).with_file_name("examples").join("share");
        let share = Self(std::env::temp_dir().join(format!("orlop-share-{name}-{}", std::process::id())));
        assert!(Command::new(&example).arg(&share.0).status().expect("the example").success());
        share
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The file that bash reads for a program.
    fn bash(&self, program: &str) -> PathBuf {
        self.0.join("bash-completion/completions").join(format!("{program}.bash"))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.expect("remove");
        }
    }
}

/// Both programs' command lines.
fn programs() -> [clap::Command; 2] {
    [orlop::commands::command_line(), orlop::shim::command::command_line()]
}

#[test]
fn every_verb_has_a_page_and_every_word_is_completed() {
    let share = Share::new("words");
    let bash = share.bash("orlop");
    let completion = std::fs::read_to_string(&bash).expect("the completion");
    for verb in orlop::commands::command_line().get_subcommands().map(clap::Command::get_name) {
        let page = share.text(&format!("man/man8/orlop-{verb}.8"));
        assert!(page.contains(".TH"), "{verb}: {page}");
        assert!(completion.contains(&format!("orlop,{verb})")), "{verb} is not completed");
    }
    for option in orlop::commands::command_line().get_arguments().filter(|option| !option.is_hide_set()) {
        let name = option.get_long().expect("a long name");
        assert!(completion.contains(&format!("--{name} ")), "--{name} is not completed");
    }
    if let Ok(checked) = Command::new("bash").arg("-n").arg(&bash).status() {
        assert!(checked.success(), "bash does not parse the completion");
    }
}

/// What readline would set before it calls the function that is registered for the first word.
const ASK: &str = r#"
    source "$1" || exit
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    registered=$(complete -p "$1") || exit
    registered=${registered##* -F }
    "${registered%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}""#;

/// What bash offers in place of the last word.
fn offered(share: &Share, words: &[&str]) -> Vec<String> {
    let mut bash = Command::new("bash");
    let asked = bash.args(["-c", ASK, "bash"]).arg(share.bash(words[0])).args(words).output().expect("bash");
    let complaints = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.success() && complaints.is_empty(), "{words:?}: {complaints}");
    String::from_utf8_lossy(&asked.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_offers_verbs_and_their_options() {
    let share = Share::new("bash");
    for (words, expected) in [
        (&["orlop", "feat"][..], "features"),
        (&["orlop", "exec", "--pre"], "--preserve-fds"),
        (&["orlop", "--log-format", "j"], "json"),
        (&["orlop", "seccomp", "exp"], "explain"),
        (&["orlop-shim", "und"], "undrain"),
        (&["orlop-shim", "node", "--bea"], "--bearer-file"),
    ] {
        assert_eq!(offered(&share, words), [expected], "{words:?}");
    }
}

/// The page of a command, and of each of its verbs, has an entry for each option that its help shows.
#[track_caller]
fn pages_have_every_option(share: &Share, command: &clap::Command) {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let page = share.text(&format!("man/man8/{name}.8"));
    let (_, entries) = page.split_once("\n.SH DESCRIPTION\n").expect("a description before the options");
    let shown = command.get_arguments().filter(|option| !option.is_hide_set());
    for long in shown.filter_map(clap::Arg::get_long) {
        // In roff a hyphen that is meant as one has a backslash.
        let entry = format!("\\fB--{long}\\fR").replace('-', "\\-");
        assert!(entries.contains(&entry), "{name} has no --{long}: {entries}");
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages_have_every_option(share, verb);
    }
}

#[test]
fn every_page_has_the_options_of_its_verb() {
    let share = Share::new("pages");
    for program in programs() {
        let mut program = program.disable_help_subcommand(true);
        // Only now the verbs have their options.
        program.build();
        pages_have_every_option(&share, &program);
    }
    assert!(share.text("man/man8/orlop-exec.8").contains("\\fB\\-\\-preserve\\-fds\\fR"), "the verbs had no options");
}

#[test]
fn zsh_and_fish_have_every_verb() {
    let share = Share::new("others");
    for program in programs() {
        let name = program.get_name();
        let zsh = share.text(&format!("zsh/site-functions/_{name}"));
        assert!(zsh.starts_with(&format!("#compdef {name}\n")), "zsh finds a file by its first line: {zsh}");
        let fish = share.text(&format!("fish/vendor_completions.d/{name}.fish"));
        // As words that come first: the verb `help` has them as well.
        let first = format!("complete -c {name} -n \"__fish_{}_needs_command\" ", name.replace('-', "_"));
        for verb in program.get_subcommands().map(clap::Command::get_name) {
            assert!(zsh.lines().any(|line| line.trim() == format!("({verb})")), "zsh: {name} {verb}");
            let word = format!(" -a \"{verb}\" ");
            assert!(fish.lines().any(|line| line.starts_with(&first) && line.contains(&word)), "fish: {name} {verb}");
        }
    }
    assert!(share.text("zsh/site-functions/_orlop").contains("--preserve-fds=["), "zsh: the options of exec");
    let fish = share.text("fish/vendor_completions.d/orlop.fish");
    assert!(fish.contains("using_subcommand exec\" -l preserve-fds "), "fish: the options of exec");
}
