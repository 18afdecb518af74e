//! Writes single rows on the operator's word, between two batches.

use repl_connectors::seam::Style;
use repl_core::batch::{NetTable, Step};
use repl_core::checkpoint::Checkpoint;
use tracing::warn;

use super::{Ended, Worker};
use crate::replica::{RepairOrder, Repaired};

impl Worker {
    /// Carries out the repairs that wait, at a point of the stream where nothing is on its way. After
    /// one that failed the session is used up.
    pub(super) async fn repair(&mut self, checkpoint: &Checkpoint) -> Option<Ended> {
        while let Some(RepairOrder { prepare, reply }) = self.replica().take_repair() {
            let at = checkpoint.clone();
            let prepared = tokio::task::spawn_blocking(move || prepare(&at)).await;
            let outcome = match prepared {
                Ok(Ok(net)) => self.write_rows(checkpoint, net).await,
                Ok(Err(reason)) => Err((reason, false)),
                Err(panic) => Err((panic.to_string(), false)),
            };
            let broken = matches!(outcome, Err((_, true)));
            // Whoever ordered it may have given up; what was done shows in the next comparison.
            let _ = reply.send(outcome.map_err(|(reason, _)| reason));
            if broken {
                return Some(Ended::Orders);
            }
        }
        None
    }

    /// The error's second part tells that the session is used up.
    async fn write_rows(
        &mut self,
        checkpoint: &Checkpoint,
        net: NetTable,
    ) -> Result<Repaired, (String, bool)> {
        if net.is_empty() {
            return Ok(Repaired::default());
        }
        let copies = |wanted: fn(&i64) -> bool| {
            let counts = net.multiset.iter().map(|(_, copies)| *copies);
            counts.filter(wanted).map(i64::unsigned_abs).sum::<u64>()
        };
        let repaired = Repaired {
            inserted: net.inserts.len() as u64 + copies(|copies| *copies > 0),
            updated: net.updates.len() as u64,
            deleted: net.deletes.len() as u64 + copies(|copies| *copies < 0),
        };
        let table = net.route.target.clone();
        let step = Step::Net(vec![net]);
        match self.write_step(checkpoint, &step).await {
            Ok(()) => Ok(repaired),
            Err(error) => {
                warn!(%table, error = %error.message, "rows could not be repaired");
                Err((error.message, true))
            }
        }
    }

    pub(super) async fn write_step(
        &mut self,
        checkpoint: &Checkpoint,
        step: &Step,
    ) -> repl_connectors::seam::Result<()> {
        let applier = &mut self.parts.applier;
        applier.begin(checkpoint).await?;
        applier.apply(step, Style::Rewrite).await?;
        applier.commit(checkpoint, &[]).await
    }
}
