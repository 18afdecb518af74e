//! A SQLite database changes its role: it refuses writes ([`fence`]), takes over the counters
//! ([`counters`]), keeps the forms of other engines' values ([`forms`]), and begins or ends being captured from. What speaks against it is in [`findings`],
//! what becomes of one that was replaced without being asked in [`deposed`].

mod counters;
mod deposed;
mod fence;
mod findings;
mod forms;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::deposed::{Deposed, Found};
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Selection;
use repl_core::{ErrorKind, SourcePosition};
use rusqlite::Connection;
use tokio::sync::mpsc;

pub(super) use self::fence::FENCE_PREFIX;
use self::fence::Fence;
pub(super) use self::forms::FORM_PREFIX;
use super::capture::blocking;
use super::error::{During, located};
use super::meta::{self, Installed};
use super::{SqliteTarget, admin, connect, snapshot};
use crate::seam::{
    CaptureStart, ConnectorError, Counter, Finding, Part, Result, RoleSwitch, Sample, SourceTable,
    Stray, StraySink,
};

/// How long the write lock is waited for where the caller says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes on their way from the file to whoever takes them.
const STRAYS: usize = 256;

/// One database file, as far as its role is concerned.
#[derive(Clone, Debug)]
pub struct SqliteRole {
    target: SqliteTarget,
}

impl SqliteRole {
    /// The role of this database; nothing is opened yet.
    pub fn new(target: SqliteTarget) -> Self {
        SqliteRole { target }
    }

    /// Runs work that may block, and names the database in its error.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SqliteTarget) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let target = self.target.clone();
        located(blocking(move || work(&target)).await, &self.target)
    }

    /// [`SqliteRole::run`] with a connection that reads.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |target| work(&connect::reader(&target.path)?))
            .await
    }
}

fn fence(target: &SqliteTarget) -> Fence<'_> {
    Fence {
        path: &target.path,
        group: &target.group,
    }
}

#[async_trait]
impl RoleSwitch for SqliteRole {
    async fn findings(&self, part: Part, tables: &[SourceTable]) -> Result<Vec<Finding>> {
        let tables = tables.to_vec();
        self.run(move |target| findings::look(target, part, &tables))
            .await
    }

    async fn beside(&self) -> Result<BTreeSet<(String, String)>> {
        self.read(findings::beside).await
    }

    async fn close(
        &self,
        tables: &[TableName],
        _sessions: bool,
        patience: Duration,
    ) -> Result<Vec<String>> {
        let tables = tables.to_vec();
        self.run(move |target| fence(target).close(&tables, patience))
            .await?;
        Ok(Vec::new())
    }

    /// It can be read.
    async fn answer(&self) -> Result<()> {
        self.read(|db| {
            let sql = "SELECT count(*) FROM main.sqlite_schema";
            let read = db.query_row(sql, [], |row| row.get::<_, i64>(0));
            read.map(drop).during("read the database")
        })
        .await
    }

    async fn depose(&self, tables: &[TableName], patience: Duration) -> Result<Vec<String>> {
        self.close(tables, false, patience).await
    }

    async fn beyond(&self, deposed: &Deposed, sink: &mut dyn StraySink) -> Result<Found> {
        let (strays, mut found) = mpsc::channel::<Stray>(STRAYS);
        let deposed = deposed.clone();
        let looking = self.run(move |target| {
            let db = connect::reader(&target.path)?;
            let mut pass_on = |stray| {
                let gone =
                    |_| ConnectorError::new(ErrorKind::Internal, "nobody takes what was found");
                strays.blocking_send(stray).map_err(gone)
            };
            deposed::look_beyond(&db, &target.group, &deposed, &mut pass_on)
        });
        let taking = async {
            let mut taken = Ok(());
            while let Some(stray) = found.recv().await {
                if taken.is_ok() {
                    taken = sink.stray(stray);
                }
                if taken.is_err() {
                    found.close();
                }
            }
            taken
        };
        let (looked, taken) = tokio::join!(looking, taking);
        taken?;
        looked
    }

    async fn open(&self) -> Result<()> {
        self.run(|target| fence(target).open(PATIENCE)).await
    }

    async fn is_closed(&self, tables: &[TableName]) -> Result<bool> {
        let tables = tables.to_vec();
        self.run(move |target| fence(target).is_closed(&tables))
            .await
    }

    async fn end(&self) -> Result<SourcePosition> {
        self.read(snapshot::last_change).await
    }

    fn distance(&self, _from: &SourcePosition, _to: &SourcePosition) -> Option<u64> {
        // Changes are counted, not their bytes.
        None
    }

    fn commits_can_wait(&self) -> bool {
        false
    }

    async fn all_commits_wait(&self) -> Result<bool> {
        Ok(false)
    }

    async fn sample(&self) -> Result<Sample> {
        self.read(|db| {
            Ok(Sample {
                position: snapshot::last_change(db)?,
                counters: counters::read(db)?,
            })
        })
        .await
    }

    async fn used(&self, _patience: Duration) -> Result<(Vec<Counter>, Vec<String>)> {
        let used = self.read(counters::used).await?;
        Ok((used, Vec::new()))
    }

    async fn counters(&self) -> Result<Vec<Counter>> {
        self.read(counters::read).await
    }

    async fn advance(&self, counters: &[Counter], margin: u64) -> Result<Vec<String>> {
        let counters = counters.to_vec();
        self.run(move |target| {
            let db = connect::guard(&target.path, PATIENCE)?;
            counters::advance(&db, &counters, margin)
        })
        .await
    }

    async fn prepare_capture(&self, _selection: &Selection) -> Result<()> {
        // What it needs of the file; triggers and tables are made when it begins.
        self.run(|target| connect::primary(&target.path).map(drop))
            .await
    }

    async fn begin_capture(
        &self,
        selection: &Selection,
        patience: Duration,
    ) -> Result<CaptureStart> {
        let selection = selection.clone();
        let begun = self
            .run(move |target| admin::begin_anew(target, &selection, patience))
            .await;
        let (source, place, known) = begun?;
        let tables = known.current().into_iter().map(|stored| SourceTable {
            name: stored.layout.table_name(),
            incarnation: stored.incarnation.clone(),
            schema: Some(stored.schema().into()),
            refusal: String::new(),
            remedy: String::new(),
            coverage: String::new(),
            waits: String::new(),
            parents: Vec::new(),
        });
        Ok(CaptureStart {
            source,
            position: place.position(),
            tables: tables.collect(),
        })
    }

    async fn keep_forms(&self, forms: &[TableSchema]) -> Result<()> {
        let forms = forms.to_vec();
        self.run(move |target| forms::keep(&connect::guard(&target.path, PATIENCE)?, &forms))
            .await
    }

    async fn end_capture(&self) -> Result<Vec<String>> {
        self.run(|target| {
            let nothing = meta::installed(&connect::reader(&target.path)?)? == Installed::Nothing;
            match nothing {
                true => Ok(Vec::new()),
                false => admin::uninstall(target),
            }
        })
        .await
    }
}
