//! What synchronous commits cost: transactions a second and the time of a COMMIT, with 1, 4 and 16
//! clients, without replication, with a native subscriber and with the daemon. Both sides promise
//! the same: when the COMMIT returns, the row is on the replica, whose own commit is durable.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use repl_api::{MinReplicas, Mode, ModeRequest, ModeState};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::wait::wait_until;

use crate::cluster::{Cluster, MARKER};
use crate::native::{Commit, Native};
use crate::options::Options;
use crate::ours::Ours;
use crate::report::{Kind, Report};
use crate::run::Memory;
use crate::side::{Side, verify, wait_marker};
use crate::stats::percentile;
use crate::wire::Wire;

const SCENARIO: &str = "sync";
/// What is committed to.
pub const TABLE: &str = "commits";
/// Clients that commit at once.
pub const CLIENTS: [usize; 3] = [1, 4, 16];
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the scenario.
///
/// # Errors
/// When a server or a side fails.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    prepare(&cluster)?;
    let tables = [TABLE, MARKER];
    let mut native = None;
    if !options.ours_only {
        Native::publish(&cluster, &tables)?;
        let mut side = Native::attach(&cluster, Commit::On)?;
        side.stop()?;
        native = Some(side);
    }
    let mut ours = Ours::attach(&cluster)?;
    ours.stop()?;
    let mut found: [[Vec<Sample>; CLIENTS.len()]; 3] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..3 {
            let which = (turn + round as usize) % 3;
            let samples = match which {
                0 => measure(&cluster, options)?,
                1 => with_ours(&cluster, &mut ours, options)?,
                _ => match &mut native {
                    Some(native) => with_native(&cluster, native, options)?,
                    None => continue,
                },
            };
            for (at, sample) in samples.into_iter().enumerate() {
                eprintln!("  round {} {} {sample:?}", round + 1, SIDES[which]);
                found[which][at].push(sample);
            }
        }
    }
    publish(&found, report);
    ours.start()?;
    let (marker, _) = cluster.set_marker()?;
    wait_marker(&ours, marker)?;
    verify(&cluster, &ours, &tables)?;
    ours.stop()?;
    memory.note(SCENARIO, ours.service());
    report.note(
        "sync: both sides commit durably at the replica before a COMMIT on the primary returns",
    );
    Ok(())
}

/// Makes the tables, and has commits wait until they are applied wherever a standby is named.
///
/// # Errors
/// When a server refuses.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    let commits = format!("CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, v text NOT NULL)");
    cluster.execute_everywhere(&commits)?;
    cluster.create_marker()?;
    let level = format!("ALTER DATABASE {DATABASE} SET synchronous_commit = 'remote_apply'");
    cluster.primary.psql("postgres", Role::Superuser, &level)?;
    Ok(())
}

const SIDES: [&str; 3] = ["without replication", "ours", "native"];

fn with_ours(cluster: &Cluster, ours: &mut Ours<'_>, options: &Options) -> Result<Vec<Sample>> {
    ours.start()?;
    order(ours, Mode::Sync, None)?;
    let samples = measure(cluster, options)?;
    order(ours, Mode::Async, None)?;
    no_standbys(cluster)?;
    ours.stop()?;
    Ok(samples)
}

/// Orders a mode and waits until it is in force, and all replicas count.
///
/// # Errors
/// When the daemon refuses, or it takes too long.
pub fn order(ours: &Ours<'_>, mode: Mode, replicas: Option<u32>) -> Result<()> {
    let request = ModeRequest {
        min_replicas: replicas.map(MinReplicas::Number),
        ..ModeRequest::new(mode)
    };
    let daemon = ours.service().daemon();
    daemon.wait_status("the daemon to stream", PATIENCE, |status| {
        (status.primary.state == repl_api::PrimaryState::Streaming).then_some(())
    })?;
    daemon.call(|client| async move { client.mode(&request).await })?;
    daemon.wait_status("the mode", PATIENCE, |status| {
        let commits = status.commits.as_ref()?;
        let all = commits.members.iter().all(|member| member.counts);
        match mode {
            Mode::Async => (commits.state == ModeState::Off).then_some(()),
            _ => (commits.state == ModeState::InForce && all).then_some(()),
        }
    })
}

fn with_native(
    cluster: &Cluster,
    native: &mut Native<'_>,
    options: &Options,
) -> Result<Vec<Sample>> {
    native.start()?;
    let (marker, _) = cluster.set_marker()?;
    wait_marker(native, marker)?;
    name_standby(cluster, "bench_on")?;
    let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    wait_until("the subscriber to be waited for", PATIENCE, || {
        Ok(cluster.primary.query_i64(state)? == 1)
    })?;
    let samples = measure(cluster, options)?;
    no_standbys(cluster)?;
    native.stop()?;
    Ok(samples)
}

fn name_standby(cluster: &Cluster, name: &str) -> Result<()> {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    cluster.primary.execute(&set)?;
    cluster.primary.execute("SELECT pg_reload_conf()")
}

fn no_standbys(cluster: &Cluster) -> Result<()> {
    name_standby(cluster, "")?;
    let names = "SELECT current_setting('synchronous_standby_names')";
    wait_until("no standby to be named", PATIENCE, || {
        Ok(cluster.primary.query(names)?.is_empty())
    })
}

/// One side with one number of clients.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Commits that returned a second.
    pub per_second: f64,
    /// Mean time of a COMMIT, milliseconds.
    pub mean_ms: f64,
    /// 99th percentile of it, milliseconds.
    pub p99_ms: f64,
}

/// A sample for each number of [`CLIENTS`].
///
/// # Errors
/// When a client fails.
pub fn measure(cluster: &Cluster, options: &Options) -> Result<Vec<Sample>> {
    cluster.settle()?;
    let time = Duration::from_secs(options.volume(6).max(2));
    CLIENTS
        .iter()
        .map(|&clients| {
            load(&cluster.primary, clients, Duration::from_millis(500))?;
            load(&cluster.primary, clients, time)
        })
        .collect()
}

fn load(primary: &PgServer, clients: usize, time: Duration) -> Result<Sample> {
    let begun = Instant::now();
    let taken = thread::scope(|scope| {
        let all: Vec<_> = (0..clients)
            .map(|_| scope.spawn(|| one_client(primary, begun + time)))
            .collect();
        let mut taken = Vec::new();
        for client in all {
            match client.join() {
                Ok(own) => taken.extend(own?),
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(taken)
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    let count = taken.len() as f64;
    Ok(Sample {
        per_second: count / elapsed,
        mean_ms: taken.iter().sum::<f64>() / count,
        p99_ms: percentile(&taken, 99.0).context("no commit returned")?,
    })
}

/// Milliseconds of each commit.
fn one_client(primary: &PgServer, until: Instant) -> Result<Vec<f64>> {
    let mut wire = Wire::open(primary, DATABASE)?;
    wire.prepare(
        "insert",
        &format!("INSERT INTO {TABLE} (v) VALUES ('sixteen bytes or so, always the same')"),
    )?;
    let mut taken = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        wire.run("insert", None)?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(taken)
}

fn publish(found: &[[Vec<Sample>; CLIENTS.len()]; 3], report: &mut Report) {
    for (at, clients) in CLIENTS.iter().enumerate() {
        let of = |side: usize, value: fn(&Sample) -> f64| -> Vec<f64> {
            found[side][at].iter().map(value).collect()
        };
        for (side, name) in SIDES.iter().enumerate() {
            if found[side][at].is_empty() {
                continue;
            }
            let mut absolute = |what: &str, unit, values: &[f64]| {
                report.absolute(
                    SCENARIO,
                    &format!("{clients} clients, {what} {name}"),
                    unit,
                    values,
                );
            };
            absolute("commits", "tx/s", &of(side, |sample| sample.per_second));
            absolute("mean", "ms", &of(side, |sample| sample.mean_ms));
            absolute("p99", "ms", &of(side, |sample| sample.p99_ms));
        }
        let (ours, native) = (of(1, |s| s.per_second), of(2, |s| s.per_second));
        if !native.is_empty() {
            let name = format!("{clients} clients, ours / native");
            report.ratio(SCENARIO, &name, Kind::RatioHigherBetter, &ours, &native);
        }
    }
}
