//! The only file that names concrete engines: from configuration to connectors.

use std::path::Path;
use std::sync::Arc;

use repl_connectors::content::ContentSource;
use repl_connectors::mysql::apply::{MySqlApplier, MySqlApplierConfig, MySqlContents};
use repl_connectors::mysql::target::{MySqlHost, MySqlTarget, MySqlTls, TlsMode as MySqlTlsMode};
use repl_connectors::postgres::apply::{PgApplier, PgApplierConfig, PgContents};
use repl_connectors::postgres::capture::{PgCapture, PgCaptureOptions};
use repl_connectors::postgres::gate::{PgGate, PgGateOptions};
use repl_connectors::postgres::role::PgRole;
use repl_connectors::postgres::snapshot::PgSnapshots;
use repl_connectors::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};
use repl_connectors::seam::{Applier, Capture, CommitGate, RoleSwitch, Snapshot, SnapshotSource};
use repl_connectors::sqlite::{
    SqliteApplier, SqliteCapture, SqliteContents, SqliteRole, SqliteSnapshots, SqliteTarget,
};
use repl_connectors::told::{Teller, ToldRole};
use repl_core::convert;
use repl_core::log::EventLog;
use repl_core::schema::TableName;
use repl_core::select::{Rename, Routing, Selection, TablePattern, split_name};
use repl_core::telling::{Naming, Telling};
use tokio::sync::{mpsc, oneshot};

use crate::config::{self, Config, Endpoint, Engine, NodeConfig, Server, TablesConfig};
use crate::conversion::Conversion;

/// A request for a snapshot that only the capture can take.
pub type SnapshotRequest = oneshot::Sender<repl_connectors::seam::Result<Box<dyn Snapshot>>>;

/// The primary's connectors.
pub struct Source {
    /// Reads changes.
    pub capture: Box<dyn Capture>,
    /// Takes exact cuts.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// Makes its commits wait; none where they cannot.
    pub gate: Option<Box<dyn CommitGate>>,
}

/// Makes the primary's connectors; `requests` leads to the capture's own snapshots.
///
/// # Errors
/// When the primary's engine cannot be captured from (the configuration check refuses such).
pub fn source(config: &Config, requests: mpsc::Sender<SnapshotRequest>) -> anyhow::Result<Source> {
    let node = &config.primary;
    let group = &config.group.name;
    Ok(match &node.endpoint {
        Endpoint::Sqlite { path } => {
            let target = sqlite_target(config, node, path);
            Source {
                capture: Box::new(SqliteCapture::new(target.clone())),
                snapshots: Arc::new(SqliteSnapshots::new(target, requests)),
                gate: None,
            }
        }
        Endpoint::Server(server) if server.engine == Engine::Postgres => {
            let copy = postgres_target(node, server, &format!("repl-daemon copy {group}"));
            Source {
                capture: Box::new(postgres_capture(config, node, server, "capture")),
                snapshots: Arc::new(PgSnapshots::new(copy)),
                gate: Some(Box::new(postgres_gate(config, node, server))),
            }
        }
        Endpoint::Server(server) => anyhow::bail!("{} cannot be a primary", server.engine),
    })
}

fn postgres_capture(config: &Config, node: &NodeConfig, server: &Server, task: &str) -> PgCapture {
    let group = &config.group.name;
    let options = PgCaptureOptions {
        node: node.name.clone(),
        slot: config.capture.slot_name.clone(),
        publication: config.capture.publication_name.clone(),
        manage_publication: config.capture.manage_publication,
        standby: standby_name(group),
    };
    let target = postgres_target(node, server, &format!("repl-daemon {task} {group}"));
    PgCapture::new(target, options)
}

fn postgres_gate(config: &Config, node: &NodeConfig, server: &Server) -> PgGate {
    let group = &config.group.name;
    let options = PgGateOptions {
        standby: standby_name(group),
        manage: config.replication.manage_standby_names,
    };
    let target = postgres_target(node, server, &format!("repl-daemon mode {group}"));
    PgGate::new(target, options)
}

/// What changes a node's role; none for an engine that cannot be primary and replica in turn.
pub fn role(config: &Config, node: &NodeConfig) -> Option<Arc<dyn RoleSwitch>> {
    match &node.endpoint {
        Endpoint::Sqlite { path } => {
            let role = SqliteRole::new(sqlite_target(config, node, path));
            told(config, node, role)
        }
        Endpoint::Server(server) if server.engine == Engine::Postgres => {
            let role = PgRole::new(
                postgres_capture(config, node, server, "role"),
                postgres_gate(config, node, server),
                &config.group.name,
                config.replication.manage_standby_names,
            );
            told(config, node, role)
        }
        Endpoint::Server(_) => None,
    }
}

fn told(
    config: &Config,
    node: &NodeConfig,
    role: impl RoleSwitch + 'static,
) -> Option<Arc<dyn RoleSwitch>> {
    // The configuration check has refused patterns that cannot be read.
    let telling = telling(config, node).ok()?;
    let engine = converts(node.endpoint.engine());
    Some(Arc::new(ToldRole::new(role, engine, telling)))
}

/// What the log calls a node's tables, and how those of other engines came to be there.
///
/// # Errors
/// As [`selection`].
pub fn telling(config: &Config, node: &NodeConfig) -> anyhow::Result<Telling> {
    Ok(Telling {
        naming: naming(config, node),
        options: convert_options(config, node)?,
    })
}

/// How what the primary holds is told.
///
/// # Errors
/// As [`selection`].
pub fn teller(config: &Config, log: Arc<dyn EventLog>) -> anyhow::Result<Teller> {
    Ok(Teller {
        telling: telling(config, &config.primary)?,
        engine: converts(config.engine()),
        log,
    })
}

/// What a node calls its ordinary schema, and what the log calls that.
pub fn naming(config: &Config, node: &NodeConfig) -> Naming {
    Naming::new(&node_schema(node), default_schema(config.home))
}

/// What the replication connection is called at a PostgreSQL primary: the entry in its
/// `synchronous_standby_names`. Group names are such that it needs no quotes and is not cut.
fn standby_name(group: &str) -> String {
    format!("repl_{group}")
}

/// Makes a replica's connector.
pub fn applier(config: &Config, node: &NodeConfig) -> Box<dyn Applier> {
    let (group, replica) = (config.group.name.clone(), node.name.clone());
    let origin = config.origin.clone();
    match &node.endpoint {
        Endpoint::Sqlite { path } => Box::new(SqliteApplier::new(
            sqlite_target(config, node, path),
            node.tables.create_tables,
        )),
        Endpoint::Server(server) if server.engine == Engine::Mysql => {
            let target = mysql_target(node, server);
            Box::new(MySqlApplier::new(MySqlApplierConfig {
                target,
                group,
                replica,
                origin,
            }))
        }
        Endpoint::Server(server) => {
            let target = postgres_target(node, server, "");
            Box::new(PgApplier::new(PgApplierConfig {
                target,
                group,
                replica,
                origin,
            }))
        }
    }
}

/// Makes what reads a replica's content.
pub fn contents(config: &Config, node: &NodeConfig) -> Arc<dyn ContentSource> {
    match &node.endpoint {
        Endpoint::Sqlite { path } => {
            Arc::new(SqliteContents::new(sqlite_target(config, node, path)))
        }
        Endpoint::Server(server) if server.engine == Engine::Mysql => {
            Arc::new(MySqlContents::new(MySqlApplierConfig {
                target: mysql_target(node, server),
                group: config.group.name.clone(),
                replica: node.name.clone(),
                origin: config.origin.clone(),
            }))
        }
        Endpoint::Server(server) => Arc::new(PgContents::new(PgApplierConfig {
            target: postgres_target(node, server, ""),
            group: config.group.name.clone(),
            replica: node.name.clone(),
            origin: config.origin.clone(),
        })),
    }
}

fn sqlite_target(config: &Config, node: &NodeConfig, path: &Path) -> SqliteTarget {
    SqliteTarget {
        path: path.to_owned(),
        node: node.name.clone(),
        group: config.group.name.clone(),
    }
}

fn password(node: &NodeConfig) -> Option<String> {
    node.password
        .as_ref()
        .map(|secret| secret.expose().to_owned())
}

fn postgres_target(node: &NodeConfig, server: &Server, application_name: &str) -> PgTarget {
    let plain = PgTls {
        mode: TlsMode::Disable,
        ..PgTls::default()
    };
    PgTarget {
        host: match &server.host {
            config::PgHost::Tcp(host) => PgHost::Tcp(host.clone()),
            config::PgHost::Unix(dir) => PgHost::Unix(dir.clone()),
        },
        port: server.port,
        user: server.user.clone(),
        password: password(node),
        database: server.database.clone(),
        tls: node.tls.as_ref().map_or(plain, |tls| PgTls {
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

fn mysql_target(node: &NodeConfig, server: &Server) -> MySqlTarget {
    let plain = MySqlTls {
        mode: MySqlTlsMode::Disable,
        ..MySqlTls::default()
    };
    MySqlTarget {
        host: match &server.host {
            config::PgHost::Tcp(host) => MySqlHost::Tcp(host.clone()),
            config::PgHost::Unix(socket) => MySqlHost::Unix(socket.clone()),
        },
        port: server.port,
        user: server.user.clone(),
        password: password(node),
        database: server.database.clone(),
        tls: node.tls.as_ref().map_or(plain, |tls| MySqlTls {
            mode: match tls.mode {
                config::TlsMode::VerifyFull => MySqlTlsMode::VerifyFull,
                config::TlsMode::VerifyCa => MySqlTlsMode::VerifyCa,
                config::TlsMode::Require => MySqlTlsMode::Require,
                config::TlsMode::Disable => MySqlTlsMode::Disable,
            },
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            server_name: tls.server_name.clone(),
        }),
        connect_timeout: node.connect_timeout,
    }
}

/// The engine's name in the log and in status.
pub fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "postgres",
        Engine::Mysql => "mysql",
        Engine::Sqlite => "sqlite",
    }
}

/// The engine of that name.
pub fn engine_of(name: &str) -> Option<Engine> {
    [Engine::Postgres, Engine::Mysql, Engine::Sqlite]
        .into_iter()
        .find(|engine| engine_name(*engine) == name)
}

/// The group's selection, asked for tables as `node` calls them.
///
/// # Errors
/// When a pattern cannot be read (the configuration check has refused such before).
pub fn selection(config: &Config, node: &NodeConfig) -> anyhow::Result<Selection> {
    Ok(Selection {
        naming: naming(config, node),
        ..known_selection(&config.tables, config.home)?
    })
}

/// A selection among tables as the log calls them.
fn known_selection(tables: &TablesConfig, home: Engine) -> anyhow::Result<Selection> {
    let parse = |texts: &[String]| {
        texts
            .iter()
            .map(|text| TablePattern::parse(text, default_schema(home)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(anyhow::Error::msg)
    };
    Ok(Selection {
        include: parse(&tables.include)?,
        exclude: parse(&tables.exclude)?,
        ..Selection::default()
    })
}

/// What a replica gets, and under which names; its own renames come first.
///
/// # Errors
/// As [`selection`].
pub fn routing(config: &Config, node: &NodeConfig) -> anyhow::Result<Routing> {
    let engine = config.home;
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
    if node.endpoint.engine() != engine {
        // What every engine calls its ordinary place: `public`, `main`, the URL's database.
        let from = TableName::new(default_schema(engine), "*");
        renames.push(Rename {
            from,
            to: TableName::new(node_schema(node), "*"),
        });
    }
    Ok(Routing {
        group: known_selection(&config.tables, engine)?,
        replica: known_selection(own, engine)?,
        renames,
    })
}

/// How a replica's rows are converted, where the log knows a table in the form of another engine.
///
/// # Errors
/// As [`selection`].
pub fn conversion(config: &Config, node: &NodeConfig) -> anyhow::Result<Arc<Conversion>> {
    Ok(Arc::new(Conversion {
        target: converts(node.endpoint.engine()),
        options: convert_options(config, node)?,
    }))
}

fn converts(engine: Engine) -> convert::Engine {
    match engine {
        Engine::Postgres => convert::Engine::Postgres,
        Engine::Mysql => convert::Engine::Mysql,
        Engine::Sqlite => convert::Engine::Sqlite,
    }
}

fn convert_options(config: &Config, node: &NodeConfig) -> anyhow::Result<convert::ConvertOptions> {
    let pattern = |text: &Option<String>| {
        let parse = |text: &String| TablePattern::parse(text, default_schema(config.home));
        text.as_ref()
            .map(parse)
            .transpose()
            .map_err(anyhow::Error::msg)
    };
    let mut options = convert::ConvertOptions::default();
    for allow in &node.convert.allow {
        options.allow.push(convert::Allowance {
            table: pattern(&allow.table)?,
            column: allow.column.clone(),
            source_type: allow.source_type.clone(),
            rule: allow.rule,
        });
    }
    for exclude in &node.convert.exclude {
        options.exclude.push(convert::Exclusion {
            table: pattern(&exclude.table)?,
            column: exclude.column.clone(),
        });
    }
    Ok(options)
}

/// The schema of tables whose name is given without one.
pub fn default_schema(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "public",
        Engine::Mysql => "",
        Engine::Sqlite => "main",
    }
}

/// The schema a node's tables are in when nothing else is said: a MySQL replica's is the database
/// of its URL.
fn node_schema(node: &NodeConfig) -> String {
    match &node.endpoint {
        Endpoint::Server(server) if server.engine == Engine::Mysql => server.database.clone(),
        endpoint => default_schema(endpoint.engine()).to_owned(),
    }
}
