//! Carries out a change of primary, step by step as [`repl_core::promotion`] says: what has begun is
//! in `state.json` before it is done. The host (`host/`) decides when, and stops and starts what
//! depends on the roles.

pub mod readiness;
pub mod record;
mod steps;

use std::sync::Arc;

use repl_api::ErrorCode;
use repl_connectors::seam::RoleSwitch;
use tokio::sync::oneshot;

pub use steps::{Course, Present, Trouble, stays_closed};

use crate::admin::ControlError;
use crate::config::{Config, NodeConfig};
use crate::status::Group;
use crate::wiring;

/// An order to the host; answered with the promotion's number once it is remembered.
pub struct Order {
    /// The replica that is to become the primary.
    pub replica: String,
    /// Takes the answer.
    pub reply: oneshot::Sender<Result<u64, ControlError>>,
}

/// One of the two nodes.
#[derive(Clone)]
pub struct Party {
    /// Its name.
    pub name: String,
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
            "promote a PostgreSQL replica of a PostgreSQL primary",
        )
    })?;
    Ok(Party { name, role })
}

fn no_replica(group: &Group, name: &str) -> ControlError {
    crate::admin::unknown_replica(name, &group.status())
}
