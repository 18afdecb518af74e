//! What is known at one place in the log, and the rules by which a record may follow.
//!
//! The same rules accept a record when it is appended and check it when the log is scanned.

use std::sync::Arc;

use bytes::Bytes;

use super::{Appended, Durable, LogOffset, TxPoint};
use crate::position::{Epoch, Seq, SourcePosition};
use crate::record::{Body, History, RecordKind, peek_fragment};
use crate::schema::TableSchema;

/// State behind some record of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cursor {
    /// Where the next record begins.
    pub offset: u64,
    /// CRC of the frame before.
    pub chain: u32,
    /// Epoch in force.
    pub epoch: Epoch,
    /// Last whole transaction; sequence 0 before the first.
    pub last: TxPoint,
    /// Source position after the last whole transaction, mark or history record.
    pub position: SourcePosition,
    /// History record in force.
    pub history: Option<Arc<History>>,
    /// The transaction whose end has not come yet.
    pub open: Option<OpenTx>,
    /// Schema numbers below are used up.
    pub next_schema: u32,
}

/// A transaction of which some fragments are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenTx {
    /// Where its first fragment begins.
    pub start: u64,
    /// The source's number of it.
    pub txid: u64,
}

impl Cursor {
    /// The start of an empty log whose chain begins with `chain`.
    pub fn start(chain: u32) -> Cursor {
        Cursor {
            offset: 0,
            chain,
            epoch: Epoch(0),
            last: TxPoint {
                epoch: Epoch(0),
                seq: Seq(0),
                txid: 0,
                position: SourcePosition::default(),
            },
            position: SourcePosition::default(),
            history: None,
            open: None,
            next_schema: 1,
        }
    }

    /// The durable end, if this is one.
    pub fn durable(&self) -> Durable {
        Durable {
            offset: LogOffset(self.offset),
            epoch: self.epoch,
            seq: self.last.seq,
            position: self.position.clone(),
        }
    }

    /// The appended end, if this is one.
    pub fn appended(&self) -> Appended {
        Appended {
            epoch: self.epoch,
            seq: self.last.seq,
            position: self.position.clone(),
        }
    }

    /// Takes in the next record, but for its place (see [`Cursor::advance`]); returns the schema
    /// it defines, if it does. An error leaves everything as it was.
    pub fn accept(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<Option<TableSchema>, &'static str> {
        if kind == RecordKind::Fragment {
            return self.fragment(seq, ends, payload).map(|()| None);
        }
        if !ends {
            return Err("only fragments may be continued");
        }
        if seq != self.last.seq {
            return Err("record does not carry the sequence of the last transaction");
        }
        if self.open.is_some() && kind != RecordKind::Schema {
            return Err("record inside an open transaction");
        }
        let body = Body::decode(kind, &Bytes::copy_from_slice(payload)).map_err(|why| why.0)?;
        match body {
            Body::History(history) => {
                if history.epoch < self.epoch {
                    return Err("epoch of a history record is lower than the one in force");
                }
                self.epoch = history.epoch;
                self.position.clone_from(&history.position);
                self.history = Some(Arc::new(history));
            }
            Body::Mark(position) => {
                if self.history.is_none() {
                    return Err("the first record must be a history record");
                }
                self.position = position;
            }
            Body::Schema(schema) => {
                if schema.id.0 < self.next_schema {
                    return Err("schema number is used already");
                }
                self.next_schema = schema.id.0 + 1;
                return Ok(Some(schema));
            }
            Body::Fragment(_) => return Err("unexpected fragment"),
        }
        Ok(None)
    }

    fn fragment(&mut self, seq: Seq, ends: bool, payload: &[u8]) -> Result<(), &'static str> {
        if seq != self.last.seq.next() {
            return Err("sequence of a transaction is not the last one plus one");
        }
        if self.history.is_none() {
            return Err("the first record must be a history record");
        }
        let head = peek_fragment(payload).map_err(|why| why.0)?;
        let txid = match (self.open, head.txid) {
            (None, Some(txid)) => txid,
            (Some(open), None) => open.txid,
            (None, None) => return Err("first fragment of a transaction without its header"),
            (Some(_), Some(_)) => return Err("second header in a transaction"),
        };
        match (ends, head.position) {
            (true, Some(position)) => {
                self.last.epoch = self.epoch;
                self.last.seq = seq;
                self.last.txid = txid;
                replace(&mut self.last.position, position);
                replace(&mut self.position, position);
                self.open = None;
                Ok(())
            }
            (false, None) => {
                let start = self.open.map_or(self.offset, |open| open.start);
                self.open = Some(OpenTx { start, txid });
                Ok(())
            }
            (true, None) => Err("last fragment of a transaction without its position"),
            (false, Some(_)) => Err("position before the last fragment of a transaction"),
        }
    }

    /// Moves behind the accepted record's frame.
    pub fn advance(&mut self, crc: u32, frame_bytes: usize) {
        self.chain = crc;
        self.offset += frame_bytes as u64;
    }
}

/// Overwrites a position without a new allocation: this runs once per transaction.
fn replace(position: &mut SourcePosition, text: &str) {
    position.0.clear();
    position.0.push_str(text);
}
