//! How fast a copy goes: no faster than it may, not at all while others suffer, and as long as it says.
//!
//! `REPL_TEST_FULL=1` copies ten million rows instead of one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_api::{CopyProgress, Membership};
use repl_tests::wait::wait_until;

use super::group::{Group, PATIENCE};

/// What the daemon may ever occupy, KiB.
const MEMORY_KIB: u64 = 150 * 1024;
const LONG: Duration = Duration::from_secs(600);

fn table(rows: u64) -> String {
    format!(
        "CREATE TABLE big (id int PRIMARY KEY, v text NOT NULL, n int);
         INSERT INTO big SELECT n, md5(n::text), n % 7 FROM generate_series(1, {rows}) n;
         VACUUM ANALYZE big"
    )
}

fn progress(group: &Group, number: usize) -> Result<Option<CopyProgress>> {
    Ok(group.state(number)?.copy)
}

fn streams(group: &Group, number: usize) -> Result<()> {
    let name = format!("replica-{number}");
    let streaming = |replica: &repl_api::ReplicaStatus| replica.membership == Membership::Streaming;
    let waited = group
        .daemon
        .wait_replica(&name, "streaming", LONG, streaming);
    waited.map(drop)
}

#[test]
fn no_more_rows_a_second_than_allowed() -> Result<()> {
    const RATE: u64 = 10_000;
    const ROWS: u64 = 50_000;
    let mut group = Group::prepared(
        1,
        |primary| primary.execute(&table(ROWS)),
        |config| {
            config
                .set("copy", "max_rows_per_second", RATE as i64)
                .set("copy", "part_rows", 10_000)
        },
    )?;
    let started = Instant::now();
    group.daemon.start()?;
    let mut looks = 0;
    while group.state(1)?.membership != Membership::Streaming {
        if let Some(copy) = progress(&group, 1)? {
            let most = RATE as f64 * started.elapsed().as_secs_f64() + 0.3 * RATE as f64;
            ensure!((copy.rows_done as f64) < most, "{copy:?}, at most {most}");
            looks += 1;
        }
        ensure!(started.elapsed() < PATIENCE, "it takes too long");
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed().as_secs_f64();
    let least = ROWS as f64 / RATE as f64;
    ensure!(took > 0.9 * least && looks > 20, "{took} s, {looks} looks");
    group.equal()
}

#[test]
fn a_copy_waits_while_another_replica_lags() -> Result<()> {
    const ROWS: u64 = 100_000;
    let mut group = Group::prepared(
        2,
        |primary| primary.execute(&table(ROWS)),
        |config| {
            config
                .set("copy", "max_lag", "1s")
                .set("copy", "max_rows_per_second", 20_000)
                .set("copy", "part_rows", 5_000)
        },
    )?;
    group.daemon.start()?;
    streams(&group, 1)?;
    streams(&group, 2)?;
    group.daemon.ignore_log();
    group.replicas[0].freeze()?;
    group
        .primary
        .execute("INSERT INTO big VALUES (-1, 'behind', 0)")?;
    group.replctl(&["resync", "replica-2", "--full", "--yes"])?;
    let paused = group
        .daemon
        .wait_replica("replica-2", "to wait", PATIENCE, |replica| {
            replica
                .copy
                .as_ref()
                .is_some_and(|copy| copy.paused.is_some())
        })?;
    let copy = paused.copy.context("asked for above")?;
    let reason = copy.paused.unwrap_or_default();
    ensure!(reason.contains("replica-1 lags"), "{reason}");
    // What was on its way when it began to wait arrives still.
    std::thread::sleep(Duration::from_millis(500));
    let before = progress(&group, 2)?.context("a copy under way")?.rows_done;
    std::thread::sleep(Duration::from_secs(1));
    let after = progress(&group, 2)?.context("a copy under way")?.rows_done;
    ensure!(
        before == after && after < ROWS,
        "{before} rows, then {after}"
    );
    group.replicas[0].thaw()?;
    streams(&group, 2)?;
    group.equal()
}

/// The time left that is shown after the first tenth is what it then takes, within a quarter; memory
/// stays bounded.
#[test]
fn the_time_left_is_honest() -> Result<()> {
    let full = std::env::var_os("REPL_TEST_FULL").is_some();
    // The ordinary run goes at a pace that other work on the machine does not change.
    let (rows, rate) = if full {
        (10_000_000, 0)
    } else {
        (1_000_000, 100_000)
    };
    let mut group = Group::prepared(
        1,
        |primary| primary.execute(&table(rows)),
        |config| {
            config.set("copy", "max_rows_per_second", rate).set(
                "copy",
                "part_rows",
                (rows / 20) as i64,
            )
        },
    )?;
    group.daemon.start()?;
    let mut told = None;
    wait_until("the first tenth", LONG, || {
        if let Some(copy) = progress(&group, 1)?
            && copy.rows_done >= rows / 10
        {
            told = copy.eta_s.map(|left| (Instant::now(), left));
        }
        Ok(told.is_some())
    })?;
    let (at, left) = told.context("waited for above")?;
    wait_until("the end of the copy", LONG, || {
        Ok(progress(&group, 1)?.is_none())
    })?;
    let took = at.elapsed().as_secs_f64();
    println!("{rows} rows: {left:.1} s left were shown, it took {took:.1} s");
    ensure!(
        (left - took).abs() <= 0.25 * took,
        "{left:.1} s were shown, it took {took:.1} s"
    );
    let (_, peak) = group.daemon.memory_kib()?;
    println!("peak of {} MiB", peak / 1024);
    ensure!(
        peak <= MEMORY_KIB,
        "the daemon occupied {} MiB",
        peak / 1024
    );
    streams(&group, 1)?;
    let found = group.replica().query_i64("SELECT count(*) FROM big")?;
    ensure!(found == rows as i64, "{found} rows arrived");
    Ok(())
}
