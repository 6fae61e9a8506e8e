//! `process`: what is run, as whom, and with which attributes.

use std::path::Path;

use oci_spec::runtime::{
    ExecCPUAffinity, Linux, LinuxIOPriority, LinuxIdMapping, LinuxSchedulerPolicy, PosixRlimit, Process, Scheduler,
    User,
};

use super::{Context, LinuxNamespaceType, Namespaces, bad, each, linux::mappings, maps, no_nul, strings};
use crate::error::{Error, Found, Result};

pub(super) fn process(found: &mut Found, process: &Process) -> Result<()> {
    found.note(cwd(process.cwd()))?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        found.note(Err(bad("/args", "args must not be empty")))?;
    }
    strings(found, "/args", process.args())?;
    each(found, "/env", process.env(), |_, pair| environment(pair))?;
    found.under("/user", |found| user(found, process.user()))?;
    rlimits(found, process.rlimits())?;
    attributes(found, process)?;
    if let Some(of) = process.scheduler() {
        found.note(scheduler(of).map_err(|error| error.below("/scheduler")))?;
    }
    if let Some(of) = process.io_priority() {
        found.note(io_priority(of).map_err(|error| error.below("/ioPriority")))?;
    }
    if let Some(of) = process.exec_cpu_affinity() {
        found.under("/execCPUAffinity", |found| affinity(found, of))?;
    }
    Ok(())
}

fn cwd(cwd: &Path) -> Result<()> {
    if cwd.as_os_str().is_empty() {
        return Err(bad("/cwd", "Cwd property must not be empty"));
    }
    if !cwd.is_absolute() {
        return Err(bad("/cwd", "Cwd must be an absolute path"));
    }
    no_nul("/cwd", cwd)
}

/// One `NAME=value` of an environment. The value may be empty and may hold `=`.
pub(super) fn environment(pair: &str) -> Result<()> {
    let problem = match pair.split_once('=') {
        None => "invalid environment variable",
        Some(("", _)) => "environment variable name can't be empty",
        Some((name, _)) if name.contains('\0') => "environment variable name can't contain null(\\x00)",
        Some((_, value)) if value.contains('\0') => "environment variable value can't contain null(\\x00)",
        Some(_) => return Ok(()),
    };
    Err(bad("", format!("{problem}: {pair:?}")).hint("NAME=value"))
}

/// The id 4294967295 is -1, with which `setresuid(2)` leaves the id as it is: the process would stay root.
fn user(found: &mut Found, user: &User) -> Result<()> {
    let id = |place: &str, id: u32| match id {
        u32::MAX => Err(bad(place, "4294967295 is no id: the kernel takes it as \"unchanged\"")),
        _ => Ok(()),
    };
    found.note(id("/uid", user.uid()))?;
    found.note(id("/gid", user.gid()))?;
    each(found, "/additionalGids", user.additional_gids(), |_, gid| id("", *gid))?;
    found.note(match user.umask() {
        Some(umask) if umask > 0o777 => Err(bad("/umask", format!("umask {umask} is above 511 (octal 777)"))
            .hint("JSON has no octal numbers: the umask 022 is 18")),
        _ => Ok(()),
    })
}

fn rlimits(found: &mut Found, rlimits: &Option<Vec<PosixRlimit>>) -> Result<()> {
    let mut seen = Vec::new();
    each(found, "/rlimits", rlimits, |_, rlimit| {
        if seen.contains(&rlimit.typ()) {
            return Err(bad("/type", format!("duplicate rlimit {}", rlimit.typ())));
        }
        seen.push(rlimit.typ());
        if rlimit.soft() > rlimit.hard() {
            let (kind, soft, hard) = (rlimit.typ(), rlimit.soft(), rlimit.hard());
            return Err(bad("/soft", format!("{kind}: the soft limit {soft} is above the hard limit {hard}")));
        }
        Ok(())
    })
}

fn attributes(found: &mut Found, process: &Process) -> Result<()> {
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        found.note(Err(bad("/oomScoreAdj", format!("oomScoreAdj {score} is not between -1000 and 1000"))))?;
    }
    for (place, label) in [("/apparmorProfile", process.apparmor_profile()), ("/selinuxLabel", process.selinux_label())]
    {
        found.note(no_nul(place, Path::new(label.as_deref().unwrap_or_default())))?;
    }
    let Some(size) = process.console_size() else { return Ok(()) };
    for (place, cells) in [("/consoleSize/height", size.height()), ("/consoleSize/width", size.width())] {
        if cells > u64::from(u16::MAX) {
            found.note(Err(bad(place, format!("console size {cells} is above 65535"))))?;
        }
    }
    Ok(())
}

/// A label that the kernel would ignore is no confinement.
pub(super) fn labels(found: &mut Found, process: &Process, context: &Context) -> Result<()> {
    let given = |label: &Option<String>| label.as_ref().is_some_and(|label| !label.is_empty());
    if context.no_selinux && given(process.selinux_label()) {
        found.note(Err(no_selinux("/selinuxLabel")))?;
    }
    if context.unknown_label {
        found.note(Err(unknown_label("/selinuxLabel", process.selinux_label())))?;
    }
    if context.no_apparmor && given(process.apparmor_profile()) {
        found.note(Err(bad("/apparmorProfile", "apparmor: config provided but apparmor not supported")
            .hint("take it out, or boot with apparmor=1 (/sys/kernel/security/lsm)")))?;
    }
    Ok(())
}

pub(super) fn no_selinux(place: &str) -> Error {
    bad(place, "selinux label is specified in config, but selinux is disabled or not supported")
        .hint("take it out, or boot with selinux=1 (/sys/kernel/security/lsm)")
}

pub(super) fn unknown_label(place: &str, label: &Option<String>) -> Error {
    let label = label.as_deref().unwrap_or_default();
    bad(place, format!("the SELinux policy that is loaded does not know the label {label:?}"))
        .hint("user:role:type:level, as `ps -Z` and `ls -Z` show them; container-selinux has the types of containers")
}

/// `sched_setattr(2)`: which policy takes which of the other values.
fn scheduler(scheduler: &Scheduler) -> Result<()> {
    use LinuxSchedulerPolicy::*;
    let policy = *scheduler.policy();
    if let Some(nice) = scheduler.nice().filter(|nice| !(-20..=19).contains(nice)) {
        return Err(bad("/nice", format!("invalid scheduler.nice: {nice}")).hint("-20 to 19"));
    }
    let real_time = matches!(policy, SchedFifo | SchedRr);
    match scheduler.priority().unwrap_or(0) {
        0 if !real_time => {}
        1..=99 if real_time => {}
        priority if real_time => {
            return Err(bad("/priority", format!("scheduler.priority {priority} is not between 1 and 99")));
        }
        _ => {
            return Err(bad("/priority", "scheduler.priority can only be specified for SCHED_FIFO or SCHED_RR policy"));
        }
    }
    let deadline = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|value| value.unwrap_or(0));
    deadline_times(policy == SchedDeadline, deadline)
}

fn deadline_times(wanted: bool, times: [u64; 3]) -> Result<()> {
    let [runtime, deadline, period] = times;
    if !wanted {
        return match times.iter().zip(["/runtime", "/deadline", "/period"]).find(|(time, _)| **time != 0) {
            Some((_, place)) => {
                Err(bad(place, "scheduler runtime/deadline/period can only be specified for SCHED_DEADLINE policy"))
            }
            None => Ok(()),
        };
    }
    let ordered = runtime > 0 && runtime <= deadline && (period == 0 || deadline <= period);
    match ordered {
        true => Ok(()),
        false => Err(bad(
            "/runtime",
            format!("SCHED_DEADLINE wants 0 < runtime ({runtime}) <= deadline ({deadline}) <= period ({period})"),
        )),
    }
}

/// Two lists of processors, as cpuset(7) has them.
fn affinity(found: &mut Found, affinity: &ExecCPUAffinity) -> Result<()> {
    for (place, list) in [("/initial", affinity.initial()), ("/final", affinity.cpu_affinity_final())] {
        let mask = crate::plan::ranges::mask(list.as_deref().unwrap_or_default());
        found.note(mask.map(drop).map_err(|why| bad(place, why)))?;
    }
    Ok(())
}

/// `ioprio_set(2)`: eight levels; config.md, I/O Priority, has them for each class, though that of the idle one is not looked at.
fn io_priority(priority: &LinuxIOPriority) -> Result<()> {
    let level = priority.priority();
    match (0..=7).contains(&level) {
        true => Ok(()),
        false => Err(bad("/priority", format!("invalid ioPriority.Priority: {level}")).hint("0 (first) to 7 (last)")),
    }
}

/// The ids exist in the user namespace that is made. Of one that is joined only the kernel knows the mappings.
pub(super) fn ids_are_mapped(found: &mut Found, user: &User, linux: &Linux, context: &Context) -> Result<()> {
    let namespaces = Namespaces::of_linux(Some(linux));
    if !namespaces.has(LinuxNamespaceType::User) || namespaces.joins(LinuxNamespaceType::User) {
        return Ok(());
    }
    let (uids, gids) = (linux.uid_mappings().as_deref().unwrap_or_default(), linux.gid_mappings().as_deref());
    let gids = gids.unwrap_or_default();
    // Of mappings that are missing or wrong themselves no id can be expected to be among them.
    let told = |list: &[LinuxIdMapping]| list.is_empty() || mappings(&mut Found::first(), list).is_err();
    if !maps(uids, user.uid()) && !told(uids) {
        found.note(Err(bad("/uid", "cannot set uid to unmapped user in user namespace").hint("linux.uidMappings")))?;
    }
    if !maps(gids, user.gid()) && !told(gids) {
        found.note(Err(bad("/gid", "cannot set gid to unmapped user in user namespace").hint("linux.gidMappings")))?;
    }
    // Who maps one group without privilege must first give up setgroups(2); newgidmap(1), for several, keeps it.
    let no_setgroups = context.rootless && gids.iter().map(|mapping| u64::from(mapping.size())).sum::<u64>() < 2;
    each(found, "/additionalGids", user.additional_gids(), |_, gid| match maps(gids, *gid) {
        false if told(gids) => Ok(()),
        _ if no_setgroups => Err(bad("", "cannot set any additional groups in a rootless container")
            .hint("map several groups in linux.gidMappings, from /etc/subgid")),
        true => Ok(()),
        false => {
            Err(bad("", format!("cannot add the unmapped group {gid} in user namespace")).hint("linux.gidMappings"))
        }
    })
}
