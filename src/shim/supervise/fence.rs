//! A container's lease: it is made only under one, and ended before another may have it.
//!
//! The loop does the ending itself, by two writes into files of the container's cgroup: freeze, so that nothing more is issued,
//! and kill, which frozen processes die of as well. It is never thawed again: what would still be put into it stands still, too.
//! The proof is the kernel's word that the cgroup is empty.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{EXTENSION, EpollFlags, Error, Exit, Phase, Result, Supervisor, clock, token};
use crate::cgroup::Cgroup;
use crate::shim::clock::Moment;
use crate::shim::epoll::Poll;
use crate::shim::health::Lease;
use crate::shim::lease::{Held, Holder, Saved, Wanted};
use crate::shim::observe::Notice;
use crate::shim::view::LeaseView;
use crate::sys::pidfd::End;
use crate::sys::process;

/// How long the record of an end waits for its cgroup to be empty. A process in state D may take longer; it is said then.
const PROOF: Duration = Duration::from_secs(5);
/// The file with the token, in the supervisor's directory, and what the container's configuration is with that mounted.
pub(super) const TOKEN: &str = "lease.json";
pub(super) const CONFIG: &str = "config.json";
/// Where the container finds it.
const INSIDE: &str = "/run/orlop/lease.json";

/// What ends a container when its lease does: opened before its program runs, so that little is left that could fail.
#[derive(Debug, Default)]
pub(super) struct Fence {
    cgroup: Option<Cgroup>,
    /// Its cgroup.events.
    notice: Option<Notice>,
    fired: Option<Fired>,
}

/// It was used.
#[derive(Debug, Clone, Copy)]
struct Fired {
    /// It was due then.
    deadline: Moment,
    /// Before that the cgroup must be empty.
    end: Moment,
    begun: Moment,
    /// When the cgroup was seen to be empty.
    emptied: Option<Moment>,
    /// How its first process has ended, which is recorded when the cgroup is empty.
    ended: Option<Option<End>>,
}

/// Of supervisor.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedLease {
    key: String,
    ttl: Duration,
    claim: Saved,
}

impl Fence {
    /// For the container that the runtime knows by this id.
    fn open(wanted: &super::Wanted, poll: &Poll) -> Result<Self> {
        let needed = || Error::new("a lease needs a cgroup: without one the end of a container can't be known");
        let state = wanted.runtime.store().open(&wanted.id)?.read()?;
        let cgroup = state.open_cgroup()?.ok_or_else(needed)?;
        let mut notice = Notice::of(&cgroup, "cgroup.events")?.ok_or_else(needed)?;
        notice.read();
        poll.add(&notice, token::FENCE, EpollFlags::EPOLLPRI)?;
        Ok(Self { cgroup: Some(cgroup), notice: Some(notice), fired: None })
    }

    /// It was used, on the container that there is or that there was last.
    pub(super) fn fired(&self) -> bool {
        self.fired.is_some()
    }

    /// Whether the kernel has killed it.
    fn stop(&self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        // Without the freezer it is killed all the same, which takes a moment longer.
        let _ = cgroup.begin_freeze();
        cgroup.kill().is_ok()
    }

    fn look(&mut self, now: Moment) {
        let Some(notice) = &mut self.notice else { return };
        notice.read();
        let (Some(cgroup), Some(fired)) = (&self.cgroup, &mut self.fired) else { return };
        if fired.emptied.is_none() && cgroup.populated() == Ok(false) {
            fired.emptied = Some(now);
        }
    }

    /// It is taken away: nothing of its cgroup is waited for any more. A cgroup that has gone would give notice without an end.
    pub(super) fn leave(&mut self) {
        self.notice = None;
    }

    /// There is no container.
    pub(super) fn disarm(&mut self) {
        *self = Self { fired: self.fired, ..Self::default() };
    }

    /// Its first process has ended so. Whether that is to be recorded later.
    pub(super) fn holds(&mut self, end: Option<End>, now: Moment) -> bool {
        self.look(now);
        let Some(fired) = &mut self.fired else { return false };
        fired.ended = Some(end);
        fired.emptied.is_none() && now < fired.begun + PROOF
    }

    /// When what it holds is recorded at the latest.
    pub(super) fn next(&self) -> Option<Moment> {
        self.fired.filter(|fired| fired.ended.is_some() && fired.emptied.is_none()).map(|fired| fired.begun + PROOF)
    }

    /// For the record: how late it was, how long the kernel took, what was left of the lease.
    pub(super) fn evidence(&self) -> Value {
        let seconds = |later: Moment, earlier: Moment| later.as_secs_f64() - earlier.as_secs_f64();
        self.fired.map_or(Value::Null, |fired| {
            json!({
                "lateSeconds": seconds(fired.begun, fired.deadline),
                "killSeconds": fired.emptied.map(|emptied| seconds(emptied, fired.begun)),
                "marginSeconds": fired.emptied.map(|emptied| seconds(fired.end, emptied)),
            })
        })
    }
}

impl Supervisor {
    /// It may be made now: it needs no lease, or holds one, and its token lies ready.
    pub(super) fn may_be_made(&mut self, now: Moment) -> Result<bool> {
        let Some(holder) = &mut self.lease else { return Ok(true) };
        let Some(held) = holder.claim.usable(now).copied() else {
            holder.claim.want(now);
            return Ok(false);
        };
        holder.claim.used();
        let key = &holder.wanted().key;
        // A lease's number is more than a double holds.
        let text = json!({"key": key, "lease": held.lease.to_string(), "token": held.token});
        self.directory.write_for_all(TOKEN, &text).map(|()| true)
    }

    /// A container was made under the lease: what ends it is opened, before its program is started.
    pub(super) fn arm(&mut self, now: Moment) -> Result<()> {
        let Some(holder) = &self.lease else { return Ok(()) };
        let fired = self.fence.fired;
        self.fence = Fence { fired, ..Fence::open(&self.wanted, &self.poll)? };
        match holder.claim.usable(now) {
            Some(_) => Ok(()),
            None => Err(Error::new("its lease has ended before its start")),
        }
    }

    /// Ends the container whose lease ends. Before anything else that is to be done at `now`.
    pub(super) fn fence_when_due(&mut self, now: Moment) {
        let Some(holder) = &mut self.lease else { return };
        let runs = self.fence.cgroup.is_some() && !matches!(self.phase, Phase::Removing(..));
        let (deadline, end) = match (holder.claim.deadline(), holder.claim.end()) {
            (Some(deadline), Some(end)) => (deadline, end),
            // Nothing runs without a lease.
            _ if runs && self.fence.fired.is_none() => (now, now),
            _ => return,
        };
        if now < deadline {
            return;
        }
        let killed = self.fence.stop();
        holder.turn(&self.poll, crate::shim::lease::Claim::lose);
        let job = match self.phase {
            Phase::Making(job) | Phase::Starting(job) => Some(job),
            _ => None,
        };
        if let Some(job) = job {
            self.children.kill(job);
        }
        if let Some(alive) = self.alive.as_ref().filter(|_| !killed) {
            let _ = process::pidfd_kill(alive.pidfd.as_fd());
        }
        if runs || job.is_some() {
            self.fence.fired = Some(Fired { deadline, end, begun: now, emptied: None, ended: None });
            self.fence.look(clock::now());
        }
        self.note("lease", json!({"state": "lost", "fenced": self.fence.fired.is_some()}));
    }

    /// Its cgroup has changed, or has had its time.
    pub(super) fn look_at_fence(&mut self, now: Moment) {
        self.fence.look(now);
        let Some(fired) = &self.fence.fired else { return };
        if let (Some(end), true) = (fired.ended, self.alive.is_some())
            && (fired.emptied.is_some() || now >= fired.begun + PROOF)
        {
            self.ended(end);
        }
    }

    /// What is due for the lease; a container that waits for it is made as soon as it may be.
    pub(super) fn lease(&mut self, now: Moment) -> Result<()> {
        let Some(holder) = &mut self.lease else { return Ok(()) };
        if self.phase == Phase::Leasing && holder.claim.idle() {
            holder.claim.want(now);
        }
        let asked = holder.asks();
        let said = holder.go_on(&self.poll, now);
        if let (Phase::Leasing, Some(manager), true) = (&self.phase, &self.manager, !asked && holder.asks()) {
            manager.extend(EXTENSION.max(holder.wanted().ttl));
        }
        self.answered(said, now)
    }

    /// An answer of etcd's has come.
    pub(super) fn lease_ready(&mut self, now: Moment) -> Result<()> {
        let Some(holder) = &mut self.lease else { return Ok(()) };
        let said = holder.ready(&self.poll, now);
        self.answered(said, now)
    }

    fn answered(&mut self, said: Option<Option<String>>, now: Moment) -> Result<()> {
        if let Some(trouble) = said {
            self.note("supervisor", json!({ "lease": trouble }));
        }
        // What was taken away ends at once.
        self.fence_when_due(now);
        let Some(holder) = self.lease.as_ref().filter(|_| self.phase == Phase::Leasing) else { return Ok(()) };
        if holder.claim.usable(now).is_some() {
            return self.launch();
        }
        if let Some(parent) = self.parent.take_if(|_| holder.claim.waits(now)) {
            // It may take for ever: who has begun it is not kept waiting.
            let _ = crate::sys::path::write(parent.as_fd(), &[0]);
        }
        Ok(())
    }

    /// It is over: the key is given back, unless something of the container is left. Whether there is nothing to wait for.
    pub(super) fn give_back(&mut self, now: Moment) -> bool {
        let Some(holder) = self.lease.as_mut().filter(|_| !self.ours) else { return true };
        if holder.claim.held().is_some() {
            holder.turn(&self.poll, |claim| claim.leave(now));
        } else if !holder.claim.leaves() && !holder.claim.idle() {
            holder.turn(&self.poll, crate::shim::lease::Claim::lose);
        }
        holder.claim.idle()
    }

    pub(super) fn lease_axis(&self, now: Moment) -> Lease {
        let fenced = matches!(self.phase, Phase::Over(ended) if ended.exit == Exit::Fenced);
        match &self.lease {
            Some(_) if fenced || self.fence.fired() => Lease::Lost,
            Some(_) if matches!(self.phase, Phase::Over(_)) => Lease::None,
            Some(holder) => holder.claim.axis(now),
            None => Lease::None,
        }
    }

    pub(super) fn lease_view(&self, now: Moment) -> Option<LeaseView> {
        let claim = &self.lease.as_ref()?.claim;
        let held = claim.held().map(|held: &Held| held.token);
        let left = claim.deadline().map_or(Duration::ZERO, |deadline| deadline.saturating_sub(now));
        Some(LeaseView {
            state: word(self.lease_axis(now)).to_owned(),
            key: self.lease.as_ref()?.wanted().key.clone(),
            token: held,
            remaining_seconds: left.as_secs_f64(),
        })
    }

    /// Says what is new of it, and writes down what another supervisor would go on with.
    pub(super) fn tell_lease(&mut self, now: Moment) {
        let Some(holder) = &self.lease else { return };
        let found = (self.lease_axis(now), holder.claim.held().map(|held| held.token));
        let end = holder.claim.end();
        if self.lease_told.0 != Some(found) {
            self.lease_told.0 = Some(found);
            // Its loss was said when it happened.
            if found.0 != Lease::Lost {
                self.note("lease", json!({"state": word(found.0), "token": found.1}));
            }
        }
        if self.lease_told.1 != end {
            self.lease_told.1 = end;
            self.keep();
        }
    }

    pub(super) fn saved_lease(&self) -> Option<SavedLease> {
        let holder = self.lease.as_ref()?;
        let Wanted { key, ttl, .. } = holder.wanted();
        Some(SavedLease { key: key.clone(), ttl: *ttl, claim: holder.claim.save() })
    }

    /// Goes on with what another supervisor held, and ends at once what it would have ended by now.
    pub(super) fn go_on_with_lease(&mut self, saved: Option<&SavedLease>, same_boot: bool, now: Moment) {
        let Some(holder) = &mut self.lease else { return };
        let same = |saved: &&SavedLease| saved.key == holder.wanted().key && saved.ttl == holder.wanted().ttl;
        if let Some(saved) = saved.filter(same) {
            holder.claim.go_on(saved.claim, same_boot, now);
        }
        if !same_boot {
            return;
        }
        match Fence::open(&self.wanted, &self.poll) {
            Ok(fence) => self.fence = fence,
            Err(_) if self.wanted.runtime.store().open(&self.wanted.id).is_err() => {}
            Err(error) => self.note("supervisor", json!({"fence": error.to_string()})),
        }
        self.fence_when_due(now);
    }
}

/// Whose lease it is, for people who look at the key.
pub(super) fn holder(wanted: &super::Wanted) -> Option<Holder> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let who = format!("{} on {host}", wanted.id);
    wanted.config.lease.clone().map(|lease| Holder::new(lease, who, token::LEASE))
}

/// For a worker: the bundle's configuration with the token mounted, as options of `create`. It is made anew at each start.
pub(super) fn with_token(bundle: &Path, directory: &Path) -> Result<Vec<OsString>> {
    let failed = |what: &str, path: &Path, error: &std::io::Error| {
        Error::new(format!("mount the lease's token: {what} {}", path.display()))
            .call("open", crate::host::errno(error))
    };
    let directory = std::path::absolute(directory).map_err(|error| failed("find", directory, &error))?;
    let (from, to) = (bundle.join("config.json"), directory.join(CONFIG));
    let text = std::fs::read(&from).map_err(|error| failed("read", &from, &error))?;
    let mut config: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("{} is not JSON: {error}", from.display())))?;
    let mounts = config.as_object_mut().map(|config| config.entry("mounts").or_insert_with(|| json!([])));
    let mounts = mounts.and_then(Value::as_array_mut).ok_or_else(|| Error::new("not an array").at("/mounts"))?;
    mounts.push(json!({
        "destination": INSIDE,
        "type": "bind",
        "source": directory.join(TOKEN),
        "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
    }));
    std::fs::write(&to, config.to_string()).map_err(|error| failed("write", &to, &error))?;
    Ok(vec!["--config".into(), to.into()])
}

fn word(lease: Lease) -> &'static str {
    match lease {
        Lease::None => "none",
        Lease::Waiting => "waiting",
        Lease::Held => "held",
        Lease::Expiring => "expiring",
        Lease::Lost => "lost",
    }
}
