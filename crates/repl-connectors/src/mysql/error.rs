//! MariaDB's and MySQL's errors in the operator's words.

use mysql_async::{DriverError, Error, IoError};
use repl_core::ErrorKind;

use crate::certificates;
use crate::seam::ConnectorError;

/// Longest text of a server that is kept for the operator, in characters.
const KEPT_CHARACTERS: usize = 400;

/// The error for the operator; `server` names the server.
pub(super) fn explain(server: &str, error: Error) -> ConnectorError {
    match error {
        Error::Server(error) => server_error(server, error.code, &error.message),
        Error::Io(error) => match (certificates::words(&error), &error) {
            (Some((what, advice)), _) => {
                ConnectorError::new(ErrorKind::Configuration, format!("{server}: {what}"))
                    .advice(advice)
            }
            (None, IoError::Tls(error)) => tls(server, &error.to_string()),
            (None, IoError::Io(error)) => {
                ConnectorError::new(ErrorKind::Connection, format!("{server}: {error}"))
            }
        },
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            tls(server, "the server does not offer TLS")
        }
        Error::Driver(DriverError::ConnectionClosed) => {
            let what = format!("{server}: the connection was closed");
            ConnectorError::new(ErrorKind::Connection, what)
        }
        Error::Driver(error) => {
            ConnectorError::new(ErrorKind::Connection, format!("{server}: {error}"))
        }
        Error::Url(error) => {
            ConnectorError::new(ErrorKind::Configuration, format!("{server}: {error}"))
        }
        Error::Other(error) => {
            ConnectorError::new(ErrorKind::Internal, format!("{server}: {error}"))
        }
    }
}

fn tls(server: &str, text: &str) -> ConnectorError {
    ConnectorError::new(ErrorKind::Configuration, format!("{server}: TLS: {text}")).advice(
        "check this node's TLS mode, CA file and expected server name, and the server's own \
         certificate (ssl_cert, ssl_key)",
    )
}

/// An error the server numbered.
pub(super) fn server_error(server: &str, code: u16, message: &str) -> ConnectorError {
    let kind = kind_of(code);
    let mut error = ConnectorError::new(kind, public_message(server, code, message));
    error.advice = advice(code, message, kind).to_owned();
    if quotes_values(code) {
        error.key = Some(kept(message));
    }
    error.code = Some(code.to_string());
    error
}

/// What may be logged: without the texts in which the server quotes values.
fn public_message(server: &str, code: u16, message: &str) -> String {
    let text = match code {
        1062 | 1586 => match quoted_after(message, "for key ") {
            Some(key) => format!("a row with the same value of the unique key {key} is there"),
            None => "a row with the same value of a unique key is there".to_owned(),
        },
        1644 => "a trigger of the replica raised an error".to_owned(),
        _ if quotes_values(code) => match quoted_after(message, "for column ") {
            Some(column) => format!("a value does not fit the column {column}"),
            None => "a value does not fit its column".to_owned(),
        },
        _ => kept(message),
    };
    format!("{server}: {text} [error {code}]")
}

/// The name that follows `lead` in the message, quotes included.
fn quoted_after<'a>(message: &'a str, lead: &str) -> Option<&'a str> {
    // The name comes last: the value quoted before it may contain anything.
    let (_, rest) = message.rsplit_once(lead)?;
    Some(rest.split(" at row").next().unwrap_or(rest))
}

fn kept(text: &str) -> String {
    if text.chars().count() <= KEPT_CHARACTERS {
        return text.to_owned();
    }
    text.chars().take(KEPT_CHARACTERS).chain(['…']).collect()
}

/// Errors whose message quotes values of rows, or is whatever a trigger's author wrote.
fn quotes_values(code: u16) -> bool {
    matches!(
        code,
        1062 | 1586 | 1292 | 1300 | 1366 | 1367 | 1411 | 1525 | 1644 | 1690 | 3854
    )
}

/// The kind that an error number stands for.
pub(super) fn kind_of(code: u16) -> ErrorKind {
    match code {
        // Locks, resources, and what an administrator changes at run time: read-only, and
        // local_infile, which the next session finds switched off.
        1205 | 1213 | 3572 | 1021 | 1023 | 1026 | 1028 | 1030 | 1037 | 1038 | 1040 | 1041
        | 1114 | 1180 | 1203 | 1226 | 1290 | 1297 | 1317 | 1792 | 1836 | 1969 | 3024 | 1637
        | 3948 | 4166 => ErrorKind::Transient,
        1053 | 1077..=1080 | 1152 | 1156..=1161 | 1184 | 1927 | 2002..=2013 | 3169 | 4031 => {
            ErrorKind::Connection
        }
        1022 | 1062 | 1169 | 1216 | 1217 | 1451 | 1452 | 1557 | 1586 | 1644 | 1761 | 3819
        | 4025 => ErrorKind::Constraint,
        1048
        | 1118
        | 1153
        | 1264
        | 1265
        | 1292
        | 1300
        | 1301
        | 1364
        | 1366
        | 1367
        | 1406
        | 1411
        | 1416
        | 1525
        | 1690
        | 3140..=3158
        | 3854
        | 4038 => ErrorKind::Data,
        1044 | 1095 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419 => ErrorKind::Privilege,
        1045 | 1049 | 1129 | 1130 | 1193 | 1231 | 1232 | 1238 | 1251 | 1521 | 1524 | 1665
        | 1698 | 3750 => ErrorKind::Configuration,
        1005
        | 1050
        | 1051
        | 1054
        | 1059..=1061
        | 1064
        | 1066..=1075
        | 1091
        | 1101..=1103
        | 1115
        | 1136
        | 1146
        | 1163
        | 1170
        | 1214
        | 1215
        | 1235
        | 1239
        | 1253
        | 1267
        | 1273
        | 1347
        | 1824
        | 1826
        | 3105
        | 3780
        | 3822 => ErrorKind::Schema,
        _ => ErrorKind::Internal,
    }
}

fn advice(code: u16, message: &str, kind: ErrorKind) -> &'static str {
    match code {
        1265 => {
            "a value is longer or finer than its column; of a generated column (SHOW CREATE TABLE) the \
             expression must round by itself: ALTER TABLE … MODIFY COLUMN … GENERATED ALWAYS AS \
             (ROUND(…, digits)) STORED, or leave it out by exclude in [node.convert] and drop it; then \
             `replctl retry`"
        }
        1045 | 1698 => "check the user and password of this node in the configuration",
        1049 => "create the database, or correct its name in the node's URL",
        1129 => "mariadb-admin flush-hosts (MySQL: TRUNCATE performance_schema.host_cache)",
        1130 => "create the account for the host this daemon connects from",
        1040 | 1203 | 1226 => "raise max_connections, or free connections of this server",
        1021 | 1114 | 1030 => "free disk space on the server",
        1205 => {
            "another session holds a lock on a replicated table; see \
             information_schema.INNODB_TRX on the server"
        }
        1290 if message.contains("read") => {
            "the server is read-only: SET GLOBAL read_only = OFF (MySQL also super_read_only), or \
             grant the account READ ONLY ADMIN (MySQL: CONNECTION_ADMIN)"
        }
        1836 | 1792 => "the server is read-only: SET GLOBAL read_only = OFF",
        1118 => "use ROW_FORMAT=DYNAMIC and text or blob columns for the wide ones",
        1153 => {
            "raise max_allowed_packet on the server, e.g. SET GLOBAL max_allowed_packet = 1 GiB"
        }
        1665 => "SET GLOBAL binlog_format = 'ROW' on the replica",
        3750 => "SET GLOBAL sql_require_primary_key = OFF, or give the source's table a key",
        1062 | 1586 => {
            "find out how the replica came to differ from the primary (a unique key whose \
             collation holds 'a' and 'A' to be equal also does this); then `replctl retry`"
        }
        1142 | 1143 | 1044 | 1227 => {
            "grant the privilege named in the message to the account of this node"
        }
        _ if kind == ErrorKind::Constraint => {
            "find out how the replica came to differ from the primary; then `replctl retry`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_out_of_messages() {
        let error = server_error("s", 1062, "Duplicate entry 'for key secret' for key 't.uq'");
        assert_eq!(error.kind, ErrorKind::Constraint);
        assert!(!error.message.contains("secret"));
        assert!(error.message.contains("'t.uq'"));
        assert!(error.key.is_some_and(|key| key.contains("secret")));
        let text = "Incorrect integer value: 'secret' for column `d`.`t`.`a` at row 1";
        let error = server_error("s", 1366, text);
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.message.contains("`d`.`t`.`a`"));
        assert!(!error.message.contains("secret"));
    }

    #[test]
    fn kinds_follow_the_numbers() {
        for (code, kind) in [
            (1213, ErrorKind::Transient),
            (1205, ErrorKind::Transient),
            (1452, ErrorKind::Constraint),
            (1048, ErrorKind::Data),
            (1142, ErrorKind::Privilege),
            (1045, ErrorKind::Configuration),
            (1146, ErrorKind::Schema),
            (2013, ErrorKind::Connection),
            (1114, ErrorKind::Transient),
            (1836, ErrorKind::Transient),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
