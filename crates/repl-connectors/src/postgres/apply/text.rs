//! Values as PostgreSQL reads them: parameters, array literals, COPY fields.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use repl_core::ErrorKind;
use repl_core::row::{Row, Value};

use crate::seam::{ConnectorError, Result};

/// Capacity kept from one use to the next, bytes per column.
const KEPT_BYTES: usize = 1024 * 1024;

/// A value's text form; none is NULL.
///
/// # Errors
/// [`ErrorKind::Internal`] for a value that was not sent: it must never be written.
pub(super) fn text_of(value: Value<'_>) -> Result<Option<Cow<'_, [u8]>>> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Text(text) => Cow::Borrowed(text),
        Value::Integer(integer) => Cow::Owned(integer.to_string().into_bytes()),
        Value::Real(real) => Cow::Owned(real_text(real).into_bytes()),
        Value::Blob(blob) => Cow::Owned(hex_text(blob)),
        Value::Unchanged => return Err(incomplete()),
    }))
}

pub(super) fn incomplete() -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Internal,
        "a row image lacks a value where the whole row is needed",
    )
}

fn real_text(real: f64) -> String {
    if real.is_nan() {
        "NaN".into()
    } else if real.is_infinite() {
        if real > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        // Rust's shortest form that reads back as the same double.
        format!("{real:?}")
    }
}

fn hex_text(blob: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = Vec::with_capacity(2 + 2 * blob.len());
    out.extend_from_slice(b"\\x");
    for byte in blob {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out
}

/// The columns of many rows as one array literal each, built side by side. Buffers are kept from
/// one use to the next.
#[derive(Default)]
pub(super) struct Arrays {
    columns: Vec<Vec<u8>>,
    used: usize,
    rows: usize,
    bytes: usize,
}

impl Arrays {
    /// Starts arrays of this many columns.
    pub(super) fn start(&mut self, columns: usize) {
        if self.columns.len() < columns {
            self.columns.resize_with(columns, Vec::new);
        }
        for column in &mut self.columns[..columns] {
            column.clear();
            column.shrink_to(KEPT_BYTES);
            column.push(b'{');
        }
        self.used = columns;
        self.rows = 0;
        self.bytes = 0;
    }

    /// Adds an element to a column; `delimiter` is that of its type.
    pub(super) fn push(&mut self, column: usize, value: Value<'_>, delimiter: u8) -> Result<()> {
        let out = &mut self.columns[column];
        let before = out.len();
        if before > 1 {
            out.push(delimiter);
        }
        match text_of(value)? {
            None => out.extend_from_slice(b"NULL"),
            Some(text) => {
                // Always quoted: "NULL", blanks, braces, delimiters and the empty text need it.
                out.push(b'"');
                escape(out, &text, |byte| {
                    matches!(byte, b'"' | b'\\').then_some(byte)
                });
                out.push(b'"');
            }
        }
        self.bytes += out.len() - before;
        Ok(())
    }

    /// Ends a row.
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Size of all arrays, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The finished literals.
    pub(super) fn finish(&mut self) -> &[Vec<u8>] {
        for column in &mut self.columns[..self.used] {
            column.push(b'}');
        }
        &self.columns[..self.used]
    }
}

/// Appends `text`, putting a backslash before each byte for which `special` names a replacement.
fn escape(out: &mut Vec<u8>, text: &[u8], special: impl Fn(u8) -> Option<u8>) {
    if is_plain(text) {
        return out.extend_from_slice(text);
    }
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        if let Some(replacement) = special(byte) {
            out.extend_from_slice(&text[start..at]);
            out.push(b'\\');
            out.push(replacement);
            start = at + 1;
        }
    }
    out.extend_from_slice(&text[start..]);
}

/// Whether nothing in `text` needs a backslash, in an array or in COPY. Looks at all of it without
/// stopping, which takes many bytes at a time.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    let special = |byte| (byte <= b'\r') | (byte == b'"') | (byte == b'\\');
    !text
        .iter()
        .fold(false, |found, &byte| found | special(byte))
}

/// Appends one row in COPY's text format.
pub(super) fn put_copy_row(out: &mut BytesMut, row: &Row, width: usize) -> Result<()> {
    let mut columns = 0;
    for value in row.values()? {
        if columns > 0 {
            out.put_u8(b'\t');
        }
        columns += 1;
        match value? {
            Value::Text(text) => put_copy_text(out, text),
            other => match text_of(other)? {
                None => out.put_slice(b"\\N"),
                Some(text) => put_copy_text(out, &text),
            },
        }
    }
    if columns != width {
        return Err(wrong_width(columns, width));
    }
    out.put_u8(b'\n');
    Ok(())
}

#[inline]
fn put_copy_text(out: &mut BytesMut, text: &[u8]) {
    if is_plain(text) {
        return out.extend_from_slice(text);
    }
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        let letter = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(&text[start..at]);
        out.extend_from_slice(&[b'\\', letter]);
        start = at + 1;
    }
    out.extend_from_slice(&text[start..]);
}

pub(super) fn wrong_width(found: usize, expected: usize) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Internal,
        format!("a row image of {found} columns where the schema has {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: &[Value<'_>], delimiter: u8) -> String {
        let mut arrays = Arrays::default();
        arrays.start(1);
        for value in values {
            arrays.push(0, *value, delimiter).unwrap();
            arrays.end_row();
        }
        String::from_utf8(arrays.finish()[0].clone()).unwrap()
    }

    #[test]
    fn array_elements_are_quoted_and_null_is_not() {
        let values = [
            Value::Null,
            Value::Text(b"NULL"),
            Value::Text(b""),
            Value::Text(b"a,\"b\"\\{}"),
            Value::Integer(-5),
        ];
        assert_eq!(
            array(&values, b','),
            r#"{NULL,"NULL","","a,\"b\"\\{}","-5"}"#
        );
        assert_eq!(
            array(&[Value::Text(b"(1,2)"), Value::Null], b';'),
            r#"{"(1,2)";NULL}"#
        );
    }

    #[test]
    fn arrays_are_reusable() {
        let mut arrays = Arrays::default();
        for _ in 0..2 {
            arrays.start(2);
            arrays.push(0, Value::Text(b"x"), b',').unwrap();
            arrays.push(1, Value::Null, b',').unwrap();
            arrays.end_row();
            assert_eq!((arrays.rows(), arrays.bytes()), (1, 7));
            assert_eq!(arrays.finish(), [b"{\"x\"}".to_vec(), b"{NULL}".to_vec()]);
        }
    }

    #[test]
    fn copy_fields_are_escaped() {
        let row = Row::from_values(
            [
                Value::Null,
                Value::Text(b"\\."),
                Value::Text(b"a\tb\nc\rd"),
                Value::Blob(&[0, 255]),
                Value::Real(-0.0),
            ]
            .into_iter(),
        );
        let mut out = BytesMut::new();
        put_copy_row(&mut out, &row, 5).unwrap();
        assert_eq!(&out[..], b"\\N\t\\\\.\ta\\tb\\nc\\rd\t\\\\x00ff\t-0.0\n");
        assert!(put_copy_row(&mut out, &row, 4).is_err());
    }

    #[test]
    fn an_unsent_value_is_never_written() {
        let row = Row::from_values([Value::Unchanged].into_iter());
        assert!(put_copy_row(&mut BytesMut::new(), &row, 1).is_err());
        assert!(text_of(Value::Unchanged).is_err());
    }
}
