//! Mount options: from the strings of `config.json` to attributes, propagation and file system parameters.
//!
//! The table is that of runtime-spec 1.3, `config.md`, "Linux mount options". What is not in it goes to the file
//! system, as the specification asks: `acl` and `noacl` for example, which ext4 and btrfs know by these names.

use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME, MS_PRIVATE, MS_REC,
    MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

use crate::error::{Error, Result};

/// The field of `MOUNT_ATTR_*` that holds one of `RELATIME` (0), `NOATIME` and `STRICTATIME`.
pub const MOUNT_ATTR_ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// `mounts[].options` of one mount, sorted by what each is for.
///
/// `MOUNT_ATTR_*` bits are those of `mount_setattr(2)`; the `set` and `clear` words follow the order of the options (the
/// last one wins) and go into `struct mount_attr` as they are. A flag is in one of them at most. The access time mode is
/// a field of two bits and not a flag: the kernel (5.12, `build_mount_kattr`) answers EINVAL to `attr_set` with a part
/// of [`MOUNT_ATTR_ATIME`] unless `attr_clr` has the whole field. So each option that decides the mode puts the whole
/// field into `clear` and the mode into `set`. `fsmount(2)` takes `set` alone: its mounts have no mode to clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind` or `rbind` was given.
    pub bind: bool,
    /// `rbind` was given.
    pub recursive: bool,
    /// `MOUNT_ATTR_*` to set on this mount alone.
    ///
    /// `ro` is here and not in [`flags`](Self::flags): a read-only mount of a tmpfs must first be filled. A file system on
    /// a block device that can't be written needs `ro` as its superblock flag too.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear on this mount alone.
    pub clear: u64,
    /// `MOUNT_ATTR_*` to set with `AT_RECURSIVE` (`rro`, `rnosuid`, ...), after `set` and `clear`.
    pub set_recursive: u64,
    /// `MOUNT_ATTR_*` to clear with `AT_RECURSIVE` (`rrw`, `rsuid`, ...), after `set` and `clear`.
    pub clear_recursive: u64,
    /// Propagation changes in order: `MS_PRIVATE`, `MS_SHARED | MS_REC`, ...
    pub propagation: Vec<u64>,
    /// Superblock flags in order, by the names that `fsconfig(2)` with `FSCONFIG_SET_FLAG` has for them: `sync`, `async`,
    /// `dirsync`, `lazytime`, `nolazytime`, `mand`, `nomand` (`common_set_sb_flag` in `fs/fs_context.c`). A bind mount has
    /// no superblock of its own: there the kernel ignores them.
    pub flags: Vec<String>,
    /// `silent` and `iversion`, for the flags of `mount(2)` that `fsconfig(2)` has no name for, unless taken back.
    pub legacy: Vec<&'static str>,
    /// File system parameters in order: `size=64m` is (`size`, Some(`64m`)), `nodelalloc` is (`nodelalloc`, None).
    pub data: Vec<(String, Option<String>)>,
    /// `remount` was given.
    pub remount: bool,
    /// `tmpcopyup` was given.
    pub copy_up: bool,
    /// `idmap` (Some(false)) or `ridmap` (Some(true)) was given; the last one wins.
    pub idmap: Option<bool>,
}

/// What one option of the table does.
#[derive(Clone, Copy)]
enum Effect {
    /// Sets a flag of the mount.
    Set(Reach, u64),
    /// Clears a flag of the mount.
    Clear(Reach, u64),
    /// Chooses the access time mode.
    Atime(Reach, u64),
    /// Goes back to the kernel's access time mode, `relatime`, unless an earlier option chose another mode than this one.
    NotAtime(Reach, u64),
    /// `bind` (false) and `rbind` (true).
    Bind(bool),
    Propagation(u64),
    /// A superblock flag that `fsconfig(2)` knows by the option's own name.
    Superblock,
    /// A flag that only `mount(2)` has: asks for it (true) or takes it back.
    Legacy(&'static str, bool),
    Remount,
    CopyUp,
    /// `idmap` (false) and `ridmap` (true).
    Idmap(bool),
    /// What the kernel does anyway.
    Nothing,
}

/// Whether an attribute is for the mount alone or for all mounts below it too.
#[derive(Clone, Copy)]
enum Reach {
    Mount,
    Tree,
}

use Effect::*;
use Reach::*;

/// The table of the specification, in alphabetical order.
///
/// `defaults` stands for what a mount has without options; it does not undo earlier ones, as in `mount(8)` and runc.
/// `norelatime` clears `MS_RELATIME`, which the kernel has not looked at since `relatime` is its default (2.6.30): the
/// option that leaves that mode is `strictatime`.
const TABLE: &[(&str, Effect)] = &[
    ("async", Superblock),
    ("atime", NotAtime(Mount, MOUNT_ATTR_NOATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(Mount, MOUNT_ATTR_NODEV)),
    ("diratime", Clear(Mount, MOUNT_ATTR_NODIRATIME)),
    ("dirsync", Superblock),
    ("exec", Clear(Mount, MOUNT_ATTR_NOEXEC)),
    ("idmap", Idmap(false)),
    ("iversion", Legacy("iversion", true)),
    ("lazytime", Superblock),
    ("loud", Legacy("silent", false)),
    ("mand", Superblock),
    ("noatime", Atime(Mount, MOUNT_ATTR_NOATIME)),
    ("nodev", Set(Mount, MOUNT_ATTR_NODEV)),
    ("nodiratime", Set(Mount, MOUNT_ATTR_NODIRATIME)),
    ("noexec", Set(Mount, MOUNT_ATTR_NOEXEC)),
    ("noiversion", Legacy("iversion", false)),
    ("nolazytime", Superblock),
    ("nomand", Superblock),
    ("norelatime", Nothing),
    ("nostrictatime", NotAtime(Mount, MOUNT_ATTR_STRICTATIME)),
    ("nosuid", Set(Mount, MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Set(Mount, MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Propagation(MS_PRIVATE)),
    ("ratime", NotAtime(Tree, MOUNT_ATTR_NOATIME)),
    ("rbind", Bind(true)),
    ("rdev", Clear(Tree, MOUNT_ATTR_NODEV)),
    ("rdiratime", Clear(Tree, MOUNT_ATTR_NODIRATIME)),
    ("relatime", Atime(Mount, MOUNT_ATTR_RELATIME)),
    ("remount", Remount),
    ("rexec", Clear(Tree, MOUNT_ATTR_NOEXEC)),
    ("ridmap", Idmap(true)),
    ("rnoatime", Atime(Tree, MOUNT_ATTR_NOATIME)),
    ("rnodev", Set(Tree, MOUNT_ATTR_NODEV)),
    ("rnodiratime", Set(Tree, MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", Set(Tree, MOUNT_ATTR_NOEXEC)),
    ("rnorelatime", Nothing),
    ("rnostrictatime", NotAtime(Tree, MOUNT_ATTR_STRICTATIME)),
    ("rnosuid", Set(Tree, MOUNT_ATTR_NOSUID)),
    ("rnosymfollow", Set(Tree, MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Set(Mount, MOUNT_ATTR_RDONLY)),
    ("rprivate", Propagation(MS_PRIVATE | MS_REC)),
    ("rrelatime", Atime(Tree, MOUNT_ATTR_RELATIME)),
    ("rro", Set(Tree, MOUNT_ATTR_RDONLY)),
    ("rrw", Clear(Tree, MOUNT_ATTR_RDONLY)),
    ("rshared", Propagation(MS_SHARED | MS_REC)),
    ("rslave", Propagation(MS_SLAVE | MS_REC)),
    ("rstrictatime", Atime(Tree, MOUNT_ATTR_STRICTATIME)),
    ("rsuid", Clear(Tree, MOUNT_ATTR_NOSUID)),
    ("rsymfollow", Clear(Tree, MOUNT_ATTR_NOSYMFOLLOW)),
    ("runbindable", Propagation(MS_UNBINDABLE | MS_REC)),
    ("rw", Clear(Mount, MOUNT_ATTR_RDONLY)),
    ("shared", Propagation(MS_SHARED)),
    ("silent", Legacy("silent", true)),
    ("slave", Propagation(MS_SLAVE)),
    ("strictatime", Atime(Mount, MOUNT_ATTR_STRICTATIME)),
    ("suid", Clear(Mount, MOUNT_ATTR_NOSUID)),
    ("symfollow", Clear(Mount, MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", Superblock),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(MS_UNBINDABLE)),
];

/// The options that the runtime acts on itself, in alphabetical order, as `features` lists them.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

impl MountOptions {
    /// Sorts the options of one mount.
    ///
    /// # Errors
    /// For an option that holds a NUL byte or is a value without a name (`=64m`). The error's pointer is relative to the
    /// mount: `/options/1`.
    pub fn parse(options: &[String]) -> Result<MountOptions> {
        let mut parsed = MountOptions::default();
        for (index, option) in options.iter().enumerate() {
            match TABLE.iter().find(|(name, _)| name == option) {
                Some((name, effect)) => parsed.apply(name, *effect),
                None => parsed.add_data(option).map_err(|error| error.at(format!("/options/{index}")))?,
            }
        }
        Ok(parsed)
    }

    fn apply(&mut self, name: &str, effect: Effect) {
        match effect {
            Set(reach, flag) => self.change(reach, flag, flag),
            Clear(reach, flag) => self.change(reach, flag, 0),
            Atime(reach, mode) => self.change(reach, MOUNT_ATTR_ATIME, mode),
            NotAtime(reach, mode) => self.leave_atime(reach, mode),
            Bind(recursive) => {
                self.bind = true;
                self.recursive |= recursive;
            }
            Propagation(flags) => self.propagation.push(flags),
            Superblock => self.flags.push(name.to_owned()),
            Legacy(flag, asked) => {
                self.legacy.retain(|other| *other != flag);
                self.legacy.extend(asked.then_some(flag));
            }
            Remount => self.remount = true,
            CopyUp => self.copy_up = true,
            Idmap(recursive) => self.idmap = Some(recursive),
            Nothing => {}
        }
    }

    fn words(&mut self, reach: Reach) -> (&mut u64, &mut u64) {
        match reach {
            Mount => (&mut self.set, &mut self.clear),
            Tree => (&mut self.set_recursive, &mut self.clear_recursive),
        }
    }

    /// Gives the bits of `field` the value `value`. A flag that gets set leaves `clear`; the access time field stays there.
    fn change(&mut self, reach: Reach, field: u64, value: u64) {
        let (set, clear) = self.words(reach);
        *set = *set & !field | value;
        if field == value {
            *clear &= !field;
        } else {
            *clear |= field;
        }
    }

    /// `atime` and `nostrictatime` take back one mode: `strictatime,atime` stays strict, `noatime,atime` is relatime.
    fn leave_atime(&mut self, reach: Reach, mode: u64) {
        let (set, _) = self.words(reach);
        let chosen = *set & MOUNT_ATTR_ATIME;
        if chosen == 0 || chosen == mode {
            self.change(reach, MOUNT_ATTR_ATIME, MOUNT_ATTR_RELATIME);
        }
    }

    /// Adds file system parameters. `mount(2)` took one string with commas, so configurations hold `size=1m,mode=755` as
    /// one option: it is taken apart here, since `fsconfig(2)` wants one parameter at a time.
    fn add_data(&mut self, option: &str) -> Result<()> {
        if option.contains('\0') {
            return Err(Error::new("mount option contains a NUL byte"));
        }
        for parameter in split_at_commas(option) {
            let (name, value) = match parameter.split_once('=') {
                // SELinux takes the quotes away from mount(2)'s one string, and not here
                Some((name, value)) if name.ends_with("context") => (name, Some(value.replace('"', ""))),
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (parameter, None),
            };
            if name.is_empty() {
                return Err(Error::new(format!("mount option {option:?} has no name before its value")));
            }
            self.data.push((name.to_owned(), value));
        }
        Ok(())
    }
}

/// The non-empty parts of `option`. A comma in double quotes (SELinux contexts) or after a backslash (overlayfs paths)
/// belongs to the value.
fn split_at_commas(option: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    option
        .split(move |c| {
            let separates = c == ',' && !quoted && !escaped;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            separates
        })
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        MountOptions::parse(&options).unwrap()
    }

    fn attributes(options: &str) -> [u64; 4] {
        let parsed = parse(options);
        [parsed.set, parsed.clear, parsed.set_recursive, parsed.clear_recursive]
    }

    /// Every attribute option with the words of `struct mount_attr` (`linux/mount.h`) that it stands for. The numbers are
    /// written out, so that a wrong constant shows.
    #[test]
    fn each_attribute() {
        for (name, set, clear) in [
            ("ro", 0x1, 0),
            ("rw", 0, 0x1),
            ("nosuid", 0x2, 0),
            ("suid", 0, 0x2),
            ("nodev", 0x4, 0),
            ("dev", 0, 0x4),
            ("noexec", 0x8, 0),
            ("exec", 0, 0x8),
            ("noatime", 0x10, 0x70),
            ("atime", 0, 0x70),
            ("strictatime", 0x20, 0x70),
            ("nostrictatime", 0, 0x70),
            ("relatime", 0, 0x70),
            ("norelatime", 0, 0),
            ("nodiratime", 0x80, 0),
            ("diratime", 0, 0x80),
            ("nosymfollow", 0x20_0000, 0),
            ("symfollow", 0, 0x20_0000),
        ] {
            assert_eq!(attributes(name), [set, clear, 0, 0], "{name}");
            assert_eq!(attributes(&format!("r{name}")), [0, 0, set, clear], "r{name}");
        }
    }

    #[test]
    fn each_propagation() {
        for (name, flag) in [("private", 1 << 18), ("slave", 1 << 19), ("shared", 1 << 20), ("unbindable", 1 << 17)] {
            assert_eq!(parse(name).propagation, [flag], "{name}");
            assert_eq!(parse(&format!("r{name}")).propagation, [flag | 0x4000], "r{name}");
        }
        assert_eq!(parse("rslave shared").propagation, [1 << 19 | 0x4000, 1 << 20], "a slave that is shared again");
    }

    #[test]
    fn each_superblock_flag() {
        let names = "sync async dirsync lazytime nolazytime mand nomand";
        assert_eq!(parse(names).flags, names.split(' ').collect::<Vec<_>>());
        assert_eq!(parse(names), MountOptions { flags: parse(names).flags, ..Default::default() });
        let cases: [(&str, &[&str]); 5] = [
            ("silent", &["silent"]),
            ("silent loud", &[]),
            ("iversion", &["iversion"]),
            ("iversion noiversion", &[]),
            ("silent iversion silent", &["iversion", "silent"]),
        ];
        for (name, legacy) in cases {
            let legacy = legacy.to_vec();
            assert_eq!(parse(name), MountOptions { legacy, ..Default::default() }, "{name}");
        }
    }

    #[test]
    fn the_others() {
        let none = MountOptions::default();
        assert_eq!(parse("bind"), MountOptions { bind: true, ..none.clone() });
        assert_eq!(parse("rbind"), MountOptions { bind: true, recursive: true, ..none.clone() });
        assert_eq!(parse("rbind bind"), parse("rbind"));
        assert_eq!(parse("remount"), MountOptions { remount: true, ..none.clone() });
        assert_eq!(parse("tmpcopyup"), MountOptions { copy_up: true, ..none.clone() });
        assert_eq!(parse("idmap"), MountOptions { idmap: Some(false), ..none.clone() });
        assert_eq!(parse("idmap ridmap"), MountOptions { idmap: Some(true), ..none.clone() });
        assert_eq!(parse("defaults"), none);
        assert_eq!(attributes("nosuid defaults"), attributes("nosuid"));
    }

    #[test]
    fn the_last_one_wins() {
        assert_eq!(attributes("ro rw"), [0, 1, 0, 0]);
        assert_eq!(attributes("rw ro"), [1, 0, 0, 0]);
        assert_eq!(attributes("rro rrw rro"), [0, 0, 1, 0]);
        assert_eq!(attributes("rro rw"), [0, 1, 1, 0], "plain and recursive do not mix");
        assert_eq!(attributes("noatime strictatime"), [0x20, 0x70, 0, 0]);
        assert_eq!(attributes("strictatime noatime nodiratime"), [0x90, 0x70, 0, 0]);
        assert_eq!(attributes("strictatime relatime"), [0, 0x70, 0, 0]);
    }

    #[test]
    fn taking_back_an_atime_mode() {
        assert_eq!(attributes("noatime atime"), [0, 0x70, 0, 0]);
        assert_eq!(attributes("strictatime atime"), [0x20, 0x70, 0, 0]);
        assert_eq!(attributes("rnoatime rnostrictatime"), [0, 0, 0x10, 0x70]);
        assert_eq!(attributes("rstrictatime rnostrictatime"), [0, 0, 0, 0x70]);
    }

    #[test]
    fn what_is_unknown_goes_to_the_file_system_in_order() {
        let parsed = parse("size=64m nosuid nodelalloc mode=1777,uid=5 context=\"a,b\" lowerdir=/a\\,b:/c x=");
        let data: Vec<_> = parsed.data.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let expected = [
            ("size", Some("64m")),
            ("nodelalloc", None),
            ("mode", Some("1777")),
            ("uid", Some("5")),
            ("context", Some("a,b")),
            ("lowerdir", Some("/a\\,b:/c")),
            ("x", Some("")),
        ];
        assert_eq!(data, expected);
        assert_eq!(parsed.set, 2);
        assert_eq!(MountOptions::parse(&[String::new()]).unwrap(), MountOptions::default());
    }

    #[test]
    fn errors_point_at_the_option() {
        for bad in ["=64m", "size=1\0"] {
            let error = MountOptions::parse(&["ro".into(), bad.into()]).unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some("/options/1"), "{bad:?}");
        }
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(names().is_sorted_by(|a, b| a < b));
        assert_eq!(names().len(), 62);
    }
}
