//! Orlop: an OCI container runtime for Linux with cgroups v2.
//!
//! The order of reading is the order of work: [`bundle`] reads `config.json`, [`validate`] holds it against the
//! specification, [`plan`] turns it into an ordered list of kernel operations, and [`exec`] clones a process in which
//! [`child`] carries out that list and ends in `execve`. `ARCHITECTURE.md` draws the picture.
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]
// clippy.toml: what the library never calls. Tests may.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod audit;
pub mod bundle;
pub mod cgroup;
pub mod check;
pub mod child;
pub mod commands;
pub mod console;
pub mod criu;
pub mod dbus;
pub mod error;
pub mod exec;
pub mod features;
pub mod findings;
pub mod foreground;
pub mod host;
pub mod notify;
pub mod pipes;
pub mod plan;
pub mod record;
pub mod resctrl;
pub mod seal;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod state;
mod stream;
#[allow(unsafe_code)]
pub mod sys;
pub mod systemd;
pub mod update;
pub mod validate;
