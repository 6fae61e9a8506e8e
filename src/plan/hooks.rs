//! `hooks`: six lists, of which two run inside the container's namespaces.

use oci_spec::runtime::{Hook as Entry, Process, Spec};
use serde_json::{Map, Value, json};

use super::op::{Hook, Op, SeccompOp, SeccompWhen};
use super::{Steps, capabilities, cstring, path_cstring, process};
use crate::error::{Error, Result};
use crate::sys::process::StringArray;

/// A hook without a timeout of its own may take this many seconds: no wait is without a bound.
pub const DEFAULT_TIMEOUT: u32 = 600;

pub(super) struct Hooks {
    runtime: Vec<Hook>,
    create_container: Vec<Hook>,
    start_container: Vec<Hook>,
    poststop: Vec<Hook>,
}

/// The hooks of one list, ready to run.
pub fn list(entries: Option<&Vec<Entry>>, kind: &'static str) -> Result<Vec<Hook>> {
    entries.into_iter().flatten().enumerate().map(|(index, entry)| hook(entry, kind, index)).collect()
}

fn hook(entry: &Entry, kind: &'static str, index: usize) -> Result<Hook> {
    let from = format!("/hooks/{kind}/{index}");
    let strings = |list: Option<&Vec<String>>, name: &str| {
        list.into_iter().flatten().map(|text| cstring(text, &format!("{from}/{name}"))).collect::<Result<Vec<_>>>()
    };
    let path = path_cstring(entry.path(), &format!("{from}/path"))?;
    let mut args = strings(entry.args().as_ref(), "args")?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let timeout = match entry.timeout() {
        None => DEFAULT_TIMEOUT,
        Some(seconds) => u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
            Error::new(format!("a hook's timeout of {seconds} seconds"))
                .at(format!("{from}/timeout"))
                .hint("more than 0")
        })?,
    };
    let env = StringArray::new(strings(entry.env().as_ref(), "env")?);
    let inherits = entry.env().is_none();
    let args = StringArray::new(args);
    Ok(Hook { path, args, env, inherits, timeout, kind, index, seccomp: None, capabilities: None, open_files: None })
}

impl Hooks {
    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let hooks = spec.hooks().as_ref();
        // Programs of the container have its environment, as with runc. createContainer's are the host's, still with all rights:
        // what an image says there (LD_PRELOAD, CVE-2025-23266) is not for them.
        let of_container = |entries: Option<&Vec<Entry>>, kind| {
            let mut hooks = list(entries, kind)?;
            for hook in hooks.iter_mut().filter(|hook| hook.inherits) {
                hook.env = spec
                    .process()
                    .as_ref()
                    .map_or_else(|| Ok(StringArray::default()), |process| process::environment(process, &[]))?;
            }
            Ok::<_, Error>(hooks)
        };
        // prestart is deprecated, and runs where createRuntime does, before it (config.md, POSIX-platform Hooks).
        #[allow(deprecated)]
        let mut runtime = list(hooks.and_then(|hooks| hooks.prestart().as_ref()), "prestart")?;
        runtime.extend(list(hooks.and_then(|hooks| hooks.create_runtime().as_ref()), "createRuntime")?);
        Ok(Self {
            runtime,
            create_container: list(hooks.and_then(|hooks| hooks.create_container().as_ref()), "createContainer")?,
            start_container: of_container(hooks.and_then(|hooks| hooks.start_container().as_ref()), "startContainer")?,
            poststop: list(hooks.and_then(|hooks| hooks.poststop().as_ref()), "poststop")?,
        })
    }

    pub(super) fn before_pivot(&self) -> bool {
        !self.runtime.is_empty() || !self.create_container.is_empty()
    }

    pub(super) fn any_inside(&self) -> bool {
        !self.create_container.is_empty() || !self.start_container.is_empty()
    }

    /// Those of the runtime, and those that come after the end.
    pub(super) fn outside(self) -> (Vec<Hook>, Vec<Hook>) {
        (self.runtime, self.poststop)
    }

    pub(super) fn create_container(&self, child: &mut Steps) {
        self.create_container.iter().for_each(|hook| push(hook.clone(), child));
    }

    /// These are programs of the container and as confined as its own: they take the limit of open files and the filter,
    /// which the process that starts them takes only later, and the capabilities that are left after it. A call that the filter would send to an agent
    /// has no listener yet, and fails with ENOSYS (seccomp(2), SECCOMP_RET_USER_NOTIF).
    pub(super) fn start_container(
        &self,
        process: &Process,
        filter: Option<&SeccompOp>,
        guarded: bool,
        child: &mut Steps,
    ) -> Result<()> {
        let mut filter = filter.cloned();
        if let Some(filter) = &mut filter {
            const LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            filter.flags &= !(LISTENER as u32);
        }
        let kept = filter.as_ref().is_some_and(|filter| filter.when == SeccompWhen::WithSysAdmin);
        let left = if kept || guarded { Some(capabilities::sets(process)?.0) } else { None };
        let open_files = process::open_files_limit(process);
        for hook in &self.start_container {
            push(Hook { seccomp: filter.clone(), capabilities: left, open_files, ..hook.clone() }, child);
        }
        Ok(())
    }
}

fn push(hook: Hook, child: &mut Steps) {
    let from = format!("/hooks/{}/{}", hook.kind, hook.index);
    child.push(Op::Hook(Box::new(hook)), from);
}

/// The container's state as hooks read it on their standard input (runtime.md, State).
pub fn state_json(spec: &Spec, id: &str, status: &str, pid: i32, bundle: &str) -> Value {
    let mut state = Map::new();
    state.insert("ociVersion".into(), json!(spec.version()));
    state.insert("id".into(), json!(id));
    state.insert("status".into(), json!(status));
    if pid != 0 {
        state.insert("pid".into(), json!(pid));
    }
    state.insert("bundle".into(), json!(bundle));
    if let Some(annotations) = spec.annotations().as_ref().filter(|map| !map.is_empty()) {
        let sorted: std::collections::BTreeMap<_, _> = annotations.iter().collect();
        state.insert("annotations".into(), json!(sorted));
    }
    Value::Object(state)
}
