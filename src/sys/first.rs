//! Before the C library: the binary executes itself once more from a file that nobody can write to (see [`crate::seal`]),
//! and the program's data gets its pages.
//!
//! The kernel enters the program at `orlop_entry`, which calls [`first`] and then goes on to the C library's `_start`. A
//! start that only ends in execveat(2) so pays for none of the C library's own beginning: relocations, some forty CPUID
//! instructions, each a trap in a virtual machine, and the page faults of both.
//!
//! Nothing is set up here: no relocation has been applied, there is no thread-local storage and so no errno, and
//! memcpy(3) and its like are not resolved yet. So this file is written as assembly would be, and must stay so: memory is
//! an address, read and written by [`word`], [`byte`] and [`put`], which the compiler can't make a call of; there is no
//! slice, no iterator, no formatting, no static pointer, and no function of the standard library, since those of an
//! unoptimised build are called through pointers that want relocation. Whatever goes wrong is left to the second try in
//! [`crate::seal`], which can say what it was.

use std::arch::asm;

const AT_FDCWD: usize = libc::AT_FDCWD as usize;
const CLOEXEC: usize = libc::O_CLOEXEC as usize;
const DIRECTORY: usize = CLOEXEC | libc::O_PATH as usize | libc::O_DIRECTORY as usize;
/// The longest path that the kernel gives or takes, with its NUL byte.
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Where strings and answers of the kernel lie: the path of this binary, then two structs, then a short text.
static mut SCRATCH: [usize; (PATH_MAX + 1024) / size_of::<usize>()] = [0; (PATH_MAX + 1024) / size_of::<usize>()];
const STRUCT: usize = PATH_MAX;
const OTHER: usize = PATH_MAX + 256;
const TEXT: usize = PATH_MAX + 512;

/// The address of a string that ends in a NUL byte.
macro_rules! text {
    ($text:literal) => {
        concat!($text, "\0") as *const str as *const u8 as usize
    };
}

/// One system call, as the kernel answers: -4095 to -1 is an errno.
///
/// # Safety
/// What the arguments name must be the caller's to have read, written, closed or executed.
#[inline(always)]
unsafe fn syscall(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let answer: isize;
    // SAFETY: the kernel changes rax, rcx and r11 and what the arguments allow it to, for which the caller answers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// The word at an address.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn word(at: usize) -> usize {
    let value: usize;
    // SAFETY: the caller answers for the address.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) at, options(nostack, readonly, preserves_flags)) };
    value
}

/// The byte at an address.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn byte(at: usize) -> u32 {
    let value: u32;
    // SAFETY: the caller answers for the address.
    unsafe {
        asm!("movzx {:e}, byte ptr [{}]", out(reg) value, in(reg) at, options(nostack, readonly, preserves_flags))
    };
    value
}

/// Writes a byte to an address.
///
/// # Safety
/// It can be written, and is nobody else's.
#[inline(always)]
unsafe fn put(at: usize, value: usize) {
    // SAFETY: the caller answers for the address.
    unsafe { asm!("mov byte ptr [{}], {}", in(reg) at, in(reg_byte) value as u8, options(nostack, preserves_flags)) };
}

/// Called by the program's way in, with the address of what the kernel put on a new process's stack: argc, argv, a null,
/// envp, a null (System V ABI of x86-64, 3.4.1). Comes back when there is nothing to seal, or no way to.
///
/// # Safety
/// `stack` is that address.
pub unsafe extern "C" fn first(stack: usize) {
    // SAFETY: argc lies there; argc pointers and a null follow, and then the environment.
    unsafe {
        let argc = word(stack);
        let argv = stack + 8;
        let shim = argc > 0 && is_shim(word(argv));
        if shim || enters(argc, argv) {
            let exe = syscall(libc::SYS_openat, AT_FDCWD, text!("/proc/self/exe"), CLOEXEC, 0, 0);
            if exe >= 0 {
                if !read_only(exe as usize) {
                    let lasts = shim || stays(argc, argv);
                    execute_sealed(exe as usize, argv, argv + 8 * (argc + 1), lasts);
                }
                close(exe as usize);
            }
        }
        populate();
    }
}

/// A word of the command line is a verb that puts a process of this binary into a container. A word that only looks like
/// one costs a seal too many, and nothing else.
#[inline(always)]
unsafe fn enters(argc: usize, argv: usize) -> bool {
    let mut index = 1;
    while index < argc {
        // SAFETY: below argc there is a pointer to a string that ends in a NUL byte; so do the others.
        unsafe {
            let given = word(argv + 8 * index);
            if same(given, text!("create")) || same(given, text!("run")) || same(given, text!("exec")) {
                return true;
            }
        }
        index += 1;
    }
    false
}

/// This process may be there as long as its container: a `run` or an `exec` that is not detached. What only looks like one has the
/// slower of two ways, and nothing else.
#[inline(always)]
unsafe fn stays(argc: usize, argv: usize) -> bool {
    let mut index = 1;
    let mut found = false;
    while index < argc {
        // SAFETY: below argc there is a pointer to a string that ends in a NUL byte; so do the others.
        unsafe {
            let given = word(argv + 8 * index);
            if same(given, text!("-d")) || same(given, text!("--detach")) || same(given, text!("-detach")) {
                return false;
            }
            found |= same(given, text!("run")) || same(given, text!("exec"));
        }
        index += 1;
    }
    found
}

/// The program was called by a name of the supervisor's, `orlop-shim` or `containerd-shim-orlop-v2`: its workers are processes
/// of this binary that go into containers.
#[inline(always)]
unsafe fn is_shim(name: usize) -> bool {
    let mut at = name;
    // SAFETY: the string ends in a NUL byte, and is not read past it: each byte is looked at after those before it.
    unsafe {
        while byte(at) != 0 {
            if byte(at) == b's' as u32
                && byte(at + 1) == b'h' as u32
                && byte(at + 2) == b'i' as u32
                && byte(at + 3) == b'm' as u32
            {
                return true;
            }
            at += 1;
        }
    }
    false
}

/// Two strings are equal. Neither is read past its NUL byte, since the comparison ends there.
#[inline(always)]
unsafe fn same(left: usize, right: usize) -> bool {
    let mut at = 0;
    loop {
        // SAFETY: see above.
        let (one, other) = unsafe { (byte(left + at), byte(right + at)) };
        if one != other {
            return false;
        }
        if one == 0 {
            return true;
        }
        at += 1;
    }
}

/// The file lies on a read-only mount (statfs(2), `ST_RDONLY`), or is a memfd with every seal (fcntl(2)).
#[inline(always)]
unsafe fn read_only(file: usize) -> bool {
    const SEALS: isize = (libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE) as isize;
    const FLAGS: usize = 10; // the word of the kernel's struct statfs that is f_flags
    let stat = &raw mut SCRATCH as usize + STRUCT;
    // SAFETY: the scratch has room for a statfs, and is read only when the kernel has written it.
    unsafe {
        let known = syscall(libc::SYS_fstatfs, file, stat, 0, 0, 0) == 0;
        if known && word(stat + 8 * FLAGS) & libc::ST_RDONLY as usize != 0 {
            return true;
        }
        let seals = syscall(libc::SYS_fcntl, file, libc::F_GET_SEALS as usize, 0, 0, 0);
        seals >= 0 && seals & SEALS == SEALS
    }
}

#[inline(always)]
unsafe fn close(fd: usize) {
    // SAFETY: the descriptor is one of those that this file has opened.
    unsafe { syscall(libc::SYS_close, fd, 0, 0, 0, 0) };
}

/// Executes the binary in an overlay of a directory over `/dev`. Without an upper layer there is nothing in it that could be made
/// writable (overlayfs.rst); it is mounted nowhere, and goes with the last process.
///
/// The directory is that of the copy of this very file which the second try has left ([`crate::seal`]). Where there is none,
/// it is the file's own, which costs no copy, unless this process `lasts`: the host could write to its program then.
///
/// What it leaves open is close-on-exec; when it comes back the second try makes a copy of the binary, and executes that.
#[inline(always)]
unsafe fn execute_sealed(exe: usize, argv: usize, envp: usize, lasts: bool) {
    let path = &raw mut SCRATCH as usize;
    // SAFETY: what is read was written before; each address passed is of memory of the size that the call fills.
    unsafe {
        let length = syscall(libc::SYS_readlink, text!("/proc/self/exe"), path, PATH_MAX - 1, 0, 0);
        if length <= 0 || byte(path) != b'/' as u32 {
            return;
        }
        let mut slash = path + length as usize;
        put(slash, 0);
        while byte(slash) != b'/' as u32 {
            slash -= 1;
        }
        put(slash, 0);
        let name = slash + 1;
        let mut directory = kept(exe);
        if directory < 0 {
            let own = if slash == path { text!("/") } else { path };
            directory = if lasts { -1 } else { syscall(libc::SYS_openat, AT_FDCWD, own, DIRECTORY, 0, 0) };
            if directory < 0 || !same_file(exe, directory as usize, name) {
                return;
            }
        }
        // An overlay wants two layers, both of them in this mount namespace (before Linux 6.15), and neither below the other.
        let layers = &raw mut SCRATCH as usize + TEXT;
        let end = put_text(layers, text!("/proc/self/fd/"));
        let end = put_number(end, directory as usize);
        let end = put_text(end, text!(":/dev"));
        put(end, 0);
        let overlay = overlay(layers);
        if overlay < 0 {
            return;
        }
        let sealed = syscall(libc::SYS_openat, overlay as usize, name, CLOEXEC | libc::O_NOFOLLOW as usize, 0, 0);
        // Asked as the next start will ask, or there would be no end.
        if sealed >= 0 && read_only(sealed as usize) {
            syscall(libc::SYS_execveat, sealed as usize, text!(""), argv, envp, libc::AT_EMPTY_PATH as usize);
        }
    }
}

/// The directory of the copies of this file, by the name that [`crate::seal`] gives it: `O_PATH`, root's, and nobody else's to look
/// into. Negative: there is none.
#[inline(always)]
unsafe fn kept(exe: usize) -> isize {
    // The words of the kernel's struct stat on x86-64: device, inode, ctime, its nanoseconds. The fourth is mode and owner.
    const OWNER: usize = 3 * 8;
    let stat = &raw mut SCRATCH as usize + OTHER;
    let path = &raw mut SCRATCH as usize + TEXT;
    // SAFETY: the scratch has room for a stat and for a path with four numbers; it is read only when the kernel has written it.
    unsafe {
        if syscall(libc::SYS_fstat, exe, stat, 0, 0, 0) != 0 {
            return -1;
        }
        let end = put_number(put_text(path, text!("/run/orlop-exe/")), word(stat));
        let end = put_number(put_text(end, text!("-")), word(stat + 8));
        let end = put_number(put_text(end, text!("-")), word(stat + 13 * 8));
        let end = put_number(put_text(end, text!("-")), word(stat + 14 * 8));
        put(end, 0);
        let directory = syscall(libc::SYS_openat, AT_FDCWD, path, DIRECTORY | libc::O_NOFOLLOW as usize, 0, 0);
        if directory < 0 {
            return directory;
        }
        let known = syscall(libc::SYS_fstat, directory as usize, stat, 0, 0, 0) == 0;
        if known && word(stat + OWNER) >> 32 == 0 && word(stat + OWNER) & 0o77 == 0 {
            return directory;
        }
        close(directory as usize);
        -1
    }
}

/// The file `name` of `directory` is the one that is open as `exe`: st_dev and st_ino are a stat's first two words.
#[inline(always)]
unsafe fn same_file(exe: usize, directory: usize, name: usize) -> bool {
    let there = &raw mut SCRATCH as usize + STRUCT;
    let ours = &raw mut SCRATCH as usize + OTHER;
    // SAFETY: the scratch has room for both, and is read only when the kernel has written it.
    unsafe {
        let link = libc::AT_SYMLINK_NOFOLLOW as usize;
        syscall(libc::SYS_newfstatat, directory, name, there, link, 0) == 0
            && syscall(libc::SYS_fstat, exe, ours, 0, 0, 0) == 0
            && word(there) == word(ours)
            && word(there + 8) == word(ours + 8)
    }
}

/// fsopen(2) to fsmount(2): an overlay of these lower layers, read-only, mounted nowhere.
#[inline(always)]
unsafe fn overlay(layers: usize) -> isize {
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    const ATTR: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    // SAFETY: every string ends in a NUL byte and lives through its call.
    unsafe {
        let fs = syscall(libc::SYS_fsopen, text!("overlay"), 1, 0, 0, 0);
        if fs < 0 {
            return fs;
        }
        let mut answer = syscall(libc::SYS_fsconfig, fs as usize, FSCONFIG_SET_STRING, text!("lowerdir"), layers, 0);
        if answer == 0 {
            answer = syscall(libc::SYS_fsconfig, fs as usize, FSCONFIG_CMD_CREATE, 0, 0, 0);
        }
        if answer == 0 {
            answer = syscall(libc::SYS_fsmount, fs as usize, 1, ATTR as usize, 0, 0);
        }
        close(fs as usize);
        answer
    }
}

/// Writes a text without its NUL byte, and returns where it ends.
#[inline(always)]
unsafe fn put_text(to: usize, text: usize) -> usize {
    let mut length = 0;
    // SAFETY: the caller has the room; the text ends in a NUL byte.
    unsafe {
        while byte(text + length) != 0 {
            put(to + length, byte(text + length) as usize);
            length += 1;
        }
    }
    to + length
}

/// Writes a number in decimal, at most 20 bytes, and returns where it ends.
#[inline(always)]
unsafe fn put_number(to: usize, number: usize) -> usize {
    let mut unit = 1;
    while number / unit >= 10 {
        unit *= 10;
    }
    let mut at = to;
    while unit > 0 {
        // SAFETY: the caller has the room.
        unsafe { put(at, b'0' as usize + number / unit % 10) };
        unit /= 10;
        at += 1;
    }
    at
}

/// Gives the data segments their pages in one call (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14). The relocations that
/// come next write to each of them: some sixty page faults, each dearer than the page.
#[inline(always)]
unsafe fn populate() {
    let (start, end): (usize, usize);
    // SAFETY: the addresses of the linker's two symbols are taken, and nothing is read. The range between them is this
    // program's own data, and keeps its content; an older kernel says EINVAL.
    unsafe {
        asm!("lea {}, [rip + __init_array_start]", "lea {}, [rip + _end]", out(reg) start, out(reg) end,
             options(nomem, nostack, preserves_flags));
        let page = start & !0xfff;
        syscall(libc::SYS_madvise, page, end - page, libc::MADV_POPULATE_WRITE as usize, 0, 0);
    }
}
