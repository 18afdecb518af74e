//! Waiting, for a client that asks, until its commit is on replicas.

use std::sync::Arc;
use std::time::Duration;

use repl_api::{WaitDone, WaitRequest};
use repl_connectors::seam::{ConnectorError, SnapshotSource};
use repl_core::log::Durable;
use repl_core::membership::Membership;
use repl_core::{Seq, SourcePosition};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Modes;
use super::order::Refusal;
use crate::replica::{Progress, Replica};

/// Longest wait of one request; the API ends connections after 60 s.
const MAX_TIMEOUT: Duration = Duration::from_secs(50);

/// How often a replica that is being copied is looked at.
const COPY_POLL: Duration = Duration::from_millis(50);

/// What waits are answered from.
pub struct Waiting {
    /// The mode.
    pub modes: Arc<Modes>,
    /// All replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// The log's durable end.
    pub durable: watch::Receiver<Durable>,
    /// Tells the primary's present end, and reads its clients' tokens.
    pub source: Arc<dyn SnapshotSource>,
}

impl Waiting {
    /// Waits until what was committed before `request.token` was taken is on so many replicas:
    /// applied, and where the mode waits for replicas, durably.
    ///
    /// # Errors
    /// When the request cannot be met by this group, or the primary cannot be asked.
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitDone, Refusal> {
        let wanted = self.wanted(request)?;
        let patience = Duration::from_millis(request.timeout_ms).min(MAX_TIMEOUT);
        let until = Instant::now() + patience;
        let position = match &request.token {
            Some(token) => self.source.position_of(token).map_err(refused)?,
            None => match timeout_at(until, self.source.end()).await {
                Ok(end) => end.map_err(refused)?,
                Err(_) => return Ok(self.answer(None, SourcePosition::default(), wanted)),
            },
        };
        let mut durable = self.durable.clone();
        let logged = durable.wait_for(|end| self.source.has_reached(&end.position, &position));
        let Ok(Ok(seq)) = timeout_at(until, logged)
            .await
            .map(|end| end.map(|end| end.seq))
        else {
            return Ok(self.answer(None, position, wanted));
        };
        let mut arriving = JoinSet::new();
        for replica in self.replicas.iter().filter(|replica| replica.node.enabled) {
            let replica = Arc::clone(replica);
            arriving.spawn(async move {
                let mut progress = replica.progress.subscribe();
                // The sender lives in the replica.
                let _ = progress.wait_for(|now| has(&replica, now, seq)).await;
                while !is_whole(&replica) {
                    tokio::time::sleep(COPY_POLL).await;
                }
            });
        }
        let mut answer = self.answer(Some(seq), position.clone(), wanted);
        while !answer.done
            && let Ok(Some(_)) = timeout_at(until, arriving.join_next()).await
        {
            answer = self.answer(Some(seq), position.clone(), wanted);
        }
        Ok(answer)
    }

    fn wanted(&self, request: &WaitRequest) -> Result<usize, Refusal> {
        let enabled = self.replicas.iter().filter(|r| r.node.enabled).count();
        let needed = self.modes.settings().needed(self.modes.roster.len());
        let wanted = request
            .replicas
            .map_or(needed.max(1), |replicas| replicas as usize);
        if wanted > enabled {
            return Err(Refusal {
                what: format!("{wanted} replicas are waited for, and {enabled} are enabled"),
                advice: "ask for fewer".into(),
            });
        }
        Ok(wanted)
    }

    fn answer(&self, seq: Option<Seq>, position: SourcePosition, wanted: usize) -> WaitDone {
        let on: Vec<String> = self
            .replicas
            .iter()
            .filter(|replica| {
                is_whole(replica)
                    && seq.is_some_and(|seq| has(replica, &replica.progress.borrow(), seq))
            })
            .map(|replica| replica.node.name.clone())
            .collect();
        WaitDone {
            done: seq.is_some() && on.len() >= wanted,
            position: position.0,
            logged_seq: seq.map(|seq| seq.0),
            wanted: wanted as u32,
            applied_on: on,
        }
    }
}

/// Whether it holds all of what it has applied, not only the tables that are copied already.
fn is_whole(replica: &Replica) -> bool {
    let record = replica.record();
    record.is_some_and(|record| record.standing == Membership::Streaming)
}

/// Whether a replica has applied `seq`, and, where commits wait for it, cannot lose it again.
fn has(replica: &Replica, progress: &Progress, seq: Seq) -> bool {
    let reached = if replica.waited.load(std::sync::atomic::Ordering::Relaxed) {
        progress.durable
    } else {
        progress.applied.as_ref().map(|(applied, _)| *applied)
    };
    reached.is_some_and(|reached| reached >= seq)
}

fn refused(error: ConnectorError) -> Refusal {
    Refusal {
        what: error.message,
        advice: error.advice,
    }
}
