//! Where a MariaDB or MySQL server is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, IoError, Opts, OptsBuilder, SslOpts};
use repl_core::ErrorKind;
use rustls::CertificateError;

use super::admin::optional;
use super::error;
use super::settings::{self, Session};
use crate::answer::{Look, Sight};
use crate::seam::{ConnectorError, Result};

/// Statements kept prepared per session. Multi-row statements differ by their number of rows.
const PREPARED_STATEMENTS: usize = 256;
/// Silence on the connection after which the kernel asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlHost {
    /// Host name or IP address, reached over TCP.
    Tcp(String),
    /// The server's Unix socket file.
    Unix(PathBuf),
}

/// How much of TLS is required. There is no fallback to plain text in any mode but `Disable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text.
    Disable,
    /// Encrypted; the certificate is not verified.
    Require,
    /// Encrypted; the certificate must be issued by a trusted authority.
    VerifyCa,
    /// As `VerifyCa`, and the certificate must be for the host name (MySQL's `VERIFY_IDENTITY`).
    #[default]
    VerifyFull,
}

/// TLS of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MySqlTls {
    /// What is required.
    pub mode: TlsMode,
    /// PEM file of the trusted authorities; the system's own when absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain, for accounts that require one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of our private key.
    pub key_file: Option<PathBuf>,
    /// Name expected in the certificate; the host when absent.
    pub server_name: Option<String>,
}

/// Everything needed to connect to one server.
#[derive(Clone)]
pub struct MySqlTarget {
    /// Address.
    pub host: MySqlHost,
    /// Port; not used over a Unix socket.
    pub port: u16,
    /// Account to log in as.
    pub user: String,
    /// Its password; never shown.
    pub password: Option<String>,
    /// Database selected at login. It must exist; our own tables go there when the account may not
    /// create the database `repl`.
    pub database: String,
    /// TLS; not used over Unix sockets.
    pub tls: MySqlTls,
    /// Bound on connecting, logging in included.
    pub connect_timeout: Duration,
}

impl fmt::Debug for MySqlTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlTarget")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

impl fmt::Display for MySqlTarget {
    /// Names the server for messages: `host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            MySqlHost::Tcp(host) if host.contains(':') => {
                write!(f, "[{host}]:{}/{}", self.port, self.database)
            }
            MySqlHost::Tcp(host) => write!(f, "{host}:{}/{}", self.port, self.database),
            MySqlHost::Unix(file) => write!(f, "{}/{}", file.display(), self.database),
        }
    }
}

impl MySqlTarget {
    /// Connects, logs in and gives the session its settings; `session_name` is shown by the server among the connection's
    /// attributes.
    ///
    /// # Errors
    /// When the server cannot be reached within the time, its certificate is not as required, or
    /// it refuses the login.
    pub(super) async fn connect(&self, session_name: &str, session: Session) -> Result<Conn> {
        let connecting = async {
            let mut conn = self.connect_as(session_name).await?;
            match settings::pin(&mut conn, session).await {
                Ok(()) => Ok(conn),
                Err((error, refused)) => Err(self.not_pinned(error, &refused)),
            }
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(outcome) => outcome.map_err(ConnectorError::connecting),
            Err(_) => Err(ConnectorError::new(
                ErrorKind::Connection,
                format!(
                    "{self}: no connection within {} s",
                    self.connect_timeout.as_secs_f32()
                ),
            )),
        }
    }

    fn not_pinned(&self, error: mysql_async::Error, refused: &str) -> ConnectorError {
        let mut error = error::explain(&self.to_string(), error);
        if error.kind == ErrorKind::Privilege && !refused.is_empty() {
            error.advice = format!(
                "the session must have {refused}: give the server these values (SET GLOBAL, and in its \
                 configuration), or grant the account SESSION_VARIABLES_ADMIN (MySQL)"
            );
        }
        error
    }

    /// The client verifies a chain only together with a name. For `VerifyCa` the name is one the
    /// certificate itself gives: the name is looked at after the chain was found good, and the
    /// second connection verifies both again.
    async fn connect_as(&self, session_name: &str) -> Result<Conn> {
        let explain = |error| error::explain(&self.to_string(), error);
        let first = Conn::new(self.options(session_name, None)?).await;
        let failure = match first {
            Err(failure) if self.tls.mode == TlsMode::VerifyCa => failure,
            other => return other.map_err(explain),
        };
        match certified_name(&failure) {
            Some(name) => {
                let second = self.options(session_name, Some(&name))?;
                Conn::new(second).await.map_err(explain)
            }
            None => Err(explain(failure)),
        }
    }

    /// What looks at the session of this connection, which may hold a named lock.
    pub(super) fn look(&self, conn: &Conn, lock: Option<String>) -> MySqlLook {
        MySqlLook {
            target: self.clone(),
            id: conn.id(),
            lock,
        }
    }

    /// The options of the client; `certified` is a name the server's certificate is expected for,
    /// instead of the configured one.
    fn options(&self, session_name: &str, certified: Option<&str>) -> Result<Opts> {
        let mut options = OptsBuilder::default()
            .user(Some(&self.user))
            .pass(self.password.as_ref())
            .db_name(Some(&self.database))
            .prefer_socket(false)
            .stmt_cache_size(PREPARED_STATEMENTS)
            .tcp_keepalive(Some(KEEPALIVE))
            // Counts of updates are those of the rows found, whether or not they change.
            .client_found_rows(true)
            .connect_attribute("program_name", session_name);
        options = match &self.host {
            MySqlHost::Tcp(host) => options
                .ip_or_hostname(host)
                .tcp_port(self.port)
                .ssl_opts(self.tls_options(certified)?),
            MySqlHost::Unix(file) => {
                let file = file.to_str().ok_or_else(|| {
                    ConnectorError::new(
                        ErrorKind::Configuration,
                        format!("the socket's path {} is not UTF-8", file.display()),
                    )
                })?;
                options.socket(Some(file))
            }
        };
        Ok(options.into())
    }

    fn tls_options(&self, certified: Option<&str>) -> Result<Option<SslOpts>> {
        let mut options = SslOpts::default();
        match self.tls.mode {
            TlsMode::Disable => return Ok(None),
            TlsMode::Require => options = options.with_danger_accept_invalid_certs(true),
            TlsMode::VerifyCa | TlsMode::VerifyFull => options = self.trust(options)?,
        }
        if let Some(name) = certified.or(self.tls.server_name.as_deref()) {
            options = options.with_danger_tls_hostname_override(Some(name.to_owned()));
        }
        match (&self.tls.cert_file, &self.tls.key_file) {
            (Some(cert), Some(key)) => {
                let identity = ClientIdentity::new(cert.clone().into(), key.clone().into());
                options = options.with_client_identity(Some(identity));
            }
            (None, None) => {}
            _ => {
                return Err(ConnectorError::new(
                    ErrorKind::Configuration,
                    format!("{self}: a client certificate needs both its file and its key's file"),
                )
                .advice("set both or none of the certificate and key files of this node"));
            }
        }
        Ok(Some(options))
    }

    /// Trusts the configured authorities, or else those of the system, and no others.
    fn trust(&self, options: SslOpts) -> Result<SslOpts> {
        let roots = match &self.tls.ca_file {
            Some(file) => vec![file.clone().into()],
            None => rustls_native_certs::load_native_certs()
                .certs
                .into_iter()
                .map(|cert| cert.to_vec().into())
                .collect(),
        };
        if roots.is_empty() {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!("{self}: the system has no trusted certificate authorities"),
            )
            .advice("install the system's CA certificates, or name this node's CA file"));
        }
        Ok(options
            .with_root_certs(roots)
            .with_disable_built_in_roots(true))
    }
}

/// Looks at a session over a second connection.
#[derive(Debug)]
pub(super) struct MySqlLook {
    target: MySqlTarget,
    /// Number of the session's connection.
    id: u32,
    /// A session in a trigger runs as the trigger's definer, and is hidden from other accounts: then the
    /// lock it holds tells that it is there.
    lock: Option<String>,
}

impl MySqlLook {
    async fn ask(&self) -> std::result::Result<Sight, mysql_async::Error> {
        let options = self.target.options("repl-daemon look", None);
        let Ok(options) = options else {
            return Ok(Sight::Works);
        };
        let mut conn = Conn::new(options).await?;
        let sessions: Vec<mysql_async::Row> = conn.query("SHOW PROCESSLIST").await?;
        let number = self.id.to_string();
        let own = sessions
            .iter()
            .find(|row| optional(row, 0).as_deref() == Some(&number));
        let command = own.and_then(|row| optional(row, 4));
        let holder: Option<u32> = match (&command, &self.lock) {
            (None, Some(lock)) => {
                let holder = conn.exec_first("SELECT IS_USED_LOCK(?)", (lock,)).await?;
                holder.flatten()
            }
            _ => None,
        };
        // The server notices the closed connection in any case.
        drop(conn);
        Ok(match command.as_deref() {
            Some("Sleep") => Sight::Waits,
            Some(_) => Sight::Works,
            None if holder == Some(self.id) => Sight::Works,
            None => Sight::Gone,
        })
    }
}

#[async_trait]
impl Look for MySqlLook {
    async fn look(&self) -> Result<Sight> {
        match self.ask().await {
            Ok(sight) => Ok(sight),
            Err(error) => {
                let silent = matches!(&error, mysql_async::Error::Io(IoError::Io(_)));
                match silent {
                    true => Err(error::explain(&self.server(), error)),
                    // It answers, if only to refuse.
                    false => Ok(Sight::Works),
                }
            }
        }
    }

    fn server(&self) -> String {
        self.target.to_string()
    }
}

/// The first DNS name or address of a certificate that was refused only because of its names.
fn certified_name(failure: &mysql_async::Error) -> Option<String> {
    let mysql_async::Error::Io(IoError::Io(error)) = failure else {
        return None;
    };
    let refused = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        presented,
        ..
    }) = refused
    else {
        return None;
    };
    // They are given as `DnsName("db.example")` or `IpAddress(10.0.0.1)`.
    let name = presented.first()?.split_once('(')?.1;
    Some(
        name.trim_end_matches(')')
            .trim_matches('"')
            .replacen("*.", "any.", 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let target = MySqlTarget {
            host: MySqlHost::Tcp("::1".into()),
            port: 3306,
            user: "u".into(),
            password: Some("hunter2".into()),
            database: "d".into(),
            tls: MySqlTls::default(),
            connect_timeout: Duration::from_secs(1),
        };
        assert!(!format!("{target:?}").contains("hunter2"));
        assert_eq!(target.to_string(), "[::1]:3306/d");
    }
}
