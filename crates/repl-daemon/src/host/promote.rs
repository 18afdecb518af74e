//! A promotion as the host sees it: what is to be done next, and what runs meanwhile.

use anyhow::Context;
use repl_core::promotion::{Action, Promotion, Step, Undo};
use tracing::{error, info, warn};

use super::generation::Generation;
use super::{Fixed, Host};
use crate::clock::now_ms;
use crate::promotion::record::info as shown;
use crate::promotion::{Course, Order};
use crate::roles;

/// What came of one action.
enum Outcome {
    /// There is more to do, at once.
    GoOn,
    /// It is to be tried again, later.
    Later,
    /// All is done.
    Over,
}

impl Fixed {
    /// Takes up a promotion that the daemon died in.
    pub(super) fn resume(&self) -> anyhow::Result<()> {
        let Some(mut promotion) = self.state.promotion() else {
            return Ok(());
        };
        let committed = self.committed(&promotion);
        promotion.resumed(committed, now_ms());
        info!(
            promotion = promotion.id,
            to = promotion.to,
            next = promotion.next().name(),
            "going on with a promotion"
        );
        let noted = self.state.replica(&promotion.from).is_some();
        match promotion.next() {
            // Not noted before: the new roles.
            Action::Do(Step::Open) if !noted => self.hand_over(&promotion),
            _ => self.state.set_promotion(Some(promotion)),
        }
    }

    /// The point of no return is passed: who is what from now on, and what is known of the new primary.
    fn hand_over(&self, promotion: &Promotion) -> anyhow::Result<()> {
        let tables = promotion
            .handover
            .iter()
            .flat_map(|handover| &handover.tables);
        let tables: Vec<_> = tables.cloned().collect();
        let epoch = u64::from(promotion.epoch.0);
        self.seen.inherit(
            &promotion.to,
            epoch,
            &tables,
            promotion.promises,
            promotion.all_wait,
        )?;
        self.state.hand_over(promotion, now_ms())
    }

    /// Whether the point of no return is passed.
    fn committed(&self, promotion: &Promotion) -> bool {
        let history = self.log.bounds().history;
        history.is_some_and(|history| {
            history.epoch >= promotion.epoch && history.source.node == promotion.to
        })
    }
}

impl Host {
    /// Begins what was ordered, if nothing speaks against it, and carries it out.
    pub(super) async fn begin_promotion(&mut self, order: Order) -> anyhow::Result<()> {
        let begun = self.admit(&order).await;
        let begins = begun.is_ok();
        // Whoever asked may have gone; the promotion is remembered.
        let _ = order.reply.send(begun);
        if begins {
            self.carry_on().await
        } else {
            Ok(())
        }
    }

    /// Takes up again what could not be done, or remembered, before.
    pub(super) async fn advance(&mut self) -> anyhow::Result<()> {
        self.fixed.resume()?;
        self.carry_on().await
    }

    /// Carries on with the promotion that is remembered, as far as it goes now.
    async fn carry_on(&mut self) -> anyhow::Result<()> {
        let Some(mut promotion) = self.fixed.state.promotion() else {
            return Ok(());
        };
        let mut config = roles::present(&self.fixed.config, self.fixed.log.as_ref());
        if config.primary.name == promotion.to {
            // Seen from before.
            config = config
                .with_primary(&promotion.from)
                .context("the old primary is not in the configuration")?;
        }
        let mut course = Course::new(
            &promotion,
            config,
            self.fixed.log.clone(),
            self.fixed.state.clone(),
            self.fixed.durable.clone(),
        )?;
        loop {
            match self.next(&mut course, &mut promotion).await? {
                Outcome::GoOn => {}
                Outcome::Later => return Ok(()),
                Outcome::Over => return self.conclude(promotion),
            }
        }
    }

    async fn next(
        &mut self,
        course: &mut Course,
        promotion: &mut Promotion,
    ) -> anyhow::Result<Outcome> {
        let action = promotion.next();
        match action {
            Action::Over { .. } => return Ok(Outcome::Over),
            // Nothing of the old roles may run any more.
            Action::Do(Step::Counters | Step::Capture | Step::Commit) => {
                self.end_generation().await?
            }
            // Nothing of the old primary is taken in, or acknowledged, any more.
            Action::Do(Step::Fence | Step::Drain) if promotion.cause.is_forced() => {
                if let Some(generation) = &mut self.generation {
                    generation.stop_capture().await;
                }
            }
            // Begins anew with its capture.
            Action::Undo(Undo::OpenOld) if promotion.cause.is_forced() => {
                self.end_generation().await?;
            }
            Action::Do(Step::Retire) | Action::Undo(Undo::StopCapture | Undo::LetGo) => {
                self.ensure_generation()?;
            }
            Action::Do(_) | Action::Undo(_) => {}
        }
        let present = self
            .generation
            .as_ref()
            .map(|generation| &generation.present);
        let acted = course.act(promotion, present).await;
        let committed =
            self.fixed.committed(promotion) || self.fixed.log.appended().epoch >= promotion.epoch;
        let failed = acted.is_err();
        match acted {
            Ok(result) => {
                info!(
                    promotion = promotion.id,
                    step = action.name(),
                    result,
                    "done"
                );
                promotion.done(result, now_ms());
            }
            Err(trouble) => {
                let (what, advice) = (&trouble.what, &trouble.advice);
                error!(
                    promotion = promotion.id,
                    step = action.name(),
                    what,
                    advice,
                    "not done"
                );
                promotion.failed(what.clone(), committed, now_ms());
            }
        }
        let over = matches!(promotion.next(), Action::Over { .. });
        let saved = match action {
            Action::Do(Step::Commit) if !failed => self.fixed.hand_over(promotion),
            // Written to the history first.
            _ if over => Ok(()),
            _ => self.fixed.state.set_promotion(Some(promotion.clone())),
        };
        if let Err(error) = saved {
            warn!(
                error = format!("{error:#}"),
                "cannot remember how the promotion stands"
            );
            if committed {
                return Ok(Outcome::Later);
            }
            // What is on the disk leads back too, if need be.
            if matches!(promotion.next(), Action::Do(_)) {
                promotion.failed(format!("{error:#}"), false, now_ms());
            }
        }
        if failed && promotion.next() == action {
            // Meanwhile what can run does.
            self.ensure_generation()?;
            return Ok(Outcome::Later);
        }
        Ok(Outcome::GoOn)
    }

    /// It has ended: remembered for good, and nothing is under way any more.
    fn conclude(&mut self, promotion: Promotion) -> anyhow::Result<()> {
        let promoted = promotion.next() == Action::Over { promoted: true };
        let ended = shown(&promotion, Some(now_ms()));
        let (id, gap_ms) = (promotion.id, ended.gap_ms);
        match &promotion.failure {
            Some(why) => warn!(promotion = id, why, "promotion taken back"),
            None => info!(promotion = id, promoted, gap_ms, "promotion done"),
        }
        if let Err(error) = self.fixed.promotions.add(ended) {
            warn!(
                error = format!("{error:#}"),
                "the promotion is missing in the history"
            );
        }
        if let Err(error) = self.fixed.state.set_promotion(None) {
            // Taken up again, it finds nothing left to do.
            warn!(
                error = format!("{error:#}"),
                "cannot remember that the promotion has ended"
            );
        }
        Ok(())
    }

    async fn end_generation(&mut self) -> anyhow::Result<()> {
        match self.generation.take() {
            Some(generation) => generation.stop().await,
            None => Ok(()),
        }
    }

    /// What depends on the roles runs with those of now.
    fn ensure_generation(&mut self) -> anyhow::Result<()> {
        if self.generation.is_some() {
            return Ok(());
        }
        let config = roles::present(&self.fixed.config, self.fixed.log.as_ref());
        let generation = Generation::start(&self.fixed, config)?;
        self.control.switch(&generation.running);
        self.generation = Some(generation);
        Ok(())
    }
}
