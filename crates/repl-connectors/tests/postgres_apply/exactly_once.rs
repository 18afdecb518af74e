//! The checkpoint as compare-and-set: zombies and second daemons change nothing.

use std::time::Duration;

use repl_connectors::seam::{Applier, CopiedTable, Style};
use repl_core::batch::Step;
use repl_core::cut::{Cut, VisibleTransactions};
use repl_core::schema::TableName;
use repl_core::{ErrorKind, LogId, Seq};

use crate::fixture::*;
use crate::server::shared;

#[tokio::test]
async fn the_checkpoint_survives_and_moves_only_as_expected() {
    let mut replica = Replica::new("").await;
    let log = replica.log;
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.checkpoint, Some(checkpoint(log, 0)));
    let far = checkpoint(log, u64::MAX);
    replica
        .applier
        .set_checkpoint(Some(&checkpoint(log, 0)), &far)
        .await
        .unwrap();
    assert_eq!(
        replica.applier.open().await.unwrap().checkpoint,
        Some(far.clone())
    );
    for wrong in [
        checkpoint(log, 3),
        checkpoint(LogId(uuid::Uuid::from_u128(8)), u64::MAX),
    ] {
        let error = replica
            .applier
            .set_checkpoint(Some(&wrong), &far)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::CheckpointMoved);
        replica.reopen().await;
    }
    let error = replica
        .applier
        .set_checkpoint(None, &far)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    replica
        .admin
        .simple("DELETE FROM repl.checkpoint")
        .await
        .unwrap();
    for whole in [true, false] {
        replica.reopen().await;
        replica.whole = whole;
        let error = replica.apply(&[], Style::SetWise).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    }
    replica
        .admin
        .simple(
            "INSERT INTO repl.checkpoint VALUES ('g','primary',9,gen_random_uuid(),1,1,'',now())",
        )
        .await
        .unwrap();
    let error = replica.applier.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
}

#[tokio::test]
async fn a_stale_session_changes_nothing() {
    let mut replica = Replica::new("CREATE TABLE t (a int)").await;
    let t = route("t", &["a integer"]);
    replica.net(copies(&t, &[(&["1"], 1)])).await.unwrap();
    // The position of before.
    replica.seq = 0;
    let error = replica.net(copies(&t, &[(&["1"], 1)])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
}

/// A session of a dead daemon holds the lock, commits late; ours waited for it.
#[tokio::test]
async fn a_zombie_that_commits_late_wins_or_loses_as_a_whole() {
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    for (zombie_commits, whole) in cases {
        let mut replica = Replica::new("CREATE TABLE t (a int)").await;
        replica.whole = whole;
        let t = route("t", &["a integer"]);
        let mut zombie = shared().client(&replica.database).await;
        zombie.simple("BEGIN").await.unwrap();
        zombie
            .simple("UPDATE repl.checkpoint SET seq = 1; INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let end = if zombie_commits { "COMMIT" } else { "ROLLBACK" };
            zombie.simple(end).await.unwrap();
        });
        let outcome = replica.net(copies(&t, &[(&["1"], 1)])).await;
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
    let mut replica = Replica::new("CREATE TABLE t (a int)").await;
    let t = route("t", &["a integer"]);
    let now = replica.checkpoint();
    replica.applier.begin(&now).await.unwrap();
    // Enough to be sent before the commit, so that the lock is held.
    let mut table = copies(&t, &[]);
    table.multiset = (0..400_000).map(|n| (row(&[&n.to_string()]), 1)).collect();
    replica
        .applier
        .apply(&Step::Net(vec![table]), Style::SetWise)
        .await
        .unwrap();
    let mut second = applier(&replica.database);
    second.open().await.unwrap();
    let next = checkpoint(replica.log, 1);
    let error = replica.applier.commit(&next, &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection, "{error:?}");
    second.begin(&now).await.unwrap();
    second.commit(&next, &[]).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
    assert_eq!(replica.stored_seq().await, "1");
}

#[tokio::test]
async fn a_lock_held_for_long_is_transient() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = route("t", &["*id integer"]);
    let mut other = shared().client(&replica.database).await;
    other.simple("BEGIN; LOCK TABLE t").await.unwrap();
    let error = replica.net(net(&t, &[], &[], &[&["1"]])).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::Transient, Some("55P03"))
    );
    assert_eq!(error.table.as_deref(), Some("public.t"));
}

#[tokio::test]
async fn the_registry_of_copied_tables() {
    let mut replica = Replica::new("").await;
    let cut = Cut::Transactions(VisibleTransactions {
        xmin: 5,
        xmax: 9,
        running: vec![6],
        horizon: "0000000000000010".into(),
    });
    let json = serde_json::to_string(&cut).unwrap();
    replica
        .admin
        .simple(&format!(
            "INSERT INTO repl.tables VALUES ('g', 's', 'a,\"b', '16384', '{json}', '{{}}'), \
             ('g', 's', 'other', '1', NULL, '{{}}'), ('h', 's', 'other', '1', NULL, '{{}}')"
        ))
        .await
        .unwrap();
    let table = TableName::new("s", "a,\"b");
    let state = replica.applier.open().await.unwrap();
    let copied = CopiedTable {
        incarnation: "16384".into(),
        cut: Some(cut),
    };
    assert_eq!(state.tables.len(), 2);
    assert_eq!(state.tables[&table], copied);
    let (now, next) = (replica.checkpoint(), checkpoint(replica.log, 1));
    replica.applier.begin(&now).await.unwrap();
    replica
        .applier
        .commit(&next, std::slice::from_ref(&table))
        .await
        .unwrap();
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.tables[&table].cut, None);
    assert_eq!(state.checkpoint.unwrap().seq, Seq(1));
    replica
        .applier
        .forget_tables(std::slice::from_ref(&table))
        .await
        .unwrap();
    let state = replica.applier.open().await.unwrap();
    assert!(!state.tables.contains_key(&table) && state.tables.len() == 1);
}

#[tokio::test]
async fn missing_privileges_name_the_grant() {
    let replica = Replica::new("CREATE ROLE weak LOGIN").await;
    let mut weak = shared().target(&replica.database);
    weak.user = "weak".into();
    let mut applier = repl_connectors::postgres::apply::PgApplier::new(
        repl_connectors::postgres::apply::PgApplierConfig {
            target: weak,
            group: "g".into(),
            replica: "r".into(),
            origin: "primary".into(),
        },
    );
    let error = applier.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Privilege);
    assert!(
        error
            .advice
            .contains("GRANT SET ON PARAMETER session_replication_role TO \"weak\"")
    );
    let mut admin = shared().client(&replica.database).await;
    if admin
        .parameter("server_version")
        .unwrap()
        .starts_with("14.")
    {
        return;
    }
    admin
        .simple("GRANT SET ON PARAMETER session_replication_role TO weak; DROP SCHEMA repl CASCADE")
        .await
        .unwrap();
    let error = applier.open().await.unwrap_err();
    assert!(
        error.advice.contains("GRANT CREATE ON DATABASE"),
        "{error:?}"
    );
    admin
        .simple("CREATE SCHEMA repl AUTHORIZATION weak")
        .await
        .unwrap();
    applier.open().await.unwrap();
}
