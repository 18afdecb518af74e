//! SQLite's declared types at PostgreSQL and MySQL/MariaDB.
//!
//! A declared type promises little: a column holds values of any storage class, as far as its
//! affinity does not turn them into another. The target type follows the affinity; a value of a
//! class it cannot hold is refused with its row.
//!
//! The text form of a number in a column of NUMERIC affinity is complete: SQLite itself would
//! have turned that text into the number, so no other value of the column can look the same.

use super::Engine;
use super::encode::{Encoder, Form, TextLimits};
use super::kind::Lite;
use super::mapping::{Fidelity, Mapped, Meaning, Unmapped, Width};

fn form(target: Engine) -> Form {
    match target {
        Engine::Postgres => Form::Text,
        _ => Form::Class,
    }
}

fn text(target: Engine, blobs: bool) -> Mapped {
    let (type_name, limits) = match target {
        Engine::Postgres => ("text", TextLimits::POSTGRES),
        _ => ("longtext", TextLimits::MYSQL),
    };
    Mapped::new(type_name, Encoder::LiteText { limits, blobs }, Width::Text)
}

/// Any column as text: numbers in decimal digits, BLOBs as literals.
pub(super) fn as_text(target: Engine) -> Mapped {
    let mut mapped = text(target, true);
    mapped.note = "text, numbers in digits, BLOBs as X'…'; the storage class is not kept";
    mapped.fidelity = Fidelity::DeclaredLossy;
    mapped
}

pub(super) fn map(lite: Lite, target: Engine) -> Result<Mapped, Unmapped> {
    let postgres = target == Engine::Postgres;
    let form = form(target);
    let choose = |pg: &'static str, mysql: &'static str| if postgres { pg } else { mysql };
    let fixed = |type_name: &str, encoder| Mapped::new(type_name, encoder, Width::Fixed(8));
    Ok(match lite {
        Lite::Integer => fixed("bigint", Encoder::LiteInteger(form))
            .by_value("real numbers, text and BLOBs in the column are refused")
            .means(Meaning::Integer),
        Lite::Boolean => fixed(choose("boolean", "tinyint(1)"), Encoder::LiteBoolean(form))
            .by_value("0 and 1; everything else is refused")
            .means(Meaning::Truth),
        Lite::Real if postgres => fixed("double precision", Encoder::LiteReal(form))
            .by_value("text and BLOBs in the column are refused")
            .means(Meaning::Float),
        Lite::Real => fixed("double", Encoder::LiteReal(form))
            .by_value("infinities, text and BLOBs in the column are refused")
            .means(Meaning::Float),
        Lite::Number if postgres => fixed("numeric", Encoder::LiteNumber)
            .by_value("all digits, whatever the declared scale; text and BLOBs in the column are refused")
            .means(Meaning::Decimal),
        Lite::Number => fixed("double", Encoder::LiteReal(form))
            .by_value("the double SQLite holds, whatever the declared scale; integers beyond 2^53 that a double cannot hold, infinities, text and BLOBs are refused")
            .means(Meaning::Float),
        Lite::Text => characters(target).means(Meaning::Text),
        Lite::Other => {
            let mut mapped = characters(target);
            mapped.note = choose(
                "the text form, also of numbers (SQLite's affinity makes them numbers again); BLOBs, invalid UTF-8 and NUL characters are refused",
                "the text form, also of numbers (SQLite's affinity makes them numbers again); BLOBs and invalid UTF-8 are refused",
            );
            mapped
        }
        Lite::Blob => {
            let (type_name, most) = if postgres {
                // Its hexadecimal form must stay below PostgreSQL's 1 GB of text.
                ("bytea", 0x1fff_ff00)
            } else {
                ("longblob", u32::MAX)
            };
            Mapped::new(type_name, Encoder::LiteBytes { form, most }, Width::Bytes)
                .by_value("numbers and text in the column are refused")
        }
        Lite::Any => {
            return Err(Unmapped {
                reason: "the column is declared without a type, so it can hold values of every \
                         storage class side by side, which no type of the target can"
                    .into(),
                text_helps: true,
            });
        }
    })
}

fn characters(target: Engine) -> Mapped {
    text(target, false).by_value(match target {
        Engine::Postgres => "BLOBs, invalid UTF-8 and NUL characters are refused",
        _ => "BLOBs and invalid UTF-8 are refused",
    })
}
