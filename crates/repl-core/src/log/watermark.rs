//! The durable end, noted beside the segments after each fsync.
//!
//! It tells a torn tail (bytes that were never durable, to be cut) from damage to bytes that were.
//! The note itself is not fsynced, which would double the cost of a flush: a lost or torn note
//! proves nothing and changes nothing, and one that is there was written after the fsync it
//! speaks of.

use std::sync::Arc;

use super::LogError;
use super::dir::{LogDir, WATERMARK, failed};
use super::disk::{DiskFile, read_full, write_full};
use crate::position::{LogId, Seq};

const MAGIC: [u8; 8] = *b"REPLDURA";
const BYTES: usize = 44;

/// What the note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermark {
    /// Everything before was durable.
    pub offset: u64,
    /// Last whole transaction there.
    pub seq: Seq,
}

/// The file, kept open.
pub(super) struct WatermarkFile {
    id: LogId,
    file: Arc<dyn DiskFile>,
}

impl WatermarkFile {
    /// Opens the note of the log `id`, making it where it is missing, and returns what it says.
    pub fn open(dir: &LogDir, id: LogId) -> Result<(WatermarkFile, Option<Watermark>), LogError> {
        let path = dir.path(WATERMARK);
        let file = match dir.try_open(WATERMARK) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => dir.create(WATERMARK)?,
            Err(error) => return Err(failed(&path, "open", error)),
        };
        let mut bytes = [0; BYTES];
        let read = read_full(file.as_ref(), &mut bytes, 0)
            .map_err(|error| failed(&path, "read", error))?;
        let said = (read == BYTES).then(|| decode(&bytes, id)).flatten();
        Ok((WatermarkFile { id, file }, said))
    }

    /// Notes the durable end. A failure is of no consequence and therefore not reported.
    pub fn note(&self, watermark: Watermark) {
        let _ = write_full(self.file.as_ref(), &encode(watermark, self.id), 0);
    }
}

fn encode(watermark: Watermark, id: LogId) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..24].copy_from_slice(id.0.as_bytes());
    bytes[24..32].copy_from_slice(&watermark.offset.to_le_bytes());
    bytes[32..40].copy_from_slice(&watermark.seq.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES], id: LogId) -> Option<Watermark> {
    let number = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    let watermark = Watermark {
        offset: number(24),
        seq: Seq(number(32)),
    };
    (encode(watermark, id) == *bytes).then_some(watermark)
}
