//! A program that runs another for which one system call fails.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use caps::{CapSet, Capability};
use serde::{Deserialize, Serialize};

/// What lies beside the launcher that is seen in the runtime's place, with the extension `denied`.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// The call that fails, and how; none: all is as ever.
    pub denied: Option<(String, String)>,
    /// The runtime.
    pub runtime: PathBuf,
    /// A directory for `PID.args`, what it was called with, and `PID.log`, its own log.
    pub records: PathBuf,
}

/// The calls that may be denied.
const NUMBERS: &[(&str, i64)] = &[
    ("bpf", libc::SYS_bpf),
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("execveat", libc::SYS_execveat),
    ("faccessat2", libc::SYS_faccessat2),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("keyctl", libc::SYS_keyctl),
    ("madvise", libc::SYS_madvise),
    ("memfd_create", libc::SYS_memfd_create),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("nfsservctl", libc::SYS_nfsservctl),
    ("open_tree", libc::SYS_open_tree),
    ("openat2", libc::SYS_openat2),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pivot_root", libc::SYS_pivot_root),
    ("seccomp", libc::SYS_seccomp),
    ("set_mempolicy", libc::SYS_set_mempolicy),
    ("setns", libc::SYS_setns),
    ("signalfd4", libc::SYS_signalfd4),
    ("statx", libc::SYS_statx),
    ("unshare", libc::SYS_unshare),
    ("waitid", libc::SYS_waitid),
];

/// `enosys deny CALL ERRNO PROGRAM ARGUMENT...`: this binary as a program that runs another for which one system call
/// fails. As root: the filter is loaded without no_new_privs, which the program would inherit and pass on.
pub fn deny(mut words: impl Iterator<Item = OsString>) -> ! {
    let mut word = || words.next().and_then(|word| word.into_string().ok()).expect("a word");
    let (call, errno) = (word(), word());
    let program = words.next().expect("a program");
    load(&call, &errno);
    panic!("{}: {}", program.display(), Command::new(&program).args(words).exec());
}

/// When this binary is called as `orlop`: it goes on as the runtime, as its [`Order`] says.
pub fn in_place_of_the_runtime() {
    let exe = std::env::current_exe().expect("the path of this binary");
    if exe.file_name().is_none_or(|name| name != "orlop") {
        return;
    }
    let order = fs::read(exe.with_extension("denied")).expect("the launcher's order");
    let order: Order = serde_json::from_slice(&order).expect("the launcher's order is JSON");
    let mut words = std::env::args_os();
    let name = words.next().expect("a name");
    let words: Vec<_> = words.collect();
    let record = order.records.join(std::process::id().to_string());
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let _ = fs::write(record.with_extension("args"), shown.join(" "));
    if let Some((call, errno)) = &order.denied {
        // An ordinary user has the right by this file's capability, and loses it with the execve.
        if caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).is_err() {
            orlop::sys::creds::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).expect("no_new_privs");
        }
        load(call, errno);
    }
    // The caller's own --log would come later, and be the one.
    let mut command = Command::new(&order.runtime);
    let failed = command.arg0(name).arg("--log").arg(record.with_extension("log")).args(words).exec();
    panic!("{}: {failed}", order.runtime.display());
}

/// A filter for which only this call is not allowed. There is one architecture here, so none is looked at.
fn load(call: &str, errno: &str) {
    let number = NUMBERS.iter().find(|(name, _)| *name == call).unwrap_or_else(|| panic!("unknown call {call:?}")).1;
    let call = number as u32;
    let errno = match errno {
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        "EMFILE" => libc::EMFILE,
        _ => libc::EINVAL,
    } as u32;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    orlop::sys::seccomp(SECCOMP_SET_MODE_FILTER, 0, &program).expect("load the filter");
}
