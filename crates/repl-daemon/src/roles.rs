//! Which node has which role now. The configuration names the first primary; after a promotion the
//! log decides, whose last history record names the node its transactions come from.

use repl_core::log::EventLog;

use crate::config::Config;
use crate::wiring;

/// The configuration with the roles nodes have now, and the name under which replicas keep their
/// checkpoint.
pub fn present(configured: &Config, log: &dyn EventLog) -> Config {
    let history = log.bounds().history;
    let Some(history) = history.filter(|history| history.succession.is_some()) else {
        return configured.clone();
    };
    // A node that is not in the configuration any more cannot be the primary: the first one is then, and
    // its capture finds that history broke.
    let moved = configured.with_primary(&history.source.node);
    let mut config = moved.unwrap_or_else(|| configured.clone());
    if let Some(succession) = history.succession {
        config.origin = succession.origin;
        // Before engines could take each other's place, all primaries were of one.
        let home = succession.home.unwrap_or(history.source.engine);
        if let Some(home) = wiring::engine_of(&home) {
            config.home = home;
        }
    }
    config
}
