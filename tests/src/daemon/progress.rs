//! Knowing that everything committed on the primary has arrived.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use repl_api::Membership;

use super::Daemon;
use crate::pg::PgServer;
use crate::wait::wait_until;

impl Daemon {
    /// Waits until every enabled replica has applied all that is committed on `primary` now.
    ///
    /// The primary's own view of the slot is the witness for the first half: once
    /// `confirmed_flush_lsn` has passed the present end of the WAL, all of it is in the event log.
    ///
    /// # Errors
    /// A timeout, with the last status; or a replica that has stopped and will not get there.
    pub fn wait_caught_up(&self, primary: &PgServer, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        let end = primary.query("SELECT pg_current_wal_insert_lsn()")?;
        let slot = self.config().slot_name();
        let probe = format!(
            "SELECT count(*) FROM pg_replication_slots
             WHERE slot_name = '{slot}' AND confirmed_flush_lsn >= '{end}'"
        );
        let what = format!("slot {slot} to confirm {end}");
        wait_until(&what, timeout, || Ok(primary.query_i64(&probe)? == 1)).with_context(|| {
            let status = self
                .status()
                .map(|status| serde_json::to_string_pretty(&status));
            format!(
                "status: {status:?}\nthe daemon's log ends:\n{}",
                self.log_tail(25)
            )
        })?;
        self.wait_drained(timeout.saturating_sub(started.elapsed()))
    }

    /// Waits until every enabled replica has applied what is durable in the log now.
    ///
    /// # Errors
    /// A timeout, with the last status; or a replica that has stopped and will not get there.
    pub fn wait_drained(&self, timeout: Duration) -> Result<()> {
        let target = self.status()?.log.durable_seq;
        let what = format!("all replicas to apply sequence {target}");
        let stopped = self.wait_status(&what, timeout, |status| {
            let enabled: Vec<_> = status
                .replicas
                .iter()
                .filter(|replica| replica.enabled)
                .collect();
            let helpless = [
                Membership::Paused,
                Membership::Parked,
                Membership::NeedsResync,
            ];
            if let Some(replica) = enabled
                .iter()
                .find(|one| helpless.contains(&one.membership))
            {
                return Some(Some(format!(
                    "{} is {} and does not follow: {:?}",
                    replica.name, replica.membership, replica.last_error
                )));
            }
            let follows = |membership| {
                matches!(
                    membership,
                    Membership::Streaming | Membership::Diverged | Membership::Filtered
                )
            };
            let done = |one: &&repl_api::ReplicaStatus| {
                follows(one.membership) && one.applied_seq >= target
            };
            enabled.iter().all(done).then_some(None)
        })?;
        match stopped {
            Some(reason) => bail!("{reason}"),
            None => Ok(()),
        }
    }
}
