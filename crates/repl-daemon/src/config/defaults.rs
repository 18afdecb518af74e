//! The value of every key that is not written. `config.example.toml` repeats them, and a test compares.

use std::time::Duration;

use super::units::MIB;

pub(super) const SEGMENT_SIZE: u64 = 64 * MIB;
pub(super) const MEMORY_TAIL: u64 = 32 * MIB;
pub(super) const MIN_FREE_DISK: u64 = 256 * MIB;

pub(super) const SOCKET_FILE: &str = "repl-daemon.sock";
pub(super) const SOCKET_MODE: u32 = 0o660;

pub(super) const MAX_ROW_BYTES: u64 = 64 * MIB;
pub(super) const BATCH_BYTES: u64 = 4 * MIB;
pub(super) const BATCH_TRANSACTIONS: u64 = 10_000;
pub(super) const PENDING_BYTES: u64 = 16 * MIB;

pub(super) const COPY_WORKERS: u64 = 2;
pub(super) const COPY_PART_ROWS: u64 = 250_000;
pub(super) const COPY_PART_SIZE: u64 = 256 * MIB;

pub(super) const RETRY_INITIAL: Duration = Duration::from_millis(200);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);
pub(super) const RETRY_JITTER: f64 = 0.2;

pub(super) const MODE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_QUEUE: u64 = 1000;

pub(super) const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const PROMOTION_MAX_LAG: Duration = Duration::from_secs(5);
pub(super) const SEQUENCE_MARGIN: u64 = 100;

pub(super) const DEAD_TIME: Duration = Duration::from_secs(2);
pub(super) const FAILOVER_RETRIES: u64 = 3;
pub(super) const FAILOVER_MAX_LAG: Duration = Duration::from_secs(10);
pub(super) const COOL_DOWN: Duration = Duration::from_secs(300);
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(250);
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const POLL_INTERVAL_MAX: Duration = Duration::from_millis(20);
pub(super) const TABLE_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) const PRIORITY: u64 = 100;
pub(super) const MAX_LAG: Duration = Duration::from_secs(30);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const POSTGRES_PORT: u16 = 5432;
pub(super) const MYSQL_PORT: u16 = 3306;

pub(super) const ALL_TABLES: &str = "*.*";
/// Rows read per second by comparisons in the background.
pub const VALIDATE_ROWS_PER_SECOND: u64 = 50_000;
