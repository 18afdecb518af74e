//! PostgreSQL to MariaDB: SIGKILL at every failpoint and at random, of the daemon and of the server.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::canon;
use repl_tests::daemon::Daemon;
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer};
use repl_tests::scratch::Scratch;
use repl_tests::workload::bank;

use super::failpoints::die_at;
use super::rig::{self, ARRIVAL, REPLICA, Random};

/// Passed by the copy into MariaDB.
pub const MARIADB_COPY: [&str; 6] = [
    "mysql.load.after_intent",
    "mysql.load.after_create",
    "mysql.load.before_commit",
    "mysql.load.after_commit",
    "mysql.load.before_index",
    "mysql.load.after_index",
];

/// Passed by MariaDB's apply under any load.
pub const MARIADB: [&str; 5] = [
    "mysql.apply.before_begin",
    "mysql.apply.after_cas",
    "mysql.apply.before_commit",
    "mysql.apply.commit_sent",
    "mysql.apply.after_commit",
];

/// Passed by deliberately broken builds only.
pub const MARIADB_BROKEN: [&str; 1] = ["mysql.apply.outside"];

/// The workload's tables, and the columns of each.
const TABLES: [&str; 8] = [
    "bank.a",
    "bank.b",
    "bank.c",
    "bank.ledger",
    "public.keyless_events",
    "public.journal",
    "public.bulk",
    "public.pairs",
];

/// A PostgreSQL primary and a MariaDB replica; the daemon ends first.
struct MariaRig {
    daemon: Daemon,
    primary: PgServer,
    replica: MariaDb,
    _scratch: Scratch,
}

impl MariaRig {
    /// A primary with the workload's tables; the daemon is not running.
    fn prepare(durable: bool) -> Result<MariaRig> {
        let primary = PgServer::builder("primary").durable(durable).start()?;
        rig::create_tables(&primary)?;
        // Made by MariaDB after the rows, as an index of a text column is.
        primary.execute("CREATE INDEX keyless_batch ON public.keyless_events (batch)")?;
        let replica = MariaDb::start_new("replica", &["bank"])?;
        let scratch = Scratch::new()?;
        let config =
            rig::config(&scratch, &rig::url(&primary)).replica(REPLICA, &replica.url(DATABASE));
        let mut daemon = Daemon::new(config)?;
        daemon.ignore_log();
        Ok(MariaRig {
            daemon,
            primary,
            replica,
            _scratch: scratch,
        })
    }

    /// A running group whose replica has been copied.
    fn start(durable: bool) -> Result<MariaRig> {
        let mut rig = MariaRig::prepare(durable)?;
        rig.daemon.start()?;
        rig.settle()?;
        Ok(rig)
    }

    /// Waits until the replica has all that is committed on the primary.
    fn settle(&self) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, ARRIVAL)?;
        self.daemon
            .wait_replica(REPLICA, "to stream", ARRIVAL, |replica| {
                replica.membership == Membership::Streaming
            })
            .map(drop)
    }

    /// Everything has arrived, equal, whole and once: a second application of an insert would
    /// show as one more row of a table without a key.
    fn check(&self) -> Result<()> {
        self.settle()?;
        check_snapshot(&self.replica)?;
        for table in TABLES {
            let target = table.replace("public.", &format!("{DATABASE}."));
            let columns = canon::pg_columns(&self.primary, table)?;
            let expected = canon::pg_rows(&self.primary, table, &columns)?;
            let found = canon::mariadb_rows(&self.replica, &target, &columns)?;
            canon::assert_same(table, &expected, &found)?;
        }
        Ok(())
    }
}

/// What must hold in every single state of the replica, read in one snapshot: the total, no event
/// twice, no batch in part, a prefix of the journal, a ledger that explains the balances.
fn check_snapshot(replica: &MariaDb) -> Result<()> {
    let found = replica.query(
        "SELECT (SELECT sum(balance) FROM bank.a) + (SELECT sum(balance) FROM bank.b)
              + (SELECT sum(balance) FROM bank.c),
            (SELECT count(*) FROM (SELECT 1 FROM app.keyless_events
               GROUP BY batch, part HAVING count(*) > 1) d),
            (SELECT count(*) FROM (SELECT 1 FROM app.keyless_events
               GROUP BY batch HAVING count(*) <> max(parts)) t),
            (SELECT max(n) - count(*) FROM app.journal),
            (SELECT sum(balance) - 100000 FROM bank.b)
              - (SELECT coalesce(sum(CASE 'b' WHEN target THEN amount WHEN origin THEN -amount END), 0)
                 FROM bank.ledger)",
    )?;
    let expected = format!("{}\t0\t0\t0\t0", bank::TOTAL);
    ensure!(
        found == expected,
        "(total, applied twice, batches in part, no prefix by, unexplained) is {found:?}"
    );
    Ok(())
}

#[test]
fn killed_while_a_group_is_made_and_copied() -> Result<()> {
    let mut rig = MariaRig::prepare(false)?;
    // Each kill leaves tables that are not copied yet.
    for number in 0..12 {
        rig.primary.execute(&format!(
            "CREATE TABLE public.copied_{number} (id int PRIMARY KEY, v text UNIQUE);
             INSERT INTO public.copied_{number} SELECT n, n FROM generate_series(1, 50) n"
        ))?;
    }
    let load = rig::spawn_load(&rig.primary, 100, false)?;
    for name in MARIADB_COPY {
        die_at(&mut rig.daemon, name, 1)?;
    }
    for name in &MARIADB_COPY[..4] {
        die_at(&mut rig.daemon, name, 2)?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    rig.settle()?;
    load.interrupt()?;
    for number in 0..12 {
        let probe = format!("SELECT count(*) FROM copied_{number}");
        ensure!(rig.replica.query_i64(&probe)? == 50, "copied_{number}");
    }
    rig.check()
}

#[test]
fn killed_at_every_step_of_the_apply() -> Result<()> {
    let mut rig = MariaRig::start(false)?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    let mut random = Random::from_environment();
    rig.daemon.kill9()?;
    for name in MARIADB.iter().chain(&MARIADB) {
        let nth = 1 + random.below(20);
        die_at(&mut rig.daemon, name, nth)?;
        check_snapshot(&rig.replica).with_context(|| format!("after {name}@{nth}"))?;
    }
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    load.interrupt()?;
    rig.check()
}

#[test]
fn the_daemon_killed_at_random() -> Result<()> {
    let mut rig = MariaRig::start(false)?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(20, 400) {
        let life = if random.below(4) == 0 { 600 } else { 150 };
        thread::sleep(Duration::from_millis(random.below(life)));
        rig.daemon.kill9()?;
        check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
        rig.daemon.spawn()?;
    }
    rig.daemon.wait_ready()?;
    load.interrupt()?;
    rig.check()
}

#[test]
fn the_server_killed_at_random() -> Result<()> {
    let mut rig = MariaRig::start(true)?;
    let load = rig::spawn_load(&rig.primary, 200, false)?;
    let mut random = Random::from_environment();
    for cycle in 0..rig::cycles(4, 60) {
        thread::sleep(Duration::from_millis(300 + random.below(700)));
        rig.replica.kill9()?;
        rig.replica.start()?;
        check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
    }
    load.interrupt()?;
    rig.check()
}

#[test]
fn a_checkpoint_outside_the_transaction_is_noticed() -> Result<()> {
    let mut rig = MariaRig::start(false)?;
    rig.daemon.kill9()?;
    rig.daemon.set_sabotage("checkpoint-outside-transaction");
    die_after(&mut rig)?;
    rig.daemon.set_sabotage("");
    rig.daemon.set_failpoints("");
    rig.daemon.start()?;
    ensure!(
        rig.check().is_err(),
        "the inserts were applied twice, and the check did not see it"
    );
    Ok(())
}

/// With the defect in place the daemon dies between its two commits.
fn die_after(rig: &mut MariaRig) -> Result<()> {
    let [outside] = MARIADB_BROKEN;
    rig.daemon.set_failpoints(&format!("{outside}=kill"));
    rig.daemon.spawn()?;
    rig::write_some(&rig.primary)?;
    rig.daemon.wait_killed(ARRIVAL)
}
