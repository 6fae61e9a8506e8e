//! What the command line asks supervisors: `check` for the managers, `status` and `top` for people.
//!
//! A supervisor has a directory of its container's name below one of all supervisors' ([`Source`]); the answer comes from its
//! socket for reading. Where none comes in time, the runtime's own state and the kernel say whether the container runs: it is
//! never taken for stopped because its supervisor is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::clock;
use super::view::View;
use crate::error::{Error, Result};
use crate::state::{Status, Store};

pub(super) mod ask;
mod check;
mod table;
mod top;

pub(super) use check::haproxy;
pub use check::{As, Checked, check, table as words};
pub use table::{Format, status};
pub use top::top;

/// The name of a supervisor's socket for reading.
pub const READ: &str = "read.sock";
/// The name of its control socket.
pub const CONTROL: &str = "control.sock";
/// The name of the file that says whose supervisor it is.
pub const FACTS: &str = "supervisor.json";
/// How long a supervisor may take for an answer, with everything.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Where supervisors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The directory with one of each supervisor.
    pub directory: PathBuf,
    /// Where the runtime keeps its containers, if a supervisor does not say so.
    pub root: PathBuf,
}

impl Source {
    /// `/run/orlop-shim`, or below `XDG_RUNTIME_DIR` for a user's containers.
    pub fn default_directory() -> PathBuf {
        super::record::default_directory()
    }

    /// Those of this user.
    pub fn of_user() -> Self {
        let root = crate::state::default_root(crate::host::in_runtime_dir());
        Self { directory: Self::default_directory(), root }
    }

    /// The supervisors' names, sorted. A directory that is not there has none.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        Store::new(self.directory.clone()).ids()
    }

    /// The last word of a supervisor that has ended with its container.
    pub(super) fn last(&self, id: &str) -> Option<View> {
        let view: View = super::record::read(&self.directory.join(id), "last.json").ok()??;
        // One that says anything else was not the last word.
        (view.id == id && view.lifecycle == "exited").then_some(view)
    }

    /// The view of one container.
    fn view(&self, id: &str) -> Option<View> {
        let target = format!("/v1/containers/{id}");
        let answers = ask::ask(&[self.directory.join(id).join(READ)], "GET", &target, clock::now() + PATIENCE);
        let (status, body) = answers.into_iter().next()??;
        let view: View = serde_json::from_slice(&body).ok().filter(|_| status == 200)?;
        (view.id == id).then_some(view)
    }
}

/// Asks a supervisor for an action, `POST` with `target` on its control socket, for as long as `patience`: its answer's status
/// and text.
///
/// # Errors
/// There is no answer.
pub fn post(source: &Source, id: &str, target: &str, patience: Duration) -> Result<(u16, String)> {
    crate::validate::container_id(id)?;
    let socket = source.directory.join(id).join(CONTROL);
    let answers = ask::ask(std::slice::from_ref(&socket), "POST", target, clock::now() + patience);
    match answers.into_iter().next().flatten() {
        Some((status, body)) => Ok((status, String::from_utf8_lossy(&body).into_owned())),
        None => Err(Error::new(format!("the supervisor of {id} does not answer at {}", socket.display()))
            .hint("orlop-shim status lists the supervisors")),
    }
}

/// What is known of a container without its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    /// It has processes, or is being made.
    Runs(i32),
    /// It is there, and has none.
    Ended,
    /// There is no such container.
    Absent,
    /// It can't be known.
    Unknown,
}

#[derive(Deserialize)]
struct Facts {
    root: PathBuf,
    id: String,
}

/// Looks where the supervisor says that its container is, and where the runtime has its containers by default.
pub(super) fn fact(source: &Source, id: &str) -> Fact {
    let facts = match std::fs::read(source.directory.join(id).join(FACTS)) {
        Ok(text) => match serde_json::from_slice::<Facts>(&text) {
            Ok(facts) => Some(facts),
            Err(_) => return fact_at(&source.root, id).unless(Fact::Unknown),
        },
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(_) => return fact_at(&source.root, id).unless(Fact::Unknown),
    };
    let named = facts.map_or(Fact::Absent, |facts| fact_at(&facts.root, &facts.id));
    match named {
        Fact::Absent => fact_at(&source.root, id),
        known => known,
    }
}

impl Fact {
    /// Its first process, while it has one.
    pub(super) fn pid(self) -> Option<i32> {
        if let Self::Runs(pid) = self { Some(pid).filter(|pid| *pid > 0) } else { None }
    }

    /// What is not there by all that was looked at may still be elsewhere.
    fn unless(self, other: Self) -> Self {
        if self == Self::Absent { other } else { self }
    }
}

fn fact_at(root: &Path, id: &str) -> Fact {
    match std::fs::symlink_metadata(root.join(id)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Fact::Absent,
        Err(_) => return Fact::Unknown,
    }
    let look = || -> Result<Fact> {
        let dir = Store::new(root.to_owned()).open(id)?;
        let state = dir.read()?;
        Ok(match state.status(&dir)? {
            // Other processes of its cgroup may have outlived the first one.
            Status::Stopped => match state.open_cgroup()? {
                Some(cgroup) if cgroup.populated()? => Fact::Runs(0),
                _ => Fact::Ended,
            },
            _ => Fact::Runs(state.pid),
        })
    };
    look().unwrap_or(Fact::Unknown)
}

/// Text of a container for a terminal: one line of what is printable in ASCII, and the rest escaped.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => plain.push(c),
            c => plain.extend(c.escape_default()),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{self, State, VERSION};

    fn state_of(pid: i32) -> State {
        State {
            version: VERSION,
            id: "inner".into(),
            oci_version: "1.3.0".into(),
            pid,
            start_time: state::start_time(nix::unistd::Pid::from_raw(pid)).unwrap().map_or(0, |(start, _)| start),
            boot_id: state::boot_id().unwrap(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: state::now(),
            owner: "root".into(),
            annotations: Default::default(),
            cgroup: None,
            resctrl: None,
            creating: false,
        }
    }

    /// The process is our own: it runs.
    #[test]
    fn the_kernel_knows_who_runs_without_a_supervisor() {
        let base = std::env::temp_dir().join(format!("orlop-facts-{}", std::process::id()));
        let source = Source { directory: base.join("shim"), root: base.join("default") };
        assert_eq!(fact(&source, "web"), Fact::Absent);
        std::fs::create_dir_all(source.directory.join("web")).unwrap();
        assert_eq!(fact(&source, "web"), Fact::Absent);
        // The supervisor's file leads to the container, by another name and at another root.
        let root = base.join("root");
        let text = serde_json::json!({ "root": root, "id": "inner", "more": 1 }).to_string();
        std::fs::write(source.directory.join("web").join(FACTS), text).unwrap();
        let dir = Store::new(root).create("inner", |_| Ok(())).unwrap();
        assert_eq!(fact(&source, "web"), Fact::Unknown, "it has no state yet");
        dir.write(&state_of(std::process::id() as i32)).unwrap();
        assert_eq!(fact(&source, "web"), Fact::Runs(std::process::id() as i32));
        dir.write(&State { start_time: 1, ..state_of(std::process::id() as i32) }).unwrap();
        assert_eq!(fact(&source, "web"), Fact::Ended);
        dir.write(&State { creating: true, ..state_of(0) }).unwrap();
        assert_eq!(fact(&source, "web"), Fact::Runs(0));
        // Its directory was cleaned away, and the container is where containers are.
        let dir = Store::new(source.root.clone()).create("lost", |_| Ok(())).unwrap();
        dir.write(&state_of(std::process::id() as i32)).unwrap();
        assert!(matches!(fact(&source, "lost"), Fact::Runs(_)));
        // A file that can't be read says nothing, and so not that there is no container.
        std::fs::write(source.directory.join("web").join(FACTS), "{").unwrap();
        assert_eq!(fact(&source, "web"), Fact::Unknown);
        std::fs::remove_dir_all(base).unwrap();
    }
}
