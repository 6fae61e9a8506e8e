//! Mount options: from the strings of `config.json` to attributes, propagation and file system parameters.

/// `mounts[].options` of one mount, sorted by what each is for.
///
/// `MOUNT_ATTR_*` bits are those of `mount_setattr(2)`; `set` and `clear` follow the order of the options (the last one
/// wins), so no bit is in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind` or `rbind` was given.
    pub bind: bool,
    /// `rbind` was given.
    pub recursive: bool,
    /// `MOUNT_ATTR_*` to set on this mount alone.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear on this mount alone.
    pub clear: u64,
    /// `MOUNT_ATTR_*` to set with `AT_RECURSIVE` (`rro`, `rnosuid`, ...).
    pub set_recursive: u64,
    /// `MOUNT_ATTR_*` to clear with `AT_RECURSIVE` (`rrw`, `rsuid`, ...).
    pub clear_recursive: u64,
    /// Propagation changes in order: `MS_PRIVATE`, `MS_SHARED | MS_REC`, ...
    pub propagation: Vec<u64>,
    /// Superblock flags as `fsconfig(2)` wants them: `sync`, `dirsync`, `mand`, `lazytime`, `silent`, ..., and their
    /// opposites; (`name`, true) for set and (`name`, false) for a request to clear that has no parameter of its own.
    pub flags: Vec<String>,
    /// File system parameters: `size=64m` is (`size`, Some(`64m`)), `nodelalloc` is (`nodelalloc`, None).
    pub data: Vec<(String, Option<String>)>,
    /// `remount` was given.
    pub remount: bool,
    /// `tmpcopyup` was given.
    pub copy_up: bool,
    /// `idmap` (Some(false)) or `ridmap` (Some(true)) was given.
    pub idmap: Option<bool>,
}
