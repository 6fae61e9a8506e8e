//! What `just install` puts beside the binaries: man pages and completions, made from their command lines. An example and
//! not a command, so that the runtime does not carry it.
//!
//! `cargo run --example share PREFIX/share`

use std::fs::{File, create_dir_all};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Shell, generate_to};

fn main() -> std::io::Result<()> {
    let share = PathBuf::from(std::env::args_os().nth(1).expect("usage: share DIRECTORY"));
    let man = share.join("man/man8");
    create_dir_all(&man)?;
    let places = [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ];
    for (name, command) in
        [("orlop", orlop::commands::command_line()), ("orlop-shim", orlop::shim::command::command_line())]
    {
        let mut built = command.clone().disable_help_subcommand(true);
        built.build();
        pages(&built, &man)?;
        for (shell, place) in places {
            let directory = share.join(place);
            create_dir_all(&directory)?;
            let file = generate_to(shell, &mut command.clone(), name, directory)?;
            if shell == Shell::Bash {
                mend(&file, name)?;
            }
        }
    }
    Ok(())
}

/// clap_complete 4.6 has two names for a verb of a program with a hyphen: one where it is found, one where its options are.
fn mend(file: &Path, name: &str) -> std::io::Result<()> {
    let (found, offered) = (name.replace('-', "__"), name.replace('-', "__subcmd__"));
    let text = std::fs::read_to_string(file)?;
    std::fs::write(file, text.replace(&format!("{offered}__subcmd__"), &format!("{found}__subcmd__")))
}

/// A page for a command and for each of its verbs: commands of the administrator's (man(7), section 8).
fn pages(command: &Command, directory: &Path) -> std::io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, directory)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = clap_mangen::Man::new(command.clone()).section("8");
    man.render(&mut File::create(directory.join(format!("{name}.8")))?)
}
