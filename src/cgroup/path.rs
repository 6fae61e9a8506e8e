//! Where a container's cgroup lies: `linux.cgroupsPath`, read as runc reads it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};

/// NAME_MAX: cgroup names are file names (mkdir(2)).
const NAME_MAX: usize = 255;

/// The cgroup of a container as an absolute path below the cgroup2 root, such as `/user/c1`.
///
/// An absolute `cgroups_path` counts from the root. A relative one, or the `id` when it is absent or empty, becomes a
/// sibling of the cgroup `own` (the `0::` line of `/proc/self/cgroup`): that one has processes, so that it can't hand
/// controllers to children (kernel documentation, cgroup-v2.rst, "No Internal Process Constraint"). `.` and repeated
/// slashes are cleaned away, `..` as far as it stays inside.
///
/// # Errors
/// At `/linux/cgroupsPath`: a path that leaves its start by `..`, is the root itself, holds a NUL or newline or a name
/// above 255 bytes, is not UTF-8, or has the `slice:prefix:name` form of the systemd driver.
pub fn path(cgroups_path: Option<&Path>, id: &str, own: &str) -> Result<String> {
    let asked = cgroups_path.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(id));
    resolve(asked, own).map_err(|error| error.at("/linux/cgroupsPath"))
}

fn resolve(asked: &Path, own: &str) -> Result<String> {
    let text = std::str::from_utf8(asked.as_os_str().as_bytes())
        .map_err(|_| Error::new(format!("cgroupsPath {asked:?} is not UTF-8")))?;
    if !text.contains('/') && text.matches(':').count() == 2 {
        return Err(Error::new(format!("cgroupsPath {text:?} has the form of the systemd cgroup driver"))
            .hint("ask for that driver with --systemd-cgroup, or give a path such as /group/name"));
    }
    let names = clean(text)?;
    let mut path = if text.starts_with('/') { String::new() } else { parent(own) };
    for name in names {
        path.push('/');
        path.push_str(name);
    }
    Ok(path)
}

/// The names in `text`, with `.` and `..` resolved.
fn clean(text: &str) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop().ok_or_else(|| Error::new(format!("cgroupsPath {text:?} leaves its start by `..`")))?;
            }
            _ => names.push(check(name)?),
        }
    }
    if names.is_empty() {
        return Err(Error::new(format!("cgroupsPath {text:?} names no cgroup below the root")));
    }
    Ok(names)
}

fn check(name: &str) -> Result<&str> {
    if name.contains(['\0', '\n']) {
        return Err(Error::new(format!("cgroupsPath has a NUL or a newline in {name:?}")));
    }
    if name.len() > NAME_MAX {
        let message = format!("cgroupsPath has a name of {} bytes: the limit is {NAME_MAX}", name.len());
        return Err(Error::new(message));
    }
    Ok(name)
}

/// The parent of the cgroup `own`, empty for the root. A process outside its cgroup namespace's root sees `/../..`:
/// then the root is all that can be reached.
fn parent(own: &str) -> String {
    match own.rsplit_once('/') {
        Some((parent, _)) if !own.split('/').any(|name| name == "..") => parent.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: Option<&str>, own: &str) -> Result<String> {
        path(asked.map(Path::new), "c1", own)
    }

    #[test]
    fn absolute_counts_from_the_root_and_relative_from_the_parent_of_our_own() {
        for (asked, own, path) in [
            (Some("/a/b"), "/x/y", "/a/b"),
            (Some("/a//./b/"), "/x/y", "/a/b"),
            (Some("/a/../b"), "/x", "/b"),
            (Some("a/b"), "/x/y", "/x/a/b"),
            (Some("a"), "/", "/a"),
            (None, "/x/y", "/x/c1"),
            (Some(""), "/x/y", "/x/c1"),
            (None, "/", "/c1"),
            (None, "/x", "/c1"),
            (None, "/../../x", "/c1"),
            (Some("/a:b:c"), "/", "/a:b:c"),
        ] {
            assert_eq!(of(asked, own).as_deref(), Ok(path), "{asked:?} from {own}");
        }
    }

    #[test]
    fn what_leaves_or_is_no_name_is_refused_in_place() {
        let long = format!("/{}", "n".repeat(256));
        for asked in ["/..", "../x", "/a/../../b", "/", ".", "a/..", "/a\0b", "/a\nb", &long, "system.slice:orlop:c1"] {
            let error = of(Some(asked), "/x/y").unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some("/linux/cgroupsPath"), "{asked:?}");
        }
        assert_eq!(of(Some(&long[..256]), "/").as_deref(), Ok(&long[..256]));
        let systemd = of(Some("system.slice:orlop:c1"), "/").unwrap_err();
        assert!(systemd.hint.unwrap().contains("--systemd-cgroup"));
    }
}
