//! Rows in their encoded form, read without copying.
//!
//! A row is the count of its columns followed by each column as a tag and its bytes. Values keep
//! the source's own lossless form: PostgreSQL's text output, SQLite's storage classes. A column
//! the source did not send because it did not change (TOAST) is [`Value::Unchanged`] and is never
//! guessed.

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::{Decoder, Malformed, put_bytes, put_u64};

/// One column's value, borrowed from its row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// Not sent by the source: the value is what the row already holds.
    Unchanged,
    /// The source's text form; for SQLite a TEXT value, which need not be valid UTF-8.
    Text(&'a [u8]),
    /// A 64-bit integer (SQLite INTEGER).
    Integer(i64),
    /// A double (SQLite REAL).
    Real(f64),
    /// Raw bytes (SQLite BLOB).
    Blob(&'a [u8]),
}

const TAG_NULL: u8 = 0;
const TAG_UNCHANGED: u8 = 1;
const TAG_TEXT: u8 = 2;
const TAG_INTEGER: u8 = 3;
const TAG_REAL: u8 = 4;
const TAG_BLOB: u8 = 5;

/// An encoded row. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row(Bytes);

impl Row {
    /// Builds a row from values.
    pub fn from_values<'a>(values: impl ExactSizeIterator<Item = Value<'a>>) -> Row {
        let mut out = Vec::new();
        put_u64(&mut out, values.len() as u64);
        for value in values {
            put_value(&mut out, value);
        }
        Row(Bytes::from(out))
    }

    /// Wraps bytes that hold exactly one encoded row. They are read lazily; a malformed row shows
    /// as an error of [`Row::values`].
    pub fn from_encoded(bytes: Bytes) -> Row {
        Row(bytes)
    }

    /// The encoded bytes.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// Iterates over the columns in order.
    ///
    /// # Errors
    /// When the column count cannot be read.
    pub fn values(&self) -> Result<Values<'_>, Malformed> {
        let mut decoder = Decoder::new(&self.0);
        let left = decoder.u64()?;
        let left = usize::try_from(left).map_err(|_| Malformed("too many columns"))?;
        if left > self.0.len() {
            return Err(Malformed("more columns than bytes"));
        }
        Ok(Values { decoder, left })
    }

    /// All columns as a vector.
    ///
    /// # Errors
    /// When the encoding is damaged.
    pub fn to_vec(&self) -> Result<Vec<Value<'_>>, Malformed> {
        self.values()?.collect()
    }

    /// True when at least one column is [`Value::Unchanged`].
    ///
    /// # Errors
    /// When the encoding is damaged.
    pub fn has_unchanged(&self) -> Result<bool, Malformed> {
        for value in self.values()? {
            if matches!(value?, Value::Unchanged) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The encoded form of the columns at `columns` (ascending order not required), usable as a
    /// hash key: equal bytes mean equal values. Neighbouring columns, the common case, are a slice
    /// of the row itself.
    ///
    /// # Errors
    /// When the encoding is damaged or a column is missing.
    pub fn key(&self, columns: &[usize]) -> Result<Cow<'_, [u8]>, Malformed> {
        let mut values = self.values()?;
        let neighbours = columns.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        if let (true, Some(first)) = (neighbours, columns.first()) {
            values.pass(*first)?;
            let start = values.decoder.remaining();
            values.pass(columns.len())?;
            let length = start.len() - values.decoder.remaining().len();
            return Ok(Cow::Borrowed(&start[..length]));
        }
        let all: Vec<Value<'_>> = values.collect::<Result<_, _>>()?;
        let mut out = Vec::new();
        for &column in columns {
            put_value(
                &mut out,
                *all.get(column).ok_or(Malformed("key column missing"))?,
            );
        }
        Ok(Cow::Owned(out))
    }

    /// This row with each [`Value::Unchanged`] column taken from `before`.
    ///
    /// # Errors
    /// When either encoding is damaged or the widths differ.
    pub fn filled_from(&self, before: &Row) -> Result<Row, Malformed> {
        let old = before.to_vec()?;
        let new = self.to_vec()?;
        if old.len() != new.len() {
            return Err(Malformed("row images of different width"));
        }
        Ok(Row::from_values(new.iter().zip(&old).map(|(n, o)| {
            if *n == Value::Unchanged { *o } else { *n }
        })))
    }
}

/// Iterator over a row's columns.
pub struct Values<'a> {
    decoder: Decoder<'a>,
    left: usize,
}

impl Values<'_> {
    /// Passes over columns.
    fn pass(&mut self, columns: usize) -> Result<(), Malformed> {
        for _ in 0..columns {
            self.next().ok_or(Malformed("key column missing"))??;
        }
        Ok(())
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Value<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(take_value(&mut self.decoder))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// Appends one encoded value.
#[inline]
pub fn put_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => out.push(TAG_NULL),
        Value::Unchanged => out.push(TAG_UNCHANGED),
        Value::Text(text) => {
            out.push(TAG_TEXT);
            put_bytes(out, text);
        }
        Value::Integer(integer) => {
            out.push(TAG_INTEGER);
            out.extend_from_slice(&integer.to_le_bytes());
        }
        Value::Real(real) => {
            out.push(TAG_REAL);
            out.extend_from_slice(&real.to_bits().to_le_bytes());
        }
        Value::Blob(blob) => {
            out.push(TAG_BLOB);
            put_bytes(out, blob);
        }
    }
}

#[inline]
fn take_value<'a>(decoder: &mut Decoder<'a>) -> Result<Value<'a>, Malformed> {
    let eight = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map_err(|_| Malformed("ends early"));
    match decoder.u8()? {
        TAG_NULL => Ok(Value::Null),
        TAG_UNCHANGED => Ok(Value::Unchanged),
        TAG_TEXT => Ok(Value::Text(decoder.bytes()?)),
        TAG_INTEGER => Ok(Value::Integer(i64::from_le_bytes(eight(decoder.take(8)?)?))),
        TAG_REAL => Ok(Value::Real(f64::from_bits(u64::from_le_bytes(eight(
            decoder.take(8)?,
        )?)))),
        TAG_BLOB => Ok(Value::Blob(decoder.bytes()?)),
        _ => Err(Malformed("unknown value tag")),
    }
}

/// Writes rows straight into a change being built, without an intermediate vector of values.
pub struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
    length_at: usize,
}

/// Bytes reserved in front of a row for its length; a fixed width lets it be filled in afterwards.
pub(crate) const ROW_LENGTH_BYTES: usize = 4;

impl<'a> RowWriter<'a> {
    /// Starts a row of `columns` columns at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, columns: usize) -> Self {
        let length_at = out.len();
        out.extend_from_slice(&[0; ROW_LENGTH_BYTES]);
        put_u64(out, columns as u64);
        RowWriter { out, length_at }
    }

    /// Appends the next column.
    #[inline]
    pub fn put(&mut self, value: Value<'_>) {
        put_value(self.out, value);
    }

    /// Ends the row by filling in its length.
    pub fn finish(self) {
        let length = (self.out.len() - self.length_at - ROW_LENGTH_BYTES) as u32;
        self.out[self.length_at..self.length_at + ROW_LENGTH_BYTES]
            .copy_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_bit_exactly() {
        let values = [
            Value::Null,
            Value::Unchanged,
            Value::Text(b"\x00\xff"),
            Value::Integer(i64::MIN),
            Value::Real(-0.0),
            Value::Blob(b""),
        ];
        let row = Row::from_values(values.iter().copied());
        let back = row.to_vec().unwrap();
        assert_eq!(back, values);
        assert!(matches!(back[4], Value::Real(r) if r.is_sign_negative()));
    }

    #[test]
    fn a_key_of_neighbouring_columns_is_a_slice_equal_to_the_general_form() {
        let row = Row::from_values(
            [Value::Text(b"a"), Value::Integer(7), Value::Text(b"ccc")].into_iter(),
        );
        let mut expected = Vec::new();
        put_value(&mut expected, Value::Integer(7));
        assert_eq!(row.key(&[1]).unwrap(), expected);
        put_value(&mut expected, Value::Text(b"ccc"));
        let neighbours = row.key(&[1, 2]).unwrap();
        assert!(matches!(neighbours, Cow::Borrowed(_)));
        assert_eq!(neighbours, expected);
        let mut turned = Vec::new();
        put_value(&mut turned, Value::Text(b"ccc"));
        put_value(&mut turned, Value::Integer(7));
        assert_eq!(row.key(&[2, 1]).unwrap(), turned);
        assert!(row.key(&[3]).is_err());
        assert!(row.key(&[2, 3]).is_err());
    }

    #[test]
    fn unchanged_columns_are_filled_from_the_image_before() {
        let before = Row::from_values([Value::Text(b"k"), Value::Text(b"big")].into_iter());
        let after = Row::from_values([Value::Text(b"k2"), Value::Unchanged].into_iter());
        let merged = after.filled_from(&before).unwrap();
        assert_eq!(
            merged.to_vec().unwrap(),
            [Value::Text(b"k2"), Value::Text(b"big")]
        );
    }
}
