//! Waiting for a condition with a bound and a message that says what was awaited.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `probe` until it returns `Some`, at most for `timeout`.
///
/// The pause between two probes grows from 5 ms to 200 ms, so short waits are answered fast and
/// long ones do not load a two-core machine.
///
/// # Errors
/// The first error of `probe`, or a timeout naming `what`.
pub fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if started.elapsed() >= timeout {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// [`wait_for`] with a plain yes or no.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, timeout, || Ok(probe()?.then_some(())))
}
