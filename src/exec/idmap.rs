//! Id maps of a user namespace (user_namespaces(7)).

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{bound, hooks};
use crate::error::{Error, Result};
use crate::plan::IdMap;

/// Seconds that newuidmap(1) may take.
const PATIENCE: i32 = 10;

/// Writes both maps of `pid`, which has just entered its user namespace and waits.
///
/// With the rights for it the files are written directly. An ordinary user may map one id, his own; for more the setuid
/// programs newuidmap(1) and newgidmap(1) are called, which look into /etc/subuid and /etc/subgid.
pub fn write(pid: Pid, uids: &[IdMap], gids: &[IdMap], euid: u32, egid: u32) -> Result<()> {
    if euid == 0 {
        direct(pid, "gid_map", gids).and_then(|()| direct(pid, "uid_map", uids))
    } else {
        if own_only(gids, egid) {
            // Since 3.19 an unprivileged gid_map needs setgroups denied (CVE-2014-8989).
            put(pid, "setgroups", "deny")?;
            direct(pid, "gid_map", gids)?;
        } else {
            program("newgidmap", pid, gids, "/etc/subgid")?;
        }
        if own_only(uids, euid) { direct(pid, "uid_map", uids) } else { program("newuidmap", pid, uids, "/etc/subuid") }
    }
}

fn own_only(maps: &[IdMap], id: u32) -> bool {
    matches!(maps, [map] if map.host == id && map.size == 1)
}

fn lines(maps: &[IdMap]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.container, map.host, map.size)).collect()
}

fn direct(pid: Pid, file: &str, maps: &[IdMap]) -> Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    put(pid, file, &lines(maps))
}

fn put(pid: Pid, file: &str, text: &str) -> Result<()> {
    // The number is our own child's, which we have not waited for.
    std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let error = Error::new("write the id maps of the user namespace")
            .call(format!("write(/proc/{pid}/{file}, {:?})", text.trim_end()), errno)
            .at(if file == "gid_map" { "/linux/gidMappings" } else { "/linux/uidMappings" });
        match errno {
            Errno::EPERM => error.hint("an id is not ours to map: it must lie in this process's own user namespace"),
            Errno::EINVAL => error.hint("ranges overlap, or there are more than 340 lines"),
            _ => error,
        }
    })
}

fn program(name: &str, pid: Pid, maps: &[IdMap], file: &str) -> Result<()> {
    let place = if name == "newgidmap" { "/linux/gidMappings" } else { "/linux/uidMappings" };
    let mut command = Command::new(name);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.container, map.host, map.size].map(|number| number.to_string()));
    }
    crate::sys::process::unblock_signals(&mut command);
    let output = hooks::memory_file(c"output")?;
    let copy = output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(copy).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        Error::new(format!("run {name}"))
            .call(format!("execve({name})"), crate::host::errno(&error))
            .at(place)
            .hint("Debian's package uidmap has it; without it an ordinary user can map one id only, his own")
    })?;
    let ended = bound::wait(&mut child, PATIENCE * 1000)
        .map_err(|(call, errno)| Error::new(format!("wait for {name}")).call(call, errno).at(place))?;
    let Some(status) = ended else {
        let error = Error::new(format!("map the ids by {name}: it did not end in {PATIENCE} s, and was killed"));
        return Err(error
            .at(place)
            .hint("it asks whoever knows the host's users (nsswitch.conf), which may not answer"));
    };
    if status.success() {
        return Ok(());
    }
    let said = hooks::tail(output);
    let said = said.trim_start_matches(name).trim_start_matches(": ");
    Err(Error::new(format!("map the ids by {name}: {said}"))
        .at(place)
        .hint(format!("the ranges must be the user's in {file}")))
}
