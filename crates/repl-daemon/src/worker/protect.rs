//! A replica that must not be written to by others refuses that before it is shown as one that follows, and
//! so does each new table. Beside this the guard (`guard.rs`) looks again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use repl_connectors::seam::{ConnectorError, RoleSwitch};
use repl_core::ErrorKind;
use repl_core::schema::TableName;
use repl_core::telling::Naming;
use tracing::info;

use super::{Failure, Worker};

/// Longest wait for the locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has a replica refuse writes.
#[derive(Clone)]
pub struct Protection {
    /// Its role.
    pub role: Arc<dyn RoleSwitch>,
    /// What the log would call its tables.
    pub naming: Naming,
}

impl Worker {
    /// Sees to it that the tables which are there refuse writes of others, where they are to.
    pub(super) async fn protect(&mut self) -> Result<(), Failure> {
        let Some(Protection { role, naming }) = self.parts.protection.clone() else {
            return Ok(());
        };
        let names = self.own_tables(&naming);
        let replica = Arc::clone(self.replica());
        let _alone = replica.closing.lock().await;
        if names.is_empty() || role.is_closed(&names).await? {
            return Ok(());
        }
        role.close(&names, false, PATIENCE).await.map_err(|error| {
            let what = format!("writes of others are not refused yet: {}", error.message);
            let advice = error.advice;
            ConnectorError::new(ErrorKind::Transient, what).advice(advice)
        })?;
        info!(tables = names.len(), "writes are refused");
        Ok(())
    }

    /// The tables that the replica receives, those it holds included, as they are called there.
    fn own_tables(&self, naming: &Naming) -> Vec<TableName> {
        let told = self.parts.tables.borrow().clone();
        let told = told.iter().map(|table| &table.name);
        let names: BTreeSet<&TableName> = told.chain(self.state.tables.keys()).collect();
        let target = |name: &&TableName| self.parts.routing.target(name);
        names
            .iter()
            .filter_map(target)
            .map(|name| naming.known(&name))
            .collect()
    }
}
