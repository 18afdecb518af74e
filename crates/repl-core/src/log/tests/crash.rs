//! Power cuts: at every operation of a workload, with every kind of remains on the disk.

use super::model::{Model, Run, check, open, options, workload};
use super::sim::{Fault, Kept, Lie, SimDisk};
use crate::log::{EventLog, FileLogOptions, LogError, Opened};

/// Runs a workload until it is done or the process dies.
fn run(disk: &SimDisk, options: &FileLogOptions, seed: u64, steps: usize) -> Model {
    let Ok(Opened { log, .. }) = open(disk, options) else {
        return Model::default();
    };
    let mut run = Run::new(log, Model::default());
    for op in workload(seed, steps) {
        if run.apply(op).is_err() {
            break;
        }
    }
    run.model
}

/// Everything worth trying to keep of what was not synced.
fn remains(disk: &SimDisk, seed: u64) -> Vec<Kept> {
    let mut remains = vec![Kept::None, Kept::All];
    // The last ones matter most: before them are mostly notes of the durable end.
    let unsynced = disk.unsynced();
    for count in (0..unsynced).filter(|count| unsynced - count < 6 || count % 5 == 0) {
        remains.push(Kept::Prefix(count, 0));
        remains.push(Kept::Prefix(count, 29 + seed as usize % 50));
    }
    remains.extend((0..4).map(|n| Kept::Random(seed * 31 + n)));
    remains
}

/// Opens what a crash left, checks it, works on, and opens it again.
fn survives(disk: &SimDisk, options: &FileLogOptions, model: &Model, seed: u64) {
    let Opened { log, .. } = open(disk, options).unwrap();
    check(log.as_ref(), model);
    let mut model = model.clone();
    model
        .transactions
        .truncate(log.bounds().durable.seq.0 as usize);
    let mut run = Run::new(log, model);
    run.recover().unwrap();
    // What the crash took of the schema versions is not in use, and must be made anew.
    run.forget_schemas();
    for op in workload(seed + 1, 6) {
        run.apply(op).unwrap();
    }
    run.flush().unwrap();
    let model = run.model.clone();
    drop(run);
    let opened = open(disk, options).unwrap();
    assert_eq!(opened.cut_bytes, 0);
    check(opened.log.as_ref(), &model);
}

/// Crashes everywhere until something durable is lost; says where that was.
fn first_loss(
    options: &FileLogOptions,
    seed: u64,
    steps: usize,
    lie: Option<Lie>,
) -> Option<String> {
    let clean = SimDisk::new();
    run(&clean, options, seed, steps);
    for at in 0..clean.operations() {
        let disk = SimDisk::new();
        disk.lie(lie);
        disk.fail_at(at, Fault::Crash);
        let model = run(&disk, options, seed, steps);
        for kept in remains(&disk, seed + at) {
            let after = disk.after_crash(kept);
            let told = std::panic::catch_unwind(|| survives(&after, options, &model, seed));
            if told.is_err() {
                return Some(format!("seed {seed}, operation {at}, {kept:?}"));
            }
        }
    }
    None
}

fn crash_everywhere(options: &FileLogOptions, seed: u64, steps: usize) {
    assert_eq!(first_loss(options, seed, steps, None), None);
}

/// The tests here would notice a missing fsync, of a file or of the directory.
#[test]
fn a_disk_that_lies_is_noticed() {
    for lie in [Lie::Files, Lie::Names] {
        let options = options(700, 100, 400);
        assert!(first_loss(&options, 0, 30, Some(lie)).is_some(), "{lie:?}");
    }
}

#[test]
fn a_crash_at_any_operation_loses_nothing_durable() {
    for seed in 0..3 {
        crash_everywhere(&options(700, 100, 400), seed, 30);
    }
}

#[test]
fn a_crash_with_a_segment_per_record_loses_nothing_durable() {
    for seed in 10..11 {
        crash_everywhere(&options(1, 1, 0), seed, 20);
    }
}

#[test]
fn a_crash_within_one_segment_loses_nothing_durable() {
    for seed in 20..23 {
        crash_everywhere(&options(1 << 20, 300, 0), seed, 30);
    }
}

/// The repair itself may be interrupted, as often as it likes.
#[test]
fn a_crash_during_recovery_is_recovered_from() {
    let options = options(500, 100, 400);
    for seed in 30..32 {
        let clean = SimDisk::new();
        run(&clean, &options, seed, 30);
        for at in (seed % 5..clean.operations()).step_by(5) {
            let disk = SimDisk::new();
            disk.fail_at(at, Fault::Crash);
            let model = run(&disk, &options, seed, 30);
            for again in 0..8 {
                let second = disk.after_crash(Kept::Random(seed + at));
                second.fail_at(again, Fault::Crash);
                if open(&second, &options).is_ok() && again > 0 {
                    break;
                }
                for kept in remains(&second, seed + again) {
                    let third = second.after_crash(kept);
                    let told = std::panic::catch_unwind(|| {
                        survives(&third, &options, &model, seed);
                    });
                    assert!(told.is_ok(), "seed {seed}, {at}, then {again}, {kept:?}");
                }
            }
        }
    }
}

/// A dead process says so; it does not report damage or a full disk.
#[test]
fn a_dead_disk_is_an_io_error() {
    let disk = SimDisk::new();
    disk.fail_at(0, Fault::Crash);
    let error = open(&disk, &options(500, 100, 400)).err().unwrap();
    assert!(
        matches!(error, LogError::Io { .. } | LogError::SyncFailed(_)),
        "{error}"
    );
}

/// For a night, or after a change to the format: other sizes, other seeds.
#[test]
#[ignore = "takes minutes"]
fn many_crashes_lose_nothing_durable() {
    for seed in 100..124 {
        let options = options(300 + seed * 7 % 1_500, 1 + seed * 13 % 300, seed * 31 % 900);
        crash_everywhere(&options, seed, 40);
    }
}
