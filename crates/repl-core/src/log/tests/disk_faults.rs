//! A disk that is full, fails, or does half of what it is told.

use std::sync::Arc;

use super::model::{Model, Op, Run, check, open, options, workload};
use super::sim::{Fault, Kept, SimDisk};
use crate::log::{EventLog, LogError};

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EIO: i32 = 5;

fn is_full(error: &LogError) -> bool {
    matches!(error, LogError::Full(_))
}

/// Flushes until nothing is pending.
fn settle(run: &mut Run) {
    for _ in 0..3 {
        run.flush().unwrap();
    }
    assert!(!run.log.flush().unwrap());
}

#[test]
fn a_full_disk_loses_nothing_and_recovers() {
    let options = options(2_000, 300, 500);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    let one = Op::Transaction {
        fragments: 1,
        bytes: 200,
    };
    for _ in 0..10 {
        run.apply(one).unwrap();
    }
    run.flush().unwrap();
    // Room for some of what follows, ending inside a record.
    let used: u64 = disk
        .files()
        .iter()
        .map(|f| disk.content(f).len() as u64)
        .sum();
    disk.set_capacity(Some(used + 777));
    for _ in 0..20 {
        run.apply(one).unwrap();
    }
    for _ in 0..3 {
        assert!(is_full(&run.flush().unwrap_err()));
        assert_eq!(run.model.acknowledged, 10, "nothing of it is published");
        check(run.log.as_ref(), &run.model);
        run.apply(one).unwrap();
    }
    // A crash in that state is like any other.
    let crashed = disk.after_crash(Kept::All);
    check(open(&crashed, &options).unwrap().log.as_ref(), &run.model);
    disk.set_capacity(None);
    settle(&mut run);
    assert_eq!(run.model.acknowledged, 33);
    check(run.log.as_ref(), &run.model);
    let model = run.model.clone();
    drop(run);
    let opened = open(&disk, &options).unwrap();
    assert_eq!(opened.cut_bytes, 0);
    check(opened.log.as_ref(), &model);
}

#[test]
fn a_transaction_can_be_abandoned_while_the_disk_is_full() {
    let options = options(2_000, 300, 500);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    run.apply(Op::Transaction {
        fragments: 1,
        bytes: 50,
    })
    .unwrap();
    run.flush().unwrap();
    disk.set_capacity(Some(0));
    let long = Op::Long {
        fragments: 4,
        bytes: 200,
    };
    assert!(is_full(&run.apply(long).unwrap_err()));
    run.recover().unwrap();
    disk.set_capacity(None);
    run.apply(long).unwrap();
    settle(&mut run);
    assert_eq!(run.model.acknowledged, 2);
    check(run.log.as_ref(), &run.model);
}

/// One fault at every operation in turn: errors are reported, and either nothing is lost and the
/// work goes on, or the log is stopped for good and reopening finds all that was acknowledged.
fn fault_everywhere(fault: Fault, seed: u64) {
    let options = options(600, 100, 300);
    let clean = SimDisk::new();
    let mut run = Run::new(open(&clean, &options).unwrap().log, Model::default());
    let opened_at = clean.operations();
    for op in workload(seed, 30) {
        run.apply(op).unwrap();
    }
    for at in 0..clean.operations() - opened_at {
        let disk = SimDisk::new();
        let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
        disk.fail_at(at, fault);
        let mut stopped = false;
        for op in workload(seed, 30) {
            let result = run.apply(op);
            if result.is_err() && run.recover().is_err() {
                stopped = true;
                break;
            }
        }
        if stopped {
            assert!(matches!(run.log.flush(), Err(LogError::SyncFailed(_))));
        } else {
            settle(&mut run);
            assert_eq!(run.model.acknowledged, run.model.transactions.len() as u64);
        }
        check(run.log.as_ref(), &run.model);
        let model = run.model.clone();
        drop(run);
        for kept in [Kept::All, Kept::None, Kept::Random(at)] {
            let after = disk.after_crash(kept);
            let opened = open(&after, &options);
            assert!(opened.is_ok(), "{fault:?} at {at}: {:?}", opened.err());
            if let Ok(opened) = opened {
                check(opened.log.as_ref(), &model);
            }
        }
    }
}

#[test]
fn any_operation_may_find_the_disk_full() {
    for seed in 0..4 {
        fault_everywhere(Fault::Error(ENOSPC), seed);
        fault_everywhere(Fault::Error(EDQUOT), seed + 100);
    }
}

#[test]
fn any_operation_may_fail() {
    for seed in 0..4 {
        fault_everywhere(Fault::Error(EIO), seed);
    }
}

#[test]
fn any_write_may_be_short() {
    for seed in 0..4 {
        fault_everywhere(Fault::Short, seed);
    }
}

#[test]
fn a_failed_fsync_is_final() {
    let options = options(1 << 20, 1_000, 1_000);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    let one = Op::Transaction {
        fragments: 1,
        bytes: 20,
    };
    run.apply(one).unwrap();
    run.flush().unwrap();
    run.apply(one).unwrap();
    // The write (in two parts where a fault test may stop between them), then the fsync.
    let writes = if cfg!(feature = "failpoints") { 2 } else { 1 };
    disk.fail_at(writes, Fault::Error(EIO));
    for _ in 0..3 {
        let result = run.log.flush();
        assert!(matches!(result, Err(LogError::SyncFailed(_))), "{result:?}");
    }
    assert!(matches!(run.apply(one), Err(LogError::SyncFailed(_))));
    assert_eq!(run.log.bounds().durable.seq.0, 1);
    let model = run.model.clone();
    drop(run);
    for kept in [Kept::None, Kept::All] {
        let after = disk.after_crash(kept);
        check(open(&after, &options).unwrap().log.as_ref(), &model);
    }
}

#[test]
fn a_second_opener_is_refused() {
    let options = options(1 << 20, 1_000, 1_000);
    let disk = SimDisk::new();
    let log: Arc<dyn EventLog> = open(&disk, &options).unwrap().log;
    assert!(matches!(open(&disk, &options), Err(LogError::Locked(_))));
    let reader = log.reader(crate::position::Seq(0)).unwrap();
    drop(log);
    // A handle that is still in use keeps the directory.
    assert!(matches!(open(&disk, &options), Err(LogError::Locked(_))));
    drop(reader);
    assert!(open(&disk, &options).is_ok());
}
