//! Probes for ways out of a container, each against a decoy of its own.
//!
//! As a test each probe runs twice: against this project's runtime, which must hold, and against `naive`, a runtime without any
//! care, which must be found open: a probe that finds nothing there would find nothing anywhere. With
//! `BREAKOUT_RUNTIME=PATH` (`just breakout --runtime PATH`) all run against that runtime, and a table is printed.

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Trial};

#[path = "../common/caller.rs"]
mod caller;
#[cfg(target_arch = "x86_64")]
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod image;
#[path = "../common/mountinfo.rs"]
mod mountinfo;
mod place;
mod process;
mod race;
#[path = "../common/rounds.rs"]
mod rounds;
mod view;
mod watch;

use place::{Place, Verdict};

struct Probe {
    name: &'static str,
    /// What it stands for, as a CVE or in words.
    about: &'static str,
    run: fn(Place) -> Verdict,
}

macro_rules! probes {
    ($($(#[$condition:meta])? $module:ident::$name:ident $about:literal;)*) => {
        &[$($(#[$condition])? Probe { name: concat!(stringify!($module), "::", stringify!($name)), about: $about, run: $module::$name }),*]
    };
}

const PROBES: &[Probe] = probes! {
    image::dev_is_a_link "CVE-2026-41579, CVE-2026-47766";
    image::proc_is_a_link "CVE-2019-19921, CVE-2025-54867";
    image::target_is_a_link "CVE-2021-30465, CVE-2024-45310";
    image::target_climbs_out "CVE-2024-45310";
    image::null_is_a_link "CVE-2025-31133";
    image::null_is_missing "CVE-2025-31133";
    image::masked_path_is_a_link "masked paths";
    image::alias_of_dev "aliases of /dev";
    process::cwd_by_descriptor "CVE-2024-21626";
    process::exec_cwd_by_descriptor "CVE-2024-21626";
    process::descriptors "CVE-2024-21626, CVE-2016-9962";
    process::exec_descriptors "CVE-2024-21626, CVE-2016-9962";
    process::environment_of_the_caller "CVE-2016-9962";
    watch::exec "CVE-2016-9962, CVE-2019-5736";
    watch::exec_in_a_user_namespace "CVE-2016-9962, CVE-2019-5736";
    process::signals "pid namespace";
    process::ids "paths by ids";
    process::input "CVE-2017-5226";
    process::escapes "terminal escapes";
    view::capabilities "CVE-2022-29162, CVE-2022-27650";
    view::no_new_privileges_and_filter "seccomp and no_new_privs";
    view::namespaces "namespaces";
    view::settings "/proc/sys";
    view::kernel_files "CVE-2022-0492, CVE-2023-25809";
    view::masked "masked paths";
    view::read_only "read-only paths";
    view::read_only_root "read-only root";
    view::mounts "mounts from inside";
    view::devices "device filter";
    view::dev "content of /dev";
    view::propagation "mount propagation";
    view::system_calls "calls that the profile denies";
    #[cfg(target_arch = "x86_64")]
    calls::of_every_number "every number of a system call";
    #[cfg(target_arch = "x86_64")]
    calls::of_another_abi "system calls of another ABI";
    view::environment "environment";
    view::raw_sockets "CAP_NET_RAW";
    race::target "CVE-2021-30465, CVE-2024-45310";
    race::dev "CVE-2026-41579";
    race::null "CVE-2025-31133, CVE-2025-62161";
    race::masked "masked paths";
    race::read_only "GHSA-3q8j-pf29-vwv8";
    race::root "CVE-2019-19921";
    race::propagation "mount propagation";
};

fn main() {
    let words: Vec<_> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        #[cfg(target_arch = "x86_64")]
        Some(calls::MODE) => return calls::every_call(),
        Some(process::TYPES) => return process::type_one(),
        Some(watch::MODE) => return watch::watch(&words[2..]),
        _ => {}
    }
    if let Some(runtime) = std::env::var_os("BREAKOUT_RUNTIME") {
        std::process::exit(table(Path::new(&runtime)));
    }
    let arguments = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        let trial = Trial::test("root", || Err("the probes need root".into())).with_ignored_flag(true);
        libtest_mimic::run(&arguments, vec![trial]).exit();
    }
    // The long counts name the release build, whose rounds take a fraction of the time.
    let tested: &'static Path = match std::env::var_os("BREAKOUT_HOLDS") {
        Some(program) => Box::leak(PathBuf::from(program).into_boxed_path()),
        None => Path::new(common::ORLOP),
    };
    let naive = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/breakout/naive"));
    let mut trials = Vec::new();
    for probe in PROBES {
        trials.push(Trial::test(format!("holds::{}", probe.name), move || match (probe.run)(Place::new(tested)) {
            Verdict::Held(_) => Ok(()),
            verdict => Err(format!("{verdict:?}").into()),
        }));
        let naive = naive.clone();
        trials.push(Trial::test(format!("catches::{}", probe.name), move || match (probe.run)(Place::new(&naive)) {
            Verdict::Open(_) => Ok(()),
            verdict => Err(format!("not found in a runtime without any care: {verdict:?}").into()),
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Runs all probes against one runtime; 1 when something is open.
fn table(runtime: &Path) -> i32 {
    let mut open = 0;
    let plain = Place::new(runtime).script("echo runs").run();
    if plain.stdout().trim() != "runs" {
        eprintln!("{} runs no container here: {}", runtime.display(), plain.stderr().trim());
        return 2;
    }
    println!("| probe | stands for | {} | |\n|---|---|---|---|", runtime.display());
    for probe in PROBES {
        let verdict = std::panic::catch_unwind(|| (probe.run)(Place::new(runtime)));
        let (word, detail) = match verdict {
            Ok(Verdict::Held(detail)) => ("holds", detail),
            Ok(Verdict::Open(detail)) => {
                open += 1;
                ("**open**", detail)
            }
            Ok(Verdict::Unknown(detail)) => ("unknown", detail),
            Err(_) => ("unknown", "the probe itself has failed".to_owned()),
        };
        let detail = detail.replace(['\n', '|'], " ");
        println!("| {} | {} | {word} | {} |", probe.name, probe.about, detail.escape_debug());
    }
    i32::from(open > 0)
}
