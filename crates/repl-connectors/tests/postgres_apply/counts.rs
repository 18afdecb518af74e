//! Rows that do not arrive: a replica's own triggers and rules keep them out, or change them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use repl_connectors::seam::Applier;
use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Route};
use repl_core::change::Before;

use crate::fixture::*;

const DDL: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE k (v text); \
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); \
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (1000); \
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN IF NEW.v = ''bad'' THEN RETURN NULL; END IF; RETURN NEW; END'; \
    CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END'";

/// A trigger as an operator makes it; it acts on replicated rows.
fn trigger(table: &str, function: &str) -> String {
    format!(
        "CREATE TRIGGER own BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION \
         {function}(); ALTER TABLE {table} ENABLE ALWAYS TRIGGER own"
    )
}

fn many(table: &Arc<Route>) -> NetTable {
    let texts: Vec<String> = (10..30).map(|n| n.to_string()).collect();
    let values: Vec<[&str; 2]> = texts
        .iter()
        .map(|id| [id.as_str(), if id == "21" { "bad" } else { "good" }])
        .collect();
    let rows: Vec<&[&str]> = values.iter().map(|row| &row[..]).collect();
    net(table, &[], &[], &rows)
}

/// Each way to insert rows is refused when one of them is kept out by a trigger that was made after the
/// session had read the catalog; nothing of the transaction stays.
#[tokio::test]
async fn a_row_that_is_kept_out_fails_its_transaction() {
    for whole in [true, false] {
        let mut replica = Replica::new(DDL).await;
        replica.whole = whole;
        let t = route("t", &["*id integer", "v text"]);
        let k = route("k", &["v text"]);
        let p = route("p", &["*id integer", "v text"]);
        for way in 0..7 {
            replica
                .admin
                .simple("DELETE FROM t; DELETE FROM k; DELETE FROM p")
                .await
                .unwrap();
            // The session knows the tables before there is a trigger.
            replica
                .net(net(&t, &[], &[], &[&["1", "good"]]))
                .await
                .unwrap();
            replica.net(copies(&k, &[(&["good"], 1)])).await.unwrap();
            replica
                .net(net(&p, &[], &[], &[&["1", "good"]]))
                .await
                .unwrap();
            let stored = replica.stored_seq().await;
            let made = [
                trigger("t", "refuse"),
                trigger("k", "refuse"),
                trigger("p2", "refuse"),
            ];
            replica.admin.simple(&made.join("; ")).await.unwrap();
            let (outcome, name) = match way {
                0 => (replica.net(net(&t, &[], &[], &[&["2", "bad"]])).await, "t"),
                1 => (replica.net(many(&t)).await, "t"),
                2 => {
                    let change = insert(&t, &["2", "bad"]);
                    (replica.ordered(&t, vec![change]).await, "t")
                }
                3 => (replica.net(copies(&k, &[(&["bad"], 1)])).await, "k"),
                4 => (replica.net(copies(&k, &[(&["bad"], 50)])).await, "k"),
                5 => {
                    // Rewritten rows leave the table and are put back.
                    let change = net(&t, &[], &[&["1", "bad"]], &[]);
                    (replica.rewrite(change).await, "t")
                }
                _ => {
                    let rows: Vec<String> = (90..120).map(|n| n.to_string()).collect();
                    let rows: Vec<[&str; 2]> = rows
                        .iter()
                        .map(|id| [id.as_str(), if id == "110" { "bad" } else { "good" }])
                        .collect();
                    let rows: Vec<&[&str]> = rows.iter().map(|row| &row[..]).collect();
                    (replica.net(net(&p, &[], &[], &rows)).await, "p")
                }
            };
            let error = outcome.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Conflict, "way {way}: {error}");
            let what = if way == 5 {
                "expected 1 rows, found 0"
            } else {
                "is there afterwards"
            };
            assert!(error.message.contains(what), "way {way}: {error}");
            assert_eq!(
                error.table.as_deref(),
                Some(format!("public.{name}").as_str())
            );
            assert!(!error.advice.is_empty());
            assert_eq!(replica.stored_seq().await, stored, "way {way}");
            assert_eq!(
                replica.rows("SELECT * FROM t UNION ALL SELECT 0, v FROM k UNION ALL SELECT * FROM p ORDER BY 1")
                    .await,
                ["0|good", "1|good", "1|good"],
                "way {way}"
            );
            replica
                .admin
                .simple("DROP TRIGGER own ON t; DROP TRIGGER own ON k; DROP TRIGGER own ON p2")
                .await
                .unwrap();
            replica.reopen().await;
        }
    }
}

/// A table that has such a trigger or rule is refused at its first use, with its name and the statement
/// that mends it; one that heeds the daemon's own sessions, or acts in others only, is not.
#[tokio::test]
async fn a_table_whose_rows_are_meddled_with_is_refused() {
    let mut replica = Replica::new(DDL).await;
    let t = route("t", &["*id integer", "v text"]);
    let p = route("p", &["*id integer", "v text"]);
    let one = |table: &Arc<Route>, id: &str| net(table, &[], &[], &[&[id, "good"]]);
    replica.admin.simple(&trigger("t", "change")).await.unwrap();
    let error = replica.net(one(&t, "1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema, "{error}");
    assert!(error.message.contains("trigger \"own\""), "{error}");
    let statement = "ALTER TABLE \"public\".\"t\" ENABLE TRIGGER \"own\";";
    assert!(error.advice.contains(statement), "{}", error.advice);
    replica.admin.simple(statement).await.unwrap();
    replica.reopen().await;
    replica.net(one(&t, "1")).await.unwrap();

    // A trigger of one partition acts on the rows of the whole.
    replica
        .admin
        .simple(&trigger("p2", "change"))
        .await
        .unwrap();
    replica.reopen().await;
    let error = replica.net(one(&p, "1")).await.unwrap_err();
    assert!(
        error.advice.contains("\"public\".\"p2\""),
        "{}",
        error.advice
    );

    let rule = "DROP TRIGGER own ON p2; CREATE RULE keep AS ON INSERT TO t DO INSTEAD NOTHING; \
        ALTER TABLE t ENABLE ALWAYS RULE keep";
    replica.admin.simple(rule).await.unwrap();
    replica.reopen().await;
    let error = replica.net(one(&t, "2")).await.unwrap_err();
    assert!(error.message.contains("rule \"keep\""), "{error}");
    // As rules are made they act in other sessions only.
    let ordinary = "ALTER TABLE t ENABLE RULE keep; CREATE OR REPLACE FUNCTION change() RETURNS trigger \
        LANGUAGE plpgsql AS 'BEGIN IF current_setting(''repl.applier'', true) = ''on'' THEN RETURN NEW; \
        END IF; NEW.v := upper(NEW.v); RETURN NEW; END'; ALTER TABLE t ENABLE ALWAYS TRIGGER own";
    replica.admin.simple(ordinary).await.unwrap();
    replica.reopen().await;
    replica.net(one(&t, "2")).await.unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY 1").await,
        ["1|good", "2|good"]
    );
}

/// A trigger that changes values shows in no count: the session looks for new ones while it writes.
#[tokio::test]
async fn a_trigger_that_appears_is_noticed() {
    let mut replica = Replica::new(DDL).await;
    let t = route("t", &["*id integer", "v text"]);
    replica
        .net(net(&t, &[], &[], &[&["1", "good"]]))
        .await
        .unwrap();
    replica.admin.simple(&trigger("t", "change")).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let error = loop {
        assert!(Instant::now() < until, "nobody noticed the trigger");
        let full = Before::Full(row(&["1", "good"]));
        let change = update(&t, full, &["1", "other"]);
        if let Err(error) = replica.ordered(&t, vec![change]).await {
            break error;
        }
    };
    assert_eq!(error.kind, ErrorKind::Schema, "{error}");
    assert!(
        error.message.contains("trigger own of table public.t"),
        "{error}"
    );
    assert!(error.advice.contains("validate --deep"));
    let _ = replica.applier.open().await;
}

/// Where nothing counts a COPY's rows, each row is inserted by a statement that does.
#[tokio::test]
async fn without_the_servers_counters_rows_are_counted_one_by_one() {
    let mut replica = Replica::new(DDL).await;
    let database = replica.database.clone();
    let off = format!("ALTER DATABASE {database} SET track_counts = off");
    replica.admin.simple(&off).await.unwrap();
    replica.reopen().await;
    let t = route("t", &["*id integer", "v text"]);
    replica.net(many(&t)).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["20"]);
    replica.admin.simple("DELETE FROM t").await.unwrap();
    replica.admin.simple(&trigger("t", "refuse")).await.unwrap();
    let error = replica.net(many(&t)).await.unwrap_err();
    assert!(
        error.message.contains("expected 1 rows, found 0"),
        "{error}"
    );
}
