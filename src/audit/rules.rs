//! From facts to findings.

use oci_spec::runtime::Spec;

use super::{Cover, Facts, Finding, Mount, Rule, Severity, Sharing};
use crate::findings::Severity as Weight;
use crate::seccomp;

macro_rules! rules {
    ($($name:ident $id:literal $class:literal $title:literal;)*) => {
        $(static $name: Rule = Rule { id: $id, class: $class, title: $title };)*
        /// Every kind of finding.
        pub static RULES: &[Rule] = &[$(Rule { id: $id, class: $class, title: $title }),*];
    };
}

rules! {
    HOST_NAMESPACE "host-namespace" "namespace" "The container shares a namespace with the host";
    HOST_ROOT "host-root" "privilege" "Root of the container is root of the host";
    CAPABILITY "capability" "privilege" "A capability reaches beyond the container";
    INHERITABLE "inheritable" "privilege" "Capabilities are inheritable: file capabilities of the image count";
    NEW_PRIVILEGES "new-privileges" "privilege" "Set-user-ID programs of the image give privileges";
    NO_SECCOMP "no-seccomp" "kernel" "No seccomp filter is loaded";
    SECCOMP_OPEN "seccomp-open" "kernel" "The seccomp filter lets far-reaching calls through";
    UNCONFINED "unconfined" "privilege" "No profile of AppArmor or SELinux confines the program";
    HOST_PATH "host-path" "mount" "A path of the host that leads out is mounted";
    SHARED "shared-propagation" "mount" "Mounts of the container reach the host";
    WRITABLE_KERNEL "writable-kernel" "mount" "Settings of the host's kernel can be written";
    READABLE_KERNEL "readable-kernel" "mount" "What the host's kernel tells can be read";
    WRITABLE_ROOT "writable-root" "mount" "The root file system can be written to";
    ALL_DEVICES "all-devices" "device" "No filter keeps devices away";
    HOST_DEVICE "host-device" "device" "A device of the host is given to the container";
    NO_LIMIT "no-limit" "resource" "A resource of the host has no limit";
    OOM_LAST "oom-last" "resource" "The host's own processes are killed first when memory is short";
    DRIFT "drift" "drift" "The kernel has another state than was planned";
}

/// The rule for a difference between plan and kernel.
pub(super) fn drift_rule() -> &'static Rule {
    &DRIFT
}

/// What is open by `facts`; `spec` tells the places in the configuration.
pub fn find(facts: &Facts, spec: &Spec) -> Vec<Finding> {
    let mut found = Found { list: Vec::new(), facts, spec };
    found.namespaces();
    found.privileges();
    found.capabilities();
    found.kernel();
    found.mounts();
    found.kernel_files();
    found.devices();
    found.resources();
    found.list
}

struct Found<'a> {
    list: Vec<Finding>,
    facts: &'a Facts,
    spec: &'a Spec,
}

/// Capabilities beyond what ordinary programs need, with how bad they are in the host's user namespace.
const CAPABILITIES: &[(caps::Capability, Severity, &str)] = {
    use Severity::{Critical, High, Low, Medium};
    use caps::Capability::*;
    &[
        (CAP_SYS_ADMIN, Critical, "mounts, namespaces, and most of what root can"),
        (CAP_SYS_MODULE, Critical, "code is loaded into the kernel"),
        (CAP_SYS_RAWIO, Critical, "ports and memory of the machine are reached"),
        (CAP_DAC_READ_SEARCH, Critical, "files of the host are opened by their handles"),
        (CAP_SYS_PTRACE, High, "other processes are read and changed"),
        (CAP_SYS_BOOT, High, "the kernel is replaced or the machine stopped"),
        (CAP_BPF, High, "programs run in the kernel"),
        (CAP_MAC_ADMIN, High, "the host's security policy is changed"),
        (CAP_MAC_OVERRIDE, High, "the host's security policy does not count"),
        (CAP_PERFMON, Medium, "the kernel and other processes are observed"),
        (CAP_SYSLOG, Medium, "kernel addresses and messages are read"),
        (CAP_SYS_TIME, Medium, "the host's clock is set"),
        (CAP_NET_ADMIN, Medium, "interfaces, routes and filters are changed, and much code of the kernel is reached"),
        (CAP_CHECKPOINT_RESTORE, Medium, "processes are made with pids of one's choice, and their files opened"),
        (CAP_AUDIT_CONTROL, Medium, "the host's audit is changed"),
        (CAP_SYS_RESOURCE, Medium, "limits and quotas do not count"),
        (CAP_LINUX_IMMUTABLE, Low, "immutable files are changed"),
        (CAP_SYS_NICE, Low, "other processes' priorities are changed"),
        (CAP_IPC_LOCK, Low, "memory is locked without a limit"),
        (CAP_SYS_TTY_CONFIG, Low, "terminals of the host are hung up"),
        (CAP_SYS_PACCT, Low, "process accounting is switched"),
        (CAP_AUDIT_READ, Low, "the host's audit is read"),
        (CAP_NET_RAW, Low, "packets are forged on the container's network"),
        (CAP_MKNOD, Low, "device nodes are made; the device filter alone keeps them shut"),
    ]
};

/// Directories of the host, how bad it is when they can be written to, and when they can only be read. A socket is connected
/// to, and a device written to, on a read-only mount as well.
const PATHS: &[(&str, Severity, Severity, &str)] = {
    use Severity::{Critical, High, Low, Medium};
    &[
        ("/", Critical, High, "the host's root file system"),
        ("/proc", Critical, High, "the host's procfs"),
        ("/sys", High, Low, "the host's sysfs"),
        ("/dev", High, High, "the host's devices"),
        ("/boot", High, Low, "the kernel that the host boots"),
        ("/etc", High, Medium, "the host's configuration"),
        ("/root", High, Medium, "the host's root's home"),
        ("/home", Medium, Medium, "people's homes"),
        ("/usr", High, Low, "the host's programs"),
        ("/lib", High, Low, "the host's libraries"),
        ("/run", High, High, "sockets of the host's services"),
        ("/var/run", High, High, "sockets of the host's services"),
        ("/var/lib/kubelet", High, Medium, "the kubelet's pods and secrets"),
        ("/var/lib/docker", High, Medium, "every container of docker"),
        ("/var/lib/containerd", High, Medium, "every container of containerd"),
        ("/var/lib/containers", High, Medium, "every container of podman"),
        ("/var/log", Medium, Low, "the host's logs, which services read by links"),
    ]
};

/// Sockets through which a container is started with any rights.
const SOCKETS: &[&str] =
    &["docker.sock", "containerd.sock", "crio.sock", "podman.sock", "cri-dockerd.sock", "system_bus_socket"];

/// Files of procfs and sysfs that change the host where they can be written.
const SETTINGS: &[(&str, Severity, &str)] = &[
    ("/proc/sys", Severity::Critical, "core_pattern and modprobe name programs that the host's kernel runs"),
    ("/proc/sysrq-trigger", Severity::High, "the machine is stopped or restarted"),
    ("/proc/irq", Severity::Medium, "interrupts are moved"),
    ("/proc/bus", Severity::Medium, "devices of the buses are reached"),
    ("/proc/fs", Severity::Medium, "file systems of the host are set"),
];

/// Files of procfs and sysfs that tell of the host.
const TOLD: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/interrupts",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// The paths that runc's `spec` masks and makes read-only, which is what closes the two lists above.
const CLOSE_MASKS: &str = "take maskedPaths and readonlyPaths from `orlop spec`";

impl Found<'_> {
    fn add(&mut self, rule: &'static Rule, severity: Severity, message: impl Into<String>, pointer: &str, close: &str) {
        let (message, pointer, close) = (message.into(), pointer.to_owned(), close.to_owned());
        self.list.push(Finding { rule, severity, message, pointer, close });
    }

    fn sharing(&self, name: &str) -> Sharing {
        self.facts.namespaces.get(name).copied().unwrap_or(Sharing::Host)
    }

    /// Another user namespace than the host's bounds what a capability or an id 0 is good for.
    fn separate(&self) -> bool {
        self.sharing("user") != Sharing::Host && !self.facts.root_is_host_root
    }

    fn namespaces(&mut self) {
        let bad = [
            ("mount", Severity::Critical, "the host's mounts are its own"),
            ("pid", Severity::High, "it sees and signals the host's processes, and /proc/PID/root leads out"),
            ("network", Severity::High, "it has the host's network, and abstract sockets of its services"),
            ("ipc", Severity::Medium, "shared memory and message queues of the host are open to it"),
            ("cgroup", Severity::Low, "it sees where it is in the host's hierarchy"),
            ("uts", Severity::Low, "with CAP_SYS_ADMIN it renames the host"),
        ];
        for (name, severity, why) in bad {
            let close = format!("{{\"type\": \"{name}\"}}");
            match self.sharing(name) {
                Sharing::Host => {
                    let text = format!("the {name} namespace is the host's: {why}");
                    self.add(&HOST_NAMESPACE, severity, text, "/linux/namespaces", &close);
                }
                Sharing::Own | Sharing::Other => {}
            }
        }
    }

    fn privileges(&mut self) {
        let facts = self.facts;
        if facts.root_is_host_root {
            let (severity, who) = match facts.uid {
                0 => (Severity::Medium, "the program is root of the host as well"),
                _ => (Severity::Low, "whoever becomes root in it is root of the host"),
            };
            let close = "{\"type\": \"user\"}, and uidMappings and gidMappings onto ids that nobody has";
            self.add(&HOST_ROOT, severity, format!("no user namespace of its own: {who}"), "/linux/namespaces", close);
        }
        if !facts.no_new_privileges {
            let text = "set-user-ID programs and file capabilities of the image give privileges";
            let severity = if facts.uid == 0 { Severity::Low } else { Severity::Medium };
            self.add(&NEW_PRIVILEGES, severity, text, "/process/noNewPrivileges", "\"noNewPrivileges\": true");
        }
        if facts.sets.inheritable != 0 {
            let text =
                format!("inheritable: {}: file capabilities of the image take effect", names(facts.sets.inheritable));
            self.add(&INHERITABLE, Severity::Low, text, "/process/capabilities/inheritable", "\"inheritable\": []");
        }
        if facts.label.is_none() && security_module().is_some() {
            let text =
                format!("{} is active here, and nothing confines the program", security_module().unwrap_or_default());
            let close = "\"apparmorProfile\" or \"selinuxLabel\" with the name of a profile for containers";
            self.add(&UNCONFINED, Severity::Low, text, "/process", close);
        }
    }

    fn capabilities(&mut self) {
        let sets = self.facts.sets;
        let all = sets.bounding | sets.permitted | sets.effective;
        for (capability, severity, why) in CAPABILITIES.iter().filter(|one| all & one.0.bitmask() != 0) {
            let host = |name: &str| self.sharing(name) == Sharing::Host;
            let severity = match (capability, self.separate()) {
                (caps::Capability::CAP_SYS_PTRACE, false) if host("pid") => Severity::Critical,
                (caps::Capability::CAP_NET_ADMIN, false) if host("network") => Severity::High,
                (caps::Capability::CAP_MKNOD, false) if self.facts.device_filter == Some(false) => Severity::High,
                (_, false) => *severity,
                (_, true) if *severity == Severity::Critical => Severity::Medium,
                (_, true) if *severity == Severity::High => Severity::Low,
                (_, true) => continue,
            };
            let close = format!("leave {capability} out of all five sets");
            self.add(&CAPABILITY, severity, format!("{capability}: {why}"), "/process/capabilities", &close);
        }
    }

    fn kernel(&mut self) {
        if !self.facts.seccomp {
            let text = "no seccomp filter: every system call of the kernel can be made";
            let close = "\"seccomp\": the content of seccomp-profiles/default.json";
            self.add(&NO_SECCOMP, Severity::High, text, "/linux/seccomp", close);
            return;
        }
        let Some(section) = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return };
        for finding in seccomp::lint(section, seccomp::POINTER) {
            if finding.severity == Weight::Warning {
                let pointer = finding.what.pointer.unwrap_or_default();
                let close =
                    finding.what.hint.unwrap_or_else(|| "deny it (`orlop seccomp lint` has the list)".to_owned());
                self.add(&SECCOMP_OPEN, Severity::Medium, finding.what.message, &pointer, &close);
            }
        }
    }

    /// The place of a mount in the configuration.
    fn place(&self, target: &str) -> String {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        let index = mounts.iter().rposition(|mount| mount.destination().to_string_lossy() == target);
        index.map_or_else(String::new, |index| format!("/mounts/{index}"))
    }

    fn mounts(&mut self) {
        for mount in &self.facts.mounts {
            self.host_path(mount);
            if mount.shared {
                let text = format!("{}: mounts made below it appear on the host", mount.target);
                let close = "\"rslave\" or \"rprivate\" in place of the shared option";
                self.add(&SHARED, Severity::High, text, &self.place(&mount.target), close);
            }
        }
        let propagation = self.spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
        if matches!(propagation, Some("shared" | "rshared")) {
            let close = "\"rootfsPropagation\": \"rprivate\"";
            self.add(&SHARED, Severity::High, "/ is shared with the host", "/linux/rootfsPropagation", close);
        }
        if !self.facts.root_read_only {
            let text = "/ can be written to: what is put there stays for the next start";
            self.add(
                &WRITABLE_ROOT,
                Severity::Low,
                text,
                "/root/readonly",
                "\"readonly\": true, and a tmpfs where it writes",
            );
        }
    }

    fn host_path(&mut self, mount: &Mount) {
        let Some(source) = mount.source.as_deref() else { return };
        let pointer = self.place(&mount.target);
        if let Some(socket) = SOCKETS.iter().find(|socket| source.rsplit('/').next() == Some(**socket)) {
            let text =
                format!("{}: {socket} of the host starts anything with any rights, read-only or not", mount.target);
            self.add(&HOST_PATH, Severity::Critical, text, &pointer, "leave this mount out");
            return;
        }
        let exact = PATHS.iter().find(|(path, ..)| source.trim_end_matches('/') == path.trim_end_matches('/'));
        let Some((path, writable, readable, what)) = exact else { return };
        let severity = if mount.read_only { *readable } else { *writable };
        let how = if mount.read_only { "can be read" } else { "can be written to" };
        let text = format!("{} is {path} of the host: {what} {how}", mount.target);
        self.add(&HOST_PATH, severity, text, &pointer, "mount the one directory that the program needs, with \"ro\"");
    }

    /// The cover of a path, its own or that of a directory above it.
    fn covered(&self, path: &str) -> Option<Cover> {
        let above = |other: &str| path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.facts.covers.iter().find(|(other, _)| above(other)).map(|(_, cover)| *cover)
    }

    /// The mount on which a path lies: the last one at the longest target.
    fn mount_of(&self, path: &str) -> Option<&Mount> {
        let above =
            |target: &str| path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.facts.mounts.iter().filter(|mount| above(&mount.target)).max_by_key(|mount| mount.target.len())
    }

    fn kernel_files(&mut self) {
        for (path, severity, why) in SETTINGS {
            let open = self.mount_of(path).is_some_and(|mount| mount.kind == "proc" && !mount.read_only);
            if open && self.covered(path).is_none() {
                let severity = if self.separate() { Severity::Low } else { *severity };
                let text = format!("{path} can be written to: {why}");
                self.add(&WRITABLE_KERNEL, severity, text, "/linux/readonlyPaths", CLOSE_MASKS);
            }
        }
        let sysfs = self.facts.mounts.iter().find(|mount| mount.kind == "sysfs" && !mount.read_only);
        if let Some(mount) = sysfs {
            let severity = if self.separate() { Severity::Low } else { Severity::High };
            let text =
                format!("{} (sysfs) can be written to: uevent_helper and drivers of the host are set", mount.target);
            let pointer = self.place(&mount.target);
            self.add(&WRITABLE_KERNEL, severity, text, &pointer, "\"ro\" among its options");
        }
        let cgroup = self.facts.mounts.iter().find(|mount| mount.kind.starts_with("cgroup") && !mount.read_only);
        if let Some(mount) = cgroup.filter(|_| self.sharing("cgroup") == Sharing::Host) {
            let text = format!("{} shows the host's cgroups, and can be written to", mount.target);
            let pointer = self.place(&mount.target);
            self.add(
                &WRITABLE_KERNEL,
                Severity::High,
                text,
                &pointer,
                "\"ro\", and {\"type\": \"cgroup\"} among the namespaces",
            );
        }
        let told = |path: &&&str| {
            let kind = self.mount_of(path).map(|mount| mount.kind.as_str());
            matches!(kind, Some("proc" | "sysfs")) && self.covered(path) != Some(Cover::Masked)
        };
        let told: Vec<&str> = TOLD.iter().filter(told).copied().collect();
        if !told.is_empty() {
            let text = format!("{} of the host can be read", told.join(", "));
            self.add(&READABLE_KERNEL, Severity::Low, text, "/linux/maskedPaths", CLOSE_MASKS);
        }
    }

    fn devices(&mut self) {
        if self.facts.device_filter == Some(false) && !self.separate() {
            let close = "{\"allow\": false, \"access\": \"rwm\"} as the first rule";
            let text = "every device of the host can be opened by who has or makes a node of it";
            self.add(&ALL_DEVICES, Severity::Medium, text, "/linux/resources/devices", close);
        }
        let devices = self.spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        for (index, device) in devices.iter().enumerate() {
            let (path, major, minor) = (device.path().display(), device.major(), device.minor());
            let block = device.typ() == oci_spec::runtime::LinuxDeviceType::B;
            let memory = major == 1 && matches!(minor, 1 | 2 | 4);
            let (severity, what) = match (block, memory, (major, minor)) {
                (true, ..) => {
                    (Severity::Critical, "a disk of the host: its file systems are read and written under them")
                }
                (_, true, _) => (Severity::Critical, "the memory of the machine"),
                (.., (10, 232)) => (Severity::Medium, "the kernel's hypervisor"),
                (.., (10, 229)) => (Severity::Low, "file systems of one's own, in the kernel's code for them"),
                _ => continue,
            };
            let pointer = format!("/linux/devices/{index}");
            self.add(
                &HOST_DEVICE,
                severity,
                format!("{path} ({major}:{minor}) is {what}"),
                &pointer,
                "leave this device out",
            );
        }
    }

    fn resources(&mut self) {
        let limits = [
            ("memory.max", "/linux/resources/memory/limit", "memory", "\"memory\": {\"limit\": BYTES}"),
            ("pids.max", "/linux/resources/pids/limit", "processes", "\"pids\": {\"limit\": NUMBER}"),
        ];
        for (file, pointer, what, close) in limits {
            if self.facts.limits.get(file) == Some(&Some(false)) {
                let text = format!("no limit of {what}: the container can use up the host's");
                self.add(&NO_LIMIT, Severity::Medium, text, pointer, close);
            }
        }
        if let Some(value) = self.facts.oom_score_adj.filter(|value| *value < 0) {
            let text = format!("oom_score_adj is {value}: when memory is short others are killed first");
            self.add(&OOM_LAST, Severity::Low, text, "/process/oomScoreAdj", "leave it out, or 0 and more");
        }
    }
}

/// The paths of procfs and sysfs that are looked at.
pub(super) fn kernel_paths() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(path, ..)| *path).chain(TOLD.iter().copied())
}

/// The names of capabilities.
pub(super) fn names(mask: u64) -> String {
    let mut all: Vec<_> = caps::all().into_iter().filter(|one| mask & one.bitmask() != 0).collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The module of this host that confines by labels.
fn security_module() -> Option<&'static str> {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    let selinux = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    match () {
        () if modules.contains("apparmor") || enabled.starts_with('Y') => Some("AppArmor"),
        () if selinux => Some("SELinux"),
        () => None,
    }
}
