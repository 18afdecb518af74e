//! `[failover]`: when the daemon replaces the primary by itself.

use std::time::Duration;

use repl_core::failover::{Reliance, Settings};
use repl_core::mode::{Mode, OnTimeout};

use super::defaults;
use super::draft::ConfigDraft;
use super::model::{Engine, FailoverConfig, NodeRole};
use super::problem::{Findings, complaint};
use super::reader::Section;
use super::units::format_duration;

pub(super) fn read(mut section: Section<'_>) -> FailoverConfig {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let moment = Duration::from_millis(20)..=60 * second;
    let relied = [("commits", Reliance::Commits), ("roles", Reliance::Roles)];
    let automatic = section.boolean("automatic", false);
    let rejoin = [("unacknowledged", true), ("never", false)];
    let reliance = section.choice("relies_on", &relied);
    if automatic && !section.has("relies_on") {
        let what = "automatic failover without relies_on";
        let why = "a primary that is cut off from the daemon, and not from its clients, goes on taking writes: \
                   something has to keep it from acknowledging them once another node is the primary";
        let fix = "write relies_on = \"commits\" (they wait for the daemon: sync, or semi-sync with block) or \
                   \"roles\" (applications reach the primary only by way of the role checks)";
        section.fail("automatic", complaint(what, why, fix));
    }
    let config = FailoverConfig {
        automatic,
        settings: Settings {
            dead_time: section.duration(
                "dead_time",
                defaults::DEAD_TIME,
                second / 10..=3600 * second,
            ),
            retries: u32::try_from(section.integer(
                "retries",
                defaults::FAILOVER_RETRIES,
                1..=1000,
            ))
            .unwrap_or(u32::MAX),
            max_lag: section.duration("max_lag", defaults::FAILOVER_MAX_LAG, second / 10..=day),
            cool_down: section.duration(
                "cool_down",
                defaults::COOL_DOWN,
                Duration::ZERO..=30 * day,
            ),
            reliance: reliance.unwrap_or(Reliance::Commits),
        },
        interval: section.duration("interval", defaults::PROBE_INTERVAL, moment.clone()),
        timeout: section.duration("timeout", defaults::PROBE_TIMEOUT, moment),
        candidates: section.strings("candidates").unwrap_or_default(),
        rejoin_unacknowledged: section.choice("auto_rejoin", &rejoin).unwrap_or(automatic),
    };
    section.finish();
    config
}

/// Refuses what cannot work, or would be less safe than it says.
pub(super) fn check(findings: &Findings, draft: &ConfigDraft, engine: Engine) {
    let failover = &draft.failover;
    check_candidates(findings, draft);
    if !failover.automatic {
        return;
    }
    let error = |key: &str, what: String, why: &str, fix: &str| {
        findings.error(&format!("failover.{key}"), complaint(what, why, fix));
    };
    if failover.interval >= failover.settings.dead_time {
        let (interval, dead) = (
            format_duration(failover.interval),
            format_duration(failover.settings.dead_time),
        );
        let key = if findings.is_set("failover.interval") {
            "interval"
        } else {
            "dead_time"
        };
        let what = format!("interval ({interval}) is not shorter than dead_time ({dead})");
        let why = "a primary is asked several times before it is given up";
        error(key, what, why, "make dead_time several intervals long");
    }
    let settings = &draft.replication.settings;
    let waits = settings.mode != Mode::Async && settings.on_timeout == OnTimeout::Block;
    let relied = findings.is_set("failover.relies_on");
    if relied && failover.settings.reliance == Reliance::Commits && !waits {
        let what =
            "relies_on = \"commits\", and commits do not wait as long as it takes".to_owned();
        let why = "a primary that is cut off from the daemon would go on acknowledging commits";
        let fix = "set mode = \"sync\", or \"semi-sync\" with on_timeout = \"block\", under [replication]";
        error("relies_on", what, why, fix);
    }
    if relied && failover.settings.reliance == Reliance::Roles && draft.api.listen.is_none() {
        let what = "relies_on = \"roles\", and there are no role checks".to_owned();
        let why = "nothing tells the applications\' way to the primary that it has changed";
        error(
            "relies_on",
            what,
            why,
            "set listen under [api], e.g. \"127.0.0.1:8008\"",
        );
    }
    let able = draft.nodes.iter().any(|node| {
        let own = node.endpoint.as_ref().map(super::model::Endpoint::engine);
        node.role == Some(NodeRole::Replica) && node.enabled && own == Some(Engine::Postgres)
    });
    if engine != Engine::Postgres || !able {
        let what = "automatic failover without two PostgreSQL nodes".to_owned();
        let why = "commits to a SQLite file wait for nobody and its applications follow nothing, so one that \
                   the daemon cannot reach may be written to on and on; by hand it can be replaced: replctl \
                   promote --force";
        error("automatic", what, why, "set automatic = false");
    }
}

fn check_candidates(findings: &Findings, draft: &ConfigDraft) {
    for name in &draft.failover.candidates {
        let node = draft
            .nodes
            .iter()
            .find(|node| node.name.as_ref() == Some(name));
        let why = match node {
            None => "there is no node of this name",
            Some(node) if !node.enabled => "it is disabled",
            Some(node)
                if node
                    .endpoint
                    .as_ref()
                    .is_some_and(|one| !one.follows_failover()) =>
            {
                "applications of a PostgreSQL primary cannot go on with it by themselves"
            }
            Some(_) => continue,
        };
        let what = format!("`{name}` cannot be a candidate");
        let fix = "name PostgreSQL nodes of this file that are enabled";
        findings.error("failover.candidates", complaint(what, why, fix));
    }
}
