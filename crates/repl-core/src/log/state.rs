//! What appender, flusher and readers share in memory. Its lock is held for moments only and never
//! across a system call.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::cursor::Cursor;
use super::frame::{self, Head, MAX_PAYLOAD};
use super::index::Mark;
use super::registry::Schemas;
use super::segment::Segment;
use super::tail::Tail;
use super::{LogError, LogOffset, TxPoint, Visibility};
use crate::position::{Seq, SourcePosition};
use crate::record::{Body, RecordKind};
use crate::schema::TableSchema;

/// Appended bytes are gathered in buffers of about this size, bytes, so that a reader that holds
/// on to one record does not hold on to a whole large flush.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Used-up buffers kept for the next records: writing to memory that is new to the process costs
/// several times as much as encoding into it.
const SPARE_BUFFERS: usize = 2;

/// See the module.
pub(super) struct State {
    /// Behind the last appended record.
    pub cursor: Cursor,
    /// Where the open transaction began.
    pub before_open: Option<Cursor>,
    /// Appended and not yet taken by a flush.
    pub pending: Pending,
    /// Empty buffers for the next records.
    pub spares: Vec<Vec<u8>>,
    /// What a flush has taken and not yet made durable, with the offset at which each part begins.
    pub in_flight: Vec<(u64, Bytes)>,
    /// Everything before is fsynced, be it published or not.
    pub synced: u64,
    /// The published end: always between transactions.
    pub durable: Cursor,
    pub tail: Tail,
    /// Oldest first; never empty.
    pub segments: VecDeque<Segment>,
    /// What lies before the oldest transaction held.
    pub oldest: Oldest,
    pub schemas: Schemas,
    /// Counts the appenders handed out; only the last one may append.
    pub generation: u64,
    /// Set once an fsync failed: where. Nothing may be written any more.
    pub failed: Option<String>,
    /// Distance between index marks, bytes.
    pub index_bytes: u64,
    /// Where the last mark was set.
    pub last_mark: u64,
}

/// What lies just before the oldest transaction held.
#[derive(Clone, Debug)]
pub(super) struct Oldest {
    /// The transaction; sequence 0 when the log is whole.
    pub point: TxPoint,
    /// Source position there.
    pub position: SourcePosition,
}

/// Encoded frames waiting for a flush.
#[derive(Default)]
pub(super) struct Pending {
    /// State before the first of them; none when there is none.
    start: Option<Cursor>,
    buffers: Vec<Vec<u8>>,
    marks: Vec<Cursor>,
}

/// The frames of one flush.
pub(super) struct Batch {
    /// State before its first frame.
    pub start: Cursor,
    /// Where its last frame ends.
    pub end: u64,
    /// The last place between transactions at or before `end`.
    pub boundary: Cursor,
    /// Frames, with the offset at which each buffer begins.
    pub buffers: Vec<(u64, Bytes)>,
    /// Places where a segment may begin, ascending; each becomes an index mark.
    pub marks: VecDeque<Cursor>,
    /// Buffers that were copied from.
    emptied: Vec<Bytes>,
}

/// Where a reader finds what lies behind its place, if that is in memory.
pub(super) enum Found {
    /// In the tail or in what is not durable yet.
    Memory(Bytes),
    /// In a file: the segment's base, where its frames begin in the file, and the offset up to which
    /// they may be read from it.
    File(u64, u64, u64),
    /// Nowhere: it was trimmed.
    Trimmed,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.start.is_none()
    }

    /// The buffer for the next frame of this many bytes.
    fn buffer(&mut self, frame_bytes: usize, spares: &mut Vec<Vec<u8>>) -> &mut Vec<u8> {
        let full = self
            .buffers
            .last()
            .is_none_or(|last| last.len() + frame_bytes > BUFFER_BYTES);
        if full {
            let spare = spares.pop();
            let new = || Vec::with_capacity(frame_bytes.max(BUFFER_BYTES));
            self.buffers.push(spare.unwrap_or_else(new));
        }
        let last = self.buffers.len() - 1;
        &mut self.buffers[last]
    }

    /// Makes it a batch, to be published up to `boundary`.
    fn into_batch(self, boundary: Cursor) -> Option<Batch> {
        let start = self.start?;
        let mut end = start.offset;
        let placed = |buffer: Vec<u8>| {
            let begin = end;
            end += buffer.len() as u64;
            (begin, Bytes::from(buffer))
        };
        let buffers = self.buffers.into_iter().map(placed).collect();
        Some(Batch {
            start,
            end,
            boundary,
            buffers,
            marks: self.marks.into(),
            emptied: Vec::new(),
        })
    }

    /// A copy of what is held from `offset` on, of at most `most` bytes; never empty where anything
    /// is held.
    fn copy(&self, offset: u64, most: usize) -> Option<Bytes> {
        let mut begin = self.start.as_ref()?.offset;
        for buffer in &self.buffers {
            let end = begin + buffer.len() as u64;
            if (begin..end).contains(&offset) {
                let rest = &buffer[(offset - begin) as usize..];
                return Some(Bytes::copy_from_slice(&rest[..most.min(rest.len())]));
            }
            begin = end;
        }
        None
    }

    fn cut(&mut self, offset: u64) {
        let Some(start) = &self.start else {
            return;
        };
        let mut keep = offset.saturating_sub(start.offset) as usize;
        if keep == 0 {
            *self = Pending::default();
            return;
        }
        for buffer in &mut self.buffers {
            buffer.truncate(keep);
            keep -= buffer.len();
        }
        self.buffers.retain(|buffer| !buffer.is_empty());
        self.marks.retain(|mark| mark.offset < offset);
    }
}

impl Batch {
    /// Copies what lies in buffers with little in them, so that the tail holds no empty memory and
    /// the buffers can be used again.
    pub fn compact(&mut self) {
        for (_, buffer) in &mut self.buffers {
            if buffer.len() < BUFFER_BYTES / 4 * 3 {
                let copy = Bytes::copy_from_slice(buffer);
                self.emptied.push(std::mem::replace(buffer, copy));
            }
        }
    }

    /// Drops what lies at and behind `offset`; false when nothing is left.
    pub fn cut(&mut self, offset: u64) -> bool {
        for (start, buffer) in &mut self.buffers {
            buffer.truncate(offset.saturating_sub(*start) as usize);
        }
        self.buffers.retain(|(_, buffer)| !buffer.is_empty());
        self.marks.retain(|mark| mark.offset < offset);
        self.end = self.end.min(offset);
        self.end > self.start.offset
    }
}

impl State {
    /// Fails when nothing may be written any more.
    pub fn check(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(place) => Err(LogError::SyncFailed(place.clone())),
            None => Ok(()),
        }
    }

    /// Encodes one record behind the last.
    pub fn append(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<LogOffset, LogError> {
        self.check()?;
        if payload.len() > MAX_PAYLOAD {
            return Err(LogError::Misuse("a record may not exceed 2 GiB"));
        }
        let first = self.pending.is_empty();
        let opens = kind == RecordKind::Fragment && !ends && self.cursor.open.is_none();
        let marks = self.cursor.offset >= self.last_mark + self.index_bytes;
        let before = (first || opens || marks).then(|| self.cursor.clone());
        let begin = self.cursor.offset;
        let schema = self
            .cursor
            .accept(kind, seq, ends, payload)
            .map_err(LogError::Misuse)?;
        if let Some(before) = before {
            self.remember(before, first, opens, marks);
        }
        if self.cursor.open.is_none() {
            self.before_open = None;
        }
        if matches!(kind, RecordKind::History | RecordKind::Mark) && seq == self.oldest.point.seq {
            self.oldest.position.clone_from(&self.cursor.position);
        }
        let head = Head {
            crc: 0,
            length: payload.len(),
            chain: self.cursor.chain,
            epoch: self.cursor.epoch,
            seq,
            kind,
            ends,
            first_of_flush: first,
        };
        let buffer = self.pending.buffer(head.frame_bytes(), &mut self.spares);
        let crc = frame::encode(buffer, &head, payload);
        self.cursor.advance(crc, head.frame_bytes());
        if let Some(schema) = schema {
            self.schemas
                .add(schema, Some(begin), begin, self.cursor.last.seq);
        }
        Ok(LogOffset(self.cursor.offset))
    }

    fn remember(&mut self, before: Cursor, first: bool, opens: bool, marks: bool) {
        if marks {
            self.last_mark = before.offset;
            self.pending.marks.push(before.clone());
        }
        if opens {
            self.before_open = Some(before.clone());
        }
        if first {
            self.pending.start = Some(before);
        }
    }

    /// The appended end: always between transactions.
    pub fn whole(&self) -> &Cursor {
        self.before_open.as_ref().unwrap_or(&self.cursor)
    }

    /// The end for readers of this visibility.
    pub fn end(&self, visibility: Visibility) -> &Cursor {
        match visibility {
            Visibility::Durable => &self.durable,
            Visibility::Appended => self.whole(),
        }
    }

    /// Hands everything pending to a flush; none when there is nothing.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let boundary = self.whole().clone();
        let batch = std::mem::take(&mut self.pending).into_batch(boundary)?;
        self.in_flight.clone_from(&batch.buffers);
        Some(batch)
    }

    /// Keeps a buffer for the next records, if it is of use.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        let useful = (BUFFER_BYTES..=2 * BUFFER_BYTES).contains(&buffer.capacity());
        if useful && self.spares.len() < SPARE_BUFFERS {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    /// Takes back everything at and behind `to`, which lies at or behind the durable end. Schema
    /// versions defined there were handed out already, so they are appended again.
    pub fn rewind(&mut self, to: Cursor) -> Result<(), LogError> {
        let end = self.cursor.offset;
        self.pending.cut(to.offset);
        for (start, buffer) in &mut self.in_flight {
            buffer.truncate(to.offset.saturating_sub(*start) as usize);
        }
        self.in_flight.retain(|(_, buffer)| !buffer.is_empty());
        self.tail.cut(to.offset);
        for segment in &mut self.segments {
            segment.marks.retain(|mark| mark.offset < to.offset);
        }
        self.synced = self.synced.min(to.offset);
        self.last_mark = self.last_mark.min(to.offset);
        self.before_open = None;
        let lost = self.schemas.recorded_in(to.offset..end);
        self.cursor = to;
        for (_, schema) in lost {
            self.append_schema(&schema)?;
        }
        Ok(())
    }

    fn append_schema(&mut self, schema: &TableSchema) -> Result<(), LogError> {
        let mut payload = Vec::new();
        Body::Schema(schema.clone()).encode(&mut payload);
        let seq = self.cursor.last.seq;
        self.append(RecordKind::Schema, seq, true, &payload)
            .map(drop)
    }

    /// Turns the batch's marks before `offset` into index marks of the newest segment.
    pub fn index(&mut self, batch: &mut Batch, offset: u64) {
        let Some(newest) = self.segments.back_mut() else {
            return;
        };
        while let Some(mark) = batch.marks.front()
            && mark.offset < offset
        {
            newest.marks.push(Mark::at(mark));
            batch.marks.pop_front();
        }
    }

    /// Makes a written and fsynced batch known.
    pub fn publish(&mut self, mut batch: Batch) {
        let end = batch.end;
        self.index(&mut batch, end);
        self.in_flight.clear();
        for (offset, buffer) in batch.buffers {
            for dropped in self.tail.push(offset, buffer) {
                if dropped.is_unique() {
                    self.keep(Vec::from(dropped));
                }
            }
        }
        for emptied in batch.emptied {
            if emptied.is_unique() {
                self.keep(Vec::from(emptied));
            }
        }
        self.synced = batch.end;
        self.durable = batch.boundary;
    }

    /// Where the bytes from `offset` on are, none of them beyond `limit`; `most` bounds what is copied
    /// of what is not durable yet.
    pub fn find(&self, offset: u64, limit: u64, most: usize) -> Found {
        if let Some(chunk) = self.tail.from(offset, limit) {
            return Found::Memory(chunk);
        }
        if offset >= self.synced
            && let Some(mut chunk) = self.copy_undurable(offset, most)
        {
            chunk.truncate((limit - offset) as usize);
            return Found::Memory(chunk);
        }
        let behind = self
            .segments
            .partition_point(|segment| segment.base() <= offset);
        let segment = behind.checked_sub(1).and_then(|at| self.segments.get(at));
        let end = self.segments.get(behind).map_or(u64::MAX, Segment::base);
        match segment {
            Some(segment) => Found::File(
                segment.base(),
                segment.data_start,
                end.min(limit).min(self.synced),
            ),
            None => Found::Trimmed,
        }
    }

    /// Copied rather than shared: a buffer that nobody else holds is used again after the flush.
    fn copy_undurable(&self, offset: u64, most: usize) -> Option<Bytes> {
        for (start, buffer) in &self.in_flight {
            if (*start..start + buffer.len() as u64).contains(&offset) {
                let rest = &buffer[(offset - start) as usize..];
                return Some(Bytes::copy_from_slice(&rest[..most.min(rest.len())]));
            }
        }
        self.pending.copy(offset, most)
    }

    /// Where to begin reading to come across everything after transaction `after`.
    pub fn seek(&self, after: Seq, visibility: Visibility) -> Result<Mark, LogError> {
        let last = self.end(visibility).last.seq;
        if after > last {
            return Err(LogError::Beyond {
                wanted: after,
                last,
            });
        }
        if after < self.oldest.point.seq {
            return Err(self.trimmed(after.next()));
        }
        let behind = self
            .segments
            .partition_point(|segment| segment.start.last.seq < after);
        let segment = self
            .segments
            .get(behind.saturating_sub(1))
            .ok_or(LogError::Misuse("the log has no segment"))?;
        let behind = segment.marks.partition_point(|mark| mark.seq < after);
        Ok(match behind.checked_sub(1) {
            Some(at) => segment.marks[at],
            None => Mark::at(&segment.start),
        })
    }

    /// The error for a transaction that is gone.
    pub fn trimmed(&self, wanted: Seq) -> LogError {
        LogError::Trimmed {
            wanted,
            first: self.oldest.point.seq.next(),
        }
    }

    /// Newest schema version of every table and what may still be in use, for the segment that is
    /// to begin at `start`.
    pub fn carried(&self, start: &Cursor) -> Vec<Arc<TableSchema>> {
        let previous = self.segments.back().map_or(0, Segment::base);
        self.schemas.carried(start.offset, start.last.seq, previous)
    }
}
