//! The messages of the logical replication stream, decoded without copying.
//!
//! Sources: PostgreSQL documentation, chapters "Streaming Replication Protocol" (the frames `w`,
//! `k`, `r`) and "Logical Replication Message Formats" (protocol version 1, as all servers from 14
//! on speak it). Integers are big-endian.

use repl_core::codec::Malformed;

use super::lsn::Lsn;

/// Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01 UTC.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A frame of the replication stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Frame<'a> {
    /// Log data.
    Data {
        /// When the server sent it, microseconds since the Unix epoch by the server's clock.
        sent_us: i64,
        /// For [`message`].
        message: &'a [u8],
    },
    /// The server's position, with nothing to send up to it.
    Keepalive {
        /// Everything before this was sent.
        end: Lsn,
        /// An answer is wanted now.
        reply: bool,
    },
}

/// A logical replication message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Start of its commit record.
        commit: Lsn,
        /// Commit time, microseconds since the Unix epoch.
        time_us: i64,
        /// Transaction id.
        xid: u32,
    },
    /// The transaction ended.
    Commit {
        /// End of its commit record: the position to resume from and to acknowledge.
        end: Lsn,
    },
    /// The replication origin the transaction came to this server from.
    Origin(&'a str),
    /// Shape of a table; precedes its first change in a session and after each alteration.
    Relation(Relation<'a>),
    /// A row appeared.
    Insert {
        /// OID of the table.
        relation: u32,
        /// New row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// OID of the table.
        relation: u32,
        /// Row before, if sent.
        old: Option<OldTuple<'a>>,
        /// New row.
        new: Tuple<'a>,
    },
    /// A row went.
    Delete {
        /// OID of the table.
        relation: u32,
        /// Row before.
        old: OldTuple<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// OIDs.
        relations: Vec<u32>,
        /// RESTART IDENTITY.
        restart_identity: bool,
    },
    /// A logical message written by `pg_logical_emit_message`.
    Logical {
        /// Written inside a transaction.
        transactional: bool,
        /// Label.
        prefix: &'a str,
    },
    /// A type's name; not needed, since names are read from the catalog.
    Type,
}

/// A row image before a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OldTuple<'a> {
    /// Only the replica identity's columns; the others are NULL.
    Key(Tuple<'a>),
    /// All columns (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// Shape of a table as the stream announces it.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation<'a> {
    /// OID.
    pub oid: u32,
    /// Schema.
    pub schema: &'a str,
    /// Name.
    pub name: &'a str,
    /// `d`efault, `n`othing, `f`ull or `i`ndex.
    pub replica_identity: u8,
    /// Columns in the order of the row images.
    pub columns: Vec<RelationColumn<'a>>,
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Name.
    pub name: &'a str,
    /// OID of the type.
    pub type_id: u32,
    /// Type modifier, -1 for none.
    pub type_mod: i32,
}

/// A row image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuple<'a> {
    columns: u16,
    data: &'a [u8],
}

/// One value of a row image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// NULL.
    Null,
    /// A TOASTed value that did not change and was not sent.
    Unchanged,
    /// Text form.
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Number of columns.
    pub fn columns(&self) -> usize {
        usize::from(self.columns)
    }

    /// Size of the image, bytes.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// The fields in order. The image was measured when it was decoded, so no field is short.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut input = Input(self.data);
        let mut left = self.columns;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            input.field().ok()
        })
    }
}

/// Decodes a frame.
///
/// # Errors
/// When it is damaged or unknown.
pub fn frame(bytes: &[u8]) -> Result<Frame<'_>, Malformed> {
    let mut input = Input(bytes);
    match input.u8()? {
        b'w' => {
            // Two positions: with logical decoding the change's own, twice.
            input.take(16)?;
            let sent_us = input.i64()?.saturating_add(POSTGRES_EPOCH_US);
            let message = input.0;
            Ok(Frame::Data { sent_us, message })
        }
        b'k' => {
            let end = Lsn(input.u64()?);
            input.take(8)?;
            Ok(Frame::Keepalive {
                end,
                reply: input.u8()? != 0,
            })
        }
        _ => Err(Malformed("unknown replication frame")),
    }
}

/// The standby status update (`r`): what is written, flushed and applied here.
pub fn status_update(write: Lsn, flush: Lsn, apply: Lsn, now_us: i64, reply: bool) -> [u8; 34] {
    let mut out = [0; 34];
    out[0] = b'r';
    out[1..9].copy_from_slice(&write.0.to_be_bytes());
    out[9..17].copy_from_slice(&flush.0.to_be_bytes());
    out[17..25].copy_from_slice(&apply.0.to_be_bytes());
    out[25..33].copy_from_slice(&(now_us - POSTGRES_EPOCH_US).to_be_bytes());
    out[33] = u8::from(reply);
    out
}

/// Decodes a message.
///
/// # Errors
/// When it is damaged or of a kind this protocol version does not have.
pub fn message(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut input = Input(bytes);
    Ok(match input.u8()? {
        b'I' => {
            let relation = input.u32()?;
            input.tag(b'N')?;
            Message::Insert {
                relation,
                new: input.tuple()?,
            }
        }
        b'U' => {
            let relation = input.u32()?;
            let (old, new) = input.update()?;
            Message::Update { relation, old, new }
        }
        b'D' => {
            let relation = input.u32()?;
            let tag = input.u8()?;
            Message::Delete {
                relation,
                old: input.old_tuple(tag)?,
            }
        }
        b'B' => Message::Begin {
            commit: Lsn(input.u64()?),
            time_us: input.i64()?.saturating_add(POSTGRES_EPOCH_US),
            xid: input.u32()?,
        },
        b'C' => {
            input.take(9)?;
            Message::Commit {
                end: Lsn(input.u64()?),
            }
        }
        b'O' => {
            input.take(8)?;
            Message::Origin(input.cstr()?)
        }
        b'R' => Message::Relation(input.relation()?),
        b'T' => input.truncate()?,
        b'M' => {
            let transactional = input.u8()? & 1 != 0;
            input.take(8)?;
            Message::Logical {
                transactional,
                prefix: input.cstr()?,
            }
        }
        b'Y' => Message::Type,
        _ => return Err(Malformed("unknown logical replication message")),
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if len > self.0.len() {
            return Err(Malformed("message ends early"));
        }
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?
            .try_into()
            .map_err(|_| Malformed("message ends early"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn tag(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.u8()? == tag {
            Ok(())
        } else {
            Err(Malformed("unexpected tag"))
        }
    }

    fn cstr(&mut self) -> Result<&'a str, Malformed> {
        let end = self
            .0
            .iter()
            .position(|&b| b == 0)
            .ok_or(Malformed("unterminated text"))?;
        let text = std::str::from_utf8(&self.0[..end]).map_err(|_| Malformed("name not UTF-8"))?;
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    #[inline]
    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        match self.u8()? {
            b't' => {
                let len = self.u32()? as usize;
                Ok(Field::Text(self.take(len)?))
            }
            b'n' => Ok(Field::Null),
            b'u' => Ok(Field::Unchanged),
            _ => Err(Malformed("unknown value format")),
        }
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let columns = self.u16()?;
        let start = self.0;
        for _ in 0..columns {
            self.field()?;
        }
        Ok(Tuple {
            columns,
            data: &start[..start.len() - self.0.len()],
        })
    }

    fn old_tuple(&mut self, tag: u8) -> Result<OldTuple<'a>, Malformed> {
        match tag {
            b'K' => Ok(OldTuple::Key(self.tuple()?)),
            b'O' => Ok(OldTuple::Full(self.tuple()?)),
            _ => Err(Malformed("unknown row image")),
        }
    }

    fn update(&mut self) -> Result<(Option<OldTuple<'a>>, Tuple<'a>), Malformed> {
        let tag = self.u8()?;
        if tag == b'N' {
            return Ok((None, self.tuple()?));
        }
        let old = self.old_tuple(tag)?;
        self.tag(b'N')?;
        Ok((Some(old), self.tuple()?))
    }

    fn relation(&mut self) -> Result<Relation<'a>, Malformed> {
        let oid = self.u32()?;
        let schema = self.cstr()?;
        let name = self.cstr()?;
        let replica_identity = self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            columns.push(RelationColumn {
                key: self.u8()? & 1 != 0,
                name: self.cstr()?,
                type_id: self.u32()?,
                type_mod: self.u32()? as i32,
            });
        }
        // An empty schema name stands for pg_catalog.
        let schema = if schema.is_empty() {
            "pg_catalog"
        } else {
            schema
        };
        Ok(Relation {
            oid,
            schema,
            name,
            replica_identity,
            columns,
        })
    }

    fn truncate(&mut self) -> Result<Message<'a>, Malformed> {
        let count = self.u32()?;
        let options = self.u8()?;
        let mut relations = Vec::new();
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate {
            relations,
            restart_identity: options & 2 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update_bytes() -> Vec<u8> {
        let mut bytes = vec![b'U', 0, 0, 0, 7, b'K', 0, 2, b't', 0, 0, 0, 1, b'1', b'n'];
        bytes.extend([b'N', 0, 2, b't', 0, 0, 0, 1, b'2', b'u']);
        bytes
    }

    #[test]
    fn an_update_with_key_and_unchanged_toast() {
        let bytes = update_bytes();
        let Message::Update {
            relation: 7,
            old: Some(OldTuple::Key(old)),
            new,
        } = message(&bytes).unwrap()
        else {
            panic!("wrong message")
        };
        assert_eq!(
            old.fields().collect::<Vec<_>>(),
            [Field::Text(b"1"), Field::Null]
        );
        assert_eq!(
            new.fields().collect::<Vec<_>>(),
            [Field::Text(b"2"), Field::Unchanged]
        );
    }

    #[test]
    fn cut_or_hostile_messages_are_errors() {
        let bytes = update_bytes();
        for len in 0..bytes.len() {
            assert!(message(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(message(&[b'T', 255, 255, 255, 255, 0]).is_err());
        assert!(message(&[b'I', 0, 0, 0, 1, b'N', 0, 1, b't', 255, 255, 255, 255]).is_err());
        assert!(frame(b"x").is_err());
    }

    #[test]
    fn status_updates_carry_three_positions() {
        let bytes = status_update(Lsn(3), Lsn(2), Lsn(1), POSTGRES_EPOCH_US, true);
        assert_eq!(
            (bytes[0], bytes[8], bytes[16], bytes[24], bytes[33]),
            (b'r', 3, 2, 1, 1)
        );
    }
}
