//! A log that lives in memory only: for tests, and as the model the file log is compared with.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::cursor::Cursor;
use super::frame::HEAD_BYTES;
use super::registry::Schemas;
use super::state::Oldest;
use super::{
    AppendListener, Appended, Appender, Bounds, EventLog, Listener, LogError, LogOffset, RawRecord,
    Reader, SegmentInfo, TxPoint, Visibility,
};
use crate::position::{LogId, Seq, SourcePosition};
use crate::record::{Body, LogRecord, RecordKind, peek_fragment};
use crate::schema::{SchemaId, TableName, TableSchema};

/// See the module. "Durable" means flushed here; nothing outlives the value.
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    id: LogId,
    state: Mutex<State>,
    work: Condvar,
    listeners: RwLock<Vec<Listener>>,
    append_listeners: RwLock<Vec<AppendListener>>,
}

struct State {
    cursor: Cursor,
    before_open: Option<Cursor>,
    /// Oldest first; `trimmed` were dropped before the first.
    records: VecDeque<RawRecord>,
    trimmed: usize,
    /// Everything before was seen by a flush.
    flushed: u64,
    durable: Cursor,
    /// Number of records up to the durable end, trimmed ones included.
    durable_records: usize,
    /// The same up to the appended end.
    whole_records: usize,
    oldest: Oldest,
    schemas: Schemas,
    generation: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(id: LogId) -> MemoryLog {
        let start = Cursor::start(0);
        MemoryLog {
            shared: Arc::new(Shared {
                id,
                state: Mutex::new(State {
                    before_open: None,
                    records: VecDeque::new(),
                    trimmed: 0,
                    flushed: 0,
                    durable: start.clone(),
                    durable_records: 0,
                    whole_records: 0,
                    oldest: Oldest {
                        point: start.last.clone(),
                        position: SourcePosition::default(),
                    },
                    schemas: Schemas::default(),
                    generation: 0,
                    cursor: start,
                }),
                work: Condvar::new(),
                listeners: RwLock::default(),
                append_listeners: RwLock::default(),
            }),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(record: &RawRecord) -> u64 {
    (HEAD_BYTES + record.payload.len()) as u64
}

fn damaged(error: crate::codec::Malformed) -> LogError {
    LogError::Damaged {
        place: "memory".to_owned(),
        what: error.0.to_owned(),
    }
}

impl State {
    fn append(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<LogOffset, LogError> {
        let begin = self.cursor.offset;
        let opens = kind == RecordKind::Fragment && !ends && self.cursor.open.is_none();
        let before = opens.then(|| self.cursor.clone());
        let schema = self
            .cursor
            .accept(kind, seq, ends, payload)
            .map_err(LogError::Misuse)?;
        if before.is_some() {
            self.before_open = before;
        }
        if self.cursor.open.is_none() {
            self.before_open = None;
        }
        if matches!(kind, RecordKind::History | RecordKind::Mark) && seq == self.oldest.point.seq {
            self.oldest.position.clone_from(&self.cursor.position);
        }
        self.cursor.advance(0, HEAD_BYTES + payload.len());
        self.records.push_back(RawRecord {
            kind,
            epoch: self.cursor.epoch,
            seq,
            ends,
            payload: Bytes::copy_from_slice(payload),
        });
        if self.cursor.open.is_none() {
            self.whole_records = self.trimmed + self.records.len();
        }
        if let Some(schema) = schema {
            self.schemas.add(schema, Some(begin), begin, seq);
        }
        Ok(LogOffset(self.cursor.offset))
    }

    fn abandon(&mut self) -> Result<(), LogError> {
        let Some(to) = self.before_open.take() else {
            return Ok(());
        };
        let lost = self.schemas.recorded_in(to.offset..self.cursor.offset);
        while self.cursor.offset > to.offset
            && let Some(record) = self.records.pop_back()
        {
            self.cursor.offset -= size(&record);
        }
        self.flushed = self.flushed.min(to.offset);
        self.cursor = to;
        for (_, schema) in lost {
            let mut payload = Vec::new();
            Body::Schema(schema.as_ref().clone()).encode(&mut payload);
            self.append(RecordKind::Schema, self.cursor.last.seq, true, &payload)?;
        }
        Ok(())
    }

    /// The appended end.
    fn whole(&self) -> &Cursor {
        self.before_open.as_ref().unwrap_or(&self.cursor)
    }

    /// Number of records that readers of this visibility see, trimmed ones included.
    fn end(&self, visibility: Visibility) -> usize {
        match visibility {
            Visibility::Durable => self.durable_records,
            Visibility::Appended => self.whole_records,
        }
    }

    /// Publishes the last place between transactions; true when it moved.
    fn publish(&mut self) -> bool {
        let boundary = self.whole().clone();
        let moved = boundary.offset > self.durable.offset;
        self.flushed = self.cursor.offset;
        let mut behind = self.cursor.offset;
        let mut records = self.trimmed + self.records.len();
        for record in self.records.iter().rev() {
            if behind <= boundary.offset {
                break;
            }
            behind -= size(record);
            records -= 1;
        }
        self.durable_records = records;
        self.durable = boundary;
        moved
    }

    fn point(&self, seq: Seq) -> Result<Option<TxPoint>, LogError> {
        if seq == self.oldest.point.seq {
            return Ok((seq > Seq(0)).then(|| self.oldest.point.clone()));
        }
        let mut txid = 0;
        let fragments = self
            .records
            .iter()
            .take(self.whole_records - self.trimmed)
            .filter(|record| record.kind == RecordKind::Fragment && record.seq == seq);
        for record in fragments {
            let head = peek_fragment(&record.payload).map_err(damaged)?;
            txid = head.txid.unwrap_or(txid);
            if let Some(position) = head.position {
                return Ok(Some(TxPoint {
                    epoch: record.epoch,
                    seq,
                    txid,
                    position: SourcePosition(position.to_owned()),
                }));
            }
        }
        Ok(None)
    }

    fn trim(&mut self, through: Seq) -> Result<u64, LogError> {
        let through = through.min(self.durable.last.seq);
        if through <= self.oldest.point.seq {
            return Ok(0);
        }
        let Some(point) = self.point(through)? else {
            return Ok(0);
        };
        let mut freed = 0;
        while let Some(record) = self.records.front() {
            let goes = match record.kind {
                RecordKind::Fragment => record.seq <= through,
                _ => record.seq < through,
            };
            if !goes {
                break;
            }
            freed += size(record);
            self.records.pop_front();
            self.trimmed += 1;
        }
        // Marks and history records behind it moved the position on.
        let mut position = point.position.clone();
        for record in &self.records {
            match Body::decode(record.kind, &record.payload).map_err(damaged)? {
                Body::Fragment(_) => break,
                Body::Mark(mark) => position = mark,
                Body::History(history) => position = history.position,
                Body::Schema(_) => {}
            }
        }
        self.oldest = Oldest { point, position };
        Ok(freed)
    }
}

impl EventLog for MemoryLog {
    fn id(&self) -> LogId {
        self.shared.id
    }

    fn bounds(&self) -> Bounds {
        let state = self.shared.state();
        Bounds {
            first_seq: state.oldest.point.seq.next(),
            before_first: state.oldest.position.clone(),
            durable: state.durable.durable(),
            history: state.durable.history.as_deref().cloned(),
            bytes: state.records.iter().map(size).sum(),
        }
    }

    fn appended(&self) -> Appended {
        self.shared.state().whole().appended()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let bounds = self.bounds();
        let any = bounds.first_seq <= bounds.durable.seq;
        vec![SegmentInfo {
            name: "memory".to_owned(),
            first_seq: any.then_some(bounds.first_seq),
            last_seq: any.then_some(bounds.durable.seq),
            bytes: bounds.bytes,
            sealed: false,
        }]
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        let mut state = self.shared.state();
        state.generation += 1;
        state.abandon()?;
        Ok(Box::new(MemoryAppender {
            shared: Arc::clone(&self.shared),
            generation: state.generation,
        }))
    }

    fn flush(&self) -> Result<bool, LogError> {
        let mut state = self.shared.state();
        if state.flushed == state.cursor.offset {
            return Ok(false);
        }
        let moved = state.publish();
        let durable = state.durable.durable();
        drop(state);
        if moved {
            let listeners = self
                .shared
                .listeners
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            for listener in listeners.iter() {
                listener(&durable);
            }
        }
        Ok(true)
    }

    fn wait_for_work(&self, timeout: Duration) -> u64 {
        let state = self.shared.state();
        let waited = self
            .shared
            .work
            .wait_timeout_while(state, timeout, |state| state.flushed == state.cursor.offset);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.cursor.offset - state.flushed
    }

    fn on_durable(&self, listener: Listener) {
        self.shared
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    fn on_appended(&self, listener: AppendListener) {
        self.shared
            .append_listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    fn follow(&self, after: Seq, visibility: Visibility) -> Result<Box<dyn Reader>, LogError> {
        let state = self.shared.state();
        let last = match visibility {
            Visibility::Durable => state.durable.last.seq,
            Visibility::Appended => state.whole().last.seq,
        };
        if after > last {
            return Err(LogError::Beyond {
                wanted: after,
                last,
            });
        }
        let oldest = state.oldest.point.seq;
        if after < oldest {
            return Err(LogError::Trimmed {
                wanted: after.next(),
                first: oldest.next(),
            });
        }
        Ok(Box::new(MemoryReader {
            shared: Arc::clone(&self.shared),
            after,
            visibility,
            reached: after,
            next: state.trimmed,
        }))
    }

    fn point(&self, seq: Seq) -> Result<Option<TxPoint>, LogError> {
        self.shared.state().point(seq)
    }

    fn schema(&self, id: SchemaId) -> Option<Arc<TableSchema>> {
        self.shared.state().schemas.get(id)
    }

    fn latest_schema(&self, table: &TableName) -> Option<Arc<TableSchema>> {
        self.shared.state().schemas.latest(table)
    }

    fn next_schema_id(&self) -> SchemaId {
        SchemaId(self.shared.state().cursor.next_schema)
    }

    fn trim(&self, through: Seq) -> Result<u64, LogError> {
        self.shared.state().trim(through)
    }
}

struct MemoryAppender {
    shared: Arc<Shared>,
    generation: u64,
}

impl MemoryAppender {
    fn state(&self) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.shared.state();
        if state.generation == self.generation {
            Ok(state)
        } else {
            Err(LogError::Misuse(
                "this appender was replaced by a later one",
            ))
        }
    }
}

impl Appender for MemoryAppender {
    fn push(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<LogOffset, LogError> {
        let offset = self.state()?.append(kind, seq, ends, payload)?;
        self.shared.work.notify_one();
        if ends && kind != RecordKind::Schema {
            let listeners = self
                .shared
                .append_listeners
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            for listener in listeners.iter() {
                listener();
            }
        }
        Ok(offset)
    }

    fn last_seq(&self) -> Seq {
        self.shared.state().cursor.last.seq
    }

    fn pending_bytes(&self) -> u64 {
        let state = self.shared.state();
        state.cursor.offset - state.flushed
    }

    fn abandon(&mut self) -> Result<(), LogError> {
        self.state()?.abandon()
    }
}

#[derive(Clone)]
struct MemoryReader {
    shared: Arc<Shared>,
    after: Seq,
    visibility: Visibility,
    /// Last whole transaction returned.
    reached: Seq,
    /// Number of the next record since the log was made.
    next: usize,
}

impl Reader for MemoryReader {
    fn behind(&self) -> u64 {
        let state = self.shared.state();
        let first = self.next.max(state.trimmed);
        let end = state.end(self.visibility);
        (first..end)
            .filter_map(|at| state.records.get(at - state.trimmed))
            .map(size)
            .sum()
    }

    fn fork(&self) -> Box<dyn Reader> {
        Box::new(self.clone())
    }

    fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        let state = self.shared.state();
        if self.next < state.trimmed {
            if self.reached < state.oldest.point.seq {
                return Err(LogError::Trimmed {
                    wanted: self.reached.next(),
                    first: state.oldest.point.seq.next(),
                });
            }
            self.next = state.trimmed;
        }
        let end = state.end(self.visibility);
        while self.next < end {
            let Some(record) = state.records.get(self.next - state.trimmed) else {
                break;
            };
            self.next += 1;
            let wanted = match record.kind {
                RecordKind::Fragment => record.seq > self.after,
                RecordKind::Schema => false,
                RecordKind::History | RecordKind::Mark => record.seq >= self.after,
            };
            if !wanted {
                continue;
            }
            if record.ends {
                self.reached = record.seq;
            }
            return Ok(Some(LogRecord {
                epoch: record.epoch,
                seq: record.seq,
                size: size(record),
                body: Body::decode(record.kind, &record.payload).map_err(damaged)?,
            }));
        }
        Ok(None)
    }
}
