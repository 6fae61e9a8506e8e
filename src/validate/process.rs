//! `process`: what is run, as whom, and with which attributes.

use std::path::Path;

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxSchedulerPolicy, PosixRlimit, Process, Scheduler,
    User,
};

use super::{Context, LinuxNamespaceType, Namespaces, bad, each, maps, no_nul, strings, under};
use crate::error::{Error, Result};

pub(super) fn process(process: &Process) -> Result<()> {
    cwd(process.cwd())?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(bad("/args", "args must not be empty"));
    }
    strings("/args", process.args())?;
    each("/env", process.env(), |pair| environment(pair))?;
    under("/user", user(process.user()))?;
    rlimits(process.rlimits())?;
    attributes(process)?;
    process.scheduler().as_ref().map_or(Ok(()), |of| under("/scheduler", scheduler(of)))?;
    process.io_priority().as_ref().map_or(Ok(()), |of| under("/ioPriority", io_priority(of)))?;
    process.exec_cpu_affinity().as_ref().map_or(Ok(()), |of| under("/execCPUAffinity", affinity(of)))
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
fn user(user: &User) -> Result<()> {
    let id = |place: &str, id: u32| match id {
        u32::MAX => Err(bad(place, "4294967295 is no id: the kernel takes it as \"unchanged\"")),
        _ => Ok(()),
    };
    id("/uid", user.uid())?;
    id("/gid", user.gid())?;
    each("/additionalGids", user.additional_gids(), |gid| id("", *gid))?;
    match user.umask() {
        Some(umask) if umask > 0o777 => Err(bad("/umask", format!("umask {umask} is above 511 (octal 777)"))
            .hint("JSON has no octal numbers: the umask 022 is 18")),
        _ => Ok(()),
    }
}

fn rlimits(rlimits: &Option<Vec<PosixRlimit>>) -> Result<()> {
    let mut seen = Vec::new();
    each("/rlimits", rlimits, |rlimit| {
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

fn attributes(process: &Process) -> Result<()> {
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        return Err(bad("/oomScoreAdj", format!("oomScoreAdj {score} is not between -1000 and 1000")));
    }
    for (place, label) in [("/apparmorProfile", process.apparmor_profile()), ("/selinuxLabel", process.selinux_label())]
    {
        no_nul(place, Path::new(label.as_deref().unwrap_or_default()))?;
    }
    let Some(size) = process.console_size() else { return Ok(()) };
    for (place, cells) in [("/consoleSize/height", size.height()), ("/consoleSize/width", size.width())] {
        if cells > u64::from(u16::MAX) {
            return Err(bad(place, format!("console size {cells} is above 65535")));
        }
    }
    Ok(())
}

/// A label that the kernel would ignore is no confinement.
pub(super) fn labels(process: &Process, context: &Context) -> Result<()> {
    let given = |label: &Option<String>| label.as_ref().is_some_and(|label| !label.is_empty());
    if context.no_selinux && given(process.selinux_label()) {
        return Err(no_selinux("/selinuxLabel"));
    }
    if context.no_apparmor && given(process.apparmor_profile()) {
        return Err(bad("/apparmorProfile", "apparmor: config provided but apparmor not supported")
            .hint("the kernel has AppArmor not enabled (/sys/module/apparmor/parameters/enabled)"));
    }
    Ok(())
}

pub(super) fn no_selinux(place: &str) -> Error {
    bad(place, "selinux label is specified in config, but selinux is disabled or not supported")
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
fn affinity(affinity: &ExecCPUAffinity) -> Result<()> {
    for (place, list) in [("/initial", affinity.initial()), ("/final", affinity.cpu_affinity_final())] {
        crate::plan::ranges::mask(list.as_deref().unwrap_or_default()).map_err(|why| bad(place, why))?;
    }
    Ok(())
}

/// `ioprio_set(2)`: eight levels in each class; the idle class has none.
fn io_priority(priority: &LinuxIOPriority) -> Result<()> {
    let level = priority.priority();
    let fits = (0..=7).contains(&level) || priority.class() == IOPriorityClass::IoprioClassIdle;
    match fits {
        true => Ok(()),
        false => Err(bad("/priority", format!("invalid ioPriority.Priority: {level}")).hint("0 (first) to 7 (last)")),
    }
}

/// The ids exist in the user namespace that is made. Of one that is joined only the kernel knows the mappings.
pub(super) fn ids_are_mapped(user: &User, linux: &Linux, context: &Context) -> Result<()> {
    let namespaces = Namespaces::of_linux(Some(linux));
    if !namespaces.has(LinuxNamespaceType::User) || namespaces.joins(LinuxNamespaceType::User) {
        return Ok(());
    }
    let (uids, gids) = (linux.uid_mappings().as_deref().unwrap_or_default(), linux.gid_mappings().as_deref());
    let gids = gids.unwrap_or_default();
    if !maps(uids, user.uid()) {
        return Err(bad("/uid", "cannot set uid to unmapped user in user namespace").hint("linux.uidMappings"));
    }
    if !maps(gids, user.gid()) {
        return Err(bad("/gid", "cannot set gid to unmapped user in user namespace").hint("linux.gidMappings"));
    }
    // Who maps one group without privilege must first give up setgroups(2); newgidmap(1), for several, keeps it.
    let no_setgroups = context.rootless && gids.iter().map(|mapping| u64::from(mapping.size())).sum::<u64>() < 2;
    each("/additionalGids", user.additional_gids(), |gid| match maps(gids, *gid) {
        _ if no_setgroups => Err(bad("", "cannot set any additional groups in a rootless container")
            .hint("map several groups in linux.gidMappings, from /etc/subgid")),
        true => Ok(()),
        false => {
            Err(bad("", format!("cannot add the unmapped group {gid} in user namespace")).hint("linux.gidMappings"))
        }
    })
}
