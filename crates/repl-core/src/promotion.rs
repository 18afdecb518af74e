//! A change of primary, as a state machine that survives the death of the daemon at any place.
//!
//! [`Promotion`] is what is persisted. Each step is written down as begun before anything is done
//! for it, and as done after; every step may be repeated. The *point of no return* is the durable
//! end of the log behind the new epoch's record, which [`Step::Commit`] appends. Before it whatever
//! goes wrong, a restart included, leads back: the steps that had begun are undone in reverse, and
//! the old primary goes on. Behind it there is only forward.
//!
//! A *forced* one goes the same way without asking the old primary, which is dead or cut off
//! ([`Cause`]). Nothing was done to that one, so an interrupted one begins again instead of going back:
//! the group has no primary to go back to.
//!
//! One daemon decides here. Several of them would put a lease between [`Step::Fence`] and
//! [`Step::Commit`]; nothing else depends on who decides.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::deposed::{Deposed, Loss};
use crate::position::Epoch;
use crate::schema::TableSchema;

/// The steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The new primary refuses writes, and publishes what is to be captured.
    Prepare,
    /// The old primary refuses writes, which a probe has verified.
    Fence,
    /// The log, and durably the new primary, hold everything the old one committed.
    Drain,
    /// Sequences of the new primary stand beyond anything used.
    Counters,
    /// From here on nothing written at the new primary would be missed.
    Capture,
    /// The new epoch's record is durable in the log: the point of no return.
    Commit,
    /// The new primary takes writes.
    Open,
    /// The old primary is a replica.
    Retire,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Step; 8] = [
        Step::Prepare,
        Step::Fence,
        Step::Drain,
        Step::Counters,
        Step::Capture,
        Step::Commit,
        Step::Open,
        Step::Retire,
    ];

    /// The name shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Step::Prepare => "prepare",
            Step::Fence => "fence",
            Step::Drain => "drain",
            Step::Counters => "counters",
            Step::Capture => "capture",
            Step::Commit => "commit",
            Step::Open => "open",
            Step::Retire => "retire",
        }
    }

    fn next(self) -> Option<Step> {
        let at = Step::ALL.iter().position(|step| *step == self)?;
        Step::ALL.get(at + 1).copied()
    }
}

/// What takes back a step that had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// The old primary takes writes again: first of all, whatever became of the other node.
    OpenOld,
    /// Nothing is captured at the node that was to become primary, and its commits wait for nobody.
    StopCapture,
    /// The other node is as it was: protected if it is to be, open if it is not.
    LetGo,
}

impl Undo {
    /// The name shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Undo::StopCapture => "undo-capture",
            Undo::OpenOld => "reopen",
            Undo::LetGo => "undo-prepare",
        }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Carry out this step.
    Do(Step),
    /// Take this back.
    Undo(Undo),
    /// Nothing: it has ended, for good or as if it had not been.
    Over {
        /// Whether the primary has changed.
        promoted: bool,
    },
}

impl Action {
    /// The name shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Action::Do(step) => step.name(),
            Action::Undo(undo) => undo.name(),
            Action::Over { .. } => "over",
        }
    }
}

/// One thing that was done, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Its name.
    pub step: String,
    /// When it began, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What came of it.
    pub result: String,
    /// Whether it was done.
    pub done: bool,
}

/// What the old primary holds when it becomes a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Everything through here, and nothing else.
    pub checkpoint: Checkpoint,
    /// In these tables, as the log knows them.
    pub tables: Vec<TableSchema>,
}

/// Why the primary changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The operator wants it, and the old primary takes part.
    #[default]
    Planned,
    /// The operator orders it without the old primary, which does not answer.
    Forced,
    /// As [`Cause::Forced`], although the old primary answers: it is fenced like any other.
    Overruled,
    /// The daemon itself found the old primary dead.
    Automatic,
}

impl Cause {
    /// The name shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Planned => "planned",
            Cause::Forced | Cause::Overruled => "forced",
            Cause::Automatic => "automatic",
        }
    }

    /// Whether what the old primary has that the log has not is given up.
    pub fn is_forced(self) -> bool {
        self != Cause::Planned
    }
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Forward(Step),
    Back(Undo),
    Over { promoted: bool },
}

/// A change of primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Counts the promotions of the group.
    pub id: u64,
    /// The primary so far.
    pub from: String,
    /// The primary to be.
    pub to: String,
    /// The epoch that begins with it.
    pub epoch: Epoch,
    /// When it was ordered, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// What was done so far, oldest first.
    pub passed: Vec<Passed>,
    /// Why it goes back; none while it does not.
    pub failure: Option<String>,
    /// Known once everything is drained.
    pub handover: Option<Handover>,
    /// Why the primary changes.
    #[serde(default)]
    pub cause: Cause,
    /// In what the old primary is held, where it was not asked: known with the handover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposed: Option<Deposed>,
    /// What may be lost by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Why the daemon did it by itself; empty when it was told to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// An earlier promotion that this one took the place of had the old primary refuse writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Commits of the new primary wait as the mode says from the first on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promises: bool,
    /// Without exception: none is set to wait for less.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_wait: bool,
    /// When the action under way began, milliseconds since the Unix epoch.
    pub since_ms: u64,
    way: Way,
}

impl Promotion {
    /// A promotion in which nothing was done yet.
    pub fn new(id: u64, from: &str, to: &str, epoch: Epoch, now_ms: u64) -> Promotion {
        Promotion {
            id,
            from: from.to_owned(),
            to: to.to_owned(),
            epoch,
            started_ms: now_ms,
            passed: Vec::new(),
            failure: None,
            handover: None,
            cause: Cause::Planned,
            deposed: None,
            loss: None,
            reason: String::new(),
            closed: false,
            promises: false,
            all_wait: false,
            since_ms: now_ms,
            way: Way::Forward(Step::Prepare),
        }
    }

    /// The same for another cause; `reason` says why the daemon does it by itself.
    #[must_use]
    pub fn because(mut self, cause: Cause, reason: &str) -> Promotion {
        self.cause = cause;
        reason.clone_into(&mut self.reason);
        self
    }

    /// Ends it where it waits for the old primary, to open it again: that one is dead, and a forced
    /// promotion of the same node takes over what else there was to take back. None where it does not
    /// wait so.
    pub fn replaced(&mut self, now_ms: u64) -> Option<Promotion> {
        if self.way != Way::Back(Undo::OpenOld) {
            return None;
        }
        self.note("given up: it is replaced by force".into(), false, now_ms);
        self.way = Way::Over { promoted: false };
        let next = Promotion::new(self.id + 1, &self.from, &self.to, self.epoch, now_ms);
        Some(Promotion {
            closed: true,
            ..next
        })
    }

    /// Ends it where it waits for the new primary, to open it: that one is dead, and `to` is to take its
    /// place by force, in the next epoch. None where it does not wait so.
    pub fn superseded(&mut self, to: &str, now_ms: u64) -> Option<Promotion> {
        if self.way != Way::Forward(Step::Open) {
            return None;
        }
        self.note(format!("given up: {to} takes its place"), false, now_ms);
        self.way = Way::Over { promoted: true };
        let next = Promotion::new(self.id + 1, &self.to, to, self.epoch.next(), now_ms);
        Some(Promotion {
            closed: true,
            ..next
        })
    }

    /// What is to be done next. To be persisted before it is done.
    pub fn next(&self) -> Action {
        match self.way {
            Way::Forward(step) => Action::Do(step),
            Way::Back(undo) => Action::Undo(undo),
            Way::Over { promoted } => Action::Over { promoted },
        }
    }

    /// What was to be done is done, durably.
    pub fn done(&mut self, result: impl Into<String>, now_ms: u64) {
        self.note(result.into(), true, now_ms);
        self.way = match self.way {
            Way::Forward(step) => step
                .next()
                .map_or(Way::Over { promoted: true }, Way::Forward),
            Way::Back(undo) => undo.next().map_or(Way::Over { promoted: false }, Way::Back),
            over @ Way::Over { .. } => over,
        };
    }

    /// What was to be done failed. Before the point of no return, which `committed` tells of, this
    /// leads back; behind it, and on the way back, the same is to be tried again.
    pub fn failed(&mut self, why: impl Into<String>, committed: bool, now_ms: u64) {
        let why = why.into();
        let again = match self.way {
            Way::Forward(_) => committed,
            Way::Back(_) | Way::Over { .. } => true,
        };
        // A repeated attempt is told once.
        let told = self.passed.last().is_some_and(|last| {
            !last.done && last.step == self.next().name() && last.result == why
        });
        if !(again && told) {
            self.note(why.clone(), false, now_ms);
        }
        if let (Way::Forward(step), false) = (self.way, again) {
            self.failure = Some(why);
            self.way = Way::Back(match step {
                Step::Prepare if !self.closed => Undo::StopCapture,
                _ => Undo::OpenOld,
            });
        }
    }

    /// The daemon was started again. `committed`: the log holds the new epoch's record.
    pub fn resumed(&mut self, committed: bool, now_ms: u64) {
        match (self.way, committed) {
            (Way::Forward(step), true) if step <= Step::Commit => {
                self.note(
                    "found done after a restart of the daemon".into(),
                    true,
                    now_ms,
                );
                self.way = Way::Forward(Step::Open);
            }
            (Way::Forward(Step::Prepare), false) if self.cause.is_forced() => {
                self.since_ms = now_ms;
            }
            (Way::Forward(_), false) if self.cause.is_forced() => {
                self.note(
                    "begun again after a restart of the daemon".into(),
                    false,
                    now_ms,
                );
                self.way = Way::Forward(Step::Prepare);
            }
            (Way::Forward(_), false) => {
                self.failed("the daemon was interrupted", false, now_ms);
            }
            _ => self.since_ms = now_ms,
        }
    }

    /// Whether the old primary may be refusing writes, or the new one not yet take them.
    pub fn is_closed(&self) -> bool {
        match self.way {
            // One that does not answer is not the primary any more as soon as another is to be.
            Way::Forward(Step::Prepare) => self.cause.is_forced(),
            Way::Forward(step) => (Step::Fence..=Step::Open).contains(&step),
            Way::Back(undo) => undo == Undo::OpenOld,
            Way::Over { .. } => false,
        }
    }

    fn note(&mut self, result: String, done: bool, now_ms: u64) {
        self.passed.push(Passed {
            step: self.next().name().to_owned(),
            at_ms: self.since_ms,
            took_ms: now_ms.saturating_sub(self.since_ms),
            result,
            done,
        });
        self.since_ms = now_ms;
    }
}

impl Undo {
    fn next(self) -> Option<Undo> {
        match self {
            Undo::OpenOld => Some(Undo::StopCapture),
            Undo::StopCapture => Some(Undo::LetGo),
            Undo::LetGo => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promotion() -> Promotion {
        Promotion::new(1, "main", "r1", Epoch(2), 100)
    }

    /// Advances until `step` is to be done.
    fn at(step: Step) -> Promotion {
        let mut promotion = promotion();
        while promotion.next() != Action::Do(step) {
            promotion.done("", 200);
        }
        promotion
    }

    fn to_the_end(promotion: &mut Promotion) -> (Vec<&'static str>, bool) {
        let mut done = Vec::new();
        loop {
            match promotion.next() {
                Action::Over { promoted } => return (done, promoted),
                action => done.push(action.name()),
            }
            promotion.done("", 300);
        }
    }

    #[test]
    fn all_steps_lead_to_the_end() {
        let mut promotion = promotion();
        let names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(to_the_end(&mut promotion), (names, true));
        assert_eq!(promotion.passed.len(), Step::ALL.len());
    }

    #[test]
    fn one_that_waits_for_a_dead_primary_gives_way_to_a_forced_one_that_reopens_if_it_fails() {
        let mut planned = at(Step::Drain);
        assert_eq!(planned.replaced(250), None);
        planned.failed("no answer", false, 250);
        let mut forced = planned.replaced(260).unwrap().because(Cause::Forced, "");
        assert_eq!(planned.next(), Action::Over { promoted: false });
        assert_eq!((forced.id, forced.next()), (2, Action::Do(Step::Prepare)));
        forced.failed("it answers again", false, 270);
        assert_eq!(forced.next(), Action::Undo(Undo::OpenOld));
        assert_eq!(forced.replaced(280).unwrap().id, 3);
    }

    #[test]
    fn one_that_waits_for_a_dead_new_primary_gives_way_to_a_forced_one_of_another() {
        let mut planned = at(Step::Commit);
        assert_eq!(planned.superseded("r2", 250), None);
        planned.done("", 250);
        planned.failed("no answer", true, 260);
        let next = planned.superseded("r2", 270).unwrap();
        assert_eq!(planned.next(), Action::Over { promoted: true });
        let mut forced = next.because(Cause::Forced, "");
        assert_eq!((forced.id, forced.epoch), (2, Epoch(3)));
        assert_eq!((forced.from.as_str(), forced.to.as_str()), ("r1", "r2"));
        // What is taken back is what was given up: the node in between is to be opened.
        forced.failed("it answers again", false, 280);
        assert_eq!(forced.next(), Action::Undo(Undo::OpenOld));
    }

    #[test]
    fn a_failure_before_the_point_of_no_return_undoes_what_had_begun() {
        let whole = ["reopen", "undo-capture", "undo-prepare"];
        for (step, undone) in [
            (Step::Prepare, &whole[1..]),
            (Step::Fence, &whole[..]),
            (Step::Drain, &whole[..]),
            (Step::Counters, &whole[..]),
            (Step::Capture, &whole[..]),
            (Step::Commit, &whole[..]),
        ] {
            for restarted in [false, true] {
                let mut promotion = at(step);
                match restarted {
                    true => promotion.resumed(false, 250),
                    false => promotion.failed("why", false, 250),
                }
                assert!(promotion.failure.is_some());
                assert_eq!(
                    to_the_end(&mut promotion),
                    (undone.to_vec(), false),
                    "{step:?}"
                );
            }
        }
    }

    #[test]
    fn behind_the_point_of_no_return_there_is_only_forward() {
        let mut promotion = at(Step::Commit);
        // The record was appended, and the daemon died before it could be noted.
        promotion.resumed(true, 250);
        assert_eq!(promotion.next(), Action::Do(Step::Open));
        for _ in 0..3 {
            promotion.failed("unreachable", true, 260);
            assert_eq!(promotion.next(), Action::Do(Step::Open));
        }
        let told = promotion.passed.iter().filter(|passed| !passed.done);
        assert_eq!(told.count(), 1, "the same failure is told once");
        promotion.resumed(true, 270);
        assert_eq!(to_the_end(&mut promotion), (vec!["open", "retire"], true));
    }

    #[test]
    fn the_way_back_is_not_left() {
        let mut promotion = at(Step::Capture);
        promotion.failed("no slot", false, 250);
        promotion.failed("unreachable", false, 260);
        promotion.resumed(false, 270);
        assert_eq!(promotion.next(), Action::Undo(Undo::OpenOld));
        let text = serde_json::to_string(&promotion).unwrap();
        assert_eq!(serde_json::from_str::<Promotion>(&text).unwrap(), promotion);
        assert!(!to_the_end(&mut promotion).1);
    }

    #[test]
    fn a_forced_one_that_was_interrupted_begins_again_until_it_has_committed() {
        for step in Step::ALL {
            let mut promotion = promotion().because(Cause::Automatic, "dead");
            while promotion.next() != Action::Do(step) {
                promotion.done("", 200);
            }
            let committed = step > Step::Commit;
            promotion.resumed(committed, 250);
            let next = if committed { step } else { Step::Prepare };
            assert_eq!(promotion.next(), Action::Do(next), "{step:?}");
            assert!(promotion.failure.is_none());
            assert!(to_the_end(&mut promotion).1);
        }
    }

    #[test]
    fn it_is_told_when_nobody_takes_writes() {
        let closed: Vec<bool> = Step::ALL.iter().map(|step| at(*step).is_closed()).collect();
        assert_eq!(closed, [false, true, true, true, true, true, true, false]);
        let mut back = at(Step::Drain);
        back.failed("late", false, 250);
        assert!(back.is_closed());
        back.done("", 260);
        assert!(!back.is_closed());
    }
}
