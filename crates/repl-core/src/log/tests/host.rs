//! The file system of the host: what the simulated disk cannot show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::model::{Model, Op, Run, check, options, whole_transactions};
use crate::log::{EventLog, FileLog, HostDisk, LogError};
use crate::position::Seq;

#[test]
fn the_lock_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(1 << 20, 1_000, 1_000);
    let open = || FileLog::open(dir.path(), options.clone(), Arc::new(HostDisk));
    let first = open().unwrap();
    assert!(first.created);
    let error = open().err().unwrap();
    assert!(matches!(error, LogError::Locked(_)));
    let holder = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    drop(first);
    assert!(!open().unwrap().created);
}

/// Readers at both ends, a flusher, a trimmer and the appender at once.
#[test]
fn readers_keep_up_while_segments_come_and_go() {
    const COUNT: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let options = options(20_000, 2_000, 30_000);
    let opened = FileLog::open(dir.path(), options, Arc::new(HostDisk)).unwrap();
    let log: Arc<dyn EventLog> = opened.log;
    let mut run = Run::new(Arc::clone(&log), Model::default());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..2)
            .map(|slow| {
                let log = Arc::clone(&log);
                scope.spawn(move || follow(log.as_ref(), COUNT, slow == 1))
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                log.wait_for_work(std::time::Duration::from_millis(5));
                log.flush().unwrap();
            }
        });
        for n in 0..COUNT {
            let op = Op::Transaction {
                fragments: 1 + (n % 3) as u16,
                bytes: (n % 200) as u16,
            };
            run.apply(op).unwrap();
        }
        let read: Vec<_> = reading.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(read[0], read[1]);
        done.store(true, Ordering::SeqCst);
    });
    run.flush().unwrap();
    assert!(log.segments().len() > 5);
    assert!(log.trim(Seq(COUNT / 2)).unwrap() > 0);
    run.model.trimmed = COUNT / 2;
    check(log.as_ref(), &run.model);
}

/// Reads until transaction `last`; the contents.
fn follow(log: &dyn EventLog, last: u64, slow: bool) -> Vec<Vec<u8>> {
    let mut reader = log.reader(Seq(0)).unwrap();
    let mut records = Vec::new();
    loop {
        match reader.next().unwrap() {
            Some(record) => {
                let end = record.seq.0 == last;
                let whole = matches!(&record.body,
                    crate::record::Body::Fragment(part) if part.position.is_some());
                records.push(record);
                if end && whole {
                    break;
                }
            }
            None => std::thread::sleep(std::time::Duration::from_millis(if slow { 20 } else { 1 })),
        }
    }
    let found = whole_transactions(&records);
    assert_eq!(found.len() as u64, last);
    found.into_iter().map(|tx| tx.2).collect()
}
