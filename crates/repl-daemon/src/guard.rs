//! Keeps a replica from being written to by anybody but the daemon: one that was the primary before,
//! or is to be protected.

use std::sync::Arc;
use std::time::Duration;

use repl_api::Activity;
use repl_connectors::seam::{ConnectorError, RoleSwitch, SourceTable};
use repl_core::schema::TableName;
use repl_core::select::Routing;
use repl_core::telling::Naming;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::replica::Replica;
use crate::state::ReplicaRecord;

/// How often it is looked whether writes are still refused.
const LOOK: Duration = Duration::from_secs(10);
/// How soon after a failure, and while tables are being made and copied.
const RETRY: Duration = Duration::from_secs(1);
/// How soon again at a former primary that has not been seen since its place was taken.
const SIGHT: Duration = Duration::from_millis(200);
/// Longest wait for the locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// The task's parts.
pub struct Guard {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Its role.
    pub role: Arc<dyn RoleSwitch>,
    /// The primary's selected tables.
    pub tables: watch::Receiver<Arc<Vec<SourceTable>>>,
    /// Their names at the replica …
    pub routing: Routing,
    /// … and what the log would call these.
    pub naming: Naming,
    /// The daemon stops, or roles change.
    pub shutdown: watch::Receiver<bool>,
}

impl Guard {
    /// Guards until shutdown.
    pub async fn run(mut self) {
        let mut told = false;
        while !*self.shutdown.borrow() {
            let looked = self.look().await;
            let deposed = self.is_deposed();
            let wait = match &looked {
                Ok(_) if self.replica.view().activity == Some(Activity::Copying) => RETRY,
                Ok(_) => LOOK,
                Err(_) if deposed => SIGHT,
                Err(_) => RETRY,
            };
            match looked {
                Ok(closed) => {
                    if closed {
                        info!(replica = %self.replica.node.name, "writes are refused");
                    }
                    if deposed && (told || closed) {
                        // Its worker waits for this.
                        self.replica.order(|_| {});
                    }
                    told = false;
                    self.replica.view().unguarded = None;
                }
                Err(error) => {
                    let why = error.message;
                    if !told {
                        warn!(replica = %self.replica.node.name, why, "writes may not be refused");
                    }
                    told = true;
                    self.replica.view().unguarded = Some(why);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.tables.changed() => {}
                _ = self.shutdown.changed() => {}
            }
        }
    }

    /// Sees to it that writes are refused; true when they were not.
    async fn look(&mut self) -> Result<bool, ConnectorError> {
        let tables = self.tables.borrow_and_update().clone();
        let names: Vec<TableName> = tables
            .iter()
            .filter_map(|table| self.routing.target(&table.name))
            .map(|name| self.naming.known(&name))
            .collect();
        let record = self.replica.record();
        let deposed = record.filter(ReplicaRecord::is_deposed);
        let names = match deposed.as_ref().and_then(|record| record.handover.as_ref()) {
            Some(held) => held
                .tables
                .iter()
                .map(|schema| schema.table.clone())
                .collect(),
            None => names,
        };
        let _alone = self.replica.closing.lock().await;
        if names.is_empty() || self.role.is_closed(&names).await? {
            return Ok(false);
        }
        match deposed {
            Some(_) => self.role.depose(&names, PATIENCE).await?,
            None => self.role.close(&names, false, PATIENCE).await?,
        };
        Ok(true)
    }

    fn is_deposed(&self) -> bool {
        let record = self.replica.record();
        record.is_some_and(|record| record.is_deposed())
    }
}
