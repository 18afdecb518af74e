//! Columns that come later, that are left out, or that cannot be carried to another engine.

use anyhow::{Context, Result, ensure};
use repl_api::{ErrorKind, Membership};
use repl_tests::daemon::Toml;

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, paused_by_error, replctl};
use super::sqlite_primary::FileGroup;

const TABLE: &str = "
CREATE TABLE item (id int PRIMARY KEY, name text, photo bytea, made text DEFAULT upper('now'));
INSERT INTO item SELECT n, 'item ' || n, '\\xff' FROM generate_series(1, 20) n";

/// Between equal engines a new column is added by itself; the others stop before its first row, with the
/// statement to run. A column that is configured away is never made, and its values never sent; what a
/// made table lacks is said in the log.
#[test]
fn an_added_column_stops_other_engines_with_the_statement() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| primary.execute(TABLE))?;
    let without = "[{ table = \"public.item\", column = \"photo\" }]";
    let config = group.daemon.config().clone();
    let config = config.with_of(MARIADB, "convert.exclude", Toml::raw(without));
    group.daemon.set_config(config)?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    group.caught_up()?;
    let columns =
        "SELECT group_concat(column_name ORDER BY ordinal_position) FROM information_schema.columns
                   WHERE table_name = 'item'";
    assert_eq!(group.mariadb.query(columns)?, "id,name,made");
    ensure!(
        group
            .daemon
            .log_contains("left out of the replica's table")?,
        "a default that means nothing there was left out, and not said"
    );
    group
        .primary
        .execute("UPDATE item SET photo = NULL, name = 'seen' WHERE id = 3")?;
    group.caught_up()?;
    group.primary.execute(
        "INSERT INTO item (id, name) VALUES (100, 'before'); ALTER TABLE item ADD COLUMN weight int;
         UPDATE item SET weight = id WHERE id < 5; INSERT INTO item (id, weight) VALUES (101, 7)",
    )?;
    for (name, server) in [(MARIADB, true), (SQLITE, false)] {
        let error = paused_by_error(&group.daemon, name)?;
        ensure!(error.kind == ErrorKind::Schema, "{name}: {error:?}");
        ensure!(
            error.advice.contains("ADD COLUMN") && error.advice.contains("weight"),
            "{name}: {error:?}"
        );
        let rows = "SELECT count(*) FROM item";
        let statement = match server {
            true => "ALTER TABLE item ADD COLUMN weight int",
            false => "ALTER TABLE item ADD COLUMN weight INTEGER",
        };
        let arrived = match server {
            true => {
                let arrived = group.mariadb.query_i64(rows)?;
                group.mariadb.execute(statement)?;
                arrived
            }
            false => {
                let arrived = group.sqlite.query_i64(rows)?;
                group.sqlite.execute(statement)?;
                arrived
            }
        };
        ensure!(
            arrived == 21,
            "{name}: {arrived} rows, what came before is 21"
        );
        replctl(&group.daemon, &["retry", name])?;
    }
    group.caught_up()?;
    let pg = group.pg.as_ref().context("started")?;
    let sum = "SELECT count(*), sum(weight) FROM item";
    assert_eq!(pg.query(sum)?, "22|17");
    assert_eq!(group.mariadb.query(sum)?, "22\t17");
    group.same_in_sqlite(
        "public.item",
        &repl_tests::canon::pg_columns(&group.primary, "public.item")?,
    )
}

/// SQLite promises nothing of a column without a type: a replica of another engine takes it once it is
/// said how, and pauses until then.
#[test]
fn a_column_that_cannot_be_carried_pauses_the_replica_with_the_line_to_add() -> Result<()> {
    let mut group = FileGroup::prepare("CREATE TABLE loose (id INTEGER PRIMARY KEY, anything)")?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    group
        .primary
        .execute("INSERT INTO loose VALUES (1, x'00')")?;
    for name in [PG, MARIADB] {
        let error = paused_by_error(&group.daemon, name)?;
        ensure!(
            error.message.contains("anything") && error.advice.contains("rule = \"text\""),
            "{name}: {error:?}"
        );
    }
    let config = group.daemon.config().clone();
    let rule = "[{ table = \"main.loose\", column = \"anything\", rule = \"text\" }]";
    let config = config
        .with_of(PG, "convert.allow", Toml::raw(rule))
        .with_of(MARIADB, "convert.allow", Toml::raw(rule));
    group.daemon.terminate()?;
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    for name in [PG, MARIADB] {
        replctl(&group.daemon, &["retry", name])?;
        group
            .daemon
            .wait_replica(name, "streaming", PATIENCE, |one| {
                one.membership == Membership::Streaming
            })?;
    }
    group.caught_up()?;
    assert_eq!(group.pg.query("SELECT anything FROM loose")?, "X'00'");
    assert_eq!(group.mariadb.query("SELECT anything FROM loose")?, "X'00'");
    Ok(())
}
