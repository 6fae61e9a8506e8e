//! Probes: when the next one is due, and what their answers come to. Fields and meanings are kubelet's
//! (`pkg/kubelet/prober`), with one addition: `window`, by which a probe that fails now and then is found as well.

use std::time::Duration;

pub use super::clock::Moment;
use super::health::Failure;

/// When a probe is made, and how its answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From the start of the container to the first one.
    pub initial_delay: Duration,
    /// From one to the next.
    pub period: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// So many in a row that pass make it pass.
    pub success_threshold: u32,
    /// So many in a row that fail make it fail.
    pub failure_threshold: u32,
    /// M of the last N that fail make it fail as well, in a row or not.
    pub window: Option<(u32, u32)>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            window: None,
        }
    }
}

/// What one probe has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Pass,
    /// No, or nothing in its time.
    Fail(Failure),
    /// The probe itself could not be made: it says nothing of the container.
    Error,
}

/// What a probe's answers have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough of them yet.
    Unknown,
    /// It passes.
    Pass,
    /// It fails.
    Fail(Failure),
}

/// One probe of one container's life: a new start has a new one.
#[derive(Debug, Clone)]
pub struct Probe {
    schedule: Schedule,
    next: Moment,
    /// When the last answer came that says something.
    heard: Option<Moment>,
    passed: u32,
    failed: u32,
    /// The last answers, the newest in bit 0; a failure is 1.
    last: u64,
    verdict: Verdict,
}

impl Probe {
    /// A probe of a container that was started at `start`. `jitter`, less than 1, spreads the first ones of many containers over
    /// a period.
    pub fn new(schedule: Schedule, start: Moment, jitter: f64) -> Self {
        let spread = schedule.period.mul_f64(jitter.clamp(0.0, 1.0));
        Self {
            schedule,
            next: start + schedule.initial_delay + spread,
            heard: None,
            passed: 0,
            failed: 0,
            last: 0,
            verdict: Verdict::Unknown,
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Moment {
        self.next
    }

    /// How long one may take.
    pub fn timeout(&self) -> Duration {
        self.schedule.timeout
    }

    /// It passed as far as an earlier supervisor knows.
    pub fn passed_before(&mut self, now: Moment) {
        self.verdict = Verdict::Pass;
        self.heard = Some(now);
    }

    /// What is known by now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How old the last answer is, and how often one should come: none before the first.
    pub fn age(&self, now: Moment) -> Option<super::health::Age> {
        let heard = self.heard?;
        // A probe that takes its whole time comes that much later.
        Some(super::health::Age {
            age: now.saturating_sub(heard),
            period: self.schedule.period + self.schedule.timeout,
        })
    }

    /// One is begun at `now`: what was missed while nobody looked is not made up for.
    pub fn begun(&mut self, now: Moment) {
        self.next = (self.next + self.schedule.period).max(now + self.schedule.period / 2);
    }

    /// Whatever it is about begins at `now`: the next one is due a period later.
    pub fn postponed(&mut self, now: Moment) {
        self.next = now + self.schedule.period;
    }

    /// It has found `answer`. True when the verdict is another one than before.
    pub fn answered(&mut self, now: Moment, answer: Answer) -> bool {
        let before = self.verdict;
        match answer {
            Answer::Error => return false,
            Answer::Pass => {
                self.passed = self.passed.saturating_add(1);
                self.failed = 0;
                self.last <<= 1;
                // As long as the window is bad, a pass between two failures is none.
                if self.passed >= self.schedule.success_threshold && !self.window_is_bad() {
                    self.verdict = Verdict::Pass;
                }
            }
            Answer::Fail(why) => {
                self.failed = self.failed.saturating_add(1);
                self.passed = 0;
                self.last = self.last << 1 | 1;
                if self.failed >= self.schedule.failure_threshold || self.window_is_bad() {
                    self.verdict = Verdict::Fail(why);
                }
            }
        }
        self.heard = Some(now);
        self.verdict != before
    }

    fn window_is_bad(&self) -> bool {
        self.schedule.window.is_some_and(|(bad, of)| {
            let mask = u64::MAX >> (64 - of.clamp(1, 64));
            (self.last & mask).count_ones() >= bad
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAIL: Answer = Answer::Fail(Failure::Answer);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn after(schedule: Schedule, answers: &[Answer]) -> Verdict {
        let mut probe = Probe::new(schedule, seconds(100), 0.0);
        for (second, answer) in answers.iter().enumerate() {
            probe.answered(seconds(100 + second as u64), *answer);
        }
        probe.verdict()
    }

    #[test]
    fn thresholds_count_what_comes_in_a_row() {
        let schedule = Schedule { success_threshold: 2, failure_threshold: 3, ..Schedule::default() };
        assert_eq!(after(schedule, &[Answer::Pass]), Verdict::Unknown);
        assert_eq!(after(schedule, &[Answer::Pass, FAIL, Answer::Pass]), Verdict::Unknown);
        assert_eq!(after(schedule, &[Answer::Pass, Answer::Pass]), Verdict::Pass);
        assert_eq!(after(schedule, &[Answer::Pass, Answer::Pass, FAIL, FAIL]), Verdict::Pass);
        assert_eq!(after(schedule, &[FAIL, FAIL, FAIL]), Verdict::Fail(Failure::Answer));
        assert_eq!(after(schedule, &[FAIL, FAIL, FAIL, Answer::Pass]), Verdict::Fail(Failure::Answer));
    }

    /// Every other one fails: never three in a row.
    #[test]
    fn a_window_finds_what_flaps() {
        let flapping = [FAIL, Answer::Pass].repeat(4);
        assert_eq!(after(Schedule::default(), &flapping), Verdict::Pass);
        let schedule = Schedule { window: Some((4, 10)), ..Schedule::default() };
        assert_eq!(after(schedule, &flapping), Verdict::Fail(Failure::Answer));
        let recovered: Vec<_> = flapping.into_iter().chain([Answer::Pass; 9]).collect();
        assert_eq!(after(schedule, &recovered), Verdict::Pass);
    }

    #[test]
    fn a_probe_that_cant_be_made_says_nothing() {
        assert_eq!(after(Schedule::default(), &[Answer::Error; 9]), Verdict::Unknown);
        assert_eq!(after(Schedule::default(), &[Answer::Pass, Answer::Error]), Verdict::Pass);
        let mut probe = Probe::new(Schedule::default(), seconds(0), 0.0);
        probe.answered(seconds(1), Answer::Pass);
        probe.answered(seconds(50), Answer::Error);
        assert_eq!(probe.age(seconds(60)).unwrap().age, seconds(59));
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let schedule = Schedule { initial_delay: seconds(5), ..Schedule::default() };
        let mut probe = Probe::new(schedule, seconds(100), 0.0);
        assert_eq!(probe.next(), seconds(105));
        probe.begun(seconds(105));
        assert_eq!(probe.next(), seconds(115));
        probe.begun(seconds(1000));
        assert_eq!(probe.next(), seconds(1005));
    }

    proptest! {
        /// A verdict changes by nothing but enough answers of one kind since the other.
        #[test]
        fn no_verdict_comes_of_too_few(
            answers in prop::collection::vec(prop::sample::select(vec![Answer::Pass, FAIL, Answer::Error]), 0..60),
            success in 1u32..5,
            failure in 1u32..5,
        ) {
            let schedule = Schedule { success_threshold: success, failure_threshold: failure, ..Schedule::default() };
            let told: Vec<_> = answers.iter().copied().filter(|answer| *answer != Answer::Error).collect();
            let tail = |kind: Answer| told.iter().rev().take_while(|answer| **answer == kind).count() as u32;
            match after(schedule, &answers) {
                Verdict::Pass => prop_assert!(tail(FAIL) < failure),
                Verdict::Fail(_) => prop_assert!(tail(Answer::Pass) < success),
                Verdict::Unknown => prop_assert!(tail(FAIL) < failure && tail(Answer::Pass) < success),
            }
        }
    }
}
