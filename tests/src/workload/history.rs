//! Clients that write down, durably, what the server answered to each commit.
//!
//! Each client inserts rows `(client, n)` and appends the outcome to a file of its own, fsynced:
//! `begin` before the statement leaves, then `ok` when the commit was confirmed, `fail` when the
//! server refused it, `indeterminate` when the connection was lost with the answer outstanding.
//! After a crash the file says which rows must exist, must not exist, or may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::pg::{DATABASE, PgServer, Role, Session};

/// The table the clients write to; it has no key, so that a second application shows.
pub const TABLE: &str = "public.history";

/// What a client knows about one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server confirmed the commit.
    Ok,
    /// The server refused the transaction.
    Fail,
    /// The connection broke, or the client died, before an answer came.
    Indeterminate,
}

/// A row's identity: client and its running number.
pub type RowId = (u64, u64);

/// Makes the table.
///
/// # Errors
/// When the statement fails.
pub fn create(server: &PgServer) -> Result<()> {
    server.execute(&format!(
        "CREATE TABLE {TABLE} (client bigint NOT NULL, n bigint NOT NULL)"
    ))
}

/// Running clients. Dropping it stops them.
#[derive(Debug)]
pub struct Clients {
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts `count` clients that write to the server at `url` until stopped. They reconnect for
    /// ever when the server is away. Their files go to `directory`.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn start(url: &str, count: u64, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let mut clients = Self {
            directory: directory.to_owned(),
            stop: Arc::default(),
            confirmed: Arc::default(),
            threads: Vec::new(),
        };
        for client in 0..count {
            let file = directory.join(format!("client-{client}"));
            let journal = File::create_new(&file)
                .with_context(|| format!("{} exists already or cannot be made", file.display()))?;
            let mut worker = Worker {
                url: url.to_owned(),
                client,
                journal,
                stop: clients.stop.clone(),
                confirmed: clients.confirmed.clone(),
            };
            clients.threads.push(thread::spawn(move || worker.run()));
        }
        Ok(clients)
    }

    /// [`Clients::start`] over TCP as the superuser in the database `app`.
    ///
    /// # Errors
    /// As [`Clients::start`].
    pub fn start_on(server: &PgServer, count: u64, directory: &Path) -> Result<Self> {
        Self::start(&server.url(DATABASE, Role::Superuser), count, directory)
    }

    /// Commits confirmed so far by all clients.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Stops the clients and reads their files.
    ///
    /// # Errors
    /// When a client could not write its file.
    pub fn stop(mut self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a history client panicked"))??;
        }
        History::read(&self.directory)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    url: String,
    client: u64,
    journal: File,
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
}

impl Worker {
    fn run(&mut self) -> Result<()> {
        let mut session: Option<Session> = None;
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(open) = session.as_mut() else {
                session = Session::open(&self.url).ok();
                if session.is_none() {
                    thread::sleep(Duration::from_millis(50));
                }
                continue;
            };
            n += 1;
            self.note("begin", n)?;
            let insert = format!("INSERT INTO {TABLE} VALUES ({}, {n})", self.client);
            match open.execute(&insert) {
                Ok(_) => {
                    self.note("ok", n)?;
                    self.confirmed.fetch_add(1, Ordering::Relaxed);
                }
                Err(sqlx::Error::Database(refusal)) if !ends_session(refusal.as_ref()) => {
                    self.note("fail", n)?;
                }
                Err(_) => {
                    self.note("indeterminate", n)?;
                    session = None;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, status: &str, n: u64) -> Result<()> {
        // A record is one write; fsync makes it outlive this process, not only its buffers.
        self.journal
            .write_all(format!("{status} {n}\n").as_bytes())?;
        self.journal
            .sync_data()
            .context("cannot fsync a client's history")
    }
}

/// Class 57P (operator intervention) and 08 (connection): the commit may have happened before.
fn ends_session(error: &dyn sqlx::error::DatabaseError) -> bool {
    error
        .code()
        .is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// What all clients know, read back from their files.
#[derive(Debug, Default)]
pub struct History {
    outcomes: BTreeMap<RowId, Outcome>,
}

impl History {
    /// Reads the files of all clients.
    ///
    /// # Errors
    /// When a file is unreadable or holds something else.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut history = Self::default();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let client = name
                .strip_prefix("client-")
                .and_then(|number| number.parse().ok());
            let client = client.with_context(|| format!("{} is no history", path.display()))?;
            for line in fs::read_to_string(&path)?.lines() {
                let (status, n) = line.split_once(' ').context("a line without a number")?;
                let outcome = match status {
                    "ok" => Outcome::Ok,
                    "fail" => Outcome::Fail,
                    // A begin that nothing follows: the client itself was killed.
                    "begin" | "indeterminate" => Outcome::Indeterminate,
                    other => bail!("unknown outcome {other:?} in {}", path.display()),
                };
                history.outcomes.insert((client, n.parse()?), outcome);
            }
        }
        Ok(history)
    }

    /// The rows with this outcome.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = RowId> {
        let rows = self.outcomes.iter();
        rows.filter(move |(_, found)| **found == outcome)
            .map(|(row, _)| *row)
    }

    /// Number of rows with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes
            .values()
            .filter(|&&found| found == outcome)
            .count()
    }

    /// Checks a database against the history: every confirmed row is there, no refused one is,
    /// none is there twice, and none that no client ever sent.
    ///
    /// # Errors
    /// The rows that contradict it.
    pub fn check(&self, server: &PgServer) -> Result<()> {
        let mut seen: BTreeSet<RowId> = BTreeSet::new();
        let mut wrong = Vec::new();
        for line in server
            .query(&format!("SELECT client, n FROM {TABLE}"))?
            .lines()
        {
            let (client, n) = line.split_once('|').context("a row without two columns")?;
            let row: RowId = (client.parse()?, n.parse()?);
            match self.outcomes.get(&row) {
                Some(Outcome::Fail) => wrong.push(format!("{row:?} was refused, yet is there")),
                None => wrong.push(format!("{row:?} was never sent, yet is there")),
                Some(Outcome::Ok | Outcome::Indeterminate) => {}
            }
            if !seen.insert(row) {
                wrong.push(format!("{row:?} is there twice"));
            }
        }
        for (row, outcome) in &self.outcomes {
            if *outcome == Outcome::Ok && !seen.contains(row) {
                wrong.push(format!("{row:?} was confirmed, yet is lost"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let shown = wrong[..wrong.len().min(10)].join("; ");
        bail!(
            "{}: {} rows contradict the clients' history: {shown}",
            server.name(),
            wrong.len()
        )
    }
}
