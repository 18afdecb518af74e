//! The checkpoint as compare-and-set: zombies and second daemons change nothing.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use repl_connectors::seam::{Applier, CopiedTable, Style};
use repl_core::batch::Step;
use repl_core::schema::TableName;
use repl_core::{ErrorKind, LogId, Seq};

use crate::fixture::*;
use crate::server::shared;

#[tokio::test]
async fn the_checkpoint_survives_and_moves_only_as_expected() {
    let mut replica = Replica::new(&[]).await;
    let log = replica.log;
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.checkpoint, Some(checkpoint(log, 0)));
    let far = checkpoint(log, u64::MAX);
    let first = checkpoint(log, 0);
    replica
        .applier
        .set_checkpoint(Some(&first), &far)
        .await
        .unwrap();
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.checkpoint, Some(far.clone()));
    for wrong in [
        Some(checkpoint(log, 3)),
        Some(checkpoint(LogId(uuid::Uuid::from_u128(8)), u64::MAX)),
        None,
    ] {
        let error = replica
            .applier
            .set_checkpoint(wrong.as_ref(), &far)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::CheckpointMoved);
        replica.reopen().await;
    }
    let database = replica.database.clone();
    let gone = format!("DELETE FROM repl.checkpoint WHERE group_name = '{database}'");
    replica.run(&gone).await;
    replica.applier.begin(&far).await.unwrap();
    let error = replica.applier.commit(&far, &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    let other = format!(
        "INSERT INTO repl.checkpoint VALUES ('{database}', 'primary', 9, UUID(), 1, 1, '', NOW())"
    );
    replica.run(&other).await;
    let error = replica.applier.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
}

#[tokio::test]
async fn a_stale_session_changes_nothing() {
    let mut replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
    let t = replica.route("t", &["a int"]);
    replica.net(copies(&t, &[(&["#1"], 1)])).await.unwrap();
    for large in [1, 5_000] {
        // The position of before.
        replica.seq = 0;
        let error = replica
            .net(copies(&t, &[(&["#1"], large)]))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    }
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
}

/// A session of a dead daemon holds the lock, commits late; ours waited for it.
#[tokio::test]
async fn a_zombie_that_commits_late_wins_or_loses_as_a_whole() {
    for zombie_commits in [true, false] {
        let mut replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
        let t = replica.route("t", &["a int"]);
        let mut zombie = shared().client(&replica.database).await;
        let group = replica.database.clone();
        for sql in [
            "BEGIN".to_owned(),
            format!("UPDATE repl.checkpoint SET seq = 1 WHERE group_name = '{group}'"),
            "INSERT INTO t VALUES (1)".to_owned(),
        ] {
            zombie.query_drop(sql).await.unwrap();
        }
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let end = if zombie_commits { "COMMIT" } else { "ROLLBACK" };
            zombie.query_drop(end).await.unwrap();
        });
        let outcome = replica.net(copies(&t, &[(&["#1"], 1)])).await;
        late.await.unwrap();
        if zombie_commits {
            assert_eq!(outcome.unwrap_err().kind, ErrorKind::CheckpointMoved);
        } else {
            outcome.unwrap();
        }
        assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
        assert_eq!(replica.stored_seq().await, "1");
    }
}

#[tokio::test]
async fn opening_ends_left_over_sessions() {
    let mut replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
    let t = replica.route("t", &["a int"]);
    let now = replica.checkpoint();
    replica.applier.begin(&now).await.unwrap();
    // Too much to be held back: the lock is taken.
    let table = copies(&t, &[(&["#1"], 1), (&["#2"], 1)]);
    let step = Step::Net(vec![table]);
    for _ in 0..2 {
        replica.applier.apply(&step, Style::SetWise).await.unwrap();
    }
    let mut second = applier(&replica.database);
    let state = second.open().await.unwrap();
    assert_eq!(state.checkpoint, Some(now.clone()));
    let mut next = now.clone();
    next.seq = Seq(1);
    second.begin(&now).await.unwrap();
    second.apply(&step, Style::SetWise).await.unwrap();
    second.commit(&next, &[]).await.unwrap();
    let error = replica.applier.commit(&next, &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection);
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let mut replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
    let t = replica.route("t", &["a int"]);
    let mut blocker = shared().client(&replica.database).await;
    blocker.query_drop("LOCK TABLES t WRITE").await.unwrap();
    let waited = tokio::time::timeout(
        Duration::from_millis(300),
        replica.net(copies(&t, &[(&["#1"], 1)])),
    )
    .await;
    assert!(waited.is_err());
    blocker.query_drop("UNLOCK TABLES").await.unwrap();
    replica.reopen().await;
    replica.net(copies(&t, &[(&["#1"], 1)])).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn joined_tables_lose_their_cut_with_the_batch() {
    let mut replica = Replica::new(&[]).await;
    let group = replica.database.clone();
    let sql = format!(
        "INSERT INTO repl.tables VALUES ('{group}', 's', 't', '1', NULL), \
         ('{group}', 's', 'T', '2', NULL)"
    );
    replica.run(&sql).await;
    let state = replica.applier.open().await.unwrap();
    let entry = |n: &str| {
        Some(CopiedTable {
            incarnation: n.into(),
            cut: None,
        })
    };
    let (lower, upper) = (TableName::new("s", "t"), TableName::new("s", "T"));
    assert_eq!(state.tables.get(&lower).cloned(), entry("1"));
    assert_eq!(state.tables.get(&upper).cloned(), entry("2"));
    replica
        .applier
        .forget_tables(std::slice::from_ref(&lower))
        .await
        .unwrap();
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.tables.len(), 1);
    assert!(state.tables.contains_key(&upper));
}
