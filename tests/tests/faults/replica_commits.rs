//! Asynchronous commits of a replica: what its crash takes back comes again, from a log that has
//! kept it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::ReplicaStatus;
use repl_tests::process;
use rustix::process::Signal;

use super::rig::{self, REPLICA, Random, Rig};

/// The sequence that a replica's checkpoint holds.
fn stored(rig: &Rig) -> Result<u64> {
    let seq = rig.replica.query_i64("SELECT seq FROM repl.checkpoint")?;
    Ok(u64::try_from(seq)?)
}

fn state(rig: &Rig) -> Result<ReplicaStatus> {
    let status = rig.daemon.status()?;
    // Read before the replica's positions, which only grow.
    let first = status.log.first_seq;
    let replica = status.replica(REPLICA).context("no such replica")?.clone();
    ensure!(
        first <= replica.durable_seq + 1,
        "the log starts at {first}, the replica is durable through {}",
        replica.durable_seq
    );
    ensure!(replica.durable_seq <= replica.applied_seq, "{replica:?}");
    Ok(replica)
}

#[test]
fn what_a_crash_of_the_replica_takes_back_comes_again() -> Result<()> {
    let mut rig = Rig::prepare(true, |config| config)?;
    // Nobody but the daemon makes commits durable before their time.
    rig.replica.set("wal_writer_delay", "10s")?;
    rig.replica.set("wal_writer_flush_after", "1GB")?;
    rig.replica.reload()?;
    rig.daemon.start()?;
    rig.settle()?;
    rig.install_audit()?;
    let load = rig::spawn_load(&rig.primary, 300, true)?;
    let mut random = Random::from_environment();
    let mut lost = 0;
    for cycle in 0..rig::cycles(6, 60) {
        thread::sleep(Duration::from_millis(500 + random.below(1500)));
        let known = state(&rig)?;
        // The daemon must not go on before the replica's content was looked at.
        let daemon = rig.daemon.pid()?;
        process::signal(daemon, Signal::STOP)?;
        let visible = stored(&rig)?;
        rig.replica.kill9()?;
        rig.replica.start()?;
        let left = stored(&rig)?;
        rig::check_snapshot(&rig.replica).with_context(|| format!("cycle {cycle}"))?;
        process::signal(daemon, Signal::CONT)?;
        ensure!(
            (known.durable_seq..=visible).contains(&left),
            "the replica went back to {left} from {visible}, where {} was durable",
            known.durable_seq
        );
        lost += visible - left;
    }
    load.interrupt()?;
    println!("{lost} transactions were lost and came again");
    ensure!(
        lost > 0,
        "no crash took anything back: the test proves nothing"
    );
    ensure!(
        rig.daemon.status()?.log.first_seq > 1,
        "nothing was trimmed: the test proves nothing"
    );
    rig.check()?;
    state(&rig).map(drop)
}

#[test]
fn an_idle_replica_becomes_durable_and_then_is_left_alone() -> Result<()> {
    // Heartbeats are transactions too.
    let rig = Rig::start_with(false, |config| {
        config
            .set("capture", "heartbeat_interval", "300s")
            .set("capture", "idle_timeout", "600s")
    })?;
    rig.write_some()?;
    rig.settle()?;
    rig.daemon
        .wait_replica(REPLICA, "to become durable", Duration::from_secs(5), |r| {
            r.durable_seq == r.applied_seq
        })?;
    let row = "SELECT xmin || ' ' || updated_at FROM repl.checkpoint";
    let before = rig.replica.query(row)?;
    thread::sleep(Duration::from_millis(2500));
    ensure!(
        rig.replica.query(row)? == before,
        "the checkpoint moved while idle"
    );
    rig.check()
}

#[test]
fn a_replica_that_commits_durably_is_never_ahead_of_its_disk() -> Result<()> {
    let rig = Rig::start_with(false, |config| config.with_of(REPLICA, "commit", "durable"))?;
    let load = rig::spawn_load(&rig.primary, 200, false)?;
    for _ in 0..20 {
        let replica = state(&rig)?;
        ensure!(replica.durable_seq == replica.applied_seq, "{replica:?}");
        thread::sleep(Duration::from_millis(50));
    }
    load.interrupt()?;
    rig.check()
}
