//! Memory that parent and child share across the clone.

use std::os::fd::{AsRawFd, BorrowedFd};

use std::sync::atomic::{Ordering, fence};

use nix::errno::Errno;

use super::SysResult;

/// One value of `T` in a page that stays shared after a clone without `CLONE_VM`.
///
/// `T` must be plain data for which all-zero bytes are a value. Both sides take turns: the child writes and then
/// closes its socket or exits, the parent reads after it has seen that.
#[derive(Debug)]
pub struct Shared<T: 'static> {
    value: *mut T,
}

/// Plain data: valid when all its bytes are zero, with no pointer, reference or destructor in it.
///
/// # Safety
/// The implementor promises that every bit pattern is a value.
pub unsafe trait Plain: Copy {}

/// Implements [`Plain`] for a struct of integers and byte arrays.
macro_rules! plain {
    ($name:ty) => {
        #[allow(unsafe_code)]
        // SAFETY: the struct holds nothing but integers and arrays of them, so any bytes are a value.
        unsafe impl $crate::sys::shared::Plain for $name {}
    };
}
pub(crate) use plain;

impl<T: Plain> Shared<T> {
    /// mmap(2) `MAP_SHARED | MAP_ANONYMOUS`, zeroed.
    pub fn anonymous() -> SysResult<Self> {
        Self::map(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    /// mmap(2) `MAP_SHARED` of `file`, which must be at least as long as `T`.
    pub fn of_file(file: BorrowedFd<'_>) -> SysResult<Self> {
        Self::map(file.as_raw_fd(), libc::MAP_SHARED)
    }

    fn map(fd: i32, flags: i32) -> SysResult<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), size_of::<T>(), libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        if address == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Self { value: address.cast() }) }
    }

    /// A copy of the value as it is now.
    pub fn get(&self) -> T {
        fence(Ordering::Acquire);
        // The compiler must take the page for changed at every look: another process writes to it.
        // SAFETY: the mapping is page-aligned, large enough, and any bytes are a `T`.
        unsafe { std::hint::black_box(self.value).read() }
    }

    /// Changes the value.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        let mut value = self.get();
        change(&mut value);
        // SAFETY: as in `get`; the other side does not write at the same time (see the type's description).
        unsafe { std::hint::black_box(self.value).write(value) };
        fence(Ordering::Release);
    }
}

impl<T: 'static> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of this size; no reference into it exists outside `get` and `update`.
        unsafe { libc::munmap(self.value.cast(), size_of::<T>()) };
    }
}
