//! A replica database with an applier, and short ways to make changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use repl_connectors::postgres::apply::{PgApplier, PgApplierConfig};
use repl_connectors::postgres::wire::PgClient;
use repl_connectors::seam::{Applier, Commit, Result, Style};
use repl_core::batch::{NetTable, Route, Step};
use repl_core::change::{Before, Change};
use repl_core::checkpoint::Checkpoint;
use repl_core::row::{Row, Value};
use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema};
use repl_core::{Epoch, LogId, Seq, SourcePosition};

use crate::server;

static SCHEMAS: AtomicU32 = AtomicU32::new(1);

pub struct Replica {
    pub database: String,
    pub applier: PgApplier,
    pub admin: PgClient,
    pub seq: u64,
    pub log: LogId,
    /// Transactions begin as those do whose end is known.
    pub whole: bool,
}

impl Replica {
    /// A fresh database with `ddl` run, attached at sequence 0.
    pub async fn new(ddl: &str) -> Replica {
        let database = server::shared().database().await;
        let mut admin = server::shared().client(&database).await;
        admin.simple(ddl).await.unwrap();
        let log = LogId(uuid::Uuid::from_u128(7));
        let mut replica = Replica {
            applier: applier(&database),
            database,
            admin,
            seq: 0,
            log,
            whole: true,
        };
        replica.applier.open().await.unwrap();
        let first = replica.checkpoint();
        replica.applier.set_checkpoint(None, &first).await.unwrap();
        replica
    }

    pub fn checkpoint(&self) -> Checkpoint {
        checkpoint(self.log, self.seq)
    }

    /// Applies the steps as one transaction.
    pub async fn apply(&mut self, steps: &[Step], style: Style) -> Result<()> {
        let before = self.seq;
        self.submit(steps, style, Commit::Durable).await?;
        let outcome = self.applier.settle().await;
        if outcome.is_err() {
            self.seq = before;
        }
        outcome
    }

    /// Submits the steps as one transaction behind those submitted before, without waiting for any.
    pub async fn submit(&mut self, steps: &[Step], style: Style, commit: Commit) -> Result<()> {
        let (now, next) = (self.checkpoint(), checkpoint(self.log, self.seq + 1));
        match self.whole {
            true => self.applier.begin_whole(&now, &next, commit).await?,
            false => self.applier.begin(&now).await?,
        }
        for step in steps {
            self.applier.apply(step, style).await?;
        }
        self.applier.submit(&next, &[], commit).await?;
        self.seq += 1;
        Ok(())
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

    /// Notes that a table was copied with these columns of the source, an array literal.
    pub async fn copied_with(&mut self, table: &str, columns: &str) {
        let sql = format!(
            "INSERT INTO repl.tables VALUES ('g', 'public', '{table}', '', NULL, '{columns}')"
        );
        self.admin.simple(&sql).await.unwrap();
    }

    pub async fn reopen(&mut self) {
        self.applier.open().await.unwrap();
    }

    /// All rows of a query, columns joined by `|`, NULL as `~`.
    pub async fn rows(&mut self, sql: &str) -> Vec<String> {
        let rows = self.admin.simple(sql).await.unwrap();
        rows.into_iter()
            .map(|row| {
                let fields: Vec<String> = row
                    .into_iter()
                    .map(|field| field.unwrap_or("~".into()))
                    .collect();
                fields.join("|")
            })
            .collect()
    }

    /// Sequence stored in the replica.
    pub async fn stored_seq(&mut self) -> String {
        self.rows("SELECT seq FROM repl.checkpoint").await.concat()
    }
}

pub fn applier(database: &str) -> PgApplier {
    PgApplier::new(PgApplierConfig {
        target: server::shared().target(database),
        group: "g".into(),
        replica: "r".into(),
        origin: "primary".into(),
    })
}

pub fn checkpoint(log: LogId, seq: u64) -> Checkpoint {
    Checkpoint {
        log,
        epoch: Epoch(1),
        seq: Seq(seq),
        position: SourcePosition(format!("{seq:016X}")),
    }
}

/// A route to `public.<name>`; columns are `name type`, those of the key begin with `*`.
pub fn route(name: &str, columns: &[&str]) -> Arc<Route> {
    route_to(TableName::new("public", name), columns)
}

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
                nullable: plain.len() == text.len(),
                detail: None,
                composites: None,
            }
        })
        .collect();
    Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(SCHEMAS.fetch_add(1, Ordering::Relaxed)),
            engine: "postgres".into(),
            table: target.clone(),
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

/// A row of text values: `~` is NULL, `?` unchanged.
pub fn row(values: &[&str]) -> Row {
    Row::from_values(values.iter().map(|value| match *value {
        "~" => Value::Null,
        "?" => Value::Unchanged,
        text => Value::Text(text.as_bytes()),
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
