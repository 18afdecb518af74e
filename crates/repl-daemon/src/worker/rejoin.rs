//! A former primary whose place was taken by force: before anything else it refuses writes, then it is
//! looked at, then it follows, or waits for the operator (`repl_core::deposed`).

use std::collections::BTreeSet;

use repl_connectors::seam::ConnectorError;
use repl_core::deposed::{Deposed, Found, Verdict, judge};
use repl_core::membership::Membership;
use repl_core::schema::TableName;
use repl_core::{ErrorKind, failpoint};
use tracing::{info, warn};

use super::{Ended, Failure, Worker};
use crate::errors;
use crate::ledger::LedgerWriter;

impl Worker {
    /// It was looked at, and waits for the operator.
    pub(super) fn is_held(&self) -> bool {
        let deposed = self.replica().record().and_then(|record| record.deposed);
        deposed.is_some_and(|deposed| self.verdict(&deposed) == Some(Verdict::Hold))
    }

    fn verdict(&self, deposed: &Deposed) -> Option<Verdict> {
        let found = deposed.found.as_ref()?;
        Some(judge(found, self.parts.auto_rejoin, deposed.ordered))
    }

    /// Until it follows, no session is what sessions of replicas are.
    pub(super) async fn rejoin(&mut self) -> Result<Option<Ended>, Failure> {
        let record = self.replica().record();
        let Some(mut deposed) = record.as_ref().and_then(|record| record.deposed.clone()) else {
            return Ok(None);
        };
        let Some(role) = self.parts.role.clone() else {
            return Ok(None);
        };
        let tables: Vec<TableName> = record
            .and_then(|record| record.handover)
            .into_iter()
            .flat_map(|handover| handover.tables)
            .map(|schema| schema.table)
            .collect();
        if !role.is_closed(&tables).await? {
            // The guard's work, which wakes this when it is done.
            let what = "it does not refuse writes yet";
            return Err(ConnectorError::new(ErrorKind::Transient, what).into());
        }
        pass("worker.rejoin.fenced")?;
        let name = &self.replica().node.name;
        let mut ledger = LedgerWriter::new(&self.parts.log_dir, name, &deposed);
        let found = role.beyond(&deposed, &mut ledger).await?;
        // Durable before anything that it was read from is given up.
        let touched = ledger.finish().map_err(errors::state)?;
        pass("worker.rejoin.written")?;
        deposed.found = Some(found.clone());
        let verdict = self.verdict(&deposed).unwrap_or(Verdict::Hold);
        self.conclude(deposed, &found, verdict, touched)?;
        pass("worker.rejoin.judged")?;
        Ok((verdict == Verdict::Hold).then_some(Ended::Orders))
    }

    /// Remembers what becomes of it.
    fn conclude(
        &self,
        deposed: Deposed,
        found: &Found,
        verdict: Verdict,
        touched: BTreeSet<TableName>,
    ) -> Result<(), Failure> {
        let name = &self.replica().node.name;
        let said = say(found);
        match verdict {
            Verdict::Hold => warn!(
                found = said,
                "the former primary waits: replctl rejoin {name}"
            ),
            Verdict::Follow => info!("the former primary holds what the log holds, and follows"),
            Verdict::Restore => warn!(
                found = said,
                "the former primary is compared with the new one"
            ),
        }
        let reason =
            format!("was the primary, and {said}; have it join with: replctl rejoin {name}");
        self.replica()
            .change(|record| match verdict {
                Verdict::Hold => {
                    record.standing = Membership::Diverged;
                    record.reason = reason;
                    record.deposed = Some(deposed);
                }
                Verdict::Follow => {
                    record.standing = match record.restart {
                        true => Membership::Resyncing,
                        false => Membership::Streaming,
                    };
                    record.reason.clear();
                    record.deposed = None;
                }
                Verdict::Restore => {
                    record.standing = Membership::Resyncing;
                    record.reason.clear();
                    record.deposed = None;
                    record.replace = true;
                    match found {
                        // All else is what the log says.
                        Found::Strays { .. } => record.resync.extend(touched),
                        _ => record.restart = true,
                    }
                }
            })
            .map(drop)
            .map_err(|error| errors::state(error).into())
    }
}

/// What was found, as the end of a sentence.
fn say(found: &Found) -> String {
    match found {
        Found::Nothing => "holds what the log holds".to_owned(),
        Found::Strays { transactions, rows } => {
            format!(
                "committed {transactions} transactions of {rows} rows that the log never saw (replctl ledger)"
            )
        }
        Found::Unknown { why } => format!("cannot be compared with the log: {why}"),
    }
}

fn pass(name: &str) -> Result<(), Failure> {
    failpoint::hit(name)
        .map_err(|error| ConnectorError::new(ErrorKind::Connection, error.to_string()).into())
}
