//! `plan`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Global;
use crate::bundle::Bundle;
use crate::plan::{self, HostFacts, Options, show};
use crate::validate;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The bundle: the directory that holds config.json
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// The same, as the other commands name it
    #[arg(short, long = "bundle", value_name = "DIR", conflicts_with = "bundle")]
    bundle_option: Option<PathBuf>,
    /// The id that the container would have
    #[arg(long, value_name = "ID", default_value = "ID")]
    id: String,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// As `run` would do it rather than `create`
    #[arg(long)]
    run: bool,
    /// With `--no-pivot`
    #[arg(long)]
    no_pivot: bool,
}

pub(super) fn run(args: &PlanArgs, global: &Global) -> anyhow::Result<i32> {
    validate::container_id(&args.id)?;
    let bundle = Bundle::load(args.bundle_option.as_ref().unwrap_or(&args.bundle))?;
    let facts = HostFacts::find(global.rootless(), args.no_pivot)?;
    validate::validate(&bundle.spec, &crate::host::context(&bundle, &facts))?;
    let options = Options {
        id: args.id.clone(),
        run: args.run,
        no_pivot: args.no_pivot,
        systemd_cgroup: global.systemd_cgroup,
        ..Options::default()
    };
    let mut plan = plan::create(&bundle.spec, &bundle.dir, &facts, &options)?;
    plan.warnings.extend(bundle.warnings);
    match args.format {
        Format::Text => super::log::print(&show::as_text(&plan))?,
        Format::Json => super::log::print(&format!("{}\n", serde_json::to_string_pretty(&show::as_json(&plan))?))?,
    }
    Ok(0)
}
