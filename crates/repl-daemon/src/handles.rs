//! How many files and connections the process may hold open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Below this a group of some size runs out: each replica, table copy and client of the API takes some.
const FEW: u64 = 1024;

/// Raises the limit to what the system allows this process.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    let more = match (current, maximum) {
        (Some(current), Some(maximum)) => current < maximum,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if more {
        let wanted = Rlimit {
            current: maximum,
            maximum,
        };
        match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => info!(
                before = current,
                now = maximum,
                "limit of open files raised"
            ),
            Err(error) => warn!(%error, "cannot raise the limit of open files"),
        }
    }
    let now = getrlimit(Resource::Nofile).current;
    if let Some(now) = now.filter(|now| *now < FEW) {
        warn!(
            limit = now,
            "few files may be open at the same time: raise the hard limit (LimitNOFILE= in systemd, ulimit -Hn)"
        );
    }
}
