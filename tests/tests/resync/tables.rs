//! Single tables of a replica that streams.

use anyhow::{Result, ensure};
use repl_api::{Membership, Verdict};

use super::ask::{table, validate};
use super::group::{MARIADB, PG, SQLITE, replctl};
use super::planted::{at, equal, plant, reported, start, streams};

/// Only the tables asked for are touched; the others keep what was planted, and the replica streams on.
fn single_tables(replica: &str) -> Result<()> {
    let group = start()?;
    plant(&group, replica)?;
    let some = [
        "resync",
        replica,
        "--tables",
        "wide,public.p*",
        "--yes",
        "--wait",
    ];
    replctl(&group.daemon, &some)?;
    streams(&group.daemon, replica)?;
    let written = reported(&group.daemon, replica)?;
    ensure!(
        written.as_object().is_some_and(|tables| tables.len() == 2),
        "{written:#}"
    );
    group
        .primary
        .execute("UPDATE wide SET a = 'since' WHERE id = 100; UPDATE pairs SET v = 'w'")?;
    group.caught_up()?;
    let found = validate(&group.daemon, true)?;
    for (name, verdict) in [
        ("public.wide", Verdict::Equal),
        ("public.pairs", Verdict::Equal),
        ("public.grid", Verdict::Different),
        ("public.words", Verdict::Different),
        ("public.twins", Verdict::Different),
    ] {
        let one = table(&found, replica, name)?;
        ensure!(one.verdict == verdict, "{one:#?}");
    }
    let rest = "grid,words,twins";
    replctl(
        &group.daemon,
        &["resync", replica, "--tables", rest, "--yes", "--wait"],
    )?;
    equal(&group)
}

#[test]
fn single_tables_in_postgres() -> Result<()> {
    single_tables(PG)
}

#[test]
fn single_tables_in_mariadb() -> Result<()> {
    single_tables(MARIADB)
}

#[test]
fn single_tables_in_sqlite() -> Result<()> {
    single_tables(SQLITE)
}

/// A conflict stops the replica; the table's resync takes it past that, and no row is left out.
#[test]
fn a_table_in_conflict_is_mended_by_its_resync() -> Result<()> {
    let group = start()?;
    at(&group, PG, "DELETE FROM words WHERE word = 'word 9'")?;
    group
        .primary
        .execute("UPDATE words SET n = -1 WHERE word = 'word 9'")?;
    super::group::paused_by_error(&group.daemon, PG)?;
    replctl(
        &group.daemon,
        &["resync", PG, "--tables", "words", "--yes", "--wait"],
    )?;
    streams(&group.daemon, PG)?;
    equal(&group)
}

/// A replica that is known to differ is so until all its tables went through.
#[test]
fn a_diverged_replica_is_clean_after_a_resync_of_everything() -> Result<()> {
    let group = start()?;
    at(&group, PG, "DELETE FROM words WHERE word = 'word 9'")?;
    group
        .primary
        .execute("UPDATE words SET n = -1 WHERE word = 'word 9'")?;
    let error = super::group::paused_by_error(&group.daemon, PG)?;
    let seq = error
        .transaction
        .map(|transaction| transaction.seq.to_string());
    let seq = seq.unwrap_or_default();
    replctl(
        &group.daemon,
        &["skip", PG, "--seq", &seq, "--reason", "a test"],
    )?;
    let diverged = |membership: Membership| {
        group
            .daemon
            .wait_replica(PG, "to be so", super::group::PATIENCE, |replica| {
                replica.membership == membership && replica.copy.is_none()
            })
            .map(drop)
    };
    diverged(Membership::Diverged)?;
    replctl(
        &group.daemon,
        &["resync", PG, "--tables", "words", "--yes", "--wait"],
    )?;
    repl_tests::wait::wait_until("the table to be mended", super::group::PATIENCE, || {
        Ok(super::planted::number(&group, PG, "SELECT count(*) FROM words")? == 3000)
    })?;
    diverged(Membership::Diverged)?;
    replctl(&group.daemon, &["resync", PG, "--yes", "--wait"])?;
    diverged(Membership::Streaming)?;
    equal(&group)
}

#[test]
fn tables_that_are_not_there_are_refused() -> Result<()> {
    let group = start()?;
    let output = group
        .daemon
        .replctl(&["resync", PG, "--tables", "wide,absent", "--yes"])?;
    let text = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(1) && text.contains("absent"),
        "{text}"
    );
    streams(&group.daemon, PG)
}
