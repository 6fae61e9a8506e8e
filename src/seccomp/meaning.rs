//! What a profile answers to each system call, in words: the same verdicts that become the program.

use std::collections::BTreeMap;
use std::fmt;

use nix::errno::Errno;
use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::abi::{Abi, Syscall};
use super::bpf::Jump;
use super::rules::{Condition, Verdict};
use super::{POINTER, compiled_rules};
use crate::error::{Error, Result};

/// What a filter returns (linux/seccomp.h, `SECCOMP_RET_*` with its data).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Action(pub u32);

/// Why a system call gets an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The rule at this place of `syscalls`.
    Rule(usize),
    /// `defaultAction`: no rule speaks about it.
    Default,
    /// It is newer than all that the profile names.
    Newer,
}

/// An answer, given when all conditions hold and no case before it has been met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Tests of arguments, all of which hold.
    pub conditions: Vec<Condition>,
    /// The answer.
    pub action: Action,
    /// Where it comes from.
    pub why: Why,
}

/// What a profile answers to one system call of one ABI: the cases in the order in which they are tried, the last one
/// without conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The number in `seccomp_data.nr`.
    pub number: u32,
    /// Never empty.
    pub cases: Vec<Case>,
}

/// What a profile answers under one ABI, by the name of the system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The specification's name for the ABI.
    pub arch: Arch,
    /// One for every system call that the ABI has.
    pub answers: BTreeMap<&'static str, Answer>,
}

impl Action {
    /// `SECCOMP_RET_ALLOW` or `SECCOMP_RET_LOG`: the call is carried out.
    pub fn lets_through(self) -> bool {
        matches!(self.0 & libc::SECCOMP_RET_ACTION_FULL, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.0 & libc::SECCOMP_RET_DATA;
        match self.0 & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW => f.write_str("allow"),
            libc::SECCOMP_RET_LOG => f.write_str("log and allow"),
            libc::SECCOMP_RET_USER_NOTIF => f.write_str("ask the agent"),
            libc::SECCOMP_RET_TRACE => write!(f, "ask the tracer ({data})"),
            libc::SECCOMP_RET_ERRNO => match Errno::from_raw(data as i32) {
                Errno::UnknownErrno => write!(f, "errno {data}"),
                errno => write!(f, "{errno:?}"),
            },
            libc::SECCOMP_RET_TRAP => f.write_str("SIGSYS"),
            libc::SECCOMP_RET_KILL_PROCESS => f.write_str("kill the process"),
            _ => f.write_str("kill the thread"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Rule(index) => write!(f, "{POINTER}/syscalls/{index}"),
            Why::Default => write!(f, "{POINTER}/defaultAction"),
            Why::Newer => f.write_str("newer than all that the profile names"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (self.jump, self.negated) {
            (Jump::Eq, false) => "==",
            (Jump::Eq, true) => "!=",
            (Jump::Gt, false) => ">",
            (Jump::Gt, true) => "<=",
            (Jump::Ge, false) => ">=",
            (Jump::Ge, true) => "<",
        };
        match self.mask {
            u64::MAX | 0xffff_ffff if self.mask >= self.value && self.jump != Jump::Eq => {
                write!(f, "arg{} {sign} {:#x}", self.arg, self.value)
            }
            u64::MAX => write!(f, "arg{} {sign} {:#x}", self.arg, self.value),
            mask => write!(f, "(arg{} & {mask:#x}) {sign} {:#x}", self.arg, self.value),
        }
    }
}

impl Condition {
    /// Does an argument of this value meet it?
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let value = args.get(self.arg as usize).copied().unwrap_or(0) & self.mask;
        let met = match self.jump {
            Jump::Eq => value == self.value,
            Jump::Gt => value > self.value,
            Jump::Ge => value >= self.value,
        };
        met != self.negated
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions: Vec<_> = self.conditions.iter().map(Condition::to_string).collect();
        match conditions.is_empty() {
            true => write!(f, "{}", self.action),
            false => write!(f, "if {} {}", conditions.join(" and "), self.action),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (last, others) = self.cases.split_last().ok_or(fmt::Error)?;
        others.iter().try_for_each(|case| write!(f, "{case}; "))?;
        if others.is_empty() { write!(f, "{last}") } else { write!(f, "else {last}") }
    }
}

impl Answer {
    /// The case that these arguments meet.
    pub fn to(&self, args: &[u64; 6]) -> &Case {
        let met = self.cases.iter().find(|case| case.conditions.iter().all(|condition| condition.holds(args)));
        met.unwrap_or_else(|| &self.cases[self.cases.len() - 1])
    }

    /// No argument matters.
    pub fn unconditional(&self) -> bool {
        self.cases.len() == 1
    }

    /// Some call of this name is carried out.
    pub fn lets_any_through(&self) -> bool {
        self.cases.iter().any(|case| case.action.lets_through())
    }
}

/// What `section` answers on a machine whose kernel is `native`: a table for each of its ABIs that the filter knows, the
/// machine's own first. The others' calls kill the thread.
///
/// # Errors
/// As [`super::compile`].
pub fn meaning_for(section: &LinuxSeccomp, native: Arch) -> Result<Vec<Table>> {
    let compiled = compiled_rules(section, native)?;
    let family = super::abi::family(native).unwrap_or_default();
    let default = Case { conditions: Vec::new(), action: Action(compiled.default), why: Why::Default };
    let mut tables = Vec::new();
    for (_, rules) in compiled.abis {
        let (abi, newest) = (rules.abi, rules.newest.filter(|newest| compiled.enosys && *newest > rules.abi.first()));
        let arch = family.iter().find(|(_, one)| *one == abi).map(|(arch, _)| *arch);
        let arch = arch.ok_or_else(|| Error::new("an ABI of another machine"))?;
        let verdicts = rules.verdicts(&compiled.rules)?.into_iter();
        let spoken: BTreeMap<u32, Vec<Case>> =
            verdicts.map(|(number, verdict)| (number, cases(verdict, &default))).collect();
        let mut answers = BTreeMap::new();
        for (name, number) in numbers(abi) {
            let newer = newest.is_some_and(|newest| number > newest);
            let cases = match spoken.get(&number) {
                Some(cases) => cases.clone(),
                None if newer => vec![Case { action: Action(ENOSYS), why: Why::Newer, ..default.clone() }],
                None => vec![default.clone()],
            };
            answers.insert(name, Answer { number, cases });
        }
        tables.push(Table { arch, answers });
    }
    Ok(tables)
}

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The same for this machine.
///
/// # Errors
/// As [`super::compile`].
pub fn meaning(section: &LinuxSeccomp) -> Result<Vec<Table>> {
    meaning_for(section, super::native()?)
}

fn numbers(abi: Abi) -> impl Iterator<Item = (&'static str, u32)> {
    Syscall::all().filter_map(move |call| Some((call.name(), call.number(abi)?)))
}

fn cases(verdict: Verdict, default: &Case) -> Vec<Case> {
    match verdict {
        Verdict::Always(action, rule) => {
            vec![Case { conditions: Vec::new(), action: Action(action), why: Why::Rule(rule) }]
        }
        Verdict::Matches(matches) => {
            let one = |one: super::rules::Match| {
                let (action, why) = (Action(one.action), Why::Rule(one.rule));
                Case { conditions: one.conditions, action, why }
            };
            matches.into_iter().map(one).chain([default.clone()]).collect()
        }
    }
}
