//! `[[node]]`: one database, how to reach it, its secrets and TLS.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use repl_core::convert::Rule;

use super::defaults;
use super::model::{
    AllowConfig, CommitMode, ConvertConfig, Endpoint, Engine, ExcludeConfig, NodeConfig, NodeRole,
    PgHost, ReplicaTablesConfig, Server, TlsConfig, TlsMode,
};
use super::problem::{Findings, complaint, file_trouble};
use super::reader::Section;
use super::secret::{Env, Secret, from_credential, from_env, from_file};
use super::sections::resolve;
use super::{places, tables, url};

const MAX_NODE_NAME: usize = 63;
const MAX_PRIORITY: u64 = 1000;

/// What reading a secret depends on.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'e> {
    /// Directory that relative paths start at.
    pub base: &'e Path,
    pub env: &'e Env,
}

/// A node as far as it could be read; checks across nodes work on what there is.
pub(super) struct NodeDraft {
    /// Where it stands, such as `node[2]`.
    pub path: String,
    pub name: Option<String>,
    pub role: Option<NodeRole>,
    pub endpoint: Option<Endpoint>,
    pub password: Option<Secret>,
    /// Whether the password stands in the configuration itself.
    pub password_in_url: bool,
    pub tls: Option<TlsConfig>,
    pub priority: u32,
    pub enabled: bool,
    pub max_lag: Duration,
    pub counts: bool,
    pub protect: bool,
    pub commit: CommitMode,
    pub connect_timeout: Duration,
    pub tables: ReplicaTablesConfig,
    pub convert: ConvertConfig,
}

impl NodeDraft {
    /// The path of one of its keys.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The name, or a stand-in for messages.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or("(unnamed)")
    }

    /// The finished node; none when something required was missing or wrong.
    pub fn finish(self) -> Option<NodeConfig> {
        Some(NodeConfig {
            name: self.name?,
            role: self.role?,
            endpoint: self.endpoint?,
            password: self.password,
            tls: self.tls,
            priority: self.priority,
            enabled: self.enabled,
            max_lag: self.max_lag,
            counts: self.counts,
            protect: self.protect,
            commit: self.commit,
            connect_timeout: self.connect_timeout,
            tables: self.tables,
            convert: self.convert,
        })
    }
}

pub(super) fn read(mut section: Section<'_>, around: Surroundings<'_>) -> NodeDraft {
    let name = read_name(&mut section);
    let role = read_role(&mut section);
    let (endpoint, url_password) = read_url(&mut section, around.base);
    let password_in_url = url_password.is_some();
    let password = read_password(&mut section, url_password, endpoint.as_ref(), around);
    let tls = read_tls(&mut section, endpoint.as_ref(), around.base);
    let protect = read_protect(&mut section, endpoint.as_ref());
    let commit = read_commit(&mut section, role, endpoint.as_ref());
    let priority = section.integer("priority", defaults::PRIORITY, 0..=MAX_PRIORITY);
    let day = Duration::from_secs(86_400);
    let (short, minute) = (Duration::from_millis(100), Duration::from_secs(300));
    let draft = NodeDraft {
        path: section.path().to_owned(),
        name,
        role,
        endpoint,
        password,
        password_in_url,
        tls,
        priority: u32::try_from(priority).unwrap_or(u32::MAX),
        enabled: section.boolean("enabled", true),
        max_lag: section.duration("max_lag", defaults::MAX_LAG, short..=30 * day),
        counts: section.boolean("counts", true),
        protect,
        commit,
        connect_timeout: section.duration(
            "connect_timeout",
            defaults::CONNECT_TIMEOUT,
            short..=minute,
        ),
        tables: read_tables(section.section("tables")),
        convert: read_convert(section.section("convert")),
    };
    section.finish();
    draft
}

fn read_name(section: &mut Section<'_>) -> Option<String> {
    let why = "status, commands and checkpoints call the node by its name";
    let name = section.required("name", why, "write name = \"replica-1\"")?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.len() > MAX_NODE_NAME || !name.bytes().all(allowed) {
        section.fail(
            "name",
            complaint(
                format!("`{}` is not a node name", name.escape_debug()),
                "names appear in commands, metrics and file names",
                format!("use 1 to {MAX_NODE_NAME} of the characters a-z, 0-9 and -"),
            ),
        );
        return None;
    }
    section
        .findings()
        .set_label(section.path(), format!("node[{name}]"));
    Some(name)
}

fn read_role(section: &mut Section<'_>) -> Option<NodeRole> {
    let roles = [
        ("primary", NodeRole::Primary),
        ("replica", NodeRole::Replica),
    ];
    if !section.has("role") {
        let why = "the daemon must know which database takes the writes";
        let fix = "write role = \"primary\" or role = \"replica\"";
        section.fail("role", complaint("required key is missing", why, fix));
    }
    section.choice("role", &roles)
}

fn read_url(section: &mut Section<'_>, base: &Path) -> (Option<Endpoint>, Option<Secret>) {
    let why = "it says where the database is";
    let fix = "write url = \"postgresql://user@host:5432/database\" or \"sqlite:///path/file.db\"";
    let Some(text) = section.required("url", why, fix) else {
        return (None, None);
    };
    match url::parse(&text, base) {
        Ok(url) => {
            if let Err(complaint) = places::database(&url.endpoint) {
                section.fail("url", complaint);
            }
            (Some(url.endpoint), url.password)
        }
        Err(complaints) => {
            for complaint in complaints {
                section.fail("url", complaint);
            }
            (None, None)
        }
    }
}

fn read_password(
    section: &mut Section<'_>,
    in_url: Option<Secret>,
    endpoint: Option<&Endpoint>,
    around: Surroundings<'_>,
) -> Option<Secret> {
    let mut found = in_url.map(|secret| ("url", Some(secret)));
    for key in ["password_file", "password_env", "password_credential"] {
        let Some(source) = section.string(key) else {
            continue;
        };
        if matches!(endpoint, Some(Endpoint::Sqlite { .. })) {
            let why = "SQLite has no users; access is the file's permissions";
            let what = "a SQLite node takes no password";
            section.fail(key, complaint(what, why, "remove the key"));
            continue;
        }
        if let Some((first, _)) = &found {
            let what = format!("the password is given twice, here and by {first}");
            let why = "it would be unclear which one counts";
            section.fail(key, complaint(what, why, "keep one source"));
            continue;
        }
        let read = match key {
            "password_file" => from_file(&resolve(around.base, &source)),
            "password_env" => from_env(&source, around.env),
            _ => from_credential(&source, around.env),
        };
        found = Some((
            key,
            read.map_err(|complaint| section.fail(key, complaint)).ok(),
        ));
    }
    found.and_then(|(_, secret)| secret)
}

/// Asynchronous where the engine can: the daemon then keeps what a crash could take back.
fn read_commit(
    section: &mut Section<'_>,
    role: Option<NodeRole>,
    endpoint: Option<&Endpoint>,
) -> CommitMode {
    let modes = [
        ("durable", CommitMode::Durable),
        ("asynchronous", CommitMode::Asynchronous),
    ];
    let written = section.choice("commit", &modes);
    let engine = endpoint.map(Endpoint::engine);
    if role != Some(NodeRole::Primary) && engine == Some(Engine::Postgres) {
        return written.unwrap_or(CommitMode::Asynchronous);
    }
    if let (Some(engine), true) = (engine, section.has("commit")) {
        let (what, why) = match role {
            Some(NodeRole::Primary) => (
                "commit is for replicas".to_owned(),
                "how the primary commits is the applications' choice".to_owned(),
            ),
            _ => (
                format!("{engine} replicas have no choice of commit"),
                "their commits are always durable".to_owned(),
            ),
        };
        section.fail("commit", complaint(what, why, "remove the key"));
    }
    // The first primary may become a replica.
    match engine {
        Some(Engine::Postgres) => CommitMode::Asynchronous,
        _ => CommitMode::Durable,
    }
}

fn read_protect(section: &mut Section<'_>, endpoint: Option<&Endpoint>) -> bool {
    let protect = section.boolean("protect", false);
    let engine = endpoint.map(Endpoint::engine);
    if let (true, Some(engine @ Engine::Mysql)) = (protect, engine) {
        let what = format!("{engine} replicas cannot be protected");
        let why =
            "writes of others than the daemon are refused by PostgreSQL and SQLite nodes only";
        section.fail("protect", complaint(what, why, "remove the key"));
    }
    protect
}

fn read_tables(mut section: Section<'_>) -> ReplicaTablesConfig {
    let config = ReplicaTablesConfig {
        selection: tables::read(&mut section),
        create_tables: section.boolean("create_tables", true),
        create_foreign_keys: section.boolean("create_foreign_keys", true),
    };
    section.finish();
    config
}

fn read_convert(mut section: Section<'_>) -> ConvertConfig {
    let allow = section
        .sections("allow")
        .into_iter()
        .filter_map(|mut entry| {
            let why = "it says what is allowed";
            let fix = "write rule = \"text\", \"nearest\" or \"null\"";
            let rules = [Rule::Text, Rule::Nearest, Rule::Null].map(|rule| (rule.name(), rule));
            if !entry.has("rule") {
                entry.fail("rule", complaint("an entry without a rule", why, fix));
            }
            let rule = entry.choice("rule", &rules);
            let read = (
                entry.string("table"),
                entry.string("column"),
                entry.string("type"),
            );
            entry.finish();
            let (table, column, source_type) = read;
            Some(AllowConfig {
                table,
                column,
                source_type,
                rule: rule?,
            })
        });
    let allow = allow.collect();
    let exclude = section
        .sections("exclude")
        .into_iter()
        .filter_map(|mut entry| {
            let why = "it names what the replica does not get";
            let fix = "write { table = \"public.users\", column = \"photo\" }";
            let table = entry.string("table");
            let column = entry.required("column", why, fix);
            entry.finish();
            Some(ExcludeConfig {
                table,
                column: column?,
            })
        });
    let exclude = exclude.collect();
    section.finish();
    ConvertConfig { allow, exclude }
}

fn read_tls(node: &mut Section<'_>, endpoint: Option<&Endpoint>, base: &Path) -> Option<TlsConfig> {
    let written = node.has("tls");
    let mut section = node.section("tls");
    let modes = [
        TlsMode::VerifyFull,
        TlsMode::VerifyCa,
        TlsMode::Require,
        TlsMode::Disable,
    ];
    let mode = section.choice("mode", &modes.map(|mode| (mode.as_str(), mode)));
    let ca_file = pem_file(&mut section, "ca_file", base);
    let cert_file = pem_file(&mut section, "cert_file", base);
    let key_file = pem_file(&mut section, "key_file", base);
    let server_name = section.string("server_name");
    let host = match endpoint {
        Some(Endpoint::Server(Server {
            host: PgHost::Tcp(host),
            ..
        })) => host,
        other => {
            if let (true, Some(endpoint)) = (written, other) {
                refuse_meaningless_tls(node, endpoint);
            }
            section.finish();
            return None;
        }
    };
    // A loopback connection is not seen by others; whoever writes tls without a mode wants it anyway.
    let loopback = is_loopback(host);
    let default = if loopback && !written {
        TlsMode::Disable
    } else {
        TlsMode::VerifyFull
    };
    let config = TlsConfig {
        mode: mode.unwrap_or(default),
        ca_file,
        cert_file,
        key_file,
        server_name,
    };
    check_tls(&section, &config, loopback);
    section.finish();
    Some(config)
}

fn refuse_meaningless_tls(node: &Section<'_>, endpoint: &Endpoint) {
    let what = match endpoint {
        Endpoint::Sqlite { .. } => "a SQLite node has no TLS",
        Endpoint::Server(_) => "a connection over a Unix socket has no TLS",
    };
    let why = "nothing leaves the machine, so the setting would have no effect";
    node.fail("tls", complaint(what, why, "remove tls"));
}

fn check_tls(section: &Section<'_>, tls: &TlsConfig, loopback: bool) {
    let mode = tls.mode.as_str();
    let verifies = matches!(tls.mode, TlsMode::VerifyFull | TlsMode::VerifyCa);
    if section.has("ca_file") && !verifies {
        let what = format!("ca_file has no effect with mode = \"{mode}\"");
        let why = "the server's certificate is not verified in this mode";
        section.fail(
            "ca_file",
            complaint(what, why, "use mode = \"verify-full\", or remove it"),
        );
    }
    if section.has("server_name") && tls.mode != TlsMode::VerifyFull {
        let what = format!("server_name has no effect with mode = \"{mode}\"");
        let why = "the host name is verified by verify-full alone";
        let fix = "use mode = \"verify-full\", or remove it";
        section.fail("server_name", complaint(what, why, fix));
    }
    for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(key) && tls.mode == TlsMode::Disable {
            let what = format!("{key} has no effect with mode = \"disable\"");
            let why = "no certificate is shown on a plaintext connection";
            section.fail(
                key,
                complaint(what, why, "use mode = \"verify-full\", or remove it"),
            );
        } else if section.has(key) && !section.has(other) {
            let what = format!("{key} without {other}");
            let why = "a client certificate is a certificate and its key";
            section.fail(
                key,
                complaint(what, why, format!("add {other}, or remove {key}")),
            );
        }
    }
    warn_if_unprotected(section.findings(), &section.key("mode"), tls.mode, loopback);
}

fn warn_if_unprotected(findings: &Findings, key: &str, mode: TlsMode, loopback: bool) {
    let fix = "use mode = \"verify-full\", with ca_file for a private authority";
    match mode {
        TlsMode::Disable if !loopback => {
            let what = "the connection is not encrypted";
            let why = "rows and credentials cross the network in the clear";
            findings.warning(key, complaint(what, why, fix));
        }
        TlsMode::Require => {
            let why = "anyone who can answer in its place reads and alters what is replicated";
            findings.warning(key, complaint("the server is not verified", why, fix));
        }
        _ => {}
    }
}

fn pem_file(section: &mut Section<'_>, key: &'static str, base: &Path) -> Option<PathBuf> {
    let path = resolve(base, &section.string(key)?);
    let meta = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta,
        other => {
            let directory = |_| "the path is not that of a file".to_owned();
            let what = other.map_or_else(|error| file_trouble(&error), directory);
            let fix = "give the path of a PEM file the daemon's user can read";
            section.fail(
                key,
                complaint(what, "TLS needs it before the first connection", fix),
            );
            return Some(path);
        }
    };
    let mode = meta.permissions().mode() & 0o7777;
    if key == "key_file" && mode & 0o077 != 0 {
        let what = format!("the file has mode {mode:04o}: others than its owner have access");
        let why = "a private key that other users can read is no secret";
        section.fail(key, complaint(what, why, "run `chmod 0600` on it"));
    }
    Some(path)
}

/// Whether a host is this machine by name or address.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
