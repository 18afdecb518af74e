//! The state machine.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Level, Mode, OnTimeout, Quorum, Settings};
use crate::failpoint;
use crate::position::Seq;

/// Transactions that became durable in the log within this share of the timeout count as waiting
/// since the first of them did.
const INSTANTS_PER_TIMEOUT: u32 = 32;

/// Most instants kept; where commits wait without end there may be more, and neighbours are merged.
const MAX_INSTANTS: usize = 64;

/// A replica that may count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Larger is preferred.
    pub priority: u32,
    /// Whether it counts now.
    pub counted: bool,
    /// What it cannot lose any more; none while that is not known.
    pub durable: Option<Seq>,
}

/// Where the mode stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing waits.
    Off,
    /// The rule is followed, but it is not yet true of everything that was released before, or the
    /// replicas are too far behind for commits to wait for them.
    Enabling,
    /// Every commit that is released fulfils the rule.
    InForce,
    /// Commits had waited for too long: what is durable in the log is released.
    Degraded(Degraded),
}

/// Since when and why less is promised than was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Since when.
    pub since: Duration,
    /// What the log held then. The replicas must come so far before the rule returns, or one that
    /// stands still would stop the commits again and again.
    pub end: Seq,
    /// Why, for people.
    pub why: String,
}

/// What is true now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What was asked for.
    pub settings: Settings,
    /// Where it stands.
    pub phase: Phase,
    /// Through where commits are released.
    pub released: Seq,
    /// Since when the oldest commit that is not released has been durable in the log.
    pub waiting_since: Option<Duration>,
    /// Replicas a commit waits for.
    pub needed: usize,
    /// Those that may count.
    pub members: Vec<Member>,
}

/// The rule of one group.
pub struct Rule {
    settings: Settings,
    members: Vec<Member>,
    logged: Seq,
    released: Seq,
    phase: Phase,
    /// (first, when): the transactions from `first` on were durable in the log not before `when`.
    /// Oldest first; begins with what holds the oldest that is not released.
    instants: VecDeque<(Seq, Duration)>,
}

impl Rule {
    /// The rule for `members`, of whom nothing is known yet. Nothing is released before it is known
    /// to fulfil the rule: commits may be waiting since before.
    pub fn new(settings: Settings, members: Vec<Member>, logged: Seq, now: Duration) -> Rule {
        let mut rule = Rule {
            settings,
            members,
            logged: Seq(0),
            released: Seq(0),
            phase: Phase::Off,
            instants: VecDeque::new(),
        };
        rule.order(settings, now);
        rule.logged(logged, now);
        rule
    }

    /// The operator asks for something else. What was released stays so; it is in force when it is
    /// true of all that is released.
    pub fn order(&mut self, settings: Settings, now: Duration) {
        self.settings = settings;
        self.phase = match settings.mode {
            Mode::Async => Phase::Off,
            Mode::SemiSync | Mode::Sync => Phase::Enabling,
        };
        self.advance(now);
    }

    /// The log's durable end moved to `end`.
    pub fn logged(&mut self, end: Seq, now: Duration) {
        if end > self.logged {
            self.note_instant(now);
            self.logged = end;
        }
        self.advance(now);
    }

    /// What a replica cannot lose any more.
    pub fn durable(&mut self, member: usize, durable: Option<Seq>, now: Duration) {
        if let Some(member) = self.members.get_mut(member) {
            member.durable = durable;
        }
        self.advance(now);
    }

    /// A replica counts from now on, or does not any more. To be called once that is remembered
    /// durably.
    pub fn counts(&mut self, member: usize, counted: bool, now: Duration) {
        if let Some(member) = self.members.get_mut(member) {
            member.counted = counted;
        }
        self.advance(now);
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration) {
        self.advance(now);
    }

    /// When [`Rule::tick`] is due at the latest; none while time changes nothing.
    pub fn due(&self) -> Option<Duration> {
        let strict = matches!(self.phase, Phase::Enabling | Phase::InForce);
        let since = self.waiting_since()?;
        (strict && self.settings.on_timeout == OnTimeout::Degrade)
            .then(|| since + self.settings.timeout)
    }

    /// Through where the primary may be told that commits are applied. Never moves backwards.
    pub fn released(&self) -> Seq {
        self.released
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the mode stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// How far behind the log a replica is, transactions; none while it is not known.
    pub fn queue(&self, member: usize) -> Option<u64> {
        let durable = self.members.get(member)?.durable?;
        Some(self.logged.0.saturating_sub(durable.0))
    }

    /// Everything, for status.
    pub fn standing(&self) -> Standing {
        Standing {
            settings: self.settings,
            phase: self.phase.clone(),
            released: self.released,
            waiting_since: self.waiting_since(),
            needed: self.settings.needed(self.members.len()),
            members: self.members.clone(),
        }
    }

    fn waiting_since(&self) -> Option<Duration> {
        (self.released < self.logged)
            .then(|| self.instants.front().map(|&(_, when)| when))
            .flatten()
    }

    fn advance(&mut self, now: Duration) {
        let met = self.met();
        self.return_from_degraded(met);
        self.release(met);
        let late = self.due().is_some_and(|due| due <= now);
        if late {
            self.phase = Phase::Degraded(Degraded {
                since: now,
                end: self.logged,
                why: self.shortage(),
            });
            self.release(met);
        }
        self.come_into_force(met);
    }

    /// Through where the rule is fulfilled; none when it is for nothing.
    fn met(&self) -> Option<Seq> {
        if self.settings.mode == Mode::Async || self.settings.level == Level::Logged {
            return Some(self.logged);
        }
        let mut counted: Vec<&Member> = self.members.iter().filter(|m| m.counted).collect();
        let needed = self.settings.needed(self.members.len());
        match (self.settings.mode, self.settings.quorum) {
            // Nobody is not everybody.
            (Mode::Sync, _) if counted.is_empty() => return None,
            (Mode::Async | Mode::Sync, _) => {}
            (Mode::SemiSync, Quorum::First) => {
                // Stable: the order of the configuration decides among equals.
                counted.sort_by_key(|member| std::cmp::Reverse(member.priority));
                counted.truncate(broken_by_one(needed));
            }
            (Mode::SemiSync, Quorum::Any) => {
                counted.sort_by_key(|member| std::cmp::Reverse(member.durable));
                counted.truncate(broken_by_one(needed));
            }
        }
        if self.settings.mode == Mode::SemiSync && counted.len() < broken_by_one(needed) {
            return None;
        }
        let mut met = self.logged;
        for member in counted {
            met = met.min(member.durable?);
        }
        Some(met)
    }

    fn release(&mut self, met: Option<Seq>) {
        let through = match self.phase {
            Phase::Off | Phase::Degraded(_) => Some(self.logged),
            Phase::Enabling | Phase::InForce => met,
        };
        self.released = self.released.max(through.unwrap_or_default());
        while let Some(&(next, _)) = self.instants.get(1)
            && next <= self.released.next()
        {
            self.instants.pop_front();
        }
        if self.released >= self.logged {
            self.instants.clear();
        }
    }

    fn return_from_degraded(&mut self, met: Option<Seq>) {
        if let (Phase::Degraded(degraded), Some(met)) = (&self.phase, met)
            && met >= degraded.end
            && self.is_near(met)
        {
            self.phase = Phase::Enabling;
        }
    }

    fn come_into_force(&mut self, met: Option<Seq>) {
        if let (Phase::Enabling, Some(met)) = (&self.phase, met)
            && met >= self.released
            && self.is_near(met)
        {
            self.phase = Phase::InForce;
        }
    }

    fn is_near(&self, met: Seq) -> bool {
        self.logged.0.saturating_sub(met.0) <= self.settings.max_queue
    }

    /// Why commits waited.
    fn shortage(&self) -> String {
        let counted = self.members.iter().filter(|m| m.counted).count();
        let needed = self.settings.needed(self.members.len());
        if counted == 0 || (self.settings.mode == Mode::SemiSync && counted < needed) {
            return format!("{counted} replicas count, and {needed} are waited for");
        }
        let behind: Vec<&str> = self
            .members
            .iter()
            .filter(|m| m.counted && m.durable.is_none_or(|durable| durable <= self.released))
            .map(|m| m.name.as_str())
            .collect();
        format!(
            "{} did not apply a commit within {:?}",
            behind.join(", "),
            self.settings.timeout
        )
    }

    /// What comes next in the log is durable since `now`.
    fn note_instant(&mut self, now: Duration) {
        let slot = self.settings.timeout / INSTANTS_PER_TIMEOUT;
        if self
            .instants
            .back()
            .is_some_and(|&(_, last)| now < last + slot)
        {
            return;
        }
        self.instants.push_back((self.logged.next(), now));
        if self.instants.len() <= MAX_INSTANTS {
            return;
        }
        // The earlier instant of each pair stands for both.
        let mut keep = false;
        self.instants.retain(|_| {
            keep = !keep;
            keep
        });
    }
}

/// The deliberately broken build waits for one replica too few.
fn broken_by_one(needed: usize) -> usize {
    if failpoint::sabotage("one-replica-too-few") {
        needed - 1
    } else {
        needed
    }
}
