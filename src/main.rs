//! The `orlop` command.
#![no_main]

#[cfg(debug_assertions)]
#[global_allocator]
static GUARD: orlop::sys::alloc_guard::Guard = orlop::sys::alloc_guard::Guard;

orlop::entry!(orlop::commands::main);
