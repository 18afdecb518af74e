//! What cannot be carried stops the one replica that cannot hold it, by name, and is mended.

use anyhow::{Context, Result, ensure};
use repl_api::{ErrorKind, Membership};
use repl_tests::daemon::Toml;
use repl_tests::wait::wait_until;

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, paused_by_error, replctl};

const TABLES: &str = "
CREATE TABLE readings (id int PRIMARY KEY, at date, v double precision);
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO readings VALUES (1, '2024-01-01', 1.5)";

fn start() -> Result<Group> {
    let mut group = Group::start(true, &[], |primary| primary.execute(TABLES))?;
    for text in ["replica paused until", "ordered by the operator"] {
        group.daemon.allow_log(text);
    }
    group.caught_up()?;
    Ok(group)
}

/// One batch: what comes before the value is applied, nothing of its transaction is.
fn stop(group: &Group, value: &str) -> Result<(u64, String)> {
    replctl(&group.daemon, &["pause", MARIADB])?;
    group
        .daemon
        .wait_replica(MARIADB, "paused", PATIENCE, |one| {
            one.membership == Membership::Paused
        })?;
    group.primary.execute(&format!(
        "INSERT INTO other VALUES (1); INSERT INTO other VALUES (2);
         BEGIN; INSERT INTO other VALUES (3); UPDATE readings SET {value} WHERE id = 1; COMMIT;
         INSERT INTO other VALUES (4)"
    ))?;
    let complete = |status: &repl_api::Status| {
        let done = |name| {
            let replica = status.replica(name)?;
            (replica.membership == Membership::Streaming && replica.queue_transactions == 0)
                .then_some(())
        };
        done(PG).and(done(SQLITE))
    };
    replctl(&group.daemon, &["resume", MARIADB])?;
    let error = paused_by_error(&group.daemon, MARIADB)?;
    group
        .daemon
        .wait_status("the other replicas to go on", PATIENCE, complete)?;
    ensure!(error.kind == ErrorKind::Data, "{error:?}");
    ensure!(
        error.table.as_deref() == Some("public.readings"),
        "{error:?}"
    );
    let transaction = error.transaction.clone().context("the transaction")?;
    ensure!(transaction.source_txid.parse::<u64>()? > 0, "{error:?}");
    ensure!(!transaction.position.is_empty(), "{error:?}");
    let status = group.daemon.status()?;
    let applied = status.replica(MARIADB).context("shown")?.applied_seq;
    ensure!(applied + 1 == transaction.seq, "{applied}: {error:?}");
    let rows = group.mariadb.query("SELECT id FROM other ORDER BY id")?;
    ensure!(rows == "1\n2", "{rows:?}");
    let shown = replctl_status(group)?;
    for part in ["public.readings", MARIADB] {
        ensure!(shown.contains(part), "{part} is not in {shown}");
    }
    Ok((transaction.seq, error.message + " " + &error.advice))
}

/// `replctl status --check`, which must fail.
fn replctl_status(group: &Group) -> Result<String> {
    let output = group.daemon.replctl(&["status", "--check"])?;
    ensure!(!output.status.success(), "nothing needs attention?");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_value_only_some_can_hold_stops_only_the_others() -> Result<()> {
    let mut group = start()?;
    group.daemon.ignore_log();
    let (seq, text) = stop(&group, "v = '-0'")?;
    ensure!(text.contains("column v"), "{text}");
    replctl(
        &group.daemon,
        &[
            "skip",
            MARIADB,
            "--seq",
            &seq.to_string(),
            "--reason",
            "not needed",
        ],
    )?;
    group
        .daemon
        .wait_replica(MARIADB, "diverged", PATIENCE, |one| {
            one.membership == Membership::Diverged && one.queue_transactions == 0
        })?;
    let rows = group.mariadb.query("SELECT id FROM other ORDER BY id")?;
    ensure!(rows == "1\n2\n4", "{rows:?}");
    // The next one is refused by both others, PostgreSQL takes it.
    group.primary.execute("UPDATE readings SET v = 'NaN'")?;
    for name in [MARIADB, SQLITE] {
        let error = paused_by_error(&group.daemon, name)?;
        ensure!(error.message.contains("column v"), "{error:?}");
        ensure!(
            error.table.as_deref() == Some("public.readings"),
            "{error:?}"
        );
    }
    let pg = group.pg.as_ref().context("started")?;
    wait_until("NaN in PostgreSQL", PATIENCE, || {
        Ok(pg.query("SELECT v FROM readings")? == "NaN")
    })?;
    // Mended at the source, and copied anew, everything is equal.
    group.primary.execute("UPDATE readings SET v = 0")?;
    for name in [MARIADB, SQLITE] {
        replctl(&group.daemon, &["resync", name, "--yes"])?;
    }
    for name in [MARIADB, SQLITE] {
        group
            .daemon
            .wait_replica(name, "streaming again", PATIENCE, |one| {
                one.membership == Membership::Streaming
            })?;
    }
    group.caught_up()?;
    group.same_schemas(&["public"]).map(drop)
}

#[test]
fn an_infinite_date_is_carried_once_a_rule_is_declared() -> Result<()> {
    let mut group = start()?;
    group.daemon.ignore_log();
    let (_, text) = stop(&group, "at = 'infinity'")?;
    ensure!(
        text.contains("column at") && text.contains("null"),
        "{text}"
    );
    group.daemon.terminate()?;
    let config = group.daemon.config().clone();
    let rule = "[{ table = \"public.readings\", column = \"at\", rule = \"null\" }]";
    group
        .daemon
        .set_config(config.with_of(MARIADB, "convert.allow", Toml::raw(rule)))?;
    group.daemon.start()?;
    replctl(&group.daemon, &["retry", MARIADB])?;
    group.caught_up()?;
    group.same("public.other")?;
    let found = group.mariadb.query("SELECT id, at, v FROM readings")?;
    ensure!(found == "1\tNULL\t1.5", "{found:?}");
    Ok(())
}

#[test]
fn a_value_of_the_copy_is_refused_by_name() -> Result<()> {
    let mut group = Group::start(false, &[], |primary| {
        primary.execute(TABLES)?;
        primary.execute("INSERT INTO readings VALUES (2, NULL, 'NaN')")
    })?;
    group.daemon.ignore_log();
    for name in [MARIADB, SQLITE] {
        let error = paused_by_error(&group.daemon, name)?;
        ensure!(error.message.contains("column v"), "{error:?}");
        ensure!(
            error.table.as_deref() == Some("public.readings"),
            "{error:?}"
        );
    }
    group.primary.execute("DELETE FROM readings WHERE id = 2")?;
    for name in [MARIADB, SQLITE] {
        replctl(&group.daemon, &["retry", name])?;
    }
    group.caught_up()?;
    group.same_schemas(&["public"]).map(drop)
}

#[test]
fn a_text_too_long_for_an_index_is_refused_by_name() -> Result<()> {
    let mut group = Group::start(false, &[], |primary| {
        primary.execute("CREATE TABLE named (id int PRIMARY KEY, name text UNIQUE)")
    })?;
    group.daemon.ignore_log();
    group
        .primary
        .execute("INSERT INTO named VALUES (1, repeat('é', 767))")?;
    group.caught_up()?;
    group.same("public.named")?;
    group
        .primary
        .execute("INSERT INTO named VALUES (2, repeat('x', 768))")?;
    let error = paused_by_error(&group.daemon, MARIADB)?;
    ensure!(error.kind == ErrorKind::Data, "{error:?}");
    let table = error.table.as_deref().unwrap_or_default();
    ensure!(table.ends_with(".named"), "{error:?}");
    ensure!(error.transaction.is_some(), "{error:?}");
    let rows = group.mariadb.query("SELECT id FROM named")?;
    ensure!(rows == "1", "{rows:?}");
    group
        .primary
        .execute("UPDATE named SET name = 'short' WHERE id = 2")?;
    replctl(&group.daemon, &["resync", MARIADB, "--yes"])?;
    group
        .daemon
        .wait_replica(MARIADB, "streaming again", PATIENCE, |one| {
            one.membership == Membership::Streaming
        })?;
    group.caught_up()?;
    group.same("public.named")
}
