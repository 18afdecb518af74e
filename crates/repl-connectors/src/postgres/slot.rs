//! Making the slot, which waits for every transaction that is running, for as long as they take.

use std::time::Duration;

use repl_core::ErrorKind;
use sqlx::{Executor, Row};
use tokio::time::Instant;

use super::admin::{Admin, Slot};
use super::capture::PgCapture;
use super::catalog_error::from_sqlx;
use super::lsn::Lsn;
use super::room::more_slots;
use crate::seam::{CaptureBoard, CapturePort, ConnectorError, Result};

/// How long the slot is waited for without a word, and between two looks at what it waits for.
const LOOK: Duration = Duration::from_secs(1);

/// What it waits for is logged this often.
const TELL: Duration = Duration::from_secs(30);

/// How long a slot that a former session of ours was making may still be there.
const ABANDONED: Duration = Duration::from_secs(10);

/// A transaction that a slot waits for.
#[derive(Debug, PartialEq, Eq)]
struct Awaited {
    /// The session, or the name of a prepared transaction.
    who: String,
    role: String,
    database: String,
    /// How long it has been open; none where the role may not see it.
    seconds: Option<i64>,
    /// Number of transactions that are open.
    of: i64,
}

impl Awaited {
    fn text(&self) -> String {
        let open = self
            .seconds
            .map(|seconds| format!(", open for {seconds} s"));
        format!(
            "the replication slot is being made, which waits for the end of every transaction that \
             writes; the oldest of {}: {} of role {} in database {}{}",
            self.of,
            self.who,
            self.role,
            self.database,
            open.unwrap_or_default()
        )
    }
}

impl Admin {
    /// Makes the slot. Waits until every transaction now running has ended, whatever timeouts are set for
    /// the role or the database; a statement timeout of the session still counts. The server gives up
    /// when the connection is closed.
    ///
    /// # Errors
    /// When the server refuses, e.g. for lack of free slots.
    pub async fn create_slot(&mut self) -> Result<Slot> {
        let prepare = "SELECT set_config(name, CASE name \
             WHEN 'client_connection_check_interval' THEN '1s' ELSE '0' END, false) FROM pg_settings \
             WHERE name IN ('lock_timeout', 'transaction_timeout', 'client_connection_check_interval')";
        let prepared = self.connection.execute(prepare).await;
        prepared.map_err(|e| from_sqlx(&e, "preparing to make the replication slot"))?;
        let made = sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')")
            .bind(&self.slot)
            .execute(&mut self.connection)
            .await;
        if let Err(e) = made {
            let mut error = from_sqlx(&e, "creating the replication slot");
            if error.code.as_deref() == Some("53400") {
                // It will not pass by itself.
                error.kind = ErrorKind::Configuration;
                error.advice = more_slots(&mut self.connection).await;
            }
            return Err(error);
        }
        let limited = self.connection.execute("SET lock_timeout = '5s'").await;
        limited.map_err(|e| from_sqlx(&e, "making the replication slot"))?;
        self.slot().await?.ok_or_else(|| {
            ConnectorError::new(
                ErrorKind::Transient,
                "the replication slot vanished after creation",
            )
        })
    }

    /// The oldest transaction that writes, of whatever database, prepared ones included.
    async fn oldest_writer(&mut self) -> Result<Option<Awaited>> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "looking for the oldest transaction");
        let row = sqlx::query(
            "SELECT CASE WHEN l.pid IS NULL THEN 'prepared transaction ' || quote_literal(p.gid)
                         ELSE 'session ' || l.pid END AS who,
                    coalesce(p.owner, a.usename, '?')::text AS role,
                    coalesce(p.database, a.datname, '?')::text AS database,
                    extract(epoch FROM clock_timestamp() - coalesce(p.prepared, a.xact_start))::int8
                        AS seconds,
                    count(*) OVER () AS transactions
               FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
               LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
              WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
                AND (l.pid IS NOT NULL OR p.gid IS NOT NULL)
              ORDER BY age(l.transactionid) DESC LIMIT 1",
        )
        .fetch_optional(&mut self.connection)
        .await
        .map_err(doing)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Awaited {
            who: row.try_get("who").map_err(doing)?,
            role: row.try_get("role").map_err(doing)?,
            database: row.try_get("database").map_err(doing)?,
            seconds: row.try_get("seconds").map_err(doing)?,
            of: row.try_get("transactions").map_err(doing)?,
        }))
    }
}

impl PgCapture {
    /// Makes the slot, which waits for all running transactions. One whose commit waits for us is
    /// among them, and nothing can be acknowledged before there is a slot.
    pub(super) async fn create_slot(&self, admin: &mut Admin) -> Result<Slot> {
        let standby = &self.options.standby;
        if admin.commits_wait_for(standby).await? {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "the replication slot cannot be made while commits wait for the daemon \
                     (synchronous_standby_names holds {standby}): each would wait for the other"
                ),
            )
            .advice(
                "give up the guarantee for now with: replctl mode async  and return to it once \
                 the replicas have been copied",
            ));
        }
        admin.create_slot().await
    }

    /// The same, until the daemon stops, and showing what is waited for.
    pub(super) async fn make_slot(
        &self,
        admin: &mut Admin,
        port: &mut CapturePort,
    ) -> Result<Slot> {
        let board = port.board.clone();
        let made = tokio::select! {
            made = self.create_slot(admin) => made,
            () = self.show_awaited(&board) => Err(stopping()),
            _ = port.shutdown.wait_for(|stop| *stop) => Err(stopping()),
        };
        board.update(|status| status.waits.clear());
        made
    }

    /// Goes on for as long as it is awaited.
    async fn show_awaited(&self, board: &CaptureBoard) {
        let mut told: Option<Instant> = None;
        let mut observer: Option<Admin> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            // What cannot be told now is told later.
            if observer.is_none() {
                observer = self.admin().await.ok();
            }
            let Some(admin) = &mut observer else {
                continue;
            };
            let awaited = match admin.oldest_writer().await {
                Ok(awaited) => awaited.map(|one| one.text()).unwrap_or_default(),
                Err(_) => {
                    observer = None;
                    continue;
                }
            };
            if !awaited.is_empty() && told.is_none_or(|at| at.elapsed() >= TELL) {
                tracing::info!("{awaited}");
                told = Some(Instant::now());
            }
            board.update(|status| status.waits = awaited);
        }
    }

    /// The slot that is there. One that a session of ours began to make before it was cut off is gone
    /// soon: it has no position yet.
    pub(super) async fn made_slot(&self, admin: &mut Admin) -> Result<Option<Slot>> {
        let until = Instant::now() + ABANDONED;
        loop {
            match admin.slot().await? {
                Some(slot) if slot.confirmed == Lsn(0) && slot.active_pid.is_some() => {
                    if Instant::now() >= until {
                        return Err(ConnectorError::new(
                            ErrorKind::Transient,
                            format!(
                                "replication slot {} is being made by another session (pid {})",
                                self.options.slot,
                                slot.active_pid.unwrap_or_default()
                            ),
                        ));
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                slot => return Ok(slot),
            }
        }
    }
}

fn stopping() -> ConnectorError {
    ConnectorError::new(ErrorKind::Transient, "the daemon stops")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_named() {
        let mut awaited = Awaited {
            who: "session 12".into(),
            role: "app".into(),
            database: "other".into(),
            seconds: Some(38),
            of: 3,
        };
        let text = awaited.text();
        assert!(
            text.ends_with(
                "the oldest of 3: session 12 of role app in database other, open for 38 s"
            )
        );
        awaited.seconds = None;
        assert!(awaited.text().ends_with("in database other"));
    }
}
