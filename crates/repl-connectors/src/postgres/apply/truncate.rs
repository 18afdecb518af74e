//! Emptying tables.

use std::sync::Arc;

use repl_core::batch::Route;

use super::queue::Label;
use super::session::Session;
use crate::seam::Result;

impl Session {
    /// All tables in one statement, so that foreign keys among them do not matter. Never CASCADE:
    /// the source lists every table it emptied, and a table of the replica's own must not be lost.
    pub(super) async fn truncate(
        &mut self,
        tables: &[Arc<Route>],
        restart_identity: bool,
    ) -> Result<()> {
        let mut names = Vec::new();
        let mut label = Label::Other;
        for route in tables {
            let target = self.target(route).await?;
            names.push(target.own_rows.clone());
            label = Label::Rows("truncate", target, None);
        }
        if names.is_empty() {
            return Ok(());
        }
        names.sort();
        names.dedup();
        let identity = if restart_identity {
            "RESTART"
        } else {
            "CONTINUE"
        };
        let sql = format!("TRUNCATE {} {identity} IDENTITY", names.join(", "));
        self.push(&sql, &[], label)
    }
}
