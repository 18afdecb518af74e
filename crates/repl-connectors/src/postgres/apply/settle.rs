//! Net changes of a table that is settling: what is there gives way, what is not is not missed.

use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::Row;

use super::metadata::Target;
use super::session::Session;
use super::sql::Kind;
use crate::seam::{Result, Style};

impl Session {
    /// What has to go does so before anything is changed or inserted: unique values may pass from one row to
    /// another. Among rows that are changed in part they may as well, for which these are rewritten.
    pub(super) async fn settle_rows(
        &mut self,
        target: &Arc<Target>,
        net: &NetTable,
        style: Style,
    ) -> Result<()> {
        let (complete, partial) = net.complete_and_partial()?;
        let gone: Vec<&Row> = net.deletes.iter().chain(&complete).collect();
        let delete = target.statement(Kind::DeleteAny, &[]);
        self.in_chunks(target, "delete", &delete, &target.key, &gone)
            .await?;
        let rewrite = style == Style::Rewrite || target.rewrite_updates;
        if rewrite && !partial.is_empty() {
            self.stage_and_back(target, &partial, Kind::StageAny)
                .await?;
        } else {
            self.update_groups(target, Kind::UpdateAny, &partial)
                .await?;
        }
        self.insert_rows(target, &complete).await
    }
}
