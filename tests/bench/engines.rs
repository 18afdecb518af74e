//! Replicas of other engines, fed from the log as fast as they take it, against the same rows put in
//! by the engine's own bulk means into a table of the same shape.
//!
//! A replica is paused while the backlog is captured, so that what is rated is its side alone.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_tests::mariadb::{self, MariaDb};
use repl_tests::pg::{DATABASE, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;

use crate::cluster::{Cluster, MARKER};
use crate::load;
use crate::options::Options;
use crate::ours::Service;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::PATIENCE;

const SCENARIO: &str = "engines";
/// Rows per transaction of the load.
const SIZE: u64 = 100;
/// Rows per statement or transaction of the engines' own bulk means.
const BULK: usize = 1000;

/// Runs the scenario for SQLite, and for MariaDB where it is installed.
///
/// # Errors
/// When a server or the daemon fails, or a replica does not hold the primary's rows afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    load::create_items(&cluster)?;
    cluster.create_marker()?;
    cluster.set_marker()?;
    let scratch = Scratch::new()?;
    let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Lite::new(&scratch)?)];
    match mariadb::version() {
        Ok(version) => {
            let maria = Maria::new(&scratch)?;
            report.setting(
                &format!("MariaDB {version}"),
                &maria.server.query(
                    "SELECT concat('innodb_flush_log_at_trx_commit ', @@innodb_flush_log_at_trx_commit,
                     ', innodb_buffer_pool_size ', @@innodb_buffer_pool_size, ', log_bin ', @@log_bin)",
                )?,
            );
            targets.push(Box::new(maria));
        }
        Err(error) => report.note(&format!("MariaDB replicas were not measured: {error:#}")),
    }
    let service = Service::launch("engines", |config| {
        let config = config.primary("main", &cluster.url(&cluster.primary, DATABASE));
        targets.iter().fold(config, |config, target| {
            config.replica(target.name(), &target.url())
        })
    })?;
    for target in &mut targets {
        target.replica_ready()?;
        service.pause(target.name())?;
    }
    let mut series: Vec<Series> = targets.iter().map(|_| Series::default()).collect();
    for round in 0..u64::from(options.rounds) {
        let rows = options.volume(1_000_000);
        one_round(&cluster, &service, &mut targets, round, rows, &mut series)
            .with_context(|| format!("round {}", round + 1))?;
    }
    for (target, series) in targets.iter().zip(&series) {
        series.publish(target.name(), report);
    }
    memory.note(SCENARIO, &service);
    Ok(())
}

/// Rates of one engine, rows/s.
#[derive(Default)]
struct Series {
    ours: Vec<f64>,
    raw: Vec<(&'static str, Vec<f64>)>,
}

impl Series {
    fn publish(&self, name: &str, report: &mut Report) {
        report.absolute(SCENARIO, &format!("{name} ours"), "rows/s", &self.ours);
        for (means, rates) in &self.raw {
            report.absolute(SCENARIO, &format!("{name} {means}"), "rows/s", rates);
            report.ratio(
                SCENARIO,
                &format!("{name} ours / {means}"),
                Kind::RatioHigherBetter,
                &self.ours,
                rates,
            );
        }
    }
}

fn one_round(
    cluster: &Cluster,
    service: &Service,
    targets: &mut [Box<dyn Target>],
    round: u64,
    rows: u64,
    series: &mut [Series],
) -> Result<()> {
    let first = round * rows;
    load::insert_items(&cluster.primary, first, rows / SIZE, SIZE)?;
    let (marker, end) = cluster.set_marker()?;
    wait_until("the backlog to be in the log", PATIENCE, || {
        Ok(service.captured(&end) == Some(true))
    })?;
    let text = cluster.primary.psql(
        DATABASE,
        Role::Superuser,
        &format!("COPY (SELECT id, k, v FROM items WHERE id >= {first} ORDER BY id) TO STDOUT"),
    )?;
    for (target, series) in targets.iter_mut().zip(series) {
        let started = Instant::now();
        let name = target.name();
        service.resume(name)?;
        while target.marker()? < marker {
            ensure!(started.elapsed() < PATIENCE, "{name} is stuck");
            thread::sleep(target.poll_interval());
        }
        let took = started.elapsed();
        service.pause(name)?;
        ensure!(
            target.rows_from(first)? == text,
            "{name} differs from the primary"
        );
        let rate = rows as f64 / took.as_secs_f64();
        eprintln!("  round {} {name}: {rate:.0} rows/s", round + 1);
        series.ours.push(rate);
        for (index, (means, took)) in target.load_raw(&text)?.into_iter().enumerate() {
            let rate = rows as f64 / took.as_secs_f64();
            eprintln!("  round {} {name}, {means}: {rate:.0} rows/s", round + 1);
            if series.raw.len() <= index {
                series.raw.push((means, Vec::new()));
            }
            series.raw[index].1.push(rate);
        }
    }
    Ok(())
}

/// A replica of another engine.
trait Target {
    /// Its name in the daemon's configuration and in the report.
    fn name(&self) -> &'static str;

    /// Its URL for the daemon.
    fn url(&self) -> String;

    /// The daemon has made the tables: makes the one for the bulk means like them.
    fn replica_ready(&mut self) -> Result<()>;

    /// The newest marker it holds.
    fn marker(&mut self) -> Result<i64>;

    /// How long to wait between two looks at the marker, given what a look costs.
    fn poll_interval(&self) -> Duration;

    /// Its rows from `first` on, as PostgreSQL's COPY would write them.
    fn rows_from(&self, first: u64) -> Result<String>;

    /// Puts the rows of `text` into the empty table by the engine's own bulk means, and says what
    /// each took.
    fn load_raw(&mut self, text: &str) -> Result<Vec<(&'static str, Duration)>>;
}

struct Maria {
    server: MariaDb,
    file: std::path::PathBuf,
}

impl Maria {
    fn new(scratch: &Scratch) -> Result<Self> {
        Ok(Self {
            // All data fit, as they do in the PostgreSQL servers.
            server: MariaDb::start_with("mariadb", &[], &["--innodb-buffer-pool-size=512M"])?,
            file: scratch.join("rows.tsv"),
        })
    }
}

impl Target for Maria {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn url(&self) -> String {
        self.server.url(DATABASE)
    }

    fn replica_ready(&mut self) -> Result<()> {
        self.server
            .execute("CREATE DATABASE raw; CREATE TABLE raw.items LIKE items")
    }

    fn marker(&mut self) -> Result<i64> {
        self.server
            .query_i64(&format!("SELECT coalesce(max(id), 0) FROM {MARKER}"))
    }

    fn poll_interval(&self) -> Duration {
        // Each look starts the client program.
        Duration::from_millis(40)
    }

    fn rows_from(&self, first: u64) -> Result<String> {
        self.server.query(&format!(
            "SELECT id, k, v FROM items WHERE id >= {first} ORDER BY id"
        ))
    }

    fn load_raw(&mut self, text: &str) -> Result<Vec<(&'static str, Duration)>> {
        self.server.execute("TRUNCATE raw.items")?;
        let script = insert_script(text);
        let started = Instant::now();
        self.server.execute(&script)?;
        let inserted = started.elapsed();
        self.server.execute("TRUNCATE raw.items")?;
        fs::write(&self.file, text)?;
        let load = format!(
            "LOAD DATA LOCAL INFILE '{}' INTO TABLE raw.items",
            self.file.display()
        );
        let started = Instant::now();
        self.server.execute(&load)?;
        let loaded = started.elapsed();
        let count = self.server.query_i64("SELECT count(*) FROM raw.items")?;
        ensure!(usize::try_from(count)? == text.lines().count());
        Ok(vec![("INSERT of 1000", inserted), ("LOAD DATA", loaded)])
    }
}

/// Statements of [`BULK`] rows each, each its own transaction.
fn insert_script(text: &str) -> String {
    let mut script = String::with_capacity(text.len() * 3 / 2);
    for (number, line) in text.lines().enumerate() {
        script += match number % BULK {
            0 if number == 0 => "INSERT INTO raw.items VALUES ",
            0 => ";\nINSERT INTO raw.items VALUES ",
            _ => ",",
        };
        // The values hold no quote and no backslash: numbers and an MD5 sum.
        script.push('(');
        for (index, field) in line.split('\t').enumerate() {
            if index > 0 {
                script.push(',');
            }
            script.push('\'');
            script += field;
            script.push('\'');
        }
        script.push(')');
    }
    script + ";\n"
}

struct Lite {
    replica: SqliteDb,
    raw: SqliteDb,
}

impl Lite {
    fn new(scratch: &Scratch) -> Result<Self> {
        Ok(Self {
            replica: SqliteDb::create(&scratch.join("replica.db"))?,
            raw: SqliteDb::create(&scratch.join("raw.db"))?,
        })
    }
}

impl Target for Lite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn url(&self) -> String {
        self.replica.url()
    }

    fn replica_ready(&mut self) -> Result<()> {
        let made: String = self.replica.connect_read_only()?.query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'items'",
            [],
            |row| row.get(0),
        )?;
        self.raw.execute(&made)
    }

    fn marker(&mut self) -> Result<i64> {
        self.replica
            .query_i64(&format!("SELECT coalesce(max(id), 0) FROM {MARKER}"))
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(2)
    }

    fn rows_from(&self, first: u64) -> Result<String> {
        let connection = self.replica.connect_read_only()?;
        let mut statement = connection.prepare(
            "SELECT id || char(9) || k || char(9) || v FROM items WHERE id >= ?1 ORDER BY id",
        )?;
        let lines = statement.query_map([i64::try_from(first)?], |row| row.get::<_, String>(0))?;
        Ok(lines.collect::<Result<Vec<_>, _>>()?.join("\n"))
    }

    fn load_raw(&mut self, text: &str) -> Result<Vec<(&'static str, Duration)>> {
        let mut connection = self.raw.connect()?;
        connection.execute_batch("DELETE FROM items; PRAGMA wal_checkpoint(TRUNCATE)")?;
        connection.pragma_update(None, "synchronous", "full")?;
        let lines: Vec<&str> = text.lines().collect();
        let started = Instant::now();
        for part in lines.chunks(BULK) {
            let transaction = connection.transaction()?;
            let mut insert = transaction.prepare_cached("INSERT INTO items VALUES (?1, ?2, ?3)")?;
            for line in part {
                let mut fields = line.split('\t');
                let mut next = || fields.next().context("a row without three columns");
                let id: i64 = next()?.parse()?;
                let k: i64 = next()?.parse()?;
                insert.execute((id, k, next()?))?;
            }
            drop(insert);
            transaction.commit()?;
        }
        Ok(vec![("transactions of 1000", started.elapsed())])
    }
}

#[cfg(test)]
mod tests {
    use super::insert_script;

    #[test]
    fn statements_hold_a_thousand_rows() {
        let text: Vec<String> = (0..1001).map(|id| format!("{id}\t5\tab")).collect();
        let script = insert_script(&text.join("\n"));
        let statements: Vec<&str> = script.lines().collect();
        assert_eq!(statements.len(), 2);
        assert_eq!(
            statements[1],
            "INSERT INTO raw.items VALUES ('1000','5','ab');"
        );
        assert_eq!(statements[0].matches('(').count(), 1000);
    }
}
