//! A random workload, what it must leave behind, and the check of the one against the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::sim::{Random, SimDisk};
use crate::log::conformance::{drain, fragment, history, position, table};
use crate::log::{
    Appender, EventLog, FileLog, FileLogOptions, LogError, MemoryLog, Opened, Reader, Visibility,
};
use crate::position::{LogId, Seq};
use crate::record::{Body, LogRecord, RecordKind};
use crate::schema::SchemaId;

/// Sizes of a log, and its number.
pub fn options(segment_bytes: u64, index_bytes: u64, tail_bytes: u64) -> FileLogOptions {
    FileLogOptions {
        segment_bytes,
        tail_bytes,
        index_bytes,
        new_id: LogId(uuid::Uuid::from_u128(42)),
        created_us: 7,
    }
}

/// Opens the log on a simulated disk.
pub fn open(disk: &SimDisk, options: &FileLogOptions) -> Result<Opened, LogError> {
    FileLog::open(Path::new("/log"), options.clone(), Arc::new(disk.clone()))
}

/// One step of a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// A transaction of this many fragments of about this many bytes.
    Transaction {
        fragments: u16,
        bytes: u16,
    },
    /// The same, flushed after every fragment, its table altered halfway.
    Long {
        fragments: u16,
        bytes: u16,
    },
    /// The same, but never finished; taken back by a new appender (true) or by abandoning it.
    Abandoned {
        fragments: u16,
        bytes: u16,
        takeover: bool,
    },
    Mark,
    Alter(u16),
    History,
    Flush,
    /// Space is written ahead of the end.
    Prepare,
    /// Up to this many transactions before the durable end.
    Trim(u16),
}

impl Op {
    /// A step from two numbers, so that a shrinking test shrinks it well.
    pub fn from_numbers(kind: u8, size: u16) -> Op {
        let (fragments, bytes) = (1 + size % 5, size % 240);
        match kind % 16 {
            0..=4 => Op::Transaction {
                fragments: 1,
                bytes,
            },
            5 => Op::Transaction { fragments, bytes },
            6 => Op::Long { fragments, bytes },
            7 => Op::Abandoned {
                fragments,
                bytes,
                takeover: size.is_multiple_of(2),
            },
            8 => Op::Mark,
            9 => Op::Alter(size % 3),
            10 => Op::History,
            11 => Op::Trim(size % 12),
            12 => Op::Prepare,
            _ => Op::Flush,
        }
    }

    pub fn random(random: &mut Random) -> Op {
        Op::from_numbers(random.below(256) as u8, random.below(65_536) as u16)
    }
}

/// Steps for this seed.
pub fn workload(seed: u64, steps: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    (0..steps).map(|_| Op::random(&mut random)).collect()
}

/// What was done to a log.
#[derive(Clone, Default)]
pub struct Model {
    /// Content of every finished transaction, the first at 0.
    pub transactions: Vec<Vec<u8>>,
    /// The last one a flush made durable, and the offset.
    pub acknowledged: u64,
    pub offset: u64,
    /// The last one that might be trimmed.
    pub trimmed: u64,
    /// Table and number of columns of every schema version.
    pub schemas: BTreeMap<u32, (String, usize)>,
    /// Newest version of every table.
    latest: BTreeMap<u16, u32>,
    epoch: u32,
    steps: u64,
}

/// A log being worked on.
pub struct Run {
    pub log: Arc<dyn EventLog>,
    appender: Option<Box<dyn Appender>>,
    /// Sees every transaction as soon as it ends.
    follower: Option<Box<dyn Reader>>,
    pub model: Model,
}

impl Run {
    pub fn new(log: Arc<dyn EventLog>, model: Model) -> Run {
        Run {
            log,
            appender: None,
            follower: None,
            model,
        }
    }

    /// Checks that the transactions appended since the last call, and nothing else, can be read.
    fn follow(&mut self, known: usize) {
        let last = self.model.transactions.len() as u64;
        assert_eq!(self.log.appended().seq, Seq(last));
        let log = &self.log;
        let follower = self
            .follower
            .get_or_insert_with(|| log.follow(Seq(known as u64), Visibility::Appended).unwrap());
        let seen = whole_transactions(&drain(follower.as_mut()));
        let seen: Vec<_> = seen.into_iter().map(|(_, _, content)| content).collect();
        assert_eq!(seen, self.model.transactions[known..]);
    }

    fn appender(&mut self) -> Result<&mut Box<dyn Appender>, LogError> {
        if self.appender.is_none() {
            self.appender = Some(self.log.appender()?);
            if self.log.bounds().history.is_none() && self.model.transactions.is_empty() {
                self.model.epoch = 1;
                self.body(&Body::History(history(1)))?;
            }
        }
        self.appender
            .as_mut()
            .ok_or(LogError::Misuse("no appender"))
    }

    fn body(&mut self, body: &Body) -> Result<(), LogError> {
        let mut payload = Vec::new();
        body.encode(&mut payload);
        let appender = self.appender()?;
        let seq = appender.last_seq();
        appender.push(body.kind(), seq, true, &payload).map(|_| ())
    }

    /// Flushes and notes what that promised.
    pub fn flush(&mut self) -> Result<(), LogError> {
        let result = self.log.flush();
        let durable = self.log.bounds().durable;
        self.model.acknowledged = durable.seq.0;
        self.model.offset = durable.offset.0;
        result.map(|_| ())
    }

    pub fn apply(&mut self, op: Op) -> Result<(), LogError> {
        self.model.steps += 1;
        match op {
            Op::Transaction { fragments, bytes } => self.transaction(fragments, bytes, false),
            Op::Long { fragments, bytes } => self.transaction(fragments, bytes, true),
            Op::Abandoned {
                fragments,
                bytes,
                takeover,
            } => self.abandoned(fragments, bytes, takeover),
            Op::Mark => self.body(&Body::Mark(position(self.model.steps))),
            Op::Alter(n) => self.alter(n).map(|_| ()),
            Op::History => {
                self.model.epoch += 1;
                self.body(&Body::History(history(self.model.epoch)))
            }
            Op::Flush => self.flush(),
            Op::Prepare => self.log.prepare(),
            Op::Trim(back) => {
                let through = self.model.acknowledged.saturating_sub(u64::from(back));
                self.model.trimmed = self.model.trimmed.max(through);
                self.log.trim(Seq(through)).map(|_| ())
            }
        }
    }

    /// A new version of table `n`.
    fn alter(&mut self, n: u16) -> Result<u32, LogError> {
        self.appender()?;
        let id = self.log.next_schema_id();
        let name = format!("t{n}");
        let columns = 1 + (id.0 as usize) % 4;
        let mut schema = table(&name, columns);
        schema.id = id;
        self.body(&Body::Schema(schema))?;
        self.model.schemas.insert(id.0, (name, columns));
        self.model.latest.insert(n, id.0);
        Ok(id.0)
    }

    fn version(&mut self) -> Result<(u16, u32), LogError> {
        let n = (self.model.steps % 3) as u16;
        match self.model.latest.get(&n) {
            Some(&id) => Ok((n, id)),
            None => Ok((n, self.alter(n)?)),
        }
    }

    /// Pushes fragments, the last of which ends the transaction if `end`; returns the content.
    fn fragments(
        &mut self,
        fragments: u16,
        bytes: u16,
        long: bool,
        end: bool,
    ) -> Result<Vec<u8>, LogError> {
        let (n, mut schema) = self.version()?;
        let seq = self.appender()?.last_seq().next();
        let mut content = Vec::new();
        for part in 0..fragments {
            if long && part == fragments / 2 && part > 0 {
                schema = self.alter(n)?;
            }
            let mut changes = schema.to_le_bytes().to_vec();
            changes.push(u8::try_from(bytes).unwrap_or(u8::MAX));
            let fill = (seq.0 as u8).wrapping_mul(31).wrapping_add(part as u8);
            changes.resize(5 + usize::from(changes[4]), fill);
            let last = end && part + 1 == fragments;
            let txid = (part == 0).then_some(seq.0 + 500);
            let payload = fragment(txid, last.then_some(seq.0), &changes);
            self.appender()?
                .push(RecordKind::Fragment, seq, last, &payload)?;
            content.extend_from_slice(&changes);
            if last {
                self.model.transactions.push(content.clone());
            }
            if long {
                self.flush()?;
            }
        }
        Ok(content)
    }

    fn transaction(&mut self, fragments: u16, bytes: u16, long: bool) -> Result<(), LogError> {
        self.fragments(fragments, bytes, long, true).map(|_| ())
    }

    fn abandoned(&mut self, fragments: u16, bytes: u16, takeover: bool) -> Result<(), LogError> {
        self.fragments(fragments, bytes, true, false)?;
        if takeover {
            self.appender = None;
            self.appender().map(|_| ())
        } else {
            self.appender()?.abandon()
        }
    }

    /// Flushes some fragments of a transaction and leaves it at that.
    #[cfg(feature = "failpoints")]
    pub fn unfinished(&mut self, fragments: u16, bytes: u16) -> Result<(), LogError> {
        self.fragments(fragments, bytes, true, false).map(|_| ())
    }

    /// Forgets which schema versions are the newest; the next changes make their own.
    pub fn forget_schemas(&mut self) {
        self.model.latest.clear();
    }

    /// Forgets a transaction that an error left open.
    pub fn recover(&mut self) -> Result<(), LogError> {
        self.appender = None;
        self.appender().map(|_| ())
    }
}

/// Checks that the log holds what the model allows: a dense run of whole transactions, from one
/// that might be the oldest left to one that is not older than the last acknowledged.
pub fn check(log: &dyn EventLog, model: &Model) {
    let bounds = log.bounds();
    let (first, last) = (bounds.first_seq.0, bounds.durable.seq.0);
    assert!(last >= model.acknowledged, "durable transactions are lost");
    assert!(
        bounds.durable.offset.0 >= model.offset,
        "durable bytes are lost"
    );
    assert!(
        last <= model.transactions.len() as u64,
        "invented transactions"
    );
    assert!(
        first <= model.trimmed + 1,
        "wanted transactions were trimmed"
    );
    let mut reader = log.reader(Seq(first - 1)).unwrap();
    let found = whole_transactions(&drain(reader.as_mut()));
    assert_eq!(found.len() as u64, last + 1 - first);
    for (at, (seq, txid, content)) in found.iter().enumerate() {
        assert_eq!(*seq, first + at as u64);
        assert_eq!(*txid, seq + 500);
        assert_eq!(content, &model.transactions[*seq as usize - 1]);
        check_schemas(log, model, content);
    }
    for seq in [first, last, u64::midpoint(first, last)] {
        let point = log.point(Seq(seq)).unwrap();
        let appended = log.appended().seq.0;
        let known = (first..=appended).contains(&seq) || (seq == first - 1 && seq > 0);
        let wanted = known.then(|| (seq + 500, position(seq)));
        assert_eq!(point.map(|point| (point.txid, point.position)), wanted);
    }
}

fn check_schemas(log: &dyn EventLog, model: &Model, content: &[u8]) {
    let mut rest = content;
    while let [a, b, c, d, length, behind @ ..] = rest {
        let id = u32::from_le_bytes([*a, *b, *c, *d]);
        let schema = log
            .schema(SchemaId(id))
            .expect("schema of a retained change");
        let (name, columns) = &model.schemas[&id];
        assert_eq!((&schema.table.name, schema.columns.len()), (name, *columns));
        rest = &behind[usize::from(*length)..];
    }
}

/// Sequence, transaction number and content of the transactions among the records, each checked
/// to be whole.
pub fn whole_transactions(records: &[LogRecord]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open: Option<(u64, u64, Vec<u8>)> = None;
    for record in records {
        let Body::Fragment(part) = &record.body else {
            continue;
        };
        let (seq, txid, mut content) = match (&part.header, open.take()) {
            (Some(header), None) => (record.seq.0, header.txid, Vec::new()),
            (None, Some(open)) => open,
            other => panic!("fragments out of place: {other:?}"),
        };
        assert_eq!(record.seq.0, seq, "fragments of two transactions mixed");
        content.extend_from_slice(&part.changes);
        if part.position == Some(position(seq)) {
            found.push((seq, txid, content));
        } else {
            open = Some((seq, txid, content));
        }
    }
    assert!(open.is_none(), "a reader returned half a transaction");
    found
}

/// What is left of a reader, but for the sizes, which may be a log's own.
fn comparable(reader: &mut dyn Reader) -> Vec<LogRecord> {
    let mut records = drain(reader);
    for record in &mut records {
        record.size = 0;
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The same workload on a memory log, on a file log that reads from disk only and on one that
    /// has everything in its tail, the file logs reopened now and then.
    #[test]
    fn all_logs_agree(
        steps in prop::collection::vec((any::<u8>(), any::<u16>()), 1..60),
        segment_bytes in 200u64..4_000,
        index_bytes in 1u64..600,
        reopen_every in 3usize..30,
    ) {
        let disk_only = options(segment_bytes, index_bytes, 0);
        let tail_only = options(segment_bytes, index_bytes, 1 << 30);
        let disks = [SimDisk::new(), SimDisk::new()];
        let memory: Arc<dyn EventLog> = Arc::new(MemoryLog::new(LogId(uuid::Uuid::nil())));
        let mut runs = vec![Run::new(memory, Model::default())];
        for (disk, options) in disks.iter().zip([&disk_only, &tail_only]) {
            runs.push(Run::new(open(disk, options).unwrap().log, Model::default()));
        }
        for (at, &(kind, size)) in steps.iter().enumerate() {
            for run in &mut runs {
                let known = run.model.transactions.len();
                run.apply(Op::from_numbers(kind, size)).unwrap();
                run.follow(known);
            }
            if at % reopen_every == reopen_every - 1 {
                for run in &mut runs {
                    run.flush().unwrap();
                }
                let run = &mut runs[1];
                let model = run.model.clone();
                // The directory is locked until every handle is gone.
                *run = Run::new(Arc::new(MemoryLog::new(LogId(uuid::Uuid::nil()))), model.clone());
                let opened = open(&disks[0], &disk_only).unwrap();
                prop_assert_eq!(opened.cut_bytes, 0);
                *run = Run::new(opened.log, model);
            }
        }
        for run in &mut runs {
            run.flush().unwrap();
            check(run.log.as_ref(), &run.model);
        }
        let first = runs.iter().map(|run| run.log.bounds().first_seq.0).max().unwrap_or(1);
        let last = runs[0].log.bounds().durable.seq.0;
        for after in first - 1..=last {
            let read = |run: &Run| {
                let mut records = comparable(run.log.reader(Seq(after)).unwrap().as_mut());
                // The logs are cut into segments differently, so that the marks just behind the
                // last trimmed transaction may be gone from one of them only.
                if after < first {
                    records.retain(|record| record.seq.0 > after);
                }
                records
            };
            let (memory, disk, tail) = (read(&runs[0]), read(&runs[1]), read(&runs[2]));
            prop_assert_eq!(&disk, &tail, "after {}", after);
            // A memory log trims to the record, a file log to the segment.
            prop_assert_eq!(whole_transactions(&memory), whole_transactions(&disk));
        }
    }
}
