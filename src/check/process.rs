//! `process`: what this caller may not give to it.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxNamespaceType, LinuxSchedulerPolicy, PosixRlimit, PosixRlimitType, Process};

use super::{Findings, Subject, number, resources};
use crate::error::Error;
use crate::plan::process::rlimit;
use crate::sys::creds;

const CAP_SYS_RESOURCE: u8 = 24;

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let Some(process) = subject.spec.process() else { return };
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        one_rlimit(limit, &format!("/process/rlimits/{index}/hard"), subject, findings);
    }
    capabilities(process, subject, findings);
    oom_score_adj(process, subject, findings);
    terminal(process, subject, findings);
    affinity(subject, findings);
    scheduler(process, findings);
}

/// sched(7): a policy that has a number, and no kernel.
fn scheduler(process: &Process, findings: &mut Findings) {
    if process.scheduler().as_ref().is_some_and(|scheduler| *scheduler.policy() == LinuxSchedulerPolicy::SchedIso) {
        let error = Error::new("no kernel has the policy SCHED_ISO").at("/process/scheduler/policy");
        findings.error(error.hint("SCHED_BATCH or SCHED_IDLE may do"));
    }
}

/// setrlimit(2): a hard limit is raised with CAP_SYS_RESOURCE alone, and that of descriptors never above fs.nr_open.
fn one_rlimit(limit: &PosixRlimit, pointer: &str, subject: &Subject, findings: &mut Findings) {
    let (resource, name) = rlimit(limit.typ());
    let descriptors = number("/proc/sys/fs/nr_open").and_then(|most| u64::try_from(most).ok());
    if let Some(most) = descriptors.filter(|most| limit.typ() == PosixRlimitType::RlimitNofile && limit.hard() > *most)
    {
        let error =
            Error::new(format!("{name}: the hard limit {} is above the host's fs.nr_open, {most}", limit.hard()));
        return findings.error(error.at(pointer).hint("lower it, or raise the sysctl"));
    }
    let Ok((_, have)) = crate::sys::process::getrlimit(0, resource) else { return };
    if limit.hard() > have && !subject.capable(CAP_SYS_RESOURCE) {
        findings.error(
            Error::new(format!("{name}: the hard limit {} is above the caller's own, {have}", limit.hard()))
                .at(pointer)
                .hint("raising it takes CAP_SYS_RESOURCE; lower it, or raise the caller's (ulimit -H, systemd: Limit...=)"),
        );
    }
}

/// What can't be given is left out (config.md, Linux Process), and so it is only a warning.
fn capabilities(process: &Process, subject: &Subject, findings: &mut Findings) {
    let Some(given) = process.capabilities() else { return };
    let permitted = given.permitted().clone().unwrap_or_default();
    let inheritable = given.inheritable().clone().unwrap_or_default();
    for (name, set) in [
        ("bounding", given.bounding()),
        ("effective", given.effective()),
        ("inheritable", given.inheritable()),
        ("permitted", given.permitted()),
        ("ambient", given.ambient()),
    ] {
        let pointer = format!("/process/capabilities/{name}");
        let mut set: Vec<Capability> = set.iter().flatten().copied().collect();
        set.sort_by_key(|capability| number_of(*capability));
        lacking(name, &set, &pointer, subject, findings);
        let beyond = |capability: &Capability| match name {
            "effective" => !permitted.contains(capability),
            "ambient" => !permitted.contains(capability) || !inheritable.contains(capability),
            _ => false,
        };
        let beyond: Vec<_> = set.iter().copied().filter(beyond).collect();
        if !beyond.is_empty() {
            let must = if name == "ambient" { "permitted and inheritable" } else { "permitted" };
            let text = format!("left out, since what is {name} must be {must}, too: {}", names(&beyond));
            findings.warning(Error::new(text).at(pointer));
        }
    }
}

fn number_of(capability: Capability) -> u8 {
    let known = format!("CAP_{capability}").parse::<caps::Capability>();
    known.map_or(u8::MAX, |known| known.index())
}

fn names(list: &[Capability]) -> String {
    list.iter().map(|capability| format!("CAP_{capability}")).collect::<Vec<_>>().join(", ")
}

fn lacking(name: &str, set: &[Capability], pointer: &str, subject: &Subject, findings: &mut Findings) {
    let unknown: Vec<_> =
        set.iter().copied().filter(|capability| number_of(*capability) > subject.facts.last_capability).collect();
    if !unknown.is_empty() {
        findings
            .warning(Error::new(format!("left out, since this kernel does not know {}", names(&unknown))).at(pointer));
    }
    // Who enters a new user namespace has all of them there, and an ordinary user must.
    if subject.new_user_namespace() || subject.facts.rootless {
        return;
    }
    let have = |capability: &Capability| match name {
        "bounding" => creds::prctl(libc::PR_CAPBSET_READ, u64::from(number_of(*capability)), 0) == Ok(1),
        _ => subject.capabilities & 1u64.checked_shl(number_of(*capability).into()).unwrap_or(0) != 0,
    };
    let missing: Vec<_> =
        set.iter().copied().filter(|capability| !unknown.contains(capability) && !have(capability)).collect();
    if !missing.is_empty() {
        findings.warning(
            Error::new(format!("left out, since the caller does not have {}", names(&missing))).at(pointer).hint(
                "a process can give no more than it has (capabilities(7)); see CapPrm and CapBnd in /proc/self/status",
            ),
        );
    }
}

/// proc_pid_oom_score_adj(5). The least value that was set with CAP_SYS_RESOURCE is the bound, and can't be read.
fn oom_score_adj(process: &Process, subject: &Subject, findings: &mut Findings) {
    let (Some(wanted), Some(own)) = (process.oom_score_adj(), number("/proc/self/oom_score_adj")) else { return };
    if i64::from(wanted) >= own || subject.capable(CAP_SYS_RESOURCE) {
        return;
    }
    let error = Error::new(format!("oomScoreAdj {wanted} is below the caller's own, {own}"))
        .at("/process/oomScoreAdj")
        .hint("lowering it takes CAP_SYS_RESOURCE; leave it out, or raise it");
    // From above 0 a process may often go back to what it once had.
    if wanted < 0 { findings.error(error) } else { findings.warning(error) }
}

fn terminal(process: &Process, subject: &Subject, findings: &mut Findings) {
    if process.terminal() != Some(true) {
        if process.console_size().is_some() {
            let text = "consoleSize has no effect without a terminal (process.terminal)";
            findings.note(Error::new(text).at("/process/consoleSize"));
        }
        return;
    }
    findings.note(
        Error::new("the process has a terminal: `create` and `run --detach` need --console-socket")
            .at("/process/terminal")
            .hint("a foreground `run` needs none"),
    );
    let mounts = subject.spec.mounts().iter().flatten();
    let mut on_pts = mounts.filter(|mount| {
        let at = mount.destination();
        at == Path::new("/dev/pts") || (mount.typ().as_deref() == Some("bind") && at == Path::new("/dev"))
    });
    if subject.namespace(LinuxNamespaceType::Mount).is_some() && on_pts.next().is_none() {
        findings.warning(
            Error::new("the process has a terminal, and nothing is mounted on /dev/pts")
                .at("/process/terminal")
                .hint("add a mount of type devpts with the options newinstance and ptmxmode=0666"),
        );
    }
}

/// `execCPUAffinity` is for `exec`.
fn affinity(subject: &Subject, findings: &mut Findings) {
    let Some(affinity) = subject.spec.process().as_ref().and_then(|process| process.exec_cpu_affinity().as_ref())
    else {
        return;
    };
    for (key, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        let pointer = format!("/process/execCPUAffinity/{key}");
        resources::cpus(list.as_deref().unwrap_or_default(), &pointer, findings);
    }
}
