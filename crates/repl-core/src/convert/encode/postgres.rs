//! From PostgreSQL's text form.

use super::{Encoded, Encoder, FloatLimits, decimal, put_text, temporal, text};
use crate::codec::put_u64;
use crate::row::{Value, put_value};

pub(super) fn encode(encoder: &Encoder, input: &[u8], nearest: bool, out: &mut Vec<u8>) -> Encoded {
    match *encoder {
        Encoder::PgInteger => integer(input, out),
        Encoder::PgText(limits) => text::put(input, limits, nearest, out),
        Encoder::PgBool => boolean(input, out),
        Encoder::PgUnsigned => unsigned(input, out),
        Encoder::PgFloat(limits) => float(input, limits, nearest, out),
        Encoder::PgDecimal(limits) => decimal::put(input, limits, nearest, out),
        Encoder::PgMoney => decimal::put_money(input, out),
        Encoder::PgBytes { most } => bytes(input, most, out),
        Encoder::PgDate => temporal::put_date(input, nearest, out),
        Encoder::PgTime => temporal::put_time(input, out),
        Encoder::PgTimestamp { zoned, digits } => {
            temporal::put_timestamp(input, zoned, digits, nearest, out)
        }
        Encoder::PgInstant => temporal::put_instant(input, out),
        Encoder::PgBits => bits(input, out),
        _ => {
            put_text(out, input);
            Ok(())
        }
    }
}

fn boolean(input: &[u8], out: &mut Vec<u8>) -> Encoded {
    let value = match input {
        b"t" | b"true" => 1,
        b"f" | b"false" => 0,
        _ => return Err("is not a boolean".into()),
    };
    put_value(out, Value::Integer(value));
    Ok(())
}

fn integer(input: &[u8], out: &mut Vec<u8>) -> Encoded {
    let parsed = parse_integer(input).ok_or("is not a 64-bit integer")?;
    put_value(out, Value::Integer(parsed));
    Ok(())
}

/// Decimal digits with an optional minus; none when there is anything else or it overflows.
fn parse_integer(input: &[u8]) -> Option<i64> {
    let (negative, digits) = match input {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: i64 = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Counting downwards, because the negative range is the larger one.
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

fn unsigned(input: &[u8], out: &mut Vec<u8>) -> Encoded {
    let parsed: u64 = ascii(input)
        .and_then(|text| text.parse().ok())
        .ok_or("is not an unsigned 64-bit integer")?;
    match i64::try_from(parsed) {
        Ok(small) => put_value(out, Value::Integer(small)),
        Err(_) => put_text(out, input),
    }
    Ok(())
}

fn ascii(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

fn float(input: &[u8], limits: FloatLimits, nearest: bool, out: &mut Vec<u8>) -> Encoded {
    let text = ascii(input).ok_or("is not a number")?;
    // A single-precision number is read as one and then widened, which is exact.
    let (parsed, largest) = if limits.single {
        let single: f32 = text.parse().map_err(|_| "is not a number")?;
        (f64::from(single), f64::from(f32::MAX))
    } else {
        (text.parse().map_err(|_| "is not a number")?, f64::MAX)
    };
    if parsed.is_nan() {
        return Err("is NaN, which the target cannot hold".into());
    }
    if parsed.is_infinite() && !limits.infinite {
        if !nearest {
            return Err("is infinite, which the target cannot hold".into());
        }
        put_value(out, Value::Real(largest.copysign(parsed)));
        return Ok(());
    }
    if parsed == 0.0 && parsed.is_sign_negative() && !limits.signed_zero {
        if !nearest {
            return Err("is -0, which the target would store as 0".into());
        }
        put_value(out, Value::Real(0.0));
        return Ok(());
    }
    put_value(out, Value::Real(parsed));
    Ok(())
}

/// Tag of a BLOB and its length, to be followed by its bytes.
pub(super) fn begin_blob(out: &mut Vec<u8>, length: usize) {
    let tag_at = out.len();
    // The tag is the row format's own: taken from an empty value, whose length is then replaced.
    put_value(out, Value::Blob(b""));
    out.truncate(tag_at + 1);
    put_u64(out, length as u64);
}

fn bytes(input: &[u8], most: u32, out: &mut Vec<u8>) -> Encoded {
    let digits = input
        .strip_prefix(b"\\x")
        .filter(|digits| digits.len() % 2 == 0)
        .ok_or("is not in bytea's hexadecimal form")?;
    let length = digits.len() / 2;
    if length > most as usize {
        return Err(format!("has {length} bytes; the target's column holds {most}").into());
    }
    begin_blob(out, length);
    out.reserve(length);
    for pair in digits.chunks_exact(2) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        if high > 15 || low > 15 {
            return Err("is not in bytea's hexadecimal form".into());
        }
        out.push(high << 4 | low);
    }
    Ok(())
}

/// Value of each hexadecimal digit; 255 for other bytes.
const NIBBLES: [u8; 256] = {
    let mut table = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        let upper = b"0123456789ABCDEF"[digit];
        table[upper as usize] = digit as u8;
        table[upper.to_ascii_lowercase() as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// MySQL's BIT is a big-endian number.
fn bits(input: &[u8], out: &mut Vec<u8>) -> Encoded {
    if input.len() > 64 {
        return Err("has more than 64 bits".into());
    }
    let mut number: u64 = 0;
    for byte in input {
        match byte {
            b'0' | b'1' => number = number << 1 | u64::from(byte - b'0'),
            _ => return Err("is not a string of bits".into()),
        }
    }
    let length = input.len().div_ceil(8);
    put_value(out, Value::Blob(&number.to_be_bytes()[8 - length..]));
    Ok(())
}
