//! `audit`.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::Global;
use crate::audit::{self, Report, Severity};
use crate::bundle::{Bundle, CONFIG};
use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Sarif,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Threshold {
    Low,
    Medium,
    High,
    Critical,
    Never,
}

/// `audit`.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// The id of a container that runs, or a bundle: a directory that holds config.json
    #[arg(value_name = "ID|BUNDLE", default_value = ".")]
    subject: String,
    /// text, json or sarif
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Exit with 1 when there is a finding as bad as this: low, medium, high, critical, or never
    #[arg(long, value_name = "SEVERITY", default_value = "high")]
    fail_on: Threshold,
}

pub(super) fn run(args: &AuditArgs, global: &Global) -> anyhow::Result<i32> {
    let path = Path::new(&args.subject);
    let report = match global.store().open(&args.subject) {
        Ok(dir) => {
            let state = dir.read()?;
            let saved = dir.config(&state.bundle)?;
            let planned = audit::planned(&saved.spec)?;
            let observed = audit::observed(&state, &planned)?;
            let mut findings = audit::drift(&planned, &observed, &state);
            findings.extend(audit::find(&observed, &saved.spec));
            let config = dir.path().join(CONFIG).display().to_string();
            Report::new("container", args.subject.clone(), config, findings)
        }
        Err(_) if path.is_dir() => {
            let bundle = Bundle::load(path)?;
            let findings = audit::find(&audit::planned(&bundle.spec)?, &bundle.spec);
            let config = bundle.dir.join(CONFIG).display().to_string();
            Report::new("bundle", bundle.dir.display().to_string(), config, findings)
        }
        Err(error) => {
            anyhow::bail!(Error { hint: Some("and there is no bundle of this name".to_owned()), ..error })
        }
    };
    match args.format {
        Format::Text => super::log::print(&super::log::printable(&report.as_text()))?,
        Format::Json => super::log::print(&format!("{}\n", serde_json::to_string_pretty(&report.as_json())?))?,
        Format::Sarif => super::log::print(&format!("{}\n", serde_json::to_string_pretty(&report.as_sarif())?))?,
    }
    let threshold = match args.fail_on {
        Threshold::Low => Severity::Low,
        Threshold::Medium => Severity::Medium,
        Threshold::High => Severity::High,
        Threshold::Critical => Severity::Critical,
        Threshold::Never => return Ok(0),
    };
    Ok(i32::from(report.reaches(threshold)))
}
