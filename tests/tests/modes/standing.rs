//! Who counts and what the primary's settings say, in the cases that end the ordinary course.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use repl_api::{Membership, Mode, ModeState, PrimaryState};
use repl_tests::daemon::Toml;
use repl_tests::wait::wait_until;

use super::rig::{A_WHILE, PATIENCE, PG, Rig, mode};

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a client panicked"))?
}

/// Nobody has decided that commits need not wait for it. The operator can: it is left out by a pause. What
/// is ordered holds through a restart, and until the configuration is changed.
#[test]
fn a_replica_stopped_by_an_error_counts_until_it_is_paused() -> Result<()> {
    let mut rig = Rig::start(true, |config| mode(config, "sync"))?;
    let constraint =
        "ALTER TABLE public.history ADD CONSTRAINT never CHECK (client <> 500) NOT VALID";
    rig.pg.execute(constraint)?;
    let (primary, daemon) = (&rig.primary, &rig.daemon);
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| primary.execute("INSERT INTO public.history VALUES (500, 1)"));
        let held = daemon.wait_replica(PG, "to be held by the error", PATIENCE, |replica| {
            replica.membership == Membership::Paused && replica.last_error.is_some()
        });
        thread::sleep(A_WHILE);
        let returned = client.is_finished();
        let counts = rig.commits().map(|commits| {
            let mut members = commits.members.iter();
            members.any(|member| member.name == PG && member.counts)
        });
        let paused = rig.replctl(&["pause", PG])?;
        joined(client)?;
        held?;
        ensure!(!returned, "a COMMIT returned that {PG} had refused");
        ensure!(counts?, "{PG} did not count any more");
        ensure!(paused.status.success(), "{paused:?}");
        Ok(())
    })?;
    rig.pg
        .execute("ALTER TABLE public.history DROP CONSTRAINT never")?;
    let resumed = rig.replctl(&["resume", PG])?;
    ensure!(resumed.status.success(), "{resumed:?}");
    rig.wait_in_force()?;
    leaves_when_it_skips(&mut rig, constraint)?;

    let ordered = rig.replctl(&["mode", "semi-sync", "--min-replicas", "2"])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    rig.wait_state(ModeState::InForce)?;
    rig.daemon.terminate()?;
    rig.daemon.start()?;
    ensure!(
        rig.commits()?.asked == Mode::SemiSync,
        "{:?}",
        rig.commits()?
    );
    rig.daemon.terminate()?;
    let changed = rig.daemon.config().clone();
    rig.daemon
        .set_config(changed.set("replication", "timeout", "3s"))?;
    rig.daemon.start()?;
    ensure!(rig.commits()?.asked == Mode::Sync, "{:?}", rig.commits()?);
    rig.wait_in_force()
}

/// What it has not, it was let go without: it counts again once it is equal.
fn leaves_when_it_skips(rig: &mut Rig, constraint: &str) -> Result<()> {
    rig.pg.execute(constraint)?;
    let (primary, daemon) = (&rig.primary, &rig.daemon);
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| primary.execute("INSERT INTO public.history VALUES (500, 2)"));
        let held = daemon.wait_replica(PG, "to be held by the error", PATIENCE, |replica| {
            let error = replica.last_error.as_ref();
            let at_fault = error.is_some_and(|error| error.transaction.is_some());
            replica.membership == Membership::Paused && at_fault
        });
        let seq = held.as_ref().ok().and_then(|held| {
            let transaction = held.last_error.as_ref()?.transaction.as_ref()?;
            Some(transaction.seq.to_string())
        });
        let seq = seq.unwrap_or_default();
        let skipped = rig.replctl(&["skip", PG, "--seq", &seq, "--reason", "a test"])?;
        joined(client)?;
        held?;
        ensure!(skipped.status.success(), "{skipped:?}");
        Ok(())
    })?;
    let commits = rig.commits()?;
    let mut members = commits.members.iter();
    let counts = members.any(|member| member.name == PG && member.counts);
    ensure!(!counts, "{PG} counts without what it left out: {commits:?}");
    rig.pg
        .execute("ALTER TABLE public.history DROP CONSTRAINT never")?;
    let resync = rig.replctl(&["resync", PG, "--yes", "--wait"])?;
    ensure!(resync.status.success(), "{resync:?}");
    rig.wait_in_force()
}

/// Durable in the daemon's log, and no further.
#[test]
fn a_commit_at_the_level_logged_waits_for_the_log_only() -> Result<()> {
    let mut rig = Rig::start(false, |config| {
        mode(config, "sync").set("replication", "level", "logged")
    })?;
    let clients = rig.clients(2)?;
    rig.pg.freeze()?;
    let went_on = rig.wait_progress(&clients, 50);
    rig.pg.thaw()?;
    went_on?;
    rig.daemon.kill9()?;
    rig.expect_blocked(&clients)?;
    // What was confirmed is in the log, whatever the replica has.
    let confirmed = rig.confirmed()?;
    rig.daemon.start()?;
    rig.daemon.wait_caught_up(&rig.primary, PATIENCE)?;
    super::rig::check(&confirmed, &rig.rows()?, 1)?;
    rig.check_end(clients)
}

/// Nobody counts, so nobody lets go of the lock that the only replica's copy needs.
#[test]
fn a_copy_that_a_withheld_commit_keeps_waiting_says_so_and_goes_on_when_it_is_let_go() -> Result<()>
{
    let rig = Rig::start(false, |config| mode(config, "sync"))?;
    rig.primary
        .execute("INSERT INTO public.history SELECT 1, generate_series(1, 500)")?;
    let paused = rig.replctl(&["pause", PG])?;
    ensure!(paused.status.success(), "{paused:?}");
    let (primary, daemon) = (&rig.primary, &rig.daemon);
    thread::scope(|scope| -> Result<()> {
        let change =
            "BEGIN; TRUNCATE public.history; INSERT INTO public.history VALUES (2, 1); COMMIT";
        let client = scope.spawn(|| primary.execute(change));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let waits = wait_until("the commit to wait", PATIENCE, || {
            Ok(primary.query_i64(waiting)? == 1)
        });
        let ordered = rig.replctl(&["resync", PG, "--full", "--yes"])?;
        let said = daemon.wait_replica(PG, "to say what it waits for", PATIENCE, |replica| {
            let error = replica.last_error.as_ref();
            error.is_some_and(|error| error.table.as_deref() == Some("public.history"))
        });
        let returned = client.is_finished();
        let let_go = rig.replctl(&["mode", "async"])?;
        joined(client)?;
        waits?;
        println!("{:?}", said?.last_error);
        ensure!(!returned, "a COMMIT returned that nobody had");
        ensure!(ordered.status.success(), "{ordered:?}");
        ensure!(let_go.status.success(), "{let_go:?}");
        Ok(())
    })?;
    daemon.wait_replica(PG, "to stream", PATIENCE, |replica| {
        replica.membership == Membership::Streaming
    })?;
    let back = rig.replctl(&["mode", "sync"])?;
    ensure!(back.status.success(), "{back:?}");
    rig.wait_in_force()?;
    ensure!(rig.pg.query("SELECT client, n FROM public.history")? == "2|1");
    Ok(())
}

/// The row is withheld with its column, so the replica cannot be given the one before the other.
#[test]
fn a_column_that_is_added_and_written_to_by_one_transaction_pauses_the_replica() -> Result<()> {
    let rig = Rig::start(false, |config| mode(config, "sync"))?;
    let (primary, daemon) = (&rig.primary, &rig.daemon);
    let change = "BEGIN; ALTER TABLE public.history ADD COLUMN extra int;
                  INSERT INTO public.history VALUES (400, 1, 5); COMMIT";
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| primary.execute(change));
        let held = daemon.wait_replica(PG, "to be held by the error", PATIENCE, |replica| {
            replica.membership == Membership::Paused && replica.last_error.is_some()
        });
        let mended = rig
            .pg
            .execute("ALTER TABLE public.history ADD COLUMN extra int");
        let retried = rig.replctl(&["retry", PG])?;
        joined(client)?;
        mended?;
        ensure!(retried.status.success(), "{retried:?}");
        let advice = held?
            .last_error
            .map(|error| error.advice)
            .unwrap_or_default();
        ensure!(advice.contains("ADD COLUMN \"extra\""), "{advice}");
        Ok(())
    })?;
    let there = "SELECT extra FROM public.history WHERE client = 400";
    ensure!(rig.pg.query(there)? == "5", "the COMMIT returned early");
    // By itself it is added by itself.
    primary.execute("ALTER TABLE public.history ADD COLUMN more int")?;
    primary.execute("INSERT INTO public.history VALUES (401, 1, 5, 6)")?;
    let there = "SELECT more FROM public.history WHERE client = 401";
    ensure!(rig.pg.query(there)? == "6", "the COMMIT returned early");
    Ok(())
}

/// Making a slot waits for the transactions that run, and these for the daemon: it says so instead.
#[test]
fn a_lost_slot_is_not_made_anew_while_commits_wait() -> Result<()> {
    let mut rig = Rig::start(false, |config| mode(config, "sync"))?;
    rig.daemon.kill9()?;
    wait_until("the slot to be free", PATIENCE, || {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        Ok(rig.primary.query(drop).is_ok())
    })?;
    rig.daemon.start()?;
    let waits = "while commits wait for the daemon";
    let refusal = rig.daemon.wait_status("the reason", PATIENCE, |status| {
        let primary = &status.primary;
        let told = [&primary.refusal, &primary.last_error];
        let mut told = told.into_iter().flatten();
        told.find(|error| error.message.contains(waits)).cloned()
    })?;
    ensure!(refusal.advice.contains("replctl mode async"), "{refusal:?}");
    let ordered = rig.replctl(&["mode", "async"])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    rig.daemon
        .wait_status("the capture and the mark", PATIENCE, |status| {
            let marked = status.replica(PG)?.membership == Membership::NeedsResync;
            (marked && status.primary.state == PrimaryState::Streaming).then_some(())
        })?;
    let resync = rig.replctl(&["resync", PG, "--yes", "--wait"])?;
    ensure!(resync.status.success(), "{resync:?}");
    let ordered = rig.replctl(&["mode", "sync"])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    rig.wait_in_force()
}

/// What is not the daemon's to set is verified and told. Where another standby could stand in for the
/// replicas, nothing is in force.
#[test]
fn names_that_are_not_managed_are_verified_and_told() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| {
        mode(config, "sync").set("replication", "manage_standby_names", Toml::from(false))
    })?;
    rig.daemon.start()?;
    let told = |rig: &Rig, what: &str, remedy: &str| {
        rig.daemon.wait_status(what, PATIENCE, |status| {
            let commits = status.commits.as_ref()?;
            let mut problems = commits.problems.iter();
            let told = problems.any(|problem| problem.remedy.contains(remedy));
            (told && commits.state != ModeState::InForce).then_some(())
        })
    };
    let set = |rig: &Rig, names: &str| {
        rig.primary.execute(&format!(
            "SET synchronous_commit = local;
             ALTER SYSTEM SET synchronous_standby_names = '{names}'; SELECT pg_reload_conf()"
        ))
    };
    told(
        &rig,
        "the statement",
        "ALTER SYSTEM SET synchronous_standby_names = 'repl_modes'",
    )?;
    let names = rig
        .primary
        .query("SELECT current_setting('synchronous_standby_names')")?;
    ensure!(names.is_empty(), "the daemon has set {names}");
    set(&rig, "repl_modes")?;
    rig.wait_in_force()?;
    for others in [
        "*",
        "FIRST 1 (other, repl_modes)",
        "ANY 1 (repl_modes, other)",
    ] {
        set(&rig, others)?;
        told(&rig, others, "all required")?;
        set(&rig, "repl_modes")?;
        rig.wait_in_force()?;
    }
    Ok(())
}
