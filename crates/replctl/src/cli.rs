//! The grammar of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::exit::EXIT_CODES;

/// Operates a replication daemon over its Unix socket.
#[derive(Debug, Parser)]
#[command(
    name = "replctl",
    version,
    about,
    after_help = EXIT_CODES,
    disable_help_subcommand = true,
    propagate_version = true
)]
pub struct Cli {
    /// Options of every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where help lists the options of every subcommand: behind its own.
const GLOBAL: &str = "Options of every subcommand";

/// Options that every subcommand takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The daemon's admin socket (api.socket in its configuration)
    /// [env: REPLCTL_SOCKET]
    #[arg(long, global = true, value_name = "PATH", value_parser = socket_path, help_heading = GLOBAL)]
    pub socket: Option<PathBuf>,
    /// The replication group: a daemon of another one is refused. Without --socket its socket is
    /// /run/repl-daemon/<GROUP>.sock [env: REPLCTL_GROUP]
    #[arg(long, global = true, value_name = "GROUP", value_parser = group_name, help_heading = GLOBAL)]
    pub group: Option<String>,
    /// Print JSON with stable field names instead of text
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the group: primary, log, replicas, errors
    Status(commands::status::StatusArgs),
    /// Show the source tables and whether each is replicated
    Tables(commands::tables::TablesArgs),
    /// Show what is in the event log: range, segments, transactions
    Log(commands::log::LogArgs),
    /// Stop applying to a replica; its backlog waits in the log
    Pause(ReplicaArgs),
    /// Continue a paused replica
    Resume(ReplicaArgs),
    /// Try the failed transaction of a replica again, now
    Retry(ReplicaArgs),
    /// Leave the failed transaction out; the replica becomes diverged
    Skip(commands::skip::SkipArgs),
    /// Make a replica, or single tables of it, equal to the primary again
    Resync(commands::resync::ResyncArgs),
    /// Show the copies under way: tables, rows, rate, time left
    Copy(commands::copy::CopyArgs),
    /// Make a replica the primary
    Promote(commands::promote::PromoteArgs),
    /// Have a former primary, whose place was taken by force, join as a replica
    Rejoin(commands::rejoin::RejoinArgs),
    /// Show what former primaries had committed that the event log never saw
    Ledger(commands::ledger::LedgerArgs),
    /// Show who is primary, and who follows how closely
    Topology(commands::topology::TopologyArgs),
    /// Show the changes of primary: each step, its time and result
    History(commands::history::HistoryArgs),
    /// Compare replicas with the primary, and repair rows that differ
    Validate(commands::validate::ValidateArgs),
    /// Ask for another mode: what a COMMIT on the primary waits for
    Mode(commands::mode::ModeArgs),
    /// Wait until a commit is on replicas
    Wait(commands::wait::WaitArgs),
    /// Free the primary's waiting commits when the daemon is lost
    Release(commands::release::ReleaseArgs),
    /// Manage the slot and publication on the primary
    Slot(commands::slot::SlotArgs),
    /// Print help on a subcommand, or on `exit-codes`
    Help(commands::help::HelpArgs),
}

/// The argument of the verbs that take a replica and nothing else.
#[derive(Debug, Args)]
pub struct ReplicaArgs {
    /// The replica's name, as in `replctl status`
    pub replica: String,
}

/// Accepts the name of a group (`[group] name` in a configuration).
pub(crate) fn group_name(text: &str) -> Result<String, String> {
    if text.contains('/') {
        return Err("a group name is not a path; use --socket for a path".to_owned());
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("a group name is made of the characters a-z, 0-9 and _".to_owned());
    }
    Ok(text.to_owned())
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Parses `500ms`, `2s`, `1m` or a number of seconds; at least 100 ms.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err("write it like 500ms, 2s or 1m".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "write it like 500ms, 2s or 1m".to_owned())?;
    let seconds = number * factor;
    if !(0.1..=86_400.0).contains(&seconds) {
        return Err("must be between 100ms and one day".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(interval("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "1h", "0", "50ms", "-1s", "1e9s", "99999999"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
