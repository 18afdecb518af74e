//! A former primary that was replaced without being asked: what did it commit that the log never saw?
//!
//! Its own slot still stands where the daemon last acknowledged. What it would deliver from there on
//! is looked at without moving it, so that it can be read again.

use futures_util::TryStreamExt;
use repl_core::deposed::{Deposed, Found};
use repl_core::schema::quote_identifier;
use sqlx::Row;

use super::PgRole;
use crate::postgres::admin::Admin;
use crate::postgres::catalog_error::from_sqlx;
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput::{self, Message};
use crate::seam::{ConnectorError, Result};

/// Whether a failed attempt to connect shows a server at work: it refuses us, and lives.
pub(super) fn is_answer(error: &ConnectorError) -> bool {
    // 57P01 to 57P03: it is going down or coming up.
    let code = error.code.as_deref();
    code.is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
}

/// Counts what the slot delivers beyond a position.
#[derive(Default)]
struct Count {
    transactions: u64,
    rows: u64,
    /// Rows of the transaction that is being delivered.
    pending: u64,
}

impl Count {
    /// Takes the next message; what ends at or before `after` is known.
    fn take(&mut self, message: &Message<'_>, after: Lsn) {
        match message {
            Message::Begin { .. } => self.pending = 0,
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. } => self.pending += 1,
            Message::Commit { end } if *end > after && self.pending > 0 => {
                self.transactions += 1;
                self.rows += self.pending;
            }
            _ => {}
        }
    }
}

impl PgRole {
    /// What this server, which refuses writes, committed beyond the log's end.
    pub(super) async fn look_beyond(&self, admin: &mut Admin, deposed: &Deposed) -> Result<Found> {
        let unknown = |why: String| Ok(Found::Unknown { why });
        let Some(after) = Lsn::from_position(&deposed.end) else {
            return unknown(format!("{} is no position of this engine", deposed.end));
        };
        let server = admin.position().await?;
        if (&server.system, &server.timeline) != (&deposed.source.system, &deposed.source.timeline)
        {
            return unknown(
                "it is another server, or on another timeline, than the primary was".into(),
            );
        }
        if server.flushed < after {
            return unknown(format!(
                "its WAL ends at {}, before the log's last position {after}: it lost what it had",
                server.flushed
            ));
        }
        match admin.slot().await? {
            None => return unknown("its replication slot is gone".into()),
            Some(slot) if slot.wal_status == "lost" => {
                return unknown("its replication slot has lost the WAL it needs".into());
            }
            Some(slot) if slot.confirmed > after => {
                return unknown("its replication slot was moved past the log's end".into());
            }
            Some(_) => {}
        }
        let count = self.count_beyond(admin, after).await?;
        Ok(match count.transactions {
            0 => Found::Nothing,
            transactions => Found::Strays {
                transactions,
                rows: count.rows,
            },
        })
    }

    async fn count_beyond(&self, admin: &mut Admin, after: Lsn) -> Result<Count> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "reading what it committed last");
        let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
                   'proto_version', '1', 'publication_names', $2)";
        let options = &self.capture.options;
        let mut messages = sqlx::query(sql)
            .bind(&options.slot)
            .bind(quote_identifier(&options.publication))
            .fetch(&mut admin.connection);
        let mut count = Count::default();
        while let Some(row) = messages.try_next().await.map_err(doing)? {
            let data: Vec<u8> = row.try_get("data").map_err(doing)?;
            count.take(&pgoutput::message(&data)?, after);
        }
        Ok(count)
    }
}
