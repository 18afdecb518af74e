//! Asking the daemon for validations.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use repl_api::{
    Membership, TableValidation, Validation, ValidationRequest, ValidationState, Verdict,
};
use repl_tests::daemon::Daemon;

use super::group::PATIENCE;

/// How many validations a test of many makes.
pub fn rounds() -> usize {
    match std::env::var_os("REPL_TEST_FULL") {
        Some(full) if full == "1" => 100,
        _ => 30,
    }
}

/// Runs one validation of everything to its end.
pub fn validate(daemon: &Daemon, deep: bool) -> Result<Validation> {
    let request = ValidationRequest {
        deep,
        ..ValidationRequest::default()
    };
    let started = daemon.call(|client| async move { client.validate(&request).await })?;
    let begun = Instant::now();
    loop {
        let id = started.id.clone();
        let now = daemon.call(|client| async move { client.validation(&id).await })?;
        if now.is_over() {
            ensure!(now.state == ValidationState::Done, "{now:#?}");
            return Ok(now);
        }
        if begun.elapsed() > 2 * PATIENCE {
            bail!("still under way: {now:#?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fails unless everything is equal on this many replicas.
pub fn all_equal(found: &Validation, replicas: usize) -> Result<()> {
    ensure!(found.verdict == Some(Verdict::Equal), "{found:#?}");
    ensure!(found.replicas.len() == replicas, "{found:#?}");
    for replica in &found.replicas {
        ensure!(!replica.tables.is_empty(), "{found:#?}");
        for table in &replica.tables {
            ensure!(
                table.verdict == Verdict::Equal && table.primary_rows.is_some(),
                "{found:#?}"
            );
        }
    }
    Ok(())
}

/// Validates again and again. No replica is held up for it: the worst that a look at them may find is that
/// they stream.
///
/// # Errors
/// The first one that does not find everything equal.
pub fn many_equal(daemon: &Daemon, replicas: usize) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let watch = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                for replica in daemon.status()?.replicas {
                    ensure!(replica.membership == Membership::Streaming, "{replica:#?}");
                }
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        let all = (0..rounds()).try_for_each(|round| {
            let found = validate(daemon, round % 2 == 0)?;
            all_equal(&found, replicas).with_context(|| format!("validation {round}"))
        });
        over.store(true, Ordering::Relaxed);
        watch.join().ok().context("a thread panicked")??;
        all
    })
}

/// One table at one replica.
pub fn table<'a>(found: &'a Validation, replica: &str, table: &str) -> Result<&'a TableValidation> {
    let replica = found.replicas.iter().find(|one| one.replica == replica);
    let tables = &replica.context("the replica")?.tables;
    let found = tables.iter().find(|one| one.table == table);
    found.with_context(|| format!("{table} is not in {tables:#?}"))
}

/// Runs `replctl validate`; its exit code and what it printed.
pub fn replctl(daemon: &Daemon, arguments: &[&str]) -> Result<(i32, String)> {
    let all: Vec<&str> = ["validate"].iter().chain(arguments).copied().collect();
    let Output {
        status,
        stdout,
        stderr,
    } = daemon.replctl(&all)?;
    let code = status.code().context("replctl was killed")?;
    let text = String::from_utf8(stdout)? + &String::from_utf8(stderr)?;
    Ok((code, text))
}
