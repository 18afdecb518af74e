//! The servers of one scenario: a primary and one server per side, all with the same settings.

use std::thread;

use anyhow::{Result, ensure};
use repl_tests::content::{self, assert_equal, same_names};
use repl_tests::pg::{DATABASE, PgServer, Role};

use crate::options::{CommitClass, Options, Transport};
use crate::report::Report;

/// Settings that differ from PostgreSQL's defaults (and from the tests', which do not fsync).
/// Nothing happens in the background that one side could suffer from more than the other: the
/// checkpoints are ours, before each measurement.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "512MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    // A subscription that is switched on starts at once; by default up to 5 s later.
    ("wal_retrieve_retry_interval", "100ms"),
];

/// Settings that are reported, defaults included.
const REPORTED: &[&str] = &[
    "shared_buffers",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "logical_decoding_work_mem",
    "wal_retrieve_retry_interval",
];

/// Each side's marker: the last row it must hold to have caught up.
pub const MARKER: &str = "bench_marker";

/// The servers. Each side has its own, so that no side pays for what another left behind.
pub struct Cluster {
    /// Where the load is written.
    pub primary: PgServer,
    /// The daemon's replicas.
    pub ours: PgServer,
    /// The native subscribers.
    pub native: PgServer,
    /// How our side commits, unless by the configuration's default.
    pub commit: Option<CommitClass>,
    transport: Transport,
}

impl Cluster {
    /// Starts the servers and adds their settings to the report.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or a server does not come up.
    pub fn start(options: &Options, report: &mut Report) -> Result<Self> {
        let start = |name| {
            SETTINGS
                .iter()
                .fold(
                    PgServer::builder(name).durable(true),
                    |builder, (name, value)| builder.setting(name, value),
                )
                .start()
        };
        let cluster = Self {
            primary: start("primary")?,
            ours: start("ours")?,
            native: start("native")?,
            commit: options.commit,
            transport: options.transport,
        };
        for name in REPORTED {
            let [value, ours, native] = [&cluster.primary, &cluster.ours, &cluster.native]
                .map(|server| server.query(&format!("SHOW {name}")));
            let value = value?;
            ensure!(value == ours? && value == native?, "{name} differs");
            report.setting(name, &value);
        }
        Ok(cluster)
    }

    /// All servers.
    pub fn servers(&self) -> [&PgServer; 3] {
        [&self.primary, &self.ours, &self.native]
    }

    /// Runs a script in the database `app` of every server: tables are the same everywhere,
    /// whoever fills them.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn execute_everywhere(&self, sql: &str) -> Result<()> {
        self.servers()
            .iter()
            .try_for_each(|server| server.execute(sql))
    }

    /// Makes the marker table everywhere.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn create_marker(&self) -> Result<()> {
        self.execute_everywhere(&format!("CREATE TABLE {MARKER} (id bigint PRIMARY KEY)"))
    }

    /// Commits the next marker on the primary; returns it and the end of the WAL behind it.
    ///
    /// # Errors
    /// When the primary fails.
    pub fn set_marker(&self) -> Result<(i64, String)> {
        let id = self.primary.query_i64(&format!(
            "INSERT INTO {MARKER} SELECT coalesce(max(id), 0) + 1 FROM {MARKER} RETURNING id"
        ))?;
        let end = self.primary.query("SELECT pg_current_wal_insert_lsn()")?;
        Ok((id, end))
    }

    /// Writes out what the servers hold in memory, so that none does it during a measurement.
    ///
    /// # Errors
    /// When a server fails.
    pub fn settle(&self) -> Result<()> {
        thread::scope(|scope| {
            let all = self
                .servers()
                .map(|server| scope.spawn(|| server.execute("CHECKPOINT")));
            all.into_iter().try_for_each(|one| match one.join() {
                Ok(result) => result,
                Err(_) => anyhow::bail!("a checkpoint's thread panicked"),
            })
        })
    }

    /// The URL the daemon uses for a database of one of the servers.
    pub fn url(&self, server: &PgServer, database: &str) -> String {
        match self.transport {
            Transport::Tcp => server.url(database, Role::Superuser),
            Transport::Unix => format!(
                "postgresql://postgres@:{}/{database}?host={}",
                server.port(),
                server.socket_dir().display()
            ),
        }
    }

    /// The connection string a subscription uses for the primary.
    pub fn conninfo(&self) -> String {
        let host = match self.transport {
            Transport::Tcp => "127.0.0.1".to_owned(),
            Transport::Unix => self.primary.socket_dir().display().to_string(),
        };
        format!(
            "host={host} port={} user=postgres password={} dbname={DATABASE}",
            self.primary.port(),
            Role::Superuser.password()
        )
    }

    /// Fails unless the replica holds what the primary holds, in every one of `tables`.
    ///
    /// # Errors
    /// The differences.
    pub fn verify(&self, replica: &PgServer, database: &str, tables: &[&str]) -> Result<()> {
        let qualified: Vec<String> = tables.iter().map(|name| format!("public.{name}")).collect();
        let names: Vec<&str> = qualified.iter().map(String::as_str).collect();
        assert_equal(
            &content::pg(&self.primary, DATABASE),
            &content::pg(replica, database),
            &same_names(&names),
        )
    }
}
