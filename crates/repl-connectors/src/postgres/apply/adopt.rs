//! Becoming a replica of one's own group: what the server holds is what the log holds.

use repl_core::promotion::Handover;

use super::queue::Label;
use super::session::Session;
use crate::seam::{Commit, CopiedTable, Result};

impl Session {
    /// Replaces registry and checkpoint in one transaction.
    pub(super) async fn adopt(&mut self, handover: &Handover) -> Result<()> {
        let state = self.read_state().await?;
        let next = &handover.checkpoint;
        if state.checkpoint.as_ref() == Some(next) {
            return Ok(());
        }
        let group = self.config.group.clone();
        let group = [Some(group.as_bytes())];
        self.push("BEGIN", &[], Label::Other)?;
        for table in ["tables", "copies", "copy_parts"] {
            let sql = format!("DELETE FROM repl.{table} WHERE group_name = $1::text");
            self.push(&sql, &group, Label::Other)?;
        }
        for schema in &handover.tables {
            let copied = CopiedTable {
                incarnation: schema.incarnation.clone(),
                cut: None,
            };
            self.register_table(schema, &copied)?;
        }
        match &state.checkpoint {
            Some(before) => self.move_checkpoint(before, next, Commit::Durable)?,
            None => self.insert_checkpoint(next)?,
        }
        self.push("COMMIT", &[], Label::Other)?;
        self.sync().await
    }
}
