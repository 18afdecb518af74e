//! Opening a log: create it, or read what is there and repair the end.
//!
//! Every segment's head and preamble are read and must join without a gap. Sealed segments are
//! otherwise trusted until read (every read checks), except for their schema records, which are
//! needed at once. The newest segment is scanned and checked completely. What does not check
//! there is a torn tail and cut off, unless it was durable once: then it is damage, and refused.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, RwLock};

use serde::{Deserialize, Serialize};

use super::cursor::Cursor;
use super::dir::{
    LogDir, META, UNFINISHED, decode_checked, encode_checked, failed, index_name, segment_base,
    segment_name,
};
use super::file::{FileLogOptions, Inner};
use super::flush::Io;
use super::index;
use super::registry::Schemas;
use super::scan::{Scan, damaged_at, read_frame, scan};
use super::segment::{self, FORMAT_VERSION, Found, hit};
use super::state::{Oldest, Pending, State};
use super::tail::Tail;
use super::watermark::{Watermark, WatermarkFile};
use super::{LogError, frame};
use crate::failpoint;
use crate::position::LogId;
use crate::record::Body;
use crate::schema::TableSchema;

/// What opening found.
pub(super) struct Recovered {
    pub inner: Inner,
    pub created: bool,
    pub cut_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    id: LogId,
    created_us: i64,
}

/// Opens or creates the log in `dir`.
pub(super) fn open(dir: LogDir, options: FileLogOptions) -> Result<Recovered, LogError> {
    let lock = dir.lock()?;
    let names = dir.list()?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        dir.remove(name)?;
    }
    let mut bases: Vec<u64> = names.iter().filter_map(|name| segment_base(name)).collect();
    bases.sort_unstable();
    let (id, created) = match read_meta(&dir)? {
        Some(meta) => (meta.id, false),
        None => {
            bases = create(&dir, &options, &bases)?;
            (options.new_id, true)
        }
    };
    let (watermark, durable) = WatermarkFile::open(&dir, id)?;
    let mut repair = Repair::load(&dir, id, &bases, options.index_bytes)?;
    let scan = repair.end(durable)?;
    let (schemas, cut_bytes) = (repair.schemas(&scan)?, repair.cut_bytes);
    let (state, io) = assemble(repair, scan, schemas, &options, watermark)?;
    let inner = Inner {
        id,
        dir,
        options,
        state: Mutex::new(state),
        io: Mutex::new(io),
        work: Condvar::new(),
        trimming: Mutex::new(()),
        listeners: RwLock::default(),
        append_listeners: RwLock::default(),
        _lock: lock,
    };
    Ok(Recovered {
        inner,
        created,
        cut_bytes,
    })
}

fn read_meta(dir: &LogDir) -> Result<Option<Meta>, LogError> {
    let Some(content) = dir.read(META)? else {
        return Ok(None);
    };
    let place = dir.path(META).display().to_string();
    let meta: Meta = match decode_checked(&content) {
        Ok(meta) => meta,
        Err(what) => return Err(LogError::Damaged { place, what }),
    };
    if meta.version != FORMAT_VERSION {
        return Err(LogError::Version {
            place,
            found: meta.version,
            known: FORMAT_VERSION,
        });
    }
    Ok(Some(meta))
}

/// Creates an empty log: the first segment, then, as the last step, its identity. An interrupted
/// creation leaves one empty first segment and is begun anew; anything more is a log that lost
/// its identity.
fn create(dir: &LogDir, options: &FileLogOptions, bases: &[u64]) -> Result<Vec<u64>, LogError> {
    let place = dir.path(META);
    let interrupted = match bases {
        [] => true,
        [0] => is_empty_segment(dir)?,
        _ => false,
    };
    if !interrupted {
        return Err(LogError::Damaged {
            place: place.display().to_string(),
            what: "the file is missing although there are segments".to_owned(),
        });
    }
    let id = options.new_id;
    let start = Cursor::start(first_chain(id));
    segment::create(dir, id, &start, &[])?;
    hit(dir, META, "log.create.before_identity")?;
    let meta = Meta {
        version: FORMAT_VERSION,
        id,
        created_us: options.created_us,
    };
    let content = encode_checked(&meta).map_err(|error| failed(&place, "encode", error.into()))?;
    dir.prepare(META, &content, "log.create.identity_created")?;
    hit(dir, META, "log.create.identity_synced")?;
    dir.finish(META)?;
    hit(dir, META, "log.create.done")?;
    Ok(vec![0])
}

/// Whether the first segment holds no frame; its head then tells how long the file may be.
fn is_empty_segment(dir: &LogDir) -> Result<bool, LogError> {
    let path = dir.path(&segment_name(0));
    let content = dir.read(&segment_name(0))?.unwrap_or_default();
    match segment::is_empty(&content) {
        Some(empty) => Ok(empty),
        None => Err(LogError::Damaged {
            place: path.display().to_string(),
            what: "the segment's head is damaged, and log.json is missing".to_owned(),
        }),
    }
}

/// The chain of a log begins with its identity, so that no other log's frames fit.
fn first_chain(id: LogId) -> u32 {
    crc32c::crc32c(id.0.as_bytes())
}

/// The segments on disk while the end is being repaired.
struct Repair<'a> {
    dir: &'a LogDir,
    id: LogId,
    found: VecDeque<Found>,
    index_bytes: u64,
    /// Without the zeros that were written ahead of the log's end.
    cut_bytes: u64,
}

impl<'a> Repair<'a> {
    /// Reads the heads of all segments and checks that they join.
    fn load(
        dir: &'a LogDir,
        id: LogId,
        bases: &[u64],
        index_bytes: u64,
    ) -> Result<Repair<'a>, LogError> {
        let mut found: VecDeque<Found> = VecDeque::with_capacity(bases.len());
        for &base in bases {
            let next = segment::open(dir, id, base)?;
            if let Some(last) = found.back()
                && last.end != base
            {
                let name = last.segment.name();
                let what = if last.end < base {
                    format!(
                        "it ends at log offset {}, but the next segment begins at {base}: \
                         a segment is missing or was cut short",
                        last.end
                    )
                } else {
                    format!("it reaches to {}, into the next segment", last.end)
                };
                return Err(LogError::Damaged {
                    place: dir.path(&name).display().to_string(),
                    what,
                });
            }
            found.push_back(next);
        }
        if found.is_empty() {
            return Err(LogError::Damaged {
                place: dir.display(),
                what: "there is no segment although the log was created".to_owned(),
            });
        }
        Ok(Repair {
            dir,
            id,
            found,
            index_bytes,
            cut_bytes: 0,
        })
    }

    fn newest(&self) -> Result<&Found, LogError> {
        self.found
            .back()
            .ok_or(LogError::Misuse("the log has no segment"))
    }

    /// Finds the end of the last whole transaction and cuts off what lies behind it.
    fn end(&mut self, durable: Option<Watermark>) -> Result<Scan, LogError> {
        let end = self.newest()?.end;
        let mut scan = scan(self.dir, self.newest()?, end, self.index_bytes)?;
        if let Some(what) = scan.problem {
            let rest = scan.rest(self.dir, self.newest()?)?;
            self.refuse_damage(&scan, &rest, what)?;
            let torn = rest.iter().rposition(|byte| *byte != 0);
            self.cut_bytes += torn.map_or(0, |last| last as u64 + 1);
        }
        self.refuse_lost(&scan.end, durable)?;
        if failpoint::sabotage("keep-torn-tail") {
            return Ok(keep_torn_tail(scan, end));
        }
        if let Some(open) = scan.end.open {
            scan = self.cut_open(open.start, scan.end.offset)?;
            self.refuse_lost(&scan.end, durable)?;
            self.truncate(&scan)?;
        } else if end > scan.end.offset {
            self.truncate(&scan)?;
        }
        Ok(scan)
    }

    /// Bytes that do not check are damaged, not torn, if a later flush was written behind them.
    fn refuse_damage(&self, scan: &Scan, rest: &[u8], what: &'static str) -> Result<(), LogError> {
        if !frame::holds_first_of_flush(rest) {
            return Ok(());
        }
        Err(damaged_at(self.dir, self.newest()?, scan.end.offset, what))
    }

    /// The log must not end before what is known to have been durable.
    fn refuse_lost(&self, end: &Cursor, durable: Option<Watermark>) -> Result<(), LogError> {
        match durable {
            Some(durable) if durable.offset > end.offset => {
                let what = format!(
                    "the log ends here, with transaction {}, but was durable up to offset {}, \
                     transaction {}",
                    end.last.seq, durable.offset, durable.seq
                );
                let newest = self.newest()?;
                Err(damaged_at(self.dir, newest, end.offset, &what))
            }
            _ => Ok(()),
        }
    }

    /// Steps back to where the unfinished transaction began, deleting the segments behind, newest
    /// first and each for good before the next.
    fn cut_open(&mut self, start: u64, end: u64) -> Result<Scan, LogError> {
        self.cut_bytes += end - start;
        while self.newest()?.segment.base() > start {
            if self.found.len() == 1 {
                return Err(LogError::Damaged {
                    place: self.dir.display(),
                    what: "the only segment begins inside a transaction that does not end"
                        .to_owned(),
                });
            }
            if let Some(gone) = self.found.pop_back() {
                self.dir.remove(&index_name(gone.segment.base()))?;
                self.dir.remove(&gone.segment.name())?;
                self.dir.sync()?;
            }
        }
        let scan = scan(self.dir, self.newest()?, start, self.index_bytes)?;
        match scan.problem {
            Some(what) => {
                let at = scan.end.offset;
                Err(damaged_at(self.dir, self.newest()?, at, what))
            }
            None => Ok(scan),
        }
    }

    fn truncate(&self, scan: &Scan) -> Result<(), LogError> {
        let newest = self.newest()?;
        let name = newest.segment.name();
        let path = self.dir.path(&name);
        hit(self.dir, &name, "log.recover.before_truncate")?;
        self.dir.remove(&index_name(newest.segment.base()))?;
        let length = newest.segment.data_start + (scan.end.offset - newest.segment.base());
        let file = self.dir.open(&name)?;
        file.truncate(length)
            .map_err(|error| failed(&path, "truncate", error))?;
        file.sync_data()
            .map_err(|error| LogError::SyncFailed(format!("{}: {error}", path.display())))?;
        hit(self.dir, &name, "log.recover.after_truncate")
    }

    /// Collects the schema versions of all segments, and the marks of the sealed ones.
    fn schemas(&mut self, newest: &Scan) -> Result<Schemas, LogError> {
        let mut schemas = Schemas::default();
        for at in 0..self.found.len() {
            let carried = std::mem::take(&mut self.found[at].schemas);
            let base = self.found[at].segment.base();
            let seq = self.found[at].segment.start.last.seq;
            for schema in carried {
                schemas.add(schema, None, base, seq);
            }
            let next = self
                .found
                .get(at + 1)
                .map(|next| next.segment.start.clone());
            match next {
                Some(next) => {
                    for (offset, schema) in self.sealed(at, &next)? {
                        schemas.add(schema, Some(offset), offset, seq);
                    }
                }
                None => {
                    for (offset, schema) in &newest.schemas {
                        schemas.add(schema.clone(), Some(*offset), *offset, seq);
                    }
                    self.found[at].segment.marks.clone_from(&newest.marks);
                }
            }
        }
        Ok(schemas)
    }

    /// The schema records of a sealed segment that ends at `end`, by its index or by a scan.
    fn sealed(&mut self, at: usize, end: &Cursor) -> Result<Vec<(u64, TableSchema)>, LogError> {
        let found = &self.found[at];
        if let Some((marks, offsets)) = index::read(self.dir, self.id, &found.segment, end) {
            let mut schemas = Vec::with_capacity(offsets.len());
            for offset in offsets {
                let (head, payload) = read_frame(self.dir, found, offset)?;
                match Body::decode(head.kind, &payload) {
                    Ok(Body::Schema(schema)) => schemas.push((offset, schema)),
                    _ => {
                        let what = "not the schema record the index names";
                        return Err(damaged_at(self.dir, found, offset, what));
                    }
                }
            }
            self.found[at].segment.marks = marks;
            return Ok(schemas);
        }
        let scan = scan(self.dir, found, end.offset, self.index_bytes)?;
        if let Some(what) = scan.problem {
            return Err(damaged_at(self.dir, found, scan.end.offset, what));
        }
        if scan.end != *end {
            let what = "the segment does not end in the state the next one begins with";
            return Err(damaged_at(self.dir, found, end.offset, what));
        }
        self.found[at].segment.marks.clone_from(&scan.marks);
        let offsets = scan.schemas.iter().map(|(offset, _)| *offset).collect();
        // Best effort, as when a segment is sealed.
        let _ = index::write(self.dir, self.id, &self.found[at].segment, end, offsets);
        Ok(scan.schemas)
    }
}

/// The deliberately broken variant: takes a torn end for a good one.
fn keep_torn_tail(mut scan: Scan, file_end: u64) -> Scan {
    if scan.end.open.take().is_some() {
        scan.end.last.seq = scan.end.last.seq.next();
    }
    scan.end.offset = file_end;
    scan
}

fn assemble(
    repair: Repair<'_>,
    scan: Scan,
    schemas: Schemas,
    options: &FileLogOptions,
    watermark: WatermarkFile,
) -> Result<(State, Io), LogError> {
    let newest = repair.newest()?;
    let io = Io {
        file: repair.dir.open(&newest.segment.name())?,
        base: newest.segment.base(),
        data_start: newest.segment.data_start,
        written: scan.end.offset,
        ready: 0,
        garbage: false,
        in_flight: None,
        watermark,
    };
    let last_mark = scan.marks.last().map_or(io.base, |mark| mark.offset);
    let state = State {
        before_open: None,
        pending: Pending::default(),
        spares: Vec::new(),
        in_flight: Vec::new(),
        synced: scan.end.offset,
        durable: scan.end.clone(),
        tail: Tail::new(options.tail_bytes),
        segments: repair
            .found
            .into_iter()
            .map(|found| found.segment)
            .collect(),
        // Replaced as soon as the log can be read.
        oldest: Oldest {
            point: Cursor::start(0).last,
            position: crate::position::SourcePosition::default(),
        },
        schemas,
        generation: 0,
        failed: None,
        index_bytes: options.index_bytes,
        last_mark,
        cursor: scan.end,
    };
    Ok((state, io))
}
