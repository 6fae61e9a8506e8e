//! What checkpoint and restore need of a plan: the mounts that come from outside, and the places for them.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::op::{Op, Pointer, Request, Source, Step};
use super::{Plan, Tree};
use crate::error::{Error, Result};

/// A mount whose content is not the container's: no checkpoint holds it, and a restore makes it again from its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Where it is mounted, as the configuration has it.
    pub target: CString,
    /// A path of the host.
    pub source: CString,
    /// It is there only where the target is a file: what covers a directory is the container's own.
    pub only_file: bool,
}

/// What covers a masked file.
pub const NULL: &std::ffi::CStr = c"/dev/null";

/// Every bind mount, and the files that are masked.
///
/// # Errors
/// An id-mapped mount, which criu does not know.
pub fn externals(plan: &Plan) -> Result<Vec<External>> {
    let mut externals = Vec::new();
    for step in &plan.child {
        let (target, source, only_file) = match &step.op {
            Op::Mount(mount) => match source(&mount.source, &plan.trees, &step.from)? {
                Some(source) => (&mount.target, source, false),
                None => continue,
            },
            Op::Device(device) if device.bind => (&device.path, device.path.clone(), false),
            Op::Mask { path, .. } => (path, NULL.to_owned(), true),
            _ => continue,
        };
        externals.push(External { target: target.clone(), source: plain(&source), only_file });
    }
    Ok(externals)
}

/// The path without `.` and without slashes at its end, which criu makes a file name of.
fn plain(path: &CStr) -> CString {
    let plain: PathBuf = Path::new(OsStr::from_bytes(path.to_bytes())).components().collect();
    CString::new(plain.into_os_string().into_vec()).unwrap_or_else(|_| path.to_owned())
}

/// The host's path that is bound.
fn source(source: &Source, trees: &[Tree], from: &Pointer) -> Result<Option<CString>> {
    match source {
        Source::New { .. } => Ok(None),
        Source::Bind(path) => Ok(Some(path.clone())),
        Source::Tree(index) => match trees.get(*index) {
            Some(tree) if tree.uids.is_empty() => super::path_cstring(&tree.path, from).map(Some),
            _ => Err(Error::new("criu can neither dump nor restore an id-mapped mount").at(from.clone())),
        },
    }
}

/// The plan of a process that makes every mount in a namespace of its own, says that it is ready, and goes away with all of
/// them: what is left is the places to mount on. criu makes no directory in a root file system.
///
/// # Errors
/// As [`externals`].
pub fn mount_points(plan: &Plan) -> Result<Plan> {
    let mut child: Vec<Step> = Vec::new();
    for step in &plan.child {
        let op = match &step.op {
            Op::ResetSignals | Op::DieWithParent | Op::Propagation { .. } | Op::OpenRoot { .. } => step.op.clone(),
            Op::Mount(mount) => {
                let mut mount = mount.clone();
                if let Some(path) = source(&mount.source, &plan.trees, &step.from)? {
                    mount.source = Source::Bind(path);
                }
                mount.parent_opens = false;
                Op::Mount(mount)
            }
            _ => continue,
        };
        child.push(Step { op, from: step.from.clone() });
    }
    child.push(Step { op: Op::Await(Request::Ready), from: String::new() });
    Ok(Plan {
        resources: None,
        intel_rdt: None,
        joined: Vec::new(),
        trees: Vec::new(),
        clone_flags: libc::CLONE_NEWNS as u64,
        userns: None,
        rlimits: Vec::new(),
        oom_score_adj: None,
        stage: Vec::new(),
        child,
        initial_cpus: Vec::new(),
        hooks_inside: false,
        net_devices: Vec::new(),
        runtime_hooks: Vec::new(),
        poststop_hooks: Vec::new(),
        terminal: false,
        warnings: Vec::new(),
        notes: Vec::new(),
    })
}
