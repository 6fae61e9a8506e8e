//! A resource agent for Pacemaker (OCF resource agent API 1.1): this program under a name of its own, linked to
//! `/usr/lib/ocf/resource.d/orlop/shim`, so that `ocf:orlop:shim` is a container.
//!
//! It starts a container once on a node, however often it is called; a start ends well only when the container is ready; a stop ends
//! well only when the kernel says that no process of it is left. Whoever restarts it is Pacemaker: a bundle that wants that of its
//! supervisor as well is a wrong configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::client::{self, As, Source};
use super::command;
use super::config::Config;
use super::dialect::ocf;
use super::jobs::Runtime;
use super::record;
use super::restart::When;
use crate::error::{Error, Result};
use crate::state::Store;

const ERR_ARGS: i32 = 2;
const ERR_UNIMPLEMENTED: i32 = 3;
const ERR_INSTALLED: i32 = 5;
const ERR_CONFIGURED: i32 = 6;
const ERR_GENERIC: i32 = ocf::ERR_GENERIC as i32;
const NOT_RUNNING: i32 = ocf::NOT_RUNNING as i32;
const SUCCESS: i32 = ocf::SUCCESS as i32;

/// What Pacemaker kills an action after, where it does not say.
const ACTION: Duration = Duration::from_secs(20);
/// What of that is left for what comes after: a kill, a removal, the answer.
const RESERVE: Duration = Duration::from_secs(5);
/// How often a container on its way is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Whether this program was called as an agent: by the environment that all agents get, under another name than its own.
pub fn called(name: &str) -> bool {
    std::env::var_os("OCF_ROOT").is_some() && name != "orlop-shim"
}

/// What an action ends with: a status, and why it is no success.
struct Ends(i32, String);

impl From<Error> for Ends {
    fn from(error: Error) -> Self {
        Self(ERR_GENERIC, error.to_string())
    }
}

/// Runs the action that is called for. The exit status.
pub fn main() -> i32 {
    // What the caller has left open would be the supervisor's for as long as it lives.
    let _ = crate::sys::process::close_range(3, u32::MAX, false);
    let action = std::env::args().nth(1).unwrap_or_default();
    let done = match action.as_str() {
        "meta-data" => {
            // Who has seen enough of it closes the pipe.
            let _ = std::io::stdout().write_all(meta_data().as_bytes());
            return SUCCESS;
        }
        "usage" | "help" => {
            let _ = std::io::stdout().write_all(b"start, stop, monitor, validate-all, meta-data\n");
            return SUCCESS;
        }
        "" => Err(Ends(ERR_ARGS, "no action".to_owned())),
        action => Resource::of_environment().and_then(|resource| match action {
            "start" => resource.start(),
            "stop" => resource.stop(),
            "monitor" | "status" => resource.monitor(),
            "validate-all" => resource.validate(),
            _ => Err(Ends(ERR_UNIMPLEMENTED, format!("no action {action:?}"))),
        }),
    };
    match done {
        Ok(()) => SUCCESS,
        Err(Ends(status, why)) => {
            if !why.is_empty() {
                let line: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let _ = writeln!(std::io::stderr(), "ocf-exit-reason:{line}");
            }
            status
        }
    }
}

/// A parameter: its name, its default (None: it is required), and what it is.
const PARAMETERS: &[(&str, Option<&str>, &str)] = &[
    ("bundle", None, "The bundle: a directory with config.json, and health.json if it has one"),
    ("id", Some(""), "The container's id; the bundle's name if it is left out"),
    ("directory", Some("/run/orlop-shim"), "Directory of all supervisors"),
    ("root", Some("/run/orlop"), "Directory for the state of containers"),
    ("systemd_cgroup", Some("false"), "Have systemd make the cgroup"),
    (
        "degraded",
        Some("true"),
        "Say it when the container works and is short of something (status 190); false: that is a success",
    ),
];

fn parameter(name: &str) -> String {
    let default = PARAMETERS.iter().find(|(known, ..)| *known == name).and_then(|(_, default, _)| *default);
    let given = std::env::var(format!("OCF_RESKEY_{name}")).ok().filter(|value| !value.is_empty());
    given.unwrap_or_else(|| default.unwrap_or_default().to_owned())
}

fn truth(name: &str) -> std::result::Result<bool, Ends> {
    match parameter(name).to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        other => Err(Ends(ERR_CONFIGURED, format!("{name}: {other:?} is neither true nor false"))),
    }
}

struct Resource {
    bundle: PathBuf,
    id: String,
    source: Source,
    systemd_cgroup: bool,
    degraded: bool,
    /// Until then the action must have ended.
    deadline: Instant,
    /// What Pacemaker gives it beyond that.
    reserve: Duration,
}

impl Resource {
    fn of_environment() -> std::result::Result<Self, Ends> {
        let bundle = parameter("bundle");
        if bundle.is_empty() {
            return Err(Ends(ERR_CONFIGURED, "the parameter bundle is missing".to_owned()));
        }
        let bundle = PathBuf::from(bundle);
        let id = match parameter("id") {
            id if id.is_empty() => {
                bundle.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            id => id,
        };
        crate::validate::container_id(&id).map_err(|error| Ends(ERR_CONFIGURED, error.to_string()))?;
        let milliseconds = std::env::var("OCF_RESKEY_CRM_meta_timeout").ok().and_then(|text| text.parse().ok());
        let timeout = milliseconds.map_or(ACTION, Duration::from_millis);
        let reserve = if timeout > RESERVE { RESERVE } else { timeout / 2 };
        // The supervisor goes to the root directory.
        let place = |name| std::path::absolute(parameter(name)).unwrap_or_default();
        let source = Source { directory: place("directory"), root: place("root") };
        Ok(Self {
            bundle,
            id,
            source,
            systemd_cgroup: truth("systemd_cgroup")?,
            degraded: truth("degraded")?,
            deadline: Instant::now() + (timeout - reserve),
            reserve,
        })
    }

    fn look(&self) -> (i32, String) {
        let checked = client::check(&self.id, &self.source, As::Ocf, None);
        (checked.status, checked.stdout.trim().to_owned())
    }

    fn monitor(&self) -> std::result::Result<(), Ends> {
        match self.look() {
            (SUCCESS, _) => Ok(()),
            (status, _) if status == i32::from(ocf::DEGRADED) && !self.degraded => Ok(()),
            (status, said) => Err(Ends(status, said)),
        }
    }

    fn validate(&self) -> std::result::Result<(), Ends> {
        if !self.bundle.join("config.json").is_file() {
            // It may be there on another node.
            return Err(Ends(ERR_INSTALLED, format!("{} holds no config.json", self.bundle.display())));
        }
        let config = Config::of_bundle(&self.bundle).map_err(|error| Ends(ERR_CONFIGURED, error.to_string()))?;
        match config.restart.when {
            When::No => Ok(()),
            _ => Err(Ends(
                ERR_CONFIGURED,
                "restart in health.json is not \"no\": Pacemaker restarts, and nobody beside it".to_owned(),
            )),
        }
    }

    /// Begun by the first call, and waited for by each.
    fn start(&self) -> std::result::Result<(), Ends> {
        self.validate()?;
        match self.look() {
            (NOT_RUNNING, _) => self.begin()?,
            // What an earlier failure has left is not gone on with.
            (ERR_GENERIC, _) => {
                self.end()?;
                self.begin()?;
            }
            _ => {}
        }
        loop {
            let (status, said) = self.look();
            match said.split(' ').next().unwrap_or_default() {
                "healthy" | "degraded" => return Ok(()),
                "starting" | "notready" if status != ERR_GENERIC => {}
                _ => return Err(Ends(ERR_GENERIC, said)),
            }
            if Instant::now() >= self.deadline {
                return Err(Ends(ERR_GENERIC, format!("not ready in its time: {said}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn begin(&self) -> Result<()> {
        let begun = command::begin(&self.bundle, &self.id, &self.source, self.systemd_cgroup)?;
        if begun {
            Ok(())
        } else {
            Err(Error::new("the container could not be started; the agent's log has the reason"))
        }
    }

    /// Ends well only when nothing is left of it: what can't be ended is for another node to fence.
    fn stop(&self) -> std::result::Result<(), Ends> {
        // Frozen, it takes no signal: all of its time is left for the kill.
        let polite = self.deadline.saturating_duration_since(Instant::now());
        let target = format!("/v1/containers/{}/stop?timeout={}", self.id, polite.as_secs_f64());
        let asked = client::post(&self.source, &self.id, &target, client::PATIENCE);
        if asked.is_ok_and(|(status, _)| status == 200) {
            let control = self.source.directory.join(&self.id).join(client::CONTROL);
            let until = self.deadline + self.reserve * 2 / 5;
            while control.exists() && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
        self.kill(self.deadline + self.reserve * 4 / 5)?;
        self.end()
    }

    /// Kills what there is of it, and says in time what can't be killed. Where its state can't be read, `end` still finds it.
    fn kill(&self, until: Instant) -> std::result::Result<(), Ends> {
        let opened = Store::new(self.root()).open(&self.id).and_then(|dir| dir.read()?.open_cgroup());
        let Ok(Some(cgroup)) = opened else { return Ok(()) };
        while cgroup.populated().unwrap_or(false) {
            cgroup.kill()?;
            if Instant::now() >= until {
                let left = cgroup.processes().unwrap_or_default();
                return Err(Ends(ERR_GENERIC, format!("its processes {left:?} have not ended by SIGKILL")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whatever there is of it is killed and removed, without its supervisor. `delete` answers when its cgroup is empty.
    fn end(&self) -> std::result::Result<(), Ends> {
        let runtime = Runtime { root: self.root(), systemd_cgroup: self.systemd_cgroup };
        runtime
            .call(&["delete", "--force", &self.id])
            .map_err(|error| Ends(ERR_GENERIC, format!("it can't be ended: {error:#}")))?;
        // Whose supervisor was killed is no more supervised than one that never ran.
        for name in ["supervisor.json", "last.json", client::READ, client::CONTROL] {
            let _ = std::fs::remove_file(self.directory().join(name));
        }
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.source.directory.join(&self.id)
    }

    /// Where the container's state is, by what its supervisor has written down.
    fn root(&self) -> PathBuf {
        let saved = record::read::<serde_json::Value>(&self.directory(), client::FACTS).ok().flatten();
        let root = saved.and_then(|saved| Some(PathBuf::from(saved["root"].as_str()?)));
        root.unwrap_or_else(|| Path::new(&self.source.root).to_owned())
    }
}

fn meta_data() -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let parameters: String = PARAMETERS
        .iter()
        .map(|(name, default, about)| {
            let kind = if ["systemd_cgroup", "degraded"].contains(name) { "boolean" } else { "string" };
            let required = u8::from(default.is_none());
            let unique = u8::from(*name == "id");
            let default = default.filter(|default| !default.is_empty());
            let default = default.map(|default| format!(" default=\"{default}\"")).unwrap_or_default();
            let about = escaped(about);
            format!(
                "<parameter name=\"{name}\" unique=\"{unique}\" required=\"{required}\">\n<longdesc lang=\"en\">{about}.</longdesc>\n\
                 <shortdesc lang=\"en\">{name}</shortdesc>\n<content type=\"{kind}\"{default}/>\n</parameter>\n"
            )
        })
        .collect();
    format!(
        r#"<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="shim" version="{}">
<version>1.0</version>
<longdesc lang="en">A container from an OCI bundle, under the supervisor orlop-shim. Its start waits until the container is ready, by the probes in the bundle's health.json; its stop ends well only when no process is left.</longdesc>
<shortdesc lang="en">A container from an OCI bundle</shortdesc>
<parameters>
{parameters}</parameters>
<actions>
<action name="start" timeout="60s"/>
<action name="stop" timeout="30s"/>
<action name="monitor" timeout="20s" interval="10s" depth="0"/>
<action name="validate-all" timeout="20s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
"#,
        env!("CARGO_PKG_VERSION")
    )
}
