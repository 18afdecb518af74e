//! The only file that names concrete engines: from configuration to connectors.

use std::sync::Arc;

use repl_connectors::postgres::apply::{PgApplier, PgApplierConfig};
use repl_connectors::postgres::capture::{PgCapture, PgCaptureOptions};
use repl_connectors::postgres::snapshot::PgSnapshots;
use repl_connectors::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};
use repl_connectors::seam::{Applier, Capture, Snapshot, SnapshotSource};
use repl_connectors::sqlite::{SqliteApplier, SqliteCapture, SqliteSnapshots, SqliteTarget};
use repl_core::convert;
use repl_core::schema::TableName;
use repl_core::select::{Rename, Routing, Selection, TablePattern, split_name};
use tokio::sync::{mpsc, oneshot};

use crate::config::{self, Config, Endpoint, Engine, NodeConfig, TablesConfig};
use crate::conversion::Conversion;

/// A request for a snapshot that only the capture can take.
pub type SnapshotRequest = oneshot::Sender<repl_connectors::seam::Result<Box<dyn Snapshot>>>;

/// The primary's connectors.
pub struct Source {
    /// Reads changes.
    pub capture: Box<dyn Capture>,
    /// Takes exact cuts.
    pub snapshots: Arc<dyn SnapshotSource>,
}

/// Makes the primary's connectors; `requests` leads to the capture's own snapshots.
pub fn source(config: &Config, requests: mpsc::Sender<SnapshotRequest>) -> Source {
    let node = &config.primary;
    let group = &config.group.name;
    match &node.endpoint {
        Endpoint::Postgres { .. } => {
            let options = PgCaptureOptions {
                node: node.name.clone(),
                slot: config.capture.slot_name.clone(),
                publication: config.capture.publication_name.clone(),
                manage_publication: config.capture.manage_publication,
            };
            let capture = postgres_target(node, &format!("repl-daemon capture {group}"));
            let copy = postgres_target(node, &format!("repl-daemon copy {group}"));
            Source {
                capture: Box::new(PgCapture::new(capture, options)),
                snapshots: Arc::new(PgSnapshots::new(copy)),
            }
        }
        Endpoint::Sqlite { .. } => Source {
            capture: Box::new(SqliteCapture::new(sqlite_target(config, node))),
            snapshots: Arc::new(SqliteSnapshots::new(sqlite_target(config, node), requests)),
        },
    }
}

/// Makes a replica's connector.
pub fn applier(config: &Config, node: &NodeConfig) -> Box<dyn Applier> {
    match &node.endpoint {
        Endpoint::Postgres { .. } => Box::new(PgApplier::new(PgApplierConfig {
            target: postgres_target(node, ""),
            group: config.group.name.clone(),
            replica: node.name.clone(),
            origin: config.primary.name.clone(),
        })),
        Endpoint::Sqlite { .. } => Box::new(SqliteApplier::new(
            sqlite_target(config, node),
            node.tables.create_tables,
        )),
    }
}

fn sqlite_target(config: &Config, node: &NodeConfig) -> SqliteTarget {
    let path = match &node.endpoint {
        Endpoint::Sqlite { path } => path.clone(),
        Endpoint::Postgres { .. } => Default::default(),
    };
    SqliteTarget {
        path,
        node: node.name.clone(),
        group: config.group.name.clone(),
    }
}

fn postgres_target(node: &NodeConfig, application_name: &str) -> PgTarget {
    let Endpoint::Postgres {
        host,
        port,
        user,
        database,
        ..
    } = &node.endpoint
    else {
        // The configuration has one engine per group, so this is never reached with SQLite.
        return PgTarget {
            host: PgHost::Tcp(String::new()),
            port: 0,
            user: String::new(),
            password: None,
            database: String::new(),
            tls: PgTls::default(),
            connect_timeout: node.connect_timeout,
            application_name: application_name.to_owned(),
        };
    };
    PgTarget {
        host: match host {
            config::PgHost::Tcp(host) => PgHost::Tcp(host.clone()),
            config::PgHost::Unix(dir) => PgHost::Unix(dir.clone()),
        },
        port: *port,
        user: user.clone(),
        password: node
            .password
            .as_ref()
            .map(|secret| secret.expose().to_owned()),
        database: database.clone(),
        tls: node.tls.as_ref().map_or_else(plain, |tls| PgTls {
            mode: match tls.mode {
                config::TlsMode::VerifyFull => TlsMode::VerifyFull,
                config::TlsMode::VerifyCa => TlsMode::VerifyCa,
                config::TlsMode::Require => TlsMode::Require,
                config::TlsMode::Disable => TlsMode::Disable,
            },
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            server_name: tls.server_name.clone(),
        }),
        connect_timeout: node.connect_timeout,
        application_name: application_name
            .chars()
            .take(MAX_APPLICATION_NAME)
            .collect(),
    }
}

/// PostgreSQL cuts longer names (NAMEDATALEN - 1).
const MAX_APPLICATION_NAME: usize = 63;

fn plain() -> PgTls {
    PgTls {
        mode: TlsMode::Disable,
        ..PgTls::default()
    }
}

/// The engine's name in the log and in status.
pub fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "postgres",
        Engine::Sqlite => "sqlite",
    }
}

/// The group's selection at the source.
///
/// # Errors
/// When a pattern cannot be read (the configuration check has refused such before).
pub fn selection(tables: &TablesConfig, engine: Engine) -> anyhow::Result<Selection> {
    let parse = |texts: &[String]| {
        texts
            .iter()
            .map(|text| TablePattern::parse(text, default_schema(engine)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(anyhow::Error::msg)
    };
    Ok(Selection {
        include: parse(&tables.include)?,
        exclude: parse(&tables.exclude)?,
    })
}

/// What a replica gets, and under which names; its own renames come first.
///
/// # Errors
/// As [`selection`].
pub fn routing(config: &Config, node: &NodeConfig) -> anyhow::Result<Routing> {
    let engine = config.engine();
    let own = &node.tables.selection;
    let mut renames = Vec::new();
    for rename in own.rename.iter().chain(&config.tables.rename) {
        let name = |text: &str| -> anyhow::Result<TableName> {
            let parts = split_name(text).map_err(anyhow::Error::msg)?;
            Ok(match parts.as_slice() {
                [table] => TableName::new(default_schema(engine), table.clone()),
                [schema, table] => TableName::new(schema.clone(), table.clone()),
                _ => anyhow::bail!("`{text}` is not a table name"),
            })
        };
        renames.push(Rename {
            from: name(&rename.from)?,
            to: name(&rename.to)?,
        });
    }
    // A table's own rename goes before its schema's.
    renames.sort_by_key(|rename| rename.from.name == "*");
    Ok(Routing {
        group: selection(&config.tables, engine)?,
        replica: selection(own, engine)?,
        renames,
    })
}

/// How a replica's rows are converted; none for one of the primary's own engine.
pub fn conversion(config: &Config, node: &NodeConfig) -> Option<Arc<Conversion>> {
    let engine = node.endpoint.engine();
    (engine != config.engine()).then(|| {
        Arc::new(Conversion {
            target: match engine {
                Engine::Postgres => convert::Engine::Postgres,
                Engine::Sqlite => convert::Engine::Sqlite,
            },
            options: convert::ConvertOptions::default(),
        })
    })
}

fn default_schema(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "public",
        Engine::Sqlite => "main",
    }
}
