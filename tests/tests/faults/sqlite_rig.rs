//! SQLite to SQLite: one primary file, one replica file, one daemon, and writers with invariants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use repl_api::Membership;
use repl_tests::content;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;
use rusqlite::{Connection, params};

use super::rig::{self, ARRIVAL, REPLICA};

/// The sum of all balances.
const TOTAL: i64 = 200_000;

/// A daemon between two files.
pub struct SqliteRig {
    pub daemon: Daemon,
    pub primary: SqliteDb,
    pub replica: SqliteDb,
    pub scratch: Scratch,
}

impl SqliteRig {
    /// A running group whose replica streams.
    pub fn start() -> Result<SqliteRig> {
        let mut rig = SqliteRig::prepare()?;
        rig.daemon.start()?;
        rig.settle()?;
        Ok(rig)
    }

    /// A primary with the tables; the daemon is not running.
    pub fn prepare() -> Result<SqliteRig> {
        let scratch = Scratch::new()?;
        let primary = SqliteDb::create(&scratch.join("primary.db"))?;
        let replica = SqliteDb::at(&scratch.join("replica.db"));
        create_tables(&primary)?;
        let config = DaemonConfig::new("faults", &scratch.join("log"))
            .set("log", "segment_size", "1MiB")
            .set("log", "min_free_disk", "0B")
            .primary("main", &primary.url())
            .replica(REPLICA, &replica.url());
        let mut daemon = Daemon::new(config)?;
        daemon.ignore_log();
        Ok(SqliteRig {
            daemon,
            primary,
            replica,
            scratch,
        })
    }

    /// A few transactions of every kind.
    pub fn write_some(&self) -> Result<()> {
        let mut writer = Writer::open(&self.primary)?;
        (0..10).try_for_each(|round| writer.transaction(round))
    }

    /// Waits until everything committed has arrived, and nothing is on its way to any replica.
    pub fn settle(&self) -> Result<()> {
        self.arrive()?;
        self.daemon.wait_drained(ARRIVAL)
    }

    /// Waits until everything committed has arrived: the journal's end is the marker.
    pub fn arrive(&self) -> Result<()> {
        let end = self
            .primary
            .query_i64("SELECT coalesce(max(n), 0) FROM journal")?;
        self.daemon
            .wait_replica(REPLICA, "to have the journal's end", ARRIVAL, |replica| {
                let copied = replica.membership == Membership::Streaming;
                copied
                    && self
                        .replica
                        .query_i64("SELECT coalesce(max(n), 0) FROM journal")
                        .is_ok_and(|found| found >= end)
            })?;
        Ok(())
    }

    /// Everything has arrived, equal, whole and once.
    pub fn check(&self) -> Result<()> {
        self.settle()?;
        self.compare()
    }

    /// What has arrived is equal, whole and there once.
    pub fn compare(&self) -> Result<()> {
        check_snapshot(&self.replica)?;
        self.replica.check_integrity()?;
        content::assert_all_equal(
            &content::sqlite(&self.primary),
            &content::sqlite(&self.replica),
        )
    }

    /// `replctl resync`, and everything is equal again.
    pub fn resync(&self) -> Result<()> {
        rig::resync(&self.daemon, REPLICA)?;
        self.check()
    }
}

/// The tables of the workload.
pub fn create_tables(db: &SqliteDb) -> Result<()> {
    db.execute(
        "CREATE TABLE a (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE b (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE events (batch INTEGER, part INTEGER, parts INTEGER, payload BLOB);
         CREATE TABLE journal (n INTEGER PRIMARY KEY);
         CREATE TABLE bulk (id TEXT PRIMARY KEY, payload BLOB);
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100)
         INSERT INTO a SELECT n, 1000 FROM c;
         INSERT INTO b SELECT id, balance FROM a;
         INSERT INTO journal VALUES (1);",
    )
}

/// One connection that writes whole transactions with invariants.
pub struct Writer {
    db: Connection,
}

impl Writer {
    /// A writer; several may write at the same time.
    pub fn open(primary: &SqliteDb) -> Result<Writer> {
        Ok(Writer {
            db: primary.connect()?,
        })
    }

    /// Moves money, adds a batch of events, a line of the journal and now and then a large row.
    pub fn transaction(&mut self, round: u64) -> Result<()> {
        let tx = self
            .db
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let (from, to) = (1 + round % 100, 1 + (round * 7) % 100);
        tx.execute(
            "UPDATE a SET balance = balance - 3 WHERE id = ?1",
            [from as i64],
        )?;
        tx.execute(
            "UPDATE b SET balance = balance + 3 WHERE id = ?1",
            [to as i64],
        )?;
        let n: i64 = tx.query_row("SELECT max(n) + 1 FROM journal", [], |row| row.get(0))?;
        tx.execute("INSERT INTO journal VALUES (?1)", [n])?;
        let parts = 1 + n % 4;
        for part in 1..=parts {
            tx.execute(
                "INSERT INTO events VALUES (?1, ?2, ?3, randomblob(20))",
                params![n, part, parts],
            )?;
        }
        if n % 5 == 0 {
            tx.execute(
                "INSERT INTO bulk VALUES (?1, randomblob(30000))
                 ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
                [format!("k{}", n % 50)],
            )?;
        }
        tx.commit()?;
        Ok(())
    }
}

/// What must hold in every single state of a replica, read in one transaction.
pub fn check_snapshot(db: &SqliteDb) -> Result<()> {
    let connection = db.connect_read_only()?;
    let found: (i64, i64, i64, i64) = connection
        .query_row(
            "SELECT (SELECT sum(balance) FROM a) + (SELECT sum(balance) FROM b),
                (SELECT count(*) FROM (SELECT 1 FROM events GROUP BY batch, part HAVING count(*) > 1)),
                (SELECT count(*) FROM (SELECT 1 FROM events GROUP BY batch
                                       HAVING count(*) <> max(parts))),
                (SELECT max(n) - count(*) FROM journal)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .with_context(|| db.path().display().to_string())?;
    ensure!(
        found == (TOTAL, 0, 0, 0),
        "{}: (total, applied twice, batches in part, no prefix by) is {found:?}",
        db.path().display()
    );
    Ok(())
}

/// Writers in the background, stopped on drop.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts two writers, some hundred transactions a second together.
    pub fn start(primary: &SqliteDb) -> Result<Load> {
        let mut load = Load {
            stop: Arc::default(),
            written: Arc::default(),
            threads: Vec::new(),
        };
        for offset in 0..2_u64 {
            let mut writer = Writer::open(primary)?;
            let (stop, written) = (Arc::clone(&load.stop), Arc::clone(&load.written));
            load.threads.push(thread::spawn(move || {
                let mut round = offset * 31;
                while !stop.load(Ordering::Relaxed) {
                    writer.transaction(round)?;
                    written.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            }));
        }
        let written = Arc::clone(&load.written);
        wait_until("the writers", ARRIVAL, || {
            Ok(written.load(Ordering::Relaxed) > 5)
        })?;
        Ok(load)
    }

    /// Stops the writers.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
