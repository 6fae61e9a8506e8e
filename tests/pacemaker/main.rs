//! `ocf:orlop:shim` on Pacemaker and Corosync themselves: two nodes, each in namespaces of its own, with the configuration of
//! docs/cluster/pacemaker.md. What is asked is the kernel: in which node's cgroup a container has a process.

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod program;
mod unkillable;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Cluster, Place};
use common::value;
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/cluster/pacemaker.md");

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0] == "/program" {
        return program::main(&arguments);
    }
    let trial = |name: &str, case: fn()| {
        Trial::test(name, move || {
            case();
            Ok(())
        })
    };
    let trials = vec![
        trial("a_container_that_fails_goes_elsewhere_and_one_that_works_stays", failures),
        trial("nothing_is_taken_over_from_a_node_that_may_run", losses),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// The blocks of the page in one language.
fn blocks(language: &str) -> Vec<&'static str> {
    PAGE.split("```").filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// The page's configuration, with the cluster's own bundle and fence device.
fn configuration(cluster: &Cluster) -> String {
    let page = blocks("crm")[0];
    assert!(page.contains("/var/lib/web") && page.contains("stonith:fence_ipmilan params ip=192.0.2.10"), "{page}");
    let power = "stonith:fence_test params pcmk_host_check=none";
    page.replace("/var/lib/web", &bundle(cluster, "web")).replace("stonith:fence_ipmilan params ip=192.0.2.10", power)
}

fn bundle(cluster: &Cluster, id: &str) -> String {
    cluster.directory.join(id).to_string_lossy().into_owned()
}

fn asks(path: &str) -> Value {
    json!({"httpGet": {"port": 80, "path": path}, "periodSeconds": 0.2, "failureThreshold": 1, "timeoutSeconds": 5})
}

/// The program has its time to begin.
fn begins() -> Value {
    let mut probe = asks("/live");
    probe["failureThreshold"] = json!(100);
    probe
}

/// Asked for its life and its readiness, and `push` as the page has it.
fn health(push: Option<usize>) -> Value {
    let page = |number: usize| serde_json::from_str::<Value>(blocks("json")[number]).expect("JSON")["push"].clone();
    let push = push.map(page).unwrap_or_else(|| json!([]));
    json!({"startup": begins(), "liveness": asks("/live"), "readiness": asks("/ready"), "push": push})
}

fn remove(cluster: &Cluster, place: Place, file: &str) {
    fs::remove_file(cluster.state(place, file)).expect("remove a file of the state");
}

fn restore(cluster: &Cluster, place: Place, file: &str) {
    fs::write(cluster.state(place, file), "").expect("a file of the state");
}

fn failures() {
    let cluster = Cluster::new();
    let works = &["live", "ready"];
    cluster.bundle("web", works, &health(None));
    cluster.bundle("plain", works, &json!({"startup": begins(), "readiness": asks("/ready")}));
    cluster.bundle("slow", &["live"], &health(None));
    cluster.bundle("impatient", &["live"], &health(None));
    cluster.bundle("shell", works, &json!({"startup": {"exec": {"command": ["/bin/true"]}, "periodSeconds": 0.2}}));
    cluster.bundle("pushing", works, &health(Some(0)));
    cluster.bundle("silent", works, &health(None));
    cluster.bundle("reddening", works, &health(Some(1)));
    let more = |words: &str| {
        let (id, rest) = words.split_once(' ').expect("an id");
        format!("primitive {id} ocf:orlop:shim params bundle={} {rest}\n", bundle(&cluster, id))
    };
    let start = "op start timeout=60s op stop timeout=30s op monitor timeout=20s";
    cluster.configure(
        0,
        &[
            configuration(&cluster),
            more(&format!("plain degraded=false {start} interval=1s")),
            more("slow op start timeout=120s op stop timeout=8s op monitor timeout=20s interval=1s"),
            more("impatient op start timeout=8s"),
            more("shell op start timeout=8s"),
            more(&format!("pushing {start} interval=600s meta migration-threshold=1")),
            more(&format!("silent {start} interval=600s meta migration-threshold=1")),
            more(&format!("reddening {start} interval=600s")),
        ]
        .concat(),
    );
    let web = cluster.started("web");
    let plain = cluster.started("plain");
    a_slow_start_is_waited_for_and_needs_nothing_of_the_image(&cluster);
    who_is_not_ready_is_degraded_and_stays(&cluster, web, plain);
    who_is_unhealthy_goes_to_the_other_node(&cluster, web, plain);
    a_failure_is_pushed(&cluster);
    a_node_is_left(&cluster);
    what_is_frozen_is_stopped(&cluster);
    assert!(!cluster.fencing(0) && !cluster.fencing(1));
}

/// All images here hold one static program, no shell and no /bin/true.
fn a_slow_start_is_waited_for_and_needs_nothing_of_the_image(cluster: &Cluster) {
    let failed = |id: &str, why: &str| [0, 1].map(|node| cluster.failure(node, id).reason().starts_with(why));
    // One with less time has failed by now, and one whose probe is a program that its image lacks...
    let failing = [("impatient", "not ready in its time: notready not-ready"), ("shell", "unhealthy probe-failed")];
    for (id, why) in failing {
        cluster.soon(&format!("{id} fails on a node"), || failed(id, why).contains(&true));
    }
    // ...and this one still starts.
    let slow = cluster.place("slow").expect("slow runs");
    assert!(cluster.last(slow.node, "slow").is(&["start", "193"]), "{:?}", cluster.last(slow.node, "slow"));
    restore(cluster, slow, "ready");
    assert_eq!(cluster.started("slow"), slow);
    // Pacemaker begins nothing anew while an action is on its way.
    for (id, why) in failing {
        cluster.soon(&format!("{id} fails on the other node"), || failed(id, why) == [true, true]);
        cluster.soon(&format!("{id} is stopped"), || cluster.place(id).is_none());
    }
}

fn who_is_not_ready_is_degraded_and_stays(cluster: &Cluster, web: Place, plain: Place) {
    remove(cluster, web, "ready");
    remove(cluster, plain, "ready");
    let line = blocks("text")[0].trim().replace("node1", &cluster::name(web.node));
    cluster.soon("it is shown as degraded", || cluster.shown(0).contains(&line));
    cluster.remains("it runs where it did", || cluster.place("web") == Some(web));
    // With `degraded=false` it is as well as any other.
    assert!(cluster.place("plain") == Some(plain) && !cluster.shown(0).contains("plain 1s-interval monitor"));
}

fn who_is_unhealthy_goes_to_the_other_node(cluster: &Cluster, web: Place, plain: Place) {
    remove(cluster, web, "live");
    // It is not asked for its life.
    remove(cluster, plain, "live");
    cluster.soon("it runs on the other node", || cluster.process(1 - web.node, "web").is_some());
    cluster.started("web");
    assert_eq!(cluster.failure(web.node, "web").reason(), "unhealthy probe-failed");
    assert!(!cluster.cgroup(web.node, "web").exists());
    cluster.remains("what nobody asks for its life runs", || cluster.place("plain") == Some(plain));
}

fn a_failure_is_pushed(cluster: &Cluster) {
    let [pushing, silent] = ["pushing", "silent"].map(|id| cluster.started(id));
    remove(cluster, silent, "live");
    let begun = Instant::now();
    remove(cluster, pushing, "live");
    cluster.soon("it is stopped", || cluster.process(pushing.node, "pushing").is_none());
    println!("pushed: stopped after {:?}, of 600 s between two monitors", begun.elapsed());
    cluster.soon("it runs on the other node", || cluster.process(1 - pushing.node, "pushing").is_some());
    cluster.remains("what pushes nothing runs", || cluster.place("silent") == Some(silent));
}

fn a_node_is_left(cluster: &Cluster) {
    let place = cluster.started("reddening");
    let begun = Instant::now();
    remove(cluster, place, "live");
    cluster.soon("it is stopped", || cluster.process(place.node, "reddening").is_none());
    println!("red: stopped after {:?}, of 600 s between two monitors", begun.elapsed());
    cluster.soon("everything has left the node", || {
        ["web", "plain", "pushing"].iter().all(|id| cluster.process(place.node, id).is_none())
    });
    let place = cluster.started("reddening");
    // Without the strategy it is said, and nobody leaves.
    let strategy = ["crm_attribute", "--name", "node-health-strategy", "--update", "none"];
    cluster.on(0, &strategy).expect("no strategy");
    remove(cluster, place, "live");
    let red = ["attrd_updater", "-n", "#health-orlop", "-Q"];
    cluster.soon("the node is red", || cluster.on(place.node, &red).is_ok_and(|said| said.contains("red")));
    cluster.remains("it runs", || cluster.place("reddening") == Some(place));
}

fn what_is_frozen_is_stopped(cluster: &Cluster) {
    let [web, slow] = ["web", "slow"].map(|id| cluster.started(id));
    let cgroup = cluster.cgroup(web.node, "web");
    fs::write(cgroup.join("cgroup.freeze"), "1").expect("cgroup.freeze");
    cluster.soon("it is frozen", || value(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("frozen 1")));
    let stopped = Command::new("kill").args(["-STOP", &slow.pid.to_string()]).status();
    assert!(stopped.expect("kill").success());
    for (id, place) in [("web", web), ("slow", slow)] {
        let stop = ["--set-parameter", "target-role", "--meta", "--parameter-value", "Stopped"];
        cluster.on(0, &[&["crm_resource", "--resource", id][..], &stop].concat()).expect("to be stopped");
        cluster.soon("its stop has ended well", || cluster.last(place.node, id).is(&["stop", "0"]));
        assert!(!cluster.cgroup(place.node, id).exists() && !Path::new("/proc").join(place.pid.to_string()).exists());
    }
}

fn losses() {
    let mut cluster = Cluster::new();
    cluster.bundle("web", &["live", "ready"], &health(None));
    cluster.bundle("stuck", &["live", "ready"], &health(None));
    let stuck =
        format!("primitive stuck ocf:orlop:shim params bundle={} op stop timeout=8s\n", bundle(&cluster, "stuck"));
    cluster.configure(0, &(configuration(&cluster) + &stuck));
    let web = cluster.started("web");
    let web = out_of_sight(&mut cluster, web);
    gone(&mut cluster, web);
    what_cannot_be_killed_is_not_said_to_be_stopped(&mut cluster);
    without_fencing_it_runs_twice(&cluster);
}

/// A node that nobody sees: it runs the container until it is ended.
fn out_of_sight(cluster: &mut Cluster, web: Place) -> Place {
    cluster.cut();
    cluster.soon("the node is to be ended", || cluster.fencing(web.node));
    cluster.remains("nobody else runs it", || cluster.place("web") == Some(web));
    cluster.kill(web.node);
    cluster.gone(web.node);
    taken_over(cluster, "web", web.node)
}

/// A node that is lost, with all that ran on it.
fn gone(cluster: &mut Cluster, web: Place) -> Place {
    cluster.kill(web.node);
    cluster.gone(web.node);
    cluster.soon("the node is to be ended", || cluster.fencing(web.node));
    taken_over(cluster, "web", web.node)
}

/// By the other node, as soon as it is told that this one has ended, and not before; which is started again then.
fn taken_over(cluster: &mut Cluster, id: &str, from: usize) -> Place {
    cluster.remains("nobody runs it", || cluster.place(id).is_none());
    cluster.fenced(from);
    let place = cluster.started(id);
    assert_eq!(place.node, 1 - from);
    cluster.reset();
    cluster.boot(from);
    cluster.join();
    cluster.remains("it stays where it is", || cluster.place(id) == Some(place));
    place
}

/// Its stop fails, and its node is ended for that; and that can't be said as long as its process is there.
fn what_cannot_be_killed_is_not_said_to_be_stopped(cluster: &mut Cluster) {
    let stuck = cluster.started("stuck");
    restore(cluster, stuck, "stuck");
    cluster.soon("it waits", || cluster.unkillable.holds());
    let elsewhere = ["--node", &cluster::name(1 - stuck.node)];
    cluster.on(0, &[&["crm_resource", "--resource", "stuck", "--move"][..], &elsewhere].concat()).expect("a move");
    cluster.soon("the node is to be ended", || cluster.fencing(stuck.node));
    let failure = cluster.failure(stuck.node, "stuck");
    assert!(failure.is(&["stop", "1"]) && failure.reason().ends_with("have not ended by SIGKILL"), "{failure:?}");
    cluster.kill(stuck.node);
    cluster.remains("it is there", || cluster.populated(stuck.node) && cluster.place("stuck") == Some(stuck));
    cluster.unkillable.release();
    cluster.gone(stuck.node);
    taken_over(cluster, "stuck", stuck.node);
}

/// Who has nobody to ask: the lock sees it.
fn without_fencing_it_runs_twice(cluster: &Cluster) {
    cluster.on(0, &["crm_attribute", "--name", "stonith-enabled", "--update", "false"]).expect("no fencing");
    cluster.soon("it runs", || cluster.place("web").is_some());
    cluster.cut();
    let begun = Instant::now();
    while !cluster.twice().contains(&"web".to_owned()) {
        assert!(begun.elapsed() < cluster::SOON, "it does not run twice");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!([0, 1].iter().all(|node| cluster.process(*node, "web").is_some()));
}
