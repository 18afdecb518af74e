//! Throughput, for people: `cargo test -p repl-core speed -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::conformance::{fragment, history};
use crate::log::{EventLog, FileLog, FileLogOptions, HostDisk};
use crate::position::Seq;
use crate::record::{Body, RecordKind};

/// Pushes `count` transactions of one fragment while another thread flushes; prints rates.
fn write(log: &Arc<dyn EventLog>, what: &str, count: u64, bytes: usize) {
    let mut appender = log.appender().unwrap();
    if log.bounds().history.is_none() {
        let mut payload = Vec::new();
        Body::History(history(1)).encode(&mut payload);
        appender
            .push(RecordKind::History, Seq(0), true, &payload)
            .unwrap();
    }
    let payload = fragment(Some(1), Some(1), &vec![7; bytes]);
    let first = appender.last_seq().0;
    let start = Instant::now();
    let mut pushing = Duration::ZERO;
    let mut flushes = 0u64;
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            let mut flushes = 0;
            while log.bounds().durable.seq.0 < first + count {
                log.wait_for_work(Duration::from_millis(10));
                flushes += u64::from(log.flush().unwrap());
            }
            flushes
        });
        for n in 0..count {
            if n % 64 == 0 {
                while appender.pending_bytes() > 64 << 20 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            let begin = Instant::now();
            appender
                .push(RecordKind::Fragment, Seq(first + n + 1), true, &payload)
                .unwrap();
            pushing += begin.elapsed();
        }
        flushes = flusher.join().unwrap();
    });
    let total = start.elapsed().as_secs_f64();
    let megabytes = (count * payload.len() as u64) as f64 / 1e6;
    println!(
        "{what}: {:.0} transactions/s, {:.0} MB/s durable; push alone {:.0} ns each, {:.0} MB/s; \
         {flushes} flushes",
        count as f64 / total,
        megabytes / total,
        pushing.as_nanos() as f64 / count as f64,
        megabytes / pushing.as_secs_f64(),
    );
}

/// Pushes without anyone else at work; a flush every 2 MB is not counted.
fn push(log: &dyn EventLog, what: &str, count: u64, bytes: usize) {
    let mut appender = log.appender().unwrap();
    let payload = fragment(Some(1), Some(1), &vec![7; bytes]);
    let first = appender.last_seq().0;
    let mut pushing = Duration::ZERO;
    let every = 1 + 2_000_000 / bytes as u64;
    for from in (0..count).step_by(every as usize) {
        let start = Instant::now();
        for n in from..count.min(from + every) {
            appender
                .push(RecordKind::Fragment, Seq(first + n + 1), true, &payload)
                .unwrap();
        }
        pushing += start.elapsed();
        log.flush().unwrap();
    }
    let seconds = pushing.as_secs_f64();
    println!(
        "{what}: push alone {:.0} ns each, {:.0} MB/s",
        seconds * 1e9 / count as f64,
        (count * payload.len() as u64) as f64 / 1e6 / seconds
    );
}

fn read(log: &dyn EventLog, what: &str, after: u64) {
    let start = Instant::now();
    let mut reader = log.reader(Seq(after)).unwrap();
    let (mut records, mut bytes) = (0u64, 0u64);
    while let Some(record) = reader.next().unwrap() {
        records += 1;
        bytes += record.size;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what}: {records} records, {:.0} MB/s, {:.0} records/s",
        bytes as f64 / 1e6 / seconds,
        records as f64 / seconds
    );
}

#[test]
#[ignore = "prints numbers, checks nothing"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let open = |tail_bytes: u64| -> Arc<dyn EventLog> {
        let options = FileLogOptions {
            tail_bytes,
            ..FileLogOptions::default()
        };
        let start = Instant::now();
        let opened = FileLog::open(dir.path(), options, Arc::new(HostDisk)).unwrap();
        println!(
            "open: {:.1} ms for {:.0} MB",
            start.elapsed().as_secs_f64() * 1e3,
            opened.log.bounds().bytes as f64 / 1e6
        );
        opened.log
    };
    let log = open(32 << 20);
    write(&log, "200-byte transactions", 1_000_000, 200);
    write(&log, "256 KiB fragments", 2_000, 256 * 1024);
    push(log.as_ref(), "200 bytes, undisturbed", 200_000, 200);
    push(log.as_ref(), "256 KiB, undisturbed", 400, 256 * 1024);
    drop(log);
    let log = open(1 << 30);
    let end = log.bounds().durable.seq.0;
    write(&log, "256 KiB fragments", 1_000, 256 * 1024);
    read(log.as_ref(), "large from the tail", end);
    let end = log.bounds().durable.seq.0;
    push(log.as_ref(), "200 bytes, undisturbed", 1_000_000, 200);
    read(log.as_ref(), "small from the tail", end);
    drop(log);
    let log = open(0);
    read(log.as_ref(), "small from disk", 0);
    read(log.as_ref(), "large from disk", 1_000_000);
}
