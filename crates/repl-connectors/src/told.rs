//! A primary, and a node that may become one, in the words of the log ([`repl_core::telling`]): names
//! and rows of its tables are told in the form the log knows them in, whatever its engine is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::codec::Malformed;
use repl_core::convert::back::{Back, objections, spelled};
use repl_core::convert::ddl::{ColumnDescription, TableDescription};
use repl_core::convert::keys::one_spelling;
use repl_core::convert::{Engine, TablePlan};
use repl_core::copy::KeyRange;
use repl_core::cut::Cut;
use repl_core::deposed::{Deposed, Found};
use repl_core::log::EventLog;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema, quote_identifier};
use repl_core::select::Selection;
use repl_core::telling::{Naming, Telling, Told};
use repl_core::{ErrorKind, SourcePosition};

use crate::seam::{
    BulkForm, BulkInto, BulkPiece, CaptureStart, ConnectorError, Counter, Division, EnumType,
    Finding, GeneratedDdl, Part, PartSize, Result, RoleSwitch, Sample, Snapshot, SnapshotSource,
    SourceTable, Stray, StraySink, TableDdl, altered,
};

/// How a node's tables are told, and in what log.
#[derive(Clone)]
pub struct Teller {
    /// Names and conversions.
    pub telling: Telling,
    /// The node's engine.
    pub engine: Engine,
    /// Knows the forms.
    pub log: Arc<dyn EventLog>,
}

impl Teller {
    fn tell(&self, own: &TableSchema) -> Told {
        self.telling.tell(self.log.as_ref(), own)
    }

    fn own(&self, table: &TableName) -> TableName {
        self.telling.naming.own(table)
    }

    fn known(&self, table: &TableName) -> TableName {
        self.telling.naming.known(table)
    }

    /// The form of a table of the log, where it is another engine's.
    fn foreign(&self, table: &TableName) -> Option<Arc<TableSchema>> {
        self.telling
            .foreign(self.log.as_ref(), table, self.engine.name())
    }

    /// A selected table as the log knows it.
    pub fn table(&self, mut table: SourceTable) -> SourceTable {
        table.name = self.known(&table.name);
        for parent in &mut table.parents {
            *parent = self.known(parent);
        }
        let latest = self.log.latest_schema(&table.name);
        let same = latest.is_some_and(|latest| latest.incarnation == table.incarnation);
        table.schema = table.schema.map(|own| match same {
            true => {
                let told = self.tell(&own).schema;
                Arc::new(TableSchema { id: own.id, ..told })
            }
            false => Arc::new(TableSchema {
                table: table.name.clone(),
                ..TableSchema::clone(&own)
            }),
        });
        table
    }
}

// ------------------------------------------------------------------ snapshots

/// The primary's snapshots, as the log knows its tables.
pub struct ToldSnapshots {
    inner: Arc<dyn SnapshotSource>,
    teller: Teller,
}

impl ToldSnapshots {
    /// Tells what `inner` reads.
    pub fn new(inner: Arc<dyn SnapshotSource>, teller: Teller) -> Self {
        ToldSnapshots { inner, teller }
    }
}

#[async_trait]
impl SnapshotSource for ToldSnapshots {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ToldSnapshot {
            inner: self.inner.snapshot().await?,
            teller: self.teller.clone(),
            back: None,
        }))
    }

    async fn added_columns(&self, schema: &TableSchema, target: &TableName) -> Result<TableDdl> {
        if schema.engine != self.teller.engine.name() {
            // The primary's own statements are not the language of the form.
            return Ok(TableDdl::default());
        }
        let own = TableSchema {
            table: self.teller.own(&schema.table),
            ..schema.clone()
        };
        self.inner.added_columns(&own, target).await
    }

    async fn enums(&self, tables: &[TableName]) -> Result<Vec<EnumType>> {
        let own: Vec<TableName> = tables.iter().map(|one| self.teller.own(one)).collect();
        self.inner.enums(&own).await
    }

    async fn tables(&self, selection: &Selection) -> Result<Vec<SourceTable>> {
        let tables = self.inner.tables(selection).await?;
        Ok(tables
            .into_iter()
            .map(|table| self.teller.table(table))
            .collect())
    }

    async fn end(&self) -> Result<SourcePosition> {
        self.inner.end().await
    }

    fn position_of(&self, token: &str) -> Result<SourcePosition> {
        self.inner.position_of(token)
    }

    fn reads_keys(&self, table: &TableName) -> bool {
        let form = self.teller.foreign(table);
        let found = form.is_none_or(|form| one_spelling(&form));
        found && self.inner.reads_keys(&self.teller.own(table))
    }

    fn has_reached(&self, logged: &SourcePosition, wanted: &SourcePosition) -> bool {
        self.inner.has_reached(logged, wanted)
    }
}

struct ToldSnapshot {
    inner: Box<dyn Snapshot>,
    teller: Teller,
    /// Of the opened table.
    back: Option<Back>,
}

impl ToldSnapshot {
    /// The schema under the node's own name for its table.
    fn own(&self, schema: &TableSchema) -> TableSchema {
        TableSchema {
            table: self.teller.own(&schema.table),
            ..schema.clone()
        }
    }
}

fn damaged(error: Malformed) -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, error.to_string())
}

#[async_trait]
impl Snapshot for ToldSnapshot {
    fn cut(&self) -> Cut {
        self.inner.cut()
    }

    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl> {
        if let Some(form) = self.teller.foreign(table) {
            return Ok(bare(&form, target));
        }
        let mut ddl = self.inner.ddl(&self.teller.own(table), target).await?;
        for key in &mut ddl.foreign_keys {
            key.refers = self.teller.known(&key.refers);
        }
        Ok(ddl)
    }

    async fn describe(&mut self, table: &TableName) -> Result<TableDescription> {
        if let Some(form) = self.teller.foreign(table) {
            return Ok(described(&form));
        }
        let mut description = self.inner.describe(&self.teller.own(table)).await?;
        description.table = table.clone();
        for key in &mut description.foreign_keys {
            key.refers = self.teller.known(&key.refers);
        }
        Ok(description)
    }

    async fn generated(&mut self, table: &TableName) -> Result<Vec<GeneratedDdl>> {
        if self.teller.foreign(table).is_some() {
            return Ok(Vec::new());
        }
        self.inner.generated(&self.teller.own(table)).await
    }

    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)> {
        let (own, estimate) = self.inner.open(&self.teller.own(table)).await?;
        let told = self.teller.tell(&own);
        self.back = told.back;
        Ok((told.schema, estimate))
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        let rows = self.inner.next_rows().await?;
        match &self.back {
            Some(back) => rows
                .iter()
                .map(|row| back.row(row).map_err(damaged))
                .collect(),
            None => Ok(rows),
        }
    }

    async fn begin_bulk(&mut self, into: &BulkInto<'_>) -> Result<Option<BulkForm>> {
        match self.back {
            Some(_) => Ok(None),
            None => self.inner.begin_bulk(into).await,
        }
    }

    async fn next_bulk(&mut self) -> Result<Option<BulkPiece>> {
        self.inner.next_bulk().await
    }

    async fn share(&mut self) -> Result<Option<Box<dyn Snapshot>>> {
        let shared = self.inner.share().await?;
        Ok(shared.map(|inner| {
            let told = ToldSnapshot {
                inner,
                teller: self.teller.clone(),
                back: None,
            };
            Box::new(told) as Box<dyn Snapshot>
        }))
    }

    async fn divide(&mut self, table: &TableName, part: PartSize) -> Result<Division> {
        let mut division = self.inner.divide(&self.teller.own(table), part).await?;
        let told = self.teller.tell(&division.schema);
        if told.back.is_some() {
            // Ranges of the node's own key are none of the form's.
            division.bounds.clear();
        }
        division.schema = told.schema;
        Ok(division)
    }

    async fn open_range(&mut self, schema: &TableSchema, range: &KeyRange) -> Result<()> {
        if self.teller.foreign(&schema.table).is_some() {
            let (told, _) = self.open(&schema.table).await?;
            if told.same_shape(&TableSchema {
                incarnation: told.incarnation.clone(),
                ..schema.clone()
            }) && *range == KeyRange::default()
            {
                return Ok(());
            }
            return Err(altered(&schema.table));
        }
        self.back = None;
        self.inner.open_range(&self.own(schema), range).await
    }

    async fn open_keys(&mut self, schema: &TableSchema, keys: &[Row]) -> Result<bool> {
        let table = &schema.table;
        if self.teller.foreign(table).is_none() {
            self.back = None;
            return self.inner.open_keys(&self.own(schema), keys).await;
        }
        let (own, _) = self.inner.open(&self.teller.own(table)).await?;
        let told = self.teller.tell(&own);
        let back = told.back.filter(|_| told.schema.columns == schema.columns);
        let Some(back) = back else {
            return Err(altered(table));
        };
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(key) = back.key_there(key)? else {
                return Ok(false);
            };
            there.push(key);
        }
        self.back = Some(back);
        self.inner.open_keys(&own, &there).await
    }

    async fn enter(&mut self) -> Result<()> {
        self.inner.enter().await
    }

    async fn leave(&mut self, table: &TableName) -> Result<bool> {
        self.inner.leave(&self.teller.own(table)).await
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        self.inner.count(&self.teller.own(table)).await
    }

    async fn references(&mut self) -> Result<Option<Vec<(TableName, TableName)>>> {
        let found = self.inner.references().await?;
        let known = |table: &TableName| self.teller.known(table);
        let told = |found: Vec<(TableName, TableName)>| {
            let pairs = found.iter().map(|(from, to)| (known(from), known(to)));
            pairs.collect()
        };
        Ok(found.map(told))
    }

    async fn withheld(&mut self) -> Result<Vec<u64>> {
        self.inner.withheld().await
    }

    async fn end(&mut self) {
        self.inner.end().await;
    }
}

/// The table of a form, with nothing that the log does not tell: columns and key.
fn bare(form: &TableSchema, target: &TableName) -> TableDdl {
    let columns = form.columns.iter().map(|column| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        format!(
            "{} {}{null}",
            quote_identifier(&column.name),
            column.type_name
        )
    });
    let mut parts: Vec<String> = columns.collect();
    let key: Vec<String> = form.key_names().map(quote_identifier).collect();
    if !form.key_columns().is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    TableDdl {
        create: vec![format!(
            "CREATE TABLE {} ({})",
            target.quoted(),
            parts.join(", ")
        )],
        ..TableDdl::default()
    }
}

/// The same for another engine.
fn described(form: &TableSchema) -> TableDescription {
    let columns = form.columns.iter().map(|column| ColumnDescription {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        detail: column.detail.clone(),
        nullable: column.nullable,
        ..ColumnDescription::default()
    });
    let key = match form.key_columns().is_empty() {
        true => Vec::new(),
        false => form.key_names().map(str::to_owned).collect(),
    };
    TableDescription {
        engine: Engine::from_name(&form.engine).unwrap_or(Engine::Postgres),
        table: form.table.clone(),
        columns: columns.collect(),
        primary_key: key,
        uniques: Vec::new(),
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
    }
}

// ---------------------------------------------------------------------- roles

/// A node whose role can change, in the words of the log.
pub struct ToldRole<R> {
    inner: R,
    engine: Engine,
    telling: Telling,
}

impl<R> ToldRole<R> {
    /// Tells what `inner`, a node of this engine, knows.
    pub fn new(inner: R, engine: Engine, telling: Telling) -> Self {
        ToldRole {
            inner,
            engine,
            telling,
        }
    }

    fn own(&self, tables: &[TableName]) -> Vec<TableName> {
        let naming = &self.telling.naming;
        tables.iter().map(|table| naming.own(table)).collect()
    }

    fn known(&self, table: &TableName) -> TableName {
        self.telling.naming.known(table)
    }

    fn known_counters(&self, counters: Vec<Counter>) -> Vec<Counter> {
        renamed(counters, |name| self.telling.naming.known(name))
    }

    /// A table of the log as this node is to hold it, and what speaks against writing to it here.
    fn meant(&self, table: &SourceTable) -> (SourceTable, Vec<Finding>) {
        let mut meant = table.clone();
        meant.name = self.telling.naming.own(&table.name);
        let Some(form) = table.schema.as_deref() else {
            return (meant, Vec::new());
        };
        let mut schema = form.clone();
        let mut findings = Vec::new();
        if form.engine != self.engine.name() {
            match TablePlan::new(form, self.engine, &self.telling.options) {
                Ok(plan) => {
                    schema = plan.schema().clone();
                    findings = written_back(form, &plan);
                }
                Err(refusals) => {
                    findings = refusals
                        .into_iter()
                        .map(|refusal| Finding::blocker(refusal.to_string(), refusal.remedy))
                        .collect();
                }
            }
        }
        schema.table = meant.name.clone();
        meant.schema = Some(Arc::new(schema));
        (meant, findings)
    }
}

fn written_back(form: &TableSchema, plan: &TablePlan) -> Vec<Finding> {
    let table = &form.table;
    let blocker = |(column, why): (String, String)| {
        let remedy = "promote a node that can, or leave the table out of the group";
        Finding::blocker(format!("column {column} of {table} {why}"), remedy)
    };
    let mut findings: Vec<Finding> = objections(form, plan).into_iter().map(blocker).collect();
    let many = spelled(form);
    if !many.is_empty() {
        let what = format!(
            "values of {} in {table} are text there: applications have to write them in the form in \
             which they arrive, or nodes hold the same in different spellings; what is no such value \
             stops the replicas that cannot hold it",
            many.join(", "),
        );
        findings.push(Finding::note(what, ""));
    }
    findings
}

/// Passes strays on under the log's names.
struct Renaming<'a> {
    sink: &'a mut dyn StraySink,
    naming: &'a Naming,
}

impl StraySink for Renaming<'_> {
    fn stray(&mut self, mut stray: Stray) -> Result<()> {
        stray.table = self.naming.known(&stray.table);
        self.sink.stray(stray)
    }
}

#[async_trait]
impl<R: RoleSwitch> RoleSwitch for ToldRole<R> {
    async fn findings(&self, part: Part, tables: &[SourceTable]) -> Result<Vec<Finding>> {
        let (meant, spoken): (Vec<_>, Vec<_>) =
            tables.iter().map(|table| self.meant(table)).unzip();
        let mut findings = self.inner.findings(part, &meant).await?;
        if part == Part::TakesOver {
            findings.extend(spoken.into_iter().flatten());
        }
        Ok(findings)
    }

    async fn beside(&self) -> Result<BTreeSet<(String, String)>> {
        let beside = self.inner.beside().await?;
        let known = |name: String| match name.split_once('.') {
            Some((schema, rest)) => {
                let told = self.known(&TableName::new(schema, ""));
                format!("{}.{rest}", told.schema)
            }
            None => name,
        };
        Ok(beside
            .into_iter()
            .map(|(kind, name)| (kind, known(name)))
            .collect())
    }

    async fn close(
        &self,
        tables: &[TableName],
        sessions: bool,
        patience: Duration,
    ) -> Result<Vec<String>> {
        self.inner
            .close(&self.own(tables), sessions, patience)
            .await
    }

    async fn answer(&self) -> Result<()> {
        self.inner.answer().await
    }

    async fn depose(&self, tables: &[TableName], patience: Duration) -> Result<Vec<String>> {
        self.inner.depose(&self.own(tables), patience).await
    }

    async fn beyond(&self, deposed: &Deposed, sink: &mut dyn StraySink) -> Result<Found> {
        let mut sink = Renaming {
            sink,
            naming: &self.telling.naming,
        };
        self.inner.beyond(deposed, &mut sink).await
    }

    async fn open(&self) -> Result<()> {
        self.inner.open().await
    }

    async fn is_closed(&self, tables: &[TableName]) -> Result<bool> {
        self.inner.is_closed(&self.own(tables)).await
    }

    async fn end(&self) -> Result<SourcePosition> {
        self.inner.end().await
    }

    fn distance(&self, from: &SourcePosition, to: &SourcePosition) -> Option<u64> {
        self.inner.distance(from, to)
    }

    fn commits_can_wait(&self) -> bool {
        self.inner.commits_can_wait()
    }

    async fn all_commits_wait(&self) -> Result<bool> {
        self.inner.all_commits_wait().await
    }

    async fn sample(&self) -> Result<Sample> {
        let sample = self.inner.sample().await?;
        Ok(Sample {
            counters: self.known_counters(sample.counters),
            ..sample
        })
    }

    async fn used(&self, patience: Duration) -> Result<(Vec<Counter>, Vec<String>)> {
        let (used, unread) = self.inner.used(patience).await?;
        Ok((self.known_counters(used), unread))
    }

    async fn counters(&self) -> Result<Vec<Counter>> {
        let counters = self.inner.counters().await?;
        Ok(self.known_counters(counters))
    }

    async fn advance(&self, counters: &[Counter], margin: u64) -> Result<Vec<String>> {
        let own = renamed(counters.to_vec(), |name| self.telling.naming.own(name));
        self.inner.advance(&own, margin).await
    }

    async fn prepare_capture(&self, selection: &Selection) -> Result<()> {
        self.inner.prepare_capture(selection).await
    }

    async fn begin_capture(
        &self,
        selection: &Selection,
        patience: Duration,
    ) -> Result<CaptureStart> {
        let mut start = self.inner.begin_capture(selection, patience).await?;
        for table in &mut start.tables {
            table.name = self.known(&table.name);
        }
        Ok(start)
    }

    async fn keep_forms(&self, forms: &[TableSchema]) -> Result<()> {
        let foreign = forms
            .iter()
            .filter(|form| form.engine != self.engine.name());
        let own = foreign.map(|form| TableSchema {
            table: self.telling.naming.own(&form.table),
            ..form.clone()
        });
        self.inner.keep_forms(&own.collect::<Vec<_>>()).await
    }

    async fn end_capture(&self) -> Result<Vec<String>> {
        self.inner.end_capture().await
    }
}

fn renamed(counters: Vec<Counter>, name: impl Fn(&TableName) -> TableName) -> Vec<Counter> {
    let renamed = counters.into_iter().map(|counter| Counter {
        name: name(&counter.name),
        owner: counter.owner.map(|(table, column)| (name(&table), column)),
        ..counter
    });
    renamed.collect()
}
