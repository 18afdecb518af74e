//! What commits on the primary wait for.

use repl_api::{ModeState, ModeStatus};

use super::View;
use super::human::{clean, count, duration};
use super::style::{Tone, paint};

/// The facts of the line in the status; empty when nothing waits and nothing is wrong.
pub(super) fn facts(commits: &ModeStatus, now_ms: u64) -> Vec<(String, Tone)> {
    if commits.state == ModeState::Off && commits.problems.is_empty() && commits.waiting == 0 {
        return Vec::new();
    }
    let mut facts = vec![(clean(&commits.rule), Tone::Plain)];
    let reason = commits.reason.as_deref().map(clean).unwrap_or_default();
    match commits.state {
        ModeState::Off => facts.push(("nothing waits".to_owned(), Tone::Plain)),
        ModeState::InForce => facts.push(("in force".to_owned(), Tone::Good)),
        ModeState::Enabling => facts.push((format!("not in force yet: {reason}"), Tone::Warn)),
        ModeState::Degraded => {
            let since = commits
                .since_ms
                .map_or(0, |since| now_ms.saturating_sub(since));
            facts.push((
                format!("degraded for {}: {reason}", duration(since)),
                Tone::Bad,
            ));
        }
        ModeState::Disabling => {
            let fact = "the primary's commits still wait for the daemon's log".to_owned();
            facts.push((fact, Tone::Warn));
        }
        ModeState::Unknown => facts.push(("state not known".to_owned(), Tone::Warn)),
    }
    let counting: Vec<String> = commits
        .members
        .iter()
        .filter(|member| member.counts)
        .map(|member| clean(&member.name))
        .collect();
    if !matches!(commits.state, ModeState::Off | ModeState::Disabling) {
        facts.push(match counting.is_empty() {
            true => ("no replica counts".to_owned(), Tone::Warn),
            false => (format!("counting: {}", counting.join(", ")), Tone::Plain),
        });
    }
    for member in &commits.members {
        if let Some(why) = &member.why_not {
            let fact = format!("{} does not count: {}", clean(&member.name), clean(why));
            facts.push((fact, Tone::Warn));
        }
    }
    if commits.waiting > 0 {
        let oldest = commits.oldest_ms.map_or(String::new(), |ms| {
            format!(", the oldest for {}", duration(ms))
        });
        facts.push((
            format!("{} commits wait{oldest}", count(commits.waiting)),
            Tone::Plain,
        ));
    }
    for weaker in &commits.weaker {
        facts.push((format!("weaker: {}", clean(weaker)), Tone::Warn));
    }
    facts
}

/// The whole, for `replctl mode`.
pub fn commits(commits: &ModeStatus, view: &View) -> String {
    let mut text = String::new();
    let facts = facts(commits, view.now_ms);
    if facts.is_empty() {
        text.push_str(&format!("{}\n", clean(&commits.rule)));
    }
    for (fact, tone) in facts {
        text.push_str(&format!("{}\n", paint(&fact, tone, view)));
    }
    for problem in &commits.problems {
        text.push_str(&format!(
            "{}\n",
            paint(&clean(&problem.what), Tone::Bad, view)
        ));
        text.push_str(&format!("  {}\n", clean(&problem.remedy)));
    }
    text
}
