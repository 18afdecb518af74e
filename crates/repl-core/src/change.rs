//! Row changes and their encoding inside a transaction.

use bytes::Bytes;

use crate::codec::{Decoder, Malformed, put_bytes, put_u64};
use crate::row::{ROW_LENGTH_BYTES, Row, RowWriter, Value};
use crate::schema::SchemaId;

/// The image of a row before a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Before {
    /// Not sent: the key did not change, so the new image holds it.
    Absent,
    /// Only the key columns are meaningful; the others are NULL.
    Key(Row),
    /// Every column.
    Full(Row),
}

impl Before {
    /// The row image, if any was sent.
    pub fn row(&self) -> Option<&Row> {
        match self {
            Before::Absent => None,
            Before::Key(row) | Before::Full(row) => Some(row),
        }
    }
}

/// One change, in the order the source made it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A row appeared.
    Insert {
        /// Schema version of the image.
        schema: SchemaId,
        /// The new row, complete.
        new: Row,
    },
    /// A row changed.
    Update {
        /// Schema version of the images.
        schema: SchemaId,
        /// The row before.
        before: Before,
        /// The row after; columns may be [`Value::Unchanged`].
        new: Row,
    },
    /// A row went.
    Delete {
        /// Schema version of the image.
        schema: SchemaId,
        /// The row before; never [`Before::Absent`].
        before: Before,
    },
    /// Tables were emptied together.
    Truncate {
        /// Schema versions of the tables.
        schemas: Vec<SchemaId>,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
    /// An application or daemon message carried through the source's log.
    Message {
        /// Its label.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
}

impl Change {
    /// This change with each of its row images as `map` makes it.
    ///
    /// # Errors
    /// The first one of `map`.
    pub fn map_rows<E>(self, map: impl Fn(&Row) -> Result<Row, E>) -> Result<Change, E> {
        let before = |before: Before| {
            Ok(match before {
                Before::Absent => Before::Absent,
                Before::Key(row) => Before::Key(map(&row)?),
                Before::Full(row) => Before::Full(map(&row)?),
            })
        };
        Ok(match self {
            Change::Insert { schema, new } => Change::Insert {
                schema,
                new: map(&new)?,
            },
            Change::Update {
                schema,
                before: old,
                new,
            } => Change::Update {
                schema,
                before: before(old)?,
                new: map(&new)?,
            },
            Change::Delete {
                schema,
                before: old,
            } => Change::Delete {
                schema,
                before: before(old)?,
            },
            other => other,
        })
    }
}

const OP_INSERT: u8 = 1;
const OP_UPDATE: u8 = 2;
const OP_UPDATE_KEY: u8 = 3;
const OP_UPDATE_FULL: u8 = 4;
const OP_DELETE_KEY: u8 = 5;
const OP_DELETE_FULL: u8 = 6;
const OP_TRUNCATE: u8 = 7;
const OP_MESSAGE: u8 = 8;

/// What kind of row change follows; tells [`ChangeWriter`] which row images it will be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// One image: new.
    Insert,
    /// One image: new.
    Update,
    /// Two images: key before, new.
    UpdateWithKey,
    /// Two images: full before, new.
    UpdateWithFull,
    /// One image: key before.
    DeleteByKey,
    /// One image: full before.
    DeleteByFull,
}

/// Encodes changes at the end of a buffer.
pub struct ChangeWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> ChangeWriter<'a> {
    /// Writes at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        ChangeWriter { out }
    }

    /// Starts a row change; the caller then writes its images with [`ChangeWriter::row`].
    pub fn row_op(&mut self, op: RowOp, schema: SchemaId) {
        self.out.push(match op {
            RowOp::Insert => OP_INSERT,
            RowOp::Update => OP_UPDATE,
            RowOp::UpdateWithKey => OP_UPDATE_KEY,
            RowOp::UpdateWithFull => OP_UPDATE_FULL,
            RowOp::DeleteByKey => OP_DELETE_KEY,
            RowOp::DeleteByFull => OP_DELETE_FULL,
        });
        put_u64(self.out, u64::from(schema.0));
    }

    /// Starts one row image of `columns` columns.
    pub fn row(&mut self, columns: usize) -> RowWriter<'_> {
        RowWriter::new(self.out, columns)
    }

    /// Writes one whole row image.
    pub fn row_values<'v>(&mut self, values: impl ExactSizeIterator<Item = Value<'v>>) {
        let mut row = self.row(values.len());
        for value in values {
            row.put(value);
        }
        row.finish();
    }

    /// Writes a truncation.
    pub fn truncate(&mut self, schemas: &[SchemaId], restart_identity: bool) {
        self.out.push(OP_TRUNCATE);
        self.out.push(u8::from(restart_identity));
        put_u64(self.out, schemas.len() as u64);
        for schema in schemas {
            put_u64(self.out, u64::from(schema.0));
        }
    }

    /// Writes a message.
    pub fn message(&mut self, prefix: &str, content: &[u8]) {
        self.out.push(OP_MESSAGE);
        put_bytes(self.out, prefix.as_bytes());
        put_bytes(self.out, content);
    }

    /// Writes a change that is already in memory as a value (tests, rare paths).
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Insert { schema, new } => {
                self.row_op(RowOp::Insert, *schema);
                self.encoded_row(new);
            }
            Change::Update {
                schema,
                before,
                new,
            } => {
                let op = match before {
                    Before::Absent => RowOp::Update,
                    Before::Key(_) => RowOp::UpdateWithKey,
                    Before::Full(_) => RowOp::UpdateWithFull,
                };
                self.row_op(op, *schema);
                if let Some(row) = before.row() {
                    self.encoded_row(row);
                }
                self.encoded_row(new);
            }
            Change::Delete { schema, before } => {
                let full = matches!(before, Before::Full(_));
                self.row_op(
                    if full {
                        RowOp::DeleteByFull
                    } else {
                        RowOp::DeleteByKey
                    },
                    *schema,
                );
                if let Some(row) = before.row() {
                    self.encoded_row(row);
                }
            }
            Change::Truncate {
                schemas,
                restart_identity,
            } => {
                self.truncate(schemas, *restart_identity);
            }
            Change::Message { prefix, content } => self.message(prefix, content),
        }
    }

    fn encoded_row(&mut self, row: &Row) {
        let bytes = row.encoded();
        self.out
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.out.extend_from_slice(bytes);
    }
}

/// Reads the changes of one encoded chunk; rows share its bytes.
pub struct Changes {
    chunk: Bytes,
    at: usize,
}

impl Changes {
    /// Reads `chunk` from its start.
    pub fn new(chunk: Bytes) -> Self {
        Changes { chunk, at: 0 }
    }

    fn read(&mut self) -> Result<Change, Malformed> {
        let mut cursor = Cursor {
            chunk: &self.chunk,
            decoder: Decoder::new(&self.chunk[self.at..]),
        };
        let change = cursor.change()?;
        let left = cursor.decoder.remaining().len();
        self.at = self.chunk.len() - left;
        Ok(change)
    }
}

impl Iterator for Changes {
    type Item = Result<Change, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.chunk.len() {
            return None;
        }
        let change = self.read();
        if change.is_err() {
            self.at = self.chunk.len();
        }
        Some(change)
    }
}

/// The schema version of each change of an encoded chunk (several for a truncation, none for a
/// message), found without reading the rows.
pub fn schemas(chunk: &[u8]) -> impl Iterator<Item = Result<SchemaId, Malformed>> + '_ {
    let mut scan = SchemaScan {
        decoder: Decoder::new(chunk),
        truncated: 0,
    };
    std::iter::from_fn(move || {
        let next = scan.next().transpose();
        if matches!(next, Some(Err(_))) {
            scan.decoder = Decoder::new(&[]);
            scan.truncated = 0;
        }
        next
    })
}

struct SchemaScan<'a> {
    decoder: Decoder<'a>,
    /// Tables of a truncation that are still to be named.
    truncated: u64,
}

impl SchemaScan<'_> {
    fn next(&mut self) -> Result<Option<SchemaId>, Malformed> {
        while self.truncated == 0 {
            if self.decoder.is_empty() {
                return Ok(None);
            }
            let images = match self.decoder.u8()? {
                OP_TRUNCATE => {
                    self.decoder.u8()?;
                    self.truncated = self.decoder.u64()?;
                    continue;
                }
                OP_MESSAGE => {
                    self.decoder.bytes()?;
                    self.decoder.bytes()?;
                    continue;
                }
                OP_INSERT | OP_UPDATE | OP_DELETE_KEY | OP_DELETE_FULL => 1,
                OP_UPDATE_KEY | OP_UPDATE_FULL => 2,
                _ => return Err(Malformed("unknown change")),
            };
            let schema = SchemaId(self.decoder.u32()?);
            for _ in 0..images {
                row_bytes(&mut self.decoder)?;
            }
            return Ok(Some(schema));
        }
        self.truncated -= 1;
        Ok(Some(SchemaId(self.decoder.u32()?)))
    }
}

/// The encoded row at the cursor.
fn row_bytes<'a>(decoder: &mut Decoder<'a>) -> Result<&'a [u8], Malformed> {
    let length = decoder.take(ROW_LENGTH_BYTES)?;
    let length = <[u8; ROW_LENGTH_BYTES]>::try_from(length)
        .map(u32::from_le_bytes)
        .map_err(|_| Malformed("ends early"))?;
    decoder.take(length as usize)
}

struct Cursor<'a> {
    chunk: &'a Bytes,
    decoder: Decoder<'a>,
}

impl Cursor<'_> {
    fn change(&mut self) -> Result<Change, Malformed> {
        let op = self.decoder.u8()?;
        match op {
            OP_TRUNCATE => self.truncate(),
            OP_MESSAGE => {
                let prefix = self.decoder.str()?.to_owned();
                let content = Bytes::copy_from_slice(self.decoder.bytes()?);
                Ok(Change::Message { prefix, content })
            }
            _ => self.row_change(op),
        }
    }

    fn row_change(&mut self, op: u8) -> Result<Change, Malformed> {
        let schema = SchemaId(self.decoder.u32()?);
        Ok(match op {
            OP_INSERT => Change::Insert {
                schema,
                new: self.row()?,
            },
            OP_UPDATE => Change::Update {
                schema,
                before: Before::Absent,
                new: self.row()?,
            },
            OP_UPDATE_KEY => {
                let before = Before::Key(self.row()?);
                Change::Update {
                    schema,
                    before,
                    new: self.row()?,
                }
            }
            OP_UPDATE_FULL => {
                let before = Before::Full(self.row()?);
                Change::Update {
                    schema,
                    before,
                    new: self.row()?,
                }
            }
            OP_DELETE_KEY => Change::Delete {
                schema,
                before: Before::Key(self.row()?),
            },
            OP_DELETE_FULL => Change::Delete {
                schema,
                before: Before::Full(self.row()?),
            },
            _ => return Err(Malformed("unknown change")),
        })
    }

    fn truncate(&mut self) -> Result<Change, Malformed> {
        let restart_identity = self.decoder.u8()? != 0;
        let count = self.decoder.u64()?;
        let mut schemas = Vec::new();
        for _ in 0..count {
            schemas.push(SchemaId(self.decoder.u32()?));
        }
        Ok(Change::Truncate {
            schemas,
            restart_identity,
        })
    }

    fn row(&mut self) -> Result<Row, Malformed> {
        let bytes = row_bytes(&mut self.decoder)?;
        let start = self.chunk.len() - self.decoder.remaining().len() - bytes.len();
        Ok(Row::from_encoded(
            self.chunk.slice(start..start + bytes.len()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_round_trips() {
        let row = |n: i64| Row::from_values([Value::Integer(n), Value::Text(b"x")].into_iter());
        let schema = SchemaId(300);
        let changes = vec![
            Change::Insert {
                schema,
                new: row(1),
            },
            Change::Update {
                schema,
                before: Before::Absent,
                new: row(2),
            },
            Change::Update {
                schema,
                before: Before::Key(row(2)),
                new: row(3),
            },
            Change::Update {
                schema,
                before: Before::Full(row(3)),
                new: row(4),
            },
            Change::Delete {
                schema,
                before: Before::Key(row(4)),
            },
            Change::Delete {
                schema,
                before: Before::Full(row(5)),
            },
            Change::Truncate {
                schemas: vec![schema, SchemaId(2)],
                restart_identity: true,
            },
            Change::Message {
                prefix: "p".into(),
                content: Bytes::from_static(b"\0"),
            },
        ];
        let mut out = Vec::new();
        for change in &changes {
            ChangeWriter::new(&mut out).change(change);
        }
        let named: Vec<SchemaId> = schemas(&out).map(Result::unwrap).collect();
        let mut expected = vec![schema; 7];
        expected.push(SchemaId(2));
        assert_eq!(named, expected);
        let back: Vec<Change> = Changes::new(Bytes::from(out)).map(Result::unwrap).collect();
        assert_eq!(back, changes);
    }

    #[test]
    fn a_cut_chunk_is_an_error() {
        let mut out = Vec::new();
        let new = Row::from_values([Value::Integer(1)].into_iter());
        ChangeWriter::new(&mut out).change(&Change::Insert {
            schema: SchemaId(1),
            new,
        });
        for len in 1..out.len() {
            assert!(schemas(&out[..len]).any(|schema| schema.is_err()));
            let chunk = Bytes::copy_from_slice(&out[..len]);
            assert!(
                Changes::new(chunk).any(|change| change.is_err()),
                "cut at {len}"
            );
        }
    }
}
