//! The kernel's own view: filters that it takes and obeys, each in a forked child.

use oci_spec::runtime::LinuxSeccomp;
use orlop::seccomp::{Filter, compile};
use orlop::sys::seccomp;

const GETPPID: i64 = libc::SYS_getppid;
const ENOSYS_NUMBER: i64 = 600;

fn filter(section: &str) -> Filter {
    let section: LinuxSeccomp = serde_json::from_str(section).unwrap();
    compile(&section).unwrap().unwrap()
}

/// Loads `filter` in a child, does `calls` there, and returns seccomp(2)'s own answer, the errno of each call (0 where
/// it worked) and the child's wait status.
fn probe<const N: usize>(filter: &Filter, calls: [(i64, [u64; 2]); N]) -> (i32, [i32; N], i32) {
    let mut fds = [0; 2];
    // SAFETY: after fork the child only makes system calls on memory that was there before, then exits.
    unsafe {
        assert_eq!(libc::pipe(fds.as_mut_ptr()), 0);
        let program = libc::sock_fprog { len: filter.program.len() as u16, filter: filter.program.as_ptr().cast_mut() };
        let pid = libc::fork();
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let loaded = match seccomp(libc::SECCOMP_SET_MODE_FILTER, filter.flags, &program) {
                Ok(value) => value,
                Err(errno) => -(errno as i32),
            };
            libc::write(fds[1], (&raw const loaded).cast(), 4);
            for (number, args) in calls {
                let failed = libc::syscall(number, args[0], args[1]) < 0;
                let errno = if failed { *libc::__errno_location() } else { 0 };
                libc::write(fds[1], (&raw const errno).cast(), 4);
            }
            libc::syscall(libc::SYS_exit_group, 0);
        }
        libc::close(fds[1]);
        let (mut loaded, mut errnos, mut status) = (i32::MIN, [-1; N], 0);
        libc::waitpid(pid, &mut status, 0);
        libc::read(fds[0], (&raw mut loaded).cast(), 4);
        libc::read(fds[0], errnos.as_mut_ptr().cast(), 4 * N);
        libc::close(fds[0]);
        (loaded, errnos, status)
    }
}

#[test]
fn an_allow_list_denies_the_rest_and_answers_enosys_to_newer_calls() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            {"names": ["write", "exit_group", "statx"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let (loaded, errnos, status) = probe(
        &filter,
        [(GETPPID, [0; 2]), (libc::SYS_dup, [0; 2]), (libc::SYS_dup, [1 << 32, 0]), (ENOSYS_NUMBER, [0; 2])],
    );
    assert_eq!((loaded, status), (0, 0));
    assert_eq!(errnos, [libc::EACCES, 0, libc::EACCES, libc::ENOSYS]);
}

#[test]
fn a_deny_list_denies_by_argument() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78,
             "args": [{"index": 0, "value": 4294967296, "op": "SCMP_CMP_GE"}]}]}"#,
    );
    let getpgid = libc::SYS_getpgid;
    let (_, errnos, status) = probe(&filter, [(GETPPID, [0; 2]), (getpgid, [0; 2]), (getpgid, [1 << 32, 0])]);
    assert_eq!((errnos, status), ([77, 0, 78], 0));
}

#[test]
fn each_op_compares_with_value_and_value_two() {
    const HALF: u64 = 1 << 32;
    let getpgid = libc::SYS_getpgid;
    // of 1, 2, 3 and 5 halves those that are denied, where value is 2 of them: the kernel takes each for pid 0
    for (op, two, denied) in [
        ("SCMP_CMP_NE", 0, [true, false, true, true]),
        ("SCMP_CMP_LT", 0, [true, false, false, false]),
        ("SCMP_CMP_LE", 0, [true, true, false, false]),
        ("SCMP_CMP_EQ", 0, [false, true, false, false]),
        ("SCMP_CMP_GE", 0, [false, true, true, true]),
        ("SCMP_CMP_GT", 0, [false, false, true, true]),
        ("SCMP_CMP_MASKED_EQ", 2 * HALF, [false, true, true, false]),
        ("SCMP_CMP_MASKED_EQ", 0, [true, false, false, true]),
    ] {
        let arg = format!(r#"{{"index": 0, "value": {}, "valueTwo": {two}, "op": "{op}"}}"#, 2 * HALF);
        let filter = filter(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78, "args": [{arg}]}}]}}"#
        ));
        let (_, errnos, _) = probe(&filter, [1, 2, 3, 5].map(|halves| (getpgid, [halves * HALF, 0])));
        assert_eq!(errnos, denied.map(|denied| if denied { 78 } else { 0 }), "{op} {two}");
    }
}

#[test]
fn every_flag_is_taken_and_a_notifying_filter_gives_a_listener() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "listenerPath": "/run/agent.sock", "listenerMetadata": "words",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    );
    assert!(filter.notify);
    assert_eq!((filter.flags, filter.listener_metadata.as_deref()), (0b111111, Some("words")));
    let (listener, _, status) = probe(&filter, []);
    assert!(listener > 2 && status == 0, "seccomp(2) said {listener}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_calls_die_where_only_x86_64_is_listed() {
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let (_, _, status) = probe(&filter, [(0x4000_0000 + GETPPID, [0; 2])]);
    assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
}

#[test]
fn the_kernel_takes_the_shipped_profiles() {
    for name in crate::profiles::NAMES {
        let filter = compile(&crate::profiles::load(name)).unwrap().unwrap();
        let (loaded, errnos, status) = probe(&filter, [(libc::SYS_bpf, [99, 0]), (libc::SYS_getpid, [0; 2])]);
        assert_eq!((loaded, errnos[1], status), (0, 0, 0), "{name}");
        // What it says else, to a command that there is not, is about a size that nobody has set: EINVAL or E2BIG.
        assert_eq!(errnos[0] == libc::EPERM, name != "complain", "{name}: {errnos:?}");
    }
}
