//! `protect = true`: nobody else writes to a replica, from the moment on at which it is shown as one that follows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::{Membership, TableState};
use repl_tests::wait::wait_for;

use super::group::{Group, PATIENCE, PG, SQLITE};

/// An insert of somebody else's; why it was refused.
fn refused(group: &Group, name: &str, table: &str) -> Result<String> {
    let sql = format!("INSERT INTO {table} VALUES (-1)");
    let tried = match name {
        PG => {
            let sql = format!("SET default_transaction_read_only = off; {sql}");
            group.pg.as_ref().context("started")?.execute(&sql)
        }
        _ => group.sqlite.execute(&sql),
    };
    match tried {
        Ok(()) => anyhow::bail!("{name}: a write to {table} was accepted"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// As soon as status shows `table` as replicated and a replica as streaming, writes to it are refused
/// (or it is not there yet).
fn closed_when_shown(group: &Group, table: &str) -> Result<()> {
    for name in [PG, SQLITE] {
        wait_for(&format!("{table} at {name}"), PATIENCE, || {
            let status = group.daemon.status()?;
            let replica = status.replica(name).context("it is there")?;
            let listed = status
                .tables
                .iter()
                .any(|one| one.source.ends_with(table) && one.state == TableState::Replicated);
            if replica.membership != Membership::Streaming || !listed {
                std::thread::sleep(Duration::from_millis(2));
                return Ok(None);
            }
            let why = refused(group, name, table)?;
            Ok(why.contains("not the primary").then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn writes_are_refused_before_a_replica_or_a_table_is_shown() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| {
        primary.execute("CREATE TABLE first (id int PRIMARY KEY); INSERT INTO first SELECT generate_series(1, 50)")
    })?;
    let config = group.daemon.config().clone();
    let config = config
        .with_of(PG, "protect", true)
        .with_of(SQLITE, "protect", true);
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    closed_when_shown(&group, "first")?;
    for table in ["second", "third"] {
        group.primary.execute(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} SELECT generate_series(1, 50)"
        ))?;
        closed_when_shown(&group, table)?;
    }
    group.caught_up()?;
    let rows = group.same_schemas(&["public"])?;
    ensure!(rows == 3, "{rows} tables");
    Ok(())
}
