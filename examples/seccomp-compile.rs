//! Times the seccomp compiler: `cargo run --release --example seccomp-compile -- seccomp-profiles/default.json`.

use std::time::Instant;

fn main() -> anyhow::Result<()> {
    for path in std::env::args_os().skip(1) {
        let section: oci_spec::runtime::LinuxSeccomp = serde_json::from_slice(&std::fs::read(&path)?)?;
        let mut times = Vec::new();
        let mut instructions = 0;
        for _ in 0..200 {
            let start = Instant::now();
            let filter = orlop::seccomp::compile(&section)?;
            times.push(start.elapsed());
            instructions = filter.map_or(0, |filter| filter.program.len());
        }
        let first = times[0];
        times.sort();
        println!("{}: {instructions} instructions, first {first:?}, median {:?}", path.display(), times[100]);
    }
    Ok(())
}
