//! With a clock, a network and an etcd that are data as well.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn at(milliseconds: u64) -> Moment {
    Moment::from_millis(milliseconds)
}

/// A claim that holds its key since `now`, from a lease that was asked for then.
fn held(now: Moment) -> Claim {
    let mut claim = Claim::new(TTL);
    claim.want(now);
    for (ask, heard) in [
        (Ask::Look, Heard::Free),
        (Ask::Grant, Heard::Granted(7)),
        (Ask::Take(7), Heard::Won { token: 3, before: None }),
    ] {
        assert_eq!(claim.due(now).map(|(ask, _)| ask), Some(ask));
        claim.answered(heard, now);
    }
    claim
}

#[test]
fn it_is_renewed_three_times_as_often_as_it_must_be_and_sooner_where_that_fails() {
    let mut claim = held(at(0));
    assert_eq!(claim.usable(at(0)).map(|held| held.token), Some(3));
    let third = at(10_000) / 3;
    assert_eq!((claim.next(at(0)), claim.due(third - at(1))), (Some(third), None));
    assert_eq!(claim.due(third), Some((Ask::Renew(7), third + TTL / 6)));
    // Refused at once, it is asked again in a twelfth; without an answer in its time, at once.
    claim.failed(third);
    assert_eq!(claim.next(third), Some(third + TTL / 12));
    claim.due(third + TTL / 12).expect("a request");
    let later = third + TTL / 12 + TTL / 6;
    claim.failed(later);
    assert_eq!(claim.due(later).map(|(ask, _)| ask), Some(Ask::Renew(7)));
    assert_eq!(claim.axis(later), health::Lease::Expiring);
    claim.answered(Heard::Renewed, later + at(100));
    assert_eq!((claim.next(later), claim.axis(later + at(100))), (Some(later + third), health::Lease::Held));
    assert_eq!(claim.end(), Some(later + TTL));
}

#[test]
fn what_was_taken_away_ends_at_once() {
    let mut claim = held(at(0));
    claim.due(at(4000)).expect("a request");
    claim.answered(Heard::Gone, at(4100));
    assert_eq!(claim.axis(at(4100)), health::Lease::Lost);
    assert!(claim.deadline().is_some_and(|deadline| deadline <= at(4100)) && claim.usable(at(4100)).is_none());
}

#[test]
fn who_comes_after_another_one_waits_for_as_long_as_that_may_run() {
    let won = |claim: &mut Claim, lease, now| {
        claim.want(now);
        claim.due(now);
        claim.answered(Heard::Free, now);
        claim.due(now);
        claim.answered(Heard::Granted(lease), now);
        claim.due(now);
        claim.answered(Heard::Won { token: 3, before: Some(Before { lease: 5, ttl: 2 * TTL }) }, now);
    };
    let mut claim = Claim::new(TTL);
    won(&mut claim, 7, at(0));
    assert!(claim.usable(at(0)).is_none());
    assert_eq!(claim.axis(at(0)), health::Lease::Waiting);
    // Given back now, the next one would not know of the one before.
    let mut early = claim.clone();
    early.leave(at(0));
    assert!(early.idle());
    // Meanwhile it is renewed.
    for third in 1..6 {
        let now = TTL / 3 * third + at(1);
        claim.due(now).expect("a request");
        claim.answered(Heard::Renewed, now);
        assert!(claim.usable(now).is_none());
    }
    assert!(claim.usable(2 * TTL).is_some());
    // Its own container has ended when it looks for another one: it need not wait for that.
    let mut claim = held(at(0));
    claim.used();
    claim.lose();
    claim.own = Some(5);
    won(&mut claim, 8, at(1000));
    assert!(claim.usable(at(1000)).is_some());
}

#[test]
fn another_supervisor_goes_on_within_the_boot() {
    let mut claim = held(at(0));
    claim.used();
    let text = serde_json::to_string(&claim.save()).expect("JSON");
    let saved = serde_json::from_str(&text).expect("Saved");
    for (same_boot, deadline) in [(true, claim.deadline()), (false, None)] {
        let mut next = Claim::new(TTL);
        next.go_on(saved, same_boot, at(500));
        assert_eq!((next.deadline(), next.own), (deadline, Some(7)));
    }
}

/// One step of a script.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Send,
    Answer(bool),
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..3000).prop_map(Step::Wait),
        4 => Just(Step::Send),
        4 => prop::bool::weighted(0.95).prop_map(Step::Answer),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    /// Whatever is answered, lost or late: counted is from the sending of the last request whose answer was heard.
    #[test]
    fn the_fence_is_never_later_than_the_last_renewal_allows(steps in prop::collection::vec(step(), 1..200)) {
        let (mut claim, mut now) = (held(at(0)), at(0));
        let (mut sent, mut acknowledged) = (None, at(0));
        for step in steps {
            match step {
                Step::Wait(time) => now += at(time),
                Step::Send => sent = claim.due(now).map(|_| now).or(sent),
                Step::Answer(good) => {
                    let Some(sent) = sent.take() else { continue };
                    claim.answered(if good { Heard::Renewed } else { Heard::Gone }, now);
                    if !good {
                        prop_assert!(claim.deadline().is_some_and(|deadline| deadline <= now));
                        return Ok(());
                    }
                    acknowledged = sent;
                }
                Step::Fail => {
                    sent = None;
                    claim.failed(now);
                }
            }
            let limit = acknowledged + TTL - reserve(TTL);
            prop_assert_eq!(claim.deadline(), Some(limit));
            prop_assert!(claim.next(now).is_some_and(|next| next <= limit));
            prop_assert!(claim.usable(limit).is_none());
            if now >= limit {
                return Ok(());
            }
        }
    }

    /// Two of them, an etcd, and a network that loses, delays and parts; leases are taken away by others now and then.
    #[test]
    fn two_never_run_at_once_and_tokens_grow(seed in any::<u64>()) {
        let starts = World::new(seed).run();
        prop_assert!(starts.is_ok(), "{starts:?}");
    }
}

/// The model is no use in which nothing happens.
#[test]
fn in_most_worlds_the_key_changes_hands() {
    let starts: Vec<_> = (0..20).map(|seed| World::new(seed).run().expect("never two")).collect();
    assert!(starts.iter().filter(|starts| **starts >= 2).count() >= 15, "{starts:?}");
}

/// Milliseconds between two looks.
const TICK: u64 = 10;
const MODEL: Duration = Duration::from_secs(1);

struct Node {
    claim: Claim,
    runs: bool,
    /// The number of the request that is waited for, and until when.
    asked: Option<(u64, Moment)>,
    parted: bool,
    /// It is not scheduled until then.
    stalled: Moment,
}

/// What is on its way: when it arrives, whose it is, its number.
type Sent<T> = (Moment, usize, u64, T);

struct World {
    random: u64,
    now: Moment,
    nodes: [Node; 2],
    requests: Vec<Sent<Ask>>,
    answers: Vec<Sent<Heard>>,
    number: i64,
    /// Of etcd: the key's lease and create_revision, when each lease ends, and the other key.
    key: Option<(i64, i64)>,
    leases: HashMap<i64, Moment>,
    last: Option<i64>,
    token: i64,
    starts: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let node = || Node { claim: Claim::new(MODEL), runs: false, asked: None, parted: false, stalled: Moment::ZERO };
        Self {
            random: seed,
            now: at(1),
            nodes: [node(), node()],
            requests: Vec::new(),
            answers: Vec::new(),
            number: 0,
            key: None,
            leases: HashMap::new(),
            last: None,
            token: 0,
            starts: 0,
        }
    }

    /// From 0 to `below`; splitmix64.
    fn any(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn number(&mut self) -> i64 {
        self.number += 1;
        self.number
    }

    /// Half a minute. How often a container was started.
    fn run(mut self) -> std::result::Result<u32, String> {
        for _ in 0..3000 {
            self.now += at(TICK);
            self.etcd();
            for index in 0..2 {
                self.chance(index);
                if self.nodes[index].stalled <= self.now {
                    self.node(index)?;
                }
            }
            if self.nodes.iter().all(|node| node.runs) {
                return Err(format!("two run at {:?}", self.now));
            }
        }
        Ok(self.starts)
    }

    fn etcd(&mut self) {
        let now = self.now;
        if self.any(300) == 0
            && let Some((lease, _)) = self.key
        {
            self.leases.remove(&lease);
        }
        self.leases.retain(|_, end| *end > now);
        self.key = self.key.filter(|(lease, _)| self.leases.contains_key(lease));
        let (come, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.requests).into_iter().partition(|of| of.0 <= now);
        self.requests = later;
        for (_, node, number, ask) in come {
            let heard = self.heard(ask);
            if let (Some(heard), false) = (heard, self.nodes[node].parted) {
                let delay = at(self.any(60));
                self.answers.push((now + delay, node, number, heard));
            }
        }
    }

    fn heard(&mut self, ask: Ask) -> Option<Heard> {
        let end = self.now + MODEL;
        Some(match ask {
            Ask::Look if self.key.is_some() => Heard::Taken,
            Ask::Look => Heard::Free,
            Ask::Grant => {
                let lease = self.number();
                self.leases.insert(lease, end);
                Heard::Granted(lease)
            }
            Ask::Take(lease) => match self.key {
                Some((holder, token)) if holder == lease => {
                    Heard::Won { token, before: Some(Before { lease: 0, ttl: MODEL }) }
                }
                Some(_) => Heard::Taken,
                None if !self.leases.contains_key(&lease) => return None,
                None => {
                    let token = self.number();
                    self.key = Some((lease, token));
                    let before = self.last.replace(lease).map(|lease| Before { lease, ttl: MODEL });
                    Heard::Won { token, before }
                }
            },
            Ask::Renew(lease) => match self.leases.get_mut(&lease) {
                Some(lease) => {
                    *lease = end;
                    Heard::Renewed
                }
                None => Heard::Gone,
            },
            Ask::Leave(token) => {
                if self.key.is_some_and(|(_, own)| own == token) {
                    (self.key, self.last) = (None, None);
                }
                Heard::Left
            }
        })
    }

    /// What happens to a node: it is cut off or connected again, or the scheduler forgets it for as long as is reckoned with.
    fn chance(&mut self, index: usize) {
        if self.any(150) == 0 {
            self.nodes[index].parted ^= true;
        }
        if self.any(50) == 0 {
            let stall = self.any(reserve(MODEL).as_millis() as u64 - TICK);
            self.nodes[index].stalled = self.now + at(stall);
        }
    }

    fn node(&mut self, index: usize) -> std::result::Result<(), String> {
        let now = self.now;
        // Now and then; more often while the one before is waited for.
        let waits = self.nodes[index].claim.held().is_some() && !self.nodes[index].runs;
        let leaves = self.any(if waits { 40 } else { 400 }) == 0;
        let node = &mut self.nodes[index];
        if node.claim.deadline().is_some_and(|deadline| deadline <= now) {
            (node.runs, node.asked) = (false, None);
            node.claim.lose();
        }
        if leaves {
            (node.runs, node.asked) = (false, None);
            node.claim.leave(now);
        }
        if node.claim.idle() {
            node.claim.want(now);
        }
        if let (Some(held), false) = (node.claim.usable(now).copied(), node.runs) {
            node.runs = true;
            node.claim.used();
            self.starts += 1;
            if held.token <= self.token {
                return Err(format!("token {} after {}", held.token, self.token));
            }
            self.token = held.token;
        }
        let answers = std::mem::take(&mut self.answers);
        let (come, later): (Vec<_>, Vec<_>) = answers.into_iter().partition(|of| of.1 == index && of.0 <= now);
        self.answers = later;
        let node = &mut self.nodes[index];
        for (_, _, number, heard) in come {
            if node.asked.is_some_and(|(asked, _)| asked == number) {
                node.asked = None;
                node.claim.answered(heard, now);
            }
        }
        if node.asked.is_some_and(|(_, until)| until <= now) {
            node.asked = None;
            node.claim.failed(now);
        }
        if let Some((ask, until)) = node.claim.due(now) {
            let (number, delay, lost) = (self.number() as u64, at(self.any(60)), self.any(20) == 0);
            self.nodes[index].asked = Some((number, until));
            // One that is lost at first may arrive long after it was given up.
            let delay = if lost { delay + at(self.any(3000)) } else { delay };
            if !self.nodes[index].parted {
                self.requests.push((now + delay, index, number, ask));
            }
        }
        Ok(())
    }
}
