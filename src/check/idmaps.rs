//! `linux.uidMappings` and `linux.gidMappings`: whether the caller may write them (user_namespaces(7), newuidmap(1)).

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;

use super::{Findings, Subject};
use crate::error::Error;

/// One of the two kinds of ids, and who may map which.
struct Kind {
    pointer: &'static str,
    own: u32,
    program: &'static str,
    ranges: &'static str,
    map: &'static str,
}

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let Some(linux) = subject.spec.linux() else { return };
    if !subject.new_user_namespace() {
        return;
    }
    let (euid, egid) = (subject.facts.euid, subject.facts.egid);
    let uid = ("/linux/uidMappings", euid, "newuidmap", "/etc/subuid", "/proc/self/uid_map");
    let gid = ("/linux/gidMappings", egid, "newgidmap", "/etc/subgid", "/proc/self/gid_map");
    for (list, (pointer, own, program, ranges, map)) in [(linux.uid_mappings(), uid), (linux.gid_mappings(), gid)] {
        let list = list.as_deref().unwrap_or_default();
        let kind = Kind { pointer, own, program, ranges, map };
        if findings.has_error_near(pointer) {
            continue;
        }
        match euid {
            0 => own_namespace(list, &kind, findings),
            _ => ordinary(list, &kind, euid, findings),
        }
    }
}

/// Root maps what its own user namespace has.
fn own_namespace(list: &[LinuxIdMapping], kind: &Kind, findings: &mut Findings) {
    let Ok(text) = std::fs::read_to_string(kind.map) else { return };
    let have: Vec<(u64, u64)> = text.lines().filter_map(|line| range(line.split_whitespace(), [0, 2])).collect();
    for (index, mapping) in list.iter().enumerate().filter(|(_, mapping)| !inside(mapping, &have)) {
        let last = u64::from(mapping.host_id()) + u64::from(mapping.size()) - 1;
        findings.error(
            Error::new(format!("the ids {} to {last} are not in this process's own user namespace", mapping.host_id()))
                .at(format!("{}/{index}/hostID", kind.pointer))
                .hint(format!("it has what {} says", kind.map)),
        );
    }
}

/// An ordinary user writes one id, his own; for more a setuid program looks the ranges up.
fn ordinary(list: &[LinuxIdMapping], kind: &Kind, euid: u32, findings: &mut Findings) {
    if matches!(list, [mapping] if mapping.host_id() == kind.own && mapping.size() == 1) {
        return;
    }
    if in_path(kind.program).is_none() {
        findings.error(
            Error::new(format!(
                "{} is not installed, and without it an ordinary user can map one id only, his own",
                kind.program
            ))
            .at(kind.pointer)
            .hint("Debian's package uidmap has it"),
        );
        return;
    }
    if elsewhere() {
        let text =
            format!("the ranges of {} come from another source than {} (nsswitch.conf)", kind.program, kind.ranges);
        return findings.note(Error::new(text).at(kind.pointer));
    }
    let have = subordinate(kind.ranges, euid);
    for (index, mapping) in list.iter().enumerate() {
        let own = mapping.host_id() == kind.own && mapping.size() == 1;
        if !own && !inside(mapping, &have) {
            let last = u64::from(mapping.host_id()) + u64::from(mapping.size()) - 1;
            findings.error(
                Error::new(format!("the ids {} to {last} are not this user's to map", mapping.host_id()))
                    .at(format!("{}/{index}/hostID", kind.pointer))
                    .hint(format!("the range must lie within one of the user's in {}", kind.ranges)),
            );
        }
    }
}

/// The first and the number of ids in two of `fields`.
fn range<'a>(fields: impl Iterator<Item = &'a str>, places: [usize; 2]) -> Option<(u64, u64)> {
    let fields: Vec<&str> = fields.collect();
    let number = |place: usize| fields.get(place)?.parse().ok();
    Some((number(places[0])?, number(places[1])?))
}

fn inside(mapping: &LinuxIdMapping, ranges: &[(u64, u64)]) -> bool {
    let (first, end) = (u64::from(mapping.host_id()), u64::from(mapping.host_id()) + u64::from(mapping.size()));
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    // Neighbours in the list count as one.
    let reached = ranges.iter().fold(first, |reached, (start, count)| match *start <= reached {
        true => reached.max(start + count),
        false => reached,
    });
    reached >= end
}

/// The ranges of a user in a file of subuid(5): by his name or his number.
fn subordinate(file: &str, uid: u32) -> Vec<(u64, u64)> {
    let name = crate::state::owner(uid);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mine = |line: &&str| {
        let owner = line.split(':').next().unwrap_or_default();
        owner == name || owner == uid.to_string()
    };
    text.lines().filter(mine).filter_map(|line| range(line.split(':'), [1, 2])).collect()
}

/// shadow 4.9 and later ask the source that `subid` names.
fn elsewhere() -> bool {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let source = text.lines().find_map(|line| line.trim().strip_prefix("subid:"));
    source.is_some_and(|source| source.trim() != "files")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(program));
    found.find(|file| executable(file))
}

/// A regular file that somebody may execute.
pub(super) fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxIdMappingBuilder;

    use super::*;

    #[test]
    fn a_mapping_lies_inside_ranges_that_touch() {
        let mapping = |host: u32, size: u32| {
            LinuxIdMappingBuilder::default().host_id(host).container_id(0u32).size(size).build().unwrap()
        };
        let have = [(200, 50), (100, 100), (1000, 10)];
        for (host, size, fits) in
            [(100, 100, true), (100, 150, true), (249, 1, true), (249, 2, false), (99, 2, false), (1005, 5, true)]
        {
            assert_eq!(inside(&mapping(host, size), &have), fits, "{host} {size}");
        }
        assert_eq!(range("user:100000:65536".split(':'), [1, 2]), Some((100_000, 65_536)));
        assert_eq!(range("user:x:65536".split(':'), [1, 2]), None);
    }
}
