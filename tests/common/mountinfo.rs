//! /proc/PID/mountinfo (proc_pid_mountinfo(5)), and mounts that a test makes on the host's side.
#![allow(dead_code)] // each test binary uses its own part

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// One line.
#[derive(Debug, Clone)]
pub struct Mount {
    /// The directory of the file system that is mounted.
    pub root: String,
    /// Where.
    pub point: String,
    /// Its own options.
    pub options: Vec<String>,
    /// The optional fields: `shared:1`, `master:2`, `unbindable`.
    pub propagation: Vec<String>,
    /// The file system's type.
    pub kind: String,
    /// The file system's options.
    pub filesystem: Vec<String>,
}

impl Mount {
    /// Has the mount, or its file system, this option?
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().chain(&self.filesystem).any(|other| other == option)
    }

    /// The names of the optional fields: `shared`.
    pub fn peers(&self) -> Vec<&str> {
        self.propagation.iter().map(|field| field.split(':').next().unwrap_or(field)).collect()
    }
}

/// One line of the file; None: a line of other output.
pub fn line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let words = |text: &str, by: char| text.split(by).map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (words(before, ' '), words(after, ' '));
    Some(Mount {
        root: before[3].clone(),
        point: before[4].clone(),
        options: words(&before[5], ','),
        propagation: before[6..].to_vec(),
        kind: after[0].clone(),
        filesystem: words(&after[2], ','),
    })
}

/// The mount that one sees at `point`.
#[track_caller]
pub fn at(mountinfo: &str, point: &str) -> Mount {
    let found = mountinfo.lines().filter_map(line).rfind(|mount| mount.point == point);
    found.unwrap_or_else(|| panic!("nothing is mounted on {point}: {mountinfo}"))
}

/// A mount in the namespace of this test's process, gone when it is dropped: which must be before the bundle that it lies in
/// (`let _gone_first`), or the bundle can't be removed.
pub struct HostMount(PathBuf);

impl HostMount {
    /// A tmpfs on `path`, which is made, with these flags.
    pub fn tmpfs(path: &Path, flags: MsFlags) -> Self {
        std::fs::create_dir_all(path).expect("a mount point");
        mount(Some("test"), path, Some("tmpfs"), flags, None::<&str>).expect("mount a tmpfs");
        Self(path.to_owned())
    }

    /// `path` on itself, with these flags.
    pub fn bind(path: &Path, flags: MsFlags) -> Self {
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        let mounted = Self(path.to_owned());
        mounted.change(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags);
        mounted
    }

    /// mount(2) with these flags on the mount: its propagation, or a remount.
    pub fn change(&self, flags: MsFlags) {
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).expect("change the mount");
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
