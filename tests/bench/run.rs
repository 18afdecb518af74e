//! Running what was selected.

use anyhow::Result;
use clap::ValueEnum;

use crate::machine::Machine;
use crate::options::{CommitClass, Options, Scenario, Transport};
use crate::ours::Service;
use crate::report::{Report, RunFacts};
use crate::{
    catchup, compare, copy, engines, eventlog, failover, fanout, idle, latency, rtt, sqlite, sync,
    sync_three,
};

/// The daemon's peak memory, by scenario.
#[derive(Default)]
pub struct Memory {
    peaks: Vec<(String, f64)>,
}

impl Memory {
    /// Keeps the peak of a scenario's daemon.
    pub fn note(&mut self, scenario: &str, service: &Service) {
        self.peaks.push((scenario.to_owned(), service.peak_mib()));
    }

    fn publish(&self, report: &mut Report) {
        for (scenario, peak) in &self.peaks {
            report.absolute("memory", &format!("during {scenario}"), "MiB", &[*peak]);
        }
        let largest = self.peaks.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
        if !self.peaks.is_empty() {
            report.absolute("memory", "peak of the daemon", "MiB", &[largest]);
        }
    }
}

/// Measures everything selected; prints each scenario as soon as it is done. One that fails is named
/// in the report, and the others go on.
///
/// # Errors
/// When the machine cannot be described.
pub fn run(options: &Options) -> Result<Report> {
    let facts = RunFacts {
        quick: options.quick,
        transport: match options.transport {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
        }
        .to_owned(),
        commit: options
            .commit
            .map_or("default", CommitClass::name)
            .to_owned(),
    };
    let mut report = Report::new(Machine::look()?, facts);
    let mut memory = Memory::default();
    println!("{}", Report::columns());
    for &scenario in Scenario::value_variants() {
        if options.wants(scenario) {
            eprintln!("{}", scenario.name());
            if let Err(error) = one(scenario, options, &mut report, &mut memory) {
                eprintln!("bench: {}: {error:#}", scenario.name());
                report.failed(scenario.name(), &error);
            }
            print!("{}", report.scenario_text(scenario.name()));
        }
    }
    memory.publish(&mut report);
    print!("{}", report.scenario_text("memory"));
    println!("\n{}", report.facts_text().trim_end());
    Ok(report)
}

fn one(
    scenario: Scenario,
    options: &Options,
    report: &mut Report,
    memory: &mut Memory,
) -> Result<()> {
    match scenario {
        Scenario::Latency => latency::run(options, report, memory),
        Scenario::Fanout => fanout::run(options, report, memory),
        Scenario::Log => eventlog::run(options, report),
        Scenario::Engines => engines::run(options, report, memory),
        Scenario::Copy => copy::run(options, report, memory),
        Scenario::Validate => compare::run(options, report, memory),
        Scenario::Rtt => rtt::run(options, report, memory),
        Scenario::Idle => idle::run(options, report, memory),
        Scenario::Sqlite => sqlite::run(options, report, memory),
        Scenario::Sync => sync::run(options, report, memory),
        Scenario::SyncThree => sync_three::run(options, report, memory),
        Scenario::Failover => failover::run(options, report, memory),
        Scenario::CatchupInserts
        | Scenario::CatchupSingle
        | Scenario::CatchupTpcb
        | Scenario::CatchupTpcbReport
        | Scenario::CatchupUpdates => catchup::run(scenario, options, report, memory),
    }
}
