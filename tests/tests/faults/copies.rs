//! The copy of a large table in parts: SIGKILL at every step and at random, of the daemon and of
//! the servers, under a load that changes what is being copied. An interrupted copy goes on where
//! it was, and ends exact.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::canon;
use repl_tests::daemon::Daemon;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgBench, PgServer};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;
use repl_tests::workload::fixture;

use super::failpoints::die_at;
use super::rig::{self, ARRIVAL, REPLICA, Random};

/// Passed by a copy in parts into PostgreSQL.
pub const PG_PARTS: [&str; 9] = [
    "pg.parts.before_begin",
    "pg.parts.begun",
    "pg.part.before_commit",
    "pg.part.after_commit",
    "pg.parts.resumed",
    "pg.parts.before_end",
    "pg.parts.ended",
    "pg.parts.before_finish",
    "pg.parts.finished",
];

/// The same into MariaDB.
pub const MARIADB_PARTS: [&str; 9] = [
    "mysql.parts.before_begin",
    "mysql.parts.begun",
    "mysql.part.before_commit",
    "mysql.part.after_commit",
    "mysql.parts.resumed",
    "mysql.parts.before_end",
    "mysql.parts.ended",
    "mysql.parts.before_finish",
    "mysql.parts.finished",
];

/// The same into SQLite.
pub const SQLITE_PARTS: [&str; 9] = [
    "sqlite.parts.before_begin",
    "sqlite.parts.begun",
    "sqlite.part.before_commit",
    "sqlite.part.after_commit",
    "sqlite.parts.resumed",
    "sqlite.parts.before_end",
    "sqlite.parts.ended",
    "sqlite.parts.before_finish",
    "sqlite.parts.finished",
];

/// Rows in the table, and of one part.
const ROWS: i64 = 6_000;
const PART_ROWS: i64 = 500;
/// Parts the table makes at least: ranges are of about equal size only.
const PARTS: i64 = 8;

/// Where the table is copied to.
enum Target {
    Pg(Box<PgServer>),
    MariaDb(Box<MariaDb>),
    Sqlite(SqliteDb),
}

/// A PostgreSQL primary with a table that is copied in parts; the daemon ends first.
struct Rig {
    daemon: Daemon,
    primary: PgServer,
    replica: Target,
    _scratch: Scratch,
}

impl Rig {
    /// The daemon is not running. `rate` rows are copied per second, unless 0.
    fn prepare(make: impl FnOnce(&Scratch) -> Result<Target>, rate: i64) -> Result<Rig> {
        let scratch = Scratch::new()?;
        let primary = PgServer::builder("primary").durable(true).start()?;
        primary.execute(&format!(
            "CREATE SEQUENCE public.wide_u START 100000;
             CREATE TABLE public.wide (id bigint PRIMARY KEY, u bigint NOT NULL UNIQUE,
                n bigint NOT NULL, payload text NOT NULL);
             ALTER TABLE public.wide ALTER payload SET STORAGE EXTERNAL;
             CREATE INDEX wide_n ON public.wide (n);
             CREATE TABLE public.narrow (k bigint PRIMARY KEY REFERENCES public.wide
                DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO public.wide SELECT n, n, n, CASE n % 10 WHEN 0 THEN
                (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 100) i)
                ELSE 'small' END FROM generate_series(1, {ROWS}) n;
             ANALYZE public.wide"
        ))?;
        let replica = make(&scratch)?;
        let config = rig::config(&scratch, &rig::url(&primary))
            .set("copy", "part_rows", PART_ROWS)
            .set("copy", "max_rows_per_second", rate)
            .replica(REPLICA, &replica.url());
        let mut daemon = Daemon::new(config)?;
        daemon.ignore_log();
        Ok(Rig {
            daemon,
            primary,
            replica,
            _scratch: scratch,
        })
    }

    fn load(&self) -> Result<PgBench> {
        let script = fixture("parts_change.sql").display().to_string();
        self.primary
            .spawn_pgbench(&["-n", "-c1", "-T900", "-R150", "-f", &script])
    }

    /// Dies at each of these steps, in this order, and loses no part that was done.
    fn die_at_all(&mut self, steps: &[(&str, u64)]) -> Result<()> {
        let mut before = 0;
        for (name, nth) in steps {
            die_at(&mut self.daemon, name, *nth)?;
            let done = self
                .replica
                .parts_done()
                .with_context(|| (*name).to_owned())?;
            // With the last part the record of the parts is gone.
            let ended = name.contains(".ended") || name.contains("finish");
            ensure!(
                ended || done >= before,
                "at {name}: {done} parts are done, {before} were before"
            );
            println!("{name}@{nth}: {done} parts done");
            before = done;
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, ARRIVAL)?;
        self.daemon
            .wait_replica(REPLICA, "to stream", ARRIVAL, |replica| {
                replica.membership == Membership::Streaming
            })
            .map(drop)
    }

    /// Ends the load; everything arrives, equal, with its constraints, and nothing of the copy is
    /// left.
    fn check(&mut self, load: PgBench) -> Result<()> {
        self.daemon.set_failpoints("");
        self.daemon.start()?;
        self.settle()?;
        load.interrupt()?;
        self.settle()?;
        let columns = canon::pg_columns(&self.primary, "public.wide")?;
        let expected = canon::pg_rows(&self.primary, "public.wide", &columns)?;
        let found = self.replica.rows(&columns)?;
        canon::assert_same("wide", &expected, &found)?;
        self.replica.check_constraints()?;
        ensure!(self.replica.parts_done()? == 0, "parts are still recorded");
        ensure!(self.replica.copies()? == 0, "a copy is still recorded");
        Ok(())
    }
}

impl Target {
    fn pg(durable: bool) -> Result<Target> {
        let server = PgServer::builder("replica").durable(durable).start()?;
        Ok(Target::Pg(Box::new(server)))
    }

    fn mariadb() -> Result<Target> {
        Ok(Target::MariaDb(Box::new(MariaDb::start_new(
            "replica",
            &[],
        )?)))
    }

    fn sqlite(scratch: &Scratch) -> Result<Target> {
        Ok(Target::Sqlite(SqliteDb::at(&scratch.join("replica.db"))))
    }

    fn url(&self) -> String {
        match self {
            Target::Pg(server) => rig::url(server),
            Target::MariaDb(server) => server.url(DATABASE),
            Target::Sqlite(db) => db.url(),
        }
    }

    /// The number a query gives; 0 before the daemon's own tables are there.
    fn own(&self, pg: &str, mariadb: &str, sqlite: &str) -> Result<i64> {
        match self {
            Target::Pg(server) => {
                let there = server.query_i64("SELECT count(to_regclass('repl.copy_parts'))")?;
                if there == 0 {
                    Ok(0)
                } else {
                    server.query_i64(pg)
                }
            }
            Target::MariaDb(server) => {
                let there = server.query_i64(
                    "SELECT count(*) FROM information_schema.TABLES
                     WHERE TABLE_SCHEMA = 'repl' AND TABLE_NAME = 'copy_parts'",
                )?;
                if there == 0 {
                    Ok(0)
                } else {
                    server.query_i64(mariadb)
                }
            }
            Target::Sqlite(db) => {
                if !db.path().exists() {
                    return Ok(0);
                }
                let there = db.query_i64(
                    "SELECT count(*) FROM sqlite_schema WHERE name = '_repl_copy_parts'",
                )?;
                if there == 0 {
                    Ok(0)
                } else {
                    db.query_i64(sqlite)
                }
            }
        }
    }

    fn parts_done(&self) -> Result<i64> {
        self.own(
            "SELECT count(*) FROM repl.copy_parts",
            "SELECT count(*) FROM repl.copy_parts",
            "SELECT count(*) FROM _repl_copy_parts",
        )
    }

    /// Rows of the parts that are done.
    fn rows_done(&self) -> Result<i64> {
        self.own(
            "SELECT coalesce(sum(rows), 0) FROM repl.copy_parts",
            "SELECT COALESCE(SUM(loaded), 0) FROM repl.copy_parts",
            "SELECT coalesce(sum(loaded), 0) FROM _repl_copy_parts",
        )
    }

    fn copies(&self) -> Result<i64> {
        self.own(
            "SELECT count(*) FROM repl.copies",
            "SELECT count(*) FROM repl.copies",
            "SELECT count(*) FROM _repl_copies",
        )
    }

    fn rows(&self, columns: &[canon::Column]) -> Result<canon::Rows> {
        match self {
            Target::Pg(server) => canon::pg_rows(server, "public.wide", columns),
            Target::MariaDb(server) => {
                canon::mariadb_rows(server, &format!("{DATABASE}.wide"), columns)
            }
            Target::Sqlite(db) => canon::sqlite_rows(db, "wide", columns),
        }
    }

    /// Key, unique constraint, index and foreign key are there.
    fn check_constraints(&self) -> Result<()> {
        let (found, expected) = match self {
            Target::Pg(server) => (
                server.query(
                    "SELECT string_agg(n, ' ' ORDER BY n) FROM (
                        SELECT conname::text AS n FROM pg_constraint WHERE conrelid IN
                           ('public.wide'::regclass, 'public.narrow'::regclass)
                           AND contype IN ('p', 'u', 'f')
                        UNION SELECT indexname::text FROM pg_indexes
                         WHERE tablename = 'wide') t",
                )?,
                "narrow_k_fkey narrow_pkey wide_n wide_pkey wide_u_key",
            ),
            Target::MariaDb(server) => (
                server.query(&format!(
                    "SELECT group_concat(DISTINCT index_name ORDER BY index_name SEPARATOR ' ')
                       FROM information_schema.STATISTICS
                      WHERE table_schema = '{DATABASE}' AND table_name = 'wide'"
                ))?,
                "PRIMARY wide_n wide_u_key",
            ),
            Target::Sqlite(db) => (
                db.query_i64(
                    "SELECT count(*) FROM sqlite_schema WHERE type = 'index'
                     AND tbl_name = 'wide' AND sql IS NOT NULL",
                )?
                .to_string(),
                "2",
            ),
        };
        ensure!(found.trim() == expected, "constraints: {found}");
        Ok(())
    }
}

/// Steps that every engine's copy passes, in an order that reaches all of them.
fn killed_at_every_step(mut rig: Rig, names: [&'static str; 9]) -> Result<()> {
    let load = rig.load()?;
    let [
        before_begin,
        begun,
        part,
        after_part,
        resumed,
        before_end,
        ended,
        before_finish,
        finished,
    ] = names;
    rig.die_at_all(&[
        (before_begin, 1),
        (begun, 1),
        (part, 2),
        (after_part, 2),
        (resumed, 1),
        (after_part, 2),
        (before_end, 1),
        (ended, 1),
        (before_finish, 1),
        (finished, 1),
    ])?;
    rig.check(load)
}

#[test]
fn killed_at_every_step_into_postgres() -> Result<()> {
    killed_at_every_step(Rig::prepare(|_| Target::pg(false), 0)?, PG_PARTS)
}

#[test]
fn killed_at_every_step_into_mariadb() -> Result<()> {
    killed_at_every_step(Rig::prepare(|_| Target::mariadb(), 0)?, MARIADB_PARTS)
}

#[test]
fn killed_at_every_step_into_sqlite() -> Result<()> {
    killed_at_every_step(Rig::prepare(Target::sqlite, 0)?, SQLITE_PARTS)
}

fn killed_at_random(make: impl FnOnce(&Scratch) -> Result<Target>) -> Result<()> {
    let mut rig = Rig::prepare(make, 4_000)?;
    let mut load = rig.load()?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(6, 100) {
        rig.daemon.spawn()?;
        thread::sleep(Duration::from_millis(200 + random.below(600)));
        match random.below(4) {
            0 => match &mut rig.replica {
                Target::Pg(server) => {
                    server.kill9()?;
                    server.start()?;
                }
                Target::MariaDb(server) => {
                    server.kill9()?;
                    server.start()?;
                }
                // It runs within the daemon.
                Target::Sqlite(_) => {}
            },
            1 => {
                rig.primary.kill9()?;
                rig.primary.start()?;
                load = rig.load()?;
            }
            _ => {}
        }
        rig.daemon.kill9()?;
        println!("cycle {cycle}: {} parts done", rig.replica.parts_done()?);
    }
    rig.check(load)
}

#[test]
fn daemon_and_servers_killed_at_random_while_copying_into_postgres() -> Result<()> {
    killed_at_random(|_| Target::pg(true))
}

#[test]
fn daemon_and_servers_killed_at_random_while_copying_into_mariadb() -> Result<()> {
    killed_at_random(|_| Target::mariadb())
}

#[test]
fn daemon_killed_at_random_while_copying_into_sqlite() -> Result<()> {
    killed_at_random(Target::sqlite)
}

/// Rows read again after a crash are those of the parts under way, at most one of each lane, and the
/// rest is read once: counted.
fn little_is_read_again(make: impl FnOnce(&Scratch) -> Result<Target>, lanes: i64) -> Result<()> {
    let mut rig = Rig::prepare(make, 3_000)?;
    rig.daemon.start()?;
    let loaded = |rig: &Rig| rig.replica.rows_done();
    wait_until("parts to be done", ARRIVAL, || {
        Ok(loaded(&rig)? >= 3 * PART_ROWS)
    })?;
    let shown = rig.daemon.status()?;
    rig.daemon.kill9()?;
    let shown = shown
        .replica(REPLICA)
        .and_then(|replica| replica.copy.clone());
    let shown = shown.context("a copy under way")?.rows_done as i64;
    let kept = loaded(&rig)?;
    ensure!(kept < ROWS, "the test was too slow to interrupt the copy");
    // The parts are of about equal size only.
    let most = lanes * PART_ROWS * 2;
    ensure!(
        shown - kept <= most,
        "{shown} rows were read, {kept} were kept"
    );
    rig.daemon.set_config(
        rig.daemon
            .config()
            .clone()
            .set("copy", "max_rows_per_second", 0),
    )?;
    rig.daemon.start()?;
    rig.settle()?;
    // The round says how many rows it found done and read: each row once.
    let log = std::fs::read_to_string(rig.daemon.log_file())?;
    let round = log
        .lines()
        .rev()
        .find(|line| line.contains("existing rows copied"));
    let round: serde_json::Value = serde_json::from_str(round.context("a round of copying")?)?;
    let rows = round["fields"]["rows"].as_i64();
    ensure!(rows == Some(ROWS), "rows of the copy: {round}");
    ensure!(
        log.lines()
            .any(|line| line.contains("an interrupted copy goes on")),
        "the copy began anew"
    );
    Ok(())
}

#[test]
fn little_is_read_again_for_postgres() -> Result<()> {
    little_is_read_again(|_| Target::pg(false), 2)
}

#[test]
fn little_is_read_again_for_mariadb() -> Result<()> {
    little_is_read_again(|_| Target::mariadb(), 2)
}

#[test]
fn little_is_read_again_for_sqlite() -> Result<()> {
    little_is_read_again(Target::sqlite, 1)
}

#[test]
fn a_lost_connection_repeats_at_most_the_parts_under_way() -> Result<()> {
    let mut rig = Rig::prepare(|_| Target::pg(false), 3_000)?;
    rig.daemon.start()?;
    wait_until("parts to be done", ARRIVAL, || {
        Ok(rig.replica.parts_done()? >= 3)
    })?;
    let done = rig.replica.parts_done()?;
    let Target::Pg(server) = &rig.replica else {
        unreachable!("made above")
    };
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE application_name LIKE 'repl-daemon apply%'",
    )?;
    wait_until("another part to be done", ARRIVAL, || {
        let now = rig.replica.parts_done()?;
        ensure!(now >= done || now == 0, "{now} parts are left of {done}");
        Ok(now > done || now == 0)
    })?;
    ensure!(done < PARTS, "the test was too slow to interrupt the copy");
    let load = rig.load()?;
    rig.daemon.kill9()?;
    rig.check(load)
}

/// The row is under neither key: its old range was read after the change, the new one before. Its
/// columns kept out of line were not sent, so the table is copied anew, and ends exact.
#[test]
fn a_key_changed_without_all_columns_begins_the_copy_anew() -> Result<()> {
    let mut rig = Rig::prepare(|_| Target::pg(false), 0)?;
    // The first parts are the ones with small keys.
    die_at(&mut rig.daemon, PG_PARTS[3], 3)?;
    ensure!(rig.replica.parts_done()? >= 3, "too few parts");
    // 5990 is read later, and 5 was free when its range was read.
    rig.primary.execute(
        "UPDATE public.wide SET id = -5 WHERE id = 5990;
         UPDATE public.wide SET n = 0 WHERE id = 10;",
    )?;
    let load = rig.load()?;
    rig.check(load)
}
