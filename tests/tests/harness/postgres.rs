use std::time::{Duration, Instant};

use anyhow::Result;
use repl_tests::pg::{PgServer, Role, Session, StopMode};
use repl_tests::process::{descendants, is_running};

#[test]
fn a_server_survives_stop_kill_and_restart() -> Result<()> {
    let mut server = PgServer::builder("one")
        .setting("work_mem", "5MB")
        .start()?;
    assert_eq!(
        server.query("SHOW wal_level; SHOW work_mem")?,
        "logical\n5MB"
    );
    server.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")?;
    let port = server.port();

    server.stop(StopMode::Fast, Duration::from_secs(20))?;
    assert!(server.query("SELECT 1").is_err());
    server.start()?;
    server.execute("INSERT INTO t VALUES (2)")?;

    let postmaster = server.pid().expect("running");
    let below = descendants(postmaster)?;
    assert!(
        below.len() >= 5,
        "background processes expected, found {below:?}"
    );
    server.kill9()?;
    assert!(!is_running(postmaster));
    assert!(!below.iter().any(|&pid| is_running(pid)));
    server.start()?;
    assert_eq!(server.port(), port);
    assert_eq!(server.query("SELECT n FROM t ORDER BY n")?, "1\n2");
    Ok(())
}

#[test]
fn dropping_a_server_ends_its_processes_even_when_frozen() -> Result<()> {
    let mut server = PgServer::builder("frozen").start()?;
    let postmaster = server.pid().expect("running");
    server.freeze()?;
    let url = server.url("app", Role::Superuser);
    let started = Instant::now();
    drop(server);
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "SIGQUIT must suffice"
    );
    assert!(!is_running(postmaster));
    assert!(Session::open(&url).is_err());
    Ok(())
}

#[test]
fn an_old_copy_of_the_data_directory_can_be_restored() -> Result<()> {
    let mut server = PgServer::builder("old").start()?;
    server.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")?;
    assert!(
        server.save_copy().is_err(),
        "copying a running server must be refused"
    );
    server.stop(StopMode::Fast, Duration::from_secs(20))?;
    let copy = server.save_copy()?;
    server.start()?;
    server.execute("INSERT INTO t VALUES (2)")?;
    for _ in 0..2 {
        server.stop(StopMode::Immediate, Duration::from_secs(20))?;
        server.restore_copy(&copy)?;
        server.start()?;
        assert_eq!(server.query("SELECT n FROM t")?, "1");
    }
    Ok(())
}

#[test]
fn accounts_prove_themselves_over_tcp() -> Result<()> {
    let server = PgServer::builder("accounts").start()?;
    for role in Role::ALL {
        let mut session = server.session("app", role)?;
        assert_eq!(
            session.scalar("SELECT current_user::text")?.as_deref(),
            Some(role.name())
        );
    }
    let wrong = format!(
        "postgresql://repl_capture:wrong@127.0.0.1:{}/app",
        server.port()
    );
    let refusal = format!("{:#}", Session::open(&wrong).expect_err("a wrong password"));
    assert!(
        refusal.contains("password authentication failed"),
        "{refusal}"
    );
    let trusted = server.socket_url("app", Role::Capture);
    Session::open(&trusted)?;
    let rights = "SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = 'repl_capture'";
    assert_eq!(server.query(rights)?, "f|t");
    Ok(())
}

#[test]
fn errors_say_which_statement_failed() -> Result<()> {
    let server = PgServer::builder("errors").start()?;
    let error = server
        .execute("SELECT 1;\nSELECT * FROM absent;")
        .expect_err("no such table");
    let text = format!("{error:#}");
    assert!(
        text.contains("relation \"absent\" does not exist"),
        "{text}"
    );
    assert!(text.contains("psql on errors"), "{text}");
    Ok(())
}

#[test]
fn a_session_holds_its_transaction() -> Result<()> {
    let server = PgServer::builder("session").start()?;
    server.execute("CREATE TABLE t (n int)")?;
    let mut session = server.session("app", Role::Superuser)?;
    session.execute("BEGIN")?;
    assert_eq!(session.execute("INSERT INTO t VALUES (1), (2)")?, 2);
    assert_eq!(server.query_i64("SELECT count(*) FROM t")?, 0);
    session.execute("COMMIT")?;
    assert_eq!(server.query_i64("SELECT count(*) FROM t")?, 2);
    Ok(())
}
