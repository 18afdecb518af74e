//! From a connector's error to what the operator sees.

use repl_api::{Directive, ErrorInfo, ErrorKind, FailedTransaction};
use repl_connectors::seam::ConnectorError;

use crate::worker::collect::TxInfo;

/// The error as status shows it.
pub fn info(error: &ConnectorError, transaction: Option<&TxInfo>, attempts: u32) -> ErrorInfo {
    ErrorInfo {
        at_ms: crate::clock::now_ms(),
        kind: kind(error.kind),
        message: error.message.clone(),
        advice: error.advice.clone(),
        transaction: transaction.map(|tx| FailedTransaction {
            seq: tx.seq.0,
            source_txid: tx.txid.to_string(),
            position: tx.position.0.clone(),
        }),
        table: error.table.clone(),
        key: error.key.clone(),
        database_code: error.code.clone(),
        directive: match error.kind.directive() {
            repl_core::Directive::Retry => Directive::Retry,
            repl_core::Directive::Pause => Directive::Pause,
            repl_core::Directive::Resync => Directive::Stop,
        },
        attempts,
    }
}

fn kind(kind: repl_core::ErrorKind) -> ErrorKind {
    match kind {
        repl_core::ErrorKind::Connection => ErrorKind::Connection,
        repl_core::ErrorKind::Transient | repl_core::ErrorKind::CheckpointMoved => {
            ErrorKind::Transient
        }
        repl_core::ErrorKind::Constraint => ErrorKind::Constraint,
        repl_core::ErrorKind::Data => ErrorKind::Data,
        repl_core::ErrorKind::Conflict => ErrorKind::Conflict,
        repl_core::ErrorKind::Schema => ErrorKind::Schema,
        repl_core::ErrorKind::Privilege => ErrorKind::Privilege,
        repl_core::ErrorKind::Configuration => ErrorKind::Configuration,
        repl_core::ErrorKind::History => ErrorKind::History,
        repl_core::ErrorKind::Internal => ErrorKind::Internal,
    }
}

/// The state file could not be written: try again.
pub fn state(error: anyhow::Error) -> ConnectorError {
    ConnectorError::new(repl_core::ErrorKind::Transient, format!("{error:#}"))
        .advice("free space or mend the permissions of the log directory")
}
