//! Every type of docs/TYPES.md with its boundary values, copied, inserted, updated and deleted by
//! key: equal at each engine, or refused by name.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use repl_api::{ErrorKind, Membership};
use repl_tests::canon;

use super::group::{self, Group, MARIADB, PATIENCE, SQLITE};
use super::sqlite_primary::FileGroup;

/// Where a value can go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    Everywhere,
    /// Not to MariaDB.
    Sqlite,
    /// To neither.
    Nowhere,
}
use Carried::{Everywhere, Nowhere, Sqlite};

/// A type of PostgreSQL, whether it can be a key, and values in SQL.
struct Type {
    name: &'static str,
    key: bool,
    values: &'static [(Carried, &'static [&'static str])],
}

const fn keyed(name: &'static str, values: &'static [(Carried, &'static [&'static str])]) -> Type {
    Type {
        name,
        key: true,
        values,
    }
}

const fn plain(name: &'static str, values: &'static [(Carried, &'static [&'static str])]) -> Type {
    Type {
        name,
        key: false,
        values,
    }
}

const PREPARE: &str = "
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE SCHEMA app;
CREATE TYPE app.address AS (street text, number int);
CREATE TYPE mood AS ENUM ('sad', 'Happy', 'it''s', 'ü');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE DOMAIN amount AS numeric(8,3);
";

const TEXTS: &[&str] = &[
    "''",
    "' '",
    "'a '",
    "'a'",
    "'A'",
    "'ä'",
    "'a\u{308}'",
    "'😀'",
    "'NULL'",
    r"'\N'",
    r"'\\'",
    r"E'tab\tnl\ncr\rend'",
    "''''",
    "'\"'",
    r"E'\x01\x1a\x7f'",
    "'ß'",
    "'ss'",
    "E'\\u200b'",
];

const TYPES: &[Type] = &[
    keyed("boolean", &[(Everywhere, &["true", "false"])]),
    keyed(
        "smallint",
        &[(Everywhere, &["-32768", "-1", "0", "1", "32767"])],
    ),
    keyed(
        "integer",
        &[(Everywhere, &["-2147483648", "-1", "0", "1", "2147483647"])],
    ),
    keyed(
        "bigint",
        &[(
            Everywhere,
            &[
                "-9223372036854775808",
                "-1",
                "0",
                "9007199254740993",
                "-9007199254740993",
                "9223372036854775807",
            ],
        )],
    ),
    keyed(
        "oid",
        &[(Everywhere, &["0", "1", "2147483648", "4294967295"])],
    ),
    keyed(
        "xid8",
        &[(
            Everywhere,
            &[
                "'0'",
                "'1'",
                "'9223372036854775808'",
                "'18446744073709551615'",
            ],
        )],
    ),
    keyed(
        "numeric(10,2)",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.01",
                    "-0.01",
                    "1.5",
                    "99999999.99",
                    "-99999999.99",
                    "12345678.9",
                ],
            ),
            (Sqlite, &["'NaN'"]),
        ],
    ),
    keyed(
        "numeric(70,40)",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.000000000000000000000000000001",
                    "-99999999999999999999999999999.5",
                    "1.1",
                ],
            ),
            (
                Sqlite,
                &["0.0000000000000000000000000000000000000001", "'NaN'"],
            ),
        ],
    ),
    keyed(
        "numeric",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "-0.5",
                    "1.100",
                    "123456789.123456789",
                    "99999999999999999999999999999999999",
                    "-99999999999999999999999999999999999",
                    "0.000000000000000000000000000001",
                ],
            ),
            (
                Sqlite,
                &[
                    "'NaN'",
                    "'Infinity'",
                    "'-Infinity'",
                    "100000000000000000000000000000000000",
                    "0.0000000000000000000000000000001",
                ],
            ),
        ],
    ),
    keyed(
        "money",
        &[(
            Everywhere,
            &[
                "'0'",
                "'-0.01'",
                "'1234567.89'",
                "'92233720368547758.07'",
                "'-92233720368547758.08'",
            ],
        )],
    ),
    keyed(
        "real",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "1",
                    "1.1",
                    "-0.1",
                    "16777217",
                    "'3.4028235e38'",
                    "'-3.4028235e38'",
                    "'1.1754944e-38'",
                    "'1e-45'",
                ],
            ),
            (Sqlite, &["'Infinity'", "'-Infinity'", "'-0'"]),
            (Nowhere, &["'NaN'"]),
        ],
    ),
    keyed(
        "double precision",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.1",
                    "0.30000000000000004",
                    "-1e100",
                    "9007199254740993",
                    "'1.7976931348623157e308'",
                    "'-1.7976931348623157e308'",
                    "'5e-324'",
                    "'2.2250738585072014e-308'",
                    "1e15",
                    "1e16",
                    "123456789012345680",
                ],
            ),
            (Sqlite, &["'Infinity'", "'-Infinity'", "'-0'"]),
            (Nowhere, &["'NaN'"]),
        ],
    ),
    keyed("text", &[(Everywhere, TEXTS)]),
    plain(
        "text",
        &[(
            Everywhere,
            &[
                "repeat('x', 100000)",
                "repeat('😀', 70000)",
                "repeat('''\\', 40000)",
            ],
        )],
    ),
    keyed(
        "character varying(20)",
        &[(
            Everywhere,
            &["''", "repeat('😀', 20)", "' both '", "'x'", "'X'"],
        )],
    ),
    plain(
        "character varying(20000)",
        &[(Everywhere, &["''", "repeat('€', 20000)"])],
    ),
    keyed(
        "character(5)",
        &[(Everywhere, &["''", "'ab'", "'äöüß€'", "'a b'", "'  x'"])],
    ),
    keyed(
        "name",
        &[(Everywhere, &["''", "'pg_class'", "repeat('n', 63)"])],
    ),
    keyed("\"char\"", &[(Everywhere, &["'a'", "''", "'Z'"])]),
    plain(
        "citext",
        &[(Everywhere, &["'ABC'", "'abc'", "''", "'Straße'"])],
    ),
    keyed(
        "bytea",
        &[(
            Everywhere,
            &[
                r"'\x'",
                r"'\x00'",
                r"'\xff00fe'",
                r"'\x275c220a0d1a'",
                r"'\x20'",
                r"'\x2020'",
                r"'\x80'",
                r"decode('000102030405060708090a0b0c0d0e0f', 'hex')",
            ],
        )],
    ),
    plain(
        "bytea",
        &[(Everywhere, &[r"decode(repeat('00ff', 60000), 'hex')"])],
    ),
    keyed(
        "date",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01'",
                    "'1582-10-10'",
                    "'1969-12-31'",
                    "'1970-01-01'",
                    "'2024-02-29'",
                    "'9999-12-31'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0001-12-31 BC'",
                    "'10000-01-01'",
                    "'5874897-12-31'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "time without time zone",
        &[(
            Everywhere,
            &[
                "'00:00'",
                "'00:00:00.000001'",
                "'12:00:00.5'",
                "'23:59:59.999999'",
                "'24:00'",
            ],
        )],
    ),
    keyed(
        "time(0) without time zone",
        &[(Everywhere, &["'00:00'", "'12:00:01'", "'24:00'"])],
    ),
    keyed(
        "time with time zone",
        &[(
            Everywhere,
            &["'00:00+00'", "'24:00:00-15:59'", "'12:00:00.123456+05:30'"],
        )],
    ),
    keyed(
        "timestamp without time zone",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01'",
                    "'1900-02-28 23:59:59.999999'",
                    "'1970-01-01'",
                    "'2024-03-31 02:30'",
                    "'2038-01-19 03:14:08'",
                    "'9999-12-31 23:59:59.999999'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0044-03-15 BC'",
                    "'10000-01-01'",
                    "'294276-12-31 23:59:59.999999'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "timestamp(3) without time zone",
        &[(
            Everywhere,
            &[
                "'2024-02-29 12:00:00.123'",
                "'9999-12-31 23:59:59.999'",
                "'0001-01-01'",
            ],
        )],
    ),
    keyed(
        "timestamp with time zone",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01 00:00+00'",
                    "'1970-01-01 00:00+00'",
                    "'2024-03-31 02:30:00.5+02'",
                    "'2024-10-27 02:30+02'",
                    "'2038-01-19 03:14:08+00'",
                    "'9999-12-31 23:59:59.999999+00'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0001-01-01 00:00+01'",
                    "'10000-01-01 00:00+00'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "interval",
        &[(
            Everywhere,
            &[
                "'0'",
                "'1 year 2 mons 3 days 04:05:06.789'",
                "'-178000000 years'",
                "'178000000 years'",
                "'1 mon -1 day'",
                "'-00:00:00.000001'",
            ],
        )],
    ),
    keyed(
        "uuid",
        &[(
            Everywhere,
            &[
                "'00000000-0000-0000-0000-000000000000'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            ],
        )],
    ),
    plain(
        "json",
        &[(
            Everywhere,
            &[
                r#"'{"a": 1.0, "a":2}'"#,
                "'[]'",
                "'null'",
                r#"'"\u00e4"'"#,
                "'123456789012345678901234567890'",
            ],
        )],
    ),
    plain(
        "jsonb",
        &[(
            Everywhere,
            &[
                r#"'{"b": 1.10, "a": [null, true]}'"#,
                "'[]'",
                "'null'",
                r#"'"ä😀"'"#,
                "'123456789012345678901234567890.5'",
            ],
        )],
    ),
    plain(
        "xml",
        &[(Everywhere, &["'<a b=\"1\">ä</a>'", "''", "'<a/>'"])],
    ),
    keyed(
        "inet",
        &[(
            Everywhere,
            &[
                "'0.0.0.0'",
                "'192.168.0.1/24'",
                "'::1'",
                "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127'",
                "'255.255.255.255'",
            ],
        )],
    ),
    keyed(
        "cidr",
        &[(Everywhere, &["'10.0.0.0/8'", "'::/0'", "'2001:db8::/32'"])],
    ),
    keyed(
        "macaddr",
        &[(Everywhere, &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"])],
    ),
    keyed(
        "macaddr8",
        &[(
            Everywhere,
            &["'00:00:00:00:00:00:00:00'", "'08:00:2b:01:02:03:04:05'"],
        )],
    ),
    keyed("bit(1)", &[(Everywhere, &["B'0'", "B'1'"])]),
    keyed(
        "bit(10)",
        &[(
            Everywhere,
            &[
                "B'0000000000'",
                "B'1111111111'",
                "B'0000000001'",
                "B'1000000000'",
            ],
        )],
    ),
    keyed(
        "bit(64)",
        &[(
            Everywhere,
            &[
                "repeat('0', 64)::bit(64)",
                "repeat('1', 64)::bit(64)",
                "(1::bigint)::bit(64)",
            ],
        )],
    ),
    keyed(
        "bit(100)",
        &[(
            Everywhere,
            &["repeat('0', 100)::bit(100)", "repeat('10', 50)::bit(100)"],
        )],
    ),
    keyed(
        "bit varying(20)",
        &[(
            Everywhere,
            &["B''", "B'0'", "B'00'", "B'10101010101010101010'"],
        )],
    ),
    plain(
        "integer[]",
        &[(
            Everywhere,
            &["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'"],
        )],
    ),
    plain(
        "text[]",
        &[(
            Everywhere,
            &[
                "'{}'",
                r#"'{"a,b","c\"d",NULL,"NULL",""}'"#,
                r"ARRAY['\', '{', ' ']",
            ],
        )],
    ),
    plain(
        "int4range",
        &[(Everywhere, &["'empty'", "'[1,5)'", "'(,)'", "'[3,]'"])],
    ),
    plain(
        "int4multirange",
        &[(Everywhere, &["'{}'", "'{[1,3),[7,9)}'"])],
    ),
    plain(
        "point",
        &[(
            Everywhere,
            &["'(0,0)'", "'(1.5,-2.25)'", "'(1e300,-1e-300)'"],
        )],
    ),
    plain(
        "tsvector",
        &[(
            Everywhere,
            &["''", "'a:1A fat:2B,4C cat:5D'", "$$'it''s' b$$"],
        )],
    ),
    keyed(
        "pg_lsn",
        &[(
            Everywhere,
            &["'0/0'", "'16/B374D848'", "'FFFFFFFF/FFFFFFFF'"],
        )],
    ),
    plain(
        "hstore",
        &[(Everywhere, &["''", r#"'a=>1, "b c"=>NULL, d=>"x\"y"'"#])],
    ),
    plain(
        "app.address",
        &[(
            Everywhere,
            &["ROW('Main St', 5)", "ROW(NULL, NULL)", "ROW('a,\"b\"', -1)"],
        )],
    ),
    keyed(
        "mood",
        &[(Everywhere, &["'sad'", "'Happy'", "'it''s'", "'ü'"])],
    ),
    keyed("positive", &[(Everywhere, &["1", "2147483647"])]),
    keyed(
        "amount",
        &[
            (Everywhere, &["0", "-99999.999", "1.5"]),
            (Sqlite, &["'NaN'"]),
        ],
    ),
];

/// Statements that write a type's values of one sort: at `start` ids, by INSERT and by UPDATE.
fn rows(out: &mut String, table: &str, name: &str, values: &[&str], start: usize) {
    for (at, value) in values.iter().enumerate() {
        let id = start + 2 * at;
        let _ = writeln!(
            out,
            "INSERT INTO {table} VALUES ({id}, ({value})::{name}), ({}, NULL);
             UPDATE {table} SET v = ({value})::{name} WHERE id = {};",
            id + 1,
            id + 1
        );
    }
}

impl Type {
    fn of(&self, carried: Carried) -> Vec<&'static str> {
        let sorts = self.values.iter().filter(|(sort, _)| *sort == carried);
        sorts
            .flat_map(|(_, values)| values.iter().copied())
            .collect()
    }
}

/// Tables `t…` (values carried everywhere), `k…` (the same as a key) and `s…` (values carried to
/// SQLite), and their rows from `start` on.
fn script(create: bool, start: usize) -> String {
    let mut out = String::new();
    for (number, kind) in TYPES.iter().enumerate() {
        let name = kind.name;
        let (all, sqlite) = (kind.of(Everywhere), kind.of(Sqlite));
        if create {
            let _ = writeln!(
                out,
                "CREATE TABLE t{number} (id int PRIMARY KEY, v {name});
                 INSERT INTO t{number} VALUES (0, NULL);"
            );
        }
        rows(&mut out, &format!("t{number}"), name, &all, start);
        if !sqlite.is_empty() {
            if create {
                let _ = writeln!(
                    out,
                    "CREATE TABLE s{number} (id int PRIMARY KEY, v {name});"
                );
            }
            rows(&mut out, &format!("s{number}"), name, &sqlite, start);
        }
        if kind.key {
            let table = format!("k{number}");
            if create {
                let _ = writeln!(out, "CREATE TABLE {table} (v {name} PRIMARY KEY, n int);");
            }
            for value in all {
                let _ = writeln!(
                    out,
                    "INSERT INTO {table} VALUES (({value})::{name}, {start}) ON CONFLICT DO NOTHING;
                     UPDATE {table} SET n = n + 1 WHERE v = ({value})::{name};"
                );
            }
        }
    }
    out
}

/// How many (type, value) pairs each replica was given.
fn cells() -> (usize, usize) {
    let count = |carried| {
        TYPES
            .iter()
            .map(|kind| kind.of(carried).len())
            .sum::<usize>()
    };
    let (all, sqlite, none) = (count(Everywhere), count(Sqlite), count(Nowhere));
    (all + sqlite + none, sqlite + none)
}

fn compare(group: &Group) -> Result<()> {
    let mut wrong = String::new();
    for (number, kind) in TYPES.iter().enumerate() {
        for table in ["t", "k", "s"] {
            let name = format!("{table}{number}");
            let absent =
                (table == "k" && !kind.key) || (table == "s" && kind.of(Sqlite).is_empty());
            if absent {
                continue;
            }
            let full = format!("public.{name}");
            let columns = canon::pg_columns(&group.primary, &full)?;
            let mut results = vec![group.same_in_sqlite(&full, &columns)];
            if table != "s" {
                results.push(group.same_in_mariadb(&full, &columns));
            }
            for result in results {
                if let Err(error) = result {
                    let _ = writeln!(wrong, "{}: {error:#}", kind.name);
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:.20000}");
    Ok(())
}

#[test]
fn every_postgresql_type_arrives_in_mariadb_and_sqlite() -> Result<()> {
    let mut group = Group::prepare(false, &[], |primary| {
        primary.execute(PREPARE)?;
        primary.execute(&script(true, 1))
    })?;
    let config = group.daemon.config().clone();
    let apart: &[&str] = &["public.s*"];
    group
        .daemon
        .set_config(config.with_of(MARIADB, "tables.exclude", apart))?;
    group.daemon.start()?;
    group.caught_up()?;
    compare(&group).context("copied")?;
    group.primary.execute(&script(false, 1001))?;
    group.caught_up()?;
    compare(&group).context("streamed")?;
    // By key: every value has to find its row again.
    let mut deletes = String::new();
    for (number, kind) in TYPES.iter().enumerate().filter(|(_, kind)| kind.key) {
        for value in kind.of(Everywhere).iter().skip(1).step_by(2) {
            let _ = writeln!(
                deletes,
                "DELETE FROM k{number} WHERE v = ({value})::{};",
                kind.name
            );
        }
    }
    group.primary.execute(&deletes)?;
    group.caught_up()?;
    compare(&group).context("after deletes by key")?;
    let (total, refused) = cells();
    println!(
        "cells equal, copied, inserted and updated: PostgreSQL to MariaDB {}, to SQLite {}",
        total - refused,
        total - refused
            + TYPES
                .iter()
                .map(|kind| kind.of(Sqlite).len())
                .sum::<usize>()
    );
    group.daemon.finish()
}

#[test]
fn every_postgresql_value_that_does_not_fit_is_refused_by_name() -> Result<()> {
    let mut group = Group::start(false, &[], |primary| {
        primary.execute(PREPARE)?;
        for (number, kind) in TYPES.iter().enumerate() {
            primary.execute(&format!(
                "CREATE TABLE x{number} (id serial PRIMARY KEY, v {})",
                kind.name
            ))?;
        }
        Ok(())
    })?;
    // Every refusal is a warning.
    group.daemon.ignore_log();
    group.caught_up()?;
    let mut last = 0;
    let mut cells = 0;
    for (number, kind) in TYPES.iter().enumerate() {
        for (carried, values) in kind.values.iter().filter(|(sort, _)| *sort != Everywhere) {
            for value in *values {
                let table = format!("x{number}");
                let name = kind.name;
                group.primary.execute(&format!(
                    "INSERT INTO {table} (v) VALUES (({value})::{name})"
                ))?;
                let everyone = [MARIADB, SQLITE];
                let replicas = if *carried == Nowhere {
                    &everyone[..]
                } else {
                    &everyone[..1]
                };
                let mut newest = last;
                for replica in replicas {
                    newest = refused(&group, replica, &table, last)
                        .with_context(|| format!("{value} of {name} at {replica}"))?;
                    cells += 1;
                }
                last = newest;
            }
        }
        let full = format!("public.x{number}");
        if kind.of(Nowhere).is_empty() {
            let columns = canon::pg_columns(&group.primary, &full)?;
            let same = || Ok(group.same_in_sqlite(&full, &columns).is_ok());
            repl_tests::wait::wait_until(&format!("{full} in SQLite"), PATIENCE, same)?;
        }
        let arrived = group
            .mariadb
            .query_i64(&format!("SELECT count(*) FROM x{number}"))?;
        ensure!(
            arrived == 0,
            "{full}: {arrived} refused rows are in MariaDB"
        );
    }
    println!("cells refused by name: {cells}");
    Ok(())
}

/// The replica is paused by a transaction after `last` that writes to `table`; it is skipped.
fn refused(group: &Group, replica: &str, table: &str, last: u64) -> Result<u64> {
    let status = group
        .daemon
        .wait_replica(replica, "paused by the value", PATIENCE, |one| {
            let error = one.last_error.as_ref();
            let seq = error.and_then(|error| Some(error.transaction.as_ref()?.seq));
            one.membership == Membership::Paused && seq.is_some_and(|seq| seq > last)
        })?;
    let error = status.last_error.context("asked for above")?;
    ensure!(error.kind == ErrorKind::Data, "{error:?}");
    ensure!(error.table == Some(format!("public.{table}")), "{error:?}");
    ensure!(error.message.contains("column v "), "{error:?}");
    ensure!(!error.advice.is_empty(), "{error:?}");
    let seq = error.transaction.context("a transaction")?.seq;
    let text = seq.to_string();
    group::replctl(
        &group.daemon,
        &["skip", replica, "--seq", &text, "--reason", "does not fit"],
    )?;
    Ok(seq)
}

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
