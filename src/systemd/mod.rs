//! The systemd driver: the container's cgroup is a transient scope that systemd makes and keeps
//! (org.freedesktop.systemd1(5), systemd.scope(5)).
//!
//! [`Scope::plan`] says which scope with which properties, without asking anybody; [`start`] and [`stop`] speak to
//! systemd. It is asked for by `--systemd-cgroup`, and costs nothing where it is not.

mod annotations;
mod manager;
mod properties;
mod scope;
mod text;

pub use annotations::PREFIX;
pub use manager::{attach, reachable, set_limits, start, stop, weights_of_bfq};
pub use properties::Property;
pub use scope::{Scope, Unit, name_of};
