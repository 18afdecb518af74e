//! From SQLite's storage classes.

use super::postgres::begin_blob;
use super::{Encoded, Encoder, Form, Reason, Short, TextLimits, put_text, text};
use crate::codec::put_u64;
use crate::row::{Value, put_value};

pub(super) fn encode(
    encoder: &Encoder,
    value: Value<'_>,
    nearest: bool,
    out: &mut Vec<u8>,
) -> Encoded {
    match *encoder {
        Encoder::LiteInteger(form) => {
            put_integer(integer(value, nearest)?, form, out);
            Ok(())
        }
        Encoder::LiteBoolean(form) => boolean(value, nearest, form, out),
        Encoder::LiteReal(form) => real(value, nearest, form, out),
        Encoder::LiteNumber => match value {
            Value::Integer(integer) => {
                put_integer(integer, Form::Text, out);
                Ok(())
            }
            Value::Real(real) => {
                put_real(real, out);
                Ok(())
            }
            other => Err(class(other, "a number")),
        },
        Encoder::LiteText { limits, blobs } => characters(value, limits, blobs, nearest, out),
        Encoder::LiteBytes { form, most } => bytes(value, form, most, out),
        _ => Err(class(value, "a value of PostgreSQL")),
    }
}

/// The refusal of a storage class.
fn class(value: Value<'_>, wanted: &str) -> Reason {
    let found = match value {
        Value::Integer(_) => "an INTEGER",
        Value::Real(_) => "a REAL",
        Value::Text(_) => "a TEXT",
        Value::Blob(_) => "a BLOB",
        Value::Null => "NULL",
        Value::Unchanged => "missing",
    };
    format!("is {found} where the target's column needs {wanted}").into()
}

fn put_integer(integer: i64, form: Form, out: &mut Vec<u8>) {
    match form {
        Form::Class => put_value(out, Value::Integer(integer)),
        Form::Text => put_text(out, Short::of(format_args!("{integer}")).bytes()),
    }
}

fn integer(value: Value<'_>, nearest: bool) -> Result<i64, Reason> {
    match value {
        Value::Integer(integer) => Ok(integer),
        // The cast saturates, which is the clamp.
        Value::Real(real) if nearest && !real.is_nan() => Ok(real.round() as i64),
        other => Err(class(other, "an integer")),
    }
}

fn boolean(value: Value<'_>, nearest: bool, form: Form, out: &mut Vec<u8>) -> Encoded {
    let truth = match value {
        Value::Integer(0) => false,
        Value::Integer(1) => true,
        Value::Integer(_) if nearest => true,
        Value::Real(real) if nearest && !real.is_nan() => real != 0.0,
        Value::Integer(_) => {
            return Err("is an INTEGER other than 0 and 1, the target's column a boolean".into());
        }
        other => return Err(class(other, "a boolean, 0 or 1")),
    };
    match form {
        Form::Class => put_value(out, Value::Integer(i64::from(truth))),
        Form::Text => put_text(out, if truth { b"t" } else { b"f" }),
    }
    Ok(())
}

fn real(value: Value<'_>, nearest: bool, form: Form, out: &mut Vec<u8>) -> Encoded {
    let mut real = match value {
        // The column itself stores -0 as 0, though a trigger sees it as it was written.
        Value::Real(real) => real + 0.0,
        Value::Integer(integer) => {
            let real = integer as f64;
            // Through 128 bits: 2^63 would saturate back to the same 64-bit integer.
            if real as i128 != i128::from(integer) && !nearest {
                return Err("is an integer with more digits than a double holds".into());
            }
            real
        }
        other => return Err(class(other, "a number")),
    };
    if form == Form::Text {
        put_real(real, out);
        return Ok(());
    }
    if !real.is_finite() {
        if real.is_nan() || !nearest {
            return Err("is not finite, which the target cannot hold".into());
        }
        real = f64::MAX.copysign(real);
    }
    put_value(out, Value::Real(real));
    Ok(())
}

/// The shortest digits that read back as the same double.
fn put_real(real: f64, out: &mut Vec<u8>) {
    if real.is_nan() {
        put_text(out, b"NaN");
    } else if real.is_infinite() {
        put_text(
            out,
            if real > 0.0 {
                b"Infinity"
            } else {
                b"-Infinity"
            },
        );
    } else {
        put_text(out, Short::of(format_args!("{real:?}")).bytes());
    }
}

fn characters(
    value: Value<'_>,
    limits: TextLimits,
    blobs: bool,
    nearest: bool,
    out: &mut Vec<u8>,
) -> Encoded {
    match value {
        Value::Text(text) => text::put(text, limits, nearest, out),
        Value::Integer(integer) => {
            put_integer(integer, Form::Text, out);
            Ok(())
        }
        Value::Real(real) => {
            put_real(real, out);
            Ok(())
        }
        Value::Blob(blob) if blobs => literal(blob, limits, out),
        other => Err(class(other, "text")),
    }
}

/// `X'00ff'`.
fn literal(blob: &[u8], limits: TextLimits, out: &mut Vec<u8>) -> Encoded {
    let length = blob.len() * 2 + 3;
    if length > limits.bytes.min(limits.chars) as usize {
        return Err(format!("has {} bytes, too many for its literal", blob.len()).into());
    }
    begin_text(out, length);
    out.extend_from_slice(b"X'");
    push_hexadecimal(blob, out);
    out.push(b'\'');
    Ok(())
}

fn begin_text(out: &mut Vec<u8>, length: usize) {
    let tag_at = out.len();
    put_value(out, Value::Text(b""));
    out.truncate(tag_at + 1);
    put_u64(out, length as u64);
}

fn push_hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn bytes(value: Value<'_>, form: Form, most: u32, out: &mut Vec<u8>) -> Encoded {
    let Value::Blob(blob) = value else {
        return Err(class(value, "bytes"));
    };
    if blob.len() > most as usize {
        return Err(format!("has {} bytes; the target's column holds {most}", blob.len()).into());
    }
    match form {
        Form::Class => {
            begin_blob(out, blob.len());
            out.extend_from_slice(blob);
        }
        Form::Text => {
            begin_text(out, blob.len() * 2 + 2);
            out.extend_from_slice(b"\\x");
            push_hexadecimal(blob, out);
        }
    }
    Ok(())
}
