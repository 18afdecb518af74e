//! What every implementation of [`EventLog`] must do. An implementation is done when
//! [`run`] passes; the suite panics at the first thing that is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test suite, compiled for tests only"
)]

mod appended;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Appender, EventLog, LogError, Reader, TxPoint, TxWriter};
use crate::position::{Epoch, Seq, SourceIdentity, SourcePosition};
use crate::record::{Body, Fragment, History, LogRecord, RecordKind, TxHeader, encode_fragment};
use crate::schema::{Column, Identity, SchemaId, TableName, TableSchema};

/// One empty log and, where it outlives its process, the way to open it again. The log and every
/// reader and appender of it are dropped before it is called.
pub struct Subject {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Opens it again.
    pub reopen: Option<Box<dyn Fn() -> Arc<dyn EventLog>>>,
}

impl Subject {
    fn reopened(self) -> Subject {
        match self.reopen {
            Some(reopen) => {
                drop(self.log);
                Subject {
                    log: reopen(),
                    reopen: Some(reopen),
                }
            }
            None => self,
        }
    }
}

/// Runs the whole suite; `make` gives a new empty log each time, with segments so small that a
/// few transactions fill one (where there are segments).
pub fn run(make: &dyn Fn() -> Subject) {
    an_empty_log_has_nothing(&make());
    order_is_enforced(&make());
    only_flushed_transactions_are_visible(&make());
    listeners_hear_of_every_advance(&make());
    appended::run(make);
    readers_start_anywhere(&make());
    open_transactions_stay_invisible(&make());
    abandoned_transactions_leave_nothing(make());
    a_new_appender_voids_the_old_one(&make());
    points_identify_transactions(make());
    schemas_are_found_by_number_and_table(make());
    trimming_keeps_what_is_wanted(make());
    the_position_before_the_first_is_known(make());
    history_is_kept(make());
    waiting_ends_with_work(&make());
}

/// Position after transaction `n`.
pub fn position(n: u64) -> SourcePosition {
    SourcePosition(format!("{n:016X}"))
}

/// A history record of this epoch.
pub fn history(epoch: u32) -> History {
    History {
        epoch: Epoch(epoch),
        source: SourceIdentity {
            node: "primary".into(),
            engine: "postgres".into(),
            system: "7000000000000000001".into(),
            timeline: "1".into(),
        },
        position: position(0),
        reason: "conformance".into(),
        succession: None,
    }
}

/// A version of table `public.<table>` with this many columns.
pub fn table(table: &str, columns: usize) -> TableSchema {
    TableSchema {
        id: SchemaId(0),
        engine: "postgres".into(),
        table: TableName::new("public", table),
        incarnation: String::new(),
        columns: (0..columns)
            .map(|n| Column {
                name: format!("c{n}"),
                type_name: "bigint".into(),
                type_id: 20,
                nullable: n > 0,
                detail: None,
                composites: None,
            })
            .collect(),
        identity: Identity::Key(vec![0]),
        generated: Vec::new(),
    }
}

fn header(txid: u64) -> TxHeader {
    TxHeader {
        txid,
        commit_time_us: 1_700_000_000_000_000,
        origin: String::new(),
    }
}

/// One fragment, as pushed.
pub fn fragment(txid: Option<u64>, end: Option<u64>, changes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let end = end.map(position);
    encode_fragment(
        &mut payload,
        txid.map(header).as_ref(),
        end.as_ref(),
        changes,
    );
    payload
}

/// Everything a reader has left.
pub fn drain(reader: &mut dyn Reader) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        records.push(record);
    }
    records
}

fn read(log: &dyn EventLog, after: u64) -> Vec<LogRecord> {
    drain(log.reader(Seq(after)).unwrap().as_mut())
}

/// The sequences of the transactions among the records, and each one's content.
fn transactions(records: &[LogRecord]) -> Vec<(u64, Vec<u8>)> {
    let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
    for record in records {
        if let Body::Fragment(Fragment { changes, .. }) = &record.body {
            match found.last_mut() {
                Some((seq, content)) if *seq == record.seq.0 => content.extend_from_slice(changes),
                _ => found.push((record.seq.0, changes.to_vec())),
            }
        }
    }
    found
}

fn content(seq: u64) -> Vec<u8> {
    vec![seq as u8; 10 + (seq as usize * 37) % 200]
}

fn push_tx(appender: &mut dyn Appender, seq: u64) {
    let payload = fragment(Some(seq + 1000), Some(seq), &content(seq));
    appender
        .push(RecordKind::Fragment, Seq(seq), true, &payload)
        .unwrap();
}

fn push_body(appender: &mut dyn Appender, body: &Body) -> Result<(), LogError> {
    let mut payload = Vec::new();
    body.encode(&mut payload);
    let seq = appender.last_seq();
    appender.push(body.kind(), seq, true, &payload).map(|_| ())
}

/// An appender on a log whose history has begun.
fn begun(log: &dyn EventLog) -> Box<dyn Appender> {
    let mut appender = log.appender().unwrap();
    push_body(appender.as_mut(), &Body::History(history(1))).unwrap();
    appender
}

fn filled(log: &dyn EventLog, count: u64) -> Box<dyn Appender> {
    let mut appender = begun(log);
    for seq in 1..=count {
        push_tx(appender.as_mut(), seq);
        if seq % 3 == 0 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
    appender
}

fn an_empty_log_has_nothing(subject: &Subject) {
    let log = &subject.log;
    let bounds = log.bounds();
    assert_eq!(bounds.first_seq, Seq(1));
    assert_eq!(bounds.durable.seq, Seq(0));
    assert_eq!(bounds.history, None);
    assert!(!log.flush().unwrap(), "nothing to flush");
    assert_eq!(log.point(Seq(0)).unwrap(), None);
    assert_eq!(log.point(Seq(1)).unwrap(), None);
    assert!(log.reader(Seq(0)).unwrap().next().unwrap().is_none());
    assert!(matches!(
        log.reader(Seq(1)),
        Err(LogError::Beyond {
            wanted: Seq(1),
            last: Seq(0)
        })
    ));
    assert_eq!(log.trim(Seq(10)).unwrap(), 0);
    assert_eq!(log.next_schema_id(), SchemaId(1));
}

fn order_is_enforced(subject: &Subject) {
    let log = &subject.log;
    let mut appender = log.appender().unwrap();
    let mut refused = |kind: RecordKind, seq: u64, ends: bool, payload: &[u8], why: &str| {
        let result = appender.push(kind, Seq(seq), ends, payload);
        assert!(matches!(result, Err(LogError::Misuse(_))), "{why}");
    };
    let whole = |n: u64| fragment(Some(1), Some(n), b"x");
    refused(
        RecordKind::Fragment,
        1,
        true,
        &whole(1),
        "before any history",
    );
    let mut appender = begun(log.as_ref());
    push_tx(appender.as_mut(), 1);
    let mut refused = |kind: RecordKind, seq: u64, ends: bool, payload: &[u8], why: &str| {
        let result = appender.push(kind, Seq(seq), ends, payload);
        assert!(matches!(result, Err(LogError::Misuse(_))), "{why}");
    };
    refused(RecordKind::Fragment, 1, true, &whole(1), "sequence again");
    refused(RecordKind::Fragment, 3, true, &whole(1), "sequence gap");
    let headless = fragment(None, Some(2), b"x");
    refused(RecordKind::Fragment, 2, true, &headless, "no header");
    let endless = fragment(Some(1), None, b"x");
    refused(RecordKind::Fragment, 2, true, &endless, "no position");
    refused(RecordKind::Fragment, 2, false, &whole(2), "early position");
    let mut mark = Vec::new();
    Body::Mark(position(2)).encode(&mut mark);
    refused(
        RecordKind::Mark,
        2,
        true,
        &mark,
        "mark of the next sequence",
    );
    refused(RecordKind::Mark, 1, false, &mark, "mark that goes on");
    refused(RecordKind::Mark, 1, true, b"\xff\xff", "unreadable payload");
    let mut old = Vec::new();
    Body::History(history(0)).encode(&mut old);
    refused(RecordKind::History, 1, true, &old, "epoch going back");

    let open = fragment(Some(1), None, b"x");
    appender
        .push(RecordKind::Fragment, Seq(2), false, &open)
        .unwrap();
    let mut refused = |kind: RecordKind, seq: u64, ends: bool, payload: &[u8], why: &str| {
        let result = appender.push(kind, Seq(seq), ends, payload);
        assert!(matches!(result, Err(LogError::Misuse(_))), "{why}");
    };
    refused(RecordKind::Mark, 1, true, &mark, "mark inside");
    refused(RecordKind::Fragment, 2, true, &whole(2), "second header");
    refused(RecordKind::Fragment, 3, true, &whole(3), "other sequence");
    let last = fragment(None, Some(2), b"y");
    appender
        .push(RecordKind::Fragment, Seq(2), true, &last)
        .unwrap();
    log.flush().unwrap();
    let found = transactions(&read(log.as_ref(), 0));
    assert_eq!(found, [(1, content(1)), (2, b"xy".to_vec())]);
}

fn only_flushed_transactions_are_visible(subject: &Subject) {
    let log = &subject.log;
    let mut appender = begun(log.as_ref());
    let mut reader = log.reader(Seq(0)).unwrap();
    push_tx(appender.as_mut(), 1);
    assert_eq!(appender.last_seq(), Seq(1));
    assert!(appender.pending_bytes() > 0);
    assert_eq!(log.bounds().durable.seq, Seq(0));
    assert!(reader.next().unwrap().is_none(), "not durable yet");
    assert!(log.flush().unwrap());
    assert!(!log.flush().unwrap(), "all is durable");
    assert_eq!(appender.pending_bytes(), 0);
    let bounds = log.bounds();
    assert_eq!(bounds.durable.seq, Seq(1));
    assert_eq!(bounds.durable.epoch, Epoch(1));
    assert_eq!(bounds.durable.position, position(1));
    assert_eq!(bounds.history, Some(history(1)));
    let records = drain(reader.as_mut());
    assert!(matches!(records[0].body, Body::History(_)));
    assert_eq!(transactions(&records), [(1, content(1))]);
    push_body(appender.as_mut(), &Body::Mark(position(99))).unwrap();
    push_tx(appender.as_mut(), 2);
    log.flush().unwrap();
    let records = drain(reader.as_mut());
    assert_eq!(records[0].body, Body::Mark(position(99)));
    assert_eq!(records[0].seq, Seq(1));
    assert_eq!(transactions(&records), [(2, content(2))]);
}

fn listeners_hear_of_every_advance(subject: &Subject) {
    let log = &subject.log;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    log.on_durable(Box::new(move |durable| {
        sink.lock().unwrap().push(durable.seq.0);
    }));
    let mut appender = begun(log.as_ref());
    log.flush().unwrap();
    push_tx(appender.as_mut(), 1);
    push_tx(appender.as_mut(), 2);
    log.flush().unwrap();
    let open = fragment(Some(1), None, b"x");
    appender
        .push(RecordKind::Fragment, Seq(3), false, &open)
        .unwrap();
    log.flush().unwrap();
    assert_eq!(*heard.lock().unwrap(), [0, 2]);
}

fn readers_start_anywhere(subject: &Subject) {
    let log = &subject.log;
    let _appender = filled(log.as_ref(), 40);
    for after in 0..=40 {
        let found = transactions(&read(log.as_ref(), after));
        let wanted: Vec<_> = (after + 1..=40).map(|seq| (seq, content(seq))).collect();
        assert_eq!(found, wanted, "after {after}");
    }
}

fn open_transactions_stay_invisible(subject: &Subject) {
    let log = &subject.log;
    let mut appender = begun(log.as_ref());
    push_tx(appender.as_mut(), 1);
    log.flush().unwrap();
    let offset = log.bounds().durable.offset;
    for n in 0..20 {
        let txid = (n == 0).then_some(5);
        let part = fragment(txid, None, &[n; 100]);
        appender
            .push(RecordKind::Fragment, Seq(2), false, &part)
            .unwrap();
        log.flush().unwrap();
        assert_eq!(appender.pending_bytes(), 0, "flushed, though not published");
        assert_eq!(log.bounds().durable.offset, offset);
        assert!(transactions(&read(log.as_ref(), 1)).is_empty());
    }
    let last = fragment(None, Some(2), b"end");
    let end = appender
        .push(RecordKind::Fragment, Seq(2), true, &last)
        .unwrap();
    log.flush().unwrap();
    assert_eq!(log.bounds().durable.offset, end);
    let found = transactions(&read(log.as_ref(), 1));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.len(), 20 * 100 + 3);
    let point = log.point(Seq(2)).unwrap().unwrap();
    assert_eq!((point.txid, point.position), (5, position(2)));
}

fn abandoned_transactions_leave_nothing(subject: Subject) {
    let log = &subject.log;
    let mut writer = TxWriter::new(Arc::clone(log)).unwrap();
    writer.history(history(1)).unwrap();
    let first = writer.schema(table("a", 1)).unwrap();
    let commit = |writer: &mut TxWriter, n: u64| {
        writer.begin(header(n)).unwrap();
        writer.change().message("m", &[n as u8; 50]);
        writer.changed().unwrap();
        writer.commit(&position(n)).unwrap().0
    };
    commit(&mut writer, 1);
    for flushed in [false, true] {
        writer.begin(header(9)).unwrap();
        for n in 0..12 {
            writer.change().message("gone", &[n; 100_000]);
            writer.changed().unwrap();
            if flushed {
                log.flush().unwrap();
            }
        }
        let inside = writer
            .schema(table("b", if flushed { 2 } else { 1 }))
            .unwrap();
        writer.abandon().unwrap();
        assert!(
            log.schema(inside).is_some(),
            "a number given out stays good"
        );
    }
    let seq = commit(&mut writer, 2);
    assert_eq!(seq, Seq(2), "the sequence stays dense");
    log.flush().unwrap();
    drop(writer);
    let subject = subject.reopened();
    let log = &subject.log;
    let records = read(log.as_ref(), 0);
    let found = transactions(&records);
    assert_eq!(found.iter().map(|tx| tx.0).collect::<Vec<_>>(), [1, 2]);
    assert!(found.iter().all(|tx| tx.1.len() < 100));
    assert_eq!(log.schema(first).unwrap().table.name, "a");
    let latest = log.latest_schema(&TableName::new("public", "b")).unwrap();
    assert_eq!((latest.id, latest.columns.len()), (SchemaId(3), 2));
    assert_eq!(log.next_schema_id(), SchemaId(4));
}

fn a_new_appender_voids_the_old_one(subject: &Subject) {
    let log = &subject.log;
    let mut old = begun(log.as_ref());
    push_tx(old.as_mut(), 1);
    let open = fragment(Some(1), None, b"x");
    old.push(RecordKind::Fragment, Seq(2), false, &open)
        .unwrap();
    log.flush().unwrap();
    let mut new = log.appender().unwrap();
    assert_eq!(new.last_seq(), Seq(1), "the whole transaction stays");
    let last = fragment(None, Some(2), b"y");
    let result = old.push(RecordKind::Fragment, Seq(2), true, &last);
    assert!(matches!(result, Err(LogError::Misuse(_))));
    assert!(matches!(old.abandon(), Err(LogError::Misuse(_))));
    push_tx(new.as_mut(), 2);
    log.flush().unwrap();
    let found = transactions(&read(log.as_ref(), 0));
    assert_eq!(found, [(1, content(1)), (2, content(2))]);
}

fn points_identify_transactions(subject: Subject) {
    drop(filled(subject.log.as_ref(), 30));
    let check = |log: &dyn EventLog| {
        for seq in 1..=30 {
            let wanted = TxPoint {
                epoch: Epoch(1),
                seq: Seq(seq),
                txid: seq + 1000,
                position: position(seq),
            };
            assert_eq!(log.point(Seq(seq)).unwrap(), Some(wanted));
        }
        assert_eq!(log.point(Seq(31)).unwrap(), None);
    };
    check(subject.log.as_ref());
    let subject = subject.reopened();
    check(subject.log.as_ref());
}

fn schemas_are_found_by_number_and_table(subject: Subject) {
    let log = &subject.log;
    let mut writer = TxWriter::new(Arc::clone(log)).unwrap();
    writer.history(history(1)).unwrap();
    assert_eq!(writer.schema(table("t", 2)).unwrap(), SchemaId(1));
    assert_eq!(writer.schema(table("t", 2)).unwrap(), SchemaId(1));
    assert_eq!(writer.schema(table("t", 3)).unwrap(), SchemaId(2));
    assert_eq!(writer.schema(table("u", 1)).unwrap(), SchemaId(3));
    // The old shape again is a new version: the newest version is what the rows have.
    assert_eq!(writer.schema(table("t", 2)).unwrap(), SchemaId(4));
    log.flush().unwrap();
    drop(writer);
    let subject = subject.reopened();
    let log = &subject.log;
    for (id, columns) in [(1, 2), (2, 3), (3, 1), (4, 2)] {
        assert_eq!(log.schema(SchemaId(id)).unwrap().columns.len(), columns);
    }
    assert_eq!(log.schema(SchemaId(5)), None);
    let latest = log.latest_schema(&TableName::new("public", "t")).unwrap();
    assert_eq!(latest.id, SchemaId(4));
    let mut writer = TxWriter::new(Arc::clone(log)).unwrap();
    assert_eq!(writer.schema(table("v", 1)).unwrap(), SchemaId(5));
    assert_eq!(writer.schema(table("u", 1)).unwrap(), SchemaId(3));
}

fn trimming_keeps_what_is_wanted(subject: Subject) {
    let log = &subject.log;
    let mut appender = filled(log.as_ref(), 40);
    let mut behind = log.reader(Seq(0)).unwrap();
    behind.next().unwrap();
    let mut ahead = log.reader(Seq(35)).unwrap();
    let bytes = log.bounds().bytes;
    let freed = log.trim(Seq(30)).unwrap();
    let bounds = log.bounds();
    assert_eq!(bounds.bytes, bytes - freed);
    let first = bounds.first_seq.0;
    assert!(first <= 31, "a wanted transaction was trimmed");
    if freed > 0 {
        assert!(first > 1);
        assert_eq!(bounds.before_first, position(first - 1));
        let point = log.point(Seq(first - 1)).unwrap().unwrap();
        assert_eq!(point.txid, first - 1 + 1000);
        assert!(matches!(
            log.reader(Seq(first - 2)),
            Err(LogError::Trimmed { .. })
        ));
        if first > 2 {
            assert_eq!(log.point(Seq(first - 2)).unwrap(), None);
        }
    }
    assert_eq!(transactions(&drain(ahead.as_mut())).len(), 5);
    // A reader that was overtaken gets either every transaction or the error, never a gap.
    let mut last = 0;
    loop {
        match behind.next() {
            Ok(Some(record)) if matches!(record.body, Body::Fragment(_)) => {
                assert_eq!(record.seq.0, last + 1);
                last = record.seq.0;
            }
            Ok(Some(_)) => {}
            Ok(None) => break assert_eq!(last, 40),
            Err(LogError::Trimmed { wanted, .. }) => break assert_eq!(wanted.0, last + 1),
            Err(error) => panic!("{error}"),
        }
    }
    push_tx(appender.as_mut(), 41);
    log.flush().unwrap();
    drop((appender, behind, ahead));
    let subject = subject.reopened();
    let log = &subject.log;
    assert_eq!(log.bounds().first_seq.0, first);
    assert_eq!(log.bounds().before_first, bounds.before_first);
    let found = transactions(&read(log.as_ref(), first - 1));
    assert_eq!(found.len() as u64, 41 - (first - 1));
    assert_eq!(
        log.trim(Seq(u64::MAX)).unwrap() > 0,
        log.bounds().first_seq.0 > first
    );
    assert_eq!(log.bounds().durable.seq, Seq(41));
}

fn the_position_before_the_first_is_known(subject: Subject) {
    let log = &subject.log;
    let mut appender = log.appender().unwrap();
    let begin = History {
        position: position(500),
        ..history(1)
    };
    push_body(appender.as_mut(), &Body::History(begin)).unwrap();
    push_tx(appender.as_mut(), 1);
    log.flush().unwrap();
    assert_eq!(log.bounds().before_first, position(500));
    drop(appender);
    let subject = subject.reopened();
    assert_eq!(subject.log.bounds().before_first, position(500));
}

fn history_is_kept(subject: Subject) {
    let log = &subject.log;
    let mut appender = filled(log.as_ref(), 10);
    push_body(appender.as_mut(), &Body::History(history(2))).unwrap();
    push_tx(appender.as_mut(), 11);
    push_body(appender.as_mut(), &Body::Mark(position(77))).unwrap();
    log.flush().unwrap();
    log.trim(Seq(11)).unwrap();
    drop(appender);
    let subject = subject.reopened();
    let log = &subject.log;
    let bounds = log.bounds();
    assert_eq!(bounds.history, Some(history(2)));
    assert_eq!(bounds.durable.epoch, Epoch(2));
    assert_eq!(bounds.durable.position, position(77));
    assert_eq!(log.point(Seq(11)).unwrap().unwrap().epoch, Epoch(2));
}

fn waiting_ends_with_work(subject: &Subject) {
    let log = &subject.log;
    let mut appender = begun(log.as_ref());
    log.flush().unwrap();
    let start = Instant::now();
    log.wait_for_work(Duration::from_millis(20));
    assert!(
        start.elapsed() >= Duration::from_millis(15),
        "there was none"
    );
    push_tx(appender.as_mut(), 1);
    log.wait_for_work(Duration::from_secs(60));
    assert!(start.elapsed() < Duration::from_secs(30));
    log.flush().unwrap();
    let woken = Arc::new(AtomicU64::new(0));
    let (waiter, flag) = (Arc::clone(log), Arc::clone(&woken));
    let thread = std::thread::spawn(move || {
        waiter.wait_for_work(Duration::from_secs(60));
        flag.store(1, Ordering::SeqCst);
    });
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    push_tx(appender.as_mut(), 2);
    thread.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(30));
}
