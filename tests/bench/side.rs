//! One way of replicating, as the scenarios drive it: attach, stop, start, see how far it is.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use repl_tests::pg::PgServer;

use crate::cluster::{Cluster, MARKER};
use crate::wire::Wire;

/// Longest catch-up that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A side. Made attached: the replica holds what the primary held, and follows.
pub trait Side {
    /// What the report calls it, with its durability class.
    fn name(&self) -> &str;

    /// The databases that follow.
    fn replicas(&self) -> Vec<(&PgServer, &str)>;

    /// Goes on from where it was stopped; returns when told so, not when it has started.
    fn start(&mut self) -> Result<()>;

    /// Stops following, in good order, and returns when it has stopped.
    fn stop(&mut self) -> Result<()>;

    /// Whether everything up to `end` is taken from the primary; none when the side has no such
    /// stage of its own or cannot be asked right now.
    fn captured(&self, end: &str) -> Option<bool>;
}

/// What one catch-up took.
pub struct CaughtUp {
    /// From the start of the side to the marker before the last visible on every replica; next to
    /// nothing when it was already.
    pub first: Duration,
    /// From the start of the side to the last row visible on every replica.
    pub whole: Duration,
    /// From the start of the side to everything durable in its log.
    pub capture: Option<Duration>,
}

/// Starts a stopped side and times it until all its replicas show `marker`, the last row written.
///
/// # Errors
/// When the side was not behind, fails, or does not get there.
pub fn time_catchup(side: &mut dyn Side, marker: i64, end: &str) -> Result<CaughtUp> {
    let mut probes = side
        .replicas()
        .into_iter()
        .map(|(server, database)| probe(server, database))
        .collect::<Result<Vec<_>>>()?;
    for wire in &mut probes {
        let seen = wire.number("marker")?;
        ensure!(seen < marker, "{} was not stopped", side.name());
    }
    let started = Instant::now();
    side.start()?;
    let mut first = None;
    let mut capture = None;
    let mut asked = started;
    loop {
        let mut seen = marker;
        for wire in &mut probes {
            seen = seen.min(wire.number("marker")?);
        }
        let behind = seen < marker;
        if first.is_none() && seen >= marker - 1 {
            first = Some(started.elapsed());
        }
        if capture.is_none() && (!behind || asked.elapsed() > Duration::from_millis(20)) {
            asked = Instant::now();
            if side.captured(end) == Some(true) {
                capture = Some(started.elapsed());
            }
        }
        if !behind {
            let whole = started.elapsed();
            return Ok(CaughtUp {
                first: first.unwrap_or_default(),
                whole,
                capture,
            });
        }
        if started.elapsed() > PATIENCE {
            bail!("{} did not catch up in {PATIENCE:?}", side.name());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all replicas of a running side show `marker`.
///
/// # Errors
/// When they do not get there.
pub fn wait_marker(side: &dyn Side, marker: i64) -> Result<()> {
    let started = Instant::now();
    for (server, database) in side.replicas() {
        let mut wire = probe(server, database)?;
        while wire.number("marker")? < marker {
            ensure!(started.elapsed() < PATIENCE, "{} is stuck", side.name());
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Fails unless all replicas of `side` hold what the primary holds.
///
/// # Errors
/// The differences.
pub fn verify(cluster: &Cluster, side: &dyn Side, tables: &[&str]) -> Result<()> {
    side.replicas()
        .into_iter()
        .try_for_each(|(server, database)| cluster.verify(server, database, tables))
}

fn probe(server: &PgServer, database: &str) -> Result<Wire> {
    let mut wire = Wire::open(server, database)?;
    wire.prepare("marker", &format!("SELECT max(id) FROM {MARKER}"))?;
    Ok(wire)
}
