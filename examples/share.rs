//! What `just install` puts beside the binaries: man pages and completions, made from their command lines. An example and
//! not a command, so that the runtime does not carry it.
//!
//! `cargo run --example share PREFIX/share`

use std::fs::create_dir_all;
use std::path::PathBuf;

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
        clap_mangen::generate_to(command.clone(), &man)?;
        for (shell, place) in places {
            let directory = share.join(place);
            create_dir_all(&directory)?;
            generate_to(shell, &mut command.clone(), name, directory)?;
        }
    }
    Ok(())
}
