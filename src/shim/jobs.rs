//! What workers do: commands of the command line, each with what the supervisor wants to know of it afterwards.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::children::{Process, Reply};
use crate::commands;
use crate::error::{Error, Result};
use crate::state::Store;

/// The options that every command of one supervisor has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The directory of the containers' states.
    pub root: PathBuf,
    /// systemd makes their cgroups.
    pub systemd_cgroup: bool,
}

impl Runtime {
    /// The store of its containers.
    pub fn store(&self) -> Store {
        Store::new(self.root.clone())
    }

    /// Runs a command in this process, which must be a worker.
    pub fn call<W: AsRef<OsStr>>(&self, words: &[W]) -> anyhow::Result<()> {
        let mut all: Vec<OsString> = vec!["--root".into(), self.root.clone().into()];
        all.extend(self.systemd_cgroup.then(|| "--systemd-cgroup".into()));
        all.extend(words.iter().map(|word| word.as_ref().to_owned()));
        match commands::call(&all)? {
            0 => Ok(()),
            status => Err(Error::new(format!("the command has failed with status {status}")).into()),
        }
    }

    /// Makes a container; its first process waits for `start`.
    pub fn create(&self, id: &str, bundle: &Path, options: &[OsString]) -> Reply {
        self.make(&["create"], id, bundle, options)
    }

    /// Makes a container again from an image of criu's, which `options` name; it runs.
    pub fn restore(&self, id: &str, bundle: &Path, options: &[OsString]) -> Reply {
        self.make(&["restore", "--detach"], id, bundle, options)
    }

    fn make(&self, verb: &[&str], id: &str, bundle: &Path, options: &[OsString]) -> Reply {
        let mut words: Vec<OsString> = verb.iter().map(OsString::from).collect();
        words.extend(["--bundle".into(), bundle.into()]);
        words.extend(options.iter().cloned());
        words.push(id.into());
        if let Err(error) = self.call(&words) {
            return Reply::failed(format!("{error:#}"));
        }
        match self.first_process(id) {
            Ok(made) => Reply { made: Some(made), ..Reply::default() },
            Err(error) => Reply::failed(error),
        }
    }

    /// Removes a container, whatever it is about. None with the id is no error.
    pub fn remove(&self, id: &str) -> Reply {
        Reply::from(self.call(&["delete", "--force", id]))
    }

    fn first_process(&self, id: &str) -> Result<Process> {
        let state = self.store().open(id)?.read()?;
        Ok(Process { pid: state.pid, start: state.start_time })
    }

    /// Runs one more process in a container, as `options` say. `pid_file` is a file for this one call, removed afterwards.
    pub fn exec(&self, id: &str, pid_file: &Path, options: &[OsString], program: &[String]) -> Reply {
        let mut words: Vec<OsString> = vec!["exec".into(), "--detach".into(), "--pid-file".into(), pid_file.into()];
        words.extend(options.iter().cloned());
        words.push(id.into());
        words.extend(program.iter().map(OsString::from));
        let called = self.call(&words);
        let pid = std::fs::read_to_string(pid_file);
        let _ = std::fs::remove_file(pid_file);
        if let Err(error) = called {
            return Reply::failed(format!("{error:#}"));
        }
        // It is a child of ours until we end, so its number is its own.
        let made = pid.ok().and_then(|pid| pid.trim().parse().ok()).and_then(|pid| Process::now(pid).ok().flatten());
        match made {
            Some(made) => Reply { made: Some(made), ..Reply::default() },
            None => Reply::failed("the new process could not be found"),
        }
    }
}
