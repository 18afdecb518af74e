//! The result of looking a type up: where its values go, and how faithfully.

use std::fmt;

use super::encode::Encoder;
use super::kind::Kind;
use super::options::Allowed;
use super::{Engine, postgres, sqlite};

/// How faithfully a column is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every value arrives as the same value of an equal type.
    Lossless,
    /// Every value arrives complete, in a representation of its own that is documented.
    Stated,
    /// As the above, except for some values that the target cannot represent: such a row is
    /// refused, visibly.
    ValueDependent,
    /// A loss is possible and was declared by an option.
    DeclaredLossy,
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fidelity::Lossless => "lossless",
            Fidelity::Stated => "lossless, own form",
            Fidelity::ValueDependent => "by value",
            Fidelity::DeclaredLossy => "declared loss",
        })
    }
}

/// How much room a column takes in MySQL, whose keys and rows are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// This many bytes; the type's name is final.
    Fixed(u32),
    /// At most this many characters.
    Chars(u32),
    /// Any number of characters.
    Text,
    /// Any number of bytes.
    Bytes,
}

/// What an expression over the column means at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Integer,
    Decimal,
    Float,
    Truth,
    /// Exact equality of characters.
    Text,
    Date,
    Moment,
    /// Nothing that could be relied upon.
    Opaque,
}

/// Where the values of a column go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) type_name: String,
    pub(super) encoder: Encoder,
    pub(super) fidelity: Fidelity,
    pub(super) meaning: Meaning,
    pub(super) width: Width,
    /// The representation and its limits, for documents and `--check`.
    pub(super) note: &'static str,
}

/// A type that cannot be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmapped {
    pub(super) reason: String,
    /// Whether carrying the text form would do.
    pub(super) text_helps: bool,
}

impl Mapped {
    pub(super) fn new(type_name: impl Into<String>, encoder: Encoder, width: Width) -> Mapped {
        Mapped {
            type_name: type_name.into(),
            encoder,
            fidelity: Fidelity::Lossless,
            meaning: Meaning::Opaque,
            width,
            note: "",
        }
    }

    pub(super) fn means(mut self, meaning: Meaning) -> Mapped {
        self.meaning = meaning;
        self
    }

    pub(super) fn stated(mut self, note: &'static str) -> Mapped {
        self.fidelity = Fidelity::Stated;
        self.note = note;
        self
    }

    pub(super) fn by_value(mut self, note: &'static str) -> Mapped {
        self.fidelity = Fidelity::ValueDependent;
        self.note = note;
        self
    }
}

/// Looks up where a column of that kind goes at the target.
pub(super) fn map(kind: Kind, target: Engine, allowed: Allowed) -> Result<Mapped, Unmapped> {
    let mut mapped = match kind {
        Kind::Lite(_) if allowed.text => Ok(sqlite::as_text(target)),
        Kind::Lite(lite) => sqlite::map(lite, target),
        _ if allowed.text => Ok(postgres::as_text(target)),
        _ => Ok(postgres::map(kind, target)),
    }?;
    if mapped.fidelity == Fidelity::ValueDependent && (allowed.nearest || allowed.null) {
        mapped.fidelity = Fidelity::DeclaredLossy;
    }
    Ok(mapped)
}
