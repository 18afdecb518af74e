//! Single values from the source's form into the target's.
//!
//! An [`Encoder`] is chosen once per column; encoding then appends to the output row without
//! allocating. On an error the output may hold a part of the value: the caller cuts it off.

mod decimal;
mod postgres;
mod sqlite;
mod temporal;
mod text;

use std::borrow::Cow;

use crate::row::{Value, put_value};

pub(super) use decimal::DecimalLimits;
pub(super) use text::TextLimits;

/// Why a value cannot be represented, in words that follow "the value".
pub(super) type Reason = Cow<'static, str>;
pub(super) type Encoded = Result<(), Reason>;

/// How a value is handed to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Everything as text, as PostgreSQL takes it.
    Text,
    /// In its own class.
    Class,
}

/// What a floating-point column of the target holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FloatLimits {
    /// Four bytes at the source.
    pub(super) single: bool,
    pub(super) infinite: bool,
    /// The sign of zero is kept. Measured: MariaDB 10.11 stores -0 as 0.
    pub(super) signed_zero: bool,
}

impl FloatLimits {
    pub(super) const MYSQL: FloatLimits = FloatLimits {
        single: false,
        infinite: false,
        signed_zero: false,
    };
    pub(super) const MYSQL_SINGLE: FloatLimits = FloatLimits {
        single: true,
        infinite: false,
        signed_zero: false,
    };
    pub(super) const SQLITE: FloatLimits = FloatLimits {
        single: false,
        infinite: true,
        signed_zero: true,
    };
    pub(super) const SQLITE_SINGLE: FloatLimits = FloatLimits {
        single: true,
        infinite: true,
        signed_zero: true,
    };
}

/// How the values of one column are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// As they are.
    Same,

    // From PostgreSQL's text form.
    /// `t`, `f` to 1, 0.
    PgBool,
    /// To a 64-bit integer.
    PgInteger,
    /// To a 64-bit integer; beyond its range as digits.
    PgUnsigned,
    /// To a double.
    PgFloat(FloatLimits),
    /// Digits, as far as the limits hold.
    PgDecimal(DecimalLimits),
    /// `$1,234.50` to `1234.50`.
    PgMoney,
    /// The text itself.
    PgText(TextLimits),
    /// Hexadecimal digits to at most that many bytes.
    PgBytes {
        most: u32,
    },
    /// A date of years 1 to 9999.
    PgDate,
    /// A time of day.
    PgTime,
    /// Date and time of years 1 to 9999, the zone UTC and not written.
    PgTimestamp {
        zoned: bool,
        digits: u8,
    },
    /// Any instant, the zone written as `+00:00`.
    PgInstant,
    /// Digits 0 and 1 to bytes, big-endian.
    PgBits,

    // From SQLite's storage classes.
    LiteInteger(Form),
    LiteBoolean(Form),
    LiteReal(Form),
    /// Any number as exact digits.
    LiteNumber,
    /// Text, and numbers in digits; `blobs` also BLOBs as literals.
    LiteText {
        limits: TextLimits,
        blobs: bool,
    },
    LiteBytes {
        form: Form,
        most: u32,
    },
}

/// Appends the converted value; `value` is neither NULL nor unchanged.
///
/// # Errors
/// Why it cannot be represented.
#[inline]
pub(super) fn encode(
    encoder: &Encoder,
    value: Value<'_>,
    nearest: bool,
    out: &mut Vec<u8>,
) -> Encoded {
    match encoder {
        Encoder::Same => {
            put_value(out, value);
            Ok(())
        }
        Encoder::LiteInteger(_)
        | Encoder::LiteBoolean(_)
        | Encoder::LiteReal(_)
        | Encoder::LiteNumber
        | Encoder::LiteText { .. }
        | Encoder::LiteBytes { .. } => sqlite::encode(encoder, value, nearest, out),
        _ => match value {
            Value::Text(text) => postgres::encode(encoder, text, nearest, out),
            _ => Err("did not arrive in PostgreSQL's text form".into()),
        },
    }
}

#[inline]
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_value(out, Value::Text(text));
}

/// Text formatted without allocating.
struct Short {
    bytes: [u8; 40],
    length: usize,
}

impl Short {
    /// Formats at most 40 bytes; what exceeds them is cut, which no caller's values do.
    fn of(arguments: std::fmt::Arguments<'_>) -> Short {
        let mut short = Short {
            bytes: [0; 40],
            length: 0,
        };
        // Errors only when full.
        let _ = std::fmt::Write::write_fmt(&mut short, arguments);
        short
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
