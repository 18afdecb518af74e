//! The event log alone: how fast it makes transactions durable, against the same bytes written to
//! the same disk with as many fdatasyncs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use repl_core::change::RowOp;
use repl_core::log::{EventLog, FileLog, FileLogOptions, HostDisk, TxWriter};
use repl_core::position::{Epoch, Seq, SourceIdentity, SourcePosition};
use repl_core::record::{History, TxHeader};
use repl_core::row::Value;
use repl_core::schema::{Column, Identity, SchemaId, TableName, TableSchema};
use repl_tests::scratch::Scratch;

use crate::options::Options;
use crate::report::{Kind, Report};

const SCENARIO: &str = "log";
/// Rows per transaction.
const SIZE: u64 = 100;
/// Length of the text in a row: rows of the catch-up scenarios, and rows of a page's size.
const TEXTS: [(&str, usize, u64); 2] = [
    ("rows of 50 bytes", 32, 8_000_000),
    ("rows of 1 KiB", 1000, 1_000_000),
];
/// The daemon's default bound on what waits for the fsync, bytes.
const PENDING: u64 = 16 << 20;

/// Runs the scenario.
///
/// # Errors
/// When the log or the disk fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    for (what, text, rows) in TEXTS {
        let mut log = Vec::new();
        let mut disk = Vec::new();
        for round in 0..options.rounds {
            let written = write_log(text, options.volume(rows))?;
            let rate = written.bytes as f64 / written.took.as_secs_f64() / 1e6;
            let raw = write_raw(&written)?;
            eprintln!(
                "  round {} {what}: log {rate:.0} MB/s, disk {raw:.0} MB/s ({} MB, {} flushes)",
                round + 1,
                written.bytes / 1_000_000,
                written.flushes
            );
            log.push(rate);
            disk.push(raw);
        }
        report.absolute(SCENARIO, &format!("log, {what}"), "MB/s", &log);
        report.absolute(SCENARIO, &format!("disk, as {what}"), "MB/s", &disk);
        let name = format!("log / disk, {what}");
        report.ratio(SCENARIO, &name, Kind::RatioHigherBetter, &log, &disk);
    }
    Ok(())
}

struct Written {
    bytes: u64,
    flushes: u64,
    took: Duration,
}

/// Writes as the daemon does: one thread appends, another flushes whatever is pending.
fn write_log(text: usize, rows: u64) -> Result<Written> {
    let scratch = Scratch::new()?;
    let dir = scratch.join("log");
    std::fs::create_dir(&dir)?;
    let opened = FileLog::open(&dir, FileLogOptions::default(), Arc::new(HostDisk))?;
    let log: Arc<dyn EventLog> = opened.log;
    let mut writer = TxWriter::new(Arc::clone(&log))?;
    writer.history(history())?;
    let schema = writer.schema(schema())?;
    let last = Seq(rows / SIZE);
    let started = Instant::now();
    let flushes = thread::scope(|scope| {
        let flusher = scope.spawn(|| -> Result<u64> {
            let mut flushes = 0;
            while log.bounds().durable.seq < last {
                log.wait_for_work(Duration::from_millis(100));
                flushes += u64::from(log.flush()?);
                ensure!(started.elapsed() < Duration::from_secs(120), "stuck");
            }
            Ok(flushes)
        });
        append(&mut writer, schema, &"x".repeat(text), last)?;
        match flusher.join() {
            Ok(flushes) => flushes,
            Err(_) => bail!("the flushing thread panicked"),
        }
    })?;
    Ok(Written {
        took: started.elapsed(),
        bytes: log.bounds().bytes,
        flushes,
    })
}

fn append(writer: &mut TxWriter, schema: SchemaId, text: &str, last: Seq) -> Result<()> {
    for number in 1..=last.0 {
        writer.begin(TxHeader {
            txid: number,
            ..TxHeader::default()
        })?;
        for row in 0..SIZE {
            let id = (number * SIZE + row).to_string();
            let mut change = writer.change();
            change.row_op(RowOp::Insert, schema);
            let values = [&id, "1234", text].map(|value| Value::Text(value.as_bytes()));
            change.row_values(values.into_iter());
            writer.changed()?;
        }
        writer.commit(&SourcePosition(format!("0/{number:X}")))?;
        while writer.pending_bytes() > PENDING {
            thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}

/// The disk's rate for the same bytes in as many equal parts, each synced before the next, MB/s.
fn write_raw(written: &Written) -> Result<f64> {
    let scratch = Scratch::new()?;
    let file = File::create(scratch.join("raw"))?;
    let part = vec![7; usize::try_from(written.bytes / written.flushes.max(1))?];
    let started = Instant::now();
    let mut at = 0;
    while at < written.bytes {
        file.write_all_at(&part, at)?;
        file.sync_data()?;
        at += part.len() as u64;
    }
    Ok(at as f64 / started.elapsed().as_secs_f64() / 1e6)
}

fn history() -> History {
    History {
        epoch: Epoch(1),
        source: SourceIdentity {
            node: "main".to_owned(),
            engine: "postgres".to_owned(),
            system: "1".to_owned(),
            timeline: "1".to_owned(),
        },
        position: SourcePosition("0/0".to_owned()),
        reason: "measured".to_owned(),
        succession: None,
    }
}

fn schema() -> TableSchema {
    TableSchema {
        id: SchemaId(0),
        engine: "postgres".to_owned(),
        table: TableName::new("public", "items"),
        incarnation: "1".to_owned(),
        columns: vec![
            Column::new("id", "bigint", 20, false),
            Column::new("k", "integer", 23, false),
            Column::new("v", "text", 25, false),
        ],
        identity: Identity::Key(vec![0]),
        generated: Vec::new(),
    }
}
