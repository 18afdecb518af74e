//! What a command that waits is waiting for, told on stderr when that changes.

use std::time::{Duration, Instant};

use repl_api::{Activity, PrimaryState, Status};

use crate::render;

/// A wait is explained once it has lasted so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells why it goes on, each reason once.
pub(crate) struct Waiting {
    told: String,
    reason: String,
    since: Instant,
}

impl Waiting {
    /// Nothing was told yet.
    pub(crate) fn new() -> Self {
        Self {
            told: String::new(),
            reason: String::new(),
            since: Instant::now(),
        }
    }

    /// The reason at this moment; empty when there is progress.
    pub(crate) fn because(&mut self, reason: &str) {
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
            self.since = Instant::now();
        }
        let due = !reason.is_empty() && self.told != reason && self.since.elapsed() >= PATIENCE;
        if due {
            reason.clone_into(&mut self.told);
            eprintln!("waiting: {}", render::clean(reason));
        }
    }
}

/// What holds the copy of `replica` up; empty when nothing is known to.
pub(crate) fn copy_waits_for(status: &Status, name: &str) -> String {
    let Some(replica) = status.replica(name) else {
        return String::new();
    };
    if let Some(why) = replica.copy.as_ref().and_then(|copy| copy.paused.as_ref()) {
        return format!("{name}: {why}");
    }
    let failing = matches!(replica.activity, Activity::Retrying | Activity::Connecting);
    if failing && let Some(error) = replica.last_error.as_ref().filter(|error| !error.past) {
        return format!("{name}: {}", error.message);
    }
    let primary = &status.primary;
    if primary.state != PrimaryState::Streaming {
        let error = primary.refusal.as_ref().or(primary.last_error.as_ref());
        let why = error.filter(|error| !error.past);
        let why = why.map_or(String::new(), |error| format!(": {}", error.message));
        return format!("primary {} is {}{why}", primary.name, primary.state);
    }
    match replica.activity {
        Activity::Copying | Activity::Applying | Activity::Idle => String::new(),
        other => format!("{name} is {}, {other}", replica.membership),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_it_lasts() {
        let mut waiting = Waiting::new();
        waiting.because("a");
        assert_eq!(waiting.told, "", "it may pass at once");
        waiting.since -= PATIENCE;
        waiting.because("a");
        assert_eq!(waiting.told, "a");
        waiting.because("");
        waiting.because("b");
        assert_eq!(waiting.told, "a");
    }
}
