//! Segment files: a head, a preamble that makes the segment readable alone, then frames.
//!
//! The head is 64 bytes, integers little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `REPLSEGM` |
//! | 8..12 | format version |
//! | 12..16 | length of the preamble |
//! | 16..32 | log id |
//! | 32..40 | offset of the first frame in the log |
//! | 40..44 | CRC of the frame before (the chain) |
//! | 44..48 | CRC-32C of the preamble |
//! | 48..60 | zero |
//! | 60..64 | CRC-32C of the bytes before |
//!
//! The preamble is JSON: the state at the first frame and every schema version the frames may
//! refer to. Head and preamble are not part of the log's address space.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cursor::{Cursor, OpenTx};
use super::dir::{LogDir, failed, segment_name};
use super::disk::{DiskFile, read_full};
use super::index::Mark;
use super::{LogError, TxPoint};
use crate::position::{Epoch, LogId, Seq, SourcePosition};
use crate::record::History;
use crate::schema::TableSchema;

/// Format version of segments, index files and the directory.
pub(super) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"REPLSEGM";
const HEAD_BYTES: usize = 64;

/// A segment as it is kept in memory.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// State at its first frame.
    pub start: Cursor,
    /// Position of its first frame in the file.
    pub data_start: u64,
    /// Sparse index, ascending.
    pub marks: Vec<Mark>,
}

impl Segment {
    /// Offset of its first frame in the log.
    pub fn base(&self) -> u64 {
        self.start.offset
    }

    /// File name.
    pub fn name(&self) -> String {
        segment_name(self.base())
    }
}

#[derive(Serialize, Deserialize)]
struct Preamble<S> {
    epoch: Epoch,
    seq: Seq,
    txid: u64,
    tx_epoch: Epoch,
    tx_position: SourcePosition,
    position: SourcePosition,
    history: Option<History>,
    open: Option<Open>,
    next_schema: u32,
    schemas: Vec<S>,
}

#[derive(Serialize, Deserialize)]
struct Open {
    start: u64,
    txid: u64,
}

/// Creates the segment that begins at `start`; when this returns, the file is there for good.
pub(super) fn create(
    dir: &LogDir,
    id: LogId,
    start: &Cursor,
    schemas: &[Arc<TableSchema>],
) -> Result<(Segment, Arc<dyn DiskFile>), LogError> {
    let name = segment_name(start.offset);
    let path = dir.path(&name);
    let content = encode(id, start, schemas).map_err(|error| failed(&path, "encode", error))?;
    let file = dir.prepare(&name, &content, "log.roll.created")?;
    hit(dir, &name, "log.roll.header_synced")?;
    dir.finish(&name)?;
    hit(dir, &name, "log.roll.dir_synced")?;
    let segment = Segment {
        start: start.clone(),
        data_start: content.len() as u64,
        marks: Vec::new(),
    };
    Ok((segment, file))
}

/// Passes a failpoint that stands for trouble with the file `name`.
pub(super) fn hit(dir: &LogDir, name: &str, failpoint: &str) -> Result<(), LogError> {
    crate::failpoint::hit(failpoint).map_err(|error| failed(&dir.path(name), failpoint, error))
}

fn encode(id: LogId, start: &Cursor, schemas: &[Arc<TableSchema>]) -> std::io::Result<Vec<u8>> {
    let preamble = Preamble {
        epoch: start.epoch,
        seq: start.last.seq,
        txid: start.last.txid,
        tx_epoch: start.last.epoch,
        tx_position: start.last.position.clone(),
        position: start.position.clone(),
        history: start.history.as_deref().cloned(),
        open: start.open.map(|open| Open {
            start: open.start,
            txid: open.txid,
        }),
        next_schema: start.next_schema,
        schemas: schemas.iter().map(Arc::as_ref).collect(),
    };
    let mut content = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut content, &preamble)?;
    let length = u32::try_from(content.len() - HEAD_BYTES)
        .map_err(|_| std::io::Error::other("the table schemas exceed 4 GiB"))?;
    let preamble_crc = crc32c::crc32c(&content[HEAD_BYTES..]);
    content[..8].copy_from_slice(&MAGIC);
    content[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    content[12..16].copy_from_slice(&length.to_le_bytes());
    content[16..32].copy_from_slice(id.0.as_bytes());
    content[32..40].copy_from_slice(&start.offset.to_le_bytes());
    content[40..44].copy_from_slice(&start.chain.to_le_bytes());
    content[44..48].copy_from_slice(&preamble_crc.to_le_bytes());
    let crc = crc32c::crc32c(&content[..60]);
    content[60..64].copy_from_slice(&crc.to_le_bytes());
    Ok(content)
}

/// A segment as found on disk, not looked at beyond its preamble.
pub(super) struct Found {
    pub segment: Segment,
    pub schemas: Vec<TableSchema>,
    /// Where its frames end, by the file's length.
    pub end: u64,
}

/// Opens the segment that begins at `base` and reads its head and preamble.
pub(super) fn open(dir: &LogDir, id: LogId, base: u64) -> Result<Found, LogError> {
    let name = segment_name(base);
    let path = dir.path(&name);
    let damaged = |at: u64, what: String| LogError::Damaged {
        place: format!("{} at byte {at}", path.display()),
        what,
    };
    let file = dir.open(&name)?;
    let length = file
        .length()
        .map_err(|error| failed(&path, "measure", error))?;
    let read = |at: u64, bytes: &mut [u8]| match read_full(file.as_ref(), bytes, at) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(damaged(at, "the file ends inside its head".to_owned())),
        Err(error) => Err(failed(&path, "read", error)),
    };
    let mut head = [0; HEAD_BYTES];
    read(0, &mut head)?;
    let head = Head::parse(&head).map_err(|problem| match problem {
        HeadProblem::Version(found) => LogError::Version {
            place: path.display().to_string(),
            found,
            known: FORMAT_VERSION,
        },
        HeadProblem::Damaged(what) => damaged(0, what.to_owned()),
    })?;
    if head.id != id {
        let what = format!("the segment belongs to log {}, not to {id}", head.id);
        return Err(damaged(16, what));
    }
    if head.base != base {
        let what = format!("the segment is the one that begins at {}", head.base);
        return Err(damaged(32, what));
    }
    let data_start = (HEAD_BYTES + head.preamble_bytes) as u64;
    if data_start > length {
        return Err(damaged(12, "the file ends inside its preamble".to_owned()));
    }
    let mut preamble = vec![0; head.preamble_bytes];
    read(HEAD_BYTES as u64, &mut preamble)?;
    if crc32c::crc32c(&preamble) != head.preamble_crc {
        let what = "checksum mismatch in the preamble".to_owned();
        return Err(damaged(HEAD_BYTES as u64, what));
    }
    let preamble: Preamble<TableSchema> = serde_json::from_slice(&preamble)
        .map_err(|error| damaged(HEAD_BYTES as u64, error.to_string()))?;
    let (start, schemas) = restore(head.base, head.chain, preamble);
    Ok(Found {
        segment: Segment {
            start,
            data_start,
            marks: Vec::new(),
        },
        schemas,
        end: base + (length - data_start),
    })
}

/// Whether a segment's content holds no frame; none when its head is damaged.
pub(super) fn is_empty(content: &[u8]) -> Option<bool> {
    let head = Head::parse(content.first_chunk()?).ok()?;
    Some(content.len() <= HEAD_BYTES + head.preamble_bytes)
}

fn restore(base: u64, chain: u32, preamble: Preamble<TableSchema>) -> (Cursor, Vec<TableSchema>) {
    let cursor = Cursor {
        offset: base,
        chain,
        epoch: preamble.epoch,
        last: TxPoint {
            epoch: preamble.tx_epoch,
            seq: preamble.seq,
            txid: preamble.txid,
            position: preamble.tx_position,
        },
        position: preamble.position,
        history: preamble.history.map(Arc::new),
        open: preamble.open.map(|open| OpenTx {
            start: open.start,
            txid: open.txid,
        }),
        next_schema: preamble.next_schema,
    };
    (cursor, preamble.schemas)
}

struct Head {
    id: LogId,
    base: u64,
    chain: u32,
    preamble_bytes: usize,
    preamble_crc: u32,
}

enum HeadProblem {
    Version(u32),
    Damaged(&'static str),
}

impl Head {
    fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Head, HeadProblem> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if bytes[..8] != MAGIC {
            return Err(HeadProblem::Damaged("not a segment of an event log"));
        }
        if crc32c::crc32c(&bytes[..60]) != u32_at(60) {
            return Err(HeadProblem::Damaged("checksum mismatch in the head"));
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(HeadProblem::Version(u32_at(8)));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[16..32]);
        Ok(Head {
            id: LogId(uuid::Uuid::from_bytes(id)),
            base: u64::from(u32_at(32)) | u64::from(u32_at(36)) << 32,
            chain: u32_at(40),
            preamble_bytes: u32_at(12) as usize,
            preamble_crc: u32_at(44),
        })
    }
}
