//! Frames: how one record lies in a segment.
//!
//! All integers little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | CRC-32C of everything behind it, payload included |
//! | 4..8 | payload length |
//! | 8..12 | CRC of the frame before (the *chain*) |
//! | 12..16 | epoch in force |
//! | 16..24 | sequence |
//! | 24 | record kind |
//! | 25 | flags |
//! | 26..28 | zero |
//! | 28.. | payload |
//!
//! The chain makes a frame valid in one place only: bytes left over from an earlier life of the
//! file, a segment restored from an old copy or two swapped segments all break it.

use bytes::Bytes;

use crate::position::{Epoch, Seq};
use crate::record::RecordKind;

/// Bytes in front of the payload.
pub(super) const HEAD_BYTES: usize = 28;

/// Longest payload, bytes.
pub(super) const MAX_PAYLOAD: usize = i32::MAX as usize;

/// Last record of its transaction, or not a fragment.
const FLAG_ENDS: u8 = 1;
/// First frame of a flush: it was written only after everything before it was fsynced. Found
/// behind bytes that do not check, it proves that those were durable once and are damaged now.
const FLAG_FIRST_OF_FLUSH: u8 = 2;

/// The fields in front of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// CRC of this frame.
    pub crc: u32,
    /// Payload length, bytes.
    pub length: usize,
    /// CRC of the frame before.
    pub chain: u32,
    pub epoch: Epoch,
    pub seq: Seq,
    pub kind: RecordKind,
    pub ends: bool,
    pub first_of_flush: bool,
}

impl Head {
    /// Size of the whole frame, bytes.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.length
    }

    /// Reads the fields from the first [`HEAD_BYTES`] of `bytes`. The CRC is not looked at.
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Head, &'static str> {
        let length = u32_at(bytes, 4) as usize;
        if length > MAX_PAYLOAD {
            return Err("impossible frame length");
        }
        let flags = bytes[25];
        if flags & !(FLAG_ENDS | FLAG_FIRST_OF_FLUSH) != 0 || bytes[26] != 0 || bytes[27] != 0 {
            return Err("unknown frame flags");
        }
        Ok(Head {
            crc: u32_at(bytes, 0),
            length,
            chain: u32_at(bytes, 8),
            epoch: Epoch(u32_at(bytes, 12)),
            seq: Seq(u64::from(u32_at(bytes, 16)) | u64::from(u32_at(bytes, 20)) << 32),
            kind: RecordKind::from_number(bytes[24]).ok_or("unknown kind of record")?,
            ends: flags & FLAG_ENDS != 0,
            first_of_flush: flags & FLAG_FIRST_OF_FLUSH != 0,
        })
    }
}

fn u32_at(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Appends a frame to `out` and returns its CRC. `head.crc` and `head.length` are filled in here.
pub(super) fn encode(out: &mut Vec<u8>, head: &Head, payload: &[u8]) -> u32 {
    let start = out.len();
    let mut bytes = [0; HEAD_BYTES];
    bytes[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[8..12].copy_from_slice(&head.chain.to_le_bytes());
    bytes[12..16].copy_from_slice(&head.epoch.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&head.seq.0.to_le_bytes());
    bytes[24] = head.kind as u8;
    bytes[25] = if head.ends { FLAG_ENDS } else { 0 }
        | if head.first_of_flush {
            FLAG_FIRST_OF_FLUSH
        } else {
            0
        };
    out.reserve(HEAD_BYTES + payload.len());
    out.extend_from_slice(&bytes);
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// A whole frame.
    Frame(Head, Bytes),
    /// The bytes end before the frame does; it needs this many in all.
    Short(usize),
    /// No frame.
    Bad(&'static str),
}

/// Looks at the start of `bytes` for the frame behind the one whose CRC is `chain`. `check` also
/// verifies the CRC; bytes that never left memory need not be.
pub(super) fn next(bytes: &Bytes, chain: u32, check: bool) -> Next {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Next::Short(HEAD_BYTES);
    };
    let head = match Head::parse(head) {
        Ok(head) => head,
        Err(what) => return Next::Bad(what),
    };
    if head.chain != chain {
        return Next::Bad("frame does not follow the one before it");
    }
    let size = head.frame_bytes();
    if bytes.len() < size {
        return Next::Short(size);
    }
    if check && crc32c::crc32c(&bytes[4..size]) != head.crc {
        return Next::Bad("checksum mismatch");
    }
    Next::Frame(head, bytes.slice(HEAD_BYTES..size))
}

/// Whether a frame that opens a flush lies anywhere in `bytes`.
pub(super) fn holds_first_of_flush(bytes: &[u8]) -> bool {
    // Bytes that merely look like a head cost a checksum each; the budget keeps a segment full of
    // them from stalling the start.
    let mut budget = 1usize << 30;
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else {
            break;
        };
        let Ok(head) = Head::parse(head) else {
            continue;
        };
        let size = head.frame_bytes();
        if !head.first_of_flush || size > rest.len() {
            continue;
        }
        if crc32c::crc32c(&rest[4..size]) == head.crc {
            return true;
        }
        budget = budget.saturating_sub(size);
        if budget == 0 {
            break;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Bytes {
        let head = Head {
            crc: 0,
            length: 0,
            chain: 7,
            epoch: Epoch(3),
            seq: Seq(1 << 40),
            kind: RecordKind::Mark,
            ends: true,
            first_of_flush: true,
        };
        let mut out = Vec::new();
        encode(&mut out, &head, payload);
        Bytes::from(out)
    }

    #[test]
    fn round_trips() {
        let bytes = frame(b"payload");
        match next(&bytes, 7, true) {
            Next::Frame(head, payload) => {
                assert_eq!(head.seq, Seq(1 << 40));
                assert_eq!(head.epoch, Epoch(3));
                assert!(head.ends && head.first_of_flush);
                assert_eq!(payload, &b"payload"[..]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = frame(b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            let next = next(&Bytes::from(copy), 7, true);
            assert!(!matches!(next, Next::Frame(..)), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_short() {
        let bytes = frame(b"payload");
        for length in 0..bytes.len() {
            let next = next(&bytes.slice(..length), 7, true);
            assert!(matches!(next, Next::Short(_)), "length {length}");
        }
    }

    #[test]
    fn the_start_of_a_flush_is_found_among_garbage() {
        let mut bytes = vec![0xa5; 100];
        assert!(!holds_first_of_flush(&bytes));
        bytes.extend_from_slice(&frame(b"x"));
        bytes.push(9);
        assert!(holds_first_of_flush(&bytes));
    }
}
