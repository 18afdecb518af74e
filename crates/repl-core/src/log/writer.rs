//! Builds transactions for the log fragment by fragment, numbering them densely.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Appender, EventLog, LogError, LogOffset};
use crate::change::{Change, ChangeWriter, Changes};
use crate::codec::Malformed;
use crate::convert::back::Back;
use crate::position::{Seq, SourcePosition};
use crate::record::{Body, History, RecordKind, Succession, TxHeader, encode_fragment};
use crate::schema::{SchemaId, TableSchema};
use crate::telling::{Telling, Told};

/// Size at which an open transaction's changes are pushed as a fragment, bytes. A single change
/// larger than this makes a larger fragment.
const FRAGMENT_BYTES: usize = 256 * 1024;

/// The capture's handle on the log: whole transactions in, offsets out.
pub struct TxWriter {
    log: Arc<dyn EventLog>,
    appender: Box<dyn Appender>,
    open: Option<Open>,
    changes: Vec<u8>,
    payload: Vec<u8>,
    telling: Telling,
    /// How rows of a schema number get the form that the log knows them in.
    backs: HashMap<SchemaId, Back>,
    /// Up to here the open changes have it.
    told: usize,
}

struct Open {
    seq: Seq,
    /// Present until the first fragment was pushed.
    header: Option<TxHeader>,
}

impl TxWriter {
    /// Takes the log's writing side.
    ///
    /// # Errors
    /// When the log cannot hand it out.
    pub fn new(log: Arc<dyn EventLog>) -> Result<TxWriter, LogError> {
        let appender = log.appender()?;
        Ok(TxWriter {
            log,
            appender,
            open: None,
            changes: Vec::new(),
            payload: Vec::new(),
            telling: Telling::default(),
            backs: HashMap::new(),
            told: 0,
        })
    }

    /// Has what is written told as the log knows it: see [`crate::telling`].
    #[must_use]
    pub fn telling(mut self, telling: Telling) -> TxWriter {
        self.telling = telling;
        self
    }

    /// The log written to.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Starts a span of history.
    ///
    /// # Errors
    /// As [`Appender::push`].
    pub fn history(&mut self, mut history: History) -> Result<LogOffset, LogError> {
        // A break of history ends what joined the spans, but replicas keep their checkpoints where
        // they have them.
        if history.succession.is_none()
            && let Some(before) = self.log.bounds().history.and_then(|h| h.succession)
        {
            history.succession = Some(Succession {
                since: history.epoch,
                origin: before.origin,
                tables: Vec::new(),
                forced: false,
                home: before.home,
            });
        }
        self.push_body(&Body::History(history))
    }

    /// Records that the source has nothing for us up to `position`.
    ///
    /// # Errors
    /// As [`Appender::push`].
    pub fn mark(&mut self, position: &SourcePosition) -> Result<LogOffset, LogError> {
        self.push_body(&Body::Mark(position.clone()))
    }

    /// Records a schema version unless the newest of that table has the same shape; returns its
    /// number. `schema.id` is ignored and assigned here.
    ///
    /// # Errors
    /// As [`Appender::push`].
    pub fn schema(&mut self, schema: TableSchema) -> Result<SchemaId, LogError> {
        // A table that was made anew is another one, of the primary's own form.
        let known = self.telling.naming.known(&schema.table);
        let latest = self.log.latest_schema(&known);
        if latest.is_none_or(|latest| latest.incarnation != schema.incarnation) {
            return self.record(TableSchema {
                table: known,
                ..schema
            });
        }
        let Told { schema, back } = self.telling.tell(self.log.as_ref(), &schema);
        let id = self.record(schema)?;
        if let Some(back) = back {
            self.backs.insert(id, back);
        }
        Ok(id)
    }

    fn record(&mut self, mut schema: TableSchema) -> Result<SchemaId, LogError> {
        if let Some(latest) = self.log.latest_schema(&schema.table)
            && latest.same_shape(&schema)
        {
            return Ok(latest.id);
        }
        // Changes already buffered may refer to older versions only, so the order of the schema
        // record and the open fragment does not matter; numbers are never re-used.
        schema.id = self.log.next_schema_id();
        self.push_body(&Body::Schema(schema.clone()))?;
        Ok(schema.id)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`LogError::Misuse`] when one is open.
    pub fn begin(&mut self, header: TxHeader) -> Result<(), LogError> {
        if self.open.is_some() {
            return Err(LogError::Misuse("a transaction is already open"));
        }
        self.clear();
        self.open = Some(Open {
            seq: self.appender.last_seq().next(),
            header: Some(header),
        });
        Ok(())
    }

    /// True between [`TxWriter::begin`] and its end.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Where the next change of the open transaction is written; call [`TxWriter::changed`] after
    /// each.
    pub fn change(&mut self) -> ChangeWriter<'_> {
        ChangeWriter::new(&mut self.changes)
    }

    /// Passes a full fragment on to the log; cheap when there is none yet.
    ///
    /// # Errors
    /// As [`Appender::push`]; [`LogError::Misuse`] when no transaction is open.
    #[inline]
    pub fn changed(&mut self) -> Result<(), LogError> {
        if !self.backs.is_empty() {
            self.tell()?;
        }
        if self.changes.len() >= FRAGMENT_BYTES {
            self.push_fragment(None).map(drop)
        } else {
            Ok(())
        }
    }

    /// Ends the open transaction; `position` is the source position after it.
    ///
    /// # Errors
    /// As [`Appender::push`]; [`LogError::Misuse`] when no transaction is open.
    pub fn commit(&mut self, position: &SourcePosition) -> Result<(Seq, LogOffset), LogError> {
        let offset = self.push_fragment(Some(position))?;
        let seq = self.open.take().map(|open| open.seq).unwrap_or_default();
        Ok((seq, offset))
    }

    /// Forgets the open transaction, if any: its source connection is gone and will send it anew.
    ///
    /// # Errors
    /// When the log cannot cut it off.
    pub fn abandon(&mut self) -> Result<(), LogError> {
        self.clear();
        if self.open.take().is_some() {
            self.appender.abandon()?;
        }
        Ok(())
    }

    /// Bytes appended and not yet durable.
    pub fn pending_bytes(&self) -> u64 {
        self.appender.pending_bytes()
    }

    fn clear(&mut self) {
        self.changes.clear();
        self.told = 0;
    }

    /// Gives the changes written since the last call the form the log knows them in.
    fn tell(&mut self) -> Result<(), LogError> {
        let fresh = Bytes::copy_from_slice(&self.changes[self.told..]);
        let damaged = |error: Malformed| LogError::Damaged {
            place: "a captured change".to_owned(),
            what: error.to_string(),
        };
        let mut told = Vec::with_capacity(fresh.len());
        for change in Changes::new(fresh) {
            let mut change = change.map_err(damaged)?;
            let schema = match &change {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => Some(*schema),
                Change::Truncate { .. } | Change::Message { .. } => None,
            };
            if let Some(back) = schema.and_then(|schema| self.backs.get(&schema)) {
                change = back.change(change).map_err(damaged)?;
            }
            ChangeWriter::new(&mut told).change(&change);
        }
        self.changes.truncate(self.told);
        self.changes.append(&mut told);
        self.told = self.changes.len();
        Ok(())
    }

    fn push_fragment(&mut self, position: Option<&SourcePosition>) -> Result<LogOffset, LogError> {
        let open = self
            .open
            .as_mut()
            .ok_or(LogError::Misuse("no transaction is open"))?;
        self.payload.clear();
        encode_fragment(
            &mut self.payload,
            open.header.as_ref(),
            position,
            &self.changes,
        );
        let ends = position.is_some();
        let offset = self
            .appender
            .push(RecordKind::Fragment, open.seq, ends, &self.payload)?;
        open.header = None;
        self.clear();
        Ok(offset)
    }

    fn push_body(&mut self, body: &Body) -> Result<LogOffset, LogError> {
        self.payload.clear();
        body.encode(&mut self.payload);
        let seq = self.appender.last_seq();
        self.appender.push(body.kind(), seq, true, &self.payload)
    }
}
