//! What `repl-daemon --check` prints.

use std::fmt::Write as _;
use std::path::Path;

use super::model::{Config, Endpoint, Engine, NodeConfig, TablesConfig};
use super::problem::Problem;
use super::units::{format_duration, format_size};

/// Checks a file without starting anything. Returns the report for stdout, ending in a newline, and
/// whether the configuration can be used. Warnings are reported but do not make it unusable.
pub fn check_report(path: &Path) -> (String, bool) {
    match super::load(path) {
        Ok(config) => (accepted(path, &config), true),
        Err(problems) => {
            let count = tally(problems.errors.len(), problems.warnings.len());
            (format!("{problems}\n{}: {count}\n", path.display()), false)
        }
    }
}

/// `2 errors, 1 warning`
fn tally(errors: usize, warnings: usize) -> String {
    let plural = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    match warnings {
        0 => plural(errors, "error"),
        _ => format!(
            "{}, {}",
            plural(errors, "error"),
            plural(warnings, "warning")
        ),
    }
}

fn accepted(path: &Path, config: &Config) -> String {
    let mut lines = vec![
        ("group", group_line(config)),
        ("primary", node_line(&config.primary)),
    ];
    for (i, replica) in config.replicas.iter().enumerate() {
        lines.push((if i == 0 { "replicas" } else { "" }, node_line(replica)));
    }
    lines.push(("mode", config.replication.settings.to_string()));
    lines.push(("tables", tables_line(&config.tables)));
    for replica in &config.replicas {
        let narrowed = tables_line(&replica.tables.selection);
        if narrowed != ALL_TABLES_LINE {
            lines.push(("", format!("{}: {narrowed}", replica.name)));
        }
    }
    lines.push(("log", log_line(config)));
    lines.push(("socket", config.api.socket.display().to_string()));
    let mut report = format!("{}: ok\n", path.display());
    for (label, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(report, "  {label:<9} {value}");
    }
    config.warnings.iter().for_each(|warning: &Problem| {
        let _ = writeln!(report, "{warning}");
    });
    report
}

fn group_line(config: &Config) -> String {
    let capture = &config.capture;
    match config.engine() {
        Engine::Sqlite | Engine::Mysql => format!("{} ({})", config.group.name, config.engine()),
        Engine::Postgres => format!(
            "{} (PostgreSQL, slot {}, publication {})",
            config.group.name, capture.slot_name, capture.publication_name
        ),
    }
}

fn node_line(node: &NodeConfig) -> String {
    let mut line = format!("{}  {}", node.name, node.endpoint);
    if let Some(tls) = &node.tls {
        line.push_str(&format!("  tls {}", tls.mode.as_str()));
    }
    if matches!(node.endpoint, Endpoint::Server(_)) {
        line.push_str(if node.password.is_some() {
            "  password set"
        } else {
            "  no password"
        });
    }
    if !node.enabled {
        line.push_str("  disabled");
    }
    line
}

const ALL_TABLES_LINE: &str = "all";

fn tables_line(tables: &TablesConfig) -> String {
    let mut line = match tables.include.as_slice() {
        [all] if all == super::defaults::ALL_TABLES => ALL_TABLES_LINE.to_owned(),
        include => include.join(", "),
    };
    if !tables.exclude.is_empty() {
        line.push_str(&format!("; without {}", tables.exclude.join(", ")));
    }
    for rename in &tables.rename {
        line.push_str(&format!("; {} as {}", rename.from, rename.to));
    }
    line
}

fn log_line(config: &Config) -> String {
    let log = &config.log;
    let limits = [
        log.retention_max_size.map(format_size),
        log.retention_max_age.map(format_duration),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let retention = match limits.is_empty() {
        true => "retention unlimited".to_owned(),
        false => format!("retention {}", limits.join(", ")),
    };
    let segment = format_size(log.segment_size);
    format!("{} (segments of {segment}, {retention})", log.dir.display())
}
