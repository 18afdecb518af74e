//! What the daemon refuses to start with, the statement that mends it, and going on by itself.

use anyhow::Result;
use repl_api::{ErrorInfo, ErrorKind, TableState, TableStatus};
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;

use super::group::{Group, assert_contains, wait_query};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')";

/// The statement in an advice of the form `…run: STATEMENT;…`.
fn statement(error: &ErrorInfo) -> String {
    let after = error.advice.split("run: ").nth(1).unwrap_or_default();
    // A script is run whole.
    if after.starts_with("BEGIN") {
        return after.to_owned();
    }
    after.split(';').next().unwrap_or_default().to_owned()
}

/// The statement that mends a table.
fn remedy(table: &TableStatus) -> String {
    let text = table.remedy.clone().unwrap_or_default();
    text.split("run: ")
        .nth(1)
        .map_or(text.clone(), str::to_owned)
}

#[test]
fn wal_level_is_refused_with_the_statement_and_works_after_a_restart() -> Result<()> {
    let mut group = Group::prepared(1, |primary| primary.execute(TABLE), |config| config)?;
    group
        .primary
        .execute("ALTER SYSTEM SET wal_level = 'replica'")?;
    group.primary.restart()?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    let refusal = group.refusal()?;
    assert_eq!(refusal.kind, ErrorKind::Configuration);
    assert_eq!(
        statement(&refusal),
        "ALTER SYSTEM SET wal_level = 'logical'"
    );
    assert_contains(
        &group
            .replctl(&["status"])
            .unwrap_or_else(|error| format!("{error:#}")),
        "wal_level",
    );
    group.primary.execute(&statement(&refusal))?;
    group.primary.restart()?;
    group.streams()?;
    group.equal()
}

#[test]
fn missing_privileges_are_refused_with_the_statement_that_grants_them() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| {
            primary.execute(TABLE)?;
            primary.execute("ALTER ROLE repl_capture NOREPLICATION")
        },
        |config| config,
    )?;
    let config = group.daemon.config().clone();
    group.daemon.set_config(config.with_of(
        "main",
        "url",
        group.primary.url(DATABASE, Role::Capture).as_str(),
    ))?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    let mut granted = Vec::new();
    // One privilege after the other is asked for, each by the statement that grants it.
    for _ in 0..8 {
        let refusal = group.daemon.wait_status(
            "a refusal or streaming",
            super::group::PATIENCE,
            |status| {
                let streams = status.primary.state == repl_api::PrimaryState::Streaming;
                match &status.primary.refusal {
                    Some(refusal) if !granted.contains(&statement(refusal)) => {
                        Some(Some(refusal.clone()))
                    }
                    None if streams => Some(None),
                    _ => None,
                }
            },
        )?;
        let Some(refusal) = refusal else { break };
        assert_eq!(refusal.kind, ErrorKind::Privilege, "{refusal:?}");
        let statement = statement(&refusal);
        assert!(!statement.is_empty(), "{refusal:?}");
        group.primary.execute(&statement)?;
        granted.push(statement);
    }
    assert_contains(
        &granted.join("\n"),
        "ALTER ROLE \"repl_capture\" REPLICATION",
    );
    group.streams()?;
    Ok(())
}

#[test]
fn no_room_for_a_slot_is_refused_until_there_is() -> Result<()> {
    let mut group = Group::prepared(1, |primary| primary.execute(TABLE), |config| config)?;
    group.primary.set("max_replication_slots", "1")?;
    group.primary.restart()?;
    group
        .primary
        .execute("SELECT pg_create_physical_replication_slot('taken')")?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    let refusal = group.refusal()?;
    assert_contains(&refusal.advice, "ALTER SYSTEM SET max_replication_slots");
    assert_contains(&refusal.advice, "drop slots nothing uses");
    group
        .primary
        .execute("SELECT pg_drop_replication_slot('taken')")?;
    group.streams()?;
    group.equal()
}

#[test]
fn a_publication_for_all_tables_is_refused() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| {
            primary.execute(TABLE)?;
            primary.execute("CREATE PUBLICATION repl_g FOR ALL TABLES")
        },
        |config| config,
    )?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    let refusal = group.refusal()?;
    assert_contains(&refusal.message, "ALL TABLES");
    group.primary.execute(&statement(&refusal))?;
    group.streams()?;
    group.equal()
}

#[test]
fn an_unmanaged_publication_is_left_to_the_operator() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| primary.execute(TABLE),
        |config| config.set("capture", "manage_publication", false),
    )?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    let refusal = group.refusal()?;
    assert_eq!(statement(&refusal), "CREATE PUBLICATION \"repl_g\"");
    group.primary.execute(&statement(&refusal))?;
    group.streams()?;
    let table = group.table_becomes("public.t", TableState::Refused)?;
    group.primary.execute(&remedy(&table))?;
    group.table_becomes("public.t", TableState::Replicated)?;
    wait_query(group.replica(), "SELECT to_regclass('t') IS NOT NULL", "t")?;
    group.equal()?;
    group.primary.execute("INSERT INTO t VALUES (2, 'b')")?;
    group.equal()?;
    // A table that is not in it is shown with its statement; the others go on.
    group
        .primary
        .execute("CREATE TABLE another (id int PRIMARY KEY); INSERT INTO another VALUES (1)")?;
    let table = group.table_becomes("public.another", TableState::Refused)?;
    assert_contains(
        &remedy(&table),
        "ALTER PUBLICATION \"repl_g\" ADD TABLE \"public\".\"another\"",
    );
    group.primary.execute("INSERT INTO t VALUES (3, 'c')")?;
    wait_query(group.replica(), "SELECT count(*) FROM t", "3")?;
    group.primary.execute(&remedy(&table))?;
    group.table_becomes("public.another", TableState::Replicated)?;
    wait_query(
        group.replica(),
        "SELECT to_regclass('another') IS NOT NULL",
        "t",
    )?;
    group.equal()
}

/// The rights the documentation asks for, and no others, are enough for everything.
#[test]
fn least_privileged_roles_are_enough() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    let replica = PgServer::builder("replica-1").start()?;
    let owner = |sql: &str| primary.psql(DATABASE, Role::Application, sql);
    primary.execute(
        "CREATE SCHEMA shop AUTHORIZATION app_owner;
         -- Capture: REPLICATION is an attribute of the role.
         GRANT CONNECT, CREATE ON DATABASE app TO repl_capture;
         GRANT USAGE ON SCHEMA shop TO repl_capture;
         GRANT app_owner TO repl_capture",
    )?;
    owner(
        "CREATE TYPE shop.color AS ENUM ('red');
           CREATE TABLE shop.t (id serial PRIMARY KEY, c shop.color DEFAULT 'red', v text);
           CREATE TABLE shop.u (id int PRIMARY KEY REFERENCES shop.t);
           INSERT INTO shop.t (v) VALUES ('a'), ('b'); INSERT INTO shop.u VALUES (1)",
    )?;
    // Apply: may create schemas in its database and act as a replica session.
    replica.execute("GRANT CONNECT, CREATE ON DATABASE app TO repl_apply")?;
    if replica.major()? >= 15 {
        replica.execute("GRANT SET ON PARAMETER session_replication_role TO repl_apply")?;
    } else {
        replica.execute("ALTER ROLE repl_apply SUPERUSER")?;
    }
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &primary.url(DATABASE, Role::Capture))
        .replica("replica-1", &replica.url(DATABASE, Role::Apply));
    let group = Group {
        daemon: Daemon::launch(config)?,
        primary,
        replicas: vec![replica],
        scratch,
    };
    group.equal()?;
    let owner = |sql: &str| group.primary.psql(DATABASE, Role::Application, sql);
    owner("INSERT INTO shop.t (v) SELECT 'n' FROM generate_series(1, 100); UPDATE shop.t SET v = 'x' WHERE id % 3 = 0;
           DELETE FROM shop.t WHERE id % 5 = 0; INSERT INTO shop.u SELECT id FROM shop.t WHERE id > 50;
           TRUNCATE shop.u; ALTER TABLE shop.t ADD COLUMN n int DEFAULT 4; UPDATE shop.t SET n = id;
           CREATE TABLE shop.late (id int PRIMARY KEY); INSERT INTO shop.late VALUES (1)")?;
    wait_query(
        group.replica(),
        "SELECT to_regclass('shop.late') IS NOT NULL",
        "t",
    )?;
    group.equal()?;
    group.daemon.finish()
}
