//! Single values as text that tells all of them, for files that people read and keys that are found
//! again: a letter for the class, then the value.
//!
//! `i-5` an integer, `r3ff8000000000000` the bits of a double, `ttext` a text, `u80ff` the bytes of a text
//! that is no UTF-8, `x00ff` a BLOB.

use std::fmt::Write as _;

use crate::row::Value;

/// The value as text; none for NULL and for what was not sent.
pub fn spell(value: Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null | Value::Unchanged => return None,
        Value::Integer(integer) => format!("i{integer}"),
        Value::Real(real) => format!("r{:016x}", real.to_bits()),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => format!("t{text}"),
            Err(_) => digits('u', text),
        },
        Value::Blob(blob) => digits('x', blob),
    })
}

fn digits(class: char, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(1 + bytes.len() * 2);
    text.push(class);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A value by itself, which can be spelled.
#[derive(Clone, Debug, PartialEq)]
pub enum Spelt {
    /// A 64-bit integer.
    Integer(i64),
    /// A double.
    Real(f64),
    /// A text, which need not be UTF-8.
    Text(Vec<u8>),
    /// Raw bytes.
    Blob(Vec<u8>),
}

impl Spelt {
    /// The value by itself; none for NULL and for what was not sent.
    pub fn of(value: Value<'_>) -> Option<Spelt> {
        Some(match value {
            Value::Null | Value::Unchanged => return None,
            Value::Integer(integer) => Spelt::Integer(integer),
            Value::Real(real) => Spelt::Real(real),
            Value::Text(text) => Spelt::Text(text.to_vec()),
            Value::Blob(blob) => Spelt::Blob(blob.to_vec()),
        })
    }

    /// Reads what [`spell`] wrote; none for anything else.
    pub fn read(text: &str) -> Option<Spelt> {
        let rest = text.get(1..)?;
        Some(match text.as_bytes()[0] {
            b'i' => Spelt::Integer(rest.parse().ok()?),
            b'r' => Spelt::Real(f64::from_bits(u64::from_str_radix(rest, 16).ok()?)),
            b't' => Spelt::Text(rest.as_bytes().to_vec()),
            b'u' => Spelt::Text(bytes(rest)?),
            b'x' => Spelt::Blob(bytes(rest)?),
            _ => return None,
        })
    }

    /// The value.
    pub fn value(&self) -> Value<'_> {
        match self {
            Spelt::Integer(integer) => Value::Integer(*integer),
            Spelt::Real(real) => Value::Real(*real),
            Spelt::Text(text) => Value::Text(text),
            Spelt::Blob(blob) => Value::Blob(blob),
        }
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    };
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_their_class_bit_by_bit() {
        for (value, text) in [
            (Value::Integer(-5), "i-5"),
            (Value::Integer(i64::MIN), "i-9223372036854775808"),
            (Value::Real(1.5), "r3ff8000000000000"),
            (Value::Real(-0.0), "r8000000000000000"),
            (Value::Real(f64::INFINITY), "r7ff0000000000000"),
            (Value::Text(b""), "t"),
            (Value::Text("x'\0ä\u{fffd}".as_bytes()), "tx'\0ä\u{fffd}"),
            (Value::Text(b"X'00'"), "tX'00'"),
            (Value::Text(b"\x80\xff"), "u80ff"),
            (Value::Blob(b""), "x"),
            (Value::Blob(b"\x00\xff"), "x00ff"),
        ] {
            assert_eq!(spell(value).as_deref(), Some(text));
            let read = Spelt::read(text).unwrap();
            assert_eq!(read.value(), value);
            assert_eq!(Spelt::of(value), Some(read.clone()));
            if let (Spelt::Real(a), Value::Real(b)) = (&read, value) {
                assert_eq!(a.to_bits(), b.to_bits());
            }
        }
        assert_eq!(spell(Value::Null), None);
        assert_eq!(spell(Value::Unchanged), None);
    }

    #[test]
    fn what_was_not_spelled_here_is_nothing() {
        for text in ["", "é", "1", "i", "i1.5", "rx", "x0", "xgg", "uü", "z00"] {
            assert_eq!(Spelt::read(text), None, "{text}");
        }
    }
}
