//! Commands that wait, while the primary is refused, gone, or refuses the daemon: each ends or says what
//! it waits for; and what the status says of errors, present and past.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_api::{Directive, Membership};
use repl_tests::daemon::binaries;
use repl_tests::pg::{DATABASE, PgServer, Role, StopMode};

use super::group::{Group, PATIENCE, assert_contains};

/// A wait that nobody bounds is longer.
const SOON: Duration = Duration::from_secs(25);

const SEED: &str = "
CREATE TABLE orders (id int PRIMARY KEY, v text);
INSERT INTO orders SELECT n, 'v' FROM generate_series(1, 50) n;
CREATE SCHEMA app; CREATE TABLE app.items (id int PRIMARY KEY);
CREATE ROLE feeder LOGIN SUPERUSER PASSWORD 'right'";

/// Runs `replctl`, whatever comes of it: its exit code and all it printed. It has to end soon.
fn replctl(group: &Group, arguments: &[&str]) -> Result<(i32, String)> {
    let begun = Instant::now();
    let output = group.daemon.replctl(arguments)?;
    let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    let took = begun.elapsed();
    ensure!(took < SOON, "{arguments:?} took {took:?}: {text}");
    Ok((output.status.code().context("killed")?, text))
}

/// Runs `replctl` until it says on stderr what it waits for.
fn waits_for(group: &Group, arguments: &[&str]) -> Result<String> {
    let mut child = Command::new(binaries::program("replctl")?)
        .arg("--socket")
        .arg(group.daemon.socket())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let errors = BufReader::new(child.stderr.take().context("piped")?);
    for line in errors.lines() {
        said = line?;
        if said.starts_with("waiting: ") {
            break;
        }
    }
    // Had it ended by itself there would be no such line.
    let _ = child.kill();
    child.wait()?;
    Ok(said)
}

fn cannot_be_told(group: &Group, why: &str) -> Result<()> {
    let (code, text) = replctl(group, &["validate", "--deep"])?;
    ensure!(code == 2, "{code}: {text}");
    assert_contains(&text, why);
    let (code, text) = replctl(group, &["wait", "--timeout", "1s"])?;
    ensure!(code == 1, "{code}: {text}");
    let (code, text) = replctl(group, &["promote", "replica-1", "--dry-run"])?;
    ensure!(code == 1, "{code}: {text}");
    Ok(())
}

fn lock_out(primary: &PgServer, change: &str) -> Result<()> {
    primary.execute(&format!(
        "{change}; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'feeder'"
    ))
}

#[test]
fn what_waits_for_the_primary_ends_or_says_so() -> Result<()> {
    let seed = |primary: &PgServer| primary.execute(SEED);
    let mut group = Group::prepared(1, seed, |config| config)?;
    let own = group.primary.url(DATABASE, Role::Superuser);
    let host = own.split_once('@').context("a url")?.1;
    let config = group.daemon.config().clone();
    let config = config.with_of(
        "main",
        "url",
        format!("postgresql://feeder:right@{host}").as_str(),
    );
    group.daemon.set_config(config)?;
    group.daemon.ignore_log();
    group.daemon.start()?;
    group.caught_up()?;
    group
        .primary
        .execute("UPDATE orders SET v = 'w' WHERE id = 7")?;
    group.caught_up()?;
    tables_of_the_log(&group)?;
    let now = group
        .daemon
        .wait_status("what is measured", PATIENCE, |status| {
            status.primary.last_event_ms?;
            status.log.oldest_commit_ms?;
            Some(status.clone())
        })?;
    ensure!(
        now.primary.last_error.is_none() && now.attention().is_empty(),
        "{now:#?}"
    );

    // The primary refuses the password: only a person can mend that, and it is tried again all the same.
    lock_out(&group.primary, "ALTER ROLE feeder PASSWORD 'changed'")?;
    let refusal = group.refusal()?;
    ensure!(refusal.directive == Directive::Retry, "{refusal:?}");
    ensure!(!refusal.advice.is_empty() && !refusal.past, "{refusal:?}");
    let shown = group.replctl(&["status"])?;
    assert_contains(&shown, "needs you; it is tried again by itself");
    cannot_be_told(&group, "password")?;
    let said = waits_for(&group, &["resync", "replica-1", "--yes", "--wait"])?;
    assert_contains(&said, "password");
    let said = waits_for(&group, &["copy", "--watch"])?;
    assert_contains(&said, "password");
    group
        .primary
        .execute("ALTER ROLE feeder PASSWORD 'right'")?;
    group.streams()?;
    // The resync that was ordered meanwhile goes on by itself.
    group.equal()?;
    let healed = group
        .daemon
        .wait_status("the error to be past", PATIENCE, |status| {
            let past = status.primary.last_error.as_ref()?.past;
            (past && status.replica("replica-1")?.membership == Membership::Streaming)
                .then(|| status.clone())
        })?;
    ensure!(healed.attention().is_empty(), "{:?}", healed.attention());
    assert_contains(
        &group.replctl(&["status"])?,
        "primary main: recovered from a",
    );

    // It may be read from, and not followed.
    lock_out(
        &group.primary,
        "ALTER ROLE feeder NOSUPERUSER; GRANT pg_read_all_data TO feeder",
    )?;
    group.refusal()?;
    cannot_be_told(&group, "replication")?;
    group.primary.execute("ALTER ROLE feeder SUPERUSER")?;
    group.streams()?;

    // It is gone.
    group
        .primary
        .stop(StopMode::Fast, Duration::from_secs(20))?;
    cannot_be_told(&group, "")?;
    group.primary.start()?;
    group.equal()
}

/// Tables are found by the names people write; of one that is not there it is said that it is not.
fn tables_of_the_log(group: &Group) -> Result<()> {
    for name in ["orders", "public.orders", "*.orders", "public.\"orders\""] {
        let shown = group.replctl(&["log", "--table", name])?;
        assert_contains(&shown, "public.orders: 1 updated");
    }
    for (name, near) in [
        ("ordesr", "public.orders"),
        ("public.orderss", "public.orders"),
        ("app.item", "app.items"),
        ("nothing_like_it", "replctl tables"),
    ] {
        let (code, text) = replctl(group, &["log", "--table", name])?;
        ensure!(code == 1, "{name}: {code}: {text}");
        assert_contains(&text, near);
    }
    let empty = group.replctl(&["log", "--table", "app.items"])?;
    assert_contains(&empty, "no transactions");
    Ok(())
}
