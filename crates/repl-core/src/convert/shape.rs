//! What a value of PostgreSQL looks like where it is stored as text, as far as that can be told by looking:
//! so that a node of another engine, while it is the primary, takes only what can be told in the
//! table's form.

use super::Engine;
use super::kind::Kind;
use crate::schema::{TableSchema, TypeDetail};

/// What every value of a column, other than NULL, has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An integer between these.
    Integer(i64, i64),
    /// 0 or 1.
    Truth,
    /// Bytes.
    Bytes,
    /// A real number.
    Real,
    /// Text of at least and at most so many characters.
    Text(u32, Option<u32>),
    /// One of these.
    Label(Vec<String>),
    /// Digits in groups of 8, 4, 4, 4 and 12, in lower case.
    Uuid,
    /// Digits, of which so many behind the point; any number where none is said. Also NaN.
    Decimal(Option<u16>),
    /// `2024-02-29`, or infinite.
    Date,
    /// `2024-02-29 10:00:00.5`, with `+00:00` where it has a zone, or infinite.
    Moment {
        /// An instant.
        zone: bool,
    },
    /// A JSON document.
    Json,
}

/// The shapes of the columns of a form of PostgreSQL, by name; none for forms of other engines.
pub fn shapes(form: &TableSchema) -> Vec<(String, Shape)> {
    if form.engine != Engine::Postgres.name() {
        return Vec::new();
    }
    let of = |column: &crate::schema::Column| {
        let shape = match Kind::of(Engine::Postgres, column)? {
            Kind::Bool => Shape::Truth,
            Kind::Int(2) => Shape::Integer(i64::from(i16::MIN), i64::from(i16::MAX)),
            Kind::Int(4) => Shape::Integer(i64::from(i32::MIN), i64::from(i32::MAX)),
            Kind::Int(_) => Shape::Integer(i64::MIN, i64::MAX),
            Kind::Unsigned(4) => Shape::Integer(0, i64::from(u32::MAX)),
            Kind::Unsigned(_) => Shape::Decimal(Some(0)),
            Kind::Decimal(Some((_, scale))) => Shape::Decimal(Some(u16::try_from(scale).ok()?)),
            Kind::Decimal(None) => Shape::Decimal(None),
            Kind::Money => Shape::Decimal(Some(2)),
            Kind::Float4 | Kind::Float8 => Shape::Real,
            Kind::Text(most) => Shape::Text(0, most),
            Kind::Padded(length) | Kind::Bits(length) => Shape::Text(length, Some(length)),
            Kind::Bytes => Shape::Bytes,
            Kind::Date => Shape::Date,
            Kind::Timestamp(_) => Shape::Moment { zone: false },
            Kind::TimestampTz(_) => Shape::Moment { zone: true },
            Kind::Label => match &column.detail {
                Some(TypeDetail::Enum { labels }) => Shape::Label(labels.clone()),
                _ => Shape::Text(0, None),
            },
            Kind::Form(most) => match column.type_name.as_str() {
                "uuid" => Shape::Uuid,
                "json" | "jsonb" => Shape::Json,
                _ => Shape::Text(0, most),
            },
            Kind::Time(_) => Shape::Text(8, Some(15)),
            Kind::Lite(_) => return None,
        };
        Some((column.name.clone(), shape))
    };
    form.columns.iter().filter_map(of).collect()
}
