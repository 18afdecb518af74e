//! Kinds of errors and what each asks for.

use serde::{Deserialize, Serialize};

/// What went wrong, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The server cannot be reached, or the connection broke.
    Connection,
    /// The server could not do it now: deadlock, lock timeout, serialization failure, full, too
    /// many connections, shutting down.
    Transient,
    /// A constraint of the replica refused a row.
    Constraint,
    /// A value does not fit the replica's column.
    Data,
    /// The replica does not hold what the primary's history says: a row is missing or extra.
    Conflict,
    /// The replica's table does not fit the source's.
    Schema,
    /// A privilege is missing.
    Privilege,
    /// A setting of a server or of the configuration makes it impossible.
    Configuration,
    /// History is not continuous between source, log and replica.
    History,
    /// Another session wrote the replica's checkpoint.
    CheckpointMoved,
    /// A defect or damage on our own side.
    Internal,
}

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Try again by itself, with backoff.
    Retry,
    /// Wait for the operator; nothing else is affected.
    Pause,
    /// The affected node cannot follow any more without a new copy.
    Resync,
}

impl ErrorKind {
    /// The directive of this kind.
    pub fn directive(self) -> Directive {
        match self {
            ErrorKind::Connection | ErrorKind::Transient | ErrorKind::CheckpointMoved => {
                Directive::Retry
            }
            ErrorKind::History => Directive::Resync,
            _ => Directive::Pause,
        }
    }

    /// The kind's name as shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Connection => "connection",
            ErrorKind::Transient => "transient",
            ErrorKind::Constraint => "constraint",
            ErrorKind::Data => "data",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Schema => "schema",
            ErrorKind::Privilege => "privilege",
            ErrorKind::Configuration => "configuration",
            ErrorKind::History => "history",
            ErrorKind::CheckpointMoved => "checkpoint_moved",
            ErrorKind::Internal => "internal",
        }
    }
}
