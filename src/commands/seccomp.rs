//! `seccomp`: profiles for people.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::Global;
use crate::bundle;
use crate::error::Error;
use crate::findings::{Report, Severity};
use crate::seccomp::{self, Calls, Difference, Table};

/// `seccomp`.
#[derive(Debug, Args)]
pub(super) struct SeccompArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what a profile answers to a system call, and by which rule
    Explain(ExplainArgs),
    /// Say what is void, mistaken or dangerous in a profile; the exit status is 1 when there is an error
    Lint(LintArgs),
    /// Say where two profiles answer differently; the exit status is 1 when they do
    Diff(DiffArgs),
    /// Run a bundle, and write the smallest profile that lets through what it has called; the exit status is the program's
    Record(RecordArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// `seccomp explain`.
#[derive(Debug, Args)]
struct ExplainArgs {
    /// The profile: a file, a config.json, or a bundle
    #[arg(value_name = "PROFILE")]
    profile: PathBuf,
    /// The system call
    #[arg(value_name = "SYSCALL")]
    name: String,
    /// Its arguments, decimal or 0x...: what exactly these get
    #[arg(value_name = "ARGUMENT", num_args = 0..=6, value_parser = number)]
    arguments: Vec<u64>,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// `seccomp lint`.
#[derive(Debug, Args)]
struct LintArgs {
    /// The profile: a file, a config.json, or a bundle
    #[arg(value_name = "PROFILE")]
    profile: PathBuf,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// `seccomp diff`.
#[derive(Debug, Args)]
struct DiffArgs {
    /// The first profile: a file, a config.json, or a bundle
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The second one
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// `seccomp record`.
#[derive(Debug, Args)]
struct RecordArgs {
    /// The bundle: the directory that holds config.json
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
    /// The container's id [default: record-PID]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// File that gets the profile
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Add to what that file has from earlier recordings
    #[arg(long)]
    merge: bool,
}

fn number(text: &str) -> std::result::Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

pub(super) fn run(args: &SeccompArgs, global: &Global) -> anyhow::Result<i32> {
    match &args.what {
        What::Explain(args) => explain(args),
        What::Lint(args) => lint(args),
        What::Diff(args) => diff(args),
        What::Record(args) => record(args, global),
    }
}

/// What a profile means here, and where it stands in its file.
fn read(path: &Path) -> anyhow::Result<(Vec<Table>, &'static str)> {
    let (section, place) = bundle::load_seccomp(path)?;
    let relative = |mut error: Error| {
        error.pointer = error.pointer.map(|pointer| pointer.replacen(seccomp::POINTER, place, 1));
        error
    };
    Ok((seccomp::meaning(&section).map_err(relative)?, place))
}

fn explain(args: &ExplainArgs) -> anyhow::Result<i32> {
    let (tables, place) = read(&args.profile)?;
    let mut given = [0; 6];
    given.iter_mut().zip(&args.arguments).for_each(|(to, from)| *to = *from);
    let (mut text, mut list) = (String::new(), Vec::new());
    for table in &tables {
        let Some(answer) = table.answers.get(args.name.as_str()) else { continue };
        let exactly = (!args.arguments.is_empty()).then(|| answer.to(&given));
        let cases: Vec<_> = exactly.map_or_else(|| answer.cases.iter().collect(), |case| vec![case]);
        let _ = writeln!(text, "{} {}, number {}", args.name, table.arch, answer.number & 0x3fff_ffff);
        for case in &cases {
            let words = if exactly.is_some() { case.action.to_string() } else { case.to_string() };
            let why = case.why.to_string().replace(seccomp::POINTER, place);
            let _ = writeln!(text, "  {words:<50} {why}");
        }
        let case = |case: &&seccomp::Case| {
            json!({
                "conditions": case.conditions.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "action": case.action.to_string(),
                "why": case.why.to_string().replace(seccomp::POINTER, place),
            })
        };
        list.push(json!({
            "arch": table.arch.to_string(),
            "number": answer.number,
            "cases": cases.iter().map(case).collect::<Vec<_>>(),
        }));
    }
    if list.is_empty() {
        let error = Error::new(format!("no ABI of this profile has a system call {:?}", args.name));
        anyhow::bail!(error.hint("names are the kernel's, such as openat2 or clone3; up to Linux 6.18"));
    }
    let json = || json!({"syscall": args.name, "answers": list});
    show(args.format, &text, json)
}

fn lint(args: &LintArgs) -> anyhow::Result<i32> {
    let (section, place) = bundle::load_seccomp(&args.profile)?;
    let report = Report { subject: ("profile", args.profile.clone()), findings: seccomp::lint(&section, place) };
    show(args.format, &report.as_text(), || report.as_json())?;
    Ok(i32::from(report.count(Severity::Error) > 0))
}

fn diff(args: &DiffArgs) -> anyhow::Result<i32> {
    let ((old, _), (new, _)) = (read(&args.old)?, read(&args.new)?);
    let (abis, differences) = (seccomp::differing_abis(&old, &new), seccomp::diff(&old, &new));
    let side = |new: bool| if new { "new" } else { "old" };
    let mut text = String::new();
    for (arch, in_new) in &abis {
        let _ = writeln!(text, "{arch}\n  listed by the {} profile alone: the other kills its threads", side(*in_new));
    }
    for group in differences.chunk_by(|one, other| one.arch == other.arch) {
        let _ = writeln!(text, "{}", group[0].arch);
        let mut kinds: Vec<(String, Vec<&str>)> = Vec::new();
        for one in group {
            let kind = format!("{} -> {}", one.old, one.new);
            match kinds.iter_mut().find(|other| other.0 == kind) {
                Some(kind) => kind.1.push(one.name),
                None => kinds.push((kind, vec![one.name])),
            }
        }
        for (kind, names) in kinds {
            let _ = writeln!(text, "  {kind}\n{}", wrapped(&names, 4, 100));
        }
    }
    let same = abis.is_empty() && differences.is_empty();
    if same {
        text += "no difference\n";
    }
    let json = || {
        let one = |one: &Difference| {
            let (old, new) = (one.old.to_string(), one.new.to_string());
            json!({"arch": one.arch, "syscall": one.name, "old": old, "new": new})
        };
        let abi = |(arch, new): &(String, bool)| json!({"arch": arch, "only": side(*new)});
        json!({
            "architectures": abis.iter().map(abi).collect::<Vec<_>>(),
            "differences": differences.iter().map(one).collect::<Vec<_>>(),
        })
    };
    show(args.format, &text, json)?;
    Ok(i32::from(!same))
}

fn record(args: &RecordArgs, global: &Global) -> anyhow::Result<i32> {
    let mut calls = Calls::default();
    if args.merge && args.output.exists() {
        calls.merge(&bundle::load_seccomp(&args.output)?.0)?;
    }
    let id = args.id.clone().unwrap_or_else(|| format!("record-{}", std::process::id()));
    let mut run = Command::new("/proc/self/exe");
    run.arg("--root").arg(global.store().root());
    if global.systemd_cgroup {
        run.arg("--systemd-cgroup");
    }
    run.arg("run");
    let status = crate::record::record(&args.bundle, &id, run, &mut calls)?;
    if calls.count() == 0 {
        anyhow::bail!(
            Error::new("no system call was seen, so no profile is written")
                .hint("the run has failed before its program")
        );
    }
    for (arch, number) in calls.unknown() {
        super::log::warn(format!(
            "system call {number} of audit architecture {arch:#x} has no name here: it is left out"
        ));
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&calls.section())?);
    std::fs::write(&args.output, text).map_err(|error| {
        Error::new(format!("write {}", args.output.display())).call("write", crate::host::errno(&error))
    })?;
    Ok(status)
}

/// Names in lines of at most `width` characters, each with `indent` blanks before it.
fn wrapped(names: &[&str], indent: usize, width: usize) -> String {
    let mut lines = vec![" ".repeat(indent)];
    for name in names {
        let last = lines.last().map_or(0, String::len);
        if last + name.len() + 2 > width && last > indent {
            lines.push(" ".repeat(indent));
        }
        if let Some(line) = lines.last_mut() {
            *line += name;
            line.push_str(", ");
        }
    }
    let text = lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n");
    text.trim_end_matches(',').to_owned()
}

fn show(format: Format, text: &str, json: impl Fn() -> serde_json::Value) -> anyhow::Result<i32> {
    match format {
        Format::Text => super::log::print(&super::log::printable(text))?,
        Format::Json => super::log::print(&format!("{}\n", serde_json::to_string_pretty(&json())?))?,
    }
    Ok(0)
}
