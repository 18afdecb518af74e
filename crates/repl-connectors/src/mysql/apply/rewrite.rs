//! Net changes by taking all touched rows out and putting them back: values of unique columns may
//! then move between rows in any way, which updates one by one could not do.

use std::sync::Arc;

use mysql_async::Value as Param;
use repl_core::batch::NetTable;
use repl_core::row::Row;

use super::metadata::Target;
use super::session::{Doing, Session};
use super::setwise::{Groups, flagged};
use super::sql::quote;
use crate::seam::Result;

impl Session {
    pub(super) async fn rewrite(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        self.delete_keys(target, &net.deletes).await?;
        if !net.updates.is_empty() {
            self.rewrite_updates(target, &net.updates).await?;
        }
        self.insert_rows(target, &net.inserts).await?;
        self.multiset(target, &net.multiset).await
    }

    async fn rewrite_updates(&mut self, target: &Arc<Target>, updates: &[Row]) -> Result<()> {
        for (group, (written, rows)) in Groups::new(target, updates)?.0.iter().enumerate() {
            let group = u32::try_from(group).unwrap_or(u32::MAX);
            let columns = [target.key.as_slice(), &flagged(written)].concat();
            let stage = self.fill_stage(target, &columns, group, rows).await?;
            self.complete_stage(target, &stage, group, &columns, rows.len() as u64)
                .await?;
        }
        let stage = self.stage(target).await?;
        let total = updates.len() as u64;
        let delete = format!("DELETE t FROM {}", target.joined(&stage));
        self.change_plain(Doing::new("update", target), &delete, Some(total))
            .await?;
        let names: Vec<String> = target.columns.iter().map(|c| quote(&c.name)).collect();
        let staged: Vec<String> = (0..names.len()).map(|at| format!("c{at}")).collect();
        let insert = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {stage}",
            target.name,
            names.join(", "),
            staged.join(", ")
        );
        self.change_plain(Doing::new("update", target), &insert, Some(total))
            .await?;
        self.clear_stage(target).await
    }

    /// Takes the columns that were not sent, and those only the replica has, from the table.
    async fn complete_stage(
        &mut self,
        target: &Arc<Target>,
        stage: &str,
        group: u32,
        sent: &[usize],
        rows: u64,
    ) -> Result<()> {
        let sets: Vec<String> = (0..target.columns.len())
            .filter(|at| !sent.contains(at))
            .map(|at| format!("s.c{at} = t.{}", quote(&target.columns[at].name)))
            .collect();
        if sets.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {} SET {} WHERE s.g = ?",
            target.joined(stage),
            sets.join(", ")
        );
        let doing = Doing::new("update", target);
        self.change(doing, &sql, vec![Param::from(group)], rows)
            .await
    }
}
