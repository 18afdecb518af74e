//! A former primary that was replaced without being asked: what did it commit that the log never saw?
//!
//! Its own slot still stands where the daemon last acknowledged. What it would deliver from there on
//! is looked at without moving it, so that it can be read again.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use repl_core::deposed::{Deposed, Found};
use repl_core::schema::{TableName, quote_identifier};
use serde_json::{Map, Value};
use sqlx::Row;

use super::PgRole;
use crate::postgres::admin::Admin;
use crate::postgres::catalog_error::from_sqlx;
use crate::postgres::images;
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput::{self, Field, Message, OldTuple, Relation, Tuple};
use crate::seam::{ConnectorError, Result, Stray, StrayKey, StrayOp, StraySink, stray_key};

/// Whether a failed attempt to connect shows a server at work: it refuses us, and lives.
pub(super) fn is_answer(error: &ConnectorError) -> bool {
    // 57P01 to 57P03: it is going down or coming up.
    let code = error.code.as_deref();
    code.is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
}

/// A table as the slot announces it.
struct Announced {
    name: TableName,
    /// Name, and whether it is of the replica identity.
    columns: Vec<(String, bool)>,
}

/// Passes on what the slot delivers beyond a position.
struct Reading<'a> {
    after: Lsn,
    sink: &'a mut dyn StraySink,
    tables: HashMap<u32, Announced>,
    /// Number, commit time and position of the transaction that is delivered, if it is beyond.
    open: Option<(u32, i64, Lsn)>,
    transactions: u64,
    changes: u64,
    /// Changes of the open transaction.
    pending: u64,
}

impl Reading<'_> {
    fn take(&mut self, message: Message<'_>) -> Result<()> {
        match message {
            Message::Relation(relation) => {
                self.tables.insert(relation.oid, announced(&relation));
            }
            Message::Begin {
                commit,
                time_us,
                xid,
            } => {
                // What the log holds ends at or before its position, so it begins to commit before it.
                self.open = (commit >= self.after).then_some((xid, time_us, commit));
                self.pending = 0;
            }
            Message::Insert { relation, new } => {
                self.change(relation, StrayOp::Insert, None, Some(new))?;
            }
            Message::Update { relation, old, new } => {
                self.change(relation, StrayOp::Update, old, Some(new))?;
            }
            Message::Delete { relation, old } => {
                self.change(relation, StrayOp::Delete, Some(old), None)?;
            }
            Message::Truncate { relations, .. } => {
                for relation in relations {
                    self.change(relation, StrayOp::Truncate, None, None)?;
                }
            }
            Message::Commit { .. } => {
                self.transactions += u64::from(self.pending > 0);
                self.changes += self.pending;
                self.open = None;
                self.pending = 0;
            }
            Message::Origin(_) | Message::Logical { .. } | Message::Type => {}
        }
        Ok(())
    }

    fn change(
        &mut self,
        relation: u32,
        op: StrayOp,
        old: Option<OldTuple<'_>>,
        new: Option<Tuple<'_>>,
    ) -> Result<()> {
        let (Some((xid, committed_us, at)), Some(table)) = (self.open, self.tables.get(&relation))
        else {
            return Ok(());
        };
        self.pending += 1;
        let old = old.map(|old| match old {
            OldTuple::Key(row) => (row, true),
            OldTuple::Full(row) => (row, false),
        });
        let images = old.map(|(row, _)| row).into_iter().chain(new);
        let keys = images.filter_map(|row| table.key(row)).collect();
        self.sink.stray(Stray {
            transaction: u64::from(xid),
            committed_us,
            position: at.position(),
            table: table.name.clone(),
            op,
            old: old.map(|(row, key_only)| table.row(row, key_only)),
            new: new.map(|row| table.row(row, false)),
            keys,
        })
    }
}

impl Announced {
    /// The values by their columns' names; what was not sent is left out.
    fn row(&self, row: Tuple<'_>, key_only: bool) -> Map<String, Value> {
        let fields = self.columns.iter().zip(row.fields());
        let wanted = fields.filter(|((_, key), _)| *key || !key_only);
        let value = |((name, _), field): (&(String, bool), Field<'_>)| {
            let value = match field {
                Field::Null => Value::Null,
                Field::Unchanged => return None,
                Field::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
            };
            Some((name.clone(), value))
        };
        wanted.filter_map(value).collect()
    }

    /// The key, exactly.
    fn key(&self, row: Tuple<'_>) -> Option<StrayKey> {
        let fields = self.columns.iter().zip(row.fields());
        let key = fields.filter(|((_, key), _)| *key);
        stray_key(key.map(|((name, _), field)| (name.as_str(), images::value(field))))
    }
}

fn announced(relation: &Relation<'_>) -> Announced {
    Announced {
        name: TableName::new(relation.schema, relation.name),
        columns: relation
            .columns
            .iter()
            .map(|column| (column.name.to_owned(), column.key))
            .collect(),
    }
}

impl PgRole {
    /// What this server, which refuses writes, committed beyond the log's end.
    pub(super) async fn look_beyond(
        &self,
        admin: &mut Admin,
        deposed: &Deposed,
        sink: &mut dyn StraySink,
    ) -> Result<Found> {
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
        let (transactions, rows) = self.read_beyond(admin, after, sink).await?;
        Ok(match transactions {
            0 => Found::Nothing,
            transactions => Found::Strays { transactions, rows },
        })
    }

    /// Passes on what was committed behind `after`; how many transactions and changes.
    async fn read_beyond(
        &self,
        admin: &mut Admin,
        after: Lsn,
        sink: &mut dyn StraySink,
    ) -> Result<(u64, u64)> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "reading what it committed last");
        // Values have the form that the stream gives them, since every session's settings do.
        let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
                   'proto_version', '1', 'publication_names', $2)";
        let options = &self.capture.options;
        let mut messages = sqlx::query(sql)
            .bind(&options.slot)
            .bind(quote_identifier(&options.publication))
            .fetch(&mut admin.connection);
        let mut reading = Reading {
            after,
            sink,
            tables: HashMap::new(),
            open: None,
            transactions: 0,
            changes: 0,
            pending: 0,
        };
        while let Some(row) = messages.try_next().await.map_err(doing)? {
            let data: Vec<u8> = row.try_get("data").map_err(doing)?;
            reading.take(pgoutput::message(&data)?)?;
        }
        Ok((reading.transactions, reading.changes))
    }
}
