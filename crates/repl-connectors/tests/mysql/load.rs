//! The first copy of a table, and what a crash in it leaves.

use std::sync::Arc;

use async_trait::async_trait;
use repl_connectors::seam::{
    Applier, ConnectorError, CopiedTable, Existing, Load, Result, Snapshot, TableDdl,
};
use repl_core::batch::Route;
use repl_core::convert::ddl::TableDescription;
use repl_core::cut::Cut;
use repl_core::row::{Row, Value};
use repl_core::schema::{TableName, TableSchema};
use repl_core::{ErrorKind, Seq};

use crate::fixture::*;

/// Rows in parts; then the end, or an error.
pub struct Source {
    parts: Vec<Vec<Row>>,
    breaks: bool,
}

impl Source {
    pub fn new(rows: i64) -> Self {
        let all: Vec<Row> = (0..rows)
            .map(|id| Row::from_values([Value::Integer(id), Value::Text(b"v")].into_iter()))
            .collect();
        let mut parts: Vec<Vec<Row>> = all.chunks(700).map(<[Row]>::to_vec).collect();
        parts.reverse();
        Source {
            parts,
            breaks: false,
        }
    }
}

fn cut() -> Cut {
    Cut::Through(Seq(5))
}

#[async_trait]
impl Snapshot for Source {
    fn cut(&self) -> Cut {
        cut()
    }

    async fn ddl(&mut self, _: &TableName, _: &TableName) -> Result<TableDdl> {
        Ok(TableDdl::default())
    }

    async fn describe(&mut self, _: &TableName) -> Result<TableDescription> {
        unreachable!("the applier is given the statements")
    }

    async fn open(&mut self, _: &TableName) -> Result<(TableSchema, Option<u64>)> {
        Err(ConnectorError::new(ErrorKind::Internal, "not used"))
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        match self.parts.pop() {
            Some(rows) => Ok(rows),
            None if self.breaks => Err(ConnectorError::new(ErrorKind::Connection, "broken")),
            None => Ok(Vec::new()),
        }
    }
}

pub struct Case {
    pub replica: Replica,
    route: Arc<Route>,
    ddl: TableDdl,
}

impl Case {
    async fn new(ddl: &[&str]) -> Case {
        Case::on(Replica::new(ddl).await)
    }

    pub fn on(replica: Replica) -> Case {
        let route = replica.route("t", &["*id bigint", "v varchar(20)"]);
        let db = &replica.database;
        let ddl = TableDdl {
            before: vec![format!("CREATE DATABASE IF NOT EXISTS \"{db}\"")],
            create: vec![format!(
                "CREATE TABLE \"{db}\".`t` (id bigint PRIMARY KEY, v varchar(20) \
                 CHARACTER SET utf8mb4) ENGINE = InnoDB"
            )],
            key: Vec::new(),
            after: vec![
                format!("CREATE INDEX one ON {db}.t (v)"),
                format!("CREATE INDEX two ON {db}.t (v, id)"),
            ],
            foreign_keys: Vec::new(),
            generated: Vec::new(),
        };
        Case {
            replica,
            route,
            ddl,
        }
    }

    pub async fn load(&mut self, source: &mut Source, replace: bool) -> Result<u64> {
        let copied = CopiedTable {
            incarnation: "i".into(),
            cut: Some(cut()),
        };
        let existing = match replace {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        let loaded = self
            .replica
            .applier
            .load(Load {
                route: &self.route,
                ddl: &self.ddl,
                create: true,
                existing,
                copied: &copied,
                rows: source,
                progress: &|_| {},
            })
            .await?;
        Ok(loaded.rows)
    }

    pub async fn count(&mut self) -> String {
        self.replica.rows("SELECT count(*) FROM t").await.concat()
    }

    pub async fn indexes(&mut self) -> Vec<String> {
        let sql = "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS \
            WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 't' ORDER BY 1";
        self.replica.rows(sql).await
    }

    pub async fn is_registered(&mut self) -> bool {
        let state = self.replica.applier.open().await.unwrap();
        let entry = state.tables.get(&self.route.schema.table).cloned();
        if let Some(entry) = &entry {
            assert_eq!(entry.cut, Some(cut()));
        }
        entry.is_some()
    }
}

#[tokio::test]
async fn a_table_is_made_loaded_and_registered() {
    let mut case = Case::new(&[]).await;
    let rows = case.load(&mut Source::new(3_000), false).await.unwrap();
    assert_eq!(rows, 3_000);
    assert_eq!(case.count().await, "3000");
    assert_eq!(case.indexes().await, ["one", "PRIMARY", "two"]);
    assert!(case.is_registered().await);
    let left = format!(
        "SELECT * FROM repl.loads WHERE group_name = '{}'",
        case.replica.database
    );
    assert!(case.replica.rows(&left).await.is_empty());
    let error = case.load(&mut Source::new(1), false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    case.replica.reopen().await;
    assert_eq!(case.load(&mut Source::new(10), true).await.unwrap(), 10);
    assert_eq!(case.count().await, "10");
    assert_eq!(case.indexes().await, ["one", "PRIMARY", "two"]);
}

#[tokio::test]
async fn a_load_that_broke_off_leaves_an_empty_table_that_the_next_one_makes_anew() {
    let mut case = Case::new(&[]).await;
    let mut source = Source::new(3_000);
    source.breaks = true;
    case.load(&mut source, false).await.unwrap_err();
    assert!(!case.is_registered().await);
    assert_eq!(case.count().await, "0");
    // The source's table has another shape by now.
    let db = case.replica.database.clone();
    case.ddl.create = vec![format!(
        "CREATE TABLE {db}.t (id bigint PRIMARY KEY, v varchar(20) CHARACTER SET utf8mb4, \
         w int DEFAULT 1)"
    )];
    case.load(&mut Source::new(10), false).await.unwrap();
    assert_eq!(case.indexes().await, ["one", "PRIMARY", "two"]);
    assert_eq!(case.replica.rows("SELECT sum(w) FROM t").await, ["10"]);
}

/// Somebody put rows into the table we left: they are not ours to drop.
#[tokio::test]
async fn rows_of_others_are_never_dropped() {
    let mut case = Case::new(&[]).await;
    let mut source = Source::new(10);
    source.breaks = true;
    case.load(&mut source, false).await.unwrap_err();
    case.replica.reopen().await;
    case.replica.run("INSERT INTO t VALUES (77, 'x')").await;
    let error = case.load(&mut Source::new(10), false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(case.count().await, "1");
}

#[tokio::test]
async fn indexes_a_crash_left_out_are_made_at_the_next_start() {
    let mut case = Case::new(&[]).await;
    // An index whose statement fails stands for the crash.
    let good = case.ddl.after.clone();
    case.ddl.after[1] = good[1].replace("(v, id)", "(missing)");
    case.load(&mut Source::new(10), false).await.unwrap_err();
    assert_eq!(case.count().await, "10");
    let error = case.replica.applier.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    let db = case.replica.database.clone();
    let mend = format!(
        "UPDATE repl.loads SET statements = REPLACE(statements, 'missing', 'v, id'), done = 0 \
         WHERE group_name = '{db}'"
    );
    case.replica.run(&mend).await;
    assert!(case.is_registered().await);
    assert_eq!(case.indexes().await, ["one", "PRIMARY", "two"]);
}

#[tokio::test]
async fn an_existing_empty_table_is_used_as_it_is() {
    let mut case = Case::new(&["CREATE TABLE t (id bigint PRIMARY KEY, v text, own int) \
        CHARACTER SET utf8mb4"])
    .await;
    case.load(&mut Source::new(10), false).await.unwrap();
    assert_eq!(case.indexes().await, ["PRIMARY"]);
    assert_eq!(case.count().await, "10");
}

#[tokio::test]
async fn foreign_keys_are_added_once() {
    let mut replica = Replica::new(&[
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY, p int)",
    ])
    .await;
    let statement = format!(
        "ALTER TABLE {0}.c ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES \"{0}\".\"p\" (id)",
        replica.database
    );
    for _ in 0..2 {
        replica
            .applier
            .add_foreign_keys(std::slice::from_ref(&statement))
            .await
            .unwrap();
    }
    let sql = "SELECT count(*) FROM information_schema.REFERENTIAL_CONSTRAINTS \
        WHERE CONSTRAINT_SCHEMA = DATABASE()";
    assert_eq!(replica.rows(sql).await, ["1"]);
}
