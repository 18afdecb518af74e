//! What a test server is started with.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;

use super::binaries::Installation;
use super::{PgServer, append_setting, template};
use crate::ports::Port;
use crate::scratch::Scratch;

/// Collects the settings of a server to be started.
#[derive(Debug)]
pub struct PgBuilder {
    name: String,
    durable: bool,
    settings: Vec<(String, String)>,
}

impl PgBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            durable: false,
            settings: Vec::new(),
        }
    }

    /// Whether the server fsyncs. Off by default: faster, and a SIGKILL of processes (not of the
    /// machine) loses nothing either way.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// One more line for `postgresql.conf`; later lines win.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the data directory and starts the server.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or the server does not come up.
    pub fn start(self) -> Result<PgServer> {
        let mut server = self.prepare()?;
        server.start()?;
        Ok(server)
    }

    /// Makes the data directory without starting the server.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or a file cannot be written.
    pub fn prepare(self) -> Result<PgServer> {
        let installation = Installation::get()?;
        let server = PgServer {
            name: self.name.clone(),
            installation,
            scratch: Scratch::new()?,
            port: Port::reserve()?,
            postmaster: None,
            copies: 0,
        };
        template::copy_to(&server.data_dir())?;
        fs::create_dir(server.socket_dir())?;
        fs::set_permissions(server.socket_dir(), fs::Permissions::from_mode(0o755))?;
        installation.give(&server.socket_dir())?;
        for (name, value) in self.base_settings(&server) {
            append_setting(&server.data_dir(), &name, &value)?;
        }
        for (name, value) in &self.settings {
            append_setting(&server.data_dir(), name, value)?;
        }
        Ok(server)
    }

    fn base_settings(&self, server: &PgServer) -> Vec<(String, String)> {
        let onoff = if self.durable { "on" } else { "off" };
        let socket_dir = server.socket_dir().display().to_string();
        let port = server.port().to_string();
        [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", socket_dir.as_str()),
            ("cluster_name", self.name.as_str()),
            ("fsync", onoff),
            ("full_page_writes", onoff),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_connections", "60"),
            ("max_prepared_transactions", "10"),
            ("shared_buffers", "32MB"),
            ("max_wal_size", "1GB"),
            ("autovacuum_naptime", "60s"),
            ("log_checkpoints", "off"),
            ("log_line_prefix", "%m [%p] %a "),
            ("lc_messages", "C"),
            ("timezone", "UTC"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }
}
