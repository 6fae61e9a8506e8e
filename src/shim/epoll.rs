//! What the supervisor waits for: descriptors by epoll(7), moments by one timerfd on `CLOCK_BOOTTIME`, signals by one signalfd.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

pub use nix::sys::epoll::EpollFlags;

use super::clock::Moment;
use crate::error::{Error, Result};

/// As many as are looked at in one round.
const AT_ONCE: usize = 64;
const TIMER: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The descriptor that was added with this token.
    File(u64, EpollFlags),
    /// A signal.
    Signal(Signal),
    /// The moment that was set last.
    Time,
}

/// One epoll instance with its timer and its signals.
#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    timer: TimerFd,
    signals: SignalFd,
    set: Option<Moment>,
}

fn failed(call: &str, errno: Errno) -> Error {
    Error::new("set up the supervisor's loop").call(call, errno)
}

impl Poll {
    /// Blocks `signals` in this process, to read them.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(signals: &[Signal]) -> Result<Self> {
        let mask: SigSet = signals.iter().copied().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(|errno| failed("sigprocmask", errno))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|errno| failed("signalfd", errno))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(|errno| failed("timerfd_create", errno))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| failed("epoll_create1", errno))?;
        let poll = Self { epoll, timer, signals, set: None };
        poll.add(&poll.timer, TIMER, EpollFlags::EPOLLIN)?;
        poll.add(&poll.signals, SIGNAL, EpollFlags::EPOLLIN)?;
        Ok(poll)
    }

    /// Waits for `file` from now on, under `token`, which is less than `u64::MAX - 1`. Closing the last descriptor of the file
    /// ends that.
    ///
    /// # Errors
    /// epoll_ctl(2): it can't be waited for, or is already.
    pub fn add(&self, file: impl AsFd, token: u64, events: EpollFlags) -> Result<()> {
        self.epoll.add(file, EpollEvent::new(events, token)).map_err(|errno| failed("epoll_ctl(ADD)", errno))
    }

    /// Waits for other things of a file that was added.
    ///
    /// # Errors
    /// It was not.
    pub fn change(&self, file: impl AsFd, token: u64, events: EpollFlags) -> Result<()> {
        let mut event = EpollEvent::new(events, token);
        self.epoll.modify(file, &mut event).map_err(|errno| failed("epoll_ctl(MOD)", errno))
    }

    /// Does not wait for it any more. Needed where a child holds the same open file.
    pub fn remove(&self, file: impl AsFd) {
        // It fails only for what was not added.
        let _ = self.epoll.delete(file);
    }

    /// Sets the one moment to wake up at; None: none.
    ///
    /// # Errors
    /// None in practice.
    pub fn wake_at(&mut self, moment: Option<Moment>) -> Result<()> {
        if self.set == moment {
            return Ok(());
        }
        let failed = |errno| failed("timerfd_settime", errno);
        match moment {
            None => self.timer.unset().map_err(failed)?,
            // A time of zero would disarm it.
            Some(moment) => self
                .timer
                .set(
                    Expiration::OneShot(TimeSpec::from_duration(moment.max(Moment::from_nanos(1)))),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )
                .map_err(failed)?,
        }
        self.set = moment;
        Ok(())
    }

    /// Waits until something comes.
    ///
    /// # Errors
    /// None in practice.
    pub fn wait(&mut self) -> Result<Vec<Ready>> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(failed("epoll_wait", errno)),
        };
        let mut ready = Vec::with_capacity(count);
        for event in &events[..count] {
            match event.data() {
                TIMER => {
                    // Non-blocking: another moment may have been set since.
                    let mut count = [0; 8];
                    if crate::sys::path::read(self.timer.as_fd(), &mut count).is_ok() {
                        self.set = None;
                        ready.push(Ready::Time);
                    }
                }
                SIGNAL => self.take_signals(&mut ready),
                token => ready.push(Ready::File(token, event.events())),
            }
        }
        Ok(ready)
    }

    fn take_signals(&self, ready: &mut Vec<Ready>) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if let Ok(signal) = Signal::try_from(info.ssi_signo as i32) {
                ready.push(Ready::Signal(signal));
            }
        }
    }
}
