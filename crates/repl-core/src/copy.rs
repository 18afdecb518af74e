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
//!
//! **Copies by difference.** Where the table holds rows already, a part is *compared*: the replica's
//! rows in its range are made equal to the source's, whatever they were. The range must then hold the
//! same keys at both sides, so both must order the key alike ([`KeyRange::integers`]). What is said
//! above holds as it is: after the transaction of a part its keys are as in the part's snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::cut::Cut;
use crate::schema::{Column, TableSchema};

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

/// A range of a key of integers, which every engine orders alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegerRange {
    /// First key, if bounded.
    pub from: Option<Vec<i64>>,
    /// First key beyond, if bounded.
    pub to: Option<Vec<i64>>,
}

impl KeyRange {
    /// The range in numbers; none when the key of `schema`, the source's, is not of integers.
    pub fn integers(&self, schema: &TableSchema) -> Option<IntegerRange> {
        let keys = schema.key_columns();
        let integers = |&at: &usize| is_integer(&schema.engine, &schema.columns[at]);
        if keys.is_empty() || !keys.iter().all(integers) {
            return None;
        }
        let numbers = |bound: &Option<KeyBound>| match bound {
            None => Some(None),
            Some(KeyBound(values)) => {
                let number = |text: &String| text.strip_prefix('i').unwrap_or(text).parse().ok();
                values.iter().map(number).collect::<Option<_>>().map(Some)
            }
        };
        Some(IntegerRange {
            from: numbers(&self.from)?,
            to: numbers(&self.to)?,
        })
    }
}

/// Whether the source's column holds integers only, by its own type rather than one built on it.
fn is_integer(engine: &str, column: &Column) -> bool {
    match engine {
        "postgres" => matches!(column.type_name.as_str(), "smallint" | "integer" | "bigint"),
        _ => column.type_name.to_ascii_uppercase().contains("INT"),
    }
}

impl IntegerRange {
    /// The condition, in SQL that every engine reads, on key columns of these quoted names; empty for
    /// all rows.
    pub fn condition(&self, names: &[String]) -> String {
        let mut conditions = Vec::new();
        let bounds = [(">=", ">=", &self.from), ("<", "<=", &self.to)];
        for (row, first, bound) in bounds {
            let Some(values) = bound else { continue };
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            if let ([name, _, ..], [value, ..]) = (names, values.as_slice()) {
                // Not every engine finds the way by an index from the comparison of rows.
                conditions.push(format!("{name} {first} {value}"));
            }
            let (names, values) = (names.join(", "), values.join(", "));
            conditions.push(format!("({names}) {row} ({values})"));
        }
        conditions.join(" AND ")
    }
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
    /// The table held rows before, which the parts are compared with.
    #[serde(default)]
    pub compare: bool,
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
            compare: false,
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
                generated: Vec::new(),
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
    fn only_integers_are_ordered_alike_everywhere() {
        let mut schema = copy(&[]).schema;
        schema.columns = vec![
            Column::new("a", "bigint", 20, false),
            Column::new("b", "integer", 23, false),
        ];
        schema.identity = Identity::Key(vec![1, 0]);
        let bound = |a: &str, b: &str| Some(KeyBound(vec![a.into(), b.into()]));
        let range = KeyRange {
            from: bound("-5", "7"),
            to: bound("3", "0"),
        };
        let integers = range.integers(&schema).unwrap();
        let names = ["\"b\"".to_owned(), "\"a\"".to_owned()];
        assert_eq!(
            integers.condition(&names),
            "\"b\" >= -5 AND (\"b\", \"a\") >= (-5, 7) AND \"b\" <= 3 AND (\"b\", \"a\") < (3, 0)"
        );
        let all = KeyRange::default().integers(&schema).unwrap();
        assert_eq!(all.condition(&names), "");
        assert_eq!(
            KeyRange {
                from: bound("x", "7"),
                to: None
            }
            .integers(&schema),
            None
        );
        schema.columns[1].type_name = "text".into();
        assert_eq!(range.integers(&schema), None);
        schema.engine = "sqlite".into();
        schema.columns = vec![Column::new("a", "INTEGER", 0, false)];
        schema.identity = Identity::Key(vec![0]);
        let to = Some(KeyBound(vec!["i12".into()]));
        let range = KeyRange { from: None, to }.integers(&schema).unwrap();
        assert_eq!(range.condition(&names[1..]), "(\"a\") < (12)");
        let to = Some(KeyBound(vec!["t12".into()]));
        assert_eq!(KeyRange { from: None, to }.integers(&schema), None);
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
