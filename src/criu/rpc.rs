//! criu's own messages (`rpc.proto`, which comes with criu), by the numbers of their fields.

use super::wire::{Message, Value, fields};

/// `criu_opts`: field numbers.
#[allow(missing_docs)]
pub mod opts {
    pub const IMAGES_DIR_FD: u32 = 1;
    pub const PID: u32 = 2;
    pub const LEAVE_RUNNING: u32 = 3;
    pub const EXT_UNIX_SK: u32 = 4;
    pub const TCP_ESTABLISHED: u32 = 5;
    pub const EVASIVE_DEVICES: u32 = 6;
    pub const SHELL_JOB: u32 = 7;
    pub const FILE_LOCKS: u32 = 8;
    pub const LOG_LEVEL: u32 = 9;
    pub const LOG_FILE: u32 = 10;
    pub const PAGE_SERVER: u32 = 11;
    pub const NOTIFY_SCRIPTS: u32 = 12;
    pub const ROOT: u32 = 13;
    pub const PARENT_IMG: u32 = 14;
    pub const TRACK_MEM: u32 = 15;
    pub const AUTO_DEDUP: u32 = 16;
    pub const WORK_DIR_FD: u32 = 17;
    pub const LINK_REMAP: u32 = 18;
    pub const EXT_MNT: u32 = 23;
    pub const MANAGE_CGROUPS: u32 = 24;
    pub const CG_ROOT: u32 = 25;
    pub const RST_SIBLING: u32 = 26;
    pub const INHERIT_FD: u32 = 27;
    pub const MANAGE_CGROUPS_MODE: u32 = 34;
    pub const EXTERNAL: u32 = 37;
    pub const EMPTY_NS: u32 = 38;
    pub const JOIN_NS: u32 = 39;
    pub const FREEZE_CGROUP: u32 = 44;
    pub const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub const LAZY_PAGES: u32 = 48;
    pub const ORPHAN_PTS_MASTER: u32 = 50;
    pub const CONFIG_FILE: u32 = 51;
    pub const TCP_CLOSE: u32 = 52;
    pub const LSM_PROFILE: u32 = 53;
    pub const LSM_MOUNT_CONTEXT: u32 = 63;
}

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Kind {
    /// The name that runc has in its errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Notify => "NOTIFY",
            Self::FeatureCheck => "FEATURE_CHECK",
            Self::Version => "VERSION",
        }
    }
}

/// `criu_features`: what can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Feature {
    /// Memory that was written to since the last dump can be told (`--pre-dump`).
    MemoryTracking = 1,
    /// Memory can be brought after the process runs (`--lazy-pages`).
    LazyPages = 2,
}

/// A pair of strings, or of a string and a number: fields 1 and 2 of `ext_mount_map`, `join_namespace`, `inherit_fd`.
pub fn pair(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Message {
    let mut pair = Message::default();
    pair.text(1, key);
    pair.text(2, value);
    pair
}

/// `inherit_fd`.
pub fn inherit_fd(key: &str, fd: i32) -> Message {
    let mut pair = Message::default();
    pair.text(1, key);
    pair.number(2, fd);
    pair
}

/// `cgroup_root` of all hierarchies.
pub fn cgroup_root(path: &str) -> Message {
    let mut root = Message::default();
    root.text(2, path);
    root
}

/// `criu_page_server_info`.
pub fn page_server(address: &str, port: u16) -> Message {
    let mut server = Message::default();
    server.text(1, address);
    server.number(2, port);
    server
}

/// `criu_req` with its `criu_opts`.
pub fn request(kind: Kind, options: &Message) -> Message {
    let mut request = Message::default();
    request.number(1, kind as u8);
    request.message(2, options);
    request
}

/// `criu_req` that asks and leaves the connection open for the next one.
pub fn question(kind: Kind, feature: Option<Feature>) -> Message {
    let mut request = Message::default();
    request.number(1, kind as u8);
    request.number(4, 1);
    if let Some(feature) = feature {
        let mut features = Message::default();
        features.number(feature as u32, 1);
        request.message(5, &features);
    }
    request
}

/// `criu_req` that answers a notification.
pub fn go_on() -> Message {
    let mut request = Message::default();
    request.number(1, Kind::Notify as u8);
    request.number(3, 1);
    request
}

/// `criu_resp`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `criu_req_type`.
    pub kind: u64,
    /// It was done.
    pub success: bool,
    /// The errno of a failure, 0 when it has none.
    pub errno: i32,
    /// What has happened, by the name of criu's action scripts (criu(8), Action scripts).
    pub script: String,
    /// The process that it is about: that of the notification.
    pub pid: i32,
    /// Numbers of the features that there are.
    pub features: Vec<u32>,
    /// Major and minor number of criu.
    pub version: (u64, u64),
}

impl Response {
    /// Reads one; None when it is none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for field in fields(bytes)? {
            match field {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (5, Value::Bytes(notify)) => response.notify(notify)?,
                (7, Value::Number(errno)) => response.errno = errno as i32,
                (8, Value::Bytes(features)) => response.features(features)?,
                (10, Value::Bytes(version)) => response.version(version)?,
                _ => {}
            }
        }
        Some(response)
    }

    fn notify(&mut self, bytes: &[u8]) -> Option<()> {
        for field in fields(bytes)? {
            match field {
                (1, Value::Bytes(script)) => self.script = String::from_utf8_lossy(script).into_owned(),
                (2, Value::Number(pid)) => self.pid = pid as i32,
                _ => {}
            }
        }
        Some(())
    }

    fn features(&mut self, bytes: &[u8]) -> Option<()> {
        let there = |field: &(u32, Value<'_>)| matches!(field.1, Value::Number(1..));
        self.features = fields(bytes)?.iter().filter(|field| there(field)).map(|(number, _)| *number).collect();
        Some(())
    }

    fn version(&mut self, bytes: &[u8]) -> Option<()> {
        for field in fields(bytes)? {
            match field {
                (1, Value::Number(major)) => self.version.0 = major,
                (2, Value::Number(minor)) => self.version.1 = minor,
                _ => {}
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read() {
        let mut notify = Message::default();
        notify.text(1, "post-restore");
        notify.number(2, 4711);
        let mut response = Message::default();
        response.number(1, 6);
        response.number(2, 1);
        response.message(5, &notify);
        let read = Response::of(response.bytes()).unwrap();
        assert_eq!((read.kind, read.success, read.script.as_str(), read.pid), (6, true, "post-restore", 4711));
        assert_eq!(Response::of(b"\x2a\x02\x0a\x05"), None);
    }
}
