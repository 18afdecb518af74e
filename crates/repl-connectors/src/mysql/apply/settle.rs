//! Net changes of a table that is settling: what is there gives way, what is not is not missed.

use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::Row;

use super::metadata::Target;
use super::session::{Doing, Session};
use super::setwise::{CHUNK_ROWS, Groups, flagged, kept_columns};
use super::sql::quote;
use crate::seam::Result;

impl Session {
    pub(super) async fn settle_rows(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        let mut complete: Vec<Row> = net.inserts.clone();
        let mut partial: Vec<Row> = Vec::new();
        for row in &net.updates {
            let list = if row.has_unchanged()? {
                &mut partial
            } else {
                &mut complete
            };
            list.push(row.clone());
        }
        let gone: Vec<&Row> = net.deletes.iter().chain(&complete).collect();
        for chunk in gone.chunks(CHUNK_ROWS) {
            let stage = self.fill_stage(target, &target.key, 0, chunk).await?;
            let sql = format!("DELETE t FROM {}", target.joined(&stage));
            self.run_on(target, "delete", &sql).await?;
            self.clear_stage(target).await?;
        }
        self.insert_rows(target, &complete).await?;
        for (written, rows) in &Groups::new(target, &partial)?.0 {
            self.settle_group(target, written, rows).await?;
        }
        Ok(())
    }

    /// Rows of which some columns were not sent.
    async fn settle_group(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        rows: &[&Row],
    ) -> Result<()> {
        let mut sets: Vec<String> = flagged(written)
            .iter()
            .map(|&at| format!("t.{} = s.c{at}", quote(&target.columns[at].name)))
            .collect();
        sets.extend(kept_columns(target, written, "t."));
        let columns = [target.key.as_slice(), &flagged(written)].concat();
        for chunk in rows.chunks(CHUNK_ROWS) {
            let stage = self.fill_stage(target, &columns, 0, chunk).await?;
            let sql = format!("UPDATE {} SET {}", target.joined(&stage), sets.join(", "));
            self.run_on(target, "update", &sql).await?;
            self.clear_stage(target).await?;
        }
        Ok(())
    }

    /// Runs a statement on rows, however many it finds; their values passed the staging table.
    async fn run_on(&mut self, target: &Arc<Target>, verb: &'static str, sql: &str) -> Result<()> {
        let outcome = self.run(sql).await;
        outcome.map_err(|error| Doing::new(verb, target).complete(error))
    }
}
