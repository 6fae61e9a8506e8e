//! The device filter: `linux.resources.devices` as one eBPF program (kernel documentation, admin-guide/cgroup-v2.rst,
//! "Device controller").
//!
//! The rules keep the meaning that they had on cgroup v1: they apply in order, a later one overrides an earlier one
//! where they overlap, and what no rule allows is denied. `simplify` reduces them to the answers that differ from each
//! other, and `compile` turns these into few branches: the verifier's work is what loading costs.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::error::{Error, Result};
use crate::sys::bpf::Insn;

/// mknod(2) of the device (`BPF_DEVCG_ACC_MKNOD`).
pub const MKNOD: u8 = 1;
/// Opening for reading (`BPF_DEVCG_ACC_READ`).
pub const READ: u8 = 2;
/// Opening for writing (`BPF_DEVCG_ACC_WRITE`).
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// More rules than this are an error: ten times what the largest GPU hosts ask for, and it bounds the compiler's work.
pub const MAX_RULES: usize = 2048;

/// Which device nodes a [`Rule`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Block and character devices (`a`).
    All,
    /// Block devices (`b`).
    Block,
    /// Character devices (`c`).
    Char,
}

/// One entry of the device list, checked; `None` stands for every number (`*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether the entry allows or denies.
    pub allow: bool,
    /// Kind of node.
    pub kind: Kind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Set of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: u8,
}

const fn allowed(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// What runc allows to each container after the rules of its configuration: making any node, and using those of the
/// default `/dev` (config-linux.md, "Default Devices"), pseudo-terminals, and `/dev/net/tun`.
const DEFAULT: [Rule; 11] = [
    allowed(Kind::Char, None, None, MKNOD),
    allowed(Kind::Block, None, None, MKNOD),
    allowed(Kind::Char, Some(1), Some(3), ALL),    // /dev/null
    allowed(Kind::Char, Some(1), Some(8), ALL),    // /dev/random
    allowed(Kind::Char, Some(1), Some(7), ALL),    // /dev/full
    allowed(Kind::Char, Some(5), Some(0), ALL),    // /dev/tty
    allowed(Kind::Char, Some(1), Some(5), ALL),    // /dev/zero
    allowed(Kind::Char, Some(1), Some(9), ALL),    // /dev/urandom
    allowed(Kind::Char, Some(136), None, ALL),     // /dev/pts/*
    allowed(Kind::Char, Some(5), Some(2), ALL),    // /dev/ptmx
    allowed(Kind::Char, Some(10), Some(200), ALL), // /dev/net/tun
];

/// The rules of `resources` in their order, then the default ones. Without `resources`, the default ones alone.
///
/// A deny of type `a` denies everything, whatever else it says, as on v1; an allow of type `a` allows what it says, and
/// every access when it names none.
///
/// # Errors
/// A type that is neither `a`, `b` nor `c`, an access letter other than `rwm`, a number out of range, or more than
/// [`MAX_RULES`] rules.
pub fn rules(resources: Option<&LinuxResources>) -> Result<Vec<Rule>> {
    let listed = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    if listed.len() > MAX_RULES {
        let message = format!("{} device rules are too many: the limit is {MAX_RULES}", listed.len());
        return Err(Error::new(message).at("/linux/resources/devices").hint("use `*` for major or minor"));
    }
    let mut rules = Vec::with_capacity(listed.len() + DEFAULT.len());
    for (index, device) in listed.iter().enumerate() {
        rules.push(rule(device).map_err(|error| error.below(format!("/linux/resources/devices/{index}")))?);
    }
    rules.extend(DEFAULT);
    Ok(rules)
}

/// Every error of the device list, where [`rules`] and [`program`] end at the first.
pub fn findings(resources: Option<&LinuxResources>) -> Vec<Error> {
    let listed = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let wrong = |(index, device)| Some(rule(device).err()?.below(format!("/linux/resources/devices/{index}")));
    let errors: Vec<Error> = listed.iter().take(MAX_RULES).enumerate().filter_map(wrong).collect();
    if !errors.is_empty() {
        return errors;
    }
    rules(resources).and_then(|rules| program(&rules)).err().into_iter().collect()
}

/// # Errors
/// With a pointer from the rule on.
fn rule(device: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match device.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => Kind::All,
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C => Kind::Char,
        other => {
            let message = format!("device rule of type {:?}: it is one of a, b, c", other.as_str());
            return Err(Error::new(message).at("/type"));
        }
    };
    let access = access(device.access().as_deref().unwrap_or_default())?;
    let (major, minor) = (number(device.major(), "major")?, number(device.minor(), "minor")?);
    Ok(match kind {
        Kind::All if !device.allow() => Rule { allow: false, kind, major: None, minor: None, access: ALL },
        Kind::All if access == 0 => Rule { allow: true, kind, major, minor, access: ALL },
        _ => Rule { allow: device.allow(), kind, major, minor, access },
    })
}

fn access(letters: &str) -> Result<u8> {
    letters.chars().try_fold(0, |access, letter| match letter {
        'm' => Ok(access | MKNOD),
        'r' => Ok(access | READ),
        'w' => Ok(access | WRITE),
        _ => Err(Error::new(format!("device access {letters:?}: it is made of r, w and m")).at("/access")),
    })
}

/// -1 is the wildcard of runc's own device type and of engines that copy it.
fn number(value: Option<i64>, name: &str) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::new(format!("device {name} number {value} is out of range")).at(format!("/{name}"))),
        },
    }
}

/// The answers for one major number: the accesses allowed to the minors that differ, and to all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    minors: BTreeMap<u32, u8>,
    other: u8,
}

/// The answers for one kind of node: the majors that differ, and all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table {
    majors: BTreeMap<u32, Row>,
    other: Row,
}

impl Row {
    fn apply(&mut self, rule: &Rule) {
        let set = |mask: &mut u8| if rule.allow { *mask |= rule.access } else { *mask &= !rule.access };
        match rule.minor {
            Some(minor) => set(self.minors.entry(minor).or_insert(self.other)),
            None => {
                self.minors.values_mut().for_each(set);
                set(&mut self.other);
            }
        }
    }

    fn prune(&mut self) {
        self.minors.retain(|_, mask| *mask != self.other);
    }
}

impl Table {
    fn apply(&mut self, rule: &Rule) {
        match rule.major {
            Some(major) => self.majors.entry(major).or_insert_with(|| self.other.clone()).apply(rule),
            None => {
                self.majors.values_mut().for_each(|row| row.apply(rule));
                self.other.apply(rule);
            }
        }
    }

    fn prune(&mut self) {
        self.other.prune();
        self.majors.values_mut().for_each(Row::prune);
        self.majors.retain(|_, row| *row != self.other);
    }

    /// The mask that is the answer for every number, if there is one.
    fn plain(&self) -> Option<u8> {
        (self.majors.is_empty() && self.other.minors.is_empty()).then_some(self.other.other)
    }
}

/// The emulator of the v1 rules: the tables of block and of character devices.
fn simplify(rules: &[Rule]) -> [Table; 2] {
    let [mut block, mut char] = [Table::default(), Table::default()];
    for rule in rules {
        if rule.kind != Kind::Char {
            block.apply(rule);
        }
        if rule.kind != Kind::Block {
            char.apply(rule);
        }
    }
    block.prune();
    char.prune();
    [block, char]
}

/// The program for `rules`, or none when they allow everything.
///
/// # Errors
/// Rules so many and so crossed that the program's jumps would not reach.
pub fn program(rules: &[Rule]) -> Result<Option<Vec<Insn>>> {
    let [block, char] = simplify(rules);
    if block.plain() == Some(ALL) && char.plain() == Some(ALL) {
        return Ok(None);
    }
    let too_long = || Error::new("the device rules make too long a program").at("/linux/resources/devices");
    compile(&block, &char).ok_or_else(too_long).map(Some)
}

// Registers: r1 holds the context, `struct bpf_cgroup_dev_ctx { u32 access_type, major, minor; }`, where access_type is
// the access in the high half and the type (1 block, 2 char) in the low half.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS_TYPE: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
const BITS: u8 = 5;

// Operations of <linux/bpf.h>; the conditional jumps are of class JMP32 (Linux 5.1).
const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOV: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const RSH: u8 = 0x7c; // BPF_ALU | BPF_RSH | BPF_X
const JEQ: u8 = 0x16;
const JGT: u8 = 0x26;
const JSET: u8 = 0x46;
const JNE: u8 = 0x56;
const JA: u8 = 0x05;
const EXIT: u8 = 0x95;

const TYPE_BLOCK: u32 = 1;
const TYPE_CHAR: u32 = 2;

/// A place to jump to. The first eight are the answers: label N allows the accesses in mask N.
type Label = usize;
const DENY: Label = 0;
const ALLOW: Label = ALL as Label;

enum Step {
    Op(Insn),
    Jump(Insn, Label),
    Label(Label),
}

#[derive(Default)]
struct Assembler {
    steps: Vec<Step>,
    labels: usize,
    answers: [bool; ALL as usize + 1],
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.labels += 1;
        ALLOW + self.labels
    }

    fn place(&mut self, label: Label) {
        self.steps.push(Step::Label(label));
    }

    fn op(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: u32) {
        self.steps.push(Step::Op(Insn { code, regs: dst | src << 4, off, imm: imm as i32 }));
    }

    fn jump(&mut self, code: u8, dst: u8, imm: u32, to: Label) {
        if let Some(answer) = self.answers.get_mut(to) {
            *answer = true;
        }
        self.steps.push(Step::Jump(Insn { code, regs: dst, off: 0, imm: imm as i32 }, to));
    }

    fn goto(&mut self, to: Label) {
        self.jump(JA, 0, 0, to);
    }

    /// Drops the jumps to the next instruction: steps are looked at from the end, with the labels that hold there.
    fn drop_idle_jumps(&mut self) {
        let mut here = Vec::new();
        let mut kept = Vec::with_capacity(self.steps.len());
        for step in self.steps.drain(..).rev() {
            match &step {
                Step::Label(label) => here.push(*label),
                Step::Jump(insn, to) if insn.code == JA && here.contains(to) => continue,
                _ => here.clear(),
            }
            kept.push(step);
        }
        kept.reverse();
        self.steps = kept;
    }

    fn finish(mut self) -> Option<Vec<Insn>> {
        self.drop_idle_jumps();
        let mut places = vec![0; ALLOW + self.labels + 1];
        let mut length = 0;
        for step in &self.steps {
            match step {
                Step::Label(label) => places[*label] = length,
                _ => length += 1,
            }
        }
        let mut insns = Vec::with_capacity(length);
        for step in &self.steps {
            match step {
                Step::Op(insn) => insns.push(*insn),
                Step::Jump(insn, to) => {
                    let off = i16::try_from(places[*to] - insns.len() - 1).ok()?;
                    insns.push(Insn { off, ..*insn });
                }
                Step::Label(_) => {}
            }
        }
        Some(insns)
    }
}

fn compile(block: &Table, char: &Table) -> Option<Vec<Insn>> {
    let mut asm = Assembler::default();
    asm.op(LOAD, ACCESS_TYPE, CONTEXT, 0, 0);
    match (block.plain(), char.plain()) {
        _ if block == char => table(&mut asm, char),
        (Some(mask), _) => {
            asm.jump(JSET, ACCESS_TYPE, TYPE_BLOCK, mask.into());
            table(&mut asm, char);
        }
        (None, Some(mask)) => {
            asm.jump(JSET, ACCESS_TYPE, TYPE_CHAR, mask.into());
            table(&mut asm, block);
        }
        (None, None) => {
            let other = asm.label();
            asm.jump(JSET, ACCESS_TYPE, TYPE_BLOCK, other);
            table(&mut asm, char);
            asm.place(other);
            table(&mut asm, block);
        }
    }
    answers(&mut asm);
    asm.finish()
}

/// The ends of the program: each mask that is jumped to, then allow, then deny.
fn answers(asm: &mut Assembler) {
    for mask in 1..ALL {
        if asm.answers[mask as usize] {
            asm.place(mask.into());
            asm.jump(JSET, ACCESS_TYPE, u32::from(!mask & ALL) << 16, DENY);
            asm.goto(ALLOW);
        }
    }
    for (label, result) in [(ALLOW, 1), (DENY, 0)] {
        if asm.answers[label] {
            asm.place(label);
            asm.op(MOV, RESULT, 0, 0, result);
            asm.op(EXIT, 0, 0, 0, 0);
        }
    }
}

fn table(asm: &mut Assembler, table: &Table) {
    let rows = || table.majors.values().chain([&table.other]);
    if !table.majors.is_empty() {
        asm.op(LOAD, MAJOR, CONTEXT, 4, 0);
    }
    if rows().any(|row| !row.minors.is_empty()) {
        asm.op(LOAD, MINOR, CONTEXT, 8, 0);
    }
    let mut sharing: BTreeMap<(u8, u8), Vec<(u32, u32)>> = BTreeMap::new();
    for (&major, row) in &table.majors {
        if row.minors.is_empty() {
            asm.jump(JEQ, MAJOR, major, row.other.into());
        } else if let Some((mask, bits)) = row.bits() {
            sharing.entry((row.other, mask)).or_default().push((major, bits));
        } else {
            let next = asm.label();
            asm.jump(JNE, MAJOR, major, next);
            minors(asm, row);
            asm.place(next);
        }
    }
    for ((other, mask), rows) in sharing {
        bit_rows(asm, &rows, mask, other);
    }
    minors(asm, &table.other);
}

/// One test of the minor's bit serves all majors that answer alike and differ only in the set of minors.
fn bit_rows(asm: &mut Assembler, rows: &[(u32, u32)], mask: u8, other: u8) {
    let test = asm.label();
    let end = asm.label();
    for (index, &(major, bits)) in rows.iter().enumerate() {
        let last = index + 1 == rows.len();
        let next = if last { end } else { asm.label() };
        asm.jump(JNE, MAJOR, major, next);
        asm.op(MOV, BITS, 0, 0, bits);
        if !last {
            asm.goto(test);
            asm.place(next);
        }
    }
    asm.place(test);
    bit_test(asm, mask, other);
    asm.place(end);
}

fn bit_test(asm: &mut Assembler, mask: u8, other: u8) {
    asm.jump(JGT, MINOR, 31, other.into());
    asm.op(RSH, BITS, MINOR, 0, 0);
    asm.jump(JSET, BITS, 1, mask.into());
    asm.goto(other.into());
}

fn minors(asm: &mut Assembler, row: &Row) {
    if let Some((mask, bits)) = row.bits() {
        asm.op(MOV, BITS, 0, 0, bits);
        return bit_test(asm, mask, row.other);
    }
    for (&minor, &mask) in &row.minors {
        asm.jump(JEQ, MINOR, minor, mask.into());
    }
    asm.goto(row.other.into());
}

impl Row {
    /// The minors as the bits of a word, when there are several, all below 32, and all have the same answer.
    fn bits(&self) -> Option<(u8, u32)> {
        let (&mask, bits) = (self.minors.values().next()?, self.minors.keys());
        let fits = self.minors.len() > 1 && self.minors.iter().all(|(minor, other)| *minor < 32 && *other == mask);
        fits.then(|| (mask, bits.fold(0, |bits, minor| bits | 1 << minor)))
    }
}
