//! Encoding changes, decoding them, and reducing them to net changes:
//! `cargo bench -p repl-core --bench net`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a measuring program, like a test"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repl_core::batch::Route;
use repl_core::change::{ChangeWriter, Changes, RowOp};
use repl_core::net::Reducer;
use repl_core::row::Value;
use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema};

const ROWS: u64 = 10_000;

fn route() -> Arc<Route> {
    let column = |name: &str| Column::new(name, "bigint", 20, false);
    let table = TableName::new("public", "t");
    Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: table.clone(),
            incarnation: String::new(),
            columns: vec![column("id"), column("n"), column("payload")],
            identity: Identity::Key(vec![0]),
            generated: Vec::new(),
        }),
        target: table,
    })
}

/// Changes of the key `n % keys` for every `n`.
fn encode(out: &mut Vec<u8>, op: RowOp, keys: u64) {
    let payload = [b'x'; 80];
    for n in 0..ROWS {
        let key = (n % keys).to_string();
        let mut writer = ChangeWriter::new(out);
        writer.row_op(op, SchemaId(1));
        let mut row = writer.row(3);
        row.put(Value::Text(key.as_bytes()));
        row.put(Value::Text(b"12345"));
        row.put(Value::Text(&payload));
        row.finish();
    }
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("changes");
    group.throughput(Throughput::Elements(ROWS));
    let mut out = Vec::new();
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            encode(&mut out, RowOp::Insert, ROWS);
            black_box(out.len())
        });
    });
    let chunk = Bytes::from(out);
    group.bench_function("decode", |b| {
        b.iter(|| {
            let count = Changes::new(chunk.clone()).filter(|c| c.is_ok()).count();
            assert_eq!(count as u64, ROWS);
        });
    });
    group.finish();
}

fn reduce(c: &mut Criterion) {
    let mut group = c.benchmark_group("reduce");
    group.throughput(Throughput::Elements(ROWS));
    let route = route();
    for (name, op, keys) in [
        ("inserts", RowOp::Insert, ROWS),
        ("updates-of-100-keys", RowOp::Update, 100),
        ("updates-of-other-keys", RowOp::Update, ROWS),
    ] {
        let mut out = Vec::new();
        encode(&mut out, op, keys);
        let chunk = Bytes::from(out);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut reducer = Reducer::new();
                for change in Changes::new(chunk.clone()) {
                    reducer.add(&route, change.unwrap()).unwrap();
                }
                let reduced = reducer.finish();
                assert!(!reduced.needs_order);
                black_box(reduced.steps.len())
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    targets = changes, reduce
}
criterion_main!(benches);
