//! What a malicious image may hold where the runtime looks: it is refused or used as it is, within bounds, and nothing outside
//! is touched. Each image is also an ordinary one that is odd.

#[path = "common/caller.rs"]
mod caller;
mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Bundle, ORLOP, Outcome, outcome};
use mountinfo::at;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().expect("mounts")
}

/// A command that has half a minute: one that waits for something of the image does not end at all.
#[track_caller]
fn in_time(command: &Command) -> Outcome {
    let mut bounded = Command::new("timeout");
    bounded.args(["-k", "2", "30"]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    let ended = outcome(bounded);
    assert!(!matches!(ended.code, Some(124 | 137) | None), "it does not end: {}", ended.stderr());
    ended
}

/// A file of the host, which nobody may change.
struct Decoy(PathBuf);

impl Decoy {
    fn new(bundle: &Bundle) -> Self {
        let decoy = Self(bundle.dir.join("decoy"));
        fs::create_dir(&decoy.0).expect("a decoy");
        fs::write(decoy.0.join("file"), "kept").expect("a file");
        decoy
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.0).expect("the decoy").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(fs::read_to_string(self.0.join("file")).expect("the file"), "kept");
        assert_eq!(fs::metadata(self.0.join("file")).expect("the file").permissions().mode() & 0o777, 0o644);
    }
}

/// CVE-2026-88264: `/dev/console` of the image leads to the host, or is a directory. A link is covered and not followed.
#[test]
fn a_console_that_is_something_else() {
    let console = |make: &dyn Fn(&Decoy, PathBuf)| {
        let script = "[ /dev/console -ef $(tty) ] && : >/etc/same; exec sleep 1000";
        let bundle = Bundle::script(script).edit(|config| {
            config["process"]["terminal"] = json!(true);
            mounts(config).retain(|mount| mount["destination"] != "/dev");
        });
        let decoy = Decoy::new(&bundle);
        fs::create_dir(bundle.rootfs("dev")).expect("a directory");
        make(&decoy, bundle.rootfs("dev/console"));
        let socket = bundle.dir.join("console.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let started = in_time(&bundle.making("run", &["-d", "--console-socket", socket.to_str().expect("UTF-8")]));
        (bundle, decoy, listener, started)
    };
    let (bundle, decoy, _listener, started) =
        console(&|decoy, console| symlink(decoy.0.join("file"), console).expect("a link"));
    started.well();
    common::wait(|| bundle.rootfs("etc/same").exists());
    decoy.is_untouched();
    let (_bundle, _, _listener, started) = console(&|_, console| fs::create_dir(console).expect("a directory"));
    started.fails("/dev/console");
}

/// CVE-2025-52565, by a container that may mount: what lies at `/dev/pts/ptmx` when a terminal is asked for.
#[test]
fn a_ptmx_that_a_running_container_has_replaced() {
    let bundle = Bundle::sleeper().edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            let all = config["process"]["capabilities"][set].as_array_mut().expect("a set");
            all.extend([json!("CAP_SYS_ADMIN"), json!("CAP_MKNOD")]);
        }
    });
    bundle.up();
    let devpts = |place: &str| format!("mkdir -p {place} && mount -t devpts -o ptmxmode=666 none {place}");
    // A reader waits for who opens the fifo: a look at it must not be an open.
    let fifo = "mkfifo ptmx && { (: <ptmx && : >/tmp/opened) & }".to_owned();
    let others = [
        fifo,
        "mknod ptmx c 5 2".to_owned(),
        // With a devpts beside it the kernel opens such a one all the same.
        format!("mknod ptmx c 5 2 && {}", devpts("/dev/pts/pts")),
        "ln -s /proc/1/root/tmp/file ptmx".to_owned(),
        format!("ln -s /tmp/pts/ptmx ptmx && {}", devpts("/tmp/pts")),
        ": >ptmx".to_owned(),
    ];
    for other in others {
        bundle.inside(&format!(
            "umount /dev/pts 2>/dev/null; mount -t tmpfs none /dev/pts && cd /dev/pts && {other} && [ -e ptmx -o -L ptmx ]"
        ));
        let exec = bundle.command(&["exec", "-t", &bundle.id, "true"]);
        let said = in_time(&exec).fails("/dev/pts/ptmx of the container is not the ptmx of a devpts");
        assert!(!said.contains("panicked"), "{other}: {said}");
    }
    assert!(!bundle.rootfs("tmp/opened").exists(), "the fifo was opened");
}

/// A copy is no larger than the file system that it goes to, and devices of the image are none on a nodev one.
#[test]
fn what_is_copied_up_is_bounded() {
    let copying = |script: &str| {
        let bundle = Bundle::script(script).edit(|config| {
            let options = json!(["tmpcopyup", "nodev", "size=1m"]);
            mounts(config)
                .push(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options}));
        });
        fs::create_dir(bundle.rootfs("data")).expect("a directory");
        bundle
    };
    let bundle = copying("true");
    let sparse = fs::File::create(bundle.rootfs("data/sparse")).expect("a file");
    sparse.set_len(1 << 40).expect("1 TiB");
    in_time(&bundle.making("run", &[])).fails("no space left on device");
    assert!(!bundle.state_dir().exists());

    let bundle = copying("cat /data/zero 2>&1 | head -c 100; ls /data/link/file 2>&1");
    let everybody = Mode::from_bits_truncate(0o666);
    mknod(&bundle.rootfs("data/zero"), SFlag::S_IFCHR, everybody, makedev(1, 5)).expect("a device");
    let decoy = Decoy::new(&bundle);
    symlink(&decoy.0, bundle.rootfs("data/link")).expect("a link");
    let said = in_time(&bundle.making("run", &[])).stdout();
    assert!(said.contains("Permission denied") && said.contains("No such file"), "{said}");
    decoy.is_untouched();
}

/// HOME is looked up there: no wait for a writer, no read without an end.
#[test]
fn a_passwd_that_is_no_file() {
    for kind in ["fifo", "full fifo", "directory", "zero", "huge", "binary"] {
        let bundle = Bundle::script("echo $HOME");
        let passwd = bundle.rootfs("etc/passwd");
        let fifo = || nix::unistd::mkfifo(&passwd, Mode::from_bits_truncate(0o666)).expect("a fifo");
        let mut held = None;
        match kind {
            "fifo" => fifo(),
            "full fifo" => {
                fifo();
                let both = fs::File::options().read(true).write(true).open(&passwd).expect("open");
                held.insert(both).write_all(b"root:x:0:0::/read:\n").expect("write");
            }
            "directory" => fs::create_dir(&passwd).expect("a directory"),
            "zero" => symlink("/dev/zero", &passwd).expect("a link"),
            "huge" => fs::File::create(&passwd).and_then(|file| file.set_len(8 << 30)).expect("8 GiB"),
            _ => fs::write(&passwd, [&[0xff; 9000][..], b"\n:::\nroot:x:0:0::/found:\n"].concat()).expect("a file"),
        }
        let home = if kind == "binary" { "/found" } else { "/" };
        assert_eq!(in_time(&bundle.making("run", &[])).well(), home, "{kind}");
    }
}

/// A pipe that takes nothing more.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("F_SETPIPE_SZ");
    writer.write_all(&vec![0; size as usize]).expect("write");
    (reader, writer)
}

/// Of a read-only mount, or a memfd that is sealed: ETXTBSY alone would be gone with the process.
fn is_sealed(exe: &str) -> bool {
    let opened = fs::File::options().write(true).open(exe).map(drop);
    let file = fs::File::open(exe).expect("what the process runs");
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EROFS))
        || seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)
}

/// CVE-2019-5736, by ways that lead to the runtime's binary or to what it holds open.
#[test]
fn a_program_that_is_the_runtime() {
    let binary = fs::read(ORLOP).expect("the binary");
    let mut open = 0;
    for number in 3..12 {
        let path = format!("/proc/self/fd/{number}");
        let said = in_time(&Bundle::new().args(&[&path]).making("run", &[])).fails(&path);
        let absent = said.contains(&format!("stat {path}: no such file or directory"));
        assert!(absent || said.contains("the path leads through a magic link of procfs"), "{said}");
        open += u32::from(!absent);
    }
    assert!(open > 0, "no descriptor was there to be named");
    // The kernel itself opens the interpreter: it is the sealed binary, and not for writing.
    let bundle = Bundle::new().args(&["/program"]);
    bundle.program("program", "#!/proc/self/exe\n");
    in_time(&bundle.making("run", &[])).fails("unrecognized subcommand '/program'");
    // One that waits for somebody to read it.
    bundle.program("program", "#!/proc/self/exe --help\n");
    let (_reader, writer) = full_pipe();
    assert!(bundle.making("create", &[]).stdout(writer).status().expect("orlop").success());
    bundle.start();
    let pid = bundle.pid();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("cmdline").contains("--help"));
    assert!(is_sealed(&format!("/proc/{pid}/exe")), "{:?}", fs::read_link(format!("/proc/{pid}/exe")));
    bundle.on("delete", &["--force"]).well();
    assert!(fs::read(ORLOP).expect("the binary") == binary);
}

/// As every image has it: a mount there would lie on procfs.
#[test]
fn an_mtab_that_leads_to_procfs() {
    let bundle = Bundle::new();
    symlink("../proc/mounts", bundle.rootfs("etc/mtab")).expect("a link");
    let given = bundle.dir.join("given");
    fs::write(&given, "").expect("a file");
    let mount = json!({"destination": "/etc/mtab", "type": "bind", "source": given, "options": ["bind"]});
    bundle.edit(|config| mounts(config).push(mount)).run().fails("inside /proc");
}

/// CVE-2026-55686 and CVE-2024-21626, by exec.
#[test]
fn a_working_directory_of_exec_behind_a_link() {
    let bundle = Bundle::sleeper();
    let decoy = Decoy::new(&bundle);
    symlink(&decoy.0, bundle.rootfs("escape")).expect("a link");
    symlink("/proc/1/root", bundle.rootfs("magic")).expect("a link");
    symlink("magic/..", bundle.rootfs("chain")).expect("a link");
    bundle.up();
    let (nowhere, magic) = ("no such file or directory", "too many symbolic links");
    for (cwd, why) in [
        ("/escape", nowhere),
        ("/escape/made", nowhere),
        ("/magic", magic),
        ("/chain", magic),
        ("/proc/1/cwd", magic),
        ("/proc/self/fd/5", magic),
    ] {
        let failed = bundle.on("exec", &["--cwd", cwd, "pwd"]);
        assert_eq!((failed.code, failed.stdout().as_str()), (Some(255), ""), "{cwd}");
        failed.fails(&format!("chdir {cwd}: openat2: {why}"));
    }
    decoy.is_untouched();
}

#[test]
fn a_set_user_id_program_gains_nothing_under_no_new_privs() {
    const GETEUID: u32 = 107;
    for (no_new_privs, uid) in [(true, 1000), (false, 0)] {
        let bundle = Bundle::new().args(&["/bin/euid"]).edit(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privs);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        });
        bundle.program("bin/euid", caller::caller(GETEUID));
        fs::set_permissions(bundle.rootfs("bin/euid"), fs::Permissions::from_mode(0o4755)).expect("chmod");
        // It exits with the negative of what the call returns.
        assert_eq!(bundle.run().code, Some(-uid & 0xff), "no_new_privs {no_new_privs}");
    }
}

/// The path of the root is the host's own: a link is followed, once.
#[test]
fn a_root_that_is_a_link_or_the_bundle_itself() {
    let bundle = Bundle::script("ls -d /proc/1 /marker");
    fs::write(bundle.rootfs("marker"), "").expect("a file");
    symlink("rootfs", bundle.dir.join("link")).expect("a link");
    let bundle = bundle.edit(|config| config["root"]["path"] = json!("link"));
    assert_eq!(bundle.run().well(), "/marker\n/proc/1");
    for entry in fs::read_dir(bundle.rootfs("")).expect("the root").flatten() {
        let name = entry.file_name();
        if !["proc", "dev", "sys"].contains(&name.to_str().unwrap_or_default()) {
            fs::rename(entry.path(), bundle.dir.join(name)).expect("a rename");
        }
    }
    let bundle = bundle.edit(|config| config["root"]["path"] = json!("."));
    assert_eq!(bundle.run().well(), "/marker\n/proc/1");
}

/// Paths are bytes, up to the kernel's limits; beyond them it is an error.
#[test]
fn names_and_depths_at_the_kernels_limits() {
    let newline = format!("/vol/a\nb\t{}", "x".repeat(251));
    let deep = format!("/deep{}", "/d".repeat(1500));
    for target in [newline, deep] {
        let tmpfs = json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]});
        let bundle = Bundle::script("cat /proc/self/mountinfo").edit(|config| {
            config["process"]["cwd"] = json!(target);
            config["linux"]["readonlyPaths"] = json!([target]);
            mounts(config).push(tmpfs);
        });
        let table = in_time(&bundle.making("run", &[])).well();
        let written = target.replace('\n', "\\012").replace('\t', "\\011");
        assert!(at(&table, &written).has("ro"), "{target:?}");
    }
    for (target, why) in
        [(format!("/{}", "x".repeat(256)), "file name too long"), ("/d".repeat(2500), "file name too long")]
    {
        for place in ["mount", "cwd", "masked"] {
            let bundle = Bundle::new().edit(|config| match place {
                "mount" => mounts(config).push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs"})),
                "cwd" => config["process"]["cwd"] = json!(target),
                _ => config["linux"]["maskedPaths"] = json!([target]),
            });
            let said = in_time(&bundle.making("run", &[])).fails(why);
            assert!(!said.contains("panicked"), "{place}: {said}");
        }
    }
}
