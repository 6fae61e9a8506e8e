//! Changing the limits of a cgroup that is in use: all writes or, as far as the kernel lets us, none.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{Cgroup, Refused, Write, file};
use crate::error::{Error, Result};

/// What the files of a cgroup held before they were written, oldest first.
#[derive(Debug, Default)]
#[must_use = "it is the way back when a later step fails"]
pub struct Before(Vec<(String, String)>);

impl Cgroup {
    /// Does `writes` in their order. When one is refused those before it are taken back, and the error says so.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn update(&self, writes: &[Write]) -> Result<Before> {
        let mut before = Before::default();
        for write in writes {
            let held = self.held(write);
            if let Err(error) = self.write(write) {
                return Err(before.take_back(self, error));
            }
            before.0.extend(held);
        }
        Ok(before)
    }

    /// What to write in order to undo `write`, the last of it first.
    fn held(&self, write: &Write) -> Vec<(String, String)> {
        let of = |name: &str, value: &str| {
            let text = file::read(self.fd(), name).ok()?;
            Some((name.to_owned(), undoing(name, value, &text)?))
        };
        let own = of(&write.file, &write.value);
        match (&write.refused, own) {
            (Refused::InsteadIfMissing { file, value }, None) => of(file, value).into_iter().collect(),
            // bfq gives every disk the weight that is written for all: those that have their own get it back after that.
            (_, Some(own)) if write.file == BFQ_WEIGHT && !write.value.contains(' ') => {
                let text = file::read(self.fd(), BFQ_WEIGHT).unwrap_or_default();
                let disks = text.lines().filter(|line| !line.starts_with("default "));
                disks.map(|line| (BFQ_WEIGHT.to_owned(), line.to_owned())).chain([own]).collect()
            }
            // The kernel forgets the weight of what becomes idle; an idle cgroup shows 0, which is none.
            (_, Some(own)) if write.file == "cpu.idle" => {
                of("cpu.weight", "").filter(|(_, weight)| weight != "0").into_iter().chain([own]).collect()
            }
            (_, own) => own.into_iter().collect(),
        }
    }

    /// Opens a file of the cgroup for reading; none where its controller or the file is missing.
    ///
    /// # Errors
    /// Any other failure.
    pub fn open_file(&self, name: &str) -> Result<Option<OwnedFd>> {
        match file::open(self.fd(), name, OFlag::O_RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            Err(errno) => Err(Error::new(format!("open {}/{name}", self.path().display())).call("openat2", errno)),
        }
    }

    /// Opens a pressure file with a trigger: it is ready for `POLLPRI` once the stall has been longer than `stall` microseconds
    /// within `window` microseconds (accounting/psi.rst; without CAP_SYS_RESOURCE the window is a multiple of 2 s). None where
    /// pressure is not accounted.
    ///
    /// # Errors
    /// The kernel does not take the trigger.
    pub fn pressure_trigger(&self, name: &str, some: bool, stall: u64, window: u64) -> Result<Option<OwnedFd>> {
        let failed =
            |call: String, errno| Error::new(format!("wait for {}/{name}", self.path().display())).call(call, errno);
        let file = match file::open(self.fd(), name, OFlag::O_RDWR | OFlag::O_NONBLOCK) {
            Ok(file) => file,
            Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(failed("openat2".to_owned(), errno)),
        };
        let trigger = format!("{} {stall} {window}", if some { "some" } else { "full" });
        match nix::unistd::write(&file, trigger.as_bytes()) {
            Ok(_) => Ok(Some(file)),
            Err(Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(failed(format!("write({trigger:?})"), errno)),
        }
    }

    /// Reads a file of the cgroup; none where its controller or the file is missing.
    ///
    /// # Errors
    /// Any other failure.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        match file::read(self.fd(), name) {
            Ok(text) => Ok(Some(text)),
            // EOPNOTSUPP: pressure is not accounted here.
            Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::new(format!("read {}/{name}", self.path().display())).call("read", errno)),
        }
    }
}

impl Before {
    /// Writes the old values, the newest change first. `error` is what made it necessary: it comes back with what became
    /// of them.
    #[must_use]
    pub fn take_back(self, cgroup: &Cgroup, error: Error) -> Error {
        let failed = |(name, value): &&(String, String)| file::write(cgroup.fd(), name, value).is_err();
        let lost: Vec<&str> = self.0.iter().rev().filter(failed).map(|(name, _)| name.as_str()).collect();
        let outcome = match (self.0.is_empty(), lost.is_empty()) {
            (true, _) => return error,
            (_, true) => "the limits are as they were before".to_owned(),
            _ => format!("not all limits are as they were before: {}", lost.join(", ")),
        };
        Error { message: format!("{}; {outcome}", error.message), ..error }
    }
}

const BFQ_WEIGHT: &str = "io.bfq.weight";

/// Files with a line for each device, which is named first in what is written, and what lifts a device's limit.
const BY_DEVICE: [(&str, &str); 4] = [
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("io.weight", "default"),
    (BFQ_WEIGHT, "default"),
    ("rdma.max", "hca_handle=max hca_object=max"),
];

/// What undoes the writing of `value` to a file that holds `text`.
fn undoing(name: &str, value: &str, text: &str) -> Option<String> {
    let Some((_, lifted)) = BY_DEVICE.iter().find(|(file, _)| *file == name) else {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        // Of a file with several lines nothing is known. A write of no bytes would not reach the kernel's parser.
        return lines.next().is_none().then(|| format!("{first}\n"));
    };
    // A weight without a device is the default one.
    let device = value.split_whitespace().next().filter(|_| value.contains(' ')).unwrap_or("default");
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(device));
    Some(line.map_or_else(|| format!("{device} {lifted}"), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::undoing;

    #[test]
    fn what_undoes_a_write() {
        for (name, value, text, undo) in [
            ("memory.max", "1", "max\n", Some("max\n")),
            ("cpu.max", "1 2", "max 100000\n", Some("max 100000\n")),
            ("cpuset.cpus", "0", "\n", Some("\n")),
            ("io.max", "8:0 rbps=1", "8:16 rbps=7 wbps=max\n8:0 rbps=5 wbps=max\n", Some("8:0 rbps=5 wbps=max")),
            ("io.max", "8:0 rbps=1", "", Some("8:0 rbps=max wbps=max riops=max wiops=max")),
            ("io.weight", "200", "default 100\n8:0 5\n", Some("default 100")),
            ("io.weight", "8:0 200", "default 100\n", Some("8:0 default")),
            ("misc.max", "a 1", "a 2\nb 3\n", None),
        ] {
            assert_eq!(undoing(name, value, text).as_deref(), undo, "{name} {value}");
        }
    }
}
