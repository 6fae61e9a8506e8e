//! Somebody with a hand in the image exchanges names while the runtime is at work.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use crate::place::{Place, Verdict};
use crate::rounds::rounds;

/// Runs the container again and again while two names are exchanged without a pause.
fn exchanging(place: &Place, one: &Path, other: &Path) -> Verdict {
    let before = place.decoys();
    let over = AtomicBool::new(false);
    let count = rounds(40);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("an exchange");
            }
        });
        let mut verdict = Verdict::Unknown("no round".into());
        let mut started = 0;
        for _ in 0..count {
            started += u32::from(place.run().code == Some(0));
            verdict = place.untouched(&before, format!("{count} rounds, of which {started} could start"));
            if matches!(verdict, Verdict::Open(_)) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        verdict
    })
}

/// The target of a bind mount is a directory now and a link to the host then (CVE-2021-30465, CVE-2024-45310).
pub fn target(place: Place) -> Verdict {
    let (mnt, other) = (place.bundle.rootfs("mnt"), place.bundle.rootfs("other"));
    std::fs::create_dir(&mnt).expect("a directory");
    place.link("/other", &place.decoy);
    let given = place.bundle.dir.join("given");
    std::fs::write(&given, "given").expect("a file");
    let place = place.edit(|config| {
        let mount =
            json!({"destination": "/mnt/made/file", "type": "bind", "source": given, "options": ["bind", "ro"]});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    exchanging(&place, &mnt, &other)
}

/// `/dev`, without a mount over it.
pub fn dev(place: Place) -> Verdict {
    let (dev, other) = (place.bundle.rootfs("dev"), place.bundle.rootfs("other"));
    std::fs::create_dir(&dev).expect("a directory");
    place.link("/other", &place.decoy);
    let place = place.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
    });
    exchanging(&place, &dev, &other)
}
