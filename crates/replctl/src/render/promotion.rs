//! Roles and their changes.

use repl_api::{
    LedgerInfo, Ledgers, PrimaryState, PromotionInfo, PromotionState, PromotionStep, Promotions,
    Readiness, Status,
};

use super::View;
use super::human::{age, clean, count, duration};
use super::style::{Tone, paint};

/// The primary and, below it, its replicas.
pub fn topology(status: &Status, view: &View) -> String {
    let primary = &status.primary;
    let state = match primary.state {
        PrimaryState::Streaming => paint("streaming", Tone::Good, view),
        other => paint(other.as_str(), Tone::Bad, view),
    };
    let mut text = format!(
        "{} · {} · primary · epoch {} · {state}\n",
        paint(&clean(&primary.name), Tone::Strong, view),
        clean(&primary.engine),
        status.epoch,
    );
    let last = status.replicas.len().saturating_sub(1);
    for (at, replica) in status.replicas.iter().enumerate() {
        let branch = if at == last { "└─" } else { "├─" };
        let lag = match replica.lag_ms {
            Some(lag) => format!("lag {}", duration(lag)),
            None => "lag not known".to_owned(),
        };
        let state = match (replica.enabled, replica.attention().is_some()) {
            (false, _) => paint("disabled", Tone::Dim, view),
            (true, true) => paint(replica.membership.as_str(), Tone::Warn, view),
            (true, false) => paint(replica.membership.as_str(), Tone::Good, view),
        };
        text.push_str(&format!(
            "{branch} {} · {} · replica · {state} · {lag} · priority {}\n",
            paint(&clean(&replica.name), Tone::Strong, view),
            clean(&replica.engine),
            replica.priority,
        ));
    }
    if let Some(first) = &status.configured_primary {
        let first = clean(first);
        text.push_str(&format!(
            "the configuration names {first} as the first primary; since a promotion {} is it\n",
            clean(&primary.name)
        ));
    }
    if let Some(promotion) = &status.promotion {
        text.push_str(&promotion_head(promotion, view));
    }
    text
}

/// Whether a replica could become the primary.
pub fn readiness(report: &Readiness, view: &View) -> String {
    let (from, to) = (clean(&report.from), clean(&report.to));
    let mut text = match report.ready {
        true => paint(
            &format!("{to} can become the primary in place of {from}"),
            Tone::Good,
            view,
        ),
        false => paint(
            &format!("{to} cannot become the primary now"),
            Tone::Bad,
            view,
        ),
    };
    text.push('\n');
    let behind = match (report.applied_seq, report.queue_transactions) {
        (None, _) => "how much it has applied is not known".to_owned(),
        (Some(_), 0) => "it has applied everything".to_owned(),
        (Some(_), queue) => format!("{} transactions are to be applied first", count(queue)),
    };
    text.push_str(&format!("{behind}\n"));
    if let Some(gap) = report.estimated_gap_ms {
        text.push_str(&format!(
            "nobody takes writes for about {}, and while transactions of clients end\n",
            duration(gap)
        ));
    }
    if let Some(loss) = &report.may_lose {
        let tone = if loss.nothing { Tone::Good } else { Tone::Warn };
        text.push_str(&format!("{}\n", paint(&clean(&loss.what), tone, view)));
    }
    for finding in &report.findings {
        let (word, tone) = match finding.blocks {
            true => ("blocks", Tone::Bad),
            false => ("note", Tone::Warn),
        };
        text.push_str(&format!(
            "{}  {}: {}\n",
            paint(word, tone, view),
            clean(&finding.node),
            clean(&finding.what)
        ));
        if !finding.remedy.is_empty() {
            text.push_str(&format!("        {}\n", clean(&finding.remedy)));
        }
    }
    text
}

/// One promotion with its steps.
pub fn promotion(promotion: &PromotionInfo, view: &View) -> String {
    let mut text = promotion_head(promotion, view);
    for step in &promotion.steps {
        text.push_str(&format!("  {}\n", promotion_step(step)));
    }
    text
}

/// The promotions, newest first.
pub fn history(promotions: &Promotions, view: &View) -> String {
    let all: Vec<_> = promotions
        .current
        .iter()
        .chain(&promotions.history)
        .collect();
    if all.is_empty() {
        return "the primary has never changed\n".to_owned();
    }
    let shown: Vec<_> = all.into_iter().map(|one| promotion(one, view)).collect();
    shown.join("\n")
}

/// What former primaries had committed that the log never saw, newest first.
pub fn ledgers(all: &Ledgers, view: &View) -> String {
    if all.ledgers.is_empty() {
        return "no former primary had anything that the event log never saw\n".to_owned();
    }
    let line = |one: &LedgerInfo| {
        format!(
            "{} · {} · {} · {} transactions, {} changes\n  {}\n",
            paint(&clean(&one.id), Tone::Strong, view),
            clean(&one.node),
            age(one.deposed_ms, view.now_ms),
            count(one.transactions),
            count(one.changes),
            clean(&one.path),
        )
    };
    all.ledgers.iter().map(line).collect()
}

/// One step on one line.
pub fn promotion_step(step: &PromotionStep) -> String {
    let word = if step.done { "" } else { "failed: " };
    let took = format!("{} ms", step.took_ms);
    format!(
        "{:<12} {took:>8}  {word}{}",
        clean(&step.name),
        clean(&step.result)
    )
}

fn promotion_head(promotion: &PromotionInfo, view: &View) -> String {
    let (state, tone) = match promotion.state {
        PromotionState::Done => ("done", Tone::Good),
        PromotionState::Running => ("under way", Tone::Warn),
        PromotionState::RollingBack => ("being taken back", Tone::Bad),
        PromotionState::RolledBack => ("taken back", Tone::Bad),
        PromotionState::Unknown => ("state not known", Tone::Warn),
    };
    let gap = promotion
        .gap_ms
        .map_or(String::new(), |gap| format!(" · write gap {gap} ms"));
    let mut text = format!(
        "promotion {} · {}{} → {} · epoch {} · {} · {}{gap}\n",
        promotion.id,
        match promotion.cause.as_str() {
            "planned" => String::new(),
            other => format!("{} · ", clean(other)),
        },
        clean(&promotion.from),
        clean(&promotion.to),
        promotion.epoch,
        age(promotion.started_ms, view.now_ms),
        paint(state, tone, view),
    );
    if let Some(why) = &promotion.reason {
        text.push_str(&format!("  {}\n", clean(why)));
    }
    if let Some(loss) = &promotion.may_lose {
        text.push_str(&format!("  {}\n", clean(&loss.what)));
    }
    if let Some(why) = &promotion.failure {
        text.push_str(&format!("  {}\n", paint(&clean(why), Tone::Bad, view)));
    }
    text
}
