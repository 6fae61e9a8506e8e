//! Somebody inside waits for the runtime: while processes are on their way into the container, this binary, as its first
//! process, tries without a pause to get hold of them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::common::wait;
use crate::place::{Place, Verdict};
use crate::rounds::rounds;

/// How `main` knows that it is the program. After it: a word that is in the arguments of each process that may be touched, and
/// the caller's pid namespace.
pub const MODE: &str = "--watch";
/// In the root file system, when the program is there, and when it is to end.
const READY: &str = "watching";
const OVER: &str = "over";

/// Opens, traces and reads of a process that is still the runtime's, in a container of the host's root.
pub fn exec(place: Place) -> Verdict {
    watched(place)
}

/// The same where the container's root has all capabilities of a user namespace.
pub fn exec_in_a_user_namespace(place: Place) -> Verdict {
    watched(place.mapped().with_all_capabilities())
}

fn watched(place: Place) -> Verdict {
    let caller = fs::read_link("/proc/self/ns/pid").expect("our pid namespace");
    let mark = place.bundle.id.clone();
    let place = place.with_program(&[MODE, &mark, caller.to_str().expect("UTF-8")]);
    fs::set_permissions(place.bundle.rootfs(""), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    let binary = fs::read(&place.runtime).expect("the runtime");
    let running = place.begin();
    wait(|| place.bundle.rootfs(READY).exists());
    let count = rounds(150);
    for _ in 0..count {
        place.exec(&[], &["true", &mark]);
    }
    fs::write(place.bundle.rootfs(OVER), "").expect("a file");
    let said = running.end().stdout();
    let (refused, found): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.starts_with("refused "));
    let refused: u32 = refused.iter().filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok()).sum();
    match () {
        () if fs::read(&place.runtime).expect("the runtime") != binary => {
            Verdict::Open("the runtime has changed".into())
        }
        () if !found.is_empty() => Verdict::Open(found.join("; ")),
        () if refused == 0 => Verdict::Unknown("none was seen on its way in".into()),
        () => Verdict::Held(format!("{refused} tries in {count} execs, all refused")),
    }
}

/// The program: looks until it is told to end, and then says what was found, and how often it was refused.
pub fn watch(arguments: &[String]) {
    let [mark, caller] = arguments else { panic!("{MODE} MARK NAMESPACE") };
    let own = fs::read_link("/proc/self/ns/pid").expect("our pid namespace");
    let mut watch = Watch {
        // Where there is no other pid namespace everybody's processes are in sight, and none of our business.
        mark: (own == Path::new(caller)).then(|| mark.clone()),
        programs: ["/bin/busybox", "/proc/self/exe"].map(|path| inode(Path::new(path)).expect("a program")).into(),
        root: inode(Path::new("/")).expect("the root"),
        found: BTreeSet::new(),
        kept: Vec::new(),
        refused: 0,
    };
    fs::write(Path::new("/").join(READY), "").expect("a file");
    while !Path::new("/").join(OVER).exists() {
        watch.round();
    }
    watch.write_to_the_kept();
    let mut out = io::stdout().lock();
    for found in watch.found.iter().take(10) {
        writeln!(out, "{found}").expect("standard output");
    }
    writeln!(out, "refused {}", watch.refused).expect("standard output");
}

type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

struct Watch {
    mark: Option<String>,
    /// What processes of the container execute.
    programs: Vec<Inode>,
    root: Inode,
    found: BTreeSet<String>,
    /// Handles of programs that are not the container's.
    kept: Vec<File>,
    refused: u32,
}

impl Watch {
    fn round(&mut self) {
        let own = std::process::id();
        for entry in fs::read_dir("/proc").expect("procfs").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid != own && pid != 1 && self.may_touch(&entry.path()) {
                self.files(&entry.path());
                self.memory(pid);
                self.descriptors(pid);
                self.trace(pid);
            }
        }
    }

    fn may_touch(&self, process: &Path) -> bool {
        let Some(mark) = &self.mark else { return true };
        fs::read(process.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    }

    /// Notes what worked, unless the process is a program of the container by now; a refusal is counted.
    fn note(&mut self, process: &Path, what: &str, worked: io::Result<()>) {
        let refused = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM));
        let is_theirs = || match inode(&process.join("exe")) {
            Ok(exe) => !self.programs.contains(&exe),
            Err(error) => refused(&error),
        };
        match worked {
            Ok(()) if is_theirs() => drop(self.found.insert(what.to_owned())),
            Err(error) if refused(&error) => self.refused += 1,
            _ => {}
        }
    }

    fn files(&mut self, process: &Path) {
        let exe = File::open(process.join("exe"));
        if let Ok(exe) = exe
            && exe.metadata().is_ok_and(|file| !self.programs.contains(&(file.dev(), file.ino())))
        {
            self.found.insert("its binary can be opened".into());
            self.kept.truncate(16);
            self.kept.push(exe);
        }
        let write = OpenOptions::new().write(true).open(process.join("exe")).map(drop);
        self.note(process, "its binary can be opened for writing", write);
        for (name, what) in [("cwd", "its directory"), ("root", "its root")] {
            match inode(&process.join(name)) {
                Ok(other) if other != self.root => drop(self.found.insert(format!("{what} can be entered"))),
                Ok(_) => {}
                Err(error) => self.note(process, what, Err(error)),
            }
        }
        for name in ["environ", "maps", "syscall"] {
            let read = fs::read(process.join(name)).map(drop);
            self.note(process, &format!("{name} can be read"), read);
        }
        match fs::read_dir(process.join("fd")) {
            Err(error) => self.note(process, "fd", Err(error)),
            Ok(entries) => {
                let beyond = |path: &PathBuf| {
                    path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some_and(|fd| fd > 2)
                };
                let links = entries.flatten().map(|entry| entry.path()).filter(beyond);
                self.found.extend(
                    links.filter_map(|fd| Some(format!("a descriptor: {}", fs::read_link(fd).ok()?.display()))),
                );
            }
        }
    }

    fn memory(&mut self, pid: u32) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let open = OpenOptions::new().read(true).write(true).open(process.join("mem")).map(drop);
        self.note(&process, "its memory can be opened", open);
        let mut byte = [0];
        let remote = RemoteIoVec { base: 0x1000, len: 1 };
        let read = process_vm_readv(Pid::from_raw(pid as i32), &mut [IoSliceMut::new(&mut byte)], &[remote]);
        // EFAULT: it was allowed, and there is nothing at this address.
        let read =
            read.map(drop).or_else(|errno| if errno == nix::errno::Errno::EFAULT { Ok(()) } else { Err(errno.into()) });
        self.note(&process, "its memory can be read", read);
    }

    fn descriptors(&mut self, pid: u32) {
        // SAFETY: no memory is passed, and what is opened is closed again.
        unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            for number in 3..16 {
                let taken = libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0);
                let errno = io::Error::last_os_error();
                if taken >= 0 {
                    self.found.insert(format!("descriptor {number} can be taken"));
                    libc::close(taken as i32);
                } else if errno.raw_os_error() == Some(libc::EPERM) {
                    self.refused += 1;
                }
            }
            libc::close(pidfd as i32);
        }
    }

    fn trace(&mut self, pid: u32) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no memory is passed; a process that is traced is let go.
        let traced = unsafe {
            match libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        let is_traced = traced.is_ok();
        self.note(&PathBuf::from(format!("/proc/{pid}")), "it can be traced", traced);
        if is_traced {
            let mut status = 0;
            // SAFETY: as above; one that has ended meanwhile is waited for, and the status is ours.
            unsafe {
                libc::ptrace(libc::PTRACE_INTERRUPT, pid, null, null);
                libc::waitpid(pid as i32, &mut status, libc::__WALL);
            }
            // One that was about to get a signal gets it: a SIGCHLD that is lost here leaves `timeout` waiting for its program.
            let is_signal = libc::WIFSTOPPED(status) && status >> 16 == 0;
            let signal = if is_signal { libc::WSTOPSIG(status) } else { 0 };
            // SAFETY: as above.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, null, libc::c_long::from(signal)) };
        }
    }

    /// As in CVE-2019-5736: when nobody executes the file any more, it could be written to.
    fn write_to_the_kept(&mut self) {
        for file in &self.kept {
            use std::os::fd::AsRawFd;
            let again = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
            if again.is_ok() {
                self.found.insert("its binary can be written to".into());
            }
        }
    }
}
