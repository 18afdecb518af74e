//! When the daemon itself replaces a primary, and by whom: pure rules, time is an argument.
//!
//! [`Watch`] turns probes into a judgement; [`decide`] turns that, and what else is known, into an
//! order or into the reason why there is none.

use std::time::Duration;

use crate::position::Seq;

/// What keeps two nodes from acknowledging writes when the old primary is cut off from the daemon only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliance {
    /// Commits of the primary wait for the daemon, which ceases to answer before another one opens.
    Commits,
    /// Applications reach the primary by way of something that follows the daemon's role checks.
    Roles,
}

/// `[failover]`, as far as it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A primary that answers again within this time is left alone.
    pub dead_time: Duration,
    /// So many probes in a row must have failed.
    pub retries: u32,
    /// A replica whose oldest unapplied transaction is older than this is not promoted.
    pub max_lag: Duration,
    /// Nothing is done for so long after the last failover.
    pub cool_down: Duration,
    /// What is relied on.
    pub reliance: Reliance,
}

/// How the primary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered when it was last asked, or was not asked yet.
    Alive,
    /// It does not answer.
    Suspect {
        /// The first probe that failed was begun then.
        since: Duration,
        /// So many have failed since.
        failed: u32,
    },
    /// It has not answered for so long that it is to be replaced.
    Dead {
        /// As for [`Health::Suspect`].
        since: Duration,
    },
}

/// Watches one primary.
#[derive(Clone, Debug)]
pub struct Watch {
    settings: Settings,
    health: Health,
}

impl Watch {
    /// One that nothing is known of.
    pub fn new(settings: Settings) -> Watch {
        Watch {
            settings,
            health: Health::Alive,
        }
    }

    /// A probe has ended that was begun at `begun`. A primary that stood still for less than the dead
    /// time answers the probe on which it would be given up, since that one is begun after it.
    pub fn probed(&mut self, begun: Duration, answered: bool) -> Health {
        self.health = match (answered, self.health) {
            (true, _) => Health::Alive,
            (false, Health::Alive) => Health::Suspect {
                since: begun,
                failed: 1,
            },
            (false, Health::Suspect { since, failed }) => {
                let failed = failed.saturating_add(1);
                let over = begun.saturating_sub(since) >= self.settings.dead_time;
                match over && failed >= self.settings.retries {
                    true => Health::Dead { since },
                    false => Health::Suspect { since, failed },
                }
            }
            (false, dead @ Health::Dead { .. }) => dead,
        };
        self.health
    }

    /// How it stands.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether applications are to be told that it is not the primary any more: half the time before
    /// another one may be, and not at the first probe that fails.
    pub fn is_doubted(&self, now: Duration) -> bool {
        match self.health {
            Health::Alive => false,
            Health::Suspect { since, failed } => {
                failed >= 2 && now.saturating_sub(since) >= self.settings.dead_time / 3
            }
            Health::Dead { .. } => true,
        }
    }
}

/// A replica that could become the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Preference; larger is preferred.
    pub priority: u32,
    /// It cannot lose what it holds through here.
    pub durable: Option<Seq>,
    /// Age of the oldest transaction it has not applied; none when not known.
    pub lag: Option<Duration>,
    /// Why it cannot be it.
    pub hindrance: Option<String>,
}

/// Those without a hindrance, best first: the most advanced, then by priority, then by name.
pub fn ranked(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut able: Vec<&Candidate> = candidates
        .iter()
        .filter(|one| one.hindrance.is_none())
        .collect();
    able.sort_by(|a, b| {
        let key = |one: &Candidate| (one.durable, one.priority);
        key(b).cmp(&key(a)).then_with(|| a.name.cmp(&b.name))
    });
    able
}

/// Everything a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// How the primary stands.
    pub health: Health,
    /// How long ago the last failover ended; none when there was none.
    pub since_last: Option<Duration>,
    /// Each commit of the primary that was acknowledged is promised to be on replicas.
    pub promised: bool,
    /// The replicas.
    pub candidates: &'a [Candidate],
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Wait,
    /// The primary is dead, and nothing can be done about it: this is why.
    Hold(String),
    /// One of these is to be the primary, the first that can.
    Promote(Vec<String>),
}

/// Whether and by whom the primary is to be replaced.
pub fn decide(settings: &Settings, situation: &Situation<'_>) -> Decision {
    if !matches!(situation.health, Health::Dead { .. }) {
        return Decision::Wait;
    }
    if let Some(since) = situation
        .since_last
        .filter(|since| *since < settings.cool_down)
    {
        return Decision::Hold(format!(
            "the last failover was {} s ago, less than failover.cool_down",
            since.as_secs()
        ));
    }
    if settings.reliance == Reliance::Commits && !situation.promised {
        return Decision::Hold(
            "commits did not wait for replicas, on which failover.relies_on = \"commits\" relies"
                .into(),
        );
    }
    let late = |one: &Candidate| one.lag.is_none_or(|lag| lag > settings.max_lag);
    let (mut able, mut reasons) = (Vec::new(), Vec::new());
    for candidate in situation.candidates {
        let name = &candidate.name;
        match &candidate.hindrance {
            Some(why) => reasons.push(format!("{name}: {why}")),
            None if late(candidate) => {
                reasons.push(format!("{name}: it lags by more than failover.max_lag"))
            }
            None => able.push(candidate.clone()),
        }
    }
    match able.is_empty() {
        true => Decision::Hold(format!(
            "no replica can take its place: {}",
            reasons.join("; ")
        )),
        false => Decision::Promote(
            ranked(&able)
                .into_iter()
                .map(|one| one.name.clone())
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const SETTINGS: Settings = Settings {
        dead_time: ms(2000),
        retries: 3,
        max_lag: ms(5000),
        cool_down: ms(60_000),
        reliance: Reliance::Roles,
    };

    fn candidate(name: &str, durable: u64, priority: u32) -> Candidate {
        Candidate {
            name: name.into(),
            priority,
            durable: Some(Seq(durable)),
            lag: Some(ms(0)),
            hindrance: None,
        }
    }

    /// Probes every `interval`, each taking up to `timeout` while the primary stands still from
    /// `from` to `until`; whether it was ever found dead.
    fn given_up(interval: u64, timeout: u64, from: u64, until: u64) -> bool {
        let mut watch = Watch::new(SETTINGS);
        let mut now = 0;
        while now < until + 10_000 {
            let begun = now;
            let still = begun >= from && begun < until;
            let answered = !still || until <= begun + timeout;
            let took = match (still, answered) {
                (false, _) => 1,
                (true, true) => until - begun + 1,
                (true, false) => timeout,
            };
            now = begun + took;
            if matches!(watch.probed(ms(begun), answered), Health::Dead { .. }) {
                return true;
            }
            now = now.max(begun + interval);
        }
        false
    }

    #[test]
    fn pauses_shorter_than_the_dead_time_are_never_taken_for_death_and_longer_ones_always() {
        for interval in [50, 250, 400, 900] {
            for timeout in [1, 100, 500, 1000] {
                for from in (1000..2000).step_by(37) {
                    for pause in (10..=2000).step_by(199) {
                        assert!(!given_up(interval, timeout, from, from + pause));
                    }
                    let longest = 2000 + 3 * (interval + timeout) + 10;
                    assert!(given_up(interval, timeout, from, from + longest));
                }
            }
        }
    }

    #[test]
    fn a_doubt_comes_after_the_first_failure_and_well_before_the_end() {
        let mut watch = Watch::new(SETTINGS);
        watch.probed(ms(0), false);
        assert!(!watch.is_doubted(ms(900)));
        watch.probed(ms(250), false);
        assert!(!watch.is_doubted(ms(500)));
        assert!(watch.is_doubted(ms(700)));
        watch.probed(ms(750), true);
        assert!(!watch.is_doubted(ms(800)));
    }

    #[test]
    fn the_most_advanced_goes_first_then_priority() {
        let mut all = vec![
            candidate("a", 5, 1),
            candidate("b", 7, 1),
            candidate("c", 7, 2),
        ];
        let names = |all: &[Candidate]| -> Vec<String> {
            ranked(all)
                .into_iter()
                .map(|one| one.name.clone())
                .collect()
        };
        assert_eq!(names(&all), ["c", "b", "a"]);
        all[2].hindrance = Some("copying".into());
        assert_eq!(names(&all), ["b", "a"]);
    }

    #[test]
    fn nothing_is_done_without_everything_that_is_needed() {
        let good = [candidate("r1", 5, 1)];
        let dead = Health::Dead { since: ms(0) };
        let suspect = Health::Suspect {
            since: ms(0),
            failed: 9,
        };
        let mut late = good.clone();
        late[0].lag = Some(ms(6000));
        let mut unknown = good.clone();
        unknown[0].lag = None;
        for health in [Health::Alive, suspect, dead] {
            for since_last in [None, Some(ms(59_999)), Some(ms(60_000))] {
                for promised in [false, true] {
                    for reliance in [Reliance::Commits, Reliance::Roles] {
                        for (candidates, able) in [
                            (&good[..], true),
                            (&late, false),
                            (&unknown, false),
                            (&[], false),
                        ] {
                            let settings = Settings {
                                reliance,
                                ..SETTINGS
                            };
                            let situation = Situation {
                                health,
                                since_last,
                                promised,
                                candidates,
                            };
                            let wanted = health == dead
                                && since_last != Some(ms(59_999))
                                && (promised || reliance == Reliance::Roles)
                                && able;
                            match decide(&settings, &situation) {
                                Decision::Promote(names) => assert!(wanted && names == ["r1"]),
                                Decision::Hold(why) => {
                                    assert!(!wanted && health == dead && !why.is_empty());
                                }
                                Decision::Wait => assert!(health != dead),
                            }
                        }
                    }
                }
            }
        }
    }
}
