//! SQLite databases take each other's place.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::PromotionState;
use repl_tests::wait::wait_until;

use super::mixed::{Kind, Mixed};
use super::orders;
use super::rig::PATIENCE;

const FILES: [(&str, Kind); 3] = [("main", Kind::Lite), ("r1", Kind::Lite), ("r2", Kind::Lite)];

const SCHEMA: &str = "
    CREATE TABLE probe (id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL);
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, amount NUMERIC NOT NULL DEFAULT 0);
    CREATE TABLE pair (a TEXT, b INTEGER, v BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE keyless (v);
    INSERT INTO item (name, amount)
      SELECT 'item ' || value, value * 1.5 FROM generate_series(1, 300);
    INSERT INTO pair SELECT 'a', value, randomblob(9) FROM generate_series(1, 50);
    INSERT INTO keyless SELECT value % 7 FROM generate_series(1, 30);";

fn start() -> Result<Mixed> {
    let schema = SCHEMA.replace(
        "generate_series(1, 300)",
        "(WITH RECURSIVE g(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM g WHERE value < 300) \
          SELECT value FROM g)",
    );
    let few = "(WITH RECURSIVE g(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM g WHERE value < 50) \
               SELECT value FROM g)";
    let schema = schema
        .replace("generate_series(1, 50)", few)
        .replace("generate_series(1, 30)", few);
    Mixed::start(&FILES, &schema, |config, _| config)
}

fn work(group: &Mixed, node: &str, round: i32) -> Result<()> {
    group.place(node)?.execute(&format!(
        "INSERT INTO item (name, amount) VALUES ('round {round}', {round}.5);
         UPDATE item SET amount = amount + 1 WHERE id % 10 = {round} % 10;
         DELETE FROM item WHERE id = {round} + 100;
         REPLACE INTO item (name, amount) VALUES ('item 7', {round});
         UPDATE pair SET v = x'00ff' WHERE b = {round};
         INSERT INTO keyless VALUES ({round}), (NULL), ('t');
         DELETE FROM keyless WHERE rowid = (SELECT min(rowid) FROM keyless)"
    ))
}

#[test]
fn chains_of_files_lose_nothing_and_never_have_two_primaries() -> Result<()> {
    let group = start()?;
    let probes = group.probes(None);
    let mut wanted = vec!["main".to_owned()];
    probes.wait_write("main", PATIENCE)?;
    for (round, next) in ["r1", "r2", "main", "r2", "main", "r1"]
        .into_iter()
        .enumerate()
    {
        work(&group, &group.primary()?, i32::try_from(round)?)?;
        group.promote(next)?;
        probes.wait_write(next, PATIENCE)?;
        wanted.push(next.to_owned());
        group.settle()?;
    }
    let turns = group.check_all(probes)?;
    ensure!(
        turns == wanted,
        "writes were taken by {turns:?}, not {wanted:?}"
    );
    // Nothing of the capture is left at those who are replicas, and no fence at the primary.
    for (name, place) in &group.nodes {
        let primary = *name == group.primary()?;
        let count = |like: &str| {
            place.query_i64(&format!(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '{like}'"
            ))
        };
        let (captures, fences) = (
            count("\\_repl\\_capture%' ESCAPE '\\")?,
            count("\\_repl\\_fence%' ESCAPE '\\")?,
        );
        ensure!(
            (captures > 0, fences > 0) == (primary, !primary),
            "{name}: {captures} {fences}"
        );
    }
    Ok(())
}

#[test]
fn a_number_is_never_given_out_twice() -> Result<()> {
    let group = start()?;
    // The last ones are deleted: only what is remembered tells of them.
    group.place("main")?.execute(
        "INSERT INTO probe (id, node) VALUES (500, 'main'); DELETE FROM probe WHERE id = 500",
    )?;
    group.promote("r1")?;
    let id = group
        .place("r1")?
        .query_i64("SELECT seq FROM sqlite_sequence WHERE name = 'probe'")?;
    ensure!(id >= 600, "{id}: the margin of 100 beyond 500");
    Ok(())
}

#[test]
fn killed_at_every_step_between_files() -> Result<()> {
    let mut group = start()?;
    let probes = group.probes(None);
    let all = std::env::var_os("REPL_TEST_FULL").is_some();
    let places = super::crashes::FORWARD.iter().enumerate();
    for (_, place) in places.filter(|(at, place)| !place.contains('@') && (all || at % 3 == 0)) {
        let before = group.primary()?;
        let next = FILES
            .iter()
            .map(|(name, _)| *name)
            .find(|name| *name != before);
        let next = next.context("no other node")?;
        group.die_at(&format!("{place}=kill"), next, &probes)?;
    }
    group.check_all(probes).map(drop)
}

#[test]
fn a_file_that_is_locked_for_long_stays_the_primary() -> Result<()> {
    let group = Mixed::start(
        &FILES,
        "CREATE TABLE probe (id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL)",
        |config, _| config.set("promotion", "fence_timeout", "1s"),
    )?;
    let super::mixed::Place::File(file) = group.place("main")? else {
        anyhow::bail!("no file")
    };
    let writer = file.connect()?;
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO probe (node) VALUES ('long')")?;
    let refused = group.daemon.replctl(&["promote", "r1", "--yes"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && said.contains("write lock"),
        "{said}"
    );
    writer.execute_batch("COMMIT")?;
    ensure!(group.primary()? == "main");
    group.promote("r1")?;
    group.settle()?;
    group.check_equal()
}

#[test]
fn a_file_that_is_gone_is_replaced_and_what_it_held_beyond_the_log_is_written_down() -> Result<()> {
    let mut group = start()?;
    // Its clients go on with it while the daemon is away, and where it is away from the daemon.
    group.daemon.terminate()?;
    group.place("main")?.execute(
        "INSERT INTO item (id, name, amount) VALUES (7001, 'stray', 1.25);
         UPDATE item SET amount = 77 WHERE id = 5;
         DELETE FROM pair WHERE b = 9;
         INSERT INTO keyless VALUES (99)",
    )?;
    group.hide("main", true)?;
    group.daemon.start()?;
    let ended = orders::force(&group.daemon, Some("r1"))?;
    let loss = ended.may_lose.context("what may be lost is not said")?;
    ensure!(!loss.nothing, "{loss:?}");
    group
        .place("r1")?
        .execute("UPDATE item SET amount = 5 WHERE id = 6")?;
    group.hide("main", false)?;
    ensure!(orders::join_held(&group.daemon)?, "it was not held");
    group.settle()?;
    let ledgers = group
        .daemon
        .call(|client| async move { client.ledgers().await })?
        .ledgers;
    ensure!(ledgers.len() == 1 && ledgers[0].changes == 4, "{ledgers:?}");
    let shown = group.daemon.replctl(&["ledger", "show", &ledgers[0].id])?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    for wanted in [
        r#""name":"stray""#,
        r#""amount":77"#,
        r#""b":9"#,
        r#""v":99"#,
    ] {
        ensure!(text.contains(wanted), "{wanted} is missing in {text}");
    }
    group.check_equal()?;
    let strays = group
        .place("main")?
        .query_i64("SELECT count(*) FROM item WHERE id = 7001")?;
    ensure!(
        strays == 0,
        "a row that only the old primary had is still there"
    );
    // One that holds nothing of its own follows by itself.
    group.hide("main", false)?;
    group.promote("main")?;
    group.settle()?;
    group.caught_up()?;
    group.daemon.terminate()?;
    group.hide("main", true)?;
    group.daemon.start()?;
    orders::force(&group.daemon, Some("r2"))?;
    group.hide("main", false)?;
    ensure!(
        !orders::join_held(&group.daemon)?,
        "it did not follow by itself"
    );
    group.settle()?;
    group.check_equal()
}

#[test]
fn a_file_that_was_lost_for_good_is_copied_anew() -> Result<()> {
    let group = start()?;
    for suffix in ["", "-wal", "-shm"] {
        let path = group.scratch.join(&format!("main.db{suffix}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let refused = group.daemon.replctl(&["promote", "r1", "--yes"])?;
    ensure!(refused.status.code() != Some(0), "{refused:?}");
    let ended = orders::force(&group.daemon, None)?;
    ensure!(ended.state == PromotionState::Done, "{ended:#?}");
    let next = ended.to;
    wait_until(
        "a write at the new primary",
        Duration::from_secs(10),
        || {
            Ok(group
                .place(&next)?
                .execute("INSERT INTO keyless VALUES ('after')")
                .is_ok())
        },
    )?;
    // An empty file in its place is told to join.
    repl_tests::sqlite::SqliteDb::create(&group.scratch.join("main.db"))?;
    ensure!(orders::join_held(&group.daemon)?, "it was not held");
    orders::wait_streaming(&group.daemon)?;
    group.check_equal()
}

/// What was remembered of the roles is lost, and somebody took the fence away meanwhile.
#[test]
fn a_former_primary_refuses_writes_when_the_state_is_lost() -> Result<()> {
    let mut group = start()?;
    group.promote("r1")?;
    group.settle()?;
    group.daemon.terminate()?;
    let dir = group.daemon.config().log_dir().to_owned();
    for file in ["state.json", "promotions.json", "primary.json"] {
        std::fs::remove_file(dir.join(file))?;
    }
    let main = group.place("main")?;
    let fence = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_repl\\_fence%' ESCAPE '\\'";
    let fences = main.query_i64(fence)?;
    for event in ["insert", "update", "delete"] {
        main.execute(&format!("DROP TRIGGER \"_repl_fence_mixed:probe:{event}\""))?;
    }
    group.daemon.start()?;
    ensure!(group.primary()? == "r1", "the roles were forgotten");
    wait_until("the fence to be whole again", PATIENCE, || {
        Ok(group.place("main")?.query_i64(fence)? == fences)
    })?;
    let status = group.daemon.status()?;
    for wanted in [
        "state.json was missing",
        "promotions.json was missing",
        "may have been the primary before",
    ] {
        let said = status.alerts.iter().any(|alert| alert.contains(wanted));
        ensure!(said, "{wanted}: {:?}", status.alerts);
    }
    let ids: Vec<u64> = {
        for name in ["main", "r2"] {
            let resumed = group.daemon.replctl(&["resume", name])?;
            ensure!(resumed.status.success(), "{resumed:?}");
        }
        group.daemon.wait_drained(PATIENCE)?;
        orders::check_equal(&group.daemon)?;
        group.settle()?;
        group.promote("main")?;
        let all = group
            .daemon
            .call(|client| async move { client.promotions().await })?;
        all.history.iter().map(|one| one.id).collect()
    };
    // Numbers are not given out twice.
    ensure!(ids.len() == 1 && ids[0] > 1, "{ids:?}");
    group.settle()?;
    group.check_equal()
}

/// The log directory is lost with all that was remembered of the roles, and the configuration names the node
/// that was the primary once: nobody is brought to what that one holds.
#[test]
fn a_fenced_node_that_is_taken_for_the_primary_is_noticed() -> Result<()> {
    let mut group = start()?;
    group.promote("r1")?;
    group.settle()?;
    group.daemon.terminate()?;
    std::fs::remove_dir_all(group.daemon.config().log_dir())?;
    group
        .place("r1")?
        .execute("INSERT INTO item (name) VALUES ('newer')")?;
    group.daemon.start()?;
    ensure!(group.primary()? == "main", "the configuration's primary");
    group.daemon.wait_status("the alert", PATIENCE, |status| {
        let said = |alert: &String| alert.contains("the primary refuses writes");
        status.alerts.iter().any(said).then_some(())
    })?;
    let refused = group.daemon.replctl(&["resync", "r1", "--yes"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let rows = group
        .place("r1")?
        .query_i64("SELECT count(*) FROM item WHERE name = 'newer'")?;
    ensure!(rows == 1, "a commit of the real primary is gone");
    Ok(())
}
