//! Our own tables in the replica: checkpoints and the registry of copied tables.

use std::collections::HashMap;

use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::schema::{TableName, TableSchema};
use repl_core::{Epoch, ErrorKind, LogId, Seq, SourcePosition};

use super::queue::Label;
use super::session::Session;
use super::sql::MARK;
use super::text::Arrays;
use crate::postgres::admin::INSTANCE;
use crate::postgres::wire::TextRow;
use crate::seam::{Commit, ConnectorError, CopiedTable, ReplicaState, Result};

/// Version of the tables' format.
const FORMAT: &str = "1";
/// Key of the advisory lock under which the tables are made ("repl" in ASCII).
const LOCK: u64 = 0x7265_706c;

const CHECKPOINT_TABLE: &str = "CREATE TABLE IF NOT EXISTS repl.checkpoint (\
    group_name text NOT NULL, origin text NOT NULL, format int4 NOT NULL, log_id uuid NOT NULL, \
    epoch int8 NOT NULL, seq numeric(20) NOT NULL, position text NOT NULL, \
    updated_at timestamptz NOT NULL, PRIMARY KEY (group_name, origin))";
const TABLES_TABLE: &str = "CREATE TABLE IF NOT EXISTS repl.tables (\
    group_name text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL, \
    incarnation text NOT NULL, cut text, columns text[] NOT NULL, \
    PRIMARY KEY (group_name, table_schema, table_name))";
/// Copies in parts: who made the table, and what is needed to go on; none once that is forgotten.
const COPIES_TABLE: &str = "CREATE TABLE IF NOT EXISTS repl.copies (\
    group_name text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL, \
    made boolean NOT NULL, id uuid NOT NULL, copy text, \
    PRIMARY KEY (group_name, table_schema, table_name))";
/// Their parts that are done.
const PARTS_TABLE: &str = "CREATE TABLE IF NOT EXISTS repl.copy_parts (\
    group_name text NOT NULL, table_schema text NOT NULL, table_name text NOT NULL, \
    part int4 NOT NULL, rows int8 NOT NULL, \
    PRIMARY KEY (group_name, table_schema, table_name, part))";

/// A text of a result; empty when NULL or absent.
pub(super) fn text(rows: &[TextRow], row: usize, column: usize) -> &str {
    rows.get(row)
        .and_then(|row| row.get(column))
        .and_then(Option::as_deref)
        .unwrap_or_default()
}

fn damaged(what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        format!("the replica's {what} cannot be read: it was edited or is damaged"),
    )
    .advice("have the replica copied again")
}

impl Session {
    /// Makes our tables where they are absent. Looks first: the role may lack the right to create
    /// what is there already.
    pub(super) async fn create_store(&mut self) -> Result<()> {
        let present = "SELECT count(*) FROM pg_catalog.pg_class c \
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = 'repl' \
            AND c.relname IN ('checkpoint', 'tables', 'copies', 'copy_parts')";
        let rows = self.client.simple(present).await?;
        if text(&rows, 0, 0) == "4" {
            return Ok(());
        }
        // IF NOT EXISTS would demand the right to create schemas even where there is one.
        let create = format!(
            "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({LOCK}); \
             DO $$ BEGIN IF pg_catalog.to_regnamespace('repl') IS NULL THEN \
             CREATE SCHEMA repl; END IF; END $$; {CHECKPOINT_TABLE}; {TABLES_TABLE}; \
             {COPIES_TABLE}; {PARTS_TABLE}; COMMIT"
        );
        let outcome = self.client.simple(&create).await;
        outcome.map(|_| ()).map_err(|mut error| {
            if error.kind == ErrorKind::Privilege {
                let quote = repl_core::schema::quote_identifier;
                error.advice = format!(
                    "GRANT CREATE ON DATABASE {} TO {}; or create the schema for it: CREATE \
                     SCHEMA repl AUTHORIZATION {1}",
                    quote(&self.config.target.database),
                    quote(&self.config.target.user)
                );
            }
            error
        })
    }

    /// Other groups that have copied a table of this name, here or at their primary, into this database.
    pub(super) async fn other_groups(&mut self, route: &Route) -> Result<Vec<String>> {
        let group = self.config.group.clone();
        let (target, source) = (&route.target, &route.schema.table);
        let names = [&target.schema, &target.name, &source.schema, &source.name];
        let params: Vec<Option<&str>> = std::iter::once(group.as_str())
            .chain(names.iter().map(|name| name.as_str()))
            .map(Some)
            .collect();
        let sql = "SELECT DISTINCT group_name FROM repl.tables WHERE group_name <> $1::text AND \
                   (table_schema, table_name) IN (($2::text, $3::text), ($4::text, $5::text)) ORDER BY 1";
        let rows = self.rows(sql, &params).await?;
        Ok((0..rows.len())
            .map(|row| text(&rows, row, 0).to_owned())
            .collect())
    }

    /// Reads checkpoint and registry in one statement's snapshot each; nobody else writes them.
    ///
    /// Reading is a write: a session before us may have committed asynchronously, and what we
    /// read is relied upon as durable. A durable commit makes everything before it durable.
    pub(super) async fn read_state(&mut self) -> Result<ReplicaState> {
        let group = self.config.group.clone();
        let origin = self.config.origin.clone();
        let rows = self
            .rows(
                "UPDATE repl.checkpoint SET updated_at = now() \
                 WHERE group_name = $1::text AND origin = $2::text \
                 RETURNING format, log_id, epoch, seq, position",
                &[Some(&group), Some(&origin)],
            )
            .await?;
        let checkpoint = rows.first().map(checkpoint).transpose()?;
        let rows = self
            .rows(
                "SELECT table_schema, table_name, incarnation, cut FROM repl.tables \
                 WHERE group_name = $1::text",
                &[Some(&group)],
            )
            .await?;
        let tables = copied_tables(&rows)?;
        let instance = self.rows(INSTANCE, &[]).await?;
        Ok(ReplicaState {
            checkpoint,
            instance: Some(text(&instance, 0, 0).to_owned()),
            tables,
            copies: self.read_copies().await?,
            forgetful: self.forgetful().await?,
        })
    }

    /// Whether a crash of the server's host can take back commits that waited for the disk.
    async fn forgetful(&mut self) -> Result<Option<String>> {
        let sql = "SELECT name, setting FROM pg_catalog.pg_settings \
                   WHERE name IN ('fsync', 'full_page_writes') AND setting <> 'on' ORDER BY name";
        let rows = self.rows(sql, &[]).await?;
        Ok((!rows.is_empty()).then(|| {
            format!(
                "its server has {0} = {1}: run there ALTER SYSTEM SET {0} = on; SELECT \
                 pg_reload_conf(); and replctl retry",
                text(&rows, 0, 0),
                text(&rows, 0, 1)
            )
        }))
    }

    /// Rows of a statement outside of a batch.
    pub(super) async fn rows(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
    ) -> Result<Vec<TextRow>> {
        let outcome = self.client.query(sql, params).await;
        outcome.map_err(|error| self.explain(error))
    }

    pub(super) async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        if let Some(expected) = expected {
            self.move_checkpoint(expected, next, Commit::Durable)?;
            return self.sync().await;
        }
        let fields = Fields::new(self, next);
        let params = fields.params();
        let rows = self
            .rows(
                &format!(
                    "INSERT INTO repl.checkpoint (group_name, origin, format, log_id, epoch, seq, \
                     position, updated_at) VALUES ($1::text, $2::text, {FORMAT}, $3::uuid, \
                     $4::int8, $5::numeric, $6::text, now()) ON CONFLICT DO NOTHING RETURNING 1"
                ),
                &params,
            )
            .await?;
        if rows.is_empty() {
            return Err(self.checkpoint_moved());
        }
        Ok(())
    }

    /// Queues the first checkpoint, which fails if there is one.
    pub(super) fn insert_checkpoint(&mut self, next: &Checkpoint) -> Result<()> {
        let sql = format!(
            "INSERT INTO repl.checkpoint (group_name, origin, format, log_id, epoch, seq, position, \
             updated_at) VALUES ($1::text, $2::text, {FORMAT}, $3::uuid, $4::int8, $5::numeric, \
             $6::text, now())"
        );
        let fields = Fields::new(self, next);
        self.push(&sql, &fields.bytes(), Label::Checkpoint)
    }

    /// Queues the lock on the checkpoint, which fails unless it is `expected`. A session that
    /// waited for another's lock sees what that one committed.
    pub(super) fn lock_checkpoint(&mut self, expected: &Checkpoint) -> Result<()> {
        let sql = format!(
            "SELECT CASE WHEN q.n = 1 THEN 1 ELSE ('{MARK}found ' || q.n)::int4 END FROM \
             (SELECT count(*) AS n FROM (SELECT 1 FROM repl.checkpoint WHERE \
             group_name = $1::text AND origin = $2::text AND format = {FORMAT} AND \
             log_id = $3::uuid AND epoch = $4::int8 AND seq = $5::numeric FOR UPDATE) AS r) AS q"
        );
        let fields = Fields::new(self, expected);
        self.push(&sql, &fields.bytes()[..5], Label::Checkpoint)
    }

    /// Queues the move of the checkpoint, which fails unless it is `expected`, and says how the
    /// transaction is to commit. One that is not there at all is noticed with the reply only, when
    /// the changes are committed: the replica is to be copied again anyway.
    pub(super) fn move_checkpoint(
        &mut self,
        expected: &Checkpoint,
        next: &Checkpoint,
        commit: Commit,
    ) -> Result<()> {
        let how = match commit {
            Commit::Durable => "",
            // One statement less than SET LOCAL.
            Commit::Asynchronous => {
                " RETURNING pg_catalog.set_config('synchronous_commit', 'off', true)"
            }
        };
        let sql = format!(
            "UPDATE repl.checkpoint SET log_id = $3::uuid, epoch = $4::int8, seq = CASE WHEN \
             format = {FORMAT} AND log_id = $7::uuid AND epoch = $8::int8 AND seq = $9::numeric \
             THEN $5::numeric ELSE ('{MARK}found ' || seq)::numeric END, position = $6::text, \
             updated_at = now() WHERE group_name = $1::text AND origin = $2::text{how}"
        );
        let (next, before) = (Fields::new(self, next), Fields::new(self, expected));
        let mut params = next.bytes();
        params.extend_from_slice(&before.bytes()[2..5]);
        self.push_for_one(&sql, &params, Label::Checkpoint)
    }

    /// Queues the removal of the tables' cuts.
    pub(super) fn join_tables(&mut self, joined: &[TableName]) -> Result<()> {
        self.on_tables(
            "UPDATE repl.tables AS t SET cut = NULL FROM \
             unnest($1::text[], $2::text[]) AS k(s, n) \
             WHERE t.group_name = $3::text AND t.table_schema = k.s AND t.table_name = k.n",
            joined,
            None,
        )
    }

    /// Queues another cut for the tables.
    pub(super) fn recut(&mut self, tables: &[TableName], cut: &Cut) -> Result<()> {
        let cut = serde_json::to_string(cut);
        let cut = cut.map_err(|e| ConnectorError::new(ErrorKind::Internal, e.to_string()))?;
        self.on_tables(
            "UPDATE repl.tables AS t SET cut = $4::text FROM \
             unnest($1::text[], $2::text[]) AS k(s, n) \
             WHERE t.group_name = $3::text AND t.table_schema = k.s AND t.table_name = k.n",
            tables,
            Some(&cut),
        )
    }

    pub(super) async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        self.on_tables(
            "UPDATE repl.copies AS t SET copy = NULL FROM \
             unnest($1::text[], $2::text[]) AS k(s, n) \
             WHERE t.group_name = $3::text AND t.table_schema = k.s AND t.table_name = k.n",
            tables,
            None,
        )?;
        self.on_tables(
            "DELETE FROM repl.tables AS t USING \
             unnest($1::text[], $2::text[]) AS k(s, n) \
             WHERE t.group_name = $3::text AND t.table_schema = k.s AND t.table_name = k.n",
            tables,
            None,
        )?;
        self.sync().await
    }

    /// Queues a statement on the tables, given as two arrays and the group; and what it takes beside.
    fn on_tables(&mut self, sql: &str, tables: &[TableName], more: Option<&str>) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        let mut names = Arrays::default();
        names.start(2);
        for table in tables {
            names.push(
                0,
                repl_core::row::Value::Text(table.schema.as_bytes()),
                b',',
            )?;
            names.push(1, repl_core::row::Value::Text(table.name.as_bytes()), b',')?;
            names.end_row();
        }
        let group = self.config.group.clone();
        let names = names.finish();
        let params = [
            Some(names[0].as_slice()),
            Some(names[1].as_slice()),
            Some(group.as_bytes()),
        ];
        let more = more.map(|more| Some(more.as_bytes()));
        let params: Vec<Option<&[u8]>> = params.into_iter().chain(more).collect();
        self.push(sql, &params, Label::Other)
    }

    /// The columns the source's table had when the replica's was last made or found to fit; none
    /// for a table that is not registered.
    pub(super) async fn known_columns(&mut self, table: &TableName) -> Result<Option<Vec<String>>> {
        let group = self.config.group.clone();
        let rows = self
            .rows(
                "SELECT pg_catalog.to_json(columns) FROM repl.tables WHERE group_name = $1::text \
                 AND table_schema = $2::text AND table_name = $3::text",
                &[Some(&group), Some(&table.schema), Some(&table.name)],
            )
            .await?;
        let read = |json| serde_json::from_str(json).map_err(|_| damaged("table registry"));
        (!rows.is_empty())
            .then(|| read(text(&rows, 0, 0)))
            .transpose()
    }

    /// Remembers the source's columns for [`Session::known_columns`].
    pub(super) async fn remember_columns(&mut self, schema: &TableSchema) -> Result<()> {
        let group = self.config.group.clone();
        let names = column_names(schema)?;
        let table = &schema.table;
        self.rows(
            "UPDATE repl.tables SET columns = ARRAY(SELECT * FROM \
             pg_catalog.json_array_elements_text($4::json)) WHERE group_name = $1::text \
             AND table_schema = $2::text AND table_name = $3::text",
            &[
                Some(&group),
                Some(&table.schema),
                Some(&table.name),
                Some(&names),
            ],
        )
        .await
        .map(drop)
    }

    /// Queues the registry entry of a copied table.
    pub(super) fn register_table(
        &mut self,
        schema: &TableSchema,
        copied: &CopiedTable,
    ) -> Result<()> {
        let table = &schema.table;
        let columns = column_names(schema)?;
        let cut = copied.cut.as_ref().map(serde_json::to_string).transpose();
        let cut = cut.map_err(|e| ConnectorError::new(ErrorKind::Internal, e.to_string()))?;
        let group = self.config.group.clone();
        let params = [
            Some(group.as_bytes()),
            Some(table.schema.as_bytes()),
            Some(table.name.as_bytes()),
            Some(copied.incarnation.as_bytes()),
            cut.as_deref().map(str::as_bytes),
            Some(columns.as_bytes()),
        ];
        self.push(
            "INSERT INTO repl.tables (group_name, table_schema, table_name, incarnation, cut, \
             columns) VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, \
             ARRAY(SELECT * FROM pg_catalog.json_array_elements_text($6::json))) \
             ON CONFLICT (group_name, table_schema, table_name) DO UPDATE \
             SET incarnation = excluded.incarnation, cut = excluded.cut, \
             columns = excluded.columns",
            &params,
            Label::Other,
        )
    }
}

/// The names of the columns as a JSON list.
fn column_names(schema: &TableSchema) -> Result<String> {
    let names: Vec<&str> = schema
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    serde_json::to_string(&names)
        .map_err(|error| ConnectorError::new(ErrorKind::Internal, error.to_string()))
}

/// The parameters that name and hold a checkpoint: group, origin, log, epoch, sequence, position.
struct Fields([String; 6]);

impl Fields {
    fn new(session: &Session, checkpoint: &Checkpoint) -> Self {
        Fields([
            session.config.group.clone(),
            session.config.origin.clone(),
            checkpoint.log.to_string(),
            checkpoint.epoch.to_string(),
            checkpoint.seq.to_string(),
            checkpoint.position.to_string(),
        ])
    }

    fn params(&self) -> Vec<Option<&str>> {
        self.0.iter().map(|field| Some(field.as_str())).collect()
    }

    fn bytes(&self) -> Vec<Option<&[u8]>> {
        self.0.iter().map(|field| Some(field.as_bytes())).collect()
    }
}

/// Reads rows of the registry: schema, name, incarnation, cut.
pub(super) fn copied_tables(rows: &[TextRow]) -> Result<HashMap<TableName, CopiedTable>> {
    let mut tables = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        let name = TableName::new(text(rows, at, 0), text(rows, at, 1));
        let cut: Option<Cut> = match row.get(3) {
            Some(Some(json)) => {
                Some(serde_json::from_str(json).map_err(|_| damaged("table registry"))?)
            }
            _ => None,
        };
        let incarnation = text(rows, at, 2).to_owned();
        tables.insert(name, CopiedTable { incarnation, cut });
    }
    Ok(tables)
}

pub(super) fn checkpoint(row: &TextRow) -> Result<Checkpoint> {
    let field = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    if field(0) != FORMAT {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!(
                "the replica's checkpoint has format {}, not {FORMAT}",
                field(0)
            ),
        )
        .advice(
            "it was written by another version of the daemon: use that version or a later one",
        ));
    }
    let read = || -> Option<Checkpoint> {
        Some(Checkpoint {
            log: LogId(uuid::Uuid::parse_str(field(1)).ok()?),
            epoch: Epoch(field(2).parse().ok()?),
            seq: Seq(field(3).parse().ok()?),
            position: SourcePosition(field(4).to_owned()),
        })
    };
    read().ok_or_else(|| damaged("checkpoint"))
}
