//! What refuses a connection is somebody's to mend, at the server or here; once it is, the replica goes on by itself.

use anyhow::Result;
use repl_api::{Directive, ErrorInfo, Membership};
use repl_tests::pg::{DATABASE, PgServer, Role};

use super::group::{Group, PATIENCE, assert_contains};

const END: &str = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
    WHERE datname IN ('app', 'away') AND pid <> pg_backend_pid()";

fn outside(server: &PgServer, sql: &str) -> Result<()> {
    server.psql("postgres", Role::Superuser, sql).map(drop)
}

/// The replica tells why it is not let in, and goes on trying.
fn waits(group: &Group, code: &str) -> Result<ErrorInfo> {
    let status = group
        .daemon
        .wait_replica("replica-1", "to be refused", PATIENCE, |replica| {
            let error = replica.last_error.as_ref();
            error.is_some_and(|error| {
                error.database_code.as_deref() == Some(code) && error.attempts > 1
            })
        })?;
    assert_ne!(status.membership, Membership::Paused);
    let error = status
        .last_error
        .unwrap_or_else(|| unreachable!("asked for above"));
    assert_eq!(error.directive, Directive::Retry, "{error:?}");
    assert!(!error.advice.is_empty(), "{error:?}");
    Ok(error)
}

#[test]
fn what_refuses_a_connection_heals_by_itself() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    })?;
    group.daemon.ignore_log();
    group.equal()?;
    let replica = &group.replicas[0];
    let others = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'";
    let password = replica.query(others)?;
    for (break_it, code, what, mend_it) in [
        (
            "ALTER ROLE postgres PASSWORD 'another'".to_owned(),
            "28P01",
            "password",
            format!("ALTER ROLE postgres PASSWORD '{password}'"),
        ),
        (
            format!(
                "ALTER DATABASE app ALLOW_CONNECTIONS false; {END}; ALTER DATABASE app RENAME TO away; \
                 ALTER DATABASE away ALLOW_CONNECTIONS true"
            ),
            "3D000",
            DATABASE,
            "ALTER DATABASE away RENAME TO app".to_owned(),
        ),
        (
            "ALTER DATABASE app ALLOW_CONNECTIONS false".to_owned(),
            "55000",
            "not currently accepting connections",
            "ALTER DATABASE app ALLOW_CONNECTIONS true".to_owned(),
        ),
    ] {
        outside(replica, &format!("{break_it}; {END}"))?;
        group
            .primary
            .execute("INSERT INTO t SELECT max(id) + 1 FROM t")?;
        let error = waits(&group, code)?;
        assert_contains(&error.message, what);
        outside(replica, &mend_it)?;
        group.equal()?;
    }
    group.daemon.finish()
}
