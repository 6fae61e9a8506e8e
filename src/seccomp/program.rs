//! From verdicts to the program: per architecture a search tree over ranges of system call numbers.

use super::abi::{Abi, X32_SYSCALL_BIT};
use super::bpf::{Assembler, BPF_MAXINSNS, Jump, Label};
use super::rules::{AbiRules, Condition, Match, Rule, Verdict};
use crate::error::{Error, Result};

/// For architectures and ABIs that the filter does not list; libseccomp's choice, `SCMP_ACT_KILL`.
const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// From `start` to the next range's start the filter does `target`.
#[derive(Debug)]
struct Range {
    start: u32,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Return(u32),
    Matches(Vec<Match>, Width),
}

/// How many bits of an argument the ABI compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Low32,
    All64,
}

/// The ranges of one `seccomp_data.arch`, from 0 on without holes.
struct Ranges {
    list: Vec<Range>,
    default: u32,
}

/// Builds the program for `abis`, each with its `seccomp_data.arch`; those that share one stand next to each other.
pub(super) fn build(
    abis: Vec<(u32, AbiRules)>,
    rules: &[Rule],
    default: u32,
    enosys: bool,
    big_endian: bool,
) -> Result<Vec<libc::sock_filter>> {
    let mut sections: Vec<(u32, Ranges)> = Vec::new();
    for (arch, abi_rules) in abis {
        if sections.last().is_none_or(|(last, _)| *last != arch) {
            sections.push((arch, Ranges { list: Vec::new(), default }));
        }
        let ranges = &mut sections.last_mut().expect("just pushed").1;
        ranges.add(abi_rules, rules, enosys)?;
    }
    let mut code = Code { asm: Assembler::default(), default, big_endian };
    code.dispatch(sections);
    let program = code.asm.finish();
    if program.len() > BPF_MAXINSNS {
        return Err(Error::new(format!("the seccomp filter has {} instructions", program.len()))
            .at("/linux/seccomp/syscalls")
            .hint(format!("the kernel takes {BPF_MAXINSNS}: use fewer rules with arguments")));
    }
    Ok(program)
}

impl Ranges {
    fn add(&mut self, abi_rules: AbiRules, rules: &[Rule], enosys: bool) -> Result<()> {
        let abi = abi_rules.abi;
        // A profile that names no call of the ABI, or only its first, tells nothing about its own age.
        let newest = abi_rules.newest.filter(|newest| enosys && *newest > abi.first()).unwrap_or(u32::MAX);
        let width = if abi.is_64_bit() { Width::All64 } else { Width::Low32 };
        let mut next = Some(abi.first());
        for (number, verdict) in abi_rules.verdicts(rules)? {
            self.hole(next, Some(number), newest);
            self.push(number, target(verdict, width));
            next = number.checked_add(1);
        }
        self.hole(next, None, newest);
        match abi {
            Abi::X86_64 => self.cut_x32(),
            Abi::S390x if newest != u32::MAX => self.answer_setup(),
            _ => {}
        }
        Ok(())
    }

    /// Numbers from `start` until `end` that no rule speaks about.
    fn hole(&mut self, start: Option<u32>, end: Option<u32>, newest: u32) {
        let Some(start) = start.filter(|start| end != Some(*start)) else { return };
        if start <= newest {
            self.push(start, Target::Return(self.default));
        }
        let newer = newest.saturating_add(1).max(start);
        if newest != u32::MAX && end.is_none_or(|end| newer < end) {
            self.push(newer, Target::Return(ENOSYS));
        }
    }

    /// x32 calls are not x86_64's: they are foreign until their own ABI is added. -1 is no x32 call: tracers skip a
    /// system call by it.
    fn cut_x32(&mut self) {
        self.push(X32_SYSCALL_BIT, Target::Return(BAD_ARCH));
        self.push(u32::MAX, Target::Return(self.default));
    }

    /// s390x: number 0 stands for every call whose number the kernel does not know.
    fn answer_setup(&mut self) {
        self.list[0] = Range { start: 0, target: Target::Return(ENOSYS) };
        if self.list.get(1).is_none_or(|range| range.start > 1) {
            self.list.insert(1, Range { start: 1, target: Target::Return(self.default) });
        }
    }

    /// Lets `target` rule from `start` on, in place of all that was pushed from there on.
    fn push(&mut self, start: u32, target: Target) {
        while self.list.last().is_some_and(|last| last.start >= start) {
            self.list.pop();
        }
        match (self.list.last(), &target) {
            (Some(Range { target: Target::Return(last), .. }), Target::Return(new)) if last == new => {}
            _ => self.list.push(Range { start, target }),
        }
    }
}

fn target(verdict: Verdict, width: Width) -> Target {
    match verdict {
        Verdict::Always(action, _) => Target::Return(action),
        Verdict::Matches(matches) => Target::Matches(matches, width),
    }
}

/// The program while it is written, from its end.
struct Code {
    asm: Assembler,
    default: u32,
    big_endian: bool,
}

impl Code {
    /// `ld arch`, and a jump to the section of each architecture, the first of `sections` first.
    fn dispatch(&mut self, sections: Vec<(u32, Ranges)>) {
        let starts: Vec<_> = sections.iter().map(|(arch, ranges)| (*arch, self.section(&ranges.list))).collect();
        let mut next = self.asm.ret(BAD_ARCH);
        for (arch, start) in starts.into_iter().rev() {
            next = self.asm.jump(Jump::Eq, arch, start, next);
        }
        self.asm.load(ARCH);
    }

    fn section(&mut self, ranges: &[Range]) -> Label {
        let leaves: Vec<_> = ranges.iter().map(|range| self.leaf(&range.target)).collect();
        let root = self.tree(ranges, &leaves);
        // One range needs no number.
        if ranges.len() == 1 { root } else { self.asm.load(NR) }
    }

    /// Writes the tests of a range's arguments. An action alone is written where the tree needs it.
    fn leaf(&mut self, target: &Target) -> Option<Label> {
        match target {
            Target::Return(_) => None,
            Target::Matches(matches, width) => Some(self.matches(matches, *width)),
        }
    }

    /// A balanced search tree for the range that holds the accumulator.
    fn tree(&mut self, ranges: &[Range], leaves: &[Option<Label>]) -> Label {
        if let ([range], [leaf]) = (ranges, leaves) {
            return match (leaf, &range.target) {
                (None, Target::Return(action)) => self.asm.ret(*action),
                (leaf, _) => leaf.expect("only actions have no leaf"),
            };
        }
        let middle = ranges.len() / 2;
        let above = self.tree(&ranges[middle..], &leaves[middle..]);
        let below = self.tree(&ranges[..middle], &leaves[..middle]);
        self.asm.jump(Jump::Ge, ranges[middle].start, above, below)
    }

    fn matches(&mut self, matches: &[Match], width: Width) -> Label {
        let mut next = self.asm.ret(self.default);
        for candidate in matches.iter().rev() {
            let mut yes = self.asm.ret(candidate.action);
            for condition in candidate.conditions.iter().rev() {
                yes = self.condition(condition, width, yes, next);
            }
            next = yes;
        }
        next
    }

    fn condition(&mut self, condition: &Condition, width: Width, yes: Label, no: Label) -> Label {
        let (yes, no) = if condition.negated { (no, yes) } else { (yes, no) };
        let low = self.half(condition, Half::Low, condition.jump, yes, no);
        if width == Width::Low32 {
            return low.unwrap_or(yes);
        }
        let low = low.unwrap_or(yes);
        match condition.jump {
            Jump::Eq => self.half(condition, Half::High, Jump::Eq, low, no).unwrap_or(low),
            Jump::Gt | Jump::Ge => {
                let high = (condition.value >> 32) as u32;
                let equal = self.asm.jump(Jump::Eq, high, low, no);
                self.asm.jump(Jump::Gt, high, yes, equal);
                self.asm.load(self.offset(condition.arg, Half::High))
            }
        }
    }

    /// Compares one half of the argument; `None` where the mask leaves nothing of it.
    fn half(&mut self, condition: &Condition, half: Half, jump: Jump, yes: Label, no: Label) -> Option<Label> {
        let shift = if half == Half::High { 32 } else { 0 };
        let (mask, value) = ((condition.mask >> shift) as u32, (condition.value >> shift) as u32);
        if mask == 0 {
            return None;
        }
        self.asm.jump(jump, value, yes, no);
        if mask != u32::MAX {
            self.asm.and(mask);
        }
        Some(self.asm.load(self.offset(condition.arg, half)))
    }

    fn offset(&self, arg: u32, half: Half) -> u32 {
        ARGS + 8 * arg + if self.big_endian == (half == Half::Low) { 4 } else { 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
}
