//! The same rules through libseccomp, as runc calls it, where libseccomp.so.2 is installed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd};

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use orlop::error::Error;
use orlop::seccomp::compile_for;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::interpreter::{Data, run};
use crate::meaning::encode;
use crate::profiles;
use crate::rounds::rounds;
use crate::section::{ABIS, KNOWN, data, section};

/// Newest system call that every libseccomp since 2.5.4 knows: set_mempolicy_home_node.
const NEWEST: u32 = 450;

type Context = *mut c_void;

#[repr(C)]
struct ArgCmp {
    arg: c_uint,
    op: c_int,
    a: u64,
    b: u64,
}

struct Libseccomp {
    init: unsafe extern "C" fn(u32) -> Context,
    release: unsafe extern "C" fn(Context),
    arch_add: unsafe extern "C" fn(Context, u32) -> c_int,
    arch_remove: unsafe extern "C" fn(Context, u32) -> c_int,
    rule_add_array: unsafe extern "C" fn(Context, u32, c_int, c_uint, *const ArgCmp) -> c_int,
    syscall_priority: unsafe extern "C" fn(Context, c_int, u8) -> c_int,
    export_bpf: unsafe extern "C" fn(Context, c_int) -> c_int,
    resolve: unsafe extern "C" fn(*const c_char) -> c_int,
    resolve_number: unsafe extern "C" fn(u32, c_int) -> *mut c_char,
    resolve_arch: unsafe extern "C" fn(u32, *const c_char) -> c_int,
}

/// The function `name` of a library that is never closed.
///
/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T>(handle: *mut c_void, name: &CStr) -> T {
    // SAFETY: the handle is open; a function pointer is as wide as the address that dlsym returns.
    unsafe {
        let symbol = libc::dlsym(handle, name.as_ptr());
        assert!(!symbol.is_null(), "{name:?}");
        std::mem::transmute_copy(&symbol)
    }
}

impl Libseccomp {
    /// `None` where the library is not installed.
    fn open() -> Option<Self> {
        // SAFETY: a plain dlopen of a library without side effects in its constructors.
        let handle = unsafe { libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            eprintln!("skipped: libseccomp.so.2 is not installed");
            return None;
        }
        // SAFETY: the signatures are those of seccomp.h.
        unsafe {
            Some(Self {
                init: symbol(handle, c"seccomp_init"),
                release: symbol(handle, c"seccomp_release"),
                arch_add: symbol(handle, c"seccomp_arch_add"),
                arch_remove: symbol(handle, c"seccomp_arch_remove"),
                rule_add_array: symbol(handle, c"seccomp_rule_add_array"),
                syscall_priority: symbol(handle, c"seccomp_syscall_priority"),
                export_bpf: symbol(handle, c"seccomp_export_bpf"),
                resolve: symbol(handle, c"seccomp_syscall_resolve_name"),
                resolve_number: symbol(handle, c"seccomp_syscall_resolve_num_arch"),
                resolve_arch: symbol(handle, c"seccomp_syscall_resolve_name_arch"),
            })
        }
    }

    fn number(&self, name: &str, arch: Arch) -> c_int {
        let name = CString::new(name).unwrap();
        // SAFETY: a C string that outlives the call.
        unsafe { (self.resolve_arch)(arch as u32, name.as_ptr()) }
    }

    fn knows(&self, number: u32, arch: Arch) -> bool {
        // SAFETY: the name is ours to free.
        unsafe {
            let name = (self.resolve_number)(arch as u32, number as c_int);
            libc::free(name.cast());
            !name.is_null()
        }
    }

    /// The program that libseccomp makes of `section` on the machine `native`; `None` when it refuses a rule.
    fn compile(&self, section: &LinuxSeccomp, native: Arch) -> Option<Vec<sock_filter>> {
        let default = encode(section.default_action(), section.default_errno_ret());
        // SAFETY: the context lives until release; arrays and strings outlive their calls.
        unsafe {
            let context = (self.init)(default);
            if native != Arch::ScmpArchX86_64 {
                assert_eq!((self.arch_add)(context, native as u32), 0);
                assert_eq!((self.arch_remove)(context, Arch::ScmpArchX86_64 as u32), 0);
            }
            for arch in section.architectures().iter().flatten().filter(|arch| **arch != native) {
                // Only what this machine runs, as our compiler does; the other endianness would be refused.
                if *arch as u32 != Arch::ScmpArchS390x as u32 {
                    assert_eq!((self.arch_add)(context, *arch as u32), 0, "{arch}");
                }
            }
            // 2.5.4 forgets to load the number when a call that an architecture lacks comes first in its list.
            assert_eq!((self.syscall_priority)(context, libc::SYS_getpid as c_int, 255), 0);
            let program = self.add_rules(context, section, default).then(|| self.export(context));
            (self.release)(context);
            program
        }
    }

    /// The rules as runc adds them.
    unsafe fn add_rules(&self, context: Context, section: &LinuxSeccomp, default: u32) -> bool {
        for rule in section.syscalls().iter().flatten() {
            let action = encode(rule.action(), rule.errno_ret());
            let args: Vec<_> = rule.args().iter().flatten().map(arg_cmp).collect();
            let repeats = (0..6).any(|index| args.iter().filter(|arg| arg.arg == index).count() > 1);
            let sets: Vec<&[ArgCmp]> = if repeats { args.chunks(1).collect() } else { vec![&args] };
            for name in rule.names().iter().filter(|_| action != default) {
                let name = CString::new(name.as_str()).unwrap();
                let number = unsafe { (self.resolve)(name.as_ptr()) };
                if number == -1 {
                    continue;
                }
                for set in &sets {
                    let (count, first) = (set.len() as c_uint, set.as_ptr());
                    if unsafe { (self.rule_add_array)(context, action, number, count, first) } != 0 {
                        return false;
                    }
                }
            }
        }
        true
    }

    unsafe fn export(&self, context: Context) -> Vec<sock_filter> {
        // SAFETY: a fresh descriptor, owned by the File.
        let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"bpf".as_ptr(), 0)) };
        assert_eq!(unsafe { (self.export_bpf)(context, file.as_raw_fd()) }, 0);
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let insn = |b: &[u8]| sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        bytes.chunks_exact(8).map(insn).collect()
    }
}

fn arg_cmp(arg: &oci_spec::runtime::LinuxSeccompArg) -> ArgCmp {
    assert_eq!(LinuxSeccompOperator::ScmpCmpMaskedEq as u32, 7, "the numbers of enum scmp_compare");
    ArgCmp { arg: arg.index() as c_uint, op: arg.op() as c_int, a: arg.value(), b: arg.value_two().unwrap_or(0) }
}

/// Whether the section knows calls as new as this one: libseccomp has no -ENOSYS answer for others.
fn comparable(data: &Data, newest: [u32; 5]) -> bool {
    let x32 = data.arch == 0xc000_003e && data.nr >= 0x4000_0000;
    let abi = ABIS.iter().position(|(_, arch, first, _)| *arch == data.arch && (*first != 0) == x32);
    abi.is_none_or(|abi| data.nr - ABIS[abi].2 <= newest[abi])
}

/// Only comparisons for equality. Of several ranges for one argument libseccomp loses some (2.5.4: `arg < 0` or
/// `arg < 1 << 32` does not match 1), so that it is no reference for them.
fn with_equality_only(section: &LinuxSeccomp) -> LinuxSeccomp {
    let mut text = serde_json::to_string(section).unwrap();
    for operator in ["NE", "LT", "LE", "GE", "GT"] {
        text = text.replace(&format!("SCMP_CMP_{operator}"), "SCMP_CMP_EQ");
    }
    serde_json::from_str(&text).unwrap()
}

/// Every operator, but one rule for a system call, multiplexed ones included, and one condition for an argument.
fn with_one_rule_each(section: &LinuxSeccomp) -> LinuxSeccomp {
    let through = |name: &str| KNOWN.iter().find(|known| known.0 == name).and_then(|known| known.2).map(|(nr, _)| nr);
    let group = |name: &str| match (name, through(name)) {
        ("socketcall", _) | (_, Some(102)) => "socketcall".to_owned(),
        ("ipc", _) | (_, Some(117)) => "ipc".to_owned(),
        (name, _) => name.to_owned(),
    };
    let mut taken = BTreeSet::new();
    let mut rules = Vec::new();
    for rule in section.syscalls().iter().flatten() {
        let names: Vec<_> = rule.names().iter().filter(|name| taken.insert(group(name))).cloned().collect();
        let mut args = rule.args().clone().unwrap_or_default();
        args.sort_by_key(|arg| arg.index());
        args.dedup_by_key(|arg| arg.index());
        let mut rule = rule.clone();
        rule.set_args(Some(args)).set_names(names);
        rules.extend(Some(rule).filter(|rule| !rule.names().is_empty()));
    }
    let mut section = section.clone();
    section.set_syscalls(Some(rules));
    section
}

/// Compares both programs of `section` for each of `tries`; the number of comparisons.
fn compare(library: &Libseccomp, native: Arch, section: &LinuxSeccomp, tries: &[Data]) -> Result<usize, TestCaseError> {
    let Some(theirs) = library.compile(section, native) else { return Ok(0) };
    let ours = compile_for(section, native);
    if ours.as_ref().is_err_and(|error| contradicts_for_it_too(library, native, section, error)) {
        return Ok(0);
    }
    prop_assert!(ours.is_ok(), "refused only here: {:?}", ours);
    let ours = ours.unwrap().expect("there are rules").program;
    let names: Vec<_> = section.syscalls().iter().flatten().flat_map(|rule| rule.names()).collect();
    let newest = std::array::from_fn(|abi| {
        let known = KNOWN.iter().filter(|known| names.iter().any(|name| *name == known.0));
        known.filter_map(|known| known.1[abi]).filter(|nr| *nr <= NEWEST).max().unwrap_or(0)
    });
    let tries = tries.iter().filter(|data| comparable(data, newest));
    for data in tries.clone() {
        let (ours, theirs) = (run(&ours, data), run(&theirs, data));
        if ours != theirs && for_this_alone(library, native, section, data) == Some(ours) {
            continue;
        }
        prop_assert_eq!(ours, theirs, "{:x?}: {:#x} for libseccomp's {:#x} in {:?}", data, ours, theirs, section);
    }
    Ok(tries.count())
}

/// Does libseccomp refuse the rule at which the compiler has found two actions, after one of those before it? It forgets a rule that
/// one with fewer conditions covers (2.5.4: `ipc` by number and argument, then by the argument alone), and what contradicts it then.
fn contradicts_for_it_too(library: &Libseccomp, native: Arch, section: &LinuxSeccomp, error: &Error) -> bool {
    let place = error.pointer.as_ref().and_then(|pointer| pointer.rsplit('/').next()?.parse::<usize>().ok());
    let (Some(place), true) = (place, error.message.starts_with("two actions")) else { return false };
    let rules = section.syscalls().as_deref().unwrap_or_default();
    let alone = |rule: &LinuxSyscall, name: &String| {
        let mut rule = rule.clone();
        rule.set_names(vec![name.clone()]);
        rule
    };
    let mut pairs = rules[..place].iter().flat_map(|earlier| {
        let names = earlier.names().iter().flat_map(|one| rules[place].names().iter().map(move |other| (one, other)));
        names.map(move |(one, other)| vec![alone(earlier, one), alone(&rules[place], other)])
    });
    pairs.any(|pair| {
        let mut section = section.clone();
        section.set_syscalls(Some(pair));
        library.compile(&section, native).is_none()
    })
}

/// What libseccomp answers where the machine's own architecture and that of `data` alone are listed: 2.5.4 at times takes two
/// comparisons of different architectures for one, and then answers otherwise when a rule for another call is left out.
fn for_this_alone(library: &Libseccomp, native: Arch, section: &LinuxSeccomp, data: &Data) -> Option<u32> {
    let x32 = data.arch == 0xc000_003e && data.nr >= 0x4000_0000;
    let abi = ABIS.iter().find(|(_, arch, first, _)| *arch == data.arch && (*first != 0) == x32)?;
    let mut section = section.clone();
    section.set_architectures(section.architectures().clone().map(|mut archs| {
        archs.retain(|arch| *arch == abi.0);
        archs
    }));
    library.compile(&section, native).map(|program| run(&program, data))
}

/// With a rule for getpid(2), which every architecture has.
fn with_getpid(mut section: LinuxSeccomp) -> LinuxSeccomp {
    let action = match section.default_action() {
        LinuxSeccompAction::ScmpActAllow => LinuxSeccompAction::ScmpActTrap,
        _ => LinuxSeccompAction::ScmpActAllow,
    };
    let getpid = LinuxSyscallBuilder::default().names(["getpid".to_owned()]).action(action).build().unwrap();
    let rules = section.syscalls().clone().unwrap_or_default();
    section.set_syscalls(Some(rules.into_iter().chain([getpid]).collect()));
    section
}

/// Random sections, made fit for comparison by `tame`.
fn compare_random(native: Arch, one_action: bool, tame: impl Fn(&LinuxSeccomp) -> LinuxSeccomp) {
    let Some(library) = Libseccomp::open() else { return };
    let compared = Cell::new(0);
    let config = ProptestConfig { cases: rounds(100), failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (section(native, one_action), prop::collection::vec(data(native), 200));
    let result = TestRunner::new(config).run(&strategy, |(mut section, tries)| {
        if native == Arch::ScmpArchX86_64 {
            // libseccomp would add it; here no kernel of the family runs it.
            let archs = section.architectures().iter().flatten().copied();
            section.set_architectures(Some(archs.filter(|arch| *arch != Arch::ScmpArchArm).collect()));
        }
        compared.set(compared.get() + compare(&library, native, &with_getpid(tame(&section)), &tries)?);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(compared.get() > 2_000, "only {} comparisons", compared.get());
}

#[test]
fn equalities_in_many_rules_mean_the_same() {
    compare_random(Arch::ScmpArchX86_64, true, with_equality_only);
    compare_random(Arch::ScmpArchAarch64, true, with_equality_only);
}

#[test]
fn many_actions_for_one_call_mean_the_same() {
    compare_random(Arch::ScmpArchX86_64, false, with_equality_only);
    compare_random(Arch::ScmpArchAarch64, false, with_equality_only);
}

#[test]
fn every_operator_means_the_same() {
    compare_random(Arch::ScmpArchX86_64, false, with_one_rule_each);
    compare_random(Arch::ScmpArchAarch64, false, with_one_rule_each);
}

/// What of two rules for one call is asked first: an equality and a mask that both hold, in either order, each with a second
/// condition or without.
#[test]
fn one_value_under_two_masks_means_the_same() {
    let Some(library) = Libseccomp::open() else { return };
    let rule = |action: &str, mask: Option<u64>, longer: bool| {
        let value = match mask {
            Some(mask) => json!({ "index": 1, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }),
            None => json!({ "index": 1, "value": 0, "op": "SCMP_CMP_EQ" }),
        };
        let args: Vec<_> =
            [value].into_iter().chain(longer.then(|| json!({ "index": 3, "value": 1, "op": "SCMP_CMP_EQ" }))).collect();
        json!({ "names": ["keyctl"], "action": action, "args": args })
    };
    let both = [true, false];
    for (arch, audit, nr) in [(Arch::ScmpArchX86_64, 0xc000_003e, 250), (Arch::ScmpArchX86, 0x4000_0003, 288)] {
        for (mask, first, (masked, equal)) in [2, 0xff, u64::MAX].into_iter().flat_map(|mask| {
            both.into_iter()
                .flat_map(move |first| both.into_iter().flat_map(move |a| both.map(move |b| (mask, first, (a, b)))))
        }) {
            let mut rules = [rule("SCMP_ACT_ERRNO", None, equal), rule("SCMP_ACT_TRAP", Some(mask), masked)];
            if !first {
                rules.reverse();
            }
            let section = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch], "syscalls": rules });
            let section = with_getpid(serde_json::from_value(section).unwrap());
            let tries = [0, 1].map(|fourth| Data { nr, arch: audit, args: [0, 0, 0, fourth, 0, 0] });
            compare(&library, Arch::ScmpArchX86_64, &section, &tries).unwrap();
        }
    }
}

/// An equality is two comparisons for libseccomp, of the halves: what has the upper half of an earlier rule goes where that one is.
#[test]
fn halves_of_an_equality_are_ordered_apart() {
    let Some(library) = Libseccomp::open() else { return };
    let equal = |value: u64| json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]);
    let masked = |mask: u64| json!([{ "index": 0, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]);
    let other = json!([{ "index": 0, "value": 3, "op": "SCMP_CMP_NE" }]);
    let rules = [equal(1), equal(0), masked(1), masked(1 << 32), equal(1 << 32), other];
    let names = ["ERRNO", "TRAP", "KILL", "KILL_PROCESS", "LOG", "TRACE"];
    for places in (0..216).map(|number| [number / 36, number / 6 % 6, number % 6]) {
        let syscalls: Vec<_> = places
            .map(|place| {
                json!({ "names": ["clone3"], "action": format!("SCMP_ACT_{}", names[place]), "args": rules[place] })
            })
            .into();
        let section = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls });
        let section = with_getpid(serde_json::from_value(section).unwrap());
        let values = [0, 1, 2, 1 << 32, 3 << 32, (1 << 32) + 1];
        let tries = values.map(|value| Data { nr: 435, arch: 0xc000_003e, args: [value, 0, 0, 0, 0, 0] });
        compare(&library, Arch::ScmpArchX86_64, &section, &tries).unwrap();
    }
}

#[test]
fn the_profiles_compile_to_the_same_meaning() {
    let Some(library) = Libseccomp::open() else { return };
    for name in profiles::NAMES {
        for native in [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64] {
            let mut section = profiles::load(name);
            let family = if native == Arch::ScmpArchX86_64 { 0..3 } else { 3..5 };
            section.set_architectures(section.architectures().clone().map(|mut archs| {
                archs.retain(|arch| ABIS[family.clone()].iter().any(|abi| abi.0 == *arch));
                archs
            }));
            let ours = compile_for(&section, native).unwrap().unwrap().program;
            let theirs = library.compile(&section, native).unwrap();
            for (name_of_arch, arch, first, _) in &ABIS[family] {
                // x32's own calls are 512 to 547.
                let numbers = (0..=547).filter(|nr| *nr <= NEWEST || *first != 0);
                for nr in numbers.filter(|nr| library.knows(*nr + first, *name_of_arch)) {
                    for data in argument_values().map(|args| Data { nr: nr + first, arch: *arch, args }) {
                        let (ours, theirs) = (run(&ours, &data), run(&theirs, &data));
                        assert_eq!(ours, theirs, "{name} {native} {data:x?}: {ours:#x}, libseccomp {theirs:#x}");
                    }
                }
            }
        }
    }
}

fn argument_values() -> impl Iterator<Item = [u64; 6]> {
    let values = [
        0,
        1,
        2,
        8,
        9,
        16,
        18,
        37,
        38,
        39,
        40,
        41,
        0x20000,
        0x20008,
        0x10000000,
        0x7e020000,
        0xffffffff,
        1 << 32,
        (1 << 32) + 40,
        u64::MAX,
    ];
    values.into_iter().map(|value| [value, value ^ 1, value, 0, value, 0])
}

#[test]
fn names_have_libseccomps_numbers() {
    let Some(library) = Libseccomp::open() else { return };
    let table = include_str!("../../src/seccomp/syscalls.rs");
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix("(\""));
    let mut compared = 0;
    for row in rows {
        let (name, numbers) = row.split_once("\", [").unwrap();
        let numbers: Vec<i64> = numbers.trim_end_matches("]),").split(", ").map(|nr| nr.parse().unwrap()).collect();
        let columns =
            [(0, Arch::ScmpArchX86_64), (2, Arch::ScmpArchX32), (3, Arch::ScmpArchAarch64), (4, Arch::ScmpArchArm)];
        let more =
            [(1, Arch::ScmpArchX86), (5, Arch::ScmpArchRiscv64), (6, Arch::ScmpArchPpc64le), (7, Arch::ScmpArchS390x)];
        for (column, arch) in columns.into_iter().chain(more) {
            let theirs = library.number(name, arch);
            // Unknown there, absent from the architecture, or multiplexed.
            if theirs >= 0 {
                let first = if arch == Arch::ScmpArchX32 { 0x4000_0000 } else { 0 };
                assert_eq!(numbers[column] + first, i64::from(theirs), "{name} on {arch}");
                compared += 1;
            }
        }
    }
    assert!(compared > 2500, "only {compared} comparisons");
}
