//! `[replication]`: what a commit on the primary waits for.

use std::time::Duration;

use repl_core::mode::{Level, Mode, Need, OnTimeout, Quorum, Settings};

use super::defaults;
use super::draft::ConfigDraft;
use super::model::{Engine, NodeRole, ReplicationConfig};
use super::problem::{Findings, complaint};
use super::reader::Section;

/// Most replicas that can be asked for; more than a group has is refused later.
const MAX_REPLICAS: u64 = 1000;

pub(super) fn read(mut section: Section<'_>) -> ReplicationConfig {
    let modes = [Mode::Async, Mode::SemiSync, Mode::Sync].map(|mode| (mode.name(), mode));
    let mode = section.choice("mode", &modes).unwrap_or_default();
    let need = match section.integer_or_word("min_replicas", 1..=MAX_REPLICAS, "majority") {
        Some(Some(count)) => Need::Count(u32::try_from(count).unwrap_or(u32::MAX)),
        Some(None) => Need::Majority,
        None => Need::Count(1),
    };
    if mode == Mode::SemiSync && !section.has("min_replicas") {
        let why = "semi-sync waits for a number of replicas";
        let fix = "write min_replicas = 1, another number, or \"majority\" under [replication]";
        let what = "semi-sync without min_replicas";
        section.fail("mode", complaint(what, why, fix));
    }
    let quorum = section.choice("quorum", &[("any", Quorum::Any), ("first", Quorum::First)]);
    let levels = [("applied", Level::Applied), ("logged", Level::Logged)];
    let on_timeout = [("block", OnTimeout::Block), ("degrade", OnTimeout::Degrade)];
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let config = ReplicationConfig {
        settings: Settings {
            mode,
            need,
            quorum: quorum.unwrap_or_default(),
            level: section.choice("level", &levels).unwrap_or_default(),
            on_timeout: section
                .choice("on_timeout", &on_timeout)
                .unwrap_or(default_on_timeout(mode)),
            timeout: section.duration("timeout", defaults::MODE_TIMEOUT, second / 10..=day),
            max_queue: section.integer("max_queue", defaults::MAX_QUEUE, 0..=1_000_000_000),
        },
        manage_standby_names: section.boolean("manage_standby_names", true),
        client_wait: section.boolean("client_wait", false),
        accept_weaker_commits: section.strings("accept_weaker_commits").unwrap_or_default(),
    };
    section.finish();
    config
}

/// What happens on timeout when nothing is said: sync is strict, semi-sync goes on.
pub fn default_on_timeout(mode: Mode) -> OnTimeout {
    match mode {
        Mode::SemiSync => OnTimeout::Degrade,
        Mode::Async | Mode::Sync => OnTimeout::Block,
    }
}

pub(super) fn check(findings: &Findings, draft: &ConfigDraft, engine: Engine) {
    let counting = draft
        .nodes
        .iter()
        .filter(|node| node.role == Some(NodeRole::Replica) && node.enabled && node.counts)
        .count();
    let replication = &draft.replication;
    if let Some(found) = impossible(replication, &replication.settings, counting, engine) {
        let key = format!("replication.{}", found.key);
        findings.error(&key, complaint(found.what, found.why, found.fix));
    }
    let effects = [
        (
            "replication.manage_standby_names",
            Engine::Postgres,
            "no SQLite commit waits for another process",
        ),
        (
            "replication.accept_weaker_commits",
            Engine::Postgres,
            "no SQLite commit waits for another process",
        ),
        (
            "replication.client_wait",
            Engine::Sqlite,
            "its commits wait by themselves",
        ),
    ];
    for (key, of, why) in effects {
        // Another node may become the primary.
        if findings.is_set(key) && !draft.has_engine(of) {
            let what = format!("it has no effect with a {engine} primary");
            findings.warning(key, complaint(what, why, "remove it"));
        }
    }
}

/// Why a guarantee cannot be given.
pub struct Impossible {
    /// The key of `[replication]` it depends on.
    pub key: &'static str,
    /// What was asked for.
    pub what: String,
    /// Why it cannot be given.
    pub why: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// Why a guarantee cannot be given where `counting` replicas may count; none when it can.
pub fn impossible(
    config: &ReplicationConfig,
    asked: &Settings,
    counting: usize,
    engine: Engine,
) -> Option<Impossible> {
    if asked.mode == Mode::Async {
        return None;
    }
    if engine == Engine::Sqlite && !config.client_wait {
        let what = format!("{} with a SQLite primary", asked.mode.name());
        let why = "no SQLite commit waits for another process: only a client that asks by \
                   `replctl wait`, or POST /v1/wait, after its commit can wait";
        let fix = "set client_wait = true under [replication] if your clients do so, or use \
                   mode = \"async\"";
        return Some(Impossible {
            key: "mode",
            what,
            why,
            fix,
        });
    }
    if asked.level == Level::Logged {
        return None;
    }
    if counting == 0 {
        let what = format!("{} without a replica that may count", asked.mode.name());
        let why = "every commit would wait for ever";
        let fix = "let an enabled replica count (counts = true), or use mode = \"async\"";
        return Some(Impossible {
            key: "mode",
            what,
            why,
            fix,
        });
    }
    let needed = asked.needed(counting);
    (asked.mode == Mode::SemiSync && needed > counting).then(|| {
        let what = format!("{needed} replicas are waited for, and {counting} may count");
        let why = "every commit would wait for ever";
        let fix = "lower min_replicas, or let more replicas count (enabled, counts = true)";
        Impossible {
            key: "min_replicas",
            what,
            why,
            fix,
        }
    })
}
