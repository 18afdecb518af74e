//! What kept changes of a table out of the stream is noticed, however short it was, and the table is
//! compared with the primary.

use std::time::Instant;

use anyhow::{Context, Result};
use repl_api::{Membership, TableState};
use repl_tests::daemon::{DaemonConfig, Toml};
use repl_tests::pg::{DATABASE, PgServer, Role, Session};

use super::group::{Group, PATIENCE, assert_contains, wait_query};

/// One change of each kind.
fn changes(table: &str) -> String {
    format!(
        "UPDATE {table} SET v = v || '!' WHERE id % 3 = 0; DELETE FROM {table} WHERE id % 7 = 0; \
         INSERT INTO {table} SELECT max(id) + 1, 'late' FROM {table}"
    )
}

/// A table with rows for each way out of the stream.
fn seed(primary: &PgServer, tables: &[&str]) -> Result<()> {
    primary.execute("CREATE SCHEMA hidden")?;
    for table in tables {
        primary.execute(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v text);
             INSERT INTO {table} SELECT n, 'v' || n FROM generate_series(1, 50) n"
        ))?;
    }
    Ok(())
}

/// Waits until all replicas hold what the primary holds and stream.
fn becomes_equal(group: &Group) -> Result<()> {
    let started = Instant::now();
    loop {
        let equal = group.equal();
        if equal.is_ok() || started.elapsed() > PATIENCE {
            return equal;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Out of the stream and back again, with changes in between, table by table.
const WAYS: &[(&str, &str, &str)] = &[
    // The daemon adds it again.
    ("removed", "ALTER PUBLICATION repl_g DROP TABLE removed", ""),
    (
        "member",
        "ALTER PUBLICATION repl_g DROP TABLE member",
        "ALTER PUBLICATION repl_g ADD TABLE member",
    ),
    (
        "unlogged",
        "ALTER PUBLICATION repl_g DROP TABLE unlogged; ALTER TABLE unlogged SET UNLOGGED",
        "ALTER TABLE unlogged SET LOGGED; ALTER PUBLICATION repl_g ADD TABLE unlogged",
    ),
    (
        "moved",
        "ALTER TABLE moved SET SCHEMA hidden; SET search_path = hidden",
        "ALTER TABLE hidden.moved SET SCHEMA public",
    ),
    (
        "named",
        "ALTER TABLE named RENAME TO temporary; ALTER TABLE member RENAME TO named; \
         ALTER TABLE temporary RENAME TO member",
        "ALTER TABLE named RENAME TO temporary; ALTER TABLE member RENAME TO named; \
         ALTER TABLE temporary RENAME TO member",
    ),
];

/// Those that came with PostgreSQL 15.
const WAYS_15: &[(&str, &str, &str)] = &[
    (
        "filtered",
        "ALTER PUBLICATION repl_g DROP TABLE filtered; \
         ALTER PUBLICATION repl_g ADD TABLE filtered WHERE (id < 0)",
        "ALTER PUBLICATION repl_g DROP TABLE filtered; ALTER PUBLICATION repl_g ADD TABLE filtered",
    ),
    (
        "columned",
        "ALTER PUBLICATION repl_g DROP TABLE columned; \
         ALTER PUBLICATION repl_g ADD TABLE columned (id)",
        "ALTER PUBLICATION repl_g DROP TABLE columned; ALTER PUBLICATION repl_g ADD TABLE columned",
    ),
];

fn ways(primary: &PgServer) -> Result<Vec<(&'static str, &'static str, &'static str)>> {
    let newer = if primary.major()? < 15 { &[] } else { WAYS_15 };
    Ok(WAYS.iter().chain(newer).copied().collect())
}

#[test]
fn a_table_that_was_out_of_the_stream_is_compared_with_the_primary() -> Result<()> {
    let mut group = Group::configured(
        2,
        |primary| {
            let ways = ways(primary)?;
            let mut tables: Vec<&str> = ways.iter().map(|(table, ..)| *table).collect();
            tables.push("untouched");
            seed(primary, &tables)
        },
        |config| config.set("tables", "exclude", &["hidden.*"][..]),
    )?;
    group.daemon.allow_log("was out of the stream");
    group.daemon.allow_log("replica paused");
    group.equal()?;
    let ways = ways(&group.primary)?;
    // Undone within one refresh, or nearly; a paused replica meets it when it goes on.
    group.replctl(&["pause", "replica-2"])?;
    for (table, out, back) in &ways {
        let sql = format!("{out}; {}; {back}", changes(table));
        group.primary.execute(&sql).context(*table)?;
    }
    let alone = "SELECT count(*) FROM removed WHERE v = 'late'";
    wait_query(group.replica(), alone, "1")?;
    group.replctl(&["resume", "replica-2"])?;
    becomes_equal(&group)?;
    group.replctl(&["status", "--check"])?;

    // While the daemon was down as well.
    let stopped = group.daemon.terminate()?;
    assert!(stopped.success());
    for (table, out, back) in &ways {
        let sql = format!("{out}; {}; {back}", changes(table));
        group.primary.execute(&sql).context(*table)?;
    }
    group.daemon.start()?;
    becomes_equal(&group)?;
    let log = std::fs::read_to_string(group.daemon.log_file())?;
    assert_contains(&log, "public.member");
    // What was in the stream all the time is not read again.
    assert!(
        !log.lines()
            .any(|line| line.contains("\"public.untouched\"") && line.contains("compared"))
    );
    group.daemon.finish()
}

/// The options of the publication concern all its tables.
#[test]
fn a_publication_that_left_out_operations_has_its_tables_compared() -> Result<()> {
    let mut group = Group::start(1, |primary| seed(primary, &["one", "two"]))?;
    group.daemon.ignore_log();
    group.equal()?;
    let out = "ALTER PUBLICATION repl_g SET (publish = 'insert')";
    let back = "ALTER PUBLICATION repl_g SET (publish = 'insert, update, delete, truncate')";
    let sql = format!("{out}; {}; {}; {back}", changes("one"), changes("two"));
    group.primary.execute(&sql)?;
    becomes_equal(&group)?;

    // One that stays so is refused, with what mends it and loses nothing.
    group
        .primary
        .execute(&format!("{out}; {}", changes("one")))?;
    let refusal = group.refusal()?;
    assert!(
        !refusal.advice.contains("DROP PUBLICATION"),
        "{}",
        refusal.advice
    );
    let statement = refusal.advice.split("run: ").nth(1).unwrap_or_default();
    let statement = statement.split(';').next().unwrap_or_default();
    group.primary.execute(statement)?;
    becomes_equal(&group)?;

    // The same while nobody looked.
    group.daemon.terminate()?;
    group.primary.execute(&sql)?;
    group.daemon.start()?;
    becomes_equal(&group)?;

    // A key that is away for a while: the table leaves the stream, so that the application may go on.
    group
        .primary
        .execute("ALTER TABLE one DROP CONSTRAINT one_pkey")?;
    group.table_becomes("public.one", TableState::Refused)?;
    group.primary.execute(&changes("one"))?;
    group
        .primary
        .execute("ALTER TABLE one ADD PRIMARY KEY (id)")?;
    becomes_equal(&group)
}

/// Before PostgreSQL 18 the server fails on changes made while there was no publication.
#[test]
fn a_publication_that_was_dropped_leads_to_a_new_copy_or_a_comparison() -> Result<()> {
    let mut group = Group::start(1, |primary| seed(primary, &["one"]))?;
    group.daemon.ignore_log();
    group.equal()?;
    let sql = format!("DROP PUBLICATION repl_g; {}", changes("one"));
    group.primary.execute(&sql)?;
    if group.primary.major()? < 18 {
        group
            .daemon
            .wait_replica("replica-1", "needing a resync", PATIENCE, |replica| {
                replica.membership == Membership::NeedsResync
            })?;
        group.streams()?;
        group.replctl(&["resync", "replica-1", "--yes"])?;
    }
    becomes_equal(&group)
}

/// What a replica does not receive by its own, or the group's, configuration is not kept up to date.
#[test]
fn what_was_excluded_for_a_while_is_compared_when_it_is_included_again() -> Result<()> {
    let tables = ["a", "b", "c", "d"];
    let mut group = Group::configured(
        1,
        |primary| {
            seed(primary, &tables)?;
            primary.execute("CREATE PUBLICATION repl_g FOR TABLE a, b, c, d")
        },
        |config| config.set("capture", "manage_publication", false),
    )?;
    group.daemon.ignore_log();
    group.equal()?;
    let whole = group.daemon.config().clone();
    let without = |config: DaemonConfig| {
        config
            .set("tables", "exclude", &["public.a"][..])
            .set(
                "tables",
                "rename",
                Toml::raw("[{ from = \"public.c\", to = \"elsewhere.c\" }]"),
            )
            .with_of("replica-1", "tables.exclude", &["public.b"][..])
    };
    group.daemon.terminate()?;
    group.daemon.set_config(without(whole.clone()))?;
    group.daemon.start()?;
    for table in tables {
        group.primary.execute(&changes(table))?;
    }
    group.caught_up()?;
    wait_query(
        group.replica(),
        "SELECT count(*) FROM d WHERE v = 'late'",
        "1",
    )?;
    group.daemon.terminate()?;
    group.replica().execute("DROP SCHEMA elsewhere CASCADE")?;
    group.daemon.set_config(whole)?;
    group.daemon.start()?;
    // Whether the rows it would come back to are the daemon's own is not known any more.
    let refused = group.paused_by_error(1)?;
    assert_contains(&refused.message, "public.c already holds rows");
    group.replctl(&["resync", "replica-1", "--tables", "public.c", "--yes"])?;
    becomes_equal(&group)
}

/// A transaction may have written to a table before it came back into the publication, and commit later.
#[test]
fn writers_from_before_are_waited_for_before_a_table_is_read() -> Result<()> {
    let mut group = Group::start(1, |primary| seed(primary, &["t"]))?;
    group.daemon.allow_log("was out of the stream");
    group.equal()?;
    let url = group.primary.url(DATABASE, Role::Superuser);
    let mut writer = Session::open(&url)?;
    group
        .primary
        .execute("ALTER PUBLICATION repl_g DROP TABLE t")?;
    writer.execute("BEGIN")?;
    writer.execute("UPDATE t SET v = 'before' WHERE id = 1")?;
    group
        .primary
        .execute("ALTER PUBLICATION repl_g ADD TABLE t")?;
    group
        .daemon
        .wait_replica("replica-1", "resyncing", PATIENCE, |replica| {
            replica.membership == Membership::Resyncing
        })?;
    // What does not wait for it is read at once.
    group
        .primary
        .execute("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")?;
    let made = "SELECT to_regclass('other') IS NOT NULL";
    wait_query(group.replica(), made, "t")?;
    assert_ne!(group.state(1)?.membership, Membership::Streaming);
    writer.execute("COMMIT")?;
    becomes_equal(&group)?;
    group.daemon.finish()
}
