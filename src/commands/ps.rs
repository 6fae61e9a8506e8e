//! `ps`.

use std::process::Command;

use clap::{Args, ValueEnum};

use super::Global;
use crate::error::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// `ps`.
#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// The container's id, and after it options for ps(1) of this host [default: -ef]
    #[arg(value_names = ["ID", "OPTION"], required = true, num_args = 1.., trailing_var_arg = true,
          allow_hyphen_values = true)]
    words: Vec<String>,
    /// table, or json: an array of pids
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

pub(super) fn run(args: &PsArgs, global: &Global) -> anyhow::Result<i32> {
    let (id, given) = args.words.split_first().ok_or_else(|| Error::new("ps takes the id of a container"))?;
    let state = global.store().open(id)?.read()?;
    // A stopped container may have lost its cgroup: it has no processes, which is no error.
    let pids = match state.open_cgroup()? {
        Some(cgroup) => cgroup.processes()?,
        None if state.cgroup.is_some() => Vec::new(),
        None => anyhow::bail!(Error::new(format!("container {} has no cgroup of its own", state.id))),
    };
    if args.format == Format::Json {
        super::log::print(&format!("{}\n", serde_json::to_string(&pids)?))?;
        return Ok(0);
    }
    let default = ["-ef".to_owned()];
    let options = if given.is_empty() { &default[..] } else { given };
    let output = Command::new("ps").args(options).output().map_err(|error| {
        Error::new("list processes")
            .call("execve(\"ps\")", crate::host::errno(&error))
            .hint("--format json needs no ps")
    })?;
    if !output.status.success() {
        anyhow::bail!(Error::new(format!("ps: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    super::log::print(&table(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
    Ok(0)
}

/// The title of what ps(1) printed, and the lines of `pids`.
fn table(output: &str, pids: &[i32]) -> anyhow::Result<String> {
    let title = output.lines().next().unwrap_or_default();
    let column = title.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::new("ps printed no column PID").hint("give it options that show pids"))?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let lines = std::iter::once(title).chain(output.lines().skip(1).filter(ours));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn the_title_and_the_containers_own_lines() {
        let output = "UID  PID PPID CMD\nroot   1    0 init 12\nroot  12    1 sh\n";
        assert_eq!(table(output, &[12, 99]).unwrap(), "UID  PID PPID CMD\nroot  12    1 sh\n");
        assert!(table("COMMAND\nsh\n", &[12]).is_err());
    }
}
