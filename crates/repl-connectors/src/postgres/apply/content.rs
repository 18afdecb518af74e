//! What a PostgreSQL replica holds: a REPEATABLE READ transaction that shows its checkpoint and its
//! rows as of one instant.

use async_trait::async_trait;
use repl_core::row::Row;
use repl_core::schema::{TableName, quote_identifier};

use super::PgApplierConfig;
use super::store::{checkpoint, copied_tables, text};
use crate::content::{Content, ContentColumn, ContentSource};
use crate::postgres::composites::composites_of;
use crate::postgres::frozen::{self, literal};
use crate::postgres::settings::{self, Session};
use crate::postgres::snapshot::next_rows;
use crate::postgres::wire::PgClient;
use crate::seam::{GeneratedDdl, ReplicaState, Result};

/// Opens views of one PostgreSQL replica.
pub struct PgContents {
    config: PgApplierConfig,
}

impl PgContents {
    /// Views of the replica that is written with this configuration.
    pub fn new(config: PgApplierConfig) -> Self {
        PgContents { config }
    }
}

#[async_trait]
impl ContentSource for PgContents {
    async fn content(&self) -> Result<Box<dyn Content>> {
        let mut target = self.config.target.clone();
        target.application_name = "repl-daemon validate".to_owned();
        let mut client = settings::connect(&target, Session::Reader).await?;
        client
            .simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let state = self.state(&mut client).await?;
        Ok(Box::new(PgContent {
            client,
            state,
            opened: None,
        }))
    }
}

impl PgContents {
    async fn state(&self, client: &mut PgClient) -> Result<ReplicaState> {
        let group = literal(&self.config.group);
        let rows = client
            .simple(&format!(
                "SELECT format, log_id, epoch, seq, position FROM repl.checkpoint \
                 WHERE group_name = {group} AND origin = {}",
                literal(&self.config.origin)
            ))
            .await?;
        let checkpoint = rows.first().map(checkpoint).transpose()?;
        let rows = client
            .simple(&format!(
                "SELECT table_schema, table_name, incarnation, cut FROM repl.tables \
                 WHERE group_name = {group}"
            ))
            .await?;
        let mut state = ReplicaState::default();
        state.tables.extend(copied_tables(&rows)?);
        state.checkpoint = checkpoint;
        Ok(state)
    }
}

struct PgContent {
    client: PgClient,
    state: ReplicaState,
    /// Number of columns of the table being read.
    opened: Option<usize>,
}

impl PgContent {
    /// Whether the table is partitioned here; its rows are then those of its partitions.
    async fn is_partitioned(&mut self, table: &TableName) -> Result<bool> {
        let sql = format!(
            "SELECT c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
            literal(&table.schema),
            literal(&table.name)
        );
        let rows = self.client.simple(&sql).await?;
        Ok(text(&rows, 0, 0) == "p")
    }
}

#[async_trait]
impl Content for PgContent {
    fn state(&self) -> &ReplicaState {
        &self.state
    }

    async fn columns(&mut self, table: &TableName) -> Result<Vec<ContentColumn>> {
        let composites = composites_of!();
        let sql = format!(
            "SELECT a.attname, a.attgenerated <> '', {composites} FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p') \
             AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            literal(&table.schema),
            literal(&table.name)
        );
        let rows = self.client.simple(&sql).await?;
        let column = |at| ContentColumn {
            name: text(&rows, at, 0).to_owned(),
            generated: text(&rows, at, 1) == "t",
            composites: rows.get(at).and_then(|row| row.get(2)).cloned().flatten(),
        };
        Ok((0..rows.len()).map(column).collect())
    }

    async fn tables(&mut self, schema: &str) -> Result<Vec<TableName>> {
        let sql = format!(
            "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = {} AND n.nspname <> 'repl' \
             AND c.relkind = 'r' ORDER BY 1",
            literal(schema)
        );
        let rows = self.client.simple(&sql).await?;
        let name = |at| TableName::new(schema, text(&rows, at, 0));
        Ok((0..rows.len()).map(name).collect())
    }

    async fn enter(&mut self) -> Result<()> {
        frozen::enter(&mut self.client).await
    }

    async fn leave(&mut self, table: &TableName) -> Result<bool> {
        self.opened = None;
        frozen::leave(&mut self.client, table).await
    }

    async fn count(&mut self, table: &TableName) -> Result<u64> {
        let whole = self.is_partitioned(table).await?;
        frozen::count(&mut self.client, table, whole).await
    }

    async fn open(&mut self, table: &TableName, columns: &[String]) -> Result<()> {
        let whole = self.is_partitioned(table).await?;
        let names: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
        let sql = format!(
            "COPY (SELECT {} FROM {}{}) TO STDOUT",
            names.join(", "),
            if whole { "" } else { "ONLY " },
            table.quoted()
        );
        self.client.copy_out(&sql).await?;
        self.opened = Some(columns.len());
        Ok(())
    }

    async fn miscomputed(
        &mut self,
        table: &TableName,
        generated: &[GeneratedDdl],
    ) -> Result<Vec<(String, u64)>> {
        let here = self.columns(table).await?;
        let present = |one: &&GeneratedDdl| here.iter().any(|column| column.name == one.name);
        let compared: Vec<&GeneratedDdl> = generated.iter().filter(present).collect();
        if compared.is_empty() {
            return Ok(Vec::new());
        }
        // As texts, which tell every difference, for types without equality too.
        let count = |one: &&GeneratedDdl| {
            format!(
                "count(*) FILTER (WHERE ({})::text IS DISTINCT FROM (({})::{})::text)",
                quote_identifier(&one.name),
                one.expression,
                one.type_name
            )
        };
        let counts: Vec<String> = compared.iter().map(count).collect();
        let only = if self.is_partitioned(table).await? {
            ""
        } else {
            "ONLY "
        };
        let sql = format!("SELECT {} FROM {only}{}", counts.join(", "), table.quoted());
        let rows = self.client.simple(&sql).await?;
        let number = |at: usize| text(&rows, 0, at).parse().unwrap_or(0);
        let named = compared.iter().enumerate();
        let named = named.map(|(at, one)| (one.name.clone(), number(at)));
        Ok(named.filter(|(_, rows)| *rows > 0).collect())
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        next_rows(&mut self.client, &mut self.opened).await
    }

    async fn end(&mut self) {
        // The server drops the view either way.
        let _ = self.client.simple("COMMIT").await;
    }
}
