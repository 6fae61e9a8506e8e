//! Two nodes of a cluster on this machine, each in namespaces of its own with a pid 1, and what the kernel says of their containers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{cgroup_of, value, wait};
use super::unkillable::Unkillable;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pacemaker");
const ADDRESSES: [&str; 2] = ["192.0.2.1/24", "192.0.2.2/24"];
/// Pacemaker's own times are seconds, on a quiet machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The nodes, and the directory that they have in common. All of it ends when it is dropped.
pub struct Cluster {
    /// What both nodes see: their configuration, the bundles, the locks, the switch.
    pub directory: PathBuf,
    /// What a process can wait for so that nobody can kill it.
    pub unkillable: Unkillable,
    nodes: [Option<Node>; 2],
}

struct Node {
    /// unshare(1), whose end is that of the pid namespace.
    child: Child,
    /// The first process of the namespace.
    pid: u32,
    cgroup: PathBuf,
}

/// Where a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 0 or 1.
    pub node: usize,
    /// Its first process, in this process' numbers.
    pub pid: u32,
}

/// What Pacemaker is called a node.
pub fn name(node: usize) -> String {
    format!("node{}", node + 1)
}

fn run(mut command: Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?}: {} {}{}", output.status, text(&output.stdout), text(&output.stderr)))
}

impl Cluster {
    /// A cluster whose nodes see each other, without a resource.
    pub fn new() -> Self {
        for (program, package) in [
            ("pacemakerd", "pacemaker"),
            ("corosync", "corosync"),
            ("crm_mon", "pacemaker-cli-utils"),
            ("crm", "crmsh"),
        ] {
            let there = ["/usr/sbin", "/usr/bin"].iter().any(|directory| Path::new(directory).join(program).exists());
            assert!(there, "no {program}: install Debian's {package} (tests/run does)");
        }
        let directory = std::env::temp_dir().join(format!("orlop-test-pacemaker-{}", std::process::id()));
        for each in ["corosync", "sbin", "ocf/orlop", "switch", "shared", "rootfs/shared", "rootfs/state"] {
            fs::create_dir_all(directory.join(each)).expect("a directory of the cluster's");
        }
        for each in ["dev", "proc", "sys"] {
            fs::create_dir(directory.join("rootfs").join(each)).expect("a directory of the image's");
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("chmod");
        let here = Path::new(HERE);
        let program = std::env::current_exe().expect("this program");
        for (from, to) in [
            (here.join("corosync.conf"), "corosync/corosync.conf"),
            (here.join("cib.xml"), "cib.xml"),
            (here.join("fence_test"), "sbin/fence_test"),
            (env!("CARGO_BIN_EXE_orlop-shim").into(), "orlop-shim"),
            (program, "rootfs/program"),
        ] {
            fs::copy(&from, directory.join(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        symlink(directory.join("orlop-shim"), directory.join("ocf/orlop/shim")).expect("the agent's link");
        let unkillable = Unkillable::on(&directory.join("shared/unkillable"));
        let mut cluster = Self { directory, unkillable, nodes: [None, None] };
        cluster.boot(0);
        cluster.boot(1);
        cluster.join();
        cluster
    }

    /// Starts a node, without a network.
    pub fn boot(&mut self, node: usize) {
        let own = format!("{}-{}", self.directory.file_name().expect("a name").to_string_lossy(), name(node));
        let cgroup = cgroup_of(std::process::id()).join(own);
        fs::create_dir(&cgroup).expect("the node's cgroup");
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&cgroup);
        // It ends with this process, whatever has become of that.
        command.args(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup"]);
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(Path::new(HERE).join("node"));
        command.arg(name(node)).arg(&cgroup).arg(&self.directory);
        let child = command.stdin(Stdio::null()).spawn().expect("a node");
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let first = || fs::read_to_string(&children).ok()?.trim().parse().ok();
        wait(|| first().is_some());
        let pid = first().expect("the node's first process");
        // Before that nothing of it can be entered.
        wait(|| cgroup.join("system/cgroup.procs").exists());
        self.nodes[node] = Some(Node { child, pid, cgroup });
    }

    fn node(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().unwrap_or_else(|| panic!("{} has ended", name(node)))
    }

    /// A command on a node: what it prints.
    pub fn on(&self, node: usize, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.node(node).pid.to_string(), "--all"]).args(words);
        run(command)
    }

    /// A wire between the nodes; waits until they are one cluster.
    pub fn join(&self) {
        let pids = [0, 1].map(|node| self.node(node).pid.to_string());
        let mut command = Command::new("ip");
        command.args(["link", "add", "cluster", "netns", &pids[0], "type", "veth"]);
        command.args(["peer", "name", "cluster", "netns", &pids[1]]);
        run(command).expect("a wire");
        for (node, address) in ADDRESSES.iter().enumerate() {
            self.on(node, &["ip", "address", "add", address, "dev", "cluster"]).expect("an address");
            self.on(node, &["ip", "link", "set", "cluster", "up"]).expect("a link");
        }
        self.soon("both nodes are online", || {
            [0, 1].iter().all(|node| self.shown(*node).contains("Online: [ node1 node2 ]"))
        });
    }

    /// Cuts the wire.
    pub fn cut(&self) {
        self.on(0, &["ip", "link", "delete", "cluster"]).expect("no wire");
    }

    /// Ends all processes of a node at once, as a loss of power does.
    pub fn kill(&mut self, node: usize) {
        let child = self.nodes[node].as_mut().map(|node| &mut node.child).expect("a node");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Waits until the kernel has no process of a node any more.
    pub fn gone(&mut self, node: usize) {
        if let Some(node) = self.nodes[node].take() {
            node.end();
        }
    }

    /// What crm_mon shows on a node.
    pub fn shown(&self, node: usize) -> String {
        self.on(node, &["crm_mon", "-1rfA"]).unwrap_or_default()
    }

    /// Loads a configuration, in the words of crmsh.
    pub fn configure(&self, node: usize, text: &str) {
        let path = self.directory.join("configuration");
        fs::write(&path, text).expect("the configuration");
        let said = self.on(node, &["crm", "configure", "load", "update", &path.to_string_lossy()]);
        said.unwrap_or_else(|error| panic!("{error}"));
    }

    /// A bundle of a program that has these files of its state from the beginning.
    pub fn bundle(&self, id: &str, files: &[&str], health: &Value) {
        let directory = self.directory.join(id);
        fs::create_dir(&directory).expect("a bundle");
        let mut config = orlop::spec::default_spec(false);
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = [&["/program", id], files].concat().into();
        config["root"] = json!({"path": self.directory.join("rootfs"), "readonly": true});
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/state", "type": "tmpfs", "source": "tmpfs"}));
        let shared = self.directory.join("shared");
        mounts.push(json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"]}));
        fs::write(directory.join("config.json"), config.to_string()).expect("config.json");
        fs::write(directory.join("health.json"), health.to_string()).expect("health.json");
    }

    /// The cgroup of a container on a node.
    pub fn cgroup(&self, node: usize, id: &str) -> PathBuf {
        self.node(node).cgroup.join(id)
    }

    /// The container's first process on a node, by the kernel.
    pub fn process(&self, node: usize, id: &str) -> Option<u32> {
        let node = self.nodes[node].as_ref()?;
        value(node.cgroup.join(id).join("cgroup.procs")).ok()?.lines().next()?.parse().ok()
    }

    /// Where the container runs, by the kernel.
    pub fn place(&self, id: &str) -> Option<Place> {
        let place = |node| Some(Place { node, pid: self.process(node, id)? });
        let places = [0, 1].map(place);
        assert!(places.iter().flatten().count() < 2, "{id} runs twice: {places:?}");
        places.into_iter().flatten().next()
    }

    /// Waits until it runs, and Pacemaker has heard that its start has ended well.
    pub fn started(&self, id: &str) -> Place {
        let is = || self.place(id).filter(|place| self.last(place.node, id).is(&["start", "0"]));
        self.soon(&format!("{id} is started"), || is().is_some());
        is().unwrap_or_else(|| panic!("{id} has ended again{}", self.report()))
    }

    /// A file of the state of a container's program.
    pub fn state(&self, place: Place, file: &str) -> PathBuf {
        Path::new("/proc").join(place.pid.to_string()).join("root/state").join(file)
    }

    /// What is in the cluster's records of the last start, stop or probe of a resource on a node.
    pub fn last(&self, node: usize, id: &str) -> Record {
        self.record(node, id, "last_0")
    }

    /// ...of the last that has failed.
    pub fn failure(&self, node: usize, id: &str) -> Record {
        self.record(node, id, "last_failure_0")
    }

    fn record(&self, node: usize, id: &str, what: &str) -> Record {
        let path = format!("//node_state[@uname='{}']//lrm_rsc_op[@id='{id}_{what}']", name(node));
        let asked = (0..2).find(|node| self.nodes[*node].is_some()).expect("a node");
        Record(self.on(asked, &["cibadmin", "--query", "--xpath", &path]).unwrap_or_default())
    }

    /// Whether the kernel has a process of a node.
    pub fn populated(&self, node: usize) -> bool {
        self.nodes[node].as_ref().is_some_and(Node::populated)
    }

    /// Whether somebody wants a node to be ended.
    pub fn fencing(&self, node: usize) -> bool {
        self.directory.join(format!("switch/{}.asked", name(node))).exists()
    }

    /// The switch: says that a node has been ended, which must be so.
    pub fn fenced(&self, node: usize) {
        assert!(self.nodes[node].is_none(), "{} runs", name(node));
        fs::write(self.directory.join(format!("switch/{}.ended", name(node))), "").expect("the switch");
    }

    /// The switch as it was before.
    pub fn reset(&self) {
        for file in fs::read_dir(self.directory.join("switch")).expect("the switch") {
            fs::remove_file(file.expect("a file").path()).expect("remove");
        }
    }

    /// The containers that ran when another copy of them did, by the lock that they have in common.
    pub fn twice(&self) -> Vec<String> {
        let marks = fs::read_to_string(self.directory.join("shared/twice")).unwrap_or_default();
        marks.lines().map(str::to_owned).collect()
    }

    /// Waits until it is so; all the time no container may run twice.
    #[track_caller]
    pub fn soon(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert_eq!(self.twice(), Vec::<String>::new(), "{}", self.report());
            assert!(begun.elapsed() < SOON, "not within a minute: {what}{}", self.report());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// It is so for some seconds.
    #[track_caller]
    pub fn remains(&self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            assert!(so(), "no longer: {what}{}", self.report());
            assert_eq!(self.twice(), Vec::<String>::new(), "{}", self.report());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the cluster says, for who reads of a failure.
    fn report(&self) -> String {
        let mut report = String::new();
        for node in (0..2).filter(|node| self.nodes[*node].is_some()) {
            let log = self.on(node, &["grep", "-E", "notice|warning|error|crit", "/var/log/pacemaker/pacemaker.log"]);
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let own = fs::read_to_string(self.directory.join(format!("{}.log", name(node)))).unwrap_or_default();
            report += &format!("\n== {}\n{own}\n", name(node));
            report += &format!("{}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"), self.shown(node));
        }
        report
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.unkillable.release();
        self.gone(0);
        self.gone(1);
        // Before anybody looks into it.
        self.unkillable.end();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Node {
    fn populated(&self) -> bool {
        !value(self.cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
    }

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.populated() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = remove(&self.cgroup);
        if !std::thread::panicking() {
            assert!(left.is_ok(), "{}: {left:?}", self.cgroup.display());
        }
    }
}

/// Removes a cgroup and those below it.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// An operation in the cluster's records, as XML.
#[derive(Debug)]
pub struct Record(String);

impl Record {
    fn attribute(&self, name: &str) -> &str {
        let after = self.0.split_once(&format!(" {name}=\"")).map(|(_, rest)| rest);
        after.and_then(|rest| rest.split('"').next()).unwrap_or_default()
    }

    /// The operation and its status.
    pub fn is(&self, [operation, status]: &[&str; 2]) -> bool {
        self.attribute("operation") == *operation && self.attribute("rc-code") == *status
    }

    /// Why it has failed.
    pub fn reason(&self) -> &str {
        self.attribute("exit-reason")
    }
}
