//! The first start at a primary that is never without transactions.

use std::time::{Duration, Instant};

use anyhow::Result;
use repl_tests::pg::{DATABASE, Role, Session};

use super::group::{Group, PATIENCE, wait_query};

#[test]
fn the_slot_waits_for_transactions_however_long_they_take_and_says_for_which() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| {
            primary.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
            primary.psql(
                "postgres",
                Role::Superuser,
                "CREATE TABLE u (id int PRIMARY KEY)",
            )?;
            primary.execute("ALTER DATABASE app SET statement_timeout = '3s'")
        },
        |config| config,
    )?;
    // Of another database, prepared, and one of its own that begins later.
    group.primary.set("max_prepared_transactions", "5")?;
    group.primary.restart()?;
    let url = |database: &str| group.primary.url(database, Role::Superuser);
    let mut prepared = Session::open(&url(DATABASE))?;
    prepared.execute("BEGIN")?;
    prepared.execute("INSERT INTO t VALUES (2)")?;
    prepared.execute("PREPARE TRANSACTION 'half'")?;
    let mut other = Session::open(&url("postgres"))?;
    other.execute("BEGIN")?;
    other.execute("INSERT INTO u VALUES (1)")?;
    group.daemon.start()?;
    let alert = |group: &Group, part: &str| {
        group.daemon.wait_status(part, PATIENCE, |status| {
            let mut alerts = status.alerts.iter();
            alerts.any(|alert| alert.contains(part)).then_some(())
        })
    };
    alert(
        &group,
        "prepared transaction 'half' of role postgres in database app, open for",
    )?;
    let mut own = Session::open(&url(DATABASE))?;
    own.execute("BEGIN")?;
    own.execute("INSERT INTO t VALUES (3)")?;
    // It is not begun again.
    let longest = "SELECT coalesce(max(clock_timestamp() - query_start) > '6 s', false)
                     FROM pg_stat_activity WHERE query LIKE '%create_logical_replication_slot%'
                      AND pid <> pg_backend_pid()";
    wait_query(&group.primary, longest, "t")?;

    // The daemon can be stopped meanwhile, and leaves nothing behind.
    let stopping = Instant::now();
    assert!(group.daemon.terminate()?.success());
    assert!(
        stopping.elapsed() < Duration::from_secs(4),
        "{:?}",
        stopping.elapsed()
    );
    wait_query(
        &group.primary,
        "SELECT count(*) FROM pg_replication_slots",
        "0",
    )?;
    group.daemon.start()?;
    prepared.execute("COMMIT PREPARED 'half'")?;
    alert(&group, "role postgres in database postgres, open for")?;
    other.execute("COMMIT")?;
    alert(&group, "role postgres in database app, open for")?;
    own.execute("COMMIT")?;
    group.streams()?;
    group.equal()?;
    assert!(group.daemon.status()?.alerts.is_empty());
    group.daemon.finish()
}
