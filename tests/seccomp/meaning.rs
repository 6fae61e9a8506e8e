//! What a section means, in the plainest words, and that the compiled program means the same.

use std::cmp::Reverse;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator as Op,
    LinuxSyscall,
};
use orlop::seccomp::{compile_for, meaning_for};
use proptest::prelude::*;
use serde_json::json;

use crate::interpreter::{Data, check, run, run_on};
use crate::rounds::rounds;
use crate::section::{ABIS, KNOWN, crowd, data, section};

const KILL_THREAD: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;

pub fn encode(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 + errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 + errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    }
}

/// One way for a rule to match: its arguments by index, and what it answers.
#[derive(Clone, PartialEq)]
struct Way {
    args: Vec<LinuxSeccompArg>,
    action: u32,
}

fn masked(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { 0xffff_ffff }
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6], bits: u32) -> bool {
    let (actual, value) = (args[arg.index()] & masked(bits), arg.value() & masked(bits));
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0) & value,
    }
}

/// Conditions of `rule` by ascending index, once with all of them or, where an index repeats, once with each.
fn ways(rule: &LinuxSyscall, bits: u32, call: Option<u64>) -> Vec<Way> {
    let action = encode(rule.action(), rule.errno_ret());
    let mut args = rule.args().clone().unwrap_or_default();
    args.sort_by_key(|arg| arg.index());
    let repeats = args.windows(2).any(|pair| pair[0].index() == pair[1].index());
    let sets = if repeats { rule.args().iter().flatten().map(|arg| vec![*arg]).collect() } else { vec![args] };
    let finish = |mut args: Vec<LinuxSeccompArg>| {
        if let Some(call) = call {
            args.retain(|arg| arg.index() != 0);
            let first = LinuxSeccompArgBuilder::default().index(0usize).value(call).op(Op::ScmpCmpEq);
            args.insert(0, first.build().unwrap());
        }
        args.retain(|arg| arg.op() != Op::ScmpCmpMaskedEq || arg.value() & masked(bits) != 0);
        Way { args, action }
    };
    sets.into_iter().map(finish).collect()
}

/// A step of a trial: what it is tried by, the smaller first, and what it is.
#[derive(Clone, PartialEq)]
struct Step {
    key: (Reverse<usize>, u32, i128),
    is: (usize, u32, u64, u64),
}

/// The steps of one argument: two for an equality, of which the upper half is one, and one for anything else.
fn steps(arg: &LinuxSeccompArg, bits: u32) -> Vec<Step> {
    let (index, op, mask, value) = normal(arg, bits);
    let step = |class, op, mask, value: u64| {
        let by = if class == 1 { i128::from(value) } else { -i128::from(value) };
        Step { key: (Reverse(index), class, by), is: (index, op, mask, value) }
    };
    match arg.op() {
        Op::ScmpCmpLt | Op::ScmpCmpLe => vec![step(1, op, mask, value)],
        Op::ScmpCmpGt | Op::ScmpCmpGe => vec![step(2, op, mask, value)],
        _ => {
            // Which of the two an equality and its opposite want to hold is told by the last comparison.
            let upper = if arg.op() == Op::ScmpCmpMaskedEq { op } else { 0 };
            let half = |op, shift: u32| step(0, op, mask >> shift & 0xffff_ffff, value >> shift & 0xffff_ffff);
            vec![half(upper, 32), half(op, 0)]
        }
    }
}

/// The ways that are kept, in the order of trial: step by step, and of steps with one key those that some way took first. After every
/// step of a way comes its end, which is tried after any further step.
fn in_order(kept: Vec<Way>, bits: u32) -> Vec<Way> {
    let all: Vec<Vec<Step>> =
        kept.iter().map(|way| way.args.iter().flat_map(|arg| steps(arg, bits)).collect()).collect();
    let first = |steps: &[Step]| all.iter().position(|each| each.starts_with(steps));
    let mut places: Vec<usize> = (0..kept.len()).collect();
    places.sort_by(|one, other| {
        let (one, other) = (&all[*one], &all[*other]);
        match one.iter().zip(other).position(|(a, b)| a != b) {
            None => other.len().cmp(&one.len()),
            Some(at) => one[at].key.cmp(&other[at].key).then_with(|| first(&one[..=at]).cmp(&first(&other[..=at]))),
        }
    });
    places.into_iter().map(|place| kept[place].clone()).collect()
}

/// An argument test in a form that is equal for equal tests.
fn normal(arg: &LinuxSeccompArg, bits: u32) -> (usize, u32, u64, u64) {
    let all = masked(bits);
    match arg.op() {
        Op::ScmpCmpMaskedEq => {
            let mask = arg.value() & all;
            (arg.index(), arg.op() as u32, mask, mask & arg.value_two().unwrap_or(0))
        }
        op => (arg.index(), op as u32, all, arg.value() & all),
    }
}

/// What `section` answers to `data` on the machine `native`; `None` when two rules contradict each other there.
pub fn answer(section: &LinuxSeccomp, native: Arch, data: &Data) -> Option<u32> {
    let runs = |arch: Arch| ABIS.iter().position(|abi| abi.0 == arch).map(|abi| abi < 3);
    let listed = |arch: Arch| {
        runs(arch) == runs(native) && (arch == native || section.architectures().iter().flatten().any(|a| *a == arch))
    };
    let x32 = data.arch == 0xc000_003e && data.nr >= 0x4000_0000 && (data.nr != u32::MAX || listed(Arch::ScmpArchX32));
    let abi =
        ABIS.iter().position(|(arch, audit, first, _)| *audit == data.arch && (*first != 0) == x32 && listed(*arch));
    // A tracer skips a system call by -1.
    let default = encode(section.default_action(), section.default_errno_ret());
    if abi == Some(0) && data.nr == u32::MAX {
        return Some(default);
    }
    let Some(abi) = abi else { return Some(KILL_THREAD) };
    let (_, _, first, bits) = ABIS[abi];
    let number = |name: &str| KNOWN.iter().find(|known| known.0 == name)?.1[abi];
    let call = |name: &str| KNOWN.iter().find(|known| known.0 == name)?.2.filter(|_| abi == 1);

    let rules = section.syscalls().as_deref().unwrap_or_default();
    let names = rules.iter().flat_map(|rule| rule.names());
    let newest = names.filter_map(|name| number(name)).filter(|nr| *nr < 0xf0000).max().unwrap_or(0);
    let mut candidates: Vec<Way> = Vec::new();
    for rule in rules.iter().filter(|rule| encode(rule.action(), rule.errno_ret()) != default) {
        let mut calls = Vec::new();
        for name in rule.names() {
            calls.extend(number(name).filter(|nr| nr + first == data.nr).map(|_| None));
            calls.extend(call(name).filter(|(nr, _)| *nr == data.nr).map(|(_, call)| Some(call)));
        }
        calls.sort();
        candidates.extend(calls.into_iter().flat_map(|call| ways(rule, bits, call)));
    }
    if let Some(always) = candidates.iter().position(|way| way.args.is_empty()) {
        // Rules before it can still contradict each other.
        let action = candidates[always].action;
        candidates.truncate(always);
        return decide(candidates, bits, &data.args).map(|_| action);
    }
    if candidates.is_empty() {
        use LinuxSeccompAction::*;
        let enosys = !matches!(section.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace)
            && section.default_errno_ret() != Some(38);
        let newer = data.nr - first > newest && newest > 0;
        return Some(if enosys && newer { ENOSYS } else { default });
    }
    decide(candidates, bits, &data.args).map(|action| action.unwrap_or(default))
}

/// The action of the first candidate that holds; the outer `None` for a contradiction.
fn decide(candidates: Vec<Way>, bits: u32, args: &[u64; 6]) -> Option<Option<u32>> {
    let normals = |way: &Way| way.args.iter().map(|arg| normal(arg, bits)).collect::<Vec<_>>();
    let mut kept: Vec<Way> = Vec::new();
    for way in candidates {
        match kept.iter().find(|earlier| normals(&way).starts_with(&normals(earlier))) {
            Some(earlier) if normals(earlier) == normals(&way) && earlier.action != way.action => return None,
            Some(_) => {}
            None => kept.push(way),
        }
    }
    let kept = in_order(kept, bits);
    Some(kept.iter().find(|way| way.args.iter().all(|arg| holds(arg, args, bits))).map(|way| way.action))
}

fn agrees(native: Arch, section: &LinuxSeccomp, tries: &[Data]) -> Result<(), TestCaseError> {
    let Ok(filter) = compile_for(section, native) else {
        // Only a contradiction is an error here, and then some call of the section shows it.
        prop_assert!(contradicts(section, native), "refused: {:?}", compile_for(section, native));
        return Ok(());
    };
    let filter = filter.expect("there are rules");
    prop_assert_eq!(check(&filter.program), Ok(()));
    for data in tries {
        if let Some(expected) = answer(section, native, data) {
            let actual = run(&filter.program, data);
            prop_assert_eq!(actual, expected, "{:x?}: {:#x} for {:#x}", data, actual, expected);
        }
    }
    tells_the_same(native, section, &filter.program, tries)
}

/// What is told of a profile is what its program does.
fn tells_the_same(
    native: Arch,
    section: &LinuxSeccomp,
    program: &[libc::sock_filter],
    tries: &[Data],
) -> Result<(), TestCaseError> {
    for table in meaning_for(section, native).expect("what compiles has a meaning") {
        let arch = ABIS.iter().find(|abi| abi.0 == table.arch).expect("an ABI of the tests").1;
        let known = |name: &&str| KNOWN.iter().any(|known| known.0 == *name) || name.starts_with('o');
        for (name, answer) in table.answers.iter().filter(|(name, _)| known(name)) {
            for Data { args, .. } in tries.iter().take(20) {
                let told = answer.to(args).action.0;
                let done = run(program, &Data { nr: answer.number, arch, args: *args });
                prop_assert_eq!(told, done, "{} {:x?}: told {:#x}, does {:#x}", name, args, told, done);
            }
        }
    }
    Ok(())
}

fn contradicts(section: &LinuxSeccomp, native: Arch) -> bool {
    ABIS.iter().enumerate().any(|(abi, (_, arch, first, _))| {
        let numbers = KNOWN.iter().flat_map(|known| [known.1[abi], known.2.map(|(nr, _)| nr)]);
        let mut numbers = numbers.flatten();
        numbers.any(|nr| answer(section, native, &Data { nr: nr + first, arch: *arch, args: [0; 6] }).is_none())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn x86_programs_mean_what_the_section_says(
        section in section(Arch::ScmpArchX86_64, false),
        tries in prop::collection::vec(data(Arch::ScmpArchX86_64), 200),
    ) {
        agrees(Arch::ScmpArchX86_64, &section, &tries)?;
    }

    #[test]
    fn arm_programs_mean_what_the_section_says(
        section in section(Arch::ScmpArchAarch64, false),
        tries in prop::collection::vec(data(Arch::ScmpArchAarch64), 200),
    ) {
        agrees(Arch::ScmpArchAarch64, &section, &tries)?;
    }

    #[test]
    fn a_hundred_rules_for_one_call_mean_what_they_say((section, tries) in crowd()) {
        prop_assert!(compile_for(&section, Arch::ScmpArchX86_64).is_ok());
        agrees(Arch::ScmpArchX86_64, &section, &tries)?;
    }
}

/// An equality and its opposite have the same comparison: what holds with the one does not get between what holds with the other.
#[test]
fn an_equality_and_its_opposite_are_kept_apart() {
    let rule = |op: &str, most: u64, errno: u32| {
        json!({ "names": ["dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [
            { "index": 0, "value": 5, "op": format!("SCMP_CMP_{op}") },
            { "index": 1, "value": most, "op": "SCMP_CMP_LE" }] })
    };
    let rules = [rule("EQ", 20, 2), rule("NE", 30, 3), rule("EQ", 10, 1)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let section =
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": order.map(|place: usize| rules[place].clone()) });
        let section = serde_json::from_value(section).unwrap();
        let program = compile_for(&section, Arch::ScmpArchX86_64).unwrap().unwrap().program;
        let errno = |first, second| {
            run(&program, &Data { nr: 292, arch: 0xc000_003e, args: [first, second, 0, 0, 0, 0] }) & 0xffff
        };
        assert_eq!([errno(5, 7), errno(5, 15), errno(6, 25), errno(5, 25)], [1, 2, 3, 0], "{order:?}");
    }
}

#[test]
fn s390x_is_big_endian_and_setup_stands_for_calls_the_kernel_lacks() {
    let section: LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["openat2"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 4294967298, "op": "SCMP_CMP_EQ"}]}]}"#,
    )
    .unwrap();
    let program = compile_for(&section, Arch::ScmpArchS390x).unwrap().unwrap().program;
    let answer = |nr, arg| run_on(&program, &Data { nr, arch: 0x8000_0016, args: [0, arg, 0, 0, 0, 0] }, true);
    let (allow, eperm) = (0x7fff_0000, 0x0005_0001);
    assert_eq!([answer(41, 0x1_0000_0002), answer(41, 0x2_0000_0001), answer(437, 0)], [allow, eperm, allow]);
    assert_eq!([answer(0, 0), answer(1, 0), answer(438, 0)], [ENOSYS, eperm, ENOSYS]);
}
