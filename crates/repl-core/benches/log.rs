//! The event log on the disk of the build directory: `cargo bench -p repl-core --bench log`.
//!
//! `durable/…` against `raw/…` says how much of the disk's sequential rate the log leaves: the same
//! bytes, the same number of fsyncs.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a measuring program, like a test"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use repl_core::change::RowOp;
use repl_core::log::{EventLog, FileLog, FileLogOptions, HostDisk, TxWriter};
use repl_core::position::SourceIdentity;
use repl_core::record::{History, TxHeader};
use repl_core::row::Value;
use repl_core::schema::SchemaId;
use repl_core::{Epoch, Seq, SourcePosition};

/// Bytes made durable by one flush where batches are compared with the raw disk.
const BATCH: usize = 1024 * 1024;

/// Size at which the raw file begins anew, as the log is trimmed.
const RAW_FILE: u64 = 64 * 1024 * 1024;

struct Subject {
    log: Arc<dyn EventLog>,
    writer: TxWriter,
    _dir: tempfile::TempDir,
}

impl Subject {
    fn new(tail_bytes: u64) -> Subject {
        let dir = scratch();
        let options = FileLogOptions {
            tail_bytes,
            ..FileLogOptions::default()
        };
        let log: Arc<dyn EventLog> = FileLog::open(dir.path(), options, Arc::new(HostDisk))
            .unwrap()
            .log;
        let mut writer = TxWriter::new(Arc::clone(&log)).unwrap();
        writer
            .history(History {
                epoch: Epoch(1),
                source: SourceIdentity {
                    node: "primary".into(),
                    engine: "postgres".into(),
                    system: "1".into(),
                    timeline: "1".into(),
                },
                position: SourcePosition("0".into()),
                reason: "bench".into(),
                succession: None,
            })
            .unwrap();
        log.flush().unwrap();
        Subject {
            log,
            writer,
            _dir: dir,
        }
    }

    /// One transaction of this many rows of about 100 bytes.
    fn transaction(&mut self, rows: usize) {
        let payload = [b'x'; 80];
        self.writer
            .begin(TxHeader {
                txid: 7,
                commit_time_us: 0,
                origin: String::new(),
            })
            .unwrap();
        for row in 0..rows {
            let mut change = self.writer.change();
            change.row_op(RowOp::Insert, SchemaId(1));
            let mut image = change.row(2);
            image.put(Value::Integer(row as i64));
            image.put(Value::Text(&payload));
            image.finish();
            self.writer.changed().unwrap();
        }
        let position = SourcePosition("00000000DEADBEEF".into());
        self.writer.commit(&position).unwrap();
    }

    /// Transactions of this many rows up to about [`BATCH`]; returns how many.
    fn batch(&mut self, rows: usize) -> u64 {
        let before = self.writer.pending_bytes();
        let mut transactions = 0;
        while self.writer.pending_bytes() - before < BATCH as u64 {
            self.transaction(rows);
            transactions += 1;
        }
        transactions
    }

    fn trim(&self) {
        self.log.trim(self.log.bounds().durable.seq).unwrap();
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

const SHAPES: [(&str, usize); 3] = [("1-row", 1), ("100-rows", 100), ("10000-rows", 10_000)];

fn push(c: &mut Criterion) {
    let mut group = c.benchmark_group("push");
    for (name, rows) in SHAPES {
        let mut subject = Subject::new(0);
        let transactions = subject.batch(rows);
        group.throughput(Throughput::Elements(transactions));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    for _ in 0..transactions {
                        subject.transaction(rows);
                    }
                    took += start.elapsed();
                    subject.log.flush().unwrap();
                    subject.trim();
                }
                took
            });
        });
    }
    group.finish();
}

fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable");
    for (name, rows) in SHAPES {
        let mut subject = Subject::new(0);
        subject.batch(rows);
        group.throughput(Throughput::Bytes(subject.writer.pending_bytes()));
        subject.log.flush().unwrap();
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    subject.batch(rows);
                    let start = Instant::now();
                    subject.log.flush().unwrap();
                    took += start.elapsed();
                    subject.trim();
                }
                took
            });
        });
    }
    let mut subject = Subject::new(0);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one-commit", |b| {
        b.iter(|| {
            subject.transaction(1);
            subject.log.flush().unwrap();
        });
    });
    group.finish();
}

fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("raw");
    let dir = scratch();
    for (name, bytes) in [("batch", BATCH), ("one-commit", 180)] {
        let file = File::create(dir.path().join(name)).unwrap();
        group.throughput(Throughput::Bytes(bytes as u64));
        let content = vec![7; bytes];
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| written(&file, &content, iterations));
        });
    }
    group.finish();
}

fn written(file: &File, content: &[u8], iterations: u64) -> Duration {
    let mut took = Duration::ZERO;
    let mut at = 0;
    for _ in 0..iterations {
        if at >= RAW_FILE {
            file.set_len(0).unwrap();
            at = 0;
        }
        let start = Instant::now();
        file.write_all_at(content, at).unwrap();
        file.sync_data().unwrap();
        took += start.elapsed();
        at += content.len() as u64;
    }
    took
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for (place, tail_bytes) in [("tail", 1 << 30), ("disk", 0)] {
        for (name, rows) in SHAPES {
            let mut subject = Subject::new(tail_bytes);
            for _ in 0..16 {
                subject.batch(rows);
                subject.log.flush().unwrap();
            }
            group.throughput(Throughput::Bytes(subject.log.bounds().bytes));
            group.bench_function(Path::new(place).join(name).to_str().unwrap(), |b| {
                b.iter(|| {
                    let mut reader = subject.log.reader(Seq(0)).unwrap();
                    while reader.next().unwrap().is_some() {}
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    targets = push, durable, raw, read
}
criterion_main!(benches);
