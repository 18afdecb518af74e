//! The sections that describe the daemon itself, each with the checks it can make alone.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::defaults;
use super::model::{
    ApiConfig, CaptureConfig, CopyConfig, GroupConfig, LimitsConfig, LogConfig, LogFormat,
    LogLevel, LoggingConfig, PromotionConfig, RetryConfig, ValidateConfig,
};
use super::places;
use super::problem::{Complaint, complaint};
use super::reader::Section;
use super::secret::Env;
use super::units::{GIB, KIB, MIB, TIB};
use super::url::normalize;

/// Longest path of a Unix socket, in bytes: `sun_path` holds 108 with the terminating NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Longest group name; `repl_<name>` must fit PostgreSQL's 63 bytes with room to spare.
const MAX_GROUP_NAME: usize = 40;
/// Longest PostgreSQL identifier, in bytes.
const PG_NAME_BYTES: usize = 63;

/// Directories that belong to the whole system.
const SHARED_DIRS: [&str; 18] = [
    "/", "/bin", "/boot", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/root", "/sbin",
    "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/tmp",
];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn group(mut section: Section<'_>) -> GroupConfig {
    let name = section.required(
        "name",
        "it names the group's slot, publication and checkpoints",
        "write name = \"shop\" under [group]",
    );
    let name = name.filter(|name| {
        let good = name.len() <= MAX_GROUP_NAME
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !good {
            section.fail(
                "name",
                complaint(
                    format!("`{}` is not a group name", name.escape_debug()),
                    "it becomes part of a PostgreSQL slot name, which allows few characters",
                    format!("use 1 to {MAX_GROUP_NAME} of the characters a-z, 0-9 and _"),
                ),
            );
        }
        good
    });
    section.finish();
    GroupConfig {
        name: name.unwrap_or_default(),
    }
}

pub(super) fn log(mut section: Section<'_>, base: &Path) -> LogConfig {
    let dir = section.required(
        "dir",
        "the event log must be on disk before a change is acknowledged",
        "write dir = \"/var/lib/repl-daemon/shop\" under [log]",
    );
    let dir = dir
        .map(|dir| normalize(&base.join(dir)))
        .unwrap_or_default();
    if !dir.as_os_str().is_empty()
        && let Err(complaint) = check_log_dir(&dir)
    {
        section.fail("dir", complaint);
    }
    let config = LogConfig {
        dir,
        segment_size: section.size("segment_size", defaults::SEGMENT_SIZE, MIB..=4 * GIB),
        memory_tail: section.size("memory_tail", defaults::MEMORY_TAIL, MIB..=16 * GIB),
        retention_max_size: section.size_or_unlimited("retention_max_size", 2 * MIB..=1024 * TIB),
        retention_max_age: section.duration_or_unlimited("retention_max_age", SECOND..=3650 * DAY),
        min_free_disk: section.size("min_free_disk", defaults::MIN_FREE_DISK, 0..=1024 * TIB),
    };
    section.finish();
    config
}

fn check_log_dir(dir: &Path) -> Result<(), Complaint> {
    let fix = "use a directory of its own on a disk, such as /var/lib/repl-daemon/shop";
    let refuse = |what: &str, why: &str| Err(complaint(what, why, fix));
    for volatile in ["/proc", "/sys", "/dev", "/run", "/var/run"] {
        if dir.starts_with(volatile) {
            let what = format!("the directory is inside {volatile}");
            return refuse(&what, "nothing there survives a reboot, and the log must");
        }
    }
    if SHARED_DIRS.iter().any(|shared| dir == Path::new(shared)) {
        return refuse(
            "the directory is one of the system's own",
            "segments, locks and the socket would lie among other programs' files",
        );
    }
    places::directory(dir, "the log needs a directory", fix)
}

pub(super) fn api(mut section: Section<'_>, base: &Path, log_dir: &Path, env: &Env) -> ApiConfig {
    let written = section
        .string("socket")
        .map(|socket| normalize(&base.join(socket)));
    let socket = written.unwrap_or_else(|| log_dir.join(defaults::SOCKET_FILE));
    let length = socket.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        section.fail(
            "socket",
            complaint(
                format!("the socket's path is {length} bytes long"),
                format!("the system allows {MAX_SOCKET_PATH}"),
                "set socket under [api] to a shorter path, such as /run/repl-daemon/shop.sock",
            ),
        );
    }
    // One beside the log is refused with the log's directory.
    if (section.has("socket") || places::no_directory(log_dir).is_none())
        && let Err(complaint) = places::socket(&socket)
    {
        section.fail("socket", complaint);
    }
    let socket_mode = socket_mode(&mut section);
    let socket_group = section.string("socket_group");
    if let Some(group) = &socket_group
        && !env.has_group(group)
    {
        let what = format!("there is no group `{}`", group.escape_debug());
        let why = "its members are those who may use the socket";
        let fix = format!("create it (groupadd --system {group}), or name another one");
        section.fail("socket_group", complaint(what, why, fix));
    }
    let listen = section.string("listen").and_then(|text| {
        let address = text.parse().ok();
        if address.is_none() {
            let what = format!("`{}` is not an address", text.escape_debug());
            let why = "role checks are served on one address and port";
            let fix = "write an address and port, such as \"127.0.0.1:8008\" or \"[::1]:8008\"";
            section.fail("listen", complaint(what, why, fix));
        }
        address
    });
    if listen.is_some_and(on_all_addresses) {
        let what = "role checks are served on every address of this machine";
        let why = "whoever reaches it may ask, without an account, which node is the primary";
        let fix = "name the one address that load balancers use, or keep others out by a firewall";
        let key = section.key("listen");
        section.findings().warning(&key, complaint(what, why, fix));
    }
    section.finish();
    ApiConfig {
        listen,
        socket,
        socket_mode,
        socket_group,
    }
}

/// `0.0.0.0`, `::`, and the former in the form of the latter.
fn on_all_addresses(address: SocketAddr) -> bool {
    let ip = address.ip();
    ip.to_canonical().is_unspecified() || ip.is_unspecified()
}

fn socket_mode(section: &mut Section<'_>) -> u32 {
    let Some(text) = section.string("socket_mode") else {
        return defaults::SOCKET_MODE;
    };
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(&text, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o777);
    let fix = "write \"0660\" (owner and group) or \"0600\" (owner alone)";
    let Some(mode) = mode else {
        let what = format!("`{}` is not a file mode", text.escape_debug());
        section.fail(
            "socket_mode",
            complaint(what, "a mode is three or four octal digits", fix),
        );
        return defaults::SOCKET_MODE;
    };
    if mode & 0o007 != 0 {
        let why = "whoever can open the socket controls replication";
        let what = format!("mode {mode:04o} opens the socket to every user");
        let fix = format!("{fix}, and name the operators' group with socket_group");
        section.fail("socket_mode", complaint(what, why, fix));
    } else if mode & 0o600 != 0o600 {
        let why = "the daemon's own user could not use it";
        let what = format!("mode {mode:04o} closes the socket to its owner");
        section.fail("socket_mode", complaint(what, why, fix));
    }
    mode
}

pub(super) fn logging(mut section: Section<'_>) -> LoggingConfig {
    let levels = [
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ];
    let levels = levels.map(|level| (level.as_str(), level));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let config = LoggingConfig {
        level: section.choice("level", &levels).unwrap_or(LogLevel::Info),
        format: section
            .choice("format", &formats)
            .unwrap_or(LogFormat::Text),
    };
    section.finish();
    config
}

pub(super) fn limits(mut section: Section<'_>) -> LimitsConfig {
    let transactions = defaults::BATCH_TRANSACTIONS;
    let config = LimitsConfig {
        max_row_bytes: section.size("max_row_bytes", defaults::MAX_ROW_BYTES, KIB..=GIB),
        batch_bytes: section.size("batch_bytes", defaults::BATCH_BYTES, 64 * KIB..=GIB),
        batch_transactions: section.integer("batch_transactions", transactions, 1..=1_000_000),
        pending_bytes: section.size("pending_bytes", defaults::PENDING_BYTES, MIB..=4 * GIB),
    };
    section.finish();
    config
}

pub(super) fn copy(mut section: Section<'_>) -> CopyConfig {
    let most = section.integer("max_rows_per_second", 0, 0..=1_000_000_000);
    let config = CopyConfig {
        workers: section.integer("workers", defaults::COPY_WORKERS, 1..=64),
        part_rows: section.integer("part_rows", defaults::COPY_PART_ROWS, 1..=1_000_000_000),
        part_size: section.size("part_size", defaults::COPY_PART_SIZE, KIB..=TIB),
        max_rows_per_second: (most > 0).then_some(most),
        max_lag: section.duration_or_unlimited("max_lag", SECOND..=30 * DAY),
        max_retained: section.size_or_unlimited("max_retained", MIB..=1024 * TIB),
    };
    section.finish();
    config
}

pub(super) fn validate(mut section: Section<'_>) -> ValidateConfig {
    let rate = defaults::VALIDATE_ROWS_PER_SECOND;
    let most = section.integer("max_rows_per_second", rate, 0..=1_000_000_000);
    let config = ValidateConfig {
        interval: section.duration_or_off("interval", SECOND..=365 * DAY),
        max_rows_per_second: (most > 0).then_some(most),
    };
    section.finish();
    config
}

pub(super) fn promotion(mut section: Section<'_>) -> PromotionConfig {
    let waits = SECOND / 10..=HOUR;
    let config = PromotionConfig {
        fence_timeout: section.duration("fence_timeout", defaults::FENCE_TIMEOUT, waits.clone()),
        drain_timeout: section.duration("drain_timeout", defaults::DRAIN_TIMEOUT, waits.clone()),
        max_lag: section.duration("max_lag", defaults::PROMOTION_MAX_LAG, waits),
        sequence_margin: section.integer("sequence_margin", defaults::SEQUENCE_MARGIN, 0..=1 << 32),
        auto_rejoin: section.boolean("auto_rejoin", true),
    };
    section.finish();
    config
}

pub(super) fn retry(mut section: Section<'_>) -> RetryConfig {
    let config = RetryConfig {
        initial: section.duration("initial", defaults::RETRY_INITIAL, MILLISECOND..=HOUR),
        max: section.duration("max", defaults::RETRY_MAX, MILLISECOND..=HOUR),
        jitter: section.fraction("jitter", defaults::RETRY_JITTER),
    };
    section.finish();
    config
}

pub(super) fn capture(mut section: Section<'_>, group: &GroupConfig) -> CaptureConfig {
    let derived = format!("repl_{}", group.name);
    let heartbeat = defaults::HEARTBEAT_INTERVAL;
    let refresh = defaults::TABLE_REFRESH_INTERVAL;
    let (idle, poll) = (defaults::IDLE_TIMEOUT, defaults::POLL_INTERVAL_MAX);
    let config = CaptureConfig {
        heartbeat_interval: section.duration(
            "heartbeat_interval",
            heartbeat,
            100 * MILLISECOND..=HOUR,
        ),
        poll_interval_max: section.duration("poll_interval_max", poll, MILLISECOND..=10 * SECOND),
        table_refresh_interval: section.duration(
            "table_refresh_interval",
            refresh,
            100 * MILLISECOND..=HOUR,
        ),
        idle_timeout: section.duration("idle_timeout", idle, SECOND..=HOUR),
        slot_name: slot_name(&mut section).unwrap_or_else(|| derived.clone()),
        publication_name: publication_name(&mut section).unwrap_or(derived),
        manage_publication: section.boolean("manage_publication", true),
    };
    section.finish();
    config
}

fn slot_name(section: &mut Section<'_>) -> Option<String> {
    let name = section.string("slot_name")?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.len() > PG_NAME_BYTES || !name.bytes().all(allowed) {
        section.fail(
            "slot_name",
            complaint(
                format!("`{}` is not a slot name", name.escape_debug()),
                "PostgreSQL allows lower-case letters, digits and _ in slot names",
                format!("use 1 to {PG_NAME_BYTES} of the characters a-z, 0-9 and _"),
            ),
        );
    }
    Some(name)
}

fn publication_name(section: &mut Section<'_>) -> Option<String> {
    let name = section.string("publication_name")?;
    if name.len() > PG_NAME_BYTES || name.contains('\0') {
        section.fail(
            "publication_name",
            complaint(
                "the name is not a PostgreSQL identifier".to_owned(),
                format!("identifiers have at most {PG_NAME_BYTES} bytes and no NUL"),
                "choose a shorter name",
            ),
        );
    }
    Some(name)
}

/// Absolute form of a path of the configuration, relative ones starting at the file's directory.
pub(super) fn resolve(base: &Path, path: &str) -> PathBuf {
    normalize(&base.join(path))
}
