//! Errors of the administrative connection, which goes over sqlx.

use repl_core::ErrorKind;

use super::error::{ServerError, WireError, kind_of};
use crate::certificates;
use crate::seam::ConnectorError;

/// The error for the operator; `doing` names what was attempted.
pub(super) fn from_sqlx(error: &sqlx::Error, doing: &str) -> ConnectorError {
    let mut out = match error {
        other if certificates::words(other).is_some() => {
            let (what, advice) = certificates::words(other).unwrap_or_default();
            ConnectorError::new(ErrorKind::Configuration, what).advice(advice)
        }
        sqlx::Error::Database(reported) => {
            let reported = reported.downcast_ref::<sqlx::postgres::PgDatabaseError>();
            let server = ServerError {
                severity: format!("{:?}", reported.severity()).to_uppercase(),
                code: reported.code().to_owned(),
                message: reported.message().to_owned(),
                detail: reported.detail().unwrap_or_default().to_owned(),
                hint: reported.hint().unwrap_or_default().to_owned(),
                schema: reported.schema().unwrap_or_default().to_owned(),
                table: reported.table().unwrap_or_default().to_owned(),
                column: reported.column().unwrap_or_default().to_owned(),
                constraint: reported.constraint().unwrap_or_default().to_owned(),
            };
            let mut out = WireError::Server(Box::new(server)).into_connector("the primary");
            out.kind = match reported.code() {
                // Functions that describe a relation look it up anew: one dropped since the
                // statement's snapshot is "could not open relation with OID" to them.
                "XX000" => ErrorKind::Transient,
                code => kind_of(code),
            };
            out
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            ConnectorError::new(ErrorKind::Connection, error.to_string())
        }
        sqlx::Error::Tls(refused) => {
            ConnectorError::new(ErrorKind::Configuration, format!("TLS: {refused}"))
                .advice("check the node's `tls` table and the server's certificate")
        }
        _ => ConnectorError::new(ErrorKind::Internal, error.to_string()),
    };
    out.message = format!("{doing}: {}", out.message);
    out
}
