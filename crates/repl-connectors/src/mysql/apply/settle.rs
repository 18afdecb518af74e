//! Net changes of a table that is settling: what is there gives way, what is not is not missed.

use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::Row;

use super::metadata::Target;
use super::session::Session;
use super::setwise::Groups;
use crate::seam::Result;

impl Session {
    pub(super) async fn settle_rows(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        let (complete, partial) = net.complete_and_partial()?;
        let gone: Vec<&Row> = net.deletes.iter().chain(&complete).collect();
        self.staged_delete(target, &gone, false).await?;
        self.insert_rows(target, &complete).await?;
        for (written, rows) in &Groups::new(target, &partial)?.0 {
            self.staged_update(target, written, rows, false).await?;
        }
        Ok(())
    }
}
