//! Altered, missing and misplaced bytes are noticed or do no harm; torn ones are cut.

use super::model::{Model, Op, Run, check, open, options, workload};
use super::sim::SimDisk;
use crate::log::conformance::drain;
use crate::log::{EventLog, FileLogOptions, LogError};
use crate::position::Seq;
use crate::record::LogRecord;

/// A log of several segments, closed properly.
fn sample(seed: u64) -> (SimDisk, FileLogOptions, Model) {
    let options = options(900, 150, 0);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    for op in workload(seed, 25) {
        if !matches!(op, Op::Trim(_)) {
            run.apply(op).unwrap();
        }
    }
    run.apply(Op::Transaction {
        fragments: 1,
        bytes: 30,
    })
    .unwrap();
    run.flush().unwrap();
    let model = run.model.clone();
    drop(run);
    (disk, options, model)
}

/// Everything a log says: its records and schemas.
fn everything(disk: &SimDisk, options: &FileLogOptions) -> Result<Vec<LogRecord>, LogError> {
    let log = open(disk, options)?.log;
    let mut reader = log.reader(Seq(0))?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

fn is_told(error: &LogError) -> bool {
    matches!(
        error,
        LogError::Damaged { .. } | LogError::Version { .. } | LogError::Trimmed { .. }
    )
}

#[test]
fn every_altered_byte_is_noticed_or_harmless() {
    let (disk, options, model) = sample(3);
    let whole = everything(&disk, &options).unwrap();
    let mut noticed = 0;
    for name in disk.files() {
        let content = disk.content(&name);
        for at in 0..content.len() {
            let mut altered = content.clone();
            altered[at] ^= 1 << (at % 8);
            let copy = disk.with(&name, Some(altered));
            match everything(&copy, &options) {
                Ok(records) => {
                    assert_eq!(records, whole, "byte {at} of {name}");
                    let harmless =
                        ["LOCK", "durable"].contains(&name.as_str()) || name.ends_with(".idx");
                    let ahead = content[at..].iter().all(|byte| *byte == 0);
                    assert!(harmless || ahead, "byte {at} of {name} was not noticed");
                    check(open(&copy, &options).unwrap().log.as_ref(), &model);
                }
                Err(error) => {
                    assert!(is_told(&error), "byte {at} of {name}: {error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 1_000);
}

#[test]
fn every_shortened_or_missing_file_is_noticed_or_harmless() {
    let (disk, options, _) = sample(4);
    let whole = everything(&disk, &options).unwrap();
    for name in disk.files() {
        let content = disk.content(&name);
        for length in (0..content.len()).map(Some).chain([None]) {
            let shortened = length.map(|length| content[..length].to_vec());
            match everything(&disk.with(&name, shortened), &options) {
                Ok(records) => assert_eq!(records, whole, "{name} cut to {length:?}"),
                Err(error) => assert!(is_told(&error), "{name} cut to {length:?}: {error}"),
            }
        }
    }
}

#[test]
fn misplaced_segments_are_noticed() {
    let (disk, options, _) = sample(5);
    let segments: Vec<String> = disk.files();
    let segments: Vec<&String> = segments.iter().filter(|f| f.ends_with(".seg")).collect();
    assert!(segments.len() > 3, "{segments:?}");
    let swapped = disk
        .with(segments[1], Some(disk.content(segments[2])))
        .with(segments[2], Some(disk.content(segments[1])));
    assert!(is_told(&everything(&swapped, &options).unwrap_err()));
    // The same segment of another log.
    let other = SimDisk::new();
    let mut strange = options.clone();
    strange.new_id.0 = uuid::Uuid::from_u128(43);
    drop(open(&other, &strange).unwrap());
    let foreign = disk.with(segments[0], Some(other.content(segments[0])));
    assert!(is_told(&everything(&foreign, &options).unwrap_err()));
}

/// A segment from an earlier life of the same log: same identity, same place, other content.
#[test]
fn a_stale_segment_is_noticed() {
    let (disk, options, _) = sample(6);
    let (stale, ..) = sample(7);
    let mut tried = 0;
    for name in disk.files().iter().filter(|name| name.ends_with(".seg")) {
        if stale.files().contains(name) && stale.content(name) != disk.content(name) {
            let mixed = disk.with(name, Some(stale.content(name)));
            assert!(
                is_told(&everything(&mixed, &options).unwrap_err()),
                "{name}"
            );
            tried += 1;
        }
    }
    assert!(tried > 0);
}

/// Without the note of the durable end, as after a power cut, the newest segment may end anywhere:
/// it is cut to whole transactions. Damage before the last flush is noticed all the same.
#[test]
fn a_torn_end_is_cut_and_damage_before_it_is_not() {
    let options = options(1 << 20, 150, 0);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    for op in workload(8, 30) {
        if op != Op::Prepare {
            run.apply(op).unwrap();
        }
    }
    run.flush().unwrap();
    let name = format!("{:020}.seg", 0);
    let before_last = disk.content(&name).len();
    for op in [
        Op::Transaction {
            fragments: 3,
            bytes: 40,
        },
        Op::Mark,
        Op::Transaction {
            fragments: 1,
            bytes: 10,
        },
    ] {
        run.apply(op).unwrap();
    }
    let synced = run.model.clone();
    run.flush().unwrap();
    let mut model = run.model.clone();
    model.acknowledged = synced.acknowledged;
    model.offset = synced.offset;
    drop(run);
    let disk = disk.with("durable", None);
    let content = disk.content(&name);
    for length in before_last..content.len() {
        let torn = disk.with(&name, Some(content[..length].to_vec()));
        let opened = open(&torn, &options).unwrap();
        assert!(opened.cut_bytes <= (length - before_last) as u64);
        check(opened.log.as_ref(), &model);
        drop(opened);
        assert_eq!(open(&torn, &options).unwrap().cut_bytes, 0);
    }
    for at in 0..content.len() {
        let mut altered = content.clone();
        altered[at] ^= 0x10;
        let opened = open(&disk.with(&name, Some(altered)), &options);
        if at < before_last {
            assert!(is_told(&opened.err().unwrap()), "byte {at}");
        } else {
            check(opened.unwrap().log.as_ref(), &model);
        }
    }
}

/// Space written ahead of the end is no part of the log: it is cut off without a word, a torn record
/// in it is cut off as torn, and a durable one is not taken for it.
#[test]
fn what_was_written_ahead_is_no_record() {
    let options = options(1 << 16, 150, 0);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    let one = Op::Transaction {
        fragments: 1,
        bytes: 100,
    };
    let name = format!("{:020}.seg", 0);
    let mut ends = Vec::new();
    for _ in 0..3 {
        run.apply(one).unwrap();
        run.flush().unwrap();
        run.apply(Op::Prepare).unwrap();
        let content = disk.content(&name);
        ends.push(content.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        assert!(content.len() > ends[ends.len() - 1] + 4_000);
    }
    let model = run.model.clone();
    drop(run);
    let disk = disk.with("durable", None);
    let content = disk.content(&name);
    let cut = |altered: Vec<u8>| {
        let disk = disk.with(&name, Some(altered));
        let opened = open(&disk, &options)?;
        let left = disk.content(&name).len();
        Ok::<_, LogError>((opened.cut_bytes, left, opened.log.bounds().durable.seq.0))
    };
    let end = ends[2];
    assert_eq!(cut(content.clone()).unwrap(), (0, end, 3));
    let mut torn = content.clone();
    torn[end + 30] = 7;
    assert_eq!(cut(torn).unwrap(), (31, end, 3));
    // The last flush's record in part: as torn as it would be at the end of a file.
    let mut torn = content.clone();
    torn[end - 20..end].fill(0);
    assert_eq!(cut(torn).unwrap().2, 2);
    // A record that a later flush vouches for.
    let mut damaged = content.clone();
    damaged[ends[0]..ends[1]].fill(0);
    assert!(is_told(&cut(damaged).unwrap_err()));
    check(open(&disk, &options).unwrap().log.as_ref(), &model);
}

/// With the note, losing anything durable is noticed even at the very end.
#[test]
fn a_log_that_lost_its_durable_end_is_refused() {
    let (disk, options, _) = sample(9);
    let names = disk.files();
    let newest = names.iter().rfind(|name| name.ends_with(".seg")).unwrap();
    let content = disk.content(newest);
    let shorter = disk.with(newest, Some(content[..content.len() - 1].to_vec()));
    let error = open(&shorter, &options).err().unwrap();
    assert!(error.to_string().contains(newest.as_str()), "{error}");
    assert!(is_told(
        &open(&disk.with(newest, None), &options).err().unwrap()
    ));
}

#[test]
fn a_newer_format_is_refused() {
    let (disk, options, _) = sample(1);
    let text = String::from_utf8(disk.content("log.json")).unwrap();
    let json = text
        .lines()
        .next()
        .unwrap()
        .replace("\"version\":1", "\"version\":2");
    let crc = crc32c::crc32c(json.as_bytes());
    let newer = disk.with(
        "log.json",
        Some(format!("{json}\ncrc32c {crc:08x}\n").into_bytes()),
    );
    let error = open(&newer, &options).err().unwrap();
    assert!(matches!(
        error,
        LogError::Version {
            found: 2,
            known: 1,
            ..
        }
    ));

    let name = format!("{:020}.seg", 0);
    let mut content = disk.content(&name);
    content[8] = 2;
    let crc = crc32c::crc32c(&content[..60]);
    content[60..64].copy_from_slice(&crc.to_le_bytes());
    let error = open(&disk.with(&name, Some(content)), &options)
        .err()
        .unwrap();
    assert!(matches!(
        error,
        LogError::Version {
            found: 2,
            known: 1,
            ..
        }
    ));
}

/// Every index is rebuilt, and the rebuilt one finds the same.
#[test]
fn indexes_are_rebuilt() {
    let (disk, options, model) = sample(2);
    let mut bare = disk.clone();
    for name in disk.files().iter().filter(|name| name.ends_with(".idx")) {
        bare = bare.with(name, None);
    }
    for _ in 0..2 {
        let log = open(&bare, &options).unwrap().log;
        check(log.as_ref(), &model);
        for after in 0..log.bounds().durable.seq.0 {
            drain(log.reader(Seq(after)).unwrap().as_mut());
        }
    }
    let indexes = |disk: &SimDisk| {
        let names = disk.files();
        names.iter().filter(|name| name.ends_with(".idx")).count()
    };
    assert_eq!(indexes(&bare), indexes(&disk));
}
