//! Every declared type of SQLite with its boundary values, copied, inserted, updated and deleted by
//! key: equal at each engine, or refused by name.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::group::{MARIADB, PG};
use super::sqlite_primary::FileGroup;
use super::types::refused;

/// Declared types of SQLite and values that can be carried to all engines.
const SQLITE_TYPES: &[(&str, &[&str])] = &[
    (
        "INTEGER",
        &[
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "9007199254740993",
            "'12'",
        ],
    ),
    (
        "BIGINT",
        &[
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "2147483648",
        ],
    ),
    (
        "REAL",
        &[
            "0",
            "0.1",
            "-1e300",
            "5e-324",
            "1.7976931348623157e308",
            "9007199254740993",
            "'2.5'",
            "1e15",
        ],
    ),
    (
        "DOUBLE",
        &[
            "0",
            "0.1",
            "-2.5",
            "2.2250738585072014e-308",
            "123456789012345680",
        ],
    ),
    ("BOOLEAN", &["0", "1", "'1'"]),
    (
        "NUMERIC",
        &[
            "0",
            "-1",
            "0.1",
            "9007199254740992",
            "-9007199254740992",
            "1e20",
            "'3.25'",
            "0.30000000000000004",
        ],
    ),
    (
        "DECIMAL(10,2)",
        &["0", "1.5", "-99999999.99", "1.005", "123456789.125"],
    ),
    (
        "TEXT",
        &[
            "''",
            "' '",
            "'a '",
            "'A'",
            "'ä'",
            "'😀'",
            "'NULL'",
            "'\\N'",
            "'\\'",
            "char(9, 10, 13)",
            "'''\"'",
            "char(1, 26, 127)",
            "12",
            "1.5",
            "replace(hex(zeroblob(50000)), '0', 'é')",
        ],
    ),
    (
        "VARCHAR(20)",
        &[
            "''",
            "'longer than twenty characters, which SQLite lets pass'",
            "' x '",
        ],
    ),
    (
        "BLOB",
        &[
            "x''",
            "x'00'",
            "x'ff00fe275c220a0d1a'",
            "zeroblob(100000)",
            "x'2020'",
        ],
    ),
    (
        "DATETIME",
        &[
            "'2024-02-29 12:00:00'",
            "'infinity'",
            "1700000000",
            "-1",
            "2460000.5",
            "'now'",
            "''",
        ],
    ),
    (
        "JSON",
        &["'{\"a\": 1.0, \"a\":2}'", "'null'", "'[]'", "12", "'\"ä\"'"],
    ),
    ("STRICT", &["''", "'text'", "'ä '"]),
];

fn sqlite_script(create: bool, start: usize) -> String {
    let mut out = String::new();
    for (number, (name, values)) in SQLITE_TYPES.iter().enumerate() {
        let (declared, strict) = match *name {
            "STRICT" => ("TEXT", " STRICT"),
            other => (other, ""),
        };
        if create {
            let _ = writeln!(
                out,
                "CREATE TABLE t{number} (id INTEGER PRIMARY KEY, v {declared}){strict};
                 CREATE TABLE k{number} (v {declared} NOT NULL PRIMARY KEY, n INTEGER){strict};
                 INSERT INTO t{number} VALUES (0, NULL);"
            );
        }
        for (at, value) in values.iter().enumerate() {
            let id = start + 2 * at;
            let next = id + 1;
            let _ = writeln!(
                out,
                "INSERT INTO t{number} VALUES ({id}, {value}), ({next}, NULL);
                 UPDATE t{number} SET v = {value} WHERE id = {next};"
            );
            // An index entry of MySQL holds 3072 bytes.
            if !value.contains("zeroblob") {
                let _ = writeln!(
                    out,
                    "INSERT INTO k{number} VALUES ({value}, {start}) ON CONFLICT DO UPDATE SET n = n + 1;
                     UPDATE k{number} SET n = n + 1 WHERE v = {value};"
                );
            }
        }
    }
    out
}

#[test]
fn every_sqlite_type_arrives_in_postgresql_and_mariadb() -> Result<()> {
    let group = FileGroup::start(&sqlite_script(true, 1))?;
    let compare = || -> Result<()> {
        group.caught_up()?;
        let mut wrong = String::new();
        for (number, (name, _)) in SQLITE_TYPES.iter().enumerate() {
            for table in [format!("t{number}"), format!("k{number}")] {
                if let Err(error) = group.same(&table) {
                    let _ = writeln!(wrong, "{name}: {error:#}");
                }
            }
        }
        ensure!(wrong.is_empty(), "{wrong:.20000}");
        Ok(())
    };
    compare().context("copied")?;
    group.primary.execute(&sqlite_script(false, 1001))?;
    compare().context("streamed")?;
    let mut deletes = String::new();
    for (number, (_, values)) in SQLITE_TYPES.iter().enumerate() {
        for value in values
            .iter()
            .step_by(2)
            .filter(|value| !value.contains("zeroblob"))
        {
            let _ = writeln!(deletes, "DELETE FROM k{number} WHERE v = {value};");
        }
    }
    group.primary.execute(&deletes)?;
    compare().context("after deletes by key")?;
    let cells: usize = SQLITE_TYPES.iter().map(|(_, values)| values.len()).sum();
    println!(
        "cells equal, copied, inserted and updated: SQLite to PostgreSQL {cells}, to MariaDB {cells}"
    );
    group.daemon.finish()
}

/// Values of SQLite that a declared type does not promise, and the replicas that refuse them.
const SQLITE_REFUSED: &[(&str, &str, &[&str])] = &[
    ("INTEGER", "'text'", &[PG, MARIADB]),
    ("INTEGER", "1.5", &[PG, MARIADB]),
    ("INTEGER", "x'00'", &[PG, MARIADB]),
    ("REAL", "'text'", &[PG, MARIADB]),
    ("REAL", "x'00'", &[PG, MARIADB]),
    ("REAL", "9e999", &[MARIADB]),
    ("REAL", "-9e999", &[MARIADB]),
    ("BOOLEAN", "2", &[PG, MARIADB]),
    ("BOOLEAN", "-1", &[PG, MARIADB]),
    ("BOOLEAN", "'yes'", &[PG, MARIADB]),
    ("NUMERIC", "'text'", &[PG, MARIADB]),
    ("NUMERIC", "x'00'", &[PG, MARIADB]),
    ("NUMERIC", "9007199254740993", &[MARIADB]),
    ("NUMERIC", "9e999", &[MARIADB]),
    ("DECIMAL(10,2)", "9223372036854775807", &[MARIADB]),
    ("TEXT", "x'00'", &[PG, MARIADB]),
    ("TEXT", "CAST(x'ff' AS TEXT)", &[PG, MARIADB]),
    ("TEXT", "'a' || char(0) || 'b'", &[PG]),
    ("BLOB", "'text'", &[PG, MARIADB]),
    ("BLOB", "1", &[PG, MARIADB]),
    ("BLOB", "1.5", &[PG, MARIADB]),
    ("DATETIME", "x'00'", &[PG, MARIADB]),
    ("DATETIME", "CAST(x'ff' AS TEXT)", &[PG, MARIADB]),
    ("JSON", "'a' || char(0)", &[PG]),
];

#[test]
fn every_sqlite_value_that_does_not_fit_is_refused_by_name() -> Result<()> {
    let tables: Vec<String> = (0..SQLITE_REFUSED.len()).map(|n| format!("x{n}")).collect();
    let mut schema = String::new();
    for (table, (declared, ..)) in tables.iter().zip(SQLITE_REFUSED) {
        let _ = writeln!(
            schema,
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY, v {declared});"
        );
    }
    let mut group = FileGroup::start(&schema)?;
    group.daemon.ignore_log();
    group.caught_up()?;
    let (mut last, mut cells) = (0, 0);
    for (table, (declared, value, replicas)) in tables.iter().zip(SQLITE_REFUSED) {
        group
            .primary
            .execute(&format!("INSERT INTO {table} (v) VALUES ({value})"))?;
        let mut newest = last;
        for replica in *replicas {
            newest = refused(&group.daemon, replica, &format!("main.{table}"), last)
                .with_context(|| format!("{value} of {declared} at {replica}"))?;
            cells += 1;
        }
        last = newest;
    }
    group.caught_up()?;
    for (table, (declared, value, replicas)) in tables.iter().zip(SQLITE_REFUSED) {
        let count = format!("SELECT count(*) FROM {table}");
        for (name, rows) in [
            (PG, group.pg.query_i64(&count)?),
            (MARIADB, group.mariadb.query_i64(&count)?),
        ] {
            let expected = i64::from(!replicas.contains(&name));
            ensure!(
                rows == expected,
                "{value} of {declared}: {rows} rows at {name}"
            );
        }
    }
    println!("cells refused by name: {cells}");
    Ok(())
}
