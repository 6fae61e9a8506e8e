//! `check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Global;
use crate::check::{self, Severity};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// `check`. The exit status is 1 when there is an error.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The bundle: the directory that holds config.json
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// The same, as the other commands name it
    #[arg(short, long = "bundle", value_name = "DIR", conflicts_with = "bundle")]
    bundle_option: Option<PathBuf>,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

pub(super) fn run(args: &CheckArgs, global: &Global) -> anyhow::Result<i32> {
    let report =
        check::check(args.bundle_option.as_ref().unwrap_or(&args.bundle), global.rootless(), global.systemd_cgroup);
    let text = match args.format {
        Format::Text => super::log::printable(&report.as_text()),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report.as_json())?),
    };
    super::log::print(&text)?;
    Ok(i32::from(report.count(Severity::Error) > 0))
}
