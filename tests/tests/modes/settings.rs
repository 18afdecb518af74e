//! Whatever `synchronous_commit` asks for, a COMMIT that returns is on the replicas, or the mode is not in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use repl_api::{Membership, Mode, ModeRequest, ModeState, ModeStatus};
use repl_tests::daemon::Toml;
use repl_tests::pg::binaries::Installation;
use repl_tests::pg::{DATABASE, PgServer, Role, StopMode};
use repl_tests::wait::wait_until;
use repl_tests::workload::history::Clients;

use super::rig::{A_WHILE, PATIENCE, PG, Rig, mode};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// A row of `client` in the table that is replicated.
fn insert(client: usize, n: u64) -> String {
    format!("INSERT INTO public.history VALUES ({client}, {n})")
}

fn count(server: &PgServer, client: usize) -> Result<i64> {
    server.query_i64(&format!(
        "SELECT count(*) FROM public.history WHERE client = {client}"
    ))
}

/// Every way to commit that waits for standbys at all: what is done before, and the commit.
fn commits() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (at, setting) in ["on", "remote_apply", "remote_write"].iter().enumerate() {
        let set = format!("SET synchronous_commit = {setting}; ");
        all.push((String::new(), set + &insert(10 + at, 1)));
    }
    let prepare = format!("BEGIN; {}; PREPARE TRANSACTION 'p'", insert(14, 1));
    all.extend([
        (String::new(), format!("BEGIN; {}; COMMIT", insert(13, 1))),
        (prepare, "COMMIT PREPARED 'p'".into()),
        (
            String::new(),
            format!("DO $$ BEGIN {}; COMMIT; END $$", insert(15, 1)),
        ),
    ]);
    all
}

#[test]
fn whatever_a_commit_asks_for_it_waits_for_the_replicas_and_hinders_no_shutdown() -> Result<()> {
    // Nothing else shows the daemon that the primary shuts down.
    let mut rig = Rig::start(false, |config| {
        mode(config, "sync")
            .set("capture", "table_refresh_interval", "60s")
            .set("capture", "heartbeat_interval", "50s")
    })?;
    let all = commits();
    for (before, _) in all.iter().filter(|(before, _)| !before.is_empty()) {
        rig.primary.execute(before)?;
    }
    rig.pg.freeze()?;
    let primary = &rig.primary;
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = all
            .iter()
            .map(|(_, commit)| scope.spawn(move || primary.execute(commit)))
            .collect();
        let waits = wait_until("all to wait", PATIENCE, || {
            Ok(primary.query_i64(WAITING)? == clients.len() as i64)
        });
        thread::sleep(A_WHILE);
        let early: Vec<_> = (0..clients.len())
            .filter(|at| clients[*at].is_finished())
            .map(|at| all[at].1.clone())
            .collect();
        rig.pg.thaw()?;
        waits?;
        ensure!(early.is_empty(), "returned early: {early:?}");
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    for client in 10..16 {
        ensure!(count(&rig.pg, client)? == 1, "{client} is not there");
    }
    shut_down_while_commits_wait(&mut rig)
}

/// The primary's fast shutdown ends the clients, and does not wait for a replica that is away; what they
/// committed is compared, and goes on, when all are back.
fn shut_down_while_commits_wait(rig: &mut Rig) -> Result<()> {
    rig.pg.freeze()?;
    let clients = rig.clients(2)?;
    wait_until("commits to wait", PATIENCE, || {
        Ok(rig.primary.query_i64(WAITING)? == 2)
    })?;
    rig.primary.execute(&format!(
        "SET synchronous_commit = local; {}",
        insert(16, 1)
    ))?;
    let blocked = shut_down_and_start(rig, &clients);
    // Clients that are dropped wait for their commits.
    rig.pg.thaw()?;
    blocked?;
    rig.wait_in_force()?;
    rig.wait_progress(&clients, 20)?;
    ensure!(rig.daemon.status()?.alerts.is_empty());
    ensure!(count(&rig.pg, 16)? == 1, "what did not wait is not there");
    // None of the clients'.
    rig.primary
        .execute("DELETE FROM public.history WHERE client BETWEEN 10 AND 16")?;
    rig.check_end(clients)
}

fn shut_down_and_start(rig: &mut Rig, clients: &Clients) -> Result<()> {
    let took = rig.primary.stop(StopMode::Fast, PATIENCE)?;
    println!("the primary's shutdown took {took:?}");
    ensure!(took < Duration::from_secs(20), "{took:?}");
    rig.primary.start()?;
    // Nothing more than what was released is confirmed, whatever the daemon has read since.
    rig.expect_blocked(clients)?;
    rig.daemon.crash_and_restart()?;
    rig.expect_blocked(clients)
}

#[test]
fn what_is_let_go_by_the_mode_is_let_go_for_every_setting() -> Result<()> {
    let mut rig = Rig::start(false, |config| {
        mode(config, "sync").set("replication", "on_timeout", "degrade")
    })?;
    rig.pg.freeze()?;
    let commit_all = |rig: &Rig, client: usize| -> Result<()> {
        for (n, setting) in ["on", "remote_apply", "remote_write"].iter().enumerate() {
            let set = format!("SET synchronous_commit = {setting}; ");
            rig.primary.execute(&(set + &insert(client, n as u64)))?;
        }
        // Nothing is kept at the primary that nobody waits for.
        rig.primary.wait_acknowledged(PATIENCE)
    };
    commit_all(&rig, 20)?;
    ensure!(rig.commits()?.state == ModeState::Degraded);
    let logged = |level: &str| ModeRequest {
        level: Some(level.into()),
        ..ModeRequest::new(Mode::Sync)
    };
    rig.order(logged("logged"))?;
    rig.wait_state(ModeState::InForce)?;
    commit_all(&rig, 21)?;
    rig.order(ModeRequest::new(Mode::Async))?;
    rig.wait_state(ModeState::Off)?;
    commit_all(&rig, 22)?;
    rig.pg.thaw()?;
    rig.order(logged("applied"))?;
    rig.wait_in_force()?;
    rig.daemon.wait_caught_up(&rig.primary, PATIENCE)?;
    for client in 20..23 {
        ensure!(count(&rig.pg, client)? == 3, "{client} is not there");
    }
    Ok(())
}

#[test]
fn no_commit_returns_early_while_new_tables_are_copied_to_the_only_replica() -> Result<()> {
    const TABLES: usize = 8;
    let rig = Rig::start(false, |config| {
        mode(config, "sync").set("capture", "table_refresh_interval", "200ms")
    })?;
    let done = AtomicBool::new(false);
    let (primary, replica) = (&rig.primary, &rig.pg);
    let watch = |client: usize, setting: &str| -> Result<u64> {
        let mut at = primary.session(DATABASE, Role::Superuser)?;
        let mut there = replica.session(DATABASE, Role::Superuser)?;
        at.execute(&format!("SET synchronous_commit = {setting}"))?;
        let mut n = 0;
        while !done.load(Ordering::Relaxed) {
            n += 1;
            at.execute(&insert(client, n))?;
            let found = there.scalar(&format!(
                "SELECT count(*)::text FROM public.history WHERE client = {client} AND n = {n}"
            ))?;
            ensure!(
                found.as_deref() == Some("1"),
                "a COMMIT returned early with {setting}"
            );
        }
        Ok(n)
    };
    let counts = thread::scope(|scope| -> Result<Vec<u64>> {
        let watchers: Vec<_> = ["on", "remote_apply", "remote_write"]
            .iter()
            .enumerate()
            .map(|(at, setting)| scope.spawn(move || watch(30 + at, setting)))
            .collect();
        let made = (0..TABLES).try_for_each(|n| -> Result<()> {
            primary.execute(&format!(
                "CREATE TABLE public.new_{n} (id int PRIMARY KEY);
                 INSERT INTO public.new_{n} SELECT generate_series(1, 200)"
            ))?;
            wait_until("the new table's rows", PATIENCE, || {
                let sql = format!("SELECT count(*) FROM public.new_{n}");
                Ok(replica.query_i64(&sql).unwrap_or_default() == 200)
            })
        });
        let streams = rig.daemon.wait_status("the replica", PATIENCE, |status| {
            (status.replica(PG)?.membership == Membership::Streaming).then_some(())
        });
        done.store(true, Ordering::Relaxed);
        let counts = watchers
            .into_iter()
            .map(|watcher| watcher.join().map_err(|_| anyhow!("a client panicked"))?)
            .collect();
        made.and(streams).and(counts)
    })?;
    println!("{counts:?} commits while {TABLES} tables were copied");
    ensure!(counts.iter().all(|count| *count > 10), "{counts:?}");
    rig.wait_in_force()
}

/// Waits until the mode is held up by these commits, with the statement that mends it.
fn wait_weakened(rig: &Rig, who: &str, remedy: &str) -> Result<()> {
    rig.daemon
        .wait_status(&format!("{who} to be named"), PATIENCE, |status| {
            let commits = status.commits.as_ref()?;
            let named = commits.problems.iter().any(|problem| {
                problem.what.contains(who)
                    && problem.remedy.contains(remedy)
                    && problem
                        .remedy
                        .contains(&format!("accept_weaker_commits = [\"{who}\"]"))
            });
            let told = status.attention().iter().any(|what| what.contains(who));
            (named && told && commits.state != ModeState::InForce).then_some(())
        })?;
    let check = rig.replctl(&["status", "--check"])?;
    ensure!(check.status.code() == Some(4), "{who}: {check:?}");
    Ok(())
}

#[test]
fn what_does_not_wait_by_a_setting_keeps_the_mode_from_being_in_force_until_it_is_accepted()
-> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    rig.primary
        .execute("CREATE ROLE batch LOGIN; CREATE DATABASE elsewhere")?;
    // What cannot hold replicated rows is nobody's concern.
    rig.primary.execute(
        "ALTER DATABASE elsewhere SET synchronous_commit = off;
         ALTER ROLE batch IN DATABASE elsewhere SET synchronous_commit = off",
    )?;
    let places = [
        ("role batch".to_owned(), "ALTER ROLE batch", "off"),
        (
            format!("database {DATABASE}"),
            "ALTER DATABASE current",
            "local",
        ),
        (
            format!("role batch in database {DATABASE}"),
            "ALTER ROLE batch IN DATABASE current",
            "'FALSE'",
        ),
        ("all roles".to_owned(), "ALTER ROLE ALL", "local"),
    ];
    for (who, alter, value) in places {
        let alter = alter.replace("DATABASE current", &format!("DATABASE {DATABASE}"));
        rig.primary
            .execute(&format!("{alter} SET synchronous_commit = {value}"))?;
        wait_weakened(&rig, &who, "RESET synchronous_commit;")?;
        rig.primary
            .execute(&format!("{alter} RESET synchronous_commit"))?;
        rig.wait_in_force()?;
    }
    // The daemon's own sessions began with what was set then.
    rig.primary
        .execute("ALTER ROLE ALL SET synchronous_commit = off")?;
    rig.daemon.crash_and_restart()?;
    wait_weakened(&rig, "all roles", "RESET synchronous_commit;")?;
    rig.primary
        .execute("ALTER ROLE ALL RESET synchronous_commit")?;
    rig.wait_in_force()?;
    // The daemon's own role may hide what the server does for all others.
    rig.primary
        .execute("ALTER ROLE postgres SET synchronous_commit = 'on'")?;
    rig.primary.set("synchronous_commit", "off")?;
    rig.primary.reload()?;
    wait_weakened(&rig, "server default", "ALTER SYSTEM SET")?;
    rig.daemon.terminate()?;
    let accepted = Toml::from(&["server default"][..]);
    let config = rig.daemon.config().clone();
    let config = config.set("replication", "accept_weaker_commits", accepted);
    rig.daemon.set_config(config)?;
    rig.daemon.start()?;
    rig.wait_in_force()?;
    let named = |commits: ModeStatus| commits.weaker.concat().contains("server default");
    ensure!(named(rig.commits()?), "what is accepted is still told");
    wait_until("the check to be content", PATIENCE, || {
        Ok(rig.replctl(&["status", "--check"])?.status.success())
    })?;
    // Another one is not accepted with it.
    rig.primary
        .execute("ALTER ROLE batch SET synchronous_commit = off")?;
    wait_weakened(&rig, "role batch", "ALTER ROLE \"batch\" RESET")?;
    // Such a commit waits for the log no more than for replicas.
    rig.order(ModeRequest {
        level: Some("logged".into()),
        ..ModeRequest::new(Mode::Sync)
    })?;
    wait_weakened(&rig, "role batch", "ALTER ROLE \"batch\" RESET")
}

/// What is said to end the wait of a commit does, and what is said not to does not (docs/MODES.md).
#[test]
fn what_ends_the_wait_of_a_commit_is_as_documented() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    let major = Installation::get()?.major()?;
    rig.pg.freeze()?;
    let checked = waits_end_as_documented(&rig, major);
    rig.pg.thaw()?;
    checked?;
    rig.daemon.wait_caught_up(&rig.primary, PATIENCE)
}

fn waits_end_as_documented(rig: &Rig, major: u32) -> Result<()> {
    let primary = &rig.primary;
    let row = |n: u64| insert(40, n);
    let limit = "SET statement_timeout = '300ms'; ";
    // Each statement is sent by itself, as clients do.
    let session = |statements: &[String]| -> Result<()> {
        let mut session = primary.session(DATABASE, Role::Superuser)?;
        for statement in statements {
            session.execute(statement)?;
        }
        Ok(())
    };
    // Inside a statement that goes on, the time runs.
    let prepare = format!("BEGIN; {}; PREPARE TRANSACTION 'timed'", row(1));
    primary.execute(&format!("SET synchronous_commit = local; {prepare}"))?;
    let begun = Instant::now();
    session(&[limit.into(), "COMMIT PREPARED 'timed'".into()])?;
    let _ = session(&[
        limit.into(),
        format!("DO $$ BEGIN {}; COMMIT; END $$", row(2)),
    ]);
    ensure!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let mut stay = vec![
        vec![limit.to_owned(), row(3)],
        vec![limit.into(), "BEGIN".into(), row(4), "COMMIT".into()],
        vec![limit.into(), format!("BEGIN; {}; COMMIT", row(5))],
        vec!["SET lock_timeout = '300ms'".into(), row(6)],
        vec![
            "SET idle_in_transaction_session_timeout = '300ms'".into(),
            "SET idle_session_timeout = '300ms'".into(),
            row(7),
        ],
    ];
    if major >= 17 {
        stay.push(vec!["SET transaction_timeout = '300ms'".into(), row(8)]);
    }
    let stay = &stay;
    thread::scope(|scope| -> Result<()> {
        let session = &session;
        let clients: Vec<_> = stay
            .iter()
            .map(|statements| scope.spawn(move || session(statements)))
            .collect();
        let waits = wait_until("all to wait", PATIENCE, || {
            Ok(primary.query_i64(WAITING)? >= clients.len() as i64)
        });
        thread::sleep(A_WHILE);
        let ended: Vec<_> = (0..clients.len())
            .filter(|at| clients[*at].is_finished())
            .map(|at| stay[at].clone())
            .collect();
        // Cancelled, they return as if all were well; terminated, they do not.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
                   AND query LIKE '%(40, 3)%'";
        primary.query(end)?;
        let cancel =
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        primary.query(cancel)?;
        waits?;
        ensure!(ended.is_empty(), "did not wait: {ended:?}");
        for (at, client) in clients.into_iter().enumerate() {
            let ended = client.join().map_err(|_| anyhow!("a client panicked"))?;
            ensure!(ended.is_err() == (at == 0), "{:?}: {ended:?}", stay[at]);
        }
        Ok(())
    })?;
    ensure!(count(primary, 40)? == 2 + stay.len() as i64);
    a_client_that_goes_is_not_noticed(primary)
}

/// Its session waits on.
fn a_client_that_goes_is_not_noticed(primary: &PgServer) -> Result<()> {
    let url = primary.url(DATABASE, Role::Superuser);
    let psql = Installation::get()?.program("psql");
    let sql = format!(
        "SET client_connection_check_interval = '100ms'; {}",
        insert(41, 1)
    );
    let mut client = std::process::Command::new(psql)
        .args(["-X", "-c", &sql, &url])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let waits = || Ok(primary.query_i64(WAITING)? == 1);
    let waiting = wait_until("the commit to wait", PATIENCE, waits);
    client.kill()?;
    client.wait()?;
    waiting?;
    thread::sleep(A_WHILE);
    ensure!(waits()?, "the wait ended with its client");
    Ok(())
}
