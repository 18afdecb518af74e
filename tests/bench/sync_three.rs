//! What the modes cost with three replicas: transactions a second with none of them waited for, one,
//! two and all. They are databases of one server, as the machine has one disk.

use anyhow::Result;
use repl_api::Mode;
use repl_tests::pg::Role;

use crate::cluster::{Cluster, MARKER};
use crate::options::Options;
use crate::ours::Ours;
use crate::report::Report;
use crate::run::Memory;
use crate::side::{Side, verify, wait_marker};
use crate::sync::{CLIENTS, Sample, TABLE, measure, order, prepare};

const SCENARIO: &str = "sync-three";
const REPLICAS: [&str; 3] = ["a", "b", "c"];
/// The modes, by the names of their metrics.
const MODES: [(&str, Mode, Option<u32>); 4] = [
    ("async", Mode::Async, None),
    ("semi-sync 1", Mode::SemiSync, Some(1)),
    ("semi-sync 2", Mode::SemiSync, Some(2)),
    ("sync", Mode::Sync, None),
];

/// Runs the scenario.
///
/// # Errors
/// When a server or the daemon fails, or a replica differs afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    prepare(&cluster)?;
    for database in REPLICAS {
        let create = format!("CREATE DATABASE {database} TEMPLATE app");
        cluster.ours.psql("postgres", Role::Superuser, &create)?;
    }
    let mut side = Ours::attach_many(&cluster, "three", &REPLICAS)?;
    let mut found: [[Vec<Sample>; CLIENTS.len()]; MODES.len()] = Default::default();
    for round in 0..options.rounds as usize {
        for turn in 0..MODES.len() {
            let which = (turn + round) % MODES.len();
            let (name, mode, replicas) = MODES[which];
            order(&side, mode, replicas)?;
            for (at, sample) in measure(&cluster, options)?.into_iter().enumerate() {
                eprintln!("  round {} {name} {sample:?}", round + 1);
                found[which][at].push(sample);
            }
        }
    }
    order(&side, Mode::Async, None)?;
    for (samples, (name, ..)) in found.iter().zip(MODES) {
        for (samples, clients) in samples.iter().zip(CLIENTS) {
            let mut absolute = |what: &str, unit, value: fn(&Sample) -> f64| {
                let metric = format!("{clients} clients, {what} {name}");
                let values: Vec<f64> = samples.iter().map(value).collect();
                report.absolute(SCENARIO, &metric, unit, &values);
            };
            absolute("commits", "tx/s", |sample| sample.per_second);
            absolute("p99", "ms", |sample| sample.p99_ms);
        }
    }
    let (marker, _) = cluster.set_marker()?;
    wait_marker(&side, marker)?;
    verify(&cluster, &side, &[TABLE, MARKER])?;
    side.stop()?;
    memory.note(SCENARIO, side.service());
    Ok(())
}
