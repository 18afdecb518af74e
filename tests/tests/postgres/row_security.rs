//! Row security shows a role a part of a table, and tells it nothing of the rest.

use std::process::Command;

use anyhow::Result;
use repl_api::{ErrorKind, TableState, Verdict};
use repl_tests::daemon::binaries::program;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;

use super::group::{Group, PATIENCE, assert_contains, wait_query};

/// A table of which a role that the policy applies to sees 3 of 9 rows.
const INVENTORY: &str = "CREATE TABLE inv (id int PRIMARY KEY, tenant int);
    INSERT INTO inv SELECT n, n % 3 FROM generate_series(1, 9) n;
    ALTER TABLE inv ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON inv USING (tenant = 1);";

fn check(config: &DaemonConfig, scratch: &Scratch) -> Result<String> {
    let file = scratch.join("check.toml");
    std::fs::write(&file, config.render())?;
    let output = Command::new(program("repl-daemon")?)
        .arg("--check")
        .arg(&file)
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// A role with the right to read and nothing else, as the README has it: the publication is made for it.
#[test]
fn a_reading_role_copies_all_rows_or_none() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    let replica = PgServer::builder("replica-1").start()?;
    primary.execute(&format!(
        "{INVENTORY} CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1);
         CREATE PUBLICATION repl_g FOR TABLE inv, plain;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO repl_capture"
    ))?;
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .set("capture", "manage_publication", false)
        .primary("main", &primary.url(DATABASE, Role::Capture))
        .replica("replica-1", &replica.url(DATABASE, Role::Superuser));
    let report = check(&config, &scratch)?;
    assert_contains(&report, "public.inv");
    assert_contains(&report, "ALTER ROLE \"repl_capture\" BYPASSRLS");
    let mut daemon = Daemon::new(config)?;
    daemon.allow_log("table refused");
    daemon.start()?;
    let group = Group {
        daemon,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
    };
    let table = group.table_becomes("public.inv", TableState::Refused)?;
    let remedy = table.remedy.unwrap_or_default();
    assert_contains(&table.reason.unwrap_or_default(), "row security");
    group.table_becomes("public.plain", TableState::Replicated)?;
    wait_query(group.replica(), "SELECT to_regclass('inv') IS NULL", "t")?;
    group.primary.execute(&remedy)?;
    wait_query(
        group.replica(),
        "SELECT to_regclass('inv') IS NOT NULL",
        "t",
    )?;
    group.equal()?;
    assert_eq!(group.replica().query("SELECT count(*) FROM inv")?, "9");
    group.daemon.finish()
}

/// A table that is followed stays so, since the stream is not filtered; it can be neither compared nor
/// copied while rows are hidden. The same at the replica, for its owner too once it is forced.
#[test]
fn hidden_rows_stop_what_would_not_see_them() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary").start()?;
    let replica = PgServer::builder("replica-1").start()?;
    primary.execute(&format!(
        "GRANT CREATE ON DATABASE app TO repl_capture; {INVENTORY}
         ALTER TABLE inv OWNER TO repl_capture"
    ))?;
    replica.execute(
        "GRANT CREATE ON DATABASE app TO repl_apply; GRANT CREATE ON SCHEMA public TO repl_apply",
    )?;
    match replica.major()? {
        ..15 => replica.execute("ALTER ROLE repl_apply SUPERUSER")?,
        _ => replica.execute("GRANT SET ON PARAMETER session_replication_role TO repl_apply")?,
    }
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &primary.url(DATABASE, Role::Capture))
        .replica("replica-1", &replica.url(DATABASE, Role::Apply));
    let mut daemon = Daemon::new(config)?;
    daemon.ignore_log();
    daemon.start()?;
    let group = Group {
        daemon,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
    };
    // An owner is not filtered, unless that is forced.
    group.equal()?;
    group
        .primary
        .execute("ALTER TABLE inv FORCE ROW LEVEL SECURITY; INSERT INTO inv VALUES (10, 2)")?;
    group.equal()?;
    for deep in [false, true] {
        let request = repl_api::ValidationRequest {
            deep,
            ..repl_api::ValidationRequest::default()
        };
        let begun = group
            .daemon
            .call(|client| async move { client.validate(&request).await })?;
        let outcome = repl_tests::wait::wait_for("the validation", PATIENCE, || {
            let id = begun.id.clone();
            let now = group
                .daemon
                .call(|client| async move { client.validation(&id).await })?;
            Ok(now.is_over().then_some(now))
        })?;
        assert_eq!(outcome.verdict, Some(Verdict::Undetermined), "{outcome:#?}");
        assert_contains(&format!("{outcome:?}"), "row security");
    }
    let _ = group
        .daemon
        .replctl(&["resync", "replica-1", "--tables", "public.inv", "--yes"])?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Privilege, "{error:?}");
    assert_eq!(error.table.as_deref(), Some("public.inv"));
    assert_contains(&error.advice, "ALTER ROLE \"repl_capture\" BYPASSRLS");
    assert_eq!(group.replica().query("SELECT count(*) FROM inv")?, "10");
    group
        .primary
        .execute("ALTER ROLE repl_capture BYPASSRLS; DELETE FROM inv WHERE id = 3")?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    if group.replica().major()? < 15 {
        return Ok(());
    }
    // Found before the first row where the table is looked at, and by the server's word where it was known.
    let protect = "ALTER TABLE inv ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                   CREATE POLICY two ON inv USING (tenant = 1)";
    group.replica().execute(protect)?;
    group
        .primary
        .execute("UPDATE inv SET tenant = 1; INSERT INTO inv VALUES (11, 2)")?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Privilege, "{error:?}");
    assert_contains(&error.advice, "BYPASSRLS");
    group.replctl(&["retry", "replica-1"])?;
    let error = group.paused_by_error(1)?;
    assert_contains(&error.advice, "ALTER ROLE \"repl_apply\" BYPASSRLS");
    group.replica().execute("ALTER ROLE repl_apply BYPASSRLS")?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()
}
