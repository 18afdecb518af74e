//! Net changes by taking all touched rows out and putting them back: values of unique columns may
//! then move between rows in any way, which updates one by one could not do.

use std::sync::Arc;

use repl_core::batch::NetTable;

use super::metadata::Target;
use super::queue::Label;
use super::session::Session;
use super::setwise::{Groups, written_list};
use super::sql::Kind;
use crate::seam::Result;

impl Session {
    pub(super) async fn rewrite(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        self.delete_keys(target, &net.deletes).await?;
        if !net.updates.is_empty() {
            self.push(&target.create_stage(), &[], Label::Other)?;
            let updates = Groups::new(target, &net.updates)?;
            for (written, rows) in &updates.0 {
                let sql = target.statement(Kind::Stage, written);
                let arrays = target.written_then_key(&written_list(written));
                self.in_chunks(target, "update", &sql, &arrays, rows)
                    .await?;
            }
            for sql in target.unstage() {
                let label = Label::Rows("update", Arc::clone(target), None);
                self.push(&sql, &[], label)?;
            }
        }
        self.insert_rows(target, &net.inserts).await?;
        self.multiset(target, &net.multiset).await
    }
}
