//! What the log and the list of promotions tell of the past, for when `state.json` cannot.

use std::collections::BTreeSet;

use repl_core::log::EventLog;

use crate::config::Config;
use crate::promotion::record::History;
use crate::roles;
use crate::state::lost::Past;

/// The epoch in force, if another node than the first one has ever become the primary.
pub(super) fn promoted(log: &dyn EventLog) -> Option<u64> {
    let history = log.bounds().history?;
    history.succession.as_ref()?;
    Some(u64::from(history.epoch.0))
}

/// What is known of the group without the file.
pub(super) fn past(config: &Config, log: &dyn EventLog, promotions: &History) -> Past {
    let present = roles::present(config, log);
    let replicas: Vec<String> = present
        .replicas
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let gave_way: BTreeSet<String> = promotions.gave_way();
    let told = !gave_way.is_empty() || promoted(log).is_none();
    let former = |name: &&String| !told || gave_way.contains(*name);
    Past {
        begun: log.bounds().history.is_some(),
        former: replicas.iter().filter(former).cloned().collect(),
        replicas,
    }
}
