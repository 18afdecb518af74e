//! What a server says of itself, for checks before anything starts and for the modes' promises.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row as ServerRow};
use repl_core::ErrorKind;
use repl_core::convert::MysqlFlavor;

use super::error::explain;
use super::settings::Session;
use super::target::MySqlTarget;
use crate::seam::{ConnectorError, Result};

/// A replica's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// `VERSION()`.
    pub version: String,
    /// Which of the two it is.
    pub flavor: MysqlFlavor,
    /// `innodb_flush_log_at_trx_commit`: only 1 makes commits durable.
    pub flush_at_commit: u8,
    /// `sync_binlog` where the server writes a binlog: with another value than 1 a host crash can
    /// take back what InnoDB had committed together with it.
    pub sync_binlog: Option<u64>,
    /// LOAD DATA LOCAL is allowed: bulk writes are faster.
    pub local_infile: bool,
    /// Largest row, bytes.
    pub max_allowed_packet: u64,
    /// Names of tables are folded to lower case (`lower_case_table_names` is not 0): two tables of
    /// the source whose names differ only by case cannot both be there.
    pub folds_names: bool,
    /// `read_only` is on.
    pub read_only: bool,
}

impl ServerReport {
    /// Whether a commit survives a crash of the server's host.
    pub fn is_durable(&self) -> bool {
        self.flush_at_commit == 1 && self.sync_binlog.is_none_or(|every| every == 1)
    }

    /// The statements that make commits durable; empty when they are.
    pub fn durability_advice(&self) -> String {
        let mut statements = Vec::new();
        if self.flush_at_commit != 1 {
            statements.push("SET GLOBAL innodb_flush_log_at_trx_commit = 1");
        }
        if self.sync_binlog.is_some_and(|every| every != 1) {
            statements.push("SET GLOBAL sync_binlog = 1");
        }
        statements.join("; ")
    }
}

/// Connects and asks.
///
/// # Errors
/// When the server cannot be reached or refuses the login, or is too old ([`ErrorKind::Configuration`]).
pub async fn examine(target: &MySqlTarget) -> Result<ServerReport> {
    let mut conn = target.connect("repl-daemon check", Session::Reader).await?;
    let report = report(target, &mut conn).await;
    // The server notices the closed connection in any case.
    let _ = conn.disconnect().await;
    report
}

pub(super) async fn report(target: &MySqlTarget, conn: &mut Conn) -> Result<ServerReport> {
    let sql = "SELECT VERSION(), @@GLOBAL.innodb_flush_log_at_trx_commit, \
        IF(@@log_bin, @@GLOBAL.sync_binlog, NULL), @@GLOBAL.local_infile, @@max_allowed_packet, \
        @@lower_case_table_names, @@GLOBAL.read_only";
    let row: Option<ServerRow> = conn
        .query_first(sql)
        .await
        .map_err(|error| explain(&target.to_string(), error))?;
    let row = row.ok_or_else(|| {
        ConnectorError::new(
            ErrorKind::Connection,
            format!("{target}: the server did not tell its settings"),
        )
    })?;
    let number = |at: usize| optional(&row, at).and_then(|text| text.parse::<u64>().ok());
    let version = optional(&row, 0).unwrap_or_default();
    let flavor = if version.to_ascii_lowercase().contains("mariadb") {
        MysqlFlavor::MariaDb
    } else {
        MysqlFlavor::Mysql
    };
    if !is_supported(&version, flavor) {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("{target}: server version {version} is too old for a replica"),
        )
        .advice("use MariaDB 10.6, MySQL 8.0, or later"));
    }
    Ok(ServerReport {
        flavor,
        flush_at_commit: u8::try_from(number(1).unwrap_or(0)).unwrap_or(0),
        sync_binlog: number(2),
        local_infile: number(3) == Some(1),
        max_allowed_packet: number(4).unwrap_or(1024 * 1024),
        folds_names: number(5) != Some(0),
        read_only: number(6) == Some(1),
        version,
    })
}

/// MariaDB 10.6 or MySQL 8.0, or later. MariaDB may put `5.5.5-` in front for old clients.
fn is_supported(version: &str, flavor: MysqlFlavor) -> bool {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    release
        >= match flavor {
            MysqlFlavor::MariaDb => (10, 6),
            MysqlFlavor::Mysql => (8, 0),
        }
}

/// Column `at` of a result's row as text; none when NULL.
pub(super) fn optional(row: &ServerRow, at: usize) -> Option<String> {
    match row.as_ref(at)? {
        mysql_async::Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        mysql_async::Value::Int(number) => Some(number.to_string()),
        mysql_async::Value::UInt(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        use MysqlFlavor::{MariaDb, Mysql};
        assert!(is_supported("5.5.5-10.11.6-MariaDB-1", MariaDb));
        assert!(is_supported("8.0.36", Mysql));
        assert!(is_supported("9.7.0", Mysql));
        assert!(!is_supported("10.5.22-MariaDB", MariaDb));
        assert!(!is_supported("5.7.44-log", Mysql));
    }
}
