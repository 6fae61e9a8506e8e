//! The beginning of the program.

/// Makes `$main` the C `main`, without the start-up of Rust's standard library, which looks for the stack's bounds in
/// `/proc/self/maps` and installs handlers for a stack overflow: some 100 us, paid at each start of a container.
///
/// What of that is needed is done here: the standard descriptors are open, and SIGPIPE is an EPIPE.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::elf_entry!();

        #[allow(unsafe_code)]
        // SAFETY: the C library calls `main` once; the symbol is defined once, by the one use of this macro.
        #[unsafe(no_mangle)]
        extern "C" fn main(_argc: i32, _argv: *const *const i8) -> i32 {
            $crate::sys::start::prepare();
            $main()
        }
    };
}

/// The symbol at which the kernel enters the program (`build.rs` names it to the linker). Used once, by [`crate::entry`].
#[doc(hidden)]
#[macro_export]
macro_rules! elf_entry {
    () => {
        #[cfg(target_arch = "x86_64")]
        // The kernel's stack pointer is the first argument; rdx (a function for atexit(3), which a static program does not
        // get) and the stack are handed on as they came.
        core::arch::global_asm!(
            ".globl orlop_entry",
            ".type orlop_entry, @function",
            "orlop_entry:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "mov r12, rdx",
            "mov r13, rsp",
            "and rsp, -16",
            "call {first}",
            "mov rsp, r13",
            "mov rdx, r12",
            "jmp _start",
            ".size orlop_entry, . - orlop_entry",
            first = sym $crate::sys::first::first,
        );
    };
}

/// Opens `/dev/null` in the place of a standard descriptor that is closed, so that no file of ours takes its number, and
/// ignores SIGPIPE.
pub fn prepare() {
    for number in 0..3 {
        // SAFETY: no memory is passed.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            // SAFETY: the path is a static string. The lowest free number is this one.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
    // SAFETY: SIG_IGN is no function.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
