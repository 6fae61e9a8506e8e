//! `top`: the same table live.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::isatty;

use super::super::clock::{self, Moment};
use super::super::epoll::{EpollFlags, Poll, Ready};
use super::super::metrics::counter;
use super::Source;
use super::table::{Format, Row, rows, status, table, worst_first};
use crate::error::{Error, Result};
use crate::host::errno;
use crate::sys::ioctl::tiocgwinsz;

/// How often it is drawn.
const PERIOD: Duration = Duration::from_secs(1);
/// What a supervisor may take for its answer: keys are not looked at meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);
const KEYS: u64 = 0;
/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Shows all containers until `q` or Ctrl-C; prints them once where there is no terminal.
///
/// # Errors
/// The directory of supervisors can't be read, the terminal can't be set.
pub fn top(source: &Source) -> Result<()> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    if !isatty(&stdin).unwrap_or(false) || !isatty(&stdout).unwrap_or(false) {
        return print(status(source, Format::Table)?.as_bytes());
    }
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];
    let mut poll = Poll::new(&signals)?;
    let keys = stdin.as_fd().try_clone_to_owned().map_err(|error| failed("dup", &error))?;
    poll.add(&keys, KEYS, EpollFlags::EPOLLIN)?;
    let screen = Screen::enter(keys)?;
    let mut before = Samples::new();
    loop {
        let now = clock::now();
        let mut rows = rows(source, now + PATIENCE)?;
        let after = samples(&rows, clock::now());
        draw(&mut rows, &before, &after)?;
        // What was drawn before its time was (a window of another size) is too short to measure by.
        if before.is_empty() || after.values().next().is_some_and(|after| after.0 >= oldest(&before) + PERIOD / 2) {
            before = after;
        }
        poll.wake_at(Some(now + PERIOD))?;
        if wait(&mut poll, &screen)? {
            return Ok(());
        }
    }
}

fn failed(call: &str, error: &std::io::Error) -> Error {
    Error::new("show the containers on the terminal").call(call, errno(error))
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| failed("write", &error))
}

/// When, and how much processor time each container had used by then, in seconds.
type Samples = BTreeMap<String, (Moment, f64)>;

fn samples(rows: &[Row], now: Moment) -> Samples {
    let sample = |row: &Row| Some((row.id().to_owned(), (now, counter(row.view()?, "cpu.stat usage_usec")? / 1e6)));
    rows.iter().filter_map(sample).collect()
}

fn oldest(samples: &Samples) -> Moment {
    samples.values().map(|sample| sample.0).min().unwrap_or_default()
}

/// The share of one processor between two samples. A container that was made anew counts from zero.
fn share(id: &str, before: &Samples, after: &Samples) -> Option<f64> {
    let (before, after) = (before.get(id)?, after.get(id)?);
    let time = after.0.checked_sub(before.0).filter(|time| !time.is_zero())?;
    Some((after.1 - before.1).max(0.0) / time.as_secs_f64())
}

fn draw(rows: &mut [Row], before: &Samples, after: &Samples) -> Result<()> {
    let processor = |row: &Row| share(row.id(), before, after);
    worst_first(rows, |row| processor(row).unwrap_or(0.0));
    let size = tiocgwinsz(std::io::stdout().as_fd()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (height, width) = size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    print(frame(&table(rows, processor), height, width).as_bytes())
}

/// As much of a table as the screen has room for. It holds nothing but ASCII: a byte is a column.
fn frame(lines: &[String], height: usize, width: usize) -> String {
    let mut frame = String::from("\x1b[H");
    let shown = if lines.len() > height { height.saturating_sub(1) } else { lines.len() };
    for (number, line) in lines[..shown].iter().enumerate() {
        let line = line.trim_end();
        let line = &line[..line.len().min(width)];
        // The title is shown in reverse.
        let (on, off) = if number == 0 { ("\x1b[7m", "\x1b[m") } else { ("", "") };
        let end = if number + 1 < height { "\r\n" } else { "" };
        frame.push_str(&format!("{on}{line}{off}\x1b[K{end}"));
    }
    if shown < lines.len() {
        let more = format!("{} more", lines.len() - shown);
        frame.push_str(&format!("{}\x1b[K", &more[..more.len().min(width)]));
    }
    frame.push_str("\x1b[J");
    frame
}

/// Until it is time to draw again; true: to end.
fn wait(poll: &mut Poll, screen: &Screen) -> Result<bool> {
    loop {
        for ready in poll.wait()? {
            match ready {
                Ready::Time | Ready::Signal(Signal::SIGWINCH) => return Ok(false),
                Ready::Signal(_) => return Ok(true),
                Ready::File(..) => {
                    let mut keys = [0; 64];
                    let count = nix::unistd::read(&screen.terminal, &mut keys).unwrap_or(0);
                    if count == 0 || keys[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 3 | 4)) {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// The terminal while it is ours.
struct Screen {
    terminal: File,
    original: Termios,
}

impl Screen {
    fn enter(terminal: OwnedFd) -> Result<Self> {
        let failed = |call: &str, errno| Error::new("set the terminal").call(call, errno);
        let original = tcgetattr(&terminal).map_err(|errno| failed("tcgetattr", errno))?;
        let mut mode = original.clone();
        // Keys come one by one, also Ctrl-C: so the screen is left in order.
        mode.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        mode.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        mode.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&terminal, SetArg::TCSADRAIN, &mode).map_err(|errno| failed("tcsetattr", errno))?;
        let screen = Self { terminal: terminal.into(), original };
        print(ENTER.as_bytes())?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to tell that the terminal has gone.
        let _ = print(LEAVE.as_bytes());
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.original);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_used_between_two_looks() {
        let at = |second, used| Samples::from([("a".to_owned(), (Duration::from_secs(second), used))]);
        assert_eq!(share("a", &at(1, 5.0), &at(3, 6.0)), Some(0.5));
        assert_eq!(share("a", &at(1, 5.0), &at(3, 1.0)), Some(0.0));
        assert_eq!(share("a", &at(1, 5.0), &at(1, 5.0)), None);
        assert_eq!(share("a", &Samples::new(), &at(1, 5.0)), None);
    }

    proptest! {
        /// What is too much for the screen is not written: it would scroll.
        #[test]
        fn a_frame_fits_its_screen(
            lines in prop::collection::vec("[ -~]{0,60}\n", 1..30), height in 1usize..20, width in 1usize..50,
        ) {
            let frame = frame(&lines, height, width);
            let bare = frame.replace("\x1b[H", "").replace("\x1b[7m", "").replace("\x1b[m", "");
            let bare = bare.replace("\x1b[K", "").replace("\x1b[J", "");
            let shown: Vec<&str> = bare.split("\r\n").collect();
            prop_assert!(shown.len() <= height.max(lines.len() + 1) && shown.iter().all(|line| line.len() <= width));
            prop_assert!(bare.matches('\n').count() < height);
        }
    }
}
