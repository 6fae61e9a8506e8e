//! A cgroup2 mount and a cgroup of one's own for each test.
#![allow(dead_code)] // each test binary uses its own part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use orlop::cgroup::{Cgroup, Hierarchy};

const MOUNT: &str = "/sys/fs/cgroup";

/// A cgroup for one test, in a mount namespace of the test's thread; removed at the end, with what is left in it.
pub struct Ground {
    pub hierarchy: Hierarchy,
    /// Path below the root.
    pub path: String,
}

/// Mounts cgroup2 in a mount namespace of this thread only: the machine's own mounts stay as they are.
pub fn ground() -> Ground {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    assert!(nix::unistd::geteuid().is_root(), "these tests make cgroups: they need root");
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    // EBUSY: a host of pure v2 has it there already, and this namespace has a copy of that mount.
    match mount(Some("none"), MOUNT, Some("cgroup2"), MsFlags::empty(), None::<&str>) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(errno) => panic!("mount cgroup2: {errno}"),
    }
    let hierarchy = Hierarchy::find().unwrap().expect("the mount that was just made");
    assert_eq!(hierarchy.root, Path::new(MOUNT));
    let path = format!("/orlop-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    Ground { hierarchy, path }
}

impl Ground {
    pub fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    pub fn dir(&self, path: &str) -> PathBuf {
        self.hierarchy.root.join(path.trim_start_matches('/'))
    }

    pub fn create(&self, name: &str) -> Cgroup {
        Cgroup::create(&self.hierarchy, &self.below(name), &[]).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Cgroup::open(&self.hierarchy, &self.path) {
            let _ = cgroup.kill();
            let _ = cgroup.thaw(soon());
            let removed = cgroup.remove(soon());
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
        }
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Runs a shell script in the cgroup at `dir`.
pub fn shell(dir: &Path, script: &str) -> Child {
    let script = format!("echo $$ > '{}/cgroup.procs' || exit 99\n{script}", dir.display());
    Command::new("sh").arg("-c").arg(script).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Whether the script ends well in the cgroup at `dir`.
pub fn runs(dir: &Path, script: &str) -> bool {
    let code = shell(dir, script).wait().unwrap().code();
    assert_ne!(code, Some(99), "the shell could not enter {}", dir.display());
    code == Some(0)
}

/// Runs a process that sleeps in the cgroup at `dir`, and waits until it is there.
pub fn sleeper(dir: &Path) -> Child {
    let child = shell(dir, "exec sleep 1000");
    wait(|| fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines().any(|pid| pid == child.id().to_string()));
    child
}

pub fn wait(done: impl Fn() -> bool) {
    let deadline = soon();
    while !done() {
        assert!(Instant::now() < deadline, "waited for too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn value(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}
