//! The only unsafe code: one function per system call, named after it.

pub mod bpf;
mod seccomp;

pub use seccomp::seccomp;
pub mod ioctl;
pub mod pidfd;
pub mod signal;
pub mod socket;
