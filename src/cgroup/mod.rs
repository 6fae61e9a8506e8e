//! Control groups, version 2.
//!
//! [`Hierarchy::find`] says where cgroup2 is mounted, [`path`] where the container's cgroup lies in it, [`writes`] and
//! [`device::program`] what goes into it, all without touching it; [`Cgroup::create`] makes it, and a process is born
//! inside by clone3(2) with CLONE_INTO_CGROUP and [`Cgroup::fd`]: nothing is ever written to `cgroup.procs`. One that systemd
//! has made ([`crate::systemd`]) is filled in the same way after [`Cgroup::adopt`].

mod control;
mod create;
mod delegate;
pub mod device;
mod enable;
mod file;
mod foresee;
mod hierarchy;
mod path;
mod resources;
pub(crate) mod stats;
mod update;

pub use control::{Events, load_devices};
pub use create::{APPLY, Cgroup, cannot_be_made, in_words_of_runc};
pub use foresee::{Foreseen, foresee};
pub use hierarchy::Hierarchy;
pub use path::path;
pub use resources::{Refused, Wanted, Write, wanted_controllers, weight, without_effect, writes, writes_and_errors};
pub use stats::Stats;
pub use update::Before;
