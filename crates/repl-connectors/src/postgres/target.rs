//! Where a PostgreSQL server is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgHost {
    /// Host name or IP address, reached over TCP.
    Tcp(String),
    /// Directory of the server's Unix socket.
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
    /// As `VerifyCa`, and the certificate must be for the host name.
    #[default]
    VerifyFull,
}

/// TLS of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PgTls {
    /// What is required.
    pub mode: TlsMode,
    /// PEM file of the trusted authorities; the system's own when absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain, for servers that ask for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of our private key.
    pub key_file: Option<PathBuf>,
    /// Name expected in the certificate; the host when absent.
    pub server_name: Option<String>,
}

/// Everything needed to connect to one database.
#[derive(Clone)]
pub struct PgTarget {
    /// Address.
    pub host: PgHost,
    /// Port; over a Unix socket it is part of the socket's file name.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Its password; never shown.
    pub password: Option<String>,
    /// Database.
    pub database: String,
    /// TLS; not used over Unix sockets.
    pub tls: PgTls,
    /// Bound on connecting, logging in included.
    pub connect_timeout: Duration,
    /// Name the session shows in `pg_stat_activity`.
    pub application_name: String,
}

impl fmt::Debug for PgTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTarget")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("application_name", &self.application_name)
            .finish()
    }
}

impl fmt::Display for PgTarget {
    /// Names the server for messages: `host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            PgHost::Tcp(host) if host.contains(':') => {
                write!(f, "[{host}]:{}/{}", self.port, self.database)
            }
            PgHost::Tcp(host) => write!(f, "{host}:{}/{}", self.port, self.database),
            PgHost::Unix(dir) => write!(f, "{}:{}/{}", dir.display(), self.port, self.database),
        }
    }
}

impl PgTarget {
    /// File of the Unix socket, for such a host.
    pub(super) fn socket_file(&self) -> Option<PathBuf> {
        match &self.host {
            PgHost::Tcp(_) => None,
            PgHost::Unix(dir) => Some(dir.join(format!(".s.PGSQL.{}", self.port))),
        }
    }

    /// The same target as options of sqlx. It reads neither `~/.pgpass` nor the environment's
    /// `PGPASSWORD`. sqlx verifies the certificate against the host, whatever
    /// [`PgTls::server_name`] says.
    pub fn sqlx_options(&self) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            .database(&self.database)
            .application_name(&self.application_name);
        options = match &self.host {
            PgHost::Tcp(host) => options.host(host),
            PgHost::Unix(dir) => options.socket(dir),
        };
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        options = options.ssl_mode(match (&self.host, self.tls.mode) {
            (PgHost::Unix(_), _) | (_, TlsMode::Disable) => PgSslMode::Disable,
            (_, TlsMode::Require) => PgSslMode::Require,
            (_, TlsMode::VerifyCa) => PgSslMode::VerifyCa,
            (_, TlsMode::VerifyFull) => PgSslMode::VerifyFull,
        });
        // sqlx verifies under `Require` as soon as it is given an authority; we do not.
        if let (Some(file), true) = (&self.tls.ca_file, self.tls.mode != TlsMode::Require) {
            options = options.ssl_root_cert(file);
        }
        if let Some(file) = &self.tls.cert_file {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.tls.key_file {
            options = options.ssl_client_key(file);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let target = PgTarget {
            host: PgHost::Tcp("::1".into()),
            port: 5432,
            user: "u".into(),
            password: Some("hunter2".into()),
            database: "d".into(),
            tls: PgTls::default(),
            connect_timeout: Duration::from_secs(1),
            application_name: "a".into(),
        };
        assert!(!format!("{target:?}").contains("hunter2"));
        assert_eq!(target.to_string(), "[::1]:5432/d");
    }
}
