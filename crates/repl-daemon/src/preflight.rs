//! The part of `--check` that looks at the primary: its settings, its tables, and whether every
//! replica can be given them. Changes nothing anywhere.

use std::fmt::Write as _;

use repl_connectors::seam::{ConnectorError, SourceTable};
use repl_core::ErrorKind;
use repl_core::schema::TableName;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::wiring;

/// Looks at the primary. Returns the report for stdout, ending in a newline, and whether the group
/// can start as it is. A primary that cannot be reached from here is noted and no failure: a
/// configuration may be checked elsewhere than where it runs.
///
/// # Errors
/// When the configuration cannot be wired, which its own check would have refused.
pub async fn report(config: &Config) -> anyhow::Result<(String, bool)> {
    let (requests, _unused) = mpsc::channel(1);
    let mut source = wiring::source(config, requests)?;
    let selection = wiring::selection(config, &config.primary)?;
    let tables = match source.snapshots.tables(&selection).await {
        Ok(tables) => tables,
        Err(error) if error.kind == ErrorKind::Connection => {
            return Ok((format!("tables not checked: {}\n", error.message), true));
        }
        Err(error) => return Ok((problem("primary", &error), false)),
    };
    let taken = tables.iter().filter(|table| table.schema.is_some());
    let names: Vec<TableName> = taken.map(|table| table.name.clone()).collect();
    let lacking = match source.capture.lacking(&names).await {
        Ok(lacking) => lacking,
        Err(error) => return Ok((problem("primary", &error), false)),
    };
    let mut report = String::new();
    for table in tables.iter().filter(|table| !table.refusal.is_empty()) {
        let what = match table.schema {
            None => "is left out",
            Some(_) => "cannot be copied",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            report,
            "warning: table {} {what}: {}\n    fix: {}\n",
            table.name, table.refusal, table.remedy
        );
    }
    for error in &lacking.some {
        report.push_str(&found("warning", "primary", error));
    }
    let mut good = lacking.all.is_none();
    if let Some(error) = &lacking.all {
        report.push_str(&problem("primary", error));
    }
    for node in config.enabled_replicas() {
        let routing = wiring::routing(config, node)?;
        let conversion = wiring::conversion(config, node)?;
        let received = |table: &&SourceTable| routing.target(&table.name).is_some();
        for schema in tables
            .iter()
            .filter(received)
            .filter_map(|table| table.schema.as_ref())
            .filter(|schema| conversion.converts(schema))
        {
            if let Err(error) = conversion.plan(schema) {
                good = false;
                report.push_str(&problem(&node.name, &error));
            }
        }
    }
    let count = tables
        .iter()
        .filter(|table| table.refusal.is_empty())
        .count();
    let all = tables.len();
    if all == 0 {
        report.push_str(
            "warning: the primary has no table that [tables] selects\n    fix: compare \
             tables.include and tables.exclude with the names there\n",
        );
    }
    let _ = writeln!(report, "{count} of {all} selected tables can be captured");
    Ok((report, good))
}

fn problem(node: &str, error: &ConnectorError) -> String {
    found("error", node, error)
}

fn found(what: &str, node: &str, error: &ConnectorError) -> String {
    let fix = match error.advice.as_str() {
        "" => String::new(),
        advice => format!("    fix: {advice}\n"),
    };
    format!("{what}: {node}: {}\n{fix}", error.message)
}
