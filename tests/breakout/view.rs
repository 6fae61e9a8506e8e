//! What a program sees and can do from inside, under a configuration as engines write it: the guard is in the
//! configuration, and a runtime has to put it up.

use std::fs;

use serde_json::{Value, json};

use crate::place::{Place, Verdict, ended};

/// The lines of a script's output that say what got through.
fn through(place: Place, script: &str) -> Verdict {
    let run = place.script(script).run();
    let said = run.stdout();
    match (run.code, said.trim()) {
        (Some(0), "") => Verdict::Held("nothing got through".into()),
        (Some(0), said) => Verdict::Open(said.lines().take(3).collect::<Vec<_>>().join("; ")),
        _ => Verdict::Unknown(ended(&run)),
    }
}

/// The five capability sets are those of the configuration.
pub fn capabilities(place: Place) -> Verdict {
    through(
        place,
        "grep -E '^Cap(Prm|Eff|Bnd):' /proc/self/status | grep -v 0000000000000021; \
         grep -E '^Cap(Inh|Amb):' /proc/self/status | grep -v 0000000000000000; true",
    )
}

/// no_new_privs and the filter, in the program and in what exec starts.
pub fn no_new_privileges_and_filter(place: Place) -> Verdict {
    let look = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | grep -vE 'NoNewPrivs:.1|Seccomp:.2'; true";
    // Until it has been entered, or for half a minute.
    let script = format!("{look}; for n in $(seq 300); do [ ! -e /entered ] || break; sleep 0.1; done");
    let place = place.filtered("default").script(&script);
    let running = place.begin();
    place.once_up();
    let inside = place.exec(&[], &["sh", "-c", look]).stdout();
    fs::write(place.bundle.rootfs("entered"), "").expect("a file");
    let said = running.end().stdout() + &inside;
    if said.trim().is_empty() { Verdict::Held("set".into()) } else { Verdict::Open(said.replace('\n', "; ")) }
}

/// Every namespace of the configuration is another one than the host's.
pub fn namespaces(place: Place) -> Verdict {
    let hosts: Vec<String> = ["mnt", "pid", "net", "ipc", "uts"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).ok())
        .map(|link| link.display().to_string())
        .collect();
    let shared = format!(
        "for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; done | grep -F '{}'; true",
        hosts.join("\n")
    );
    through(place, &shared)
}

/// No setting of the kernel below /proc/sys can be opened for writing. Opened, and not written to; without a child for each.
pub fn settings(place: Place) -> Verdict {
    let script =
        "find /proc/sys -type f 2>/dev/null | while read -r f; do { { :; } 3>>$f; } 2>/dev/null && echo $f; done; true";
    through(place, script)
}

/// Nor can what else the kernel shows: interfaces of sysfs and procfs, the container's own cgroup and those of version 1 that
/// have led out (CVE-2022-0492); and no cgroup can be made.
pub fn kernel_files(place: Place) -> Verdict {
    let script = "for f in /sys/kernel/uevent_helper /sys/kernel/profiling /sys/power/state /sys/kernel/mm/ksm/run \
        /sys/module/kernel/parameters/panic /proc/irq/default_smp_affinity /proc/sysrq-trigger /proc/mtrr \
        /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.subtree_control /sys/fs/cgroup/cgroup.freeze \
        /sys/fs/cgroup/release_agent /sys/fs/cgroup/notify_on_release /sys/fs/cgroup/*/release_agent; do
        [ ! -e $f ] || { { { :; } 3>>$f; } 2>/dev/null && echo $f; }; done; mkdir /sys/fs/cgroup/made 2>/dev/null && echo made; true";
    through(place, script)
}

/// Nothing of a masked file or directory can be read.
pub fn masked(place: Place) -> Verdict {
    fs::write(place.bundle.rootfs("secret"), "secret").expect("a secret");
    fs::create_dir(place.bundle.rootfs("secrets")).expect("a directory");
    fs::write(place.bundle.rootfs("secrets/one"), "secret").expect("a secret");
    let place = place.edit(|config| config["linux"]["maskedPaths"] = json!(["/secret", "/secrets", "/nonexistent"]));
    through(place, "cat /secret; ls /secrets; (echo x >/secrets/two) 2>/dev/null && echo written; true")
}

/// A read-only path can't be written to, and neither can what lies below it.
pub fn read_only(place: Place) -> Verdict {
    fs::create_dir_all(place.bundle.rootfs("settings/below")).expect("a directory");
    let place = place.edit(|config| config["linux"]["readonlyPaths"] = json!(["/settings"]));
    through(
        place,
        "for d in /settings /settings/below; do (: >$d/made) 2>/dev/null && echo $d can be written to; done; true",
    )
}

/// A read-only root file system.
pub fn read_only_root(place: Place) -> Verdict {
    let place = place.edit(|config| config["root"]["readonly"] = json!(true));
    through(place, "(: >/made) 2>/dev/null && echo / can be written to; true")
}

/// No mount can be made, moved or taken away.
pub fn mounts(place: Place) -> Verdict {
    through(
        place,
        "mount -t tmpfs none /tmp 2>/dev/null && echo mounted; umount /proc 2>/dev/null && echo unmounted; \
         mount -o remount,bind,rw / 2>/dev/null && echo remounted; true",
    )
}

/// The device filter: a node of a device that is not allowed can't be made, or not be opened.
pub fn devices(place: Place) -> Verdict {
    let place = place.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_MKNOD"));
        }
        config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    });
    // Memory, the kernel's log, the terminals, loop-control, fuse: opened, and neither read nor written.
    through(
        place,
        "for n in 1:1 1:11 4:0 5:1 10:237 10:229; do mknod /tmp/$n c ${n%:*} ${n#*:} 2>/dev/null && \
         { { :; } 3>>/tmp/$n; } 2>/dev/null && echo device $n; done; true",
    )
}

/// `/dev` has what the specification lists, and what the configuration mounts there.
pub fn dev(place: Place) -> Verdict {
    through(
        place,
        "for f in /dev/*; do case ${f##*/} in null|zero|full|random|urandom|tty|console|ptmx|pts|shm|mqueue|fd|stdin|stdout|stderr|core) ;; \
         *) echo $f;; esac; done; ls /dev/null >/dev/null",
    )
}

/// No mount of the container is shared with the host.
pub fn propagation(place: Place) -> Verdict {
    through(place, "grep -E ' shared:' /proc/self/mountinfo; true")
}

/// What the filter denies to ordinary services: called with arguments of which only the filter makes an EPERM or ENOSYS.
pub fn system_calls(place: Place) -> Verdict {
    let calls = [
        (272, "unshare"),
        (308, "setns"),
        (425, "io_uring_setup"),
        (250, "keyctl"),
        (248, "add_key"),
        (249, "request_key"),
        (298, "perf_event_open"),
        (435, "clone3"),
    ];
    for (number, name) in calls {
        place.bundle.program(&format!("/bin/call-{name}"), crate::caller::caller(number));
    }
    let names: Vec<_> = calls.iter().map(|(_, name)| *name).collect();
    let script = format!(
        "for n in {}; do call-$n; e=$?; [ $e = 1 ] || [ $e = 38 ] || echo $n answers $e; done; true",
        names.join(" ")
    );
    through(place.filtered("default"), &script)
}

/// The configuration's environment and nothing of the runtime's.
pub fn environment(place: Place) -> Verdict {
    let given = place.bundle.config["process"]["env"].as_array().expect("env").clone();
    let names: Vec<_> = given.iter().filter_map(Value::as_str).filter_map(|entry| entry.split('=').next()).collect();
    let known = [names, vec!["HOME", "PWD", "SHLVL", "OLDPWD", "_"]].concat().join("|");
    through(place, &format!("env | grep -vE '^({known})='; true"))
}

/// A raw socket takes CAP_NET_RAW, which the configuration does not give.
pub fn raw_sockets(place: Place) -> Verdict {
    through(place, "ip link set lo up 2>/dev/null; ping -c 1 -W 1 127.0.0.1 2>&1 | grep -F '1 packets received'; true")
}
