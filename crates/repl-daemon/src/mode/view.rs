//! The mode as status shows it.

use std::sync::atomic::Ordering;

use repl_api::{MemberStatus, ModeProblem, ModeState, ModeStatus};
use repl_connectors::seam::WeakerCommits;
use repl_core::mode::{Mode, Phase, Standing};

use super::keeper::hindrance;
use super::{Gate, Modes};

impl Modes {
    /// What is asked for, what is true, who counts, and what waits.
    pub fn status(&self) -> ModeStatus {
        let standing = self.lock().standing();
        let gate = self.gate().clone();
        let now = self.start.elapsed();
        let (state, reason, since) = self.state(&standing, &gate);
        let waits = standing.settings.mode != Mode::Async;
        let problem = |problem: &repl_connectors::seam::GateProblem| ModeProblem {
            what: problem.what.clone(),
            remedy: problem.remedy.clone(),
        };
        let mut problems: Vec<_> = gate.report.problems.iter().map(problem).collect();
        let weaker = match waits {
            true => gate.report.weaker.as_slice(),
            false => &[],
        };
        let accepted = &self.config.replication.accept_weaker_commits;
        let refused = weaker.iter().filter(|one| !accepted.contains(&one.who));
        problems.extend(refused.map(unaccepted));
        ModeStatus {
            asked: wire(standing.settings.mode),
            rule: standing.settings.to_string(),
            state,
            reason,
            since_ms: since,
            needed: standing.needed as u32,
            blocked_ms: standing
                .waiting_since
                .filter(|_| state == ModeState::InForce || state == ModeState::Enabling)
                .map(|since| now.saturating_sub(since).as_millis() as u64)
                .filter(|_| waits),
            timeout_ms: standing.settings.timeout.as_millis() as u64,
            released_seq: standing.released.0,
            waiting: gate.report.waiting,
            oldest_ms: gate.report.oldest_ms,
            members: self.members(&standing),
            problems,
            weaker: weaker
                .iter()
                .map(|one| format!("{}: {}", one.who, one.setting))
                .collect(),
        }
    }

    /// The alert while commits wait only because nobody knows whether they should.
    pub fn kept_alert(&self) -> Option<String> {
        let off = *self.lock().phase() == Phase::Off;
        let kept = off && self.kept.load(Ordering::Acquire) && self.gate().report.closed;
        let what = "commits of the primary wait for the event log although the mode is async: the mode ordered \
                    at run time was lost with state.json; order it again (replctl mode sync), or have them wait \
                    for nothing (replctl mode async)";
        kept.then(|| what.to_owned())
    }

    /// Whether commits with these settings keep the mode from being in force.
    pub fn weakened(config: &crate::config::Config, weaker: &[WeakerCommits]) -> Option<String> {
        let accepted = &config.replication.accept_weaker_commits;
        let found = weaker.iter().find(|one| !accepted.contains(&one.who));
        found.map(|one| format!("{}: {}", one.who, one.setting))
    }

    fn state(&self, standing: &Standing, gate: &Gate) -> (ModeState, Option<String>, Option<u64>) {
        match &standing.phase {
            Phase::Off if gate.report.closed => (ModeState::Disabling, None, None),
            Phase::Off => (ModeState::Off, None, None),
            Phase::Degraded(degraded) => (
                ModeState::Degraded,
                Some(degraded.why.clone()),
                Some(self.at_ms(degraded.since)),
            ),
            Phase::Enabling => (ModeState::Enabling, Some(self.why_enabling(standing)), None),
            Phase::InForce if !gate.exists => (ModeState::InForce, None, None),
            Phase::InForce if gate.closed => {
                match Self::weakened(&self.config, &gate.report.weaker) {
                    None => (ModeState::InForce, None, None),
                    Some(who) => {
                        let why = format!("not every commit waits ({who})");
                        (ModeState::Enabling, Some(why), None)
                    }
                }
            }
            Phase::InForce => {
                let waiting = "waiting for the primary to make its commits wait".to_owned();
                (
                    ModeState::Enabling,
                    Some(gate.error.clone().unwrap_or(waiting)),
                    None,
                )
            }
        }
    }

    fn why_enabling(&self, standing: &Standing) -> String {
        let counted = standing
            .members
            .iter()
            .filter(|member| member.counted)
            .count();
        if counted < standing.needed.min(1)
            || (standing.settings.mode == Mode::SemiSync && counted < standing.needed)
        {
            return format!("{counted} replicas count, {} are needed", standing.needed);
        }
        format!(
            "the replicas that count are to come within {} transactions",
            standing.settings.max_queue
        )
    }

    fn members(&self, standing: &Standing) -> Vec<MemberStatus> {
        let members = self.roster.iter().zip(&standing.members);
        members
            .map(|(replica, member)| MemberStatus {
                name: member.name.clone(),
                counts: member.counted,
                why_not: (!member.counted && standing.settings.mode != Mode::Async)
                    .then(|| hindrance(replica).unwrap_or_else(|| "not near enough yet".into())),
                durable_seq: member.durable.map(|seq| seq.0),
            })
            .collect()
    }
}

pub(super) fn wire(mode: Mode) -> repl_api::Mode {
    match mode {
        Mode::Async => repl_api::Mode::Async,
        Mode::SemiSync => repl_api::Mode::SemiSync,
        Mode::Sync => repl_api::Mode::Sync,
    }
}

/// Commits that wait for less than the mode promises, which nobody has said is all right.
fn unaccepted(weaker: &WeakerCommits) -> ModeProblem {
    let WeakerCommits {
        who,
        setting,
        remedy,
    } = weaker;
    ModeProblem {
        what: format!("commits do not wait for the daemon where {setting} is set ({who})"),
        remedy: format!(
            "{remedy}  or accept it: accept_weaker_commits = [{who:?}] under [replication]"
        ),
    }
}
