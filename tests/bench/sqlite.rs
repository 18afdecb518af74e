//! A SQLite primary and a SQLite replica: catching up with what was written while the daemon was
//! away. There is nothing native to compare it with.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_tests::content::{self, assert_equal, same_names};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use rusqlite::Connection;

use crate::cluster::MARKER;
use crate::options::Options;
use crate::ours::Service;
use crate::report::Report;
use crate::run::Memory;
use crate::side::PATIENCE;

const SCENARIO: &str = "sqlite";
/// Rows per transaction.
const SIZE: u64 = 100;

/// Runs the scenario.
///
/// # Errors
/// When the daemon fails, or the replica differs afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    let replica = SqliteDb::create(&scratch.join("replica.db"))?;
    primary.execute(&format!(
        "CREATE TABLE items (id INTEGER PRIMARY KEY, k INTEGER NOT NULL, v TEXT NOT NULL);
         CREATE TABLE {MARKER} (id INTEGER PRIMARY KEY);
         INSERT INTO {MARKER} VALUES (0)"
    ))?;
    let mut service = Service::launch("lite", |config| {
        config
            .primary("main", &primary.url())
            .replica("replica-1", &replica.url())
    })?;
    service.stop()?;
    let rows = options.volume(1_000_000);
    let mut rates = Vec::new();
    for round in 0..u64::from(options.rounds) {
        let mut writer = primary.connect()?;
        write(&mut writer, round * rows, rows)?;
        let marker = i64::try_from(round)? + 1;
        writer.execute(&format!("INSERT INTO {MARKER} VALUES (?1)"), [marker])?;
        let took = time_catchup(&mut service, &replica, marker)?;
        service.stop()?;
        assert_equal(
            &content::sqlite(&primary),
            &content::sqlite(&replica),
            &same_names(&["items", MARKER]),
        )?;
        let rate = rows as f64 / took.as_secs_f64();
        eprintln!(
            "  round {}: {:.2} s, {rate:.0} rows/s",
            round + 1,
            took.as_secs_f64()
        );
        rates.push(rate);
    }
    memory.note(SCENARIO, &service);
    report.absolute(SCENARIO, "ours (WAL, FULL)", "rows/s", &rates);
    Ok(())
}

fn time_catchup(service: &mut Service, replica: &SqliteDb, marker: i64) -> Result<Duration> {
    let probe = replica.connect_read_only()?;
    let mut newest = probe.prepare(&format!("SELECT max(id) FROM {MARKER}"))?;
    let started = Instant::now();
    service.start()?;
    loop {
        let seen: i64 = newest.query_row([], |row| row.get(0))?;
        if seen >= marker {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < PATIENCE, "the replica is stuck");
        thread::sleep(Duration::from_millis(1));
    }
}

fn write(writer: &mut Connection, first: u64, rows: u64) -> Result<()> {
    // How the load came about is not measured.
    writer.pragma_update(None, "synchronous", "off")?;
    for begin in (first..first + rows).step_by(usize::try_from(SIZE)?) {
        let transaction = writer.transaction()?;
        let mut insert = transaction.prepare_cached("INSERT INTO items VALUES (?1, ?2, ?3)")?;
        for id in begin..begin + SIZE {
            let id = i64::try_from(id)?;
            insert.execute((
                id,
                id % 100,
                format!("{:032x}", id.wrapping_mul(0x9E37_79B9)),
            ))?;
        }
        drop(insert);
        transaction.commit()?;
    }
    Ok(())
}
