//! What the section says about every system call of one ABI.
//!
//! Several rules for one system call mean what libseccomp makes of them:
//! - The first rule without conditions decides alone, whatever comes before or after it.
//! - Rules with conditions are tried from the most to the least specific: higher argument indices first, then
//!   `EQ`/`NE`/`MASKED_EQ` before `LT`/`LE` before `GE`/`GT`, then the value that leaves less room. An equality is compared by
//!   its upper half, and then by its lower one. Where halves tie and are not the same (one value under two masks, or with a mask and
//!   without), the one that came first is tried first, with all that begins likewise. `EQ` and `NE` of one value exclude
//!   each other, and are kept apart.
//! - A rule that only adds conditions to an earlier one never matters.
//! - Two actions under the same conditions are an error.

use std::cmp::Ordering;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::abi::{Abi, Syscall};
use super::bpf::Jump;
use crate::error::{Error, Result};

/// Arguments of a system call.
const ARGS: usize = 6;

/// `(argument & mask) <jump> value`, or its opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// The argument, from 0.
    pub arg: u32,
    pub(super) jump: Jump,
    pub(super) negated: bool,
    /// `MASKED_EQ`: another condition than `EQ` even where the mask is all bits.
    is_masked: bool,
    /// The bits that are compared.
    pub mask: u64,
    /// What with.
    pub value: u64,
}

/// One rule of the section with its action encoded and its conditions sorted by argument.
pub(super) struct Rule {
    action: u32,
    /// Each inner list is ANDed; the outer one is ORed.
    alternatives: Vec<Vec<Condition>>,
    /// JSON pointer of the rule.
    pointer: String,
}

/// One set of conditions and what to return when all hold.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
    /// The rule's place in the section.
    pub(super) rule: usize,
}

/// What the filter does about one system call.
#[derive(Debug)]
pub(super) enum Verdict {
    /// An action, and the place of its rule.
    Always(u32, usize),
    /// The first match decides; none means the default action.
    Matches(Vec<Match>),
}

/// A rule that speaks about a number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    number: u32,
    rule: usize,
    /// The call that argument 0 of `socketcall(2)` or `ipc(2)` must name.
    call: Option<u64>,
}

/// The rules of one ABI, collected name by name.
pub(super) struct AbiRules {
    pub(super) abi: Abi,
    mentions: Vec<Mention>,
    /// The highest number that the section names, by whatever rule.
    pub(super) newest: Option<u32>,
}

impl Rule {
    /// Reads the conditions of `syscall`, which stands at `pointer`.
    pub(super) fn new(syscall: &LinuxSyscall, action: u32, pointer: String) -> Result<Self> {
        let args = syscall.args().as_deref().unwrap_or_default();
        if let Some(index) = args.iter().position(|arg| arg.index() >= ARGS) {
            return Err(Error::new(format!("system calls have no argument {}", args[index].index()))
                .at(format!("{pointer}/args/{index}/index"))
                .hint("the index of an argument is 0 to 5"));
        }
        let mut conditions: Vec<_> = args.iter().map(condition).collect();
        let repeats = (0..ARGS).any(|arg| args.iter().filter(|a| a.index() == arg).count() > 1);
        // runc's reading of a profile that names one argument twice: any of the conditions will do.
        let alternatives = if repeats {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            conditions.sort_by_key(|condition| condition.arg);
            vec![conditions]
        };
        Ok(Self { action, alternatives, pointer })
    }
}

fn condition(arg: &LinuxSeccompArg) -> Condition {
    let (jump, negated) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq => (Jump::Eq, false),
        LinuxSeccompOperator::ScmpCmpNe => (Jump::Eq, true),
        LinuxSeccompOperator::ScmpCmpGt => (Jump::Gt, false),
        LinuxSeccompOperator::ScmpCmpLe => (Jump::Gt, true),
        LinuxSeccompOperator::ScmpCmpGe => (Jump::Ge, false),
        LinuxSeccompOperator::ScmpCmpLt => (Jump::Ge, true),
    };
    let (mask, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0)),
        _ => (u64::MAX, arg.value()),
    };
    let is_masked = arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq;
    Condition { arg: arg.index() as u32, jump, negated, is_masked, mask, value: value & mask }
}

impl Condition {
    /// The condition as `abi` sees its registers.
    fn under(mut self, abi: Abi) -> Self {
        if !abi.is_64_bit() {
            self.mask &= u64::from(u32::MAX);
            self.value &= u64::from(u32::MAX);
        }
        self
    }

    /// What is compared one after the other, masks and values: the halves of an equality, another condition as a whole.
    fn parts(&self) -> [(u64, u64); 2] {
        let half = |shift: u32| (self.mask >> shift & u64::from(u32::MAX), self.value >> shift & u64::from(u32::MAX));
        if self.jump == Jump::Eq { [half(32), half(0)] } else { [(self.mask, self.value), (0, 0)] }
    }

    /// Is the comparison the same, as far as its first `parts` go?
    fn begins_like(&self, other: &Self, parts: usize) -> bool {
        let is = |one: &Self| (one.arg, one.jump, one.class(), one.is_masked);
        is(self) == is(other) && self.parts()[..parts] == other.parts()[..parts]
    }

    /// `EQ`, `LT` or `GT`, and their like.
    fn class(&self) -> u8 {
        match (self.jump, self.negated) {
            (Jump::Eq, _) => 0,
            (_, true) => 1,
            (_, false) => 2,
        }
    }

    /// Order of trial by all but the values; `Less` comes first.
    fn order(&self, other: &Self) -> Ordering {
        other.arg.cmp(&self.arg).then_with(|| self.class().cmp(&other.class()))
    }

    /// Of two values that conditions of this class compare with.
    fn order_of_values(&self, one: u64, other: u64) -> Ordering {
        if self.class() == 1 { one.cmp(&other) } else { other.cmp(&one) }
    }
}

/// Order of trial of two of `all`, which are as they came: condition by condition, and the longer one where the shorter one ends.
fn order(all: &[Match], one: usize, other: usize) -> Ordering {
    let (one, other) = (&all[one].conditions, &all[other].conditions);
    let Some(differ) = one.iter().zip(other).position(|(a, b)| a != b) else { return other.len().cmp(&one.len()) };
    let (a, b) = (&one[differ], &other[differ]);
    // The first that begins likewise: what came later goes where that one is.
    let first = |condition: &Condition, parts| {
        let likewise = |each: &Condition| each.begins_like(condition, parts);
        let begins = |each: &Match| each.conditions.starts_with(&one[..differ]);
        all.iter().position(|each| begins(each) && each.conditions.get(differ).is_some_and(likewise))
    };
    let by_part = |part: usize| {
        let (value, others) = (a.parts()[part].1, b.parts()[part].1);
        a.order_of_values(value, others).then_with(|| match a.begins_like(b, part + 1) {
            true => Ordering::Equal,
            false => first(a, part + 1).cmp(&first(b, part + 1)),
        })
    };
    a.order(b).then_with(|| by_part(0)).then_with(|| by_part(1)).then_with(|| a.negated.cmp(&b.negated))
}

/// `matches`, which are as they came, in the order of trial.
fn sorted(matches: Vec<Match>) -> Vec<Match> {
    if matches.len() < 2 {
        return matches;
    }
    let mut places: Vec<_> = (0..matches.len()).collect();
    places.sort_by(|one, other| order(&matches, *one, *other));
    let mut matches: Vec<_> = matches.into_iter().map(Some).collect();
    places.into_iter().filter_map(|place| matches[place].take()).collect()
}

impl AbiRules {
    pub(super) fn new(abi: Abi) -> Self {
        Self { abi, mentions: Vec::new(), newest: None }
    }

    /// Notes that `rule` speaks about `syscall`; with `None` the rule only tells that the profile knows the call.
    pub(super) fn mention(&mut self, syscall: Syscall, rule: Option<usize>) {
        let number = syscall.number(self.abi);
        if let Some(number) = number.filter(|number| self.abi.grows(*number)) {
            self.newest = self.newest.max(Some(number));
        }
        let Some(rule) = rule else { return };
        if let Some((number, call)) = syscall.multiplexed(self.abi) {
            self.mentions.push(Mention { number, rule, call: Some(call) });
        }
        if let Some(number) = number {
            self.mentions.push(Mention { number, rule, call: None });
        }
    }

    /// The verdicts, by ascending number.
    pub(super) fn verdicts(mut self, rules: &[Rule]) -> Result<Vec<(u32, Verdict)>> {
        self.mentions.sort_unstable();
        let groups = self.mentions.chunk_by(|a, b| a.number == b.number);
        groups.map(|group| Ok((group[0].number, verdict(group, rules, self.abi)?))).collect()
    }
}

/// What the rules of `group`, in the section's order, say together.
fn verdict(group: &[Mention], rules: &[Rule], abi: Abi) -> Result<Verdict> {
    let mut matches = Vec::new();
    for mention in group {
        let rule = &rules[mention.rule];
        for alternative in &rule.alternatives {
            let conditions = conditions(alternative, mention.call, abi);
            if conditions.is_empty() {
                return Ok(Verdict::Always(rule.action, mention.rule));
            }
            let (action, rule_index) = (rule.action, mention.rule);
            add(&mut matches, Match { conditions, action, rule: rule_index }, &rule.pointer)?;
        }
    }
    Ok(Verdict::Matches(sorted(matches)))
}

/// `alternative` under `abi`, without conditions that always hold. `call` takes the place of argument 0, as the
/// caller's own arguments lie in memory, where no filter sees them.
fn conditions(alternative: &[Condition], call: Option<u64>, abi: Abi) -> Vec<Condition> {
    let call =
        call.map(|value| Condition { arg: 0, jump: Jump::Eq, negated: false, is_masked: false, mask: u64::MAX, value });
    let own = alternative.iter().filter(|condition| call.is_none() || condition.arg != 0);
    let all = call.iter().chain(own).map(|condition| condition.under(abi));
    all.filter(|condition| condition.mask != 0).collect()
}

/// Adds `new` unless an earlier rule covers it.
fn add(matches: &mut Vec<Match>, new: Match, pointer: &str) -> Result<()> {
    let Some(earlier) = matches.iter().find(|earlier| new.conditions.starts_with(&earlier.conditions)) else {
        matches.push(new);
        return Ok(());
    };
    if earlier.conditions == new.conditions && earlier.action != new.action {
        return Err(Error::new("two actions for one system call under the same conditions")
            .at(pointer)
            .hint("an earlier rule gives another action for the same arguments: remove one of them"));
    }
    Ok(())
}
