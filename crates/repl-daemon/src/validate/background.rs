//! Compares every value of all tables, slowly, again and again.

use std::sync::Arc;
use std::time::Duration;

use repl_api::Verdict;
use tracing::{info, warn};

use super::progress::Progress;
use super::record::Record;
use super::run::{self, Task};
use super::{Shared, note, reports};
use crate::clock::now_ms;
use crate::config::ValidateConfig;

/// How often it is looked whether a pass is due.
const LOOK: Duration = Duration::from_secs(1);

/// Passes over all tables until the daemon stops; a restart does not begin one early.
pub async fn run(shared: Arc<Shared>, record: Arc<Record>, config: ValidateConfig) {
    let Some(interval) = config.interval else {
        return;
    };
    loop {
        let due = record.pass_ms() + interval.as_millis() as u64;
        if now_ms() < due || shared.tables.borrow().is_empty() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        record.begin_pass(now_ms());
        pass(&shared, &record, config.max_rows_per_second).await;
    }
}

async fn pass(shared: &Arc<Shared>, record: &Record, most_per_s: Option<u64>) {
    let enabled = |at: &usize| shared.members[*at].replica.node.enabled;
    let members: Vec<usize> = (0..shared.members.len()).filter(enabled).collect();
    let tables = shared.tables.borrow().clone();
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    record.keep(&names);
    for table in tables.iter().filter(|table| table.schema.is_some()) {
        let task = Task {
            tables: vec![table.clone()],
            members: members.clone(),
            deep: true,
            lists_own: false,
            show_values: false,
            progress: Arc::new(Progress::new(most_per_s)),
        };
        let found = reports(shared, &run::run(shared, &task).await);
        for replica in found.iter().filter(|one| one.verdict == Verdict::Different) {
            warn!(replica = %replica.replica, table = %table.name, "it differs from the primary");
        }
        note(shared, &found);
    }
    info!(
        tables = tables.len(),
        "all tables were compared in the background"
    );
}
