//! AppArmor and seccomp: what of them this kernel has.

use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::{Findings, Subject, of_io};
use crate::error::Error;
use crate::{seccomp, sys};

const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

pub(super) fn check(subject: &Subject, findings: &mut Findings) {
    let profile = subject.spec.process().as_ref().and_then(|process| process.apparmor_profile().as_ref());
    if let Some(profile) = profile.filter(|profile| !profile.is_empty()) {
        apparmor(profile, findings);
    }
    if let Some(section) = subject.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        filter(section, findings);
    }
}

fn apparmor(profile: &str, findings: &mut Findings) {
    let pointer = "/process/apparmorProfile";
    // That AppArmor is off is a finding of the rules.
    if profile == "unconfined" || !crate::host::apparmor() {
        return;
    }
    match std::fs::read_to_string(PROFILES) {
        Ok(text) if text.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile)) => {}
        Ok(_) => findings.error(
            Error::new(format!("the AppArmor profile {profile:?} is not loaded"))
                .at(pointer)
                .hint("apparmor_parser --replace loads one from a file"),
        ),
        Err(error) => {
            let text = format!("whether the AppArmor profile {profile:?} is loaded can't be seen by this user");
            findings.note(of_io(text, pointer, format!("open({PROFILES:?})"), &error));
        }
    }
}

/// seccomp(2): `SECCOMP_GET_ACTION_AVAIL`, and a load of no program, which tells an unknown flag from a bad address.
fn filter(section: &LinuxSeccomp, findings: &mut Findings) {
    let default = ("/linux/seccomp/defaultAction".to_owned(), section.default_action());
    let rules = section.syscalls().iter().flatten().enumerate();
    let rules = rules.map(|(index, rule)| (format!("/linux/seccomp/syscalls/{index}/action"), rule.action()));
    let mut seen: Vec<LinuxSeccompAction> = Vec::new();
    for (pointer, action) in std::iter::once(default).chain(rules) {
        if seen.contains(&action) {
            continue;
        }
        seen.push(action);
        // Any other answer is no answer: who asks may be in a filter himself.
        if let Err(errno @ Errno::EOPNOTSUPP) =
            sys::seccomp_action_available(action.as_u32(Some(0)) & !libc::SECCOMP_RET_DATA)
        {
            findings.error(
                Error::new(format!("this kernel has no {action}"))
                    .at(pointer)
                    .call("seccomp(SECCOMP_GET_ACTION_AVAIL)", errno)
                    .hint("/proc/sys/kernel/seccomp/actions_avail lists those that it has"),
            );
        }
    }
    for (index, flag) in section.flags().iter().flatten().enumerate() {
        if let Err(errno @ Errno::EINVAL) = sys::seccomp_flag_known(seccomp::flag_bit(*flag)) {
            findings.error(
                Error::new(format!("this kernel does not know the seccomp flag {flag}"))
                    .at(format!("/linux/seccomp/flags/{index}"))
                    .call("seccomp(SECCOMP_SET_MODE_FILTER)", errno)
                    .hint("leave it out"),
            );
        }
    }
    listener(section, findings);
}

fn listener(section: &LinuxSeccomp, findings: &mut Findings) {
    let notifies = |rule: &oci_spec::runtime::LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActNotify;
    let Some(path) = section.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty()) else { return };
    if !section.syscalls().iter().flatten().any(notifies) {
        return;
    }
    if let Err(error) = std::fs::metadata(path) {
        let text = format!("the socket {} of the seccomp agent", path.display());
        findings.error(of_io(text, "/linux/seccomp/listenerPath", "stat", &error));
    }
}
