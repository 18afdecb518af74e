//! From COMMIT's reply to visible on the replica, at a steady rate.
//!
//! One client inserts single rows, each at its appointed time whether or not the one before was
//! late. Another session on the replica asks for the newest id again and again: a row is visible
//! when the first answer that contains it arrives, so the poller's interval is added to both sides
//! alike; it is reported.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use repl_tests::pg::{DATABASE, PgServer};

use crate::cluster::{Cluster, MARKER};
use crate::native::{Commit, Native};
use crate::options::Options;
use crate::ours::Ours;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::{Side, verify, wait_marker};
use crate::stats::percentile;
use crate::wire::Wire;

/// Transactions per second.
const RATES: [u32; 2] = [200, 1000];
/// Polls begin this far apart at least, so that the poller leaves the machine to what it watches.
const POLL: Duration = Duration::from_micros(100);
const SCENARIO: &str = "latency";

/// Runs the scenario.
///
/// # Errors
/// When a server or a side fails, or a row does not arrive.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    cluster.execute_everywhere("CREATE TABLE ticks (id bigint PRIMARY KEY, v text NOT NULL)")?;
    cluster.create_marker()?;
    let tables = ["ticks", MARKER];
    let mut sides: Vec<Box<dyn Side + '_>> = Vec::new();
    let mut ours = Ours::attach(&cluster)?;
    ours.stop()?;
    if !options.ours_only {
        Native::publish(&cluster, &tables)?;
        let mut native = Native::attach(&cluster, Commit::Off)?;
        native.stop()?;
        sides.push(Box::new(native));
    }
    let mut next = 1;
    for rate in RATES {
        let mut found = vec![Percentiles::default(); sides.len() + 1];
        for round in 0..options.rounds {
            let mut all: Vec<&mut dyn Side> = vec![&mut ours];
            all.extend(sides.iter_mut().map(|side| side.as_mut() as &mut dyn Side));
            for turn in 0..all.len() {
                let index = (turn + round as usize) % all.len();
                let sample = one_side(&cluster, all[index], rate, options, &mut next)
                    .with_context(|| format!("{} at {rate} tx/s", all[index].name()))?;
                eprintln!("  round {} {}: {sample}", round + 1, all[index].name());
                found[index].add(&sample);
            }
        }
        publish(rate, &found, report);
    }
    ours.start()?;
    for side in &mut sides {
        side.start()?;
    }
    let (marker, _) = cluster.set_marker()?;
    for side in sides.iter().map(AsRef::as_ref).chain([&ours as &dyn Side]) {
        wait_marker(side, marker)?;
        verify(&cluster, side, &tables)?;
    }
    ours.stop()?;
    memory.note(SCENARIO, ours.service());
    report.note(
        "latency is signed: a replica may show a row before the client has read COMMIT's reply; \
         the poller's interval is part of it on both sides",
    );
    Ok(())
}

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
struct Sample {
    p50: f64,
    p99: f64,
    max: f64,
    poll: f64,
    /// How late the slowest insert was begun.
    late: f64,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.3} p99 {:.3} max {:.2} ms (poll every {:.3} ms, latest insert {:.1} ms late)",
            self.p50, self.p99, self.max, self.poll, self.late
        )
    }
}

#[derive(Debug, Clone, Default)]
struct Percentiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    poll: Vec<f64>,
}

impl Percentiles {
    fn add(&mut self, sample: &Sample) {
        self.p50.push(sample.p50);
        self.p99.push(sample.p99);
        self.max.push(sample.max);
        self.poll.push(sample.poll);
    }
}

fn publish(rate: u32, found: &[Percentiles], report: &mut Report) {
    for (name, side) in ["ours", "native"].iter().zip(found) {
        for (what, values) in [
            ("p50", &side.p50),
            ("p99", &side.p99),
            ("max", &side.max),
            ("poll interval", &side.poll),
        ] {
            report.absolute(SCENARIO, &format!("{rate}/s {what} {name}"), "ms", values);
        }
    }
    if let [ours, native, ..] = found {
        let mut ratio = |what: &str, kind, ours: &[f64], native: &[f64]| {
            report.ratio(
                SCENARIO,
                &format!("{rate}/s {what} ours / native"),
                kind,
                ours,
                native,
            );
        };
        ratio("p50", Kind::RatioLowerBetter, &ours.p50, &native.p50);
        ratio("p99", Kind::UnsteadyRatio, &ours.p99, &native.p99);
    }
}

/// Starts a side, lets it catch up, measures, stops it.
fn one_side(
    cluster: &Cluster,
    side: &mut dyn Side,
    rate: u32,
    options: &Options,
    next: &mut u64,
) -> Result<Sample> {
    side.start()?;
    let (marker, _) = cluster.set_marker()?;
    wait_marker(side, marker)?;
    cluster.settle()?;
    let warm_up = u64::from(rate) * 2;
    let count = warm_up + u64::from(rate) * options.volume(10).max(2);
    let first = *next;
    *next += count;
    let (server, database) = side.replicas()[0];
    let ids = first..first + count;
    let (commits, seen) = drive(&cluster.primary, (server, database), ids, rate)?;
    let sample = summarise(&commits, &seen, first, warm_up as usize)?;
    side.stop()?;
    Ok(sample)
}

/// When an insert was begun later than planned, and when its commit was answered.
struct Committed {
    late: Duration,
    at: Instant,
}

/// An answer of the replica: its newest id, and when it came.
type Seen = (u64, Instant);

fn drive(
    primary: &PgServer,
    replica: (&PgServer, &str),
    ids: std::ops::Range<u64>,
    rate: u32,
) -> Result<(Vec<Committed>, Vec<Seen>)> {
    let mut writer = Wire::open(primary, DATABASE)?;
    writer.prepare(
        "insert",
        "INSERT INTO ticks VALUES ($1, 'sixteen bytes or so, always the same')",
    )?;
    let mut poller = Wire::open(replica.0, replica.1)?;
    poller.prepare("newest", "SELECT max(id) FROM ticks")?;
    let failed = AtomicBool::new(false);
    let last = ids.end - 1;
    thread::scope(|scope| {
        let polling = scope.spawn(|| poll(&mut poller, last, &failed));
        let written = write(&mut writer, ids, rate);
        failed.store(written.is_err(), Ordering::Relaxed);
        match polling.join() {
            Ok(seen) => Ok((written?, seen?)),
            Err(_) => bail!("the poller panicked"),
        }
    })
}

fn write(writer: &mut Wire, ids: std::ops::Range<u64>, rate: u32) -> Result<Vec<Committed>> {
    let begin = Instant::now();
    let mut commits = Vec::with_capacity(usize::try_from(ids.end - ids.start)?);
    for (number, id) in (0_u32..).zip(ids) {
        let due = begin + Duration::from_secs(1) * number / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = due.elapsed();
        writer.run("insert", Some(&id.to_string()))?;
        let at = Instant::now();
        commits.push(Committed { late, at });
    }
    Ok(commits)
}

fn poll(poller: &mut Wire, last: u64, failed: &AtomicBool) -> Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut quiet = Instant::now();
    let mut newest = 0;
    while newest < last && !failed.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = u64::try_from(poller.number("newest")?)?;
        let at = Instant::now();
        seen.push((answer, at));
        if answer > newest {
            (newest, quiet) = (answer, at);
        }
        ensure!(
            quiet.elapsed() < Duration::from_secs(30),
            "no row arrived for 30 s; the newest is {newest} of {last}"
        );
        // The sleep itself takes some 50 us longer than asked for.
        thread::sleep((POLL / 2).saturating_sub(begun.elapsed()));
    }
    Ok(seen)
}

/// Percentiles over all rows but the first `warm_up`.
fn summarise(commits: &[Committed], seen: &[Seen], first: u64, warm_up: usize) -> Result<Sample> {
    let millis = |later: Instant, earlier: Instant| {
        let forward = later.saturating_duration_since(earlier).as_secs_f64();
        (forward - earlier.saturating_duration_since(later).as_secs_f64()) * 1e3
    };
    let mut latencies = Vec::with_capacity(commits.len());
    let mut answers = seen.iter();
    let mut current = answers.next().context("the replica gave no answer")?;
    for (id, commit) in (first..).zip(commits) {
        while current.0 < id {
            current = answers.next().context("a row was never seen")?;
        }
        latencies.push(millis(current.1, commit.at));
    }
    let measured = &latencies[warm_up..];
    let polls: Vec<f64> = seen
        .windows(2)
        .map(|pair| millis(pair[1].1, pair[0].1))
        .collect();
    let of = |values: &[f64], percent| percentile(values, percent).context("nothing measured");
    let late = commits.iter().map(|one| one.late.as_secs_f64() * 1e3);
    Ok(Sample {
        p50: of(measured, 50.0)?,
        p99: of(measured, 99.0)?,
        max: of(measured, 100.0)?,
        poll: of(&polls, 50.0)?,
        late: late.fold(0.0, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Committed, summarise};

    #[test]
    fn a_row_is_visible_with_the_first_answer_that_covers_it() {
        let zero = Instant::now() + Duration::from_secs(1);
        let at = |micros| zero + Duration::from_micros(micros);
        let commit = |micros| Committed {
            late: Duration::ZERO,
            at: at(micros),
        };
        let commits = [commit(0), commit(1000), commit(2000)];
        // Row 11 and row 12 show together; row 12 before its commit was answered.
        let seen = [(10, at(100)), (10, at(300)), (12, at(1900)), (12, at(2100))];
        let sample = summarise(&commits, &seen, 10, 0).unwrap();
        assert!((sample.max - 0.9).abs() < 1e-9, "{sample:?}");
        assert!((sample.p50 - 0.1).abs() < 1e-9, "{sample:?}");
        let warm = summarise(&commits, &seen, 10, 2).unwrap();
        assert!((warm.max + 0.1).abs() < 1e-9, "{warm:?}");
        assert!(summarise(&commits, &seen[..2], 10, 0).is_err());
    }
}
