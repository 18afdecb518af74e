//! Clients that go on with whichever server takes their writes, and note when it did.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use repl_tests::pg::Session;

/// The table they write to; the identity is each row's number.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS public.beat (id bigserial PRIMARY KEY, client int NOT NULL)";

/// Pause after a write.
const PAUSE: Duration = Duration::from_millis(4);
/// Pause before the next server is tried.
const LOOK: Duration = Duration::from_millis(10);

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Which of the servers.
    pub server: usize,
    /// When its COMMIT had returned.
    pub at: Instant,
}

/// The running clients.
pub struct Clients {
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` of them on the servers at these URLs.
    pub fn start(urls: &[String], count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writes: Arc<Mutex<Vec<Write>>> = Arc::default();
        let threads = (0..count).map(|client| {
            let (urls, stop, writes) = (urls.to_vec(), Arc::clone(&stop), Arc::clone(&writes));
            thread::spawn(move || work(client, &urls, &stop, &writes))
        });
        let threads = threads.collect();
        Self {
            stop,
            writes,
            threads,
        }
    }

    /// The first write after `from` that a server other than `not` acknowledged.
    ///
    /// # Errors
    /// When there is none within `patience`.
    pub fn first(&self, from: Instant, not: Option<usize>, patience: Duration) -> Result<Write> {
        while from.elapsed() < patience {
            let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
            let later = writes.iter().filter(|write| write.at > from);
            if let Some(found) = later.copied().find(|write| Some(write.server) != not) {
                return Ok(found);
            }
            drop(writes);
            thread::sleep(Duration::from_millis(1));
        }
        bail!("no server took a write for {patience:?}")
    }

    /// The last write at `old`, and the first after `from` at another server.
    pub fn change(&self, from: Instant, old: usize) -> Option<(Instant, Instant)> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |own: bool| writes.iter().filter(move |one| (one.server == old) == own);
        let before = of(true).map(|one| one.at).max()?;
        let after = of(false).map(|one| one.at).filter(|at| *at > from).min()?;
        Some((before, after))
    }

    /// Ends them; how many writes were acknowledged.
    ///
    /// # Errors
    /// When one panicked.
    pub fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writes.len())
    }
}

fn work(client: usize, urls: &[String], stop: &AtomicBool, writes: &Mutex<Vec<Write>>) {
    let insert = format!("INSERT INTO public.beat (client) VALUES ({client})");
    let mut at = 0;
    let mut sessions: Vec<Option<Session>> = urls.iter().map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        if sessions[at].is_none() {
            sessions[at] = Session::open(&urls[at]).ok();
        }
        let done = sessions[at].as_mut().map(|open| open.execute(&insert));
        if let Some(Ok(_)) = done {
            let write = Write {
                server: at,
                at: Instant::now(),
            };
            let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
            writes.push(write);
            drop(writes);
            thread::sleep(PAUSE);
            continue;
        }
        // A server that refuses writes is asked again over the same session.
        let refused = |error: &sqlx::Error| {
            let code = error.as_database_error().and_then(|refusal| refusal.code());
            code.as_deref() == Some("25006")
        };
        if !matches!(&done, Some(Err(error)) if refused(error)) {
            sessions[at] = None;
        }
        at = (at + 1) % urls.len();
        thread::sleep(LOOK);
    }
}
