//! The `orlop` command.

#[cfg(debug_assertions)]
#[global_allocator]
static GUARD: orlop::sys::alloc_guard::Guard = orlop::sys::alloc_guard::Guard;

fn main() {
    std::process::exit(orlop::commands::main());
}
