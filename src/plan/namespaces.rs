//! `linux.namespaces` with what belongs to each: id maps, time offsets, sysctls, host and domain name.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Kind, Spec};

use super::op::{Op, Pointer, Request};
use super::{Steps, cstring, path_cstring};
use crate::error::{Error, Result};

/// One line of `/proc/<pid>/uid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl IdMap {
    /// The mappings of a section of the configuration.
    pub fn list(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMap> {
        let map = |m: &LinuxIdMapping| IdMap { container: m.container_id(), host: m.host_id(), size: m.size() };
        mappings.into_iter().flatten().map(map).collect()
    }
}

/// A new user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Userns {
    /// `linux.uidMappings`.
    pub uids: Vec<IdMap>,
    /// `linux.gidMappings`.
    pub gids: Vec<IdMap>,
}

/// A namespace that is joined by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The path, on the host.
    pub path: PathBuf,
    /// Its `CLONE_NEW*` flag.
    pub flag: i32,
    /// Where it stands.
    pub from: Pointer,
}

pub(super) struct Namespaces {
    kinds: Vec<(Kind, bool, Pointer)>,
    joined: Vec<Joined>,
    userns: Option<Userns>,
    time_offsets: bool,
}

impl Namespaces {
    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let list = linux.and_then(|linux| linux.namespaces().as_ref());
        let mut kinds: Vec<(Kind, bool, Pointer)> = Vec::with_capacity(8);
        let mut joined = Vec::new();
        for (index, namespace) in list.into_iter().flatten().enumerate() {
            let from = format!("/linux/namespaces/{index}");
            let kind = namespace.typ();
            if kinds.iter().any(|(other, ..)| *other == kind) {
                return Err(Error::new(format!("malformed spec file: duplicated ns {kind:?}")).at(from));
            }
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            if let Some(path) = path {
                joined.push(Joined { path: path.clone(), flag: kind as i32, from: format!("{from}/path") });
            }
            kinds.push((kind, path.is_some(), from));
        }
        // The user namespace first: joining it brings the rights over those that it owns.
        joined.sort_by_key(|joined| (joined.flag != libc::CLONE_NEWUSER, joined.flag == libc::CLONE_NEWNS));
        let new_user = kinds.iter().any(|(kind, by_path, _)| *kind == Kind::User && !by_path);
        let userns = new_user.then(|| Userns {
            uids: IdMap::list(linux.and_then(|linux| linux.uid_mappings().as_ref())),
            gids: IdMap::list(linux.and_then(|linux| linux.gid_mappings().as_ref())),
        });
        let time_offsets =
            linux.and_then(|linux| linux.time_offsets().as_ref()).is_some_and(|offsets| !offsets.is_empty());
        Ok(Self { kinds, joined, userns, time_offsets })
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|(other, ..)| *other == kind)
    }

    fn made(&self, kind: Kind) -> Option<&Pointer> {
        self.kinds.iter().find(|(other, by_path, _)| *other == kind && !by_path).map(|(_, _, from)| from)
    }

    pub(super) fn new_user(&self) -> bool {
        self.userns.is_some()
    }

    /// The caller owns its user namespace, and its process is the first one of its pid namespace.
    pub(super) fn all_its_own(&self) -> bool {
        self.new_user() && self.made(Kind::Pid).is_some() && !self.needs_stage()
    }

    fn joins_user(&self) -> bool {
        self.joined.iter().any(|joined| joined.flag == libc::CLONE_NEWUSER)
    }

    /// The container has a user namespace other than the caller's, new or joined.
    pub(super) fn in_userns(&self) -> bool {
        self.has(Kind::User)
    }

    pub(super) fn userns(&self) -> Option<&Userns> {
        self.userns.as_ref()
    }

    pub(super) fn joined(&self) -> &[Joined] {
        &self.joined
    }

    /// Every namespace that the container does not share with the host, for `exec`.
    pub(super) fn all_flags(&self) -> i32 {
        self.kinds.iter().fold(0, |flags, (kind, ..)| flags | *kind as i32)
    }

    /// What clone3(2) makes. The cgroup namespace is not among it: its root is the cgroup in which it is unshared, and
    /// before Linux 6.x a clone into a cgroup took the parent's. Nor is an IPC namespace that root of the new user namespace makes.
    pub(super) fn clone_flags(&self) -> u64 {
        let made = |kind: &Kind| match kind {
            Kind::Cgroup => false,
            Kind::Time => !self.time_offsets,
            Kind::Ipc => !self.becomes_root(),
            _ => true,
        };
        let flag = |(kind, by_path, _): &(Kind, bool, Pointer)| if !by_path && made(kind) { *kind as u64 } else { 0 };
        self.kinds.iter().map(flag).fold(0, |flags, flag| flags | flag)
    }

    /// Set-up is done as root of the new user namespace. An IPC namespace is made by that root, too: whoever makes it owns the root of
    /// its mqueue, and clone3(2) would make it as the caller, who is nobody there.
    fn becomes_root(&self) -> bool {
        self.userns.as_ref().is_some_and(|userns| maps_zero(&userns.uids) && maps_zero(&userns.gids))
    }

    /// setns(2) to a pid or user namespace and time offsets act on children only; and what is joined beside a new user
    /// namespace is joined before that takes the rights away.
    pub(super) fn needs_stage(&self) -> bool {
        let joins_pid = self.joined.iter().any(|joined| joined.flag == libc::CLONE_NEWPID);
        joins_pid
            || self.joins_user()
            || (self.new_user() && !self.joined.is_empty())
            || (self.time_offsets && self.made(Kind::Time).is_some())
    }

    fn join(&self, steps: &mut Steps) -> Result<()> {
        for (slot, joined) in self.joined.iter().enumerate() {
            let path = path_cstring(&joined.path, &joined.from)?;
            steps.push(Op::JoinNamespace { slot, flag: joined.flag, path }, joined.from.clone());
            if joined.flag == libc::CLONE_NEWUSER {
                steps.push(Op::BecomeRoot, joined.from.clone());
                steps.push(Op::DieWithParent, "");
            }
        }
        Ok(())
    }

    pub(super) fn stage(&self, spec: &Spec, stage: &mut Steps) -> Result<()> {
        if !self.needs_stage() {
            return Ok(());
        }
        super::begin(stage);
        // In a joined user namespace the file would be the host's root's. For a new one the parent writes it.
        if let (Some(process), false) = (spec.process(), self.new_user()) {
            super::process::oom_score_adj(process, stage);
        }
        if let (Some(process), true) = (spec.process(), self.joins_user()) {
            stage.0.extend(super::process::hard_limits(process));
        }
        self.join(stage)?;
        if let (true, Some(from)) = (self.time_offsets, self.made(Kind::Time)) {
            stage.push(Op::Unshare { flags: Kind::Time as i32 }, from.clone());
            stage.push(
                Op::TimeOffsets { text: cstring(time_offsets(spec), "/linux/timeOffsets")? },
                "/linux/timeOffsets",
            );
        }
        Ok(())
    }

    pub(super) fn enter(&self, child: &mut Steps, in_cgroup: bool) {
        if self.userns.is_some() {
            child.push(Op::Await(Request::IdMaps), "/linux/uidMappings");
            if self.becomes_root() {
                child.push(Op::BecomeRoot, "/linux/uidMappings");
            }
            child.push(Op::DieWithParent, "");
            if let (Some(from), true) = (self.made(Kind::Ipc), self.becomes_root()) {
                child.push(Op::Unshare { flags: libc::CLONE_NEWIPC }, from.clone());
            }
        }
        if !self.needs_stage() {
            // Paths were checked when the slots were planned; a NUL can't be in a path that was opened.
            let _ = self.join(child);
        }
        if let (Some(from), true) = (self.made(Kind::Cgroup), in_cgroup || self.has(Kind::Cgroup)) {
            child.push(Op::Unshare { flags: libc::CLONE_NEWCGROUP }, from.clone());
        }
    }

    /// Loopback, sysctls and names: each inside the namespace that it belongs to.
    pub(super) fn settle(&self, spec: &Spec, child: &mut Steps) -> Result<()> {
        if let Some(from) = self.made(Kind::Network) {
            child.push(Op::LoopbackUp, from.clone());
        }
        let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
        let mut sysctls: Vec<_> = sysctls.into_iter().flatten().collect();
        sysctls.sort();
        for (key, value) in sysctls {
            let from = format!("/linux/sysctl/{}", key.replace('~', "~0").replace('/', "~1"));
            let op = Op::Sysctl { path: cstring(sysctl_path(key), &from)?, value: cstring(value, &from)? };
            child.push(op, from);
        }
        if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
            child.push(Op::Hostname { name: cstring(name, "/hostname")? }, "/hostname");
        }
        if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
            child.push(Op::Domainname { name: cstring(name, "/domainname")? }, "/domainname");
        }
        Ok(())
    }
}

fn maps_zero(maps: &[IdMap]) -> bool {
    maps.iter().any(|map| map.container == 0 && map.size > 0)
}

/// `net.ipv4.ip_forward` is `net/ipv4/ip_forward`; a key whose first separator is a slash keeps its dots (sysctl(8)).
pub(super) fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'/' => key.to_owned(),
        _ => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines: Vec<String> = offsets
        .into_iter()
        .flatten()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)))
        .collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn sysctl_keys_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
