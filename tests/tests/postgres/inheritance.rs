//! Tables that inherit from others (`INHERITS`): each is a table of its own, and a bare name means both.

use anyhow::{Context, Result};
use repl_api::{TableState, Verdict};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::wait::wait_for;

use super::group::{Group, PATIENCE, assert_contains, wait_query};

/// Rows of parent and child share their keys; one parent cannot be captured, and one table has two.
const FAMILY: &str = "
CREATE TABLE parent (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text CHECK (v <> ''));
CREATE TABLE child () INHERITS (parent); ALTER TABLE child ADD PRIMARY KEY (id);
ALTER TABLE child ALTER n SET DEFAULT 5;
CREATE TABLE tagged (tag text DEFAULT 't'); ALTER TABLE tagged REPLICA IDENTITY FULL;
CREATE TABLE grandchild (own int UNIQUE DEFERRABLE INITIALLY DEFERRED) INHERITS (child, tagged);
ALTER TABLE grandchild ADD PRIMARY KEY (id);
CREATE TABLE loose (v text); ALTER TABLE loose REPLICA IDENTITY FULL;
CREATE TABLE looser (w text) INHERITS (loose); ALTER TABLE looser REPLICA IDENTITY FULL;
CREATE TABLE local (k int NOT NULL);
CREATE TABLE plain (PRIMARY KEY (k)) INHERITS (local);
INSERT INTO parent (id, v) SELECT n, 'p' || n FROM generate_series(1, 20) n;
INSERT INTO child (id, v) SELECT n, 'c' || n FROM generate_series(1, 20) n;
INSERT INTO grandchild (id, v, own) SELECT n, 'g' || n, n FROM generate_series(11, 30) n;
INSERT INTO loose SELECT 'v' FROM generate_series(1, 8); INSERT INTO looser SELECT 'v', 'w' FROM generate_series(1, 8);
INSERT INTO plain VALUES (1);
";

const TREE: &str =
    "SELECT i.inhrelid::regclass::text, i.inhparent::regclass::text FROM pg_inherits i
                    JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r' ORDER BY 1, 2";

fn deep_equal(group: &Group) -> Result<()> {
    group.equal()?;
    // Shortly after a change of shape nothing can be told.
    let found = wait_for("a validation that tells", PATIENCE, || {
        let found = group.daemon.replctl(&["validate", "--deep", "--json"])?;
        let found: repl_api::Validation = serde_json::from_slice(&found.stdout)?;
        Ok(Some(found).filter(|found| found.verdict != Some(Verdict::Undetermined)))
    })?;
    assert_eq!(found.verdict, Some(Verdict::Equal), "{found:#?}");
    Ok(())
}

#[test]
fn parents_and_children_are_tables_of_their_own() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| primary.execute(FAMILY),
        |config| config.with_of("replica-1", "protect", true),
    )?;
    // Made by hand, and part of a table that is not replicated.
    group.replica().execute(
        "CREATE TABLE local (k int NOT NULL); CREATE TABLE plain (PRIMARY KEY (k)) INHERITS (local)",
    )?;
    group.daemon.start()?;
    group.table_becomes("public.local", TableState::Refused)?;
    group.table_becomes("public.parent", TableState::Replicated)?;
    wait_query(group.replica(), "SELECT count(*) FROM parent", "60")?;
    deep_equal(&group)?;
    assert_eq!(group.primary.query(TREE)?, group.replica().query(TREE)?);
    // Writing through a parent that is not replicated reaches rows that are.
    let refused = group
        .replica()
        .execute("BEGIN READ WRITE; DELETE FROM local");
    let refused = format!("{:#}", refused.err().context("the write was accepted")?);
    assert_contains(&refused, "writes are refused");
    // Few and many rows, under keys that both tables have; each way to write.
    group.primary.execute(
        "UPDATE ONLY parent SET v = 'x' WHERE id = 3; DELETE FROM ONLY child WHERE id = 4;
         UPDATE parent SET v = v || '!' WHERE id BETWEEN 5 AND 15; DELETE FROM ONLY parent WHERE id > 12;
         UPDATE child SET id = id + 100 WHERE id = 7; UPDATE grandchild SET own = 41 - own;
         DELETE FROM ONLY loose WHERE ctid = ANY(ARRAY(SELECT ctid FROM ONLY loose LIMIT 5));
         UPDATE ONLY loose SET v = 'z' WHERE ctid = (SELECT min(ctid) FROM ONLY loose);
         UPDATE looser SET w = NULL WHERE ctid = (SELECT min(ctid) FROM looser)",
    )?;
    deep_equal(&group)?;
    group.primary.execute(
        "TRUNCATE ONLY child; ALTER TABLE parent ADD COLUMN late int DEFAULT 7;
         INSERT INTO child (id, v) SELECT n, 'again' FROM generate_series(1, 9) n;
         UPDATE ONLY parent SET late = 8 WHERE id = 1; INSERT INTO parent (id, v) VALUES (50, 'new')",
    )?;
    deep_equal(&group)?;
    for tables in [&["--tables", "public.parent"][..], &["--full"]] {
        let resync = [&["resync", "replica-1", "--wait", "--yes"], tables].concat();
        group.replctl(&resync)?;
        deep_equal(&group)?;
    }
    assert_eq!(group.primary.query(TREE)?, group.replica().query(TREE)?);
    // Inheritance that changes is followed, and so is a table that comes later.
    group.primary.execute(
        "ALTER TABLE child NO INHERIT parent; CREATE TABLE later () INHERITS (child);
         ALTER TABLE later ADD PRIMARY KEY (id); INSERT INTO later (id, v) VALUES (1, 'l')",
    )?;
    let expected = group.primary.query(TREE)?;
    wait_query(group.replica(), TREE, &expected)?;
    deep_equal(&group)?;
    group.daemon.finish()
}

/// Where the tables are made by hand, the daemon does not change them: it says what is missing.
#[test]
fn inheritance_that_is_missing_is_named() -> Result<()> {
    const TABLES: &str =
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY)";
    let seed = |primary: &PgServer| {
        primary.execute(&format!(
            "{TABLES}; ALTER TABLE child INHERIT parent; INSERT INTO child VALUES (1)"
        ))
    };
    let mut group = Group::prepared(1, seed, |config| {
        config.with_of("replica-1", "tables.create_tables", false)
    })?;
    group.replica().execute(TABLES)?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.daemon.start()?;
    let error = group.paused_by_error(1)?;
    assert_contains(
        &error.message,
        "does not inherit, as at the primary, from public.parent",
    );
    let statement = error.advice.split(';').next().unwrap_or_default();
    group.replica().psql(DATABASE, Role::Superuser, statement)?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    group.daemon.finish()
}
