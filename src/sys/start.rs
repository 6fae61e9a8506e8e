//! The beginning of the program.

use std::ffi::c_char;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

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
        extern "C" fn main(argc: i32, argv: *const *mut core::ffi::c_char) -> i32 {
            $crate::sys::start::prepare(argc, argv);
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

/// Where the kernel put the command line, which the environment follows: the vector's address and argc.
static COMMAND_LINE: (AtomicPtr<*mut c_char>, AtomicUsize) =
    (AtomicPtr::new(std::ptr::null_mut()), AtomicUsize::new(0));

/// Opens `/dev/null` in the place of a standard descriptor that is closed, so that no file of ours takes its number, ignores
/// SIGPIPE, and remembers where the command line is.
pub fn prepare(argc: i32, argv: *const *mut c_char) {
    COMMAND_LINE.0.store(argv.cast_mut(), Ordering::Relaxed);
    COMMAND_LINE.1.store(argc as usize, Ordering::Relaxed);
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

/// Takes a variable out of the environment, so that nothing that this process begins has it. For a process without threads.
pub fn take_variable(name: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(name);
    // SAFETY: there is no other thread that could look at the environment meanwhile (module `shim`: one thread).
    unsafe { std::env::remove_var(name) };
    value
}

/// Puts a variable into the environment. For a process without threads.
pub fn set_variable(name: &str, value: &std::ffi::OsStr) {
    // SAFETY: as above.
    unsafe { std::env::set_var(name, value) };
}

/// Overwrites the command line by `orlop init` and the environment by nothing, as `/proc/<pid>/cmdline` and `environ` show
/// them (proc(5)). Only for a process after the clone that looks at neither any more.
pub fn forget_caller() {
    let (argv, argc) = (COMMAND_LINE.0.load(Ordering::Relaxed), COMMAND_LINE.1.load(Ordering::Relaxed));
    if argv.is_null() || argc == 0 {
        return;
    }
    // SAFETY: argc strings, a null, the environment's strings and a null lie where `main` was told, and are this process's
    // own to write to (System V ABI). The C library's copy of the vector is not looked at after the clone.
    unsafe {
        let strings = (0..argc).map(|index| argv.add(index)).chain((argc + 1..).map(|index| argv.add(index)));
        for string in strings.map(|pointer| pointer.read()).take_while(|string| !string.is_null()) {
            string.write_bytes(0, libc::strlen(string));
        }
        // As long as there is room for it: the first strings follow each other, so their lengths are known by their places.
        const TITLE: &[u8] = b"orlop\0init";
        let last = argv.add(argc - 1).read();
        if last as usize >= argv.read() as usize + TITLE.len() {
            argv.read().copy_from_nonoverlapping(TITLE.as_ptr().cast(), TITLE.len());
        }
    }
}
