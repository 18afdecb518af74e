//! SIGKILL at every failpoint of the daemon, under load.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use repl_tests::daemon::Daemon;
use repl_tests::wait::wait_until;

use super::copies::{MARIADB_PARTS, PG_PARTS, SQLITE_PARTS};
use super::mariadb::{MARIADB, MARIADB_BROKEN, MARIADB_COPY};
use super::rig::{self, Random, Rig};
use super::sqlite::SQLITE;

/// How long the load may need to bring the daemon to a failpoint.
const REACHED: Duration = Duration::from_secs(20);

/// Passed when a group starts for the first time.
pub const CREATE: [&str; 6] = [
    "log.create.before_identity",
    "log.create.identity_created",
    "log.create.identity_synced",
    "log.create.done",
    "state.before_rename",
    "state.after_rename",
];

/// Passed by the event log under any load.
pub const LOG: [&str; 11] = [
    "log.push",
    "log.flush.before_write",
    "log.flush.mid_write",
    "log.flush.before_sync",
    "log.flush.after_sync",
    "log.roll.created",
    "log.roll.header_synced",
    "log.roll.dir_synced",
    "log.roll.before_use",
    "log.trim.before_delete",
    "log.trim.after_delete",
];

/// Passed when the log ends in a half-written flush.
pub const RECOVER: [&str; 2] = ["log.recover.before_truncate", "log.recover.after_truncate"];

/// Passed when the capture loses its connection inside a large transaction.
const ABANDON: [&str; 2] = ["log.abandon.before_truncate", "log.abandon.after_truncate"];

/// Passed when a set-wise batch is refused.
const REOPENED: &str = "worker.reopened";

/// Passed when the primary changes; killed at, with every other step of it, by the tests of that.
const PROMOTION: [&str; 8] = [
    "promotion.commit.appended",
    "worker.handover.adopted",
    "worker.rejoin.fenced",
    "worker.rejoin.written",
    "worker.rejoin.judged",
    "worker.mend.removed",
    "worker.mend.noted",
    "worker.mend.written",
];

/// Passed by the initial copy into PostgreSQL.
const PG_COPY: [&str; 2] = ["pg.load.before_commit", "pg.load.after_commit"];

/// Passed by PostgreSQL's capture and apply under any load.
const PG: [&str; 7] = [
    "pg.capture.before_append",
    "pg.capture.before_ack",
    "pg.apply.before_begin",
    "pg.apply.after_cas",
    "pg.apply.before_commit",
    "pg.apply.commit_sent",
    "pg.apply.after_commit",
];

/// Passed when a transaction that the log holds is delivered again; killed at in `history`.
pub const OVERLAP: &str = "pg.capture.before_compare";

/// Passed when history breaks, and when the copy that mends it begins.
const HISTORY: [&str; 2] = ["capture.history.marked", "worker.copy.started"];

/// Passed when the resync of single tables begins; its tests are with those of resync.
const RESYNC: [&str; 1] = ["worker.resync.begun"];

/// Passed by deliberately broken builds only; see `sabotage`.
const BROKEN: [&str; 1] = ["pg.apply.outside"];

#[test]
fn every_failpoint_of_the_code_is_in_these_lists() -> Result<()> {
    let mut listed: BTreeSet<String> = BTreeSet::new();
    let lists: [&[&str]; 19] = [
        &CREATE,
        &LOG,
        &RECOVER,
        &ABANDON,
        &[REOPENED],
        &[OVERLAP],
        &PROMOTION,
        &PG_COPY,
        &PG,
        &HISTORY,
        &RESYNC,
        &BROKEN,
        &PG_PARTS,
        &MARIADB_PARTS,
        &SQLITE_PARTS,
        &SQLITE,
        &MARIADB_COPY,
        &MARIADB,
        &MARIADB_BROKEN,
    ];
    for name in lists.concat() {
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found = BTreeSet::new();
    for package in ["repl-core", "repl-connectors", "repl-daemon"] {
        for file in sources(&crates.join(package).join("src"))? {
            failpoints_in(&fs::read_to_string(&file)?, &mut found);
        }
    }
    assert_eq!(
        found, listed,
        "left: in the code; right: killed at by the tests"
    );
    Ok(())
}

/// Rust files below `dir`, without unit tests.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("tests") {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The names given to `hit(`, `failpoint(`, `pass(` and `prepare(`: the first string of each call that is one.
fn failpoints_in(source: &str, found: &mut BTreeSet<String>) {
    for call in ["hit(", "failpoint(", "pass(", ".prepare("] {
        for (at, _) in source.match_indices(call) {
            let arguments = &source[at + call.len()..];
            let end = arguments.find(';').unwrap_or(arguments.len());
            let is_name = |name: &&str| {
                name.contains('.')
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_')
                    && [
                        "log.",
                        "state.",
                        "worker.",
                        "capture.",
                        "promotion.",
                        "pg.",
                        "mysql.",
                        "sqlite.",
                    ]
                    .iter()
                    .any(|area| name.starts_with(area))
            };
            let name = arguments[..end].split('"').skip(1).step_by(2).find(is_name);
            found.extend(name.map(str::to_owned));
        }
    }
}

/// Starts the daemon with a failpoint that kills it at the `nth` time, and waits for its death.
pub fn die_at(daemon: &mut Daemon, name: &str, nth: u64) -> Result<()> {
    die_with(daemon, &format!("{name}=kill@{nth}"), name)
}

fn die_with(daemon: &mut Daemon, failpoints: &str, name: &str) -> Result<()> {
    daemon.set_failpoints(failpoints);
    daemon.spawn()?;
    daemon
        .wait_killed(REACHED)
        .with_context(|| format!("failpoint {name}"))
}

#[test]
fn killed_while_a_group_is_made_and_copied() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| config)?;
    let load = rig::spawn_load(&rig.primary, 100, false)?;
    for name in CREATE.into_iter().chain(PG_COPY) {
        die_at(&mut rig.daemon, name, 1)?;
    }
    // The copy of a later table: earlier ones are there already.
    for name in PG_COPY {
        die_at(&mut rig.daemon, name, 2)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.settle()?;
    rig.install_audit_after_load(load)?;
    rig.check()
}

#[test]
fn killed_at_every_step_of_the_event_log() -> Result<()> {
    kill_under_load(&LOG)
}

#[test]
fn killed_at_every_step_of_capture_and_apply() -> Result<()> {
    kill_under_load(&PG)
}

fn kill_under_load(names: &[&str]) -> Result<()> {
    let mut rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 400, true)?;
    let mut random = Random::from_environment();
    rig.daemon.kill9()?;
    for name in names {
        let rare = name.starts_with("log.roll") || name.starts_with("log.trim");
        let nth = if rare { 1 } else { 1 + random.below(20) };
        die_at(&mut rig.daemon, name, nth)?;
        rig::check_snapshot(&rig.replica).with_context(|| format!("after {name}@{nth}"))?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    load.interrupt()?;
    rig.check()
}

#[test]
fn killed_while_a_torn_tail_is_cut() -> Result<()> {
    let mut rig = Rig::start()?;
    let load = rig::spawn_load(&rig.primary, 400, true)?;
    rig.daemon.kill9()?;
    for name in RECOVER {
        die_cutting_a_torn_tail(&mut rig, name)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    load.interrupt()?;
    rig.check()
}

/// Half of what a flush writes may by chance be whole frames, and then there is no torn tail: once
/// more.
fn die_cutting_a_torn_tail(rig: &mut Rig, name: &str) -> Result<()> {
    for _ in 0..5 {
        die_at(&mut rig.daemon, "log.flush.mid_write", 7)?;
        rig.daemon.set_failpoints(&format!("{name}=kill"));
        rig.daemon.spawn()?;
        if rig.daemon.wait_killed(Duration::from_secs(5)).is_ok() {
            return Ok(());
        }
        rig.daemon.kill9()?;
    }
    bail!("no write was torn")
}

#[test]
fn killed_while_a_half_received_transaction_is_dropped() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.daemon.kill9()?;
    for name in ABANDON {
        die_in_a_large_transaction(&mut rig, name)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.check()
}

/// The log refuses one of the many fragments of a transaction; those before are written and must
/// go. Should none have been written by then, there was nothing to drop: once more.
fn die_in_a_large_transaction(rig: &mut Rig, name: &str) -> Result<()> {
    rig.daemon
        .set_failpoints(&format!("log.push=error@12;{name}=kill"));
    for _ in 0..3 {
        rig.primary.execute(
            "INSERT INTO public.journal SELECT top + n \
             FROM (SELECT max(n) AS top FROM public.journal) j, generate_series(1, 200000) n",
        )?;
        rig.daemon.spawn()?;
        if rig.daemon.wait_killed(Duration::from_secs(8)).is_ok() {
            return Ok(());
        }
        rig.daemon.kill9()?;
    }
    anyhow::bail!("{name} was not reached")
}

#[test]
fn killed_after_a_refused_batch() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.daemon.set_failpoints(&format!("{REOPENED}=kill"));
    rig.daemon.kill9()?;
    rig.daemon.start()?;
    // Values of a unique column change places: no set-wise statement can do that at once.
    rig.primary.execute(
        "BEGIN; UPDATE public.pairs SET u = -1 WHERE id = 1; UPDATE public.pairs SET u = 1 WHERE \
         id = 2; UPDATE public.pairs SET u = 2 WHERE id = 1; COMMIT",
    )?;
    rig.write_some()?;
    rig.daemon.wait_killed(REACHED)?;
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    wait_until("the swap on the replica", rig::ARRIVAL, || {
        Ok(rig
            .replica
            .query_i64("SELECT u FROM public.pairs WHERE id = 1")?
            == 2)
    })?;
    rig.check()
}

#[test]
fn killed_while_history_breaks_and_while_it_is_mended() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.daemon.kill9()?;
    wait_until("the slot to be free", rig::ARRIVAL, || {
        Ok(rig
            .primary
            .query("SELECT pg_drop_replication_slot('repl_faults')")
            .is_ok())
    })?;
    rig.write_some()?;
    let [marked, started] = HISTORY;
    die_at(&mut rig.daemon, marked, 1)?;
    rig.daemon.set_failpoints(&format!("{started}=kill"));
    rig.daemon.start()?;
    rig.expect_needs_resync()?;
    rig.daemon.replctl(&["resync", rig::REPLICA, "--yes"])?;
    rig.daemon.wait_killed(REACHED)?;
    // The order is remembered: nobody has to give it again.
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.settle()?;
    rig.write_some()?;
    rig.settle()?;
    rig.check_content()
}
