//! How fast a copy may go: a limit on rows, and pauses while others suffer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repl_connectors::seam::CaptureBoard;
use tokio::time::Instant;

use super::progress::Shown;
use crate::config::CopyConfig;
use crate::replica::Replica;

/// How often a paused copy looks whether it may go on.
const LOOK: Duration = Duration::from_millis(200);

/// What tells whether a copy burdens others.
#[derive(Clone, Default)]
pub struct Others {
    /// The other replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// The capture.
    pub board: Arc<CaptureBoard>,
}

/// The pace of one round of copying, for all its lanes together.
pub(super) struct Pace {
    config: CopyConfig,
    others: Others,
    /// When the rows let through so far are used up.
    used_up: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(config: CopyConfig, others: Others) -> Pace {
        Pace {
            config,
            others,
            used_up: Mutex::new(None),
        }
    }

    /// Waits as long as so many rows take at the configured rate.
    pub(super) async fn passed(&self, rows: u64) {
        let Some(rate) = self.config.max_rows_per_second else {
            return;
        };
        let until = {
            let mut used_up = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = used_up.map_or(now, |at| at.max(now));
            let until = from + Duration::from_secs_f64(rows as f64 / rate as f64);
            *used_up = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }

    /// Waits while the primary or another replica is over the limits set for copies.
    pub(super) async fn wait_for_relief(&self, shown: &Shown) {
        let mut paused = false;
        while let Some(reason) = self.pressure() {
            shown.paused(Some(reason));
            paused = true;
            tokio::time::sleep(LOOK).await;
        }
        if paused {
            shown.paused(None);
        }
    }

    fn pressure(&self) -> Option<String> {
        if let (Some(most), Some(retained)) = (
            self.config.max_retained,
            self.others.board.status().retained_bytes,
        ) && retained > most
        {
            return Some(format!("the primary retains {retained} bytes of its log"));
        }
        let most = self.config.max_lag?;
        self.others.replicas.iter().find_map(|replica| {
            let lag = Duration::from_millis(replica.view().lag_ms?);
            (lag > most).then(|| format!("replica {} lags by {lag:?}", replica.node.name))
        })
    }
}
