//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What can be measured. Without a selection all of it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 1,000,000 inserted rows in transactions of 100: time to catch up.
    CatchupInserts,
    /// 200,000 transactions of one insert.
    CatchupSingle,
    /// 100,000 pgbench TPC-B transactions at scale 10.
    CatchupTpcb,
    /// 50,000 of them while a report reads at each replica, in one long snapshot.
    CatchupTpcbReport,
    /// 500,000 updates of random keys of 1,000,000 rows, in transactions of 10.
    CatchupUpdates,
    /// COMMIT's reply to visible on the replica, at 200 and 1,000 transactions per second.
    Latency,
    /// The daemon's processor time with three replicas against one.
    Fanout,
    /// The event log's write rate against the disk's.
    Log,
    /// MariaDB and SQLite replicas against their own bulk loads.
    Engines,
    /// The initial copy of 2,000,000 rows, against native replication's and a pipe.
    Copy,
    /// Comparing 2,000,000 rows: every value against data-diff, counts against the bare counts.
    Validate,
    /// Catch-up with 1, 20 and 100 ms of round trip to the replica.
    Rtt,
    /// The daemon's processor share while nothing happens, three replicas attached.
    Idle,
    /// SQLite primary to SQLite replica.
    Sqlite,
    /// Synchronous commits with 1, 4 and 16 clients.
    Sync,
    /// The same with three replicas, and waiting for none, one, two and all of them.
    SyncThree,
    /// From the primary's death to a write at another, here and with Patroni; and planned changes.
    Failover,
}

impl Scenario {
    /// The name on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::CatchupInserts => "catchup-inserts",
            Self::CatchupSingle => "catchup-single",
            Self::CatchupTpcb => "catchup-tpcb",
            Self::CatchupTpcbReport => "catchup-tpcb-report",
            Self::CatchupUpdates => "catchup-updates",
            Self::Latency => "latency",
            Self::Fanout => "fanout",
            Self::Log => "log",
            Self::Engines => "engines",
            Self::Copy => "copy",
            Self::Validate => "validate",
            Self::Rtt => "rtt",
            Self::Idle => "idle",
            Self::Sqlite => "sqlite",
            Self::Sync => "sync",
            Self::SyncThree => "sync-three",
            Self::Failover => "failover",
        }
    }
}

/// How the daemon and the native subscription reach their servers; the same for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Loopback TCP with a password.
    Tcp,
    /// Unix socket.
    Unix,
}

/// How the daemon commits at its PostgreSQL replicas: the durability class of our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CommitClass {
    /// Commits become durable a little later, as PostgreSQL's subscriptions have it by default.
    Asynchronous,
    /// Every commit waits for the replica's disk.
    Durable,
}

impl CommitClass {
    /// The word in the daemon's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asynchronous => "asynchronous",
            Self::Durable => "durable",
        }
    }
}

/// Measures repl-daemon beside PostgreSQL's native logical replication: same machine, same server
/// settings, alternating. Result on standard output, progress on standard error.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Options {
    /// What to measure; everything when none is named. Memory is reported for whatever runs.
    #[arg(value_enum)]
    pub scenarios: Vec<Scenario>,
    /// How often each side is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
    /// A tenth of the volume: to see that it works; the numbers mean little.
    #[arg(long)]
    pub quick: bool,
    /// How both sides reach the servers.
    #[arg(long, value_enum, default_value = "tcp")]
    pub transport: Transport,
    /// How the daemon commits at its PostgreSQL replicas; as its configuration has it by default when
    /// left out.
    #[arg(long, value_enum, value_name = "CLASS")]
    pub commit: Option<CommitClass>,
    /// Leave the native side out.
    #[arg(long)]
    pub ours_only: bool,
    /// Also write the full result with the facts of this machine, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Keep the ratios as what later runs are compared with.
    #[arg(long)]
    pub save_baseline: bool,
    /// Compare the ratios with the kept ones; exit 1 when one is more than 15 % worse.
    #[arg(long)]
    pub check: bool,
    /// Where the kept ratios are.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "scripts/bench-baseline.json"
    )]
    pub baseline: PathBuf,
}

impl Options {
    /// Whether `scenario` is to run.
    pub fn wants(&self, scenario: Scenario) -> bool {
        self.scenarios.is_empty() || self.scenarios.contains(&scenario)
    }

    /// A full-size amount, or its tenth with `--quick`.
    pub fn volume(&self, full: u64) -> u64 {
        if self.quick { full / 10 } else { full }
    }
}
