//! The parent's side of a plan: open what the child inherits, clone, answer, and undo when something fails.

mod bound;
pub mod create;
pub mod dump;
pub mod enter;
pub mod explain;
pub mod hooks;
mod idmap;
mod listener;
mod net_device;
mod netlink;
pub mod protocol;
pub mod restore;
pub mod spawn;
mod tree;

pub use idmap::write as write_id_maps;
pub use listener::Agent;
