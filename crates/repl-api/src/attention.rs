//! What needs a person's attention.

use crate::{
    Activity, IngestState, Membership, ModeStatus, PrimaryState, ReplicaStatus, Status, TableState,
};

impl Status {
    /// What needs a person's attention, one sentence each, the most important first; empty when all is
    /// well. This is the rule behind `GET /v1/health` and `replctl status --check`.
    pub fn attention(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.primary.state != PrimaryState::Streaming {
            problems.push(format!(
                "primary {} is {}, not streaming",
                self.primary.name, self.primary.state
            ));
        }
        if self.log.ingest_state != IngestState::Ok {
            let why = self
                .log
                .ingest_reason
                .as_deref()
                .unwrap_or("no reason given");
            problems.push(format!("the log takes in no transactions: {why}"));
        }
        problems.extend(self.commits.iter().flat_map(ModeStatus::attention));
        problems.extend(self.replicas.iter().filter_map(ReplicaStatus::attention));
        for table in &self.tables {
            if matches!(table.state, TableState::Refused | TableState::Missing) {
                problems.push(format!("table {} is {}", table.source, table.state));
            }
        }
        problems.extend(self.alerts.iter().cloned());
        let failover = self.failover.iter().filter(|one| one.since_ms.is_some());
        problems.extend(failover.map(|one| match &one.held {
            Some(why) => format!("the primary is dead and is not replaced: {why}"),
            None => format!("the primary does not answer ({})", one.state),
        }));
        problems.extend(self.promotion.iter().map(|promotion| {
            let (to, step) = (
                &promotion.to,
                promotion.step.as_deref().unwrap_or("its end"),
            );
            match &promotion.failure {
                Some(why) => format!("the promotion of {to} is taken back, at {step}: {why}"),
                None => format!("the promotion of {to} is under way, at {step}"),
            }
        }));
        problems
    }

    /// The replica called `name`.
    pub fn replica(&self, name: &str) -> Option<&ReplicaStatus> {
        self.replicas.iter().find(|replica| replica.name == name)
    }
}

impl ReplicaStatus {
    /// Why this replica needs attention; `None` when it is disabled or all is well.
    pub fn attention(&self) -> Option<String> {
        if !self.enabled {
            return None;
        }
        let name = &self.name;
        match self.membership {
            Membership::Streaming | Membership::Filtered => {}
            Membership::Copying | Membership::Resyncing => {
                return (self.activity == Activity::Retrying || self.activity == Activity::Stopped)
                    .then(|| format!("replica {name} is {}: {}", self.membership, self.activity));
            }
            Membership::Paused if self.is_paused_by_error() => {
                let error = self.last_error.as_ref();
                let why = error.map_or(String::new(), |error| {
                    format!(": {}", first_line(&error.message))
                });
                return Some(format!("replica {name} is paused by an error{why}"));
            }
            other => return Some(format!("replica {name} is {other}")),
        }
        if matches!(self.activity, Activity::Retrying | Activity::Stopped) {
            return Some(format!("replica {name} is not applying: {}", self.activity));
        }
        let found = self
            .validated
            .as_ref()
            .map(|validated| &validated.different);
        if let Some(tables) = found.filter(|tables| !tables.is_empty()) {
            return Some(format!(
                "replica {name} differs from the primary in {}",
                tables.join(", ")
            ));
        }
        self.lags()
            .then(|| format!("replica {name} lags more than its max_lag"))
    }

    /// Whether an error has paused it, rather than the operator.
    pub fn is_paused_by_error(&self) -> bool {
        self.membership == Membership::Paused && self.paused_by.as_deref() == Some("error")
    }

    /// Whether the lag is above the configured maximum.
    pub fn lags(&self) -> bool {
        matches!((self.lag_ms, self.max_lag_ms), (Some(lag), Some(max)) if lag > max)
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
