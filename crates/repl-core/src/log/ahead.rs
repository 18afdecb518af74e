//! Space ahead of the log's end, written before it is needed.
//!
//! An fsync of bytes that make a file longer also waits for the file system's journal; one of bytes
//! that overwrite what is there does not. Where somebody waits for each fsync, zeros are therefore
//! written and fsynced beyond the end, between two flushes. Recovery finds no frame in them and cuts
//! them off, as it does a torn tail; a sealed segment ends where its frames do.

use super::LogError;
use super::disk::write_full;
use super::file::Inner;
use super::flush::Io;

/// Most bytes written ahead at once; a small part of a segment, if that is less.
const MOST: u64 = 1024 * 1024;

/// Part of a segment that is written ahead at once.
const PART: u64 = 8;

impl Io {
    /// Cuts the file off where writing goes on, zeros included.
    pub fn cut_behind_written(&mut self) -> std::io::Result<()> {
        self.ready = 0;
        self.garbage = true;
        self.file.truncate(self.position(self.written))?;
        self.garbage = false;
        Ok(())
    }
}

impl Inner {
    /// See [`super::EventLog::prepare`].
    pub fn prepare(&self) -> Result<(), LogError> {
        let mut io = self.io();
        let wanted = MOST.min(self.options.segment_bytes / PART);
        let end = io.position(io.written);
        if io.garbage || io.in_flight.is_some() || io.ready >= end + wanted / 4 {
            return Ok(());
        }
        self.state().check()?;
        let from = io.ready.max(end);
        let to = (end + wanted).min(self.options.segment_bytes);
        if to <= from {
            return Ok(());
        }
        let zeros = vec![0; (to - from) as usize];
        if write_full(io.file.as_ref(), &zeros, from).is_err() {
            // Nobody needs it: what there is of space is left to others. What fails here is tried
            // again before the next write.
            let _ = io.cut_behind_written();
            return Ok(());
        }
        self.sync(&io)?;
        io.ready = to;
        Ok(())
    }
}
