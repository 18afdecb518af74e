//! How far a validation is, and how fast it may go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repl_api::ValidationProgress;
use tokio::time::Instant;

/// Counts the rows read, on all sides together, and holds back readers that are too fast.
#[derive(Clone, Debug)]
pub struct Rows {
    read: Arc<AtomicU64>,
    /// Most rows a second; none is as fast as it goes.
    most_per_s: Option<u64>,
    started: Instant,
}

impl Rows {
    /// Counts from zero.
    pub fn new(most_per_s: Option<u64>) -> Self {
        Rows {
            read: Arc::default(),
            most_per_s,
            started: Instant::now(),
        }
    }

    /// Counts rows and waits as long as they are ahead of the rate.
    pub async fn add(&self, rows: usize) {
        let rows = rows as u64;
        let read = self.read.fetch_add(rows, Ordering::Relaxed) + rows;
        if let Some(most) = self.most_per_s {
            let due = Duration::from_secs_f64(read as f64 / most.max(1) as f64);
            tokio::time::sleep_until(self.started + due).await;
        }
    }

    /// Rows read since the start.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// What is shown of a validation under way.
#[derive(Debug)]
pub struct Progress {
    shown: Mutex<ValidationProgress>,
    /// Counts the rows.
    pub rows: Rows,
    before: AtomicU64,
}

impl Progress {
    /// Nothing done yet.
    pub fn new(most_per_s: Option<u64>) -> Self {
        Progress {
            shown: Mutex::default(),
            rows: Rows::new(most_per_s),
            before: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ValidationProgress> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names what is being done.
    pub fn phase(&self, phase: &str) {
        self.lock().phase = phase.to_owned();
    }

    /// The number of tables to do.
    pub fn total(&self, tables: usize) {
        let mut shown = self.lock();
        shown.tables_total = tables as u64;
        shown.tables_done = 0;
    }

    /// Begins a table; `estimate` is that of the rows to read of it.
    pub fn table(&self, table: &str, estimate: Option<u64>) {
        self.before.store(self.rows.read(), Ordering::Relaxed);
        let mut shown = self.lock();
        shown.table = Some(table.to_owned());
        shown.rows_estimate = estimate;
    }

    /// A table is done.
    pub fn done(&self) {
        self.lock().tables_done += 1;
    }

    /// How far it is now.
    pub fn now(&self) -> ValidationProgress {
        let before = self.before.load(Ordering::Relaxed);
        ValidationProgress {
            rows_done: self.rows.read().saturating_sub(before),
            ..self.lock().clone()
        }
    }
}
