//! Replicas of another engine: rows and tables pass through the plan of [`repl_core::convert`]
//! before the applier sees them, in the copy as in the stream.

use std::sync::Arc;

use async_trait::async_trait;
use repl_connectors::seam::{ConnectorError, ForeignKeyDdl, Result, Snapshot, TableDdl};
use repl_core::ErrorKind;
use repl_core::change::Change;
use repl_core::convert::ddl::TableDescription;
use repl_core::convert::{ConvertError, ConvertOptions, Engine, Refusal, TablePlan, ddl};
use repl_core::cut::Cut;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::select::Routing;
use tracing::info;

/// How one replica's rows are converted.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The replica's engine.
    pub target: Engine,
    /// What the operator declared.
    pub options: ConvertOptions,
}

impl Conversion {
    /// Whether rows of this shape have to be converted; the others pass untouched.
    pub fn converts(&self, schema: &TableSchema) -> bool {
        schema.engine != self.target.name()
    }

    /// The plan of one schema version.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], naming every column that cannot be carried and the remedy.
    pub fn plan(&self, schema: &TableSchema) -> Result<TablePlan> {
        TablePlan::new(schema, self.target, &self.options)
            .map_err(|refusals| refused(&schema.table, &refusals))
    }
}

fn refused(table: &TableName, refusals: &[Refusal]) -> ConnectorError {
    let reasons: Vec<String> = refusals
        .iter()
        .map(|refusal| {
            format!(
                "column {} ({}): {}",
                refusal.column, refusal.source_type, refusal.reason
            )
        })
        .collect();
    let remedies: Vec<&str> = refusals
        .iter()
        .map(|refusal| refusal.remedy.as_str())
        .collect();
    ConnectorError::new(
        ErrorKind::Configuration,
        format!(
            "table {table} cannot be carried to this replica: {}",
            reasons.join("; ")
        ),
    )
    .table(table.to_string())
    .advice(format!(
        "{} (keys of the replica's [node.convert])",
        remedies.join("; ")
    ))
}

/// One value cannot be represented at the replica.
pub fn failed(table: &TableName, error: &ConvertError) -> ConnectorError {
    let mut failed = ConnectorError::new(
        ErrorKind::Data,
        format!(
            "a value of column {} of table {table} {}",
            error.column, error.reason
        ),
    )
    .table(table.to_string())
    .advice(error.remedy.clone());
    // Shown only where keys are: in the operator's status.
    failed.key = (!error.shown.is_empty()).then(|| format!("{} = {}", error.column, error.shown));
    failed
}

/// The change with its row images converted.
///
/// # Errors
/// The first value the replica cannot represent.
pub fn change(plan: &TablePlan, change: Change) -> Result<Change, ConvertError> {
    change.map_rows(|row| plan.row(row))
}

/// The rows converted.
///
/// # Errors
/// The first value the replica cannot represent.
pub fn rows(plan: &TablePlan, rows: &[Row]) -> Result<Vec<Row>> {
    let table = &plan.schema().table;
    rows.iter()
        .map(|row| plan.row(row).map_err(|error| failed(table, &error)))
        .collect()
}

/// A snapshot whose tables and rows are those of the replica's engine. For one table.
pub struct Converted<'a> {
    inner: &'a mut dyn Snapshot,
    conversion: &'a Conversion,
    routing: &'a Routing,
    /// Shape of the table as capture last saw it.
    schema: Arc<TableSchema>,
    described: Option<TableDescription>,
    plan: Option<TablePlan>,
}

impl<'a> Converted<'a> {
    /// Converts what `inner` reads of the table with this schema.
    pub fn new(
        inner: &'a mut dyn Snapshot,
        conversion: &'a Conversion,
        routing: &'a Routing,
        schema: Arc<TableSchema>,
    ) -> Self {
        Converted {
            inner,
            conversion,
            routing,
            schema,
            described: None,
            plan: None,
        }
    }

    /// The plan of a shape, with the lengths that the table's keys ask for where they are known.
    ///
    /// # Errors
    /// As [`Conversion::plan`].
    pub fn plan(&self, schema: &TableSchema) -> Result<TablePlan> {
        match &self.described {
            Some(description) => description
                .plan(schema, self.conversion.target, &self.conversion.options)
                .map_err(|refusals| refused(&schema.table, &refusals)),
            None => self.conversion.plan(schema),
        }
    }
}

#[async_trait]
impl Snapshot for Converted<'_> {
    fn cut(&self) -> Cut {
        self.inner.cut()
    }

    async fn ddl(&mut self, table: &TableName, target: &TableName) -> Result<TableDdl> {
        let description = self.inner.describe(table).await?;
        self.described = Some(description.clone());
        let plan = self.plan(&self.schema)?;
        let name = |source: &TableName| {
            let known = self.routing.target(source);
            known.unwrap_or_else(|| source.clone())
        };
        let made = ddl::ddl(&description, &plan, target, &name)
            .map_err(|refusals| refused(table, &refusals))?;
        for note in &made.notes {
            info!(%table, note, "left out of the replica's table");
        }
        let foreign_keys = made.foreign_keys.into_iter().map(|key| ForeignKeyDdl {
            refers: key.refers,
            head: key.head,
            tail: key.tail,
        });
        Ok(TableDdl {
            before: made.before,
            create: made.create,
            key: made.key,
            after: made.after,
            foreign_keys: foreign_keys.collect(),
            generated: Vec::new(),
        })
    }

    async fn describe(&mut self, table: &TableName) -> Result<TableDescription> {
        self.inner.describe(table).await
    }

    async fn open(&mut self, table: &TableName) -> Result<(TableSchema, Option<u64>)> {
        let (source, estimate) = self.inner.open(table).await?;
        let plan = self.plan(&source)?;
        let schema = plan.schema().clone();
        self.plan = Some(plan);
        Ok((schema, estimate))
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        let rows = self.inner.next_rows().await?;
        let Some(plan) = &self.plan else {
            return Ok(rows);
        };
        self::rows(plan, &rows)
    }
}
