//! Slurm itself, a cluster of one node in namespaces of its own, with the files in examples/slurm: jobs in containers, and a node
//! that is taken out of work.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, Running, begin, outcome, soon};
use serde_json::Value;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

struct Cluster {
    bundle: Bundle,
    /// The node's name, which is in the id of each container: unlike any other on this machine.
    name: String,
    /// What keeps the node's processes: they end with it.
    unshare: Option<Running>,
    /// The node's first process.
    pid: u32,
    /// The node's programs when it does nothing.
    idle: Vec<String>,
}

impl Cluster {
    /// With a file of examples/slurm as its oci.conf.
    fn new(oci: &str) -> Self {
        Self::with(oci, common::ORLOP)
    }

    /// With another program in orlop's place.
    fn with(oci: &str, runtime: &str) -> Self {
        for (program, package) in
            [("munged", "munge"), ("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("srun", "slurm-client")]
        {
            let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
            let there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
            assert!(there, "no {program}: apt-get install {package}");
        }
        let bundle = Bundle::new();
        let name = bundle.id.clone();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(["tests/engines/place", "tests/slurm/node"].map(|script| format!("{HERE}/{script}")));
        unshare.arg(&name).arg(format!("{HERE}/examples/slurm/{oci}"));
        unshare.env("RUNTIME", runtime).stdin(Stdio::null());
        let unshare = begin(unshare);
        let id = unshare.child.id();
        let mut cluster = Self { bundle, name, unshare: Some(unshare), pid: 0, idle: Vec::new() };
        soon(|| cluster.unshare.as_ref().is_some_and(|node| node.stdout().contains("up\n")));
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
        cluster.pid = children.trim().parse().expect("one child");
        cluster.idle = cluster.programs();
        cluster
    }

    /// A command on the node.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--uts", "--net", "--ipc", "--pid", "--"]);
        command.args(words).current_dir("/").stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Outcome {
        outcome(self.command(words))
    }

    /// A job: a script in the container.
    fn job(&self, script: &str) -> Command {
        let container = format!("--container={}", self.bundle.dir.display());
        self.command(&["timeout", "60", "srun", "--quiet", "--job-name=it", &container, "sh", "-c", script])
    }

    /// A job that has begun, and its container's id.
    fn begun(&self, script: &str) -> (Running, String) {
        let job = begin(self.job(&format!("{script}; echo ready; while :; do sleep 0.1; done")));
        soon(|| job.stdout().contains("ready"));
        let id = self.run(&["/usr/local/bin/orlop", "--root=/run/orlop-slurm", "list", "--quiet"]).well();
        assert!(id.starts_with(&format!("{}.root.", self.name)), "{id:?}");
        (job, id)
    }

    fn cancel(&self) {
        self.run(&["scancel", "--name=it"]).well();
    }

    /// The names of all that runs on the node but the one who asks.
    fn programs(&self) -> Vec<String> {
        let all = self.run(&["ps", "-e", "-o", "comm="]).well();
        let mut all: Vec<String> = all.lines().filter(|name| *name != "ps").map(str::to_owned).collect();
        all.sort();
        all
    }

    /// Our cgroups that there are.
    fn cgroups(&self) -> Vec<std::path::PathBuf> {
        let all = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        all.filter(|path| path.to_string_lossy().contains(&self.name)).collect()
    }

    /// Soon no job, no process, no state and no cgroup is left.
    #[track_caller]
    fn nothing_is_left(&self) {
        soon(|| self.run(&["squeue", "--noheader"]).well().is_empty() && self.programs() == self.idle);
        assert_eq!(self.run(&["ls", "-A", "/run/orlop-slurm"]).well(), "");
        assert_eq!(self.cgroups(), Vec::<std::path::PathBuf>::new());
    }

    /// What the controller says of the node.
    fn node(&self) -> String {
        self.run(&["scontrol", "show", "node", &self.name]).well()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(mut unshare) = self.unshare.take() else { return };
        if std::thread::panicking() {
            eprintln!("{}", self.run(&["tail", "-n", "50", "/var/log/slurmd", "/var/log/slurmctld"]).stdout());
        }
        let _ = unshare.child.kill();
        unshare.end();
        // Their processes have been killed, and may still be there.
        let begun = Instant::now();
        while self.cgroups().into_iter().filter(|cgroup| fs::remove_dir(cgroup).is_err()).count() > 0 {
            if begun.elapsed() > Duration::from_secs(10) {
                break;
            }
            sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn the_page_shows_the_files() {
    let page = fs::read_to_string(Path::new(HERE).join("docs/cluster/slurm.md")).expect("slurm.md");
    for (block, file) in [(1, "oci.conf"), (2, "health.conf")] {
        let shown = page.split("```").nth(2 * block - 1).expect("a block").trim();
        let written = fs::read_to_string(Path::new(HERE).join("examples/slurm").join(file)).expect(file);
        assert!(written.ends_with(&format!("\n{shown}\n")), "{file} is not {shown}");
    }
}

#[test]
fn a_job_has_the_output_and_the_status_of_its_container() {
    let cluster = Cluster::new("oci.conf");
    let said = outcome(cluster.job("echo $$ out; echo err >&2; exit 7"));
    assert_eq!((said.code, said.stdout().as_str()), (Some(7), "1 out\n"), "{}", said.stderr());
    assert!(said.stderr().lines().any(|line| line == "err"), "{}", said.stderr());
    cluster.nothing_is_left();

    let container = format!("--container={}", cluster.bundle.dir.display());
    let said = cluster.run(&["timeout", "60", "srun", &container, "absent"]);
    said.fails("exec: \"absent\": executable file not found in $PATH");
    cluster.nothing_is_left();
}

#[test]
fn a_job_that_is_cancelled_leaves_nothing() {
    let cluster = Cluster::new("oci.conf");
    let (job, id) = cluster.begun("trap 'exit 3' TERM");
    // Slurm reads both streams as JSON.
    let state = cluster.run(&["/usr/local/bin/orlop", "--root=/run/orlop-slurm", "state", &id]);
    assert_eq!(state.stderr(), "");
    let state: Value = serde_json::from_str(&state.well()).expect("JSON");
    assert_eq!(state["status"], "running");
    assert_eq!(cluster.cgroups().len(), 1);
    cluster.cancel();
    assert_eq!(job.end().code, Some(3));
    cluster.nothing_is_left();
    // What does not end by SIGTERM is killed after KillWait. By then srun may have gone without a status.
    let (job, _) = cluster.begun("trap '' TERM");
    cluster.cancel();
    job.end();
    cluster.nothing_is_left();
}

/// As far as Slurm 22.05 goes: it learns no status from a state, and its signals go to those below its own process, where no
/// container is. When one of them is a query, it takes that for an end, and kills.
fn create_and_start(runtime: &str) {
    let cluster = Cluster::with("oci-create-start.conf", runtime);
    let said = outcome(cluster.job("echo $$ out; echo err >&2; exit 7"));
    assert_eq!((said.code, said.stdout().as_str()), (Some(0), "1 out\n"), "{}", said.stderr());
    assert!(said.stderr().lines().any(|line| line == "err"), "{}", said.stderr());
    cluster.nothing_is_left();
    let outlives_a_cancel = || {
        let (job, id) = cluster.begun("trap 'exit 3' TERM");
        cluster.cancel();
        assert_ne!(job.end().code, Some(3));
        sleep(Duration::from_secs(1));
        let runtime = |words: [&str; 3]| {
            let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            cluster.run(&[&["/usr/local/bin/orlop", "--root=/run/orlop-slurm"], &words[..]].concat())
        };
        let lives = runtime(["state", &id, ""]).stdout().contains("\"running\"");
        let killed = runtime(["kill", &id, "KILL"]);
        assert!(killed.code == Some(0) || killed.stderr().contains("container does not exist"), "{}", killed.stderr());
        cluster.nothing_is_left();
        lives
    };
    assert!((0..8).any(|_| outlives_a_cancel()), "Slurm does find it: slurm.md says otherwise");
}

#[test]
fn a_job_by_create_and_start_has_its_containers_output() {
    create_and_start(common::ORLOP);
}

#[test]
fn a_job_by_create_and_start_has_no_more_with_runc() {
    create_and_start("/usr/sbin/runc");
}

#[test]
fn a_bad_container_drains_its_node_and_a_good_one_does_not_bring_it_back() {
    let cluster = Cluster::new("oci.conf");
    let bundle = Bundle::script("touch /tmp/well; exec sleep 1000");
    let health = r#"{"liveness": {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 0.2, "failureThreshold": 1,
        "timeoutSeconds": 10}, "stop": {"timeoutSeconds": 0.1}}"#;
    fs::write(bundle.dir.join("health.json"), health).expect("health.json");
    let (id, directory) = (bundle.id.as_str(), bundle.dir.to_str().expect("UTF-8"));
    let check = || cluster.run(&["/usr/local/bin/orlop-shim", "check", id]).stdout();
    cluster.run(&["/usr/local/bin/orlop-shim", "run", "--detach", directory, id]).well();
    soon(|| check() == "healthy ok\n");
    fs::remove_file(bundle.rootfs("tmp/well")).expect("remove");
    soon(|| check() == "unhealthy probe-failed\n");
    // Nobody has told Slurm to ask.
    sleep(Duration::from_secs(3));
    assert!(cluster.node().contains("State=IDLE "), "{}", cluster.node());

    let lines = fs::read_to_string(Path::new(HERE).join("examples/slurm/health.conf")).expect("health.conf");
    let lines = lines.replace("HealthCheckInterval=60", "HealthCheckInterval=1");
    cluster.run(&["sh", "-c", "printf %s \"$1\" >>/etc/slurm/slurm.conf", "sh", &lines]).well();
    cluster.run(&["scontrol", "reconfigure"]).well();
    soon(|| cluster.node().contains("State=IDLE+DRAIN "));
    assert!(
        cluster.node().contains(&format!("Reason=orlop: {id} unhealthy probe-failed [root@")),
        "{}",
        cluster.node()
    );
    // Drained means no work.
    assert_ne!(cluster.run(&["timeout", "60", "srun", "--immediate=1", "true"]).code, Some(0));
    // What somebody else has to say is left alone.
    cluster.run(&["scontrol", "update", &format!("NodeName={}", cluster.name), "State=DRAIN", "Reason=mine"]).well();
    sleep(Duration::from_secs(3));
    assert!(cluster.node().contains("Reason=mine "), "{}", cluster.node());

    fs::write(bundle.rootfs("tmp/well"), "").expect("write");
    soon(|| check() == "healthy ok\n");
    sleep(Duration::from_secs(3));
    assert!(cluster.node().contains("State=IDLE+DRAIN "), "{}", cluster.node());
    cluster.run(&["scontrol", "update", &format!("NodeName={}", cluster.name), "State=RESUME"]).well();
    soon(|| cluster.node().contains("State=IDLE "));
    // A container that was stopped is no bad one.
    cluster.run(&["/usr/local/bin/orlop-shim", "stop", id]).well();
    sleep(Duration::from_secs(3));
    assert!(cluster.node().contains("State=IDLE "), "{}", cluster.node());
}
