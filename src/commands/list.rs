//! `list`.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Global;
use crate::error::Result;
use crate::state::Store;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &ListArgs, global: &Global) -> anyhow::Result<i32> {
    let containers = containers(&global.store())?;
    let answer = if args.quiet {
        containers.iter().map(|container| text(container, "id") + "\n").collect()
    } else if args.format == Format::Json {
        // runc prints Go's nil slice.
        if containers.is_empty() { "null\n".to_owned() } else { serde_json::to_string(&containers)? + "\n" }
    } else {
        table(&containers)
    };
    super::log::print(&answer)?;
    Ok(0)
}

fn text(container: &Value, key: &str) -> String {
    match &container[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn containers(store: &Store) -> Result<Vec<Value>> {
    let one = |id: String| {
        // A container may be removed while we look, and one that is damaged must not hide the others.
        let dir = store.open(&id).ok()?;
        let state = dir.read().ok()?;
        Some(super::state::object(&state, &dir).map(|mut object| {
            // `state` has no name for root, as with runc.
            if object["owner"].as_str() == Some("") {
                object["owner"] = "root".into();
            }
            object
        }))
    };
    store.ids()?.into_iter().filter_map(one).collect()
}

/// runc's columns, each as wide as its widest entry and three spaces, at least twelve.
fn table(containers: &[Value]) -> String {
    const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let title = COLUMNS.iter().map(|name| name.to_ascii_uppercase()).collect::<Vec<_>>();
    // A bundle's path may hold any character, and a row is a line.
    let cell = |text: String| super::log::printable(&text).replace('\n', "\\n").replace('\t', "\\t");
    let cells = |container: &Value| COLUMNS.iter().map(|key| cell(text(container, key))).collect();
    let rows: Vec<Vec<String>> = std::iter::once(title).chain(containers.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(9) + 3;
    let line = |row: &Vec<String>| -> String {
        row.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at))).collect()
    };
    rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect()
}
