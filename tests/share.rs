//! Man pages and completions, as `just install` makes them.

mod common;

use std::path::Path;
use std::process::Command;

#[test]
fn every_verb_has_a_page_and_every_word_is_completed() {
    let example = Path::new(common::ORLOP).with_file_name("examples").join("share");
    let share = std::env::temp_dir().join(format!("orlop-share-{}", std::process::id()));
    assert!(Command::new(&example).arg(&share).status().expect("the example").success());
    let bash = share.join("bash-completion/completions/orlop.bash");
    let completion = std::fs::read_to_string(&bash).expect("the completion");
    let pages = share.join("man/man8");
    for verb in orlop::commands::command_line().get_subcommands().map(clap::Command::get_name) {
        let page = std::fs::read_to_string(pages.join(format!("orlop-{verb}.8"))).expect(verb);
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
    std::fs::remove_dir_all(&share).expect("remove");
}
