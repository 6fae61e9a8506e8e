//! A container's life, from create to delete, as its callers and the kernel see it.

mod common;

use common::Bundle;

#[test]
fn run_returns_the_programs_exit_status_and_output() {
    let outcome = Bundle::script("echo out; echo err >&2; exit 42").run();
    assert_eq!((outcome.code, outcome.stdout().as_str(), outcome.stderr().as_str()), (Some(42), "out\n", "err\n"));
}
