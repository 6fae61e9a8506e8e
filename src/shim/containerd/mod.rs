//! containerd's shim contract, version 2 (core/runtime/v2 of containerd), under the name `containerd-shim-orlop-v2`.
//!
//! [`bootstrap`] is how containerd calls the program; `start` forks [`server::Shim`], which serves the tasks of one container or
//! of one pod over [`ttrpc`]; [`task`] has the methods, [`outcome`] what follows from ends, [`events`] tells containerd of them.

mod bootstrap;
mod delete;
mod events;
mod mounts;
mod options;
mod outcome;
mod process;
mod proto;
mod server;
mod sha256;
mod start;
mod stats;
mod stdio;
mod task;
mod ttrpc;

use std::io::{Read, Write};

use prost::Message;

use crate::error::{Error, Result};
use bootstrap::{Action, Call};
use proto::{Any, RuntimeInfo, RuntimeVersion};

/// The command line that containerd calls. The exit status.
pub fn main() -> i32 {
    let call = match Call::parse(std::env::args_os().skip(1)) {
        Ok(call) => call,
        Err(error) => return failed(&error),
    };
    let done = match call.action {
        Action::Start => start::start(&call),
        Action::Delete => delete::delete(&call),
        Action::Info => info(),
        Action::Version => {
            say(format!("containerd-shim-orlop-v2:\n  Version: {}\n", env!("CARGO_PKG_VERSION")).as_bytes())
        }
    };
    match done {
        Ok(()) => 0,
        Err(error) => failed(&error),
    }
}

/// containerd shows it with what went wrong.
fn failed(error: &Error) -> i32 {
    let _ = writeln!(std::io::stderr(), "containerd-shim-orlop-v2: {error}");
    1
}

/// Standard input, which is a pipe or `/dev/null`.
fn input() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(bootstrap::LONGEST + 1)
        .read_to_end(&mut input)
        .map_err(|error| Error::new("read standard input").call("read", crate::host::errno(&error)))?;
    if input.len() as u64 > bootstrap::LONGEST {
        return Err(Error::new("standard input is longer than 10 MiB"));
    }
    Ok(input)
}

/// The answer on standard output.
fn say(answer: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(answer)
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::new("write to standard output").call("write", crate::host::errno(&error)))
}

/// `-info`: what the runtime supports, as `orlop features` has it.
fn info() -> Result<()> {
    let input = input()?;
    let options = Any::decode(&*input).ok().filter(options::is_known);
    let features = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".into(),
        value: crate::features::features().to_string().into_bytes(),
    };
    let version = RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: option_env!("ORLOP_COMMIT").unwrap_or_default().into(),
    };
    let name = "io.containerd.orlop.v2".into();
    say(&RuntimeInfo { name, version: Some(version), options, features: Some(features) }.encode_to_vec())
}
