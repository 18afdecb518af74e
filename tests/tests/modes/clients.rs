//! Clients that ask whether their commit has arrived.

use anyhow::{Result, ensure};
use repl_api::{WaitDone, WaitRequest};
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;

use super::rig::{PATIENCE, PG, Rig};

fn wait(daemon: &Daemon, token: Option<&str>, timeout_ms: u64) -> Result<WaitDone> {
    let request = WaitRequest {
        token: token.map(str::to_owned),
        replicas: Some(1),
        timeout_ms,
    };
    Ok(daemon.call(|client| async move { client.wait(&request).await })?)
}

#[test]
fn a_client_of_postgresql_waits_by_the_position_of_its_commit() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| config)?;
    rig.daemon.start()?;
    rig.daemon.wait_caught_up(&rig.primary, PATIENCE)?;
    for n in 0..5 {
        rig.primary
            .execute(&format!("INSERT INTO public.history VALUES (1, {n})"))?;
        let token = rig.primary.query("SELECT pg_current_wal_insert_lsn()")?;
        let token = (n % 2 == 0).then_some(token.as_str());
        let done = wait(&rig.daemon, token, 20_000)?;
        ensure!(done.done && done.applied_on == [PG], "{done:?}");
        let found = rig.pg.query_i64(&format!(
            "SELECT count(*) FROM public.history WHERE n = {n}"
        ))?;
        ensure!(found == 1, "row {n} is not there");
    }
    rig.pg.freeze()?;
    rig.primary
        .execute("INSERT INTO public.history VALUES (2, 1)")?;
    let late = wait(&rig.daemon, None, 1000);
    rig.pg.thaw()?;
    ensure!(!late?.done, "a frozen replica has applied");
    let asked = rig.replctl(&["wait", "--timeout", "20s", "--json"])?;
    ensure!(asked.status.success(), "{asked:?}");
    let wrong = rig.replctl(&["wait", "--token", "soon"])?;
    ensure!(wrong.status.code() == Some(1), "{wrong:?}");
    let many = rig.replctl(&["wait", "--replicas", "2"])?;
    ensure!(many.status.code() == Some(1), "{many:?}");
    Ok(())
}

#[test]
fn a_client_of_sqlite_waits_where_that_is_allowed() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    primary.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")?;
    let replica = SqliteDb::at(&scratch.join("replica.db"));
    let config = DaemonConfig::new("modes", &scratch.join("log"))
        .set("log", "min_free_disk", "0B")
        .set("replication", "mode", "sync")
        .primary("main", &primary.url())
        .replica("r", &replica.url());
    let mut refused = Daemon::new(config.clone())?;
    refused.ignore_log();
    let refusal = refused.start().err().map(|error| format!("{error:#}"));
    ensure!(refusal.is_some(), "accepted without client_wait");
    let mut daemon = Daemon::new(config.set("replication", "client_wait", true))?;
    daemon.ignore_log();
    daemon.start()?;
    let last = "SELECT coalesce(max(id), 0) FROM _repl_changes";
    // Its table comes with the first start of the capture.
    wait_until("the capture", PATIENCE, || {
        Ok(primary.query_i64(last).is_ok())
    })?;
    for n in 0..20 {
        primary.execute(&format!("INSERT INTO t VALUES ({n})"))?;
        let token = primary.query_i64(last)?.to_string();
        let token = Some(token.as_str()).filter(|_| n % 2 == 0);
        let done = wait(&daemon, token, 20_000)?;
        ensure!(done.done, "{done:?}");
        let found = replica.query_i64(&format!("SELECT count(*) FROM t WHERE id = {n}"))?;
        ensure!(found == 1, "row {n} is not there: {done:?}");
    }
    Ok(())
}
