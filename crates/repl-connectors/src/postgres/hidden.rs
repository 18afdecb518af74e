//! Row security: a role it applies to sees some of a table's rows, and is not told of the others.
//!
//! All our sessions have `row_security = off`, by which the server refuses what it would filter. What is
//! said of such a table before is said here.

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};

use crate::seam::ConnectorError;

/// Why a table cannot be read or written as a whole, behind its name.
pub(super) fn reason(role: &str) -> String {
    format!("row security hides rows of it from role {role}")
}

/// What mends it.
pub(super) fn remedy(role: &str) -> String {
    format!(
        "ALTER ROLE {} BYPASSRLS;  -- or have it own the table, without FORCE ROW LEVEL SECURITY",
        quote_identifier(role)
    )
}

/// The error for a table that is to be read or written all the same; `whose` is its owner's side, e.g.
/// "the primary's".
pub(super) fn error(whose: &str, table: &TableName, role: &str) -> ConnectorError {
    let what = format!("{whose} table {table} cannot be used: {}", reason(role));
    let advice = format!("as a superuser run: {}  then `replctl retry`", remedy(role));
    ConnectorError::new(ErrorKind::Privilege, what)
        .table(table.to_string())
        .advice(advice)
}
