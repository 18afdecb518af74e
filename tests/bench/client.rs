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

/// Pause after a write, and after every server has refused one.
const PAUSE: Duration = Duration::from_millis(4);

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

    /// The last write that was acknowledged before `from`.
    pub fn last_before(&self, from: Instant) -> Option<Write> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = writes.iter().filter(|write| write.at < from);
        before.copied().max_by_key(|write| write.at)
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
    let mut session: Option<Session> = None;
    while !stop.load(Ordering::Relaxed) {
        if session.is_none() {
            session = Session::open(&urls[at]).ok();
        }
        let done = session
            .as_mut()
            .is_some_and(|open| open.execute(&insert).is_ok());
        if done {
            let write = Write {
                server: at,
                at: Instant::now(),
            };
            let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
            writes.push(write);
        } else {
            session = None;
            at = (at + 1) % urls.len();
        }
        thread::sleep(PAUSE);
    }
}
