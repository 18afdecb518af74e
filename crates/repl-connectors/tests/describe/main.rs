//! Tables described by their sources, and made from the descriptions on real servers of another
//! engine. Needs the programs of PostgreSQL and MariaDB.
#![cfg(all(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#![allow(clippy::result_large_err, clippy::unwrap_used, clippy::expect_used)]

#[path = "../sqlite/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../mysql/server.rs"]
#[allow(dead_code)]
mod mariadb;
mod postgres;
#[path = "../postgres_apply/server.rs"]
#[allow(dead_code)]
mod server;
mod sqlite;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use repl_connectors::seam::Snapshot;
use repl_core::convert::ddl::{ColumnDescription, GeneratedDdl, TableDescription, ddl};
use repl_core::convert::{ConvertOptions, Engine, quote_table};
use repl_core::schema::{TableName, TableSchema};

/// A described table with the shape of its rows.
struct Described {
    schema: TableSchema,
    description: TableDescription,
}

async fn described(snapshot: &mut dyn Snapshot, table: &TableName) -> Described {
    let (schema, _) = snapshot.open(table).await.unwrap();
    while !snapshot.next_rows().await.unwrap().is_empty() {}
    let description = snapshot.describe(table).await.unwrap();
    let plain = description.columns.iter().filter(|c| c.generated.is_none());
    let told = plain.map(|c| (&c.name, &c.type_name, &c.detail, c.nullable));
    let sent = schema.columns.iter();
    assert!(
        told.eq(sent.map(|c| (&c.name, &c.type_name, &c.detail, c.nullable))),
        "{table} is described otherwise than its rows"
    );
    Described {
        schema,
        description,
    }
}

impl Described {
    /// The statements for the target, in which tables live in `schema`.
    fn made(&self, target: Engine, schema: &str) -> GeneratedDdl {
        let plan = self
            .description
            .plan(&self.schema, target, &ConvertOptions::default())
            .unwrap();
        let there = |name: &TableName| TableName::new(schema, &name.name);
        ddl(&self.description, &plan, &there(&self.schema.table), &there).unwrap()
    }
}

fn column(name: &str, type_name: &str, nullable: bool) -> ColumnDescription {
    ColumnDescription {
        name: name.into(),
        type_name: type_name.into(),
        nullable,
        ..ColumnDescription::default()
    }
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

/// Makes the tables in a new database of MariaDB and returns the session.
async fn made_in_mariadb(tables: &[Described]) -> Conn {
    let database = mariadb::shared().database().await;
    let mut session = mariadb::shared().client(&database).await;
    let made: Vec<GeneratedDdl> = tables
        .iter()
        .map(|table| table.made(Engine::Mysql, &database))
        .collect();
    let there =
        |name: &TableName| quote_table(Engine::Mysql, &TableName::new(&database, &name.name));
    for sql in statements(&made, there) {
        let run = session.query_drop(&sql).await;
        run.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    session
}

/// All statements in the order they are run: tables first, then keys, then foreign keys.
fn statements(tables: &[GeneratedDdl], quoted: impl Fn(&TableName) -> String) -> Vec<String> {
    let mut all = Vec::new();
    for made in tables {
        all.extend(made.before.iter().chain(&made.create).cloned());
    }
    for made in tables {
        all.extend(made.key.iter().chain(&made.after).cloned());
    }
    for key in tables.iter().flat_map(|made| &made.foreign_keys) {
        all.push(format!("{}{}{}", key.head, quoted(&key.refers), key.tail));
    }
    all
}
