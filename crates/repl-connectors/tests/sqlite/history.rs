//! Continuity: restored copies, other files, other owners; restarts, pauses and pruning.

use std::path::Path;
use std::time::Duration;

use repl_connectors::seam::{Capture, CaptureState};
use repl_connectors::sqlite::{SqliteCapture, SqliteTarget};
use repl_core::log::EventLog;
use repl_core::{Epoch, ErrorKind, SourcePosition};

use crate::harness::{Primary, content, open, port, target};

const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a');";

fn copy_of(primary: &Primary, name: &str) -> std::path::PathBuf {
    let copy = primary.dir.path().join(name);
    primary
        .db
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    copy
}

/// Puts another file in the primary's place.
fn restore(primary: &mut Primary, copy: &Path) {
    let memory = rusqlite::Connection::open_in_memory().unwrap();
    drop(std::mem::replace(&mut primary.db, memory));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", primary.path.display()));
    }
    std::fs::rename(copy, &primary.path).unwrap();
    primary.db = open(&primary.path);
    primary.db.execute_batch("PRAGMA journal_mode=WAL").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_it_ended() {
    let mut primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    for round in 0..5 {
        primary.sql(&format!(
            "INSERT INTO t (v) VALUES ('while running {round}')"
        ));
        primary.settle().await;
        primary.stop().await.unwrap();
        let before = primary.log.log.bounds().durable.seq.0;
        for part in ["one", "two"] {
            primary.sql(&format!(
                "INSERT INTO t (v) VALUES ('while stopped {round} {part}')"
            ));
        }
        primary.run().await;
        primary.check(&mut replica).await;
        let now = primary.log.log.bounds().durable.seq.0;
        assert_eq!(
            now,
            before + 1,
            "what was written meanwhile is one transaction"
        );
    }
    assert_eq!(content(&primary.db)["t"].len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_refused() {
    for written_to in [false, true] {
        let mut primary = Primary::start(T).await;
        primary.sql("INSERT INTO t VALUES (2, 'b')");
        primary.settle().await;
        let copy = copy_of(&primary, "older.db");
        primary.sql("INSERT INTO t VALUES (3, 'c'); INSERT INTO t VALUES (4, 'd');");
        primary.settle().await;
        primary.stop().await.unwrap();
        restore(&mut primary, &copy);
        if written_to {
            primary.sql("INSERT INTO t VALUES (5, 'other'); INSERT INTO t VALUES (6, 'history');");
        }
        let before = primary.log.log.bounds();
        // A file that is being replaced may be unreadable for a moment; the daemon tries again too.
        let error = loop {
            primary.run().await;
            let error = primary.outcome().await.unwrap_err();
            if error.kind != ErrorKind::Transient {
                break error;
            }
        };
        assert_eq!(error.kind, ErrorKind::History, "{error}");
        assert_eq!(primary.log.log.bounds(), before, "nothing may be logged");
        // A new span of history begins, and its copies are exact again.
        let (mut port, ends) = port(&primary.log, &primary.path, Default::default());
        let mut capture = SqliteCapture::new(target(&primary.path));
        capture
            .rebase(&mut port, Epoch(2), "restored")
            .await
            .unwrap();
        drop((port, ends));
        primary.run().await;
        let mut replica = primary.replica("r").await;
        primary.sql("UPDATE t SET v = 'x'");
        primary.check(&mut replica).await;
        primary.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ahead_of_the_log_is_the_same_history() {
    let mut primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.stop().await.unwrap();
    primary.sql("INSERT INTO t VALUES (2, 'b')");
    let copy = copy_of(&primary, "copy.db");
    primary.sql("INSERT INTO t VALUES (3, 'never seen by the log')");
    restore(&mut primary, &copy);
    primary.run().await;
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_while_running_is_noticed() {
    let mut primary = Primary::start(T).await;
    let copy = copy_of(&primary, "older.db");
    primary.sql("INSERT INTO t VALUES (3, 'c')");
    primary.settle().await;
    restore(&mut primary, &copy);
    let error = primary.outcome().await.unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Connection | ErrorKind::History),
        "{error}"
    );
    primary.run().await;
    assert_eq!(
        primary.outcome().await.unwrap_err().kind,
        ErrorKind::History
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_with_the_recorded_changes_is_noticed() {
    for damage in [
        "DELETE FROM _repl_changes",
        "DELETE FROM _repl_changes; INSERT INTO t VALUES (77, 'x')",
        "DELETE FROM _repl_changes; DELETE FROM sqlite_sequence; INSERT INTO t VALUES (77, 'x')",
        "UPDATE _repl_changes SET token = randomblob(8)",
        "INSERT INTO t VALUES (77, 'x'), (78, 'y'); DELETE FROM _repl_changes WHERE id = (SELECT max(id) - 1 FROM _repl_changes)",
        "DROP TABLE _repl_meta",
        "DROP TABLE _repl_reloads",
        "UPDATE _repl_meta SET value = 'other' WHERE key = 'incarnation'",
    ] {
        let mut primary = Primary::start(T).await;
        primary.sql("INSERT INTO t VALUES (2, 'b'); INSERT INTO t VALUES (3, 'c');");
        primary.settle().await;
        primary.stop().await.unwrap();
        primary.sql(damage);
        primary.run().await;
        let error = primary.outcome().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::History, "{damage}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logged_changes_are_pruned_but_for_the_last() {
    let primary = Primary::start(T).await;
    let mut replica = primary.replica("r").await;
    primary.sql("WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO t SELECT i, i FROM n");
    primary.check(&mut replica).await;
    let count = || -> i64 {
        primary
            .db
            .query_row("SELECT count(*) FROM _repl_changes", [], |row| row.get(0))
            .unwrap()
    };
    let began = std::time::Instant::now();
    while count() > 1 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{} left",
            count()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count(), 1);
    primary.sql("DELETE FROM t WHERE id % 2");
    primary.check(&mut replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.db");
    let log = crate::harness::Log::new();
    let (mut to, _ends) = port(&log, &path, Default::default());
    let mut capture = SqliteCapture::new(target(&path));
    let error = capture.rebase(&mut to, Epoch(1), "new").await.unwrap_err();
    assert!(error.message.contains("does not exist"), "{error}");
    open(&path).execute_batch("CREATE TABLE t (a)").unwrap();
    let error = capture.rebase(&mut to, Epoch(1), "new").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(
        error.advice.contains("PRAGMA journal_mode=WAL"),
        "{}",
        error.advice
    );
    std::fs::write(&path, b"this is not a database, and it is long enough to be looked at........................................").unwrap();
    let error = capture.rebase(&mut to, Epoch(1), "new").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
    let primary = Primary::create("PRAGMA user_version = 1");
    let utf16 = primary.dir.path().join("utf16.db");
    open(&utf16)
        .execute_batch("PRAGMA encoding='UTF-16'; PRAGMA journal_mode=WAL; CREATE TABLE t (a);")
        .unwrap();
    let mut capture = SqliteCapture::new(target(&utf16));
    let error = capture.rebase(&mut to, Epoch(1), "new").await.unwrap_err();
    assert!(error.message.contains("UTF-16"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_owns_a_primary_and_uninstall_leaves_nothing() {
    let mut primary = Primary::start(T).await;
    primary.tables(|t| !t.is_empty()).await;
    primary.stop().await.unwrap();
    let other = SqliteTarget {
        group: "other".into(),
        ..target(&primary.path)
    };
    let mut other = SqliteCapture::new(other);
    let log = crate::harness::Log::new();
    let (mut to, _ends) = port(&log, &primary.path, Default::default());
    let error = other.rebase(&mut to, Epoch(1), "new").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
    assert!(other.uninstall().await.is_err());
    let done = SqliteCapture::new(target(&primary.path))
        .uninstall()
        .await
        .unwrap();
    assert!(
        done.iter()
            .any(|line| line.contains("_repl_capture_t_insert")),
        "{done:?}"
    );
    let left: i64 = primary
        .db
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%repl%'",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
    primary.sql("INSERT INTO t VALUES (5, 'x'); ALTER TABLE t DROP COLUMN v;");
    other.rebase(&mut to, Epoch(1), "new").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_ingest_disconnects_and_status_is_shown() {
    let mut primary = Primary::start(T).await;
    primary.sql("INSERT INTO t VALUES (2, 'b')");
    primary.settle().await;
    let status = primary.ends().board.status();
    assert_eq!(status.state, CaptureState::Streaming);
    assert_eq!((status.transactions, status.rows), (1, 1));
    assert_eq!(status.captured, primary.log.log.bounds().durable.position.0);
    primary.ends().ingest.send(false).unwrap();
    primary.outcome().await.unwrap();
    assert_eq!(
        primary.ends().board.status().state,
        CaptureState::Disconnected
    );
}

#[test]
fn positions_compare_by_their_identifier() {
    let capture = SqliteCapture::new(target(Path::new("x")));
    let at = |id: i64, token: &str| SourcePosition(format!("{id:020}-{token}"));
    let (a, b) = ("0011223344556677", "8899aabbccddeeff");
    assert_eq!(
        capture.compare(&at(1, a), &at(2, b)),
        Some(std::cmp::Ordering::Less)
    );
    assert_eq!(
        capture.compare(&at(2, a), &at(2, a)),
        Some(std::cmp::Ordering::Equal)
    );
    assert_eq!(capture.compare(&at(2, a), &at(2, b)), None);
    assert_eq!(
        capture.compare(&at(2, a), &SourcePosition("0/16B3748".into())),
        None
    );
}
