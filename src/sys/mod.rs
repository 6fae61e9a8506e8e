//! The only unsafe code: one function per system call, named after it.

pub mod bpf;
mod seccomp;

pub use seccomp::seccomp;
