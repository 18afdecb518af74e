//! A primary file, two replica files and the daemon between them.

use std::time::Duration;

use anyhow::Result;
use repl_api::Membership;
use repl_tests::content;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

/// Bound of every wait that is expected to succeed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running group; the daemon is dropped first.
pub struct Group {
    pub daemon: Daemon,
    pub primary: SqliteDb,
    pub replicas: Vec<SqliteDb>,
    _scratch: Scratch,
}

impl Group {
    /// Fills the primary by `seed` and starts the daemon.
    pub fn start(seed: impl FnOnce(&SqliteDb) -> Result<()>) -> Result<Group> {
        Group::configured(seed, |config| config)
    }

    /// The same with a changed configuration.
    pub fn configured(
        seed: impl FnOnce(&SqliteDb) -> Result<()>,
        change: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Group> {
        let scratch = Scratch::new()?;
        let primary = SqliteDb::create(&scratch.join("primary.db"))?;
        seed(&primary)?;
        let replicas: Vec<SqliteDb> = (1..=2)
            .map(|n| SqliteDb::at(&scratch.join(&format!("replica-{n}.db"))))
            .collect();
        let mut config =
            DaemonConfig::new("g", &scratch.join("log")).primary("main", &primary.url());
        for (number, replica) in replicas.iter().enumerate() {
            config = config.replica(&format!("replica-{}", number + 1), &replica.url());
        }
        let mut daemon = Daemon::new(change(config))?;
        daemon.start()?;
        Ok(Group {
            daemon,
            primary,
            replicas,
            _scratch: scratch,
        })
    }

    /// Waits until what is committed now is applied everywhere, then compares everything.
    pub fn equal(&self) -> Result<()> {
        for number in 1..=self.replicas.len() {
            self.daemon.wait_replica(
                &format!("replica-{number}"),
                "to stream",
                PATIENCE,
                |replica| replica.membership == Membership::Streaming,
            )?;
        }
        for replica in &self.replicas {
            let primary = content::sqlite(&self.primary);
            content::wait_equal(&primary, &content::sqlite(replica), PATIENCE)?;
            content::assert_all_equal(&primary, &content::sqlite(replica))?;
        }
        Ok(())
    }
}
