//! The event log in files.
//!
//! A directory holds:
//!
//! - `LOCK` — held by the one process that writes;
//! - `log.json` — format version and identity, written last when a log is created;
//! - `<offset>.seg` — segments (`segment.rs`) of frames (`frame.rs`), named by the
//!   offset of their first frame in the log's address space;
//! - `<offset>.idx` — index of a sealed segment (`index.rs`), a cache;
//! - `durable` — the durable end, so that damage is told from a torn tail (`watermark.rs`).
//!
//! Appending encodes into memory under a short lock. [`EventLog::flush`] takes what has gathered,
//! writes it, fsyncs once, then publishes the end of the last whole transaction and moves the
//! bytes, uncopied, to the tail that all readers share. A reader of what is only appended copies it
//! from the buffers that are being filled or written. Lock order: `trimming`, `io`, `state`.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::cursor::Cursor;
use super::dir::{LogDir, index_name, segment_name};
use super::disk::Disk;
use super::flush::Io;
use super::index::Mark;
use super::reader::FileReader;
use super::segment::{Segment, hit};
use super::state::{Oldest, State};
use super::{
    AppendListener, Appended, Appender, Bounds, Durable, EventLog, Listener, LogError, LogOffset,
    Reader, SegmentInfo, TxPoint, Visibility, recovery,
};
use crate::position::{LogId, Seq};
use crate::record::RecordKind;
use crate::schema::{SchemaId, TableName, TableSchema};

/// How a file log behaves.
#[derive(Clone, Debug)]
pub struct FileLogOptions {
    /// Size at which a segment is sealed and the next one begun, bytes. A segment exceeds it by
    /// up to `index_bytes` and one record.
    pub segment_bytes: u64,
    /// Size of the newest part that is kept in memory for readers, bytes.
    pub tail_bytes: u64,
    /// Distance between the places where reading or a new segment may begin, bytes.
    pub index_bytes: u64,
    /// Identity the log gets if it is created now.
    pub new_id: LogId,
    /// Time noted in the log if it is created now, microseconds since the Unix epoch; for people.
    pub created_us: i64,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        FileLogOptions {
            segment_bytes: 64 * 1024 * 1024,
            tail_bytes: 32 * 1024 * 1024,
            index_bytes: 256 * 1024,
            new_id: LogId(uuid::Uuid::new_v4()),
            created_us: 0,
        }
    }
}

/// What [`FileLog::open`] found.
pub struct Opened {
    /// The log.
    pub log: Arc<FileLog>,
    /// The directory held no log, so one was created.
    pub created: bool,
    /// Bytes that were cut off at the end: never durable, or of a transaction that never ended.
    pub cut_bytes: u64,
}

/// An event log in a directory of this process alone.
pub struct FileLog {
    inner: Arc<Inner>,
}

/// The log behind all its handles.
pub(super) struct Inner {
    pub id: LogId,
    pub dir: LogDir,
    pub options: FileLogOptions,
    pub state: Mutex<State>,
    pub io: Mutex<Io>,
    /// Something is pending.
    pub work: Condvar,
    pub trimming: Mutex<()>,
    pub listeners: RwLock<Vec<Listener>>,
    pub append_listeners: RwLock<Vec<AppendListener>>,
    /// Held while the log is open.
    pub _lock: Box<dyn Send + Sync>,
}

impl FileLog {
    /// Opens the log in `dir`, or creates it, and repairs what a crash left behind.
    ///
    /// Cut off is only what cannot have been durable: a torn end, and a transaction that never
    /// ended.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process has it, [`LogError::Version`] when a newer
    /// version wrote it, [`LogError::Damaged`] when durable bytes are missing or altered;
    /// otherwise when the disk fails.
    pub fn open(
        dir: &Path,
        options: FileLogOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<Opened, LogError> {
        let recovered = recovery::open(LogDir::new(dir, disk), options)?;
        let inner = Arc::new(recovered.inner);
        let before = inner.before_oldest()?;
        inner.state().oldest = before;
        Ok(Opened {
            log: Arc::new(FileLog { inner }),
            created: recovered.created,
            cut_bytes: recovered.cut_bytes,
        })
    }
}

/// A panic elsewhere must not turn every later call into a panic: the state is consistent
/// whenever its lock is free.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub fn io(&self) -> MutexGuard<'_, Io> {
        locked(&self.io)
    }

    pub fn notify(&self, durable: &Durable) {
        let listeners = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener(durable);
        }
    }

    fn notify_appended(&self) {
        let listeners = self
            .append_listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener();
        }
    }

    fn reader(
        self: &Arc<Self>,
        after: Seq,
        visibility: Visibility,
    ) -> Result<FileReader, LogError> {
        let mark = self.state().seek(after, visibility)?;
        Ok(FileReader::new(Arc::clone(self), after, mark, visibility))
    }

    /// What lies before the oldest transaction that is held whole. A transaction whose beginning
    /// was trimmed ends in the oldest segment or a later one.
    fn before_oldest(self: &Arc<Self>) -> Result<Oldest, LogError> {
        let start = {
            let state = self.state();
            state.segments.front().map(|segment| segment.start.clone())
        };
        let start = start.ok_or(LogError::Misuse("the log has no segment"))?;
        self.before(&start)
    }

    /// What lies before the first transaction that is whole from `start` on.
    fn before(self: &Arc<Self>, start: &Cursor) -> Result<Oldest, LogError> {
        let (after, mark) = (start.last.seq, Mark::at(start));
        let mut reader = FileReader::new(Arc::clone(self), after, mark, Visibility::Durable);
        let mut oldest = Oldest {
            point: start.last.clone(),
            position: start.position.clone(),
        };
        if let Some(open) = start.open {
            let Some(point) = reader.point()? else {
                return Err(LogError::Damaged {
                    place: self.dir.display(),
                    what: "the oldest segment begins inside a transaction that does not end"
                        .to_owned(),
                });
            };
            oldest.position.clone_from(&point.position);
            // Its number stood in the first fragment.
            oldest.point = TxPoint {
                txid: open.txid,
                ..point
            };
        }
        if let Some(position) = reader.position_before_transaction()? {
            oldest.position = position;
        }
        Ok(oldest)
    }

    /// See [`EventLog::trim`].
    fn trim(self: &Arc<Self>, through: Seq) -> Result<u64, LogError> {
        let _trimming = locked(&self.trimming);
        let mut freed = 0;
        while let Some((base, next)) = self.trimmable(through) {
            let oldest = self.before(&next)?;
            // From here on no new reader starts there; one that has the file open may finish it.
            self.state().oldest = oldest;
            freed += self.delete(base)?;
        }
        Ok(freed)
    }

    /// The oldest segment's base and the state at the start of the one behind it, if it holds
    /// nothing after `through`.
    fn trimmable(&self, through: Seq) -> Option<(u64, Cursor)> {
        let state = self.state();
        let oldest = state.segments.front()?;
        let next = state.segments.get(1)?;
        let touched = match next.start.open {
            Some(_) => next.start.last.seq.next(),
            None => next.start.last.seq,
        };
        let wanted =
            touched <= through.min(state.durable.last.seq) && next.base() <= state.durable.offset;
        wanted.then(|| (oldest.base(), next.start.clone()))
    }

    /// Deletes the oldest segment, index first: an index without a segment means nothing. Each
    /// deletion is durable before the next, so that a crash leaves no gap.
    fn delete(&self, base: u64) -> Result<u64, LogError> {
        let name = segment_name(base);
        hit(&self.dir, &name, "log.trim.before_delete")?;
        // Off the list before the file is gone: a reader that misses the file then knows why.
        let removed = self.state().segments.pop_front();
        let deleted = self
            .dir
            .remove(&index_name(base))
            .and_then(|()| self.dir.remove(&name));
        let Some(removed) = removed else {
            return deleted.map(|()| 0);
        };
        let mut state = self.state();
        if let Err(error) = deleted {
            state.segments.push_front(removed);
            return Err(error);
        }
        let end = state.segments.front().map_or(base, Segment::base);
        drop(state);
        self.dir.sync().map_err(|error| self.fatal(error))?;
        hit(&self.dir, &name, "log.trim.after_delete")?;
        Ok(removed.data_start + (end - base))
    }
}

impl EventLog for FileLog {
    fn id(&self) -> LogId {
        self.inner.id
    }

    fn bounds(&self) -> Bounds {
        let state = self.inner.state();
        let heads: u64 = state
            .segments
            .iter()
            .map(|segment| segment.data_start)
            .sum();
        let base = state.segments.front().map_or(0, Segment::base);
        Bounds {
            first_seq: state.oldest.point.seq.next(),
            before_first: state.oldest.position.clone(),
            durable: state.durable.durable(),
            history: state.durable.history.as_deref().cloned(),
            bytes: heads + (state.synced - base),
        }
    }

    fn appended(&self) -> Appended {
        self.inner.state().whole().appended()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.inner.state();
        let mut infos = Vec::with_capacity(state.segments.len());
        for (at, segment) in state.segments.iter().enumerate() {
            let next = state.segments.get(at + 1);
            let end = next.map_or(state.synced, Segment::base);
            let last = next.map_or(state.durable.last.seq, |next| next.start.last.seq);
            let any = last > segment.start.last.seq;
            infos.push(SegmentInfo {
                name: segment.name(),
                first_seq: any.then(|| segment.start.last.seq.next()),
                last_seq: any.then_some(last),
                bytes: segment.data_start + end.saturating_sub(segment.base()),
                sealed: next.is_some(),
            });
        }
        infos
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        let mut io = self.inner.io();
        let generation = {
            let mut state = self.inner.state();
            state.generation += 1;
            state.generation
        };
        self.inner.abandon(&mut io)?;
        Ok(Box::new(FileAppender {
            inner: Arc::clone(&self.inner),
            generation,
        }))
    }

    fn flush(&self) -> Result<bool, LogError> {
        self.inner.flush()
    }

    fn prepare(&self) -> Result<(), LogError> {
        self.inner.prepare()
    }

    fn wait_for_work(&self, timeout: Duration) -> u64 {
        let state = self.inner.state();
        // Woken early or late, the caller just looks again.
        let waited = self.inner.work.wait_timeout_while(state, timeout, |state| {
            state.pending.is_empty() && state.in_flight.is_empty()
        });
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.cursor.offset - state.synced
    }

    fn on_durable(&self, listener: Listener) {
        self.inner
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    fn on_appended(&self, listener: AppendListener) {
        self.inner
            .append_listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    fn follow(&self, after: Seq, visibility: Visibility) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(self.inner.reader(after, visibility)?))
    }

    fn point(&self, seq: Seq) -> Result<Option<TxPoint>, LogError> {
        {
            let state = self.inner.state();
            for known in [&state.whole().last, &state.oldest.point] {
                if known.seq == seq {
                    return Ok((seq > Seq(0)).then(|| known.clone()));
                }
            }
            if seq < state.oldest.point.seq || seq > state.whole().last.seq {
                return Ok(None);
            }
        }
        match self.inner.reader(Seq(seq.0 - 1), Visibility::Appended) {
            Ok(mut reader) => reader.point(),
            Err(LogError::Trimmed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn schema(&self, id: SchemaId) -> Option<Arc<TableSchema>> {
        self.inner.state().schemas.get(id)
    }

    fn latest_schema(&self, table: &TableName) -> Option<Arc<TableSchema>> {
        self.inner.state().schemas.latest(table)
    }

    fn next_schema_id(&self) -> SchemaId {
        SchemaId(self.inner.state().cursor.next_schema)
    }

    fn trim(&self, through: Seq) -> Result<u64, LogError> {
        self.inner.trim(through)
    }
}

/// The writing side.
struct FileAppender {
    inner: Arc<Inner>,
    generation: u64,
}

impl FileAppender {
    fn check(&self, state: &State) -> Result<(), LogError> {
        if state.generation == self.generation {
            Ok(())
        } else {
            Err(LogError::Misuse(
                "this appender was replaced by a later one",
            ))
        }
    }
}

impl Appender for FileAppender {
    fn push(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<LogOffset, LogError> {
        hit(&self.inner.dir, "", "log.push")?;
        let mut state = self.inner.state();
        self.check(&state)?;
        let idle = state.pending.is_empty();
        let offset = state.append(kind, seq, ends, payload)?;
        drop(state);
        if idle {
            self.inner.work.notify_one();
        }
        if ends && kind != RecordKind::Schema {
            self.inner.notify_appended();
        }
        Ok(offset)
    }

    fn last_seq(&self) -> Seq {
        self.inner.state().cursor.last.seq
    }

    fn pending_bytes(&self) -> u64 {
        let state = self.inner.state();
        state.cursor.offset - state.synced
    }

    fn abandon(&mut self) -> Result<(), LogError> {
        let mut io = self.inner.io();
        self.check(&self.inner.state())?;
        self.inner.abandon(&mut io)
    }
}
