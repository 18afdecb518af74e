//! Writes what the following thread reads into the log.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use repl_core::change::{Change, Changes};
use repl_core::cut::Cut;
use repl_core::log::Durable;
use repl_core::record::History;
use repl_core::schema::{SchemaId, TableName, TableSchema};
use repl_core::{Epoch, ErrorKind, Seq, SourcePosition};
use tokio::sync::{mpsc, oneshot};

use super::error::located;
use super::follow::{Command, Event, Shared, Start, follow};
use super::meta::{Place, StoredLayout};
use super::schema::Known;
use super::snapshot::SqliteSnapshot;
use super::{SqliteTarget, admin};
use crate::seam::{
    Capture, CapturePort, CaptureState, ConnectorError, Result, Snapshot, SourceTable,
};

/// Chunks of changes between the thread and the log.
const EVENTS: usize = 4;

/// How often a wait for the disk looks again. Durability is announced for whole transactions only,
/// so a large one has to be asked for its progress.
const DISK_POLL: Duration = Duration::from_millis(2);

/// How often it is told that the file is still looked at.
const TELL: Duration = Duration::from_millis(500);

type SnapshotRequest = oneshot::Sender<Result<Box<dyn Snapshot>>>;

/// Captures the changes of a SQLite primary. See the module's documentation for how, and for
/// what triggers cannot see.
#[derive(Debug)]
pub struct SqliteCapture {
    target: SqliteTarget,
}

impl SqliteCapture {
    /// A capture of this database; nothing is opened yet.
    pub fn new(target: SqliteTarget) -> Self {
        SqliteCapture { target }
    }
}

#[async_trait]
impl Capture for SqliteCapture {
    async fn run(&mut self, port: &mut CapturePort) -> Result<()> {
        port.board
            .update(|status| status.state = CaptureState::Connecting);
        let outcome = run(&self.target, port).await;
        // Whatever ended it: the log is left at the end of a transaction.
        let abandoned = port.writer.abandon();
        port.board
            .update(|status| status.state = CaptureState::Disconnected);
        located(outcome, &self.target)?;
        Ok(abandoned?)
    }

    async fn rebase(&mut self, port: &mut CapturePort, epoch: Epoch, reason: &str) -> Result<()> {
        port.writer.abandon()?;
        let (target, selection) = (self.target.clone(), port.selection.clone());
        let begun = blocking(move || admin::begin_history(&target, &selection)).await;
        let (source, place) = located(begun, &self.target)?;
        let position = place.position();
        port.writer.history(History {
            epoch,
            source,
            position: position.clone(),
            reason: reason.to_owned(),
            succession: None,
        })?;
        port.board.update(|status| status.captured = position.0);
        Ok(())
    }

    fn compare(&self, a: &SourcePosition, b: &SourcePosition) -> Option<Ordering> {
        let (a, b) = (Place::parse(a)?, Place::parse(b)?);
        match a.id.cmp(&b.id) {
            Ordering::Equal if a.token != b.token => None,
            order => Some(order),
        }
    }

    async fn uninstall(&mut self) -> Result<Vec<String>> {
        let target = self.target.clone();
        located(
            blocking(move || admin::uninstall(&target)).await,
            &self.target,
        )
    }
}

/// Runs work that may block on a thread made for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        ConnectorError::new(
            ErrorKind::Internal,
            format!("a worker thread ended early: {error}"),
        )
    })?
}

async fn run(target: &SqliteTarget, port: &mut CapturePort) -> Result<()> {
    note_instance(target, port);
    port.writer.abandon()?;
    if !settle(port).await {
        return Ok(());
    }
    let durable = port.durable.borrow().clone();
    let (incarnation, last) = resume_point(port)?;
    let shared = Arc::new(Shared::default());
    shared.logged.store(last.id, atomic::Ordering::Release);
    let (events, received) = mpsc::channel(EVENTS);
    let (commands, orders) = std::sync::mpsc::channel();
    let start = Start {
        path: target.path.clone(),
        group: target.group.clone(),
        selection: port.selection.clone(),
        limits: port.limits,
        incarnation,
        last,
        shared: Arc::clone(&shared),
        events,
    };
    let thread = std::thread::Builder::new()
        .name("sqlite-capture".to_owned())
        .spawn(move || follow(start, &orders))
        .map_err(|error| ConnectorError::new(ErrorKind::Transient, error.to_string()))?;
    let last_seq = port.writer.log().bounds().durable.seq.max(durable.seq);
    let mut session = Session {
        stop: StopOnDrop(shared),
        events: received,
        commands,
        schemas: HashMap::new(),
        layouts: HashMap::new(),
        tables: HashMap::new(),
        requests: VecDeque::new(),
        last_seq,
        rows: 0,
    };
    let served = session.serve(port).await;
    session.refuse_requests();
    drop(session);
    let followed = blocking(move || {
        thread.join().unwrap_or_else(|_| {
            Err(ConnectorError::new(
                ErrorKind::Internal,
                "the capture thread panicked",
            ))
        })
    })
    .await;
    served?;
    followed
}

/// Says which file the primary is. One that cannot be looked at is not captured either.
fn note_instance(target: &SqliteTarget, port: &CapturePort) {
    if let Ok(instance) = super::registry::instance(&target.path) {
        port.board.update(|status| status.instance = instance);
    }
}

/// Waits until reading is allowed and the log holds durably all that was appended before, so that
/// its durable end is where to go on; false when told to stop first.
async fn settle(port: &mut CapturePort) -> bool {
    loop {
        if *port.shutdown.borrow_and_update() {
            return false;
        }
        if !*port.ingest_allowed.borrow_and_update() {
            tokio::select! {
                changed = port.shutdown.changed() => if changed.is_err() { return false },
                changed = port.ingest_allowed.changed() => if changed.is_err() { return false },
            }
        } else if port.writer.pending_bytes() == 0 {
            return true;
        } else {
            tokio::time::sleep(DISK_POLL).await;
        }
    }
}

fn wanted(port: &CapturePort) -> bool {
    !*port.shutdown.borrow() && *port.ingest_allowed.borrow()
}

/// Incarnation and last change of the history in the log.
fn resume_point(port: &CapturePort) -> Result<(String, Place)> {
    let bounds = port.writer.log().bounds();
    let history = |what: String| ConnectorError::new(ErrorKind::History, what);
    let Some(begun) = bounds.history else {
        return Err(history(
            "the log holds no history of this primary yet".to_owned(),
        ));
    };
    if begun.source.engine != super::ENGINE {
        return Err(history(format!(
            "the log's history comes from {}",
            begun.source.engine
        )));
    }
    let position = bounds.durable.position;
    let last = Place::parse(&position)
        .ok_or_else(|| history(format!("the log's position `{position}` is not SQLite's")))?;
    Ok((begun.source.system, last))
}

/// Ends the thread also when the task is cancelled.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, atomic::Ordering::Relaxed);
    }
}

struct Session {
    stop: StopOnDrop,
    events: mpsc::Receiver<Event>,
    commands: std::sync::mpsc::Sender<Command>,
    /// Schemas by layout number, to be given a number of the log when first used.
    layouts: HashMap<SchemaId, TableSchema>,
    /// Numbers of the log by layout number.
    schemas: HashMap<SchemaId, SchemaId>,
    /// Present shapes, with their numbers of the log.
    tables: HashMap<TableName, Arc<TableSchema>>,
    requests: VecDeque<SnapshotRequest>,
    last_seq: Seq,
    /// Rows of the open unit.
    rows: u64,
}

impl Session {
    async fn serve(&mut self, port: &mut CapturePort) -> Result<()> {
        let (mut told, mut tell) = (0, tokio::time::interval(TELL));
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while wanted(port) {
            tokio::select! {
                biased;
                _ = tell.tick() => {
                    let looks = self.stop.0.looks.load(atomic::Ordering::Relaxed);
                    if std::mem::replace(&mut told, looks) != looks {
                        port.board.heard(Duration::ZERO);
                    }
                }
                changed = port.shutdown.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                Ok(()) = port.ingest_allowed.changed() => {}
                Ok(()) = port.durable.changed() => {
                    let durable = port.durable.borrow_and_update().clone();
                    self.note_durable(port, &durable);
                }
                Some(request) = port.snapshots.recv() => {
                    self.requests.push_back(request);
                    // If the thread is gone its error comes next.
                    let _ = self.commands.send(Command::Snapshot);
                }
                event = self.events.recv() => match event {
                    Some(event) => self.handle(port, event).await?,
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    fn note_durable(&self, port: &CapturePort, durable: &Durable) {
        if let Some(place) = Place::parse(&durable.position) {
            self.stop
                .0
                .logged
                .fetch_max(place.id, atomic::Ordering::AcqRel);
            port.board
                .update(|status| status.acknowledged.clone_from(&durable.position.0));
        }
    }

    async fn handle(&mut self, port: &mut CapturePort, event: Event) -> Result<()> {
        match event {
            Event::Known(known) => self.learn(port, &known)?,
            Event::Begin(header) => {
                port.writer.begin(header)?;
                self.rows = 0;
            }
            Event::Changes(changes, rows) => {
                self.rows += rows;
                self.append(port, changes)?;
                self.wait_for_disk(port).await;
            }
            Event::End(place) => self.end(port, &place)?,
            Event::Snapshot(db) => {
                if let Some(request) = self.requests.pop_front() {
                    let cut = Cut::Through(self.last_seq);
                    let snapshot = SqliteSnapshot::start(db, cut, self.tables.clone());
                    // A caller that went away closes the snapshot by that.
                    let _ = request.send(snapshot.map(|s| Box::new(s) as Box<dyn Snapshot>));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, port: &mut CapturePort, place: &Place) -> Result<()> {
        let position = place.position();
        if port.writer.in_transaction() {
            let (seq, _) = port.writer.commit(&position)?;
            self.last_seq = seq;
            let rows = std::mem::take(&mut self.rows);
            port.board.update(|status| {
                status.transactions += 1;
                status.rows += rows;
            });
        } else {
            port.writer.mark(&position)?;
        }
        port.board.update(|status| {
            status.captured.clone_from(&position.0);
            status.server = position.0;
        });
        Ok(())
    }

    /// Publishes the tables and notes the layouts that changes may be told in.
    fn learn(&mut self, port: &mut CapturePort, known: &Known) -> Result<()> {
        let mut published = Vec::new();
        self.tables.clear();
        let history = port.writer.log().bounds().history;
        // The log's word for the table's incarnation.
        let schema_of = |stored: &StoredLayout| {
            let mut schema = stored.schema();
            if let Some(history) = &history {
                schema.incarnation = history.incarnation(&schema.incarnation);
            }
            schema
        };
        self.layouts = known
            .layouts
            .values()
            .map(|stored| (layout_number(stored.id), schema_of(stored)))
            .collect();
        for stored in known.current() {
            let id = self.schema(port, layout_number(stored.id))?;
            let schema = Arc::new(TableSchema {
                id,
                ..schema_of(stored)
            });
            self.tables
                .insert(schema.table.clone(), Arc::clone(&schema));
            published.push(SourceTable {
                name: schema.table.clone(),
                incarnation: schema.incarnation.clone(),
                schema: Some(schema),
                refusal: String::new(),
                remedy: String::new(),
                coverage: String::new(),
                waits: String::new(),
                parents: Vec::new(),
            });
        }
        for (name, refusal) in &known.refused {
            published.push(SourceTable {
                name: TableName::new(super::MAIN, name),
                incarnation: String::new(),
                schema: None,
                refusal: refusal.reason.clone(),
                remedy: refusal.remedy.clone(),
                coverage: String::new(),
                waits: String::new(),
                parents: Vec::new(),
            });
        }
        published.sort_by(|a, b| a.name.cmp(&b.name));
        port.board.set_tables(published)?;
        port.board
            .update(|status| status.state = CaptureState::Streaming);
        Ok(())
    }

    /// The log's number of a layout's schema.
    fn schema(&mut self, port: &mut CapturePort, layout: SchemaId) -> Result<SchemaId> {
        if let Some(&id) = self.schemas.get(&layout) {
            return Ok(id);
        }
        let schema = self.layouts.get(&layout).cloned().ok_or_else(|| {
            ConnectorError::new(ErrorKind::Internal, "a change is told in an unknown layout")
        })?;
        let id = port.writer.schema(schema)?;
        self.schemas.insert(layout, id);
        Ok(id)
    }

    fn append(&mut self, port: &mut CapturePort, changes: Bytes) -> Result<()> {
        for change in Changes::new(changes) {
            let mut change = change?;
            match &mut change {
                Change::Insert { schema, .. }
                | Change::Update { schema, .. }
                | Change::Delete { schema, .. } => *schema = self.schema(port, *schema)?,
                Change::Truncate { schemas, .. } => {
                    for schema in schemas {
                        *schema = self.schema(port, *schema)?;
                    }
                }
                Change::Message { .. } => {}
            }
            port.writer.change().change(&change);
            port.writer.changed()?;
        }
        Ok(())
    }

    async fn wait_for_disk(&self, port: &mut CapturePort) {
        while port.writer.pending_bytes() > port.limits.pending_bytes && wanted(port) {
            tokio::time::sleep(DISK_POLL).await;
        }
    }

    fn refuse_requests(&mut self) {
        for request in self.requests.drain(..) {
            let stopped = ConnectorError::new(
                ErrorKind::Connection,
                "the capture stopped before it could give a snapshot",
            );
            let _ = request.send(Err(stopped));
        }
    }
}

fn layout_number(id: i64) -> SchemaId {
    SchemaId(u32::try_from(id).unwrap_or(u32::MAX))
}
