//! The runtime's own binary, as a container finds it in /proc/<pid>/exe.

mod common;

use std::fs::{self, OpenOptions};

use common::{Bundle, ORLOP};

#[test]
fn the_binary_of_a_process_that_waits_for_start_cannot_be_written_to() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let exe = format!("/proc/{}/exe", bundle.pid());
    let before = fs::read(ORLOP).expect("the binary");
    assert_eq!(fs::read(&exe).expect("what the process runs").len(), before.len());
    let opened = OpenOptions::new().write(true).open(&exe).map(drop);
    let errno = opened.expect_err("opened for writing").raw_os_error();
    // of a read-only mount, or of a sealed memfd; ETXTBSY would be gone with the process
    assert!(matches!(errno, Some(libc::EROFS | libc::EPERM)), "{errno:?}");
}
