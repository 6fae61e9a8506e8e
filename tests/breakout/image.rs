//! Malicious images: what lies at a path that the runtime uses is not what it expects.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::place::{CANARY, Place, Verdict, ended};

/// `/dev` of the image leads to the host: no node, link or console may be made there.
pub fn dev_is_a_link(place: Place) -> Verdict {
    place.link("/dev", &place.decoy);
    let place = place.without_dev();
    let before = place.decoys();
    let run = place.run();
    place.untouched(&before, ended(&run))
}

/// A procfs on a link would be a procfs wherever the image wants it, and what is written to /proc would go elsewhere
/// (CVE-2019-19921, CVE-2025-54867).
pub fn proc_is_a_link(place: Place) -> Verdict {
    fs::create_dir(place.bundle.rootfs("elsewhere")).expect("a directory");
    place.link("/proc", Path::new("elsewhere"));
    let run = place.script("ls /elsewhere").run();
    match run.code {
        Some(0) if run.stdout().contains("self") => {
            Verdict::Open("procfs is mounted where the image's link leads".into())
        }
        _ => Verdict::Held(ended(&run)),
    }
}

/// The target of a bind mount leads to the host: nothing may be mounted or made there (CVE-2021-30465, CVE-2024-45310).
pub fn target_is_a_link(place: Place) -> Verdict {
    place.link("/mnt", &place.decoy);
    let given = place.bundle.dir.join("given");
    fs::write(&given, "given").expect("a file");
    let place = place
        .mount(json!({"destination": "/mnt/made/file", "type": "bind", "source": given, "options": ["bind", "ro"]}));
    let before = place.decoys();
    let run = place.run();
    place.untouched(&before, ended(&run))
}

/// The same by `..` on the way, as far as it goes.
pub fn target_climbs_out(place: Place) -> Verdict {
    let up = "../".repeat(40);
    let decoy = format!("{up}{}", place.decoy.display().to_string().trim_start_matches('/'));
    place.link("/mnt", Path::new(&decoy));
    let place = place.mount(json!({"destination": "/mnt/made", "type": "tmpfs", "source": "tmpfs"}));
    let before = place.decoys();
    let run = place.run();
    place.untouched(&before, ended(&run))
}

/// `/dev/null` of the image is a link to a file of the host: what masks a path by it would show that file, and let it be
/// written to (CVE-2025-31133).
pub fn null_is_a_link(place: Place) -> Verdict {
    fs::create_dir_all(place.bundle.rootfs("dev")).expect("dev");
    symlink(place.decoy.join("canary"), place.bundle.rootfs("dev/null")).expect("a link");
    fs::write(place.bundle.rootfs("secret"), "secret").expect("a secret");
    let place = masking(place);
    let before = place.decoys();
    let run = place.run();
    let said = run.stdout();
    match said {
        _ if said.contains(CANARY) => Verdict::Open("the mask shows a file of the host".into()),
        _ if said.contains("secret") => Verdict::Open("the path is not masked".into()),
        _ => place.untouched(&before, ended(&run)),
    }
}

/// The same where it is missing: then nothing must be left unmasked.
pub fn null_is_missing(place: Place) -> Verdict {
    fs::create_dir_all(place.bundle.rootfs("dev")).expect("dev");
    fs::write(place.bundle.rootfs("dev/null"), "no device").expect("a file");
    fs::write(place.bundle.rootfs("secret"), "secret").expect("a secret");
    let run = masking(place).run();
    match run.stdout() {
        said if said.contains("secret") || said.contains("no device") => {
            Verdict::Open(format!("the path is not masked: {said}"))
        }
        _ => Verdict::Held(ended(&run)),
    }
}

/// Without a mount on /dev, with /secret masked, which the program reads and writes.
fn masking(place: Place) -> Place {
    let script = "cat /secret; (echo broken >/secret) 2>/dev/null; cat /secret";
    place.without_dev().script(script).edit(|config| config["linux"]["maskedPaths"] = json!(["/secret"]))
}

/// A masked path is a link: what it leads to is what is masked.
pub fn masked_path_is_a_link(place: Place) -> Verdict {
    fs::write(place.bundle.rootfs("real"), "secret").expect("a secret");
    place.link("/secret", Path::new("/real"));
    let place = place.script("cat /real").edit(|config| config["linux"]["maskedPaths"] = json!(["/secret"]));
    let run = place.run();
    match run.stdout().contains("secret") {
        true => Verdict::Open("what the link leads to can be read".into()),
        false => Verdict::Held(ended(&run)),
    }
}

/// The image has another name for /dev, over which a later mount goes: what is made in /dev must not be made in there.
pub fn alias_of_dev(place: Place) -> Verdict {
    place.link("/alias", Path::new("dev"));
    fs::create_dir_all(place.bundle.dir.join("given")).expect("a directory");
    let given = place.bundle.dir.join("given");
    let place = place.script("echo >/dev/null && ls /dev");
    let place = place.mount(json!({"destination": "/alias", "type": "bind", "source": given, "options": ["bind"]}));
    let run = place.run();
    let made: Vec<_> = fs::read_dir(&given).expect("given").flatten().map(|entry| entry.file_name()).collect();
    match made.is_empty() {
        true => Verdict::Held(ended(&run)),
        false => Verdict::Open(format!("device nodes were made in a directory of the host: {made:?}")),
    }
}
