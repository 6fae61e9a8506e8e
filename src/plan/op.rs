//! The operations: what a plan is made of.
//!
//! An operation is one change of a kernel object, not one system call. What only the kernel can decide at run time is a
//! closed choice inside the operation; there is no branch, loop or variable between operations.

use std::ffi::CString;

use super::mount_options::MountOptions;
use crate::sys::creds::CapSets;
use crate::sys::landlock::Ruleset;
use crate::sys::process::StringArray;
use crate::sys::sched::SchedAttr;

/// A place in `config.json` (RFC 6901), or the empty string when the operation follows from no property of it.
pub type Pointer = String;

/// One operation and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// The property that asked for it.
    pub from: Pointer,
}

/// Descriptors that the parent opens before the clone and the child inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Slot {
    /// The socket to the parent.
    Parent,
    /// The `exec.fifo` of the state directory.
    ExecFifo,
    /// The connected console socket.
    Console,
    /// `/proc` of the host, as a directory.
    Proc,
    /// The pidfd of the container's init, for an exec.
    Init,
    /// The state of the container as JSON, for hooks that run in its namespaces.
    HookState,
    /// Where these hooks' output goes.
    HookOutput,
    /// The first of the namespaces that are joined by path.
    Namespace0,
}

/// How many namespaces can be joined by path, and so how many slots follow [`Slot::Namespace0`].
pub const NAMESPACES: usize = 8;

/// What a mount brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A new file system of this type, with this source string.
    New {
        /// The type, as fsopen(2) takes it.
        kind: CString,
        /// The `source` parameter, which /proc/self/mountinfo shows.
        source: CString,
    },
    /// A path of the host: a bind mount.
    Bind(CString),
    /// A detached mount that the parent made before the clone (id-mapped), by its place among the plan's trees.
    Tree(usize),
}

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub source: Source,
    /// Where, as written: resolved below the root file system when it is mounted.
    pub target: CString,
    /// The sorted options.
    pub options: MountOptions,
    /// The file system's flags (`sync`, ...), which have no value.
    pub flags: Vec<CString>,
    /// The file system's parameters; those without a value are flags as well.
    pub data: Vec<(CString, Option<CString>)>,
    /// The target must be a directory that no symbolic link leads to (procfs, sysfs).
    pub ordinary_directory: bool,
    /// A bind mount over `/proc`, which nothing but a whole procfs may be.
    pub procfs: bool,
    /// Attributes that must wait until the content is there (`ro` of `/dev`).
    pub later: u64,
    /// The parent opens the source of this bind mount when the ids of the new user namespace can't reach it.
    pub parent_opens: bool,
    /// cgroup2 alone: what is bound when the kernel refuses a new mount, or when what was to be bound is not there; of these the
    /// first that is.
    pub fallback: Vec<CString>,
    /// mqueue alone: the SELinux label of its root, since its file system is there before the mount and takes no `context`.
    pub label: Option<CString>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The path in the container.
    pub path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with the permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bind the host's node: mknod(2) is not allowed in a user namespace.
    pub bind: bool,
}

/// What a hook needs after the clone, all of it made before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The program, an absolute path.
    pub path: CString,
    /// Its arguments.
    pub args: StringArray,
    /// Its environment.
    pub env: StringArray,
    /// It has none of its own: on the host's side it is the runtime's.
    pub inherits: bool,
    /// Its time in seconds.
    pub timeout: u32,
    /// `createContainer` or `startContainer`.
    pub kind: &'static str,
    /// Its place in its list, from 0.
    pub index: usize,
    /// The container's filter, for one that runs as a program of the container.
    pub seccomp: Option<SeccompOp>,
    /// What is left of the capabilities once that filter is loaded.
    pub capabilities: Option<CapSets>,
    /// `RLIMIT_NOFILE` of such a one, soft and hard: that process itself takes it only later.
    pub open_files: Option<(u64, u64)>,
}

/// What the child asks of its parent, and waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// Write the id maps of the new user namespace, and what else only the parent may.
    IdMaps = 1,
    /// Run the `prestart` and `createRuntime` hooks.
    RuntimeHooks = 2,
    /// Everything is set up; the child waits for `start`.
    Ready = 3,
    /// Move the network devices into the child's network namespace.
    NetDevices = 4,
    /// Have systemd start the scope with the child in it, and set what its properties do not; or move an exec's child into the
    /// container's scope.
    Scope = 5,
}

/// When the seccomp filter is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompWhen {
    /// As the last thing before execve(2): no_new_privs allows it without a capability.
    WithNoNewPrivileges,
    /// Before the last capabilities go: it takes CAP_SYS_ADMIN.
    WithSysAdmin,
}

/// One change of a kernel object. Fields are what the call of that name takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    /// Signal dispositions and mask as execve(2) of a fresh program wants them.
    ResetSignals,
    /// What the caller's command line and environment said, wiped out of this process: those of the container may read it.
    ForgetCaller,
    /// `PR_SET_PDEATHSIG` SIGKILL: an unfinished container does not outlive its runtime.
    DieWithParent,
    /// The end of [`Op::DieWithParent`]: from here on the container stands alone.
    OutliveParent,
    /// setns(2) to a namespace by path.
    JoinNamespace { slot: usize, flag: i32, path: CString },
    /// setns(2) to several namespaces of the container's init.
    JoinInit { flags: i32 },
    /// unshare(2).
    Unshare { flags: i32 },
    /// Offsets of the time namespace that children get.
    TimeOffsets { text: CString },
    /// Asks the parent for something and waits until it is done.
    Await(Request),
    /// Ids 0 of the user namespace, for the set-up.
    BecomeRoot,
    /// `PR_SET_DUMPABLE` 0: nobody in the container may look into the process before its execve.
    ClearDumpable,
    /// `PR_SET_DUMPABLE` 1: the owner of the user namespace may look into the process. Nobody in the container may, who would
    /// need the CAP_SYS_PTRACE that the process holds and no set of the configuration gives.
    SetDumpable,
    /// A session keyring of the container's own.
    SessionKeyring { name: CString },
    /// The loopback interface up.
    LoopbackUp,
    /// `/proc/self/oom_score_adj`.
    OomScoreAdj { value: i32 },
    /// A file below `/proc/sys`.
    Sysctl { path: CString, value: CString },
    /// sethostname(2).
    Hostname { name: CString },
    /// setdomainname(2).
    Domainname { name: CString },
    /// Propagation of every mount of the new mount namespace.
    Propagation { flags: u64 },
    /// The root file system: opened once, bound on itself, held by descriptor from here on.
    OpenRoot { path: CString, private_parent: bool },
    /// The same without a mount namespace: opened, nothing bound.
    OpenPlainRoot { path: CString },
    /// `/` of the namespace that was joined.
    CurrentRoot,
    /// One entry of `mounts`.
    Mount(Box<Mount>),
    /// A device node.
    Device(Device),
    /// A symbolic link in `/dev`.
    DevLink { name: CString, target: CString },
    /// The pseudo-terminal: made, sent away, its peer the standard streams and `/dev/console`.
    Terminal { size: Option<(u16, u16)>, console: bool },
    /// A hook that runs in the container's namespaces.
    Hook(Box<Hook>),
    /// The root file system becomes `/`.
    PivotRoot,
    /// The same without pivot_root(2), for an initial ramfs: the covered paths are the host's procfs and sysfs.
    MoveRoot { cover: Vec<CString> },
    /// chroot(2), for a container without a mount namespace of its own.
    Chroot,
    /// Propagation of the container's `/`.
    RootPropagation { flags: u64 },
    /// Attributes of a mount that is there, or of all from there on: those that had to wait, and `remount`. `propagation`: none
    /// is 0.
    Attributes { target: CString, set: u64, clear: u64, propagation: u64, recursive: bool },
    /// Nothing of this path can be seen. `label` is the SELinux label of what covers a directory.
    Mask { path: CString, label: Option<CString> },
    /// This path can't be written to.
    Readonly { path: CString },
    /// `/` can't be written to.
    ReadonlyRoot,
    /// The working directory is there.
    CreateCwd { path: CString },
    /// The mask that set-up was done without; None: as the caller's was.
    Umask { mask: Option<u32> },
    /// setsid(2).
    NewSession,
    /// prlimit(2).
    Rlimit { resource: u32, name: &'static str, soft: u64, hard: u64 },
    /// prlimit(2) of a hard limit that is lower than this. It takes a right that is gone when the limit itself is set.
    HardLimit { resource: u32, name: &'static str, hard: u64 },
    /// sched_setattr(2).
    Scheduler(SchedAttr),
    /// ioprio_set(2) of the process.
    IoPriority { class: i32, level: i32 },
    /// set_mempolicy(2).
    MemoryPolicy { mode: u32, flags: u32, nodes: Vec<u64> },
    /// personality(2).
    Personality { persona: u64 },
    /// sched_setaffinity(2).
    Affinity { cpus: Vec<u64> },
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// `PR_CAPBSET_DROP` of all that is not kept.
    BoundingSet { keep: u64, last: u8 },
    /// Groups and ids of the process, capabilities kept. `groups` of None: none, but where setgroups(2) is denied those of
    /// the caller stay.
    User { uid: u32, gid: u32, groups: Option<Vec<u32>>, keep: u64 },
    /// Capabilities. `extra` is permitted and effective beyond them until the execve, which computes both sets anew from
    /// the others (capabilities(7)): to drop it earlier would take a capset(2) that the filter may forbid.
    Capabilities { sets: CapSets, ambient: u64, extra: u64 },
    /// chdir(2), and a look whether it is inside. The first try is made with the rights of set-up; where those do not
    /// reach (root squash), the last one is made as the process's user.
    Cwd { path: CString, last: bool },
    /// `HOME` from `/etc/passwd`.
    Home { uid: u32 },
    /// The program is looked for in `PATH`.
    FindProgram { name: CString, candidates: Vec<CString> },
    /// The AppArmor profile or SELinux label of the execve, or of the keyring that is made next.
    ExecLabel { file: CString, value: CString },
    /// A Landlock ruleset: what is denied but for the rules that follow.
    LandlockRuleset(Ruleset),
    /// A rule of it: `access` to a file, or to all below a directory, that no link leads to.
    LandlockPath { path: CString, access: u64 },
    /// A rule of it: `access` to a TCP port.
    LandlockPort { port: u16, access: u64 },
    /// landlock_restrict_self(2), and the end of the ruleset.
    LandlockRestrict,
    /// Waits for `start`.
    AwaitStart,
    /// Closes every descriptor but these first ones.
    CloseDescriptors { from: u32 },
    /// The seccomp filter.
    Seccomp(Box<SeccompOp>),
    /// The end of the plan.
    Exec { args: StringArray, env: StringArray },
}

/// The compiled filter and how it is loaded.
#[derive(Clone)]
pub struct SeccompOp {
    /// The program.
    pub program: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// A listener is made and sent to the agent.
    pub notify: bool,
    /// When it is loaded.
    pub when: SeccompWhen,
}

impl std::fmt::Debug for SeccompOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SeccompOp({} instructions, flags {:#x})", self.program.len(), self.flags)
    }
}

impl PartialEq for SeccompOp {
    fn eq(&self, other: &Self) -> bool {
        let words = |op: &Self| op.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect::<Vec<_>>();
        self.flags == other.flags && self.notify == other.notify && words(self) == words(other)
    }
}

impl Eq for SeccompOp {}
