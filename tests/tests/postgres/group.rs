//! A primary, its replicas and the daemon between them, as most cases need them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use repl_api::{ErrorInfo, Membership, ReplicaStatus, TableState, TableStatus};
use repl_tests::content;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;

/// Bound of every wait that is expected to succeed; a loaded machine may need it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running group. The fields are dropped in this order: the daemon before the servers.
pub struct Group {
    pub daemon: Daemon,
    pub primary: PgServer,
    pub replicas: Vec<PgServer>,
    // Holds the log.
    pub _scratch: Scratch,
}

impl Group {
    /// Starts servers, fills the primary by `seed` and starts the daemon with `replicas` replicas
    /// named replica-1, replica-2, …
    pub fn start(replicas: usize, seed: impl FnOnce(&PgServer) -> Result<()>) -> Result<Self> {
        Self::configured(replicas, seed, |config| config)
    }

    /// [`Group::start`] with a changed configuration; `change` sees it with all nodes in it.
    pub fn configured(
        replicas: usize,
        seed: impl FnOnce(&PgServer) -> Result<()>,
        change: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Self> {
        let mut group = Self::prepared(replicas, seed, change)?;
        group.daemon.start()?;
        Ok(group)
    }

    /// [`Group::configured`] with the daemon not started yet.
    pub fn prepared(
        replicas: usize,
        seed: impl FnOnce(&PgServer) -> Result<()>,
        change: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let primary = PgServer::builder("primary").start()?;
        let mut servers = Vec::new();
        let mut config = DaemonConfig::new("g", &scratch.join("log"))
            .primary("main", &primary.url(DATABASE, Role::Superuser));
        for number in 1..=replicas {
            let name = format!("replica-{number}");
            let server = PgServer::builder(&name).start()?;
            config = config.replica(&name, &server.url(DATABASE, Role::Superuser));
            servers.push(server);
        }
        seed(&primary)?;
        let daemon = Daemon::new(change(config))?;
        Ok(Self {
            daemon,
            primary,
            replicas: servers,
            _scratch: scratch,
        })
    }

    /// The first replica's server.
    pub fn replica(&self) -> &PgServer {
        &self.replicas[0]
    }

    /// Waits until every enabled replica has all that is committed now and streams.
    pub fn caught_up(&self) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, PATIENCE)
    }

    /// Waits until everything arrived, then compares all tables on all replicas.
    pub fn equal(&self) -> Result<()> {
        self.caught_up()?;
        let primary = content::pg(&self.primary, DATABASE);
        for server in &self.replicas {
            content::assert_all_equal(&primary, &content::pg(server, DATABASE))?;
        }
        Ok(())
    }

    /// Waits until replica `number` (from 1) is paused by an error, and returns the error.
    pub fn paused_by_error(&self, number: usize) -> Result<ErrorInfo> {
        let name = format!("replica-{number}");
        let status =
            self.daemon
                .wait_replica(&name, "paused by an error", PATIENCE, |replica| {
                    replica.membership == Membership::Paused && replica.last_error.is_some()
                })?;
        status.last_error.context("asked for above")
    }

    /// The present state of replica `number` (from 1).
    pub fn state(&self, number: usize) -> Result<ReplicaStatus> {
        let status = self.daemon.status()?;
        let name = format!("replica-{number}");
        status
            .replica(&name)
            .cloned()
            .with_context(|| format!("{name} is not in the status"))
    }

    /// Waits until the status shows `table` (schema.name) in `state`.
    pub fn table_becomes(&self, table: &str, state: TableState) -> Result<TableStatus> {
        self.daemon
            .wait_status(&format!("{table} to be {state}"), PATIENCE, |status| {
                status
                    .tables
                    .iter()
                    .find(|one| one.source == table && one.state == state)
                    .cloned()
            })
    }

    /// Waits until capture is refused, and returns why.
    pub fn refusal(&self) -> Result<ErrorInfo> {
        self.daemon
            .wait_status("capture to be refused", PATIENCE, |status| {
                status.primary.refusal.clone()
            })
    }

    /// Waits until the primary streams, which ends a refusal.
    pub fn streams(&self) -> Result<()> {
        self.daemon
            .wait_status("the primary to stream", PATIENCE, |status| {
                let streams = status.primary.state == repl_api::PrimaryState::Streaming;
                (streams && status.primary.refusal.is_none()).then_some(())
            })
    }

    /// Runs replctl, which must succeed, and returns what it printed.
    pub fn replctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.daemon.replctl(arguments)?;
        ensure!(
            output.status.success(),
            "replctl {arguments:?} failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Runs SQL on `server` again and again until it gives `expected`.
pub fn wait_query(server: &PgServer, sql: &str, expected: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let found = server.query(sql);
        if matches!(&found, Ok(text) if text == expected) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("{}: {sql} gave {found:?}, not {expected:?}", server.name());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Fails unless `text` contains `part`.
pub fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in: {text}");
}
