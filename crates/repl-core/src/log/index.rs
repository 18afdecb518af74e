//! Sparse index of a sealed segment: where to begin reading, and where its schema records are.
//!
//! An index is a cache. It is bound to its segment by the segment's end and chain, rebuilt by a
//! scan when it is missing, damaged or of another version, and everything found through it is
//! checked at the segment.

use serde::{Deserialize, Serialize};

use super::LogError;
use super::cursor::Cursor;
use super::dir::{LogDir, decode_checked, encode_checked, failed, index_name};
use super::disk::write_full;
use super::segment::{FORMAT_VERSION, Segment};
use crate::position::{LogId, Seq};

/// A place where reading may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Where a frame begins.
    pub offset: u64,
    /// Last whole transaction before it.
    pub seq: Seq,
    /// CRC of the frame before it.
    pub chain: u32,
}

impl Mark {
    /// The place of a cursor.
    pub fn at(cursor: &Cursor) -> Mark {
        Mark {
            offset: cursor.offset,
            seq: cursor.last.seq,
            chain: cursor.chain,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct IndexFile {
    version: u32,
    log: LogId,
    base: u64,
    end: u64,
    chain: u32,
    /// Offsets of the schema records.
    schemas: Vec<u64>,
    marks: Vec<Mark>,
}

/// Writes the index of `segment`, which ends at `end`. Not fsynced: a torn index fails its check.
pub(super) fn write(
    dir: &LogDir,
    id: LogId,
    segment: &Segment,
    end: &Cursor,
    schemas: Vec<u64>,
) -> Result<(), LogError> {
    let name = index_name(segment.base());
    let path = dir.path(&name);
    let index = IndexFile {
        version: FORMAT_VERSION,
        log: id,
        base: segment.base(),
        end: end.offset,
        chain: end.chain,
        schemas,
        marks: segment.marks.clone(),
    };
    let content = encode_checked(&index).map_err(|error| failed(&path, "encode", error.into()))?;
    let file = dir.create(&name)?;
    write_full(file.as_ref(), &content, 0).map_err(|error| failed(&path, "write", error))
}

/// The index of `segment`, which ends at `end`: its marks and the offsets of its schema records.
/// None when there is no usable one.
pub(super) fn read(
    dir: &LogDir,
    id: LogId,
    segment: &Segment,
    end: &Cursor,
) -> Option<(Vec<Mark>, Vec<u64>)> {
    let content = dir.read(&index_name(segment.base())).ok().flatten()?;
    let index: IndexFile = decode_checked(&content).ok()?;
    let within = |offset: u64| (segment.base()..end.offset).contains(&offset);
    let usable = index.version == FORMAT_VERSION
        && index.log == id
        && index.base == segment.base()
        && index.end == end.offset
        && index.chain == end.chain
        && index.schemas.iter().all(|&offset| within(offset))
        && index.marks.iter().all(|mark| within(mark.offset))
        && index.marks.is_sorted_by_key(|mark| mark.offset);
    usable.then_some((index.marks, index.schemas))
}
