//! Variable-length integers and byte strings, shared by every durable encoding.
//!
//! Integers are LEB128; signed ones are zigzag-coded first. Decoding never panics on hostile
//! input: a short or overlong field is a [`Malformed`] error.

use thiserror::Error;

/// A field that ends too early, is too long or holds an impossible value.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("malformed record: {0}")]
pub struct Malformed(pub &'static str);

/// Appends an unsigned integer.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a byte string with its length in front.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over encoded fields.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// True when everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed("ends early"))?;
        self.rest = rest;
        Ok(first)
    }

    /// Reads an unsigned integer.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Malformed("integer too large"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("integer too long"))
    }

    /// Reads an unsigned integer that must fit 32 bits.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed("integer exceeds 32 bits"))
    }

    /// Reads a signed integer.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        let raw = self.u64()?;
        Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    /// Reads `len` raw bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if len > self.rest.len() {
            return Err(Malformed("ends early"));
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    /// Reads a byte string with its length in front.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u64()?).map_err(|_| Malformed("length too large"))?;
        self.take(len)
    }

    /// Reads a byte string that must be UTF-8.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_and_bytes_round_trip(u in any::<u64>(), i in any::<i64>(), b in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_u64(&mut out, u);
            put_i64(&mut out, i);
            put_bytes(&mut out, &b);
            let mut decoder = Decoder::new(&out);
            prop_assert_eq!(decoder.u64(), Ok(u));
            prop_assert_eq!(decoder.i64(), Ok(i));
            prop_assert_eq!(decoder.bytes(), Ok(b.as_slice()));
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn hostile_input_is_an_error_not_a_panic(b in any::<Vec<u8>>()) {
            let mut decoder = Decoder::new(&b);
            while decoder.bytes().is_ok() && !decoder.is_empty() {}
        }
    }
}
