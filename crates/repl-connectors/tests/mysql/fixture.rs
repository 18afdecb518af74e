//! A replica database with an applier, and short ways to make changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use repl_connectors::mysql::apply::{MySqlApplier, MySqlApplierConfig};
use repl_connectors::seam::{Applier, ConnectorError, Result, Style};
use repl_core::batch::{NetTable, Route, Step};
use repl_core::change::{Before, Change};
use repl_core::checkpoint::Checkpoint;
use repl_core::row::{Row, Value};
use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema};
use repl_core::{Epoch, LogId, Seq, SourcePosition};

use crate::server::{self, Server};

static SCHEMAS: AtomicU32 = AtomicU32::new(1);

pub struct Replica {
    pub database: String,
    pub applier: MySqlApplier,
    pub admin: Conn,
    pub seq: u64,
    pub log: LogId,
}

impl Replica {
    /// A fresh database with the statements run, attached at sequence 0.
    pub async fn new(ddl: &[&str]) -> Replica {
        Replica::on(server::shared(), ddl).await
    }

    pub async fn on(server: &Server, ddl: &[&str]) -> Replica {
        let database = server.database().await;
        let mut admin = server.client(&database).await;
        for statement in ddl {
            admin.query_drop(*statement).await.unwrap();
        }
        let mut replica = Replica {
            applier: MySqlApplier::new(config_on(server, &database)),
            database,
            admin,
            seq: 0,
            log: LogId(uuid::Uuid::from_u128(7)),
        };
        replica.applier.open().await.unwrap();
        let first = replica.checkpoint();
        replica.applier.set_checkpoint(None, &first).await.unwrap();
        replica
    }

    /// An earlier one's database, with a session of our own.
    pub async fn again(database: &str) -> Replica {
        let mut replica = Replica {
            applier: applier(database),
            admin: server::shared().client(database).await,
            database: database.into(),
            seq: 0,
            log: LogId(uuid::Uuid::from_u128(7)),
        };
        replica.reopen().await;
        replica
    }

    pub fn checkpoint(&self) -> Checkpoint {
        checkpoint(self.log, self.seq)
    }

    /// Applies the steps as one transaction; after an error the session is a new one.
    pub async fn apply(&mut self, steps: &[Step], style: Style) -> Result<()> {
        let outcome = self.try_apply(steps, style).await;
        match outcome {
            Ok(()) => self.seq += 1,
            Err(_) => self.reopen().await,
        }
        outcome
    }

    async fn try_apply(&mut self, steps: &[Step], style: Style) -> Result<()> {
        let (now, next) = (self.checkpoint(), checkpoint(self.log, self.seq + 1));
        self.applier.begin(&now).await?;
        for step in steps {
            self.applier.apply(step, style).await?;
        }
        self.applier.commit(&next, &[]).await
    }

    pub async fn net(&mut self, table: NetTable) -> Result<()> {
        self.apply(&[Step::Net(vec![table])], Style::SetWise).await
    }

    pub async fn rewrite(&mut self, table: NetTable) -> Result<()> {
        self.apply(&[Step::Net(vec![table])], Style::Rewrite).await
    }

    pub async fn ordered(&mut self, route: &Arc<Route>, changes: Vec<Change>) -> Result<()> {
        let changes = changes
            .into_iter()
            .map(|change| (Arc::clone(route), change));
        self.apply(&[Step::Ordered(changes.collect())], Style::SetWise)
            .await
    }

    pub async fn reopen(&mut self) {
        self.applier.open().await.unwrap();
    }

    pub async fn run(&mut self, sql: &str) {
        self.admin.query_drop(sql).await.unwrap();
    }

    /// All rows of a query, columns joined by `|`, NULL as `~`.
    pub async fn rows(&mut self, sql: &str) -> Vec<String> {
        let rows: Vec<mysql_async::Row> = self.admin.query(sql).await.unwrap();
        rows.into_iter()
            .map(|row| {
                let fields: Vec<String> = row
                    .unwrap()
                    .into_iter()
                    .map(|field| match field {
                        mysql_async::Value::NULL => "~".into(),
                        mysql_async::Value::Bytes(bytes) => {
                            String::from_utf8_lossy(&bytes).into_owned()
                        }
                        other => other.as_sql(true),
                    })
                    .collect();
                fields.join("|")
            })
            .collect()
    }

    /// Sequence stored in the replica.
    pub async fn stored_seq(&mut self) -> String {
        let sql = format!(
            "SELECT seq FROM repl.checkpoint WHERE group_name = '{}'",
            self.database
        );
        self.rows(&sql).await.concat()
    }

    /// A route to a table of this database.
    pub fn route(&self, name: &str, columns: &[&str]) -> Arc<Route> {
        route_to(TableName::new(&self.database, name), columns)
    }

    pub async fn refusal(&mut self, route: &Arc<Route>) -> ConnectorError {
        self.applier.fit(route, None).await.unwrap_err()
    }
}

pub fn applier(database: &str) -> MySqlApplier {
    MySqlApplier::new(config(database))
}

/// Each database is a group of its own, since the checkpoints of all are in one table.
pub fn config(database: &str) -> MySqlApplierConfig {
    config_on(server::shared(), database)
}

pub fn config_on(server: &Server, database: &str) -> MySqlApplierConfig {
    MySqlApplierConfig {
        target: server.target(database),
        group: database.into(),
        replica: "r".into(),
        origin: "primary".into(),
    }
}

pub fn checkpoint(log: LogId, seq: u64) -> Checkpoint {
    Checkpoint {
        log,
        epoch: Epoch(1),
        seq: Seq(seq),
        position: SourcePosition(format!("{seq:016X}")),
    }
}

/// A route; columns are `name type`, those of the key begin with `*`.
pub fn route_to(target: TableName, columns: &[&str]) -> Arc<Route> {
    let mut key = Vec::new();
    let columns: Vec<Column> = columns
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let plain = text.strip_prefix('*').unwrap_or(text);
            if plain.len() != text.len() {
                key.push(at);
            }
            let (name, type_name) = plain
                .rsplit_once(" : ")
                .unwrap_or_else(|| plain.split_once(' ').expect("`name type`"));
            Column {
                name: name.into(),
                type_name: type_name.into(),
                type_id: 0,
                detail: Default::default(),
                nullable: plain.len() == text.len(),
                composites: None,
            }
        })
        .collect();
    Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(SCHEMAS.fetch_add(1, Ordering::Relaxed)),
            engine: "mysql".into(),
            table: TableName::new("public", &target.name),
            incarnation: String::new(),
            columns,
            identity: if key.is_empty() {
                Identity::FullRow
            } else {
                Identity::Key(key)
            },
            generated: Vec::new(),
        }),
        target,
    })
}

/// A row of values: `~` is NULL, `?` unchanged, `#n` an integer.
pub fn row(values: &[&str]) -> Row {
    Row::from_values(values.iter().map(|value| match *value {
        "~" => Value::Null,
        "?" => Value::Unchanged,
        text => match text.strip_prefix('#').and_then(|n| n.parse().ok()) {
            Some(number) => Value::Integer(number),
            None => Value::Text(text.as_bytes()),
        },
    }))
}

pub fn rows(all: &[&[&str]]) -> Vec<Row> {
    all.iter().map(|values| row(values)).collect()
}

/// A net change of a table.
pub fn net(
    route: &Arc<Route>,
    deletes: &[&[&str]],
    updates: &[&[&str]],
    inserts: &[&[&str]],
) -> NetTable {
    NetTable {
        deletes: rows(deletes),
        updates: rows(updates),
        inserts: rows(inserts),
        ..NetTable::new(Arc::clone(route))
    }
}

pub fn copies(route: &Arc<Route>, all: &[(&[&str], i64)]) -> NetTable {
    NetTable {
        multiset: all.iter().map(|(values, n)| (row(values), *n)).collect(),
        ..NetTable::new(Arc::clone(route))
    }
}

pub fn insert(route: &Route, values: &[&str]) -> Change {
    Change::Insert {
        schema: route.schema.id,
        new: row(values),
    }
}

pub fn update(route: &Route, before: Before, values: &[&str]) -> Change {
    Change::Update {
        schema: route.schema.id,
        before,
        new: row(values),
    }
}

pub fn delete(route: &Route, before: Before) -> Change {
    Change::Delete {
        schema: route.schema.id,
        before,
    }
}

impl Replica {
    pub async fn fit_ok(&mut self, route: &Arc<Route>) {
        self.applier.fit(route, None).await.unwrap();
    }
}
