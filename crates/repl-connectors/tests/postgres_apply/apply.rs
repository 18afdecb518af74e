//! Net and ordered changes of ordinary tables.

use std::sync::Arc;

use repl_connectors::seam::{Applier, Style};
use repl_core::ErrorKind;
use repl_core::batch::Step;
use repl_core::change::Before;
use repl_core::schema::TableName;

use crate::fixture::*;

#[tokio::test]
async fn net_changes_few_and_many() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text, b text)").await;
    let t = route("t", &["*id integer", "a text", "b text"]);
    replica
        .net(net(&t, &[], &[], &[&["1", "x", "~"], &["2", "", "NULL"]]))
        .await
        .unwrap();
    replica
        .net(net(
            &t,
            &[&["2", "~", "~"]],
            &[&["1", "?", "new"]],
            &[&["3", "c", "d"]],
        ))
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["1|x|new", "3|c|d"]
    );

    let texts: Vec<[String; 3]> = (10..25_010)
        .map(|n| [n.to_string(), format!("a{n}"), format!("b{n}")])
        .collect();
    let all: Vec<Vec<&str>> = texts
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let slices: Vec<&[&str]> = all.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &slices)).await.unwrap();
    // Even keys: a unchanged; odd keys: b unchanged; the first 5000 go.
    let updates: Vec<Vec<&str>> = all[5000..]
        .iter()
        .enumerate()
        .map(|(n, r)| {
            if n % 2 == 0 {
                vec![r[0], "?", "B"]
            } else {
                vec![r[0], "A", "?"]
            }
        })
        .collect();
    let updates: Vec<&[&str]> = updates.iter().map(Vec::as_slice).collect();
    replica
        .net(net(&t, &slices[..5000], &updates, &[]))
        .await
        .unwrap();
    let summary = "SELECT count(*), count(*) FILTER (WHERE a = 'A' AND b = 'b' || id), \
        count(*) FILTER (WHERE b = 'B' AND a = 'a' || id) FROM t WHERE id >= 10";
    assert_eq!(replica.rows(summary).await, ["20000|10000|10000"]);
    assert_eq!(replica.stored_seq().await, "4");
}

#[tokio::test]
async fn a_large_batch_of_wide_rows() {
    let mut replica =
        Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text)").await;
    let t = route("t", &["*id integer", "a text", "b text", "c text"]);
    let wide = "w".repeat(200);
    let mut table = net(&t, &[], &[], &[]);
    table.inserts = (0..100_000)
        .map(|n| row(&[&n.to_string(), &wide, "~", "x\ty\\"]))
        .collect();
    replica.net(table).await.unwrap();
    let mut table = net(&t, &[], &[], &[]);
    table.updates = (0..100_000)
        .map(|n| row(&[&n.to_string(), "?", &wide, "\"{,}"]))
        .collect();
    replica.net(table).await.unwrap();
    let sql = "SELECT count(*), sum(length(a) + length(b)), count(DISTINCT c) FROM t";
    assert_eq!(replica.rows(sql).await, ["100000|40000000|1"]);
    let mut table = net(&t, &[], &[], &[]);
    table.deletes = (0..100_000)
        .map(|n| row(&[&n.to_string(), "~", "~", "~"]))
        .collect();
    replica.net(table).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn a_row_that_differs_is_a_conflict() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = route("t", &["*id integer", "a text"]);
    let many: Vec<[String; 2]> = (0..10).map(|n| [n.to_string(), "x".into()]).collect();
    let many: Vec<Vec<&str>> = many
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let many: Vec<&[&str]> = many.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &many)).await.unwrap();
    replica
        .admin
        .simple("DELETE FROM t WHERE id = 7")
        .await
        .unwrap();
    for table in [
        net(&t, &many, &[], &[]),
        net(&t, &[], &many, &[]),
        net(&t, &[&["7", "~"]], &[], &[]),
        net(&t, &[], &[&["7", "y"]], &[]),
    ] {
        let single = table.deletes.len() + table.updates.len() == 1;
        let error = replica.net(table).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}");
        assert_eq!(error.table.as_deref(), Some("public.t"));
        assert_eq!(error.key.as_deref(), single.then_some("id=7"));
        assert!(
            error.message.contains("expected") && !error.advice.is_empty(),
            "{error}"
        );
        assert_eq!(replica.stored_seq().await, "1");
        replica.reopen().await;
    }
    let error = replica
        .rewrite(net(&t, &[], &[&["7", "y"]], &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    replica.reopen().await;
    let error = replica
        .net(net(&t, &[], &[], &[&["3", "y"]]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(error.code.as_deref(), Some("23505"));
    assert!(error.key.unwrap().starts_with("id=3"));
    replica.reopen().await;
    // After the operator's repair the same batch goes through.
    replica
        .admin
        .simple("INSERT INTO t VALUES (7, 'x')")
        .await
        .unwrap();
    replica.net(net(&t, &[], &many, &[])).await.unwrap();
}

#[tokio::test]
async fn ordered_changes_and_which_one_failed() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE)").await;
    let t = route("t", &["*id integer", "a text"]);
    let key = |id: &str| Before::Key(row(&[id, "~"]));
    replica
        .ordered(
            &t,
            vec![
                insert(&t, &["1", "a"]),
                insert(&t, &["2", "b"]),
                update(&t, Before::Absent, &["1", "c"]),
                update(&t, key("2"), &["20", "a"]),
                update(&t, Before::Full(row(&["1", "c"])), &["1", "?"]),
                insert(&t, &["3", "d"]),
                delete(&t, key("3")),
            ],
        )
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t ORDER BY id").await,
        ["1|c", "20|a"]
    );
    let changes = vec![
        insert(&t, &["4", "x"]),
        delete(&t, key("99")),
        insert(&t, &["5", "y"]),
    ];
    let error = replica.ordered(&t, changes).await.unwrap_err();
    assert_eq!(
        (error.kind, error.key.as_deref()),
        (ErrorKind::Conflict, Some("id=99"))
    );
    replica.reopen().await;
    let changes = vec![insert(&t, &["4", "x"]), insert(&t, &["5", "a"])];
    let error = replica.ordered(&t, changes).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert!(error.key.unwrap().starts_with("id=5"));
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test]
async fn truncation_in_order_with_foreign_keys() {
    let mut replica = Replica::new(
        "CREATE TABLE p (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p); \
         CREATE TABLE q (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE q1 PARTITION OF q DEFAULT",
    )
    .await;
    let p = route("p", &["*id integer"]);
    let c = route("c", &["*id integer", "p integer"]);
    let q = route("q", &["*id integer"]);
    let truncate = |tables: &[&Arc<_>]| Step::Truncate {
        tables: tables.iter().map(|&t| Arc::clone(t)).collect(),
        restart_identity: true,
    };
    replica
        .apply(
            &[
                // The child first: foreign keys do not act.
                Step::Net(vec![net(&c, &[], &[], &[&["1", "5"]])]),
                Step::Net(vec![
                    net(&p, &[], &[], &[&["5"]]),
                    net(&q, &[], &[], &[&["1"]]),
                ]),
                truncate(&[&p, &c, &q]),
                Step::Net(vec![net(&c, &[], &[], &[&["2", "6"]])]),
            ],
            Style::SetWise,
        )
        .await
        .unwrap();
    let all =
        "SELECT 'p', id FROM p UNION ALL SELECT 'c', id FROM c UNION ALL SELECT 'q', id FROM q";
    assert_eq!(replica.rows(all).await, ["c|2"]);
    let error = replica
        .apply(&[truncate(&[&p])], Style::SetWise)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert!(
        error.message.contains("\"c\"") && error.advice.contains("foreign key"),
        "{error:?}"
    );
}

#[tokio::test]
async fn triggers_fire_only_when_told_to() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE audit (what text, id int); \
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO public.audit VALUES (tg_name, new.id); RETURN new; END $$; \
         CREATE TRIGGER plain AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); \
         CREATE TRIGGER always AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); \
         CREATE TRIGGER replica AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); \
         ALTER TABLE t ENABLE ALWAYS TRIGGER always; ALTER TABLE t ENABLE REPLICA TRIGGER replica",
    )
    .await;
    let t = route("t", &["*id integer"]);
    replica.net(net(&t, &[], &[], &[&["1"]])).await.unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM audit").await,
        ["always|1", "replica|1"]
    );
}

#[tokio::test]
async fn identity_generated_and_extra_columns() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
         n int GENERATED ALWAYS AS IDENTITY, d int, \
         g int GENERATED ALWAYS AS (d * 2) STORED, extra text DEFAULT 'mine')",
    )
    .await;
    let t = route("t", &["d integer", "*id integer", "n integer"]);
    replica
        .net(net(&t, &[], &[], &[&["5", "10", "100"]]))
        .await
        .unwrap();
    let inserts: Vec<Vec<String>> = (20..30)
        .map(|n| vec!["1".into(), n.to_string(), "7".into()])
        .collect();
    let inserts: Vec<Vec<&str>> = inserts
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let inserts: Vec<&[&str]> = inserts.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &inserts)).await.unwrap();
    replica
        .admin
        .simple("UPDATE t SET extra = 'theirs' WHERE id = 10")
        .await
        .unwrap();
    replica
        .net(net(&t, &[], &[&["6", "10", "101"]], &[]))
        .await
        .unwrap();
    let key = Before::Key(row(&["~", "10", "~"]));
    replica
        .ordered(&t, vec![update(&t, key, &["7", "11", "?"])])
        .await
        .unwrap();
    replica
        .ordered(&t, vec![update(&t, Before::Absent, &["8", "11", "102"])])
        .await
        .unwrap();
    assert_eq!(
        replica.rows("SELECT * FROM t WHERE id < 20").await,
        ["11|102|8|16|theirs"]
    );
}

#[tokio::test]
async fn identifiers_are_data() {
    let hostile = "x\"; DROP TABLE \"victim\"; --";
    let schema = "Robert'); --";
    let column = "a\"b'c $1 {} ñ";
    let table = TableName::new(schema, hostile);
    let quote = repl_core::schema::quote_identifier;
    let mut replica = Replica::new(&format!(
        "CREATE TABLE public.victim (); CREATE SCHEMA {0}; CREATE TYPE {0}.{1} AS ENUM ('o''k'); \
         CREATE TABLE {2} ({3} int PRIMARY KEY, e {0}.{1}, u text UNIQUE DEFERRABLE)",
        quote(schema),
        quote(column),
        table.quoted(),
        quote(column)
    ))
    .await;
    let t = route_to(
        table.clone(),
        &[&format!("*{column} : integer"), "e : x", "u : text"],
    );
    let rows: Vec<Vec<String>> = (0..10)
        .map(|n| vec![n.to_string(), "o'k".into(), format!("u{n}")])
        .collect();
    let rows: Vec<Vec<&str>> = rows
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &rows)).await.unwrap();
    replica.net(net(&t, &[], &rows, &[])).await.unwrap();
    replica.rewrite(net(&t, &[], &rows, &[])).await.unwrap();
    let before = Before::Key(row(&["9", "~", "~"]));
    replica.ordered(&t, vec![delete(&t, before)]).await.unwrap();
    let count = format!("SELECT count(*) FROM {}", table.quoted());
    assert_eq!(replica.rows(&count).await, ["9"]);
    replica.admin.simple("TABLE public.victim").await.unwrap();
}

#[tokio::test]
async fn key_types_use_their_own_equality() {
    let mut replica = Replica::new(
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TYPE pair AS (a int, b text); CREATE DOMAIN code AS text CHECK (length(value) = 2); \
         CREATE TABLE t (k1 text COLLATE ci, k2 numeric, k3 int[], k4 pair, k5 code, v text, \
         PRIMARY KEY (k1, k2, k3, k4, k5))",
    )
    .await;
    let t = route(
        "t",
        &[
            "*k1 text",
            "*k2 numeric",
            "*k3 integer[]",
            "*k4 public.pair",
            "*k5 public.code",
            "v text",
        ],
    );
    let rows: Vec<Vec<String>> = (0..10)
        .map(|n| {
            let key = [format!("Key{n}"), format!("{n}.0"), format!("{{{n},2}}")];
            let rest = [format!("({n},\"a,b\")"), "xy".into(), "v".into()];
            key.into_iter().chain(rest).collect()
        })
        .collect();
    let rows: Vec<Vec<&str>> = rows
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &rows)).await.unwrap();
    replica.net(net(&t, &[], &rows, &[])).await.unwrap();
    // Another text of an equal key.
    let same: [&[&str]; 1] = [&["KEY3", "3", "{3, 2}", "(3,\"a,b\")", "xy", "w"]];
    replica.net(net(&t, &[], &same, &[])).await.unwrap();
    assert_eq!(replica.rows("SELECT v FROM t WHERE k2 = 3").await, ["w"]);
    replica.net(net(&t, &rows, &[], &[])).await.unwrap();
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn a_changed_shape_is_read_again() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a int)").await;
    let t = route("t", &["*id integer", "a integer"]);
    replica
        .net(net(&t, &[], &[], &[&["1", "2"]]))
        .await
        .unwrap();
    replica
        .admin
        .simple("ALTER TABLE t RENAME a TO b")
        .await
        .unwrap();
    let error = replica
        .net(net(&t, &[], &[], &[&["2", "2"]]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    replica.reopen().await;
    let error = replica
        .net(net(&t, &[], &[], &[&["2", "2"]]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert!(error.advice.contains("ADD COLUMN \"a\""), "{error:?}");
    replica
        .admin
        .simple("ALTER TABLE t RENAME b TO a")
        .await
        .unwrap();
    replica.reopen().await;
    replica
        .net(net(&t, &[], &[], &[&["2", "2"]]))
        .await
        .unwrap();
    replica.applier.close().await;
    assert!(replica.applier.begin(&replica.checkpoint()).await.is_err());
}
