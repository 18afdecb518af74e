//! Catching up with a backlog: the load is written once while nobody follows; then the sides work it
//! off one after the other, from the same WAL, in turns.

use anyhow::{Context, Result};
use repl_tests::pg::{PgServer, Role, Session};

use crate::cluster::{Cluster, MARKER};
use crate::load;
use crate::native::{Commit, Native};
use crate::options::{Options, Scenario};
use crate::ours::Ours;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::{Side, time_catchup, verify, wait_marker};

/// Makes tables and their first content.
type Prepare = Box<dyn Fn(&Cluster) -> Result<()>>;
/// Writes the load of the given round.
type Write = Box<dyn Fn(&Cluster, u64) -> Result<()>>;

/// A backlog and how to make it.
struct Workload {
    scenario: &'static str,
    /// Tables that take part.
    tables: Vec<&'static str>,
    /// What rates count.
    unit: &'static str,
    /// How many of these one round has.
    amount: u64,
    /// Whether the durable variant of the native side ends in bearable time.
    durable_native: bool,
    /// A report reads at each replica meanwhile: no version of a row that its snapshot may see can
    /// be removed.
    report: bool,
    prepare: Prepare,
    write: Write,
}

/// Runs one of the catch-up scenarios.
///
/// # Errors
/// When a server or a side fails, or a replica differs from the primary afterwards.
pub fn run(
    scenario: Scenario,
    options: &Options,
    report: &mut Report,
    memory: &mut Memory,
) -> Result<()> {
    let work = workload(scenario, options);
    let cluster = Cluster::start(options, report)?;
    (work.prepare)(&cluster)?;
    cluster.create_marker()?;
    let mut tables = work.tables.clone();
    tables.push(MARKER);
    let (mut sides, ours) = attach(&cluster, &work, options, &tables)?;
    let mut series = Series::new(sides.len() + 1);
    let mut ours = ours;
    for round in 0..u64::from(options.rounds) {
        let mut all: Vec<&mut dyn Side> = vec![&mut ours];
        all.extend(sides.iter_mut().map(|side| side as &mut dyn Side));
        one_round(&cluster, &work, round, &mut all, &tables, &mut series)
            .with_context(|| format!("round {} of {}", round + 1, work.scenario))?;
    }
    memory.note(work.scenario, ours.service());
    let mut names = vec![ours.name().to_owned()];
    names.extend(sides.iter().map(|side| side.name().to_owned()));
    publish(&work, &names, &series, report);
    Ok(())
}

fn attach<'a>(
    cluster: &'a Cluster,
    work: &Workload,
    options: &Options,
    tables: &[&str],
) -> Result<(Vec<Native<'a>>, Ours<'a>)> {
    let mut sides = Vec::new();
    if !options.ours_only {
        Native::publish(cluster, tables)?;
        if work.durable_native {
            sides.push(Native::attach(cluster, Commit::On)?);
        }
        sides.push(Native::attach(cluster, Commit::Off)?);
        // The default first, as the report shows it.
        sides.reverse();
    }
    let mut ours = Ours::attach(cluster)?;
    let (marker, _) = cluster.set_marker()?;
    wait_marker(&ours, marker)?;
    ours.stop()?;
    for side in &mut sides {
        wait_marker(side, marker)?;
        side.stop()?;
    }
    Ok((sides, ours))
}

/// Rates by side, ours first.
struct Series {
    rates: Vec<Vec<f64>>,
    capture: Vec<f64>,
}

impl Series {
    fn new(sides: usize) -> Self {
        Self {
            rates: vec![Vec::new(); sides],
            capture: Vec::new(),
        }
    }
}

fn one_round(
    cluster: &Cluster,
    work: &Workload,
    round: u64,
    sides: &mut [&mut dyn Side],
    tables: &[&str],
    series: &mut Series,
) -> Result<()> {
    (work.write)(cluster, round)?;
    let (marker, end) = cluster.set_marker()?;
    let amount = work.amount as f64;
    for turn in 0..sides.len() {
        // Another side begins in each round.
        let index = (turn + usize::try_from(round)?) % sides.len();
        let side = &mut *sides[index];
        cluster.settle()?;
        let reports = match work.report {
            true => begin_reports(side, work.tables[0])?,
            false => Vec::new(),
        };
        let took = time_catchup(side, marker, &end)?;
        side.stop()?;
        drop(reports);
        verify(cluster, side, tables)?;
        let rate = amount / took.whole.as_secs_f64();
        eprintln!(
            "  round {} {}: {:.2} s, {rate:.0} {}",
            round + 1,
            side.name(),
            took.whole.as_secs_f64(),
            work.unit
        );
        series.rates[index].push(rate);
        if let Some(capture) = took.capture {
            series.capture.push(amount / capture.as_secs_f64());
        }
    }
    Ok(())
}

/// Snapshots at the side's replicas, held until the sessions end.
fn begin_reports(side: &dyn Side, table: &str) -> Result<Vec<Session>> {
    let begin = |(server, database): (&PgServer, &str)| {
        let mut session = Session::open(&server.url(database, Role::Superuser))?;
        session.execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {table}"
        ))?;
        Ok(session)
    };
    side.replicas().into_iter().map(begin).collect()
}

fn publish(work: &Workload, names: &[String], series: &Series, report: &mut Report) {
    let scenario = work.scenario;
    for (name, rates) in names.iter().zip(&series.rates) {
        report.absolute(scenario, name, work.unit, rates);
    }
    report.absolute(
        scenario,
        "ours, capture alone (log durable)",
        work.unit,
        &series.capture,
    );
    let ours = &series.rates[0];
    let better = Kind::RatioHigherBetter;
    if let Some(native) = series.rates.get(1) {
        report.ratio(scenario, "ours / native", better, ours, native);
        report.ratio(
            scenario,
            "capture alone / native",
            better,
            &series.capture,
            native,
        );
    }
    if let Some(durable) = series.rates.get(2) {
        report.ratio(scenario, "ours / native durable", better, ours, durable);
    }
}

fn workload(scenario: Scenario, options: &Options) -> Workload {
    match scenario {
        Scenario::CatchupSingle => inserts(scenario, options.volume(200_000), 1),
        Scenario::CatchupTpcb | Scenario::CatchupTpcbReport => tpcb(scenario, options),
        Scenario::CatchupUpdates => updates(scenario, options),
        _ => inserts(scenario, options.volume(1_000_000), 100),
    }
}

fn inserts(scenario: Scenario, rows: u64, size: u64) -> Workload {
    Workload {
        scenario: scenario.name(),
        tables: vec![load::ITEMS],
        unit: if size == 1 { "tx/s" } else { "rows/s" },
        amount: rows,
        // One flush per transaction of one row takes minutes.
        durable_native: size > 1,
        report: false,
        prepare: Box::new(load::create_items),
        write: Box::new(move |cluster, round| {
            load::insert_items(&cluster.primary, round * rows, rows / size, size)
        }),
    }
}

fn updates(scenario: Scenario, options: &Options) -> Workload {
    const SIZE: u64 = 10;
    let range = options.volume(1_000_000);
    let amount = options.volume(500_000);
    Workload {
        scenario: scenario.name(),
        tables: vec![load::ITEMS],
        unit: "rows/s",
        amount,
        durable_native: true,
        report: false,
        prepare: Box::new(move |cluster| {
            load::create_items(cluster)?;
            load::insert_items(&cluster.primary, 0, range / 1000, 1000)?;
            cluster.primary.execute("VACUUM ANALYZE")
        }),
        write: Box::new(move |cluster, _| {
            load::update_items(&cluster.primary, range, amount / SIZE, SIZE)
        }),
    }
}

fn tpcb(scenario: Scenario, options: &Options) -> Workload {
    let report = scenario == Scenario::CatchupTpcbReport;
    // Native's time grows with the square of what the snapshot keeps.
    let amount = options.volume(if report { 50_000 } else { 100_000 });
    let scale = if options.quick { 1 } else { 10 };
    Workload {
        scenario: scenario.name(),
        tables: load::PGBENCH.to_vec(),
        unit: "tx/s",
        amount,
        durable_native: false,
        report,
        prepare: Box::new(move |cluster| load::create_pgbench(cluster, scale)),
        write: Box::new(move |cluster, _| load::run_pgbench(&cluster.primary, amount)),
    }
}
