//! What holds other tools up: open transactions, prepared ones, a replica that is down, tables that
//! are emptied meanwhile.

use anyhow::{Context, Result, ensure};
use repl_api::Verdict;
use repl_tests::mariadb::APPLY_USER;
use repl_tests::pg::{DATABASE, Role};

use super::ask::{all_equal, replctl, table, validate};
use super::group::{self, Group, MARIADB, PG, SQLITE};

const SEED: &str = "
CREATE TABLE held (id int PRIMARY KEY, v text);
INSERT INTO held SELECT n, 'v' || n FROM generate_series(1, 200) n;
CREATE TABLE other (id int PRIMARY KEY);
";

#[test]
fn open_and_prepared_transactions_hold_nothing_up() -> Result<()> {
    let group = Group::start(true, &[], |primary| primary.execute(SEED))?;
    group.caught_up()?;
    let mut idle = group.primary.session(DATABASE, Role::Superuser)?;
    idle.execute("BEGIN; INSERT INTO held VALUES (1000, 'not committed'); UPDATE held SET v = '' WHERE id = 1")?;
    let mut two = group.primary.session(DATABASE, Role::Superuser)?;
    two.execute("BEGIN; DELETE FROM held WHERE id = 2; PREPARE TRANSACTION 'p'")?;
    group
        .primary
        .execute("INSERT INTO held VALUES (1001, 'committed')")?;
    for deep in [false, true] {
        let found = validate(&group.daemon, deep)?;
        all_equal(&found, 3)?;
        let held = table(&found, PG, "public.held")?;
        ensure!(held.primary_rows == Some(201), "{found:#?}");
    }
    // They commit after many others: no cut may take them for part of it or not by their ids alone.
    two.execute("COMMIT PREPARED 'p'")?;
    idle.execute("COMMIT")?;
    for deep in [true, false] {
        all_equal(&validate(&group.daemon, deep)?, 3)?;
    }
    group.caught_up()?;
    let found = validate(&group.daemon, true)?;
    ensure!(
        table(&found, SQLITE, "public.held")?.replica_rows == Some(201),
        "{found:#?}"
    );
    group.daemon.finish()
}

#[test]
fn a_replica_that_is_down_cannot_be_told_and_the_others_can() -> Result<()> {
    let mut group = Group::start(true, &[], |primary| primary.execute(SEED))?;
    group.caught_up()?;
    group.daemon.ignore_log();
    group.mariadb.kill9()?;
    group
        .primary
        .execute("INSERT INTO other SELECT generate_series(1, 10)")?;
    let (code, text) = replctl(&group.daemon, &["--deep"])?;
    ensure!(code == 2, "{code}: {text}");
    ensure!(text.contains("could not tell"), "{text}");
    let found = validate(&group.daemon, true)?;
    ensure!(found.verdict == Some(Verdict::Undetermined), "{found:#?}");
    for name in ["public.held", "public.other"] {
        let down = table(&found, MARIADB, name)?;
        ensure!(down.verdict == Verdict::Undetermined, "{found:#?}");
        ensure!(
            down.reason.as_ref().is_some_and(|why| !why.is_empty()),
            "{found:#?}"
        );
        for up in [PG, SQLITE] {
            ensure!(
                table(&found, up, name)?.verdict == Verdict::Equal,
                "{found:#?}"
            );
        }
    }
    // A difference outweighs what could not be told.
    group.sqlite.execute("DELETE FROM held WHERE id = 7")?;
    let (code, text) = replctl(&group.daemon, &["--deep"])?;
    ensure!(code == 1 && text.contains("id=7"), "{code}: {text}");
    group.mariadb.start()
}

#[test]
fn a_paused_replica_is_told_by_how_far_it_is() -> Result<()> {
    let group = Group::start(false, &[], |primary| primary.execute(SEED))?;
    group.caught_up()?;
    group::replctl(&group.daemon, &["pause", SQLITE])?;
    group.primary.execute("INSERT INTO other VALUES (1)")?;
    let found = validate(&group.daemon, false)?;
    let paused = table(&found, SQLITE, "public.held")?;
    let reason = paused.reason.clone().context("a reason")?;
    ensure!(reason.contains("paused"), "{found:#?}");
    ensure!(
        table(&found, MARIADB, "public.held")?.verdict == Verdict::Equal,
        "{found:#?}"
    );
    group::replctl(&group.daemon, &["resume", SQLITE])?;
    all_equal(&validate(&group.daemon, false)?, 2)
}

#[test]
fn tables_that_are_emptied_meanwhile_are_no_difference() -> Result<()> {
    let group = Group::start(true, &[], |primary| primary.execute(SEED))?;
    group.caught_up()?;
    let script = "TRUNCATE held; INSERT INTO held SELECT n, 'again' FROM generate_series(1, 100) n;
                  SELECT pg_sleep(0.5)";
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<()> {
            for _ in 0..15 {
                group.primary.execute(script)?;
            }
            Ok(())
        });
        while !writer.is_finished() {
            let found = validate(&group.daemon, true)?;
            // Now and then it cannot be told; it never differs.
            ensure!(found.verdict != Some(Verdict::Different), "{found:#?}");
        }
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?
    })?;
    group.caught_up()?;
    all_equal(&validate(&group.daemon, true)?, 3)
}

#[test]
fn the_daemons_own_tables_beside_the_users_are_not_compared() -> Result<()> {
    let mut group = Group::prepare(false, &[], |primary| primary.execute(SEED))?;
    group.mariadb.execute(&format!(
        "REVOKE ALL PRIVILEGES ON repl.* FROM '{APPLY_USER}'@'%';
         GRANT CREATE TEMPORARY TABLES ON `{DATABASE}`.* TO '{APPLY_USER}'@'%'"
    ))?;
    group.daemon.start()?;
    group.caught_up()?;
    let beside = group.mariadb.query("SHOW TABLES LIKE 'repl\\_%'")?;
    ensure!(beside.lines().count() > 3, "{beside}");
    for deep in [false, true] {
        let found = validate(&group.daemon, deep)?;
        all_equal(&found, 2)?;
        let mariadb = found.replicas.iter().find(|one| one.replica == MARIADB);
        let tables = &mariadb.context("compared")?.tables;
        ensure!(tables.len() == 2, "{tables:#?}");
    }
    group.daemon.finish()
}

#[test]
fn a_skip_is_forgiven_only_when_everything_was_found_equal() -> Result<()> {
    use repl_api::Membership;
    let mut group = Group::start(true, &[], |primary| {
        primary.execute("CREATE TABLE held (id int PRIMARY KEY, v double precision)")
    })?;
    group.caught_up()?;
    group.daemon.ignore_log();
    // SQLite cannot hold it, MariaDB neither.
    group
        .primary
        .execute("INSERT INTO held VALUES (1, 'NaN')")?;
    let error = group::paused_by_error(&group.daemon, SQLITE)?;
    let seq = error
        .transaction
        .context("the transaction")?
        .seq
        .to_string();
    group::replctl(
        &group.daemon,
        &["skip", SQLITE, "--seq", &seq, "--reason", "test"],
    )?;
    let standing = |name| -> Result<Membership> {
        let status = group.daemon.status()?;
        Ok(status.replica(name).context("shown")?.membership)
    };
    validate(&group.daemon, true)?;
    ensure!(standing(SQLITE)? == Membership::Diverged);
    group.primary.execute("DELETE FROM held")?;
    let error = group::paused_by_error(&group.daemon, SQLITE)?;
    ensure!(
        error.message.contains("a row to change or delete"),
        "{error:?}"
    );
    group.sqlite.execute("INSERT INTO held VALUES (1, 0)")?;
    group::replctl(&group.daemon, &["retry", SQLITE])?;
    group
        .daemon
        .wait_replica(SQLITE, "caught up", group::PATIENCE, |one| {
            one.queue_transactions == 0 && one.membership == Membership::Diverged
        })?;
    validate(&group.daemon, false)?;
    ensure!(
        standing(SQLITE)? == Membership::Diverged,
        "counting is not enough"
    );
    validate(&group.daemon, true)?;
    ensure!(standing(SQLITE)? == Membership::Streaming);
    Ok(())
}
