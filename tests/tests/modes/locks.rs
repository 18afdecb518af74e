//! Withheld commits keep their locks: a copy that needs one of them must not wait for ever.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use repl_api::PrimaryState;
use repl_tests::wait::wait_until;

use super::rig::{A_WHILE, PATIENCE, PG, Rig, SQLITE, mode};

const ROWS: i64 = 20_000;
/// Longer than the daemon waits for a lock at the primary.
const LOOKS: Duration = Duration::from_secs(8);

/// Sync mode, waiting for all that count, with a table that takes some seconds to copy.
fn rig_with_table(all: bool) -> Result<Rig> {
    let mut rig = Rig::prepare(all, |config| {
        mode(config, "sync")
            .set("copy", "max_rows_per_second", 5_000)
            .set("copy", "part_rows", 2_000)
    })?;
    rig.primary.execute(&format!(
        "SET synchronous_commit = local;
         CREATE TABLE public.big (id int PRIMARY KEY, t text);
         INSERT INTO public.big SELECT n, 'row ' || n FROM generate_series(1, {ROWS}) n;"
    ))?;
    rig.daemon.start()?;
    rig.wait_in_force()?;
    Ok(rig)
}

/// Commits `change`, which takes the strongest lock on the table, while no commit can return; then
/// has a replica copy that table anew; then lets the replica that is waited for go on.
fn copied_behind(change: &str) -> Result<()> {
    let mut rig = rig_with_table(true)?;
    let (primary, daemon) = (&rig.primary, &rig.daemon);
    rig.pg.freeze()?;
    let withheld = thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| primary.execute(change));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let waits = wait_until("the commit to wait", PATIENCE, || {
            Ok(primary.query_i64(waiting)? == 1)
        });
        let ordered = waits.and_then(|()| {
            let ordered = daemon.replctl(&["resync", SQLITE, "--full", "--yes"])?;
            ensure!(ordered.status.success(), "{ordered:?}");
            // It comes to want the table.
            thread::sleep(A_WHILE);
            ensure!(!client.is_finished(), "the commit did not wait");
            Ok(())
        });
        rig.pg.thaw()?;
        ordered?;
        client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))?
    });
    withheld?;
    equal_in_the_end(&mut rig)
}

/// Everybody counts again, and every replica holds what the primary does.
fn equal_in_the_end(rig: &mut Rig) -> Result<()> {
    rig.wait_in_force()?;
    rig.primary
        .execute("INSERT INTO public.big (id) SELECT max(id) + 1 FROM public.big")?;
    let count = "SELECT count(*) FROM public.big";
    let wanted = rig.primary.query_i64(count)?;
    let found = rig.pg.query_i64(count)?;
    ensure!(found == wanted, "{found} rows, {wanted} at the primary");
    if let Some(file) = &rig.sqlite {
        let found = file.query_i64("SELECT count(*) FROM big")?;
        ensure!(found == wanted, "{found} rows, {wanted} at the primary");
    }
    Ok(())
}

#[test]
fn a_copy_begun_behind_a_withheld_truncate_ends() -> Result<()> {
    copied_behind("TRUNCATE public.big; INSERT INTO public.big VALUES (1, 'new')")
}

#[test]
fn a_copy_begun_behind_a_withheld_alter_ends() -> Result<()> {
    // By itself it changes no row, and nothing waits for it; a column would have to be added by hand
    // at replicas of other engines.
    copied_behind(
        "BEGIN; ALTER TABLE public.big ADD CHECK (id > 0);
         INSERT INTO public.history VALUES (300, 1); COMMIT",
    )
}

/// Changes of a table whose commit is withheld for longer than the primary's tables are left
/// unread: the capture, which it waits for, must get along without a lock on them.
#[test]
fn withheld_locks_do_not_stop_the_capture() -> Result<()> {
    let mut rig = Rig::prepare(false, |config| {
        mode(config, "sync").set("capture", "table_refresh_interval", "500ms")
    })?;
    rig.primary.execute(
        "SET synchronous_commit = local;
         CREATE TABLE public.big (id int PRIMARY KEY, t text);
         CREATE TABLE public.small (id int PRIMARY KEY);",
    )?;
    rig.daemon.start()?;
    rig.wait_in_force()?;
    // The stream announces the table anew while its lock is still held.
    rig.primary.execute(
        "ALTER TABLE public.big ADD COLUMN n int DEFAULT 7;
         INSERT INTO public.big VALUES (1, 'one');
         BEGIN; TRUNCATE public.small; INSERT INTO public.small VALUES (1); COMMIT;",
    )?;
    rig.pg.freeze()?;
    let primary = &rig.primary;
    let withheld = thread::scope(|scope| -> Result<()> {
        let change = "BEGIN; TRUNCATE public.big; INSERT INTO public.big VALUES (2, 'two'); COMMIT";
        let client = scope.spawn(|| primary.execute(change));
        // Long enough for several looks at the tables to have failed.
        thread::sleep(LOOKS);
        let streams = rig.daemon.status().map(|status| status.primary.state);
        rig.pg.thaw()?;
        ensure!(streams? == PrimaryState::Streaming, "the capture stopped");
        client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))?
    });
    withheld?;
    equal_in_the_end(&mut rig)
}

/// The only replica copies a table anew, so that nobody counts; whoever changes the table meanwhile
/// waits for the copy, and must not keep it waiting.
fn changed_while_copied(change: &str) -> Result<()> {
    let mut rig = rig_with_table(false)?;
    let primary = &rig.primary;
    let ordered = rig.replctl(&["resync", PG, "--full", "--yes"])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    rig.daemon
        .wait_status("a copy under way", PATIENCE, |status| {
            let copy = status.replica(PG)?.copy.as_ref()?;
            (copy.rows_done > 0).then_some(())
        })?;
    primary.execute(change)?;
    equal_in_the_end(&mut rig)
}

#[test]
fn a_truncate_during_the_only_replicas_copy_ends() -> Result<()> {
    changed_while_copied("TRUNCATE public.big; INSERT INTO public.big VALUES (1, 'new')")
}

#[test]
fn an_alter_during_the_only_replicas_copy_ends() -> Result<()> {
    changed_while_copied("ALTER TABLE public.big ADD COLUMN n int DEFAULT 7")
}
