//! Checks that need more than one section.

use std::path::{Path, PathBuf};

use super::draft::ConfigDraft;
use super::model::{ConvertConfig, Endpoint, Engine, NodeRole, PgHost};
use super::node::{NodeDraft, is_loopback};
use super::problem::{Findings, complaint};
use super::units::{GIB, format_duration, format_size};
use super::{failover, replication, tables};

/// Configured memory above which a warning asks whether it is meant.
const UNUSUAL_MEMORY: u64 = 2 * GIB;
/// Copies of a batch a worker holds at most: decoded, reduced, encoded for the target, in flight.
const COPIES_OF_A_BATCH: u64 = 4;

pub(super) fn run(findings: &Findings, draft: &ConfigDraft) {
    check_roles(findings, &draft.nodes);
    check_names(findings, &draft.nodes);
    check_databases(findings, &draft.nodes);
    check_server_name(findings, &draft.nodes);
    check_times(findings, draft);
    check_sizes(findings, draft);
    check_log_dir(findings, draft);
    if let Some(engine) = group_engine(&draft.nodes) {
        check_engines(findings, &draft.nodes, engine);
        check_capture(findings, draft, engine);
        replication::check(findings, draft, engine);
        failover::check(findings, draft, engine);
        check_tables(findings, draft, engine);
    }
}

fn group_engine(nodes: &[NodeDraft]) -> Option<Engine> {
    let known = |node: &&NodeDraft| node.endpoint.is_some();
    let primary = nodes
        .iter()
        .find(|node| node.role == Some(NodeRole::Primary));
    let node = primary.or_else(|| nodes.iter().find(known))?;
    node.endpoint.as_ref().map(Endpoint::engine)
}

fn check_roles(findings: &Findings, nodes: &[NodeDraft]) {
    let mut primaries = nodes
        .iter()
        .filter(|node| node.role == Some(NodeRole::Primary));
    let replicas = || {
        nodes
            .iter()
            .filter(|node| node.role == Some(NodeRole::Replica))
    };
    let unread = nodes.iter().any(|node| node.role.is_none());
    let first = primaries.next();
    if let Some(first) = first {
        for other in primaries {
            let what = format!("a second primary, beside `{}`", first.shown());
            let why = "a group has one primary; writes on two would contradict each other";
            let fix = "make it role = \"replica\", or put it into a group of its own";
            findings.error(&other.key("role"), complaint(what, why, fix));
        }
        if !first.enabled {
            let why = "without its primary the group has nothing to replicate";
            let fix = "remove enabled; to stop replicating, stop the daemon";
            findings.error(
                &first.key("enabled"),
                complaint("the primary is disabled", why, fix),
            );
        }
    } else if !unread {
        let why = "the changes come from the primary";
        let fix = "add a [[node]] with role = \"primary\"";
        findings.error("node", complaint("there is no primary", why, fix));
    }
    if replicas().next().is_none() && !unread {
        let why = "the changes go to the replicas";
        let fix = "add a [[node]] with role = \"replica\"";
        findings.error("node", complaint("there is no replica", why, fix));
    } else if !unread && !replicas().any(|node| node.enabled) {
        let why = "changes are captured and kept, but go nowhere";
        let fix = "set enabled = true on one";
        findings.warning("node", complaint("no replica is enabled", why, fix));
    }
}

fn check_names(findings: &Findings, nodes: &[NodeDraft]) {
    for (i, node) in nodes.iter().enumerate() {
        let Some(name) = &node.name else { continue };
        if let Some(earlier) = nodes[..i]
            .iter()
            .find(|other| other.name.as_ref() == Some(name))
        {
            let line = findings.line_of(&earlier.key("name"));
            let what = format!("`{name}` is the name of the node on line {line} too");
            let why = "a name must mean one node";
            findings.error(
                &node.key("name"),
                complaint(what, why, "give each node its own name"),
            );
        }
    }
}

/// The administrative connection to the primary verifies the URL's host and nothing else.
fn check_server_name(findings: &Findings, nodes: &[NodeDraft]) {
    for node in nodes {
        let named = node
            .tls
            .as_ref()
            .is_some_and(|tls| tls.server_name.is_some());
        if named && node.role == Some(NodeRole::Primary) {
            let why = "one of the connections to the primary can only verify the host of its url";
            let fix = "put a name of the certificate into url, if need be by way of /etc/hosts";
            findings.error(
                &node.key("tls.server_name"),
                complaint("server_name is for replicas only", why, fix),
            );
        }
    }
}

fn check_engines(findings: &Findings, nodes: &[NodeDraft], engine: Engine) {
    for node in nodes {
        let Some(own) = node.endpoint.as_ref().map(Endpoint::engine) else {
            continue;
        };
        if own == Engine::Mysql && node.role == Some(NodeRole::Primary) {
            let what = format!("`{}` is {own}", node.shown());
            let why = "a MySQL/MariaDB primary is not supported yet by this version";
            let fix = "use a PostgreSQL or SQLite primary; replicas may be MySQL/MariaDB";
            findings.error(&node.key("url"), complaint(what, why, fix));
        }
        let converts = node.convert != ConvertConfig::default();
        if own == engine && converts {
            let what = format!("`{}` is {own} as the primary", node.shown());
            let why = "rows pass untouched between equal engines";
            findings.error(&node.key("convert"), complaint(what, why, "remove it"));
        }
    }
}

/// What makes two endpoints one database.
#[derive(PartialEq)]
enum Identity {
    Server {
        place: String,
        port: u16,
        database: String,
    },
    File(PathBuf),
}

fn identity(endpoint: &Endpoint) -> Identity {
    match endpoint {
        Endpoint::Sqlite { path } => Identity::File(canonical(path)),
        Endpoint::Server(server) => {
            let place = match &server.host {
                PgHost::Tcp(host) if is_loopback(host) => "localhost".to_owned(),
                PgHost::Tcp(host) => host.trim_end_matches('.').to_owned(),
                PgHost::Unix(dir) => canonical(dir).display().to_string(),
            };
            Identity::Server {
                place,
                port: server.port,
                database: server.database.clone(),
            }
        }
    }
}

/// Follows symbolic links as far as the path exists.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    }
}

fn check_databases(findings: &Findings, nodes: &[NodeDraft]) {
    for (i, node) in nodes.iter().enumerate() {
        let Some(endpoint) = &node.endpoint else {
            continue;
        };
        let own = identity(endpoint);
        let others = nodes[..i].iter().filter(|other| other.endpoint.is_some());
        for other in others {
            let Some(theirs) = other.endpoint.as_ref() else {
                continue;
            };
            let key = node.key("url");
            if identity(theirs) == own {
                let what = format!("it is the same database as that of `{}`", other.shown());
                let why = "changes would be applied to where they came from, over and over";
                let fix = "give each node a database of its own";
                findings.error(&key, complaint(what, why, fix));
            } else if probably_same(endpoint, theirs) {
                let what = format!(
                    "it is probably the same database as that of `{}`",
                    other.shown()
                );
                let why = "a server usually listens on its port on loopback and by socket alike";
                let fix = "make sure they are two servers";
                findings.warning(&key, complaint(what, why, fix));
            }
        }
    }
}

fn probably_same(a: &Endpoint, b: &Endpoint) -> bool {
    let local = |host: &PgHost| match host {
        PgHost::Unix(_) => true,
        PgHost::Tcp(host) => is_loopback(host),
    };
    match (a, b) {
        (Endpoint::Server(a), Endpoint::Server(b)) => {
            let mixed = matches!(a.host, PgHost::Unix(_)) != matches!(b.host, PgHost::Unix(_));
            let one = a.engine == b.engine && a.port == b.port && a.database == b.database;
            mixed && one && local(&a.host) && local(&b.host)
        }
        _ => false,
    }
}

fn check_times(findings: &Findings, draft: &ConfigDraft) {
    let retry = &draft.retry;
    if retry.initial > retry.max {
        let (initial, max) = (format_duration(retry.initial), format_duration(retry.max));
        let what = format!("initial ({initial}) is longer than max ({max})");
        let why = "waits grow from initial up to max";
        let key = if findings.is_set("retry.initial") {
            "retry.initial"
        } else {
            "retry.max"
        };
        findings.error(key, complaint(what, why, "make initial the shorter one"));
    }
    let capture = &draft.capture;
    if capture.heartbeat_interval >= capture.idle_timeout {
        let heartbeat = format_duration(capture.heartbeat_interval);
        let idle = format_duration(capture.idle_timeout);
        let what =
            format!("heartbeat_interval ({heartbeat}) is not shorter than idle_timeout ({idle})");
        let why = "an idle but healthy connection would be taken for dead between two heartbeats";
        let key = match findings.is_set("capture.heartbeat_interval") {
            true => "capture.heartbeat_interval",
            false => "capture.idle_timeout",
        };
        findings.error(
            key,
            complaint(what, why, "make idle_timeout several heartbeats long"),
        );
    }
}

fn check_sizes(findings: &Findings, draft: &ConfigDraft) {
    let (log, limits) = (&draft.log, &draft.limits);
    if let Some(max) = log.retention_max_size
        && max < log.segment_size.saturating_mul(2)
    {
        let (max, segment) = (format_size(max), format_size(log.segment_size));
        let what = format!("retention_max_size ({max}) is less than two segments ({segment} each)");
        let why =
            "the log is trimmed by whole segments, so every replica would be given up at once";
        let fix = "raise retention_max_size or lower segment_size";
        findings.error("log.retention_max_size", complaint(what, why, fix));
    }
    let replicas = draft
        .nodes
        .iter()
        .filter(|node| node.role == Some(NodeRole::Replica))
        .count();
    let batches = (replicas as u64).saturating_mul(limits.batch_bytes * COPIES_OF_A_BATCH);
    let total = (log.memory_tail + limits.pending_bytes).saturating_add(batches);
    if total > UNUSUAL_MEMORY {
        let key = largest_memory_key(draft, batches);
        let what = format!("the memory limits add up to about {} MiB", total >> 20);
        let why = format!(
            "memory_tail {} + pending_bytes {} + {replicas} replicas × {COPIES_OF_A_BATCH} × batch_bytes {}",
            format_size(log.memory_tail),
            format_size(limits.pending_bytes),
            format_size(limits.batch_bytes)
        );
        let fix =
            "lower them, unless the machine has that much to spare; the defaults suffice for most";
        findings.warning(key, complaint(what, why, fix));
    }
}

fn largest_memory_key(draft: &ConfigDraft, batches: u64) -> &'static str {
    let (tail, pending) = (draft.log.memory_tail, draft.limits.pending_bytes);
    if tail >= pending && tail >= batches {
        "log.memory_tail"
    } else if pending >= batches {
        "limits.pending_bytes"
    } else {
        "limits.batch_bytes"
    }
}

fn check_log_dir(findings: &Findings, draft: &ConfigDraft) {
    let dir = &draft.log.dir;
    if dir.as_os_str().is_empty() {
        return;
    }
    for node in &draft.nodes {
        if let Some(Endpoint::Sqlite { path }) = &node.endpoint
            && canonical(path).starts_with(canonical(dir))
        {
            let what = "the database file is inside log.dir";
            let why =
                "the directory belongs to the event log, which creates and deletes files there";
            let fix = "move the database or the log elsewhere";
            findings.error(&node.key("url"), complaint(what, why, fix));
        }
    }
    if ["/tmp", "/var/tmp"]
        .iter()
        .any(|volatile| dir.starts_with(volatile))
    {
        let what = "the event log is in a directory for temporary files";
        let why = "the system may delete them at boot or after some days, and replicas then need a resync";
        let fix = "use a directory such as /var/lib/repl-daemon/shop";
        findings.warning("log.dir", complaint(what, why, fix));
    }
}

fn check_capture(findings: &Findings, draft: &ConfigDraft, engine: Engine) {
    // Any node that can be the primary may become it.
    let effects: [(&[&str], Engine, &str); 2] = [
        (
            &["slot_name", "publication_name", "manage_publication"],
            Engine::Postgres,
            "SQLite is captured by triggers, without slot or publication",
        ),
        (
            &["poll_interval_max"],
            Engine::Sqlite,
            "PostgreSQL streams its changes and is not polled",
        ),
    ];
    for (keys, of, why) in effects {
        // Refused as a primary.
        if engine == Engine::Mysql || draft.has_engine(of) {
            continue;
        }
        for key in keys {
            let key = format!("capture.{key}");
            if findings.is_set(&key) {
                let what = format!("it has no effect with a {engine} primary");
                findings.warning(&key, complaint(what, why, "remove it"));
            }
        }
    }
}

fn check_tables(findings: &Findings, draft: &ConfigDraft, engine: Engine) {
    let group = tables::check_group(findings, &draft.tables, engine);
    for node in &draft.nodes {
        let path = node.key("tables");
        if node.role == Some(NodeRole::Primary) && findings.is_set(&path) {
            let why = "it says what a replica gets, and this node gives";
            let fix = "select for the whole group in [tables], or move it to a replica";
            findings.error(
                &path,
                complaint("the primary takes no [node.tables]", why, fix),
            );
        } else {
            let own = node.endpoint.as_ref().map_or(engine, Endpoint::engine);
            let engines = (engine, own);
            tables::check_replica(findings, &path, &node.tables.selection, &group, engines);
        }
    }
}

/// For a file that users other than its owner can read.
pub(super) fn warn_of_readable_passwords(findings: &Findings, nodes: &[NodeDraft]) {
    for node in nodes.iter().filter(|node| node.password_in_url) {
        let what = "the URL holds a password, and others than its owner can read this file";
        let why = "every user of the machine who can read it can log in with it";
        let fix = "move the password to password_file, password_env or password_credential, or chmod 0600 this file";
        findings.warning(&node.key("url"), complaint(what, why, fix));
    }
}
