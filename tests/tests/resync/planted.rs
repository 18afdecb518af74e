//! Tables of every kind of key, and differences of every kind in them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::Daemon;
use repl_tests::pg::{DATABASE, Role, Session};
use serde_json::Value;

use super::ask::validate;
use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE};

/// Rows in the large table, and of one part of its copy.
pub const ROWS: i64 = 20_000;
pub const PART_ROWS: i64 = 2_000;

/// `wide` is compared in parts; `pairs` has values that must move between rows; `words` is keyed by a
/// text; `twins` has no key.
const SEED: &str = "
CREATE TABLE wide (id bigint PRIMARY KEY, a text, b text, n numeric, r double precision, at timestamp,
  raw bytea);
INSERT INTO wide SELECT n, 'value ' || n, CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN NULL ELSE 'x' END,
  n + 0.50, n / 7.0, '2024-01-01 12:00:00.5', decode(md5(n::text), 'hex') FROM generate_series(1, 20000) n;
CREATE TABLE grid (x int, y smallint, v text, PRIMARY KEY (y, x));
INSERT INTO grid SELECT n % 100 - 50, n / 100, 'v' || n FROM generate_series(1, 5000) n;
CREATE TABLE pairs (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text);
INSERT INTO pairs SELECT n, n, 'v' FROM generate_series(1, 3000) n;
CREATE TABLE words (word text PRIMARY KEY, n int);
INSERT INTO words SELECT 'word ' || n, n FROM generate_series(1, 3000) n;
CREATE TABLE twins (v int, w text);
ALTER TABLE twins REPLICA IDENTITY FULL;
INSERT INTO twins SELECT n % 5, 'x' FROM generate_series(1, 50) n;
ANALYZE;
";

/// One byte; NULL for empty; values swapped between rows; missing rows, at both ends as well; rows too
/// many, at both ends as well; nothing but a bit of a float; unique values in a circle; a key that
/// differs in its case; duplicates without a key.
const FAULTS: &str = "
UPDATE wide SET a = 'valuE 1' WHERE id = 1;
UPDATE wide SET b = NULL WHERE id = 3;
UPDATE wide SET a = CASE id WHEN 4 THEN 'value 5005' ELSE 'value 4' END WHERE id IN (4, 5005);
DELETE FROM wide WHERE id IN (2, 7000, 7001, 20000);
INSERT INTO wide (id, a, b, n) VALUES (-5, 'extra', '', 1), (0, 'extra', '', 1), (100000, 'extra', '', 1);
UPDATE wide SET r = 1286.4285714285716 WHERE id = 9005;
UPDATE grid SET v = 'changed' WHERE x = 0 AND y = 7;
DELETE FROM grid WHERE y = 20 AND x < 0;
INSERT INTO grid VALUES (1000, -3, 'extra'), (-1000, 60, 'extra');
UPDATE pairs SET u = -id WHERE id IN (10, 11, 2000);
UPDATE pairs SET u = CASE id WHEN 10 THEN 11 WHEN 11 THEN 2000 ELSE 10 END WHERE id IN (10, 11, 2000);
DELETE FROM pairs WHERE id = 12;
INSERT INTO pairs VALUES (9000, 12, 'has the value of a row that is missing');
UPDATE words SET word = 'Word 5' WHERE word = 'word 5';
UPDATE words SET n = 0 WHERE word = 'word 6';
DELETE FROM words WHERE word = 'word 7';
INSERT INTO twins VALUES (2, 'x');
DELETE FROM twins WHERE v = 3;
";

/// What is written to bring each table back: inserted, updated, deleted; nothing is known of a table
/// without a key.
pub const WRITTEN: [(&str, [u64; 3]); 4] = [
    ("public.wide", [4, 5, 3]),
    ("public.grid", [50, 1, 2]),
    ("public.pairs", [1, 3, 1]),
    ("public.words", [2, 1, 1]),
];

/// Three replicas that hold what the primary holds.
pub fn start() -> Result<Group> {
    let mut group = Group::prepare(true, &[], |primary| primary.execute(SEED))?;
    let config = group.daemon.config().clone();
    group
        .daemon
        .set_config(config.set("copy", "part_rows", PART_ROWS))?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    group.caught_up()?;
    for name in [PG, MARIADB, SQLITE] {
        streams(&group.daemon, name)?;
    }
    Ok(group)
}

/// Waits until the replica streams.
pub fn streams(daemon: &Daemon, name: &str) -> Result<()> {
    daemon
        .wait_replica(name, "to stream", PATIENCE, |replica| {
            replica.membership == Membership::Streaming
        })
        .map(drop)
}

/// Plants the differences at a replica.
pub fn plant(group: &Group, replica: &str) -> Result<()> {
    at(group, replica, FAULTS)
}

/// Runs statements at a replica.
pub fn at(group: &Group, replica: &str, sql: &str) -> Result<()> {
    match replica {
        PG => group.pg.as_ref().context("started")?.execute(sql),
        MARIADB => group.mariadb.execute(sql),
        _ => group.sqlite.execute(sql),
    }
}

/// The number a query gives at a replica.
pub fn number(group: &Group, replica: &str, sql: &str) -> Result<i64> {
    match replica {
        PG => group.pg.as_ref().context("started")?.query_i64(sql),
        MARIADB => group.mariadb.query_i64(sql),
        _ => group.sqlite.query_i64(sql),
    }
}

/// Everything is equal everywhere, as the daemon's own comparison and the harness's see it.
pub fn equal(group: &Group) -> Result<()> {
    group.caught_up()?;
    let found = validate(&group.daemon, true)?;
    super::ask::all_equal(&found, 3)?;
    let tables = group.same_schemas(&["public"])?;
    ensure!(tables >= 5, "{tables} tables were compared");
    Ok(())
}

/// Whether a deep comparison of everything finds a difference.
pub fn differs(daemon: &Daemon) -> Result<bool> {
    let found = validate(daemon, true)?;
    Ok(found.verdict == Some(repl_api::Verdict::Different))
}

/// What the last resync of the replica wrote, by table, as the audit log says.
pub fn reported(daemon: &Daemon, replica: &str) -> Result<Value> {
    let path = daemon.config().log_dir().join("audit.jsonl");
    let text = std::fs::read_to_string(path)?;
    let lines: serde_json::Result<Vec<Value>> = text.lines().map(serde_json::from_str).collect();
    let of = |line: &&Value| {
        line["event"] == "report"
            && line["verb"] == "replica.resync"
            && line["arguments"]["replica"] == replica
    };
    let last = lines?.into_iter().rev().find(|line| of(&line));
    Ok(last.context("no resync was reported")?["arguments"]["tables"].clone())
}

/// The primary's URL, for [`load`].
pub fn primary(group: &Group) -> String {
    group.primary.url(DATABASE, Role::Superuser)
}

/// Changes of every kind, until told to stop.
pub fn load(primary: &str, stop: &AtomicBool) -> Result<()> {
    let mut session = Session::open(primary)?;
    let mut round = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let id = round * 7919 % ROWS + 1;
        let pair = round * 31 % 2900 + 1;
        session.execute(&format!(
            "BEGIN;
             UPDATE wide SET n = n + 1, r = r * 1.1 WHERE id = {id};
             DELETE FROM wide WHERE id = {id} + 13 AND {round} % 3 = 0;
             INSERT INTO wide (id, a) VALUES ({id} + 13, 'new {round}') ON CONFLICT DO NOTHING;
             UPDATE wide SET id = id + 50000 WHERE id = {id} + 17 AND {round} % 11 = 0
               AND NOT EXISTS (SELECT FROM wide WHERE id = {id} + 50017);
             UPDATE grid SET v = v || 'x' WHERE y = {round} % 50 AND x = {round} % 40;
             UPDATE pairs SET u = -1 WHERE id = {pair};
             UPDATE pairs SET u = {pair} WHERE id = {pair};
             UPDATE words SET n = n + 1 WHERE word = 'word {pair}';
             INSERT INTO twins VALUES ({round} % 5, 'x');
             COMMIT"
        ))?;
        thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}
