//! A SQLite primary: replicas of three engines are brought back while it is written to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_tests::daemon::Daemon;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

use super::ask::{all_equal, table, validate};
use super::group::{self, MARIADB, PG, SQLITE, replctl};
use super::planted::{reported, streams};

const SCHEMA: &str = "
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, photo BLOB, at DATETIME);
CREATE TABLE pairs (a INTEGER, b TEXT, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE uniq (id INTEGER PRIMARY KEY, u TEXT UNIQUE);
CREATE TABLE log (what TEXT, n INTEGER);
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000)
INSERT INTO items SELECT n, 'item ' || n, n / 7.0, CAST(x'00' || n AS BLOB), '2024-01-01' FROM c;
INSERT INTO pairs SELECT id, name, 'v' || id FROM items WHERE id <= 3000;
INSERT INTO uniq SELECT id, name FROM items WHERE id <= 3000;
INSERT INTO log SELECT 'copied', id % 7 FROM items WHERE id <= 100;
";

const FAULTS: &str = "
UPDATE items SET name = 'Item 3' WHERE id = 3;
DELETE FROM items WHERE id IN (1, 10000);
INSERT INTO items (id, name) VALUES (-7, 'extra'), (99999, 'extra');
UPDATE pairs SET v = 'V5' WHERE a = 5;
DELETE FROM pairs WHERE a = 6;
UPDATE uniq SET u = 'none' WHERE id = 8;
UPDATE uniq SET u = 'item 8' WHERE id = 9;
UPDATE uniq SET u = 'item 9' WHERE id = 8;
DELETE FROM log WHERE n = 3;
";

fn write(primary: &SqliteDb, stop: &AtomicBool) -> Result<()> {
    let connection = primary.connect()?;
    let mut round = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let id = round * 7919 % 10000 + 1;
        connection.execute_batch(&format!(
            "BEGIN;
             UPDATE items SET price = price * 1.1, name = name || 'x' WHERE id = {id};
             REPLACE INTO items VALUES ({id} + 5, 'replaced', {round} / 3.0, x'00', 'now');
             UPDATE items SET id = -id WHERE id = {id} + 20;
             DELETE FROM pairs WHERE a = {id}; INSERT INTO pairs VALUES ({id}, 'b{round}', 'v');
             INSERT INTO log VALUES ('round', {round} % 7);
             COMMIT;"
        ))?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn replicas_of_three_engines_come_back() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    primary.execute(SCHEMA)?;
    let pg = PgServer::builder("replica").start()?;
    let mariadb = MariaDb::start_new("replica", &[])?;
    let sqlite = SqliteDb::at(&scratch.join("replica.db"));
    let config = group::config(&scratch)
        .set("copy", "part_rows", 1_000)
        .primary("main", &primary.url())
        .replica(PG, &pg.url(DATABASE, Role::Superuser))
        .replica(MARIADB, &mariadb.url(DATABASE))
        .replica(SQLITE, &sqlite.url());
    let mut daemon = Daemon::launch(config)?;
    // The stream may meet a planted difference before the resync does.
    daemon.ignore_log();
    for name in [PG, MARIADB, SQLITE] {
        streams(&daemon, name)?;
    }
    all_equal(&validate(&daemon, true)?, 3)?;
    pg.execute(FAULTS)?;
    mariadb.execute(FAULTS)?;
    sqlite.execute(FAULTS)?;
    // Nothing but SQLite keeps a value's class.
    sqlite.execute("UPDATE items SET at = 5 WHERE id = 52")?;
    for name in [PG, MARIADB, SQLITE] {
        replctl(&daemon, &["resync", name, "--yes", "--wait"])?;
        let written = reported(&daemon, name)?;
        let items = &written["main.items"];
        let updated = if name == SQLITE { 2 } else { 1 };
        ensure!(
            items["inserted"] == 2 && items["deleted"] == 2 && items["updated"] == updated,
            "{written:#}"
        );
        let uniq = serde_json::json!({"inserted": 0, "updated": 2, "deleted": 0});
        ensure!(written["main.uniq"] == uniq, "{written:#}");
    }
    all_equal(&validate(&daemon, true)?, 3)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| write(&primary, &stop));
        pg.execute(FAULTS)?;
        mariadb.execute("DELETE FROM items WHERE id < 200")?;
        sqlite.execute("UPDATE items SET name = 'other' WHERE id > 8000")?;
        let resynced = [PG, MARIADB, SQLITE]
            .into_iter()
            .try_for_each(|name| replctl(&daemon, &["resync", name, "--yes", "--wait"]).map(drop));
        stop.store(true, Ordering::Relaxed);
        writer.join().ok().context("a thread panicked")??;
        resynced
    })?;
    let found = validate(&daemon, true)?;
    all_equal(&found, 3)?;
    ensure!(
        table(&found, PG, "main.items")?.primary_rows > Some(9_000),
        "{found:#?}"
    );
    Ok(())
}
