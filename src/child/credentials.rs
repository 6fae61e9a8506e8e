//! Ids and capabilities.

use nix::errno::Errno;

use super::{Fail, Named};
use crate::sys::creds::{self, CapSets};
use crate::sys::path::{self, inherited};

/// Ids 0 of the user namespace; where it maps no 0 (EINVAL) the set-up goes on with the ids that there are.
/// Supplementary groups stay where the namespace denies setgroups(2).
pub(super) fn become_root() -> Result<(), Fail> {
    let mapped = |answer| if answer == Err(Errno::EINVAL) { Ok(()) } else { answer };
    mapped(creds::setresgid(0)).named("setresgid")?;
    mapped(creds::setresuid(0)).named("setresuid")
}

/// Groups, then the group, then the user, with the permitted set kept across it. `keep` alone stays permitted.
pub(super) fn user(uid: u32, gid: u32, groups: Option<&[u32]>, keep: u64) -> Result<(), Fail> {
    own_stdio(uid);
    creds::prctl(libc::PR_SET_KEEPCAPS, 1, 0).named("prctl(PR_SET_KEEPCAPS)")?;
    match creds::setgroups(groups.unwrap_or(&[])) {
        // A user namespace that an ordinary user has made by himself denies it: his groups stay.
        Ok(()) => {}
        Err(Errno::EPERM) if groups.is_none() => {}
        Err(errno) => return Err(Fail::new("setgroups", errno)),
    }
    creds::setresgid(gid).named("setresgid")?;
    creds::setresuid(uid).named("setresuid")?;
    creds::prctl(libc::PR_SET_KEEPCAPS, 0, 0).named("prctl(PR_SET_KEEPCAPS)")?;
    // A change of ids has made it what fs.suid_dumpable says.
    creds::prctl(libc::PR_SET_DUMPABLE, 0, 0).named("prctl(PR_SET_DUMPABLE)")?;
    // setresuid(2) has emptied the effective set; what is left of the set-up (Cwd, Home) needs nothing beyond `keep`.
    let mut now = creds::capget().named("capget")?;
    now.permitted &= keep;
    now.effective = now.permitted;
    now.inheritable &= keep;
    creds::capset(now).named("capset")
}

/// The process may reopen its own terminal or pipe: its user owns them (runc: fixStdioPermissions). `/dev/null` is
/// everybody's, and a descriptor that can't be changed is left as it is. The group stays: devpts has its own for terminals.
fn own_stdio(uid: u32) {
    const KEEP: u32 = u32::MAX;
    for number in 0..3 {
        let fd = inherited(number);
        let Ok(stat) = path::fstat(fd) else { continue };
        let null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
        let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if null || regular || stat.st_uid == uid {
            continue;
        }
        // EINVAL: the id is not mapped. EPERM, EROFS: not ours to change. None of these harms the process.
        let _: Result<(), Errno> = path::fchown(fd, uid, KEEP);
    }
}

/// The three sets, then the ambient one; `extra` stays permitted and effective until the execve.
///
/// What the caller does not have can't be given: it is left out, as capabilities(7) would have it at the next execve
/// of a program with no file capabilities (config.md: warn, do not fail).
pub(super) fn capabilities(sets: CapSets, ambient: u64, extra: u64) -> Result<(), Fail> {
    let have = creds::capget().named("capget")?;
    let permitted = (sets.permitted | extra) & have.permitted;
    let wanted = CapSets {
        effective: (sets.effective | extra) & permitted,
        permitted,
        inheritable: sets.inheritable & have.permitted,
    };
    creds::capset(wanted).named("capset")?;
    creds::set_ambient(ambient & permitted & wanted.inheritable).named("prctl(PR_CAP_AMBIENT)")
}
