//! Comparisons in the background: what they find shows in the status, and is remembered.

use anyhow::{Result, ensure};
use repl_api::{ReplicaStatus, Validated, Verdict};

use super::group::{Group, MARIADB, PATIENCE, SQLITE};

fn found(replica: &ReplicaStatus, verdict: Verdict, newer: u64) -> bool {
    let as_wanted = |found: &Validated| found.verdict == verdict && found.oldest_ms > newer;
    replica.validated.as_ref().is_some_and(as_wanted)
}

#[test]
fn differences_are_found_shown_and_remembered() -> Result<()> {
    let mut group = Group::prepare(false, &[], |primary| {
        primary.execute(
            "CREATE TABLE one (id int PRIMARY KEY, v text);
             INSERT INTO one SELECT n, 'v' || n FROM generate_series(1, 100) n;
             CREATE TABLE two (id int PRIMARY KEY)",
        )
    })?;
    let config = group.daemon.config().clone();
    group
        .daemon
        .set_config(config.set("validate", "interval", "1s"))?;
    group.daemon.start()?;
    group.daemon.allow_log("it differs from the primary");
    group.caught_up()?;
    for name in [MARIADB, SQLITE] {
        group
            .daemon
            .wait_replica(name, "found equal", PATIENCE, |replica| {
                found(replica, Verdict::Equal, 0)
                    && replica
                        .validated
                        .as_ref()
                        .is_some_and(|found| found.tables == 2)
            })?;
    }
    group
        .sqlite
        .execute("UPDATE one SET v = 'other' WHERE id = 7")?;
    let replica = group
        .daemon
        .wait_replica(SQLITE, "found to differ", PATIENCE, |replica| {
            found(replica, Verdict::Different, 0)
        })?;
    let tables = replica.validated.map(|found| found.different);
    ensure!(
        tables.as_deref() == Some(&["public.one".to_owned()][..]),
        "{tables:?}"
    );
    let output = group.daemon.replctl(&["status", "--check"])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(4), "{text}");
    ensure!(
        text.contains("differs from the primary in public.one"),
        "{text}"
    );
    let known = |group: &Group| -> Result<Option<Validated>> {
        let status = group.daemon.status()?;
        Ok(status
            .replica(SQLITE)
            .and_then(|replica| replica.validated.clone()))
    };
    group.daemon.terminate()?;
    let config = group.daemon.config().clone();
    group
        .daemon
        .set_config(config.set("validate", "interval", "off"))?;
    group.daemon.start()?;
    let remembered = known(&group)?.map(|found| found.verdict);
    ensure!(remembered == Some(Verdict::Different), "{remembered:?}");
    group.daemon.terminate()?;
    let config = group.daemon.config().clone();
    group
        .daemon
        .set_config(config.set("validate", "interval", "1s"))?;
    group.daemon.start()?;
    let before = repl_before(&known(&group)?);
    group
        .sqlite
        .execute("UPDATE one SET v = 'v7' WHERE id = 7")?;
    group
        .daemon
        .wait_replica(SQLITE, "found equal again", PATIENCE, |replica| {
            found(replica, Verdict::Equal, before)
        })?;
    Ok(())
}

fn repl_before(known: &Option<Validated>) -> u64 {
    known.as_ref().map_or(0, |found| found.oldest_ms)
}
