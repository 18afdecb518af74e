//! SIGKILL at each named place: what the next session finds, and that it ends the same.

use std::process::Command;

use repl_connectors::seam::{Applier, Style};
use repl_core::batch::Step;

use crate::fixture::*;
use crate::load::{Case, Source};
use crate::server::shared;

const DATABASE: &str = "REPL_CRASH_DATABASE";

/// Runs `work` in another process that ends at the failpoint.
fn dies_in(work: &str, database: &str, failpoint: &str, sabotage: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", work])
        .env(DATABASE, database)
        .env("REPL_TEST_MYSQL_SOCKET", &shared().socket)
        .env("REPL_FAILPOINTS", format!("{failpoint}=kill"))
        .env("REPL_SABOTAGE", sabotage)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{failpoint} was not reached");
    assert!(!text.contains("panicked"), "{failpoint}: {text}");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(9),
        "{failpoint}"
    );
}

fn batch(replica: &Replica) -> Vec<Step> {
    let t = replica.route("t", &["a int"]);
    vec![
        Step::Net(vec![copies(&t, &[(&["#1"], 1)])]),
        Step::Net(vec![copies(&t, &[(&["#2"], 300)])]),
    ]
}

#[tokio::test]
#[ignore = "run by the tests below"]
async fn a_batch() {
    let Ok(database) = std::env::var(DATABASE) else {
        return;
    };
    let mut replica = Replica::again(&database).await;
    let steps = batch(&replica);
    replica.apply(&steps, Style::SetWise).await.unwrap();
}

#[tokio::test]
#[ignore = "run by the tests below"]
async fn a_load() {
    let Ok(database) = std::env::var(DATABASE) else {
        return;
    };
    let mut case = Case::on(Replica::again(&database).await);
    case.load(&mut Source::new(3_000), false).await.unwrap();
}

/// Goes on from what the replica says; how many rows the table has in the end.
async fn finish_batch(database: &str) -> String {
    let mut replica = Replica::again(database).await;
    let state = replica.applier.open().await.unwrap();
    if state.checkpoint == Some(checkpoint(replica.log, 0)) {
        let steps = batch(&replica);
        replica.apply(&steps, Style::SetWise).await.unwrap();
    }
    assert_eq!(replica.stored_seq().await, "1");
    replica.rows("SELECT count(*) FROM t").await.concat()
}

#[tokio::test]
async fn a_batch_is_applied_exactly_once_wherever_it_dies() {
    for failpoint in [
        "mysql.apply.before_begin",
        "mysql.apply.after_cas",
        "mysql.apply.before_commit",
        "mysql.apply.commit_sent",
        "mysql.apply.after_commit",
    ] {
        let replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
        dies_in("crash::a_batch", &replica.database, failpoint, "");
        assert_eq!(finish_batch(&replica.database).await, "301", "{failpoint}");
    }
}

/// The test above would notice a checkpoint that is not part of the transaction.
#[tokio::test]
async fn a_checkpoint_outside_the_transaction_is_noticed() {
    let replica = Replica::new(&["CREATE TABLE t (a int)"]).await;
    dies_in(
        "crash::a_batch",
        &replica.database,
        "mysql.apply.outside",
        "checkpoint-outside-transaction",
    );
    assert_eq!(finish_batch(&replica.database).await, "602");
}

#[tokio::test]
async fn a_load_ends_complete_wherever_it_dies() {
    for failpoint in [
        "mysql.load.after_intent",
        "mysql.load.after_create",
        "mysql.load.before_commit",
        "mysql.load.after_commit",
        "mysql.load.before_index",
        "mysql.load.after_index",
    ] {
        let replica = Replica::new(&[]).await;
        dies_in("crash::a_load", &replica.database, failpoint, "");
        let mut case = Case::on(Replica::again(&replica.database).await);
        if !case.is_registered().await {
            case.load(&mut Source::new(3_000), false).await.unwrap();
        }
        assert_eq!(case.count().await, "3000", "{failpoint}");
        assert_eq!(case.indexes().await, ["one", "PRIMARY", "two"]);
        assert!(case.is_registered().await);
    }
}
