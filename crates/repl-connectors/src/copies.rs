//! What the engines' records of copies in parts have in common.

use repl_core::ErrorKind;
use repl_core::copy::PartialCopy;
use repl_core::schema::TableName;

use crate::seam::{ConnectorError, Result};

/// The form in which a replica keeps a copy.
pub(crate) fn stored_form(copy: &PartialCopy) -> Result<String> {
    let text = copy.to_json();
    text.map_err(|error| ConnectorError::new(ErrorKind::Internal, error.to_string()))
}

/// The copy that a part belongs to is not the one the replica knows, or the part is claimed.
pub(crate) fn taken_over(table: &TableName) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::CheckpointMoved,
        format!("the copy of {table} was begun anew or carried on by another session"),
    )
    .table(table.to_string())
    .advice("make sure that only one daemon serves this replica")
}

/// A copy that compares part by part was begun for a key that cannot be.
pub(crate) fn not_in_numbers(table: &TableName) -> ConnectorError {
    let what = format!("the parts of {table} are not ranges of numbers");
    ConnectorError::new(ErrorKind::Internal, what).table(table.to_string())
}
