//! Limits: rows larger than the server takes, and how fast many rows go.

use std::sync::Arc;
use std::time::Instant;

use repl_core::ErrorKind;
use repl_core::batch::NetTable;
use repl_core::row::{Row, Value};

use crate::fixture::*;
use crate::server::{second, shared};

#[tokio::test]
async fn rows_up_to_the_servers_limit_and_none_above() {
    let mut replica = Replica::new(&[
        "CREATE TABLE t (id int PRIMARY KEY, v longtext, b longblob) \
            CHARACTER SET utf8mb4",
    ])
    .await;
    let t = replica.route("t", &["*id int", "v longtext", "b longblob"]);
    let limit: usize = replica.rows("SELECT @@max_allowed_packet").await[0]
        .parse()
        .unwrap();
    let wide = |id: i64, bytes: usize| {
        let text = vec![b'x'; bytes / 2];
        let blob = vec![0xff; bytes / 2];
        let values = [Value::Integer(id), Value::Text(&text), Value::Blob(&blob)];
        Row::from_values(values.into_iter())
    };
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = vec![wide(1, limit - 100_000)];
    table.inserts.extend((2..140).map(|id| wide(id, 10)));
    replica.net(table).await.unwrap();
    // Enough large rows for several pieces.
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = (1_000..1_140).map(|id| wide(id, 200_000)).collect();
    replica.net(table).await.unwrap();
    let sql = "SELECT count(*) FROM t WHERE v = REPEAT('x', LENGTH(v)) \
        AND HEX(b) = REPEAT('FF', LENGTH(b)) AND LENGTH(v) > 4";
    assert_eq!(replica.rows(sql).await, ["279"]);
    let mut table = NetTable::new(Arc::clone(&t));
    table.inserts = vec![wide(9_999, limit)];
    let error = replica.net(table).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.advice.contains("max_allowed_packet"));
    assert_eq!(error.key.as_deref(), Some("id=9999"));
}

/// `cargo test -p repl-connectors --test mysql -- --ignored --nocapture speed`
#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_loading() {
    const ROWS: i64 = 200_000;
    for local in [true, false] {
        let server = if local { shared() } else { second() };
        let mut replica = Replica::on(
            server,
            &["CREATE TABLE t (id bigint PRIMARY KEY, a varchar(40), \
            b int, c decimal(10,2), d datetime(6)) CHARACTER SET utf8mb4"],
        )
        .await;
        let t = replica.route(
            "t",
            &[
                "*id bigint",
                "a varchar(40)",
                "b int",
                "c decimal(10,2)",
                "d datetime(6)",
            ],
        );
        let image = |id: i64, a: &'static [u8]| {
            let values = [
                Value::Integer(id),
                Value::Text(a),
                Value::Integer(id % 1000),
                Value::Text(b"12345.67"),
                Value::Text(b"2020-01-01 00:00:00.123456"),
            ];
            Row::from_values(values.into_iter())
        };
        let mut seconds = Vec::new();
        for (what, a) in [
            ("insert", &b"some text of usual length"[..]),
            ("update", b"x"),
            ("delete", b""),
        ] {
            let rows: Vec<Row> = (0..ROWS).map(|id| image(id, a)).collect();
            let mut table = NetTable::new(Arc::clone(&t));
            match what {
                "insert" => table.inserts = rows,
                "update" => table.updates = rows,
                _ => table.deletes = rows,
            }
            let start = Instant::now();
            replica.net(table).await.unwrap();
            seconds.push((what, ROWS as f64 / start.elapsed().as_secs_f64()));
        }
        println!("LOAD DATA {local}: rows/s {seconds:.0?}");
    }
}
