//! The device filter against a reading of the rules one by one, and its size.

#[path = "common/rounds.rs"]
mod rounds;

use oci_spec::runtime::LinuxResources;
use orlop::cgroup::device::{Kind, MKNOD, READ, Rule, WRITE, program, rules};
use orlop::sys::bpf::Insn;
use proptest::prelude::*;
use rounds::rounds;

/// What a container asks of the kernel.
#[derive(Debug, Clone, Copy)]
struct Request {
    block: bool,
    major: u32,
    minor: u32,
    access: u8,
}

/// The rules read one by one: for each access the last rule about the device decides, and none denies.
fn emulate(rules: &[Rule], request: Request) -> bool {
    let about = |rule: &&Rule| {
        (rule.kind == Kind::All || (rule.kind == Kind::Block) == request.block)
            && rule.major.is_none_or(|major| major == request.major)
            && rule.minor.is_none_or(|minor| minor == request.minor)
    };
    [MKNOD, READ, WRITE].into_iter().filter(|bit| request.access & bit != 0).all(|bit| {
        let last = rules.iter().filter(about).rfind(|rule| rule.access & bit != 0);
        last.is_some_and(|rule| rule.allow)
    })
}

/// An interpreter of the eBPF that the filter uses; anything else is a panic.
fn interpret(program: &[Insn], request: Request) -> bool {
    let kind = if request.block { 1 } else { 2 };
    let context = [u32::from(request.access) << 16 | kind, request.major, request.minor];
    let mut registers = [None; 11];
    let mut at = 0_usize;
    loop {
        let Insn { code, regs, off, imm } = program[at];
        let (dst, src, imm) = (usize::from(regs & 15), usize::from(regs >> 4), imm as u32);
        at += 1;
        let value = |register: usize| registers[register].expect("a register that was written");
        let taken = match code {
            0x61 => {
                assert_eq!(src, 1, "loads come from the context");
                registers[dst] = Some(context[off as usize / 4]);
                false
            }
            0xb4 => {
                registers[dst] = Some(imm);
                false
            }
            0x7c => {
                registers[dst] = Some(value(dst) >> (value(src) & 31));
                false
            }
            0x05 => true,
            0x16 => value(dst) == imm,
            0x56 => value(dst) != imm,
            0x26 => value(dst) > imm,
            0x46 => value(dst) & imm != 0,
            0x95 => return value(0) != 0,
            other => panic!("operation {other:#x}"),
        };
        if taken {
            at = at.checked_add_signed(off.into()).unwrap();
        }
    }
}

fn verdict(rules: &[Rule], request: Request) -> bool {
    program(rules).unwrap().is_none_or(|program| interpret(&program, request))
}

fn numbers() -> impl Strategy<Value = u32> {
    prop_oneof![0..4_u32, 30..34_u32, Just(136), Just(200), Just(u32::MAX)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let kind = prop_oneof![1 => Just(Kind::All), 2 => Just(Kind::Block), 4 => Just(Kind::Char)];
    let number = || prop_oneof![1 => Just(None), 3 => numbers().prop_map(Some)];
    let access = prop_oneof![1 => 0..8_u8, 1 => Just(7)];
    (any::<bool>(), kind, number(), number(), access).prop_map(|(allow, kind, major, minor, access)| Rule {
        allow,
        kind,
        major,
        minor,
        access,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(1000)))]

    #[test]
    fn program_decides_as_the_rules_do(
        rules in prop::collection::vec(rule(), 0..12),
        requests in prop::collection::vec((any::<bool>(), numbers(), numbers(), 1..8_u8), 1..40),
    ) {
        for (block, major, minor, access) in requests {
            let request = Request { block, major, minor, access };
            prop_assert_eq!(verdict(&rules, request), emulate(&rules, request), "{:?}", request);
        }
    }
}

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn char(major: u32, minor: u32, access: u8) -> Request {
    Request { block: false, major, minor, access }
}

fn block(major: u32, minor: u32, access: u8) -> Request {
    Request { block: true, major, minor, access }
}

#[test]
fn default_devices_are_allowed_and_nothing_else() {
    let rules = rules(None).unwrap();
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 77), (10, 200)] {
        assert!(verdict(&rules, char(major, minor, READ | WRITE | MKNOD)), "{major}:{minor}");
        assert!(!verdict(&rules, block(major, minor, READ)), "block {major}:{minor}");
    }
    // mem, kmem, port, kmsg, console, loop-control, fuse, tty1, and disks.
    for (major, minor) in [(1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (10, 237), (10, 229), (4, 1), (8, 0)] {
        assert!(verdict(&rules, char(major, minor, MKNOD)) && verdict(&rules, block(major, minor, MKNOD)));
        for access in [READ, WRITE, READ | WRITE, MKNOD | READ] {
            assert!(!verdict(&rules, char(major, minor, access)) && !verdict(&rules, block(major, minor, access)));
        }
    }
}

#[test]
fn default_program_stays_small() {
    let resources = parse(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let filter = program(&rules(Some(&resources)).unwrap()).unwrap().unwrap();
    assert!(filter.len() <= 23, "{} instructions: the verifier's time grows with each", filter.len());
    assert_eq!(program(&rules(None).unwrap()).unwrap().unwrap(), filter, "a leading deny of all changes nothing");
}

#[test]
fn listed_rules_apply_in_order() {
    let resources = parse(
        r#"{"devices": [
            {"allow": false},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
            {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "rwm"},
            {"allow": true, "type": "c", "major": -1, "minor": 63, "access": "w"}
        ]}"#,
    );
    let rules = rules(Some(&resources)).unwrap();
    assert!(verdict(&rules, char(10, 229, READ | WRITE)) && !verdict(&rules, char(10, 228, READ)));
    assert!(verdict(&rules, block(8, 0, READ)) && !verdict(&rules, block(8, 0, WRITE)));
    assert!(!verdict(&rules, block(8, 1, READ)));
    assert!(verdict(&rules, char(77, 63, WRITE)) && !verdict(&rules, char(77, 63, READ)));
}

#[test]
fn privileged_lists_need_no_program() {
    for allow_all in [r#"[{"allow": true, "access": "rwm"}]"#, r#"[{"allow": false}, {"allow": true, "type": "a"}]"#] {
        let resources = parse(&format!(r#"{{"devices": {allow_all}}}"#));
        assert_eq!(program(&rules(Some(&resources)).unwrap()), Ok(None));
    }
}

#[test]
fn deny_of_type_a_denies_everything_whatever_else_it_says() {
    let resources = parse(
        r#"{"devices": [{"allow": true, "access": "rwm"}, {"allow": false, "type": "a", "major": 1, "access": "r"}]}"#,
    );
    assert!(!verdict(&rules(Some(&resources)).unwrap(), block(8, 0, WRITE)));
}

#[test]
fn bad_rules_are_refused_in_place() {
    for (device, key) in [
        (r#"{"allow": true, "type": "p", "access": "r"}"#, "type"),
        (r#"{"allow": true, "type": "c", "access": "rx"}"#, "access"),
        (r#"{"allow": true, "type": "c", "major": -2, "access": "r"}"#, "major"),
        (r#"{"allow": true, "type": "c", "minor": 4294967296, "access": "r"}"#, "minor"),
    ] {
        let error = rules(Some(&parse(&format!(r#"{{"devices": [{{"allow": false}}, {device}]}}"#)))).unwrap_err();
        assert_eq!(error.pointer, Some(format!("/linux/resources/devices/1/{key}")), "{device}");
    }
}

/// The longest list, with rules that cross each other: an answer, or one error, and in bounded time.
#[test]
fn long_lists_end() {
    let simple = |n: u32| Rule { allow: true, kind: Kind::Char, major: Some(n), minor: Some(n * 3), access: READ };
    let long: Vec<Rule> = (0..2000).map(simple).collect();
    assert!(verdict(&long, char(1999, 5997, READ)) && !verdict(&long, char(1999, 5996, READ)));
    let crossed = |n| match n % 2 {
        0 => Rule { minor: None, ..simple(n) },
        _ => Rule { major: None, access: WRITE, ..simple(n) },
    };
    let crossed: Vec<Rule> = (0..2000).map(crossed).collect();
    assert!(program(&crossed).is_err());
}
