//! `spec` and `features`.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use crate::cgroup::Hierarchy;
use crate::error::Error;
use crate::host::errno;
use crate::spec::{self, Profile};

/// `spec`. With `--rootless` the configuration is one for an ordinary user.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Close more than runc's own default does
    #[arg(long, value_enum)]
    profile: Option<Profile>,
}

pub(super) fn run(args: &SpecArgs, global: &Global) -> anyhow::Result<i32> {
    let path = args.bundle.join("config.json");
    let rootless = global.rootless() == crate::host::Rootless::True;
    let spec = match args.profile {
        None => spec::default_spec(rootless),
        Some(profile) => spec::hardened_spec(profile, rootless, limits_processes()),
    };
    let text = spec::to_text(&spec);
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o666);
    match options.open(&path) {
        Ok(mut file) => std::io::Write::write_all(&mut file, text.as_bytes())?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            anyhow::bail!(Error::new(format!("File {} exists. Remove it first", path.display())))
        }
        Err(error) => {
            anyhow::bail!(Error::new(format!("write {}", path.display())).call("open", errno(&error)))
        }
    }
    Ok(0)
}

/// The pids controller is cgroup2's, not that of a hierarchy of v1 beside it.
fn limits_processes() -> bool {
    Hierarchy::find().ok().flatten().is_some_and(|hierarchy| !hierarchy.v1.iter().any(|name| name == "pids"))
}

/// `features`.
#[derive(Debug, Args)]
pub(super) struct FeaturesArgs {}

/// `features`: standard output only, since CRI-O reads both streams as one.
pub(super) fn features(_: &FeaturesArgs, _: &Global) -> anyhow::Result<i32> {
    super::log::print(&format!("{}\n", serde_json::to_string_pretty(&crate::features::features())?))?;
    Ok(0)
}
