//! A writer on every node, that tries all the time and notes when it succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use repl_tests::pg::{DATABASE, PgServer, Role, Session};
use repl_tests::sqlite::SqliteDb;
use rusqlite::{Connection, OpenFlags};

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
        let attempt = |(name, server): &(&str, &PgServer)| {
            Attempt::server(name, &server.url(DATABASE, Role::Superuser))
        };
        Probes::of(nodes.iter().map(attempt).collect(), interval)
    }

    /// Starts one for each of these.
    pub fn of(attempts: Vec<Attempt>, interval: Option<Duration>) -> Probes {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::default();
        let threads = attempts
            .into_iter()
            .map(|attempt| {
                let probe = Probe {
                    attempt,
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

/// Tries to write one row at a node.
pub struct Attempt {
    node: String,
    write: Box<dyn FnMut() -> Result<Option<i64>> + Send>,
}

impl Attempt {
    /// At a server. Returns the row's number, or none where the write was not taken.
    pub fn server(node: &str, url: &str) -> Attempt {
        let (name, url) = (node.to_owned(), url.to_owned());
        let insert = format!(
            "SET default_transaction_read_only = off; \
             INSERT INTO {TABLE} (node) VALUES ('{name}') RETURNING id::text"
        );
        let mut session: Option<Session> = None;
        let write = move || {
            let Some(open) = session.as_mut() else {
                session = Session::open(&url).ok();
                return Ok(None);
            };
            match open.scalar(&insert) {
                Ok(id) => return Ok(Some(id.context("no id")?.parse()?)),
                Err(sqlx::Error::Database(refusal)) => {
                    let code = refusal.code().unwrap_or_default().into_owned();
                    ensure!(code != "23505", "{name}: a counter collided: {refusal}");
                    if code.starts_with("57P") || code.starts_with("08") {
                        session = None;
                    }
                }
                Err(_) => session = None,
            }
            Ok(None)
        };
        Attempt {
            node: node.to_owned(),
            write: Box::new(write),
        }
    }

    /// At a file, which may not be there.
    pub fn file(node: &str, file: &SqliteDb) -> Attempt {
        let (name, file) = (node.to_owned(), file.clone());
        let write = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let Ok(db) = Connection::open_with_flags(file.path(), flags) else {
                return Ok(None);
            };
            db.busy_timeout(Duration::from_millis(200))?;
            let insert = "INSERT INTO probe (node) VALUES (?1) RETURNING id";
            match db.query_row(insert, [&name], |row| row.get(0)) {
                Ok(id) => Ok(Some(id)),
                Err(error) => {
                    let collided = error.to_string().contains("UNIQUE");
                    ensure!(!collided, "{name}: a counter collided: {error}");
                    Ok(None)
                }
            }
        };
        Attempt {
            node: node.to_owned(),
            write: Box::new(write),
        }
    }
}

struct Probe {
    attempt: Attempt,
    interval: Duration,
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
}

impl Probe {
    fn run(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(self.interval);
            let begun = Instant::now();
            if let Some(id) = (self.attempt.write)()? {
                let mut writes = self.writes.lock().map_err(|_| anyhow!("poisoned"))?;
                writes.push(Write {
                    node: self.attempt.node.clone(),
                    id,
                    begun,
                    ended: Instant::now(),
                });
            }
        }
        Ok(())
    }
}

/// One node's turn at taking writes.
struct Turn {
    node: String,
    begun: Instant,
    ended: Instant,
}

/// The nodes that took writes, in order; fails where two did at the same time. What the node before had
/// begun when the next one took its first may be confirmed late, since the word of it may have been on its
/// way for long: that it was committed in time is told by the rows of the others ([`check_rows`]).
pub fn turns(writes: &[Write]) -> Result<Vec<String>> {
    let mut turns: Vec<Turn> = Vec::new();
    for write in writes {
        if let Some(turn) = turns.last_mut().filter(|turn| turn.node == write.node) {
            turn.ended = write.ended;
            continue;
        }
        if let Some(last) = turns.last().filter(|last| write.begun <= last.ended) {
            let before = turns.iter().rev().nth(1);
            let late = before.is_some_and(|before| before.node == write.node);
            ensure!(
                late && write.begun < last.begun,
                "{} took a write that had begun before the last one at {} had ended",
                write.node,
                last.node
            );
            continue;
        }
        turns.push(Turn {
            node: write.node.clone(),
            begun: write.begun,
            ended: write.ended,
        });
    }
    println!(
        "{} confirmed writes, {} turns, none of which overlap",
        writes.len(),
        turns.len()
    );
    Ok(turns.into_iter().map(|turn| turn.node).collect())
}

#[test]
fn only_what_had_begun_before_may_be_confirmed_late() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let write = |node: &str, begun, ended| Write {
        node: node.to_owned(),
        id: 0,
        begun: at(begun),
        ended: at(ended),
    };
    let told = |more: Write| {
        let mut writes = vec![
            write("a", 0, 1),
            write("b", 10, 11),
            write("b", 20, 21),
            more,
        ];
        writes.sort_by_key(|write| write.ended);
        turns(&writes).ok()
    };
    let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(told(write("a", 5, 15)), names(&["a", "b"]));
    assert_eq!(told(write("a", 11, 15)), None);
    assert_eq!(told(write("c", 5, 15)), None);
    assert_eq!(told(write("a", 22, 23)), names(&["a", "b", "a"]));
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

/// The numbers of confirmed writes of `node` that are not among `ids`.
pub fn missing(writes: &[Write], node: &str, ids: &[i64]) -> Vec<i64> {
    let of_node = writes.iter().filter(|write| write.node == node);
    let there: BTreeSet<i64> = ids.iter().copied().collect();
    of_node
        .map(|write| write.id)
        .filter(|id| !there.contains(id))
        .collect()
}
