//! What follows when a worker is done or a process has ended: answers, events in the order that containerd wants, and the record
//! on disk before any of them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;

use super::mounts;
use super::process::{Caller, Container, Exit, Phase, Proc};
use super::proto::{
    CreateTaskRequest, DeleteResponse, Empty, PidResponse, RuncOptions, Status, TaskCheckpointed, TaskCreate,
    TaskDelete, TaskExecStarted, TaskExit, TaskIo, TaskNamed, TaskStart, WaitResponse,
};
use super::server::{Shim, watch_news};
use super::stdio::Copy;
use super::ttrpc::{Answer, code};
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::foreground::receive_master;
use crate::shim::children::{Process, Reply};
use crate::shim::clock::{self, Moment};
use crate::shim::jobs::Runtime;
use crate::sys::pidfd::End;

/// How long the end of a container's first process waits for those of its execs, which die with it.
const OVERDUE: Duration = Duration::from_secs(5);

/// A socket that a worker sends a terminal's master to.
#[derive(Debug)]
pub struct Console {
    pub listener: UnixListener,
    pub path: PathBuf,
}

impl Console {
    /// As the runtime's commands take it.
    pub fn option(&self) -> OsString {
        let mut option = OsString::from("--console-socket=");
        option.push(&self.path);
        option
    }

    /// The master. It was sent before the worker ended, so nothing is waited for.
    fn master(&self) -> Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd;
        let failed = |error: std::io::Error| {
            crate::error::Error::new("receive a terminal").call("accept", crate::host::errno(&error))
        };
        self.listener.set_nonblocking(true).map_err(failed)?;
        let (socket, _) = self.listener.accept().map_err(failed)?;
        receive_master(socket.as_fd(), Duration::ZERO)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A container that a worker makes.
#[derive(Debug)]
pub struct Create {
    pub caller: Caller,
    pub request: CreateTaskRequest,
    pub options: RuncOptions,
    pub runtime: Runtime,
    pub init: Proc,
    pub copies: Vec<Copy>,
    pub console: Option<Console>,
}

/// What a worker does, and for whom.
#[derive(Debug)]
pub enum Pending {
    Create(Box<Create>),
    Start { caller: Caller, id: String, exec: String, console: Option<Console> },
    Delete { caller: Caller, id: String },
    Command { caller: Caller, id: String, topic: Option<&'static str>, text: String },
}

fn empty() -> Answer {
    Ok(Empty {}.encode_to_vec())
}

impl Shim {
    /// A worker has ended.
    pub(super) fn done(&mut self, job: u64, reply: Reply) {
        let Some(pending) = self.jobs.remove(&job) else { return };
        let failed = reply.error.clone();
        match pending {
            Pending::Create(create) => {
                let caller = create.caller;
                let answer = match failed {
                    Some(error) => Err(Status::unknown(format!("OCI runtime create failed: {error}"))),
                    None => match self.created(*create, &reply) {
                        Ok(pid) => Ok(PidResponse { pid }.encode_to_vec()),
                        Err(error) => Err(Status::from(error)),
                    },
                };
                self.answer(caller, answer);
            }
            Pending::Start { caller, id, exec, console } => self.started(caller, &id, &exec, console, &reply),
            Pending::Delete { caller, id } => match failed {
                Some(error) => self.answer(caller, Err(Status::unknown(error))),
                None => self.deleted(caller, &id),
            },
            Pending::Command { caller, id, topic, text } => {
                if let (None, Some(topic)) = (&failed, topic) {
                    self.say(topic, &id, text);
                }
                self.answer(caller, failed.map_or_else(empty, |error| Err(Status::unknown(error))));
            }
        }
    }

    fn say(&mut self, topic: &'static str, id: &str, text: String) {
        let container_id = id.to_owned();
        match topic {
            "/tasks/checkpointed" => {
                let event = TaskCheckpointed { container_id, checkpoint: text };
                self.events.publish(&self.namespace, topic, "TaskCheckpointed", &event);
            }
            "/tasks/paused" => self.events.publish(&self.namespace, topic, "TaskPaused", &TaskNamed { container_id }),
            "/tasks/resumed" => self.events.publish(&self.namespace, topic, "TaskResumed", &TaskNamed { container_id }),
            _ => self.events.publish(&self.namespace, topic, "TaskOOM", &TaskNamed { container_id }),
        }
    }

    fn created(&mut self, create: Create, reply: &Reply) -> Result<u32> {
        let Create { request, options, runtime, mut init, copies, console, .. } = create;
        init.process = reply.made;
        init.io.logger = serde_json::from_str(&reply.text).unwrap_or_default();
        let ended = reply.made.and_then(|made| self.children.early(made));
        init.exit = ended.map(Exit::now);
        init.pidfd = reply.made.map(Process::open).transpose()?.flatten();
        let master = console.map(|console| console.master()).transpose()?;
        let more = master.map(|master| init.io.attach(master)).transpose()?.unwrap_or_default();
        for copy in copies.into_iter().chain(more) {
            init.copies.push(self.begin_copy(copy)?);
        }
        let checkpoint = Some(request.checkpoint.clone()).filter(|image| !image.is_empty());
        let cgroup = if checkpoint.is_none() { cgroup_of(&runtime, &request.id)? } else { None };
        let mut container = Container {
            id: request.id.clone(),
            bundle: PathBuf::from(&request.bundle),
            runtime,
            options,
            init,
            execs: std::collections::BTreeMap::new(),
            checkpoint,
            cgroup,
            memory: None,
            kills: 0,
            overdue: None,
            deleted: None,
        };
        self.watch_memory(&mut container)?;
        container.record().write(&container.bundle)?;
        let pid = container.init.pid();
        let io =
            TaskIo { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(io),
            checkpoint: request.checkpoint,
            pid,
        };
        self.events.publish(&self.namespace, "/tasks/create", "TaskCreate", &event);
        self.containers.insert(request.id.clone(), container);
        self.settle(&request.id);
        Ok(pid)
    }

    fn watch_memory(&mut self, container: &mut Container) -> Result<()> {
        let Some(cgroup) = &container.cgroup else { return Ok(()) };
        container.kills = cgroup.oom_kills()?.unwrap_or(0);
        if let Some(file) = cgroup.open_file("memory.events")? {
            let token = self.token();
            let mut file = File::from(file);
            armed(&mut file);
            watch_news(&self.poll, &file, token)?;
            self.memory.insert(token, container.id.clone());
            container.memory = Some((token, file));
        }
        Ok(())
    }

    /// News of a container's memory.
    pub(super) fn look_for_oom(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some((token, file)) = &mut container.memory
            && !armed(file)
        {
            // The cgroup has gone.
            self.poll.remove(&*file);
            self.memory.remove(token);
            container.memory = None;
        }
        let kills = container.cgroup.as_ref().and_then(|cgroup| cgroup.oom_kills().ok()?).unwrap_or(container.kills);
        if kills > container.kills {
            container.kills = kills;
            self.say("/tasks/oom", id, String::new());
        }
    }

    fn started(&mut self, caller: Caller, id: &str, exec: &str, console: Option<Console>, reply: &Reply) {
        let answer = match &reply.error {
            None => self.running(id, exec, console, reply).map_err(Status::from),
            Some(error) => {
                if let Some(process) = self.containers.get_mut(id).and_then(|container| container.proc(exec)) {
                    process.phase = Phase::Created;
                    process.io.close_stdin();
                }
                let verb = if exec.is_empty() { "start" } else { "exec" };
                Err(Status::unknown(format!("OCI runtime {verb} failed: {error}")))
            }
        };
        self.answer(caller, answer);
        self.settle(id);
    }

    fn running(&mut self, id: &str, exec: &str, console: Option<Console>, reply: &Reply) -> Result<Vec<u8>> {
        let ended = reply.made.and_then(|made| self.children.early(made)).map(Exit::now);
        let master = console.map(|console| console.master()).transpose()?;
        let gone = || crate::error::Error::new(format!("container {id} has gone"));
        let container = self.containers.get_mut(id).ok_or_else(gone)?;
        let from_image = exec.is_empty() && container.checkpoint.take().is_some();
        let process = container.proc(exec).ok_or_else(gone)?;
        process.phase = Phase::Running;
        let mut copies = Vec::new();
        if from_image || !exec.is_empty() {
            process.spec = Vec::new();
            process.process = reply.made;
            process.pidfd = reply.made.map(Process::open).transpose()?.flatten();
            process.exit = ended;
            process.io.logger = serde_json::from_str(&reply.text).unwrap_or_default();
            if let Some(master) = master {
                copies = process.io.attach(master)?;
            }
        }
        let pid = process.pid();
        let tokens = copies.into_iter().map(|copy| self.begin_copy(copy)).collect::<Result<Vec<_>>>()?;
        if let Some(process) = self.containers.get_mut(id).and_then(|container| container.proc(exec)) {
            process.copies.extend(tokens);
        }
        if from_image && let Some(mut container) = self.containers.remove(id) {
            let known = cgroup_of(&container.runtime, id).and_then(|cgroup| {
                container.cgroup = cgroup;
                self.watch_memory(&mut container)?;
                container.record().write(&container.bundle)
            });
            self.containers.insert(id.to_owned(), container);
            known?;
        }
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        if exec.is_empty() {
            self.events.publish(&self.namespace, "/tasks/start", "TaskStart", &TaskStart { container_id, pid });
        } else {
            let event = TaskExecStarted { container_id, exec_id, pid };
            self.events.publish(&self.namespace, "/tasks/exec-started", "TaskExecStarted", &event);
        }
        Ok(PidResponse { pid }.encode_to_vec())
    }

    /// One of our children has ended that is no worker.
    pub(super) fn ended(&mut self, process: Process, end: End) {
        let owns = |proc: &Proc| proc.process == Some(process) && proc.exit.is_none();
        let found = self.containers.values_mut().find_map(|container| {
            let id = container.id.clone();
            let mut all = std::iter::once(&mut container.init).chain(container.execs.values_mut());
            all.find(|proc| owns(proc)).map(|proc| {
                proc.exit = Some(Exit::now(end));
                id
            })
        });
        // All others are what containers have left behind, or loggers.
        if let Some(id) = found {
            self.settle(&id);
        }
    }

    /// Announces the ends that can be: of what was started, each after its start, and of a container's first process as the last.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let over = |proc: &Proc| proc.exit.is_some() && proc.phase == Phase::Running;
        let execs: Vec<String> =
            container.execs.iter().filter(|(_, proc)| over(proc)).map(|(exec, _)| exec.clone()).collect();
        let ended = container.init.exit.is_some() && !matches!(container.init.phase, Phase::Starting | Phase::Stopped);
        for exec in execs {
            self.announce(id, &exec);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if ended {
            // With a pid namespace of its own the kernel has done so already.
            if let Some(Err(error)) = container.cgroup.as_ref().map(Cgroup::kill) {
                self.log.warn(format!("container {id}: {error}"));
            }
            let waiting = container.execs.values().any(Proc::is_alive);
            let until = *container.overdue.get_or_insert(clock::now() + OVERDUE);
            if !waiting || until <= clock::now() {
                container.overdue = None;
                self.announce(id, "");
            }
        }
        self.farewell(id);
    }

    /// Containers whose execs have not ended in time: a process in an uninterruptible sleep must not hide the others' ends.
    pub(super) fn overdue(&mut self, now: Moment) {
        let late = self.containers.values().filter(|container| container.overdue.is_some_and(|until| until <= now));
        for id in late.map(|container| container.id.clone()).collect::<Vec<_>>() {
            self.settle(&id);
        }
    }

    fn announce(&mut self, id: &str, exec: &str) {
        if exec.is_empty() {
            // Want of memory comes before the end that it has brought.
            self.look_for_oom(id);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if exec.is_empty()
            && let Err(error) = container.record().write(&container.bundle)
        {
            self.log.warn(error);
        }
        let Some(process) = container.proc(exec) else { return };
        let Some(exit) = process.exit else { return };
        process.phase = Phase::Stopped;
        process.io.close_stdin();
        let waiters = std::mem::take(&mut process.waiters);
        let event = TaskExit {
            container_id: id.into(),
            id: if exec.is_empty() { id.into() } else { exec.into() },
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: exit.at(),
        };
        self.events.publish(&self.namespace, "/tasks/exit", "TaskExit", &event);
        let answer = WaitResponse { exit_status: exit.status, exited_at: exit.at() }.encode_to_vec();
        for waiter in waiters {
            self.answer(waiter, Ok(answer.clone()));
        }
    }

    fn deleted(&mut self, caller: Caller, id: &str) {
        match self.containers.get_mut(id) {
            Some(container) if container.deleted.is_none() => {
                container.deleted = Some(caller);
                // It was to be made from an image, and was not: nothing will end.
                if container.init.process.is_none() {
                    container.init.phase = Phase::Stopped;
                }
            }
            // Another call was faster.
            _ => {
                let status = Status::new(code::NOT_FOUND, format!("container {id}: not found"));
                return self.answer(caller, Err(status));
            }
        }
        self.farewell(id);
    }

    /// Removes a container that was deleted, once its end has been announced.
    fn farewell(&mut self, id: &str) {
        let ready = |container: &Container| container.deleted.is_some() && container.init.phase == Phase::Stopped;
        if !self.containers.get(id).is_some_and(ready) {
            return;
        }
        let Some(container) = self.containers.remove(id) else { return };
        if let Some((token, file)) = &container.memory {
            self.poll.remove(file);
            self.memory.remove(token);
        }
        for process in std::iter::once(&container.init).chain(container.execs.values()) {
            self.end_copies(&process.copies);
        }
        if let Err(error) = mounts::unmount_all(&container.rootfs()) {
            self.log.warn(error);
        }
        let (pid, exit) = (container.init.pid(), container.init.exit);
        let (exit_status, exited_at) = (exit.map_or(0, |exit| exit.status), exit.and_then(Exit::at));
        let event = TaskDelete { container_id: id.into(), pid, exit_status, exited_at };
        self.events.publish(&self.namespace, "/tasks/delete", "TaskDelete", &event);
        if let Some(caller) = container.deleted {
            self.answer(caller, Ok(DeleteResponse { pid, exit_status, exited_at }.encode_to_vec()));
        }
    }
}

fn cgroup_of(runtime: &Runtime, id: &str) -> Result<Option<Cgroup>> {
    runtime.store().open(id)?.read()?.open_cgroup()
}

/// Reads the news of a file that says `POLLPRI`, which is what arms the next ones. False when there are none any more.
fn armed(file: &mut File) -> bool {
    file.rewind().and_then(|()| file.read_to_end(&mut Vec::new())).is_ok()
}
