//! What a column's type means, read from the source's own words.

use super::Engine;
use crate::schema::{Column, TypeDetail};

/// The meaning of a column's type, as far as conversion distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// Signed, of this many bytes: 2, 4 or 8.
    Int(u8),
    /// Unsigned, of this many bytes: 4 or 8.
    Unsigned(u8),
    /// With precision and scale where declared. PostgreSQL's scale can be negative or exceed the
    /// precision.
    Decimal(Option<(u16, i16)>),
    Money,
    Float4,
    Float8,
    /// Characters, at most that many.
    Text(Option<u32>),
    /// Characters, blank-padded to that many.
    Padded(u32),
    Bytes,
    Date,
    /// Fractional digits of the second.
    Time(u8),
    Timestamp(u8),
    TimestampTz(u8),
    /// Fixed number of bits.
    Bits(u32),
    /// An enum: its label.
    Label,
    /// A type the target has no equal of, carried in the source's text form, of at most that many
    /// characters where that is known.
    Form(Option<u32>),
    /// A column of SQLite, which holds values of any storage class.
    Lite(Lite),
}

/// What a declared type of SQLite says of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lite {
    /// INTEGER affinity.
    Integer,
    /// REAL affinity.
    Real,
    /// Declared BOOLEAN or BOOL (NUMERIC affinity).
    Boolean,
    /// Declared as a number (NUMERIC affinity).
    Number,
    /// NUMERIC affinity under a name that says something else: dates, JSON, UUID …
    Other,
    /// TEXT affinity.
    Text,
    /// BLOB affinity, declared as such.
    Blob,
    /// Declared without a type, or ANY.
    Any,
}

/// A type's name taken apart: `timestamp(3) with time zone` is the word `timestamp with time
/// zone` and the argument 3.
pub(super) struct TypeWords {
    /// Lower case, arguments removed, blanks single.
    pub(super) word: String,
    pub(super) arguments: Vec<i64>,
}

impl TypeWords {
    pub(super) fn of(type_name: &str) -> TypeWords {
        let mut word = type_name.to_owned();
        let mut arguments = Vec::new();
        if let (Some(open), Some(close)) = (type_name.find('('), type_name.rfind(')'))
            && open < close
            && !type_name[..open].contains('"')
        {
            arguments = type_name[open + 1..close]
                .split(',')
                .filter_map(|argument| argument.trim().parse().ok())
                .collect();
            word = format!("{} {}", &type_name[..open], &type_name[close + 1..]);
        }
        let word = word.split_whitespace().collect::<Vec<_>>().join(" ");
        TypeWords {
            word: word.to_lowercase(),
            arguments,
        }
    }

    fn count(&self) -> Option<u32> {
        self.arguments.first().and_then(|n| u32::try_from(*n).ok())
    }

    /// Digits of a fractional second; all six where not declared.
    fn digits(&self) -> u8 {
        self.count()
            .and_then(|n| u8::try_from(n).ok())
            .map_or(6, |n| n.min(6))
    }
}

impl Kind {
    /// The meaning of `column` at a source of that engine; none where the engine is not a source.
    pub(super) fn of(engine: Engine, column: &Column) -> Option<Kind> {
        match engine {
            Engine::Postgres => Some(postgres(&column.type_name, column.detail.as_ref())),
            Engine::Sqlite => Some(Kind::Lite(sqlite(&column.type_name))),
            Engine::Mysql => None,
        }
    }
}

fn postgres(type_name: &str, detail: Option<&TypeDetail>) -> Kind {
    match detail {
        Some(TypeDetail::Domain { base, detail }) => return postgres(base, detail.as_deref()),
        Some(TypeDetail::Enum { .. }) => return Kind::Label,
        Some(
            TypeDetail::Array { .. } | TypeDetail::Composite { .. } | TypeDetail::Range { .. },
        ) => {
            return Kind::Form(None);
        }
        None => {}
    }
    let words = TypeWords::of(type_name);
    match words.word.as_str() {
        "boolean" | "bool" => Kind::Bool,
        "smallint" | "int2" => Kind::Int(2),
        "integer" | "int" | "int4" => Kind::Int(4),
        "bigint" | "int8" => Kind::Int(8),
        "oid" | "xid" | "cid" => Kind::Unsigned(4),
        "xid8" => Kind::Unsigned(8),
        "numeric" | "decimal" => Kind::Decimal(decimal(&words.arguments)),
        "money" => Kind::Money,
        "real" | "float4" => Kind::Float4,
        "double precision" | "float8" => Kind::Float8,
        "text" => Kind::Text(None),
        "character varying" | "varchar" => Kind::Text(words.count()),
        "character" | "char" => Kind::Padded(words.count().unwrap_or(1)),
        "bpchar" => words.count().map_or(Kind::Text(None), Kind::Padded),
        "bytea" => Kind::Bytes,
        "date" => Kind::Date,
        "time" | "time without time zone" => Kind::Time(words.digits()),
        "timestamp" | "timestamp without time zone" => Kind::Timestamp(words.digits()),
        "timestamptz" | "timestamp with time zone" => Kind::TimestampTz(words.digits()),
        "bit" => Kind::Bits(words.count().unwrap_or(1)),
        "bit varying" | "varbit" => Kind::Form(words.count()),
        word => Kind::Form(form_length(word)),
    }
}

fn decimal(arguments: &[i64]) -> Option<(u16, i16)> {
    let precision = u16::try_from(*arguments.first()?).ok()?;
    let scale = i16::try_from(arguments.get(1).copied().unwrap_or(0)).ok()?;
    Some((precision, scale))
}

/// Longest text form, in characters, of types that have a bound.
fn form_length(word: &str) -> Option<u32> {
    Some(match word {
        "\"char\"" => 4,
        "name" => 63,
        "time with time zone" | "timetz" => 24,
        _ if word.starts_with("interval") && !word.ends_with(']') => 100,
        "uuid" => 36,
        "inet" | "cidr" => 49,
        "macaddr" => 17,
        "macaddr8" => 23,
        "pg_lsn" => 17,
        _ => return None,
    })
}

/// SQLite's rules of affinity (<https://sqlite.org/datatype3.html>, section 3.1), and within
/// NUMERIC what the name says beyond.
fn sqlite(type_name: &str) -> Lite {
    let upper = type_name.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    if has("INT") {
        Lite::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Lite::Text
    } else if has("BLOB") {
        Lite::Blob
    } else if upper.trim().is_empty() || upper.trim() == "ANY" {
        // In a STRICT table ANY keeps what it is given; elsewhere it has NUMERIC affinity. Either
        // way the declaration says that anything may come.
        Lite::Any
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Lite::Real
    } else {
        match TypeWords::of(type_name).word.as_str() {
            "boolean" | "bool" => Lite::Boolean,
            "numeric" | "decimal" | "dec" | "number" | "money" | "currency" | "fixed" => {
                Lite::Number
            }
            _ => Lite::Other,
        }
    }
}
