//! Cache and memory bandwidth by the resctrl file system (kernel documentation, resctrl.rst; Linux 4.10): a directory per
//! class of service, below it one per monitoring group.
//!
//! Every change is made under flock(2) of the root, as the kernel's documentation asks of all programs.

mod stats;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::IntelRdt;

pub use stats::Stats;

/// Where a container's processes are, for `exec` and `delete`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The mount point.
    pub root: PathBuf,
    /// The class's directory.
    pub class: PathBuf,
    /// The class was made for this container.
    pub made: bool,
    /// The monitoring group's directory, which is always the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
}

impl Group {
    /// Where the group of a plan is. As long as nobody knows more, one without a `closID` was made for its container.
    fn of(root: &Path, wanted: &IntelRdt) -> Self {
        let class = root.join(&wanted.class);
        let monitor = wanted.monitor.as_ref().map(|name| class.join("mon_groups").join(name));
        Self { root: root.to_owned(), class, made: !wanted.given, monitor }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The mount point of resctrl.
///
/// # Errors
/// At `/linux/intelRdt`, when there is none.
pub fn find() -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(|error| Error::new(format!("read /proc/self/mountinfo: {error}")))?;
    let mounted = mounts.into_iter().rfind(|mount| mount.fs_type == "resctrl");
    mounted.map(|mount| mount.mount_point).ok_or_else(not_enabled)
}

/// What a configuration that asks for resctrl is told where there is none.
pub(crate) fn not_enabled() -> Error {
    Error::new("intelRdt is specified in config, but Intel RDT is not enabled")
        .at("/linux/intelRdt")
        .hint("a processor and a kernel with CONFIG_X86_CPU_RESCTRL, and: mount -t resctrl resctrl /sys/fs/resctrl")
}

/// Who holds it may change groups; waits for at most ten seconds.
fn lock(root: &Path) -> Result<Flock<File>> {
    let failed = |call: &str, errno| Error::new(format!("lock {}", root.display())).call(call, errno);
    let mut file = File::open(root).map_err(|error| failed("open", errno(&error)))?;
    for _ in 0..1000 {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
            Err((_, errno)) => return Err(failed("flock", errno)),
        };
        sleep(Duration::from_millis(10));
    }
    Err(Error::new(format!("another program has held {} for ten seconds", root.display())))
}

/// A group that has no process yet. Its root is locked, so that nobody takes it for one that has none any more.
#[derive(Debug)]
pub struct Claimed {
    /// The group.
    pub group: Group,
    _lock: Flock<File>,
}

/// Makes the class and the monitoring group, or joins the class. `save` gets what will be made before it is made.
///
/// # Errors
/// At the property below `/linux/intelRdt` that the kernel refuses, or that is not what the class has; what was made is gone
/// again then.
pub fn make(root: &Path, wanted: &IntelRdt, save: impl FnOnce(&Group) -> Result<()>) -> Result<Claimed> {
    let lock = lock(root)?;
    let mut group = Group::of(root, wanted);
    let there = group.class.is_dir();
    group.made = !there;
    if there {
        join(&group, wanted)?;
    } else if wanted.given && wanted.schemata.is_empty() {
        let text = "clos dir not accessible (must be pre-created when l3CacheSchema and memBwSchema are empty)";
        return Err(Error::new(format!("{text}: {}", group.class.display())).at("/linux/intelRdt/closID"));
    }
    save(&group)?;
    match fill(&group, wanted) {
        Ok(()) => Ok(Claimed { group, _lock: lock }),
        Err(error) => {
            let _ = take_away(&group);
            Err(error)
        }
    }
}

/// A class that is there is left as it is, and must be what the configuration asks for (config-linux.md, Intel RDT).
fn join(group: &Group, wanted: &IntelRdt) -> Result<()> {
    let shown = group.class.display();
    if !wanted.given {
        return Err(Error::new(format!("a resctrl group of the container's name exists: {shown}"))
            .at("/linux/intelRdt")
            .hint("closID names a group that containers share"));
    }
    let text = fs::read_to_string(group.class.join("schemata")).map_err(|error| {
        Error::new(format!("{shown} is no resctrl group"))
            .call("open(schemata)", errno(&error))
            .at("/linux/intelRdt/closID")
    })?;
    let there = domains(&text);
    let granule = fs::read_to_string(group.root.join("info/MB/bandwidth_gran")).ok();
    let granule = granule.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    // A later write has the last word.
    let asked = wanted.schemata.iter().flat_map(|text| domains(text)).collect::<BTreeMap<_, _>>();
    for ((resource, domain), value) in asked {
        let has = there.get(&(resource.clone(), domain.clone())).map_or("nothing", String::as_str);
        if has != value && has != rounded(&value, granule) {
            let text = format!("the resctrl group {shown} has {resource}:{domain}={has}, not {value}");
            return Err(Error::new(text)
                .at("/linux/intelRdt")
                .hint("it is shared: leave the schemata out, change it by hand, or choose another closID"));
        }
    }
    Ok(())
}

/// `L3:0=0ff;1=f` as (L3, 0) = ff and (L3, 1) = f: masks are hexadecimal, and the kernel pads them.
fn domains(text: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (resource, list) in text.lines().filter_map(|line| line.split_once(':')) {
        for (domain, value) in list.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            found.insert((resource.trim().to_owned(), domain.trim().to_owned()), value);
        }
    }
    found
}

/// A share of bandwidth as the kernel keeps it.
fn rounded(value: &str, granule: u64) -> String {
    value.parse::<u64>().map_or_else(|_| value.to_owned(), |value| value.next_multiple_of(granule.max(1)).to_string())
}

fn fill(group: &Group, wanted: &IntelRdt) -> Result<()> {
    if group.made {
        directory(&group.class, "/linux/intelRdt", "info/*/num_closids says how many there can be")?;
        wanted.schemata.iter().try_for_each(|text| write_schemata(group, text))?;
    }
    match &group.monitor {
        Some(monitor) => {
            directory(monitor, "/linux/intelRdt/enableMonitoring", "info/L3_MON/num_rmids says how many there can be")
        }
        None => Ok(()),
    }
}

fn directory(path: &Path, from: &str, full: &str) -> Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path).map_err(|error| {
        let errno = errno(&error);
        let error = Error::new(format!("make the resctrl group {}", path.display())).call("mkdir", errno).at(from);
        match errno {
            Errno::ENOSPC => error.hint(full),
            Errno::ENOENT => error.hint("the processor or the kernel has no monitoring"),
            _ => error,
        }
    })
}

/// Gives a group other schemata, and returns those it had.
///
/// # Errors
/// The kernel refuses them.
pub fn replace(group: &Group, text: &str) -> Result<String> {
    let _lock = lock(&group.root)?;
    let old = fs::read_to_string(group.class.join("schemata")).map_err(|error| {
        let error = Error::new("the container's resctrl group is gone").call("open(schemata)", errno(&error));
        error.at("/linux/intelRdt")
    })?;
    write_schemata(group, text)?;
    Ok(old)
}

fn write_schemata(group: &Group, text: &str) -> Result<()> {
    fs::write(group.class.join("schemata"), text).map_err(|error| {
        let call = format!("write({:?})", text.trim_end());
        let error = Error::new(format!("write the schemata of the resctrl group {}", group.class.display()))
            .call(call, errno(&error))
            .at("/linux/intelRdt");
        match fs::read_to_string(group.root.join("info/last_cmd_status")) {
            Ok(said) if !said.trim().is_empty() => error.hint(format!("the kernel says: {}", said.trim())),
            _ => error,
        }
    })
}

/// Puts a process into the group; what it forks is born there. The monitoring group takes only members of its class.
///
/// # Errors
/// The write is refused, or the group is gone.
pub fn assign(group: &Group, pid: i32) -> Result<()> {
    for directory in [Some(&group.class), group.monitor.as_ref()].into_iter().flatten() {
        let tasks = directory.join("tasks");
        fs::write(&tasks, pid.to_string()).map_err(|error| {
            Error::new("put the process into the resctrl group")
                .call(format!("write({tasks:?}, \"{pid}\")"), errno(&error))
                .at("/linux/intelRdt")
        })?;
    }
    Ok(())
}

/// Removes what was made for the container. A class that others have joined meanwhile stays: the kernel would put them into
/// the default class.
///
/// # Errors
/// rmdir(2) is refused.
pub fn remove(group: &Group) -> Result<()> {
    if !group.root.is_dir() {
        return Ok(());
    }
    let _lock = lock(&group.root)?;
    take_away(group)
}

/// The same for a container of which only the plan is known. A class that was named by `closID` stays, since it may have been
/// there before.
///
/// # Errors
/// rmdir(2) is refused.
pub fn remove_unknown(root: &Path, wanted: &IntelRdt) -> Result<()> {
    remove(&Group::of(root, wanted))
}

fn take_away(group: &Group) -> Result<()> {
    if let Some(monitor) = &group.monitor {
        remove_directory(monitor)?;
    }
    let filled = |file: io::Result<String>| file.is_ok_and(|text| !text.trim().is_empty());
    let watched = |mut entries: fs::ReadDir| entries.next().is_some();
    let used = filled(fs::read_to_string(group.class.join("tasks")))
        || fs::read_dir(group.class.join("mon_groups")).is_ok_and(watched);
    if group.made && !used { remove_directory(&group.class) } else { Ok(()) }
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if errno(&error) != Errno::ENOENT => {
            Err(Error::new(format!("remove the resctrl group {}", path.display())).call("rmdir", errno(&error)))
        }
        _ => Ok(()),
    }
}

/// On a tree of plain files: there a group's files appear when they are written, and must be gone before its directory.
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("orlop-resctrl-{}-{number}", std::process::id()));
            fs::create_dir_all(root.join("info/MB")).unwrap();
            fs::create_dir(root.join("mon_groups")).unwrap();
            fs::write(root.join("schemata"), "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n").unwrap();
            fs::write(root.join("tasks"), "1\n").unwrap();
            fs::write(root.join("info/MB/bandwidth_gran"), "10\n").unwrap();
            Self(root)
        }

        fn group(&self, name: &str, schemata: &str) {
            fs::create_dir_all(self.0.join(name).join("mon_groups")).unwrap();
            fs::write(self.0.join(name).join("schemata"), schemata).unwrap();
            fs::write(self.0.join(name).join("tasks"), "").unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }

        fn make(&self, wanted: &IntelRdt) -> Result<Group> {
            make(&self.0, wanted, |_| Ok(())).map(|claimed| claimed.group)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn wanted(class: &str, given: bool, schemata: &[&str]) -> IntelRdt {
        let schemata = schemata.iter().map(|text| (*text).to_owned()).collect();
        IntelRdt { class: class.to_owned(), given, schemata, monitor: None }
    }

    #[test]
    fn a_group_is_made_filled_and_removed() {
        let tree = Tree::new();
        let mut saved = None;
        let save = |group: &Group| {
            assert!(!group.class.exists(), "saved before it is made");
            saved = Some(group.clone());
            Ok(())
        };
        let group = make(&tree.0, &wanted("c1", false, &["L3:0=f\nMB:0=20\n"]), save).unwrap().group;
        assert_eq!(saved.as_ref(), Some(&group));
        assert_eq!(tree.read("c1/schemata"), "L3:0=f\nMB:0=20\n");
        assign(&group, 4711).unwrap();
        assert_eq!((tree.read("c1/tasks").as_str(), tree.read("tasks").as_str()), ("4711", "1\n"));
        remove(&group).unwrap();
        assert!(group.class.exists(), "there is a process in it");
        fs::remove_file(group.class.join("tasks")).unwrap();
        fs::remove_file(group.class.join("schemata")).unwrap();
        remove(&group).unwrap();
        assert!(!group.class.exists());
        remove(&group).unwrap();
    }

    #[test]
    fn a_monitoring_group_is_the_containers_own() {
        let tree = Tree::new();
        tree.group("shared", "    L3:0=f\n");
        let mut with_monitor = wanted("shared", true, &[]);
        with_monitor.monitor = Some("c1".into());
        let group = tree.make(&with_monitor).unwrap();
        assign(&group, 7).unwrap();
        assert_eq!((tree.read("shared/tasks"), tree.read("shared/mon_groups/c1/tasks")), ("7".into(), "7".into()));
        fs::remove_file(tree.0.join("shared/mon_groups/c1/tasks")).unwrap();
        remove(&group).unwrap();
        assert!(!tree.0.join("shared/mon_groups/c1").exists() && tree.0.join("shared").exists());
        let mut of_default = with_monitor.clone();
        of_default.class = String::new();
        let group = tree.make(&of_default).unwrap();
        assert_eq!((group.monitor.as_deref(), group.made), (Some(tree.0.join("mon_groups/c1").as_path()), false));
    }

    #[test]
    fn a_class_that_is_there_must_be_as_asked_for() {
        let tree = Tree::new();
        tree.group("shared", "    MB:0= 30;1=100\n    L3:0=00f;1=fff\n");
        for good in [&["L3:0=F"][..], &["L3:1=fff;0=f\nMB:0=25"], &["MB:0=90\n", "MB:0=30\n"], &[]] {
            let group = tree.make(&wanted("shared", true, good)).unwrap();
            assert!(!group.made);
            remove(&group).unwrap();
        }
        for bad in ["L3:0=1f", "L3:2=f", "L2:0=f", "MB:0=35"] {
            let error = tree.make(&wanted("shared", true, &[bad])).unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some("/linux/intelRdt"), "{bad}");
        }
        assert_eq!(tree.read("shared/schemata"), "    MB:0= 30;1=100\n    L3:0=00f;1=fff\n");
        let own = tree.make(&wanted("shared", false, &[])).unwrap_err();
        assert!(own.message.contains("exists"), "{own}");
        let info = tree.make(&wanted("info", true, &[])).unwrap_err();
        assert!(info.message.contains("no resctrl group"), "{info}");
    }

    #[test]
    fn a_class_without_schemata_must_be_there() {
        let tree = Tree::new();
        let error = tree.make(&wanted("none", true, &[])).unwrap_err();
        assert_eq!(error.pointer.as_deref(), Some("/linux/intelRdt/closID"));
        assert!(error.message.starts_with("clos dir not accessible"), "{error}");
        assert!(!tree.0.join("none").exists());
    }

    #[test]
    fn schemata_are_replaced_and_the_old_ones_come_back() {
        let tree = Tree::new();
        let group = tree.make(&wanted("c1", false, &["L3:0=f\n"])).unwrap();
        assert_eq!(replace(&group, "L3:0=3\n").unwrap(), "L3:0=f\n");
        assert_eq!(tree.read("c1/schemata"), "L3:0=3\n");
        fs::remove_dir_all(&group.class).unwrap();
        let error = replace(&group, "L3:0=3\n").unwrap_err();
        assert_eq!(error.errno, Some(Errno::ENOENT));
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let tree = Tree::new();
        let mut group = wanted("c1", true, &[]);
        group.monitor = Some("m".into());
        group.given = false;
        // Plain directories have no mon_groups of their own, as on a processor without monitoring.
        let error = tree.make(&group).unwrap_err();
        assert_eq!(error.pointer.as_deref(), Some("/linux/intelRdt/enableMonitoring"));
        assert!(!tree.0.join("c1").exists());
    }
}
