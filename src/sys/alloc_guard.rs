//! In debug builds: an allocation after the clone ends the child at once, so that every test that runs a container
//! would see it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static AFTER_CLONE: AtomicBool = AtomicBool::new(false);

/// Says that this process is a child of clone3(2): from here on nothing may be allocated.
pub fn after_clone() {
    AFTER_CLONE.store(true, Ordering::Relaxed);
}

/// The system's allocator with the guard.
pub struct Guard;

// SAFETY: every call goes to the system's allocator unchanged, or ends the process.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if AFTER_CLONE.load(Ordering::Relaxed) {
            let _ = super::path::write(super::path::inherited(2), b"orlop: allocation after the clone\n");
            super::process::exit(70);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
