//! Our side: the daemon's release build with its default configuration.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer};
use repl_tests::scratch::Scratch;

use crate::cluster::Cluster;
use crate::options::CommitClass;
use crate::side::Side;

/// The default configuration: the test harness' own is quicker to look and to retry.
pub fn with_defaults(config: DaemonConfig) -> DaemonConfig {
    config
        .set("retry", "initial", "200ms")
        .set("retry", "max", "30s")
        .set("capture", "heartbeat_interval", "10s")
        .set("capture", "table_refresh_interval", "5s")
}

/// A daemon that is started and stopped, and what it costs.
pub struct Service {
    daemon: Daemon,
    // The log lives as long as the group.
    _log: Scratch,
    last_cpu: Duration,
    peak_kib: Cell<u64>,
}

impl Service {
    /// Starts a daemon for the nodes that `nodes` adds, and waits until every replica follows.
    ///
    /// # Errors
    /// When it does not start or a replica does not get to follow.
    pub fn launch(group: &str, nodes: impl FnOnce(DaemonConfig) -> DaemonConfig) -> Result<Self> {
        let log = Scratch::new()?;
        let config = with_defaults(DaemonConfig::new(group, &log.join("log")));
        let mut daemon = Daemon::new(nodes(config))?;
        daemon.start()?;
        let service = Self {
            daemon,
            _log: log,
            last_cpu: Duration::ZERO,
            peak_kib: Cell::new(0),
        };
        service.wait_following()?;
        Ok(service)
    }

    /// The process and its API.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Starts the process without waiting for it.
    ///
    /// # Errors
    /// When it runs already.
    pub fn start(&mut self) -> Result<()> {
        self.daemon.spawn()
    }

    /// Stops the process in good order and keeps what it cost.
    ///
    /// # Errors
    /// When it fails to end well.
    pub fn stop(&mut self) -> Result<()> {
        let (_, peak_kib) = self.daemon.memory_kib()?;
        self.last_cpu = self.daemon.cpu_time()?;
        self.peak_kib.set(self.peak_kib.get().max(peak_kib));
        let status = self.daemon.terminate()?;
        ensure!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            self.daemon.log_tail(20)
        );
        if let Err(warnings) = self.daemon.check_log_now() {
            eprintln!("{warnings:#}");
        }
        Ok(())
    }

    /// Processor time of the last process, from its start to its stop.
    pub fn last_cpu(&self) -> Duration {
        self.last_cpu
    }

    /// Pauses a replica; what it is to apply waits in the log.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn pause(&self, replica: &str) -> Result<()> {
        self.daemon
            .call(|client| async move { client.pause(replica).await })?;
        Ok(())
    }

    /// Ends [`Service::pause`].
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn resume(&self, replica: &str) -> Result<()> {
        self.daemon
            .call(|client| async move { client.resume(replica).await })?;
        Ok(())
    }

    /// Largest resident memory over all its processes so far, MiB.
    pub fn peak_mib(&self) -> f64 {
        let now = self.daemon.memory_kib().map_or(0, |(_, peak)| peak);
        self.peak_kib.get().max(now) as f64 / 1024.0
    }

    /// Whether all up to `end`, an LSN, is durable in the log; none while it cannot be asked.
    pub fn captured(&self, end: &str) -> Option<bool> {
        let durable = self.daemon.status().ok()?.primary.durable_position?;
        Some(lsn(&durable)? >= lsn(end)?)
    }

    fn wait_following(&self) -> Result<()> {
        let what = "every replica to follow";
        let names = self.daemon.config().replica_names();
        self.daemon
            .wait_status(what, Duration::from_secs(300), |status| {
                let mut replicas = status.replicas.iter();
                (status.replicas.len() == names.len()
                    && replicas.all(|one| one.membership == Membership::Streaming))
                .then_some(())
            })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its warnings were shown; here they would only hide why a measurement failed.
        self.daemon.ignore_log();
    }
}

/// The daemon with PostgreSQL replicas on the cluster's server for our side.
pub struct Ours<'a> {
    cluster: &'a Cluster,
    databases: Vec<String>,
    service: Service,
}

impl<'a> Ours<'a> {
    /// Attaches one replica, in the database `app`.
    ///
    /// # Errors
    /// When it does not get to follow.
    pub fn attach(cluster: &'a Cluster) -> Result<Self> {
        Self::attach_many(cluster, "bench", &[DATABASE])
    }

    /// Attaches one replica per database, as the group `group`.
    ///
    /// # Errors
    /// When one does not get to follow.
    pub fn attach_many(cluster: &'a Cluster, group: &str, databases: &[&str]) -> Result<Self> {
        let urls: Vec<String> = databases
            .iter()
            .map(|database| cluster.url(&cluster.ours, database))
            .collect();
        Self::attach_urls(cluster, group, databases, &urls)
    }

    /// [`Ours::attach_many`] by URLs of the caller's, such as through a proxy.
    ///
    /// # Errors
    /// When one does not get to follow.
    pub fn attach_urls(
        cluster: &'a Cluster,
        group: &str,
        databases: &[&str],
        urls: &[String],
    ) -> Result<Self> {
        let service = Service::launch(group, |config| {
            let config = config.primary("main", &cluster.url(&cluster.primary, DATABASE));
            urls.iter()
                .enumerate()
                .fold(config, |config, (index, url)| {
                    config.replica(&format!("replica-{}", index + 1), url)
                })
        })
        .with_context(|| format!("attaching {databases:?}"))?;
        Ok(Self {
            cluster,
            databases: databases.iter().map(|&name| name.to_owned()).collect(),
            service,
        })
    }

    /// The daemon.
    pub fn service(&self) -> &Service {
        &self.service
    }
}

impl Side for Ours<'_> {
    fn name(&self) -> &str {
        match self.cluster.commit {
            Some(CommitClass::Asynchronous) => "ours (asynchronous commit)",
            Some(CommitClass::Durable) => "ours (durable commit)",
            None => "ours (default commit)",
        }
    }

    fn replicas(&self) -> Vec<(&PgServer, &str)> {
        self.databases
            .iter()
            .map(|database| (&self.cluster.ours, database.as_str()))
            .collect()
    }

    fn start(&mut self) -> Result<()> {
        self.service.start()
    }

    fn stop(&mut self) -> Result<()> {
        self.service.stop()
    }

    fn captured(&self, end: &str) -> Option<bool> {
        self.service.captured(end)
    }
}

/// An LSN's number, from PostgreSQL's notation.
fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let high = u64::from_str_radix(high, 16).ok()?;
    let low = u64::from_str_radix(low, 16).ok()?;
    Some(high << 32 | low)
}

#[cfg(test)]
mod tests {
    use super::lsn;

    #[test]
    fn positions_are_numbers() {
        assert_eq!(lsn("0/16B3748"), Some(0x016B_3748));
        assert_eq!(lsn("1/0"), Some(1 << 32));
        assert!(lsn("A/FFFFFFFF") > lsn("9/FFFFFFFF"));
        assert_eq!(lsn("nothing"), None);
    }
}
