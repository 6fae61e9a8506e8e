//! The only unsafe code: one function per system call, named after it.

pub mod bpf;
