//! Volume: a transaction larger than memory limits, and the speed of capture, copy and apply.

use std::sync::Arc;
use std::time::Instant;

use repl_connectors::seam::{Applier, Style};
use repl_connectors::sqlite::SqliteApplier;
use repl_core::batch::{NetTable, Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::log::EventLog;
use repl_core::row::{Row, Value};
use repl_core::schema::{Column, Identity, SchemaId, TableSchema};
use repl_core::{Epoch, LogId, Seq, SourcePosition};

use crate::harness::{Primary, open, table, target};

const MILLION: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)";

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_transaction() {
    let primary = Primary::start("CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b TEXT)").await;
    let mut replica = primary.replica("r").await;
    primary.sql("BEGIN IMMEDIATE");
    primary.sql(&format!(
        "{MILLION} INSERT INTO t SELECT i, i * 7, 'row number ' || i FROM n"
    ));
    let began = Instant::now();
    primary.sql("COMMIT");
    primary.settle().await;
    report("capture", 1_000_000, began);
    let bounds = primary.log.log.bounds();
    assert_eq!(bounds.durable.seq, Seq(1), "one transaction");
    let began = Instant::now();
    replica.follow(&primary).await.unwrap();
    report("apply in one transaction", 1_000_000, began);
    let sums = |path: &std::path::Path| -> (i64, i64, i64) {
        open(path)
            .query_row(
                "SELECT count(*), sum(a), sum(length(b)) FROM t",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap()
    };
    assert_eq!(sums(&primary.path), sums(&replica.path));
    let began = Instant::now();
    let second = primary.replica("second").await;
    report("copy", 1_000_000, began);
    assert_eq!(sums(&primary.path), sums(&second.path));
}

#[tokio::test]
async fn inserts_in_transactions_of_a_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    open(&path)
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b TEXT)")
        .unwrap();
    let mut applier = SqliteApplier::new(target(&path), false);
    applier.open().await.unwrap();
    let checkpoint = |seq: u64| Checkpoint {
        log: LogId(uuid::Uuid::from_u128(1)),
        epoch: Epoch(1),
        seq: Seq(seq),
        position: SourcePosition(format!("{seq}")),
    };
    applier.set_checkpoint(None, &checkpoint(0)).await.unwrap();
    let column = |name: &str, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        type_id: 0,
        nullable: true,
        detail: None,
        composites: None,
    };
    let route = Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(1),
            engine: "sqlite".into(),
            table: table("t"),
            incarnation: String::new(),
            columns: vec![
                column("id", "INTEGER"),
                column("a", "INT"),
                column("b", "TEXT"),
            ],
            identity: Identity::Key(vec![0]),
            generated: Vec::new(),
        }),
        target: table("t"),
    });
    const BATCHES: u64 = 300;
    let began = Instant::now();
    for batch in 0..BATCHES {
        let mut net = NetTable::new(Arc::clone(&route));
        for n in 0..1000 {
            let id = (batch * 1000 + n) as i64;
            net.inserts.push(Row::from_values(
                [
                    Value::Integer(id),
                    Value::Integer(id * 7),
                    Value::Text(b"some text of a row"),
                ]
                .into_iter(),
            ));
        }
        applier.begin(&checkpoint(batch)).await.unwrap();
        applier
            .apply(&Step::Net(vec![net]), Style::SetWise)
            .await
            .unwrap();
        applier.commit(&checkpoint(batch + 1), &[]).await.unwrap();
    }
    report("apply in transactions of 1,000", BATCHES * 1000, began);
    let count: i64 = open(&path)
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count as u64, BATCHES * 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_the_log_within_milliseconds() {
    let primary = Primary::start("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    primary.tables(|t| !t.is_empty()).await;
    let mut delays = Vec::new();
    let mut durable = primary.log.durable.clone();
    for n in 0..100 {
        durable.borrow_and_update();
        let began = Instant::now();
        primary.sql(&format!("INSERT INTO t (v) VALUES ({n})"));
        durable.changed().await.unwrap();
        delays.push(began.elapsed());
    }
    delays.sort();
    println!(
        "write to durable in the log: median {:?}, worst {:?}",
        delays[50], delays[99]
    );
    assert!(delays[50].as_millis() < 50, "{delays:?}");
}

fn report(what: &str, rows: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{what}: {rows} rows in {seconds:.2} s, {:.0} rows/s",
        rows as f64 / seconds
    );
}
