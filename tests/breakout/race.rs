//! Somebody with a hand in the image or in a volume exchanges names while the runtime is at work.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::common::Outcome;
use crate::mountinfo::HostMount;
use crate::place::{CANARY, Place, Verdict};
use crate::rounds::rounds;

/// Runs the container again and again while `meanwhile` is done without a pause, but for `check`, which says what got through.
fn racing(place: &Place, meanwhile: impl Fn() + Sync, check: impl Fn(&Outcome) -> Option<String>) -> Verdict {
    let (over, turn) = (AtomicBool::new(false), Mutex::new(()));
    let count = rounds(40);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _turn = turn.lock().expect("our turn");
                meanwhile();
            }
        });
        let mut started = 0;
        let through = (0..count).find_map(|_| {
            let run = place.run();
            started += u32::from(run.code == Some(0));
            let _turn = turn.lock().expect("our turn");
            check(&run)
        });
        over.store(true, Ordering::Relaxed);
        through.map_or_else(|| Verdict::Held(format!("{count} rounds, of which {started} could start")), Verdict::Open)
    })
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("an exchange");
}

/// Two names are exchanged, and the decoy must stay as it was.
fn exchanging(place: &Place, one: &Path, other: &Path) -> Verdict {
    let before = place.decoys();
    let touched = |_: &Outcome| match place.untouched(&before, String::new()) {
        Verdict::Held(_) => None,
        Verdict::Open(what) | Verdict::Unknown(what) => Some(what),
    };
    racing(place, || exchange(one, other), touched)
}

/// The target of a bind mount is a directory now and a link to the host then (CVE-2021-30465, CVE-2024-45310).
pub fn target(place: Place) -> Verdict {
    let (mnt, other) = (place.bundle.rootfs("mnt"), place.bundle.rootfs("other"));
    fs::create_dir(&mnt).expect("a directory");
    place.link("/other", &place.decoy);
    let given = place.bundle.dir.join("given");
    fs::write(&given, "given").expect("a file");
    let place = place
        .mount(json!({"destination": "/mnt/made/file", "type": "bind", "source": given, "options": ["bind", "ro"]}));
    exchanging(&place, &mnt, &other)
}

/// `/dev`, without a mount over it.
pub fn dev(place: Place) -> Verdict {
    let (dev, other) = (place.bundle.rootfs("dev"), place.bundle.rootfs("other"));
    fs::create_dir(&dev).expect("a directory");
    place.link("/other", &place.decoy);
    exchanging(&place.without_dev(), &dev, &other)
}

/// `/dev/null` of the image is the device now and a link to the host then, while a path is masked by it (CVE-2025-31133).
pub fn null(place: Place) -> Verdict {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    fs::create_dir(place.bundle.rootfs("dev")).expect("a directory");
    fs::write(place.bundle.rootfs("secret"), "secret").expect("a secret");
    let (null, other) = (place.bundle.rootfs("dev/null"), place.bundle.rootfs("dev/other"));
    mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("a null device");
    place.link("/dev/other", &place.decoy.join("canary"));
    let place = place.without_dev().script("cat /secret; (echo broken >/secret) 2>/dev/null; true");
    let place = place.edit(|config| config["linux"]["maskedPaths"] = json!(["/secret"]));
    let before = place.decoys();
    let through = |run: &Outcome| match run.stdout() {
        said if said.contains(CANARY) => Some("the mask shows a file of the host".to_owned()),
        said if said.contains("secret") => Some("the path is not masked".to_owned()),
        _ if place.decoys() != before => Some("a file of the host was written to".to_owned()),
        _ => None,
    };
    racing(&place, || exchange(&null, &other), through)
}

/// The mounts below /vol that a container has shown.
fn of_the_volume(run: &Outcome) -> Option<Vec<crate::mountinfo::Mount>> {
    let said = run.stdout();
    let mounts = said.lines().filter_map(crate::mountinfo::line);
    (run.code == Some(0)).then(|| mounts.filter(|mount| mount.point.starts_with("/vol/")).collect())
}

/// A volume with a file that is protected, another one, and a link to that, which takes the protected name at times.
fn volume(place: &Place) -> (std::path::PathBuf, std::path::PathBuf) {
    fs::create_dir(place.bundle.rootfs("vol")).expect("a volume");
    for name in ["vol/protected", "vol/third"] {
        fs::write(place.bundle.rootfs(name), "").expect("a file");
    }
    place.link("/vol/other", Path::new("/vol/third"));
    (place.bundle.rootfs("vol/protected"), place.bundle.rootfs("vol/other"))
}

/// A masked path: whichever file it was, that one is masked.
pub fn masked(place: Place) -> Verdict {
    let (one, other) = volume(&place);
    let place = place.script("cat /proc/self/mountinfo");
    let place = place.edit(|config| config["linux"]["maskedPaths"] = json!(["/vol/protected"]));
    let open = |run: &Outcome| {
        let mounts = of_the_volume(run)?;
        let masks = mounts.iter().filter(|mount| mount.root == "/null").count();
        (masks == 0 || mounts.len() != masks).then(|| format!("{masks} masks of {} mounts", mounts.len()))
    };
    racing(&place, || exchange(&one, &other), open)
}

/// A read-only path: where it is a mount, that is read-only, and it is one (GHSA-3q8j-pf29-vwv8).
pub fn read_only(place: Place) -> Verdict {
    let (one, other) = volume(&place);
    let place = place.script("cat /proc/self/mountinfo");
    let place = place.edit(|config| config["linux"]["readonlyPaths"] = json!(["/vol/protected"]));
    let open = |run: &Outcome| {
        let mounts = of_the_volume(run)?;
        let protected = mounts.iter().filter(|mount| mount.has("ro")).count();
        (protected == 0 || mounts.len() != protected).then(|| format!("{protected} of {} are read-only", mounts.len()))
    };
    racing(&place, || exchange(&one, &other), open)
}

/// The root file system is one directory now and another one then: all is done in the one that the program gets.
pub fn root(place: Place) -> Verdict {
    let (one, other) = (place.bundle.rootfs(""), place.bundle.dir.join("other"));
    let copied = Command::new("cp").arg("-a").args([&one, &other]).status().expect("cp");
    assert!(copied.success());
    let one = place.bundle.dir.join("rootfs");
    fs::write(one.join("name"), "one").expect("a name");
    fs::write(other.join("name"), "other").expect("a name");
    let place = place.script("cat /name");
    // Where there is none before.
    let made = ["proc", "sys", "dev"];
    let mixed = |run: &Outcome| {
        let name = run.stdout();
        let trees = [&one, &other].map(|tree| {
            let is = fs::read_to_string(tree.join("name")).expect("a name");
            let there = made.iter().filter(|dir| tree.join(dir).exists()).count();
            made.iter().for_each(|dir| drop(fs::remove_dir_all(tree.join(dir))));
            (is, there)
        });
        let in_both = trees.iter().all(|(_, there)| *there > 0);
        let in_the_other = trees.iter().any(|(is, there)| run.code == Some(0) && *is != name && *there > 0);
        (in_both || in_the_other).then(|| format!("the program is in {name:?}, and what was made in {trees:?}"))
    };
    racing(&place, || exchange(&one, &other), mixed)
}

/// On a mount that is shared with the host, where others mount meanwhile: nothing of the container's comes to the host.
pub fn propagation(place: Place) -> Verdict {
    let shared = HostMount::bind(&place.bundle.dir, MsFlags::empty());
    shared.change(MsFlags::MS_SHARED);
    let (given, below) = (place.bundle.dir.join("given"), place.bundle.dir.join("given/below"));
    fs::create_dir_all(&below).expect("a directory");
    let place = place.mount(json!({"destination": "/vol", "type": "bind", "source": given, "options": ["rbind"]}));
    let _gone_first = shared;
    let mounting = || {
        mount(Some("test"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
        umount2(&below, MntFlags::MNT_DETACH).expect("umount");
    };
    let inside = format!("{}/rootfs", place.bundle.dir.display());
    let leaked = |_: &Outcome| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        mounts.lines().find(|line| line.contains(&inside)).map(|line| format!("on the host is mounted: {line}"))
    };
    racing(&place, mounting, leaked)
}
