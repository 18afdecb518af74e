//! Our own tables in the replica: checkpoints, the registry of copied tables, and loads under way.

use std::collections::HashMap;

use mysql_async::{Row as ServerRow, Value as Param};
use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::schema::TableName;
use repl_core::{Epoch, ErrorKind, LogId, Seq, SourcePosition};

use super::metadata::{optional, text};
use super::session::Session;
use super::sql::quote;
use crate::seam::{ConnectorError, CopiedTable, ReplicaState, Result};

/// Version of the tables' format.
const FORMAT: &str = "1";
/// Database of our own.
const DATABASE: &str = "repl";

/// Where our tables are.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// The database, unquoted.
    pub(super) database: String,
    /// In front of the tables' names: empty in a database of our own.
    prefix: &'static str,
    pub(super) checkpoint: String,
    pub(super) tables: String,
    pub(super) loads: String,
    pub(super) copies: String,
    pub(super) parts: String,
}

/// Names of our own tables, without a prefix.
const OWN: [&str; 5] = ["checkpoint", "tables", "loads", "copies", "copy_parts"];
/// In front of their names where they stand beside the replica's tables.
const PREFIX: &str = "repl_";

/// Names of our own tables where they stand beside the replica's.
pub(super) fn own_names() -> impl Iterator<Item = String> {
    OWN.iter().map(|name| format!("{PREFIX}{name}"))
}

impl Store {
    /// Where the tables can be: in a database of our own, or beside the replica's tables.
    pub(super) fn candidates(database: &str) -> [Store; 2] {
        [Store::new(DATABASE, ""), Store::new(database, PREFIX)]
    }

    fn new(database: &str, prefix: &'static str) -> Self {
        let mut store = Store {
            database: database.to_owned(),
            prefix,
            ..Store::default()
        };
        store.checkpoint = store.own_table("checkpoint");
        store.tables = store.own_table("tables");
        store.loads = store.own_table("loads");
        store.copies = store.own_table("copies");
        store.parts = store.own_table("copy_parts");
        store
    }

    /// Quoted name of a table of ours.
    pub(super) fn own_table(&self, name: &str) -> String {
        format!(
            "{}.{}",
            quote(&self.database),
            quote(&format!("{}{name}", self.prefix))
        )
    }

    /// Statements that make the tables. Names are compared byte by byte: those of the source may
    /// differ only by case or by blanks at the end.
    fn create(&self, mariadb: bool) -> [String; 5] {
        let collation = if mariadb {
            "utf8mb4_nopad_bin"
        } else {
            "utf8mb4_0900_bin"
        };
        let end = format!("ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}");
        [
            format!(
                "CREATE TABLE IF NOT EXISTS {} (group_name VARCHAR(255) NOT NULL, \
                 origin VARCHAR(255) NOT NULL, format INT NOT NULL, log_id CHAR(36) NOT NULL, \
                 epoch BIGINT UNSIGNED NOT NULL, seq BIGINT UNSIGNED NOT NULL, \
                 position LONGTEXT NOT NULL, updated_at DATETIME(6) NOT NULL, \
                 PRIMARY KEY (group_name, origin)) {end}",
                self.checkpoint
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (group_name VARCHAR(255) NOT NULL, \
                 table_schema VARCHAR(128) NOT NULL, table_name VARCHAR(255) NOT NULL, \
                 incarnation VARCHAR(255) NOT NULL, cut LONGTEXT NULL, \
                 PRIMARY KEY (group_name, table_schema, table_name)) {end}",
                self.tables
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (group_name VARCHAR(255) NOT NULL, \
                 table_schema VARCHAR(128) NOT NULL, table_name VARCHAR(255) NOT NULL, \
                 target_name VARCHAR(255) NOT NULL, statements LONGTEXT NULL, \
                 done INT NOT NULL, PRIMARY KEY (group_name, table_schema, table_name)) {end}",
                self.loads
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (group_name VARCHAR(255) NOT NULL, \
                 table_schema VARCHAR(128) NOT NULL, table_name VARCHAR(255) NOT NULL, \
                 made BOOLEAN NOT NULL, id CHAR(36) NOT NULL, copy LONGTEXT NULL, \
                 PRIMARY KEY (group_name, table_schema, table_name)) {end}",
                self.copies
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (group_name VARCHAR(255) NOT NULL, \
                 table_schema VARCHAR(128) NOT NULL, table_name VARCHAR(255) NOT NULL, \
                 part INT UNSIGNED NOT NULL, loaded BIGINT UNSIGNED NOT NULL, \
                 PRIMARY KEY (group_name, table_schema, table_name, part)) {end}",
                self.parts
            ),
        ]
    }
}

fn damaged(what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        format!("the replica's {what} cannot be read: it was edited or is damaged"),
    )
    .advice("have the replica copied again")
}

impl Session {
    /// Finds our tables, or makes them where they are absent.
    pub(super) async fn create_store(&mut self) -> Result<()> {
        let [own, beside] = Store::candidates(&self.config.target.database);
        let mut found = None;
        for store in [&own, &beside] {
            if !self.is_complete(store).await? {
                continue;
            }
            // What the account may see can change; where its checkpoint is cannot.
            if self.holds_checkpoint(store).await? {
                found = Some(store.clone());
                break;
            }
            found.get_or_insert_with(|| store.clone());
        }
        if let Some(store) = found {
            self.store = store;
            return Ok(());
        }
        let create = format!("CREATE DATABASE IF NOT EXISTS {}", quote(DATABASE));
        let made = match self.run(&create).await {
            Ok(()) => self.make(&own).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => self.store = own,
            Err(error) if error.kind == ErrorKind::Privilege => {
                self.make(&beside).await.map_err(|mut error| {
                    error.advice = format!(
                        "GRANT ALL PRIVILEGES ON {}.* TO the account of this node",
                        quote(DATABASE)
                    );
                    error
                })?;
                self.store = beside;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn is_complete(&mut self, store: &Store) -> Result<bool> {
        let name = |table: &&str| Param::from(format!("{}{table}", store.prefix));
        let mut params: Vec<Param> = vec![store.database.as_str().into()];
        params.extend(OWN.iter().map(name));
        let rows = self
            .rows(
                "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? \
                 AND TABLE_NAME IN (?, ?, ?, ?, ?)",
                params,
            )
            .await?;
        let all = OWN.len().to_string();
        Ok(rows.first().is_some_and(|row| text(row, 0) == all))
    }

    async fn holds_checkpoint(&mut self, store: &Store) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {} WHERE group_name = ?", store.checkpoint);
        let group = vec![self.config.group.as_str().into()];
        Ok(!self.rows(&sql, group).await?.is_empty())
    }

    async fn make(&mut self, store: &Store) -> Result<()> {
        for statement in store.create(self.server.mariadb) {
            self.run(&statement).await?;
        }
        Ok(())
    }

    /// Reads checkpoint and registry; nobody else writes them.
    pub(super) async fn read_state(&mut self) -> Result<ReplicaState> {
        let sql = format!(
            "SELECT format, log_id, epoch, seq, position FROM {} \
             WHERE group_name = ? AND origin = ?",
            self.store.checkpoint
        );
        let names = vec![
            self.config.group.as_str().into(),
            self.config.origin.as_str().into(),
        ];
        let rows = self.rows(&sql, names).await?;
        let checkpoint = rows.first().map(checkpoint).transpose()?;
        let sql = format!(
            "SELECT table_schema, table_name, incarnation, cut FROM {} WHERE group_name = ?",
            self.store.tables
        );
        let group = vec![self.config.group.as_str().into()];
        let tables = copied_tables(&self.rows(&sql, group).await?)?;
        Ok(ReplicaState {
            // No server of this engine is a primary.
            instance: None,
            checkpoint,
            tables,
            copies: self.read_copies().await?,
            forgetful: self.server.forgetful.clone(),
        })
    }

    pub(super) async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()> {
        match expected {
            Some(expected) => self.move_checkpoint(expected, next).await?,
            None => self.insert_checkpoint(next).await?,
        }
        self.run("COMMIT").await
    }

    async fn insert_checkpoint(&mut self, next: &Checkpoint) -> Result<()> {
        let sql = format!(
            "INSERT INTO {} (group_name, origin, format, log_id, epoch, seq, position, \
             updated_at) VALUES (?, ?, {FORMAT}, ?, ?, ?, ?, UTC_TIMESTAMP(6))",
            self.store.checkpoint
        );
        let mut params = vec![
            self.config.group.as_str().into(),
            self.config.origin.as_str().into(),
        ];
        params.extend(identity(next));
        params.push(next.position.to_string().into());
        match self.exec(&sql, params).await {
            Err(error) if error.code.as_deref() == Some("1062") => Err(self.checkpoint_moved()),
            other => other.map(|_| ()),
        }
    }

    /// Locks the checkpoint; fails unless it is `expected`. A session that waited for another's
    /// lock sees what that one committed.
    pub(super) async fn lock_checkpoint(&mut self, expected: &Checkpoint) -> Result<()> {
        let sql = format!(
            "SELECT 1 FROM {} WHERE {WHERE} FOR UPDATE",
            self.store.checkpoint
        );
        let mut params = vec![
            self.config.group.as_str().into(),
            self.config.origin.as_str().into(),
        ];
        params.extend(identity(expected));
        if self.rows(&sql, params).await?.len() == 1 {
            Ok(())
        } else {
            Err(self.checkpoint_moved())
        }
    }

    /// Moves the checkpoint; fails unless it is `expected`.
    pub(super) async fn move_checkpoint(
        &mut self,
        expected: &Checkpoint,
        next: &Checkpoint,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET log_id = ?, epoch = ?, seq = ?, position = ?, \
             updated_at = UTC_TIMESTAMP(6) WHERE {WHERE}",
            self.store.checkpoint
        );
        let mut params = identity(next).to_vec();
        params.push(next.position.to_string().into());
        params.push(self.config.group.as_str().into());
        params.push(self.config.origin.as_str().into());
        params.extend(identity(expected));
        if self.exec(&sql, params).await? == 1 {
            Ok(())
        } else {
            Err(self.checkpoint_moved())
        }
    }

    fn checkpoint_moved(&self) -> ConnectorError {
        ConnectorError::new(
            ErrorKind::CheckpointMoved,
            format!(
                "{}: the checkpoint of group \"{}\" is not the one this session started from; \
                 another session has written it",
                self.config.target, self.config.group
            ),
        )
        .advice(format!(
            "if this persists, another daemon writes to the same replica, or the row in {} was \
             edited or deleted",
            self.store.checkpoint
        ))
    }

    /// Removes the tables' cuts.
    pub(super) async fn join_tables(&mut self, joined: &[TableName]) -> Result<()> {
        let sql = format!("UPDATE {} SET cut = NULL WHERE {TABLE}", self.store.tables);
        for table in joined {
            let params = self.table_params(table);
            self.exec(&sql, params).await?;
        }
        Ok(())
    }

    /// Other groups that have copied a table of this name, here or at their primary, into this database.
    pub(super) async fn other_groups(&mut self, route: &Route) -> Result<Vec<String>> {
        let (target, source) = (&route.target, &route.schema.table);
        let sql = format!(
            "SELECT DISTINCT group_name FROM {} WHERE group_name <> ? AND ((table_schema = ? AND table_name = ?) \
             OR (table_schema = ? AND table_name = ?)) ORDER BY 1",
            self.store.tables
        );
        let params: Vec<Param> = [
            self.config.group.as_str(),
            &target.schema,
            &target.name,
            &source.schema,
            &source.name,
        ]
        .map(Into::into)
        .into();
        let rows = self.rows(&sql, params).await?;
        Ok(rows.iter().map(|row| text(row, 0)).collect())
    }

    /// A table forgotten half way through its load is made anew by the next one.
    pub(super) async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()> {
        let forget = format!("DELETE FROM {} WHERE {TABLE}", self.store.tables);
        let again = format!(
            "UPDATE {} SET statements = NULL, done = 0 WHERE {TABLE}",
            self.store.loads
        );
        let give_up = format!("UPDATE {} SET copy = NULL WHERE {TABLE}", self.store.copies);
        for table in tables {
            for sql in [&forget, &again, &give_up] {
                let params = self.table_params(table);
                self.exec(sql, params).await?;
            }
        }
        self.run("COMMIT").await
    }

    /// Group and source name, as [`TABLE`] compares them.
    pub(super) fn table_params(&self, table: &TableName) -> Vec<Param> {
        vec![
            self.config.group.as_str().into(),
            table.schema.as_str().into(),
            table.name.as_str().into(),
        ]
    }

    /// Writes the registry entry of a copied table.
    pub(super) async fn register_table(
        &mut self,
        table: &TableName,
        copied: &CopiedTable,
    ) -> Result<()> {
        let cut = copied.cut.as_ref().map(serde_json::to_string).transpose();
        let cut = cut.map_err(|e| ConnectorError::new(ErrorKind::Internal, e.to_string()))?;
        let forget = format!("DELETE FROM {} WHERE {TABLE}", self.store.tables);
        let mut params = self.table_params(table);
        self.exec(&forget, params.clone()).await?;
        let sql = format!(
            "INSERT INTO {} (group_name, table_schema, table_name, incarnation, cut) \
             VALUES (?, ?, ?, ?, ?)",
            self.store.tables
        );
        params.push(copied.incarnation.as_str().into());
        params.push(cut.into());
        self.exec(&sql, params).await.map(|_| ())
    }
}

const WHERE: &str = "group_name = ? AND origin = ? AND format = 1 AND log_id = ? AND epoch = ? \
    AND seq = ?";
/// Names one table in the registry and among the loads.
pub(super) const TABLE: &str = "group_name = ? AND table_schema = ? AND table_name = ?";

/// What tells one checkpoint from another.
fn identity(checkpoint: &Checkpoint) -> [Param; 3] {
    [
        checkpoint.log.to_string().into(),
        Param::UInt(u64::from(checkpoint.epoch.0)),
        Param::UInt(checkpoint.seq.0),
    ]
}

/// Reads rows of the registry: schema, name, incarnation, cut.
pub(super) fn copied_tables(rows: &[ServerRow]) -> Result<HashMap<TableName, CopiedTable>> {
    let mut tables = HashMap::new();
    for row in rows {
        let cut: Option<Cut> = optional(row, 3)
            .map(|json| serde_json::from_str(&json).map_err(|_| damaged("table registry")))
            .transpose()?;
        let incarnation = text(row, 2);
        let name = TableName::new(text(row, 0), text(row, 1));
        tables.insert(name, CopiedTable { incarnation, cut });
    }
    Ok(tables)
}

pub(super) fn checkpoint(row: &ServerRow) -> Result<Checkpoint> {
    let format = text(row, 0);
    if format != FORMAT {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("the replica's checkpoint has format {format}, not {FORMAT}"),
        )
        .advice(
            "it was written by another version of the daemon: use that version or a later one",
        ));
    }
    let read = || -> Option<Checkpoint> {
        Some(Checkpoint {
            log: LogId(uuid::Uuid::parse_str(&text(row, 1)).ok()?),
            epoch: Epoch(text(row, 2).parse().ok()?),
            seq: Seq(text(row, 3).parse().ok()?),
            position: SourcePosition(optional(row, 4)?),
        })
    };
    read().ok_or_else(|| damaged("checkpoint"))
}
