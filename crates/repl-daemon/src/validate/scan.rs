//! Reads one table on every side at once and compares it there.
//!
//! The first pass sums row hashes by bucket; where buckets differ, a second pass over the same
//! snapshots keeps their rows. Memory is bounded by the number of buckets, by what changed
//! between the snapshots, and by a limit on the rows kept.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use repl_connectors::seam::Snapshot;
use repl_core::row::Row;
use repl_core::schema::TableName;
use repl_core::validate::digest::{Buckets, RowHasher};
use repl_core::validate::narrow::{self, Kept, Narrowed, Wanted};
use tokio::task::JoinSet;

use super::cut::View;
use super::member::{Form, Subject};
use super::progress::Rows;

/// Most rows kept of one side by the second pass.
const KEPT_ROWS: u64 = 50_000;
/// Most memory for them, bytes.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// What one pass makes of the rows.
enum Sink {
    Sum(Buckets),
    Keep(Arc<Wanted>, Kept),
}

impl Sink {
    fn add(&mut self, hasher: &RowHasher, key: &Bytes, row: &Row, copies: i64) {
        let bucket = hasher.bucket(key);
        match self {
            Sink::Sum(buckets) => buckets.add_copies(bucket, hasher.row(row.encoded()), copies),
            Sink::Keep(wanted, kept) => kept.add(wanted, bucket, key.clone(), row.clone(), copies),
        }
    }
}

/// What the primary's rows are to become for one replica.
struct Side {
    subject: Arc<Subject>,
    sink: Sink,
    /// The snapshot's rows under keys that changed since.
    touched: HashMap<Bytes, Row>,
}

/// Replicas whose rows have the same form share the work of making it.
struct Lane {
    form: Form,
    sides: Vec<(usize, Side)>,
}

/// One replica's table being compared.
pub struct Compared {
    /// The table.
    pub subject: Arc<Subject>,
    /// Rows the replica should hold, and rows it holds.
    pub rows: Option<(u64, u64)>,
    /// Only the rows were counted.
    pub counted: bool,
    /// Buckets that differ.
    pub differing: usize,
    /// The rows behind them.
    pub narrowed: Option<Narrowed>,
    /// Generated columns that hold other values than the primary's expressions give.
    pub miscomputed: Option<String>,
    /// Why it could not be compared.
    pub failed: Option<String>,
}

impl Compared {
    /// Nothing known yet.
    pub fn new(subject: Subject) -> Self {
        Compared {
            subject: Arc::new(subject),
            rows: None,
            counted: false,
            differing: 0,
            narrowed: None,
            miscomputed: None,
            failed: None,
        }
    }
}

/// The sides of a comparison: the primary's snapshot and the views, each with its table.
pub struct Scan<'a> {
    /// Name at the primary.
    pub table: &'a TableName,
    /// Seed of the hashes.
    pub hasher: RowHasher,
    /// Counts what is read.
    pub rows: &'a Rows,
}

/// The views that take part, by position.
pub type Views = HashMap<usize, View>;

impl Scan<'_> {
    /// Compares the table, whose reading at the primary has been started already.
    ///
    /// # Errors
    /// When the primary cannot be read.
    pub async fn compare(
        &self,
        snapshot: &mut Box<dyn Snapshot>,
        views: &mut Views,
        compared: &mut HashMap<usize, Compared>,
    ) -> Result<(), String> {
        let sums = compared.keys().map(|at| (*at, None)).collect();
        let sums = self.pass(snapshot, views, compared, sums).await?;
        let mut wanted = HashMap::new();
        for (at, sides) in sums {
            let (Some(one), (Sink::Sum(expected), Sink::Sum(actual))) =
                (compared.get_mut(&at), sides)
            else {
                continue;
            };
            one.rows = Some((expected.rows(), actual.rows()));
            let differing = expected.differing(&actual);
            one.differing = differing.len();
            if !differing.is_empty() {
                wanted.insert(at, Some(Arc::new(Wanted::of(&differing, KEPT_ROWS))));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let reopened = snapshot.open(self.table).await;
        reopened.map_err(|error| error.message)?;
        for (at, sides) in self.pass(snapshot, views, compared, wanted).await? {
            let (Some(one), (Sink::Keep(wanted, expected), Sink::Keep(_, actual))) =
                (compared.get_mut(&at), sides)
            else {
                continue;
            };
            match narrow::compare(&one.subject.form.canon, &wanted, &expected, &actual) {
                Ok(narrowed) => one.narrowed = Some(narrowed),
                Err(error) => one.failed = Some(error.to_string()),
            }
        }
        Ok(())
    }

    /// Reads every side once, all at the same time; the expected and the actual of each replica.
    async fn pass(
        &self,
        snapshot: &mut Box<dyn Snapshot>,
        views: &mut Views,
        compared: &mut HashMap<usize, Compared>,
        sinks: HashMap<usize, Option<Arc<Wanted>>>,
    ) -> Result<HashMap<usize, (Sink, Sink)>, String> {
        let sink = |wanted: &Option<Arc<Wanted>>| match wanted {
            None => Sink::Sum(Buckets::default()),
            Some(wanted) => Sink::Keep(Arc::clone(wanted), Kept::new(wanted, KEPT_BYTES)),
        };
        let mut lanes: Vec<Lane> = Vec::new();
        let mut reading = JoinSet::new();
        for (at, wanted) in &sinks {
            let (Some(one), Some(mut view)) = (compared.get(at), views.remove(at)) else {
                continue;
            };
            let side = Side {
                subject: Arc::clone(&one.subject),
                sink: sink(wanted),
                touched: HashMap::new(),
            };
            join(&mut lanes, *at, side);
            let (at, subject, hasher) = (*at, Arc::clone(&one.subject), self.hasher);
            let (mut sink, rows) = (sink(wanted), self.rows.clone());
            reading.spawn(async move {
                let read = read_replica(&mut view, &subject, &mut sink, hasher, &rows).await;
                (at, view, sink, read)
            });
        }
        let expected = read_primary(snapshot.as_mut(), lanes, self.hasher, self.rows).await;
        let mut actual = HashMap::new();
        while let Some(ended) = reading.join_next().await {
            let (at, view, sink, read) = ended.map_err(|error| error.to_string())?;
            views.insert(at, view);
            match (read, compared.get_mut(&at)) {
                (Err(reason), Some(one)) => one.failed = Some(reason),
                _ => drop(actual.insert(at, sink)),
            }
        }
        let mut sides = HashMap::new();
        for (at, expected) in expected? {
            match (expected, actual.remove(&at)) {
                (Ok(expected), Some(actual)) => drop(sides.insert(at, (expected, actual))),
                (Err(reason), _) => {
                    if let Some(one) = compared.get_mut(&at) {
                        one.failed = Some(reason);
                    }
                }
                (Ok(_), None) => {}
            }
        }
        Ok(sides)
    }
}

fn join(lanes: &mut Vec<Lane>, at: usize, side: Side) {
    let form = side.subject.form.clone();
    match lanes.iter_mut().find(|lane| lane.form == form) {
        Some(lane) => lane.sides.push((at, side)),
        None => lanes.push(Lane {
            form,
            sides: vec![(at, side)],
        }),
    }
}

async fn read_replica(
    view: &mut View,
    subject: &Subject,
    sink: &mut Sink,
    hasher: RowHasher,
    progress: &Rows,
) -> Result<(), String> {
    let canon = &subject.form.canon;
    let columns = subject.form.columns();
    let opened = view.content.open(&subject.target, &columns).await;
    opened.map_err(|error| error.message)?;
    loop {
        let rows = view.content.next_rows().await;
        let rows = rows.map_err(|error| error.message)?;
        if rows.is_empty() {
            return Ok(());
        }
        progress.add(rows.len()).await;
        let mut take = || -> Result<(), repl_core::codec::Malformed> {
            for row in &rows {
                let row = canon.row(row)?;
                sink.add(&hasher, &canon.key(&row)?, &row, 1);
            }
            Ok(())
        };
        take().map_err(|error| error.to_string())?;
    }
}

type Expected = Vec<(usize, Result<Sink, String>)>;

/// Reads the primary's rows into what each replica should hold. A row that one replica cannot hold
/// ends the comparison there and nowhere else.
async fn read_primary(
    snapshot: &mut dyn Snapshot,
    mut lanes: Vec<Lane>,
    hasher: RowHasher,
    progress: &Rows,
) -> Result<Expected, String> {
    let mut ended: Expected = Vec::new();
    loop {
        let rows = snapshot.next_rows().await.map_err(|error| error.message)?;
        if rows.is_empty() {
            break;
        }
        progress.add(rows.len()).await;
        lanes.retain_mut(|lane| match lane.take(&rows, &hasher) {
            Ok(()) => true,
            Err(reason) => {
                let sides = lane.sides.drain(..);
                ended.extend(sides.map(|(at, _)| (at, Err(reason.clone()))));
                false
            }
        });
    }
    for lane in lanes {
        let sides = lane.sides.into_iter();
        ended.extend(sides.map(|(at, side)| (at, side.finish(&hasher))));
    }
    Ok(ended)
}

impl Lane {
    fn take(&mut self, rows: &[Row], hasher: &RowHasher) -> Result<(), String> {
        for row in rows {
            let row = self.form.expected(row)?;
            let key = self.form.canon.key(&row).map_err(|e| e.to_string())?;
            for (_, side) in &mut self.sides {
                if side.subject.delta.touches(&key) {
                    side.touched.insert(key.clone(), row.clone());
                } else {
                    side.sink.add(hasher, &key, &row, 1);
                }
            }
        }
        Ok(())
    }
}

impl Side {
    /// Adds what the changes since the snapshot have left.
    fn finish(mut self, hasher: &RowHasher) -> Result<Sink, String> {
        let (delta, canon) = (&self.subject.delta, &self.subject.form.canon);
        let changed = delta.expected(&self.touched).map_err(|e| e.to_string())?;
        for (key, row) in &changed {
            self.sink.add(hasher, key, row, 1);
        }
        for (row, copies) in delta.copies() {
            let key = canon.key(row).map_err(|e| e.to_string())?;
            self.sink.add(hasher, &key, row, *copies);
        }
        Ok(self.sink)
    }
}
