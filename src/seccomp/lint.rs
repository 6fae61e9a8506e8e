//! What is void, mistaken or dangerous in a profile.

use std::collections::HashSet;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};

use super::abi::Syscall;
use super::meaning::{Answer, Table, Why};
use super::{POINTER, findings, meaning};
use crate::error::Error;
use crate::findings::{Finding, Severity};

/// System calls by which containers have been left, or which reach far into the kernel: the first of each group names it.
/// A program that is no part of the system hardly needs them.
const FAR_REACHING: &[(&str, &[&str])] = &[
    (
        "mounts can be made and changed",
        &[
            "mount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
        ],
    ),
    ("files outside of the container can be opened by their handles", &["open_by_handle_at"]),
    ("namespaces can be made and entered, with every capability in a new user namespace", &["setns", "unshare"]),
    ("code can be loaded into the kernel", &["init_module", "finit_module", "delete_module", "create_module"]),
    ("the kernel can be replaced or the machine stopped", &["kexec_load", "kexec_file_load", "reboot"]),
    ("programs run in the kernel", &["bpf"]),
    ("the kernel's counters and tracing can be read", &["perf_event_open", "lookup_dcookie", "syslog"]),
    ("pages can be held back in the middle of a kernel's copy, which widens races", &["userfaultfd"]),
    ("calls are made where no filter sees them", &["io_uring_setup", "io_uring_enter", "io_uring_register"]),
    ("keyrings are not in a namespace", &["keyctl", "add_key", "request_key"]),
    ("input and output ports can be reached", &["iopl", "ioperm"]),
    ("swap, quotas, accounting and clocks are the host's", HOSTS),
    ("whole file systems can be watched", &["fanotify_init"]),
];

const HOSTS: &[&str] = &[
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "acct",
    "settimeofday",
    "stime",
    "clock_settime",
    "clock_settime64",
    "nfsservctl",
    "vhangup",
];

/// What a filter may well let through, and a hardened one does not.
const SURFACE: &[(&str, &[&str])] = &[
    ("other processes of the same user can be read and changed", PEERS),
    ("file handles can be had, half of what open_by_handle_at takes", &["name_to_handle_at"]),
    ("a root of one's own is a way out of chroot(2) for who has CAP_SYS_CHROOT", &["chroot"]),
    ("device nodes can be made, for who has CAP_MKNOD", &["mknod", "mknodat"]),
];

const PEERS: &[&str] = &["ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"];

/// `CLONE_NEW*`, as clone(2) takes them.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Arguments of which the kernel reads the lower 32 bits alone, where filters compare all 64.
const NARROW: &[(&str, u32)] = &[
    ("socket", 0),
    ("socket", 1),
    ("socket", 2),
    ("socketpair", 0),
    ("ioctl", 1),
    ("fcntl", 1),
    ("prctl", 0),
    ("personality", 0),
    ("setsockopt", 1),
    ("setsockopt", 2),
    ("keyctl", 0),
    ("bpf", 0),
    ("clone", 0),
    ("mknod", 1),
    ("mknodat", 2),
];

/// What to look out for in `section`; `place` is where it stands: `/linux/seccomp`, or nothing for a file of its own.
pub fn lint(section: &LinuxSeccomp, place: &str) -> Vec<Finding> {
    let mut lint = Lint { list: Vec::new(), place };
    findings(section).into_iter().for_each(|error| lint.add(Severity::Error, error));
    lint.names(section);
    if let Ok(tables) = meaning(section) {
        lint.rules(section, &tables);
        lint.defaults(section);
        lint.starts(&tables);
        lint.far_reaching(&tables);
        lint.clones(&tables);
        lint.narrow(section, &tables);
        lint.multiplexed(&tables);
    }
    lint.list
}

type Reached = (Severity, String, String);

struct Lint<'a> {
    list: Vec<Finding>,
    place: &'a str,
}

impl Lint<'_> {
    fn add(&mut self, severity: Severity, what: Error) {
        let pointer = what.pointer.as_deref().map(|pointer| pointer.strip_prefix(POINTER).unwrap_or(pointer));
        let what = Error { pointer: pointer.map(|rest| format!("{}{rest}", self.place)), ..what };
        self.list.push(Finding { severity, what });
    }

    fn warn(&mut self, what: Error) {
        self.add(Severity::Warning, what);
    }

    fn note(&mut self, what: Error) {
        self.add(Severity::Note, what);
    }

    fn names(&mut self, section: &LinuxSeccomp) {
        for (index, rule) in section.syscalls().iter().flatten().enumerate() {
            let mut seen = HashSet::new();
            for (place, name) in rule.names().iter().enumerate() {
                let pointer = format!("{POINTER}/syscalls/{index}/names/{place}");
                if Syscall::named(name).is_none() {
                    let error = Error::new(format!("no kernel has a system call {name:?}")).at(pointer);
                    self.warn(error.hint("it is ignored: a name that is written wrong, or one that was never merged"));
                } else if !seen.insert(name) {
                    self.note(Error::new(format!("{name} is named twice in this rule")).at(pointer));
                }
            }
        }
    }

    /// Rules that decide nothing, and answers that are not what they look like.
    fn rules(&mut self, section: &LinuxSeccomp, tables: &[Table]) {
        for (index, rule) in section.syscalls().iter().flatten().enumerate() {
            let pointer = format!("{POINTER}/syscalls/{index}");
            if rule.action() == LinuxSeccompAction::ScmpActErrno && rule.errno_ret() == Some(0) {
                let error = Error::new("errno 0 is no error: the caller takes the call for done");
                self.warn(error.at(format!("{pointer}/errnoRet")));
            }
            if rule.action() == section.default_action() && rule.errno_ret() == section.default_errno_ret() {
                self.note(Error::new("this rule says what the default says, and so nothing").at(pointer));
                continue;
            }
            for (place, name) in rule.names().iter().enumerate() {
                let Some((other, same)) = shadow(section, tables, name, index) else { continue };
                let severity = if same { Severity::Note } else { Severity::Warning };
                self.add(
                    severity,
                    Error::new(format!("{name}: this rule never decides, {other} does"))
                        .at(format!("{pointer}/names/{place}"))
                        .hint("the first rule without conditions decides alone, whatever comes before or after it"),
                );
            }
        }
    }

    fn defaults(&mut self, section: &LinuxSeccomp) {
        use LinuxSeccompAction::{ScmpActAllow, ScmpActLog};
        if matches!(section.default_action(), ScmpActAllow | ScmpActLog) {
            self.warn(
                Error::new("what no rule names is let through, and so is what later kernels will have")
                    .at(format!("{POINTER}/defaultAction"))
                    .hint("a list of what is allowed, with SCMP_ACT_ERRNO as the default, does not age that way"),
            );
        }
        let foreign = section.architectures().iter().flatten();
        let narrow = [Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchArm];
        if foreign.into_iter().any(|arch| narrow.contains(arch)) {
            self.note(
                Error::new("32-bit system calls are let through as well")
                    .at(format!("{POINTER}/architectures"))
                    .hint("programs of 64 bits need none of these ABIs, and each is a second way into the kernel"),
            );
        }
    }

    /// What every program needs to begin and to end.
    fn starts(&mut self, tables: &[Table]) {
        let native = tables.first();
        for name in ["execve", "exit_group", "rt_sigreturn"] {
            if native.is_some_and(|table| table.answers.get(name).is_some_and(|answer| !answer.lets_any_through())) {
                let error = Error::new(format!("{name} is not let through: no program can do without it"));
                self.warn(error.at(self.rule_of(tables, name)));
            }
        }
    }

    fn rule_of(&self, tables: &[Table], name: &str) -> String {
        let answer = tables.iter().find_map(|table| table.answers.get(name));
        match answer.and_then(|answer| answer.cases.first()).map(|case| case.why) {
            Some(Why::Rule(index)) => format!("{POINTER}/syscalls/{index}"),
            _ => format!("{POINTER}/defaultAction"),
        }
    }

    fn far_reaching(&mut self, tables: &[Table]) {
        for (severity, list) in [(Severity::Warning, FAR_REACHING), (Severity::Note, SURFACE)] {
            for (why, names) in list {
                let reached = names.iter().filter_map(|name| self.reached(tables, severity, name)).collect::<Vec<_>>();
                for group in reached.chunk_by(|one, other| one.1 == other.1) {
                    let names: Vec<&str> = group.iter().map(|(name, _)| *name).collect();
                    let (severity, how, pointer) = group[0].1.clone();
                    let verb = if names.len() == 1 { "is" } else { "are" };
                    let text = format!("{} {verb} let through{how}: {why}", names.join(", "));
                    self.add(severity, Error::new(text).at(pointer));
                }
            }
        }
        let terminals = |answer: &Answer| answer.to(&[0, libc::TIOCSTI, 0, 0, 0, 0]).action.lets_through();
        if tables.first().and_then(|table| table.answers.get("ioctl")).is_some_and(terminals) {
            let error = Error::new("ioctl lets TIOCSTI through, which types on a terminal that is shared");
            let error = error.at(self.rule_of(tables, "ioctl"));
            self.note(error.hint("kernels before 6.2, and those with dev.tty.legacy_tiocsti, still have it"));
        }
    }

    /// How a call is let through, if it is: how bad that is, under which conditions, and by which rule.
    fn reached<'n>(&self, tables: &[Table], severity: Severity, name: &'n str) -> Option<(&'n str, Reached)> {
        let open = tables.iter().filter(|table| table.answers.get(name).is_some_and(Answer::lets_any_through));
        let open: Vec<&Table> = open.collect();
        let first = open.first()?;
        let conditional = open.iter().all(|table| !table.answers[name].unconditional());
        let severity = if conditional { Severity::Note } else { severity };
        let how = match (first.arch == tables[0].arch, conditional) {
            (true, false) => String::new(),
            (true, true) => " with some arguments".to_owned(),
            (false, _) => format!(" under {} alone", first.arch),
        };
        let pointer = self.rule_of(&[(*first).clone()], name);
        Some((name, (severity, how, pointer)))
    }

    /// clone3(2) takes its flags from memory, where no filter sees them.
    fn clones(&mut self, tables: &[Table]) {
        let Some(table) = tables.first() else { return };
        let through = |name: &str, flags: u64| {
            table.answers.get(name).is_some_and(|answer| answer.to(&[flags, 0, 0, 0, 0, 0]).action.lets_through())
        };
        let namespaces = through("clone", NEW_NAMESPACES) || through("clone", 0x1000_0000);
        if namespaces {
            let error = Error::new("clone is let through with CLONE_NEW flags: namespaces can be made");
            self.warn(error.at(self.rule_of(tables, "clone")).hint(
                "allow it with {\"index\": 0, \"value\": 2114060288, \"valueTwo\": 0, \"op\": \"SCMP_CMP_MASKED_EQ\"}",
            ));
        } else if through("clone3", 0) {
            let error = Error::new("clone3 is let through, and makes the namespaces that clone may not");
            self.warn(
                error
                    .at(self.rule_of(tables, "clone3"))
                    .hint("answer it with SCMP_ACT_ERRNO and errnoRet 38 (ENOSYS): C libraries fall back to clone"),
            );
        }
    }

    /// A denied value of an argument, with a bit above those that the kernel reads, is the same call to it.
    fn narrow(&mut self, section: &LinuxSeccomp, tables: &[Table]) {
        let wide = [Arch::ScmpArchX86_64, Arch::ScmpArchAarch64, Arch::ScmpArchRiscv64, Arch::ScmpArchPpc64le];
        let tables = tables.iter().filter(|table| wide.contains(&table.arch));
        for table in tables {
            for (name, arg) in NARROW {
                let Some((value, rule)) = table.answers.get(name).and_then(|answer| bypassed(answer, *arg)) else {
                    continue;
                };
                let pointer = match rule {
                    Why::Rule(index) if section.syscalls().is_some() => format!("{POINTER}/syscalls/{index}"),
                    _ => format!("{POINTER}/defaultAction"),
                };
                self.warn(
                    Error::new(format!(
                        "{name}: arg{arg} {value:#x} is denied, and {:#x}, which is the same to the kernel, is not",
                        value | 1 << 32
                    ))
                    .at(pointer)
                    .hint(
                        "compare 32 bits: {\"value\": 4294967295, \"valueTwo\": VALUE, \"op\": \"SCMP_CMP_MASKED_EQ\"}, \
                         or list what is allowed",
                    ),
                );
            }
        }
    }

    /// socketcall(2) and ipc(2) take the other call's arguments from memory.
    fn multiplexed(&mut self, tables: &[Table]) {
        for table in tables.iter().filter(|table| table.arch == Arch::ScmpArchX86) {
            let conditional = table.answers.get("socket").is_some_and(|answer| !answer.unconditional());
            let through = table.answers.get("socketcall").is_some_and(Answer::lets_any_through);
            if conditional && through {
                self.note(
                    Error::new("under SCMP_ARCH_X86 socketcall makes the sockets that the conditions of socket deny")
                        .at(format!("{POINTER}/architectures"))
                        .hint("its arguments lie in memory, where no filter sees them: leave SCMP_ARCH_X86 out"),
                );
            }
        }
    }
}

/// What decides in place of rule `index` about `name`, under every ABI that has it, and whether that says the same; none
/// when the rule decides somewhere.
fn shadow(section: &LinuxSeccomp, tables: &[Table], name: &str, index: usize) -> Option<(String, bool)> {
    let mut answers = tables.iter().filter_map(|table| table.answers.get(name)).peekable();
    let first = answers.peek().map(|answer| answer.cases[0].why)?;
    if answers.any(|answer| answer.cases.iter().any(|case| case.why == Why::Rule(index))) {
        return None;
    }
    let rule = |index: usize| section.syscalls().as_deref()?.get(index);
    let says = |index: usize| rule(index).map(|rule| (rule.action(), rule.errno_ret()));
    match first {
        Why::Rule(other) => Some((format!("the rule {other} of the list"), says(other) == says(index))),
        why => Some((why.to_string(), false)),
    }
}

/// A value of `arg` that is denied while the same value with a higher bit is let through.
fn bypassed(answer: &Answer, arg: u32) -> Option<(u64, Why)> {
    let conditions = answer.cases.iter().flat_map(|case| &case.conditions).filter(|condition| condition.arg == arg);
    let with = |value: u64| {
        let mut args = [0; 6];
        if let Some(place) = args.get_mut(arg as usize) {
            *place = value;
        }
        answer.to(&args)
    };
    let values = conditions.map(|condition| condition.value & 0xffff_ffff);
    values.into_iter().find_map(|value| {
        let (plain, high) = (with(value), with(value | 1 << 32));
        (!plain.action.lets_through() && high.action.lets_through()).then_some((value, plain.why))
    })
}
