//! The newest part of the log, kept in memory and shared by all readers without copying.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a chunk costs beside its bytes.
const CHUNK_OVERHEAD: u64 = 128;

/// Contiguous chunks of frames, oldest dropped first.
#[derive(Debug)]
pub(super) struct Tail {
    chunks: VecDeque<(u64, Bytes)>,
    bytes: u64,
    limit: u64,
}

impl Tail {
    /// Keeps at most `limit` bytes. Chunks that readers hold live on until they let go.
    pub fn new(limit: u64) -> Tail {
        Tail {
            chunks: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    /// Adds the chunk that begins at `offset`, where the last one ended; returns those that had to
    /// make room.
    pub fn push(&mut self, offset: u64, chunk: Bytes) -> Vec<Bytes> {
        let mut gone = Vec::new();
        self.bytes += chunk.len() as u64 + CHUNK_OVERHEAD;
        self.chunks.push_back((offset, chunk));
        while self.bytes > self.limit
            && let Some((_, dropped)) = self.chunks.pop_front()
        {
            self.bytes -= dropped.len() as u64 + CHUNK_OVERHEAD;
            gone.push(dropped);
        }
        gone
    }

    /// What is held from `offset` to the end of its chunk, but not beyond `limit`.
    pub fn from(&self, offset: u64, limit: u64) -> Option<Bytes> {
        let behind = self.chunks.partition_point(|&(start, _)| start <= offset);
        let (start, chunk) = self.chunks.get(behind.checked_sub(1)?)?;
        let end = limit.min(start + chunk.len() as u64);
        (offset < end).then(|| chunk.slice((offset - start) as usize..(end - start) as usize))
    }

    /// Forgets everything at and behind `offset`.
    pub fn cut(&mut self, offset: u64) {
        while let Some((start, chunk)) = self.chunks.back_mut() {
            let keep = offset.saturating_sub(*start);
            if keep >= chunk.len() as u64 {
                break;
            }
            self.bytes -= chunk.len() as u64 - keep;
            chunk.truncate(keep as usize);
            if keep == 0 {
                self.bytes -= CHUNK_OVERHEAD;
                self.chunks.pop_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_fits_and_cuts_what_is_void() {
        let mut tail = Tail::new(2 * (4 + CHUNK_OVERHEAD));
        for n in 0..4u64 {
            tail.push(n * 4, Bytes::from_static(b"abcd"));
        }
        assert_eq!(tail.from(4, 99), None, "dropped");
        assert_eq!(tail.from(9, 99), Some(Bytes::from_static(b"bcd")));
        assert_eq!(tail.from(9, 11), Some(Bytes::from_static(b"bc")));
        assert_eq!(tail.from(11, 11), None);
        tail.cut(10);
        assert_eq!(tail.from(8, 99), Some(Bytes::from_static(b"ab")));
        assert_eq!(tail.from(12, 99), None);
        tail.push(10, Bytes::from_static(b"xy"));
        assert_eq!(tail.from(11, 99), Some(Bytes::from_static(b"y")));
        tail.cut(0);
        assert_eq!(tail.from(8, 99), None);
    }
}
