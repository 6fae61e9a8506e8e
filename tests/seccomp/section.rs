//! Random `linux.seccomp` sections over a few system calls whose numbers stand here, apart from the compiler's table.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use crate::interpreter::Data;

/// The ABIs of the tests: the specification's name, `seccomp_data.arch`, the first number, bits compared.
pub const ABIS: [(Arch, u32, u32, u32); 5] = [
    (Arch::ScmpArchX86_64, 0xc000_003e, 0, 64),
    (Arch::ScmpArchX86, 0x4000_0003, 0, 32),
    (Arch::ScmpArchX32, 0xc000_003e, 0x4000_0000, 32),
    (Arch::ScmpArchAarch64, 0xc000_00b7, 0, 64),
    (Arch::ScmpArchArm, 0x4000_0028, 0, 32),
];

/// Name, numbers under each of [`ABIS`], and the call that `socketcall(2)` or `ipc(2)` of x86 knows it by.
pub type Known = (&'static str, [Option<u32>; 5], Option<(u32, u64)>);

pub const KNOWN: [Known; 14] = [
    ("read", [Some(0), Some(3), Some(0), Some(63), Some(3)], None),
    ("write", [Some(1), Some(4), Some(1), Some(64), Some(4)], None),
    ("ioctl", [Some(16), Some(54), Some(514), Some(29), Some(54)], None),
    ("socket", [Some(41), Some(359), Some(41), Some(198), Some(281)], Some((102, 1))),
    ("accept", [Some(43), None, Some(43), Some(202), Some(285)], Some((102, 5))),
    ("accept4", [Some(288), Some(364), Some(288), Some(242), Some(366)], Some((102, 18))),
    ("clone", [Some(56), Some(120), Some(56), Some(220), Some(120)], None),
    ("semtimedop", [Some(220), None, Some(220), Some(192), Some(312)], Some((117, 4))),
    ("shmctl", [Some(31), Some(396), Some(31), Some(195), Some(308)], Some((117, 24))),
    ("socketcall", [None, Some(102), None, None, None], None),
    ("ipc", [None, Some(117), None, None, None], None),
    ("clone3", [Some(435), Some(435), Some(435), Some(435), Some(435)], None),
    ("set_tls", [None, None, None, None, Some(0xf0005)], None),
    ("no_such_call", [None; 5], None),
];

const VALUES: [u64; 12] = [0, 1, 2, 5, 18, 40, 0xff, 0x7e02_0000, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0005, u64::MAX];

pub fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(&VALUES[..]), 1 => any::<u64>(), 1 => 0..64u64]
}

fn arg() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator::*;
    let operators = vec![ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq];
    (0..6usize, value(), prop::option::of(value()), prop::sample::select(operators)).prop_map(
        |(index, value, two, op)| {
            let arg = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
            if let Some(two) = two { arg.value_two(two) } else { arg }.build().unwrap()
        },
    )
}

fn action() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    use LinuxSeccompAction::*;
    let plain = vec![ScmpActKill, ScmpActKillProcess, ScmpActTrap, ScmpActLog, ScmpActAllow, ScmpActAllow];
    prop_oneof![
        prop::sample::select(plain).prop_map(|action| (action, None)),
        (prop::sample::select(vec![ScmpActErrno, ScmpActTrace]), prop::option::of(prop::sample::select(vec![1, 38])))
    ]
}

fn rule(action: impl Strategy<Value = (LinuxSeccompAction, Option<u32>)>) -> impl Strategy<Value = LinuxSyscall> {
    let names: Vec<_> = KNOWN.iter().map(|known| known.0.to_owned()).collect();
    let args = prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(arg(), 1..4)];
    (prop::sample::subsequence(names, 1..5), action, args).prop_map(|(names, (action, errno), args)| {
        let rule = LinuxSyscallBuilder::default().names(names).action(action).args(args);
        if let Some(errno) = errno { rule.errno_ret(errno) } else { rule }.build().unwrap()
    })
}

/// Sections for the machine `native`. With `one_action` all rules act alike, so that their order cannot matter.
pub fn section(native: Arch, one_action: bool) -> impl Strategy<Value = LinuxSeccomp> {
    let others = match native {
        Arch::ScmpArchX86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm, Arch::ScmpArchS390x],
    };
    let rules = if one_action {
        action().prop_flat_map(|one| prop::collection::vec(rule(Just(one)), 1..8)).boxed()
    } else {
        prop::collection::vec(rule(action()), 1..8).boxed()
    };
    let count = others.len();
    (action(), prop::sample::subsequence(others, 0..=count), rules).prop_map(
        |((action, errno), architectures, rules)| {
            let mut section = LinuxSeccomp::default();
            section.set_default_action(action).set_default_errno_ret(errno).set_syscalls(Some(rules));
            section.set_architectures(Some(architectures));
            section
        },
    )
}

/// Up to 80 rules for clone3 alone, no two with the same conditions, and what to try them with.
pub fn crowd() -> impl Strategy<Value = (LinuxSeccomp, Vec<Data>)> {
    use LinuxSeccompOperator::*;
    let small = || prop::sample::select(vec![0, 1, 2, 5, 1 << 32, (1 << 32) + 1]);
    let equal = prop_oneof![
        3 => (prop::sample::select(vec![ScmpCmpEq, ScmpCmpNe]), small(), Just(0)),
        1 => (Just(ScmpCmpMaskedEq), prop::sample::select(vec![1, 3, u64::MAX]), 0..2u64),
    ];
    let any = (prop::sample::select(vec![ScmpCmpEq, ScmpCmpLe, ScmpCmpGe, ScmpCmpLt, ScmpCmpGt]), 0..40u64);
    let rules = prop::collection::vec((equal, any), 2..80);
    let tries = prop::collection::vec((prop_oneof![small(), Just(3)], 0..40u64), 20);
    (rules, tries).prop_map(|(mut rules, tries)| {
        let mut taken = std::collections::HashSet::new();
        rules
            .retain(|((op, value, two), (other, most))| taken.insert((*op as u32, *value, *two, *other as u32, *most)));
        let arg = |index: usize, op, value, two| {
            LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(two).build().unwrap()
        };
        let rule = |(place, ((op, value, two), (other, most))): (usize, _)| {
            let rule =
                LinuxSyscallBuilder::default().names(["clone3".to_owned()]).action(LinuxSeccompAction::ScmpActErrno);
            rule.errno_ret(place as u32 + 1).args([arg(0, op, value, two), arg(1, other, most, 0)]).build().unwrap()
        };
        let mut section = LinuxSeccomp::default();
        let rules: Vec<_> = rules.into_iter().enumerate().map(rule).collect();
        section.set_default_action(LinuxSeccompAction::ScmpActAllow).set_syscalls(Some(rules));
        let tries = tries.into_iter().map(|(first, second)| Data {
            nr: 435,
            arch: 0xc000_003e,
            args: [first, second, 0, 0, 0, 0],
        });
        (section, tries.collect())
    })
}

/// System calls to try a filter of `native` with: numbers that the section may know and others, near and far.
pub fn data(native: Arch) -> impl Strategy<Value = Data> {
    let abis: Vec<_> = match native {
        Arch::ScmpArchX86_64 => vec![0, 1, 2],
        _ => vec![3, 4],
    };
    let known = (prop::sample::select(abis), 0..KNOWN.len(), -1..=1i64).prop_map(|(abi, call, off)| {
        let (_, arch, first, _) = ABIS[abi];
        let nr = i64::from(KNOWN[call].1[abi].unwrap_or(600) + first) + off;
        (arch, nr as u32)
    });
    let any = (prop::sample::select(vec![0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 7]), any::<u32>());
    (prop_oneof![6 => known, 1 => any], prop::array::uniform6(value())).prop_map(|((arch, nr), args)| Data {
        nr,
        arch,
        args,
    })
}
