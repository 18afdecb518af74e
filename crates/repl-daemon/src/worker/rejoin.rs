//! A former primary whose place was taken by force: before anything else it refuses writes, then it is
//! looked at, then it follows, or waits for the operator (`repl_core::deposed`).

use std::collections::BTreeSet;

use repl_connectors::seam::ConnectorError;
use repl_core::ErrorKind;
use repl_core::deposed::{Deposed, Found, Verdict, judge};
use repl_core::membership::Membership;
use repl_core::schema::{TableName, TableSchema};
use serde_json::json;
use tracing::{info, warn};

use super::{Ended, Failure, Worker, pass};
use crate::errors;
use crate::ledger::LedgerWriter;
use crate::state::Mend;

impl Worker {
    /// It was looked at, and waits for the operator.
    pub(super) fn is_held(&self) -> bool {
        let deposed = self.replica().record().and_then(|record| record.deposed);
        deposed.is_some_and(|deposed| self.verdict(&deposed) == Some(Verdict::Hold))
    }

    fn verdict(&self, deposed: &Deposed) -> Option<Verdict> {
        let found = deposed.found.as_ref()?;
        // One whose commits were found not to wait any more is not noted as such.
        Some(judge(found, self.parts.auto_rejoin, deposed, true))
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
        let handover = record.and_then(|record| record.handover);
        let shapes = handover.map(|handover| handover.tables).unwrap_or_default();
        let tables: Vec<TableName> = shapes.iter().map(|schema| schema.table.clone()).collect();
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
        let id = ledger.id();
        let touched = ledger.finish().map_err(errors::state)?;
        let (known, unknown) = shapes_of(touched, shapes);
        let mend = Mend {
            ledger: id.clone(),
            tables: known,
            removed: false,
        };
        pass("worker.rejoin.written")?;
        deposed.found = Some(found.clone());
        if deposed.unacknowledged && !role.all_commits_wait().await? {
            // Somebody has let them go: what was told to whom is not known.
            deposed.unacknowledged = false;
        }
        let verdict = self.verdict(&deposed).unwrap_or(Verdict::Hold);
        if verdict == Verdict::Restore && !deposed.ordered {
            self.report_given_up(&found, &id).await?;
        }
        self.conclude(deposed, &found, verdict, (mend, unknown))?;
        pass("worker.rejoin.judged")?;
        Ok((verdict == Verdict::Hold).then_some(Ended::Orders))
    }

    /// Says what is given up without an order, and where it is written down, before it is.
    async fn report_given_up(&mut self, found: &Found, ledger: &str) -> Result<(), Failure> {
        let Found::Strays { transactions, rows } = found else {
            return Ok(());
        };
        let replica = &self.replica().node.name;
        warn!(
            replica,
            transactions,
            rows,
            ledger,
            "the former primary had committed what was acknowledged to nobody: it is in the ledger, and the \
             node follows"
        );
        let arguments = json!({
            "replica": replica,
            "transactions": transactions,
            "rows": rows,
            "ledger": ledger,
            "why": "acknowledged to nobody: failover.auto_rejoin",
        });
        let reported = self.parts.audit.report("replica.rejoin", &arguments).await;
        reported.map_err(|error| errors::state(error.into()).into())
    }

    /// Remembers what becomes of it; `touched` are the tables it has changed, as far as the log knew
    /// them, and the others.
    fn conclude(
        &self,
        deposed: Deposed,
        found: &Found,
        verdict: Verdict,
        touched: (Mend, Vec<TableName>),
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
                "the former primary is brought to what the new one holds"
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
                        Found::Strays { .. } => {
                            let (mend, unknown) = touched;
                            record.resync.extend(unknown);
                            record.mend = Some(mend).filter(|mend| !mend.tables.is_empty());
                        }
                        _ => record.restart = true,
                    }
                }
            })
            .map(drop)
            .map_err(|error| errors::state(error).into())
    }
}

/// The shapes of these tables; and the tables that have none.
fn shapes_of(
    tables: BTreeSet<TableName>,
    shapes: Vec<TableSchema>,
) -> (Vec<TableSchema>, Vec<TableName>) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for table in tables {
        match shapes.iter().find(|schema| schema.table == table) {
            Some(schema) => known.push(schema.clone()),
            None => unknown.push(table),
        }
    }
    (known, unknown)
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
