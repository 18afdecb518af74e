//! PostgreSQL's errors in the operator's words.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use repl_core::ErrorKind;

use crate::certificates;
use crate::seam::ConnectorError;

/// Longest text of a server that is kept for the operator, in characters.
const KEPT_CHARACTERS: usize = 400;

/// An error reported by the server, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL or PANIC.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The message; of class 22 it quotes the offending value.
    pub message: String,
    /// Detail; may hold row values.
    pub detail: String,
    /// The server's own hint.
    pub hint: String,
    /// Schema concerned.
    pub schema: String,
    /// Table concerned.
    pub table: String,
    /// Column concerned.
    pub column: String,
    /// Constraint concerned.
    pub constraint: String,
}

impl ServerError {
    /// Reads the fields of an ErrorResponse; bytes that are not UTF-8 are replaced (before the
    /// session's encoding is agreed a server may send any).
    pub fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = ServerError::default();
        let mut localized_severity = String::new();
        // A malformed field ends the reading: what was understood is still worth reporting.
        while let Ok(Some(field)) = fields.next() {
            let text = kept(&String::from_utf8_lossy(field.value_bytes()));
            match field.type_() {
                b'V' => error.severity = text,
                b'S' => localized_severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = text,
                b'H' => error.hint = text,
                b's' => error.schema = text,
                b't' => error.table = text,
                b'c' => error.column = text,
                b'n' => error.constraint = text,
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = localized_severity;
        }
        error
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// The error for the operator; `server` names the server.
    pub fn into_connector(self, server: &str) -> ConnectorError {
        let kind = match self.schema.as_str() {
            // Two sessions made the same object at the same time: it is there now.
            "pg_catalog" if self.code == "23505" => ErrorKind::Transient,
            _ => kind_of(&self.code),
        };
        let mut error = ConnectorError::new(kind, self.public_message(server));
        error.advice = advice(&self, kind);
        if !self.table.is_empty() {
            error.table = Some(if self.schema.is_empty() {
                self.table.clone()
            } else {
                format!("{}.{}", self.schema, self.table)
            });
        }
        error.key = self.private_text();
        error.code = Some(self.code);
        error
    }

    /// What may be logged: without the texts in which the server quotes values.
    fn public_message(&self, server: &str) -> String {
        let code = &self.code;
        let mut text = match value_quoting(code) {
            Some(name) => format!("{server}: {name}"),
            None => format!("{server}: {}", self.message),
        };
        if !self.column.is_empty() && !text.contains(&format!("\"{}\"", self.column)) {
            text.push_str(&format!(", column \"{}\"", self.column));
        }
        // A truncation's detail names tables only, and without it nobody knows which.
        if code == "0A000" && !self.detail.is_empty() {
            text.push_str(&format!(" ({})", self.detail));
        }
        if self.hides_rows() {
            text.push_str(": row security hides rows from this node's role, which needs BYPASSRLS");
        }
        text.push_str(&format!(" [SQLSTATE {code}]"));
        text
    }

    /// Whether row security would have filtered what was asked for.
    fn hides_rows(&self) -> bool {
        self.code == "42501" && self.message.contains("row-level security")
    }

    /// The texts that may hold row values.
    fn private_text(&self) -> Option<String> {
        let quoted = value_quoting(&self.code).is_some();
        let text = match (quoted, self.detail.is_empty()) {
            (true, true) => self.message.clone(),
            (true, false) => format!("{} ({})", self.message, self.detail),
            (false, false) if self.code.starts_with("23") => self.detail.clone(),
            (false, _) => return None,
        };
        Some(text)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public_message("server"))
    }
}

fn kept(text: &str) -> String {
    if text.chars().count() <= KEPT_CHARACTERS {
        return text.to_owned();
    }
    text.chars().take(KEPT_CHARACTERS).chain(['…']).collect()
}

/// Our own name of an error whose message quotes values; none for the others. Class 22 is data,
/// P0001 is whatever a trigger's author wrote.
fn value_quoting(code: &str) -> Option<&'static str> {
    Some(match code {
        "22001" => "a text is too long for the column",
        "22003" => "a number is out of the column's range",
        "22007" => "a date or time has an invalid format",
        "22008" => "a date or time is out of range",
        "22021" => "a text has a character the database's encoding cannot hold",
        "22P02" => "a value has an invalid text form for the column's type",
        "22P03" => "a value has an invalid binary form for the column's type",
        "22P04" => "a row has the wrong number of columns",
        "22P05" => "a character cannot be converted to the database's encoding",
        "P0001" => "a trigger or function of the replica raised an exception",
        _ if code.starts_with("22") => "a value does not fit the column",
        _ => return None,
    })
}

/// The kind that a SQLSTATE stands for.
pub fn kind_of(code: &str) -> ErrorKind {
    match code {
        "42501" => return ErrorKind::Privilege,
        "55P03" | "57014" | "55006" | "25006" => return ErrorKind::Transient,
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => return ErrorKind::Connection,
        "0A000" => return ErrorKind::Schema,
        "P0001" => return ErrorKind::Constraint,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" => ErrorKind::Connection,
        "40" | "53" | "58" => ErrorKind::Transient,
        "22" => ErrorKind::Data,
        "23" | "27" | "44" => ErrorKind::Constraint,
        "28" | "3D" | "55" | "57" => ErrorKind::Configuration,
        "3F" | "42" => ErrorKind::Schema,
        _ => ErrorKind::Internal,
    }
}

fn advice(error: &ServerError, kind: ErrorKind) -> String {
    let text = match error.code.as_str() {
        "28P01" => "check the user and password of this node in the configuration",
        "28000" => {
            "check the user of this node and the server's pg_hba.conf: it must let this role in \
             from this host, with the password method in use"
        }
        "3D000" => "create the database, or correct its name in the node's URL",
        "42501" if error.hides_rows() => {
            "as a superuser run ALTER ROLE … BYPASSRLS for this node's role, or have it own the \
             table, without FORCE ROW LEVEL SECURITY; then `replctl retry`"
        }
        "22021" => {
            "the row's text is not UTF-8, which a primary in SQL_ASCII lets in: correct the row at the primary, then \
             `replctl skip` this transaction and `replctl resync` its table"
        }
        "42501" => "grant the privilege named in the message to the role of this node",
        "22P02" if error.message.contains("enum") => {
            "add the label where the primary's type has it: ALTER TYPE … ADD VALUE … BEFORE …, or rename \
             it as there: ALTER TYPE … RENAME VALUE … TO …; then `replctl retry`"
        }
        "22P02" => {
            "give the replica's column, or its type, the primary's shape; then `replctl retry`"
        }
        "25006" => {
            "the server accepts no writes: it is a standby, or default_transaction_read_only is on"
        }
        "2BP01" => {
            "what depends on the table is not the daemon's to drop: give the replica's table the \
             primary's shape by hand, then `replctl retry`"
        }
        "55000"
            if error
                .message
                .contains("not currently accepting connections") =>
        {
            "let the database accept connections: ALTER DATABASE … ALLOW_CONNECTIONS true"
        }
        "53100" => "free disk space on the server",
        "53300" => "raise max_connections, or free connections of this server",
        "55P03" => {
            "another session holds a lock on a replicated table; see pg_locks on the server. If that \
             session's COMMIT waits for replicas and none counts, `replctl mode async` lets it go"
        }
        "0A000" if error.detail.contains("references") => {
            "drop the foreign key at the replica, or replicate the referring table too; a \
             truncation is never widened silently"
        }
        "42704" if error.message.starts_with("collation ") => {
            "make the collation at the replica; one of the operating system's: install the locale on \
             the replica's host, then SELECT pg_import_system_collations('pg_catalog')"
        }
        _ if kind == ErrorKind::Constraint => {
            "find out how the replica came to differ from the primary; then `replctl retry`"
        }
        _ => error.hint.as_str(),
    };
    text.to_owned()
}

/// What can go wrong on a connection.
#[derive(Clone, Debug)]
pub enum WireError {
    /// The server reported an error.
    Server(Box<ServerError>),
    /// The connection broke.
    Lost(String),
    /// The server does not answer; what was found out about it.
    Silent(Box<ConnectorError>),
    /// The server does not speak the protocol.
    Protocol(String),
    /// The configuration, ours or the server's, makes the connection impossible: what, and what
    /// to do.
    Config(String, String),
    /// A statement did not touch the one row it was queued for.
    Missed,
    /// We would break our own rules.
    Internal(&'static str),
    /// The server announced a message above our limit.
    TooLarge {
        /// Size announced, bytes.
        bytes: u64,
        /// Our limit, bytes.
        limit: u64,
    },
}

impl WireError {
    /// The error for the operator; `server` names the server.
    pub fn into_connector(self, server: &str) -> ConnectorError {
        match self {
            WireError::Server(error) => error.into_connector(server),
            WireError::Lost(text) => {
                ConnectorError::new(ErrorKind::Connection, format!("{server}: {text}"))
            }
            WireError::Silent(error) => *error,
            WireError::Protocol(text) => ConnectorError::new(
                ErrorKind::Connection,
                format!("{server}: protocol violation: {text}"),
            )
            .advice("check that the address is that of a PostgreSQL server"),
            WireError::Config(text, advice) => {
                ConnectorError::new(ErrorKind::Configuration, format!("{server}: {text}"))
                    .advice(advice)
            }
            WireError::Missed => ConnectorError::new(
                ErrorKind::Conflict,
                format!("{server}: a row that must be there is not"),
            ),
            WireError::Internal(text) => ConnectorError::new(ErrorKind::Internal, text),
            WireError::TooLarge { bytes, limit } => ConnectorError::new(
                ErrorKind::Data,
                format!(
                    "{server}: a message of {bytes} bytes, most likely one row, exceeds the limit \
                     of {limit} bytes"
                ),
            )
            .advice("raise `max_row_bytes` if rows of this size are meant to be replicated"),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        // A server that refuses our certificate says so behind the handshake.
        if let Some((what, advice)) = certificates::words(&error) {
            return WireError::Config(what, advice.into());
        }
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                WireError::Protocol(error.to_string())
            }
            io::ErrorKind::UnexpectedEof => {
                WireError::Lost("the server closed the connection".into())
            }
            _ => WireError::Lost(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, message: &str, detail: &str) -> ServerError {
        ServerError {
            code: code.into(),
            message: message.into(),
            detail: detail.into(),
            schema: "s".into(),
            table: "t".into(),
            ..ServerError::default()
        }
    }

    #[test]
    fn values_stay_out_of_the_message() {
        let error = server("22P02", "invalid input syntax: \"secret\"", "").into_connector("x");
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(!error.message.contains("secret"));
        assert!(error.key.unwrap().contains("secret"));
        assert_eq!(error.table.as_deref(), Some("s.t"));

        let error = server(
            "23505",
            "duplicate key value",
            "Key (a)=(secret) already exists.",
        )
        .into_connector("x");
        assert_eq!(error.kind, ErrorKind::Constraint);
        assert!(!error.message.contains("secret"));
        assert!(error.key.unwrap().contains("secret"));
    }

    #[test]
    fn codes_have_kinds() {
        for (code, kind) in [
            ("08006", ErrorKind::Connection),
            ("57P01", ErrorKind::Connection),
            ("40P01", ErrorKind::Transient),
            ("55P03", ErrorKind::Transient),
            ("53100", ErrorKind::Transient),
            ("23P01", ErrorKind::Constraint),
            ("22003", ErrorKind::Data),
            ("42501", ErrorKind::Privilege),
            ("42P01", ErrorKind::Schema),
            ("28P01", ErrorKind::Configuration),
            ("3D000", ErrorKind::Configuration),
            ("XX000", ErrorKind::Internal),
            ("", ErrorKind::Internal),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
