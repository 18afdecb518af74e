//! The configuration as the rest of the daemon sees it: complete, checked, every default filled in.
//! Durations are [`Duration`]s, sizes are bytes, paths are absolute.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use repl_core::mode::Settings;

use super::problem::Problem;
use super::secret::Secret;

/// One replication group: one primary, its replicas, one event log.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The group.
    pub group: GroupConfig,
    /// The event log on disk.
    pub log: LogConfig,
    /// The admin API.
    pub api: ApiConfig,
    /// What the daemon writes to stderr.
    pub logging: LoggingConfig,
    /// Bounds of memory and batch sizes.
    pub limits: LimitsConfig,
    /// Copies of existing rows.
    pub copy: CopyConfig,
    /// Comparisons in the background.
    pub validate: ValidateConfig,
    /// What a commit on the primary waits for.
    pub replication: ReplicationConfig,
    /// Changes of primary.
    pub promotion: PromotionConfig,
    /// When the primary is replaced by itself.
    pub failover: FailoverConfig,
    /// Backoff of everything that is retried.
    pub retry: RetryConfig,
    /// Capture on the primary.
    pub capture: CaptureConfig,
    /// The tables replicated to every replica.
    pub tables: TablesConfig,
    /// The primary: as read, the node that is it when the group first starts.
    pub primary: NodeConfig,
    /// The replicas, in file order; at least one.
    pub replicas: Vec<NodeConfig>,
    /// Under which name replicas keep their checkpoint: that of the first primary, whoever it is now.
    pub origin: String,
    /// The engine in whose words tables are named, here and in the log: that of the first primary.
    pub home: Engine,
    /// What is accepted but worth a look; already checked configurations may still have some.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// All nodes, the primary first.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeConfig> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    /// The replicas that take part (`enabled = true`).
    pub fn enabled_replicas(&self) -> impl Iterator<Item = &NodeConfig> {
        self.replicas.iter().filter(|node| node.enabled)
    }

    /// This configuration with `name` as the primary and the one so far in its place; none when it
    /// names no replica.
    #[must_use]
    pub fn with_primary(&self, name: &str) -> Option<Config> {
        let at = self.replicas.iter().position(|node| node.name == name)?;
        let mut config = self.clone();
        std::mem::swap(&mut config.primary, &mut config.replicas[at]);
        config.primary.role = NodeRole::Primary;
        config.replicas[at].role = NodeRole::Replica;
        Some(config)
    }

    /// The primary's engine; replicas may have others.
    pub fn engine(&self) -> Engine {
        self.primary.endpoint.engine()
    }
}

/// `[group]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Name, `[a-z0-9_]{1,40}`.
    pub name: String,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directory of the event log and the daemon's state.
    pub dir: PathBuf,
    /// Size at which a segment file is sealed, in bytes.
    pub segment_size: u64,
    /// Recent log kept in memory and shared by all workers, in bytes.
    pub memory_tail: u64,
    /// Size past which the slowest replica is given up (`needs-resync`), in bytes; none is unlimited.
    pub retention_max_size: Option<u64>,
    /// Age past which unapplied log is given up; none is unlimited.
    pub retention_max_age: Option<Duration>,
    /// Free bytes on the disk below which ingest pauses.
    pub min_free_disk: u64,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// File mode of the socket.
    pub socket_mode: u32,
    /// Group that owns the socket; none keeps the daemon's own.
    pub socket_group: Option<String>,
    /// TCP address of the read-only role checks; none serves none.
    pub listen: Option<SocketAddr>,
}

/// Least severe level that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Needs a human.
    Error,
    /// Worth a look.
    Warn,
    /// Milestones.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Shape of the daemon's own log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[logging]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Shape of the lines.
    pub format: LogFormat,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Largest row, in bytes; a larger one is refused visibly.
    pub max_row_bytes: u64,
    /// Most bytes applied to a replica in one transaction.
    pub batch_bytes: u64,
    /// Most source transactions applied to a replica in one transaction.
    pub batch_transactions: u64,
    /// Most bytes captured but not yet durable in the log.
    pub pending_bytes: u64,
}

/// `[copy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyConfig {
    /// Parts of tables loaded into one replica at the same time.
    pub workers: u64,
    /// Rows above which a table is copied in parts, and of each part, approximately.
    pub part_rows: u64,
    /// The same in bytes at the primary.
    pub part_size: u64,
    /// Most rows copied into one replica per second; none is unlimited.
    pub max_rows_per_second: Option<u64>,
    /// Lag of another replica above which the copy pauses; none is unlimited.
    pub max_lag: Option<Duration>,
    /// Bytes of history retained at the primary above which the copy pauses; none is unlimited.
    pub max_retained: Option<u64>,
}

/// `[validate]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidateConfig {
    /// Time between the beginnings of two passes over all tables; none is never.
    pub interval: Option<Duration>,
    /// Most rows read per second, on all sides together; none is unlimited.
    pub max_rows_per_second: Option<u64>,
}

/// `[retry]`: exponential backoff with jitter.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    /// First wait.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Share of each wait that is random, 0 to 1.
    pub jitter: f64,
}

/// `[replication]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// The mode when the group first starts, or the configuration's was changed.
    pub settings: Settings,
    /// Whether the daemon writes its name into the primary's `synchronous_standby_names`.
    pub manage_standby_names: bool,
    /// SQLite: the operator knows that only clients that ask for it wait.
    pub client_wait: bool,
    /// PostgreSQL: whose commits need not wait for the mode to be in force, as status names them.
    pub accept_weaker_commits: Vec<String>,
}

/// `[promotion]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotionConfig {
    /// Longest wait for the transactions that write at the old primary.
    pub fence_timeout: Duration,
    /// Longest wait for the replica to have applied everything, and for the slot.
    pub drain_timeout: Duration,
    /// Lag of the replica above which nothing is begun.
    pub max_lag: Duration,
    /// Steps by which sequences are advanced beyond what was used.
    pub sequence_margin: u64,
    /// A former primary that returns with nothing of its own follows by itself.
    pub auto_rejoin: bool,
}

/// `[failover]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    /// The daemon replaces a dead primary by itself.
    pub automatic: bool,
    /// What decides.
    pub settings: repl_core::failover::Settings,
    /// How often the primary is asked whether it lives.
    pub interval: Duration,
    /// How long its answer is waited for.
    pub timeout: Duration,
    /// The nodes that may take its place; all that can when empty.
    pub candidates: Vec<String>,
    /// A former primary that holds only what was acknowledged to nobody joins without being told to.
    pub rejoin_unacknowledged: bool,
}

/// `[capture]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// How often a heartbeat is written on an idle primary.
    pub heartbeat_interval: Duration,
    /// Longest delay before a change in a SQLite file is seen.
    pub poll_interval_max: Duration,
    /// How often new tables are looked for.
    pub table_refresh_interval: Duration,
    /// Silence after which the connection is considered dead.
    pub idle_timeout: Duration,
    /// PostgreSQL replication slot.
    pub slot_name: String,
    /// PostgreSQL publication.
    pub publication_name: String,
    /// Whether the daemon creates and alters the publication.
    pub manage_publication: bool,
}

/// A selection of tables; patterns and names are the primary's.
///
/// PostgreSQL patterns are `schema.table`, SQLite patterns are `table` (or `main.table`). An
/// unquoted part may hold the globs `*` and `?`; a part in double quotes is literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablesConfig {
    /// A table is selected when one of these matches it …
    pub include: Vec<String>,
    /// … and none of these does.
    pub exclude: Vec<String>,
    /// Other names on the replica.
    pub rename: Vec<Rename>,
}

/// One rename: table to table, or `schema.*` to `schema.*`. A table's own rename goes before its
/// schema's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Name on the primary.
    pub from: String,
    /// Name on the replica.
    pub to: String,
}

/// What a node is when the group first starts; later the persisted state decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Takes the writes.
    Primary,
    /// Follows the primary.
    Replica,
}

/// A database engine this version speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL 14 or later.
    Postgres,
    /// MySQL 8.0 or MariaDB 10.6, or later; as a replica.
    Mysql,
    /// SQLite 3.
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MySQL/MariaDB",
            Self::Sqlite => "SQLite",
        })
    }
}

/// How a replica's own commits are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// Each waits for the replica's disk.
    Durable,
    /// They become durable within a second; until then the event log keeps what a crash of the
    /// replica would take back.
    Asynchronous,
}

/// `[[node]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name, `[a-z0-9-]{1,63}`, unique in the group.
    pub name: String,
    /// First role.
    pub role: NodeRole,
    /// The database.
    pub endpoint: Endpoint,
    /// Password, from whichever source was configured.
    pub password: Option<Secret>,
    /// TLS; none where it has no meaning (Unix socket, SQLite).
    pub tls: Option<TlsConfig>,
    /// Preference in promotion, 0 to 1000, larger is preferred.
    pub priority: u32,
    /// Whether the node takes part.
    pub enabled: bool,
    /// Lag above which status warns.
    pub max_lag: Duration,
    /// Whether commits may wait for it.
    pub counts: bool,
    /// While it is a replica, whether it refuses writes that are not the daemon's.
    pub protect: bool,
    /// How it commits what it is sent.
    pub commit: CommitMode,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// What this replica gets, within the group's selection.
    pub tables: ReplicaTablesConfig,
    /// How it gets it, where it is of another engine than the primary.
    pub convert: ConvertConfig,
}

/// `[node.tables]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaTablesConfig {
    /// Narrows the group's selection; its renames go before the group's.
    pub selection: TablesConfig,
    /// Whether tables absent on the replica are created.
    pub create_tables: bool,
    /// Whether created tables get the primary's foreign keys.
    pub create_foreign_keys: bool,
}

/// `[node.convert]`: how a replica of another engine gets what does not fit as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertConfig {
    /// Declared losses and other forms.
    pub allow: Vec<AllowConfig>,
    /// Columns the replica does not get.
    pub exclude: Vec<ExcludeConfig>,
}

/// One declaration; what is left out matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowConfig {
    /// Pattern of tables, by their names on the primary.
    pub table: Option<String>,
    /// Column name.
    pub column: Option<String>,
    /// Type on the primary.
    pub source_type: Option<String>,
    /// What is allowed.
    pub rule: repl_core::convert::Rule,
}

/// One excluded column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcludeConfig {
    /// Pattern of tables, by their names on the primary; none is every table.
    pub table: Option<String>,
    /// Column name.
    pub column: String,
}

/// Where a database is. Holds no secret, so it may be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A database of a server.
    Server(Server),
    /// A SQLite database file.
    Sqlite {
        /// Absolute path.
        path: PathBuf,
    },
}

/// A database of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// PostgreSQL, or MySQL/MariaDB.
    pub engine: Engine,
    /// Address.
    pub host: PgHost,
    /// Port; PostgreSQL's also names the Unix socket file.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Database.
    pub database: String,
    /// `application_name`, where the URL gives one.
    pub application_name: Option<String>,
}

impl Endpoint {
    /// Whether the daemon may replace a primary here, or by one here, without being told to: commits
    /// or the applications' way to it can keep a node that is cut off from taking writes.
    pub fn follows_failover(&self) -> bool {
        self.engine() == Engine::Postgres
    }

    /// The engine behind it.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Server(server) => server.engine,
            Self::Sqlite { .. } => Engine::Sqlite,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "sqlite:{}", path.display()),
            Self::Server(server) => server.fmt(f),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server {
            user,
            port,
            database,
            ..
        } = self;
        let scheme = scheme(self.engine);
        match &self.host {
            PgHost::Unix(dir) => {
                write!(
                    f,
                    "{scheme}://{user}@:{port}/{database}?host={}",
                    dir.display()
                )
            }
            PgHost::Tcp(host) if host.contains(':') => {
                write!(f, "{scheme}://{user}@[{host}]:{port}/{database}")
            }
            PgHost::Tcp(host) => write!(f, "{scheme}://{user}@{host}:{port}/{database}"),
        }
    }
}

fn scheme(engine: Engine) -> &'static str {
    if engine == Engine::Mysql {
        "mysql"
    } else {
        "postgresql"
    }
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgHost {
    /// Host name or address, without brackets.
    Tcp(String),
    /// PostgreSQL: directory of the Unix socket. MySQL/MariaDB: the socket itself.
    Unix(PathBuf),
}

/// How far TLS is demanded; there is no mode that falls back to plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Encrypted, certificate chain and host name verified.
    VerifyFull,
    /// Encrypted, certificate chain verified.
    VerifyCa,
    /// Encrypted, server not verified.
    Require,
    /// Plaintext.
    Disable,
}

impl TlsMode {
    /// The mode's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VerifyFull => "verify-full",
            Self::VerifyCa => "verify-ca",
            Self::Require => "require",
            Self::Disable => "disable",
        }
    }
}

/// `tls = { … }` of a node
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// How far TLS is demanded.
    pub mode: TlsMode,
    /// PEM file of the certificate authorities to trust; none trusts the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    pub key_file: Option<PathBuf>,
    /// Name expected in the server's certificate; none expects the URL's host.
    pub server_name: Option<String>,
}
