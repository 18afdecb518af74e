//! The steps that are different when the old primary is not asked.

use std::collections::BTreeSet;
use std::time::Duration;

use repl_connectors::seam::RoleSwitch;
use repl_core::deposed::{Deposed, Loss};
use repl_core::promotion::{Cause, Promotion};
use tokio::time::{Instant, timeout};

use super::steps::{COUNTERS_WAIT, Course, Present, Trouble, noted, trouble, unread_note};
use crate::clock::now_ms;
use crate::status::Group;

/// How long a primary that is taken for dead is waited for once more.
pub const LAST_CHANCE: Duration = Duration::from_millis(500);

/// Whether commits of the primary, which is not asked, waited as the mode says, to the end; but for those
/// that the operator has accepted not to.
pub fn promised(group: &Group, primary: &dyn RoleSwitch) -> bool {
    let seen = group.primary_seen();
    // What happened to the mode while the daemon was down is not known, unless nothing could have.
    let watched = seen.at_ms >= group.started_ms || group.modes.never_gives_up();
    let waited = group.modes.promises() && primary.commits_can_wait();
    seen.promised && watched && waited
}

/// What the primary may have that the log has not, while it is not asked.
pub fn loss(group: &Group, primary: &dyn RoleSwitch) -> Loss {
    let seen = group.primary_seen();
    if seen.all_wait && promised(group, primary) {
        return Loss::Nothing;
    }
    let heard = seen.at_ms > 0;
    let end = group.log.bounds().durable.position;
    Loss::Possible {
        bytes: heard
            .then(|| primary.distance(&end, &seen.position))
            .flatten(),
        heard_ms: heard.then_some(seen.at_ms),
    }
}

/// The same in words.
pub fn say(loss: &Loss, primary: &str) -> String {
    match loss {
        Loss::Nothing => "nothing acknowledged is lost: commits waited as the mode says".to_owned(),
        Loss::Possible { bytes, heard_ms } => {
            let bytes = bytes.map_or("an unknown amount".to_owned(), |bytes| {
                format!("{bytes} bytes")
            });
            let since = heard_ms.map_or("at any time".to_owned(), |heard| {
                format!("in the {} ms since", now_ms().saturating_sub(heard))
            });
            format!(
                "may be lost: {bytes} that {primary} had written beyond the log when it was last heard, \
                 and what it committed {since}"
            )
        }
    }
}

impl Course {
    /// One that answers after all is not replaced, unless that was ordered.
    pub(super) async fn stand_in(
        &self,
        promotion: &Promotion,
        present: &Present,
    ) -> Result<String, Trouble> {
        let from = &self.parties.from;
        let answers = timeout(LAST_CHANCE, from.role.answer()).await;
        if matches!(answers, Ok(Ok(()))) && promotion.cause != Cause::Overruled {
            let mut refusal = trouble(format!("{} answers again", from.name));
            refusal.advice = "nothing is lost by a planned promotion".into();
            return Err(refusal);
        }
        if present.group.primary_seen().tables.is_empty() {
            return Err(trouble(format!(
                "which tables {} has was never learnt",
                from.name
            )));
        }
        self.prepare(present).await
    }

    /// Capture has ended: nothing of the old primary is acknowledged any more.
    pub(super) async fn depose(
        &self,
        promotion: &Promotion,
        present: &Present,
    ) -> Result<String, Trouble> {
        let name = &self.parties.from.name;
        let tables = present.group.primary_seen().names();
        if promotion.cause == Cause::Overruled {
            let patience = self.config.promotion.fence_timeout;
            self.parties.from.role.depose(&tables, patience).await?;
            let count = tables.len();
            return Ok(format!("{name} refuses writes to {count} tables, verified"));
        }
        Ok(format!(
            "{name} does not answer: it is fenced as soon as it does"
        ))
    }

    /// Takes a fence back that may have been put up; one that never was reached needs none.
    pub(super) async fn reopen(&self, promotion: &Promotion) -> Result<String, Trouble> {
        if promotion.cause == Cause::Overruled || promotion.closed {
            return self.open_old().await;
        }
        Ok(format!("{} was not touched", self.parties.from.name))
    }

    /// What the log holds is durable in it, and at the new primary.
    pub(super) async fn drain_log(
        &mut self,
        promotion: &mut Promotion,
        present: &Present,
    ) -> Result<String, Trouble> {
        let until = Instant::now() + self.config.promotion.drain_timeout;
        let seq = self.log.appended().seq;
        let logged = self.durable.wait_for(|now| now.seq >= seq).await;
        logged.map_err(|_| trouble("the event log's writer has stopped"))?;
        self.arrive(seq, present, until).await?;
        promotion.promises = present.group.modes.promises();
        let loss = loss(&present.group, self.parties.from.role.as_ref());
        let bounds = self.log.bounds();
        let source = bounds.history.map(|history| history.source);
        promotion.deposed = Some(Deposed {
            source: source.ok_or_else(|| trouble("the event log holds no history"))?,
            end: bounds.durable.position,
            at_ms: now_ms(),
            found: None,
            ordered: false,
            unacknowledged: loss == Loss::Nothing,
        });
        promotion.handover = Some(self.handover(seq, &present.group)?);
        promotion.loss = Some(loss);
        self.sampled = present.group.primary_seen().counters;
        Ok(format!(
            "everything in the log, through transaction {seq}, is on {}; {}",
            self.parties.to.name,
            say(&loss, &self.parties.from.name)
        ))
    }

    /// Sequences can only be judged by when they were last read, and by the rows that are there.
    pub(super) async fn guess_counters(&self, promotion: &Promotion) -> Result<String, Trouble> {
        self.nothing_came(promotion)?;
        let to = &self.parties.to.role;
        let (used, unread) = to.used(COUNTERS_WAIT).await?;
        let mut counters = self.sampled.clone();
        counters.extend(used);
        let margin = self.config.promotion.sequence_margin;
        let mut notes = to.advance(&counters, margin).await?;
        notes.extend(unread.iter().map(|column| unread_note(column)));
        let used = counters.iter().filter(|one| one.last.is_some());
        let names: BTreeSet<_> = used.map(|one| &one.name).collect();
        Ok(format!(
            "{} sequences advanced beyond what was last seen and what the rows hold, verified{}",
            names.len(),
            noted(&notes)
        ))
    }
}
