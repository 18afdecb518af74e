//! What the daemon refuses to start with, the statement that mends it, and going on by itself.

use std::process::Command;

use anyhow::{Context, Result};
use repl_api::{ErrorInfo, ErrorKind, TableState, TableStatus};
use repl_tests::daemon::binaries::program;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::proxy::Proxy;
use repl_tests::scratch::Scratch;

use super::group::{Group, PATIENCE, assert_contains, wait_query};

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
        let refusal = group
            .daemon
            .wait_status("a refusal or streaming", PATIENCE, |status| {
                let streams = status.primary.state == repl_api::PrimaryState::Streaming;
                match &status.primary.refusal {
                    Some(refusal) if !granted.contains(&statement(refusal)) => {
                        Some(Some(refusal.clone()))
                    }
                    None if streams => Some(None),
                    _ => None,
                }
            })?;
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
        "ALTER PUBLICATION \"repl_g\" ADD TABLE ONLY \"public\".\"another\"",
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
    allow_replica_role(&replica)?;
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &primary.url(DATABASE, Role::Capture))
        .replica("replica-1", &replica.url(DATABASE, Role::Apply));
    let group = Group {
        daemon: Daemon::launch(config)?,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
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

/// Where a superuser makes publication and tables, rights to read and to write rows are enough.
#[test]
fn roles_that_own_nothing_are_enough_when_publication_and_tables_are_made_for_them() -> Result<()> {
    const TABLES: &str = "
        CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE u (id int PRIMARY KEY REFERENCES t ON DELETE CASCADE, v text UNIQUE);
        CREATE TABLE loose (v json); ALTER TABLE loose REPLICA IDENTITY FULL;";
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    let replica = PgServer::builder("replica-1").start()?;
    primary.execute(TABLES)?;
    primary.execute(
        "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 50) n; INSERT INTO u SELECT id, id::text FROM t;
         INSERT INTO loose VALUES ('1'), ('1');
         CREATE PUBLICATION repl_g FOR TABLE t, u, loose;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO repl_capture",
    )?;
    replica.execute(TABLES)?;
    replica.execute(
        "CREATE SCHEMA repl AUTHORIZATION repl_apply;
         GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO repl_apply",
    )?;
    allow_replica_role(&replica)?;
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .set("capture", "manage_publication", false)
        .primary("main", &primary.url(DATABASE, Role::Capture))
        .replica("replica-1", &replica.url(DATABASE, Role::Apply))
        .with("tables.create_tables", false)
        .with("tables.create_foreign_keys", false);
    let group = Group {
        daemon: Daemon::launch(config)?,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
    };
    group.equal()?;
    group.primary.execute(
        "UPDATE t SET v = 'w' WHERE id % 2 = 0; DELETE FROM t WHERE id > 40; INSERT INTO t VALUES (100, 'x');
         DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose); UPDATE t SET id = id + 1000 WHERE id = 100;
         UPDATE u SET v = v || '.'; TRUNCATE loose",
    )?;
    group.equal()?;
    group.daemon.finish()
}

fn allow_replica_role(replica: &PgServer) -> Result<()> {
    if replica.major()? < 15 {
        return replica.execute("ALTER ROLE repl_apply SUPERUSER");
    }
    replica.execute("GRANT SET ON PARAMETER session_replication_role TO repl_apply")
}

#[test]
fn a_replica_names_the_privileges_it_lacks() -> Result<()> {
    let mut group = Group::prepared(1, |primary| primary.execute(TABLE), |config| config)?;
    let url = group.replica().url(DATABASE, Role::Apply);
    let config = group.daemon.config().clone();
    group
        .daemon
        .set_config(config.with_of("replica-1", "url", url.as_str()))?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    if group.replica().major()? < 15 {
        return Ok(());
    }
    let first = group.paused_by_error(1)?;
    assert_eq!(first.kind, ErrorKind::Privilege);
    assert_contains(
        &first.advice,
        "GRANT SET ON PARAMETER session_replication_role TO \"repl_apply\"",
    );
    allow_replica_role(group.replica())?;
    group.replctl(&["retry", "replica-1"])?;
    let second = group
        .daemon
        .wait_status("the next refusal", PATIENCE, |status| {
            let error = status.replica("replica-1")?.last_error.clone()?;
            error.advice.contains("CREATE").then_some(error)
        })?;
    assert_contains(
        &second.advice,
        "GRANT CREATE ON DATABASE \"app\" TO \"repl_apply\"",
    );
    group.replica().execute(
        "GRANT CREATE ON DATABASE app TO repl_apply; GRANT CREATE ON SCHEMA public TO repl_apply",
    )?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()
}

/// What is applied to the primary itself would come again, for ever.
#[test]
fn a_replica_that_is_the_primary_under_another_address_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    primary.execute("CREATE TABLE t (v int); ALTER TABLE t REPLICA IDENTITY FULL")?;
    let elsewhere = Proxy::start(primary.port())?;
    let again = primary.url_via(elsewhere.port(), DATABASE, Role::Superuser);
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &primary.url(DATABASE, Role::Superuser))
        .replica("loop", &again);
    let mut daemon = Daemon::new(config)?;
    daemon.ignore_log();
    daemon.start()?;
    primary.execute("INSERT INTO t VALUES (1)")?;
    let state = daemon.wait_replica("loop", "to be refused", PATIENCE, |replica| {
        replica.last_error.is_some()
    })?;
    let error = state.last_error.context("asked for above")?;
    assert_eq!(error.kind, ErrorKind::Configuration, "{error:?}");
    assert_contains(&error.message, "the primary's own database");
    assert_eq!(primary.query("SELECT count(*) FROM t")?, "1");
    Ok(())
}

/// Nothing is started, and nothing is granted or made by the check itself.
#[test]
fn check_names_what_the_role_lacks() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    primary.execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE poor LOGIN REPLICATION PASSWORD 'p';
         REVOKE CREATE ON DATABASE app FROM PUBLIC",
    )?;
    let url = format!(
        "postgresql://poor:p@127.0.0.1:{}/{DATABASE}",
        primary.port()
    );
    let file = scratch.join("config.toml");
    let check = |manage: bool, include: &str| -> Result<(bool, String)> {
        let config = DaemonConfig::new("g", &scratch.join("log"))
            .primary("main", &url)
            .replica("r", "postgresql://nobody@127.0.0.1:1/nowhere")
            .set("capture", "manage_publication", manage)
            .set("tables", "include", &[include][..]);
        std::fs::write(&file, config.render())?;
        let output = Command::new(program("repl-daemon")?)
            .arg("--check")
            .arg(&file)
            .output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (good, report) = check(true, "*.*")?;
    assert!(!good, "{report}");
    assert_contains(&report, "may not make the publication");
    assert_contains(&report, "may not read public.t");
    let (good, report) = check(false, "*.*")?;
    assert!(!good, "{report}");
    assert_contains(
        &report,
        "CREATE PUBLICATION \"repl_g\" FOR TABLE ONLY \"public\".\"t\"",
    );
    primary.execute(&format!("GRANT CREATE ON DATABASE {DATABASE} TO poor"))?;
    let (good, report) = check(true, "*.*")?;
    assert!(good, "{report}");
    assert_contains(&report, "does not hold public.t");
    primary.execute("ALTER TABLE t OWNER TO poor")?;
    let (good, report) = check(true, "*.*")?;
    assert!(good && !report.contains("warning: primary"), "{report}");
    let (_, report) = check(true, "typo.*")?;
    assert_contains(&report, "no table that [tables] selects");
    assert_eq!(primary.query("SELECT count(*) FROM pg_publication")?, "0");
    Ok(())
}
