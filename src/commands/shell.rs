//! `completion` and `man`: for the one who installs.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `completion`.
#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The directory
    directory: PathBuf,
}

pub(super) fn completion(args: &CompletionArgs) -> anyhow::Result<i32> {
    clap_complete::generate(args.shell, &mut super::command_line(), "orlop", &mut std::io::stdout());
    Ok(0)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<i32> {
    clap_mangen::generate_to(super::command_line(), &args.directory)?;
    Ok(0)
}
