//! What a slow network to the replica costs: catch-up with added round trip.
//!
//! The replica is paused while the backlog is captured, or the primary's side would be what limits.
//! Only the time between the first and the last row visible is rated: connecting takes some round
//! trips, which says nothing about the stream.

use std::time::Duration;

use anyhow::{Context, Result};
use repl_tests::pg::{DATABASE, PgServer, Role, Session};
use repl_tests::proxy::Proxy;
use repl_tests::wait::wait_until;

use crate::cluster::{Cluster, MARKER};
use crate::load;
use crate::options::Options;
use crate::ours::Ours;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::{PATIENCE, Side, time_catchup, verify, wait_marker};
use crate::stats::percentile;

const SCENARIO: &str = "rtt";
/// Added round trips, milliseconds; the first is what the others are compared with. It passes the
/// proxy as well, whose work costs the machine something.
const ROUND_TRIPS: [u64; 4] = [0, 1, 20, 100];
/// Chunks of 16 KiB under way per direction: more than any window the daemon could fill.
const WINDOW: usize = 8192;
/// Rows per transaction.
const SIZE: u64 = 100;

/// Runs the scenario.
///
/// # Errors
/// When a server or the daemon fails, or the replica differs afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    load::create_items(&cluster)?;
    cluster.create_marker()?;
    let proxy = Proxy::with_window(cluster.ours.port(), WINDOW)?;
    let url = cluster
        .ours
        .url_via(proxy.port(), DATABASE, Role::Superuser);
    let urls = std::slice::from_ref(&url);
    let mut side = Pausing(Ours::attach_urls(&cluster, "rtt", &[DATABASE], urls)?);
    let (marker, _) = cluster.set_marker()?;
    wait_marker(&side, marker)?;
    side.stop()?;
    // Several batches even when the volume is a tenth.
    let rows = options.volume(500_000).max(200_000);
    let mut rates = ROUND_TRIPS.map(|_| Vec::new());
    let mut pings = ROUND_TRIPS.map(|_| Vec::new());
    let mut first = 0;
    for round in 0..options.rounds {
        for (index, &millis) in ROUND_TRIPS.iter().enumerate() {
            proxy.set_latency(Duration::ZERO);
            cluster.set_marker()?;
            load::insert_items(&cluster.primary, first, rows / SIZE, SIZE)?;
            first += rows;
            let (marker, end) = cluster.set_marker()?;
            wait_until("the backlog to be in the log", PATIENCE, || {
                Ok(side.captured(&end) == Some(true))
            })?;
            cluster.settle()?;
            proxy.set_latency(Duration::from_millis(millis) / 2);
            pings[index].push(ping(&url)?);
            let took = time_catchup(&mut side, marker, &end)?;
            side.stop()?;
            verify(&cluster, &side, &[load::ITEMS, MARKER])?;
            let rate = rows as f64 / (took.whole - took.first).as_secs_f64();
            eprintln!(
                "  round {} {millis} ms: first row after {:.2} s, then {rate:.0} rows/s",
                round + 1,
                took.first.as_secs_f64()
            );
            rates[index].push(rate);
        }
    }
    memory.note(SCENARIO, side.0.service());
    for ((millis, rates), pings) in ROUND_TRIPS.iter().zip(&rates).zip(&pings) {
        report.absolute(SCENARIO, &format!("{millis} ms"), "rows/s", rates);
        report.absolute(
            SCENARIO,
            &format!("{millis} ms: round trip in fact"),
            "ms",
            pings,
        );
    }
    for (millis, slow) in ROUND_TRIPS.iter().zip(&rates).skip(1) {
        let name = format!("{millis} ms / local");
        report.ratio(SCENARIO, &name, Kind::RatioHigherBetter, slow, &rates[0]);
    }
    Ok(())
}

/// Our side with a daemon that keeps running: only its replica is paused and resumed.
struct Pausing<'a>(Ours<'a>);

impl Side for Pausing<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn replicas(&self) -> Vec<(&PgServer, &str)> {
        self.0.replicas()
    }

    fn start(&mut self) -> Result<()> {
        self.0.service().resume("replica-1")
    }

    fn stop(&mut self) -> Result<()> {
        self.0.service().pause("replica-1")
    }

    fn captured(&self, end: &str) -> Option<bool> {
        self.0.captured(end)
    }
}

/// The round trip of a statement through the proxy, milliseconds.
fn ping(url: &str) -> Result<f64> {
    let mut session = Session::open(url)?;
    let mut taken = Vec::new();
    for _ in 0..10 {
        let started = std::time::Instant::now();
        session.execute("SELECT 1")?;
        taken.push(started.elapsed().as_secs_f64() * 1e3);
    }
    percentile(&taken, 50.0).context("no round trip was taken")
}
