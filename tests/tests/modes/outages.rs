//! What commits do while something is away.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_api::ModeState;
use repl_tests::pg::{DATABASE, Role};
use repl_tests::wait::wait_until;

use super::rig::{A_WHILE, PATIENCE, Rig, mode};

#[test]
fn without_the_daemon_commits_block_and_none_is_lost_or_doubled() -> Result<()> {
    let mut rig = Rig::start_with("remote_write", false, |config| mode(config, "sync"))?;
    let clients = rig.clients(4)?;
    for _ in 0..3 {
        rig.wait_progress(&clients, 50)?;
        rig.daemon.kill9()?;
        rig.expect_blocked(&clients)?;
        rig.check_confirmed(1)?;
        rig.daemon.start()?;
    }
    rig.wait_progress(&clients, 50)?;
    rig.check_end(clients)
}

#[test]
fn a_stopped_replica_blocks_commits_until_it_goes_on() -> Result<()> {
    let mut rig = Rig::start(true, |config| mode(config, "sync"))?;
    let clients = rig.clients(4)?;
    rig.wait_progress(&clients, 50)?;
    rig.pg.freeze()?;
    rig.expect_blocked(&clients)?;
    rig.daemon
        .wait_status("the blockade to be reported", PATIENCE, |status| {
            let blocked = |problem: &String| problem.contains("blocked, waiting for r-pg");
            status.attention().iter().any(blocked).then_some(())
        })?;
    let commits = rig.commits()?;
    ensure!(
        commits.waiting >= 1 && commits.oldest_ms.is_some(),
        "{commits:?}"
    );
    let check = rig.replctl(&["status", "--check"])?;
    ensure!(check.status.code() == Some(4), "{check:?}");
    rig.pg.thaw()?;
    rig.wait_progress(&clients, 50)?;
    rig.check_end(clients)
}

#[test]
fn degraded_commits_go_on_and_the_guarantee_returns_by_itself() -> Result<()> {
    let mut rig = Rig::start(false, |config| {
        mode(config, "sync").set("replication", "on_timeout", "degrade")
    })?;
    let clients = rig.clients(4)?;
    rig.wait_progress(&clients, 50)?;
    rig.pg.freeze()?;
    // Blocked for the timeout, and not again and again afterwards.
    rig.wait_state(ModeState::Degraded)?;
    rig.wait_progress(&clients, 200)?;
    let commits = rig.commits()?;
    ensure!(commits.since_ms.is_some(), "{commits:?}");
    let reason = commits.reason.unwrap_or_default();
    ensure!(reason.contains("r-pg"), "{reason}");
    let check = rig.replctl(&["status", "--check"])?;
    ensure!(check.status.code() == Some(4), "{check:?}");
    rig.pg.thaw()?;
    rig.wait_state(ModeState::InForce)?;
    rig.wait_progress(&clients, 50)?;
    rig.daemon.kill9()?;
    rig.expect_blocked(&clients)?;
    rig.check_confirmed(1)?;
    rig.daemon.start()?;
    rig.check_end(clients)
}

#[test]
fn commits_of_other_databases_and_unpublished_tables_do_not_hang() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    let elsewhere = "INSERT INTO elsewhere VALUES (1)";
    let others = [
        ("postgres", elsewhere),
        (DATABASE, "INSERT INTO public.unpublished DEFAULT VALUES"),
    ];
    rig.primary.psql(
        "postgres",
        Role::Superuser,
        "CREATE TABLE elsewhere (id int)",
    )?;
    let mut slowest = Duration::ZERO;
    for (database, sql) in others.iter().cycle().take(6) {
        let begun = Instant::now();
        rig.primary.psql(database, Role::Superuser, sql)?;
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest commit nobody replicates: {slowest:?}");
    ensure!(slowest < Duration::from_secs(2), "{slowest:?}");
    // They wait for published commits ahead of them, and no longer.
    rig.pg.freeze()?;
    let primary = &rig.primary;
    let (published, other) = thread::scope(|scope| {
        let published =
            scope.spawn(|| primary.execute("INSERT INTO public.history VALUES (100, 1)"));
        thread::sleep(Duration::from_millis(300));
        let other = scope.spawn(|| primary.psql("postgres", Role::Superuser, elsewhere));
        thread::sleep(A_WHILE);
        let waited = !published.is_finished();
        let thawed = rig.pg.thaw();
        (
            published
                .join()
                .map(|done| done.and(thawed).map(|()| waited)),
            other.join(),
        )
    });
    let waited = published.map_err(|_| anyhow::anyhow!("a client panicked"))??;
    ensure!(waited, "the published commit did not wait");
    other
        .map_err(|_| anyhow::anyhow!("a client panicked"))?
        .map(drop)
}

#[test]
fn a_cancelled_wait_is_indeterminate() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    rig.pg.freeze()?;
    let insert = "INSERT INTO public.history VALUES (200, 1)";
    let primary = &rig.primary;
    let answered = thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| primary.execute(insert));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        wait_until("the commit to wait", PATIENCE, || {
            Ok(primary.query_i64(waiting)? == 1)
        })?;
        primary.query(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        )?;
        // The server answers with a warning: committed here, perhaps nowhere else.
        client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))?
    });
    let there = "SELECT count(*) FROM public.history WHERE client = 200";
    let on_primary = rig.primary.query_i64(there)?;
    rig.pg.thaw()?;
    answered?;
    ensure!(on_primary == 1, "the row is not even on the primary");
    rig.daemon.wait_caught_up(&rig.primary, PATIENCE)?;
    ensure!(
        rig.pg.query_i64(there)? == 1,
        "the row did not arrive in the end"
    );
    Ok(())
}

#[test]
fn a_backlog_behind_the_slot_blocks_commits_for_a_bounded_time() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    rig.daemon.kill9()?;
    // Much to decode again, none of which waits for us.
    rig.primary.execute(
        "SET synchronous_commit = local; CREATE TABLE public.load (id int PRIMARY KEY, t text);
         INSERT INTO public.load SELECT n, repeat('x', 200) FROM generate_series(1, 300000) n;",
    )?;
    let clients = rig.clients(2)?;
    rig.expect_blocked(&clients)?;
    let begun = Instant::now();
    rig.daemon.start()?;
    let ready = begun.elapsed();
    rig.daemon.wait_status("the stream", PATIENCE, |status| {
        (status.primary.state == repl_api::PrimaryState::Streaming).then_some(())
    })?;
    let streams = begun.elapsed();
    rig.wait_progress(&clients, 1)?;
    println!(
        "behind 300,000 rows: ready after {ready:?}, streams after {streams:?}, commits return \
         after {:?}",
        begun.elapsed()
    );
    ensure!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    rig.check_end(clients)
}
