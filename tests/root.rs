//! The root file system: read-only, masked and read-only paths, propagation, and what an image may have put into it.

use std::fs;
use std::os::unix::fs::symlink;

use nix::mount::MsFlags;
use serde_json::{Value, json};

mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;
use common::Bundle;
use mountinfo::{HostMount, at};

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().expect("mounts")
}

/// The bundle without the mounts on and below /dev.
fn without_dev(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        mounts(config).retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
    })
}

#[test]
fn a_readonly_root_is_readonly_and_its_mounts_are_not() {
    let script = "touch /new 2>&1; touch /dev/shm/new; echo $?; cat /proc/self/mountinfo";
    let bundle = Bundle::script(script).edit(|config| config["root"]["readonly"] = json!(true));
    // The targets of the mounts are made before.
    let shown = bundle.run().well();
    assert!(shown.starts_with("touch: /new: Read-only file system\n0\n"), "{shown}");
    assert!(at(&shown, "/").has("ro"));
    assert!(!bundle.rootfs("/new").exists());

    let bundle = Bundle::script("touch /new; cat /proc/self/mountinfo");
    assert!(!at(&bundle.run().well(), "/").options.contains(&"ro".to_owned()));
    assert!(bundle.rootfs("/new").exists());
}

#[test]
fn masked_files_are_empty_and_masked_directories_too() {
    let script = "cat /secret; echo file $?; ls -A /dir; echo dir $?; touch /dir/new 2>/dev/null; echo new $?; \
                  cat /behind; echo behind $?; umount /secret 2>/dev/null; umount /dir 2>/dev/null; cat /secret; ls -A /dir; \
                  stat -c '%F %t:%T' /secret; grep ' /dir ' /proc/self/mountinfo";
    let bundle = Bundle::script(script).edit(|config| {
        config["linux"]["maskedPaths"] =
            json!(["/secret", "/dir", "/link", "/missing", "/not/there", "/secret", "/dir"]);
    });
    fs::write(bundle.rootfs("/secret"), "secret\n").expect("a file");
    fs::write(bundle.rootfs("/behind"), "behind\n").expect("a file");
    symlink("/behind", bundle.rootfs("/link")).expect("a link");
    fs::create_dir(bundle.rootfs("/dir")).expect("a directory");
    fs::write(bundle.rootfs("/dir/secret"), "secret\n").expect("a file");
    let shown = bundle.run().well();
    let words = "file 0\ndir 0\nnew 1\nbehind 0\ncharacter special file 1:3\n";
    assert!(shown.starts_with(words), "{shown}");
    assert!(at(&shown, "/dir").has("ro"));
    assert!(!bundle.rootfs("/missing").exists() && !bundle.rootfs("/not").exists(), "masks make nothing");
}

/// The default list, on the kernel's own files.
#[test]
fn the_default_masks_cover_procfs() {
    let bundle = Bundle::script("cat /proc/kcore | wc -c; cat /proc/keys | wc -c; ls -A /sys/firmware | wc -l");
    assert_eq!(bundle.run().well(), "0\n0\n0");
    let open = Bundle::script("test -c /proc/keys; echo $?").edit(|config| config["linux"]["maskedPaths"] = json!([]));
    assert_eq!(open.run().well(), "1", "without the list it is the kernel's");
}

/// CVE-2025-31133: the mask's own source must be the null device.
#[test]
fn a_mask_without_a_null_device_fails() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/secret"]);
        let bind = json!({ "destination": "/dev", "type": "bind", "source": "/nowhere", "options": ["bind"] });
        mounts(config).retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
        mounts(config).push(bind);
    });
    let dev = bundle.dir.join("dev");
    fs::create_dir(&dev).expect("a directory");
    fs::write(bundle.rootfs("/secret"), "secret\n").expect("a file");
    let bundle = bundle.edit(|config| {
        let last = mounts(config).len() - 1;
        config["mounts"][last]["source"] = json!(dev);
    });
    bundle.run().fails("mask /secret");
    fs::write(dev.join("null"), "").expect("a file");
    bundle.run().fails("not the null device");
    fs::remove_file(dev.join("null")).expect("unlink");
    symlink("/secret", dev.join("null")).expect("a link");
    bundle.run().fails("not the null device");
}

#[test]
fn readonly_paths_are_readonly_with_all_below_them() {
    let script = "for f in /dir/new /dir/sub/new /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; do \
                  (echo 1 > $f) 2>/dev/null; echo $?; done; cat /dir/sub/file; (echo x >> /file) 2>/dev/null; echo $?";
    let bundle = Bundle::script(script).edit(|config| {
        config["linux"]["readonlyPaths"] = json!(["/dir", "/file", "/missing", "/proc/sys"]);
    });
    let source = bundle.dir.join("source");
    let _mount = HostMount::tmpfs(&source, MsFlags::empty());
    fs::write(source.join("file"), "text\n").expect("a file");
    fs::write(bundle.rootfs("/file"), "").expect("a file");
    let bundle = bundle.edit(|config| {
        mounts(config)
            .push(json!({ "destination": "/dir/sub", "type": "bind", "source": source, "options": ["bind"] }));
    });
    let _gone_first = _mount;
    assert_eq!(bundle.run().well(), "1\n1\n1\n1\ntext\n1");
    assert!(!bundle.rootfs("/missing").exists());
}

#[test]
fn the_default_readonly_paths_protect_sysctls() {
    let script = "(echo 99 > /proc/sys/kernel/shmmni) 2>/dev/null; echo $?";
    assert_eq!(Bundle::script(script).run().well(), "1");
    let open = Bundle::script(script).edit(|config| config["linux"]["readonlyPaths"] = json!([]));
    assert_eq!(open.run().well(), "0");
}

#[test]
fn the_roots_propagation_is_as_asked() {
    for (given, own) in [
        ("private", vec![]),
        ("rprivate", vec![]),
        ("shared", vec!["shared"]),
        ("rshared", vec!["shared"]),
        ("slave", vec!["master"]),
        ("rslave", vec!["master"]),
        ("unbindable", vec!["unbindable"]),
    ] {
        let bundle = Bundle::new().args(&["cat", "/proc/self/mountinfo"]);
        let root = HostMount::bind(&bundle.rootfs("/"), MsFlags::empty());
        root.change(MsFlags::MS_SHARED);
        let bundle = bundle.edit(|config| config["linux"]["rootfsPropagation"] = json!(given));
        let _gone_first = root;
        let said = bundle.run();
        assert_eq!(said.code, Some(0), "{given}: {}", said.stderr());
        assert_eq!(at(&said.stdout(), "/").peers(), own, "{given}");
        let host = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let seen = host.lines().filter(|line| line.contains(&format!("{}/rootfs", bundle.dir.display()))).count();
        assert_eq!(seen, 1, "{given}: the container's mounts came to the host: {host}");
    }
    let bundle = Bundle::new().edit(|config| config["linux"]["rootfsPropagation"] = json!("sideways"));
    bundle.run().fails("/linux/rootfsPropagation");
}

#[test]
fn without_pivot_the_root_is_the_containers_as_well() {
    let bundle = Bundle::script(
        "ls -d /proc/1 /marker; cat /proc/1/comm; ls /../marker; grep -c orlop-test /proc/self/mountinfo",
    );
    fs::write(bundle.rootfs("/marker"), "").expect("a file");
    let shown = bundle.run_with(&["--no-pivot"]).well();
    assert!(shown.starts_with("/marker\n/proc/1\nsh\n/../marker\n"), "{shown}");
}

#[test]
fn a_root_that_is_a_mount_keeps_its_flags() {
    let bundle = Bundle::new().args(&["cat", "/proc/self/mountinfo"]);
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bundle.rootfs(dir)).expect("a target");
    }
    let root = HostMount::bind(&bundle.rootfs("/"), MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    let mount = at(&bundle.run().well(), "/");
    for option in ["ro", "nosuid", "nodev"] {
        assert!(mount.has(option), "{option}: {mount:?}");
    }
    drop(root);
    let _root = HostMount::bind(&bundle.rootfs("/"), MsFlags::MS_NOEXEC);
    let said = bundle.run().fails("permission denied");
    assert!(said.contains("noexec"), "{said}");
}

#[test]
fn a_missing_target_on_a_readonly_root_is_named() {
    let bundle = Bundle::new();
    let _root = HostMount::bind(&bundle.rootfs("/"), MsFlags::MS_RDONLY);
    let said = bundle.run().fails("read-only file system");
    assert!(said.contains("the mount's target is missing"), "{said}");
}

/// CVE-2026-41579, CVE-2026-47766: an image whose /dev is a link must not get its nodes made elsewhere.
#[test]
fn a_dev_that_is_a_link_leads_nowhere_outside() {
    for (target, mounted) in [("absolute", true), ("absolute", false), ("relative", true), ("relative", false)] {
        let bundle = Bundle::new();
        let bundle = if mounted { bundle } else { without_dev(bundle) };
        let decoy = bundle.dir.join("decoy");
        fs::create_dir(&decoy).expect("a decoy");
        fs::write(decoy.join("ptmx"), "kept").expect("a file");
        let target = if target == "absolute" { decoy.clone() } else { "../decoy".into() };
        symlink(target, bundle.rootfs("/dev")).expect("a link");
        bundle.run();
        let left: Vec<_> =
            fs::read_dir(&decoy).expect("the decoy").map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(left, ["ptmx"], "mounted: {mounted}");
        assert_eq!(fs::read_to_string(decoy.join("ptmx")).expect("ptmx"), "kept");
    }
}

#[test]
fn an_image_with_another_null_device_is_refused() {
    let file = without_dev(Bundle::new());
    fs::create_dir(file.rootfs("/dev")).expect("a directory");
    fs::write(file.rootfs("/dev/null"), "kept").expect("a file");
    file.run().fails("the file that is there is another one");
    assert_eq!(fs::read_to_string(file.rootfs("/dev/null")).expect("the file"), "kept");

    let link = without_dev(Bundle::new());
    fs::create_dir(link.rootfs("/dev")).expect("a directory");
    let decoy = link.dir.join("decoy");
    symlink(&decoy, link.rootfs("/dev/null")).expect("a link");
    link.run().fails("the file that is there is another one");
    assert!(!decoy.exists());
}

#[test]
fn ptmx_of_the_image_is_replaced_and_its_target_left_alone() {
    let bundle = without_dev(Bundle::script("readlink /dev/ptmx; readlink /dev/fd; test -c /dev/null; echo $?"));
    let decoy = bundle.dir.join("decoy");
    fs::write(&decoy, "kept").expect("a decoy");
    fs::create_dir(bundle.rootfs("/dev")).expect("a directory");
    symlink(&decoy, bundle.rootfs("/dev/ptmx")).expect("a link");
    assert_eq!(bundle.run().well(), "pts/ptmx\n/proc/self/fd\n0");
    assert_eq!(fs::read_to_string(&decoy).expect("the decoy"), "kept");
}

/// CVE-2025-52565: the terminal comes from the container's own devpts or not at all.
#[test]
fn a_terminal_needs_a_devpts() {
    let bundle = Bundle::new().edit(|config| {
        config["process"]["terminal"] = json!(true);
        mounts(config).retain(|mount| mount["destination"] != "/dev/pts" && mount["destination"] != "/dev");
    });
    fs::create_dir_all(bundle.rootfs("/dev/pts")).expect("a directory");
    fs::write(bundle.rootfs("/dev/pts/ptmx"), "kept").expect("a file");
    bundle.run().fails("pseudo-terminal");
    assert_eq!(fs::read_to_string(bundle.rootfs("/dev/pts/ptmx")).expect("the file"), "kept");
}
