//! Transactions on their way before the ones before them are known to be committed.

use std::sync::Arc;
use std::time::Duration;

use repl_connectors::postgres::wire::PgClient;
use repl_connectors::seam::{Applier, Commit, Result, Style};
use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Route, Step};

use crate::fixture::*;
use crate::server::shared;

/// How long anything may take that is not meant to wait.
const SOON: Duration = Duration::from_secs(20);

/// Submits one table's net change as a transaction, without waiting for any.
async fn submit(replica: &mut Replica, table: NetTable, commit: Commit) -> Result<()> {
    let steps = [Step::Net(vec![table])];
    replica.submit(&steps, Style::SetWise, commit).await
}

/// The table `t (id int primary key)` with a session that knows its shape already, so that nothing
/// below waits for a reply by itself.
async fn prepared(whole: bool) -> (Replica, Arc<Route>) {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    replica.whole = whole;
    let t = route("t", &["*id integer"]);
    replica.net(net(&t, &[], &[], &[&["0"]])).await.unwrap();
    (replica, t)
}

async fn submit_all(replica: &mut Replica, t: &Arc<Route>, keys: &[&str]) {
    for key in keys {
        submit(replica, net(t, &[], &[], &[&[*key]]), Commit::Durable)
            .await
            .unwrap();
    }
}

/// Holds back whoever writes the row `key` of `t`, until it is told to let go.
async fn blocker(replica: &Replica, key: &str) -> PgClient {
    let mut other = shared().client(&replica.database).await;
    let insert = format!("BEGIN; INSERT INTO t VALUES ({key})");
    other.simple(&insert).await.unwrap();
    other
}

#[tokio::test]
async fn several_transactions_are_on_their_way_and_settle_in_order() {
    for whole in [true, false] {
        let (mut replica, t) = prepared(whole).await;
        let mut other = blocker(&replica, "1").await;
        assert!(replica.applier.depth() >= 3);
        // The first waits for a lock, so none of them is answered; submitting returns nevertheless.
        tokio::time::timeout(SOON, submit_all(&mut replica, &t, &["1", "2", "3"]))
            .await
            .unwrap();
        let waiting =
            tokio::time::timeout(Duration::from_millis(200), replica.applier.settle()).await;
        assert!(
            waiting.is_err(),
            "settled while the transaction waits for a lock"
        );
        assert_eq!(replica.stored_seq().await, "1");
        other.simple("ROLLBACK").await.unwrap();
        // Giving up waiting has changed nothing.
        for _ in 0..3 {
            replica.applier.settle().await.unwrap();
        }
        assert_eq!(replica.stored_seq().await, "4");
        assert_eq!(
            replica.rows("SELECT * FROM t ORDER BY 1").await,
            ["0", "1", "2", "3"]
        );
        // With nothing on its way there is nothing to wait for.
        replica.applier.settle().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_behind_a_refused_transaction_is_applied() {
    for whole in [true, false] {
        let (mut replica, t) = prepared(whole).await;
        let mut other = blocker(&replica, "5").await;
        // The second meets a row that another has inserted; the others are fine by themselves.
        submit_all(&mut replica, &t, &["1", "5", "2", "3"]).await;
        replica.applier.settle().await.unwrap();
        other.simple("COMMIT").await.unwrap();
        let error = replica.applier.settle().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Constraint, "{error:?}");
        assert_eq!(error.table.as_deref(), Some("public.t"));
        assert!(error.key.is_some_and(|key| key.contains("id=5")));
        // What was on its way has no session any more.
        let error = replica.applier.settle().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Connection);
        let state = replica.applier.open().await.unwrap();
        assert_eq!(state.checkpoint, Some(checkpoint(replica.log, 2)));
        assert_eq!(
            replica.rows("SELECT * FROM t ORDER BY 1").await,
            ["0", "1", "5"]
        );
    }
}

/// A failure as late as it can be: the server is then not in a failed transaction, so the next one
/// begins, and must fail by itself.
#[tokio::test]
async fn nothing_behind_a_failed_commit_is_applied() {
    for whole in [true, false] {
        let (mut replica, t) = prepared(whole).await;
        let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'not at commit' USING ERRCODE = '23514'; END $$; \
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
        FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION refuse(); \
        ALTER TABLE t ENABLE ALWAYS TRIGGER late";
        replica.admin.simple(refuse).await.unwrap();
        submit_all(&mut replica, &t, &["1", "2", "3"]).await;
        let error = replica.applier.settle().await.unwrap_err();
        assert!(error.message.contains("not at commit"), "{error:?}");
        let state = replica.applier.open().await.unwrap();
        assert_eq!(state.checkpoint, Some(checkpoint(replica.log, 1)));
        assert_eq!(replica.rows("SELECT * FROM t ORDER BY 1").await, ["0"]);
    }
}

/// The connection breaks with two transactions on their way, of which the server has committed
/// none, one or both: the stored checkpoint tells, and they are applied once.
#[tokio::test]
async fn a_broken_connection_leaves_what_the_checkpoint_says() {
    for whole in [true, false] {
        for committed in 0..=2_u64 {
            let (mut replica, t) = prepared(whole).await;
            let held = ["1", "2"].get(committed as usize).copied();
            let mut other = blocker(&replica, held.unwrap_or("9")).await;
            submit_all(&mut replica, &t, &["1", "2"]).await;
            let stored = (1 + committed).to_string();
            let arrived = async {
                while replica.stored_seq().await != stored {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(SOON, arrived).await.unwrap();
            let ended = replica
                .admin
                .simple(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name LIKE 'repl-daemon apply%'",
                )
                .await
                .unwrap();
            assert_eq!(ended.len(), 1);
            other.simple("ROLLBACK").await.unwrap();
            for _ in 0..committed {
                replica.applier.settle().await.unwrap();
            }
            if held.is_some() {
                replica.applier.settle().await.unwrap_err();
            }
            let state = replica.applier.open().await.unwrap();
            assert_eq!(
                state.checkpoint,
                Some(checkpoint(replica.log, 1 + committed))
            );
            // What is left is applied from there.
            replica.seq = 1 + committed;
            submit_all(&mut replica, &t, &["1", "2"][committed as usize..]).await;
            for _ in committed..2 {
                replica.applier.settle().await.unwrap();
            }
            assert_eq!(
                replica.rows("SELECT * FROM t ORDER BY 1").await,
                ["0", "1", "2"]
            );
            assert_eq!(replica.stored_seq().await, "3");
        }
    }
}

/// A transaction of several parts behind others, statements with replies of their own between.
#[tokio::test]
async fn questions_to_the_server_wait_for_their_turn() {
    let (mut replica, t) = prepared(true).await;
    submit_all(&mut replica, &t, &["1", "2"]).await;
    // Another table's shape is asked for within the third transaction.
    let u = route("u", &["*id integer"]);
    replica
        .admin
        .simple("CREATE TABLE u (id int PRIMARY KEY)")
        .await
        .unwrap();
    submit(&mut replica, net(&u, &[], &[], &[&["7"]]), Commit::Durable)
        .await
        .unwrap();
    // And a table is looked at with three on their way.
    replica.applier.fit(&u, None).await.unwrap();
    for _ in 0..3 {
        replica.applier.settle().await.unwrap();
    }
    assert_eq!(replica.stored_seq().await, "4");
    assert_eq!(replica.rows("SELECT * FROM u").await, ["7"]);
}

/// `synchronous_commit` as the transactions have it when they commit, recorded by a trigger of the
/// replica.
#[tokio::test]
async fn a_commit_is_as_durable_as_it_is_asked_to_be() {
    let (mut replica, t) = prepared(true).await;
    let watch = "CREATE TABLE seen (n serial, setting text); \
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO public.seen (setting) VALUES (current_setting('synchronous_commit')); \
        RETURN NULL; END $$; \
        CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON repl.checkpoint \
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note(); \
        ALTER TABLE repl.checkpoint ENABLE ALWAYS TRIGGER note";
    replica.admin.simple(watch).await.unwrap();
    let seen = "SELECT setting FROM seen ORDER BY n";
    for (key, commit) in [
        ("1", Commit::Asynchronous),
        ("2", Commit::Durable),
        ("3", Commit::Asynchronous),
    ] {
        submit(&mut replica, net(&t, &[], &[], &[&[key]]), commit)
            .await
            .unwrap();
    }
    for _ in 0..3 {
        replica.applier.settle().await.unwrap();
    }
    assert_eq!(replica.rows(seen).await, ["off", "on", "off"]);
    // A database's own setting: raised where it is off, kept where it is stronger.
    for (setting, durable) in [("off", "on"), ("remote_write", "remote_write")] {
        let own = format!(
            "TRUNCATE seen; ALTER DATABASE \"{}\" SET synchronous_commit = {setting}",
            replica.database
        );
        replica.admin.simple(&own).await.unwrap();
        // What an open reads is durable, so it commits durably itself.
        replica.reopen().await;
        for commit in [Commit::Durable, Commit::Asynchronous] {
            let key = (100 + replica.seq).to_string();
            submit(&mut replica, net(&t, &[], &[], &[&[&key]]), commit)
                .await
                .unwrap();
            replica.applier.settle().await.unwrap();
        }
        assert_eq!(replica.rows(seen).await, [durable, durable, "off"]);
    }
}
