//! A primary, a log in memory, the running capture and replicas, for the tests of this folder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repl_connectors::seam::{
    Applier, Capture, CaptureBoard, CaptureLimits, CapturePort, ConnectorError, CopiedTable,
    Existing, Load, Snapshot, SnapshotSource, SourceTable, Style,
};
use repl_connectors::sqlite::{SqliteApplier, SqliteCapture, SqliteSnapshots, SqliteTarget};
use repl_core::batch::Route;
use repl_core::change::{Change, Changes};
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::log::{EventLog, MemoryLog, TxWriter};
use repl_core::net::Reducer;
use repl_core::record::Body;
use repl_core::schema::{SchemaId, TableName};
use repl_core::select::{Selection, TablePattern};
use repl_core::{Epoch, ErrorKind, LogId, Seq};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn table(name: &str) -> TableName {
    TableName::new("main", name)
}

pub fn target(path: &Path) -> SqliteTarget {
    SqliteTarget {
        path: path.to_owned(),
        node: "test".into(),
        group: "group".into(),
    }
}

pub fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    db
}

pub fn limits() -> CaptureLimits {
    CaptureLimits {
        pending_bytes: 8 << 20,
        max_row_bytes: 64 << 20,
        heartbeat_interval: Duration::from_secs(10),
        table_refresh_interval: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        poll_interval_max: Duration::from_millis(20),
    }
}

/// A log with its flushing thread, which outlives captures.
pub struct Log {
    pub log: Arc<MemoryLog>,
    pub durable: watch::Receiver<repl_core::log::Durable>,
    stop: Arc<AtomicBool>,
}

impl Log {
    pub fn new() -> Log {
        let log = Arc::new(MemoryLog::new(LogId(uuid::Uuid::new_v4())));
        let (sender, durable) = watch::channel(log.bounds().durable);
        log.on_durable(Box::new(move |now| drop(sender.send(now.clone()))));
        let stop = Arc::new(AtomicBool::new(false));
        let (flushed, ended) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                flushed.wait_for_work(Duration::from_millis(20));
                flushed.flush().unwrap();
            }
        });
        Log { log, durable, stop }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A capture's port with the ends the test holds.
pub struct Ends {
    pub board: Arc<CaptureBoard>,
    pub shutdown: watch::Sender<bool>,
    pub ingest: watch::Sender<bool>,
    pub snapshots: SqliteSnapshots,
    _released: watch::Sender<repl_connectors::seam::Released>,
}

pub fn port(log: &Log, path: &Path, selection: Selection) -> (CapturePort, Ends) {
    let (shutdown, stopped) = watch::channel(false);
    let (ingest, allowed) = watch::channel(true);
    let (released, watched) = watch::channel(repl_connectors::seam::Released::default());
    let (requests, asked) = mpsc::channel(4);
    let board = Arc::new(CaptureBoard::default());
    let port = CapturePort {
        writer: TxWriter::new(log.log.clone()).unwrap(),
        durable: log.durable.clone(),
        released: watched,
        selection,
        limits: limits(),
        board: Arc::clone(&board),
        shutdown: stopped,
        demand: Arc::default(),
        ingest_allowed: allowed,
        snapshots: asked,
    };
    let snapshots = SqliteSnapshots::new(target(path), requests);
    (
        port,
        Ends {
            board,
            shutdown,
            ingest,
            snapshots,
            _released: released,
        },
    )
}

/// A primary under capture.
pub struct Primary {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub db: Connection,
    pub log: Log,
    pub ends: Option<Ends>,
    task: Option<JoinHandle<Result<(), ConnectorError>>>,
    selection: Selection,
}

impl Primary {
    /// A new database in WAL mode holding what `sql` makes; not captured yet.
    pub fn create(sql: &str) -> Primary {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("primary.db");
        let db = open(&path);
        db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
            .unwrap();
        db.execute_batch(sql).unwrap();
        Primary {
            dir,
            path,
            db,
            log: Log::new(),
            ends: None,
            task: None,
            selection: Selection::default(),
        }
    }

    pub async fn start(sql: &str) -> Primary {
        let mut primary = Primary::create(sql);
        primary.run().await;
        primary
    }

    pub fn exclude(&mut self, pattern: &str) {
        self.selection
            .exclude
            .push(TablePattern::parse(pattern, "main").unwrap());
    }

    /// Starts the capture, with a first span of history if there is none.
    pub async fn run(&mut self) {
        let (mut port, ends) = port(&self.log, &self.path, self.selection.clone());
        let mut capture = SqliteCapture::new(target(&self.path));
        if self.log.log.bounds().history.is_none() {
            capture.rebase(&mut port, Epoch(1), "new").await.unwrap();
        }
        self.task = Some(tokio::spawn(async move { capture.run(&mut port).await }));
        self.ends = Some(ends);
    }

    pub fn ends(&self) -> &Ends {
        self.ends.as_ref().unwrap()
    }

    /// Ends the capture and returns its outcome.
    pub async fn stop(&mut self) -> Result<(), ConnectorError> {
        if let Some(ends) = self.ends.take() {
            let _ = ends.shutdown.send(true);
        }
        self.outcome().await
    }

    /// The outcome of a capture that ends by itself.
    pub async fn outcome(&mut self) -> Result<(), ConnectorError> {
        match self.task.take() {
            Some(task) => tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap(),
            None => Ok(()),
        }
    }

    pub fn sql(&self, sql: &str) {
        self.db
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Waits until everything that was committed is durable in the log, changes of the schema
    /// included: for a snapshot the capture looks at everything there is.
    pub async fn settle(&self) {
        let began = Instant::now();
        drop(self.snapshot().await);
        loop {
            let last: i64 = self
                .db
                .query_row(
                    "SELECT coalesce(max(id), 0) FROM _repl_changes",
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            let position = self.log.log.bounds().durable.position;
            let logged: i64 = position
                .as_str()
                .split_once('-')
                .map_or(0, |(id, _)| id.parse().unwrap());
            if logged >= last {
                return;
            }
            if self.task.as_ref().is_some_and(|task| task.is_finished()) {
                panic!("capture ended early");
            }
            assert!(
                began.elapsed() < PATIENCE,
                "logged {logged}, recorded {last}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The captured tables, once `check` is content with them.
    pub async fn tables(&self, check: impl Fn(&[SourceTable]) -> bool) -> Vec<SourceTable> {
        let mut tables = self.ends().board.tables();
        let found = tokio::time::timeout(PATIENCE, tables.wait_for(|now| check(now))).await;
        found.expect("tables").unwrap().to_vec()
    }

    pub async fn snapshot(&self) -> Box<dyn Snapshot> {
        tokio::time::timeout(PATIENCE, self.ends().snapshots.snapshot())
            .await
            .unwrap()
            .unwrap()
    }

    /// A replica that holds a copy of every table.
    pub async fn replica(&self, name: &str) -> Replica {
        let path = self.dir.path().join(name);
        let mut applier = SqliteApplier::new(target(&path), true);
        applier.open().await.unwrap();
        let mut replica = Replica {
            path,
            applier,
            checkpoint: None,
            cuts: HashMap::new(),
            fitted: HashSet::new(),
            one_by_one: false,
        };
        replica.copy_all(self).await;
        replica
    }

    /// Waits, applies and compares.
    pub async fn check(&self, replica: &mut Replica) {
        self.settle().await;
        replica.follow(self).await.unwrap();
        let (here, there) = (content(&self.db), content(&open(&replica.path)));
        for (name, rows) in &here {
            let copy = there.get(name).unwrap_or_else(|| panic!("no table {name}"));
            assert_eq!(rows.len(), copy.len(), "number of rows of {name}");
            for (row, copy) in rows.iter().zip(copy) {
                assert_eq!(row, copy, "a row of {name}");
            }
        }
    }
}

/// A replica and how far it is.
pub struct Replica {
    pub path: PathBuf,
    pub applier: SqliteApplier,
    pub checkpoint: Option<Checkpoint>,
    cuts: HashMap<TableName, Seq>,
    fitted: HashSet<SchemaId>,
    /// Apply every change as the source made it.
    pub one_by_one: bool,
}

impl Replica {
    /// Copies all captured tables at one cut and stands there.
    pub async fn copy_all(&mut self, primary: &Primary) {
        let mut snapshot = primary.snapshot().await;
        let tables = primary.ends().board.tables().borrow().to_vec();
        let Cut::Through(seq) = snapshot.cut() else {
            panic!("not a cut by sequence")
        };
        for source in tables.iter().filter(|t| t.schema.is_some()) {
            self.load(snapshot.as_mut(), source).await.unwrap();
            self.cuts.insert(source.name.clone(), seq);
        }
        drop(snapshot);
        primary.settle().await;
        let point = primary.log.log.point(seq).unwrap();
        let bounds = primary.log.log.bounds();
        let next = Checkpoint {
            log: primary.log.log.id(),
            epoch: bounds.durable.epoch,
            seq,
            position: point.map(|p| p.position).unwrap_or_default(),
        };
        self.applier
            .set_checkpoint(self.checkpoint.as_ref(), &next)
            .await
            .unwrap();
        self.checkpoint = Some(next);
    }

    pub async fn load(
        &mut self,
        snapshot: &mut dyn Snapshot,
        source: &SourceTable,
    ) -> Result<u64, ConnectorError> {
        let ddl = snapshot.ddl(&source.name, &source.name).await?;
        let (schema, _) = snapshot.open(&source.name).await?;
        let route = Route {
            schema: Arc::new(schema),
            target: source.name.clone(),
        };
        let copied = CopiedTable {
            incarnation: source.incarnation.clone(),
            cut: Some(snapshot.cut()),
        };
        let existing = match self.cuts.contains_key(&source.name) {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        let loaded = self
            .applier
            .load(Load {
                route: &route,
                ddl: &ddl,
                create: true,
                existing,
                copied: &copied,
                rows: snapshot,
                progress: &|_| {},
            })
            .await?;
        Ok(loaded.rows)
    }

    /// Copies one table that appeared; the stream is skipped for it up to the cut.
    pub async fn copy(&mut self, primary: &Primary, name: &str) {
        let name = table(name);
        let tables = primary
            .tables(|now| now.iter().any(|t| t.name == name))
            .await;
        let mut snapshot = primary.snapshot().await;
        let Cut::Through(seq) = snapshot.cut() else {
            panic!("not a cut by sequence")
        };
        let source = tables.iter().find(|t| t.name == name).unwrap();
        self.load(snapshot.as_mut(), source).await.unwrap();
        self.cuts.insert(name, seq);
    }

    /// Applies what the log holds, one source transaction per target transaction.
    pub async fn follow(&mut self, primary: &Primary) -> Result<u64, ConnectorError> {
        let log = Arc::clone(&primary.log.log);
        let mut reader = log.reader(self.checkpoint.as_ref().unwrap().seq).unwrap();
        let mut begun = false;
        let mut rows = 0;
        while let Some(record) = reader.next().unwrap() {
            let Body::Fragment(fragment) = record.body else {
                continue;
            };
            if !begun {
                self.applier
                    .begin(self.checkpoint.as_ref().unwrap())
                    .await?;
                begun = true;
            }
            rows += self.fragment(primary, record.seq, fragment.changes).await?;
            if let Some(position) = fragment.position {
                let next = Checkpoint {
                    log: log.id(),
                    epoch: record.epoch,
                    seq: record.seq,
                    position,
                };
                self.applier.commit(&next, &[]).await?;
                self.checkpoint = Some(next);
                begun = false;
            }
        }
        Ok(rows)
    }

    async fn fragment(
        &mut self,
        primary: &Primary,
        seq: Seq,
        changes: bytes::Bytes,
    ) -> Result<u64, ConnectorError> {
        let mut reducer = Reducer::new();
        let mut ordered = Vec::new();
        for change in Changes::new(changes) {
            let change = change.unwrap();
            let ids = match &change {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => vec![*schema],
                Change::Truncate { schemas, .. } => schemas.clone(),
                Change::Message { .. } => continue,
            };
            for id in ids {
                let schema = primary.log.log.schema(id).unwrap();
                if self.cuts.get(&schema.table).is_none_or(|cut| seq <= *cut) {
                    continue;
                }
                let route = Arc::new(Route {
                    target: schema.table.clone(),
                    schema,
                });
                self.fit(primary, &route).await?;
                if self.one_by_one {
                    ordered.push((Arc::clone(&route), change.clone()));
                } else if matches!(change, Change::Truncate { .. }) {
                    reducer.truncate(vec![route], false);
                } else {
                    reducer.add(&route, change.clone()).unwrap();
                }
            }
        }
        if self.one_by_one {
            let rows = ordered.len() as u64;
            let step = repl_core::batch::Step::Ordered(ordered);
            self.applier.apply(&step, Style::SetWise).await?;
            return Ok(rows);
        }
        let reduced = reducer.finish();
        assert!(!reduced.needs_order, "the changes contradict each other");
        for step in &reduced.steps {
            self.applier.apply(step, Style::SetWise).await?;
        }
        Ok(reduced.rows)
    }

    async fn fit(&mut self, primary: &Primary, route: &Route) -> Result<(), ConnectorError> {
        if !self.fitted.insert(route.schema.id) {
            return Ok(());
        }
        match self.applier.fit(route, None).await {
            Err(error) if error.kind == ErrorKind::Schema => {
                let snapshots = &primary.ends().snapshots;
                let ddl = snapshots
                    .added_columns(&route.schema, &route.target)
                    .await?;
                self.applier.fit(route, Some(&ddl)).await
            }
            other => other,
        }
    }
}

/// Every value of every table, exact to the bit, rows sorted.
pub fn content(db: &Connection) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut names = db
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
             AND name NOT LIKE '\\_repl%' ESCAPE '\\'",
        )
        .unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    names
        .into_iter()
        .map(|name| {
            let sql = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
            let mut statement = db.prepare(&sql).unwrap();
            let width = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            let mut all = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                all.push(
                    (0..width)
                        .map(|at| exact(row.get_ref(at).unwrap()))
                        .collect(),
                );
            }
            all.sort();
            (name, all)
        })
        .collect()
}

fn exact(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(n) => format!("i{n}"),
        ValueRef::Real(r) => format!("r{:016x}", r.to_bits()),
        ValueRef::Text(t) => format!("t{}", t.escape_ascii()),
        ValueRef::Blob(b) => format!("b{}", b.escape_ascii()),
    }
}

/// Runs a script with the `sqlite3` program; false when it is not installed.
pub fn cli(path: &Path, sql: &str) -> bool {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let spawned = Command::new("sqlite3")
        .args(["-batch", "-bail", "-cmd", ".timeout 20000"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("NOT TESTED: the program sqlite3 is not installed");
        return false;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(sql.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{sql}");
    true
}
