//! `/metrics`: OpenMetrics 1.0 for those who ask for it, and the text format 0.0.4 of Prometheus for all others.
//!
//! What cAdvisor has a name for has that name and its labels `id` and `name`; the rest begins with `orlop_`. Names are checked
//! by promtool (tests/shim_http.rs).

use std::fmt::Write as _;

use super::health::{Reason, Summary};
use super::view::{ProbeView, View};

/// The media type of OpenMetrics 1.0.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of the older format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics of one name.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name, without `_total` or `_info`.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// What it is, in a sentence without its full stop.
    pub help: &'static str,
    source: Source,
}

/// Types of OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the container is made anew.
    Counter,
    /// It is what it is now.
    Gauge,
    /// It is 1, and its labels say something.
    Info,
}

impl Kind {
    /// What the names of its samples end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge => "",
            Self::Info => "_info",
        }
    }

    /// The type's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// A number of the kernel's by its name in [`View::counters`], and what it is divided by.
    Kernel(&'static str, f64),
    /// Something else of a container.
    Container(fn(&View) -> Option<f64>),
    /// Several samples of a container, with further labels.
    Labelled(fn(&View) -> Vec<Sample>),
    /// One sample of the supervisor.
    Supervisor(fn(&[View]) -> Option<f64>),
}

/// Further labels, and a value.
type Sample = (Vec<(&'static str, String)>, f64);

/// The part of the page cache that goes first.
const INACTIVE_FILE: &str = "memory.stat inactive_file";
/// Microseconds in a second.
const MICRO: f64 = 1e6;

macro_rules! kernel {
    ($name:literal, $kind:ident, $file:literal, $by:expr, $help:literal) => {
        Family { name: $name, kind: Kind::$kind, help: $help, source: Source::Kernel($file, $by) }
    };
}

/// All of them.
pub const FAMILIES: &[Family] = &[
    kernel!("container_cpu_usage_seconds", Counter, "cpu.stat usage_usec", MICRO, "Processor time used"),
    kernel!("container_cpu_user_seconds", Counter, "cpu.stat user_usec", MICRO, "Processor time used in user mode"),
    kernel!(
        "container_cpu_system_seconds",
        Counter,
        "cpu.stat system_usec",
        MICRO,
        "Processor time used by the kernel"
    ),
    kernel!("container_cpu_cfs_periods", Counter, "cpu.stat nr_periods", 1.0, "Periods of the processor quota"),
    kernel!(
        "container_cpu_cfs_throttled_periods",
        Counter,
        "cpu.stat nr_throttled",
        1.0,
        "Periods in which the quota was used up"
    ),
    kernel!(
        "container_cpu_cfs_throttled_seconds",
        Counter,
        "cpu.stat throttled_usec",
        MICRO,
        "Time in which processes waited for the next period of the quota"
    ),
    kernel!("container_memory_usage_bytes", Gauge, "memory.current", 1.0, "Memory in use, with the page cache"),
    Family {
        name: "container_memory_working_set_bytes",
        kind: Kind::Gauge,
        help: "Memory in use, without the inactive part of the page cache",
        source: Source::Container(|view| {
            let used = counter(view, "memory.current")?;
            Some((used - counter(view, INACTIVE_FILE)?).max(0.0))
        }),
    },
    kernel!("container_memory_max_usage_bytes", Gauge, "memory.peak", 1.0, "The most memory that was in use"),
    kernel!("container_memory_rss", Gauge, "memory.stat anon", 1.0, "Anonymous memory in bytes"),
    kernel!("container_memory_cache", Gauge, "memory.stat file", 1.0, "Page cache in bytes"),
    kernel!("container_memory_swap", Gauge, "memory.swap.current", 1.0, "Swap in use in bytes"),
    kernel!("container_memory_events_high", Counter, "memory.events high", 1.0, "Times that memory.high was exceeded"),
    kernel!("container_memory_events_max", Counter, "memory.events max", 1.0, "Times that memory.max was met"),
    kernel!("container_oom_events", Counter, "memory.events oom_kill", 1.0, "Processes killed for want of memory"),
    kernel!("container_spec_memory_limit_bytes", Gauge, "memory.max", 1.0, "Limit of memory, where there is one"),
    kernel!(
        "container_spec_memory_swap_limit_bytes",
        Gauge,
        "memory.swap.max",
        1.0,
        "Limit of swap, where there is one"
    ),
    kernel!("container_processes", Gauge, "cgroup.procs", 1.0, "Processes"),
    kernel!("container_threads", Gauge, "pids.current", 1.0, "Threads"),
    kernel!("container_threads_max", Gauge, "pids.max", 1.0, "Limit of threads, where there is one"),
    kernel!(
        "container_pressure_cpu_waiting_seconds",
        Counter,
        "cpu.pressure some total",
        MICRO,
        "Time in which a task waited for a processor"
    ),
    kernel!(
        "container_pressure_cpu_stalled_seconds",
        Counter,
        "cpu.pressure full total",
        MICRO,
        "Time in which all tasks waited for a processor"
    ),
    kernel!(
        "container_pressure_memory_waiting_seconds",
        Counter,
        "memory.pressure some total",
        MICRO,
        "Time in which a task waited for memory"
    ),
    kernel!(
        "container_pressure_memory_stalled_seconds",
        Counter,
        "memory.pressure full total",
        MICRO,
        "Time in which all tasks waited for memory"
    ),
    kernel!(
        "container_pressure_io_waiting_seconds",
        Counter,
        "io.pressure some total",
        MICRO,
        "Time in which a task waited for I/O"
    ),
    kernel!(
        "container_pressure_io_stalled_seconds",
        Counter,
        "io.pressure full total",
        MICRO,
        "Time in which all tasks waited for I/O"
    ),
    Family {
        name: "container_start_time_seconds",
        kind: Kind::Gauge,
        help: "When its first process was started, since 1970",
        source: Source::Container(|view| view.started_seconds),
    },
    Family {
        name: "orlop_container_state",
        kind: Kind::Gauge,
        help: "1 for the state that it is in, 0 for all others",
        source: Source::Labelled(|view| {
            let sample = |state: Summary| {
                (vec![("state", state.as_str().to_owned())], f64::from(u8::from(state == view.summary)))
            };
            Summary::ALL.into_iter().map(sample).collect()
        }),
    },
    Family {
        name: "orlop_container_reason",
        kind: Kind::Info,
        help: "Why it is in its state",
        source: Source::Labelled(|view| vec![(vec![("reason", view.reason.to_string())], 1.0)]),
    },
    Family {
        name: "orlop_container_ready",
        kind: Kind::Gauge,
        help: "Whether it may be sent work, where something says so",
        source: Source::Container(|view| view.ready.map(|ready| f64::from(u8::from(ready)))),
    },
    Family {
        name: "orlop_container_lease_remaining_seconds",
        kind: Kind::Gauge,
        help: "How long it may still run if its lease is not renewed, where it needs one",
        source: Source::Container(|view| view.lease.as_ref().map(|lease| lease.remaining_seconds)),
    },
    Family {
        name: "orlop_container_restarts",
        kind: Kind::Counter,
        help: "Starts after the first",
        source: Source::Container(|view| heard(view).then_some(view.restarts as f64)),
    },
    Family {
        name: "orlop_container_start_latency_seconds",
        kind: Kind::Gauge,
        help: "From its start to the first time that it was ready",
        source: Source::Container(|view| view.start_latency_seconds),
    },
    Family {
        name: "orlop_container_last_exit",
        kind: Kind::Info,
        help: "How it has ended the last time",
        source: Source::Labelled(|view| {
            let number = |number: Option<u8>| number.map_or_else(String::new, |number| number.to_string());
            let exit = view.last_exit.iter();
            exit.map(|exit| {
                (vec![("kind", exit.kind.clone()), ("code", number(exit.code)), ("signal", number(exit.signal))], 1.0)
            })
            .collect()
        }),
    },
    Family {
        name: "orlop_container_health_age_seconds",
        kind: Kind::Gauge,
        help: "The age of the oldest sample that its state is made of",
        source: Source::Container(|view| heard(view).then_some(view.age_seconds)),
    },
    Family {
        name: "orlop_probe_attempts",
        kind: Kind::Counter,
        help: "Probes that were made",
        source: Source::Labelled(|view| probes(view, |probe| Some(probe.count as f64))),
    },
    Family {
        name: "orlop_probe_failures",
        kind: Kind::Counter,
        help: "Probes that have failed",
        source: Source::Labelled(|view| probes(view, |probe| Some(probe.failures as f64))),
    },
    Family {
        name: "orlop_probe_success",
        kind: Kind::Gauge,
        help: "Whether the probe passes, by its thresholds, where that is known",
        source: Source::Labelled(|view| {
            probes(view, |probe| match probe.verdict.as_str() {
                "pass" => Some(1.0),
                "fail" => Some(0.0),
                _ => None,
            })
        }),
    },
    Family {
        name: "orlop_probe_duration_seconds",
        kind: Kind::Gauge,
        help: "How long the last probe has taken",
        source: Source::Labelled(|view| probes(view, |probe| probe.last_seconds)),
    },
    Family {
        name: "orlop_supervisor_lag_seconds",
        kind: Kind::Gauge,
        help: "How late the supervisor's loop was at worst in the last minute",
        source: Source::Supervisor(|views| views.iter().map(|view| view.lag_seconds).reduce(f64::max)),
    },
];

/// The names in [`View::counters`] that something is made of.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    let named = FAMILIES.iter().filter_map(|family| match family.source {
        Source::Kernel(name, _) => Some(name),
        _ => None,
    });
    named.chain([INACTIVE_FILE])
}

/// Its supervisor has said so. Of one that does not answer only the state is known: a count of nothing would be a lower one.
fn heard(view: &View) -> bool {
    view.reason != Reason::NoSupervisor
}

/// What the kernel counts under this name.
pub(super) fn counter(view: &View, name: &str) -> Option<f64> {
    view.counters.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
}

fn probes(view: &View, value: fn(&ProbeView) -> Option<f64>) -> Vec<Sample> {
    let sample = |probe: &ProbeView| Some((vec![("probe", probe.name.clone())], value(probe)?));
    view.probes.iter().filter_map(sample).collect()
}

impl Family {
    /// The file of the kernel's that it is made of, with its key, where it is one.
    pub fn file(&self) -> Option<&'static str> {
        if let Source::Kernel(name, _) = self.source { Some(name) } else { None }
    }

    /// What the names of OpenMetrics end with where it is a quantity.
    fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(unit))
    }

    fn write(&self, views: &[View], openmetrics: bool, text: &mut String) {
        let mut samples = String::new();
        let mut add = |labels: &[(&str, &str)], value: f64| {
            let _ = write!(samples, "{}{}", self.name, self.kind.suffix());
            for (index, (name, value)) in labels.iter().enumerate() {
                let _ = write!(samples, "{}{name}=\"{}\"", if index == 0 { '{' } else { ',' }, escape(value));
            }
            let _ = writeln!(samples, "{} {}", if labels.is_empty() { "" } else { "}" }, number(value));
        };
        match self.source {
            Source::Supervisor(of) => of(views).into_iter().for_each(|value| add(&[], value)),
            Source::Kernel(name, by) => one(views, |view| Some(counter(view, name)? / by), &mut add),
            Source::Container(of) => one(views, of, &mut add),
            Source::Labelled(of) => {
                for view in views {
                    for (more, value) in of(view) {
                        let own = [("id", view.id.as_str()), ("name", view.id.as_str())];
                        let labels: Vec<_> =
                            own.into_iter().chain(more.iter().map(|(name, value)| (*name, value.as_str()))).collect();
                        add(&labels, value);
                    }
                }
            }
        }
        if samples.is_empty() {
            return;
        }
        // The older format names a family as its samples, and does not know what an info is.
        let (suffix, kind) = match (openmetrics, self.kind) {
            (true, kind) => ("", kind.word()),
            (false, Kind::Info) => (self.kind.suffix(), "gauge"),
            (false, kind) => (kind.suffix(), kind.word()),
        };
        let _ = writeln!(text, "# TYPE {}{suffix} {kind}", self.name);
        if let Some(unit) = self.unit().filter(|_| openmetrics) {
            let _ = writeln!(text, "# UNIT {} {unit}", self.name);
        }
        let _ = writeln!(text, "# HELP {}{suffix} {}.", self.name, self.help);
        text.push_str(&samples);
    }
}

fn one(views: &[View], of: impl Fn(&View) -> Option<f64>, add: &mut impl FnMut(&[(&str, &str)], f64)) {
    for view in views {
        if let Some(value) = of(view) {
            add(&[("id", &view.id), ("name", &view.id)], value);
        }
    }
}

/// All samples of all containers.
pub fn write(views: &[View], openmetrics: bool) -> String {
    let mut text = String::new();
    for family in FAMILIES {
        family.write(views, openmetrics, &mut text);
    }
    if openmetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// Whether a field `Accept` asks for OpenMetrics.
pub fn wanted(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        let refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        named && !parts.any(refused)
    })
}

/// A label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    match value {
        value if value == f64::INFINITY => "+Inf".to_owned(),
        value if value == f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::shim::view::ExitView;

    #[test]
    fn names_are_of_the_metrics_rules() {
        let mut seen = HashSet::new();
        for family in FAMILIES {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert!(!family.name.ends_with("_total") && !family.name.ends_with("_info"), "{}", family.name);
            assert!(!family.help.ends_with('.') && !family.help.contains(['\n', '\\', '"']), "{}", family.help);
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        let mut view =
            View { summary: Summary::Failed, reason: Reason::OomKill, ..crate::shim::view::tests::view("we\"b\\\n") };
        view.counters = vec![
            ("cpu.stat usage_usec".into(), 1_234_567.0),
            ("memory.current".into(), 4096.0),
            ("memory.stat inactive_file".into(), 8192.0),
        ];
        view.last_exit = Some(ExitView {
            kind: "oom".into(),
            code: None,
            signal: Some(9),
            at: "2026-01-01T00:00:00Z".into(),
            uptime_seconds: 1.0,
        });
        let views = [view];
        let (new, old) = (write(&views, true), write(&views, false));
        let labels = r#"id="we\"b\\\n",name="we\"b\\\n""#;
        for line in [
            format!("container_cpu_usage_seconds_total{{{labels}}} 1.234567"),
            format!("container_memory_working_set_bytes{{{labels}}} 0"),
            format!("orlop_container_state{{{labels},state=\"failed\"}} 1"),
            format!("orlop_container_state{{{labels},state=\"healthy\"}} 0"),
            format!("orlop_container_last_exit_info{{{labels},kind=\"oom\",code=\"\",signal=\"9\"}} 1"),
            "orlop_supervisor_lag_seconds 0.5".to_owned(),
        ] {
            for text in [&new, &old] {
                assert!(text.lines().any(|other| other == line), "{line}\n{text}");
            }
        }
        assert!(
            new.contains("# TYPE container_cpu_usage_seconds counter\n# UNIT container_cpu_usage_seconds seconds\n")
        );
        assert!(old.contains("# TYPE container_cpu_usage_seconds_total counter\n"));
        assert!(new.contains("# TYPE orlop_container_last_exit info\n") && new.ends_with("\n# EOF\n"));
        assert!(old.contains("# TYPE orlop_container_last_exit_info gauge\n") && !old.contains("EOF"));
        // What nothing is known of has no line at all.
        assert!(!new.contains("container_spec_memory_limit_bytes"), "{new}");
    }

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(wanted(prometheus));
        assert!(!wanted("") && !wanted("*/*") && !wanted("application/openmetrics-text;q=0.0"));
    }
}
