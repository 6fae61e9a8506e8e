//! Where two profiles answer differently.

use super::meaning::{Answer, Table};

/// A system call that two profiles answer differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The specification's name for the ABI.
    pub arch: String,
    /// The system call.
    pub name: &'static str,
    /// What the first profile answers.
    pub old: Answer,
    /// What the second one answers.
    pub new: Answer,
}

/// ABIs that only one of two profiles lets speak: the specification's name, and whether it is the second one.
pub fn abis(old: &[Table], new: &[Table]) -> Vec<(String, bool)> {
    let lacks = |tables: &[Table], arch| !tables.iter().any(|table| table.arch == arch);
    let gone = old.iter().filter(|table| lacks(new, table.arch)).map(|table| (table.arch.to_string(), false));
    let come = new.iter().filter(|table| lacks(old, table.arch)).map(|table| (table.arch.to_string(), true));
    gone.chain(come).collect()
}

/// The differences under the ABIs of both, by ABI and name. Where the rules stand does not matter.
pub fn diff(old: &[Table], new: &[Table]) -> Vec<Difference> {
    let both = old.iter().filter_map(|table| Some((table, new.iter().find(|other| other.arch == table.arch)?)));
    let pairs = both.flat_map(|(old, new)| {
        let answers = old.answers.iter().filter_map(|(name, answer)| Some((*name, answer, new.answers.get(name)?)));
        answers.map(|(name, one, other)| (old.arch.to_string(), name, one, other))
    });
    let differ = pairs.filter(|(_, _, one, other)| !one.same(other));
    differ.map(|(arch, name, old, new)| Difference { arch, name, old: old.clone(), new: new.clone() }).collect()
}

impl Answer {
    /// The same answers in the same cases, whatever rules they come from.
    pub fn same(&self, other: &Answer) -> bool {
        let plain = |answer: &Answer| -> Vec<_> {
            answer.cases.iter().map(|case| (case.conditions.clone(), case.action)).collect()
        };
        plain(self) == plain(other)
    }
}
