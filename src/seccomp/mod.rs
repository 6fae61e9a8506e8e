//! From the `linux.seccomp` section to one classic BPF program.
//!
//! The program is a balanced search tree over system call numbers for each architecture, numbers with the same answer
//! merged into ranges: the kernel verifies and runs a fraction of the instructions of a linear list of comparisons.
//! Rules mean what runc and libseccomp make of them (see rules.rs); system calls newer than anything in the profile
//! answer `ENOSYS`, as runc has it, so that a C library falls back to an older call instead of giving up.

mod abi;
mod bpf;
mod diff;
mod evaluate;
mod lint;
mod meaning;
mod program;
mod record;
mod rules;
mod syscalls;

use std::path::PathBuf;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall};

use self::abi::Syscall;
pub use self::diff::{Difference, abis as differing_abis, diff};
pub use self::evaluate::answer;
pub use self::lint::lint;
pub use self::meaning::{Action, Answer, Case, Table, Why, meaning, meaning_for};
pub use self::record::{Calls, Reply, recording};
pub use self::rules::Condition;
use self::rules::{AbiRules, Rule};
use crate::error::{Error, Result};

/// Where the section stands in a configuration.
pub const POINTER: &str = "/linux/seccomp";

/// A filter ready for `seccomp(SECCOMP_SET_MODE_FILTER)`.
#[derive(Debug, Clone)]
pub struct Filter {
    /// One program of at most 4096 instructions.
    pub program: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`; `NEW_LISTENER` is among them when a rule notifies.
    pub flags: u32,
    /// Whether a rule notifies, so that loading the filter returns the descriptor of a listener.
    pub notify: bool,
    /// The socket of the seccomp agent, which gets the listener.
    pub listener_path: Option<PathBuf>,
    /// Opaque words for the agent.
    pub listener_metadata: Option<String>,
    /// What was left out, such as system calls that no table knows: worth a log record, no failure.
    pub warnings: Vec<String>,
}

/// Compiles `section` for this machine. `None`: everything is allowed and nothing was to be loaded.
///
/// Errors point below `/linux/seccomp`. Architectures that this machine's kernel cannot run are left out, for a filter
/// never meets them.
pub fn compile(section: &LinuxSeccomp) -> Result<Option<Filter>> {
    compile_for(section, native()?)
}

fn native() -> Result<Arch> {
    abi::native()
        .ok_or_else(|| Error::new(format!("no system call table for {} machines", std::env::consts::ARCH)).at(POINTER))
}

/// Every error of `section`, in its order, where [`compile`] ends at the first. What only the whole shows comes when
/// there is no other.
pub fn findings(section: &LinuxSeccomp) -> Vec<Error> {
    let first = [default_action(section).err(), check_listener(section).err()];
    let mut errors: Vec<Error> = first.into_iter().flatten().collect();
    for (index, syscall) in section.syscalls().iter().flatten().enumerate() {
        errors.extend(rule(syscall, format!("{POINTER}/syscalls/{index}")).err());
    }
    if errors.is_empty() {
        errors.extend(compile(section).err());
    }
    errors
}

/// Compiles `section` as [`compile`] does, for a machine whose kernel is `native`.
pub fn compile_for(section: &LinuxSeccomp, native: Arch) -> Result<Option<Filter>> {
    let syscalls = section.syscalls().as_deref().unwrap_or_default();
    if section.default_action() == LinuxSeccompAction::ScmpActAllow
        && syscalls.is_empty()
        && section.architectures().is_none()
    {
        return Ok(None);
    }
    let Compiled { abis, rules, default, enosys, mut warnings } = compiled_rules(section, native)?;
    let notify = syscalls.iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    let program = program::build(abis, &rules, default, enosys, abi::is_big_endian(native))?;
    Ok(Some(Filter {
        program,
        flags: flags(section, notify, &mut warnings),
        notify,
        listener_path: section.listener_path().clone(),
        listener_metadata: section.listener_metadata().clone(),
        warnings,
    }))
}

/// The section, read and sorted by ABI.
struct Compiled {
    abis: Vec<(u32, AbiRules)>,
    rules: Vec<Rule>,
    default: u32,
    /// Calls that are newer than the profile get `ENOSYS`.
    enosys: bool,
    warnings: Vec<String>,
}

fn compiled_rules(section: &LinuxSeccomp, native: Arch) -> Result<Compiled> {
    check_listener(section)?;
    let default = default_action(section)?;
    let mut abis = abis(section, native)?;
    let mut warnings = Vec::new();
    let syscalls = section.syscalls().as_deref().unwrap_or_default();
    let rules = rules(syscalls, default, &mut abis, &mut warnings)?;
    Ok(Compiled { abis, rules, default, enosys: answers_enosys(section), warnings })
}

/// The specification: metadata without a path is an error; a path that no rule uses is ignored.
fn check_listener(section: &LinuxSeccomp) -> Result<()> {
    let path = section.listener_path().as_deref().unwrap_or("".as_ref());
    if path.as_os_str().is_empty() && section.listener_metadata().as_deref().is_some_and(|data| !data.is_empty()) {
        return Err(Error::new("listenerMetadata without listenerPath").at(format!("{POINTER}/listenerMetadata")));
    }
    Ok(())
}

fn default_action(section: &LinuxSeccomp) -> Result<u32> {
    if section.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::new("SCMP_ACT_NOTIFY cannot be used as default action")
            .at(format!("{POINTER}/defaultAction"))
            .hint("the agent would have to answer the very calls that hand it the listener; notify for single calls"));
    }
    encode(section.default_action(), section.default_errno_ret(), format!("{POINTER}/defaultErrnoRet"))
}

/// The return value of a filter for `action` (linux/seccomp.h).
fn encode(action: LinuxSeccompAction, errno: Option<u32>, pointer: String) -> Result<u32> {
    let takes_data = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    let Some(data) = errno else { return Ok(action.as_u32(None)) };
    if !takes_data {
        return Err(Error::new(format!("{action} takes no errno"))
            .at(pointer)
            .hint("only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a number"));
    }
    if data > libc::SECCOMP_RET_DATA {
        return Err(Error::new(format!("errno {data} does not fit a filter's 16 bits")).at(pointer));
    }
    Ok(action.as_u32(Some(data)))
}

/// The ABIs that the filter lets speak: the machine's own, and those of its family that the section names.
fn abis(section: &LinuxSeccomp, native: Arch) -> Result<Vec<(u32, AbiRules)>> {
    let family = abi::family(native).ok_or_else(|| {
        Error::new(format!("no system call table for {native}")).at(format!("{POINTER}/architectures"))
    })?;
    let named = section.architectures().as_deref().unwrap_or_default();
    let wanted = family.iter().filter(|(arch, _)| *arch == native || named.contains(arch));
    Ok(wanted.map(|(arch, abi)| (abi::audit_arch(*arch), AbiRules::new(*abi))).collect())
}

/// Reads the rules and files each under the ABIs that have its system calls.
fn rules(
    syscalls: &[LinuxSyscall],
    default: u32,
    abis: &mut [(u32, AbiRules)],
    warnings: &mut Vec<String>,
) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(syscalls.len());
    for (index, syscall) in syscalls.iter().enumerate() {
        let pointer = format!("{POINTER}/syscalls/{index}");
        let (action, rule) = rule(syscall, pointer.clone())?;
        // A rule that repeats the default says nothing, not even against other rules: so runc, as libseccomp
        // refuses it.
        let says = (action != default).then_some(index);
        for name in syscall.names() {
            match Syscall::named(name) {
                Some(call) => abis.iter_mut().for_each(|(_, rules)| rules.mention(call, says)),
                None => warnings.push(format!("unknown system call {name:?} ignored, from {pointer}/names")),
            }
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// One rule with its action encoded.
fn rule(syscall: &LinuxSyscall, pointer: String) -> Result<(u32, Rule)> {
    check_names(syscall, &pointer)?;
    let action = encode(syscall.action(), syscall.errno_ret(), format!("{pointer}/errnoRet"))?;
    Ok((action, Rule::new(syscall, action, pointer)?))
}

fn check_names(syscall: &LinuxSyscall, pointer: &str) -> Result<()> {
    if syscall.names().is_empty() {
        return Err(Error::new("a rule without system calls").at(format!("{pointer}/names")));
    }
    if let Some(index) = syscall.names().iter().position(String::is_empty) {
        return Err(Error::new("empty string is not a valid system call").at(format!("{pointer}/names/{index}")));
    }
    if syscall.action() != LinuxSeccompAction::ScmpActNotify {
        return Ok(());
    }
    match syscall.names().iter().position(|name| name == "write") {
        Some(index) => Err(Error::new("SCMP_ACT_NOTIFY cannot be used for the write syscall")
            .at(format!("{pointer}/names/{index}"))
            .hint("the runtime reports with write(2) after the filter is loaded, before any agent could answer")),
        None => Ok(()),
    }
}

/// Whether system calls newer than the profile get `ENOSYS`: where they would be denied otherwise, but not by that very
/// errno. A tracer (`SCMP_ACT_TRACE`) can answer for itself.
fn answers_enosys(section: &LinuxSeccomp) -> bool {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
    !matches!(section.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace)
        && section.default_errno_ret() != Some(libc::ENOSYS as u32)
}

/// The flags of seccomp(2). No list at all means `SPEC_ALLOW`, as for runc and crun.
fn flags(section: &LinuxSeccomp, notify: bool, warnings: &mut Vec<String>) -> u32 {
    let named = section.flags().as_deref().unwrap_or(&[LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow]);
    let mut flags = named.iter().fold(0, |flags, flag| flags | flag_bit(*flag));
    if notify {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        // A listener and TSYNC's thread id would share one return value (Linux 5.7).
        if flags & libc::SECCOMP_FILTER_FLAG_TSYNC != 0 {
            flags |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
        }
    } else if flags & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 {
        flags &= !libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        warnings.push(format!("WAIT_KILLABLE_RECV without a rule that notifies ignored, from {POINTER}/flags"));
    }
    flags as u32
}

/// The bit of `seccomp(2)` for a flag of the section.
pub(crate) fn flag_bit(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    }
}
