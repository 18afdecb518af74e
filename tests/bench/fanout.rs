//! What three replicas cost the daemon, against one.

use anyhow::Result;
use repl_tests::pg::Role;

use crate::cluster::{Cluster, MARKER};
use crate::load;
use crate::options::Options;
use crate::ours::Ours;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::{Side, time_catchup, verify, wait_marker};

const SCENARIO: &str = "fanout";
/// Rows per transaction.
const SIZE: u64 = 100;

/// Runs the scenario: two daemons with slots of their own work off the same backlog in turns.
///
/// # Errors
/// When a server or a daemon fails, or a replica differs afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    load::create_items(&cluster)?;
    cluster.create_marker()?;
    let groups = [("one", &["alone"][..]), ("three", &["a", "b", "c"][..])];
    let mut sides = Vec::new();
    for (group, databases) in groups {
        for database in databases {
            cluster.ours.psql(
                "postgres",
                Role::Superuser,
                &format!("CREATE DATABASE {database} TEMPLATE app"),
            )?;
        }
        let mut side = Ours::attach_many(&cluster, group, databases)?;
        let (marker, _) = cluster.set_marker()?;
        wait_marker(&side, marker)?;
        side.stop()?;
        sides.push(side);
    }
    let rows = options.volume(500_000);
    let mut cpu = [Vec::new(), Vec::new()];
    for round in 0..u64::from(options.rounds) {
        load::insert_items(&cluster.primary, round * rows, rows / SIZE, SIZE)?;
        let (marker, end) = cluster.set_marker()?;
        for turn in 0..sides.len() {
            let index = (turn + usize::try_from(round)?) % sides.len();
            let side = &mut sides[index];
            cluster.settle()?;
            let took = time_catchup(side, marker, &end)?;
            side.stop()?;
            verify(&cluster, side, &[load::ITEMS, MARKER])?;
            let used = side.service().last_cpu().as_secs_f64();
            eprintln!(
                "  round {} {}: {used:.2} s of processor in {:.2} s",
                round + 1,
                groups[index].0,
                took.whole.as_secs_f64()
            );
            cpu[index].push(used);
        }
    }
    for side in &sides {
        memory.note(SCENARIO, side.service());
    }
    let [one, three] = &cpu;
    report.absolute(SCENARIO, "processor time, 1 replica", "s", one);
    report.absolute(SCENARIO, "processor time, 3 replicas", "s", three);
    report.ratio(
        SCENARIO,
        "processor time 3 replicas / 1",
        Kind::RatioLowerBetter,
        three,
        one,
    );
    Ok(())
}
