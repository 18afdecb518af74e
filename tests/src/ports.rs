//! Loopback ports that stay ours while a server is down.

use std::fs::{self, File, TryLockError};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// Below Linux's ephemeral range (32768 and up), so that no outgoing connection takes the port of
/// a server a test has stopped for a moment.
const FIRST: u32 = 17_000;
const COUNT: u32 = 14_000;

/// A TCP port reserved among all test processes of this machine until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// # Errors
    /// When the lock directory is unusable or no port is free.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join("repl-test-ports");
        fs::create_dir_all(&dir).context("cannot make the port lock directory")?;
        // Start at a place of this process's own; the locks settle what still collides.
        let start = std::process::id().wrapping_mul(37);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let offset = start.wrapping_add(step) % COUNT;
            let Ok(number) = u16::try_from(FIRST + offset) else {
                continue;
            };
            let path = dir.join(number.to_string());
            let lock = File::create(&path)
                .with_context(|| format!("cannot open the port lock {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).context("cannot lock a port's lock file");
                }
            }
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!(
            "no free loopback port between {FIRST} and {}",
            FIRST + COUNT
        )
    }

    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
