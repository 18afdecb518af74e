//! A SQLite primary with replicas of three engines, under a write load.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use repl_api::Verdict;
use repl_tests::daemon::Daemon;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

use super::ask::{all_equal, many_equal, replctl, table, validate};
use super::group::{self, MARIADB, PATIENCE, PG, SQLITE};

struct FileGroup {
    daemon: Daemon,
    primary: SqliteDb,
    pg: PgServer,
    mariadb: MariaDb,
    sqlite: SqliteDb,
    _scratch: Scratch,
}

const SCHEMA: &str = "
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, amount DECIMAL(10,2), photo BLOB,
  at DATETIME, active BOOLEAN);
CREATE TABLE pairs (a INTEGER, b TEXT, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE log (what TEXT, n INTEGER);
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300)
INSERT INTO items SELECT n, 'item ' || n, n / 7.0, n / 8.0, randomblob(n % 50), '2024-01-01', n % 2 FROM c;
INSERT INTO items VALUES (1001, NULL, -0.0, 1e20, x'', 5, 1), (1002, '', 1e300, 3, NULL, NULL, 0);
INSERT INTO pairs SELECT id, name, 'v' || id FROM items WHERE id <= 300;
INSERT INTO log SELECT 'copied', id % 7 FROM items;
";

fn start() -> Result<FileGroup> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    primary.execute(SCHEMA)?;
    let pg = PgServer::builder("replica").start()?;
    let mariadb = MariaDb::start_new("replica", &[])?;
    let sqlite = SqliteDb::at(&scratch.join("replica.db"));
    let config = group::config(&scratch)
        .primary("main", &primary.url())
        .replica(PG, &pg.url(DATABASE, Role::Superuser))
        .replica(MARIADB, &mariadb.url(DATABASE))
        .replica(SQLITE, &sqlite.url());
    let daemon = Daemon::launch(config)?;
    let group = FileGroup {
        daemon,
        primary,
        pg,
        mariadb,
        sqlite,
        _scratch: scratch,
    };
    for name in [PG, MARIADB, SQLITE] {
        group
            .daemon
            .wait_replica(name, "streaming", PATIENCE, |one| {
                one.membership == repl_api::Membership::Streaming
            })?;
    }
    Ok(group)
}

fn write(primary: &SqliteDb, stop: &AtomicBool) -> Result<()> {
    let connection = primary.connect()?;
    let mut round = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let id = round * 7 % 300 + 1;
        connection.execute_batch(&format!(
            "BEGIN;
             UPDATE items SET price = price * 1.1, amount = amount + 1, name = name || 'x' WHERE id = {id};
             REPLACE INTO items VALUES ({id} + 5, 'replaced', {round} / 3.0, {round}, x'00', 'now', 1);
             UPDATE items SET id = -id WHERE id = {id} + 20;
             UPDATE items SET id = -id WHERE id = -({id} + 13);
             DELETE FROM pairs WHERE a = {id}; INSERT INTO pairs VALUES ({id}, 'b{round}', 'v');
             INSERT INTO log VALUES ('round', {round} % 7);
             DELETE FROM log WHERE rowid = (SELECT min(rowid) FROM log WHERE n = {round} % 5);
             COMMIT;"
        ))?;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn many_validations_of_a_file_under_load_find_no_difference() -> Result<()> {
    let group = start()?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| write(&group.primary, &stop));
        let outcome = many_equal(&group.daemon, 3);
        stop.store(true, Ordering::Relaxed);
        let written = writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        outcome.and(written)
    })?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    group.daemon.finish()
}

#[test]
fn faults_behind_a_file_are_found_and_repaired() -> Result<()> {
    let group = start()?;
    let faults = "UPDATE items SET name = 'Item 1' WHERE id = 1;
                  UPDATE items SET price = 3.0000000000000004 WHERE id = 21;
                  DELETE FROM items WHERE id = 5; DELETE FROM log WHERE n = 3;";
    group.pg.execute(faults)?;
    group
        .pg
        .execute("UPDATE items SET amount = 1.250 WHERE id = 10")?;
    group.mariadb.execute(faults)?;
    group
        .mariadb
        .execute("UPDATE items SET amount = 1.2500001 WHERE id = 10")?;
    group.sqlite.execute(faults)?;
    group
        .sqlite
        .execute("UPDATE items SET amount = 1.2500001 WHERE id = 10")?;
    let found = validate(&group.daemon, true)?;
    for name in [PG, MARIADB, SQLITE] {
        let items = table(&found, name, "main.items")?;
        ensure!(items.verdict == Verdict::Different, "{found:#?}");
        ensure!(
            (items.changed, items.missing, items.extra) == (3, 1, 0),
            "{found:#?}"
        );
        ensure!(table(&found, name, "main.log")?.missing > 10, "{found:#?}");
        ensure!(
            table(&found, name, "main.pairs")?.verdict == Verdict::Equal,
            "{found:#?}"
        );
    }
    let (code, text) = replctl(&group.daemon, &["--deep", "--repair", "--yes"])?;
    ensure!(code == 0, "{code}: {text}");
    all_equal(&validate(&group.daemon, true)?, 3)?;
    group.daemon.finish()
}
