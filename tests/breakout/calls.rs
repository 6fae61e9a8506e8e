//! Every number that a system call can have, called from inside under the default profile, in each of the three ways into an
//! x86-64 kernel. This binary is also the program that calls them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::place::{Place, Verdict, ended};

/// How `main` knows that it is the program.
pub const MODE: &str = "--every-call";
/// Numbers that no kernel of this time has follow after 470 (listns, Linux 6.19).
const NUMBERS: RangeInclusive<u32> = 0..=520;
/// x32 has numbers of its own from 512 to 547.
const X32_NUMBERS: RangeInclusive<u32> = 0..=560;
/// `__X32_SYSCALL_BIT` of asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;

/// What `seccomp-profiles/default.json` leaves to the kernel when each argument is -1: its names that have no condition, with
/// the numbers of asm/unistd_64.h, unistd_32.h and unistd_x32.h; personality(2) by `int 0x80`, for which -1 is a question; and
/// uretprobe(2) and uprobe(2), 335 and 336 of x86-64, about which Linux asks no filter and which do nothing for a caller of them.
const DEFAULT: [(&str, &str); 3] = [("x86_64", X86_64), ("i386", I386), ("x32", X32)];
const X86_64: &str = "0-40 42-55 57-102 104-133 137-138 140-152 154 157-162 186-211 213-226 228-235 240-245 247 251-255 \
     257-271 273-278 280-297 299 301-303 305-307 309-311 314-319 322 324-336 424 434 436-437 439 441 \
     444-449 451-458 462-466";
const I386: &str = "0-16 19-20 23-24 26-27 29-30 33 36-43 45-47 49-50 54-55 57 60-61 63-66 70-71 75-78 80-83 85 90-97 \
     99-100 102 104-108 114 116-119 122-126 132-133 136 138-148 150-165 168 170-187 190-216 218-221 \
     224-250 252 254-263 265-272 277-282 284 289-293 295-309 311-316 318-335 337 339-341 343-345 347-348 \
     351-356 358 360-373 375-386 393-403 405-414 416-424 434 436-437 439 441 444-449 451-458 462-466";
const X32: &str = "0-12 14 17-18 21-40 42-44 48-53 57-58 60-100 102 104-126 130 132-133 137-138 140-152 154 157-162 \
     186-204 207-208 210 213 216-221 223-226 228-235 240-243 245 251-255 257-271 275-277 280-294 301-303 \
     305-306 309 314-319 324-326 329-334 424 434 436-437 439 441 444-449 451-458 462-466 512-527 529-532 \
     534-547";
/// `seccomp-profiles/strict.json` knows x86-64 alone: a call of another ABI ends its thread.
const STRICT: [(&str, &str); 3] = [("x86_64", "0-520"), ("i386", ""), ("x32", "")];

/// No number but those of the profile gets to the kernel, and one that is newer than all answers ENOSYS.
pub fn of_every_number(place: Place) -> Verdict {
    only(place, "default", &DEFAULT)
}

/// No call of an ABI that the profile does not name gets to the kernel.
pub fn of_another_abi(place: Place) -> Verdict {
    only(place, "strict", &STRICT)
}

fn only(place: Place, profile: &str, allowed: &[(&str, &str); 3]) -> Verdict {
    // So that a denial is the filter's and not for want of a capability.
    let place = place.filtered(profile).with_program(&[MODE]).with_all_capabilities();
    let run = place.run();
    let answers = parse(&run.stdout());
    if answers.len() < NUMBERS.count() * 2 + X32_NUMBERS.count() {
        return Verdict::Unknown(ended(&run));
    }
    let newest = |abi: &str| if abi == "x32" { 547 } else { 470 };
    let unknown =
        |abi: &str, number: u32, answer: &str| profile == "default" && number > newest(abi) && answer != "ENOSYS";
    let wrong: Vec<_> = answers
        .iter()
        .filter(|((abi, number), answer)| {
            let listed = allowed.iter().any(|(name, ranges)| name == abi && within(ranges, *number));
            !listed && !["EPERM", "ENOSYS", "killed"].contains(&answer.as_str()) || unknown(abi, *number, answer)
        })
        .map(|((abi, number), answer)| format!("{abi} {number}: {answer}"))
        .collect();
    match wrong.is_empty() {
        true => Verdict::Held(format!("{} calls", answers.len())),
        false => Verdict::Open(wrong.join(", ")),
    }
}

fn parse(said: &str) -> BTreeMap<(String, u32), String> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (abi, number) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(((abi, number), words.next()?.to_owned()))
    };
    said.lines().filter_map(line).collect()
}

/// Is the number in a list such as `0-3 7`?
fn within(ranges: &str, number: u32) -> bool {
    ranges.split_whitespace().any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bound = |text: &str| text.parse::<u32>().expect("a number");
        (bound(first)..=bound(last)).contains(&number)
    })
}

/// The program: each call in a process of its own, with -1 for each argument, which no call takes for anything that it could
/// do. Prints what each has answered, or `waits`.
pub fn every_call() {
    for (abi, numbers) in [("x86_64", NUMBERS), ("i386", NUMBERS), ("x32", X32_NUMBERS)] {
        let children: Vec<_> = numbers.map(|number| (number, in_a_child(abi, number))).collect();
        let deadline = Instant::now() + Duration::from_secs(2);
        for (number, child) in children {
            println!("{abi} {number} {}", answer_of(child, deadline));
        }
    }
}

fn in_a_child(abi: &str, number: u32) -> libc::pid_t {
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { libc::fork() } {
        0 => {
            // Out of reach of a terminal, for vhangup(2).
            // SAFETY: setsid(2) has no arguments; the call is one that its arguments make harmless.
            let answer = unsafe {
                libc::setsid();
                match abi {
                    "i386" => int80(number),
                    "x32" => syscall(number | X32_BIT),
                    _ => syscall(number),
                }
            };
            let errno = if (-4095..0).contains(&answer) { -answer as i32 } else { 0 };
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(errno) }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        child => child,
    }
}

/// # Safety
/// The call must do no harm with these arguments.
unsafe fn syscall(number: u32) -> isize {
    let answer: isize;
    // SAFETY: the caller answers for it; the kernel changes rax, rcx and r11 alone.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number as usize => answer, in("rdi") -1isize, in("rsi") -1isize,
            in("rdx") -1isize, in("r10") -1isize, in("r8") -1isize, in("r9") -1isize, lateout("rcx") _, lateout("r11") _);
    }
    answer
}

/// The way of 32-bit programs.
///
/// # Safety
/// The call must do no harm with these arguments.
unsafe fn int80(number: u32) -> isize {
    let answer: i32;
    // SAFETY: the caller answers for it; older kernels clear r8 to r11, and rbx and rbp, which are not free, are put back.
    unsafe {
        std::arch::asm!("push rbx", "push rbp", "mov ebx, -1", "mov ebp, -1", "int 0x80", "pop rbp", "pop rbx",
            inlateout("eax") number => answer, in("ecx") -1, in("edx") -1, in("esi") -1, in("edi") -1,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    answer as isize
}

fn answer_of(child: libc::pid_t, deadline: Instant) -> String {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            0 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            0 => {
                // SAFETY: a child of ours that has not been waited for: its number is nobody else's.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, &raw mut status, 0);
                }
                return "waits".into();
            }
            _ if libc::WIFSIGNALED(status) => return "killed".into(),
            _ => return named(libc::WEXITSTATUS(status)),
        }
    }
}

fn named(status: i32) -> String {
    match status {
        0 => "works".into(),
        errno => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    }
}
