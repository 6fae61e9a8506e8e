//! The task service: seventeen methods, `containerd.task.v2.Task` and its copy v3.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use prost::Message;

use super::outcome::{Console, Create, Pending};
use super::process::{Caller, Container, Phase, Proc, Record};
use super::proto::{
    Any, CheckpointOptions, CheckpointTaskRequest, CloseIoRequest, ConnectResponse, ContainerRequest,
    CreateTaskRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PidsResponse, ProcessDetails,
    ProcessInfo, ProcessRequest, ResizePtyRequest, RuncOptions, StateResponse, StatsResponse, Status, TaskExecAdded,
    UpdateTaskRequest, WaitResponse,
};
use super::server::Shim;
use super::stdio::{Given, Prepared};
use super::ttrpc::code;
use super::{mounts, options, stats};
use crate::error::{Error, Result};
use crate::shim::children::Reply;
use crate::shim::clock;
use crate::shim::jobs::Runtime;
use crate::sys::pidfd::{pidfd_open, pidfd_send_signal};

/// How long a worker may take for what has hooks or a start in it, and for what has not.
const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(60);
/// How long the last events may take after Shutdown.
const FAREWELL: Duration = Duration::from_secs(30);

/// An answer now, none until something has happened, or a refusal.
type Later = std::result::Result<Option<Vec<u8>>, Status>;

fn now(message: &impl Message) -> Later {
    Ok(Some(message.encode_to_vec()))
}

fn parsed<M: Message + Default>(payload: &[u8]) -> std::result::Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(code::INVALID_ARGUMENT, error.to_string()))
}

fn not_found(what: &str, id: &str) -> Status {
    Status::new(code::NOT_FOUND, format!("{what} {id}: not found"))
}

fn wrong_state(text: &str) -> Status {
    Status::new(code::FAILED_PRECONDITION, text)
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::unknown(error)
    }
}

impl Shim {
    /// One request.
    pub(super) fn task(&mut self, caller: Caller, method: &str, payload: &[u8]) -> Later {
        match method {
            "State" => self.state(&parsed(payload)?),
            "Create" => self.create(caller, parsed(payload)?),
            "Start" => self.start(caller, parsed(payload)?),
            "Delete" => self.delete(caller, &parsed(payload)?),
            "Pids" => self.pids(&parsed(payload)?),
            "Pause" => self.freeze(caller, parsed(payload)?, "pause", "/tasks/paused"),
            "Resume" => self.freeze(caller, parsed(payload)?, "resume", "/tasks/resumed"),
            "Checkpoint" => self.checkpoint(caller, parsed(payload)?),
            "Kill" => self.kill(&parsed(payload)?),
            "Exec" => self.exec(parsed(payload)?),
            "ResizePty" => self.resize(&parsed(payload)?),
            "CloseIO" => self.close_io(&parsed(payload)?),
            "Update" => self.update(caller, parsed(payload)?),
            "Wait" => self.wait(caller, &parsed(payload)?),
            "Stats" => self.stats(&parsed(payload)?),
            "Connect" => self.connect(&parsed(payload)?),
            "Shutdown" => self.shutdown(),
            other => Err(Status::new(code::UNIMPLEMENTED, format!("method {other}"))),
        }
    }

    fn container(&mut self, id: &str) -> std::result::Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| not_found("container", id))
    }

    fn process(&mut self, id: &str, exec: &str) -> std::result::Result<&mut Proc, Status> {
        self.container(id)?.proc(exec).ok_or_else(|| not_found("process", exec))
    }

    fn state(&mut self, request: &ProcessRequest) -> Later {
        let container = self.container(&request.id)?;
        let bundle = container.bundle.display().to_string();
        let paused = match &container.cgroup {
            Some(cgroup) => cgroup.frozen()?,
            None => false,
        };
        let process = container.proc(&request.exec_id).ok_or_else(|| not_found("process", &request.exec_id))?;
        let exit = process.announced();
        now(&StateResponse {
            id: request.id.clone(),
            bundle,
            pid: process.pid(),
            status: match process.phase {
                Phase::Stopped => 3,
                // runc's shim knows of pausing for a container alone.
                _ if paused && request.exec_id.is_empty() => 4,
                Phase::Created | Phase::Starting => 1,
                Phase::Running => 2,
            },
            stdin: process.given.stdin.clone(),
            stdout: process.given.stdout.clone(),
            stderr: process.given.stderr.clone(),
            terminal: process.given.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.and_then(super::process::Exit::at),
            exec_id: request.exec_id.clone(),
        })
    }

    fn create(&mut self, caller: Caller, request: CreateTaskRequest) -> Later {
        crate::validate::container_id(&request.id)
            .map_err(|error| Status::new(code::INVALID_ARGUMENT, error.to_string()))?;
        let creating = |job: &Pending| matches!(job, Pending::Create(other) if other.request.id == request.id);
        if self.containers.contains_key(&request.id) || self.jobs.values().any(creating) {
            return Err(Status::new(code::ALREADY_EXISTS, format!("container {}: already exists", request.id)));
        }
        let chosen = match &request.options {
            Some(any) => options::parse(any)?,
            None => self.options.clone(),
        };
        let runtime = runtime(&chosen, &self.namespace);
        let (root, systemd_cgroup) = (runtime.root.clone(), runtime.systemd_cgroup);
        // Before there is anything: who removes it when this shim has gone must know where it is.
        Record { root, systemd_cgroup, init: None, exit: None }.write(Path::new(&request.bundle))?;
        let given = Given {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        if !request.checkpoint.is_empty() {
            return self.create_from_image(caller, request, chosen, runtime, given);
        }
        let prepared = Prepared::new(&given, (chosen.io_uid, chosen.io_gid))?;
        let console = self.console(request.terminal)?;
        let mut words: Vec<OsString> = Vec::new();
        words.extend(console.as_ref().map(Console::option));
        words.extend(chosen.no_pivot_root.then(|| "--no-pivot".into()));
        words.extend(chosen.no_new_keyring.then(|| "--no-new-keyring".into()));
        let (bundle, namespace) = (PathBuf::from(&request.bundle), self.namespace.clone());
        let job = self.worker(&prepared, LONG, |prepared| {
            let rootfs = bundle.join("rootfs");
            if let Err(error) = mounts::mount_all(&request.rootfs, &rootfs) {
                return Reply::failed(error);
            }
            let make = || runtime.create(&request.id, &bundle, &words);
            let mut reply = after_logger(prepared, &request.id, &namespace, make);
            if reply.error.is_some()
                && let Err(error) = mounts::unmount_all(&rootfs)
            {
                reply.error = reply.error.map(|first| format!("{first}; {error}"));
            }
            reply
        })?;
        self.ending = None;
        let Prepared { io, copies, .. } = prepared;
        let init = Proc::new(given, io, Vec::new());
        let create = Create { caller, request, options: chosen, runtime, init, copies, console };
        self.jobs.insert(job, Pending::Create(Box::new(create)));
        Ok(None)
    }

    /// A task that start makes from an image of criu's: here it gets its root file system, and no process yet.
    fn create_from_image(
        &mut self,
        caller: Caller,
        request: CreateTaskRequest,
        options: RuncOptions,
        runtime: Runtime,
        given: Given,
    ) -> Later {
        let rootfs = Path::new(&request.bundle).join("rootfs");
        let mount = |_: &Prepared| Reply::from(mounts::mount_all(&request.rootfs, &rootfs));
        let job = self.worker(&Prepared::default(), SHORT, mount)?;
        self.ending = None;
        let init = Proc::new(given, super::stdio::Io::default(), Vec::new());
        let create = Create { caller, request, options, runtime, init, copies: Vec::new(), console: None };
        self.jobs.insert(job, Pending::Create(Box::new(create)));
        Ok(None)
    }

    /// Starts a worker that has the prepared descriptors, and does `work`.
    fn worker(&mut self, prepared: &Prepared, within: Duration, work: impl FnOnce(&Prepared) -> Reply) -> Result<u64> {
        let [stdin, stdout, stderr] = &prepared.child;
        let stdio = [stdin, stdout, stderr].map(|file| file.as_ref().map(AsFd::as_fd));
        let kept: Vec<_> = prepared.logger.iter().flat_map(|logger| logger.files()).collect();
        Ok(self.children.begin(stdio, &kept, within, || work(prepared))?.0)
    }

    /// A worker for one command.
    fn command(&mut self, id: &str, within: Duration, words: Vec<String>) -> std::result::Result<u64, Status> {
        let runtime = self.container(id)?.runtime.clone();
        let job = self.worker(&Prepared::default(), within, |_| Reply::from(runtime.call(&words)));
        Ok(job?)
    }

    /// A socket for the master of a terminal, beside our own.
    fn console(&mut self, terminal: bool) -> Result<Option<Console>> {
        if !terminal {
            return Ok(None);
        }
        let failed = |call: &str, error: &std::io::Error| {
            Error::new("make a socket for a terminal").call(call, crate::host::errno(error))
        };
        let number = self.token();
        let path = PathBuf::from(format!("{}.{number}", self.socket.display()));
        // What an earlier shim of this name has left.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|error| failed("bind", &error))?;
        let console = Console { listener, path };
        std::fs::set_permissions(&console.path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| failed("chmod", &error))?;
        Ok(Some(console))
    }

    fn start(&mut self, caller: Caller, request: ProcessRequest) -> Later {
        let from_image = self.container(&request.id)?.checkpoint.is_some();
        let process = self.process(&request.id, &request.exec_id)?;
        match process.phase {
            Phase::Created if process.exit.is_none() => {}
            Phase::Created | Phase::Stopped => return Err(wrong_state("cannot start a stopped process")),
            Phase::Starting | Phase::Running => return Err(wrong_state("cannot start a running process")),
        }
        let pending =
            |console| Pending::Start { caller, id: request.id.clone(), exec: request.exec_id.clone(), console };
        if request.exec_id.is_empty() && !from_image {
            let job = self.command(&request.id, LONG, vec!["start".into(), request.id.clone()])?;
            self.jobs.insert(job, pending(None));
        } else {
            let (job, console) = self.make_process(&request)?;
            self.jobs.insert(job, pending(console));
        }
        self.process(&request.id, &request.exec_id)?.phase = Phase::Starting;
        Ok(None)
    }

    /// An exec, or a first process from an image.
    fn make_process(&mut self, request: &ProcessRequest) -> std::result::Result<(u64, Option<Console>), Status> {
        let container = self.container(&request.id)?;
        let image = container.checkpoint.clone().filter(|_| request.exec_id.is_empty());
        let work_path = container.options.criu_work_path.clone();
        let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
        let owner = (container.options.io_uid, container.options.io_gid);
        let process = self.process(&request.id, &request.exec_id)?;
        let (given, spec) = (process.given.clone(), process.spec.clone());
        let mut prepared = Prepared::new(&given, owner)?;
        let console = self.console(given.terminal)?;
        let option = console.as_ref().map(Console::option);
        let namespace = self.namespace.clone();
        let job = self.worker(&prepared, LONG, |prepared| {
            after_logger(prepared, &request.id, &namespace, || match &image {
                None => enter(&runtime, &request.id, &bundle, &spec, option),
                Some(image) => {
                    let mut words: Vec<OsString> = vec!["--image-path".into(), image.into()];
                    if !work_path.is_empty() {
                        words.extend(["--work-path".into(), OsString::from(&work_path)]);
                    }
                    words.extend(option);
                    runtime.restore(&request.id, &bundle, &words)
                }
            })
        })?;
        let copies = std::mem::take(&mut prepared.copies);
        let tokens = copies.into_iter().map(|copy| self.begin_copy(copy)).collect::<Result<Vec<_>>>()?;
        let process = self.process(&request.id, &request.exec_id)?;
        process.io = prepared.io;
        process.copies = tokens;
        Ok((job, console))
    }

    fn delete(&mut self, caller: Caller, request: &ProcessRequest) -> Later {
        let process = self.process(&request.id, &request.exec_id)?;
        if process.is_alive() {
            return Err(wrong_state("cannot delete a running process"));
        }
        if request.exec_id.is_empty() {
            let job = self.command(&request.id, SHORT, vec!["delete".into(), "--force".into(), request.id.clone()])?;
            self.jobs.insert(job, Pending::Delete { caller, id: request.id.clone() });
            return Ok(None);
        }
        let removed = self.container(&request.id)?.execs.remove(&request.exec_id);
        let Some(process) = removed else { return Err(not_found("process", &request.exec_id)) };
        self.end_copies(&process.copies);
        for waiter in process.waiters {
            self.answer(waiter, Err(not_found("process", &request.exec_id)));
        }
        let (exit, pid) = (process.exit, process.process.map_or(0, |process| process.pid as u32));
        let exit_status = exit.map_or(0, |exit| exit.status);
        now(&DeleteResponse { pid, exit_status, exited_at: exit.and_then(super::process::Exit::at) })
    }

    fn pids(&mut self, request: &ContainerRequest) -> Later {
        let container = self.container(&request.id)?;
        let mut pids: Vec<u32> = match &container.cgroup {
            Some(cgroup) => cgroup.processes()?.into_iter().map(|pid| pid as u32).collect(),
            None => Vec::new(),
        };
        // A containerd that comes back (2.0 and later) takes a task without processes for one that was never made, and removes
        // it, and with it how it ended.
        if pids.is_empty() {
            pids.push(container.init.pid());
        }
        let exec = |pid: u32| {
            let (exec_id, _) = container.execs.iter().find(|(_, process)| process.pid() == pid)?;
            Some(Any::of("containerd.runc.v1.ProcessDetails", &ProcessDetails { exec_id: exec_id.clone() }))
        };
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, info: exec(pid) }).collect();
        now(&PidsResponse { processes })
    }

    fn freeze(&mut self, caller: Caller, request: ContainerRequest, verb: &str, topic: &'static str) -> Later {
        let job = self.command(&request.id, SHORT, vec![verb.into(), request.id.clone()])?;
        self.jobs.insert(job, Pending::Command { caller, id: request.id, topic: Some(topic), text: String::new() });
        Ok(None)
    }

    fn checkpoint(&mut self, caller: Caller, request: CheckpointTaskRequest) -> Later {
        let wanted = match &request.options {
            Some(any) => CheckpointOptions::decode(&*any.value)
                .map_err(|error| Status::new(code::INVALID_ARGUMENT, error.to_string()))?,
            None => CheckpointOptions::default(),
        };
        let image = if wanted.image_path.is_empty() { request.path } else { wanted.image_path };
        let work = match wanted.work_path.as_str() {
            "" => self.container(&request.id)?.options.criu_work_path.clone(),
            work => work.to_owned(),
        };
        let mut words = vec!["checkpoint".to_owned(), "--image-path".into(), image.clone()];
        if !work.is_empty() {
            words.extend(["--work-path".into(), work]);
        }
        for (given, word) in [
            (!wanted.exit, "--leave-running"),
            (wanted.open_tcp, "--tcp-established"),
            (wanted.external_unix_sockets, "--ext-unix-sk"),
            (wanted.terminal, "--shell-job"),
            (wanted.file_locks, "--file-locks"),
        ] {
            words.extend(given.then(|| word.to_owned()));
        }
        words.extend(wanted.empty_namespaces.iter().flat_map(|name| ["--empty-ns".into(), name.clone()]));
        if !wanted.cgroups_mode.is_empty() {
            words.extend(["--manage-cgroups-mode".into(), wanted.cgroups_mode]);
        }
        words.push(request.id.clone());
        let job = self.command(&request.id, LONG, words)?;
        let topic = Some("/tasks/checkpointed");
        self.jobs.insert(job, Pending::Command { caller, id: request.id, topic, text: image });
        Ok(None)
    }

    fn kill(&mut self, request: &KillRequest) -> Later {
        let signal = i32::try_from(request.signal).unwrap_or(-1);
        if !(0..=64).contains(&signal) {
            return Err(Status::new(code::INVALID_ARGUMENT, format!("signal {} is none", request.signal)));
        }
        let container = self.container(&request.id)?;
        if request.all
            && request.exec_id.is_empty()
            && let Some(cgroup) = &container.cgroup
        {
            if signal == libc::SIGKILL {
                cgroup.kill()?;
                return now(&Empty {});
            }
            for pid in cgroup.processes()? {
                // Opened, then looked for in the cgroup again: a pid that was reused in between is not there.
                let Ok(process) = pidfd_open(nix::unistd::Pid::from_raw(pid)) else { continue };
                if cgroup.processes()?.contains(&pid) {
                    // ESRCH: it has ended meanwhile.
                    let _ = pidfd_send_signal(process.as_fd(), signal);
                }
            }
            return now(&Empty {});
        }
        let process = container.proc(&request.exec_id).ok_or_else(|| not_found("process", &request.exec_id))?;
        let gone = || Status::new(code::NOT_FOUND, "process already finished: not found");
        if process.exit.is_some() {
            return Err(gone());
        }
        let Some(pidfd) = &process.pidfd else { return Err(wrong_state("process not created")) };
        pidfd_send_signal(pidfd.as_fd(), signal).map_err(|errno| match errno {
            Errno::ESRCH => gone(),
            errno => Error::new(format!("send signal {signal}")).call("pidfd_send_signal", errno).into(),
        })?;
        // A frozen process takes its signal only when it is thawed; SIGKILL must not wait for that, and we not for it.
        if signal == libc::SIGKILL
            && let Some(cgroup) = &container.cgroup
            && cgroup.frozen()?
        {
            let _ = cgroup.thaw(Instant::now());
        }
        now(&Empty {})
    }

    fn exec(&mut self, request: ExecProcessRequest) -> Later {
        crate::validate::container_id(&request.exec_id)
            .map_err(|error| Status::new(code::INVALID_ARGUMENT, error.to_string()))?;
        let container = self.container(&request.id)?;
        if container.execs.contains_key(&request.exec_id) {
            let text = format!("process {}: already exists", request.exec_id);
            return Err(Status::new(code::ALREADY_EXISTS, text));
        }
        let given =
            Given { terminal: request.terminal, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        // The request says whether there is a terminal, not the document.
        let document = request.spec.unwrap_or_default().value;
        let mut document: serde_json::Value = serde_json::from_slice(&document)
            .map_err(|error| Status::new(code::INVALID_ARGUMENT, format!("the exec's process: {error}")))?;
        if let Some(members) = document.as_object_mut() {
            members.insert("terminal".into(), given.terminal.into());
        }
        let spec = document.to_string().into_bytes();
        container.execs.insert(request.exec_id.clone(), Proc::new(given, super::stdio::Io::default(), spec));
        let event = TaskExecAdded { container_id: request.id, exec_id: request.exec_id };
        self.events.publish(&self.namespace, "/tasks/exec-added", "TaskExecAdded", &event);
        now(&Empty {})
    }

    fn resize(&mut self, request: &ResizePtyRequest) -> Later {
        let process = self.process(&request.id, &request.exec_id)?;
        // Without a terminal there is nothing to do, as with runc's shim.
        if let Some(console) = &process.io.console {
            let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
            let (ws_row, ws_col) = (size(request.height), size(request.width));
            let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            crate::sys::ioctl::tiocswinsz(console.as_fd(), &size)
                .map_err(|errno| Error::new("resize a terminal").call("ioctl(TIOCSWINSZ)", errno))?;
        }
        now(&Empty {})
    }

    fn close_io(&mut self, request: &CloseIoRequest) -> Later {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.io.close_stdin();
        }
        now(&Empty {})
    }

    fn update(&mut self, caller: Caller, request: UpdateTaskRequest) -> Later {
        let runtime = self.container(&request.id)?.runtime.clone();
        let resources = request.resources.unwrap_or_default().value;
        let id = request.id.clone();
        let job = self.worker(&Prepared::default(), SHORT, |_| {
            let update = |path: &Path| {
                let path = path.as_os_str().to_owned();
                Reply::from(runtime.call(&["update".into(), "--resources".into(), path, OsString::from(&id)]))
            };
            with_file(&resources, update)
        })?;
        self.jobs.insert(job, Pending::Command { caller, id: request.id, topic: None, text: String::new() });
        Ok(None)
    }

    fn wait(&mut self, caller: Caller, request: &ProcessRequest) -> Later {
        let process = self.process(&request.id, &request.exec_id)?;
        match process.announced() {
            Some(exit) => now(&WaitResponse { exit_status: exit.status, exited_at: exit.at() }),
            None => {
                process.waiters.push(caller);
                Ok(None)
            }
        }
    }

    fn stats(&mut self, request: &ContainerRequest) -> Later {
        let container = self.container(&request.id)?;
        let cgroup = container.cgroup.as_ref().ok_or_else(|| not_found("cgroup of", &request.id))?;
        now(&StatsResponse { stats: Some(Any::of(stats::NAME, &stats::metrics(cgroup)?)) })
    }

    fn connect(&mut self, request: &ContainerRequest) -> Later {
        let task_pid = self.containers.get(&request.id).map_or(0, |container| container.init.pid());
        now(&ConnectResponse { shim_pid: std::process::id(), task_pid, version: env!("CARGO_PKG_VERSION").into() })
    }

    fn shutdown(&mut self) -> Later {
        let creating = self.jobs.values().any(|job| matches!(job, Pending::Create(..)));
        if self.containers.is_empty() && !creating {
            self.ending = Some(clock::now() + FAREWELL);
        }
        now(&Empty {})
    }
}

/// The runtime that these options ask for.
pub fn runtime(options: &RuncOptions, namespace: &str) -> Runtime {
    let root = if options.root.is_empty() { Path::new("/run/containerd/orlop") } else { Path::new(&options.root) };
    Runtime { root: root.join(namespace), systemd_cgroup: options.systemd_cgroup }
}

/// In a worker: starts the logger, if there is one, and then makes a process.
fn after_logger(prepared: &Prepared, id: &str, namespace: &str, make: impl FnOnce() -> Reply) -> Reply {
    match prepared.logger.as_ref().map(|logger| logger.start(id, namespace)).transpose() {
        Ok(logger) => Reply { text: serde_json::to_string(&logger).unwrap_or_default(), ..make() },
        Err(error) => Reply::failed(error),
    }
}

/// In a worker: runs `spec` in the container.
fn enter(runtime: &Runtime, id: &str, bundle: &Path, spec: &[u8], console: Option<OsString>) -> Reply {
    let pid_file = bundle.join(format!(".exec.{}", std::process::id()));
    with_file(spec, |process| {
        let mut words: Vec<OsString> = vec!["--process".into(), process.into()];
        words.extend(console);
        runtime.exec(id, &pid_file, &words, &[])
    })
}

/// A file in memory for a command that reads one: it is on no disk, and gone with the worker.
fn with_file(content: &[u8], work: impl FnOnce(&Path) -> Reply) -> Reply {
    let failed = |errno| Error::new("hand a document to the runtime").call("memfd_create", errno);
    let file = memfd_create(c"document", MFdFlags::MFD_CLOEXEC).map_err(failed);
    match file
        .and_then(|file| crate::sys::path::write_all_at_once(file.as_fd(), content).map(|()| file).map_err(failed))
    {
        Ok(file) => work(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))),
        Err(error) => Reply::failed(error),
    }
}
