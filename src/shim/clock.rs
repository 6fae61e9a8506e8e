//! Time as the supervisor counts it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A time on `CLOCK_BOOTTIME`: it goes on while the machine is suspended, and nobody sets it.
pub type Moment = Duration;

/// Now. The clock is there in every kernel since 2.6.39.
pub fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The time on the wall, in seconds since 1970.
pub fn wall() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
