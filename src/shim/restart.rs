//! What follows an exit: nothing, or another start after a while.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::{Crash, Exit};
use super::probe::Moment;

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Never: somebody else decides.
    #[default]
    No,
    /// After an exit that went wrong.
    OnFailure,
    /// After every exit that nobody has asked for.
    Always,
}

/// How often and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// After which exits.
    pub when: When,
    /// So many starts in a row at most; None: without end.
    pub retries: Option<u32>,
    /// Before the first one. Each further one waits twice as long.
    pub first: Duration,
    /// What none waits longer than.
    pub longest: Duration,
    /// Who has run for so long begins anew.
    pub reset: Duration,
    /// So many exits within this time are a loop.
    pub window: (u32, Duration),
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            when: When::No,
            retries: None,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(300),
            reset: Duration::from_secs(600),
            window: (5, Duration::from_secs(600)),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It stays as it is.
    Stay,
    /// Another start at this moment.
    Start(Moment),
}

/// The exits of one container. Kept over a supervisor's death, but for the policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restarts {
    #[serde(skip)]
    policy: Policy,
    /// Starts in a row that came to nothing.
    row: u32,
    /// All that there were.
    total: u64,
    /// The exits within the window, the oldest first.
    exits: VecDeque<(Moment, Exit)>,
    crash: Crash,
}

impl Restarts {
    /// None yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, row: 0, total: 0, exits: VecDeque::new(), crash: Crash::None }
    }

    /// Those of an earlier supervisor, under a policy that is read anew.
    pub fn under(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Their times were of another boot's clock.
    pub fn another_boot(&mut self) {
        self.exits.clear();
    }

    /// How many starts there were beside the first.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether it ends again and again.
    pub fn crash(&self) -> Crash {
        self.crash
    }

    /// Every exit of the window was of the same kind: it is one fault, not bad luck.
    pub fn same(&self) -> bool {
        let mut exits = self.exits.iter().map(|(_, exit)| exit);
        exits.next().is_some_and(|first| exits.all(|other| other == first))
    }

    /// It has ended at `now` after `uptime`. `jitter`, between 0 and 1, keeps those that failed together from coming back
    /// together: a wait is shortened by up to a fifth.
    pub fn exited(&mut self, now: Moment, uptime: Duration, exit: Exit, jitter: f64) -> Next {
        // Its program has done nothing wrong, and who asks for a lease waits in any case.
        if exit == Exit::Fenced && self.policy.when != When::No {
            self.total += 1;
            return Next::Start(now);
        }
        if uptime >= self.policy.reset {
            self.row = 0;
            self.exits.clear();
        }
        let (most, within) = self.policy.window;
        self.exits.push_back((now, exit));
        // No more than make a loop are looked at.
        let old = |(then, _): &(Moment, Exit)| now.saturating_sub(*then) > within;
        while self.exits.len() > most as usize || self.exits.front().is_some_and(old) {
            self.exits.pop_front();
        }
        let again = match self.policy.when {
            _ if exit == Exit::Asked => false,
            When::No => false,
            When::OnFailure => !exit.good(),
            When::Always => true,
        };
        if !again || self.policy.retries.is_some_and(|retries| self.row >= retries) {
            let looped = again && self.exits.len() >= most as usize;
            self.crash = if looped { Crash::Loop } else { Crash::None };
            return Next::Stay;
        }
        let wait = self.wait(jitter);
        self.row = self.row.saturating_add(1);
        self.total += 1;
        self.crash = if self.exits.len() >= most as usize { Crash::Loop } else { Crash::Backoff };
        Next::Start(now + wait)
    }

    /// It runs; `uptime` says for how long. Who has run for long enough is in no loop any more.
    pub fn running(&mut self, uptime: Duration) {
        if uptime >= self.policy.reset || self.crash == Crash::Backoff {
            self.crash = Crash::None;
        }
    }

    fn wait(&self, jitter: f64) -> Duration {
        let doubled = self.policy.first.saturating_mul(1u32.checked_shl(self.row).unwrap_or(u32::MAX).max(1));
        doubled.min(self.policy.longest).mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn always() -> Restarts {
        Restarts::new(Policy { when: When::Always, ..Policy::default() })
    }

    fn wait(next: Next, now: Moment) -> Duration {
        match next {
            Next::Start(at) => at - now,
            Next::Stay => panic!("it stays"),
        }
    }

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_the_longest() {
        let mut restarts = always();
        let waits: Vec<_> = (0..14)
            .map(|second| wait(restarts.exited(SECOND * second, SECOND, Exit::Code(1), 0.0), SECOND * second))
            .collect();
        assert_eq!(waits[..4], [100, 200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[13], Duration::from_secs(300));
    }

    #[test]
    fn who_has_run_for_long_begins_anew() {
        let mut restarts = always();
        for _ in 0..6 {
            restarts.exited(SECOND, SECOND, Exit::Code(1), 0.0);
        }
        assert_eq!(restarts.crash(), Crash::Loop);
        let now = SECOND * 1000;
        assert_eq!(wait(restarts.exited(now, SECOND * 600, Exit::Code(1), 0.0), now), Duration::from_millis(100));
        assert_eq!((restarts.crash(), restarts.total()), (Crash::Backoff, 7));
    }

    #[test]
    fn a_loop_is_one_until_it_has_run_for_long() {
        let mut restarts = always();
        for number in 0..5 {
            restarts.exited(SECOND * number, SECOND, Exit::Signal(11), 0.0);
        }
        restarts.running(SECOND * 599);
        assert_eq!(restarts.crash(), Crash::Loop);
        assert!(restarts.same());
        restarts.running(SECOND * 600);
        assert_eq!(restarts.crash(), Crash::None);
    }

    #[test]
    fn a_policy_says_which_exits_count() {
        let next = |when, exit| {
            let mut restarts = Restarts::new(Policy { when, ..Policy::default() });
            restarts.exited(SECOND, SECOND, exit, 0.0) != Next::Stay
        };
        let exits = [Exit::Code(0), Exit::Code(1), Exit::Oom, Exit::Unknown, Exit::Asked];
        assert_eq!(exits.map(|exit| next(When::No, exit)), [false; 5]);
        assert_eq!(exits.map(|exit| next(When::OnFailure, exit)), [false, true, true, true, false]);
        assert_eq!(exits.map(|exit| next(When::Always, exit)), [true, true, true, true, false]);
    }

    #[test]
    fn want_of_a_lease_is_no_crash() {
        let policy = Policy { when: When::OnFailure, retries: Some(1), ..Policy::default() };
        let mut restarts = Restarts::new(policy);
        for number in 1..=20 {
            assert_eq!(restarts.exited(SECOND, SECOND, Exit::Fenced, 0.0), Next::Start(SECOND));
            assert_eq!((restarts.crash(), restarts.total()), (Crash::None, number));
        }
        assert_eq!(Restarts::new(Policy::default()).exited(SECOND, SECOND, Exit::Fenced, 0.0), Next::Stay);
    }

    #[test]
    fn retries_come_to_an_end() {
        let policy = Policy { when: When::OnFailure, retries: Some(2), ..Policy::default() };
        let mut restarts = Restarts::new(policy);
        let mut again = || restarts.exited(SECOND, SECOND, Exit::Code(1), 0.0) != Next::Stay;
        assert_eq!([again(), again(), again()], [true, true, false]);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest_nor_shorter_than_four_fifths_of_the_first(
            exits in 1u32..80, jitter in 0.0f64..1.0,
        ) {
            let mut restarts = always();
            for number in 0..exits {
                let now = SECOND * number;
                let waited = wait(restarts.exited(now, SECOND, Exit::Code(1), jitter), now);
                prop_assert!(waited <= Duration::from_secs(300) && waited >= Duration::from_millis(80));
            }
            prop_assert!(restarts.exits.len() <= 5);
        }
    }
}
