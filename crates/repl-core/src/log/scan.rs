//! Reading a segment from its start, checking every frame and the rules between them.

use bytes::Bytes;

use super::LogError;
use super::cursor::Cursor;
use super::dir::{LogDir, failed};
use super::disk::{DiskFile, read_full};
use super::frame::{self, HEAD_BYTES, Head, Next};
use super::index::Mark;
use super::segment::Found;
use crate::schema::TableSchema;

/// Bytes read at once, unless a frame is larger.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// What a scan found.
pub(super) struct Scan {
    /// State behind the last good frame.
    pub end: Cursor,
    /// Why the scan ended before it should have; none when it did not.
    pub problem: Option<&'static str>,
    /// Index marks.
    pub marks: Vec<Mark>,
    /// Schema records and where they begin.
    pub schemas: Vec<(u64, TableSchema)>,
}

impl Scan {
    /// What lies behind the last good frame.
    pub fn rest(&self, dir: &LogDir, found: &Found) -> Result<Bytes, LogError> {
        let size = found.end - self.end.offset;
        let file = dir.open(&found.segment.name())?;
        read(dir, found, file.as_ref(), self.end.offset, size)
    }
}

/// Scans `found` up to `limit`, a log offset not beyond its end, with an index mark every
/// `index_bytes`.
///
/// # Errors
/// [`LogError::Damaged`] when good frames do not make a log; otherwise when reading fails.
pub(super) fn scan(
    dir: &LogDir,
    found: &Found,
    limit: u64,
    index_bytes: u64,
) -> Result<Scan, LogError> {
    let file = dir.open(&found.segment.name())?;
    let mut scan = Scan {
        end: found.segment.start.clone(),
        problem: None,
        marks: Vec::new(),
        schemas: Vec::new(),
    };
    let mut chunk = Bytes::new();
    let mut last_mark = scan.end.offset;
    while scan.end.offset < limit {
        let left = limit - scan.end.offset;
        match frame::next(&chunk, scan.end.chain, true) {
            Next::Frame(head, payload) => {
                if scan.end.offset >= last_mark + index_bytes {
                    last_mark = scan.end.offset;
                    scan.marks.push(Mark::at(&scan.end));
                }
                // A frame that checks was written as it is: if it breaks the rules, that is no
                // torn tail.
                scan.take(&head, &payload)
                    .map_err(|what| damaged_at(dir, found, scan.end.offset, what))?;
                chunk = chunk.slice(head.frame_bytes()..);
            }
            Next::Short(wanted) if wanted as u64 <= left => {
                let size = left.min(READ_BYTES.max(wanted as u64));
                chunk = read(dir, found, file.as_ref(), scan.end.offset, size)?;
            }
            Next::Short(_) => {
                scan.problem = Some("a frame reaches beyond the end");
                return Ok(scan);
            }
            Next::Bad(what) => {
                scan.problem = Some(what);
                return Ok(scan);
            }
        }
    }
    Ok(scan)
}

impl Scan {
    fn take(&mut self, head: &Head, payload: &Bytes) -> Result<(), &'static str> {
        let begin = self.end.offset;
        let schema = self.end.accept(head.kind, head.seq, head.ends, payload)?;
        if self.end.epoch != head.epoch {
            return Err("epoch of a frame is not the one in force");
        }
        self.end.advance(head.crc, head.frame_bytes());
        if let Some(schema) = schema {
            self.schemas.push((begin, schema));
        }
        Ok(())
    }
}

/// Reads the frame at `offset`, checking its own CRC but not its place in the chain.
pub(super) fn read_frame(
    dir: &LogDir,
    found: &Found,
    offset: u64,
) -> Result<(Head, Bytes), LogError> {
    let left = found.end.saturating_sub(offset);
    let file = dir.open(&found.segment.name())?;
    let bad = |what: &str| damaged_at(dir, found, offset, what);
    let bytes = read(
        dir,
        found,
        file.as_ref(),
        offset,
        left.min(HEAD_BYTES as u64),
    )?;
    let head = bytes
        .first_chunk::<HEAD_BYTES>()
        .ok_or("the segment ends inside a frame")
        .and_then(Head::parse)
        .map_err(bad)?;
    if head.frame_bytes() as u64 > left {
        return Err(bad("a frame reaches beyond the end"));
    }
    let bytes = read(dir, found, file.as_ref(), offset, head.frame_bytes() as u64)?;
    match frame::next(&bytes, head.chain, true) {
        Next::Frame(head, payload) => Ok((head, payload)),
        Next::Bad(what) => Err(bad(what)),
        Next::Short(_) => Err(bad("the segment ends inside a frame")),
    }
}

fn read(
    dir: &LogDir,
    found: &Found,
    file: &dyn DiskFile,
    offset: u64,
    size: u64,
) -> Result<Bytes, LogError> {
    let path = dir.path(&found.segment.name());
    let at = found.segment.data_start + (offset - found.segment.base());
    let mut bytes = vec![0; size as usize];
    let read = read_full(file, &mut bytes, at).map_err(|error| failed(&path, "read", error))?;
    if read < bytes.len() {
        let what = "the file became shorter while it was read";
        return Err(damaged_at(dir, found, offset, what));
    }
    Ok(Bytes::from(bytes))
}

/// The error for bytes at a log offset that are not what was written.
pub(super) fn damaged_at(dir: &LogDir, found: &Found, offset: u64, what: &str) -> LogError {
    let path = dir.path(&found.segment.name());
    let at = found.segment.data_start + (offset - found.segment.base());
    LogError::Damaged {
        place: format!("{} at byte {at}", path.display()),
        what: what.to_owned(),
    }
}
