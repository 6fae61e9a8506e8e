//! The runtime's own binary, as a container finds it in /proc/<pid>/exe.

mod common;

use std::fs::{self, OpenOptions};

use common::{Bundle, ORLOP};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

#[test]
fn the_binary_of_a_process_that_waits_for_start_cannot_be_written_to() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let exe = format!("/proc/{}/exe", bundle.pid());
    let before = fs::read(ORLOP).expect("the binary");
    assert_eq!(fs::read(&exe).expect("what the process runs").len(), before.len());
    // Of a read-only mount, or a memfd that is sealed: ETXTBSY alone would be gone with the process.
    let opened = OpenOptions::new().write(true).open(&exe).map(drop);
    let read_only = opened.expect_err("opened for writing").raw_os_error() == Some(libc::EROFS);
    let file = fs::File::open(&exe).expect("what the process runs");
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    let sealed = seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL);
    assert!(read_only || sealed, "{seals:?}");
}
