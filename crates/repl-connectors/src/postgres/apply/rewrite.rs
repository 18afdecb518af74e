//! Net changes by taking all touched rows out and putting them back: values of unique columns may
//! then move between rows in any way, which updates one by one could not do.

use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::Row;

use super::metadata::Target;
use super::queue::Label;
use super::session::Session;
use super::sql::Kind;
use crate::seam::Result;

impl Session {
    pub(super) async fn rewrite(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        self.delete_keys(target, &net.deletes).await?;
        if !net.updates.is_empty() {
            self.stage_and_back(target, &net.updates, Kind::Stage)
                .await?;
        }
        self.insert_rows(target, &net.inserts).await?;
        self.multiset(target, &net.multiset).await
    }

    /// Moves rows with their new values to the staging table by statements of the kind `stage`, and puts them back.
    pub(super) async fn stage_and_back(
        &mut self,
        target: &Arc<Target>,
        updates: &[Row],
        stage: Kind,
    ) -> Result<()> {
        self.push(&target.create_stage(), &[], Label::Other)?;
        self.update_groups(target, stage, updates).await?;
        for sql in target.unstage() {
            let label = Label::Rows("update", Arc::clone(target), None);
            self.push(&sql, &[], label)?;
        }
        Ok(())
    }
}
