//! Columns that the primary generates and does not send: computed alike at the replica, or named.

use anyhow::Result;
use repl_api::{Validation, Verdict};
use repl_tests::wait::wait_for;

use super::group::{Group, PATIENCE, assert_contains};

const PRIMARY: &str = "
CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED);
CREATE TABLE u (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 3) STORED, j json GENERATED ALWAYS AS ('{}'::json) STORED);
CREATE TABLE made (a int PRIMARY KEY, b numeric(5,1) GENERATED ALWAYS AS (a / 3.0) STORED);
CREATE TABLE gone (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a) STORED);
INSERT INTO t SELECT generate_series(1, 9); INSERT INTO u SELECT generate_series(1, 9);
INSERT INTO made SELECT generate_series(1, 9); INSERT INTO gone SELECT generate_series(1, 9);
";

/// Made by hand: an ordinary column, another expression, and no such column at all.
const REPLICA: &str = "
CREATE TABLE t (a int PRIMARY KEY, b int);
CREATE TABLE u (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 4) STORED, j json GENERATED ALWAYS AS ('{}'::json) STORED);
CREATE TABLE gone (a int PRIMARY KEY);
";

fn validated(group: &Group) -> Result<Validation> {
    wait_for("a validation that tells", PATIENCE, || {
        let found = group.daemon.replctl(&["validate", "--deep", "--json"])?;
        let found: Validation = serde_json::from_slice(&found.stdout)?;
        Ok(Some(found).filter(|found| found.verdict != Some(Verdict::Undetermined)))
    })
}

#[test]
fn values_that_are_not_sent_are_computed_alike_or_named() -> Result<()> {
    let mut group = Group::prepared(1, |primary| primary.execute(PRIMARY), |config| config)?;
    group.replica().execute(REPLICA)?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.daemon.start()?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_contains(
        &error.message,
        "an ordinary column \"b\", which the primary generates",
    );
    let (statements, _) = error.advice.split_once("; then").unwrap_or_default();
    assert_contains(statements, "GENERATED ALWAYS AS ((a * 2)) STORED");
    group.replica().execute(statements)?;
    group.replctl(&["retry", "replica-1"])?;
    group.caught_up()?;
    group.primary.execute(
        "INSERT INTO t VALUES (10); UPDATE made SET a = 100 WHERE a = 1; INSERT INTO u VALUES (10)",
    )?;
    group.caught_up()?;
    for table in ["t", "made"] {
        let rows = format!("SELECT a, b FROM {table} ORDER BY a");
        assert_eq!(group.primary.query(&rows)?, group.replica().query(&rows)?);
    }
    // Another expression shows by what it gives.
    let found = validated(&group)?;
    let of = |found: &Validation, name: &str| {
        let all = found.replicas.iter().flat_map(|replica| &replica.tables);
        let table = all.into_iter().find(|table| table.table == name);
        table.map(|table| (table.verdict, table.reason.clone().unwrap_or_default()))
    };
    let (verdict, reason) = of(&found, "public.u").unwrap_or_default();
    assert_eq!(verdict, Verdict::Different, "{found:#?}");
    assert_contains(&reason, "b in 10 rows");
    for equal in ["public.t", "public.made", "public.gone"] {
        let (verdict, _) = of(&found, equal).unwrap_or_default();
        assert_eq!(verdict, Verdict::Equal, "{found:#?}");
    }
    group.replica().execute(
        "ALTER TABLE u DROP COLUMN b, ADD COLUMN b int GENERATED ALWAYS AS (a * 3) STORED;
         ALTER TABLE t ALTER COLUMN b DROP EXPRESSION",
    )?;
    // One that ceases to be generated is noticed, in a new session before the next row.
    let found = validated(&group)?;
    assert_eq!(
        of(&found, "public.u").unwrap_or_default().0,
        Verdict::Equal,
        "{found:#?}"
    );
    let (verdict, reason) = of(&found, "public.t").unwrap_or_default();
    assert_eq!(verdict, Verdict::Different, "{found:#?}");
    assert_contains(&reason, "ordinary ones here");
    assert!(group.daemon.terminate()?.success());
    group.primary.execute("INSERT INTO t VALUES (11)")?;
    group.daemon.start()?;
    let error = group.paused_by_error(1)?;
    assert_contains(&error.advice, "GENERATED ALWAYS AS ((a * 2)) STORED");
    assert_eq!(group.replica().query("SELECT count(*) FROM t")?, "10");
    group.daemon.finish()
}
