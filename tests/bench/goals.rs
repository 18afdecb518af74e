//! What is aimed at: every goal of the project that a measurement can show, in one place.

use serde::Serialize;

/// A bound on a metric's median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Goal {
    /// Whether `value` reaches it.
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// (scenario, metric, goal). Metrics are named as the scenarios name them.
const GOALS: &[(&str, &str, Goal)] = &[
    ("catchup-inserts", "ours / native", Goal::AtLeast(1.0)),
    (
        "catchup-inserts",
        "capture alone / native",
        Goal::AtLeast(1.4),
    ),
    ("catchup-single", "ours / native", Goal::AtLeast(1.0)),
    ("catchup-tpcb", "ours / native", Goal::AtLeast(5.0)),
    ("catchup-tpcb-report", "ours / native", Goal::AtLeast(5.0)),
    ("catchup-updates", "ours / native", Goal::AtLeast(1.5)),
    ("latency", "200/s p50 ours / native", Goal::AtMost(1.5)),
    ("latency", "200/s p99 ours / native", Goal::AtMost(1.5)),
    ("latency", "1000/s p50 ours / native", Goal::AtMost(1.5)),
    ("latency", "1000/s p99 ours / native", Goal::AtMost(1.5)),
    ("fanout", "processor time 3 replicas / 1", Goal::AtMost(1.6)),
    ("log", "log / disk, rows of 50 bytes", Goal::AtLeast(0.7)),
    ("log", "log / disk, rows of 1 KiB", Goal::AtLeast(0.7)),
    (
        "engines",
        "mariadb ours / INSERT of 1000",
        Goal::AtLeast(0.6),
    ),
    ("engines", "mariadb ours / LOAD DATA", Goal::AtLeast(0.6)),
    (
        "engines",
        "sqlite ours / transactions of 1000",
        Goal::AtLeast(0.6),
    ),
    ("copy", "ours / native", Goal::AtLeast(1.3)),
    ("copy", "ours / pipe", Goal::AtLeast(0.9)),
    ("validate", "postgres data-diff / ours", Goal::AtLeast(3.0)),
    ("validate", "mariadb data-diff / ours", Goal::AtLeast(3.0)),
    ("validate", "postgres counts / bare", Goal::AtMost(1.2)),
    ("validate", "mariadb counts / bare", Goal::AtMost(1.2)),
    ("sync", "1 clients, ours / native", Goal::AtLeast(0.9)),
    ("sync", "16 clients, ours / native", Goal::AtLeast(1.5)),
    (
        "sync-three",
        "16 clients, commits async",
        Goal::AtLeast(5000.0),
    ),
    (
        "sync-three",
        "16 clients, commits semi-sync 1",
        Goal::AtLeast(3500.0),
    ),
    (
        "sync-three",
        "16 clients, commits semi-sync 2",
        Goal::AtLeast(2000.0),
    ),
    (
        "sync-three",
        "16 clients, commits sync",
        Goal::AtLeast(1000.0),
    ),
    ("rtt", "1 ms / local", Goal::AtLeast(0.8)),
    ("rtt", "20 ms / local", Goal::AtLeast(0.8)),
    ("rtt", "100 ms / local", Goal::AtLeast(0.8)),
    ("failover", "kill -9 to a write", Goal::AtMost(3.0)),
    ("failover", "kill -9 to a write, longest", Goal::AtMost(6.0)),
    ("failover", "planned, longest", Goal::AtMost(1000.0)),
    ("memory", "peak of the daemon", Goal::AtMost(150.0)),
    ("idle", "processor share", Goal::AtMost(1.0)),
];

/// The goal of a metric, if it has one.
pub fn goal_of(scenario: &str, metric: &str) -> Option<Goal> {
    GOALS
        .iter()
        .find(|(of, name, _)| *of == scenario && *name == metric)
        .map(|&(_, _, goal)| goal)
}

#[cfg(test)]
mod tests {
    use super::{Goal, goal_of};

    #[test]
    fn bounds_are_inclusive() {
        assert!(Goal::AtLeast(1.0).met(1.0) && !Goal::AtLeast(1.0).met(0.99));
        assert!(Goal::AtMost(1.5).met(1.5) && !Goal::AtMost(1.5).met(1.51));
    }

    #[test]
    fn goals_belong_to_their_scenario() {
        assert_eq!(goal_of("idle", "processor share"), Some(Goal::AtMost(1.0)));
        assert_eq!(goal_of("fanout", "processor share"), None);
    }
}
