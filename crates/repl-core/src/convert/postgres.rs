//! PostgreSQL's types at MySQL/MariaDB and SQLite.

use super::Engine;
use super::encode::{DecimalLimits, Encoder, FloatLimits, TextLimits};
use super::kind::Kind;
use super::mapping::{Mapped, Meaning, Width};

/// Digits and fractional digits of the widest DECIMAL both MySQL and MariaDB have.
const DECIMAL_DIGITS: u16 = 65;
const DECIMAL_SCALE: u16 = 30;

/// Any column in PostgreSQL's text form.
pub(super) fn as_text(target: Engine) -> Mapped {
    let note = "PostgreSQL's text form";
    match target {
        Engine::Sqlite => sqlite_text().stated(note),
        _ => mysql_text(None).stated(note),
    }
}

pub(super) fn map(kind: Kind, target: Engine) -> Mapped {
    match target {
        Engine::Sqlite => to_sqlite(kind),
        _ => to_mysql(kind),
    }
}

fn mysql_text(most: Option<u32>) -> Mapped {
    let width = most.map_or(Width::Text, Width::Chars);
    Mapped::new("longtext", Encoder::PgText(TextLimits::MYSQL), width)
}

fn sqlite_text() -> Mapped {
    Mapped::new("TEXT", Encoder::PgText(TextLimits::SQLITE), Width::Text)
}

fn to_mysql(kind: Kind) -> Mapped {
    let exact =
        |type_name: &str, encoder, bytes| Mapped::new(type_name, encoder, Width::Fixed(bytes));
    match kind {
        Kind::Bool => exact("tinyint(1)", Encoder::PgBool, 1)
            .stated("0 and 1")
            .means(Meaning::Truth),
        Kind::Int(2) => exact("smallint", Encoder::PgInteger, 2).means(Meaning::Integer),
        Kind::Int(4) => exact("int", Encoder::PgInteger, 4).means(Meaning::Integer),
        Kind::Int(_) => exact("bigint", Encoder::PgInteger, 8).means(Meaning::Integer),
        Kind::Unsigned(4) => exact("int unsigned", Encoder::PgUnsigned, 4).means(Meaning::Integer),
        Kind::Unsigned(_) => {
            exact("bigint unsigned", Encoder::PgUnsigned, 8).means(Meaning::Integer)
        }
        Kind::Decimal(declared) => mysql_decimal(declared),
        Kind::Money => exact("decimal(19,2)", Encoder::PgMoney, 9)
            .stated("the amount as a decimal number")
            .means(Meaning::Decimal),
        Kind::Float4 => exact("float", Encoder::PgFloat(FloatLimits::MYSQL_SINGLE), 4)
            .by_value("NaN, infinities and -0 are refused")
            .means(Meaning::Float),
        Kind::Float8 => exact("double", Encoder::PgFloat(FloatLimits::MYSQL), 8)
            .by_value("NaN, infinities and -0 are refused")
            .means(Meaning::Float),
        Kind::Text(most) => mysql_text(most).means(Meaning::Text),
        Kind::Padded(most) => mysql_text(Some(most)).stated("padding blanks kept"),
        Kind::Label => mysql_text(Some(63))
            .stated("the label")
            .means(Meaning::Text),
        Kind::Bytes => Mapped::new(
            "longblob",
            Encoder::PgBytes { most: u32::MAX },
            Width::Bytes,
        ),
        Kind::Date => exact("date", Encoder::PgDate, 3)
            .by_value("years 1 to 9999; BC, later years and infinities are refused")
            .means(Meaning::Date),
        Kind::Time(digits) => exact(&format!("time({digits})"), Encoder::PgTime, 6),
        Kind::Timestamp(digits) => exact(
            &format!("datetime({digits})"),
            Encoder::PgTimestamp {
                zoned: false,
                digits,
            },
            8,
        )
        .by_value("years 1 to 9999; BC, later years and infinities are refused")
        .means(Meaning::Moment),
        Kind::TimestampTz(digits) => exact(
            &format!("datetime({digits})"),
            Encoder::PgTimestamp {
                zoned: true,
                digits,
            },
            8,
        )
        .by_value("in UTC; years 1 to 9999; BC, later years and infinities are refused")
        .means(Meaning::Moment),
        Kind::Bits(bits) if bits <= 64 => exact(&format!("bit({bits})"), Encoder::PgBits, 8),
        Kind::Bits(bits) => mysql_text(Some(bits)).stated("digits 0 and 1"),
        Kind::Form(most) => mysql_text(most).stated("PostgreSQL's text form"),
        // Kinds of SQLite never come here: `mapping::map` sends them to their own table.
        Kind::Lite(_) => mysql_text(None),
    }
}

fn mysql_decimal(declared: Option<(u16, i16)>) -> Mapped {
    let (whole, scale) = match declared {
        Some((precision, scale)) => {
            let fraction = u16::try_from(scale).unwrap_or(0);
            let whole = i32::from(precision) - i32::from(scale);
            (u16::try_from(whole).unwrap_or(0), fraction)
        }
        None => (u16::MAX, u16::MAX),
    };
    let fits = scale <= DECIMAL_SCALE && whole <= DECIMAL_DIGITS - scale;
    let limits = if fits {
        DecimalLimits { whole, scale }
    } else {
        let scale = scale.min(DECIMAL_SCALE);
        DecimalLimits {
            whole: DECIMAL_DIGITS - scale,
            scale,
        }
    };
    let type_name = format!(
        "decimal({},{})",
        (limits.whole + limits.scale).max(1),
        limits.scale
    );
    Mapped::new(type_name, Encoder::PgDecimal(limits), Width::Fixed(32))
        .by_value(if fits {
            "NaN is refused"
        } else {
            "the number, zeros at its end not kept; more digits than the type has, NaN and infinities are refused"
        })
        .means(Meaning::Decimal)
}

fn to_sqlite(kind: Kind) -> Mapped {
    let class = |type_name: &str, encoder| Mapped::new(type_name, encoder, Width::Fixed(8));
    match kind {
        Kind::Bool => class("BOOLEAN", Encoder::PgBool)
            .stated("0 and 1")
            .means(Meaning::Truth),
        Kind::Int(_) | Kind::Unsigned(4) => {
            class("INTEGER", Encoder::PgInteger).means(Meaning::Integer)
        }
        Kind::Unsigned(_) => sqlite_text().stated("decimal digits"),
        Kind::Decimal(_) => sqlite_text().stated("decimal digits, scale kept; also NaN, Infinity"),
        Kind::Money => class("TEXT", Encoder::PgMoney).stated("the amount in decimal digits"),
        Kind::Float4 | Kind::Float8 => {
            let limits = if kind == Kind::Float4 {
                FloatLimits::SQLITE_SINGLE
            } else {
                FloatLimits::SQLITE
            };
            class("", Encoder::PgFloat(limits))
                .by_value("a real number; declared without a type, because a REAL column turns -0 into 0; NaN is refused")
                .means(Meaning::Float)
        }
        Kind::Text(_) => sqlite_text().means(Meaning::Text),
        Kind::Padded(_) => sqlite_text().stated("padding blanks kept"),
        Kind::Label => sqlite_text().stated("the label").means(Meaning::Text),
        Kind::Bytes => class(
            "BLOB",
            Encoder::PgBytes {
                most: TextLimits::SQLITE.bytes,
            },
        ),
        Kind::Date => sqlite_text().stated("ISO 8601; also BC, infinity"),
        Kind::Time(_) => sqlite_text().stated("ISO 8601"),
        Kind::Timestamp(_) => sqlite_text().stated("ISO 8601; also BC, infinity"),
        Kind::TimestampTz(_) => class("TEXT", Encoder::PgInstant)
            .stated("ISO 8601 in UTC, ending in +00:00; also BC, infinity"),
        Kind::Bits(_) => sqlite_text().stated("digits 0 and 1"),
        Kind::Form(_) => sqlite_text().stated("PostgreSQL's text form"),
        // As above.
        Kind::Lite(_) => sqlite_text(),
    }
}
