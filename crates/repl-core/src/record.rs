//! Contents of the event log's records, independent of how the log frames and stores them.
//!
//! A transaction is one or more *fragments*: the first carries the header, the last the source
//! position. Fragments let a transaction larger than memory flow through without being held whole.
//! Every payload starts with a format version.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{Decoder, Malformed, put_bytes, put_i64, put_u64};
use crate::position::{Epoch, Seq, SourceIdentity, SourcePosition};
use crate::schema::TableSchema;

/// Version of the payloads below; a reader refuses a version it does not know.
pub const PAYLOAD_VERSION: u8 = 1;

/// What a record is; the log stores it beside the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A new span of history begins.
    History = 1,
    /// A schema version.
    Schema = 2,
    /// A part of a transaction.
    Fragment = 3,
    /// The source has nothing for us up to this position.
    Mark = 4,
}

impl RecordKind {
    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<RecordKind> {
        match number {
            1 => Some(RecordKind::History),
            2 => Some(RecordKind::Schema),
            3 => Some(RecordKind::Fragment),
            4 => Some(RecordKind::Mark),
            _ => None,
        }
    }
}

/// Start of a span of history: from `position` of this source on, nothing is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Epoch of every transaction until the next such record.
    pub epoch: Epoch,
    /// Where the transactions come from.
    pub source: SourceIdentity,
    /// Position at the source before the first transaction of the span.
    pub position: SourcePosition,
    /// Why the span began, for people.
    pub reason: String,
    /// What joins it to the spans before; none in a group without a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succession: Option<Succession>,
}

/// How a span joins those before it, once another node has become the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The oldest epoch from which history is unbroken up to this span: a replica in it, or in one
    /// since, goes on across the change of primary. The span's own epoch where history broke.
    pub since: Epoch,
    /// Under which name replicas keep their checkpoint, whoever the primary is.
    pub origin: String,
    /// The tables that were there when the primary changed.
    pub tables: Vec<Inherited>,
    /// The primary before was not asked: it may have committed what the log never saw, and so may a
    /// copy that was read from it hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The engine in whose words the log knows the names of tables: that of the first primary. None
    /// where no other engine has been the primary: the span's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
}

/// A table that another primary has held before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// Its incarnation in the words of the span's own primary …
    pub own: String,
    /// … and in those of the log, by which replicas know it.
    pub incarnation: String,
}

impl History {
    /// The oldest epoch whose replicas can follow into this span.
    pub fn since(&self) -> Epoch {
        let since = self.succession.as_ref().map(|succession| succession.since);
        since.unwrap_or(self.epoch)
    }

    /// The log's word for a table's incarnation, which the span's primary calls `own`. A table made
    /// since the primary changed is never taken for one that another primary had.
    pub fn incarnation(&self, own: &str) -> String {
        let Some(succession) = &self.succession else {
            return own.to_owned();
        };
        let inherited = succession.tables.iter().find(|table| table.own == own);
        match inherited {
            Some(table) => table.incarnation.clone(),
            None => format!("{}:{own}", self.source.node),
        }
    }
}

/// What is known of a transaction when it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxHeader {
    /// The source's own number of the transaction (PostgreSQL: 32-bit xid; SQLite: last change id
    /// of the batch).
    pub txid: u64,
    /// Commit time at the source, microseconds since the Unix epoch. For people and lag, never for
    /// order.
    pub commit_time_us: i64,
    /// The replication origin the change came to the source from; empty when it was made there.
    pub origin: String,
}

/// One part of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    /// Present in the first fragment.
    pub header: Option<TxHeader>,
    /// Present in the last fragment: the position after the transaction.
    pub position: Option<SourcePosition>,
    /// Encoded changes, for [`crate::change::Changes`].
    pub changes: Bytes,
}

/// A record as a reader returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// Epoch in force.
    pub epoch: Epoch,
    /// Sequence of the transaction; for other records that of the last transaction before them.
    pub seq: Seq,
    /// Size on disk, bytes.
    pub size: u64,
    /// Content.
    pub body: Body,
}

/// Content of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// See [`RecordKind::History`].
    History(History),
    /// See [`RecordKind::Schema`].
    Schema(TableSchema),
    /// See [`RecordKind::Fragment`].
    Fragment(Fragment),
    /// See [`RecordKind::Mark`].
    Mark(SourcePosition),
}

impl Body {
    /// The record's kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            Body::History(_) => RecordKind::History,
            Body::Schema(_) => RecordKind::Schema,
            Body::Fragment(_) => RecordKind::Fragment,
            Body::Mark(_) => RecordKind::Mark,
        }
    }

    /// Encodes the payload at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Body::History(history) => encode_json(out, history),
            Body::Schema(schema) => encode_json(out, schema),
            Body::Mark(position) => {
                out.push(PAYLOAD_VERSION);
                put_bytes(out, position.0.as_bytes());
            }
            Body::Fragment(fragment) => {
                encode_fragment(
                    out,
                    fragment.header.as_ref(),
                    fragment.position.as_ref(),
                    &fragment.changes,
                );
            }
        }
    }

    /// Decodes a payload. A fragment's changes share `payload`'s bytes.
    ///
    /// # Errors
    /// When the payload is damaged or of an unknown version.
    pub fn decode(kind: RecordKind, payload: &Bytes) -> Result<Body, Malformed> {
        let mut decoder = Decoder::new(payload);
        if decoder.u8()? != PAYLOAD_VERSION {
            return Err(Malformed("payload of an unknown version"));
        }
        match kind {
            RecordKind::History => serde_json::from_slice(decoder.remaining())
                .map(Body::History)
                .map_err(|_| Malformed("history record is not valid")),
            RecordKind::Schema => serde_json::from_slice(decoder.remaining())
                .map(Body::Schema)
                .map_err(|_| Malformed("schema record is not valid")),
            RecordKind::Mark => Ok(Body::Mark(SourcePosition(decoder.str()?.to_owned()))),
            RecordKind::Fragment => decode_fragment(&mut decoder, payload).map(Body::Fragment),
        }
    }
}

fn encode_json<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    out.push(PAYLOAD_VERSION);
    let start = out.len();
    // Serialising these plain structures into memory cannot fail; if it did, an empty payload
    // would be refused by the decoder rather than misread.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
    }
}

const FLAG_HEADER: u8 = 1;
const FLAG_POSITION: u8 = 2;

/// Encodes a fragment without building a [`Fragment`] first (the hot path of capture).
pub fn encode_fragment(
    out: &mut Vec<u8>,
    header: Option<&TxHeader>,
    position: Option<&SourcePosition>,
    changes: &[u8],
) {
    out.push(PAYLOAD_VERSION);
    let flags = if header.is_some() { FLAG_HEADER } else { 0 }
        | if position.is_some() { FLAG_POSITION } else { 0 };
    out.push(flags);
    if let Some(header) = header {
        put_u64(out, header.txid);
        put_i64(out, header.commit_time_us);
        put_bytes(out, header.origin.as_bytes());
    }
    if let Some(position) = position {
        put_bytes(out, position.0.as_bytes());
    }
    out.extend_from_slice(changes);
}

/// What the log itself needs to know of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHead<'a> {
    /// The source's number of the transaction, in its first fragment.
    pub txid: Option<u64>,
    /// The source position after the transaction, in its last fragment.
    pub position: Option<&'a str>,
}

/// Reads the start of a fragment's payload without copying or looking at its changes.
///
/// # Errors
/// When the payload is damaged or of an unknown version.
#[inline]
pub fn peek_fragment(payload: &[u8]) -> Result<FragmentHead<'_>, Malformed> {
    let mut decoder = Decoder::new(payload);
    if decoder.u8()? != PAYLOAD_VERSION {
        return Err(Malformed("payload of an unknown version"));
    }
    let flags = decoder.u8()?;
    let mut head = FragmentHead {
        txid: None,
        position: None,
    };
    if flags & FLAG_HEADER != 0 {
        head.txid = Some(decoder.u64()?);
        decoder.i64()?;
        decoder.bytes()?;
    }
    if flags & FLAG_POSITION != 0 {
        head.position = Some(decoder.str()?);
    }
    Ok(head)
}

fn decode_fragment(decoder: &mut Decoder<'_>, payload: &Bytes) -> Result<Fragment, Malformed> {
    let flags = decoder.u8()?;
    let header = if flags & FLAG_HEADER != 0 {
        Some(TxHeader {
            txid: decoder.u64()?,
            commit_time_us: decoder.i64()?,
            origin: decoder.str()?.to_owned(),
        })
    } else {
        None
    };
    let position = if flags & FLAG_POSITION != 0 {
        Some(SourcePosition(decoder.str()?.to_owned()))
    } else {
        None
    };
    let start = payload.len() - decoder.remaining().len();
    Ok(Fragment {
        header,
        position,
        changes: payload.slice(start..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_round_trip() {
        let header = TxHeader {
            txid: 77,
            commit_time_us: -5,
            origin: "o".into(),
        };
        let position = SourcePosition("00000000/016B3748".into());
        let bodies = [
            Body::Mark(position.clone()),
            Body::Fragment(Fragment {
                header: Some(header),
                position: None,
                changes: Bytes::from_static(b"abc"),
            }),
            Body::Fragment(Fragment {
                header: None,
                position: Some(position.clone()),
                changes: Bytes::new(),
            }),
            Body::History(History {
                epoch: Epoch(3),
                source: SourceIdentity {
                    node: "p".into(),
                    engine: "postgres".into(),
                    system: "1".into(),
                    timeline: "1".into(),
                },
                position,
                reason: "new log".into(),
                succession: None,
            }),
        ];
        for body in bodies {
            let mut payload = Vec::new();
            body.encode(&mut payload);
            let payload = Bytes::from(payload);
            assert_eq!(Body::decode(body.kind(), &payload), Ok(body));
        }
    }

    #[test]
    fn a_change_of_primary_keeps_what_replicas_know_tables_by() {
        let mut history = History {
            epoch: Epoch(3),
            source: SourceIdentity {
                node: "r1".into(),
                engine: "postgres".into(),
                system: "1".into(),
                timeline: "1".into(),
            },
            position: SourcePosition::default(),
            reason: String::new(),
            succession: None,
        };
        assert_eq!(
            (history.since(), history.incarnation("7").as_str()),
            (Epoch(3), "7")
        );
        history.succession = Some(Succession {
            since: Epoch(1),
            origin: "main".into(),
            tables: vec![Inherited {
                own: "7".into(),
                incarnation: "99".into(),
            }],
            forced: true,
            home: None,
        });
        assert_eq!(history.since(), Epoch(1));
        assert_eq!(history.incarnation("7"), "99");
        assert_ne!(
            history.incarnation("99"),
            "99",
            "another table than the one before"
        );
        let mut payload = Vec::new();
        Body::History(history.clone()).encode(&mut payload);
        let decoded = Body::decode(RecordKind::History, &Bytes::from(payload));
        assert_eq!(decoded, Ok(Body::History(history)));
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let payload = Bytes::from_static(&[9, 0, 0]);
        assert!(Body::decode(RecordKind::Fragment, &payload).is_err());
    }
}
