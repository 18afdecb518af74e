//! The rule against a model that decides transaction by transaction.

use std::time::Duration;

use super::{Level, Member, Mode, Need, OnTimeout, Phase, Quorum, Rule, Settings};
use crate::position::Seq;

/// Histories run through by the random test.
const HISTORIES: u64 = 120_000;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn settings(mode: Mode, need: u32) -> Settings {
    Settings {
        mode,
        need: Need::Count(need),
        max_queue: 3,
        ..Settings::asynchronous()
    }
}

fn members(counted: &[bool]) -> Vec<Member> {
    let member = |(index, &counted): (usize, &bool)| Member {
        name: format!("r{index}"),
        priority: 100,
        counted,
        durable: None,
    };
    counted.iter().enumerate().map(member).collect()
}

#[test]
fn sync_waits_for_all_that_count_and_for_nobody_never() {
    let mut rule = Rule::new(
        settings(Mode::Sync, 1),
        members(&[true, true, false]),
        Seq(0),
        seconds(0),
    );
    rule.logged(Seq(5), seconds(1));
    rule.durable(0, Some(Seq(5)), seconds(2));
    assert_eq!(rule.released(), Seq(0));
    rule.durable(1, Some(Seq(4)), seconds(3));
    assert_eq!((rule.released(), rule.phase()), (Seq(4), &Phase::InForce));
    rule.durable(1, Some(Seq(9)), seconds(4));
    assert_eq!(rule.released(), Seq(5));
    rule.counts(0, false, seconds(5));
    rule.counts(1, false, seconds(5));
    rule.logged(Seq(6), seconds(6));
    rule.tick(seconds(1000));
    assert_eq!(rule.released(), Seq(5));
    assert_eq!(rule.standing().waiting_since, Some(seconds(6)));
}

#[test]
fn semi_sync_waits_for_any_or_for_the_first() {
    let mut any = settings(Mode::SemiSync, 2);
    let mut roster = members(&[true, true, true]);
    roster[2].priority = 200;
    let report = |settings: Settings| {
        let mut rule = Rule::new(settings, roster.clone(), Seq(10), seconds(0));
        for (member, durable) in [(0, 9), (1, 8), (2, 3)] {
            rule.durable(member, Some(Seq(durable)), seconds(0));
        }
        rule.released()
    };
    assert_eq!(report(any), Seq(8));
    any.need = Need::Majority;
    assert_eq!(report(any), Seq(8));
    any.quorum = Quorum::First;
    // r2 by its priority, r0 by its place.
    assert_eq!(report(any), Seq(3));
    any.level = Level::Logged;
    assert_eq!(report(any), Seq(10));
    any.level = Level::Applied;
    any.need = Need::Count(4);
    assert_eq!(report(any), Seq(0));
}

#[test]
fn it_degrades_after_the_timeout_and_returns_once_the_replicas_have_caught_up() {
    let mut asked = settings(Mode::Sync, 1);
    asked.on_timeout = OnTimeout::Degrade;
    let mut rule = Rule::new(asked, members(&[true]), Seq(0), seconds(0));
    rule.durable(0, Some(Seq(0)), seconds(0));
    assert_eq!(rule.phase(), &Phase::InForce);
    rule.logged(Seq(1), seconds(100));
    assert_eq!(rule.due(), Some(seconds(110)));
    rule.tick(seconds(109));
    assert_eq!(rule.released(), Seq(0));
    rule.tick(seconds(110));
    assert_eq!(rule.released(), Seq(1));
    let Phase::Degraded(degraded) = rule.phase() else {
        panic!("{:?}", rule.phase());
    };
    assert!(degraded.why.contains("r0"), "{}", degraded.why);
    // Commits go on; near, but without a sign of life, is not enough.
    rule.logged(Seq(2), seconds(111));
    assert_eq!(rule.released(), Seq(2));
    rule.durable(0, Some(Seq(1)), seconds(112));
    // From here on commits wait again, although the one released in between is not applied.
    assert_eq!(rule.phase(), &Phase::Enabling);
    rule.logged(Seq(3), seconds(113));
    assert_eq!(rule.released(), Seq(2));
    rule.durable(0, Some(Seq(2)), seconds(114));
    assert_eq!(rule.phase(), &Phase::InForce);
    rule.durable(0, Some(Seq(3)), seconds(114));
    assert_eq!(rule.released(), Seq(3));
}

#[test]
fn a_mode_comes_into_force_when_it_is_true_of_all_that_was_released() {
    let mut rule = Rule::new(
        Settings::asynchronous(),
        members(&[true]),
        Seq(100),
        seconds(0),
    );
    assert_eq!((rule.released(), rule.phase()), (Seq(100), &Phase::Off));
    rule.durable(0, Some(Seq(90)), seconds(1));
    rule.order(settings(Mode::Sync, 1), seconds(2));
    rule.logged(Seq(101), seconds(3));
    assert_eq!(
        (rule.released(), rule.phase()),
        (Seq(100), &Phase::Enabling)
    );
    rule.durable(0, Some(Seq(99)), seconds(4));
    assert_eq!(rule.phase(), &Phase::Enabling);
    rule.durable(0, Some(Seq(100)), seconds(5));
    assert_eq!(rule.phase(), &Phase::InForce);
    rule.order(Settings::asynchronous(), seconds(6));
    assert_eq!((rule.released(), rule.phase()), (Seq(101), &Phase::Off));
}

#[test]
fn a_transaction_counts_as_waiting_hardly_longer_than_it_has() {
    let mut asked = settings(Mode::Sync, 1);
    asked.timeout = seconds(640);
    let mut rule = Rule::new(asked, members(&[true]), Seq(0), seconds(0));
    rule.durable(0, Some(Seq(0)), seconds(0));
    for n in 1..=1000 {
        rule.logged(Seq(n), seconds(n));
    }
    for n in 1..1000 {
        rule.durable(0, Some(Seq(n)), seconds(2000));
        let since = rule.standing().waiting_since.unwrap();
        assert!(since <= seconds(n + 1), "{n}: {since:?}");
        assert!(since + seconds(20) > seconds(n + 1), "{n}: {since:?}");
    }
    rule.durable(0, Some(Seq(1000)), seconds(2000));
    assert_eq!(rule.standing().waiting_since, None);
}

/// xorshift64*: a failing history is repeated by its number.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Off,
    Enabling,
    InForce,
    Degraded(u64),
}

/// Keeps everything and looks at every transaction by itself.
struct Model {
    settings: Settings,
    members: Vec<Member>,
    logged_at: Vec<Duration>,
    released: u64,
    place: Place,
}

impl Model {
    /// Whether the rule is fulfilled for one transaction.
    fn fulfilled(&self, seq: u64) -> bool {
        let has = |member: &&Member| member.durable.is_some_and(|durable| durable.0 >= seq);
        let counted: Vec<&Member> = self.members.iter().filter(|m| m.counted).collect();
        let n = match self.settings.need {
            Need::Count(n) => n as usize,
            Need::Majority => self.members.len() / 2 + 1,
        };
        if self.settings.mode == Mode::Async || self.settings.level == Level::Logged {
            return true;
        }
        match (self.settings.mode, self.settings.quorum) {
            (Mode::Async, _) => true,
            (Mode::Sync, _) => !counted.is_empty() && counted.iter().all(has),
            (Mode::SemiSync, Quorum::Any) => counted.iter().filter(|m| has(m)).count() >= n,
            (Mode::SemiSync, Quorum::First) => {
                // As many as that, each of which has fewer than n before it.
                let before = |index: usize| {
                    let own = counted[index].priority;
                    let ahead = |&other: &usize| {
                        counted[other].priority > own
                            || (counted[other].priority == own && other < index)
                    };
                    (0..counted.len()).filter(ahead).count()
                };
                let first: Vec<usize> = (0..counted.len()).filter(|&i| before(i) < n).collect();
                first.len() == n && first.iter().all(|&i| has(&counted[i]))
            }
        }
    }

    fn met(&self) -> Option<u64> {
        let logged = self.logged_at.len() as u64;
        self.fulfilled(0)
            .then(|| (0..=logged).take_while(|&seq| self.fulfilled(seq)).last())
            .flatten()
    }

    fn waiting_since(&self) -> Option<Duration> {
        self.logged_at.get(self.released as usize).copied()
    }

    fn release(&mut self) {
        let through = match self.place {
            Place::Off | Place::Degraded(_) => Some(self.logged_at.len() as u64),
            Place::Enabling | Place::InForce => self.met(),
        };
        self.released = self.released.max(through.unwrap_or(0));
    }

    fn step(&mut self, now: Duration) {
        let logged = self.logged_at.len() as u64;
        let near = |met: u64| logged - met <= self.settings.max_queue;
        if let (Place::Degraded(end), Some(met)) = (self.place, self.met())
            && met >= end
            && near(met)
        {
            self.place = Place::Enabling;
        }
        self.release();
        let strict = matches!(self.place, Place::Enabling | Place::InForce);
        if strict
            && self.settings.on_timeout == OnTimeout::Degrade
            && self
                .waiting_since()
                .is_some_and(|since| since + self.settings.timeout <= now)
        {
            self.place = Place::Degraded(logged);
            self.release();
        }
        let near = |met: u64| logged - met <= self.settings.max_queue;
        if let (Place::Enabling, Some(met)) = (self.place, self.met())
            && met >= self.released
            && near(met)
        {
            self.place = Place::InForce;
        }
    }
}

fn random_settings(random: &mut Random) -> Settings {
    Settings {
        mode: random.of(&[
            Mode::Async,
            Mode::SemiSync,
            Mode::SemiSync,
            Mode::Sync,
            Mode::Sync,
        ]),
        need: random.of(&[
            Need::Count(1),
            Need::Count(2),
            Need::Count(3),
            Need::Majority,
        ]),
        quorum: random.of(&[Quorum::Any, Quorum::First]),
        level: random.of(&[
            Level::Applied,
            Level::Applied,
            Level::Applied,
            Level::Logged,
        ]),
        on_timeout: random.of(&[OnTimeout::Block, OnTimeout::Degrade]),
        timeout: seconds(random.below(6) + 1),
        max_queue: random.below(6),
    }
}

/// One history; panics where the rule and the model part.
fn history(number: u64) {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..4 {
        random.below(2);
    }
    let mut roster = members(&vec![false; random.below(5) as usize]);
    for member in &mut roster {
        member.priority = random.below(3) as u32;
        member.counted = random.below(2) == 0;
    }
    let asked = random_settings(&mut random);
    let mut rule = Rule::new(asked, roster.clone(), Seq(0), seconds(0));
    let mut model = Model {
        settings: asked,
        members: roster,
        logged_at: Vec::new(),
        released: 0,
        place: if asked.mode == Mode::Async {
            Place::Off
        } else {
            Place::Enabling
        },
    };
    let mut now = seconds(0);
    model.step(now);
    for step in 0..40 {
        let (released, all) = (model.released, model.members.len() as u64);
        match random.below(12) {
            0..=3 => {
                let more = random.below(3) + 1;
                let end = model.logged_at.len() as u64 + more;
                model.logged_at.resize(end as usize, now);
                rule.logged(Seq(end), now);
            }
            4..=7 if all > 0 => {
                let member = random.below(all) as usize;
                // Some are ahead of the log's durable end, some come back from a crash with less.
                let most = model.logged_at.len() as u64 + 2;
                let durable = (random.below(10) > 0).then(|| Seq(random.below(most + 1)));
                model.members[member].durable = durable;
                rule.durable(member, durable, now);
            }
            8 if all > 0 => {
                let member = random.below(all) as usize;
                let counted = random.below(2) == 0;
                model.members[member].counted = counted;
                rule.counts(member, counted, now);
            }
            9 => {
                let asked = random_settings(&mut random);
                model.settings = asked;
                model.place = if asked.mode == Mode::Async {
                    Place::Off
                } else {
                    Place::Enabling
                };
                rule.order(asked, now);
            }
            _ => {
                now += seconds(random.below(4));
                rule.tick(now);
            }
        }
        model.step(now);
        let place = match rule.phase() {
            Phase::Off => Place::Off,
            Phase::Enabling => Place::Enabling,
            Phase::InForce => Place::InForce,
            Phase::Degraded(degraded) => Place::Degraded(degraded.end.0),
        };
        let at = format!("history {number}, step {step}");
        assert_eq!(
            (rule.released().0, place),
            (model.released, model.place),
            "{at}"
        );
        assert_eq!(rule.standing().waiting_since, model.waiting_since(), "{at}");
        // What the promise is, in its own words.
        assert!(model.released >= released && model.released <= model.logged_at.len() as u64);
        if matches!(place, Place::InForce) {
            for seq in released + 1..=model.released {
                assert!(
                    model.fulfilled(seq),
                    "{at}: {seq} was released and is not everywhere"
                );
            }
        }
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    (0..HISTORIES).for_each(history);
}
