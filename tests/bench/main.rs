//! Measures the daemon beside PostgreSQL's native logical replication; see `--help`.

mod baseline;
mod catchup;
mod client;
mod cluster;
mod compare;
mod copy;
mod engines;
mod eventlog;
mod failover;
mod fanout;
mod goals;
mod idle;
mod latency;
mod load;
mod machine;
mod native;
mod options;
mod ours;
mod patroni;
mod report;
mod rtt;
mod run;
mod side;
mod sqlite;
mod stats;
mod sync;
mod sync_three;
mod wire;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::options::Options;
use crate::report::Report;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = run::run(&options).and_then(|report| {
        let good = keep(&options, &report)?;
        ensure!(report.failures.is_empty(), "not everything was measured");
        Ok(good)
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Writes and compares what was asked for; false when something got worse.
fn keep(options: &Options, report: &Report) -> Result<bool> {
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut good = true;
    if options.check {
        let (compared, worse) = baseline::check(&options.baseline, report)?;
        println!(
            "\ncompared {compared} ratios with {}",
            options.baseline.display()
        );
        for one in &worse {
            println!("WORSE {}: {:.3}, was {:.3}", one.metric, one.is, one.was);
        }
        good = worse.is_empty() && compared > 0;
        if compared == 0 {
            println!("nothing that ran is in it");
        }
    }
    if options.save_baseline {
        baseline::save(&options.baseline, report)?;
    }
    Ok(good)
}
