//! A SQLite primary with replicas of three engines: REPLACE, conflicts, cascades, every type.

use anyhow::{Context, Result};
use repl_tests::canon;
use repl_tests::daemon::Daemon;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;

use super::group::{self, MARIADB, PATIENCE, PG, SQLITE};

/// The primary file, its replicas and the daemon, which is dropped first.
pub struct FileGroup {
    pub daemon: Daemon,
    pub primary: SqliteDb,
    pub pg: PgServer,
    pub mariadb: MariaDb,
    pub sqlite: SqliteDb,
    _scratch: Scratch,
}

impl FileGroup {
    /// Fills the primary and starts the daemon.
    pub fn start(schema: &str) -> Result<FileGroup> {
        let mut group = FileGroup::prepare(schema)?;
        group.daemon.start()?;
        Ok(group)
    }

    /// [`FileGroup::start`] with the daemon not started yet.
    pub fn prepare(schema: &str) -> Result<FileGroup> {
        let scratch = Scratch::new()?;
        let primary = SqliteDb::create(&scratch.join("primary.db"))?;
        primary.execute(schema)?;
        primary.execute("CREATE TABLE marker (n INTEGER PRIMARY KEY)")?;
        let pg = PgServer::builder("replica").start()?;
        let mariadb = MariaDb::start_new("replica", &[])?;
        let sqlite = SqliteDb::at(&scratch.join("replica.db"));
        let config = group::config(&scratch)
            .primary("main", &primary.url())
            .replica(PG, &pg.url(DATABASE, Role::Superuser))
            .replica(MARIADB, &mariadb.url(DATABASE))
            .replica(SQLITE, &sqlite.url());
        Ok(FileGroup {
            daemon: Daemon::new(config)?,
            primary,
            pg,
            mariadb,
            sqlite,
            _scratch: scratch,
        })
    }

    /// Waits until everything committed now has arrived everywhere: a marker written after it has.
    pub fn caught_up(&self) -> Result<()> {
        self.primary
            .execute("INSERT INTO marker SELECT coalesce(max(n), 0) + 1 FROM marker")?;
        let probe = "SELECT coalesce(max(n), 0) FROM marker";
        let end = self.primary.query_i64(probe)?;
        let arrived = || {
            Ok(self.pg.query_i64(probe).is_ok_and(|n| n == end)
                && self.mariadb.query_i64(probe).is_ok_and(|n| n == end)
                && self.sqlite.query_i64(probe).is_ok_and(|n| n == end))
        };
        wait_until("the marker on all replicas", PATIENCE, arrived)
            .with_context(|| format!("{:#?}", self.daemon.status()))?;
        self.daemon.wait_drained(PATIENCE)
    }

    /// Compares one table everywhere.
    pub fn same(&self, table: &str) -> Result<()> {
        let columns = canon::sqlite_columns(&self.primary, table)?;
        let expected = canon::sqlite_rows(&self.primary, table, &columns)?;
        let found = canon::pg_rows(&self.pg, &format!("public.\"{table}\""), &columns)?;
        canon::assert_same(&format!("{table} in PostgreSQL"), &expected, &found)?;
        let found = canon::mariadb_rows(&self.mariadb, &format!("{DATABASE}.{table}"), &columns)?;
        canon::assert_same(&format!("{table} in MariaDB"), &expected, &found)?;
        let found = canon::sqlite_rows(&self.sqlite, table, &columns)?;
        canon::assert_same(&format!("{table} in SQLite"), &expected, &found)
    }
}

const SCHEMA: &str = "
CREATE TABLE Kinds (name TEXT PRIMARY KEY, rank INTEGER UNIQUE);
CREATE TABLE items (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL REFERENCES Kinds ON DELETE CASCADE ON UPDATE CASCADE,
  price REAL, stock INTEGER CHECK (stock >= 0), active BOOLEAN NOT NULL DEFAULT 1,
  photo BLOB, at DATETIME DEFAULT CURRENT_TIMESTAMP, amount DECIMAL(10,2));
CREATE INDEX items_kind ON items (kind);
CREATE TABLE pairs (a INTEGER, b TEXT, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE log (what TEXT, n INTEGER);
INSERT INTO Kinds VALUES ('a', 1), ('A', 2), ('ä ', 3), ('', 4);
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300)
INSERT INTO items SELECT n, CASE n % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'A' ELSE 'ä ' END, n / 7.0, n, n % 2,
  randomblob(n % 50), '2024-01-01 00:00:00', n / 8.0 FROM c;
INSERT INTO pairs SELECT id, kind, 'v' || id FROM items;
INSERT INTO log SELECT 'copied', id FROM items;
";

/// One round of every kind of statement.
fn change(round: i64) -> String {
    format!(
        "PRAGMA foreign_keys = ON;
         BEGIN;
         REPLACE INTO items SELECT id, kind, price * 2, stock + {round}, 1 - active, photo, at, amount + 1
           FROM items WHERE id % 5 = {round} % 5;
         INSERT INTO items (id, kind, stock, at) VALUES ({round} * 3, 'a', 1, {round})
           ON CONFLICT (id) DO UPDATE SET stock = stock + 10, photo = CAST(x'ff00' || {round} AS BLOB);
         REPLACE INTO Kinds VALUES ('new', 2);
         UPDATE pairs SET b = b || '.', v = NULL WHERE a % 7 = {round};
         INSERT INTO log VALUES ('round', {round}), ('round', {round});
         COMMIT;
         BEGIN;
         UPDATE items SET id = -id WHERE id BETWEEN {round} * 10 AND {round} * 10 + 3;
         DELETE FROM items WHERE id % 31 = {round};
         UPDATE Kinds SET name = 'a{round}' WHERE name LIKE 'a%' AND rank = 1;
         UPDATE Kinds SET rank = -rank; UPDATE Kinds SET rank = -rank;
         COMMIT;
         REPLACE INTO Kinds VALUES ('A', 2);
         REPLACE INTO Kinds VALUES ('a', 5 + {round});"
    )
}

#[test]
fn replace_cascades_and_updates_end_equal_on_three_engines() -> Result<()> {
    let group = FileGroup::start(SCHEMA)?;
    // Foreign keys follow names; this group's copy is under way meanwhile.
    for round in 1..4 {
        group.primary.execute(&change(round))?;
    }
    let tables = ["Kinds", "items", "pairs", "log"];
    group.caught_up()?;
    tables.iter().try_for_each(|table| group.same(table))?;
    for round in 4..20 {
        group.primary.execute(&change(round))?;
    }
    group.caught_up()?;
    tables.iter().try_for_each(|table| group.same(table))?;
    group.sqlite.check_integrity()?;
    group.daemon.finish()
}
