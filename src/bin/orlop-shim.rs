//! The `orlop-shim` command, which answers to `containerd-shim-orlop-v2` as well.
#![no_main]

#[cfg(debug_assertions)]
#[global_allocator]
static GUARD: orlop::sys::alloc_guard::Guard = orlop::sys::alloc_guard::Guard;

orlop::entry!(orlop::shim::main);
