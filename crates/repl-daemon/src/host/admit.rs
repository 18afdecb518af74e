//! Whether an order to change the primary is followed.

use repl_api::ErrorCode;
use repl_core::failover::ranked;
use repl_core::promotion::Promotion;
use tracing::info;

use super::Host;
use crate::admin::ControlError;
use crate::clock::now_ms;
use crate::promotion::{Begun, Order, Parties, candidates, readiness};
use crate::status::Group;

impl Host {
    /// Remembers the promotion of the first replica in question that nothing speaks against.
    pub(super) async fn admit(&self, order: &Order) -> Result<Begun, ControlError> {
        let generation = self.generation.as_ref();
        let (Some(generation), None) = (generation, self.fixed.state.promotion()) else {
            let advice = "see how it goes on with: replctl history";
            return Err(conflict("a promotion is under way".into(), advice));
        };
        let group = &generation.present.group;
        let names = match &order.replica {
            Some(name) => vec![name.clone()],
            None => ranked(&candidates(group))
                .into_iter()
                .map(|one| one.name.clone())
                .collect(),
        };
        let mut refusal = conflict(
            "no replica streams that could become the primary".into(),
            "see why with: replctl status",
        );
        for name in names {
            match look(group, &name, order).await {
                Ok(parties) => return self.remember(&parties, order),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    fn remember(&self, parties: &Parties, order: &Order) -> Result<Begun, ControlError> {
        let id = self.fixed.promotions.next_id();
        let epoch = self.fixed.log.appended().epoch.next();
        let (from, to) = (&parties.from.name, &parties.to.name);
        let promotion = Promotion::new(id, from, to, epoch, now_ms());
        let promotion = promotion.because(order.cause, &order.reason);
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
        Ok(Begun { id, to: to.clone() })
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

fn conflict(what: String, advice: &str) -> ControlError {
    ControlError::new(ErrorCode::Conflict, what, advice)
}
