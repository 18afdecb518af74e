//! Carries out a change of primary, step by step as [`repl_core::promotion`] says: what has begun is
//! in `state.json` before it is done. The host (`host/`) decides when, and stops and starts what
//! depends on the roles.

mod forced;
pub mod lastseen;
pub mod readiness;
pub mod record;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use repl_api::{ErrorCode, PromoteRequest};
use repl_connectors::seam::RoleSwitch;
use repl_core::failover::{Candidate, ranked};
use repl_core::membership::Membership;
use repl_core::promotion::Cause;
use tokio::sync::oneshot;

pub use forced::{loss, promised};
pub use steps::{Course, Present, Trouble, stays_closed};

use crate::admin::ControlError;
use crate::config::{Config, Engine, NodeConfig};
use crate::replica::Replica;
use crate::status::Group;
use crate::wiring;

/// An order to the host; answered with the promotion's number once it is remembered.
pub struct Order {
    /// The replica that is to become the primary; none for the best of them.
    pub replica: Option<String>,
    /// Why.
    pub cause: Cause,
    /// Why the daemon orders it itself; empty when it does not.
    pub reason: String,
    /// Takes the answer.
    pub reply: oneshot::Sender<Result<Begun, ControlError>>,
}

/// What has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its number.
    pub id: u64,
    /// The primary to be.
    pub to: String,
}

/// What kind of promotion is asked for.
///
/// # Errors
/// `BadRequest` for what makes no sense.
pub fn cause(request: &PromoteRequest) -> Result<Cause, ControlError> {
    let wrong =
        |what: &str, advice: &str| Err(ControlError::new(ErrorCode::BadRequest, what, advice));
    match (request.force, request.overrule) {
        (false, true) => wrong(
            "a primary is overruled by force only",
            "give force as well (replctl promote --force --overrule)",
        ),
        (false, false) if request.replica.is_empty() => wrong(
            "which replica is to become the primary is not said",
            "name it: replctl promote <replica>",
        ),
        (false, false) => Ok(Cause::Planned),
        (true, false) => Ok(Cause::Forced),
        (true, true) => Ok(Cause::Overruled),
    }
}

/// The replicas as candidates for the primary's place.
pub fn candidates(group: &Group) -> Vec<Candidate> {
    let candidate = |replica: &Arc<Replica>| {
        let node = &replica.node;
        let standing = replica.record().map(|record| record.membership());
        let hindrance = if !node.enabled {
            Some("it is disabled".to_owned())
        } else if wiring::role(&group.config, node).is_none() {
            Some(format!("{} cannot be the primary", node.endpoint.engine()))
        } else if standing != Some(Membership::Streaming) {
            let is = standing.map_or("not there yet", Membership::name);
            Some(format!("it is {is}"))
        } else if replica.view().awaiting.is_some() {
            Some("it is ahead of the event log".to_owned())
        } else {
            None
        };
        let durable = replica.durable();
        let all = durable.is_some_and(|durable| durable >= group.log.bounds().durable.seq);
        let lag = replica.view().lag_ms.filter(|_| !all);
        Candidate {
            name: node.name.clone(),
            priority: node.priority,
            durable,
            lag: if all { Some(0) } else { lag }.map(Duration::from_millis),
            hindrance,
        }
    };
    group.replicas.iter().map(candidate).collect()
}

/// The replicas that a promotion is to be tried with, in this order: the one that is named, or all that
/// could, the most advanced first. Those of the primary's own engine come before, where its applications
/// can go on: what the log holds is drained into whichever it is.
pub fn in_question(group: &Group, named: Option<&str>) -> Vec<String> {
    if let Some(name) = named {
        return vec![name.to_owned()];
    }
    let engine = group.config.engine();
    let replicas = &group.config.replicas;
    let other = |one: &&Candidate| {
        let node = replicas.iter().find(|node| node.name == one.name);
        node.is_some_and(|node| node.endpoint.engine() != engine)
    };
    let candidates = candidates(group);
    let mut order = ranked(&candidates);
    order.sort_by_key(other);
    order.into_iter().map(|one| one.name.clone()).collect()
}

/// The answer where no replica is in question.
pub fn no_candidate() -> ControlError {
    let what = "no replica streams that could become the primary";
    ControlError::new(ErrorCode::Conflict, what, "see why with: replctl status")
}

/// One of the two nodes.
#[derive(Clone)]
pub struct Party {
    /// Its name.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
    /// What changes its role.
    pub role: Arc<dyn RoleSwitch>,
}

/// The two nodes whose roles change.
#[derive(Clone)]
pub struct Parties {
    /// The primary so far.
    pub from: Party,
    /// The primary to be.
    pub to: Party,
}

impl Parties {
    /// The primary of `group` and one of its replicas.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when it, or the primary, is of an engine that
    /// cannot change its role.
    pub fn of(group: &Group, replica: &str) -> Result<Parties, ControlError> {
        let config = &group.config;
        let node = config.replicas.iter().find(|node| node.name == replica);
        let node = node.ok_or_else(|| no_replica(group, replica))?;
        if !node.enabled {
            return Err(ControlError::new(
                ErrorCode::Conflict,
                format!("replica {replica} is disabled in the configuration"),
                "set enabled = true for it and restart the daemon",
            ));
        }
        Ok(Parties {
            from: party(config, &config.primary)?,
            to: party(config, node)?,
        })
    }
}

/// One node by its name, wherever it stands in the configuration.
///
/// # Errors
/// `Conflict` when it is of an engine that cannot change its role.
fn party(config: &Config, node: &NodeConfig) -> Result<Party, ControlError> {
    let name = node.name.clone();
    let role = wiring::role(config, node).ok_or_else(|| {
        let engine = node.endpoint.engine();
        ControlError::new(
            ErrorCode::Conflict,
            format!("{name} is a node of {engine}, which cannot change its role"),
            "promote a PostgreSQL or SQLite replica",
        )
    })?;
    Ok(Party {
        name,
        engine: node.endpoint.engine(),
        role,
    })
}

fn no_replica(group: &Group, name: &str) -> ControlError {
    crate::admin::unknown_replica(name, &group.status())
}
