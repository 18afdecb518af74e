//! A writer on every node, that tries all the time and notes when it succeeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use repl_tests::pg::{DATABASE, PgServer, Role, Session};

/// How often each node is tried.
const INTERVAL: Duration = Duration::from_millis(50);

/// The table they write to.
pub const TABLE: &str = "public.probe";

/// One successful write.
#[derive(Clone, Debug)]
pub struct Write {
    pub node: String,
    pub id: i64,
    pub begun: Instant,
    pub ended: Instant,
}

/// The running writers.
pub struct Probes {
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Probes {
    /// Starts one for each node.
    pub fn start(nodes: &[(&str, &PgServer)], interval: Option<Duration>) -> Probes {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::default();
        let threads = nodes
            .iter()
            .map(|(name, server)| {
                let probe = Probe {
                    node: (*name).to_owned(),
                    url: server.url(DATABASE, Role::Superuser),
                    interval: interval.unwrap_or(INTERVAL),
                    stop: Arc::clone(&stop),
                    writes: Arc::clone(&writes),
                };
                thread::spawn(move || probe.run())
            })
            .collect();
        Probes {
            stop,
            writes,
            threads,
        }
    }

    /// Waits until a write begun from now on succeeds at `node`.
    pub fn wait_write(&self, node: &str, limit: Duration) -> Result<()> {
        let from = Instant::now();
        repl_tests::wait::wait_until(&format!("a write at {node}"), limit, || {
            let writes = self
                .writes
                .lock()
                .map_err(|_| anyhow!("a probe panicked"))?;
            Ok(writes
                .iter()
                .any(|write| write.node == node && write.begun >= from))
        })
    }

    /// Ends them; their writes in the order of their ends.
    pub fn stop(mut self) -> Result<Vec<Write>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a probe panicked"))??;
        }
        let mut writes = self
            .writes
            .lock()
            .map_err(|_| anyhow!("a probe panicked"))?
            .clone();
        writes.sort_by_key(|write| write.ended);
        Ok(writes)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Probe {
    node: String,
    url: String,
    interval: Duration,
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
}

impl Probe {
    fn run(self) -> Result<()> {
        let mut session: Option<Session> = None;
        let insert = format!(
            "SET default_transaction_read_only = off; \
             INSERT INTO {TABLE} (node) VALUES ('{}') RETURNING id::text",
            self.node
        );
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(self.interval);
            let Some(open) = session.as_mut() else {
                session = Session::open(&self.url).ok();
                continue;
            };
            let begun = Instant::now();
            match open.scalar(&insert) {
                Ok(id) => {
                    let id = id.context("no id")?.parse()?;
                    let mut writes = self.writes.lock().map_err(|_| anyhow!("poisoned"))?;
                    writes.push(Write {
                        node: self.node.clone(),
                        id,
                        begun,
                        ended: Instant::now(),
                    });
                }
                Err(sqlx::Error::Database(refusal)) => {
                    let code = refusal.code().unwrap_or_default().into_owned();
                    ensure!(
                        code != "23505",
                        "{}: a counter collided: {refusal}",
                        self.node
                    );
                    if code.starts_with("57P") || code.starts_with("08") {
                        session = None;
                    }
                }
                Err(_) => session = None,
            }
        }
        Ok(())
    }
}

/// The nodes that took writes, in order; fails where two did at the same time.
pub fn turns(writes: &[Write]) -> Result<Vec<String>> {
    let mut turns: Vec<(String, Instant)> = Vec::new();
    for write in writes {
        match turns.last_mut() {
            Some((node, until)) if *node == write.node => *until = write.ended,
            Some((node, until)) => {
                ensure!(
                    write.begun > *until,
                    "{} took a write that had begun before the last one at {node} had ended",
                    write.node
                );
                turns.push((write.node.clone(), write.ended));
            }
            None => turns.push((write.node.clone(), write.ended)),
        }
    }
    Ok(turns.into_iter().map(|(node, _)| node).collect())
}

/// Longest time between two successful writes at different nodes, for each change.
pub fn gaps(writes: &[Write]) -> Vec<Duration> {
    let changes = writes
        .windows(2)
        .filter(|pair| pair[0].node != pair[1].node);
    changes.map(|pair| pair[1].ended - pair[0].ended).collect()
}

/// Every confirmed write is there once, and no identity was given out twice.
pub fn check_rows(writes: &[Write], server: &PgServer) -> Result<()> {
    let rows = server.query(&format!("SELECT id, node FROM {TABLE}"))?;
    let mut found = BTreeMap::new();
    for line in rows.lines() {
        let (id, node) = line.split_once('|').context("a row without two columns")?;
        found.insert(id.parse::<i64>()?, node.to_owned());
    }
    for write in writes {
        let node = found.get(&write.id);
        ensure!(
            node == Some(&write.node),
            "{}: the confirmed write {write:?} is not there, but {node:?}",
            server.name()
        );
    }
    Ok(())
}
