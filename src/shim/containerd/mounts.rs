//! The root file system as containerd's snapshotters describe it: mounts that the shim makes on the bundle's `rootfs`, in the
//! host's mount namespace, and takes away again.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::proto::Mount;
use crate::error::{Error, Result};

/// What mount(2) takes of data: a page, with the NUL byte.
const DATA: usize = 4095;

const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

/// Options as mount(2) wants them: its flags, and the rest as data.
fn options(words: &[String]) -> (MsFlags, Vec<&str>) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in words {
        match FLAGS.iter().find(|(name, ..)| name == word) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags &= !*flag,
            None => data.push(word.as_str()),
        }
    }
    (flags, data)
}

/// Makes them all on `rootfs`, which is made when it is not there; on a failure none is left. The working directory may be
/// another one afterwards: for a process of its own.
///
/// # Errors
/// A mount that the kernel refuses, or of which it can't be told what it means.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    if let Err(error) = std::fs::create_dir(rootfs)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(failed(rootfs).call("mkdir", crate::host::errno(&error)));
    }
    for one in mounts {
        if let Err(error) = mount_one(one, rootfs) {
            // The first error is the one to tell.
            let _ = unmount_all(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn failed(rootfs: &Path) -> Error {
    Error::new(format!("mount the root file system {}", rootfs.display()))
}

fn mount_one(one: &Mount, rootfs: &Path) -> Result<()> {
    if !one.target.is_empty() {
        return Err(failed(rootfs).hint("a mount below the root file system is not supported"));
    }
    if let Some(word) = one.options.iter().find(|word| *word == "loop" || word.starts_with("X-containerd.")) {
        return Err(failed(rootfs).hint(format!("the option {word} is not supported")));
    }
    let (flags, data) = options(&one.options);
    let compact = compact(data);
    if compact.data.len() > DATA {
        let length = compact.data.len();
        return Err(failed(rootfs).hint(format!("{length} bytes of options, and mount(2) takes {DATA}: less layers")));
    }
    if let Some(directory) = &compact.directory {
        std::env::set_current_dir(directory)
            .map_err(|error| failed(rootfs).call("chdir", crate::host::errno(&error)))?;
    }
    let call = |flags: MsFlags, data: Option<&str>| {
        mount(Some(one.source.as_str()), rootfs, Some(one.kind.as_str()), flags, data)
            .map_err(|errno| failed(rootfs).call(format!("mount({:?}, {:?}, {data:?})", one.source, one.kind), errno))
    };
    call(flags, Some(compact.data.as_str()).filter(|data| !data.is_empty()))?;
    // A bind mount takes flags only when it is there.
    let own = flags & !(MsFlags::MS_BIND | MsFlags::MS_REC);
    if flags.contains(MsFlags::MS_BIND) && !own.is_empty() {
        call(own | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, None)?;
    }
    Ok(())
}

/// The data of one mount, and the directory that its relative paths are to be seen from.
#[derive(Debug, PartialEq, Eq)]
struct Compact {
    data: String,
    directory: Option<PathBuf>,
}

/// Data that is longer than a page is that of an overlay with many layers, which lie in one directory: seen from there their
/// names are short.
fn compact(data: Vec<&str>) -> Compact {
    let whole = data.join(",");
    let layers = data.iter().find_map(|word| word.strip_prefix("lowerdir="));
    let (true, Some(layers)) = (whole.len() > DATA, layers) else { return Compact { data: whole, directory: None } };
    let layers: Vec<&Path> = layers.split(':').map(Path::new).collect();
    let mut directory = layers[0].parent().unwrap_or(Path::new("/")).to_owned();
    while !layers.iter().all(|layer| layer.starts_with(&directory)) {
        directory.pop();
    }
    let short: Option<Vec<&str>> = layers
        .iter()
        .map(|layer| layer.strip_prefix(&directory).ok()?.to_str().filter(|name| !name.is_empty()))
        .collect();
    let (Some(short), true) = (short, directory != Path::new("/")) else {
        return Compact { data: whole, directory: None };
    };
    let lower = format!("lowerdir={}", short.join(":"));
    let data = data.iter().map(|word| if word.starts_with("lowerdir=") { lower.as_str() } else { word });
    Compact { data: data.collect::<Vec<_>>().join(","), directory: Some(directory) }
}

/// Takes all mounts on `rootfs` away. One that is busy goes when the last process leaves it.
///
/// # Errors
/// umount2(2) fails for another reason than that there is none.
pub fn unmount_all(rootfs: &Path) -> Result<()> {
    loop {
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: it is no mount.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => {
                let text = format!("unmount the root file system {}", rootfs.display());
                return Err(Error::new(text).call("umount2(MNT_DETACH)", errno));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_out_of_the_options_and_the_last_word_counts() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let bind = words("rbind ro nosuid suid");
        assert_eq!(options(&bind), (MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY, Vec::new()));
        let overlay = words("index=off workdir=/w lowerdir=/a:/b");
        assert_eq!(options(&overlay), (MsFlags::empty(), vec!["index=off", "workdir=/w", "lowerdir=/a:/b"]));
    }

    #[test]
    fn layers_that_are_too_many_for_a_page_are_named_from_their_directory() {
        let few = compact(vec!["lowerdir=/s/1/fs:/s/2/fs", "upperdir=/u"]);
        assert_eq!(few, Compact { data: "lowerdir=/s/1/fs:/s/2/fs,upperdir=/u".into(), directory: None });
        let names: Vec<String> = (0..200).map(|number| format!("{number}/fs")).collect();
        let layers: Vec<String> = names.iter().map(|name| format!("/var/lib/snapshots/{name}")).collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        let many = compact(vec!["upperdir=/u", &lower]);
        assert_eq!(many.directory.as_deref(), Some("/var/lib/snapshots".as_ref()));
        assert_eq!(many.data, format!("upperdir=/u,lowerdir={}", names.join(":")));
    }
}
