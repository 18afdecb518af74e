//! What is looked after beside the stream: heartbeats, new tables, how much the server retains.
//!
//! Over a connection of its own, and in a task of its own: the stream's acknowledgements, for which
//! commits may be waiting, never wait for any of it.

use std::sync::Arc;
use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::record::History;
use repl_core::select::Selection;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::admin::Admin;
use super::capture::{PgCapture, REFRESH_FACTOR, within};
use super::wire::PgLook;
use crate::answer::answered;
use crate::seam::{CaptureBoard, CaptureLimits, CapturePort, ConnectorError, Result};

/// The running task; dropping it ends it.
pub(super) struct Housekeeping {
    task: JoinHandle<ConnectorError>,
}

impl Housekeeping {
    /// Starts it.
    pub(super) fn start(capture: &PgCapture, port: &CapturePort) -> Housekeeping {
        let house = House {
            capture: capture.clone(),
            selection: port.selection.clone(),
            board: Arc::clone(&port.board),
            limits: port.limits,
            // A new span begins with a new session.
            history: port.writer.log().bounds().history,
        };
        Housekeeping {
            task: tokio::spawn(house.keep()),
        }
    }

    /// Completes with the error that ended it. Safe to cancel.
    pub(super) async fn failed(&mut self) -> ConnectorError {
        (&mut self.task).await.unwrap_or_else(|ended| {
            let what = format!("the capture's housekeeping ended: {ended}");
            ConnectorError::new(ErrorKind::Internal, what)
        })
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct House {
    capture: PgCapture,
    selection: Selection,
    board: Arc<CaptureBoard>,
    limits: CaptureLimits,
    history: Option<History>,
}

impl House {
    async fn keep(self) -> ConnectorError {
        match self.rounds().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn rounds(&self) -> Result<std::convert::Infallible> {
        let mut admin = self.capture.admin().await?;
        let limit = self.limits.idle_timeout;
        // A server that has vanished is known long before the limits.
        let look = PgLook::server(&self.capture.target);
        let start = Instant::now();
        let mut refresh = start + self.limits.table_refresh_interval;
        let mut heartbeat = start + self.limits.heartbeat_interval;
        loop {
            tokio::time::sleep_until(refresh.min(heartbeat)).await;
            if Instant::now() >= heartbeat {
                heartbeat = Instant::now() + self.limits.heartbeat_interval;
                let beat = within(limit, "writing a heartbeat", admin.heartbeat());
                answered(beat, &look).await?;
            }
            if Instant::now() >= refresh {
                refresh = Instant::now() + self.limits.table_refresh_interval;
                answered(self.refresh(&mut admin), &look).await?;
            }
        }
    }

    async fn refresh(&self, admin: &mut Admin) -> Result<()> {
        let limit = self.limits.idle_timeout;
        let refreshed =
            self.capture
                .refresh_tables(admin, &self.selection, &self.board, self.history.as_ref());
        within(limit * REFRESH_FACTOR, "comparing the tables", refreshed).await?;
        let server = within(limit, "asking for its position", admin.position()).await?;
        let retained = within(limit, "looking at the slot", admin.slot())
            .await?
            .map(|slot| slot.retained_bytes.max(0) as u64);
        self.board.update(|status| {
            status.server = server.flushed.position().0;
            status.retained_bytes = retained;
        });
        self.board.heard(Duration::ZERO);
        Ok(())
    }
}
