//! Readers: from the shared tail where it reaches back far enough, else from the files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::dir::{failed, segment_name};
use super::disk::{DiskFile, read_full};
use super::file::Inner;
use super::frame::{self, HEAD_BYTES, Head, Next};
use super::index::Mark;
use super::state::{Found, State};
use super::{LogError, Reader, TxPoint, Visibility};
use crate::position::{Seq, SourcePosition};
use crate::record::{Body, LogRecord, RecordKind, peek_fragment};

/// Bytes read from a file at once, unless a frame is larger.
const READ_BYTES: u64 = 1024 * 1024;

/// Bytes copied at once of what is not durable yet, unless a frame is larger: the log is locked
/// meanwhile.
const COPY_BYTES: usize = 64 * 1024;

/// A reader's place in the log.
#[derive(Clone)]
pub(super) struct FileReader {
    inner: Arc<Inner>,
    /// Fragments up to this transaction are passed over.
    after: Seq,
    visibility: Visibility,
    /// Last transaction returned in whole or in part; for errors.
    reached: Seq,
    /// Where the next frame begins, and the CRC of the one before.
    offset: u64,
    chain: u32,
    /// Bytes from `offset` on, none of them beyond the end.
    chunk: Bytes,
    /// The chunk came from a file.
    from_disk: bool,
    file: Option<OpenSegment>,
}

/// A segment being read. The open file stays readable when the segment is trimmed.
#[derive(Clone)]
struct OpenSegment {
    base: u64,
    data_start: u64,
    file: Arc<dyn DiskFile>,
}

impl FileReader {
    /// A reader of everything after `after`, beginning its search at `mark`.
    pub fn new(inner: Arc<Inner>, after: Seq, mark: Mark, visibility: Visibility) -> FileReader {
        FileReader {
            inner,
            after,
            visibility,
            reached: after,
            offset: mark.offset,
            chain: mark.chain,
            chunk: Bytes::new(),
            from_disk: false,
            file: None,
        }
    }

    /// The next frame up to the end.
    pub fn frame(&mut self) -> Result<Option<(Head, Bytes)>, LogError> {
        loop {
            let wanted = match frame::next(&self.chunk, self.chain, self.from_disk) {
                Next::Frame(head, payload) => {
                    let size = head.frame_bytes();
                    self.chunk = self.chunk.slice(size..);
                    self.offset += size as u64;
                    self.chain = head.crc;
                    return Ok(Some((head, payload)));
                }
                Next::Short(wanted) => wanted,
                Next::Bad(what) => return Err(self.damaged(what)),
            };
            if !self.refill(wanted)? {
                return Ok(None);
            }
        }
    }

    /// Fetches at least `wanted` bytes; false at the end.
    fn refill(&mut self, wanted: usize) -> Result<bool, LogError> {
        let inner = Arc::clone(&self.inner);
        let state = inner.state();
        let limit = state.end(self.visibility).offset;
        if self.offset >= limit {
            self.chunk = Bytes::new();
            return Ok(false);
        }
        let (base, data_start, end) = match state.find(self.offset, limit, COPY_BYTES.max(wanted)) {
            Found::Memory(chunk) => {
                if chunk.len() < wanted {
                    return Err(self.damaged("a frame crosses the end"));
                }
                self.from_disk = false;
                self.chunk = chunk;
                return Ok(true);
            }
            Found::File(base, data_start, end) => (base, data_start, end),
            Found::Trimmed => return self.skip_trimmed(&state),
        };
        drop(state);
        match self.open(base, data_start) {
            Ok(file) => self.read(
                file.as_ref(),
                data_start + (self.offset - base),
                end,
                wanted,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = inner.state();
                let listed = state
                    .segments
                    .front()
                    .is_some_and(|first| first.base() <= base);
                if listed {
                    return Err(failed(&inner.dir.path(&segment_name(base)), "open", error));
                }
                self.skip_trimmed(&state)
            }
            Err(error) => Err(failed(&inner.dir.path(&segment_name(base)), "open", error)),
        }
    }

    /// Goes on with the oldest segment if all that was trimmed here is marks and transactions that
    /// were read already.
    fn skip_trimmed(&mut self, state: &State) -> Result<bool, LogError> {
        match state.segments.front() {
            Some(first) if state.oldest.point.seq <= self.reached => {
                self.after = self.after.max(self.reached);
                self.offset = first.start.offset;
                self.chain = first.start.chain;
                self.chunk = Bytes::new();
                Ok(true)
            }
            _ => Err(state.trimmed(self.reached.next())),
        }
    }

    fn read(
        &mut self,
        file: &dyn DiskFile,
        at: u64,
        end: u64,
        wanted: usize,
    ) -> Result<bool, LogError> {
        self.from_disk = true;
        let available = end.saturating_sub(self.offset);
        if wanted as u64 > available {
            return Err(self.damaged("a frame crosses the end of its segment"));
        }
        let size = available.min(READ_BYTES.max(wanted as u64)) as usize;
        let mut bytes = vec![0; size];
        let read = read_full(file, &mut bytes, at).map_err(|source| LogError::Io {
            place: self.place(),
            source,
        })?;
        if read < size {
            return Err(self.damaged("the file is shorter than what was written to it"));
        }
        self.chunk = Bytes::from(bytes);
        Ok(true)
    }

    fn open(&mut self, base: u64, data_start: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(open) = &self.file
            && open.base == base
        {
            return Ok(Arc::clone(&open.file));
        }
        let file = self.inner.dir.try_open(&segment_name(base))?;
        self.file = Some(OpenSegment {
            base,
            data_start,
            file: Arc::clone(&file),
        });
        Ok(file)
    }

    fn damaged(&self, what: &str) -> LogError {
        LogError::Damaged {
            place: self.place(),
            what: what.to_owned(),
        }
    }

    /// Where the reader is, for people.
    fn place(&self) -> String {
        match &self.file {
            Some(open) if self.from_disk && self.offset >= open.base => {
                let path = self.inner.dir.path(&segment_name(open.base));
                let at = open.data_start + (self.offset - open.base);
                format!("{} at byte {at}", path.display())
            }
            _ => format!("{} at log offset {}", self.inner.dir.display(), self.offset),
        }
    }

    /// Finds the end of transaction `after + 1`.
    pub fn point(&mut self) -> Result<Option<TxPoint>, LogError> {
        let wanted = self.after.next();
        let mut txid = 0;
        while let Some((head, payload)) = self.frame()? {
            if head.kind != RecordKind::Fragment || head.seq < wanted {
                continue;
            }
            if head.seq > wanted {
                break;
            }
            let fragment = peek_fragment(&payload).map_err(|error| self.damaged(error.0))?;
            txid = fragment.txid.unwrap_or(txid);
            if let Some(position) = fragment.position {
                return Ok(Some(TxPoint {
                    epoch: head.epoch,
                    seq: head.seq,
                    txid,
                    position: SourcePosition(position.to_owned()),
                }));
            }
        }
        Ok(None)
    }
}

impl FileReader {
    /// Source position of the last mark or history record before the next transaction, if there
    /// is one. The reader is of no use afterwards.
    pub fn position_before_transaction(&mut self) -> Result<Option<SourcePosition>, LogError> {
        let mut position = None;
        while let Some((head, payload)) = self.frame()? {
            if head.kind == RecordKind::Fragment {
                break;
            }
            match Body::decode(head.kind, &payload) {
                Ok(Body::Mark(mark)) => position = Some(mark),
                Ok(Body::History(history)) => position = Some(history.position),
                Ok(_) => {}
                Err(error) => return Err(self.damaged(error.0)),
            }
        }
        Ok(position)
    }
}

impl Reader for FileReader {
    fn behind(&self) -> u64 {
        let end = self.inner.state().end(self.visibility).offset;
        end.saturating_sub(self.offset)
    }

    fn fork(&self) -> Box<dyn Reader> {
        Box::new(self.clone())
    }

    fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        while let Some((head, payload)) = self.frame()? {
            let wanted = match head.kind {
                RecordKind::Fragment => head.seq > self.after,
                RecordKind::Schema => false,
                RecordKind::History | RecordKind::Mark => head.seq >= self.after,
            };
            if !wanted {
                continue;
            }
            self.reached = if head.ends {
                head.seq
            } else {
                Seq(head.seq.0 - 1)
            };
            let body = Body::decode(head.kind, &payload).map_err(|error| self.damaged(error.0))?;
            return Ok(Some(LogRecord {
                epoch: head.epoch,
                seq: head.seq,
                size: (HEAD_BYTES + head.length) as u64,
                body,
            }));
        }
        Ok(None)
    }
}
