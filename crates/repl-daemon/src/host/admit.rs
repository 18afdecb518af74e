//! Whether an order to change the primary is followed.

use repl_api::ErrorCode;
use repl_core::promotion::Promotion;
use tracing::{info, warn};

use super::Host;
use crate::admin::ControlError;
use crate::clock::now_ms;
use crate::promotion::record::info as shown;
use crate::promotion::{Begun, Order, Parties, in_question, no_candidate, readiness};
use crate::status::Group;

impl Host {
    /// Remembers the promotion of the first replica in question that nothing speaks against.
    pub(super) async fn admit(&self, order: &Order) -> Result<Begun, ControlError> {
        let Some(generation) = &self.generation else {
            return Err(under_way());
        };
        let group = &generation.present.group;
        let before = self.fixed.state.promotion();
        if before.is_some() && !order.cause.is_forced() {
            return Err(under_way());
        }
        let mut refusal = no_candidate();
        for name in in_question(group, order.replica.as_deref()) {
            let outcome = match &before {
                Some(before) => self.replace(group, before.clone(), &name, order).await,
                None => self.begin(group, &name, order).await,
            };
            match outcome {
                Ok(begun) => return Ok(begun),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    async fn begin(&self, group: &Group, name: &str, order: &Order) -> Result<Begun, ControlError> {
        let parties = look(group, name, order).await?;
        let id = self.fixed.promotions.next_id();
        let epoch = self.fixed.log.appended().epoch.next();
        let (from, to) = (&parties.from.name, &parties.to.name);
        let promotion = Promotion::new(id, from, to, epoch, now_ms());
        self.remember(promotion, order)
    }

    /// A promotion that waits for one of its nodes, to open it, gives way to a forced one: of the same node
    /// where the old primary is waited for, of another where the new one is.
    async fn replace(
        &self,
        group: &Group,
        mut before: Promotion,
        name: &str,
        order: &Order,
    ) -> Result<Begun, ControlError> {
        if let Some(promotion) = before.superseded(name, now_ms()) {
            look(group, name, order).await?;
            return self.take_over(before, promotion, order);
        }
        let Some(promotion) = before.replaced(now_ms()) else {
            return Err(under_way());
        };
        let to = &promotion.to;
        if name != to {
            let what = format!("a promotion of {to} waits for {}", promotion.from);
            let advice = format!("have {to} take its place: replctl promote {to} --force");
            return Err(conflict(what, &advice));
        }
        look(group, to, order).await?;
        self.take_over(before, promotion, order)
    }

    /// `before` has ended, and `promotion` takes its place.
    fn take_over(
        &self,
        before: Promotion,
        promotion: Promotion,
        order: &Order,
    ) -> Result<Begun, ControlError> {
        // Should the daemon die in between, it is added once more when it has ended.
        if let Err(error) = self.fixed.promotions.add(shown(&before, Some(now_ms()))) {
            warn!(
                error = format!("{error:#}"),
                "the promotion that was given up is missing in the history"
            );
        }
        self.remember(promotion, order)
    }

    fn remember(&self, promotion: Promotion, order: &Order) -> Result<Begun, ControlError> {
        let promotion = promotion.because(order.cause, &order.reason);
        let id = promotion.id;
        let (from, to) = (promotion.from.clone(), promotion.to.clone());
        let begun = self.fixed.state.set_promotion(Some(promotion));
        begun.map_err(|error| {
            ControlError::new(
                ErrorCode::Unavailable,
                format!("the promotion cannot be remembered: {error:#}"),
                "free space or mend the permissions of the log directory, then try again",
            )
        })?;
        let cause = order.cause.name();
        info!(
            promotion = id,
            from,
            to,
            cause,
            reason = order.reason,
            "promotion begins"
        );
        Ok(Begun { id, to })
    }
}

/// The nodes, if nothing speaks against it.
async fn look(group: &Group, name: &str, order: &Order) -> Result<Parties, ControlError> {
    let parties = Parties::of(group, name)?;
    let report = readiness::report(group, &parties, order.cause).await?;
    let blocks: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| finding.blocks)
        .map(|finding| format!("{}: {}", finding.node, finding.what))
        .collect();
    if blocks.is_empty() {
        return Ok(parties);
    }
    let what = format!(
        "{name} cannot become the primary now: {}",
        blocks.join("; ")
    );
    let force = if order.cause.is_forced() {
        " --force"
    } else {
        ""
    };
    let advice = format!("see what to do with: replctl promote {name}{force} --dry-run");
    Err(conflict(what, &advice))
}

fn under_way() -> ControlError {
    let what = "a promotion is under way".to_owned();
    conflict(what, "see how it goes on with: replctl history")
}

fn conflict(what: String, advice: &str) -> ControlError {
    ControlError::new(ErrorCode::Conflict, what, advice)
}
