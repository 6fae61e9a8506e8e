//! When and where the process runs: `process.scheduler`, `ioPriority` and `execCPUAffinity`, `linux.memoryPolicy` and
//! `linux.personality`.

use std::fmt::{self, Display, Formatter};

use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};

use super::op::Op;
use super::{Steps, ranges};
use crate::error::{Error, Result};
use crate::sys::sched::SchedAttr;

/// All but the affinity, which is `exec`'s alone.
pub(super) fn plan(spec: &Spec, process: &Process, child: &mut Steps) -> Result<()> {
    let linux = spec.linux().as_ref();
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) {
        child.push(memory_policy(policy)?, "/linux/memoryPolicy");
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        child.push(Op::Personality { persona: persona(personality.domain()) }, "/linux/personality");
    }
    if let Some(priority) = process.io_priority() {
        let level = i32::try_from(priority.priority()).unwrap_or(-1);
        child.push(Op::IoPriority { class: io_class(priority.class()), level }, "/process/ioPriority");
    }
    if let Some(scheduler) = process.scheduler() {
        child.push(Op::Scheduler(attr(scheduler)), "/process/scheduler");
    }
    Ok(())
}

fn cpus(process: &Process, which: &str) -> Result<Vec<u64>> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let list = affinity.and_then(|affinity| match which {
        "initial" => affinity.initial().as_deref(),
        _ => affinity.cpu_affinity_final().as_deref(),
    });
    ranges::mask(list.unwrap_or_default())
        .map_err(|why| Error::new(why).at(format!("/process/execCPUAffinity/{which}")))
}

/// Until the process is in the container's cgroup.
pub(super) fn initial_cpus(process: &Process) -> Result<Vec<u64>> {
    cpus(process, "initial")
}

/// From then on.
pub(super) fn final_cpus(process: &Process, child: &mut Steps) -> Result<()> {
    let cpus = cpus(process, "final")?;
    if !cpus.is_empty() {
        child.push(Op::Affinity { cpus }, "/process/execCPUAffinity/final");
    }
    Ok(())
}

fn persona(domain: LinuxPersonalityDomain) -> u64 {
    match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    }
}

/// `IOPRIO_CLASS_*` of ioprio_set(2).
fn io_class(class: IOPriorityClass) -> i32 {
    match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    }
}

/// `<linux/personality.h>`.
const PER_LINUX32: u64 = 0x0008;

const POLICIES: &[(LinuxSchedulerPolicy, u32, &str)] = &[
    (LinuxSchedulerPolicy::SchedOther, 0, "SCHED_OTHER"),
    (LinuxSchedulerPolicy::SchedFifo, 1, "SCHED_FIFO"),
    (LinuxSchedulerPolicy::SchedRr, 2, "SCHED_RR"),
    (LinuxSchedulerPolicy::SchedBatch, 3, "SCHED_BATCH"),
    (LinuxSchedulerPolicy::SchedIso, 4, "SCHED_ISO"),
    (LinuxSchedulerPolicy::SchedIdle, 5, "SCHED_IDLE"),
    (LinuxSchedulerPolicy::SchedDeadline, 6, "SCHED_DEADLINE"),
];

const UTIL_CLAMPS: u64 = 0x60;

fn flag(flag: &LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn attr(scheduler: &Scheduler) -> SchedAttr {
    let policy = POLICIES.iter().find(|(policy, ..)| policy == scheduler.policy()).map_or(0, |(_, number, _)| *number);
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, each| flags | flag(each));
    // A kernel before 5.3 refuses a longer struct than it knows, unless the rest of it is zero.
    let size = if flags & UTIL_CLAMPS == 0 { SchedAttr::SIZE_VER0 } else { size_of::<SchedAttr>() as u32 };
    SchedAttr {
        size,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(scheduler.priority().unwrap_or(0)).unwrap_or(0),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    }
}

impl Display for SchedAttr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = POLICIES.iter().find(|(_, number, _)| *number == self.policy).map_or("?", |(.., name)| name);
        write!(f, "sched_setattr {name}")?;
        for (word, value) in [("nice", i64::from(self.nice)), ("priority", i64::from(self.priority))] {
            if value != 0 {
                write!(f, " {word} {value}")?;
            }
        }
        for (word, value) in [("runtime", self.runtime), ("deadline", self.deadline), ("period", self.period)] {
            if value != 0 {
                write!(f, " {word} {value} ns")?;
            }
        }
        if self.flags != 0 { write!(f, " flags {:#x}", self.flags) } else { Ok(()) }
    }
}

/// The modes of set_mempolicy(2): number, name, and whether it takes nodes.
const MODES: &[(MemoryPolicyModeType, u32, &str, Nodes)] = &[
    (MemoryPolicyModeType::MpolDefault, 0, "MPOL_DEFAULT", Nodes::None),
    (MemoryPolicyModeType::MpolPreferred, 1, "MPOL_PREFERRED", Nodes::Any),
    (MemoryPolicyModeType::MpolBind, 2, "MPOL_BIND", Nodes::Some),
    (MemoryPolicyModeType::MpolInterleave, 3, "MPOL_INTERLEAVE", Nodes::Some),
    (MemoryPolicyModeType::MpolLocal, 4, "MPOL_LOCAL", Nodes::None),
    (MemoryPolicyModeType::MpolPreferredMany, 5, "MPOL_PREFERRED_MANY", Nodes::Some),
    (MemoryPolicyModeType::MpolWeightedInterleave, 6, "MPOL_WEIGHTED_INTERLEAVE", Nodes::Some),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    None,
    Some,
    Any,
}

const MODE_FLAGS: &[(MemoryPolicyFlagType, u32, &str)] = &[
    (MemoryPolicyFlagType::MpolFNumaBalancing, 1 << 13, "MPOL_F_NUMA_BALANCING"),
    (MemoryPolicyFlagType::MpolFRelativeNodes, 1 << 14, "MPOL_F_RELATIVE_NODES"),
    (MemoryPolicyFlagType::MpolFStaticNodes, 1 << 15, "MPOL_F_STATIC_NODES"),
];

/// The names of every mode and of every flag, for `features`.
pub(crate) fn memory_policies() -> (Vec<&'static str>, Vec<&'static str>) {
    (MODES.iter().map(|mode| mode.2).collect(), MODE_FLAGS.iter().map(|flag| flag.2).collect())
}

/// `MPOL_BIND|MPOL_F_STATIC_NODES`.
pub(super) fn memory_policy_words(mode: u32, flags: u32) -> String {
    let mode = MODES.iter().filter(|known| known.1 == mode).map(|known| known.2);
    let flags = MODE_FLAGS.iter().filter(|known| flags & known.1 != 0).map(|known| known.2);
    mode.chain(flags).collect::<Vec<_>>().join("|")
}

/// The rules of set_mempolicy(2), which says EINVAL to whatever breaks one of them.
pub(crate) fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Op> {
    let wrong = |member: &str, why: String| {
        Error::new(format!("invalid memory policy: {why}")).at(format!("/linux/memoryPolicy/{member}"))
    };
    let known = MODES.iter().find(|known| known.0 == policy.mode());
    let (_, mode, name, takes) = *known.ok_or_else(|| wrong("mode", "unknown mode".to_owned()))?;
    let nodes = ranges::mask(policy.nodes().as_deref().unwrap_or_default()).map_err(|why| wrong("nodes", why))?;
    match takes {
        Nodes::None if !nodes.is_empty() => return Err(wrong("nodes", format!("{name} takes no nodes"))),
        Nodes::Some if nodes.is_empty() => return Err(wrong("nodes", format!("{name} needs nodes"))),
        _ => {}
    }
    let given = policy.flags().iter().flatten();
    let flags = given
        .filter_map(|flag| MODE_FLAGS.iter().find(|known| known.0 == *flag))
        .fold(0, |flags, known| flags | known.1);
    let (balancing, exclusive) = (1 << 13, (1 << 14) | (1 << 15));
    if flags & exclusive == exclusive {
        return Err(wrong("flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other".to_owned()));
    }
    if flags & exclusive != 0 && nodes.is_empty() && takes == Nodes::Any {
        return Err(wrong("flags", format!("without nodes {name} takes no flag about nodes")));
    }
    if flags != 0 && takes == Nodes::None {
        return Err(wrong("flags", format!("{name} takes no flags")));
    }
    if flags & balancing != 0 && !matches!(name, "MPOL_BIND" | "MPOL_PREFERRED_MANY") {
        return Err(wrong("flags", format!("MPOL_F_NUMA_BALANCING goes with MPOL_BIND, not with {name}")));
    }
    Ok(Op::MemoryPolicy { mode, flags, nodes })
}
