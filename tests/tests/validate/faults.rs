//! Planted faults: found, located, repaired, and equal again, on each engine.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use repl_api::{DifferenceKind, TableValidation, Verdict};
use repl_tests::wait::wait_until;

use super::ask::{all_equal, replctl, table, validate};
use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE};

const SEED: &str = "
CREATE TABLE planted (id int PRIMARY KEY, a text, b text, n numeric, at timestamp);
INSERT INTO planted SELECT n, 'value ' || n, '', n + 0.50, '2024-01-01 12:00:00.5'
  FROM generate_series(1, 500) n;
CREATE TABLE twins (v int, w text);
ALTER TABLE twins REPLICA IDENTITY FULL;
INSERT INTO twins SELECT n % 5, 'x' FROM generate_series(1, 50) n;
";

/// The faults in every engine's SQL: one byte; NULL for empty; two values swapped, which cancel under
/// XOR; a missing row; a row too many; a duplicate without a key.
const FAULTS: &str = "
UPDATE planted SET a = 'valuE 1' WHERE id = 1;
UPDATE planted SET b = NULL WHERE id = 2;
UPDATE planted SET a = CASE id WHEN 3 THEN 'value 4' ELSE 'value 3' END WHERE id IN (3, 4);
DELETE FROM planted WHERE id = 5;
INSERT INTO planted (id, a, b, n) VALUES (100000, 'extra', '', 1);
INSERT INTO twins VALUES (2, 'x');
DELETE FROM twins WHERE v = 3;
";

fn start() -> Result<Group> {
    let group = Group::start(true, &[], |primary| primary.execute(SEED))?;
    group.caught_up()?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    Ok(group)
}

/// Plants the faults at a replica and, where its type keeps zeros at the end of a number, one there.
fn plant(group: &Group, replica: &str) -> Result<()> {
    match replica {
        PG => {
            let pg = group.pg.as_ref().context("started")?;
            pg.execute(FAULTS)?;
            pg.execute("UPDATE planted SET n = 6.5 WHERE id = 6")
        }
        MARIADB => {
            group.mariadb.execute(FAULTS)?;
            group
                .mariadb
                .execute("UPDATE planted SET n = 6.51 WHERE id = 6")
        }
        _ => {
            group.sqlite.execute(FAULTS)?;
            group
                .sqlite
                .execute("UPDATE planted SET n = '6.5' WHERE id = 6")
        }
    }
}

/// Key and columns of each difference.
fn located(found: &TableValidation) -> BTreeMap<(String, String), Vec<String>> {
    let one = |row: &repl_api::RowDifference| {
        let key = row.key.clone().unwrap_or_default();
        ((row.kind.to_string(), key), row.columns.clone())
    };
    found.differences.iter().map(one).collect()
}

fn check_located(found: &TableValidation) -> Result<()> {
    ensure!(
        found.verdict == Verdict::Different && found.complete,
        "{found:#?}"
    );
    let expected = [
        ("changed", "id=1", vec!["a"]),
        ("changed", "id=2", vec!["b"]),
        ("changed", "id=3", vec!["a"]),
        ("changed", "id=4", vec!["a"]),
        ("missing", "id=5", vec![]),
        ("changed", "id=6", vec!["n"]),
        ("extra", "id=100000", vec![]),
    ];
    let expected: BTreeMap<_, Vec<String>> = expected
        .into_iter()
        .map(|(kind, key, columns)| {
            let columns = columns.into_iter().map(str::to_owned).collect();
            ((kind.to_owned(), key.to_owned()), columns)
        })
        .collect();
    ensure!(located(found) == expected, "{found:#?}");
    let values = found.differences.iter().any(|row| row.expected.is_some());
    ensure!(!values, "values were not asked for: {found:#?}");
    Ok(())
}

fn check_twins(found: &TableValidation) -> Result<()> {
    ensure!(
        found.verdict == Verdict::Different && found.complete,
        "{found:#?}"
    );
    ensure!((found.extra, found.missing) == (1, 10), "{found:#?}");
    let copies = |kind| {
        let row = found.differences.iter().find(|row| row.kind == kind);
        row.map(|row| (row.copies, row.key.clone()))
    };
    ensure!(
        copies(DifferenceKind::Extra) == Some((1, None)),
        "{found:#?}"
    );
    ensure!(
        copies(DifferenceKind::Missing) == Some((10, None)),
        "{found:#?}"
    );
    Ok(())
}

fn found_and_repaired(replica: &str) -> Result<()> {
    let group = start()?;
    plant(&group, replica)?;
    let counted = validate(&group.daemon, false)?;
    let planted = table(&counted, replica, "public.planted")?;
    // One row more and one less: only the values tell.
    ensure!(planted.verdict == Verdict::Equal, "{counted:#?}");
    let twins = table(&counted, replica, "public.twins")?;
    ensure!(twins.verdict == Verdict::Different, "{counted:#?}");
    ensure!(
        (twins.primary_rows, twins.replica_rows) == (Some(50), Some(41)),
        "{counted:#?}"
    );

    let found = validate(&group.daemon, true)?;
    check_located(table(&found, replica, "public.planted")?)?;
    check_twins(table(&found, replica, "public.twins")?)?;
    for other in [PG, MARIADB, SQLITE]
        .into_iter()
        .filter(|other| *other != replica)
    {
        for name in ["public.planted", "public.twins"] {
            let clean = table(&found, other, name)?;
            ensure!(clean.verdict == Verdict::Equal, "{found:#?}");
        }
    }

    let (code, text) = replctl(&group.daemon, &["--deep", "--show-values"])?;
    ensure!(code == 1, "{code}: {text}");
    for part in [
        "a: 'value 1' at the primary, 'valuE 1' here",
        "b: '' at the primary, NULL here",
        "missing at the replica: id=5",
        "only at the replica: id=100000",
    ] {
        ensure!(text.contains(part), "{part:?} is missing in {text}");
    }
    let (code, text) = replctl(&group.daemon, &["--deep", "--repair"])?;
    ensure!(code == 2 && text.contains("add --yes"), "{code}: {text}");
    let (code, text) = replctl(&group.daemon, &["--deep", "--repair", "--yes"])?;
    ensure!(code == 0, "{code}: {text}");
    ensure!(text.contains("1 inserted, 5 updated, 1 deleted"), "{text}");
    ensure!(text.contains("10 inserted, 0 updated, 1 deleted"), "{text}");

    all_equal(&validate(&group.daemon, true)?, 3)?;
    group.same_schemas(&["public"])?;
    // The stream goes on over the repaired rows.
    group
        .primary
        .execute("UPDATE planted SET a = a || '!'; DELETE FROM twins WHERE v = 2")?;
    group.caught_up()?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    let audit = group.daemon.config().log_dir().join("audit.jsonl");
    let audit = std::fs::read_to_string(audit)?;
    ensure!(audit.contains("\"verb\":\"validation.repair\""), "{audit}");
    group.daemon.finish()
}

#[test]
fn faults_at_a_postgresql_replica_are_found_and_repaired() -> Result<()> {
    found_and_repaired(PG)
}

#[test]
fn faults_at_a_mariadb_replica_are_found_and_repaired() -> Result<()> {
    found_and_repaired(MARIADB)
}

#[test]
fn faults_at_a_sqlite_replica_are_found_and_repaired() -> Result<()> {
    found_and_repaired(SQLITE)
}

#[test]
fn rows_are_repaired_while_they_are_written_to() -> Result<()> {
    let group = start()?;
    let pg = group.pg.as_ref().context("started")?;
    let load = "UPDATE planted SET n = n + 1 WHERE id BETWEEN 10 AND 40";
    let writer = |rounds: u32| -> Result<()> {
        for _ in 0..rounds {
            group.primary.execute(load)?;
        }
        Ok(())
    };
    // A column the load does not touch, so that the row stays wrong however often it is updated.
    pg.execute("UPDATE planted SET a = 'wrong' WHERE id BETWEEN 10 AND 60")?;
    let (code, text) = std::thread::scope(|scope| -> Result<(i32, String)> {
        let load = scope.spawn(|| writer(40));
        let repaired = replctl(&group.daemon, &["--deep", "--repair", "--yes"])?;
        load.join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(repaired)
    })?;
    ensure!(code == 0, "{code}: {text}");
    group.caught_up()?;
    wait_until("no wrong row", PATIENCE, || {
        Ok(pg.query_i64("SELECT count(*) FROM planted WHERE a = 'wrong'")? == 0)
    })?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    group.daemon.finish()
}

#[test]
fn missing_columns_and_tables_are_named() -> Result<()> {
    let group = start()?;
    let pg = group.pg.as_ref().context("started")?;
    pg.execute("ALTER TABLE planted DROP COLUMN b; CREATE TABLE own (n int); DROP TABLE twins")?;
    let found = validate(&group.daemon, false)?;
    let planted = table(&found, PG, "public.planted")?;
    ensure!(planted.verdict == Verdict::Different, "{found:#?}");
    ensure!(planted.missing_columns == ["b"], "{found:#?}");
    let twins = table(&found, PG, "public.twins")?;
    let reason = twins.reason.clone().unwrap_or_default();
    ensure!(
        twins.verdict == Verdict::Different && reason.contains("no such table"),
        "{found:#?}"
    );
    let replica = found.replicas.iter().find(|one| one.replica == PG);
    ensure!(
        replica.context("shown")?.only_here == ["public.own"],
        "{found:#?}"
    );
    let (code, text) = replctl(&group.daemon, &["--replica", SQLITE, "--tables", "planted"])?;
    ensure!(code == 0 && !text.contains("twins"), "{code}: {text}");
    let (code, text) = replctl(&group.daemon, &["--tables", "nothing"])?;
    ensure!(code == 2 && text.contains("nothing"), "{code}: {text}");
    Ok(())
}
