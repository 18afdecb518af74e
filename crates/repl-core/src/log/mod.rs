//! The event log: the one linear, durable history that every replica follows.
//!
//! Five positions are told apart everywhere (invariant I4):
//! - *appended*: accepted by [`Appender::push`], in memory or in a file not yet fsynced
//!   ([`Appended`]); a replica may apply it, for the fsync need not be waited for twice;
//! - *durable*: fsynced ([`Durable`]); only this is ever acknowledged to the source;
//! - *applied*: committed in a replica together with its [`crate::checkpoint::Checkpoint`];
//! - *acknowledged*: told to the source, never ahead of durable;
//! - *trimmed*: deleted here, never ahead of what every enabled replica has applied.
//!
//! The log has no threads of its own. The capture pushes records through the single [`Appender`];
//! a thread of the daemon calls [`EventLog::flush`] (group commit: one fsync for all that is
//! pending); readers return only whole transactions and never block.
//!
//! An implementation is done when the suite in `conformance` (feature `testing`) passes.

use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use thiserror::Error;

use crate::position::{Epoch, LogId, Seq, SourcePosition};
use crate::record::{History, LogRecord, RecordKind};
use crate::schema::{SchemaId, TableName, TableSchema};

mod ahead;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod cursor;
mod dir;
pub mod disk;
pub mod file;
mod flush;
mod frame;
mod index;
pub mod memory;
mod reader;
mod recovery;
mod registry;
mod scan;
mod segment;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod watermark;
pub mod writer;

pub use disk::{Disk, DiskFile, HostDisk, NotOpened};
pub use file::{FileLog, FileLogOptions, Opened};
pub use memory::MemoryLog;
pub use writer::TxWriter;

/// Byte address behind a record in the log's own address space; grows with every record. It counts
/// records only: what a storage adds around them has no address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogOffset(pub u64);

/// How far the log is durable, always at a transaction boundary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Everything pushed up to here is fsynced.
    pub offset: LogOffset,
    /// Epoch in force there.
    pub epoch: Epoch,
    /// Last whole transaction.
    pub seq: Seq,
    /// Source position of the last whole transaction, mark or history record.
    pub position: SourcePosition,
}

/// How far whole transactions were appended: never before the durable end. After a crash what lies
/// between the two is void, and the source delivers it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Epoch in force there.
    pub epoch: Epoch,
    /// Last whole transaction.
    pub seq: Seq,
    /// Source position of the last whole transaction, mark or history record.
    pub position: SourcePosition,
}

/// Which transactions a reader returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// What was fsynced.
    Durable,
    /// Every whole transaction, as soon as its last record was pushed.
    Appended,
}

/// What the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Oldest transaction still held; `durable.seq + 1` when none is.
    pub first_seq: Seq,
    /// Source position just before `first_seq`.
    pub before_first: SourcePosition,
    /// Durable end.
    pub durable: Durable,
    /// History record in force at the end; none only in a log nothing was pushed to yet.
    pub history: Option<History>,
    /// Size on disk, bytes.
    pub bytes: u64,
}

/// One segment, for `replctl log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// File name, or a label for a log without files.
    pub name: String,
    /// First transaction in it; none when it holds no transaction.
    pub first_seq: Option<Seq>,
    /// Last transaction in it.
    pub last_seq: Option<Seq>,
    /// Bytes.
    pub bytes: u64,
    /// No longer written to.
    pub sealed: bool,
}

/// Identity of one logged transaction, for matching against a source or a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxPoint {
    /// Epoch.
    pub epoch: Epoch,
    /// Sequence.
    pub seq: Seq,
    /// The source's transaction number.
    pub txid: u64,
    /// Position after it.
    pub position: SourcePosition,
}

/// What can go wrong with the log.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another process has the log open for writing.
    #[error("log directory {0} is in use by another daemon")]
    Locked(String),
    /// The device is full (or over quota). Nothing was lost; writing may be tried again.
    #[error("no space left for the event log in {0}")]
    Full(String),
    /// Reading or writing failed.
    #[error("event log I/O failed at {place}")]
    Io {
        /// File and operation.
        place: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// An fsync failed: what the device holds is unknown, so the process must stop and recover.
    #[error("fsync of the event log failed at {0}; the daemon must restart and re-read the log")]
    SyncFailed(String),
    /// Stored bytes are not what was written.
    #[error("event log damaged: {place}: {what}")]
    Damaged {
        /// File and byte offset.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The format is newer than this program.
    #[error("event log {place} has format version {found}; this version reads {known}")]
    Version {
        /// File.
        place: String,
        /// Version found.
        found: u32,
        /// Version this program reads.
        known: u32,
    },
    /// The wanted transaction is no longer held.
    #[error("transaction {wanted} is no longer in the log, which starts at {first}")]
    Trimmed {
        /// Sequence asked for.
        wanted: Seq,
        /// Oldest held.
        first: Seq,
    },
    /// The wanted transaction lies beyond the end.
    #[error("transaction {wanted} is beyond the log's end {last}")]
    Beyond {
        /// Sequence asked for.
        wanted: Seq,
        /// Last one that may be read.
        last: Seq,
    },
    /// A record breaks the rules of the log (sequence not dense, fragment out of place).
    #[error("event log misused: {0}")]
    Misuse(&'static str),
}

impl LogError {
    /// The error with its cause, and what is to be done where the process has too few file handles.
    pub fn explained(&self) -> String {
        let LogError::Io { source, .. } = self else {
            return self.to_string();
        };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
        let system = inner.map_or(source, |NotOpened(error)| error);
        let code = system.raw_os_error();
        let few = [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|few| code == Some(few.raw_os_error()));
        let hint = match few {
            true => {
                "; too few files may be open at the same time: raise the limit of the process (LimitNOFILE= in \
                 systemd, ulimit -n) or of the system (sysctl fs.file-max). It is tried again"
            }
            false => "",
        };
        format!("{self}: {source}{hint}")
    }
}

/// Called with each new durable end.
pub type Listener = Box<dyn Fn(&Durable) + Send + Sync>;

/// Called at each new appended end.
pub type AppendListener = Box<dyn Fn() + Send + Sync>;

/// The durable, ordered history. One per replication group.
pub trait EventLog: Send + Sync {
    /// Identity made at creation.
    fn id(&self) -> LogId;

    /// What is held now.
    fn bounds(&self) -> Bounds;

    /// How far whole transactions were appended.
    fn appended(&self) -> Appended;

    /// The segments, oldest first.
    fn segments(&self) -> Vec<SegmentInfo>;

    /// Takes the writing side. An earlier appender is void from then on, and what it left of an
    /// unfinished transaction is dropped.
    ///
    /// # Errors
    /// When an unfinished transaction cannot be cut off.
    fn appender(&self) -> Result<Box<dyn Appender>, LogError>;

    /// Makes everything appended so far durable and publishes it; returns false when there was
    /// nothing to do. To be called from one thread that may block.
    ///
    /// # Errors
    /// [`LogError::Full`] and [`LogError::Io`] keep everything pending; the call may be repeated
    /// after a pause. After [`LogError::SyncFailed`] every further call fails.
    fn flush(&self) -> Result<bool, LogError>;

    /// Readies the space behind the log's end, so that the next flushes take less time: to be called
    /// after a flush where somebody waits for each. May take as long as several of them.
    ///
    /// # Errors
    /// [`LogError::SyncFailed`], and then every further call fails.
    fn prepare(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Blocks until there is something to flush or `timeout` has passed. Returns how many bytes
    /// are pending.
    fn wait_for_work(&self, timeout: std::time::Duration) -> u64;

    /// Calls `listener` after each advance of the durable end, from the flushing thread.
    fn on_durable(&self, listener: Listener);

    /// Calls `listener` after each push that ends a transaction, or appends a mark or a history
    /// record, from the pushing thread: it must be quick and must not block.
    fn on_appended(&self, listener: AppendListener);

    /// Reads the durable transactions after `after`, and the marks and history records behind
    /// `after`.
    ///
    /// # Errors
    /// As [`EventLog::follow`].
    fn reader(&self, after: Seq) -> Result<Box<dyn Reader>, LogError> {
        self.follow(after, Visibility::Durable)
    }

    /// As [`EventLog::reader`], but returns what `visibility` says.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] when `after + 1` is no longer held, [`LogError::Beyond`] when `after`
    /// is past the end.
    fn follow(&self, after: Seq, visibility: Visibility) -> Result<Box<dyn Reader>, LogError>;

    /// The transaction at `seq`, durable or only appended, if it is held (or is the one just before
    /// the oldest held, whose identity is kept). Sequence 0 is none.
    ///
    /// # Errors
    /// When reading fails.
    fn point(&self, seq: Seq) -> Result<Option<TxPoint>, LogError>;

    /// The schema version with this number.
    fn schema(&self, id: SchemaId) -> Option<Arc<TableSchema>>;

    /// The newest schema version of a table.
    fn latest_schema(&self, table: &TableName) -> Option<Arc<TableSchema>>;

    /// The number for the next new schema version; numbers below were used.
    fn next_schema_id(&self) -> SchemaId;

    /// Deletes whole segments that hold nothing after `through`; the newest is always kept.
    /// Returns the bytes freed.
    ///
    /// # Errors
    /// When a file cannot be deleted.
    fn trim(&self, through: Seq) -> Result<u64, LogError>;
}

/// The single writing side of a log. Records are *appended* when `push` returns, not durable.
pub trait Appender: Send {
    /// Appends one record. Fragments must come in order: the first of a transaction carries
    /// `seq` = last + 1, the following ones the same; `ends` is true for the last fragment and for
    /// every other kind of record. While a transaction is open only fragments and schemas may be
    /// pushed. A history record makes its epoch the one in force, and is the first record of all.
    ///
    /// Changes refer to the newest schema version of their table, or to one that was newest when
    /// their transaction began: older versions may be gone once the log is opened again.
    ///
    /// # Errors
    /// [`LogError::Misuse`] when the order is broken or this appender was replaced; otherwise what
    /// the last flush failed with, if it cannot be retried.
    fn push(
        &mut self,
        kind: RecordKind,
        seq: Seq,
        ends: bool,
        payload: &[u8],
    ) -> Result<LogOffset, LogError>;

    /// Last whole transaction appended.
    fn last_seq(&self) -> Seq;

    /// Bytes appended and not yet fsynced: what back-pressure is measured by. Fragments of an open
    /// transaction that were fsynced do not count, although they are not published yet.
    fn pending_bytes(&self) -> u64;

    /// Drops what was appended of an unfinished transaction, also from disk.
    ///
    /// # Errors
    /// When it cannot be cut off.
    fn abandon(&mut self) -> Result<(), LogError>;
}

/// Reads whole transactions in order. Never blocks for new ones.
pub trait Reader: Send {
    /// The next record, or none at the end (try again after the next advance). Schema
    /// records are not returned: their content is reached through [`EventLog::schema`].
    ///
    /// # Errors
    /// [`LogError::Damaged`] when stored bytes fail their checks; [`LogError::Trimmed`] when the
    /// log was trimmed past this reader.
    fn next(&mut self) -> Result<Option<LogRecord>, LogError>;

    /// Bytes between this reader and the end.
    fn behind(&self) -> u64;

    /// Another reader at the same place.
    fn fork(&self) -> Box<dyn Reader>;
}

/// Payload bytes of a record together with its frame fields; what the storage layer passes around.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// Kind.
    pub kind: RecordKind,
    /// Epoch in force.
    pub epoch: Epoch,
    /// Sequence.
    pub seq: Seq,
    /// Last record of its transaction, or not a fragment.
    pub ends: bool,
    /// Payload, sharing the buffer it was read into.
    pub payload: Bytes,
}
