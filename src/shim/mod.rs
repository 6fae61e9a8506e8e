//! The supervisor: what it knows of a container's health, and what it decides.
//!
//! Everything here is a function of samples and of the time on `CLOCK_BOOTTIME`; nothing asks the kernel for anything. The
//! order of reading: [`health`] has the six axes and the one summary, [`dialect`] says it in the words of each manager,
//! [`probe`] counts what probes have found, [`restart`] decides what follows an exit, and [`config`] is where a bundle says
//! what it wants of all that.

pub mod config;
pub mod dialect;
pub mod health;
pub mod probe;
pub mod restart;
