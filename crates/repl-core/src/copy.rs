//! Copies of tables in parts, and what makes an interrupted one exact.
//!
//! A large table is divided into ranges of its key, in the source's own order. Each part is loaded
//! in a target transaction of its own that also records it as done; so what a crash repeats is at
//! most the parts under way. The snapshot is gone by then: the parts that are left are read from a
//! later one, and the table holds rows of several cuts.
//!
//! **Why that ends exact.** Take one key. It lies in one range, so its row came from one snapshot
//! `S` (or was not there in `S`). The stream is applied from the *first* cut on, and up to the last
//! one's horizon a change is applied whatever it finds: a delete removes the row if it is there, a
//! complete image replaces it. The changes of one key are totally ordered, in the source and in the
//! log, and `S` contains a prefix of them. Those of the prefix that are applied again bring the row
//! to the state after the last of them, which is its state in `S`; the others follow in order.
//! An image with columns that were not sent (unchanged TOAST) keeps what the row holds in them:
//! the value in `S`, which is right unless a later change of the prefix sent the column, and then
//! that one is applied again too. If the row is not there, `S` lacks it, so a later change of the
//! prefix deletes or completely writes it: the image is passed over. Only a change of the *key*
//! with columns not sent cannot be had: the row with them may be under neither key. Such a table
//! is copied anew.
//!
//! Meanwhile two rows may hold one unique value, so unique indexes other than the key's, exclusion
//! constraints and foreign keys are made when the table has settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::cut::Cut;
use crate::schema::TableSchema;

/// Version of [`PartialCopy`]'s stored form.
const FORMAT: u32 = 1;

/// A place in a table's key order: the values of the key columns, in the source's own text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBound(pub Vec<String>);

/// A range of a table's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// First key, if bounded.
    pub from: Option<KeyBound>,
    /// First key beyond, if bounded.
    pub to: Option<KeyBound>,
}

/// A copy in parts, as the replica remembers it beside the parts that are done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialCopy {
    format: u32,
    /// Tells this copy's parts from those of an earlier one.
    pub id: uuid::Uuid,
    /// The source table's incarnation.
    pub incarnation: String,
    /// Shape of the source's rows.
    pub schema: TableSchema,
    /// Where the stream stood: the copy goes on only while it stands there.
    pub start: Checkpoint,
    /// What the rows already contain of the stream.
    pub cut: Cut,
    /// Where one part ends and the next begins, ascending.
    pub bounds: Vec<KeyBound>,
    /// Statements to run once the table has settled.
    pub finish: Vec<String>,
}

/// A copy in parts as a replica tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCopy {
    /// The copy; none when it cannot go on, and the rows that are there are to be replaced.
    pub copy: Option<PartialCopy>,
    /// Rows of the parts that are done, by their numbers.
    pub done: BTreeMap<u32, u64>,
}

impl PartialCopy {
    /// A copy about to begin.
    pub fn new(
        id: uuid::Uuid,
        incarnation: String,
        schema: TableSchema,
        start: Checkpoint,
        cut: Cut,
        bounds: Vec<KeyBound>,
    ) -> Self {
        PartialCopy {
            format: FORMAT,
            id,
            incarnation,
            schema,
            start,
            cut,
            bounds,
            finish: Vec::new(),
        }
    }

    /// Reads the stored form; none when it is damaged or of another version, and the copy has to
    /// begin anew.
    pub fn from_json(json: &str) -> Option<Self> {
        let copy: PartialCopy = serde_json::from_str(json).ok()?;
        (copy.format == FORMAT).then_some(copy)
    }

    /// The stored form.
    ///
    /// # Errors
    /// When a value has no JSON form, which none of these lacks.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Number of parts.
    pub fn parts(&self) -> u32 {
        self.bounds.len() as u32 + 1
    }

    /// The range of a part.
    pub fn range(&self, part: u32) -> KeyRange {
        let at = part as usize;
        KeyRange {
            from: at
                .checked_sub(1)
                .and_then(|before| self.bounds.get(before).cloned()),
            to: self.bounds.get(at).cloned(),
        }
    }

    /// Whether it can go on: the stream has not moved since, and the table is the same.
    pub fn continues(
        &self,
        incarnation: &str,
        schema: &TableSchema,
        checkpoint: &Checkpoint,
    ) -> bool {
        self.incarnation == incarnation
            && self.schema.same_shape(schema)
            && self.start == *checkpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, LogId, Seq, SourcePosition};
    use crate::schema::{Identity, SchemaId, TableName};

    fn copy(bounds: &[&str]) -> PartialCopy {
        let bound = |value: &&str| KeyBound(vec![(*value).to_owned()]);
        PartialCopy::new(
            uuid::Uuid::nil(),
            "1".into(),
            TableSchema {
                id: SchemaId(1),
                engine: "postgres".into(),
                table: TableName::new("public", "t"),
                incarnation: "1".into(),
                columns: Vec::new(),
                identity: Identity::Key(vec![0]),
            },
            Checkpoint {
                log: LogId(uuid::Uuid::nil()),
                epoch: Epoch(1),
                seq: Seq(4),
                position: SourcePosition("p".into()),
            },
            Cut::Through(Seq(9)),
            bounds.iter().map(bound).collect(),
        )
    }

    #[test]
    fn parts_meet_and_cover_everything() {
        let copy = copy(&["10", "20"]);
        assert_eq!(copy.parts(), 3);
        let ranges: Vec<KeyRange> = (0..3).map(|part| copy.range(part)).collect();
        assert_eq!(ranges[0].from, None);
        assert_eq!(ranges[2].to, None);
        for pair in ranges.windows(2) {
            assert!(pair[0].to.is_some());
            assert_eq!(pair[0].to, pair[1].from);
        }
    }

    #[test]
    fn a_copy_goes_on_only_where_it_stopped() {
        let copy = copy(&["10"]);
        assert!(copy.continues("1", &copy.schema, &copy.start));
        assert!(!copy.continues("2", &copy.schema, &copy.start));
        let mut other = copy.start.clone();
        other.seq = Seq(5);
        assert!(!copy.continues("1", &copy.schema, &other));
        let mut shape = copy.schema.clone();
        shape.identity = Identity::FullRow;
        assert!(!copy.continues("1", &shape, &copy.start));
        let json = copy.to_json().unwrap();
        assert_eq!(PartialCopy::from_json(&json), Some(copy));
        assert_eq!(
            PartialCopy::from_json(&json.replace("\"format\":1", "\"format\":2")),
            None
        );
    }
}
