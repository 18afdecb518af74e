//! From memory to disk: writing, fsync, publishing, rolling segments, and cutting off an
//! abandoned transaction.

use std::path::PathBuf;
use std::sync::Arc;

use super::LogError;
use super::cursor::Cursor;
use super::dir::{failed, index_name, segment_name};
use super::disk::{DiskFile, write_full};
use super::file::Inner;
use super::segment::hit;
use super::state::Batch;
use super::watermark::{Watermark, WatermarkFile};
use super::{index, segment};
use crate::failpoint;

/// The writing side of the files; its lock is held throughout a flush.
pub(super) struct Io {
    /// The segment written to.
    pub file: Arc<dyn DiskFile>,
    /// Offset of its first frame in the log, and position of that frame in the file.
    pub base: u64,
    pub data_start: u64,
    /// Everything before was written, if not fsynced.
    pub written: u64,
    /// The file holds nothing but zeros between the last byte written and this position, durably; 0
    /// where it ends with that byte.
    pub ready: u64,
    /// A failed write may have left bytes behind `written` that could not be cut off at once.
    pub garbage: bool,
    /// What a flush took and could not finish.
    pub in_flight: Option<Batch>,
    pub watermark: WatermarkFile,
}

impl Io {
    pub fn position(&self, offset: u64) -> u64 {
        self.data_start + (offset - self.base)
    }
}

impl Inner {
    /// See [`super::EventLog::flush`].
    pub fn flush(&self) -> Result<bool, LogError> {
        let before = self.state().durable.offset;
        let result = self.flush_batches();
        let after = {
            let state = self.state();
            (state.durable.offset > before).then(|| state.durable.durable())
        };
        // The listeners run without any lock of the log, and also when a second batch failed.
        if let Some(durable) = after {
            self.notify(&durable);
        }
        result
    }

    /// What an earlier flush could not finish is finished on its own first: a frame that opens a
    /// flush vouches for everything before it.
    fn flush_batches(&self) -> Result<bool, LogError> {
        let mut io = self.io();
        let retried = match io.in_flight.take() {
            Some(batch) => {
                self.complete(&mut io, batch)?;
                true
            }
            None => false,
        };
        self.state().check()?;
        let batch = self.state().take_batch();
        match batch {
            Some(batch) => self.complete(&mut io, batch).map(|()| true),
            None => Ok(retried),
        }
    }

    /// Makes a batch durable and publishes it, or keeps it for the next try.
    fn complete(&self, io: &mut Io, mut batch: Batch) -> Result<(), LogError> {
        match self.make_durable(io, &mut batch) {
            Ok(()) => {
                batch.compact();
                self.state().publish(batch);
                Ok(())
            }
            Err(error) => {
                io.in_flight = Some(batch);
                Err(error)
            }
        }
    }

    fn make_durable(&self, io: &mut Io, batch: &mut Batch) -> Result<(), LogError> {
        self.state().check()?;
        hit(&self.dir, &segment_name(io.base), "log.flush.before_write")?;
        self.write(io, batch)?;
        self.sync(io)?;
        io.watermark.note(Watermark {
            offset: batch.boundary.offset,
            seq: batch.boundary.last.seq,
        });
        Ok(())
    }

    /// Writes what is not written yet, beginning a new segment wherever one is due.
    fn write(&self, io: &mut Io, batch: &mut Batch) -> Result<(), LogError> {
        if io.garbage {
            io.cut_behind_written()
                .map_err(|error| failed(&self.segment_path(io), "truncate", error))?;
        }
        while io.written < batch.end {
            if let Some(at) = self.roll_at(io, batch) {
                self.roll(io, batch, &at)?;
            }
            let stop = batch
                .marks
                .iter()
                .map(|mark| mark.offset)
                .find(|&offset| offset > io.written && self.is_full(io, offset))
                .unwrap_or(batch.end);
            self.write_until(io, batch, stop)?;
        }
        Ok(())
    }

    /// Whether a segment that ends at `offset` is large enough. The preamble counts, but where it
    /// is most of a segment (thousands of tables, small segments), a new one would be due again and
    /// again; so the records must be a fair part.
    fn is_full(&self, io: &Io, offset: u64) -> bool {
        let records = offset - io.base;
        records > io.data_start / 4 && io.position(offset) >= self.options.segment_bytes
    }

    /// The state at the next byte to be written, if a segment is to begin there.
    fn roll_at(&self, io: &Io, batch: &Batch) -> Option<Cursor> {
        if !self.is_full(io, io.written) {
            return None;
        }
        std::iter::once(&batch.start)
            .chain(&batch.marks)
            .find(|cursor| cursor.offset == io.written)
            .cloned()
    }

    fn write_until(&self, io: &mut Io, batch: &Batch, stop: u64) -> Result<(), LogError> {
        for (start, buffer) in &batch.buffers {
            let end = stop.min(start + buffer.len() as u64);
            if end <= io.written {
                continue;
            }
            let piece = &buffer[(io.written - start) as usize..(end - start) as usize];
            if let Err(error) = self.write_piece(io, piece) {
                // The bytes are kept in memory and written again at the same place. Cutting them
                // off now only gives the space back to others.
                // What fails here is tried again before the next write.
                let _ = io.cut_behind_written();
                return Err(error);
            }
            io.written = end;
        }
        Ok(())
    }

    fn write_piece(&self, io: &Io, piece: &[u8]) -> Result<(), LogError> {
        let path = self.segment_path(io);
        let at = io.position(io.written);
        // In two parts only where a fault test may want to stop between them, and then within a frame.
        let first = if cfg!(feature = "failpoints") {
            piece.len().saturating_sub(1)
        } else {
            0
        };
        write_full(io.file.as_ref(), &piece[..first], at)
            .and_then(|()| failpoint::hit("log.flush.mid_write"))
            .and_then(|()| write_full(io.file.as_ref(), &piece[first..], at + first as u64))
            .map_err(|error| failed(&path, "write", error))
    }

    /// Fsyncs the segment written to. Whatever fails here is final: after a failed fsync nobody
    /// knows what the device holds, and a second one would report success for lost pages.
    pub fn sync(&self, io: &Io) -> Result<(), LogError> {
        failpoint::hit("log.flush.before_sync")
            .and_then(|()| io.file.sync_data())
            .and_then(|()| failpoint::hit("log.flush.after_sync"))
            .map_err(|error| self.fail(format!("{}: {error}", self.segment_path(io).display())))
    }

    fn segment_path(&self, io: &Io) -> PathBuf {
        self.dir.path(&segment_name(io.base))
    }

    /// Notes that nothing may be written any more.
    pub fn fail(&self, place: String) -> LogError {
        self.state().failed = Some(place.clone());
        LogError::SyncFailed(place)
    }

    /// An error of fsync in deeper layers is as final as one of our own.
    pub fn fatal(&self, error: LogError) -> LogError {
        match error {
            LogError::SyncFailed(place) => self.fail(place),
            other => other,
        }
    }

    /// Seals the segment written to and begins the next one at `at`.
    fn roll(&self, io: &mut Io, batch: &mut Batch, at: &Cursor) -> Result<(), LogError> {
        if io.ready > 0 {
            io.cut_behind_written()
                .map_err(|error| failed(&self.segment_path(io), "truncate", error))?;
        }
        self.sync(io)?;
        let (sealed, schemas, carried) = {
            let mut state = self.state();
            state.index(batch, at.offset);
            let schemas = state.schemas.recorded_in(io.base..at.offset);
            (
                state.segments.back().cloned(),
                schemas.into_iter().map(|(offset, _)| offset).collect(),
                state.carried(at),
            )
        };
        if let Some(sealed) = sealed {
            // The index can be rebuilt; for want of it nothing may fail.
            if index::write(&self.dir, self.id, &sealed, at, schemas).is_err() {
                let _ = self.dir.remove(&index_name(sealed.base()));
            }
        }
        let (segment, file) =
            segment::create(&self.dir, self.id, at, &carried).map_err(|error| self.fatal(error))?;
        io.file = file;
        io.ready = 0;
        io.base = segment.base();
        io.data_start = segment.data_start;
        self.state().segments.push_back(segment);
        hit(&self.dir, &segment_name(io.base), "log.roll.before_use")
    }

    /// Drops the open transaction, wherever its fragments have got to.
    pub fn abandon(&self, io: &mut Io) -> Result<(), LogError> {
        let to = {
            let state = self.state();
            state.check()?;
            match &state.before_open {
                Some(to) => to.clone(),
                None => return Ok(()),
            }
        };
        if to.offset < io.written {
            self.cut(io, to.offset).map_err(|error| {
                // Half cut, memory and disk disagree; a restart cuts the rest.
                self.state().failed = Some(format!("{}: {error}", self.dir.display()));
                error
            })?;
        }
        if let Some(mut batch) = io.in_flight.take()
            && batch.cut(to.offset)
        {
            io.in_flight = Some(batch);
        }
        let result = self.state().rewind(to);
        // Schema records may have been appended again.
        self.work.notify_one();
        result
    }

    /// Cuts the files at `offset`: later segments go newest first, each for good before the next,
    /// so that a crash in between leaves no gap.
    fn cut(&self, io: &mut Io, offset: u64) -> Result<(), LogError> {
        hit(
            &self.dir,
            &segment_name(io.base),
            "log.abandon.before_truncate",
        )?;
        loop {
            let newest = {
                let state = self.state();
                let newest = state.segments.back();
                newest.map(|segment| (segment.base(), segment.data_start))
            };
            let Some((base, data_start)) = newest else {
                return Err(LogError::Misuse("the log has no segment"));
            };
            if base <= offset {
                return self.truncate(io, offset, base, data_start);
            }
            self.dir.remove(&index_name(base))?;
            self.dir.remove(&segment_name(base))?;
            self.dir.sync()?;
            self.state().segments.pop_back();
        }
    }

    /// Makes the segment that begins at `base` the one written to, ending at `offset`.
    fn truncate(
        &self,
        io: &mut Io,
        offset: u64,
        base: u64,
        data_start: u64,
    ) -> Result<(), LogError> {
        let name = segment_name(base);
        let path = self.dir.path(&name);
        if io.base != base {
            self.dir.remove(&index_name(base))?;
            io.file = self.dir.open(&name)?;
            io.base = base;
            io.data_start = data_start;
        }
        io.written = offset;
        io.cut_behind_written()
            .map_err(|error| failed(&path, "truncate", error))?;
        self.sync(io)?;
        hit(&self.dir, &name, "log.abandon.after_truncate")
    }
}
