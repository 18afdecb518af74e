//! A replica that is slow, silent, down or broken harms neither the others nor the primary.

use std::time::Duration;

use anyhow::{Result, ensure};
use repl_api::Membership;
use repl_tests::content;
use repl_tests::daemon::Daemon;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::proxy::Proxy;
use repl_tests::scratch::Scratch;
use repl_tests::wait::wait_until;

use super::rig;

/// Bound of the daemon's resident memory, KiB (150 MB).
const MEMORY_KIB: u64 = 146_000;

#[test]
fn slow_silent_and_broken_replicas_harm_nobody() -> Result<()> {
    let primary = PgServer::builder("primary").start()?;
    let healthy = PgServer::builder("healthy").start()?;
    let slow = PgServer::builder("slow").start()?;
    let broken = PgServer::builder("broken").start()?;
    rig::create_tables(&primary)?;
    let scratch = Scratch::new()?;
    let proxy = Proxy::start(slow.port())?;
    let config = rig::config(&scratch, &rig::url(&primary))
        .replica("healthy", &rig::url(&healthy))
        .replica(
            "slow",
            &slow.url_via(proxy.port(), DATABASE, Role::Superuser),
        )
        .replica("broken", &rig::url(&broken));
    let mut daemon = Daemon::new(config)?;
    daemon.ignore_log();
    daemon.start()?;
    daemon.wait_caught_up(&primary, rig::ARRIVAL)?;

    broken.execute("ALTER TABLE public.bulk ADD CONSTRAINT never CHECK (false) NOT VALID")?;
    proxy.set_latency(Duration::from_millis(300));
    let load = rig::spawn_load(&primary, 400, true)?;
    std::thread::sleep(Duration::from_secs(2));
    proxy.blackhole(true);
    std::thread::sleep(Duration::from_secs(4));
    load.interrupt()?;

    // The healthy one has everything, and the primary keeps nothing for the others.
    let end = primary.query("SELECT pg_current_wal_insert_lsn()")?;
    let confirmed =
        format!("SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= '{end}'");
    wait_until("the slot to pass the end", Duration::from_secs(10), || {
        Ok(primary.query_i64(&confirmed)? == 1)
    })?;
    let target = daemon.status()?.log.durable_seq;
    daemon.wait_replica(
        "healthy",
        "to have everything",
        Duration::from_secs(10),
        |replica| replica.applied_seq >= target,
    )?;
    equal(&primary, &healthy)?;
    daemon.wait_replica(
        "broken",
        "to be paused",
        Duration::from_secs(10),
        |replica| replica.membership == Membership::Paused,
    )?;
    let (_, peak) = daemon.memory_kib()?;
    ensure!(peak < MEMORY_KIB, "the daemon's memory reached {peak} KiB");

    // Mended, both catch up from the log.
    proxy.blackhole(false);
    proxy.set_latency(Duration::ZERO);
    broken.execute("ALTER TABLE public.bulk DROP CONSTRAINT never")?;
    let output = daemon.replctl(&["retry", "broken"])?;
    ensure!(output.status.success(), "replctl retry: {output:?}");
    daemon.wait_caught_up(&primary, Duration::from_secs(60))?;
    equal(&primary, &slow)?;
    equal(&primary, &broken)?;
    daemon.finish()
}

fn equal(primary: &PgServer, replica: &PgServer) -> Result<()> {
    rig::check_snapshot(replica)?;
    content::assert_all_equal(
        &content::pg(primary, DATABASE),
        &content::pg(replica, DATABASE),
    )
}
