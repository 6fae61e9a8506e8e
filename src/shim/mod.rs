//! The supervisor: what it knows of a container's health, and what it decides.
//!
//! Everything here is a function of samples and of the time on `CLOCK_BOOTTIME`; nothing asks the kernel for anything. The
//! order of reading: [`health`] has the six axes and the one summary, [`dialect`] says it in the words of each manager,
//! [`probe`] counts what probes have found, [`restart`] decides what follows an exit, and [`config`] is where a bundle says
//! what it wants of all that.

pub mod api;
pub mod children;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod containerd;
pub mod dialect;
pub mod epoll;
pub mod flight;
pub mod health;
pub mod http;
pub mod jobs;
pub mod lease;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod ocf;
pub mod output;
pub mod probe;
pub mod probing;
pub mod push;
pub mod record;
pub mod restart;
pub mod sdnotify;
pub mod secret;
pub mod supervise;
pub mod view;

/// The program: containerd's contract under the name `containerd-shim-orlop-v2`, an agent of Pacemaker's where it is called as one,
/// the supervisor's own command line otherwise.
/// The exit status.
pub fn main() -> i32 {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match crate::seal::ensure() {
        Ok(()) if name.starts_with("containerd-shim-") => containerd::main(),
        Ok(()) if ocf::called(&name) => ocf::main(),
        Ok(()) => command::main(),
        Err(error) => {
            eprintln!("orlop-shim: {error:#}");
            1
        }
    }
}
