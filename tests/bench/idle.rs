//! What the daemon costs while nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use repl_tests::pg::Role;

use crate::cluster::Cluster;
use crate::load;
use crate::options::Options;
use crate::ours::Ours;
use crate::report::Report;
use crate::run::Memory;
use crate::side::{Side, wait_marker};

const SCENARIO: &str = "idle";
/// How long it is watched: one heartbeat interval at least.
const WATCH: Duration = Duration::from_secs(10);

/// Runs the scenario.
///
/// # Errors
/// When a server or the daemon fails.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    load::create_items(&cluster)?;
    cluster.create_marker()?;
    let databases = ["a", "b", "c"];
    for database in databases {
        cluster.ours.psql(
            "postgres",
            Role::Superuser,
            &format!("CREATE DATABASE {database} TEMPLATE app"),
        )?;
    }
    let mut side = Ours::attach_many(&cluster, "idle", &databases)?;
    let (marker, _) = cluster.set_marker()?;
    wait_marker(&side, marker)?;
    // What follows a commit is over before the watch begins.
    thread::sleep(Duration::from_secs(3));
    let mut shares = Vec::new();
    for _ in 0..options.rounds {
        let before = side.service().daemon().cpu_time()?;
        let started = Instant::now();
        thread::sleep(WATCH);
        let used = side.service().daemon().cpu_time()? - before;
        shares.push(used.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0);
    }
    report.absolute(SCENARIO, "processor share", "% of one", &shares);
    side.stop()?;
    memory.note(SCENARIO, side.service());
    Ok(())
}
