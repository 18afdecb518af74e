//! First copies, and fitting tables to the source's shape.

use std::sync::Mutex;

use async_trait::async_trait;
use repl_connectors::seam::{
    Applier, CopiedTable, Existing, Load, Result, Snapshot, Style, TableDdl,
};
use repl_core::batch::{Route, Step};
use repl_core::convert::ddl::TableDescription;
use repl_core::cut::Cut;
use repl_core::row::Row;
use repl_core::schema::{TableName, TableSchema};
use repl_core::{ErrorKind, Seq};

use crate::fixture::*;

/// Rows as a snapshot would deliver them; fails after them when told to.
struct Fake {
    batches: Vec<Vec<Row>>,
    fail: bool,
}

#[async_trait]
impl Snapshot for Fake {
    fn cut(&self) -> Cut {
        Cut::Through(Seq(0))
    }

    async fn ddl(&mut self, _: &TableName, _: &TableName) -> Result<TableDdl> {
        unreachable!("the applier is given the statements")
    }

    async fn describe(&mut self, _: &TableName) -> Result<TableDescription> {
        unreachable!("the applier is given the statements")
    }

    async fn open(&mut self, _: &TableName) -> Result<(TableSchema, Option<u64>)> {
        unreachable!("the applier is given an opened table")
    }

    async fn next_rows(&mut self) -> Result<Vec<Row>> {
        if self.batches.is_empty() && self.fail {
            return Err(repl_connectors::seam::ConnectorError::new(
                ErrorKind::Connection,
                "the source is gone",
            ));
        }
        Ok(self.batches.pop().unwrap_or_default())
    }
}

fn ddl() -> TableDdl {
    TableDdl {
        before: vec!["CREATE SCHEMA IF NOT EXISTS app".into()],
        create: vec![
            "CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY, a text, \
             g int GENERATED ALWAYS AS (id + 1) STORED)"
                .into(),
        ],
        key: vec!["ALTER TABLE app.t ADD PRIMARY KEY (id)".into()],
        after: Vec::new(),
        foreign_keys: Vec::new(),
        generated: Vec::new(),
    }
}

async fn load(
    replica: &mut Replica,
    route: &Route,
    (create, replace, fail): (bool, bool, bool),
) -> Result<u64> {
    let existing = match replace {
        true => Existing::Replace,
        false => Existing::Refuse,
    };
    let copied = CopiedTable {
        incarnation: "42".into(),
        cut: Some(Cut::Through(Seq(3))),
    };
    let batch = |from: u32| {
        (from..from + 1000)
            .map(|n| row(&[&n.to_string(), "x\\\n"]))
            .collect()
    };
    let mut fake = Fake {
        batches: vec![batch(0), batch(1000)],
        fail,
    };
    let seen = Mutex::new(Vec::new());
    let progress = |rows: u64| seen.lock().unwrap().push(rows);
    let outcome = replica
        .applier
        .load(Load {
            route,
            ddl: &ddl(),
            create,
            existing,
            copied: &copied,
            rows: &mut fake,
            progress: &progress,
        })
        .await;
    let outcome = outcome.map(|loaded| loaded.rows);
    if outcome.is_ok() {
        assert_eq!(*seen.lock().unwrap(), [1000, 2000]);
    }
    outcome
}

#[tokio::test]
async fn a_table_is_made_loaded_and_registered_as_a_whole() {
    let mut replica = Replica::new("").await;
    let t = route_to(TableName::new("app", "t"), &["*id integer", "a text"]);
    let error = load(&mut replica, &t, (false, false, false))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    replica.reopen().await;
    let error = load(&mut replica, &t, (true, false, true))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection);
    assert!(replica.applier.open().await.unwrap().tables.is_empty());
    assert!(replica.admin.simple("TABLE app.t").await.is_err());

    assert_eq!(
        load(&mut replica, &t, (true, false, false)).await.unwrap(),
        2000
    );
    let sql = "SELECT count(*), sum(g - id), min(a) = E'x\\\\\\n' FROM app.t";
    assert_eq!(replica.rows(sql).await, ["2000|2000|t"]);
    let state = replica.applier.open().await.unwrap();
    assert_eq!(state.tables[&TableName::new("app", "t")].incarnation, "42");
    // The key made after the load is used by the very next change.
    replica
        .net(net(&t, &[], &[&["5", "new"]], &[]))
        .await
        .unwrap();

    let error = load(&mut replica, &t, (true, false, false))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    // Whose they are is not known.
    assert!(error.advice.contains("decide") && !error.advice.contains("TRUNCATE"));
    replica.reopen().await;
    replica
        .admin
        .simple("CREATE TABLE c (id int REFERENCES app.t); INSERT INTO c VALUES (7)")
        .await
        .unwrap();
    assert_eq!(
        load(&mut replica, &t, (true, true, false)).await.unwrap(),
        2000
    );
    assert_eq!(replica.rows("SELECT count(*) FROM c").await, ["1"]);
}

#[tokio::test]
async fn tables_fit_or_the_mending_statement_is_named() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(3), n int NOT NULL DEFAULT 1); \
         CREATE VIEW v AS SELECT 1 AS id; CREATE TABLE nokey (id int NOT NULL)",
    )
    .await;
    let refused = async |replica: &mut Replica, route: &Route, advice: &str| {
        let error = replica.applier.fit(route, None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Schema);
        assert!(error.advice.contains(advice), "{error:?}");
    };
    replica.copied_with("t", "{id,a}").await;
    let good = route("t", &["*id integer", "a character varying(2)"]);
    replica.applier.fit(&good, None).await.unwrap();
    refused(&mut replica, &route("absent", &["*id integer"]), "resync").await;
    refused(&mut replica, &route("v", &["*id integer"]), "table").await;
    let wide = route("t", &["*id integer", "a text"]);
    refused(&mut replica, &wide, "ALTER COLUMN \"a\" TYPE text").await;
    let null = route("t", &["*id integer", "n integer"]);
    refused(&mut replica, &null, "ALTER COLUMN \"n\" DROP NOT NULL").await;
    let nokey = route("nokey", &["*id integer"]);
    refused(
        &mut replica,
        &nokey,
        "CREATE UNIQUE INDEX ON \"public\".\"nokey\" (\"id\")",
    )
    .await;
    replica
        .admin
        .simple("ALTER TABLE t ADD strict int NOT NULL")
        .await
        .unwrap();
    refused(&mut replica, &good, "ALTER COLUMN \"strict\" DROP NOT NULL").await;
    replica
        .admin
        .simple("ALTER TABLE t DROP strict")
        .await
        .unwrap();

    let more = route("t", &["*id integer", "a character varying(3)", "z integer"]);
    refused(&mut replica, &more, "ADD COLUMN \"z\" integer").await;
    let ddl = TableDdl {
        create: vec!["ALTER TABLE public.t ADD COLUMN z int DEFAULT 5".into()],
        ..TableDdl::default()
    };
    replica
        .admin
        .simple("INSERT INTO t VALUES (1, 'x')")
        .await
        .unwrap();
    replica.applier.fit(&more, Some(&ddl)).await.unwrap();
    replica.applier.fit(&more, Some(&ddl)).await.unwrap();
    assert_eq!(replica.rows("SELECT * FROM t").await, ["1|x|1|5"]);
}

#[tokio::test]
async fn a_new_shape_within_a_transaction_is_part_of_it() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    replica.copied_with("t", "{id,a}").await;
    let narrow = route("t", &["*id integer", "a text"]);
    let wide = route("t", &["*id integer", "a text", "z integer"]);
    let ddl = TableDdl {
        create: vec!["ALTER TABLE public.t ADD COLUMN z int DEFAULT 5".into()],
        ..TableDdl::default()
    };
    let (now, next) = (replica.checkpoint(), checkpoint(replica.log, 1));
    for commit in [false, true] {
        let before = Step::Net(vec![net(&narrow, &[], &[], &[&["1", "x"]])]);
        let after = Step::Net(vec![net(
            &wide,
            &[],
            &[&["1", "?", "6"]],
            &[&["2", "y", "7"]],
        )]);
        replica.applier.begin(&now).await.unwrap();
        replica
            .applier
            .apply(&before, Style::SetWise)
            .await
            .unwrap();
        // Refused without the statement; the transaction goes on.
        assert!(replica.applier.fit(&wide, None).await.is_err());
        replica.applier.fit(&wide, Some(&ddl)).await.unwrap();
        replica.applier.apply(&after, Style::SetWise).await.unwrap();
        if commit {
            replica.applier.commit(&next, &[]).await.unwrap();
        } else {
            replica.reopen().await;
        }
        let expected: &[&str] = if commit { &["1|x|6", "2|y|7"] } else { &[] };
        assert_eq!(replica.rows("SELECT * FROM t ORDER BY id").await, expected);
    }
    // A failure of what was queued before shows as what it is.
    let (now, wider) = (
        next,
        route("t", &["*id integer", "a text", "z integer", "y integer"]),
    );
    let duplicate = Step::Net(vec![net(&wide, &[], &[], &[&["1", "x", "1"]])]);
    replica.applier.begin(&now).await.unwrap();
    replica
        .applier
        .apply(&duplicate, Style::SetWise)
        .await
        .unwrap();
    let error = replica.applier.fit(&wider, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Constraint);
    assert!(error.key.unwrap().starts_with("id=1"));
}

#[tokio::test]
async fn foreign_keys_are_added_once() {
    let mut replica =
        Replica::new("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int)").await;
    let statement = "ALTER TABLE public.c ADD CONSTRAINT c_p FOREIGN KEY (p) \
        REFERENCES public.p (id) NOT VALID";
    let wrong = "ALTER TABLE public.c ADD CONSTRAINT x FOREIGN KEY (p) REFERENCES public.none (id)";
    for _ in 0..2 {
        replica
            .applier
            .add_foreign_keys(&[statement.to_owned()])
            .await
            .unwrap();
    }
    let error = replica
        .applier
        .add_foreign_keys(&[wrong.to_owned()])
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema);
    assert_eq!(
        replica
            .rows("SELECT conname FROM pg_constraint WHERE contype = 'f'")
            .await,
        ["c_p"]
    );
}
