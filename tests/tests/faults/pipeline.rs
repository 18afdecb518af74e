//! Many transactions on their way to the replica when one is refused, or the connection breaks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::DaemonConfig;
use repl_tests::pg::{DATABASE, Role};
use repl_tests::proxy::Proxy;
use repl_tests::wait::wait_until;

use super::rig::{self, REPLICA, Rig};

/// Batches of a few transactions, so that many are on their way.
fn small_batches(config: DaemonConfig) -> DaemonConfig {
    config.set("limits", "batch_transactions", 5)
}

fn replctl(rig: &Rig, arguments: &[&str]) -> Result<()> {
    let output = rig.daemon.replctl(arguments)?;
    ensure!(output.status.success(), "replctl {arguments:?}: {output:?}");
    Ok(())
}

/// Numbers the journal on from its end, one transaction each, swapping unique values in between;
/// all of it waits in the log of the paused replica.
fn write_backlog(rig: &Rig, transactions: u32) -> Result<i64> {
    replctl(rig, &["pause", REPLICA])?;
    let first = rig
        .primary
        .query_i64("SELECT max(n) + 1 FROM public.journal")?;
    let mut script = String::new();
    for _ in 0..transactions {
        script += "INSERT INTO public.journal SELECT max(n) + 1 FROM public.journal; \
                   BEGIN; UPDATE public.pairs SET u = -1 WHERE id = 3; \
                   UPDATE public.pairs SET u = (SELECT 7 - sum(u) FROM public.pairs WHERE id IN (3, 4)) \
                   WHERE id = 4; COMMIT; \
                   UPDATE public.pairs SET u = 7 - (SELECT u FROM public.pairs WHERE id = 4) \
                   WHERE id = 3; ";
    }
    rig.primary.execute(&script)?;
    let end = rig.primary.query("SELECT pg_current_wal_insert_lsn()")?;
    let confirmed =
        format!("SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= '{end}'");
    wait_until("the log to hold the backlog", rig::ARRIVAL, || {
        Ok(rig.primary.query_i64(&confirmed)? == 1)
    })?;
    Ok(first)
}

#[test]
fn a_refused_transaction_among_many_on_their_way_is_named() -> Result<()> {
    let rig = Rig::start_with(false, small_batches)?;
    let first = write_backlog(&rig, 60)?;
    let taken = first + 30;
    rig.replica
        .execute(&format!("INSERT INTO public.journal VALUES ({taken})"))?;
    replctl(&rig, &["resume", REPLICA])?;
    let held = rig
        .daemon
        .wait_replica(REPLICA, "to be held by the error", rig::ARRIVAL, |r| {
            r.membership == Membership::Paused && r.last_error.is_some()
        })?;
    let error = held.last_error.context("no error is shown")?;
    let transaction = error.transaction.context("no transaction is named")?;
    ensure!(
        transaction.seq == held.applied_seq + 1,
        "{transaction:?} after {}",
        held.applied_seq
    );
    ensure!(
        error
            .key
            .as_deref()
            .is_some_and(|key| key.contains(&format!("n={taken}")))
    );
    // Exactly what is before it is there.
    let numbers = "SELECT max(n) FROM public.journal WHERE n <> ";
    let last = rig.replica.query_i64(&format!("{numbers}{taken}"))?;
    ensure!(
        last == taken - 1,
        "applied through {last}, the refused one is {taken}"
    );
    rig.replica
        .execute(&format!("DELETE FROM public.journal WHERE n = {taken}"))?;
    replctl(&rig, &["retry", REPLICA])?;
    rig.check()
}

#[test]
fn connections_that_break_with_many_on_their_way_lose_and_repeat_nothing() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| config)?;
    let proxy = Proxy::start(rig.replica.port())?;
    let through = rig.replica.url_via(proxy.port(), DATABASE, Role::Superuser);
    let config = rig::config(&rig.scratch, &rig::url(&rig.primary)).replica(REPLICA, &through);
    rig.daemon.set_config(small_batches(config))?;
    rig.daemon.start()?;
    rig.settle()?;
    rig.install_audit()?;
    // A long way, so that what is on it is much.
    proxy.set_latency(Duration::from_millis(20));
    let load = rig::spawn_load(&rig.primary, 300, false)?;
    let mut random = rig::Random::from_environment();
    for round in 0..rig::cycles(10, 100) {
        std::thread::sleep(Duration::from_millis(300 + random.below(500)));
        proxy.cut();
        rig::check_snapshot(&rig.replica).with_context(|| format!("round {round}"))?;
    }
    load.interrupt()?;
    rig.check()
}
