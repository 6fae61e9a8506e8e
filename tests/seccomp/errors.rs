//! What `compile` refuses, and that it says where; what it leaves out, and that it says so.

use oci_spec::runtime::LinuxSeccomp;
use orlop::seccomp::{Filter, compile};

fn try_compile(section: &str) -> orlop::error::Result<Option<Filter>> {
    compile(&serde_json::from_str::<LinuxSeccomp>(section).unwrap())
}

fn refused_at(section: &str) -> String {
    try_compile(section).unwrap_err().pointer.unwrap()
}

fn rule(rule: &str) -> String {
    format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}}, {rule}]}}"#
    )
}

#[test]
fn errors_point_into_the_section() {
    let arg =
        r#"{"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#;
    assert_eq!(refused_at(&rule(arg)), "/linux/seccomp/syscalls/1/args/0/index");
    let names = r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#;
    assert_eq!(refused_at(&rule(names)), "/linux/seccomp/syscalls/1/names");
    let empty = r#"{"names": ["dup", ""], "action": "SCMP_ACT_ALLOW"}"#;
    assert_eq!(refused_at(&rule(empty)), "/linux/seccomp/syscalls/1/names/1");
    let errno = r#"{"names": ["dup"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#;
    assert_eq!(refused_at(&rule(errno)), "/linux/seccomp/syscalls/1/errnoRet");
    let large = r#"{"names": ["dup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536}"#;
    assert_eq!(refused_at(&rule(large)), "/linux/seccomp/syscalls/1/errnoRet");
    let write = r#"{"names": ["dup", "write"], "action": "SCMP_ACT_NOTIFY"}"#;
    assert_eq!(refused_at(&rule(write)), "/linux/seccomp/syscalls/1/names/1");
    assert_eq!(refused_at(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#), "/linux/seccomp/defaultAction");
    let data = r#"{"defaultAction": "SCMP_ACT_KILL", "listenerMetadata": "words"}"#;
    assert_eq!(refused_at(data), "/linux/seccomp/listenerMetadata");
}

#[test]
fn contradicting_rules_are_refused() {
    let twice = r#"{"names": ["dup"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}"#;
    assert_eq!(refused_at(&rule(twice)), "/linux/seccomp/syscalls/2");
}

#[test]
fn more_instructions_than_the_kernel_takes_are_refused() {
    let args = |value| format!(r#"[{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}]"#);
    let rules = |count| {
        let one = |value| format!(r#"{{"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": {}}}"#, args(value));
        rule(&(0..count).map(one).collect::<Vec<_>>().join(","))
    };
    let most = try_compile(&rules(1000)).unwrap().unwrap();
    assert_eq!(crate::interpreter::check(&most.program), Ok(()));
    assert_eq!(refused_at(&rules(1100)), "/linux/seccomp/syscalls");
}

#[test]
fn unknown_calls_are_left_out_with_a_warning() {
    let filter = try_compile(&rule(r#"{"names": ["no_such_call", "set_tls"], "action": "SCMP_ACT_ALLOW"}"#));
    let warnings = filter.unwrap().unwrap().warnings;
    assert_eq!(warnings, ["unknown system call \"no_such_call\" ignored, from /linux/seccomp/syscalls/1/names"]);
}

#[test]
fn nothing_to_load_is_no_filter_and_flags_have_their_defaults() {
    assert!(try_compile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap().is_none());
    assert_eq!(try_compile(&rule(r#"{"names": ["dup"], "action": "SCMP_ACT_LOG"}"#)).unwrap().unwrap().flags, 0b100);
    let flags = |flags: &str| try_compile(&format!(r#"{{"defaultAction": "SCMP_ACT_LOG", "flags": [{flags}]}}"#));
    assert_eq!(flags("").unwrap().unwrap().flags, 0);
    let lonely = flags(r#""SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV""#).unwrap().unwrap();
    assert_eq!((lonely.flags, lonely.warnings.len()), (0, 1));
}
