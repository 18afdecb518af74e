//! Logs written by earlier versions: they must be read for ever, and format version 1 must be
//! written as it was.

use std::path::PathBuf;

use super::model::{Model, Op, Run, check, open, options, workload};
use super::sim::SimDisk;
use crate::log::FileLogOptions;

fn directory() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/log/tests/golden-v1"
    ))
}

/// The workload whose log was kept.
fn written() -> (SimDisk, FileLogOptions, Model) {
    let options = options(2_500, 150, 0);
    let disk = SimDisk::new();
    let mut run = Run::new(open(&disk, &options).unwrap().log, Model::default());
    for op in workload(5, 30) {
        match op {
            Op::Trim(_) => {}
            // It was kept before there was that.
            Op::Prepare => run.apply(Op::Flush).unwrap(),
            op => run.apply(op).unwrap(),
        }
    }
    run.flush().unwrap();
    let model = run.model.clone();
    drop(run);
    (disk, options, model)
}

#[test]
fn version_1_is_read_and_written() {
    let (disk, options, model) = written();
    let mut kept = SimDisk::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(disk.content(&name), content, "{name}");
        kept = kept.with(&name, Some(content));
    }
    assert_eq!(kept.files(), disk.files());
    let opened = open(&kept, &options).unwrap();
    assert!(!opened.created);
    assert_eq!(opened.cut_bytes, 0);
    check(opened.log.as_ref(), &model);
}

#[test]
#[ignore = "writes the files that the other test compares with"]
fn keep_version_1() {
    let (disk, ..) = written();
    std::fs::create_dir_all(directory()).unwrap();
    for name in disk.files() {
        std::fs::write(directory().join(&name), disk.content(&name)).unwrap();
    }
}
