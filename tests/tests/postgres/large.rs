//! Sizes: memory stays bounded whatever the transaction, the backlog or the row.
//!
//! `REPL_TEST_FULL=1` runs the backlog at its full size.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_api::{ErrorKind, Membership};

use super::group::{Group, PATIENCE, assert_contains};

/// What the daemon may ever occupy, KiB.
const MEMORY_KIB: u64 = 150 * 1024;
const LONG: Duration = Duration::from_secs(600);

fn full_size() -> bool {
    std::env::var_os("REPL_TEST_FULL").is_some()
}

fn bounded(group: &Group, what: &str) -> Result<()> {
    let (_, peak) = group.daemon.memory_kib()?;
    eprintln!("{what}: peak of {} MiB", peak / 1024);
    ensure!(
        peak <= MEMORY_KIB,
        "{what}: the daemon occupied {} MiB",
        peak / 1024
    );
    Ok(())
}

#[test]
fn a_transaction_of_a_million_rows_takes_bounded_memory() -> Result<()> {
    let group = Group::start(2, |primary| {
        primary.execute("CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL, n int)")
    })?;
    group.caught_up()?;
    let started = Instant::now();
    group.primary.execute(
        "INSERT INTO big SELECT n, md5(n::text) || md5((n + 1)::text), n % 7 FROM generate_series(1, 1000000) n",
    )?;
    let committed = started.elapsed();
    group.daemon.wait_caught_up(&group.primary, LONG)?;
    eprintln!(
        "1,000,000 rows: committed after {committed:?}, on both replicas after {:?}",
        started.elapsed()
    );
    bounded(&group, "insert of 1,000,000 rows")?;
    // Changed and removed within one transaction, together with another table's rows.
    group.primary.execute(
        "BEGIN; UPDATE big SET n = n + 1 WHERE id % 4 = 0; DELETE FROM big WHERE id % 5 = 0;
         UPDATE big SET id = -id WHERE id % 100 = 1; COMMIT",
    )?;
    group.daemon.wait_caught_up(&group.primary, LONG)?;
    bounded(&group, "update and delete of 460,000 rows")?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_backlog_takes_bounded_memory() -> Result<()> {
    let (rows, per_transaction) = if full_size() {
        (5_000_000_u32, 1000_u32)
    } else {
        (600_000, 500)
    };
    let mut group = Group::start(3, |primary| {
        primary.execute("CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL, n int)")
    })?;
    group.caught_up()?;
    group.daemon.ignore_log();
    // One paused by the operator, one whose server is stopped, one that follows.
    group.replctl(&["pause", "replica-1"])?;
    group.replicas[1].stop(repl_tests::pg::StopMode::Fast, Duration::from_secs(20))?;
    let started = Instant::now();
    group.primary.execute(&format!(
        "DO $$ BEGIN FOR i IN 0..{last} LOOP
           INSERT INTO big SELECT n, md5(n::text) || md5((n + 1)::text), 0
             FROM generate_series(i * {step} + 1, (i + 1) * {step}) n;
           UPDATE big SET n = i WHERE id IN (i, i * {step} + 7);
           COMMIT; END LOOP; END $$",
        last = rows / per_transaction - 1,
        step = per_transaction,
    ))?;
    group
        .daemon
        .wait_replica("replica-3", "everything", LONG, |one| {
            one.applied_seq >= u64::from(rows / per_transaction)
        })?;
    eprintln!("{rows} rows in {:?}", started.elapsed());
    bounded(&group, "backlog building up")?;
    group.replicas[1].start()?;
    group.replctl(&["resume", "replica-1"])?;
    let started = Instant::now();
    group.daemon.wait_caught_up(&group.primary, LONG)?;
    eprintln!("two replicas caught up in {:?}", started.elapsed());
    bounded(&group, "backlog applied")?;
    group.equal()
}

#[test]
fn a_row_above_the_limit_is_refused_and_nothing_is_lost() -> Result<()> {
    let mut group = Group::configured(
        1,
        |primary| {
            primary.execute("CREATE TABLE wide (id int PRIMARY KEY, v text); INSERT INTO wide VALUES (1, 'small')")
        },
        |config| config.set("limits", "max_row_bytes", "1MiB"),
    )?;
    group.equal()?;
    group.daemon.ignore_log();
    group.primary.execute(
        "INSERT INTO wide VALUES (2, 'before'); INSERT INTO wide VALUES (3, repeat('x', 2000000));
         INSERT INTO wide VALUES (4, 'after')",
    )?;
    let refusal = group.refusal()?;
    assert_eq!(refusal.kind, ErrorKind::Configuration);
    assert_eq!(refusal.table.as_deref(), Some("public.wide"));
    assert_contains(&refusal.message, "limits.max_row_bytes");
    assert_contains(&refusal.advice, "raise limits.max_row_bytes");
    super::group::wait_query(group.replica(), "SELECT max(id) FROM wide", "2")?;
    let config = group
        .daemon
        .config()
        .clone()
        .set("limits", "max_row_bytes", "4MiB");
    group.daemon.terminate()?;
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    group.streams()?;
    group
        .daemon
        .wait_replica("replica-1", "streaming", PATIENCE, |one| {
            one.membership == Membership::Streaming
        })?;
    group.equal()
}
