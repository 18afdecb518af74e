//! Real processes killed at every named failpoint, and the proof that a broken recovery would be
//! noticed: `cargo test -p repl-core --features failpoints failpoints`.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use super::model::{Model, Op, Run, check, options, workload};
use super::sim::SimDisk;
use crate::log::{FileLog, FileLogOptions, HostDisk, LogError, Opened};

const STEPS: usize = 150;
const SEED: u64 = 11;

/// Every failpoint of the log that the workload passes.
const FAILPOINTS: [&str; 19] = [
    "log.create.before_identity",
    "log.create.identity_created",
    "log.create.identity_synced",
    "log.create.done",
    "log.push",
    "log.flush.before_write",
    "log.flush.mid_write",
    "log.flush.before_sync",
    "log.flush.after_sync",
    "log.roll.created",
    "log.roll.header_synced",
    "log.roll.dir_synced",
    "log.roll.before_use",
    "log.trim.before_delete",
    "log.trim.after_delete",
    "log.abandon.before_truncate",
    "log.abandon.after_truncate",
    "log.recover.before_truncate",
    "log.recover.after_truncate",
];

fn sizes() -> FileLogOptions {
    options(700, 100, 400)
}

fn open(dir: &Path) -> Result<Opened, LogError> {
    FileLog::open(dir, sizes(), Arc::new(HostDisk))
}

/// Everything the workload does when nothing disturbs it, nothing of it acknowledged.
fn undisturbed() -> Model {
    let log = super::model::open(&SimDisk::new(), &sizes()).unwrap().log;
    let mut run = Run::new(log, Model::default());
    for op in workload(SEED, STEPS) {
        run.apply(op).unwrap();
    }
    run.model.acknowledged = 0;
    run.model.offset = 0;
    run.model
}

/// Runs one of the ignored tests below in a process of its own.
fn process(test: &str, dir: &Path, variable: &str, value: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg(format!("log::tests::failpoints::{test}"))
        .env("REPL_TEST_DIR", dir)
        .env(variable, value)
        .output()
        .unwrap()
}

fn process_dir() -> std::path::PathBuf {
    std::env::var_os("REPL_TEST_DIR").unwrap().into()
}

/// The last acknowledgement a process printed: sequence and offset.
fn acknowledged(output: &Output) -> (u64, u64) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| line.starts_with("durable "));
    let Some(last) = last else {
        return (0, 0);
    };
    let mut numbers = last.split(' ').skip(1).map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A log whose end is an unfinished transaction followed by garbage.
fn torn_log(dir: &Path) -> Model {
    let mut run = Run::new(open(dir).unwrap().log, Model::default());
    for op in workload(SEED, 20) {
        run.apply(op).unwrap();
    }
    run.flush().unwrap();
    run.unfinished(3, 50).unwrap();
    let model = run.model.clone();
    drop(run);
    let names = std::fs::read_dir(dir).unwrap();
    let newest = names
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
        .max()
        .unwrap();
    let mut content = std::fs::read(&newest).unwrap();
    content.extend_from_slice(&[0x55; 40]);
    std::fs::write(&newest, content).unwrap();
    model
}

#[test]
fn a_kill_at_any_failpoint_loses_nothing_durable() {
    let whole = undisturbed();
    for name in FAILPOINTS
        .iter()
        .filter(|name| !name.starts_with("log.recover"))
    {
        for nth in [1, 4] {
            let dir = tempfile::tempdir().unwrap();
            let rule = format!("{name}=kill@{nth}");
            let output = process("the_workload", dir.path(), "REPL_FAILPOINTS", &rule);
            let once = name.starts_with("log.create") && nth > 1;
            assert!(
                once || output.status.signal() == Some(9),
                "{rule}: {output:?}"
            );
            let mut model = whole.clone();
            (model.acknowledged, model.offset) = acknowledged(&output);
            check(open(dir.path()).unwrap().log.as_ref(), &model);
            assert_eq!(open(dir.path()).unwrap().cut_bytes, 0, "{rule}");
        }
    }
}

#[test]
fn a_kill_during_the_repair_is_repaired() {
    for name in FAILPOINTS
        .iter()
        .filter(|name| name.starts_with("log.recover"))
    {
        let dir = tempfile::tempdir().unwrap();
        let model = torn_log(dir.path());
        let rule = format!("{name}=kill");
        let output = process("only_open", dir.path(), "REPL_FAILPOINTS", &rule);
        assert_eq!(output.status.signal(), Some(9), "{rule}: {output:?}");
        check(open(dir.path()).unwrap().log.as_ref(), &model);
    }
}

#[test]
fn an_error_at_any_failpoint_is_reported_and_loses_nothing() {
    for name in FAILPOINTS
        .iter()
        .filter(|name| !name.starts_with("log.create"))
    {
        let dir = tempfile::tempdir().unwrap();
        let rule = format!("{name}=error@2");
        let output = process(
            "the_disturbed_workload",
            dir.path(),
            "REPL_FAILPOINTS",
            &rule,
        );
        assert!(output.status.success(), "{rule}: {output:?}");
    }
}

#[test]
fn a_kept_torn_tail_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    torn_log(dir.path());
    let output = process(
        "the_torn_log",
        dir.path(),
        "REPL_SABOTAGE",
        "keep-torn-tail",
    );
    assert!(!output.status.success(), "the broken build passed");
    let dir = tempfile::tempdir().unwrap();
    torn_log(dir.path());
    let output = process("the_torn_log", dir.path(), "REPL_SABOTAGE", "");
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "runs in a process of its own"]
fn the_workload() {
    let mut run = Run::new(open(&process_dir()).unwrap().log, Model::default());
    for op in workload(SEED, STEPS) {
        run.apply(op).unwrap();
        println!("durable {} {}", run.model.acknowledged, run.model.offset);
    }
}

#[test]
#[ignore = "runs in a process of its own"]
fn the_disturbed_workload() {
    let dir = process_dir();
    let mut run = Run::new(open(&dir).unwrap().log, Model::default());
    for op in workload(SEED, STEPS) {
        if run.apply(op).is_err() && run.recover().is_err() {
            // An fsync failed: nothing goes on until the log is opened again.
            let model = run.model.clone();
            drop(run);
            let log = open(&dir).unwrap().log;
            check(log.as_ref(), &model);
            return;
        }
    }
    run.flush().unwrap();
    run.flush().unwrap();
    assert_eq!(run.model.acknowledged, run.model.transactions.len() as u64);
    check(run.log.as_ref(), &run.model);
}

#[test]
#[ignore = "runs in a process of its own"]
fn only_open() {
    open(&process_dir()).unwrap();
}

/// What every user of the log expects of it, on the log of [`torn_log`].
#[test]
#[ignore = "runs in a process of its own"]
fn the_torn_log() {
    let scratch = tempfile::tempdir().unwrap();
    let model = torn_log(scratch.path());
    let mut run = Run::new(open(&process_dir()).unwrap().log, model);
    check(run.log.as_ref(), &run.model);
    run.recover().unwrap();
    run.apply(Op::Transaction {
        fragments: 1,
        bytes: 5,
    })
    .unwrap();
    run.flush().unwrap();
    check(run.log.as_ref(), &run.model);
}
