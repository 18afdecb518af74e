//! The applier by itself: exactly once, errors that name the row, both styles, loading.

use std::sync::Arc;

use repl_connectors::seam::{Applier, Style, TableDdl};
use repl_connectors::sqlite::SqliteApplier;
use repl_core::batch::{NetTable, Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::row::{Row, Value};
use repl_core::schema::{Column, Identity, SchemaId, TableSchema};
use repl_core::{Epoch, ErrorKind, LogId, Seq, SourcePosition};

use crate::harness::{Primary, content, open, table, target};

fn route(columns: &[&str], identity: Identity) -> Arc<Route> {
    let columns = columns
        .iter()
        .map(|name| Column {
            name: (*name).to_owned(),
            type_name: String::new(),
            type_id: 0,
            nullable: true,
            detail: None,
            composites: None,
        })
        .collect();
    Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(1),
            engine: "sqlite".into(),
            table: table("t"),
            incarnation: String::new(),
            columns,
            identity,
            generated: Vec::new(),
        }),
        target: table("t"),
    })
}

fn row(values: &[Value<'_>]) -> Row {
    Row::from_values(values.iter().copied())
}

fn checkpoint(seq: u64) -> Checkpoint {
    Checkpoint {
        log: LogId(uuid::Uuid::from_u128(7)),
        epoch: Epoch(1),
        seq: Seq(seq),
        position: SourcePosition(format!("p{seq}")),
    }
}

struct Replica {
    path: std::path::PathBuf,
    applier: SqliteApplier,
    _dir: tempfile::TempDir,
}

async fn replica(sql: &str) -> Replica {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    open(&path).execute_batch(sql).unwrap();
    let mut applier = SqliteApplier::new(target(&path), false);
    assert_eq!(applier.open().await.unwrap().checkpoint, None);
    applier.set_checkpoint(None, &checkpoint(0)).await.unwrap();
    Replica {
        path,
        applier,
        _dir: dir,
    }
}

impl Replica {
    async fn apply(
        &mut self,
        seq: u64,
        step: Step,
        style: Style,
    ) -> repl_connectors::seam::Result<()> {
        self.applier.begin(&checkpoint(seq)).await?;
        self.applier.apply(&step, style).await?;
        self.applier.commit(&checkpoint(seq + 1), &[]).await
    }
}

fn updates(route: &Arc<Route>, rows: Vec<Row>) -> Step {
    let mut net = NetTable::new(Arc::clone(route));
    net.updates = rows;
    Step::Net(vec![net])
}

#[tokio::test]
async fn a_checkpoint_is_compared_before_anything_is_changed() {
    let mut one = replica("CREATE TABLE t (k INTEGER PRIMARY KEY, v)").await;
    let mut two = SqliteApplier::new(target(&one.path), false);
    assert_eq!(two.open().await.unwrap().checkpoint, Some(checkpoint(0)));
    let route = route(&["k", "v"], Identity::Key(vec![0]));
    let insert = |k| {
        let mut net = NetTable::new(Arc::clone(&route));
        net.inserts = vec![row(&[Value::Integer(k), Value::Null])];
        Step::Net(vec![net])
    };
    one.apply(0, insert(1), Style::SetWise).await.unwrap();
    two.begin(&checkpoint(0)).await.unwrap();
    two.apply(&insert(2), Style::SetWise).await.unwrap();
    let error = two.commit(&checkpoint(1), &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    assert_eq!(content(&open(&one.path))["t"].len(), 1);
    let error = one
        .applier
        .set_checkpoint(None, &checkpoint(9))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::CheckpointMoved);
    // The session is closed after an error and the next one reads the truth.
    assert_eq!(
        one.applier.open().await.unwrap().checkpoint,
        Some(checkpoint(1))
    );
}

#[tokio::test]
async fn rows_that_are_not_as_expected_stop_the_transaction() {
    let mut r = replica("CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE, v UNIQUE); INSERT INTO t VALUES ('a', 1)").await;
    let keyed = route(&["k", "v"], Identity::Key(vec![0]));
    let update = updates(&keyed, vec![row(&[Value::Text(b"A"), Value::Integer(2)])]);
    let error = r.apply(0, update, Style::SetWise).await.unwrap_err();
    assert_eq!(
        (error.kind, error.table.as_deref()),
        (ErrorKind::Conflict, Some("main.t"))
    );
    assert_eq!(error.key.as_deref(), Some("k='A'"));
    r.applier.open().await.unwrap();
    let mut net = NetTable::new(Arc::clone(&keyed));
    net.inserts = vec![row(&[Value::Text(b"b"), Value::Integer(1)])];
    let error = r
        .apply(0, Step::Net(vec![net]), Style::SetWise)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert_eq!(
        error.code.as_deref(),
        Some("SQLITE_CONSTRAINT_UNIQUE (2067)")
    );
    assert_eq!(error.key.as_deref(), Some("k='b'"));
    r.applier.open().await.unwrap();
    let mut net = NetTable::new(Arc::clone(&keyed));
    net.deletes = vec![row(&[Value::Text(b"zz"), Value::Null])];
    let error = r
        .apply(0, Step::Net(vec![net]), Style::SetWise)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(content(&open(&r.path))["t"], [["ta", "i1"]]);
}

#[tokio::test]
async fn swapped_unique_values_and_columns_that_were_not_sent() {
    for style in [Style::SetWise, Style::Rewrite] {
        let mut r = replica(
            "CREATE TABLE t (k INTEGER PRIMARY KEY, u UNIQUE, big, own DEFAULT 'replica''s own');
             INSERT INTO t VALUES (1, 'a', 'big1', 'x'), (2, 'b', 'big2', 'y'), (3, 'c', CAST(x'ff00' AS TEXT), 'z')",
        )
        .await;
        let keyed = route(&["k", "u", "big"], Identity::Key(vec![0]));
        let step = updates(
            &keyed,
            vec![
                row(&[Value::Integer(1), Value::Text(b"b"), Value::Unchanged]),
                row(&[Value::Integer(2), Value::Text(b"c"), Value::Text(b"new")]),
                row(&[Value::Integer(3), Value::Text(b"a"), Value::Unchanged]),
            ],
        );
        r.apply(0, step, style).await.unwrap();
        assert_eq!(
            content(&open(&r.path))["t"],
            [
                ["i1", "tb", "tbig1", "tx"],
                ["i2", "tc", "tnew", "ty"],
                ["i3", "ta", "t\\xff\\x00", "tz"]
            ]
        );
    }
}

#[tokio::test]
async fn unique_values_pass_between_rows_of_a_table_that_settles() {
    let mut r = replica(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, u UNIQUE, big, own DEFAULT 'own');
         INSERT INTO t VALUES (1, 'a', 'big1', 'x'), (2, 'b', 'big2', 'y'), (3, 'c', 'big3', 'z'), (4, 'd', '', '')",
    )
    .await;
    let keyed = route(&["k", "u", "big"], Identity::Key(vec![0]));
    let image = |k, u, big| row(&[Value::Integer(k), Value::Text(u), big]);
    let net = NetTable {
        settling: true,
        // One that is not there is not missed.
        deletes: vec![image(4, b"", Value::Null), image(9, b"", Value::Null)],
        updates: vec![
            image(1, b"b", Value::Unchanged),
            image(2, b"c", Value::Text(b"new")),
            image(3, b"a", Value::Unchanged),
            image(7, b"e", Value::Unchanged),
            image(8, b"f", Value::Text(b"whole")),
        ],
        inserts: vec![image(5, b"d", Value::Null)],
        ..NetTable::new(keyed)
    };
    let step = Step::Net(vec![net]);
    r.apply(0, step, Style::SetWise).await.unwrap();
    assert_eq!(
        content(&open(&r.path))["t"],
        [
            ["i1", "tb", "tbig1", "tx"],
            ["i2", "tc", "tnew", "town"],
            ["i3", "ta", "tbig3", "tz"],
            ["i5", "td", "null", "town"],
            ["i8", "tf", "twhole", "town"],
        ]
    );
}

#[tokio::test]
async fn equal_rows_are_counted() {
    let mut r = replica("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1.0, 'x'), ('1', 'x'), (NULL, 'X')").await;
    let keyless = route(&["a", "b"], Identity::FullRow);
    let net = |rows: Vec<(Row, i64)>| {
        let mut net = NetTable::new(Arc::clone(&keyless));
        net.multiset = rows;
        Step::Net(vec![net])
    };
    let x = Value::Text(b"x");
    let step = net(vec![
        (row(&[Value::Integer(1), x]), -2),
        (row(&[Value::Text(b"1"), x]), 2),
        (row(&[Value::Null, Value::Text(b"X")]), -1),
    ]);
    r.apply(0, step, Style::SetWise).await.unwrap();
    assert_eq!(
        content(&open(&r.path))["t"],
        [
            ["r3ff0000000000000", "tx"],
            ["t1", "tx"],
            ["t1", "tx"],
            ["t1", "tx"]
        ]
    );
    let step = net(vec![(row(&[Value::Integer(1), x]), -1)]);
    assert_eq!(
        r.apply(1, step, Style::SetWise).await.unwrap_err().kind,
        ErrorKind::Conflict
    );
}

#[tokio::test]
async fn triggers_foreign_keys_and_declared_conflicts_of_the_replica_do_not_act() {
    let mut r = replica(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE log (x);
         CREATE TABLE t (k INTEGER PRIMARY KEY, v REFERENCES p (id), u UNIQUE ON CONFLICT REPLACE);
         CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1); END;",
    )
    .await;
    let keyed = route(&["k", "v", "u"], Identity::Key(vec![0]));
    let insert = |k, u| {
        let mut net = NetTable::new(Arc::clone(&keyed));
        net.inserts = vec![row(&[
            Value::Integer(k),
            Value::Integer(99),
            Value::Integer(u),
        ])];
        Step::Net(vec![net])
    };
    r.apply(0, insert(1, 1), Style::SetWise).await.unwrap();
    let error = r.apply(1, insert(2, 1), Style::SetWise).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert!(content(&open(&r.path))["log"].is_empty());
    let truncate = Step::Truncate {
        tables: vec![keyed],
        restart_identity: true,
    };
    r.applier.open().await.unwrap();
    r.apply(1, truncate, Style::SetWise).await.unwrap();
    assert!(content(&open(&r.path))["t"].is_empty());
}

#[tokio::test]
async fn what_the_replica_cannot_hold_is_told_with_the_statement_that_mends_it() {
    let mut r = replica("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)").await;
    let wider = route(&["k", "v", "w"], Identity::Key(vec![0]));
    let error = r.applier.fit(&wider, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert!(error.message.contains("type"), "{error}");
    open(&r.path)
        .execute_batch("DROP TABLE t; CREATE TABLE t (k, v)")
        .unwrap();
    r.applier.open().await.unwrap();
    let error = r.applier.fit(&wider, None).await.unwrap_err();
    assert!(
        error
            .advice
            .contains("ALTER TABLE \"main\".\"t\" ADD COLUMN \"w\""),
        "{}",
        error.advice
    );
    open(&r.path)
        .execute_batch("DROP TABLE t; CREATE TABLE t (k, v, w, x NOT NULL)")
        .unwrap();
    r.applier.open().await.unwrap();
    let error = r.applier.fit(&wider, None).await.unwrap_err();
    assert!(
        error.advice.contains("DROP COLUMN \"x\""),
        "{}",
        error.advice
    );
    open(&r.path)
        .execute_batch("DROP TABLE t; CREATE VIEW t AS SELECT 1")
        .unwrap();
    r.applier.open().await.unwrap();
    assert!(
        r.applier
            .fit(&wider, None)
            .await
            .unwrap_err()
            .message
            .contains("view")
    );
}

#[tokio::test]
async fn a_table_is_fitted_within_the_open_transaction() {
    let mut r = replica("CREATE TABLE t (k PRIMARY KEY)").await;
    let narrow = route(&["k"], Identity::Key(vec![0]));
    let mut wide = Route::clone(&route(&["k", "v"], Identity::Key(vec![0])));
    Arc::make_mut(&mut wide.schema).id = SchemaId(2);
    let wide = Arc::new(wide);
    let insert = |route: &Arc<Route>, values: &[Value<'_>]| {
        let mut net = NetTable::new(Arc::clone(route));
        net.inserts = vec![row(values)];
        Step::Net(vec![net])
    };
    let add = TableDdl {
        create: vec!["ALTER TABLE \"main\".\"t\" ADD COLUMN \"v\" DEFAULT 'd'".into()],
        ..TableDdl::default()
    };
    for commit in [false, true] {
        r.applier.begin(&checkpoint(0)).await.unwrap();
        let first = insert(&narrow, &[Value::Integer(1)]);
        r.applier.apply(&first, Style::SetWise).await.unwrap();
        // A refusal leaves session and transaction as they are.
        let error = r.applier.fit(&wide, None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Schema);
        r.applier.fit(&wide, Some(&add)).await.unwrap();
        let second = insert(&wide, &[Value::Integer(2), Value::Integer(5)]);
        r.applier.apply(&second, Style::SetWise).await.unwrap();
        if commit {
            r.applier.commit(&checkpoint(1), &[]).await.unwrap();
        } else {
            r.applier.open().await.unwrap();
            assert!(content(&open(&r.path))["t"].is_empty());
        }
    }
    assert_eq!(content(&open(&r.path))["t"], [["i1", "td"], ["i2", "i5"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_holds_rows_is_not_overwritten_unasked() {
    let primary = Primary::start(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v CHECK (length(v) > 0));
         CREATE UNIQUE INDEX i ON t (v) WHERE id > 1; INSERT INTO t (v) VALUES ('a'), ('b');",
    )
    .await;
    let tables = primary.tables(|t| t.len() == 1).await;
    let mut replica = primary.replica("r").await;
    let schema: Vec<String> = open(&replica.path)
        .prepare("SELECT sql FROM sqlite_schema WHERE tbl_name = 't' ORDER BY rowid")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        schema[0].contains("AUTOINCREMENT") && schema[1].contains("WHERE id > 1"),
        "{schema:?}"
    );
    let path = primary.dir.path().join("filled.db");
    open(&path)
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (9, 'mine')",
        )
        .unwrap();
    let filled = SqliteApplier::new(target(&path), false);
    let kept = std::mem::replace(&mut replica.applier, filled);
    replica.applier.open().await.unwrap();
    let mut snapshot = primary.snapshot().await;
    // `replica` knows the table as copied, which asks for replacement.
    replica.load(snapshot.as_mut(), &tables[0]).await.unwrap();
    assert_eq!(content(&open(&path))["t"].len(), 2);
    drop(kept);
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.tables[&table("t")].incarnation, tables[0].incarnation);
    replica.applier.forget_tables(&[table("t")]).await.unwrap();
    assert!(replica.applier.open().await.unwrap().tables.is_empty());
}
