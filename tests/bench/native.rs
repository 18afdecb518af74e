//! The native side: a publication, and a subscription with its own slot.

use std::time::Duration;

use anyhow::Result;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::wait::wait_until;

use crate::cluster::Cluster;
use crate::side::Side;

/// The publication, made once before the first subscription.
const PUBLICATION: &str = "bench_native";

/// How the apply worker commits: `synchronous_commit` of the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// PostgreSQL's default for subscriptions: commits are flushed later.
    Off,
    /// Each commit is flushed before the next transaction.
    On,
}

/// A subscription.
pub struct Native<'a> {
    cluster: &'a Cluster,
    commit: Commit,
}

impl<'a> Native<'a> {
    /// Publishes `tables`.
    ///
    /// # Errors
    /// When the primary refuses.
    pub fn publish(cluster: &Cluster, tables: &[&str]) -> Result<()> {
        cluster.primary.execute(&format!(
            "CREATE PUBLICATION {PUBLICATION} FOR TABLE {}",
            tables.join(", ")
        ))
    }

    /// Subscribes and waits until the initial copy is done. The durable variant lives in a database
    /// of its own, made as a copy of the still empty other one: it must be attached first.
    ///
    /// # Errors
    /// When a statement fails or the copy does not end.
    pub fn attach(cluster: &'a Cluster, commit: Commit) -> Result<Self> {
        let native = Self { cluster, commit };
        if commit == Commit::On {
            cluster.native.psql(
                "postgres",
                Role::Superuser,
                &format!("CREATE DATABASE {} TEMPLATE {DATABASE}", native.database()),
            )?;
        }
        native.execute(&format!(
            "CREATE SUBSCRIPTION {} CONNECTION '{}' PUBLICATION {PUBLICATION}
             WITH (synchronous_commit = {})",
            native.subscription(),
            cluster.conninfo(),
            native.level(),
        ))?;
        wait_until("the native initial copy", Duration::from_secs(300), || {
            let states =
                native.query("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")?;
            Ok(states == "t")
        })?;
        Ok(native)
    }

    /// Ends the subscription, with its slot.
    ///
    /// # Errors
    /// When a server refuses.
    pub fn detach(self) -> Result<()> {
        self.execute(&format!("DROP SUBSCRIPTION {}", self.subscription()))
    }

    fn database(&self) -> &'static str {
        match self.commit {
            Commit::Off => DATABASE,
            Commit::On => "durable",
        }
    }

    fn level(&self) -> &'static str {
        match self.commit {
            Commit::Off => "off",
            Commit::On => "on",
        }
    }

    fn subscription(&self) -> String {
        format!("bench_{}", self.level())
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    fn query(&self, sql: &str) -> Result<String> {
        let server = &self.cluster.native;
        server.psql(self.database(), Role::Superuser, sql)
    }
}

impl Side for Native<'_> {
    fn name(&self) -> &str {
        match self.commit {
            Commit::Off => "native (asynchronous commit)",
            Commit::On => "native (durable commit)",
        }
    }

    fn replicas(&self) -> Vec<(&PgServer, &str)> {
        vec![(&self.cluster.native, self.database())]
    }

    fn start(&mut self) -> Result<()> {
        self.execute(&format!(
            "ALTER SUBSCRIPTION {} ENABLE",
            self.subscription()
        ))
    }

    fn stop(&mut self) -> Result<()> {
        self.execute(&format!(
            "ALTER SUBSCRIPTION {} DISABLE",
            self.subscription()
        ))?;
        let slot = self.subscription();
        wait_until("the subscription to stop", Duration::from_secs(60), || {
            let active = self.cluster.primary.query_i64(&format!(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            ))?;
            Ok(active == 0)
        })
    }

    fn captured(&self, _end: &str) -> Option<bool> {
        None
    }
}
