//! `status`: all containers of all supervisors, a line each.

use std::cmp::Reverse;

use super::super::clock::{self, Moment};
use super::super::health::{Reason, Summary};
use super::super::metrics::counter;
use super::super::view::View;
use super::{Fact, READ, Source, ask, fact, plain};
use crate::error::Result;

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// An array of views.
    Json,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    /// By its supervisor.
    View(Box<View>),
    /// A supervisor of this name does not answer.
    Silent(String, Fact),
}

impl Row {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::View(view) => &view.id,
            Self::Silent(id, _) => id,
        }
    }

    pub(super) fn summary(&self) -> Summary {
        match self {
            Self::View(view) => view.summary,
            Self::Silent(..) => Summary::Unknown,
        }
    }

    pub(super) fn view(&self) -> Option<&View> {
        match self {
            Self::View(view) => Some(view),
            Self::Silent(..) => None,
        }
    }
}

/// All containers of all supervisors by name, as they are told by `deadline`.
///
/// # Errors
/// The directory of supervisors can't be read.
pub(super) fn rows(source: &Source, deadline: Moment) -> Result<Vec<Row>> {
    let ids = source.ids()?;
    let sockets: Vec<_> = ids.iter().map(|id| source.directory.join(id).join(READ)).collect();
    let answers = ask::ask(&sockets, "GET", "/v1/containers", deadline);
    let mut rows = Vec::new();
    for (id, answer) in ids.into_iter().zip(answers) {
        let views = answer.and_then(|(status, body)| (status == 200).then(|| serde_json::from_slice(&body).ok())?);
        match views {
            Some::<Vec<View>>(views) => rows.extend(views.into_iter().map(|view| Row::View(Box::new(view)))),
            None => rows.push(match (fact(source, &id), source.last(&id)) {
                (Fact::Absent, Some(last)) => Row::View(Box::new(last)),
                (fact, _) => Row::Silent(id.clone(), fact),
            }),
        }
    }
    rows.sort_by(|one, other| one.id().cmp(other.id()));
    Ok(rows)
}

/// The worst first, and of those that are equally bad the busiest.
pub(super) fn worst_first(rows: &mut [Row], processor: impl Fn(&Row) -> f64) {
    rows.sort_by_key(|row| (row.summary().rank(), Reverse((processor(row) * 1000.0) as u64)));
}

/// Prints all of them.
///
/// # Errors
/// The directory of supervisors can't be read.
pub fn status(source: &Source, format: Format) -> Result<String> {
    let rows = rows(source, clock::now() + super::PATIENCE)?;
    Ok(match format {
        Format::Table => table(&rows, processor_in_all).concat(),
        Format::Json => {
            let value = |row: &Row| match row {
                Row::View(view) => serde_json::json!(view),
                Row::Silent(id, fact) => {
                    let mut value =
                        serde_json::json!({ "id": id, "summary": Summary::Unknown.as_str(), "reason": reason(*fact) });
                    if let Some(pid) = fact.pid() {
                        value["pid"] = pid.into();
                    }
                    value
                }
            };
            let values: Vec<_> = rows.iter().map(value).collect();
            ascii(&serde_json::Value::from(values).to_string()) + "\n"
        }
    })
}

/// JSON that is safe on a terminal: what is not ASCII stands in its strings, where it may be escaped.
pub(super) fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match c {
            ' '..='~' => text.push(c),
            c => c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    text
}

fn reason(fact: Fact) -> &'static str {
    if fact == Fact::Absent { "no-such-container" } else { Reason::NoSupervisor.as_str() }
}

/// The share of one processor since it was started.
fn processor_in_all(row: &Row) -> Option<f64> {
    let view = row.view()?;
    let used = counter(view, "cpu.stat usage_usec")? / 1e6;
    Some(used / view.uptime_seconds.filter(|uptime| *uptime > 0.0)?)
}

const TITLE: [&str; 10] = ["ID", "PID", "STATE", "REASON", "READY", "RESTARTS", "UPTIME", "CPU", "MEMORY", "PRESSURE"];

/// A title and a line for each row, each with its newline.
pub(super) fn table(rows: &[Row], processor: impl Fn(&Row) -> Option<f64>) -> Vec<String> {
    let title = TITLE.map(str::to_owned);
    let cells: Vec<[String; 10]> =
        std::iter::once(title).chain(rows.iter().map(|row| cells(row, processor(row)))).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..TITLE.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    cells.iter().map(line).collect()
}

fn cells(row: &Row, processor: Option<f64>) -> [String; 10] {
    let none = || "-".to_owned();
    match row {
        Row::Silent(id, fact) => {
            let pid = fact.pid().map_or_else(none, |pid| pid.to_string());
            let state = Summary::Unknown.to_string();
            [plain(id), pid, state, reason(*fact).to_owned(), none(), none(), none(), none(), none(), none()]
        }
        Row::View(view) => {
            let ready = view.ready.map_or_else(none, |ready| if ready { "yes" } else { "no" }.to_owned());
            let used = counter(view, "memory.current")
                .map(|used| used - counter(view, "memory.stat inactive_file").unwrap_or(0.0));
            [
                plain(&view.id),
                view.pid.map_or_else(none, |pid| pid.to_string()),
                view.summary.to_string(),
                view.reason.to_string(),
                ready,
                view.restarts.to_string(),
                view.uptime_seconds.map_or_else(none, time),
                processor.map_or_else(none, |share| format!("{:.1}%", share * 100.0)),
                used.map_or_else(none, bytes),
                plain(&view.pressure),
            ]
        }
    }
}

/// Its two largest units.
fn time(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

fn bytes(bytes: f64) -> String {
    let mut value = bytes.max(0.0);
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}T")
}

#[cfg(test)]
mod tests {
    use super::super::super::view::tests::view;
    use super::*;

    fn row(view: View) -> Row {
        Row::View(Box::new(view))
    }

    #[test]
    fn a_line_for_each_container() {
        let mut busy = View { pressure: "some \u{1b}[2J".into(), restarts: 2, ..view("busy") };
        busy.counters = vec![
            ("cpu.stat usage_usec".into(), 30e6),
            ("memory.current".into(), 3_145_728.0),
            ("memory.stat inactive_file".into(), 1_048_576.0),
        ];
        let rows = [row(busy), Row::Silent("quiet".into(), Fact::Runs(12)), Row::Silent("gone".into(), Fact::Absent)];
        let text = table(&rows, processor_in_all).concat();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(lines[0], TITLE);
        let expected = ["busy", "7", "healthy", "ok", "yes", "2", "1m0s", "50.0%", "2.0M", "some", "\\u{1b}[2J"];
        assert_eq!(lines[1], expected);
        assert_eq!(lines[2][..4], ["quiet", "12", "unknown", "no-supervisor"]);
        assert_eq!(lines[3][..4], ["gone", "-", "unknown", "no-such-container"]);
    }

    #[test]
    fn the_worst_comes_first() {
        let failed = View { summary: Summary::Failed, reason: Reason::OomKill, ..view("failed") };
        let mut rows = [row(view("idle")), row(view("busy")), Row::Silent("silent".into(), Fact::Unknown), row(failed)];
        worst_first(&mut rows, |row| if row.id() == "busy" { 0.5 } else { 0.0 });
        assert_eq!(rows.each_ref().map(Row::id), ["failed", "silent", "busy", "idle"]);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([0.4, 61.0, 3700.0, 90_000.0].map(time), ["0s", "1m1s", "1h1m", "1d1h"]);
        assert_eq!([0.0, 1023.0, 1536.0, 5e9, 1e15].map(bytes), ["0B", "1023B", "1.5K", "4.7G", "909.5T"]);
    }
}
