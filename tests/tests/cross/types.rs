//! Every type of PostgreSQL with its boundary values, copied, inserted, updated and deleted by
//! key: equal at each engine, or refused by name.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use repl_api::{ErrorKind, Membership};
use repl_tests::canon;
use repl_tests::daemon::Daemon;

use super::group::{self, Group, MARIADB, PATIENCE, SQLITE};
use super::values::Carried::{Everywhere, Nowhere, Sqlite};
use super::values::{PREPARE, TYPES};

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
                    newest = refused(&group.daemon, replica, &format!("public.{table}"), last)
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
pub fn refused(daemon: &Daemon, replica: &str, table: &str, last: u64) -> Result<u64> {
    let status = daemon.wait_replica(replica, "paused by the value", PATIENCE, |one| {
        let error = one.last_error.as_ref();
        let seq = error.and_then(|error| Some(error.transaction.as_ref()?.seq));
        one.membership == Membership::Paused && seq.is_some_and(|seq| seq > last)
    })?;
    let error = status.last_error.context("asked for above")?;
    ensure!(error.kind == ErrorKind::Data, "{error:?}");
    ensure!(error.table.as_deref() == Some(table), "{error:?}");
    ensure!(error.message.contains("column v "), "{error:?}");
    ensure!(!error.advice.is_empty(), "{error:?}");
    let seq = error.transaction.context("a transaction")?.seq;
    let text = seq.to_string();
    group::replctl(
        daemon,
        &["skip", replica, "--seq", &text, "--reason", "does not fit"],
    )?;
    Ok(seq)
}
