//! Tables described by their sources, and made from the descriptions on real servers of another
//! engine. Needs a PostgreSQL server's programs.

#[path = "../sqlite/harness.rs"]
#[allow(dead_code)]
mod harness;
mod postgres;
#[path = "../postgres_apply/server.rs"]
#[allow(dead_code)]
mod server;
mod sqlite;

use repl_connectors::seam::Snapshot;
use repl_core::convert::ddl::{ColumnDescription, GeneratedDdl, TableDescription, ddl};
use repl_core::convert::{ConvertOptions, Engine};
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

/// All statements in the order they are run: tables first, then keys, then foreign keys.
fn statements(tables: &[GeneratedDdl], quoted: impl Fn(&TableName) -> String) -> Vec<String> {
    let mut all = Vec::new();
    for made in tables {
        all.extend(made.before.iter().chain(&made.create).cloned());
    }
    for made in tables {
        all.extend(made.after.iter().cloned());
    }
    for key in tables.iter().flat_map(|made| &made.foreign_keys) {
        all.push(format!("{}{}{}", key.head, quoted(&key.refers), key.tail));
    }
    all
}
