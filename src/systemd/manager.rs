//! What is asked of systemd (org.freedesktop.systemd1(5)), each time over a connection of its own.

use std::time::Duration;

use nix::unistd::Pid;

use super::properties::{BFQ, Property, of_bfq, of_writes};
use super::scope::{Scope, Unit};
use crate::cgroup::{APPLY, Cgroup, Write};
use crate::dbus::{Bus, Deadline, Method, Reply, Value};
use crate::error::{Error, Result};

/// What one of these functions may take in all.
const LIMIT: Duration = Duration::from_secs(30);

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PATH: &str = "/org/freedesktop/systemd1";
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// systemd's own socket, below `/run` or `$XDG_RUNTIME_DIR`, where it serves what it serves on the bus (systemctl(1) uses it).
const OWN_SOCKET: &str = "systemd/private";

/// Starts a scope with the process `pid` in it, and waits until it is there.
///
/// # Errors
/// systemd can't be reached, refuses, or has not finished within 30 seconds; a unit of that name is there already.
pub fn start(scope: &Scope, pid: Pid) -> Result<()> {
    let unit = &scope.unit;
    let mut systemd = Systemd::connect(unit)?;
    let mut properties = systemd.known(&scope.properties)?;
    let pids = Value::Array("u".to_owned(), vec![Value::Uint32(pid.as_raw() as u32)]);
    properties.push(pair("PIDs", pids));
    let body = [
        unit.name.as_str().into(),
        // The mode of runc and systemd-run(1): a job that contradicts ours is replaced.
        "replace".into(),
        Value::Array("(sv)".to_owned(), properties),
        Value::Array("(sa(sv))".to_owned(), Vec::new()),
    ];
    let mut reply = systemd.call("StartTransientUnit", &body)?;
    if matches!(&reply, Reply::Refused { name, .. } if name == "org.freedesktop.systemd1.UnitExists") {
        // What has failed stays until it is reset, and is in nobody's way.
        systemd.call("ResetFailedUnit", &body[..1])?;
        reply = systemd.call("StartTransientUnit", &body)?;
    }
    let job = reply_of(reply).map_err(|(name, text)| refused(&name, &text))?;
    match systemd.end_of(job)?.as_str() {
        "done" => Ok(()),
        result => {
            // Nobody else would take it away.
            let _ = systemd.call("ResetFailedUnit", &body[..1]);
            Err(Error::new(format!("{APPLY}: error creating systemd unit `{}`: got `{result}`", unit.name))
                .hint(format!("systemctl status {}, or journalctl, says why", unit.name)))
        }
    }
}

/// Whether there is a bus with the system's systemd, or the `user`'s, to speak to.
///
/// # Errors
/// As [`start`].
pub fn reachable(user: bool) -> Result<()> {
    Addresses::of(user)?.connect().map(drop)
}

/// The `writes` of which systemd has to hear once more, by [`set_limits`], when it has made the cgroup: the properties that a
/// scope starts with do not know yet whether there is BFQ.
///
/// # Errors
/// The cgroup's file can't be read.
pub fn weights_of_bfq(writes: &[Write], cgroup: &Cgroup) -> Result<Vec<Write>> {
    let weights: Vec<Write> = writes.iter().filter(|write| write.file == BFQ).cloned().collect();
    Ok(if weights.is_empty() || cgroup.read(BFQ)?.is_none() { Vec::new() } else { weights })
}

/// Tells systemd of other limits of a unit that is there, and has this cgroup. It writes them to the cgroup, as exactly as it
/// has them.
///
/// # Errors
/// systemd can't be reached, refuses, or does not answer within 30 seconds.
pub fn set_limits(unit: &Unit, writes: &[Write], cgroup: &Cgroup) -> Result<()> {
    let mut properties = of_writes(writes);
    properties.extend(of_bfq(&weights_of_bfq(writes, cgroup)?));
    if properties.is_empty() {
        return Ok(());
    }
    let mut systemd = Systemd::connect(unit)?;
    let list = Value::Array("(sv)".to_owned(), systemd.known(&properties)?);
    // Like the unit, they last until the next boot at most.
    match systemd.call("SetUnitProperties", &[unit.name.as_str().into(), Value::Bool(true), list])? {
        Reply::Values(..) => Ok(()),
        Reply::Refused { text, .. } => {
            Err(Error::new(format!("set the properties of the systemd unit {}: {text}", unit.name)))
        }
    }
}

/// Stops a unit, waits until it has ended, and has systemd forget how. One that is not there has ended.
///
/// # Errors
/// systemd can't be reached, refuses, or has not finished within 30 seconds.
pub fn stop(unit: &Unit) -> Result<()> {
    let mut systemd = Systemd::connect(unit)?;
    let name: Value = unit.name.as_str().into();
    match reply_of(systemd.call("StopUnit", &[name.clone(), "replace".into()])?) {
        Ok(job) => drop(systemd.end_of(job)?),
        Err((error, _)) if error == "org.freedesktop.systemd1.NoSuchUnit" => return Ok(()),
        Err((_, text)) => return Err(Error::new(format!("stop the systemd unit {}: {text}", unit.name))),
    }
    // Refused where it is loaded no more, as it should be.
    systemd.call("ResetFailedUnit", &[name]).map(drop)
}

/// Puts a process into a unit that is there, or into the cgroup `sub` below its own, by systemd's rights, where the caller
/// has none to do it.
///
/// # Errors
/// As [`start`].
pub fn attach(unit: &Unit, sub: Option<&str>, pid: Pid) -> Result<()> {
    let mut systemd = Systemd::connect(unit)?;
    let pids = Value::Array("u".to_owned(), vec![Value::Uint32(pid.as_raw() as u32)]);
    let below = sub.map(|sub| format!("/{}", sub.trim_matches('/'))).unwrap_or_default();
    match systemd.call("AttachProcessesToUnit", &[unit.name.as_str().into(), below.as_str().into(), pids])? {
        Reply::Values(..) => Ok(()),
        Reply::Refused { text, .. } => {
            Err(Error::new(format!("put the process into the systemd unit {}: {text}", unit.name)))
        }
    }
}

fn pair(name: &str, value: Value) -> Value {
    Value::Struct(vec![name.into(), Value::Variant(Box::new(value))])
}

/// A job, and the unique name of the systemd that does it.
struct Job {
    path: String,
    systemd: String,
}

/// The job that a method has returned; else the name and the words of its error.
fn reply_of(reply: Reply) -> std::result::Result<Job, (String, String)> {
    match reply {
        Reply::Values(values, systemd) => match values.first().and_then(Value::as_str) {
            Some(path) => Ok(Job { path: path.to_owned(), systemd }),
            None => Err((String::new(), "the answer names no job".to_owned())),
        },
        Reply::Refused { name, text } => Err((name, text)),
    }
}

fn refused(name: &str, text: &str) -> Error {
    let error = Error::new(format!("{APPLY}: {text}"));
    match name {
        "org.freedesktop.systemd1.UnitExists" => {
            error.at("/linux/cgroupsPath").hint("another container has this unit: systemctl status shows it")
        }
        name if nobody(name) => error.hint("systemd is not on this bus; leave --systemd-cgroup out to go without it"),
        _ => error,
    }
}

/// Whether an error says that the bus has no such service.
fn nobody(name: &str) -> bool {
    matches!(name, "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner")
}

/// A connection to the systemd of a unit, which hears of the unit's jobs.
struct Systemd {
    bus: Bus,
    /// Where it can be reached if it is not on the bus.
    beside: Option<(String, Deadline)>,
}

impl Systemd {
    fn connect(unit: &Unit) -> Result<Self> {
        let mut systemd = Addresses::of(unit.user)?.connect()?;
        // A unit's name has no quote in it.
        systemd.bus.add_match(&format!(
            "type='signal',sender='{SERVICE}',path='{PATH}',interface='{MANAGER}',member='JobRemoved',arg2='{}'",
            unit.name
        ))?;
        Ok(systemd)
    }

    fn call(&mut self, name: &str, body: &[Value]) -> Result<Reply> {
        self.method(Method { service: SERVICE, path: PATH, interface: MANAGER, name }, body)
    }

    /// A user's systemd that has just begun is not yet on the bus, and on a bus that was made for one program it never is.
    fn method(&mut self, method: Method<'_>, body: &[Value]) -> Result<Reply> {
        let reply = self.bus.call(method, body)?;
        match &reply {
            Reply::Refused { name, .. } if nobody(name) => {}
            _ => return Ok(reply),
        }
        match self.beside.take().map(|(address, deadline)| Bus::peer(&address, deadline)) {
            Some(Ok(peer)) => {
                self.bus = peer;
                self.bus.call(method, body)
            }
            _ => Ok(reply),
        }
    }

    /// The properties as it takes them. What an older one does not know would be refused; the cgroup's file has it all the
    /// same.
    fn known(&mut self, properties: &[Property]) -> Result<Vec<Value>> {
        let newest = properties.iter().map(|property| property.since).max().unwrap_or(0);
        let version = if newest > 0 { self.version()? } else { newest };
        let known = properties.iter().filter(|property| property.since <= version);
        Ok(known.map(|property| pair(&property.name, property.value.clone())).collect())
    }

    /// Its version; 0 when it does not tell.
    fn version(&mut self) -> Result<u32> {
        let interface = "org.freedesktop.DBus.Properties";
        let get = Method { service: SERVICE, path: PATH, interface, name: "Get" };
        let version = match self.method(get, &[MANAGER.into(), "Version".into()])? {
            Reply::Values(values, _) => match values.into_iter().next() {
                Some(Value::Variant(version)) => version.as_str().unwrap_or_default().to_owned(),
                _ => String::new(),
            },
            Reply::Refused { .. } => String::new(),
        };
        Ok(major(&version))
    }

    /// Waits for the end of a job: its result, such as `done`.
    fn end_of(&mut self, job: Job) -> Result<String> {
        let ours = |body: &[Value]| body.get(1).and_then(Value::as_str) == Some(&job.path);
        let body = self.bus.signal(&job.systemd, (MANAGER, "JobRemoved"), ours, "JobRemoved")?;
        Ok(body.get(3).and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

/// The first number in `252.39-1~deb12u1` or `v256`.
fn major(version: &str) -> u32 {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Where a systemd can be reached.
struct Addresses {
    /// The bus, as its clients agree: sd_bus_open_system(3), sd_bus_open_user(3).
    bus: String,
    /// The socket of systemd itself, for a host that has no bus.
    own: Option<String>,
}

impl Addresses {
    fn of(user: bool) -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let own = |run: &str| Some(format!("unix:path={run}/{OWN_SOCKET}"));
        if !user {
            // Who names a bus means that one.
            return Ok(match set("DBUS_SYSTEM_BUS_ADDRESS") {
                Some(bus) => Self { bus, own: None },
                None => Self { bus: SYSTEM_BUS.to_owned(), own: own("/run") },
            });
        }
        // What this one names may be a bus for a few programs, and the user's systemd is the same one on any.
        let run = set("XDG_RUNTIME_DIR");
        let beside = || Some(format!("unix:path={}/bus", run.as_ref()?));
        match set("DBUS_SESSION_BUS_ADDRESS").or_else(beside) {
            Some(bus) => Ok(Self { bus, own: run.and_then(|run| own(&run)) }),
            None => Err(Error::new(format!("{APPLY}: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")).hint(
                "a session of its own has them: log in, or loginctl enable-linger USER and XDG_RUNTIME_DIR=/run/user/UID",
            )),
        }
    }

    /// By the bus, or without it where there is none.
    fn connect(self) -> Result<Systemd> {
        let deadline = Deadline::within(LIMIT);
        match Bus::connect(&self.bus, deadline) {
            Ok(bus) => Ok(Systemd { bus, beside: self.own.map(|own| (own, deadline)) }),
            Err(error) => match self.own.map(|own| Bus::peer(&own, deadline)) {
                Some(Ok(bus)) => Ok(Systemd { bus, beside: None }),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn versions_as_distributions_write_them() {
        for (version, number) in [("252.39-1~deb12u1", 252), ("v256-rc1", 256), ("249", 249), ("", 0)] {
            assert_eq!(major(version), number, "{version}");
        }
    }
}
