//! Rows that pass from a real snapshot into a replica without being looked into.

use std::sync::Mutex;

use repl_connectors::postgres::snapshot::PgSnapshots;
use repl_connectors::seam::{
    Applier, BulkForm, BulkInto, ConnectorError, CopiedTable, Existing, Load, Snapshot,
    SnapshotSource, TableDdl,
};
use repl_core::copy::{KeyBound, KeyRange};
use repl_core::cut::Cut;
use repl_core::schema::{TableName, TableSchema};
use repl_core::{ErrorKind, Seq};

use crate::fixture::*;
use crate::server::shared;

/// Values that a line of COPY writes in another way than they are, and more than one piece of them.
const NASTY: &str = r#"
    CREATE TYPE mood AS ENUM ('so', E'a\tb');
    CREATE TABLE t (id bigint PRIMARY KEY, v text, n numeric(8,2), f float8, b bytea, a int[],
        g int GENERATED ALWAYS AS (a[1]) STORED);
    INSERT INTO t SELECT n, CASE n % 7 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'\\.'
        WHEN 3 THEN E'a\tb\nc\rd\\N' WHEN 4 THEN E'\\N' WHEN 5 THEN repeat('ü', 200) ELSE 'x' END,
        CASE n % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN n ELSE -0.10 END,
        CASE n % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '-Infinity' ELSE 0.1 + n END,
        decode(lpad(to_hex(n), 6, '0'), 'hex'), ARRAY[n, NULL, n % 5]
        FROM generate_series(1, 20000) n;
    CREATE TABLE m AS SELECT id, (CASE id % 2 WHEN 0 THEN 'so' ELSE E'a\tb' END)::mood AS v FROM t"#;

/// The same tables, empty; `t` with wider types if told so.
fn at_replica(wider: bool) -> String {
    let (v, n) = match wider {
        true => ("varchar", "numeric"),
        false => ("text", "numeric(8,2)"),
    };
    format!(
        "CREATE TYPE mood AS ENUM ('so', E'a\\tb'); CREATE TABLE m (id bigint, v mood);
         CREATE TABLE t (id bigint PRIMARY KEY, v {v}, n {n}, f float8, b bytea, a int[],
         g int GENERATED ALWAYS AS (a[1]) STORED)"
    )
}

async fn snapshot(database: &str) -> Box<dyn Snapshot> {
    let snapshots = PgSnapshots::new(shared().target(database));
    snapshots.snapshot().await.unwrap()
}

async fn source() -> String {
    let database = shared().database().await;
    let mut client = shared().client(&database).await;
    client.simple(NASTY).await.unwrap();
    database
}

fn types(schema: &TableSchema) -> Vec<&str> {
    schema.columns.iter().map(|c| &*c.type_name).collect()
}

fn bulk<'a>(types: &'a [&'a str], version: u32) -> BulkInto<'a> {
    BulkInto {
        engine: "postgres",
        version,
        types,
    }
}

async fn load(
    replica: &mut Replica,
    source: &str,
    table: &str,
    existing: Existing,
    cut: Option<Cut>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<u64, ConnectorError> {
    let mut snapshot = snapshot(source).await;
    let table = TableName::new("public", table);
    let (schema, _) = snapshot.open(&table).await.unwrap();
    let route = repl_core::batch::Route {
        target: schema.table.clone(),
        schema: schema.into(),
    };
    let copied = CopiedTable {
        incarnation: "1".into(),
        cut,
    };
    let load = Load {
        route: &route,
        ddl: &TableDdl::default(),
        create: false,
        existing,
        copied: &copied,
        rows: snapshot.as_mut(),
        progress,
    };
    replica.applier.load(load).await.map(|loaded| loaded.rows)
}

async fn loaded(replica: &mut Replica, source: &str, table: &str) -> u64 {
    let told = Mutex::new(0);
    let cut = Some(Cut::Through(Seq(3)));
    let progress = |rows| *told.lock().unwrap() = rows;
    let rows = load(replica, source, table, Existing::Compare, cut, &progress);
    let rows = rows.await.unwrap();
    assert_eq!(*told.lock().unwrap(), rows);
    rows
}

/// A text of all rows that tells every difference.
const ALL: &str = "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM ";

#[tokio::test]
async fn every_value_arrives_as_it_is_in_either_form() {
    let source = source().await;
    let mut client = shared().client(&source).await;
    for wider in [false, true] {
        let mut replica = Replica::new(&at_replica(wider)).await;
        for table in ["t", "m"] {
            let sql = format!("{ALL}{table} AS t");
            let expected = client.simple(&sql).await.unwrap().remove(0).remove(0);
            assert_eq!(loaded(&mut replica, &source, table).await, 20_000);
            assert_eq!(replica.rows(&sql).await, [expected.clone().unwrap()]);
            // Rows that are there are compared with them by way of another table.
            let spoil =
                format!("DELETE FROM {table} WHERE id % 9 = 0; UPDATE {table} SET v = NULL");
            replica.admin.simple(&spoil).await.unwrap();
            replica.reopen().await;
            assert_eq!(loaded(&mut replica, &source, table).await, 20_000);
            assert_eq!(replica.rows(&sql).await, [expected.unwrap()]);
        }
    }
}

#[tokio::test]
async fn the_form_follows_from_types_and_versions_and_rows_are_counted() {
    let source = source().await;
    let mut snapshot = snapshot(&source).await;
    let version = shared().client(&source).await.major_version();
    let table = TableName::new("public", "t");
    let (schema, _) = snapshot.open(&table).await.unwrap();
    let equal = types(&schema);
    let mut wider = equal.clone();
    wider[1] = "character varying";
    let range = |from: &str, to: &str| KeyRange {
        from: Some(KeyBound(vec![from.into()])),
        to: Some(KeyBound(vec![to.into()])),
    };
    let cases = [
        (bulk(&equal, version), BulkForm::Binary),
        (bulk(&equal, version + 1), BulkForm::Text),
        (bulk(&wider, version), BulkForm::Text),
    ];
    for (into, form) in cases {
        for (range, expected) in [
            (KeyRange::default(), 20_000),
            (range("5", "6"), 1),
            (range("0", "1"), 0),
        ] {
            snapshot.open_range(&schema, &range).await.unwrap();
            assert_eq!(snapshot.begin_bulk(&into).await.unwrap(), Some(form));
            let mut rows = 0;
            while let Some(piece) = snapshot.next_bulk().await.unwrap() {
                assert!(piece.data.len() < 512 * 1024);
                rows += piece.rows;
            }
            assert_eq!(rows, expected, "{form:?} {range:?}");
        }
    }
    // What was read in bulk cannot be had as rows, nor the other way round.
    assert_eq!(snapshot.begin_bulk(&cases[0].0).await.unwrap(), None);
    snapshot
        .open_range(&schema, &KeyRange::default())
        .await
        .unwrap();
    let other = BulkInto {
        engine: "sqlite",
        ..cases[0].0
    };
    assert_eq!(snapshot.begin_bulk(&other).await.unwrap(), None);
    assert!(!snapshot.next_rows().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_value_the_replica_refuses_names_the_table() {
    let source = source().await;
    let mut replica = Replica::new(&at_replica(false)).await;
    let check = "ALTER TABLE t ADD CHECK (id < 15000)";
    replica.admin.simple(check).await.unwrap();
    let refused = load(&mut replica, &source, "t", Existing::Refuse, None, &|_| {});
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(error.table.as_deref(), Some("public.t"));
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
}
